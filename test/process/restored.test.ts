/**
 * Volumes that must not be used (semantics.md S9; protocol.md 1, 2): a member started on an old copy of its directory, and a second
 * process on a copy of a volume under the same name. It is fenced: the process ends and says why, the volume is set aside with the reason
 * beside it, the member comes back on a fresh identity, what it held is taken over, and the ledger balances.
 */
import { existsSync, readdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { until } from '../house/until.ts';
import { inspected, signal } from './cluster-view.ts';
import { type DirectCluster, startDirect } from './direct-cluster.ts';
import { twoSites } from './harness.ts';
import { Load } from './seeded-load.ts';
import { acceptedDigests, judgedAtRest, twoCopiesAgain } from './two-copies.ts';

const TIMEOUT_MS = 240_000;
const DEADLINE_MS = 60_000;

let cluster: DirectCluster;
let victim: string;
let load: Load;

beforeEach(async () => {
  cluster = await startDirect((directory) =>
    twoSites(directory, { perSite: [2, 1], shadowRedundancy: 'resubmitTimeSpan: 12s' }),
  );
  victim = cluster.transports[0]?.name ?? '';
  load = new Load(cluster, { sessions: 2 });
}, 120_000);

afterEach(async () => {
  await load?.stop();
  await cluster?.[Symbol.asyncDispose]();
}, 120_000);

const members = (): readonly string[] => cluster.transports.map(({ name }) => name);

const identityOf = async (name: string): Promise<string> => (await inspected(cluster.queueDirectory(name))).identity;

async function store(how: 'SIGSTOP' | 'SIGCONT'): Promise<void> {
  const pid = (await cluster.runFile()).stores[0]?.pid;
  if (pid == null) throw new Error('no store');
  signal(pid, how);
}

interface FenceMark {
  readonly why: string;
  readonly identity: string;
}

/** The process is gone, says that it was fenced, and its volume is marked. */
async function fenced(isAlive: () => boolean, fatal: () => string | null, directory: string): Promise<FenceMark> {
  await until('the process to be fenced', () => !isAlive(), { deadlineMs: DEADLINE_MS });
  expect(fatal()).toMatch(/fenced|chain|nonce|incarnation|older/i);
  return JSON.parse(await readFile(join(directory, 'fenced.json'), 'utf8')) as FenceMark;
}

/** Started again by whoever runs the members: the volume is set aside, never deleted, and a fresh identity takes its place. */
async function backOnFreshIdentity(mark: FenceMark): Promise<void> {
  const directory = cluster.queueDirectory(victim);
  await cluster.launch(victim);
  const aside = join(dirname(directory), 'queue.fenced-1');
  expect(readdirSync(dirname(directory)).filter((name) => name.startsWith('queue.'))).toEqual(['queue.fenced-1']);
  expect(existsSync(join(aside, 'fenced.json'))).toBe(true);
  expect((await inspected(aside)).identity).toBe(mark.identity);
  expect(await identityOf(victim)).not.toBe(mark.identity);
}

async function judged(title: string): Promise<void> {
  await twoCopiesAgain(cluster, members(), acceptedDigests(load.ledger), DEADLINE_MS);
  await load.moreAccepted(10);
  const ledger = await load.stop();
  const read = () => cluster.delivered();
  const { line, problems, result } = await judgedAtRest(cluster, title, ledger, { read, deadlineMs: DEADLINE_MS });
  console.log(line);
  expect(problems, [line, ...problems].join('\n')).toEqual([]);
  expect(result.accepted).toBeGreaterThan(ledger.length / 2);
}

test(
  'a member started on an old copy of its directory is fenced and starts afresh; the others take over',
  async () => {
    const queue = cluster.queueDirectory(victim);
    const old = join(cluster.directory, 'old-copy');
    await load.moreAccepted(30);
    await cluster.end(victim, 'SIGTERM');
    await cluster.copyVolume(queue, old);
    await cluster.launch(victim);
    const identity = await identityOf(victim);
    await load.moreAccepted(60);
    // Something to take over that is not in the old copy.
    await store('SIGSTOP');
    await load.more(40);
    await cluster.kill(victim);
    await cluster.copyVolume(old, queue);
    await cluster.launch(victim).catch((error: unknown) => expect(String(error)).toContain('ended'));
    const mark = await fenced(
      () => cluster.isRunning(victim),
      () => cluster.fatal(victim),
      queue,
    );
    expect(mark.identity).toBe(identity);
    await store('SIGCONT');
    await backOnFreshIdentity(mark);
    await judged(`restored from an old copy (${mark.why})`);
  },
  TIMEOUT_MS,
);

test(
  'a second process on an old copy of a volume, under the name of a running member, is fenced; the running one is not disturbed',
  async () => {
    const queue = cluster.queueDirectory(victim);
    const copy = join(cluster.directory, 'clone', 'queue');
    await load.moreAccepted(20);
    await cluster.end(victim, 'SIGTERM');
    await cluster.copyVolume(queue, copy);
    await cluster.launch(victim);
    await load.moreAccepted(40);
    const identity = await identityOf(victim);
    const pid = cluster.pid(victim);
    const double = await cluster.launchDouble(victim, copy);
    const mark = await fenced(double.isAlive, double.fatal, copy);
    expect(mark.identity).toBe(identity);
    await load.moreAccepted(20);
    expect([cluster.isRunning(victim), cluster.pid(victim), await identityOf(victim)]).toEqual([true, pid, identity]);
    await judged(`a clone of an old copy (${mark.why})`);
  },
  TIMEOUT_MS,
);

test(
  'a second process on an exact copy of the volume of a member that stands still: the older one is fenced when it goes on',
  async () => {
    const queue = cluster.queueDirectory(victim);
    const copy = join(cluster.directory, 'clone', 'queue');
    await load.moreAccepted(40);
    const identity = await identityOf(victim);
    // As a virtual machine that is frozen, copied, started elsewhere, and thawed.
    signal(cluster.pid(victim), 'SIGSTOP');
    await cluster.copyVolume(queue, copy);
    const double = await cluster.launchDouble(victim, copy);
    expect(await double.outcome).toBe('ready');
    await load.moreAccepted(20);
    signal(cluster.pid(victim), 'SIGCONT');
    const mark = await fenced(
      () => cluster.isRunning(victim),
      () => cluster.fatal(victim),
      queue,
    );
    expect(mark.identity).toBe(identity);
    expect(double.isAlive()).toBe(true);
    await double.stop();
    await backOnFreshIdentity(mark);
    await judged(`a clone of the present state (${mark.why})`);
  },
  TIMEOUT_MS,
);
