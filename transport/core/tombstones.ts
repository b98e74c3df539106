/**
 * Tombstones: what is left of a copy whose body is gone or at rest while somebody must still be told (protocol.md 9). Owns: that one lives until every
 * placement has acknowledged it and every member has had the chance to ask - never merely for a time.
 */
import type { Tombstone } from '../store/database.ts';
import type { CoreWrite } from './events.ts';
import { note, type Turn } from './state.ts';
import { transition } from './transitions.ts';

export function putTombstone(turn: Turn, tombstone: Tombstone, how: (turn: Turn, write: CoreWrite) => void): void {
  turn.server.tombstones.set(tombstone.id, tombstone);
  how(turn, { kind: 'tombstone', tombstone });
}

/** Stores the tombstone with the placements that are left, or forgets it when none is. */
export function forgetIfAnswered(turn: Turn, tombstone: Tombstone): void {
  const { server } = turn;
  if (tombstone.placements.length > 0 || !everyMemberListed(turn) || keptForTries(tombstone)) {
    server.tombstones.set(tombstone.id, tombstone);
    note(turn, { kind: 'tombstone', tombstone });
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

/** An abort somebody else asked us for guards against a late OPEN of that try; it goes with the age timer. */
const keptForTries = (tombstone: Tombstone): boolean => tombstone.kind === 'aborted' && tombstone.digest === null;

export function everyMemberListed(turn: Turn): boolean {
  return turn.server.boundary.every((member) => turn.server.peers.get(member.name)?.listed === true);
}

/** Called when a member has told everything: tombstones that waited only for that can go. */
export function sweepTombstones(turn: Turn): void {
  if (!everyMemberListed(turn)) return;
  for (const tombstone of [...turn.server.tombstones.values()])
    if (tombstone.placements.length === 0) forgetIfAnswered(turn, tombstone);
}
