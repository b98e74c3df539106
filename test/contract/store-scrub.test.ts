/** The scrub of the segment log: damage that nobody has read is found, whatever it is in, and only what it is in (transport/store/scrub.ts). */
import { describe, expect, test } from 'vitest';
import type { CopyId } from '../../common/message.ts';
import type { FileHandle, Files } from '../../common/platform/files.ts';
import { checkpointIsWhole } from '../../transport/store/checkpoint.ts';
import type { QueueDatabase, ScrubPosition, ScrubStep } from '../../transport/store/database.ts';
import { SimBench } from './bench.ts';
import { bodyOf, commitOf, copyId, moveOf, pending, readAll, stateOf } from './samples.ts';

interface Pass {
  readonly damaged: ReadonlySet<CopyId>;
  readonly newPlaces: number;
  readonly bytes: number;
  readonly steps: number;
}

async function pass(
  bench: SimBench,
  store: QueueDatabase,
  maxBytes = 16_384,
  begun: ScrubPosition | null = null,
): Promise<Pass> {
  const damaged = new Set<CopyId>();
  let [newPlaces, bytes, steps, from] = [0, 0, 0, begun];
  do {
    const step = await bench.run(store.scrub(from, maxBytes));
    for (const id of step.damaged) damaged.add(id);
    newPlaces += step.newPlaces;
    bytes += step.bytes;
    steps += 1;
    from = step.next;
  } while (from !== null);
  return { damaged, newPlaces, bytes, steps };
}

const ALL = Array.from({ length: 18 }, (_, n) => copyId(n));

/** Twelve at rest behind a footer, three at rest in no footer yet, three in transit; open. */
async function filled(seed = 90): Promise<{ readonly bench: SimBench; store: QueueDatabase }> {
  const bench = new SimBench(seed);
  let store = await bench.open();
  const put = async (n: number, rests: boolean): Promise<void> => {
    const state = stateOf('delivery', { recipients: [pending('user0@example.org')] });
    await bench.run(store.commit([commitOf(store, copyId(n), bodyOf(copyId(n), 900 + 700 * n), state)]));
    if (rests) await bench.run(store.commit([moveOf(copyId(n), n % 2 === 0 ? 'primary' : 'shadow', 'mbx1', n)]));
  };
  for (let n = 0; n < 12; n++) await put(n, true);
  await bench.run(store.close());
  store = await bench.open();
  for (let n = 12; n < 18; n++) await put(n, n < 15);
  return { bench, store };
}

/** Four at rest; two have changed hands since then, in another segment than their bodies are in. No checkpoint: a start reads all of it. */
async function recalled(): Promise<{ readonly bench: SimBench; store: QueueDatabase }> {
  const bench = new SimBench(94);
  let store = await bench.open();
  for (let n = 0; n < 4; n++) {
    const id = copyId(n);
    await bench.run(store.commit([commitOf(store, id, bodyOf(id, 9_000), stateOf('delivery'))]));
    await bench.run(store.commit([moveOf(id, 'primary', 'mbx1', n)]));
  }
  bench.kill();
  store = await bench.open();
  for (const id of [copyId(0), copyId(1)])
    await bench.run(
      store.commit([{ kind: 'recall', id, state: stateOf('submission') }, moveOf(id, 'shadow', 'mbx1', 9)]),
    );
  expect(segmentsOf(bench).length).toBeGreaterThan(1);
  return { bench, store };
}

const segmentsOf = (bench: SimBench): string[] =>
  bench.disk
    .entries()
    .map((entry) => entry.path)
    .filter(
      (path) => path.includes('segment') && bench.disk.bytesOf(path).some((byte, at) => at >= 4096 && byte !== 0),
    );

async function listedIn(store: QueueDatabase): Promise<CopyId[]> {
  const ids: CopyId[] = [];
  for await (const { id } of store.safetyNet({})) ids.push(id);
  return ids;
}

async function unreadable(bench: SimBench, store: QueueDatabase): Promise<Set<CopyId>> {
  const found = new Set<CopyId>();
  for (const id of ALL)
    await bench.run(readAll(store, id)).catch((error: { code?: string }) => {
      expect(error.code).toBe('DAMAGED');
      found.add(id);
    });
  return found;
}

