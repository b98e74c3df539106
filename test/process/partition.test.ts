/**
 * The network cut in real processes (semantics.md section 10; protocol.md 3, 12, 13): each process of a cluster lives in a network
 * namespace of its own, packets between some of them are dropped in both or in one direction for longer than the span after which silence
 * counts, mail keeps coming, then the cut heals. The ledger balances after each cut, both Safety Nets are complete, and all agree on
 * the owner of each copy. Needs root. MAILCLUSTER_ROUNDS=n for n cuts of every kind
 * (`make soak-process`), MAILCLUSTER_SEED=n to repeat a run.
 */
import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { ROOT } from '../house/sources.ts';
import { inPrivateNetwork, obstacle } from '../rigs/network-namespaces.ts';
import { CUTS, type CutName, type CutReport } from './partition-report.ts';
import { seedOf } from './seeded-load.ts';

const USUAL: readonly CutName[] = ['transports-one-way', 'frontend-one-way', 'site'];
/** Every kind of cut, again and again, when rounds are asked for. */
const ROUNDS = Number(process.env.MAILCLUSTER_ROUNDS ?? 0);
const SEED = seedOf(process.env);
/** One cluster, one private network each. */
const BATCHES = Array.from({ length: Math.max(1, Math.ceil(ROUNDS / CUTS.length)) }, (_, at) => ({
  seed: SEED + at,
  cuts: ROUNDS === 0 ? USUAL : CUTS.slice(0, ROUNDS - at * CUTS.length),
}));
const DEADLINE_MS = 60_000 + CUTS.length * 150_000;

interface Outcome {
  readonly reports: readonly CutReport[];
  readonly said: string;
  readonly code: number | null;
}

async function driven(directory: string, seed: number, cuts: readonly CutName[]): Promise<Outcome> {
  const driver = join(ROOT, 'test/process/partition-driver.ts');
  const [file = '', ...args] = inPrivateNetwork([process.execPath, driver, directory, `${seed}`, ...cuts]);
  const child = spawn(file, args, { stdio: ['pipe', 'pipe', 'pipe'], timeout: DEADLINE_MS, killSignal: 'SIGKILL' });
  const [out, said]: [Buffer[], Buffer[]] = [[], []];
  child.stdout.on('data', (chunk: Buffer) => out.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => said.push(chunk));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  const reports = Buffer.concat(out)
    .toString()
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as CutReport);
  return { reports, said: Buffer.concat(said).toString().slice(-20_000), code };
}

test.for(BATCHES)(
  'the network cut under load ($cuts): nothing lost, nothing twice, one owner each',
  { timeout: DEADLINE_MS + 30_000 },
  async ({ seed, cuts }, context) => {
    const why = obstacle();
    if (why !== null) return context.skip(`partitions: ${why}`);
    const directory = await mkdtemp(join(tmpdir(), 'mailcluster-partition-'));
    try {
      const { reports, said, code } = await driven(directory, seed, cuts);
      const lines = [`seed ${seed}`, ...reports.map(({ line }) => line)].join('\n');
      console.log(lines);
      for (const { problems, lost, cut } of reports) {
        expect(problems, [cut, lines, ...problems, said].join('\n')).toEqual([]);
        expect(lost, `${cut}: a partition destroys no queue database`).toEqual([]);
      }
      expect([code, reports.length], `${lines}\n${said}`).toEqual([0, cuts.length]);
      // The test must not pass because nothing got through.
      expect(reports.at(-1)?.accepted ?? 0).toBeGreaterThan(cuts.length * 30);
    } finally {
      await rm(directory, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
    }
  },
);
