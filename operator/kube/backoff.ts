/**
 * How long to wait before trying again. Pure: the randomness is handed in as a number. Doubles up to a limit, half of it chance, so that a
 * hundred callers that failed together do not come back together.
 */
export interface BackoffLimits {
  readonly firstMs: number;
  readonly maxMs: number;
}

/** `attempt` from 0; `fraction` in [0, 1). */
export function backoffMs({ firstMs, maxMs }: BackoffLimits, attempt: number, fraction: number): number {
  const fullMs = Math.min(maxMs, firstMs * 2 ** Math.min(attempt, 30));
  return fullMs / 2 + (fullMs / 2) * fraction;
}
