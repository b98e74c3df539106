/**
 * How much the heap of V8 may grow between two full collections, by how much it holds. A full collection costs what lives, so a small heap
 * may nearly double (40 % would cost a tenth of the CPU of accepting); of a large one - a long queue, a resubmission - the garbage is what
 * counts, and there are many messages to each collection. Owns: that setting of the process.
 */
import { getHeapStatistics, setFlagsFromString } from 'node:v8';
import type { Clock, Timer } from '../../common/platform/clock.ts';

/** Of what is allocated, garbage among it: half way between two collections of a heap in which 64 MiB live. */
const LARGE_BYTES = 80 * 1024 * 1024;
const CLOSE_PERCENT = 30;
const WIDE_PERCENT = 80;
const LOOK_MS = 2_000;

const growthPercent = (usedBytes: number): number => (usedBytes >= LARGE_BYTES ? CLOSE_PERCENT : WIDE_PERCENT);

const set = (percent: number): void => setFlagsFromString(`--heap-growing-percent=${percent}`);

/** Until it is known how much is queued: before anything is read. */
export const boundHeapGrowth = (): void => set(CLOSE_PERCENT);

/** From now on, until it is disposed of. */
export function growWithHeap(clock: Clock): Disposable {
  let timer: Timer | null = null;
  const look = (): void => {
    set(growthPercent(getHeapStatistics().used_heap_size));
    timer = clock.setTimer(LOOK_MS, look);
  };
  look();
  return { [Symbol.dispose]: () => timer?.cancel() };
}
