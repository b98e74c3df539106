/**
 * How tests wait for a state of another process: look, pause a little, look again, fail loudly at the deadline with the last reason.
 * The only place in the tests where time alone passes. A machine that stands still (a virtual one is paused, a disk hangs) stops what is waited for as well: of one
 * look no more than `MOST_PER_LOOK_MS` counts.
 */

const MOST_PER_LOOK_MS = 2_000;

export interface Patience {
  readonly deadlineMs: number;
  readonly everyMs?: number;
}

/** Resolves with the first value that is neither null nor false; an exception of `look` counts as "not yet". */
export async function until<T>(
  what: string,
  look: () => Promise<T | null | false> | T | null | false,
  { deadlineMs, everyMs = 25 }: Patience,
): Promise<T> {
  let [last, waitedMs, sinceMs] = ['not yet', 0, performance.now()];
  for (;;) {
    try {
      const value = await look();
      if (value !== null && value !== false) return value;
      last = 'not yet';
    } catch (error) {
      last = error instanceof Error ? error.message : String(error);
    }
    const nowMs = performance.now();
    waitedMs += Math.min(MOST_PER_LOOK_MS + everyMs, nowMs - sinceMs);
    sinceMs = nowMs;
    if (waitedMs >= deadlineMs) throw new Error(`waited ${deadlineMs} ms in vain for: ${what} (last: ${last})`);
    await new Promise<void>((resolve) => setTimeout(resolve, everyMs));
  }
}
