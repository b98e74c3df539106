/** What every engine must do with copies at rest beyond coming and going one by one: changes of role, walks in pages, the quota. */
import { describe, expect, test } from 'vitest';
import type { CopyId } from '../../common/message.ts';
import type {
  QueueDatabase,
  SafetyNetEntry,
  SafetyNetFilter,
  SafetyNetPosition,
  StoredCopy,
  Write,
} from '../../transport/store/database.ts';
import type { Bench, EngineUnderTest } from './bench.ts';
import { bodyOf, collect, commitOf, copyId, delivered, moveOf, OWNER, readAll, stateOf } from './samples.ts';

type Run = (bench: Bench, store: QueueDatabase) => Promise<void>;

export function safetyNetContract(engine: EngineUnderTest): void {
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

  describe(`${engine.name}: Safety Nets`, () => {
    on('a role changes in one commit: shadow becomes primary with a new epoch', async (bench, first) => {
      let store = first;
      for (const n of [1, 2, 3]) await rest(bench, store, n, 'shadow');
      for (const round of [1, 2, 3]) {
        const epoch = { try: 1, term: round, owner: OWNER };
        const id = copyId(round);
        const before = store.safetyNetCounts();
        await bench.run(store.commit(roleChange(id, epoch.term)));
        expect(store.safetyNetCounts().primary.messages).toBe(before.primary.messages + 1);
        expect(store.safetyNetCounts().shadow.messages).toBe(before.shadow.messages - 1);
        for (const when of ['now', 'reopened']) {
          expect(await bench.run(store.lookup(id)), when).toMatchObject({
            facts: { id, sizeBytes: 1000 + round },
            state: { queue: 'primarySafetyNet', epoch, finalAtMs: round },
          });
          expect((await bench.run(readAll(store, id))).equals(bodyOf(id, 1000 + round)), when).toBe(true);
          expect(store.recovered.copies, when).toEqual([]);
          // Once in a footer, once not.
          if (when === 'now') store = await reopen(bench, store);
        }
      }
      expect((await listed(bench, store)).map((entry) => [entry.id, entry.role])).toEqual(
        [1, 2, 3].map((n) => [copyId(n), 'primary']),
      );
      // Again, several times in one commit and from one commit to the next.
      await bench.run(store.commit([...roleChange(copyId(2), 7), ...roleChange(copyId(3), 7)]));
      void store.commit(roleChange(copyId(2), 8));
      await bench.run(store.commit(roleChange(copyId(2), 9)));
      expect((await bench.run(store.lookup(copyId(2))))?.state.epoch.term).toBe(9);
      expect(store.safetyNetCounts().primary).toEqual({ messages: 3, bytes: 3006 });
      expect(store.space()).toMatchObject({ liveBytes: 0, safetyNetBytes: 3006 });
    });

    on('a role change of a copy that is not at rest is refused whole', async (bench, store) => {
      await bench.run(store.commit([commitOf(store, copyId(1), bodyOf(copyId(1), 10), stateOf('delivery'))]));
      for (const id of [copyId(1), copyId(9)])
        await expect(
          bench.run(store.commit([{ kind: 'fact', key: 'k', value: 1 }, ...roleChange(id, 1)])),
        ).rejects.toMatchObject({ code: 'NOTFOUND' });
      const again = await reopen(bench, store);
      expect(again.recovered.facts.size).toBe(0);
      expect(again.recovered.copies.length).toBe(1);
    });

    on('a copy that arrives final goes to rest in the call that commits it', async (bench, first) => {
      let store = first;
      const bytes = bodyOf(copyId(1), 90_000);
      await bench.run(store.commit([commitOf(store, copyId(1), bytes), moveOf(copyId(1), 'shadow', 'mbx1', 5)]));
      // Over one that rests already, and in the same call as one that is removed.
      await bench.run(
        store.commit([
          commitOf(store, copyId(2), bodyOf(copyId(2), 70)),
          moveOf(copyId(2), 'shadow', 'mbx1', 6),
          commitOf(store, copyId(1), bodyOf(copyId(1), 80)),
          moveOf(copyId(1), 'primary', 'mbx2', 7),
        ]),
      );
      for (const when of ['now', 'reopened', 'again']) {
        expect(store.recovered.copies, when).toEqual([]);
        expect(
          (await listed(bench, store)).map((entry) => entry.id),
          when,
        ).toEqual([copyId(2), copyId(1)]);
        expect((await bench.run(readAll(store, copyId(1)))).equals(bodyOf(copyId(1), 80)), when).toBe(true);
        expect(store.safetyNetCounts(), when).toMatchObject({
          primary: { messages: 1, bytes: 80 },
          shadow: { messages: 1, bytes: 70 },
        });
        store = await reopen(bench, store);
      }
      await bench.run(store.commit([{ kind: 'remove', id: copyId(1) }]));
      store = await reopen(bench, store);
      expect((await listed(bench, store)).map((entry) => entry.id)).toEqual([copyId(2)]);
    });

    on('pages: every entry once, in the order of rest, whatever happens between two pages', async (bench, first) => {
      let store = first;
      for (let n = 0; n < 60; n++) await rest(bench, store, n, n % 3 === 0 ? 'shadow' : 'primary');
      store = await reopen(bench, store);
      for (let n = 60; n < 80; n++) await rest(bench, store, n, 'primary');
      const all = await walk(bench, store, {}, 7);
      expect(all).toEqual(range(0, 80));
      expect(await walk(bench, store, { role: 'shadow' }, 7)).toEqual(range(0, 60).filter((_, n) => n % 3 === 0));
      expect(await walk(bench, store, { fromMs: 30, toMs: 65 }, 7)).toEqual(range(30, 66));
      // What expires, moves or is removed between two pages is not met, or not twice; nothing else is lost.
      const page = await bench.run(store.safetyNetPage({}, 30));
      expect(page.entries.map((entry) => entry.id)).toEqual(range(0, 30));
      const through = store.safetyNetEnd();
      await bench.run(store.expireSafetyNet(20));
      await bench.run(store.commit(roleChange(copyId(25), 1)));
      await bench.run(store.commit(roleChange(copyId(40), 1)));
      await bench.run(store.commit([{ kind: 'remove', id: copyId(41) }]));
      await rest(bench, store, 80, 'primary');
      const left = range(30, 80).filter((id) => id !== copyId(40) && id !== copyId(41));
      const after = page.next ?? ('' as SafetyNetPosition);
      expect(await walk(bench, store, { after, through }, 9)).toEqual(left);
      expect(await walk(bench, store, { after }, 9)).toEqual([...left, copyId(25), copyId(40), copyId(80)]);
      store = await reopen(bench, store);
      expect(await walk(bench, store, { after }, 9)).toEqual([...left, copyId(25), copyId(40), copyId(80)]);
    });

    on('copies in pages are what a look-up of each says', async (bench, first) => {
      let store = first;
      for (let n = 0; n < 25; n++) await rest(bench, store, n, 'primary', n % 5 === 0 ? 30_000 : 300);
      store = await reopen(bench, store);
      for (let n = 25; n < 30; n++) await rest(bench, store, n, 'shadow');
      const copies: StoredCopy[] = [];
      let after: SafetyNetPosition | undefined;
      for (let next: SafetyNetPosition | null | undefined; next !== null; after = next ?? undefined) {
        const page = await bench.run(store.safetyNetCopies(after === undefined ? {} : { after }, 8));
        expect(page.unreadable).toBe(0);
        expect(page.copies.length).toBeLessThanOrEqual(8);
        copies.push(...page.copies);
        next = page.next;
      }
      expect(copies.map((copy) => copy.facts.id)).toEqual(range(0, 30));
      for (const copy of copies) expect(await bench.run(store.lookup(copy.facts.id))).toEqual(copy);
      const some = await bench.run(store.safetyNetCopies({ role: 'shadow' }, 3));
      expect(some.copies.map((copy) => copy.facts.id)).toEqual(range(25, 28));
    });

    on('a walk that changes what it meets ends where it began to', async (bench, store) => {
      for (let n = 0; n < 20; n++) await rest(bench, store, n, 'shadow');
      const through = store.safetyNetEnd();
      const met: CopyId[] = [];
      let after: SafetyNetPosition | undefined;
      for (let next: SafetyNetPosition | null | undefined; next !== null; after = next ?? undefined) {
        const page = await bench.run(store.safetyNetCopies({ through, ...(after && { after }) }, 3));
        for (const { facts } of page.copies) {
          met.push(facts.id);
          await bench.run(store.commit(roleChange(facts.id, 1)));
        }
        next = page.next;
      }
      expect(met).toEqual(range(0, 20));
      expect(store.safetyNetCounts()).toMatchObject({ primary: { messages: 20 }, shadow: { messages: 0 } });
    });

    on('over the quota the first at rest go, what is in transit stays', async (bench, first) => {
      let store = first;
      const created = store.safetyNetCounts().completeSinceMs;
      store = await reopen(bench, store);
      expect(store.safetyNetCounts().completeSinceMs).toBe(created);
      const base = created + 1000;
      for (let n = 0; n < 40; n++) {
        await bench.run(store.commit([commitOf(store, copyId(n), bodyOf(copyId(n), 5000), stateOf('delivery'))]));
        if (n % 10 !== 0) await bench.run(store.commit([moveOf(copyId(n), 'primary', 'mbx1', base + n)]));
      }
      expect(await bench.run(store.shedSafetyNet(180_000))).toEqual({
        messages: 0,
        bytes: 0,
        completeSinceMs: created,
      });
      const shed = await bench.run(store.shedSafetyNet(90_000));
      expect(store.space().safetyNetBytes).toBeLessThanOrEqual(90_000);
      expect(shed.bytes).toBe(180_000 - store.space().safetyNetBytes);
      expect(shed.messages).toBe(shed.bytes / 5000);
      for (const round of ['now', 'reopened', 'again']) {
        const counts = store.safetyNetCounts();
        expect(counts.completeSinceMs, round).toBe(shed.completeSinceMs);
        const left = await listed(bench, store);
        // Exactly what became final from there on is left.
        const whole = range(0, 40).filter((_, n) => n % 10 !== 0 && base + n >= shed.completeSinceMs);
        expect(
          left.map((entry) => entry.id),
          round,
        ).toEqual(whole);
        for (const n of [0, 10, 20, 30])
          expect((await bench.run(readAll(store, copyId(n)))).equals(bodyOf(copyId(n), 5000)), round).toBe(true);
        store = await reopen(bench, store);
        expect(store.recovered.copies.length, round).toBe(4);
      }
      // The hold time is no gap.
      expect(await bench.run(store.expireSafetyNet(base + 100))).toBeGreaterThan(0);
      expect(store.safetyNetCounts()).toMatchObject({
        primary: { messages: 0 },
        completeSinceMs: shed.completeSinceMs,
      });
      expect(await bench.run(store.shedSafetyNet(0))).toMatchObject({ messages: 0, bytes: 0 });
    });
  });
}

