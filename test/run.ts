/**
 * `make test`: every stage in the order of architecture.md section 5, one verdict line. Owns: the list of stages and their deadlines. The simulator's seeds run
 * in idle time beside the stages after it, which wait more than they compute; its output comes when it is done. A stage that runs nothing fails, a stage over its
 * deadline is killed by process group and fails, and what was skipped for want of a package or of root is counted and named at the end.
 * `node test/run.ts [--list] [--soak SEEDS] [STAGE...]`.
 */
import { join } from 'node:path';
import { type Counts, type Program, ProgramRunner } from './house/program.ts';

interface Stage {
  readonly name: string;
  readonly deadlineMs: number;
  /** Beside the stages after it, with the processor time that they leave. */
  readonly inIdleTime?: boolean;
  /** A program with a deadline of its own does not use up that of the stage. */
  readonly programs: readonly (Program & { readonly deadlineMs?: number })[];
}

const ROOT = join(import.meta.dirname, '..');
const MINUTE = 60_000;

const node = (title: string, ...args: string[]): Program => ({
  title,
  command: [process.execPath, ...args],
  counts: 'lines',
});

const tool = (title: string, ...command: [string, ...string[]]): Program => ({ title, command, counts: 'exit' });

const vitest = (path: string, ...args: string[]): Program =>
  node(`vitest ${path}`, 'node_modules/vitest/vitest.mjs', 'run', path, ...args);

/** Process tests measure, kill and share two cores: one file at a time. */
const ALONE = '--no-file-parallelism';

/** Half of what the tests of `api` take is waiting for controllers, leases and members. */
const THREE = '--maxWorkers=3';

function stages(): readonly Stage[] {
  return [
    {
      name: 'tidy',
      deadlineMs: 3 * MINUTE,
      programs: [
        vitest('test/tidy.test.ts'),
        tool('tsc', 'tsc', '-p', '.', '--noEmit'),
        tool('biome', 'biome', 'check', '--error-on-warnings', '.'),
      ],
    },
    { name: 'unit', deadlineMs: 15 * MINUTE, programs: [vitest('test/unit/')] },
    { name: 'contract', deadlineMs: 10 * MINUTE, programs: [vitest('test/contract/')] },
    { name: 'dialog', deadlineMs: 3 * MINUTE, programs: [vitest('test/dialog/')] },
    { name: 'scenario', deadlineMs: 3 * MINUTE, programs: [vitest('test/scenario/')] },
    { name: 'model', deadlineMs: 8 * MINUTE, programs: [node('test/model/run.ts', 'test/model/run.ts')] },
    { name: 'simulator', deadlineMs: 55 * MINUTE, inIdleTime: true, programs: simulator() },
    { name: 'process', deadlineMs: 25 * MINUTE, programs: [vitest('test/process/', ALONE)] },
    { name: 'api', deadlineMs: 18 * MINUTE, programs: [clusterPrograms('api'), vitest('test/api/', THREE)] },
    {
      name: 'cluster',
      deadlineMs: 15 * MINUTE,
      programs: [clusterPrograms('all'), vitest('test/e2e/short/', ALONE)],
    },
  ];
}

/** A control plane, or all of Kubernetes, built from Go modules: minutes when it is not in the cache yet. Skipped, loudly, when it cannot be built here. */
const clusterPrograms = (what: 'api' | 'all') => ({
  title: `make cluster-build (${what === 'api' ? 'API server and its neighbours' : 'kubelet and all it needs'}; minutes when they are not in the cache)`,
  command: ['test/cluster/build.sh', '--stage', what] as const,
  counts: 'lines' as const,
  deadlineMs: 25 * MINUTE,
});

function simulator(seeds?: string): readonly Program[] {
  const program = 'test/sim/run.ts';
  return [node(program, program, ...(seeds ? ['--seeds', seeds] : []))];
}

interface Arguments {
  readonly list: boolean;
  readonly soak: string | null;
  readonly names: readonly string[];
}

function parseArguments(args: readonly string[]): Arguments {
  const soakAt = args.indexOf('--soak');
  const soak = soakAt < 0 ? null : (args[soakAt + 1] ?? '');
  if (soak !== null && !/^\d+$/.test(soak)) throw new Error('--soak wants a number of seeds');
  const rest = args.filter((_, index) => soakAt < 0 || (index !== soakAt && index !== soakAt + 1));
  const names = rest.filter((arg) => arg !== '--list');
  const known = stages().map((stage) => stage.name);
  const unknown = names.filter((name) => !known.includes(name));
  if (unknown.length > 0) throw new Error(`no stage ${unknown.join(', ')}; there are: ${known.join(', ')}`);
  return { list: rest.includes('--list'), soak, names };
}

