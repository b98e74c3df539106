/**
 * protocol.md 6e: a front end asks for a try of which nothing is known here. Before a restart we may have sent its END to anybody, so every member must have
 * durably refused before "aborted" may be said. That its list does not name the copy is not enough: it may have taken it over. The
 * same question goes to the candidates of an abort. Owns: whom to ask. What is still
 * open is part of the tombstone, so that it outlives the next restart as well.
 */
import type { CopyId, Identity } from '../../common/message.ts';
import type { Resolved, ResolvedAnswer } from '../../common/peer/messages.ts';
import type { Placement } from '../store/database.ts';
import { commit, DEADLINES, late, note, type Placing, type Turn, wrong } from './state.ts';
import { GUARD_MS, putTombstone } from './tombstones.ts';

/** Longer than any front end waits (protocol.md 5: 55 s, reply bound 60 s). */
const INQUIRY_MS = 60_000;

/** No owner of ours: a front end that asks is not answered from it, everybody is asked anew. */
const NOBODY = 'NOBODY' as Identity;

/** Stands for the queue database of a member that this life has not met: what was seen of it before may have been lost with a power cut. */
const UNMET = '' as Identity;

/** The placements of the tombstone: every member of the boundary. */
export function everybody(turn: Turn, through: number): Placement[] {
  const { server } = turn;
  const epoch = { try: through, term: 0, owner: server.me };
  const isAsked = (name: string): boolean => server.peers.has(name) || !wrong(turn, 'asks-only-who-is-there');
  const asked = server.boundary.filter(({ name }) => isAsked(name));
  const placements: Placement[] = asked.map(({ name: member }) => ({
    identity: server.known.get(member) ?? UNMET,
    member,
    epoch,
    status: 'unasked',
  }));
  // A new queue database cannot refuse for the one that was lost in its place a moment ago: that one may have delivered it.
  for (const [identity, { member, sinceMs }] of server.lost)
    if (turn.nowMs - sinceMs < GUARD_MS) placements.push({ identity, member, epoch, status: 'unasked' });
  return placements;
}

/** Those who are connected are asked now, the others when they come back. */
export function askEverybody(turn: Turn, id: CopyId, through: number): void {
  for (const { name: member } of turn.server.boundary)
    if (turn.server.peers.has(member)) ask(turn, id, through, member);
}

export function ask(turn: Turn, id: CopyId, through: number, member: string): void {
  const resolve = { id, through, deadlineMs: INQUIRY_MS };
  late(turn, { copy: id, kind: 'Send', to: member, frame: { kind: 'RESOLVE', resolve } });
}

export function repeatInquiries(turn: Turn, member: string, identity: Identity): void {
  const { server } = turn;
  const isFor = (placement: Placement): boolean =>
    placement.status === 'unasked' &&
    placement.member === member &&
    (placement.identity === identity || placement.identity === UNMET);
  for (const tombstone of server.tombstones.values()) {
    if (!tombstone.placements.some(isFor)) continue;
    const placements = tombstone.placements.map((placement) =>
      isFor(placement) ? { ...placement, identity } : placement,
    );
    const met = { ...tombstone, placements };
    server.tombstones.set(met.id, met);
    note(turn, { kind: 'tombstone', tombstone: met });
    ask(turn, met.id, met.abortedThrough, member);
  }
}

/** Answers of a member that has the copy, or had it and finished it. */
const HELD: ReadonlySet<ResolvedAnswer> = new Set(['stored', 'owned', 'protected', 'unprotected', 'final']);

/** A refusal is recorded with the tombstone (placing.ts); here is what the other answers mean. */
export function inquiryAnswered(turn: Turn, member: string, { id, answer }: Resolved): void {
  if (HELD.has(answer)) foundElsewhere(turn, id);
  else if (answer !== 'aborted') askAgain(turn, member, id);
}

/** It could not say within its deadline. */
function askAgain(turn: Turn, member: string, id: CopyId): void {
  const identity = turn.server.peers.get(member)?.identity;
  const tombstone = turn.server.tombstones.get(id);
  if (tombstone?.placements.some((entry) => entry.identity === identity && entry.status === 'unasked') === true)
    ask(turn, id, tombstone.abortedThrough, member);
}

/** A member holds it, or finished it: nothing was aborted here. Who asks again starts anew. */
function foundElsewhere(turn: Turn, id: CopyId): void {
  const tombstone = turn.server.tombstones.get(id);
  if (tombstone?.kind !== 'aborted' || !tombstone.placements.some(({ status }) => status === 'unasked')) return;
  // What was promised to another owner as its candidate stays promised: a late END of that try must not be taken.
  const { abortedThrough } = tombstone;
  const kept = { ...tombstone, epoch: { try: abortedThrough, term: 0, owner: NOBODY }, placements: [] };
  putTombstone(turn, kept, commit);
}

// --- a primary asks its candidates (protocol.md 6b) ------------------------------------------------------------

export function sendResolve(turn: Turn, placing: Placing, member: string): void {
  const resolve = { id: placing.id, through: placing.epoch.try, deadlineMs: DEADLINES.resolveCapMs };
  late(turn, { copy: placing.id, kind: 'Send', to: member, frame: { kind: 'RESOLVE', resolve } });
}

/** Asks again whoever came back while an abort waits for it. */
export function repeatResolves(turn: Turn, member: string): void {
  const identity = turn.server.peers.get(member)?.identity;
  for (const placing of turn.server.placings.values())
    if (placing.phase === 'aborting' && identity !== undefined && placing.waiting.get(member) === identity)
      sendResolve(turn, placing, member);
}
