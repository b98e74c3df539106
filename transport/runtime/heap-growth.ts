/**
 * How much the heap of V8 may grow between two full collections, by how much is held: copies, and tombstones of what went lately. A full
 * collection costs what lives, so when little is held it may nearly double (40 % would cost a tenth of the CPU of accepting); with much the
 * garbage is what counts, and there are many messages to each collection. Owns: that setting of the process. A start does not know yet.
 */
import { setFlagsFromString } from 'node:v8';
import type { Clock, Timer } from '../../common/platform/clock.ts';

const MUCH = 25_000;
const CLOSE_PERCENT = 30;
const WIDE_PERCENT = 80;
const LOOK_MS = 5_000;

export const growthPercent = (held: number): number => (held >= MUCH ? CLOSE_PERCENT : WIDE_PERCENT);

const set = (percent: number): void => setFlagsFromString(`--heap-growing-percent=${percent}`);

/** Until it is known how much is held: before anything is read. */
export const boundHeapGrowth = (): void => set(CLOSE_PERCENT);

/** From now on, until it is disposed of. */
export function growWithHeld(clock: Clock, held: () => number): Disposable {
  let timer: Timer | null = null;
  const look = (): void => {
    set(growthPercent(held()));
    timer = clock.setTimer(LOOK_MS, look);
  };
  look();
  return { [Symbol.dispose]: () => timer?.cancel() };
}
