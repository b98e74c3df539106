/** Identity and fencing (protocol.md 1, 2; semantics.md S9): what a member refuses of another, and what becomes of a volume that must not be used. */
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import type { Identity } from '../../common/message.ts';
import type { Hello } from '../../common/peer/messages.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { markFenced, setAsideIfFenced } from '../../transport/fence.ts';
import type { QueueDatabase, Seen } from '../../transport/store/database.ts';
import { MemoryDisk, openMemoryStore } from '../../transport/store/memory.ts';
import { RawPeer } from '../contract/peer-rig.ts';
import { SimNetwork } from '../sim/net.ts';
import { Scheduler } from '../sim/scheduler.ts';
import { simTopology } from '../sim/topology.ts';
import { OTHER, PEER, SELF } from './core-bench.ts';
import { helloOf } from './peer-samples.ts';
import { simPeers } from './sim-peers.ts';

const B1 = 'B'.repeat(26) as Identity;
const B2 = 'D'.repeat(26) as Identity;
const C1 = 'C'.repeat(26) as Identity;

const seenOf = (member: string, identity: Identity, more: Partial<Seen> = {}): Seen => ({
  member,
  identity,
  openCounter: 3,
  nonce: 'n3',
  syncedSequence: 100,
  ...more,
});

const chainTo = (openCounter: number) =>
  Array.from({ length: openCounter }, (_, at) => ({ openCounter: at + 1, nonce: `n${at + 1}` }));

interface Theirs {
  readonly identity: Identity;
  readonly opens: number;
  readonly syncedSequence: number;
  readonly seen?: (database: QueueDatabase) => Hello['seen'];
}

/** PEER is dialled by SELF, which remembers `seen`; says what came of it. */
async function meet(
  seen: readonly Seen[],
  theirs: Theirs,
): Promise<{ met: boolean; fatal: string | null; problem: string | null }> {
  const scheduler = new Scheduler(7);
  const network = new SimNetwork(scheduler, { fragmentChance: 0 });
  const clock = scheduler.clock();
  const disk = new MemoryDisk();
  const first = await openMemoryStore({ disk, clock, random: scheduler.random, member: SELF });
  await first.commit(seen.map((one) => ({ kind: 'seen', seen: one })));
  await first.close();
  const database = await openMemoryStore({ disk, clock, random: scheduler.random, member: SELF });
  const hello: Hello = {
    ...helloOf('transport', PEER),
    cluster: 'sim',
    boundary: 'dag/dag1',
    database: { identity: theirs.identity, chain: chainTo(theirs.opens), syncedSequence: theirs.syncedSequence },
    seen: theirs.seen?.(database) ?? null,
  };
  const host = network.host({ role: 'transport', name: PEER }, { alive: true });
  const raws: RawPeer[] = [];
  await host.listen({ host: PEER, port: 4_000 }, (connection) => raws.push(new RawPeer(connection)));
  let fatal: string | null = null;
  let met = false;
  const peers = await simPeers(
    { scheduler, network, member: SELF },
    {
      onMember: () => {
        met = true;
      },
    },
    {
      database,
      document: simTopology({ sites: [3], dag: true, frontends: 1 }),
      keepAliveMs: 600_000,
      deadAfterMs: 1_200_000,
      onFatal: (reason) => {
        fatal = reason.message;
      },
    },
  );
  await peers.start();
  const reached = async (condition: () => boolean): Promise<void> => {
    await new Promise((resolve) => setImmediate(resolve));
    await scheduler.run(condition, scheduler.nowMs + 500);
  };
  await reached(() => (raws[0]?.frames.length ?? 0) > 0);
  raws[0]?.say({ kind: 'WELCOME', hello });
  await reached(() => met || fatal !== null || (raws[0]?.frames.length ?? 0) > 1);
  expect(raws[0]?.frames.length).toBeGreaterThan(0);
  return { met, fatal, problem: peers.view().find(({ member }) => member === PEER)?.problem ?? null };
}

describe('rule 1: nonce chain', () => {
  test('the chain goes on where it was seen: accepted', async () => {
    expect(await meet([seenOf(PEER, B1)], { identity: B1, opens: 4, syncedSequence: 120 })).toMatchObject({
      met: true,
    });
  });

  test.each([
    ['an older snapshot: its newest open is older', 2, 120],
    ['an older snapshot of the same open: its log ends below what was seen', 3, 99],
  ])('%s: refused', async (_, opens, syncedSequence) => {
    expect((await meet([seenOf(PEER, B1)], { identity: B1, opens, syncedSequence })).met).toBe(false);
  });

  test('what it saw of my own queue database is not in my chain: this volume is fenced', async () => {
    const { fatal } = await meet([], {
      identity: B1,
      opens: 1,
      syncedSequence: 0,
      seen: ({ identity }) => ({ identity, openCounter: 99, nonce: 'x', syncedSequence: 0 }),
    });
    expect(fatal).toContain('fenced');
  });

  test('a new identity is accepted at once', async () => {
    expect(await meet([seenOf(PEER, B1)], { identity: B2, opens: 1, syncedSequence: 0 })).toMatchObject({ met: true });
  });

  test('FINDING an older copy of a queue database it had before the present one: refused all the same', async () => {
    const seen = [seenOf(PEER, B1), seenOf(PEER, B2, { openCounter: 1, nonce: 'n1', syncedSequence: 5 })];
    expect((await meet(seen, { identity: B1, opens: 2, syncedSequence: 50 })).met).toBe(false);
  });

  test('FINDING the queue database of another member, which is not connected now: refused (two members with one identity)', async () => {
    const theirs = { identity: C1, opens: 4, syncedSequence: 200 };
    expect((await meet([seenOf(OTHER, C1)], theirs)).met).toBe(false);
  });
});

describe('S9: a fenced volume is set aside, never deleted', () => {
  const made: string[] = [];
  afterEach(async () => {
    for (const directory of made.splice(0)) await rm(directory, { recursive: true, force: true });
  });

  async function volume(): Promise<string> {
    const parent = await mkdtemp(join(tmpdir(), 'fence-'));
    made.push(parent);
    const queue = join(parent, 'queue');
    await mkdir(queue);
    await writeFile(join(queue, 'mail'), 'bytes');
    return queue;
  }

  test('not marked: used as it is', async () => {
    const queue = await volume();
    expect(await setAsideIfFenced(queue, silentLogger)).toBeNull();
    expect((await stat(queue)).isDirectory()).toBe(true);
  });

  test('marked: renamed beside it with the reason inside, the next one under the next number', async () => {
    const queue = await volume();
    const mark = { why: 'broken nonce chain', identity: B1, at: '2026-01-01T00:00:00.000Z' };
    for (const number of [1, 2]) {
      await markFenced(queue, mark);
      expect(await setAsideIfFenced(queue, silentLogger)).toBe(`${queue}.fenced-${number}`);
      await mkdir(queue);
    }
    expect(await readdir(`${queue}.fenced-1`)).toEqual(['fenced.json', 'mail']);
    expect(JSON.parse(await readFile(`${queue}.fenced-2/fenced.json`, 'utf8'))).toEqual(mark);
  });

  test('a missing volume is not an error of the fence', async () => {
    const queue = await volume();
    await rm(queue, { recursive: true });
    expect(await setAsideIfFenced(queue, silentLogger)).toBeNull();
  });
});
