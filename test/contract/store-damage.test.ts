/** Damage of copies in transit: listed with what is needed to get them again from a peer, and no longer once they were (transport/store/quarantine.ts). */
import { describe, expect, test } from 'vitest';
import { SimBench } from './bench.ts';
import { bodyOf, collect, commitOf, copyId, factsOf, moveOf, pending, readAll, stateOf } from './samples.ts';

const id = copyId(1);
const recipients = [pending('user0@example.org')];

/** Three copies; `more` is done with the store before the process is killed. */
async function killed(
  more: (bench: SimBench, store: Awaited<ReturnType<SimBench['open']>>) => Promise<void>,
): Promise<SimBench> {
  const bench = new SimBench(80);
  const store = await bench.open();
  for (let n = 0; n < 3; n++)
    await bench.run(store.commit([commitOf(store, copyId(n), bodyOf(copyId(n), 3000 + n), stateOf('delivery'))]));
  await more(bench, store);
  // Another group says that everything before it is synced: what is damaged is no torn tail.
  await bench.pass(2500);
  bench.kill();
  return bench;
}

function flip(bench: SimBench, what: string | Buffer, by: number): void {
  for (const { path } of bench.disk.entries()) {
    const at = bench.disk.bytesOf(path).indexOf(what);
    if (at >= 0) return void bench.disk.flipBit(path, at + by);
  }
  throw new Error('in no file');
}

const freshDigest = (): string => factsOf(id, { digest: () => '0'.repeat(64), sizeBytes: 0 }).digest;

