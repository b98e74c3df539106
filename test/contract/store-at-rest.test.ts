/** Damage in what rests in the Safety Nets: one old bad bit neither ends the process nor refuses a new message (transport/store/log-access.ts). */
import { describe, expect, test } from 'vitest';
import type { FileHandle, Files } from '../../common/platform/files.ts';
import type { QueueDatabase } from '../../transport/store/database.ts';
import { ReadOnlyDatabase } from '../../transport/store/read-only.ts';
import { SEGMENT_BYTES, SimBench } from './bench.ts';
import { bodyOf, collect, commitOf, copyId, delivered, moveOf, OWNER, readAll, stateOf } from './samples.ts';

const SEGMENT = '/q/segment-000001';

/** What the medium under the files does. */
interface Medium {
  /** Reads of this segment that touch these bytes fail with EIO. */
  bad: { readonly path: string; readonly from: number; readonly to: number } | null;
  reads: number;
}

function medium(state: Medium): (files: Files) => Files {
  const wrap = (handle: FileHandle, path: string): FileHandle => ({
    ...handle,
    read: async (target, at, length, position) => {
      state.reads += 1;
      const { bad } = state;
      if (bad !== null && bad.path === path && position < bad.to && position + length > bad.from)
        throw Object.assign(new Error('EIO: i/o error, read'), { code: 'EIO' });
      return handle.read(target, at, length, position);
    },
  });
  return (files) => ({ ...files, open: async (path, mode) => wrap(await files.open(path, mode), path) });
}

/** Twelve messages in the first segment, ten at rest behind a footer; closed. */
async function rested(): Promise<SimBench> {
  const bench = new SimBench(40);
  const store = await bench.open();
  for (let n = 0; n < 12; n++) {
    await bench.run(store.commit([commitOf(store, copyId(n), bodyOf(copyId(n), 500), stateOf('delivery'))]));
    if (n > 1) await bench.run(store.commit([moveOf(copyId(n), 'primary', 'mbx1', n)]));
  }
  await bench.run(store.close());
  return bench;
}

function worldOf(origin: SimBench, state: Medium = { bad: null, reads: 0 }): SimBench {
  const bench = new SimBench(41, {}, undefined, medium(state));
  bench.disk.restore(origin.disk.snapshot());
  return bench;
}

const place = (bench: SimBench, what: string): number => {
  const at = bench.disk.bytesOf(SEGMENT).indexOf(what);
  if (at < 0) throw new Error(`${what} is not in the segment`);
  return at;
};

async function takesNew(bench: SimBench, store: QueueDatabase, n: number): Promise<void> {
  await bench.run(store.commit([commitOf(store, copyId(n), bodyOf(copyId(n), 700), stateOf('delivery'))]));
  expect((await bench.run(readAll(store, copyId(n)))).equals(bodyOf(copyId(n), 700))).toBe(true);
}

