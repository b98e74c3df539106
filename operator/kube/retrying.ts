/**
 * Whether a call is sent again, and when. Pure. The rule that matters: what may have been done is repeated only when doing it twice is the
 * same as once (get, list, apply, merge patch, delete); a create or a replace is repeated only when the server surely did not do it.
 */
import { type BackoffLimits, backoffMs } from './backoff.ts';
import type { KubeFailure } from './failures.ts';

export interface RetryFacts {
  readonly failure: KubeFailure;
  readonly isIdempotent: boolean;
  /** Attempts made so far, at least 1. */
  readonly attempts: number;
  readonly maxRetries: number;
  readonly leftMs: number;
  readonly fraction: number;
}

export const CALL_BACKOFF: BackoffLimits = { firstMs: 100, maxMs: 5_000 };

/** Null: this is the answer. */
export function retryDelayMs(facts: RetryFacts): number | null {
  if (facts.attempts > facts.maxRetries) return null;
  const delayMs = wantedDelayMs(facts);
  // A wait that outlives the deadline is no wait: the caller learns the reason now.
  return delayMs === null || delayMs >= facts.leftMs ? null : delayMs;
}

function wantedDelayMs({ failure, isIdempotent, attempts, fraction }: RetryFacts): number | null {
  const ownMs = backoffMs(CALL_BACKOFF, attempts - 1, fraction);
  switch (failure.kind) {
    case 'tooManyRequests':
      // Spread over another tenth: Retry-After is the same second for everybody who was refused.
      return failure.retryAfterMs === null ? ownMs : failure.retryAfterMs * (1 + fraction / 10);
    case 'unavailable':
      return isIdempotent || !failure.perhapsDone ? ownMs : null;
    default:
      return null;
  }
}
