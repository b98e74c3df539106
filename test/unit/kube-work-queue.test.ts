/** The queue of a controller in simulated time. */
import { describe, expect, it } from 'vitest';
import { silentMetrics } from '../../common/platform/metrics.ts';
import { type WorkOutcome, WorkQueue } from '../../operator/kube/work-queue.ts';
import { Scheduler } from '../sim/scheduler.ts';

interface Rig {
  readonly scheduler: Scheduler;
  readonly queue: WorkQueue;
  /** `ms key` of every beginning. */
  readonly begun: string[];
  readonly failed: string[];
  readonly together: () => number;
  readonly pass: (ms: number) => Promise<boolean>;
}

type Work = (
  key: string,
  count: number,
  signal: AbortSignal,
) => { readonly tookMs: number; readonly outcome: WorkOutcome | Error };

function rig(work: Work, concurrency = 2, restMs = 0): Rig {
  const scheduler = new Scheduler(1);
  const clock = scheduler.clock();
  const begun: string[] = [];
  const failed: string[] = [];
  const counts = new Map<string, number>();
  const running = new Set<string>();
  let most = 0;
  const queue = new WorkQueue({
    name: 'test',
    concurrency,
    restMs,
    clock,
    random: scheduler.random,
    metrics: silentMetrics,
    backoff: { firstMs: 100, maxMs: 1_000 },
    failed: (key, error) => failed.push(`${key} ${String(error)}`),
    work: (key, signal) => {
      if (running.has(key)) throw new Error(`${key} twice at once`);
      running.add(key);
      most = Math.max(most, running.size);
      begun.push(`${Math.round(scheduler.nowMs)} ${key}`);
      const count = (counts.get(key) ?? 0) + 1;
      counts.set(key, count);
      const { tookMs, outcome } = work(key, count, signal);
      return new Promise((resolve, reject) => {
        clock.setTimer(tookMs, () => {
          running.delete(key);
          if (outcome instanceof Error) reject(outcome);
          else resolve(outcome);
        });
      });
    },
  });
  queue.start();
  const pass = (ms: number): Promise<boolean> => scheduler.run(() => false, scheduler.nowMs + ms);
  return { scheduler, queue, begun, failed, together: () => most, pass };
}

const done: WorkOutcome = { kind: 'done' };

