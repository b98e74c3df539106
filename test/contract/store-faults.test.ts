/** Full disks, failing disks, damaged bytes, order of syncs, other programs' versions: the segment log alone (protocol.md section 8). */
import { describe, expect, test } from 'vitest';
import type { FileHandle, Files } from '../../common/platform/files.ts';
import type { QueueDatabase } from '../../transport/store/database.ts';
import { SimBench } from './bench.ts';
import { bodyOf, collect, commitOf, copyId, factsOf, moveOf, readAll, stateOf, tombstoneOf } from './samples.ts';

async function fill(bench: SimBench, store: QueueDatabase, from: number, count: number, bytes: number): Promise<void> {
  for (let n = from; n < from + count; n++)
    await bench.run(store.commit([commitOf(store, copyId(n), bodyOf(copyId(n), bytes), stateOf('delivery'))]));
}

describe('one sync per message', () => {
  function recording(events: string[]): (files: Files) => Files {
    const name = (path: string): string => path.slice(path.lastIndexOf('/') + 1).replace(/-.*/, '');
    const wrap = (handle: FileHandle, path: string): FileHandle => ({
      ...handle,
      writev: async (buffers, position) => {
        events.push(`write ${name(path)}`);
        await handle.writev(buffers, position);
      },
      datasync: async () => {
        events.push(`sync ${name(path)}`);
        await handle.datasync();
        events.push(`synced ${name(path)}`);
      },
    });
    return (files) => ({ ...files, open: async (path, mode) => wrap(await files.open(path, mode), path) });
  }

  test('append and commit of one tick are one write and one sync, and the commit resolves behind it', async () => {
    const events: string[] = [];
    const bench = new SimBench(1, {}, 1 << 20, recording(events));
    const store = await bench.open();
    await fill(bench, store, 1, 1, 4000);
    // The next segment is being prepared in the background.
    await bench.pass(100);
    for (let n = 2; n < 5; n++) {
      events.length = 0;
      await bench.run(
        store.commit([commitOf(store, copyId(n), bodyOf(copyId(n), 4000))]).then(() => events.push('confirmed')),
      );
      expect(events).toEqual(['write segment', 'sync segment', 'synced segment', 'confirmed']);
    }
  });

  test('everything that waits during a sync is the next group', async () => {
    const events: string[] = [];
    const bench = new SimBench(1, {}, 1 << 20, recording(events));
    const store = await bench.open();
    await fill(bench, store, 1, 1, 10);
    await bench.pass(100);
    events.length = 0;
    const first = store.commit([commitOf(store, copyId(2), bodyOf(copyId(2), 100))]);
    await bench.pass(0.01);
    const rest = Array.from({ length: 50 }, (_, n) =>
      store.commit([commitOf(store, copyId(3 + n), bodyOf(copyId(3 + n), 100))]),
    );
    await bench.run(Promise.all([first, ...rest]));
    expect(events.filter((event) => event === 'sync segment').length).toBe(2);
    expect(events.filter((event) => event === 'write segment').length).toBe(2);
  });

  test('chunks alone are written without sync, but never more than a quarter of a segment or 16 MB', async () => {
    const events: string[] = [];
    const bench = new SimBench(1, {}, 64 << 20, recording(events));
    const store = await bench.open();
    await fill(bench, store, 1, 1, 10);
    await bench.pass(100);
    events.length = 0;
    const body = store.beginBody(copyId(2));
    const mega = Buffer.alloc(1 << 20, 7);
    for (let n = 0; n < 15; n++) await bench.run(body.append(mega));
    expect(events.filter((event) => event.startsWith('sync'))).toEqual([]);
    for (let n = 0; n < 2; n++) await bench.run(body.append(mega));
    await bench.run(
      store.commit([{ kind: 'commit', facts: factsOf(copyId(2), body), state: stateOf('shadow'), body }]),
    );
    expect(events.filter((event) => event === 'sync segment').length).toBe(2);
  });

  test('notes alone are written within a second, without sync, and survive a kill', async () => {
    const events: string[] = [];
    const bench = new SimBench(1, {}, 1 << 20, recording(events));
    const store = await bench.open();
    await fill(bench, store, 1, 1, 10);
    await bench.pass(5000);
    events.length = 0;
    store.note([{ kind: 'state', id: copyId(1), state: stateOf('delivery', { crashCount: 3 }) }]);
    await bench.pass(1100);
    expect(events).toEqual(['write segment']);
    bench.kill();
    expect((await bench.open()).recovered.copies[0]?.state.crashCount).toBe(3);
  });
});