describe('damage at rest', () => {
  test('a damaged COMMIT: the MOVE record answers for it, the body is DAMAGED, it is counted once', async () => {
    const bench = worldOf(await rested());
    bench.disk.flipBit(SEGMENT, place(bench, `"i":"${copyId(7)}","x"`) + 60);
    const store = await bench.open();
    expect(store.recovered.quarantined).toEqual([]);
    for (let round = 0; round < 2; round++)
      expect(await bench.run(store.lookup(copyId(7)))).toMatchObject({
        damaged: expect.stringContaining('damaged'),
        facts: { id: copyId(7), kind: 'message', sizeBytes: 500, digest: expect.stringMatching(/^[0-9a-f]{64}$/) },
        state: { queue: 'primarySafetyNet', recipients: [delivered('user0@example.org', 'mbx1')], finalAtMs: 7 },
      });
    expect(store.recovered.quarantined).toMatchObject([{ id: copyId(7), segment: 'segment-000001' }]);
    await expect(bench.run(readAll(store, copyId(7)))).rejects.toMatchObject({ code: 'DAMAGED' });
    await expect(
      bench.run(store.commit([{ kind: 'recall', id: copyId(7), state: stateOf('submission') }])),
    ).rejects.toMatchObject({ code: 'DAMAGED' });
    expect((await bench.run(store.lookup(copyId(8))))?.damaged).toBe(undefined);
    // It can be written again, and removed.
    await takesNew(bench, store, 7);
    await bench.run(store.commit([{ kind: 'remove', id: copyId(7) }]));
    expect(store.safetyNetCounts().primary.messages).toBe(9);
    expect(bench.fatal).toEqual([]);
  });

  test('a damaged MOVE: that copy is DAMAGED, its neighbours and new messages are not', async () => {
    const bench = worldOf(await rested());
    bench.disk.flipBit(SEGMENT, place(bench, `"i":"${copyId(7)}","a"`) + 60);
    const store = await bench.open();
    await expect(bench.run(store.lookup(copyId(7)))).rejects.toMatchObject({ code: 'DAMAGED' });
    expect(store.recovered.quarantined).toMatchObject([{ id: copyId(7) }]);
    expect((await bench.run(store.lookup(copyId(6))))?.facts.sizeBytes).toBe(500);
    await takesNew(bench, store, 50);
    // Another group says that the new one is synced.
    await bench.pass(2500);
    const view = await bench.run(ReadOnlyDatabase.open(bench.files(), '/q'));
    const shown = await bench.run(collect(view.copies()));
    expect(shown.map((copy) => copy.facts.id)).not.toContain(copyId(7));
    expect(shown.length).toBe(12);
    expect((await bench.run(view.verify())).filter((item) => item.id === copyId(7))).not.toEqual([]);
    await bench.run(view.close());
  });

  test('EIO where the footer lies, before and after opening: rebuilt, reported, nothing refused', async () => {
    const origin = await rested();
    const footer = origin.disk.bytesOf(SEGMENT).lastIndexOf(copyId(7));
    for (const when of ['before', 'after'] as const) {
      const state: Medium = { bad: null, reads: 0 };
      const bench = worldOf(origin, state);
      const bad = { path: SEGMENT, from: footer - 100, to: footer + 100 };
      if (when === 'before') state.bad = bad;
      const store = await bench.open();
      state.bad = bad;
      await takesNew(bench, store, 50);
      await bench.run(store.commit([{ kind: 'remove', id: copyId(3) }]));
      const ids = (await bench.run(collect(store.safetyNet({})))).map((entry) => entry.id);
      expect(ids, when).toEqual([2, 4, 5, 6, 7, 8, 9, 10, 11].map(copyId));
      expect((await bench.run(store.lookup(copyId(9))))?.damaged).toBe(undefined);
      expect(await bench.run(store.lookup(copyId(60)))).toBe(null);
      expect(store.recovered.quarantined.length, when).toBeGreaterThan(0);
      expect(bench.fatal).toEqual([]);
      await bench.run(store.close());
    }
  });

  test('a whole segment that cannot be read: new messages go on, its copies are DAMAGED, not unknown', async () => {
    const state: Medium = { bad: null, reads: 0 };
    const bench = worldOf(await rested(), state);
    const store = await bench.open();
    state.bad = { path: SEGMENT, from: 0, to: 1 << 30 };
    await takesNew(bench, store, 50);
    await expect(bench.run(store.lookup(copyId(7)))).rejects.toMatchObject({ code: 'DAMAGED' });
    expect(await bench.run(store.lookup(copyId(60)))).toBe(null);
    // The same id again, and its removal: nothing is known to end, nothing is refused.
    await takesNew(bench, store, 7);
    await bench.run(store.commit([{ kind: 'remove', id: copyId(8) }]));
    expect(store.recovered.quarantined.length).toBeGreaterThan(0);
    expect(bench.fatal).toEqual([]);
  });

  test('after a start the first commit of a new message reads nothing', async () => {
    const state: Medium = { bad: null, reads: 0 };
    const bench = worldOf(await rested(), state);
    const store = await bench.open();
    state.reads = 0;
    await bench.run(store.commit([commitOf(store, copyId(60), bodyOf(copyId(60), 700), stateOf('delivery'))]));
    expect(state.reads).toBe(0);
  });
});

/** The next write that has this in it waits for `write`. */
function heldWrites(isHeld: (text: string) => boolean) {
  const began = Promise.withResolvers<void>();
  const written = Promise.withResolvers<void>();
  const held = (handle: FileHandle): FileHandle => ({
    ...handle,
    writev: async (buffers, position) => {
      if (isHeld(Buffer.concat(buffers).toString('latin1'))) {
        began.resolve();
        await written.promise;
      }
      return handle.writev(buffers, position);
    },
  });
  const wrap = (files: Files): Files => ({ ...files, open: async (path, mode) => held(await files.open(path, mode)) });
  return { wrap, began: began.promise, write: written.resolve };
}

