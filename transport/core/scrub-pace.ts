/**
 * How fast the queue database is looked at for damage (protocol.md 29). Owns: the arithmetic: every copy once per quarter of the hold time, between 0.5 and
 * 10 MB/s, a pass at most once per quarter. PURE.
 */

const MIN_BYTES_PER_S = 500_000;
const MAX_BYTES_PER_S = 10_000_000;
/** What is written meanwhile, and a process that is not always up. */
const MARGIN = 1.25;
/** A start has better things to read at first. */
const FIRST_MS = 60_000;

export const scrubPeriodMs = (holdTimeMs: number): number => holdTimeMs / 4;

/** `bytes`: of the whole pass. */
export function scrubRate(
  bytes: number,
  holdTimeMs: number,
): { readonly bytesPerS: number; readonly isTooSlow: boolean } {
  const wanted = (MARGIN * bytes * 1000) / scrubPeriodMs(holdTimeMs);
  const bytesPerS = Math.min(MAX_BYTES_PER_S, Math.max(MIN_BYTES_PER_S, wanted));
  return { bytesPerS, isTooSlow: wanted > MARGIN * MAX_BYTES_PER_S };
}

/** From now to the next pass; `sinceMs`: from the begin of the last one to now by the wall clock, null when there was none. A clock that jumped delays it by one period at most. */
export function scrubDelayMs(sinceMs: number | null, holdTimeMs: number): number {
  const periodMs = scrubPeriodMs(holdTimeMs);
  if (sinceMs === null) return Math.min(FIRST_MS, periodMs);
  return Math.min(periodMs, Math.max(Math.min(FIRST_MS, periodMs), periodMs - sinceMs));
}
