/** What is in each queue, counted from the core's memory: for status, load and metrics. PURE. */
import { type Copy, isFinal } from '../core/copy.ts';
import type { Server } from '../core/state.ts';
import type { Queue } from '../store/database.ts';
import { type Clocks, sinceWall, toldAge } from './told-times.ts';

export interface QueueTotals {
  readonly messages: number;
  readonly bytes: number;
  /** Since when the oldest is here, by the wall clock (`told-times.ts`); null when the queue is empty. */
  readonly oldestMs: number | null;
}

export const NOTHING_QUEUED: QueueTotals = { messages: 0, bytes: 0, oldestMs: null };

export function queueTotals(core: Pick<Server, 'copies' | 'trusted'>, clocks: Clocks): ReadonlyMap<Queue, QueueTotals> {
  const totals = new Map<Queue, { messages: number; bytes: number; oldestMs: number | null }>();
  for (const copy of core.copies.values()) {
    const { facts, state } = copy;
    const sinceMs = sinceWall(toldAge(core, copy, clocks), clocks);
    const total = totals.get(state.queue);
    if (total === undefined) {
      totals.set(state.queue, { messages: 1, bytes: facts.sizeBytes, oldestMs: sinceMs });
      continue;
    }
    total.messages += 1;
    total.bytes += facts.sizeBytes;
    total.oldestMs = Math.min(total.oldestMs ?? sinceMs, sinceMs);
  }
  return totals;
}

/** Of what is to be delivered by this member: some recipient has no next hop, while others have one or are done. */
export const isPartlyUnreachable = ({ me }: Pick<Server, 'me'>, { state, isPathless }: Copy): boolean =>
  isPathless && state.queue === 'delivery' && state.epoch.owner === me && state.recipients?.every(isFinal) === false;

/** Messages of this member with a recipient for whom no next hop is known. */
export function unreachableOf(core: Pick<Server, 'copies' | 'me'>): readonly Copy[] {
  const found: Copy[] = [];
  for (const copy of core.copies.values())
    if (copy.state.queue === 'unreachable' || isPartlyUnreachable(core, copy)) found.push(copy);
  return found;
}
