/** What every engine of the queue database must do (transport/store/database.ts). One suite for all of them. */
import { describe, expect, test } from 'vitest';
import type { QueueDatabase, Write } from '../../transport/store/database.ts';
import type { Bench, EngineUnderTest } from './bench.ts';
import {
  bodyOf,
  collect,
  commitOf,
  copyId,
  delivered,
  factsOf,
  moveOf,
  pending,
  readAll,
  stateOf,
  tombstoneOf,
} from './samples.ts';

type Run = (bench: Bench, store: QueueDatabase) => Promise<void>;

export function storeContract(engine: EngineUnderTest): void {
  const on = (name: string, body: Run): void => {
    test(name, async () => {
      const bench = await engine.make();
      try {
        await body(bench, await bench.open());
        expect(bench.fatal).toEqual([]);
      } finally {
        await bench.dispose();
      }
    });
  };
  const reopen = async (bench: Bench, store: QueueDatabase): Promise<QueueDatabase> => {
    await bench.run(store.close());
    return bench.open();
  };
  const id = copyId(1);

  describe(engine.name, () => {
    on('a new directory gives a new identity, reopening keeps it and lengthens the chain', async (bench, store) => {
      expect(store.recovered.created).toBe(true);
      expect(store.chain.map((open) => open.openCounter)).toEqual([1]);
      const again = await reopen(bench, store);
      expect(again.recovered.created).toBe(false);
      expect(again.identity).toBe(store.identity);
      expect(again.chain.map((open) => open.openCounter)).toEqual([1, 2]);
      expect(again.chain[0]).toEqual(store.chain[0]);
      expect(again.chain[1]?.nonce).not.toBe(again.chain[0]?.nonce);
    });

    on('keeps the last 64 opens', async (bench, first) => {
      let store = first;
      for (let i = 0; i < 70; i++) store = await reopen(bench, store);
      expect(store.chain.length).toBe(64);
      expect(store.chain[63]?.openCounter).toBe(71);
      expect(store.chain[0]?.openCounter).toBe(8);
    });

    on('a committed copy, its body and its state come back', async (bench, store) => {
      const bytes = bodyOf(id, 5000);
      const write = commitOf(store, id, bytes);
      await bench.run(store.commit([write]));
      expect(await bench.run(readAll(store, id))).toEqual(bytes);
      const again = await reopen(bench, store);
      if (write.kind !== 'commit') throw new Error('not a commit');
      expect(again.recovered.copies).toEqual([{ facts: write.facts, state: write.state }]);
      expect(await bench.run(readAll(again, id))).toEqual(bytes);
      expect(again.recovered.quarantined).toEqual([]);
    });

    on('what was recovered can be let go', async (bench, first) => {
      await bench.run(first.commit([commitOf(first, id, bodyOf(id, 50)), { kind: 'fact', key: 'k', value: 1 }]));
      const store = await reopen(bench, first);
      store.releaseRecovered();
      expect(store.recovered).toMatchObject({ copies: [], tombstones: [], seen: [], quarantined: [], created: false });
      expect(store.recovered.facts.size).toBe(0);
      const again = await reopen(bench, store);
      expect(again.recovered.copies.length).toBe(1);
      expect(again.recovered.facts.size).toBe(1);
    });

    on('bodies of every length, streamed in pieces', async (bench, store) => {
      const lengths = [0, 1, 4095, 4096, 4097, 60_000, 300_000, 1_000_000];
      for (const [index, length] of lengths.entries()) {
        const bytes = bodyOf(copyId(index), length);
        const body = store.beginBody(copyId(index));
        for (let at = 0; at < length; at += 65_536) await bench.run(body.append(bytes.subarray(at, at + 65_536)));
        const write: Write = { kind: 'commit', facts: factsOf(copyId(index), body), state: stateOf('shadow'), body };
        await bench.run(store.commit([write]));
      }
      const again = await reopen(bench, store);
      expect(again.recovered.copies.length).toBe(lengths.length);
      for (const [index, length] of lengths.entries())
        expect((await bench.run(readAll(again, copyId(index)))).equals(bodyOf(copyId(index), length))).toBe(true);
    });

    on('a body can be read while it is being written', async (bench, store) => {
      const bytes = bodyOf(id, 200_000);
      const body = store.beginBody(id);
      await bench.run(body.append(bytes.subarray(0, 100_000)));
      void body.append(bytes.subarray(100_000, 150_000));
      expect((await bench.run(body.read(99_000, 10_000))).equals(bytes.subarray(99_000, 109_000))).toBe(true);
      void body.append(bytes.subarray(150_000));
      expect((await bench.run(body.read(0, 1_000_000))).equals(bytes)).toBe(true);
      expect((await bench.run(body.read(200_000, 10))).length).toBe(0);
      const write: Write = { kind: 'commit', facts: factsOf(id, body), state: stateOf('submission'), body };
      await bench.run(store.commit([write]));
      expect((await bench.run(body.read(149_000, 2000))).equals(bytes.subarray(149_000, 151_000))).toBe(true);
    });

    on('interleaved bodies keep apart', async (bench, store) => {
      const bodies = [1, 2, 3].map((n) => ({ n, body: store.beginBody(copyId(n)), bytes: bodyOf(copyId(n), 90_000) }));
      for (let at = 0; at < 90_000; at += 9000)
        await bench.run(Promise.all(bodies.map(({ body, bytes }) => body.append(bytes.subarray(at, at + 9000)))));
      await bench.run(
        store.commit(
          bodies.map(({ n, body }) => ({
            kind: 'commit',
            facts: factsOf(copyId(n), body),
            state: stateOf('shadow'),
            body,
          })),
        ),
      );
      for (const { n, bytes } of bodies) expect((await bench.run(readAll(store, copyId(n)))).equals(bytes)).toBe(true);
    });

    on('a discarded body leaves nothing', async (bench, store) => {
      const body = store.beginBody(id);
      await bench.run(body.append(bodyOf(id, 10_000)));
      body.discard();
      body.discard();
      await bench.run(store.commit([]));
      const again = await reopen(bench, store);
      expect(again.recovered.copies).toEqual([]);
      await expect(bench.run(readAll(again, id))).rejects.toMatchObject({ code: 'NOTFOUND' });
    });

    on('states replace, outcomes patch single recipients', async (bench, store) => {
      await bench.run(store.commit([commitOf(store, id, bodyOf(id, 100))]));
      const recipients = ['a', 'b', 'c'].map((name) => pending(`${name}@example.org`));
      const done = delivered('b@example.org', 'mbx1');
      await bench.run(store.commit([{ kind: 'state', id, state: stateOf('delivery', { recipients, ageMs: 5 }) }]));
      await bench.run(
        store.commit([{ kind: 'state', id, state: stateOf('delivery', { ageMs: 9 }), outcomes: [[1, done]] }]),
      );
      const again = await reopen(bench, store);
      expect(again.recovered.copies[0]?.state).toEqual(
        stateOf('delivery', {
          ageMs: 9,
          recipients: [recipients[0], done, recipients[2]].filter((r) => r !== undefined),
        }),
      );
    });

    on('tombstones, seen and facts', async (bench, store) => {
      const seen = { member: 'hub-1', identity: store.identity, openCounter: 3, nonce: 'n', syncedSequence: 77 };
      await bench.run(
        store.commit([
          { kind: 'tombstone', tombstone: tombstoneOf(id) },
          { kind: 'tombstone', tombstone: tombstoneOf(copyId(2)) },
          { kind: 'seen', seen },
          { kind: 'fact', key: 'latch', value: { generation: 4 } },
          { kind: 'fact', key: 'gone', value: 1 },
          { kind: 'forget', id: copyId(2) },
          { kind: 'fact', key: 'gone', value: null },
        ]),
      );
      const again = await reopen(bench, store);
      expect(again.recovered.tombstones).toEqual([tombstoneOf(id)]);
      expect(again.recovered.seen).toEqual([seen]);
      expect([...again.recovered.facts]).toEqual([['latch', { generation: 4 }]]);
    });

    on('a refused write leaves no trace of its call', async (bench, store) => {
      await bench.run(store.commit([commitOf(store, id, bodyOf(id, 10))]));
      const wrong: Write[][] = [
        [{ kind: 'state', id: copyId(9), state: stateOf('delivery') }],
        [moveOf(copyId(9), 'primary', 'mbx1', 5)],
        [{ kind: 'state', id, state: stateOf('primarySafetyNet') }],
      ];
      for (const writes of wrong)
        await expect(
          bench.run(store.commit([{ kind: 'tombstone', tombstone: tombstoneOf(copyId(5)) }, ...writes])),
        ).rejects.toMatchObject({ code: 'INVARIANT' });
      await expect(
        bench.run(store.commit([{ kind: 'recall', id: copyId(9), state: stateOf('submission') }])),
      ).rejects.toMatchObject({ code: 'NOTFOUND' });
      await bench.run(store.commit([{ kind: 'remove', id: copyId(9) }]));
      const again = await reopen(bench, store);
      expect(again.recovered.tombstones).toEqual([]);
      expect(again.recovered.copies.length).toBe(1);
    });

    on('into a Safety Net and out of it', async (bench, first) => {
      let store = first;
      const bytes = new Map([1, 2, 3, 4].map((n) => [n, bodyOf(copyId(n), 3000 + n)] as const));
      await bench.run(
        store.commit([...bytes].map(([n, body]) => commitOf(store, copyId(n), body, stateOf('delivery')))),
      );
      await bench.run(
        store.commit([moveOf(copyId(1), 'primary', 'mbx1', 1000), moveOf(copyId(2), 'shadow', 'mbx2', 2000)]),
      );
      await bench.run(store.commit([moveOf(copyId(3), 'primary', 'mbx2', 3000)]));
      for (const round of ['open', 'reopened', 'again']) {
        // Never false for what rests; for what is in transit it is.
        expect(
          [2, 4].map((n) => store.mayRest(copyId(n))),
          round,
        ).toEqual([true, false]);
        expect(await bench.run(store.lookup(copyId(4))), round).toBe(null);
        expect(await bench.run(store.lookup(copyId(77))), round).toBe(null);
        expect((await bench.run(store.lookup(copyId(2))))?.state.queue, round).toBe('shadowSafetyNet');
        expect((await bench.run(store.lookup(copyId(2))))?.facts.sizeBytes, round).toBe(3002);
        const ids = (await bench.run(collect(store.safetyNet({})))).map((entry) => entry.id);
        expect(ids, round).toEqual([copyId(1), copyId(2), copyId(3)]);
        expect(store.safetyNetCounts(), round).toEqual({
          primary: { messages: 2, bytes: 6004 },
          shadow: { messages: 1, bytes: 3002 },
          oldestMs: 1000,
          completeSinceMs: expect.any(Number),
        });
        expect((await bench.run(readAll(store, copyId(3)))).equals(bytes.get(3) as Buffer), round).toBe(true);
        store = await reopen(bench, store);
        expect(
          store.recovered.copies.map((copy) => copy.facts.id),
          round,
        ).toEqual([copyId(4)]);
      }
      const by = async (filter: Parameters<QueueDatabase['safetyNet']>[0]): Promise<string[]> =>
        (await bench.run(collect(store.safetyNet(filter)))).map((entry) => entry.id);
      expect(await by({ role: 'shadow' })).toEqual([copyId(2)]);
      expect(await by({ database: 'mbx2' })).toEqual([copyId(2), copyId(3)]);
      expect(await by({ database: 'mbx2', role: 'primary' })).toEqual([copyId(3)]);
      expect(await by({ fromMs: 1000, toMs: 2000 })).toEqual([copyId(1), copyId(2)]);
      expect(await by({ fromMs: 3001 })).toEqual([]);
    });

    on('recalled, removed and replaced Safety Net copies stay out of it', async (bench, first) => {
      let store = first;
      for (const n of [1, 2, 3, 4]) {
        await bench.run(store.commit([commitOf(store, copyId(n), bodyOf(copyId(n), 1000), stateOf('delivery'))]));
        await bench.run(store.commit([moveOf(copyId(n), 'primary', 'mbx1', 1000 * n)]));
      }
      // Half of it before the entries are in a footer, half afterwards.
      await bench.run(store.commit([{ kind: 'recall', id: copyId(1), state: stateOf('submission', { attempts: 7 }) }]));
      store = await reopen(bench, store);
      await bench.run(store.commit([{ kind: 'remove', id: copyId(2) }]));
      await bench.run(store.commit([{ kind: 'recall', id: copyId(3), state: stateOf('submission') }]));
      await bench.run(store.commit([commitOf(store, copyId(4), bodyOf(copyId(4), 50), stateOf('shadow'))]));
      for (const round of ['open', 'reopened', 'again']) {
        expect(await bench.run(collect(store.safetyNet({}))), round).toEqual([]);
        for (const n of [1, 2, 3, 4]) expect(await bench.run(store.lookup(copyId(n))), round).toBe(null);
        expect(store.safetyNetCounts(), round).toEqual({
          primary: { messages: 0, bytes: 0 },
          shadow: { messages: 0, bytes: 0 },
          oldestMs: null,
          completeSinceMs: expect.any(Number),
        });
        expect((await bench.run(readAll(store, copyId(3)))).equals(bodyOf(copyId(3), 1000)), round).toBe(true);
        expect((await bench.run(readAll(store, copyId(4)))).length, round).toBe(50);
        await expect(bench.run(readAll(store, copyId(2))), round).rejects.toMatchObject({ code: 'NOTFOUND' });
        store = await reopen(bench, store);
        expect(
          store.recovered.copies.map((copy) => copy.facts.id),
          round,
        ).toEqual([copyId(1), copyId(3), copyId(4)]);
        expect(store.recovered.copies[0]?.state.attempts, round).toBe(7);
      }
      await bench.run(store.commit([moveOf(copyId(1), 'shadow', 'mbx1', 9000)]));
      store = await reopen(bench, store);
      expect((await bench.run(collect(store.safetyNet({})))).map((entry) => entry.role)).toEqual(['shadow']);
    });

    on('Safety Net expires, what is in transit stays', async (bench, first) => {
      let store = first;
      for (let n = 0; n < 40; n++) {
        await bench.run(store.commit([commitOf(store, copyId(n), bodyOf(copyId(n), 5000), stateOf('delivery'))]));
        if (n % 10 !== 0) await bench.run(store.commit([moveOf(copyId(n), 'primary', 'mbx1', n)]));
      }
      store = await reopen(bench, store);
      expect(store.safetyNetCounts().primary.messages).toBe(36);
      expect(await bench.run(store.expireSafetyNet(0))).toBe(0);
      expect(await bench.run(store.expireSafetyNet(1000))).toBe(36);
      for (const round of ['open', 'reopened']) {
        expect(store.safetyNetCounts().primary, round).toEqual({ messages: 0, bytes: 0 });
        expect(await bench.run(store.lookup(copyId(11))), round).toBe(null);
        for (const n of [0, 10, 20, 30])
          expect((await bench.run(readAll(store, copyId(n)))).equals(bodyOf(copyId(n), 5000)), round).toBe(true);
        store = await reopen(bench, store);
        expect(
          store.recovered.copies.map((copy) => copy.facts.id),
          round,
        ).toEqual([0, 10, 20, 30].map(copyId));
      }
    });

    on('notes come with the next commit, in order', async (bench, store) => {
      await bench.run(store.commit([commitOf(store, id, bodyOf(id, 10))]));
      store.note([{ kind: 'state', id, state: stateOf('delivery', { crashCount: 1 }) }]);
      store.note([{ kind: 'state', id, state: stateOf('delivery', { crashCount: 2 }) }]);
      store.note([{ kind: 'state', id: copyId(5), state: stateOf('delivery') }]);
      await bench.run(store.commit([{ kind: 'fact', key: 'k', value: 1 }]));
      const again = await reopen(bench, store);
      expect(again.recovered.copies[0]?.state.crashCount).toBe(2);
    });

    on('the synced sequence only grows, also over a reopen', async (bench, store) => {
      let before = store.syncedSequence;
      for (let n = 0; n < 3; n++) {
        await bench.run(store.commit([commitOf(store, copyId(n), bodyOf(copyId(n), 10))]));
        expect(store.syncedSequence).toBeGreaterThan(before);
        before = store.syncedSequence;
      }
      const again = await reopen(bench, store);
      expect(again.syncedSequence).toBeGreaterThanOrEqual(before);
    });

    on('a second opener and another member are refused', async (bench, store) => {
      await expect(bench.open()).rejects.toMatchObject({ code: 'LOCKED' });
      await bench.run(store.close());
      await expect(bench.open('hub-7')).rejects.toMatchObject({ code: 'FOREIGN' });
      const again = await bench.open();
      expect(again.chain.length).toBe(2);
    });

    on('space is accounted for', async (bench, store) => {
      await bench.run(store.commit([commitOf(store, id, bodyOf(id, 7000), stateOf('delivery'))]));
      await bench.run(store.commit([commitOf(store, copyId(2), bodyOf(copyId(2), 500), stateOf('delivery'))]));
      expect(store.space().liveBytes).toBe(7500);
      await bench.run(store.commit([moveOf(id, 'primary', 'mbx1', 1)]));
      expect(store.space()).toMatchObject({ liveBytes: 500, safetyNetBytes: 7000 });
      await bench.run(store.commit([{ kind: 'remove', id: copyId(2) }]));
      expect(store.space().liveBytes).toBe(0);
      expect(store.space().freeBytes).toBeGreaterThan(0);
    });
  });
}
