/**
 * The simulator stage of `make test` and the whole of `make soak`:
 * `node test/sim/run.ts [--seeds N] [--from N] [--minutes N] [--workers N] [--mutant-seeds N] [--mutants NAMES] [--edge EDGE] [DOSE]`, or one history with its trace:
 * `node test/sim/run.ts --seed N [--mutant NAME] [--edge EDGE] [DOSE] [--out-of-contract]`. DOSE (doses.ts): `--only KINDS`, `--without KINDS`, `--times N`,
 * `--traits JSON`; KINDS are names of faults.ts with commas, `classic`, `cluster`, `later` and `smtp` among them. `--mutant` without one takes the dose of that
 * variant. EDGE is `direct`, where mail goes straight into the message path of a front end, or `smtp`, where real clients speak with the real edge; without it a
 * run has three seeds of the first kind to one of the second, N together besides one for each twenty in a world with site links and one for each hundred where a person redirects mail or holds it back, or senders want to hear of success, and three for each two hundred under many faults of few kinds,
 * and one history is direct. `--minutes` ends a run early, between two handfuls of
 * seeds. Owns: the totals, the coverage of the transition table, the
 * proof that a seed is one history, and the promise that every known-wrong variant is caught. Prints one replay command per failure when it happens, once a
 * minute how far it is, and ends with the totals and `N passed, N failed`.
 */
import { fork } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { TRANSITIONS } from '../../transport/core/transitions.ts';
import { type Dose, doseFrom, doseOf, flagsOf, NO_DOSE } from './doses.ts';
import { escapes, forbidEscapes } from './escapes.ts';
import { runSeed, type SeedOptions, type SeedOutcome } from './seed.ts';
import { VARIANTS, type Variant } from './variants.ts';

/** Seeds of one `make test`: those that have been run; 20,000 once a whole run of them has been made in one piece (docs/reliability.md, "Known open"). */
const SEEDS = 20_000;
/** In how many of a hundred seeds the fault budget is off. */
const OUT_OF_CONTRACT_PERCENT = 2;
/** One seed of so many has SMTP clients. */
const SEEDS_PER_SMTP_SEED = 4;

/** Forty messages, and so often as many of these faults alone. */
const heavy = (only: string, times: number, sites: string): readonly string[] => [
  '--only',
  only,
  '--times',
  `${times}`,
  '--traits',
  `{"sites":${sites},"messages":40}`,
];

/** One seed more for so many, in a world that no seed is by itself: where mail crosses boundaries, where a person redirects it, where one holds it back, where senders want to hear of success. */
const BESIDES: readonly (readonly [seedsForOne: number, dose: readonly string[]])[] = [
  [20, ['--traits', '{"crossing":true}']],
  [100, ['--traits', '{"redirects":true}']],
  [100, ['--traits', '{"suspends":true}']],
  [100, ['--traits', '{"reports":true}']],
  // Many faults of few kinds at once: what three such doses found, no seed by itself had in twenty thousand (docs/decisions/0047-given-up-with-a-higher-try.md).
  [200, heavy('lostReply,resetPair,gone,wipe,slowDisk', 4, '[4]')],
  [200, heavy('powerCut,stallAtCommit,slowDisk,oneWayCut,failover,wipe', 3, '[2,2]')],
  [200, heavy('killTransport,stall,slowDisk,cutPair,drain,lostReply', 3, '[2,2]')],
];
/** The first seeds of a kind are run twice: a seed is one history. */
const TWICE = 5;
/** How often a long run says how far it is. */
const EVERY_MS = 60_000;

interface Job {
  readonly seeds: readonly number[];
  readonly mutant: Variant | null;
  /** Run each seed twice and compare the traces. */
  readonly twice: boolean;
  readonly outOfContract: boolean;
  /** Mail goes in by real SMTP conversations. */
  readonly smtp: boolean;
  /** Words of the command line that make the dose of a remembered seed; null: those of this run. */
  readonly dose: readonly string[] | null;
}

const PLAIN = { mutant: null, twice: false, outOfContract: false, smtp: false, dose: null } as const;

interface JobResult {
  readonly seeds: number;
  readonly sent: number;
  readonly accepted: number;
  readonly events: number;
  readonly cpuMs: number;
  readonly failures: readonly { readonly seed: number; readonly violations: readonly string[] }[];
  /** Seeds of `open-seeds.txt` that failed, as they are known to. */
  readonly open: readonly number[];
  readonly coverage: readonly (readonly [string, number])[];
  readonly faults: readonly (readonly [string, number])[];
  readonly counts: readonly (readonly [string, number])[];
}

