/** Rows of a checkpoint (transport/store/checkpoint-rows.ts): what copies share is written once, and nobody gets what is another's. */
import { expect, test } from 'vitest';
import { packPlace } from '../../transport/store/body-place.ts';
import { decodeRows, encodeRows } from '../../transport/store/checkpoint-rows.ts';
import { Compactor } from '../../transport/store/compact.ts';
import type { CopyState } from '../../transport/store/database.ts';
import { copyId, factsOf, stateOf } from '../contract/samples.ts';

/** Each differs from the first in one field of those that rows share. */
const DIFFERENT: readonly Partial<CopyState>[] = [
  {},
  { queue: 'submission' },
  { standing: 'intake' },
  { abortedThrough: 7 },
  { unprotected: 'no shadow could be had' },
  { suspended: 3 },
  { crashCount: 2 },
  { delayed: true },
  { dsns: [copyId(99)] },
  { attempts: 5 },
];

test('states that differ in any one field come back as they were, in either order', () => {
  const base: Partial<CopyState> = { standing: 'released', suspended: false };
  for (const order of [DIFFERENT, DIFFERENT.toReversed()]) {
    const copies = [...order, ...order].map((more, n) => ({
      facts: factsOf(copyId(n), { digest: () => 'd'.repeat(64), sizeBytes: 100 }),
      state: stateOf('delivery', { ...base, ...more }),
      body: packPlace([1, 4096 * n, 300]),
    }));
    const rows = JSON.parse(JSON.stringify(encodeRows(copies, new Compactor())));
    const found = [...decodeRows(rows, new Compactor())];
    expect(found.map(({ state, body }) => ({ state, body }))).toEqual(
      copies.map(({ state, body }) => ({ state, body })),
    );
  }
});
