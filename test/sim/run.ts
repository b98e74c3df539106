/**
 * Many seeds: `node test/sim/main.ts --seeds 2000 [--from N] [--mutants] [--workers N]`. Owns: the totals, the coverage of the transition table, and the promise
 * that every known-wrong variant is caught. Prints one replay command per failure and ends with `N passed, N failed`.
 */
import { fork } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { MUTANTS, type Mutant } from '../../transport/core/mutants.ts';
import { TRANSITIONS } from '../../transport/core/transitions.ts';
import { runSeed } from './seed.ts';

interface Job {
  readonly from: number;
  readonly count: number;
  readonly mutant: Mutant | null;
}

interface JobResult {
  readonly seeds: number;
  readonly sent: number;
  readonly accepted: number;
  readonly events: number;
  readonly failures: readonly { readonly seed: number; readonly violations: readonly string[] }[];
  readonly coverage: readonly (readonly [string, number])[];
  readonly faults: number;
}

/** Runs seeds until the job is done; a job of a mutant stops at the first seed that catches it. */
async function runJob(job: Job): Promise<JobResult> {
  const failures: { seed: number; violations: readonly string[] }[] = [];
  const coverage = new Map<string, number>();
  let sent = 0;
  let accepted = 0;
  let events = 0;
  let faults = 0;
  let seeds = 0;
  for (let seed = job.from; seed < job.from + job.count; seed++) {
    seeds += 1;
    try {
      const outcome = await runSeed(seed, new Set(job.mutant === null ? [] : [job.mutant]));
      sent += outcome.sent;
      accepted += outcome.accepted;
      events += outcome.events;
      faults += outcome.faults.length;
      for (const [event, visits] of outcome.coverage) coverage.set(event, (coverage.get(event) ?? 0) + visits);
      if (outcome.violations.length > 0) failures.push({ seed, violations: outcome.violations });
    } catch (error) {
      failures.push({ seed, violations: [error instanceof Error ? (error.stack ?? error.message) : String(error)] });
    }
    if (job.mutant !== null && failures.length > 0) break;
  }
  return { seeds, sent, accepted, events, failures, coverage: [...coverage], faults };
}

function option(name: string, fallback: number): number {
  const index = process.argv.indexOf(`--${name}`);
  return index < 0 ? fallback : Number(process.argv[index + 1]);
}

/** Hands the jobs to worker processes, one at a time each. */
async function distribute(jobs: Job[], workers: number): Promise<Map<Job, JobResult>> {
  const results = new Map<Job, JobResult>();
  await Promise.all(
    Array.from({ length: workers }, async () => {
      const child = fork(import.meta.filename, ['--worker'], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
      for (let job = jobs.shift(); job !== undefined; job = jobs.shift()) {
        const mine = job;
        const result = await new Promise<JobResult>((resolve, reject) => {
          child.once('message', (message) => resolve(message as JobResult));
          child.once('exit', (code) => reject(new Error(`simulator worker ended with ${code}`)));
          child.send(mine);
        });
        child.removeAllListeners('exit');
        results.set(mine, result);
      }
      child.disconnect();
    }),
  );
  return results;
}

async function main(): Promise<number> {
  const seeds = option('seeds', 2_000);
  const from = option('from', 1);
  const workers = option('workers', Math.min(4, availableParallelism()));
  const mutantSeeds = option('mutant-seeds', 300);
  const startedMs = performance.now();
  const jobs: Job[] = [];
  for (let start = from; start < from + seeds; start += 25) jobs.push({ from: start, count: Math.min(25, from + seeds - start), mutant: null });
  if (process.argv.includes('--mutants')) for (const mutant of Object.keys(MUTANTS) as Mutant[]) jobs.push({ from: 1, count: mutantSeeds, mutant });
  const results = await distribute(jobs, workers);
  let [passed, failed, sent, accepted, events, faults] = [0, 0, 0, 0, 0, 0];
  const coverage = new Map<string, number>();
  for (const [job, result] of results) {
    if (job.mutant !== null) {
      const caught = result.failures[0];
      console.log(caught === undefined ? `SURVIVED  ${job.mutant} after ${result.seeds} seeds: ${MUTANTS[job.mutant]}` : `caught    ${job.mutant} by seed ${caught.seed}: ${caught.violations[0]?.split('\n')[0]}`);
      if (caught === undefined) failed += 1;
      else passed += 1;
      continue;
    }
    passed += result.seeds - result.failures.length;
    failed += result.failures.length;
    sent += result.sent;
    accepted += result.accepted;
    events += result.events;
    faults += result.faults;
    for (const [event, visits] of result.coverage) coverage.set(event, (coverage.get(event) ?? 0) + visits);
    for (const failure of result.failures.slice(0, 20)) {
      console.log(`seed ${failure.seed} failed; replay: node test/sim/seed.ts ${failure.seed}`);
      for (const violation of failure.violations.slice(0, 5)) console.log(`  ${violation}`);
    }
  }
  const seconds = (performance.now() - startedMs) / 1000;
  console.log(`${seeds} seeds, ${sent} messages sent, ${accepted} accepted, ${faults} faults, ${events} events in ${seconds.toFixed(1)} s (${((seconds * 1000 * workers) / seeds).toFixed(0)} ms a seed on ${workers} workers)`);
  const unvisited = TRANSITIONS.filter((row) => !coverage.has(row.event));
  if (seeds >= 1_000) {
    for (const row of unvisited) console.log(`row ${row.row} ${row.event} was never visited`);
    failed += unvisited.length;
    passed += TRANSITIONS.length - unvisited.length;
  } else if (unvisited.length > 0) console.log(`rows not visited in this short run: ${unvisited.map((row) => row.event).join(', ')}`);
  console.log(`${passed} passed, ${failed} failed`);
  return failed === 0 ? 0 : 1;
}

if (process.argv.includes('--worker')) {
  process.on('message', (job) => {
    void runJob(job as Job).then((result) => process.send?.(result));
  });
} else process.exitCode = await main();
