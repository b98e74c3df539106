/** How much the heap may grow between two full collections (docs/performance.md, "Memory" and "Accept"). */
import { expect, it } from 'vitest';
import { growthPercent } from '../../common/platform/heap-growth.ts';

const MIB = 1 << 20;

it('little held: room for 64 MiB of bodies that come and go, at most five times what lives', () => {
  expect([10, 20, 32, 64].map((mib) => growthPercent(0, mib * MIB))).toEqual([400, 320, 200, 100]);
});

it('much in the heap: never less than 80 % while little is held, 30 % with much', () => {
  expect([
    growthPercent(24_999, 200 * MIB),
    growthPercent(25_000, 20 * MIB),
    growthPercent(100_000, 200 * MIB),
  ]).toEqual([80, 30, 30]);
});
