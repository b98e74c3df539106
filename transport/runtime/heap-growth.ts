/**
 * How much the heap of V8 may grow between two full collections, by how much is queued. A full collection costs what lives, so with a
 * short queue it may nearly double (40 % would cost a tenth of the CPU of accepting); with a long one the garbage is what counts, and
 * there are many messages to each collection. Owns: that setting of the process. A start does not know yet how much is queued.
 */
import { setFlagsFromString } from 'node:v8';
import type { Clock, Timer } from '../../common/platform/clock.ts';

const LONG_QUEUE = 25_000;
const CLOSE_PERCENT = 30;
const WIDE_PERCENT = 80;
const LOOK_MS = 5_000;

export const growthPercent = (queued: number): number => (queued >= LONG_QUEUE ? CLOSE_PERCENT : WIDE_PERCENT);

const set = (percent: number): void => setFlagsFromString(`--heap-growing-percent=${percent}`);

/** Until it is known how much is queued: before anything is read. */
export const boundHeapGrowth = (): void => set(CLOSE_PERCENT);

/** From now on, until it is disposed of. */
export function growWithQueue(clock: Clock, queued: () => number): Disposable {
  let timer: Timer | null = null;
  const look = (): void => {
    set(growthPercent(queued()));
    timer = clock.setTimer(LOOK_MS, look);
  };
  look();
  return { [Symbol.dispose]: () => timer?.cancel() };
}