const count = (counts: Map<string, number>, what: string, by: number): void => {
  counts.set(what, (counts.get(what) ?? 0) + by);
};

/** Runs seeds until the job is done; a job of a mutant stops at the first seed that catches it. */
async function runJob(job: Job): Promise<JobResult> {
  const failures: { seed: number; violations: readonly string[] }[] = [];
  const open: number[] = [];
  const knownOpen =
    job.mutant === null && !job.outOfContract && job.dose === null ? openSeeds(job.smtp) : new Set<number>();
  const coverage = new Map<string, number>();
  const faults = new Map<string, number>();
  const counts = new Map<string, number>();
  let [seeds, sent, accepted, events] = [0, 0, 0, 0];
  const cpu = process.cpuUsage();
  for (const seed of job.seeds) {
    seeds += 1;
    try {
      const options = optionsOf(job.mutant, job.outOfContract, job.smtp, doseOfJob(job));
      const outcome = await runSeed(seed, options);
      sent += outcome.sent;
      accepted += outcome.accepted;
      events += outcome.events;
      for (const fault of outcome.faults) count(faults, fault, 1);
      for (const [what, many] of outcome.counts) count(counts, what, many);
      for (const [event, visits] of outcome.coverage) count(coverage, event, visits);
      const violations = [...outcome.violations, ...escapes(), ...(job.twice ? await sameAgain(outcome, options) : [])];
      // A variant is caught by what it does wrong, not by what is wrong anyway.
      const isOwn = violations.length > 0 && (job.mutant === null || (await isClean(seed, job.mutant, job.smtp)));
      if (isOwn && knownOpen.has(seed)) open.push(seed);
      else if (isOwn) failures.push({ seed, violations });
    } catch (error) {
      const violations = [error instanceof Error ? (error.stack ?? error.message) : String(error)];
      if (job.mutant === null || (await isClean(seed, job.mutant, job.smtp))) failures.push({ seed, violations });
    }
    if (job.mutant !== null && failures.length > 0) break;
  }
  const { user, system } = process.cpuUsage(cpu);
  return {
    seeds,
    sent,
    accepted,
    events,
    cpuMs: (user + system) / 1_000,
    failures,
    open,
    coverage: [...coverage],
    faults: [...faults],
    counts: [...counts],
  };
}

async function isClean(seed: number, mutant: Variant, smtp: boolean): Promise<boolean> {
  try {
    return (await runSeed(seed, optionsOf(null, false, smtp, doseFor(mutant)))).violations.length === 0;
  } catch {
    return false;
  }
}

async function sameAgain(outcome: SeedOutcome, options: SeedOptions): Promise<string[]> {
  const again = await runSeed(outcome.seed, options);
  return again.traceHash === outcome.traceHash ? [] : ['determinism: the same seed gave two histories'];
}

/** The dose of the variant, unless the command line says something else. */
const doseFor = (mutant: Variant | null): Dose => doseFrom(text, doseOf(mutant));

const optionsOf = (
  mutant: Variant | null,
  outOfContract: boolean,
  smtp = false,
  dose: Dose = doseFor(mutant),
): SeedOptions => ({
  mutants: new Set(mutant === null ? [] : [mutant]),
  dose,
  outOfContract,
  smtp,
});

/** Null: a run has both kinds. */
function edge(): 'direct' | 'smtp' | null {
  const word = text('edge');
  if (word !== null && word !== 'direct' && word !== 'smtp') throw new Error('--edge is direct or smtp');
  return word;
}

const replayFlags = (dose: Dose, { outOfContract, smtp }: Pick<Job, 'outOfContract' | 'smtp'>): string =>
  `${flagsOf(dose)}${outOfContract ? ' --out-of-contract' : ''}${smtp ? ' --edge smtp' : ''}`;

function sayMutant(mutant: Variant, result: JobResult): void {
  const caught = result.failures[0];
  if (caught === undefined) console.log(`FAILED variant ${mutant} survived ${result.seeds} seeds: ${VARIANTS[mutant]}`);
  else
    console.log(
      `caught ${mutant} by --seed ${caught.seed}${flagsOf(doseFor(mutant))}: ${caught.violations[0]?.split('\n')[0]}`,
    );
}