test('a segment begins with something durable: an empty group alone would link the log to what a power cut takes (seed 2254)', async () => {
  // A body fills the segment, and is given up at some moment while the next one is begun for the rest of it.
  for (let step = 0; step < 150; step++) {
    const bench = new SimBench(step);
    let store = await bench.open();
    await fill(bench, store, 0, 3, 2000);
    const body = store.beginBody(copyId(9));
    void body.append(bodyOf(copyId(9), 200_000));
    await bench.pass(step / 4);
    body.discard();
    await bench.pass(5_000);
    bench.kill();
    store = await bench.open();
    await fill(bench, store, 10, 3, 2000);
    bench.powerCut();
    store = await bench.open();
    expect(store.recovered.copies.map(({ facts }) => facts.id).sort()).toEqual([0, 1, 2, 10, 11, 12].map(copyId));
    expect(store.recovered.quarantined).toEqual([]);
  }
});

describe('a full disk', () => {
  test('records states, moves, removals and tombstones from the reserve, opens and closes', async () => {
    const bench = new SimBench(3);
    let store = await bench.open();
    await fill(bench, store, 0, 20, 2000);
    bench.disk.setFull(true);
    expect(store.space().freeBytes).toBeGreaterThan(0);
    for (let n = 0; n < 10; n++) await bench.run(store.commit([moveOf(copyId(n), 'primary', 'mbx1', n)]));
    for (let n = 10; n < 15; n++) await bench.run(store.commit([{ kind: 'remove', id: copyId(n) }]));
    await bench.run(store.commit([{ kind: 'tombstone', tombstone: tombstoneOf(copyId(90)) }]));
    for (let round = 0; round < 4; round++) {
      if (round % 2 === 0) await bench.run(store.close());
      else bench.powerCut();
      store = await bench.open();
      await bench.run(store.commit([{ kind: 'fact', key: 'round', value: round }]));
    }
    expect(store.recovered.copies.map((copy) => copy.facts.id)).toEqual([15, 16, 17, 18, 19].map(copyId));
    expect(store.safetyNetCounts().primary.messages).toBe(10);
    expect(bench.fatal).toEqual([]);
  });

  test.each(['kill', 'powerCut'] as const)(
    'one %s after the other: opens every time, whatever each life leaves behind',
    async (end) => {
      const bench = new SimBench(3);
      let store = await bench.open();
      await fill(bench, store, 0, 5, 2000);
      bench.disk.setFull(true);
      for (let life = 0; life < 15; life++) {
        const id = copyId(100 + life);
        await bench.run(store.commit([commitOf(store, id, bodyOf(id, 50), stateOf('delivery'))]));
        if (life % 3 === 0) await bench.run(store.commit([moveOf(id, 'primary', 'mbx1', life)]));
        bench[end]();
        store = await bench.open();
      }
      expect(bench.fatal).toEqual([]);
      expect(store.recovered.quarantined).toEqual([]);
      const live = store.recovered.copies.map((copy) => copy.facts.id).sort();
      const kept = Array.from({ length: 15 }, (_, life) => life).filter((life) => life % 3 !== 0);
      expect(live).toEqual([...[0, 1, 2, 3, 4].map(copyId), ...kept.map((life) => copyId(100 + life))].sort());
      for (const id of live) expect(await bench.run(collect(store.readBody(id)))).not.toEqual([]);
      expect(store.safetyNetCounts().primary.messages).toBe(5);
      expect((await bench.run(collect(store.safetyNet({})))).length).toBe(5);
    },
  );

  test('a body under way leaves the reserve alone, says so, and goes on when there is room', async () => {
    const bench = new SimBench(3);
    const store = await bench.open();
    await fill(bench, store, 0, 5, 2000);
    await bench.pass(1000);
    bench.disk.setFull(true);
    const said: string[] = [];
    const body = store.beginBody(copyId(50), { onNoRoom: () => void said.push('no room') });
    const bytes = bodyOf(copyId(50), 1 << 20);
    const appended = body.append(bytes);
    await bench.pass(5000);
    expect(said).not.toEqual([]);
    expect(body.untilRoom()).not.toBeNull();
    for (let n = 0; n < 5; n++) await bench.run(store.commit([moveOf(copyId(n), 'primary', 'mbx1', n)]));
    bench.disk.setFull(false);
    store.space();
    await bench.pass(3000);
    store.space();
    await bench.run(appended);
    expect(body.untilRoom()).toBeNull();
    const facts = factsOf(copyId(50), body);
    await bench.run(store.commit([{ kind: 'commit', facts, state: stateOf('shadow'), body }]));
    expect(Buffer.concat(await bench.run(collect(store.readBody(copyId(50)))))).toEqual(bytes);
    expect(bench.fatal).toEqual([]);
  });

  test('recycles what expired instead of growing', async () => {
    const bench = new SimBench(4, { capacityBytes: 24 * 64 * 1024 });
    const store = await bench.open();
    for (let n = 0; n < 600; n++) {
      await bench.run(store.commit([commitOf(store, copyId(n), bodyOf(copyId(n), 5000), stateOf('delivery'))]));
      await bench.run(store.commit([moveOf(copyId(n), 'shadow', 'mbx1', n)]));
      if (n % 20 === 19) await bench.run(store.expireSafetyNet(n - 30));
    }
    expect(bench.fatal).toEqual([]);
    expect(bench.disk.usedBytes()).toBeLessThan(24 * 64 * 1024);
    const counts = store.safetyNetCounts().shadow;
    expect(counts.messages).toBe((await bench.run(collect(store.safetyNet({})))).length);
    expect(counts.bytes).toBe(counts.messages * 5000);
  });

  test('appending until nothing is left ends the process with ENOSPC, and what was confirmed is there', async () => {
    const bench = new SimBench(5, { capacityBytes: 8 * 64 * 1024 });
    let store = await bench.open();
    let free = store.space().freeBytes;
    let confirmed = 0;
    for (let n = 0; n < 200 && bench.fatal.length === 0; n++) {
      void store.commit([commitOf(store, copyId(n), bodyOf(copyId(n), 8000))]).then(() => {
        confirmed = n + 1;
      });
      await bench.pass(5);
      if (store.space().freeBytes > 0) free = Math.min(free, store.space().freeBytes);
    }
    expect(bench.fatal.map((reason) => (reason as Error & { code?: string }).code)).toEqual(['ENOSPC']);
    expect(confirmed).toBeGreaterThan(20);
    expect(store.space().freeBytes).toBe(0);
    bench.disk.setFull(false);
    bench.kill();
    const bigger = new SimBench(6);
    bigger.disk.restore(bench.disk.snapshot());
    store = await bigger.open();
    expect(store.recovered.copies.length).toBeGreaterThanOrEqual(confirmed);
  });
});

