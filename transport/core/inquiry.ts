/**
 * protocol.md 6e: a front end asks for a try of which nothing is known here. Before a restart we may have sent its END to anybody, so every member must have
 * durably refused, or listed what it holds without naming it, before "aborted" may be said. Owns: whom to ask. What is still open is part of the tombstone, so
 * that it outlives the next restart as well.
 */
import type { CopyId } from '../../common/message.ts';
import type { Placement } from '../store/database.ts';
import { late, type Turn } from './state.ts';

/** Longer than any front end waits (protocol.md 5: 55 s, reply bound 60 s). */
const INQUIRY_MS = 60_000;

/** The placements of the tombstone; a member that was never met cannot hold anything of ours. */
export function everybody(turn: Turn, through: number): Placement[] {
  const { server } = turn;
  const epoch = { try: through, term: 0, owner: server.me };
  return server.boundary.flatMap(({ name: member }) => {
    const identity = server.known.get(member);
    return identity === undefined ? [] : [{ identity, member, epoch, status: 'unasked' as const }];
  });
}

/** Those who are connected are asked now; the others answer with their next list (protocol.md 9). */
export function askEverybody(turn: Turn, id: CopyId, through: number): void {
  const resolve = { id, through, deadlineMs: INQUIRY_MS };
  for (const { name: member } of turn.server.boundary)
    if (turn.server.peers.has(member))
      late(turn, { copy: id, kind: 'Send', to: member, frame: { kind: 'RESOLVE', resolve } });
}
