/** Elapsed time that wall-clock jumps cannot move (semantics.md S16). Owns: how it is persisted, and what time spent down may count. */
import type { Identity } from '../../common/message.ts';
import type { Contact } from '../../common/peer/messages.ts';
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
  newToo: new Set(),
});

export function saveClock(turn: Turn): void {
  const { trusted } = turn.server;
  trusted.savedWallMs = turn.wallMs;
  const value: SavedClock = { trustedMs: trustedNow(turn), wallMs: turn.wallMs, isNew: trusted.isNew };
  note(turn, { kind: 'fact', key: CLOCK_FACT, value });
}

/**
 * Time spent down counts only as far as a peer agrees (semantics.md S16), by the time it has seen pass: its wall clock may have jumped as well as ours before
 * we went down (seed 2993: two wrong clocks emptied a Safety Net). A new queue database takes the time of the first peer that knows: ahead of it it would give up
 * what is handed to it, and think that requests are over (seeds 30025, 60039); behind it, it would date what it delivers before the window of the failover that loses
 * it (seed 60058). Nobody believes a peer that does not know the time itself (seed 60051).
 */
export function witness(turn: Turn, identity: Identity, contact: Pick<Contact, 'trustedMs' | 'timeUnknown'>): void {
  const { trusted } = turn.server;
  const aheadMs = contact.trustedMs - trustedNow(turn);
  if (contact.timeUnknown === true && !wrong(turn, 'new-clock-believed')) return neitherKnows(turn, identity, aheadMs);
  if (trusted.isNew) return timeIsKnown(turn, aheadMs);
  if (trusted.unwitnessedMs <= 0) return;
  const agreed = wrong(turn, 'downtime-without-witness')
    ? trusted.unwitnessedMs
    : Math.max(0, Math.min(trusted.unwitnessedMs, aheadMs));
  timeIsKnown(turn, agreed);
}

function timeIsKnown(turn: Turn, agreedMs: number): void {
  const { trusted } = turn.server;
  trusted.baseMs += agreedMs;
  trusted.unwitnessedMs = 0;
  trusted.isNew = false;
  saveClock(turn);
}

/** The earlier of the two is the safe one; once, or both would fall behind by what each frame takes. */
function neitherKnows(turn: Turn, identity: Identity, aheadMs: number): void {
  const { trusted } = turn.server;
  if (!trusted.isNew) return;
  if (!trusted.newToo.has(identity)) trusted.baseMs += Math.min(0, aheadMs);
  trusted.newToo.add(identity);
  beginTogether(turn);
}

/** Where every member of the boundary is new, or there is no other, there is nothing older that a wrong clock could make expire. */
export function beginTogether(turn: Turn): void {
  const { boundary, known, trusted } = turn.server;
  if (!trusted.isNew) return;
  const isNew = (name: string): boolean => {
    const identity = known.get(name);
    return identity !== undefined && trusted.newToo.has(identity);
  };
  if (boundary.every(({ name }) => isNew(name))) timeIsKnown(turn, 0);
}