describe('work queue', () => {
  it('what is added often before its turn runs once; what is added while it runs, once more after', async () => {
    const { queue, begun, failed, pass } = rig(() => ({ tookMs: 10, outcome: done }), 1);
    for (let at = 0; at < 5; at += 1) queue.add('a');
    queue.add('b');
    await pass(5);
    for (let at = 0; at < 5; at += 1) queue.add('a');
    await pass(100);
    expect(begun).toEqual(['0 a', '10 b', '20 a']);
    expect(failed).toEqual([]);
  });

  it('rests between two runs of a key that somebody asks for, not before one that was planned', async () => {
    const outcome = (count: number): WorkOutcome => (count === 3 ? { kind: 'again', afterMs: 50 } : done);
    const { queue, begun, pass } = rig((_key, count) => ({ tookMs: 10, outcome: outcome(count) }), 2, 200);
    queue.add('a');
    await pass(5);
    queue.add('a');
    await pass(30);
    for (let at = 0; at < 5; at += 1) queue.add('a');
    queue.add('b');
    await pass(150);
    expect(begun).toEqual(['0 a', '35 b']);
    await pass(5_000);
    expect(begun).toEqual(['0 a', '35 b', '210 a']);
    queue.add('a');
    await pass(5_000);
    expect(begun.map((one) => one.split(' ')[1])).toEqual(['a', 'b', 'a', 'a', 'a']);
    const [third = 0, fourth = 0] = begun.slice(3).map((one) => Number.parseInt(one, 10));
    expect(fourth - third).toBe(60);
  });

  it('a busy key takes turns with the others', async () => {
    const one = rig((key) => {
      if (key === 'busy') one.queue.add('busy');
      return { tookMs: 10, outcome: done };
    }, 1);
    one.queue.add('busy');
    for (const key of ['a', 'b', 'c']) one.queue.add(key);
    await one.pass(45);
    expect(one.begun.map((line) => line.split(' ')[1])).toEqual(['busy', 'a', 'b', 'c', 'busy']);
  });

  it('no more at once than it may', async () => {
    const { queue, begun, together, pass } = rig(() => ({ tookMs: 10, outcome: done }), 3);
    for (let at = 0; at < 9; at += 1) queue.add(`k${at}`);
    expect([queue.depth, queue.runningCount]).toEqual([6, 3]);
    await pass(100);
    expect([begun.length, together()]).toEqual([9, 3]);
    expect(begun.at(-1)).toBe('20 k8');
  });

  it('a failing key comes back after growing pauses and holds up nobody; success forgets that', async () => {
    const { queue, begun, pass } = rig((key, count) => ({
      tookMs: 1,
      outcome: key === 'bad' && count <= 6 ? { kind: 'retry', reason: 'test' } : done,
    }));
    queue.add('bad');
    queue.add('good');
    await pass(10_000);
    const times = begun.filter((line) => line.endsWith('bad')).map((line) => Number(line.split(' ')[0]));
    const pauses = times.slice(1).map((time, at) => time - (times[at] ?? 0) - 1);
    expect(pauses).toHaveLength(6);
    pauses.forEach((pauseMs, at) => {
      const fullMs = Math.min(1_000, 100 * 2 ** at);
      expect(pauseMs).toBeGreaterThanOrEqual(fullMs / 2 - 1);
      expect(pauseMs).toBeLessThanOrEqual(fullMs + 1);
    });
    expect(begun).toContain('0 good');
  });

  it('an exception is a failure of that key, told and tried again', async () => {
    const { queue, begun, failed, pass } = rig((_, count) => ({
      tookMs: 1,
      outcome: count === 1 ? new Error('bug') : done,
    }));
    queue.add('a');
    await pass(1_000);
    expect(failed).toEqual(['a Error: bug']);
    expect(begun).toHaveLength(2);
  });

  it('a server that says when (Retry-After) is waited for', async () => {
    const { queue, begun, pass } = rig((_, count) => ({
      tookMs: 0,
      outcome: count === 1 ? { kind: 'retry', reason: '429', afterMs: 5_000 } : done,
    }));
    queue.add('a');
    await pass(10_000);
    expect(begun).toEqual(['0 a', '5000 a']);
  });

  it('of two plans for a key the earlier holds, and a run makes plans anew', async () => {
    const { queue, begun, pass } = rig((_, count) => ({
      tookMs: 0,
      outcome: count === 1 ? { kind: 'again', afterMs: 500 } : done,
    }));
    queue.addAfter('a', 300);
    queue.addAfter('a', 100);
    queue.addAfter('a', 200);
    await pass(50);
    queue.addAfter('b', 10);
    queue.forget('b');
    await pass(5_000);
    expect(begun).toEqual(['100 a', '600 a']);
  });

  it('takes keys before its start and runs them then', async () => {
    const scheduler = new Scheduler(2);
    const ran: string[] = [];
    const queue = new WorkQueue({
      name: 'test',
      concurrency: 1,
      clock: scheduler.clock(),
      random: scheduler.random,
      metrics: silentMetrics,
      failed: (_, error) => scheduler.fail(error),
      work: async (key) => {
        ran.push(key);
        return done;
      },
    });
    queue.add('a');
    await scheduler.run(() => false, 100);
    expect(ran).toEqual([]);
    queue.start();
    await scheduler.run(() => false, 200);
    expect(ran).toEqual(['a']);
  });

  it('stop lets what runs finish, starts nothing more, and tells what takes too long', async () => {
    const told: string[] = [];
    const one = rig((key, _, signal) => {
      signal.addEventListener('abort', () => told.push(key));
      return { tookMs: key === 'slow' ? 900 : 50, outcome: { kind: 'again', afterMs: 1 } };
    });
    for (const key of ['quick', 'slow', 'never']) one.queue.add(key);
    await one.pass(10);
    await one.scheduler.await(one.queue.stop(300));
    expect(one.scheduler.nowMs).toBeGreaterThanOrEqual(900);
    one.queue.add('late');
    await one.pass(2_000);
    expect(one.begun).toEqual(['0 quick', '0 slow']);
    // The signal comes to all that were given it; only who still runs cares.
    expect(told).toContain('slow');
    expect([one.queue.depth, one.queue.runningCount]).toEqual([0, 0]);
  });
});
