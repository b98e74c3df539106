/**
 * Hundreds of slow, idle, byte-a-second and junk clients at one front end: its memory stays bounded, and who sends in good order is served as before. With
 * thousands, and figures: `test/bench/bad-clients.ts`.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { until } from '../house/until.ts';
import { BadClients } from '../rigs/bad-clients.ts';
import { type Cluster, startCluster, twoSites } from './harness.ts';
import { balance, type LedgerEntry, makeMessage, notAccepted, verdict } from './ledger.ts';
import { sendAll } from './smtp-sender.ts';

const TIMEOUT_MS = 240_000;
const BAD = 400;
const GOOD = 100;

let cluster: Cluster;
beforeAll(async () => {
  cluster = await startCluster((directory) =>
    twoSites(directory, { perSite: 1, frontends: 1, frontend: ['limits: { idleTimeout: 10s }'] }),
  );
}, TIMEOUT_MS);
afterAll(async () => await cluster?.[Symbol.asyncDispose](), TIMEOUT_MS);

const send = (prefix: string): Promise<readonly LedgerEntry[]> =>
  sendAll({
    targets: () => cluster.targets(),
    messages: Array.from({ length: GOOD }, (_, nth) => makeMessage(`${prefix}${nth}`, 'ann@example.com', 4_000)),
    sessions: 1,
  });

/** Of 100, the second slowest. */
const p99 = (ledger: readonly LedgerEntry[]): number =>
  ledger.map(({ latencyMs }) => latencyMs ?? Number.POSITIVE_INFINITY).sort((a, b) => a - b)[GOOD - 2] ?? 0;

test(
  "bad clients: a good sender's 99th percentile stays below 2 s, all of it arrives once, the front end grows by less than 64 MB",
  async () => {
    const alone = await send('alone');
    const [target] = cluster.targets();
    if (target === undefined) throw new Error('no front end');
    const before = await cluster.peakMb();
    using bad = new BadClients(target, BAD);
    await until('all of them to be in', () => bad.open >= BAD * 0.9, { deadlineMs: 60_000 });
    const ledger = await send('among');
    expect(notAccepted(ledger)).toEqual([]);
    // On a machine that has something else to do as well: not more than ten times what it is without them.
    expect(p99(ledger)).toBeLessThan(Math.max(2_000, 10 * p99(alone)));
    // The junk talkers and the idle are cut off, come again, and are let in again.
    await until('some to be cut off', () => bad.dialled > BAD * 1.25, { deadlineMs: 60_000 });
    expect((await cluster.peakMb()) - before).toBeLessThan(64);
    await cluster.drained(60_000, [...alone, ...ledger]);
    expect(verdict(balance([...alone, ...ledger], await cluster.delivered(), []))).toBe('balanced');
  },
  TIMEOUT_MS,
);
