/**
 * Tombstones: what is left of a copy whose body is gone or at rest while somebody must still be told (protocol.md 9). Owns: that one lives until every
 * placement has acknowledged it and every member has had the chance to ask - never merely for a time.
 */
import type { CopyId } from '../../common/message.ts';
import type { CopyFacts, CopyState, Tombstone } from '../store/database.ts';
import type { CoreWrite } from './events.ts';
import { commit, note, setTimer, type Turn, wrong } from './state.ts';
import { transition } from './transitions.ts';

/**
 * Twice the reply bound of 60 s (protocol.md 5). So long a front end may still ask, or a late OPEN or END of that try may arrive: nobody shall then be told
 * "unknown" about a copy that was aborted, or that became final and left nothing in a Safety Net.
 */
export const GUARD_MS = 120_000;
/** Guards that end together are looked at together. */
const GUARDS_EVERY_MS = 250;

export function putTombstone(turn: Turn, made: Tombstone, how: (turn: Turn, write: CoreWrite) => void): void {
  const tombstone = keep(turn, made);
  how(turn, { kind: 'tombstone', tombstone });
  if (tombstone.kind === 'final' && wrong(turn, 'tombstone-forgotten')) turn.server.tombstones.delete(tombstone.id);
  guard(turn, tombstone.id);
}

/** What is held of it, by the database as well. */
function keep({ server }: Turn, made: Tombstone): Tombstone {
  const tombstone = server.graves.keep(made, server.tombstones);
  server.tombstones.set(tombstone.id, tombstone);
  return tombstone;
}

/**
 * What another try finished: the OPEN or END of an earlier one may still be under way from a member that stood still, and that stream is not looked up in the
 * Safety Net (seed 30399: its shadow took the place of the entry at rest, and went with the abort of its try).
 */
export function rememberFinal(turn: Turn, facts: CopyFacts, state: CopyState): void {
  const { id, digest } = facts;
  const { epoch, abortedThrough, recipients } = state;
  if (epoch.try === 1 || turn.server.tombstones.has(id)) return;
  putTombstone(turn, { id, kind: 'final', epoch, abortedThrough, recipients, digest, placements: [] }, commit);
}

export function guard(turn: Turn, id: CopyId): void {
  const { guarded } = turn.server;
  // At the end again: `guarded` is in the order in which the guards end, and one timer does for all.
  guarded.delete(id);
  guarded.set(id, turn.nowMs + GUARD_MS);
  if (guarded.size === 1) setTimer(turn, GUARD_MS + 1, 'guard');
}

export function guardsOver(turn: Turn): void {
  const { guarded } = turn.server;
  for (const [id, untilMs] of guarded) {
    if (untilMs > turn.nowMs) return setTimer(turn, Math.max(untilMs - turn.nowMs + 1, GUARDS_EVERY_MS), 'guard');
    guarded.delete(id);
    guardOver(turn, id);
  }
}

function guardOver(turn: Turn, id: CopyId): void {
  const tombstone = turn.server.tombstones.get(id);
  if (tombstone === undefined) return;
  const placements = tombstone.placements.filter(({ identity }) => !turn.server.lost.has(identity));
  const isLess = placements.length < tombstone.placements.length;
  if (isLess || placements.length === 0) forgetIfAnswered(turn, isLess ? { ...tombstone, placements } : tombstone);
}

/** Stores the tombstone with the placements that are left, or forgets it when none is. */
export function forgetIfAnswered(turn: Turn, tombstone: Tombstone): void {
  const { server } = turn;
  const isOpen = tombstone.placements.length > 0 || !everyMemberListed(turn) || isAwaited(turn, tombstone.id);
  if (isOpen) {
    if (tombstone === server.tombstones.get(tombstone.id)) return;
    note(turn, { kind: 'tombstone', tombstone: keep(turn, tombstone) });
    return;
  }
  transition(
    server.coverage,
    'AllPlacementsAnswered',
    tombstone.kind === 'aborted' ? 'aborted' : 'removed',
    'primary',
    tombstone.kind === 'aborted' ? 'aborted' : 'removed',
  );
  server.tombstones.delete(tombstone.id);
  note(turn, { kind: 'forget', id: tombstone.id });
}

/** A front end may still ask for it, or a member that could not be reached must still be asked. */
function isAwaited(turn: Turn, id: CopyId): boolean {
  const { guarded, unasked } = turn.server;
  if (guarded.has(id)) return true;
  for (const copies of unasked.values()) if (copies.has(id)) return true;
  return false;
}

export function everyMemberListed(turn: Turn): boolean {
  return turn.server.boundary.every((member) => turn.server.peers.get(member.name)?.listed === true);
}

/** Called when a member has told everything: tombstones that waited only for that can go. */
export function sweepTombstones(turn: Turn): void {
  if (!everyMemberListed(turn)) return;
  for (const tombstone of [...turn.server.tombstones.values()])
    if (tombstone.placements.length === 0) forgetIfAnswered(turn, tombstone);
}

/** Something that held a tombstone back is over. */
export function lookAgain(turn: Turn, id: CopyId): void {
  const tombstone = turn.server.tombstones.get(id);
  if (tombstone !== undefined && tombstone.placements.length === 0) forgetIfAnswered(turn, tombstone);
}