describe('what the index names and is still being written is waited for: nothing is called damaged', () => {
  const commit = (store: QueueDatabase, n: number, bytes: number): Promise<void> =>
    store.commit([commitOf(store, copyId(n), bodyOf(copyId(n), bytes), stateOf('delivery'))]);

  test.each([
    ['the footer of a segment', /\{"n":\d+,"b":\d+,"c":\d+,"p":/],
    ['an entry that comes to rest', /"mbx2"/],
  ])('%s', async (_, mark) => {
    const { wrap, began, write } = heldWrites((text) => mark.test(text));
    const bench = new SimBench(42, {}, undefined, wrap);
    const store = await bench.open();
    await bench.run(commit(store, 1, 500));
    await bench.run(store.commit([moveOf(copyId(1), 'primary', 'mbx1', 1)]));
    await bench.run(commit(store, 2, 500));
    const later = [store.commit([moveOf(copyId(2), 'primary', 'mbx2', 2)]), commit(store, 3, SEGMENT_BYTES - 8_000)];
    await bench.run(began);
    const found = [1, 2].map((n) => store.lookup(copyId(n)));
    const copies = store.safetyNetCopies({}, 10);
    // Whoever does not wait has read by then.
    await bench.pass(1_000);
    write();
    await bench.run(Promise.all(later));
    const ids = [copyId(1), copyId(2)];
    expect((await bench.run(Promise.all(found))).map((copy) => copy?.facts.id)).toEqual(ids);
    expect((await bench.run(copies)).copies.map(({ facts }) => facts.id)).toEqual(ids);
    expect(bench.quarantined).toEqual([]);
    expect(bench.fatal).toEqual([]);
  });

  test('who asks for entries of one footer at once waits for one reading of it', async () => {
    const state: Medium = { bad: null, reads: 0 };
    const bench = worldOf(await rested(), state);
    const store = await bench.open();
    const ids = Array.from({ length: 10 }, (_, n) => copyId(n + 2));
    state.reads = 0;
    const found = await bench.run(Promise.all(ids.map((id) => store.lookup(id))));
    expect(found.every((stored) => stored !== null)).toBe(true);
    // Filter and footer; MOVE and COMMIT of each.
    expect(state.reads).toBeLessThanOrEqual(2 + 2 * ids.length);
    await bench.run(store.close());
  });
});

describe('changes at rest while they are looked up', () => {
  /** Whose it is goes up twelve times, while others look: what they were told that was no longer so when they asked. */
  async function untrue(seed: number): Promise<readonly string[]> {
    const bench = new SimBench(seed);
    const clock = bench.scheduler.clock();
    const store = await bench.open();
    const id = copyId(0);
    const rests = async (n: number, sizeBytes: number): Promise<void> => {
      await store.commit([commitOf(store, copyId(n), bodyOf(copyId(n), sizeBytes), stateOf('delivery'))]);
      await store.commit([moveOf(copyId(n), 'primary', 'mbx1', n)]);
    };
    for (let n = 0; n < 60; n++) await bench.run(rests(n, 900));
    const wrong: string[] = [];
    let durable = 0;
    let isOver = false;
    const look = async (): Promise<void> => {
      for (let n = 0; !isOver; n++) {
        await new Promise<void>((resolve) => clock.setTimer(0.05, resolve));
        const least = durable;
        const found = await store.lookup(id);
        const term = found?.state.epoch.term ?? null;
        if (term === null || term < least) wrong.push(`${term ?? 'gone'} after ${least}`);
        // What was read of footers for the one is not there for the other.
        await store.lookup(copyId(1 + (n % 59)));
      }
    };
    const change = async (): Promise<void> => {
      const recipients = [delivered('user0@example.org', 'mbx1')];
      for (let term = 1; term <= 12; term++) {
        const next = stateOf('primarySafetyNet', { recipients, finalAtMs: 0, epoch: { try: 1, term, owner: OWNER } });
        await store.commit([
          { kind: 'recall', id, state: { ...next, queue: 'submission' } },
          { kind: 'move', id, state: next },
        ]);
        durable = term;
        for (let n = 0; n < 3; n++) await rests(1000 + 10 * term + n, 12_000);
      }
      isOver = true;
    };
    await bench.run(Promise.all([change(), look(), look(), look()]));
    await bench.run(store.close());
    return wrong;
  }

  test('nothing is called gone that only changes its place, and nothing is told as it was', async () => {
    for (let seed = 1; seed <= 40; seed++) expect({ seed, wrong: await untrue(seed) }).toEqual({ seed, wrong: [] });
  });
});