/** Hands the jobs to worker processes, one at a time each, until there are none left or time is up. */
async function distribute(jobs: Job[], workers: number, done: (job: Job, result: JobResult) => void): Promise<void> {
  const minutes = option('minutes', 0);
  const endMs = minutes === 0 ? Number.POSITIVE_INFINITY : performance.now() + minutes * 60_000;
  await Promise.all(
    Array.from({ length: workers }, async () => {
      const child = fork(import.meta.filename, ['--worker', ...process.argv.slice(2)], {
        stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
        // A seed makes and drops a few megabytes: a small nursery stays in the cache, and what is old is looked at seldom.
        execArgv: ['--max-semi-space-size=16', '--heap-growing-percent=600'],
      });
      for (let job = jobs.shift(); job !== undefined && performance.now() < endMs; job = jobs.shift()) {
        const mine = job;
        const result = await new Promise<JobResult>((resolve, reject) => {
          child.once('message', (message) => resolve(message as JobResult));
          child.once('exit', (code) => reject(new Error(`a simulator worker ended with ${code}`)));
          child.send(mine);
        });
        child.removeAllListeners('exit');
        done(mine, result);
      }
      child.disconnect();
    }),
  );
}

const doseOfJob = ({ mutant, dose }: Pick<Job, 'mutant' | 'dose'>): Dose =>
  dose === null ? doseFor(mutant) : doseFrom((name) => wordAfter(dose, name), NO_DOSE);

const text = (name: string): string | null => wordAfter(process.argv, name);

function wordAfter(words: readonly string[], name: string): string | null {
  const index = words.indexOf(`--${name}`);
  return index < 0 ? null : (words[index + 1] ?? '');
}

function option(name: string, fallback: number): number {
  const index = process.argv.indexOf(`--${name}`);
  const value = index < 0 ? fallback : Number(process.argv[index + 1]);
  if (!Number.isSafeInteger(value)) throw new Error(`--${name} wants a whole number`);
  return value;
}

/** Seeds that end with a defect that is not mended yet, in lines `SEED why` or `SEED smtp why`: counted as skipped and printed, never as passed. */
const openSeeds = (smtp: boolean): ReadonlySet<number> => new Set(seedsOf('open-seeds.txt', smtp));

/** Seeds that once found a bug, in lines `SEED why` or `SEED smtp why`: run first, always. */
const knownSeeds = (smtp: boolean): readonly number[] => seedsOf('seeds.txt', smtp);

/** Seeds that found a bug under a dose, in lines `SEED [smtp] DOSE | why`: run with the others, each under its own. */
const dosedSeeds = (): readonly Job[] =>
  readFileSync(join(import.meta.dirname, 'dosed-seeds.txt'), 'utf8')
    .split('\n')
    .flatMap((line) => {
      const [, seed, smtp, dose] = /^(\d+) (smtp )?(--.+?) \| /.exec(line) ?? [];
      if (seed === undefined || dose === undefined) return [];
      return [{ ...PLAIN, smtp: smtp !== undefined, seeds: [Number(seed)], dose: dose.split(' ') }];
    });

const seedsOf = (file: string, smtp: boolean): readonly number[] =>
  readFileSync(join(import.meta.dirname, file), 'utf8')
    .split('\n')
    .filter((line) => (smtp ? /^\d+ smtp / : /^\d+ (?!smtp )/).test(line))
    .map((line) => Number.parseInt(line, 10));

/** Seeds that caught a variant before, tried first: `name seed` a line. */
function mutantSeedsKnown(): ReadonlyMap<string, readonly number[]> {
  const known = new Map<string, number[]>();
  for (const line of readFileSync(join(import.meta.dirname, 'mutant-seeds.txt'), 'utf8').split('\n')) {
    const [name, seed] = line.split(' ');
    if (name === undefined || seed === undefined || name.startsWith('#')) continue;
    known.set(name, [...(known.get(name) ?? []), Number(seed)]);
  }
  return known;
}

const range = (from: number, count: number): number[] => Array.from({ length: count }, (_, index) => from + index);

function plan(all: number, from: number, mutantSeeds: number): Job[] {
  const plain = { ...PLAIN, smtp: edge() === 'smtp' };
  const withClients = edge() === null ? Math.floor(all / SEEDS_PER_SMTP_SEED) : 0;
  const seeds = all - withClients;
  const jobs: Job[] = [];
  if (seeds > 0)
    jobs.push(
      { ...PLAIN, seeds: knownSeeds(false) },
      { ...PLAIN, smtp: true, seeds: knownSeeds(true) },
      ...dosedSeeds(),
      { ...plain, seeds: range(from, Math.min(TWICE, seeds)), twice: true },
    );
  const caughtBefore = mutantSeedsKnown();
  if (mutantSeeds > 0)
    for (const mutant of mutantsWanted())
      jobs.push({ ...plain, seeds: [...(caughtBefore.get(mutant) ?? []), ...range(from, mutantSeeds)], mutant });
  const outside = Math.floor((seeds * OUT_OF_CONTRACT_PERCENT) / 100);
  for (let done = 0; done < outside; done += 25)
    jobs.push({ ...plain, seeds: range(from + done, Math.min(25, outside - done)), outOfContract: true });
  for (let done = TWICE; done < seeds; done += 25)
    jobs.push({ ...plain, seeds: range(from + done, Math.min(25, seeds - done)) });
  for (const [seedsForOne, dose] of BESIDES) jobs.push(...jobsBeside(Math.floor(all / seedsForOne), from, dose));
  return withClients === 0 ? jobs : mixed(jobs, smtpJobs(withClients, from));
}

