/** One life of a simulated process. Ports are bound to it: once `alive` is false nothing they hold settles or calls back. */
import type { Scheduler } from './scheduler.ts';

export interface Incarnation {
  alive: boolean;
  /** The process stands still until then (SIGSTOP, a frozen machine): what comes for it waits, its clocks run on. */
  resumeAtMs?: number;
  /** What waits keeps its order. */
  waiting?: number;
}

const isStill = (incarnation: Incarnation, scheduler: Scheduler): boolean =>
  incarnation.resumeAtMs !== undefined && scheduler.nowMs < incarnation.resumeAtMs;

/** Milliseconds until it goes on; 0 when it runs. */
export const stillForMs = (incarnation: Incarnation, scheduler: Scheduler): number =>
  isStill(incarnation, scheduler) ? (incarnation.resumeAtMs ?? 0) - scheduler.nowMs : 0;

/** Runs what is for this process: now, when it goes on again, or never. */
export function deliverTo(incarnation: Incarnation, scheduler: Scheduler, run: () => void): void {
  if (!incarnation.alive) return;
  if (!isStill(incarnation, scheduler)) return run();
  incarnation.waiting = (incarnation.waiting ?? 0) + 1;
  const afterMs = stillForMs(incarnation, scheduler) + incarnation.waiting * 1e-6;
  scheduler.schedule(afterMs, () => deliverTo(incarnation, scheduler, run));
}