const range = (from: number, to: number): CopyId[] => Array.from({ length: to - from }, (_, i) => copyId(from + i));

async function reopen(bench: Bench, store: QueueDatabase): Promise<QueueDatabase> {
  await bench.run(store.close());
  return bench.open();
}

async function rest(
  bench: Bench,
  store: QueueDatabase,
  n: number,
  role: 'primary' | 'shadow',
  sizeBytes = 1000 + n,
): Promise<void> {
  const id = copyId(n);
  await bench.run(store.commit([commitOf(store, id, bodyOf(id, sizeBytes), stateOf('delivery'))]));
  await bench.run(store.commit([moveOf(id, role, 'mbx1', n)]));
}

/** A copy at rest gets another role, or epoch: out and in again. */
function roleChange(id: CopyId, term: number): Write[] {
  const epoch = { try: 1, term, owner: OWNER };
  const recipients = [delivered('user0@example.org', 'mbx1')];
  const finalAtMs = Number(id.slice(3));
  return [
    { kind: 'recall', id, state: stateOf('delivery', { epoch, recipients, finalAtMs }) },
    { kind: 'move', id, state: stateOf('primarySafetyNet', { epoch, recipients, finalAtMs }) },
  ];
}

const listed = (bench: Bench, store: QueueDatabase): Promise<SafetyNetEntry[]> =>
  bench.run(collect(store.safetyNet({})));

async function walk(bench: Bench, store: QueueDatabase, filter: SafetyNetFilter, limit: number): Promise<CopyId[]> {
  const ids: CopyId[] = [];
  for (let after = filter.after; ; ) {
    const page = await bench.run(store.safetyNetPage({ ...filter, ...(after !== undefined && { after }) }, limit));
    expect(page.entries.length).toBeLessThanOrEqual(limit);
    ids.push(...page.entries.map((entry) => entry.id));
    if (page.next === null) return ids;
    after = page.next;
  }
}
