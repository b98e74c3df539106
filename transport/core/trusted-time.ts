/** Elapsed time that wall-clock jumps cannot move (semantics.md S16). Owns: how it is persisted, and what time spent down may count. */
import { note, type Turn, trustedNow, wrong } from './state.ts';

/** Fact under which elapsed time is persisted (semantics.md S16). */
export const CLOCK_FACT = 'clock';

export function saveClock(turn: Turn): void {
  const { trusted } = turn.server;
  trusted.savedWallMs = turn.wallMs;
  note(turn, { kind: 'fact', key: CLOCK_FACT, value: { trustedMs: trustedNow(turn), wallMs: turn.wallMs } });
}

/**
 * Time spent down counts only as far as a peer agrees (semantics.md S16), by the time it has seen pass: its wall clock may have jumped as well as ours before
 * we went down (seed 2993: two wrong clocks emptied a Safety Net).
 */
export function witness(turn: Turn, peerTrustedMs: number): void {
  const { trusted } = turn.server;
  if (trusted.unwitnessedMs <= 0) return;
  const agreed = wrong(turn, 'downtime-without-witness')
    ? trusted.unwitnessedMs
    : Math.max(0, Math.min(trusted.unwitnessedMs, peerTrustedMs - trustedNow(turn)));
  trusted.baseMs += agreed;
  trusted.unwitnessedMs = 0;
  saveClock(turn);
}
