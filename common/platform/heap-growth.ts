/**
 * How much the heap of V8 may grow between two full collections, by how much is held: copies, and tombstones of what went lately. A full
 * collection costs what lives. With much held its garbage is what counts, and there are many messages to each collection. With little held V8 would
 * look every dozen megabytes of bodies, because what sockets read counts as heap: four times a second at 50 messages of 1 MiB, a third of all CPU.
 * Owns: that setting of the process. A start does not know yet.
 */
import { getHeapStatistics, setFlagsFromString } from 'node:v8';
import type { Clock, Timer } from './clock.ts';

const MUCH = 25_000;
const CLOSE_PERCENT = 30;
/** 40 would cost a tenth of the CPU of accepting. */
const LEAST_WIDE_PERCENT = 80;
const MOST_WIDE_PERCENT = 400;
/** Bodies that come and go between two collections while little is held. */
const ROOM_BYTES = 64 << 20;
const LOOK_MS = 5_000;

export function growthPercent(held: number, heapBytes: number): number {
  if (held >= MUCH) return CLOSE_PERCENT;
  const percent = Math.round((100 * ROOM_BYTES) / Math.max(1, heapBytes));
  return Math.min(MOST_WIDE_PERCENT, Math.max(LEAST_WIDE_PERCENT, percent));
}

const set = (percent: number): void => setFlagsFromString(`--heap-growing-percent=${percent}`);

/** Until it is known how much is held: before anything is read. */
export const boundHeapGrowth = (): void => set(CLOSE_PERCENT);

/** From now on, until it is disposed of. */
export function growWithHeld(clock: Clock, held: () => number): Disposable {
  let timer: Timer | null = null;
  const look = (): void => {
    set(growthPercent(held(), getHeapStatistics().used_heap_size));
    timer = clock.setTimer(LOOK_MS, look);
  };
  look();
  return { [Symbol.dispose]: () => timer?.cancel() };
}