describe('damage in transit', () => {
  test('a body found damaged on read: listed once, told, in transit; lifted by a fresh body', async () => {
    const bench = new SimBench(81);
    let store = await bench.open();
    for (let n = 0; n < 3; n++)
      await bench.run(store.commit([commitOf(store, copyId(n), bodyOf(copyId(n), 3000 + n), stateOf('delivery'))]));
    flip(bench, bodyOf(id, 3001), 1500);
    for (let round = 0; round < 2; round++)
      await expect(bench.run(readAll(store, id))).rejects.toMatchObject({ code: 'DAMAGED' });
    const item = {
      id,
      segment: 'segment-000001',
      offset: expect.any(Number),
      reason: expect.stringContaining('checksum'),
    };
    expect(store.recovered.quarantined).toEqual([item]);
    expect(bench.quarantined).toEqual([item]);
    // A state does not heal it; a reopen remembers it.
    await bench.run(store.commit([{ kind: 'state', id, state: stateOf('delivery', { attempts: 2 }) }]));
    await bench.run(store.close());
    store = await bench.open();
    expect(store.recovered.quarantined).toEqual([item]);
    expect(store.recovered.copies.length).toBe(3);
    await bench.run(store.commit([commitOf(store, id, bodyOf(id, 3001), stateOf('delivery'))]));
    for (const when of ['now', 'reopened']) {
      expect(store.recovered.quarantined, when).toEqual([]);
      expect((await bench.run(readAll(store, id))).equals(bodyOf(id, 3001)), when).toBe(true);
      await bench.run(store.close());
      store = await bench.open();
    }
  });

  test('a body found damaged at rest: listed, still answered for; lifted by a fresh body', async () => {
    const bench = new SimBench(82);
    const store = await bench.open();
    await bench.run(store.commit([commitOf(store, id, bodyOf(id, 3001)), moveOf(id, 'shadow', 'mbx1', 7)]));
    flip(bench, bodyOf(id, 3001), 1500);
    for (let round = 0; round < 2; round++)
      await expect(bench.run(readAll(store, id))).rejects.toMatchObject({ code: 'DAMAGED' });
    expect(store.recovered.quarantined).toMatchObject([{ id, segment: 'segment-000001' }]);
    expect(bench.quarantined.length).toBe(1);
    expect((await bench.run(store.lookup(id)))?.state.finalAtMs).toBe(7);
    await bench.run(store.commit([commitOf(store, id, bodyOf(id, 3001)), moveOf(id, 'shadow', 'mbx1', 7)]));
    expect(store.recovered.quarantined).toEqual([]);
    expect((await bench.run(readAll(store, id))).equals(bodyOf(id, 3001))).toBe(true);
  });

  test('a body written anew while the old one was being read: what is bad in the old one is nobody’s', async () => {
    const bench = new SimBench(84);
    const store = await bench.open();
    const body = bodyOf(id, 600_000);
    const rests = [commitOf(store, id, body), moveOf(id, 'shadow', 'mbx1', 7)];
    await bench.run(store.commit(rests));
    const old = store.readBody(id)[Symbol.asyncIterator]();
    await bench.run(old.next());
    await bench.run(store.commit([commitOf(store, id, body), moveOf(id, 'shadow', 'mbx1', 7)]));
    flip(bench, body.subarray(-500), 100);
    const rest = async (): Promise<void> => {
      while (!(await old.next()).done);
    };
    await expect(bench.run(rest())).rejects.toMatchObject({ code: 'NOTFOUND' });
    expect(store.recovered.quarantined).toEqual([]);
    expect((await bench.run(readAll(store, id))).equals(body)).toBe(true);
  });

  test('a body found damaged at open: facts, digest and newest state are known; a fresh body brings it back', async () => {
    const placements = [
      {
        identity: 'X' as never,
        member: 'hub-1',
        epoch: { try: 1, term: 0, owner: 'X' as never },
        status: 'confirmed' as const,
      },
    ];
    const bench = await killed(async (world, store) => {
      await world.run(store.commit([{ kind: 'state', id, state: stateOf('delivery', { recipients, placements }) }]));
    });
    flip(bench, bodyOf(id, 3001), 700);
    let store = await bench.open();
    for (const when of ['at once', 'from the checkpoint']) {
      expect(
        store.recovered.copies.map((copy) => copy.facts.id),
        when,
      ).toEqual([copyId(0), copyId(2)]);
      const { known } = store.recovered.quarantined.find((item) => item.id === id) ?? {};
      expect(known, when).toMatchObject({ facts: { id, sizeBytes: 3001 }, state: { placements, recipients } });
      expect(known?.digest, when).toBe(known?.facts?.digest);
      expect(known?.digest, when).not.toBe(freshDigest());
      await expect(bench.run(readAll(store, id)), when).rejects.toMatchObject({ code: 'DAMAGED' });
      await bench.run(store.close());
      store = await bench.open();
    }
    await bench.run(store.commit([commitOf(store, id, bodyOf(id, 3001), stateOf('delivery'))]));
    expect(store.recovered.quarantined.filter((item) => item.id === id)).toEqual([]);
    await bench.run(store.close());
    store = await bench.open();
    expect(store.recovered.quarantined.filter((item) => item.id === id)).toEqual([]);
    expect(store.recovered.copies.length).toBe(3);
  });

  test('a damaged COMMIT record: its id is listed with the state that came after it', async () => {
    for (const by of [60, -40, 6]) {
      const bench = await killed(async (world, store) => {
        await world.run(store.commit([{ kind: 'state', id, state: stateOf('delivery', { recipients, attempts: 3 }) }]));
      });
      // In the JSON, in the header, in the id itself.
      flip(bench, `"i":"${id}","x"`, by);
      const store = await bench.open();
      expect(
        store.recovered.copies.map((copy) => copy.facts.id),
        `${by}`,
      ).toEqual([copyId(0), copyId(2)]);
      const item = store.recovered.quarantined.find((one) => one.id === id);
      expect(item?.known, `${by}`).toMatchObject({ facts: null, state: { recipients, attempts: 3 } });
      await bench.run(store.commit([{ kind: 'remove', id }]));
      expect(store.recovered.quarantined.filter((one) => one.id === id)).toEqual([]);
    }
  });

  test('a damaged COMMIT record of a copy that was final: it rests, and the MOVE record answers for it', async () => {
    const bench = await killed(async (world, store) => {
      await world.run(store.commit([moveOf(id, 'primary', 'mbx1', 7)]));
    });
    flip(bench, `"i":"${id}","x"`, 60);
    let store = await bench.open();
    for (const when of ['at once', 'from a footer']) {
      expect(
        (await bench.run(collect(store.safetyNet({})))).map((entry) => entry.id),
        when,
      ).toEqual([id]);
      expect(store.safetyNetCounts().primary, when).toEqual({ messages: 1, bytes: 3001 });
      expect(await bench.run(store.lookup(id)), when).toMatchObject({
        damaged: expect.stringContaining('damaged'),
        facts: { id, sizeBytes: 3001 },
        state: { finalAtMs: 7 },
      });
      expect(await bench.run(store.safetyNetCopies({}, 10)), when).toEqual({ copies: [], unreadable: 1, next: null });
      await bench.run(store.close());
      store = await bench.open();
    }
  });
});