describe('scrub', () => {
  test('of a whole log finds nothing and has looked at all of it', async () => {
    const { bench, store } = await filled();
    const { damaged, newPlaces, bytes, steps } = await pass(bench, store);
    expect({ damaged: [...damaged], newPlaces }).toEqual({ damaged: [], newPlaces: 0 });
    const bodies = ALL.reduce((sum, _, n) => sum + 900 + 700 * n, 0);
    expect(bytes).toBeGreaterThan(bodies);
    expect(steps).toBeGreaterThan(3);
    expect(store.recovered.quarantined).toEqual([]);
  });

  test('a flipped bit anywhere: every copy that cannot be read is named, and no other', async () => {
    const { bench: origin } = await filled();
    origin.kill();
    let [named, quiet] = [0, 0];
    for (const path of segmentsOf(origin)) {
      const bytes = origin.disk.bytesOf(path);
      for (let at = 4096; at < bytes.length; at += 2_503) {
        if (bytes[at] === 0) continue;
        const bench = new SimBench(91);
        bench.disk.restore(origin.disk.snapshot());
        const store = await bench.open();
        // After the start, so that recovery cannot have seen it.
        bench.disk.flipBit(path, at);
        const { damaged, newPlaces } = await pass(bench, store);
        const bad = await unreadable(bench, store);
        for (const id of bad) expect(damaged.has(id), `${path} ${at} ${id}`).toBe(true);
        // In transit the COMMIT record is not needed yet; at rest it is read with the body.
        for (const id of damaged) if (!bad.has(id)) expect(ALL.indexOf(id), `${path} ${at}`).toBeGreaterThanOrEqual(15);
        expect(damaged.size, `${path} ${at}`).toBeLessThanOrEqual(1);
        if (damaged.size > 0) {
          expect(store.recovered.quarantined.some((item) => item.id !== null && damaged.has(item.id))).toBe(true);
          named += 1;
        } else quiet += newPlaces;
        await bench.dispose();
      }
    }
    expect(named).toBeGreaterThan(25);
    // Headers, states, footers: no copy is lost by them.
    expect(quiet).toBeGreaterThan(0);
  });

  test('a second pass names it again, and lists and counts it once', async () => {
    const { bench, store } = await filled();
    const [first = ''] = segmentsOf(bench);
    bench.disk.flipBit(first, bench.disk.bytesOf(first).indexOf(bodyOf(copyId(3), 3000)) + 10);
    for (let round = 0; round < 2; round++) {
      expect([...(await pass(bench, store)).damaged]).toEqual([copyId(3)]);
      expect(bench.quarantined.map(({ id }) => id)).toEqual([copyId(3)]);
    }
    await bench.run(
      store.commit([commitOf(store, copyId(3), bodyOf(copyId(3), 3000)), moveOf(copyId(3), 'shadow', 'mbx1', 3)]),
    );
    expect([...(await pass(bench, store)).damaged]).toEqual([]);
    expect(store.recovered.quarantined).toEqual([]);
  });

  test('what was written anew while the step still looked at others is not named', async () => {
    const { bench, store } = await filled();
    const [first = ''] = segmentsOf(bench);
    const placeOf = (n: number): number => bench.disk.bytesOf(first).indexOf(bodyOf(copyId(n), 900 + 700 * n));
    bench.disk.flipBit(first, placeOf(1) + 10);
    // Without the headers of the groups behind it they are all looked at in the same step, one by one.
    for (const n of [2, 3, 4, 5, 6]) bench.disk.flipBit(first, placeOf(n) - (placeOf(n) % 4096) + 8);
    const anew = async (): Promise<void> => {
      const tick = (): Promise<void> => new Promise((resolve) => bench.scheduler.clock().setTimer(0.05, resolve));
      while (bench.quarantined.length === 0) await tick();
      const body = bodyOf(copyId(1), 1_600);
      await store.commit([commitOf(store, copyId(1), body), moveOf(copyId(1), 'shadow', 'mbx1', 1)]);
    };
    const seen = new Set<CopyId>();
    const look = async (): Promise<void> => {
      let from: ScrubPosition | null = null;
      do {
        const step: ScrubStep = await store.scrub(from, 16_384);
        for (const id of step.damaged) seen.add(id);
        from = step.next;
      } while (from !== null);
    };
    await bench.run(Promise.all([look(), anew()]));
    expect(bench.quarantined.map(({ id }) => id)).toEqual([copyId(1)]);
    expect([...seen]).toEqual([]);
  });

  test.each([filled, recalled])(
    'damage that a start has met: what rests and cannot be read is named (%o)',
    async (make) => {
      const { bench: origin } = await make();
      origin.kill();
      let named = 0;
      const hurt = async (how: string, damage: (bench: SimBench) => Promise<void> | void): Promise<void> => {
        const bench = new SimBench(93);
        bench.disk.restore(origin.disk.snapshot());
        await damage(bench);
        const store = await bench.open().catch((error: { code?: string }) => {
          expect(error.code, how).toBe('DAMAGED');
          return null;
        });
        if (store !== null) {
          const bad = new Set<CopyId>();
          for (const id of await bench.run(listedIn(store)))
            await bench.run(readAll(store, id)).catch((error: { code?: string }) => {
              expect(error.code, how).toBe('DAMAGED');
              bad.add(id);
            });
          const { damaged } = await pass(bench, store);
          for (const id of bad) expect(damaged.has(id), `${how}: ${id}`).toBe(true);
          named += bad.size;
        }
        await bench.dispose();
      };
      for (const path of segmentsOf(origin)) {
        await hurt(`${path} is missing`, (bench) => bench.run(bench.files().unlink(path)));
        const bytes = origin.disk.bytesOf(path);
        for (let at = 4096; at < bytes.length; at += 3_001) {
          if (bytes[at] === 0) continue;
          await hurt(`a bit at ${at} of ${path}`, (bench) => void bench.disk.flipBit(path, at));
          await hurt(`${path} ends at ${at}`, async (bench) => {
            const handle = await bench.run(bench.files().open(path, 'write'));
            await bench.run(handle.truncate(at));
            await bench.run(handle.close());
          });
        }
      }
      expect(named).toBeGreaterThan(10);
    },
  );

  test('a block the medium cannot read: its copies are named, what lies behind it is looked at', async () => {
    const bad: { path: string; from: number; to: number }[] = [];
    const wrap = (handle: FileHandle, path: string): FileHandle => ({
      ...handle,
      read: async (target, at, length, position) => {
        if (bad.some((place) => place.path === path && position < place.to && position + length > place.from))
          throw Object.assign(new Error('EIO: i/o error, read'), { code: 'EIO' });
        return handle.read(target, at, length, position);
      },
    });
    const { bench: origin } = await filled();
    const [path = ''] = segmentsOf(origin);
    const at = (n: number): number => origin.disk.bytesOf(path).indexOf(bodyOf(copyId(n), 900 + 700 * n));
    origin.kill();
    const bench = new SimBench(92, {}, undefined, (files: Files) => ({
      ...files,
      open: async (name, mode) => wrap(await files.open(name, mode), name),
    }));
    bench.disk.restore(origin.disk.snapshot());
    const store = await bench.open();
    const inside = ALL.map((_, n) => n).filter((n) => at(n) > 0);
    for (const n of [inside[1] ?? 0, inside.at(-1) ?? 0]) {
      const from = Math.floor(at(n) / 4096) * 4096;
      bad.push({ path, from, to: from + 4096 });
    }
    const { damaged } = await pass(bench, store);
    const lost = await unreadable(bench, store);
    expect(lost.size).toBeGreaterThanOrEqual(2);
    expect(new Set([...damaged].sort())).toEqual(new Set([...lost].sort()));
  });

  test('what only a start would read is written down again', async () => {
    const { bench, store } = await filled();
    const id = copyId(16);
    await bench.run(store.commit([{ kind: 'state', id, state: stateOf('delivery', { attempts: 7 }) }]));
    const path = segmentsOf(bench).find((name) => bench.disk.bytesOf(name).includes('"attempts":7')) ?? '';
    bench.disk.flipBit(path, bench.disk.bytesOf(path).indexOf('"attempts":7') + 3);
    expect((await pass(bench, store)).newPlaces).toBe(1);
    bench.kill();
    const again = await bench.open();
    expect(again.recovered.quarantined).toEqual([]);
    expect(again.recovered.copies.find(({ facts }) => facts.id === id)?.state.attempts).toBe(7);
  });

  test.each([0, 1])('a damaged checkpoint %i is replaced', async (number) => {
    const { bench, store } = await filled();
    const path = `/q/checkpoint-${number}`;
    const from = bench.disk.bytesOf(path).findIndex((byte, at) => at > 4100 && byte !== 0);
    // One of the two may never have been written.
    if (from === -1) return;
    bench.disk.flipBit(path, from + 20);
    expect(await bench.run(checkpointIsWhole(bench.files(), '/q', number))).toBe(false);
    expect((await pass(bench, store)).newPlaces).toBe(1);
    await bench.run(store.commit([commitOf(store, copyId(30), bodyOf(copyId(30), 500))]));
    await pass(bench, store);
    for (const each of [0, 1]) expect(await bench.run(checkpointIsWhole(bench.files(), '/q', each))).toBe(true);
  });

  test('a pass ends where the log ended when it began, however much is written meanwhile', async () => {
    const { bench, store } = await filled();
    let step = await bench.run(store.scrub(null, 8_192));
    let steps = 1;
    for (let n = 100; step.next !== null && steps < 200; n++, steps++) {
      await bench.run(store.commit([commitOf(store, copyId(n), bodyOf(copyId(n), 20_000))]));
      step = await bench.run(store.scrub(step.next, 8_192));
    }
    expect(step.next).toBeNull();
    expect(steps).toBeLessThan(100);
  });

  test('goes on where it was after a restart', async () => {
    const { bench, store } = await filled();
    const first = await bench.run(store.scrub(null, 16_384));
    await bench.run(store.close());
    const again = await bench.open();
    const rest = await pass(bench, again, 16_384, first.next);
    const whole = await pass(bench, again, 16_384);
    expect(rest.bytes).toBeLessThan(whole.bytes);
    expect(rest.bytes).toBeGreaterThan(0);
    await expect(bench.run(again.scrub('nowhere' as ScrubPosition, 1))).rejects.toMatchObject({ code: 'POSITION' });
  });
});
