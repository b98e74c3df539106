/** A changed topology document goes forward or is not used. */
import { expect, test } from 'vitest';
import { documentRefusal } from '../../common/document-refusal.ts';
import { simTopology } from '../sim/topology.ts';

const inForce = { ...simTopology({ sites: [1, 1], dag: true, frontends: 1 }), generation: 5 };

test('a newer one, and the same one again, are used', () => {
  expect(documentRefusal({ ...inForce, generation: 6, databases: [] }, inForce)).toBe(null);
  expect(documentRefusal(structuredClone(inForce), inForce)).toBe(null);
});

test.each([
  [{ ...inForce, generation: 4 }, 'its generation 4 is older than 5'],
  [{ ...inForce, databases: [] }, 'it says something else under the same generation 5'],
  [{ ...inForce, generation: 9, cluster: 'other' }, 'it is of cluster other, not of sim'],
])('%#: others are not', (next, reason) => {
  expect(documentRefusal(next, inForce)).toBe(reason);
});