/** Every second one with SMTP clients, unless the run is of one kind; none where the command line says what kind of world. */
function jobsBeside(seeds: number, from: number, dose: readonly string[]): Job[] {
  if (['traits', 'only', 'times'].some((name) => text(name) !== null)) return [];
  const jobs: Job[] = [];
  for (let done = 0; done < seeds; done += 25) {
    const smtp = edge() === null ? (done / 25) % 2 === 1 : edge() === 'smtp';
    jobs.push({
      ...PLAIN,
      smtp,
      dose,
      twice: done === 0,
      seeds: range(from + done, Math.min(25, seeds - done)),
    });
  }
  return jobs;
}

/** Those with SMTP clients come between the others, so that a run that ends early has both. */
function mixed(jobs: readonly Job[], withClients: Job[]): Job[] {
  const all = jobs.flatMap((job, index) =>
    job.mutant === null && index % (SEEDS_PER_SMTP_SEED - 1) === 0 ? [job, ...withClients.splice(0, 1)] : [job],
  );
  return [...all, ...withClients];
}

/** The same seeds with real SMTP clients: other histories. */
function smtpJobs(seeds: number, from: number): Job[] {
  const jobs: Job[] = [{ ...PLAIN, smtp: true, seeds: range(from, Math.min(TWICE, seeds)), twice: true }];
  for (let done = TWICE; done < seeds; done += 25)
    jobs.push({ ...PLAIN, smtp: true, seeds: range(from + done, Math.min(25, seeds - done)) });
  return jobs;
}

/** All of them, or those that the command line names. */
function mutantsWanted(): Variant[] {
  const names = text('mutants')?.split(',') ?? Object.keys(VARIANTS);
  for (const name of names) if (!(name in VARIANTS)) throw new Error(`no mutant ${name}`);
  return names as Variant[];
}

class Totals {
  passed = 0;
  failed = 0;
  readonly open: string[] = [];
  sent = 0;
  accepted = 0;
  events = 0;
  seeds = 0;
  /** Of them, those with SMTP clients. */
  smtp = 0;
  variants = 0;
  cpuMs = 0;
  variantsCpuMs = 0;
  readonly #faults = new Map<string, number>();
  readonly #counts = new Map<string, number>();
  readonly #coverage = new Map<string, number>();

  addMutant(result: JobResult): void {
    this.variants += 1;
    this.variantsCpuMs += result.cpuMs;
    if (result.failures.length === 0) this.failed += 1;
    else this.passed += 1;
  }

