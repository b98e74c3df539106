/**
 * The model stage of `make test` and the whole of `make model`: `node test/model/run.ts [MODEL...]`, or one variant with the history that breaks it:
 * `node test/model/run.ts --trail MODEL [DEFINITION...]`. Owns: that the protocol as it is verifies completely (a search that ran out of depth or memory is a
 * failure) and that every bug switch is found. Needs spin and gcc: installed, or unpacked by test/rigs/packages.ts; without them everything is skipped,
 * and says so. Ends with `N passed, N failed[, N skipped]`.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { commandIn, ensurePackages, type Prefix } from '../rigs/packages.ts';
import { CASES, type ModelCase } from './cases.ts';
import { type Ended, type Found, judge } from './verdict.ts';

const HERE = import.meta.dirname;
/** Searches that run at once stay below this together. */
const MEBIBYTES = 1_000;
/** Steps of one history; far above what any model needs (a search that meets it fails). */
const DEPTH = 100_000;
const PROGRAM_MS = 300_000;

/** The tools as they are started, or why they cannot be. */
type Tools = { readonly kind: 'found'; readonly prefix: Prefix } | { readonly kind: 'missing'; readonly what: string };

function run(prefix: Prefix, directory: string, ...program: readonly string[]): Promise<Ended> {
  const { file, args } = commandIn(prefix, program, false);
  const signal = AbortSignal.timeout(PROGRAM_MS);
  const child = spawn(file, args, { cwd: directory, stdio: ['ignore', 'pipe', 'pipe'], signal });
  let output = '';
  child.stdout.on('data', (chunk: Buffer) => {
    output += chunk.toString('utf8');
  });
  child.stderr.on('data', (chunk: Buffer) => {
    output += chunk.toString('utf8');
  });
  return new Promise((resolve) => {
    child.once('error', (error) => resolve({ output: `${output}${error.message}`, code: null }));
    child.once('close', (code) => resolve({ output, code }));
  });
}

const MACHINE: Prefix = { root: '/', libraryPath: '' };

/** What this machine has, else Debian's packages. spin itself calls gcc. */
async function findTools(): Promise<Tools> {
  const starts = async (...program: string[]): Promise<boolean> => (await run(MACHINE, HERE, ...program)).code === 0;
  const [hasSpin, hasCompiler] = await Promise.all([starts('spin', '-V'), canCompile()]);
  if (hasSpin && hasCompiler) return { kind: 'found', prefix: MACHINE };
  const names = hasCompiler ? ['spin'] : ['spin', 'gcc', 'libc6-dev'];
  const found = await ensurePackages(names).catch((error: Error) => ({
    missing: `${names.join(', ')}: ${error.message}`,
  }));
  return 'missing' in found ? { kind: 'missing', what: found.missing } : { kind: 'found', prefix: found };
}

/** A compiler without the headers of the C library is none. */
async function canCompile(): Promise<boolean> {
  const { code } = await run(MACHINE, HERE, 'gcc', '-E', '-include', 'stdio.h', '-x', 'c', '/dev/null');
  return code === 0;
}

const definitions = ({ bug, bounds }: ModelCase): string[] =>
  [...(bug === null ? [] : [bug]), ...bounds].map((name) => `-D${name}`);

const broken = (problem: string): Found => ({ problem, states: '0' });

/** Builds the verifier of one case in `directory` and runs it. */
async function verify(prefix: Prefix, entry: ModelCase, directory: string): Promise<Found> {
  const model = join(HERE, `${entry.model}.pml`);
  const made = await run(prefix, directory, 'spin', ...definitions(entry), '-a', model);
  if (made.code !== 0 || /error/i.test(made.output)) return broken(`spin: ${made.output.trim()}`);
  // A bug is found within few states: compiling it well would take longer than the search.
  const level = entry.bug === null ? '-O2' : '-O0';
  const built = await run(
    prefix,
    directory,
    ...['gcc', level, '-w', '-DSAFETY', '-DNOREDUCE', `-DMEMLIM=${entry.mebibytes}`, '-o', 'pan', 'pan.c'],
  );
  if (built.code !== 0) return broken(`gcc: ${built.output.trim().slice(0, 500)}`);
  // -E: a cluster that has nothing left to do is no error.
  const searched = await run(prefix, directory, './pan', '-E', `-m${DEPTH}`, '-w22');
  return judge(entry, searched);
}

/** Hands out memory to searches that run side by side; the first in line goes first. */
class Budget {
  #free = MEBIBYTES;
  readonly #waiting: { readonly wants: number; readonly go: () => void }[] = [];