describe('a failing disk', () => {
  for (const what of ['writes', 'syncs'] as const)
    test(`the first failed ${what} is fatal once, nothing is confirmed afterwards`, async () => {
      for (let n = 1; n <= 6; n++) {
        const bench = new SimBench(10 + n);
        const store = await bench.open();
        await fill(bench, store, 0, 3, 1000);
        if (what === 'writes') bench.disk.failWrites(n);
        else bench.disk.failSyncs(n);
        let confirmed = 3;
        for (let i = 3; i < 40; i++) {
          void store.commit([commitOf(store, copyId(i), bodyOf(copyId(i), 1500))]).then(() => {
            expect(bench.fatal).toEqual([]);
            confirmed += 1;
          });
          store.note([{ kind: 'fact', key: 'n', value: i }]);
          await bench.pass(1);
        }
        await bench.pass(3000);
        expect(bench.fatal.length).toBe(1);
        expect(confirmed).toBeLessThan(40);
        bench.disk.failWrites(0);
        bench.disk.failSyncs(0);
        bench.powerCut();
        const again = await bench.open();
        expect(again.recovered.copies.length).toBeGreaterThanOrEqual(confirmed);
      }
    });
});

describe('damage', () => {
  async function small(): Promise<SimBench> {
    const bench = new SimBench(20, {}, 16 * 1024);
    const store = await bench.open();
    for (let n = 0; n < 4; n++)
      await bench.run(store.commit([commitOf(store, copyId(n), bodyOf(copyId(n), 300 + n), stateOf('shadow'))]));
    await bench.run(store.commit([{ kind: 'state', id: copyId(1), state: stateOf('shadow', { ageMs: 7 }) }]));
    // Another group carries the confirmation: everything before is known to be synced.
    await bench.pass(2500);
    bench.kill();
    return bench;
  }

  /** Opens a damaged database: what can be read must be right, what cannot must be reported. */
  async function judge(bench: SimBench, what: string): Promise<'refused' | 'reported' | 'whole'> {
    let store: QueueDatabase;
    try {
      store = await bench.open();
    } catch (error) {
      expect((error as { code?: string }).code, what).toMatch(/^(DAMAGED|VERSION)$/);
      expect((error as Error).message, what).toMatch(/aside|newer program/);
      return 'refused';
    }
    let bad = store.recovered.quarantined.length;
    const present = new Set(store.recovered.copies.map((copy) => copy.facts.id));
    for (const id of present) {
      try {
        const size = store.recovered.copies.find((copy) => copy.facts.id === id)?.facts.sizeBytes ?? 0;
        if (!(await bench.run(readAll(store, id))).equals(bodyOf(id, size)))
          throw new Error(`${what}: wrong bytes of ${id}`);
      } catch (error) {
        expect((error as { code?: string }).code, what).toBe('DAMAGED');
        bad += 1;
      }
    }
    const lost = [0, 1, 2, 3].filter((n) => !present.has(copyId(n))).length;
    expect(lost, what).toBeLessThanOrEqual(1);
    if (lost > 0) expect(bad, what).toBeGreaterThan(0);
    return bad > 0 ? 'reported' : 'whole';
  }

  test('every flipped byte of a small log: neighbours survive, losses are reported', { timeout: 60_000 }, async () => {
    const origin = await small();
    const volume = origin.disk.snapshot();
    const verdicts = { refused: 0, reported: 0, whole: 0 };
    const files = origin.disk.entries().filter((entry) => /segment|identity/.test(entry.path));
    for (const { path } of files) {
      const bytes = origin.disk.bytesOf(path);
      // Every byte that means something; of the zeros between, a few.
      for (let at = 0; at < bytes.length; at += bytes[at] === 0 ? 61 : 3) {
        const bench = new SimBench(at + 1, {}, 16 * 1024);
        bench.disk.restore(volume);
        bench.disk.flipBit(path, at);
        verdicts[await judge(bench, `${path} byte ${at}`)] += 1;
      }
    }
    expect(verdicts.reported).toBeGreaterThan(500);
    expect(verdicts.whole).toBeGreaterThan(100);
    expect(verdicts.refused).toBe(0);
  });

  test('truncated segments: what is left is right, what is missing is reported or refused', async () => {
    const origin = await small();
    const volume = origin.disk.snapshot();
    const segment = origin.disk.entries().find((entry) => entry.path.endsWith('segment-000001'));
    for (let size = 0; size < 16 * 1024; size += 1000) {
      const bench = new SimBench(size + 1, {}, 16 * 1024);
      bench.disk.restore(volume);
      const handle = await bench.run(bench.files().open(segment?.path ?? '', 'write'));
      await bench.run(handle.truncate(size));
      const outcome = await bench.open().then(
        (store) => store.recovered.copies.length,
        (error) => {
          expect(error).toMatchObject({ code: 'DAMAGED' });
          return -1;
        },
      );
      expect(outcome).toBeLessThanOrEqual(4);
    }
  });

  test('a damaged newest checkpoint: the older one and a longer tail', async () => {
    const bench = new SimBench(30);
    let store = await bench.open();
    for (let n = 0; n < 60; n++) {
      await bench.run(store.commit([commitOf(store, copyId(n), bodyOf(copyId(n), 5000), stateOf('delivery'))]));
      if (n % 2 === 0) await bench.run(store.commit([moveOf(copyId(n), 'primary', 'mbx1', n)]));
    }
    await bench.run(store.close());
    const volume = bench.disk.snapshot();
    for (const file of ['/q/checkpoint-0', '/q/checkpoint-1'])
      for (const at of [0, 20, 4096, 4200]) {
        const other = new SimBench(at + 1);
        other.disk.restore(volume);
        other.disk.flipBit(file, at);
        store = await other.open();
        expect(store.recovered.copies.length, `${file} ${at}`).toBe(30);
        expect(store.safetyNetCounts().primary.messages, `${file} ${at}`).toBe(30);
        for (const n of [1, 31, 59])
          expect((await other.run(readAll(store, copyId(n)))).equals(bodyOf(copyId(n), 5000))).toBe(true);
      }
    const both = new SimBench(31);
    both.disk.restore(volume);
    both.disk.flipBit('/q/checkpoint-0', 4100);
    both.disk.flipBit('/q/checkpoint-1', 4100);
    await expect(both.open()).rejects.toMatchObject({ code: 'DAMAGED' });
  });

  test('a damaged footer is rebuilt from the records', async () => {
    const bench = new SimBench(40);
    let store = await bench.open();
    for (let n = 0; n < 12; n++) {
      await bench.run(store.commit([commitOf(store, copyId(n), bodyOf(copyId(n), 500), stateOf('delivery'))]));
      if (n > 1) await bench.run(store.commit([moveOf(copyId(n), 'primary', 'mbx1', n)]));
    }
    await bench.run(store.commit([{ kind: 'recall', id: copyId(5), state: stateOf('submission') }]));
    await bench.run(store.close());
    const bytes = bench.disk.bytesOf('/q/segment-000001');
    const line = bytes.lastIndexOf(copyId(7));
    for (const at of [line, line - 400]) {
      const other = new SimBench(41);
      other.disk.restore(bench.disk.snapshot());
      other.disk.flipBit('/q/segment-000001', at);
      store = await other.open();
      const ids = (await other.run(collect(store.safetyNet({})))).map((entry) => entry.id);
      expect(ids).toEqual([2, 3, 4, 6, 7, 8, 9, 10, 11].map(copyId));
      expect((await other.run(store.lookup(copyId(7))))?.facts.sizeBytes).toBe(500);
    }
  });

  test('a body damaged behind the checkpoint is found when it is read', async () => {
    const bench = new SimBench(50);
    let store = await bench.open();
    await fill(bench, store, 0, 3, 3000);
    await bench.run(store.close());
    const at = bench.disk.bytesOf('/q/segment-000001').indexOf(bodyOf(copyId(1), 3000));
    bench.disk.flipBit('/q/segment-000001', at + 1500);
    store = await bench.open();
    expect(store.recovered.copies.length).toBe(3);
    await expect(bench.run(readAll(store, copyId(1)))).rejects.toMatchObject({ code: 'DAMAGED' });
    expect((await bench.run(readAll(store, copyId(2)))).equals(bodyOf(copyId(2), 3000))).toBe(true);
  });

  test('user bytes that look like records are not records', async () => {
    const bench = new SimBench(60);
    let store = await bench.open();
    await fill(bench, store, 0, 2, 2000);
    const stolen = bench.disk.bytesOf('/q/segment-000001').subarray(0, 16_384);
    const body = store.beginBody(copyId(7));
    void body.append(stolen);
    await bench.run(
      store.commit([{ kind: 'commit', facts: factsOf(copyId(7), body), state: stateOf('shadow'), body }]),
    );
    bench.kill();
    // The group header before it is damaged, so that records are searched for by the salt.
    const bytes = bench.disk.bytesOf('/q/segment-000001');
    const where = bytes.indexOf(stolen.subarray(0, 16_000), 4096);
    bench.disk.flipBit('/q/segment-000001', where - (where % 4096) + 20);
    store = await bench.open();
    expect(store.recovered.copies.map((copy) => copy.facts.id).filter((id) => id !== copyId(7))).toEqual([
      copyId(0),
      copyId(1),
    ]);
  });

  test('a newer format is refused with the remedy', async () => {
    const bench = new SimBench(70);
    const store = await bench.open();
    await bench.run(store.close());
    const { rewriteVersion } = await import('./identity-version.ts');
    await bench.run(rewriteVersion(bench.files(), '/q', 99));
    await expect(bench.open()).rejects.toMatchObject({
      code: 'VERSION',
      message: expect.stringContaining('newer program'),
    });
  });
});
