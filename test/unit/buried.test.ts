/** Tombstones in little memory (transport/store/buried.ts). */
import { expect, test } from 'vitest';
import { BURIED_TOGETHER, buriable, Graves } from '../../transport/store/buried.ts';
import type { Tombstone } from '../../transport/store/database.ts';
import { A, B, copyId, epochOf } from './core-bench.ts';

const tombstone = (n: number): Tombstone => ({
  id: copyId(`T${n}`),
  kind: n % 7 === 0 ? 'aborted' : 'final',
  epoch: epochOf(A),
  abortedThrough: n,
  recipients:
    n % 7 === 0 ? null : [{ address: `"q ${n}"@x.example`, outcome: 'delivered', atMs: n, reply: `250 2.1.5 ${n}` }],
  digest: n % 5 === 0 ? null : `${n}`.padStart(64, '0'),
  placements: [{ identity: B, member: 'b', epoch: epochOf(A), status: 'owesAck' }],
});

test('a buried tombstone equals what it was: read, spread, made JSON of; once or again, alone or in many blocks', () => {
  const plain = Array.from({ length: 2 * BURIED_TOGETHER + 3 }, (_, n) => tombstone(n));
  const held = plain.map(buriable);
  const same = (): void => {
    expect(held.map((one) => ({ ...one }))).toEqual(plain);
    expect(held.map((one) => JSON.stringify(one)).map((text) => JSON.parse(text) as unknown)).toEqual(plain);
    expect(held.map(({ recipients }) => recipients)).toEqual(plain.map(({ recipients }) => recipients));
  };
  same();
  const graves = new Graves();
  graves.bury(held);
  same();
  graves.bury(held.slice(5, 6));
  same();
  expect(buriable(held[0] as Tombstone)).toBe(held[0]);
  expect(() => graves.bury(plain)).not.toThrow();
});
