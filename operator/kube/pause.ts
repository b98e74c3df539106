/** Waiting on the clock port that a signal can cut short. */
import type { Clock } from '../../common/platform/clock.ts';

/** True after `delayMs`, false as soon as the signal aborts. */
export async function pause(clock: Clock, delayMs: number, signal: AbortSignal): Promise<boolean> {
  if (signal.aborted) return false;
  return await new Promise((resolve) => {
    const aborted = (): void => {
      timer.cancel();
      resolve(false);
    };
    const timer = clock.setTimer(delayMs, () => {
      signal.removeEventListener('abort', aborted);
      resolve(true);
    });
    signal.addEventListener('abort', aborted, { once: true });
  });
}
