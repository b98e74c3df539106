/** The Safety Nets page by page, and which ids a member knows; over the memory engine of the store. */
import { expect, test } from 'vitest';
import type { CopyId } from '../../common/message.ts';
import { knownCopies } from '../../transport/runtime/known-copies.ts';
import { countSafetyNet, listSafetyNet } from '../../transport/runtime/safety-net-listing.ts';
import type { SafetyNetQuestion } from '../../transport/runtime/view.ts';
import type { QueueDatabase, SafetyNetFilter, SafetyNetPosition, StoredCopy } from '../../transport/store/database.ts';
import { copyId, deliveredCopy } from './resting-copies.ts';

const question = (filter: SafetyNetFilter = {}, more: Partial<SafetyNetQuestion> = {}): SafetyNetQuestion => ({
  filter,
  sender: null,
  recipient: null,
  ...more,
});

/** Pages as the store gives them, one entry after the other. */
function net(copies: readonly StoredCopy[], perRead: number) {
  const asked: number[] = [];
  const at = (filter: SafetyNetFilter): number => Number(filter.after ?? 0);
  const slice = (filter: SafetyNetFilter, limit: number) => {
    const size = Math.min(limit, perRead);
    asked.push(size);
    const next = at(filter) + size;
    return {
      found: copies.slice(at(filter), next),
      next: next < copies.length ? (String(next) as SafetyNetPosition) : null,
    };
  };
  const made: Pick<QueueDatabase, 'safetyNetPage' | 'safetyNetCopies' | 'safetyNetCounts'> = {
    safetyNetPage: async (filter, limit) => {
      const { found, next } = slice(filter, limit);
      const entries = found.map(({ facts, state }) => ({
        id: facts.id,
        role: state.queue === 'primarySafetyNet' ? ('primary' as const) : ('shadow' as const),
        databases: ['db01'],
        finalAtMs: state.finalAtMs ?? 0,
        sizeBytes: facts.sizeBytes,
      }));
      return { entries, next };
    },
    safetyNetCopies: async (filter, limit) => {
      const { found, next } = slice(filter, limit);
      return { copies: found, unreadable: found.length > 0 ? 1 : 0, next };
    },
    safetyNetCounts: () => ({
      primary: { messages: 7, bytes: 70 },
      shadow: { messages: 3, bytes: 30 },
      oldestMs: 1,
      completeSinceMs: 0,
    }),
  };
  return { net: made, asked };
}

const COPIES = Array.from({ length: 250 }, (_, n) =>
  deliveredCopy(n, {
    sender: n % 2 === 0 ? 'ann@example.org' : 'Eve@example.org',
    recipient: `user-${n % 5}@sim.example`,
  }),
);

test('without sender and recipient the index answers, page by page', async () => {
  const { net: store } = net(COPIES, 100);
  const ids: string[] = [];
  let after: SafetyNetPosition | null = null;
  do {
    const filter: SafetyNetFilter = after === null ? {} : { after };
    const page = await listSafetyNet(store, question(filter), 100);
    ids.push(...page.entries.map(({ id }) => id));
    after = page.next;
  } while (after !== null);
  expect(ids).toEqual(COPIES.map(({ facts }) => facts.id));
});

test('sender and recipient are compared without case; a page may be empty and still have a next one', async () => {
  const { net: store } = net(COPIES, 100);
  const page = await listSafetyNet(
    store,
    question({}, { sender: 'EVE@example.org', recipient: 'USER-1@sim.example' }),
    100,
  );
  expect(page.entries).toHaveLength(10);
  expect(page.entries[0]).toEqual({
    id: copyId(1),
    role: 'primary',
    databases: ['db01'],
    finalAtMs: 1_001,
    sizeBytes: 10,
  });
  expect([page.unreadable, page.next]).toEqual([1, '100']);
  const none = await listSafetyNet(store, question({}, { sender: 'nobody@example.org' }), 100);
  expect(none).toMatchObject({ entries: [], next: '100' });
});

test('a count without a filter is the one the store keeps; else it goes on until everything was seen', async () => {
  const all = net(COPIES, 100);
  expect(await countSafetyNet(all.net, question())).toEqual({
    primary: { messages: 7, bytes: 70 },
    shadow: { messages: 3, bytes: 30 },
    unreadable: 0,
    next: null,
  });
  expect(all.asked).toEqual([]);
  expect(await countSafetyNet(all.net, question({ database: 'db01' }))).toMatchObject({
    primary: { messages: 250, bytes: 2_500 },
    next: null,
  });
  expect(await countSafetyNet(all.net, question({}, { sender: 'ann@example.org' }))).toMatchObject({
    primary: { messages: 125 },
    unreadable: 3,
    next: null,
  });
});

test('a count of very many stops after its share and says where to go on; the parts add up', async () => {
  const many = Array.from({ length: 20_000 }, (_, n) => COPIES[n % COPIES.length] as StoredCopy);
  const { net: store, asked } = net(many, 1_000);
  let sum = 0;
  let parts = 0;
  let after: SafetyNetPosition | null = null;
  do {
    const filter: SafetyNetFilter = after === null ? {} : { after };
    const tally = await countSafetyNet(store, question(filter, { sender: 'ann@example.org' }));
    sum += tally.primary.messages;
    after = tally.next;
    parts += 1;
  } while (after !== null);
  expect([sum, parts]).toEqual([10_000, 4]);
  expect(Math.max(...asked)).toBe(1_000);
});

test('ids are known as what they are; a damaged log never says that one is absent', async () => {
  const [transit, tombstone, aborted, damaged, rests, broken, unreadable, nobody] = Array.from({ length: 8 }, (_, n) =>
    copyId(n),
  );
  const live = {
    copies: new Set([transit, damaged] as CopyId[]),
    damaged: new Set([damaged] as CopyId[]),
    tombstones: new Map([
      [tombstone, { kind: 'final' as const }],
      [aborted, { kind: 'aborted' as const }],
      [rests, { kind: 'aborted' as const }],
    ] as [CopyId, { kind: 'final' | 'aborted' }][]),
  };
  const database: Pick<QueueDatabase, 'lookup'> = {
    lookup: async (id) => {
      if (id === unreadable) throw Object.assign(new Error('checksum'), { code: 'DAMAGED' });
      if (id === rests) return deliveredCopy(4);
      return id === broken ? { ...deliveredCopy(5), damaged: 'checksum' } : null;
    },
  };
  const ids = [transit, tombstone, aborted, damaged, rests, broken, unreadable, nobody] as CopyId[];
  expect(await knownCopies(live, database, ids)).toEqual([
    { id: transit, where: 'transit' },
    { id: tombstone, where: 'final' },
    { id: aborted, where: 'aborted' },
    { id: damaged, where: 'damaged' },
    { id: rests, where: 'safetyNet' },
    { id: broken, where: 'damaged' },
    { id: unreadable, where: 'damaged' },
  ]);
  const failing = { lookup: () => Promise.reject(new Error('EIO')) };
  await expect(knownCopies(live, failing, [nobody as CopyId])).rejects.toThrow('EIO');
});
