/** The simulator's clock keeps the promise of the port (common/platform/clock.ts): a timer does not fire early. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Deadline } from '../../common/smtp/deadline.ts';
import { Scheduler } from '../sim/scheduler.ts';

const offsets = fc.double({ min: -86_400_000, max: 2_592_000_000, noNaN: true });
const drifts = fc.double({ min: 0.5, max: 100, noNaN: true });
const spans = fc.double({ min: 0, max: 60_000, noNaN: true });

test('whatever its offset, its drift and the time: when a timer fires, its delay has passed', async () => {
  await fc.assert(
    fc.asyncProperty(offsets, drifts, spans, spans, async (offset, drift, atMs, delayMs) => {
      const scheduler = new Scheduler(1);
      const clock = scheduler.clock(offset, drift);
      await scheduler.run(() => false, atMs);
      const dueMs = clock.monotonicMs() + delayMs;
      let firedMs = Number.NaN;
      clock.setTimer(delayMs, () => {
        firedMs = clock.monotonicMs();
      });
      await scheduler.run(() => !Number.isNaN(firedMs), scheduler.nowMs + 200_000);
      expect(firedMs).toBeGreaterThanOrEqual(dueMs);
    }),
    { numRuns: 2_000 },
  );
});

test('a deadline takes one timer, not timers for ever in which no time passes', async () => {
  await fc.assert(
    fc.asyncProperty(offsets, drifts, spans, spans, async (offset, drift, atMs, delayMs) => {
      const scheduler = new Scheduler(1);
      const clock = scheduler.clock(offset, drift);
      await scheduler.run(() => false, atMs);
      let isOver = false;
      new Deadline(clock, () => {
        isOver = true;
      }).set(clock.monotonicMs() + delayMs);
      await scheduler.run(() => isOver || scheduler.eventCount > 3, scheduler.nowMs + 200_000);
      expect(isOver).toBe(true);
    }),
    { numRuns: 2_000 },
  );
});