  addSeeds(result: JobResult, job: Job): void {
    this.seeds += result.seeds;
    this.cpuMs += result.cpuMs;
    if (job.smtp) this.smtp += result.seeds;
    this.passed += result.seeds - result.failures.length - result.open.length;
    this.open.push(...result.open.map((seed) => `${seed}${job.smtp ? ' smtp' : ''}`));
    this.failed += result.failures.length;
    this.sent += result.sent;
    this.accepted += result.accepted;
    this.events += result.events;
    for (const [fault, many] of result.faults) count(this.#faults, fault, many);
    for (const [what, many] of result.counts) count(this.#counts, what, many);
    for (const [event, visits] of result.coverage) count(this.#coverage, event, visits);
    for (const failure of result.failures) {
      console.log(
        `FAILED seed ${failure.seed} (${failure.violations[0] ?? 'no violation'}); replay: node test/sim/run.ts --seed ${failure.seed}${replayFlags(doseOfJob(job), job)}`,
      );
      for (const violation of failure.violations.slice(0, 5)) console.log(`  ${violation}`);
    }
  }

  /** A row of the table that many seeds never visit is a test that is missing. */
  addCoverage(seeds: number): void {
    const unvisited = TRANSITIONS.filter((row) => !this.#coverage.has(row.event));
    if (seeds < 1_000) {
      if (unvisited.length > 0)
        console.log(`rows not visited in this short run: ${unvisited.map((row) => row.event).join(', ')}`);
      return;
    }
    for (const row of unvisited) console.log(`FAILED row ${row.row} ${row.event} was never visited`);
    this.failed += unvisited.length;
    this.passed += TRANSITIONS.length - unvisited.length;
    if (process.argv.includes('--rows'))
      for (const row of TRANSITIONS)
        console.log(`${String(this.#coverage.get(row.event) ?? 0).padStart(8)} ${row.event}`);
  }

  /** How fast. The time of the variants, which come before most seeds, is in it. */
  rate(forMs: number): string {
    const perMinute = (this.seeds * 60_000) / forMs;
    const each = this.seeds === 0 ? '' : `, ${(this.cpuMs / this.seeds).toFixed(0)} ms of processor a seed`;
    const variants =
      this.variants === 0
        ? ''
        : `; ${this.variants} variants in ${(this.variantsCpuMs / 1_000).toFixed(0)} s of processor`;
    return `${this.seeds} seeds, ${this.accepted} messages accepted in ${(forMs / 1_000).toFixed(0)} s: ${perMinute.toFixed(0)} seeds a minute${each}${variants}`;
  }

  /** What all of it amounted to. */
  print(): void {
    const list = (counts: ReadonlyMap<string, number>): string =>
      [...counts]
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .map(([what, many]) => `${what} ${many}`)
        .join(', ');
    console.log(
      `${this.seeds} seeds, ${this.smtp} of them with SMTP clients: ${this.sent} messages sent, ${this.accepted} accepted, ${this.events} events, ${this.failed} seeds or variants failed; ${list(this.#counts)}`,
    );
    console.log(`faults: ${list(this.#faults)}`);
  }
}

async function many(): Promise<number> {
  const seeds = option('seeds', SEEDS);
  const workers = option('workers', Math.min(4, availableParallelism()));
  const startedMs = performance.now();
  const jobs = plan(seeds, option('from', 1), option('mutant-seeds', 300));
  const total = new Totals();
  let saidMs = startedMs;
  await distribute(jobs, workers, (job, result) => {
    if (job.mutant === null) total.addSeeds(result, job);
    else total.addMutant(result);
    if (job.mutant !== null) sayMutant(job.mutant, result);
    if (performance.now() - saidMs < EVERY_MS) return;
    saidMs = performance.now();
    console.log(`${total.rate(saidMs - startedMs)}; ${total.failed} failed so far`);
  });
  total.addCoverage(total.seeds);
  total.print();
  console.log(`${total.rate(performance.now() - startedMs)} on ${workers} workers`);
  if (total.open.length > 0)
    console.log(
      `OPEN: ${total.open.length} seeds of open-seeds.txt still end with their defect: ${total.open.join(', ')}`,
    );
  console.log(`${total.passed} passed, ${total.failed} failed, ${total.open.length} skipped`);
  return total.failed === 0 ? 0 : 1;
}

async function one(seed: number): Promise<number> {
  const index = process.argv.indexOf('--mutant');
  const mutant = index < 0 ? undefined : (process.argv[index + 1] as Variant);
  if (mutant !== undefined && !(mutant in VARIANTS))
    throw new Error(`no mutant ${mutant}; there are ${Object.keys(VARIANTS).join(', ')}`);
  const outcome = await runSeed(seed, {
    ...optionsOf(mutant ?? null, process.argv.includes('--out-of-contract'), edge() === 'smtp'),
    trace: (line) => console.log(line),
  });
  const violations = [...outcome.violations, ...escapes()];
  for (const violation of violations) console.log(`VIOLATION ${violation}`);
  console.log(
    `${outcome.sent} sent, ${outcome.accepted} accepted, ${outcome.events} events, trace ${outcome.traceHash.slice(0, 16)}`,
  );
  console.log(violations.length === 0 ? '1 passed, 0 failed' : '0 passed, 1 failed');
  return violations.length === 0 ? 0 : 1;
}

if (process.argv.includes('--worker')) {
  forbidEscapes();
  process.on('message', (job) => {
    void runJob(job as Job).then((result) => process.send?.(result));
  });
} else if (process.argv.includes('--help')) {
  // The header of this file.
  const [header = ''] = readFileSync(import.meta.filename, 'utf8').split(' */\n');
  console.log(header.replace(/^(\/\*\*| \*) ?/gm, '').trim());
} else if (process.argv.includes('--seed')) {
  forbidEscapes();
  process.exitCode = await one(option('seed', 1));
} else process.exitCode = await many();
