/** protocol.md 14 in the loop: a delivery that waited for the disk while the process stood still is not begun before the members were asked. */
import { describe, expect, test } from 'vitest';
import type { LateEffect } from '../../transport/core/events.ts';
import { Loop } from '../../transport/runtime/loop.ts';
import { CoreBench, copyId, factsOf, PEER, stateOf } from './core-bench.ts';

/** A copy whose delivery is decided and waits for a commit that the disk has not finished. */
function waiting() {
  const bench = new CoreBench({ stored: [{ facts: factsOf('M1'), state: stateOf() }] });
  bench.up(PEER);
  bench.pass(6_000);
  const deliver = bench.lastSeen('Deliver');
  const said: LateEffect[] = [];
  const timers: { atMs: number; callback: () => void }[] = [];
  let durable = (): void => undefined;
  const clock = {
    monotonicMs: () => bench.nowMs,
    wallMs: () => bench.nowMs,
    setTimer: (delayMs: number, callback: () => void) => {
      const timer = { atMs: bench.nowMs + delayMs, callback };
      timers.push(timer);
      return { cancel: () => void timers.splice(timers.indexOf(timer), 1) };
    },
  };
  const commits: Promise<void>[] = [];
  const database = {
    commit: () => {
      const done = commits.length > 0 ? Promise.resolve() : new Promise<void>((resolve) => (durable = resolve));
      commits.push(done);
      return done;
    },
    note: () => undefined,
  };
  const loop = new Loop(bench.server, clock, database as never, {
    write: (write) => write as never,
    early: () => undefined,
    late: (effect) => void said.push(effect),
    fatal: (reason) => {
      throw reason;
    },
  });
  const { epoch } = bench.copy('M1');
  const tombstone = { id: copyId('M1'), kind: 'aborted', epoch, abortedThrough: 0, placements: [] } as never;
  loop.apply({ commit: [{ kind: 'tombstone', tombstone }], note: [], now: [], afterCommit: [deliver], wakeAtMs: null });
  const passed = async (spanMs: number): Promise<void> => {
    const untilMs = bench.nowMs + spanMs;
    for (;;) {
      await Promise.resolve();
      const next = timers.filter(({ atMs }) => atMs <= untilMs).sort((a, b) => a.atMs - b.atMs)[0];
      if (next === undefined) break;
      timers.splice(timers.indexOf(next), 1);
      bench.nowMs = Math.max(bench.nowMs, next.atMs);
      next.callback();
    }
    bench.nowMs = untilMs;
  };
  const settled = async (): Promise<void> => {
    durable();
    for (let turns = 0; turns < 5; turns++) await Promise.resolve();
  };
  return { bench, loop, passed, settled, deliveries: () => said.filter(({ kind }) => kind === 'Deliver'), said };
}

describe('a delivery that waits for the disk', () => {
  test('is begun when the disk has done it', async () => {
    const { settled, deliveries, passed } = waiting();
    await passed(1_000);
    expect(deliveries()).toHaveLength(0);
    await settled();
    expect(deliveries()).toHaveLength(1);
  });

  test.each(['the disk', 'a timer'])(
    'is not begun after a standstill of which %s tells first, but asked about, and then begun',
    async (who) => {
      const { bench, loop, settled, deliveries, passed, said } = waiting();
      bench.nowMs += 40_000;
      if (who === 'a timer') loop.handle({ kind: 'TimerFired' });
      await settled();
      expect(deliveries()).toHaveLength(0);
      expect(bench.server.deliveries.size).toBe(0);
      expect(said.filter((effect) => effect.kind === 'Send' && effect.frame.kind === 'CLAIM')).not.toHaveLength(0);
      await passed(6_000);
      expect(deliveries()).toHaveLength(1);
    },
  );
});
