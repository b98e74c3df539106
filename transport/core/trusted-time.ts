/** Elapsed time that wall-clock jumps cannot move (semantics.md S16). Owns: how it is persisted, and what time spent down may count. */
import { note, type TrustedTime, type Turn, trustedNow, wrong } from './state.ts';

/** Fact under which elapsed time is persisted (semantics.md S16). */
export const CLOCK_FACT = 'clock';

export interface SavedClock {
  readonly trustedMs: number;
  readonly wallMs: number;
  readonly isNew?: boolean;
}

export const newTrusted = (
  saved: SavedClock | undefined,
  now: { readonly monotonicMs: number; readonly wallMs: number },
): TrustedTime => ({
  baseMs: saved?.trustedMs ?? now.wallMs,
  monotonicAtBaseMs: now.monotonicMs,
  unwitnessedMs: saved === undefined ? 0 : Math.max(0, now.wallMs - saved.wallMs),
  savedWallMs: saved?.wallMs ?? now.wallMs,
  isNew: saved?.isNew ?? saved === undefined,
});

export function saveClock(turn: Turn): void {
  const { trusted } = turn.server;
  trusted.savedWallMs = turn.wallMs;
  const value: SavedClock = { trustedMs: trustedNow(turn), wallMs: turn.wallMs, isNew: trusted.isNew };
  note(turn, { kind: 'fact', key: CLOCK_FACT, value });
}

/**
 * Time spent down counts only as far as a peer agrees (semantics.md S16), by the time it has seen pass: its wall clock may have jumped as well as ours before
 * we went down (seed 2993: two wrong clocks emptied a Safety Net). A new queue database that is ahead of its first peer goes back to that: under a wrong clock
 * it would give up what is handed to it, and think that requests are over (seeds 30025, 60039).
 */
export function witness(turn: Turn, peerTrustedMs: number): void {
  const { trusted } = turn.server;
  const aheadMs = peerTrustedMs - trustedNow(turn);
  if (trusted.isNew && aheadMs < 0) trusted.baseMs += aheadMs;
  if (!trusted.isNew && trusted.unwitnessedMs <= 0) return;
  const agreed = wrong(turn, 'downtime-without-witness')
    ? trusted.unwitnessedMs
    : Math.max(0, Math.min(trusted.unwitnessedMs, aheadMs));
  trusted.baseMs += agreed;
  trusted.unwitnessedMs = 0;
  trusted.isNew = false;
  saveClock(turn);
}