const add = (a: Counts, b: Counts): Counts => ({
  passed: a.passed + b.passed,
  failed: a.failed + b.failed,
  skipped: a.skipped + b.skipped,
});

const sayCounts = (counts: Counts): string =>
  `${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`;

const NONE: Counts = { passed: 0, failed: 0, skipped: 0 };

interface StageResult {
  readonly counts: Counts;
  readonly notes: readonly string[];
}

async function runStage(stage: Stage, runner: ProgramRunner, say: (line: string) => void): Promise<StageResult> {
  const startMs = performance.now();
  let usedMs = 0;
  const notes: string[] = [];
  let counts = NONE;
  for (const program of stage.programs) {
    say(`\n=== ${stage.name}: ${program.title}`);
    const programStartMs = performance.now();
    const leftMs = program.deadlineMs ?? Math.max(1, stage.deadlineMs - usedMs);
    const outcome = await runner.run(program, leftMs, ROOT);
    if (program.deadlineMs === undefined) usedMs += performance.now() - programStartMs;
    counts = add(counts, outcome.counts);
    notes.push(...outcome.skipped, ...outcome.failed);
    if (outcome.counts.failed > 0)
      notes.push(`FAILED ${stage.name}: ${program.title}: ${outcome.problem ?? 'see above'}`);
  }
  if (counts.passed + counts.failed + counts.skipped === 0) {
    counts = { ...counts, failed: 1 };
    notes.push(`FAILED ${stage.name}: the stage has no tests`);
  }
  const seconds = ((performance.now() - startMs) / 1000).toFixed(1);
  const verdict = `${sayCounts(counts)} in ${seconds} s${stage.inIdleTime ? ', beside what came after' : ''}`;
  say(`--- ${stage.name}: ${verdict}`);
  return { counts, notes: [...notes, `stage ${stage.name.padEnd(9)} ${seconds.padStart(6)} s  ${sayCounts(counts)}`] };
}

/** In the order of the list; a stage for idle time begins at its turn, and is shown at the end. */
async function runStages(chosen: readonly Stage[]): Promise<readonly StageResult[]> {
  const runners: ProgramRunner[] = [];
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.once(signal, () => {
      for (const runner of runners) runner.interrupt();
    });
  const foreground = new ProgramRunner();
  runners.push(foreground);
  const results: (StageResult | Promise<StageResult>)[] = [];
  const toShow: (() => Promise<unknown>)[] = [];
  for (const [at, stage] of chosen.entries()) {
    if (!stage.inIdleTime || at === chosen.length - 1) {
      results.push(await runStage(stage, foreground, console.log));
      continue;
    }
    console.log(`\n=== ${stage.name}: in the time that the next stages leave; shown after them`);
    const shown: string[] = [];
    const background = new ProgramRunner({ inIdleTime: true, write: (chunk) => shown.push(chunk.toString('utf8')) });
    runners.push(background);
    const result = runStage(stage, background, (line) => shown.push(`${line}\n`));
    results.push(result);
    toShow.push(async () => {
      await result;
      process.stdout.write(shown.join(''));
    });
  }
  for (const show of toShow) await show();
  return await Promise.all(results);
}

async function main(): Promise<number> {
  const { list, soak, names } = parseArguments(process.argv.slice(2));
  if (list) {
    for (const stage of stages()) console.log(stage.name);
    return 0;
  }
  const chosen =
    soak === null
      ? stages().filter((stage) => names.length === 0 || names.includes(stage.name))
      : [{ name: 'soak', deadlineMs: 48 * 60 * MINUTE, programs: simulator(soak) }];
  const results = await runStages(chosen);
  console.log('');
  for (const { notes } of results) for (const note of notes) console.log(note);
  const total = results.map((result) => result.counts).reduce(add, NONE);
  console.log(sayCounts(total));
  return total.failed === 0 ? 0 : 1;
}

try {
  process.exitCode = await main();
} catch (error) {
  console.error(`test/run.ts: ${(error as Error).message}`);
  process.exitCode = 2;
}
