/**
 * The clock port. Owns: the only way product code learns the time or waits.
 * Ages, deadlines and spans use `monotonicMs`; `wallMs` is only for humans, headers and file names
 * (semantics.md S16: a wall-clock jump never expires, discards or promotes anything).
 */
export interface Timer {
  /** Idempotent; after it returns the callback never runs. */
  cancel(): void;
}

export interface Clock {
  /** Milliseconds since an arbitrary fixed point; never goes back while the process lives. */
  monotonicMs(): number;
  /** Milliseconds since the Unix epoch as the machine believes; may jump. */
  wallMs(): number;
  /** Runs `callback` once, not before `delayMs` have passed. */
  setTimer(delayMs: number, callback: () => void): Timer;
}

export const systemClock: Clock = {
  monotonicMs: () => performance.now(),
  wallMs: () => Date.now(),
  setTimer: (delayMs, callback) => {
    const handle = setTimeout(callback, Math.max(0, Math.min(delayMs, 2_147_483_647)));
    return { cancel: () => clearTimeout(handle) };
  },
};
