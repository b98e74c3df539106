/** What is in each queue, counted from the core's memory: for status, load and metrics. PURE. */
import type { Server } from '../core/state.ts';
import type { Queue } from '../store/database.ts';

export interface QueueTotals {
  readonly messages: number;
  readonly bytes: number;
  /** Wall clock; null when the queue is empty. */
  readonly oldestMs: number | null;
}

export const NOTHING_QUEUED: QueueTotals = { messages: 0, bytes: 0, oldestMs: null };

export function queueTotals({ copies }: Pick<Server, 'copies'>): ReadonlyMap<Queue, QueueTotals> {
  const totals = new Map<Queue, { messages: number; bytes: number; oldestMs: number | null }>();
  for (const { facts, state } of copies.values()) {
    const total = totals.get(state.queue);
    if (total === undefined) {
      totals.set(state.queue, { messages: 1, bytes: facts.sizeBytes, oldestMs: facts.acceptedAtMs });
      continue;
    }
    total.messages += 1;
    total.bytes += facts.sizeBytes;
    total.oldestMs = Math.min(total.oldestMs ?? facts.acceptedAtMs, facts.acceptedAtMs);
  }
  return totals;
}