  async take(wants: number): Promise<void> {
    if (this.#waiting.length === 0 && this.#free >= wants) {
      this.#free -= wants;
      return;
    }
    await new Promise<void>((go) => this.#waiting.push({ wants, go }));
  }

  give(back: number): void {
    this.#free += back;
    for (let next = this.#waiting[0]; next !== undefined && next.wants <= this.#free; next = this.#waiting[0]) {
      this.#waiting.shift();
      this.#free -= next.wants;
      next.go();
    }
  }
}

const nameOf = ({ model, bug, bounds }: ModelCase): string => [model, bug ?? 'as it is', ...bounds].join(' ');

/** One directory for everything, gone also when we are ended in the middle. */
function makeBase(): string {
  const base = mkdtempSync(join(tmpdir(), 'mailcluster-model-'));
  process.once('exit', () => rmSync(base, { recursive: true, force: true }));
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => process.exit(1));
  return base;
}

async function inDirectory<T>(base: string, work: (directory: string) => Promise<T>): Promise<T> {
  const directory = await mkdtemp(join(base, 'case-'));
  try {
    return await work(directory);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** True when it came out as the table says. */
async function check(prefix: Prefix, base: string, entry: ModelCase): Promise<boolean> {
  const startedMs = performance.now();
  const { problem, states } = await inDirectory(base, (directory) => verify(prefix, entry, directory));
  const took = `${states} states, ${((performance.now() - startedMs) / 1000).toFixed(1)} s`;
  if (problem === null) {
    console.log(`${entry.bug === null ? 'verified' : 'found   '} ${nameOf(entry)}: ${entry.says} (${took})`);
    return true;
  }
  console.log(`FAILED   ${nameOf(entry)}: ${entry.says} (${took})\n  ${problem}`);
  const words = [entry.model, ...(entry.bug === null ? [] : [entry.bug]), ...entry.bounds];
  console.log(`  its history: node test/model/run.ts --trail ${words.join(' ')}`);
  return false;
}

async function many(prefix: Prefix, base: string, cases: readonly ModelCase[]): Promise<number> {
  const startedMs = performance.now();
  const budget = new Budget();
  const queue = [...cases];
  let [passed, failed] = [0, 0];
  const worker = async (): Promise<void> => {
    for (let entry = queue.shift(); entry !== undefined; entry = queue.shift()) {
      await budget.take(entry.mebibytes);
      try {
        if (await check(prefix, base, entry)) passed += 1;
        else failed += 1;
      } finally {
        budget.give(entry.mebibytes);
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(4, availableParallelism()) }, worker));
  console.log(`${((performance.now() - startedMs) / 1000).toFixed(1)} s`);
  console.log(`${passed} passed, ${failed} failed`);
  return failed === 0 ? 0 : 1;
}

/** The shortest history that breaks one variant, step by step. */
async function trail(prefix: Prefix, base: string, model: string, defines: readonly string[]): Promise<number> {
  return inDirectory(base, async (directory) => {
    const file = join(HERE, `${model}.pml`);
    const flags = defines.map((name) => `-D${name}`);
    const steps: (readonly string[])[] = [
      ['spin', ...flags, '-a', file],
      ['gcc', '-O1', '-w', '-DSAFETY', '-DNOREDUCE', '-DREACH', `-DMEMLIM=${4 * MEBIBYTES}`, '-o', 'pan', 'pan.c'],
      ['./pan', '-E', '-i', `-m${DEPTH}`],
    ];
    for (const [index, step] of steps.entries()) {
      const { output, code } = await run(prefix, directory, ...step);
      if (code !== 0 && index < 2) throw new Error(`${step.join(' ')}: ${output}`);
    }
    const written = await readFile(join(directory, `${model}.pml.trail`)).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') throw error;
      return null;
    });
    if (written === null) {
      console.log(`${model} ${defines.join(' ')}: no history violates anything`);
      return 0;
    }
    const { output } = await run(prefix, directory, 'spin', ...flags, '-k', `${model}.pml.trail`, '-t', file);
    const lines = output
      .split('\n')
      .filter((line) => !/^\s*(\S+ = |spin: trail ends|spin: warning|#processes|\d+ processes|\d+:\s+proc)/.test(line));
    console.log(
      lines
        .map((line) => line.trim())
        .filter((line) => line !== '')
        .join('\n'),
    );
    return 1;
  });
}

async function main(args: readonly string[]): Promise<number> {
  const [first, model, ...rest] = args;
  const known = new Set(CASES.map((entry) => entry.model));
  const isTrail = first === '--trail';
  const names = isTrail ? [model ?? ''] : args;
  const unknown = names.filter((name) => !known.has(name));
  if (unknown.length > 0) throw new Error(`no model "${unknown.join(', ')}"; there are ${[...known].join(', ')}`);
  const cases = CASES.filter((entry) => names.length === 0 || names.includes(entry.model));
  const tools = await findTools();
  if (tools.kind === 'missing') {
    console.log(`SKIPPED the models: ${tools.what}. As root: apt-get install spin gcc libc6-dev`);
    console.log(`0 passed, 0 failed, ${cases.length} skipped`);
    return 0;
  }
  const base = makeBase();
  return isTrail ? trail(tools.prefix, base, model ?? '', rest) : many(tools.prefix, base, cases);
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  console.error(`test/model/run.ts: ${(error as Error).message}`);
  process.exitCode = 2;
}
