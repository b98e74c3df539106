/**
 * How a copy comes into being (protocol.md section 3): as primary from a front end, as shadow from its owner; and RESOLVE, the question what
 * became of it. Owns: that one id has one copy, that an abort wins over a late END, and that the shadow answers only for what it has durably.
 */

import type { Reply } from '../../common/message.ts';
import { type CopyId, compareEpochs, type Envelope, type SharedState, sameEpoch } from '../../common/message.ts';
import type { Grant, Refuse, Resolve, TrackingEvent } from '../../common/peer/messages.ts';
import { reply } from '../../common/smtp/replies.ts';
import type { CopyFacts, CopyState, Placement, StoredCopy } from '../store/database.ts';
import { formerOwner } from './aborting.ts';
import { armAge } from './ages.ts';
import { addWaiter, answerWaiters, standingOf } from './answers.ts';
import { type Copy, confirmedPlacements, freshState, merge, newCopy, roleOf, sharedState } from './copy.ts';
import { refetched } from './damage.ts';
import { refetchAtRestOpened, refetchedAtRest } from './damage-at-rest.ts';
import { demote } from './demotion.ts';
import { takesNothing } from './drain.ts';
import { waitNowhere } from './hop.ts';
import { ask, askEverybody, everybody } from './inquiry.ts';
import { noShadowReply } from './no-shadow.ts';
import { announceHeld, promote, tellHolders, tombstoneState } from './ownership.ts';
import { bodyComplete, createPrimary, finish, pickCandidate, startPlacing } from './placing.ts';
import { restEnded, restOpened } from './resting.ts';
import {
  addCopy,
  commit,
  dropCopy,
  early,
  type IncomingShadow,
  type Intake,
  late,
  needsShadow,
  note,
  type Placing,
  type Server,
  setState,
  type Turn,
  trustedNow,
  wrong,
} from './state.ts';
import { putTombstone } from './tombstones.ts';
import { transition } from './transitions.ts';

export interface IntakeOpening {
  readonly stream: number;
  readonly frontend: string;
  readonly id: CopyId;
  readonly try: number;
  readonly envelope: Envelope;
  readonly stored: StoredCopy | null;
}

/** OPEN of a front end: everything that can be refused is refused now, before the 354. */
export function intakeOpened(turn: Turn, opening: IntakeOpening): void {
  const { server } = turn;
  const refuse = (said: Reply, tryOther: boolean, more: Pick<Refuse, 'abortedThrough'> = {}): void => {
    early(turn, { kind: 'RefuseStream', stream: opening.stream, refuse: { reply: said, tryOther, ...more } });
    early(turn, { kind: 'DiscardBody', stream: opening.stream });
    late(turn, { copy: null, kind: 'Count', what: 'refused', label: 'open' });
  };
  if (server.pressure !== 'Normal') return refuse(reply('backPressure', { resource: server.pressedBy }), true);
  if (takesNothing(server)) return refuse(reply('shuttingDown'), true);
  if (server.intakeOf.has(opening.id)) return refuse(reply('localError'), true);
  const abortedThrough = server.tombstones.get(opening.id)?.abortedThrough ?? 0;
  if (abortedThrough >= opening.try) {
    transition(server.coverage, 'EndRefusedByTombstone', 'aborted', 'primary', 'aborted');
    return refuse(reply('shadowFailure'), false, server.document.siteLinks === undefined ? {} : { abortedThrough });
  }
  const shadows = server.document.policies.shadowRedundancy;
  if (shadows.rejectMessageOnShadowFailure && pickCandidate(turn, []) === null)
    return refuse(noShadowReply(turn, []), true);
  const intake: Intake = { ...opening, waiting: true, endedAtMs: null };
  server.intakes.set(opening.stream, intake);
  server.intakeOf.set(opening.id, opening.stream);
  early(turn, { kind: 'AcceptStream', stream: opening.stream });
  if (opening.stored !== null) return;
  const placing: Placing = {
    id: opening.id,
    purpose: 'shadow',
    epoch: { try: opening.try, term: 0, owner: server.me },
    attempts: [],
    end: null,
    phase: 'placing',
    waiting: new Map(),
  };
  startPlacing(turn, placing);
}

/** END of a front end: the copy exists from here on, as soon as its COMMIT is durable. */
export function intakeEnded(
  turn: Turn,
  stream: number,
  digest: string,
  sizeBytes: number,
  events: readonly TrackingEvent[],
): void {
  const { server } = turn;
  const intake = server.intakes.get(stream);
  if (intake === undefined) return early(turn, { kind: 'DiscardBody', stream });
  intake.endedAtMs = turn.nowMs;
  const placing = server.placings.get(intake.id);
  const existing = server.copies.get(intake.id);
  if (placing === undefined || server.tombstones.get(intake.id)?.kind === 'final')
    return heldOtherwise(turn, intake, placing);
  if ((server.tombstones.get(intake.id)?.abortedThrough ?? 0) >= intake.try)
    return heldOtherwise(turn, intake, placing, 'refused');
  // A lower try that is mine already needs no new copy; the front end asks what became of it.
  const isMine = existing?.state.epoch.owner === server.me;
  if (existing !== undefined && (isMine || existing.state.epoch.try >= intake.try || existing.facts.digest !== digest))
    return heldOtherwise(turn, intake, placing);
  const facts: CopyFacts = {
    id: intake.id,
    ancestor: null,
    kind: 'message',
    envelope: intake.envelope,
    digest,
    sizeBytes,
    acceptedAtMs: existing?.facts.acceptedAtMs ?? trustedNow(turn),
    takenFrom: null,
    events,
  };
  if (existing === undefined) {
    if (server.tombstones.delete(intake.id)) note(turn, { kind: 'forget', id: intake.id });
    createPrimary(turn, newCopy(facts, newState(placing)), stream);
  } else raiseTry(turn, existing, facts, placing, stream);
  bodyComplete(turn, placing, { digest, sizeBytes, events, atMs: turn.nowMs });
}

const newState = (placing: Placing): CopyState =>
  freshState({
    queue: 'submission',
    epoch: placing.epoch,
    standing: 'intake',
    abortedThrough: placing.epoch.try - 1,
  });

/** Row 6: this member held a lower try of the same message and now owns the higher one. */
function raiseTry(turn: Turn, existing: Copy, facts: CopyFacts, placing: Placing, stream: number): void {
  const { server } = turn;
  transition(server.coverage, 'TryRaised', existing.state.queue, 'primary', 'submission');
  waitNowhere(server.hops, existing);
  const state: CopyState = { ...existing.state, queue: 'submission', epoch: placing.epoch, placements: [] };
  server.held.get(existing.state.epoch.owner)?.delete(facts.id);
  const copy = newCopy(facts, state);
  copy.raisedFrom = existing.state.epoch.owner;
  server.copies.set(facts.id, copy);
  commit(turn, { kind: 'commit', facts, state, stream });
  armAge(turn, copy);
}

/** The id is known here in a way that this END cannot change: say so and let the front end ask. */
function heldOtherwise(
  turn: Turn,
  intake: Intake,
  placing: Placing | undefined,
  outcome: 'owned' | 'refused' = 'owned',
): void {
  const { server } = turn;
  server.intakes.delete(intake.stream);
  server.intakeOf.delete(intake.id);
  if (placing !== undefined) finish(turn, placing, null);
  early(turn, { kind: 'DiscardBody', stream: intake.stream });
  if (outcome === 'refused') transition(server.coverage, 'EndRefusedByTombstone', 'aborted', 'primary', 'aborted');
  if (!intake.waiting) return;
  const epoch = server.copies.get(intake.id)?.state.epoch ?? { try: intake.try, term: 0, owner: server.me };
  late(turn, {
    copy: intake.id,
    kind: 'AnswerStream',
    stream: intake.stream,
    result: {
      id: intake.id,
      epoch,
      outcome,
      digest: null,
      reply: outcome === 'refused' ? reply('shadowFailure') : null,
    },
  });
}

/** The front end vanished. Before END nothing was promised; after it the message goes its way (semantics.md R7). */
export function intakeLost(turn: Turn, stream: number): void {
  const { server } = turn;
  const intake = server.intakes.get(stream);
  if (intake === undefined) return;
  intake.waiting = false;
  const placing = server.placings.get(intake.id);
  if (placing?.end !== null && placing !== undefined) return;
  server.intakes.delete(stream);
  server.intakeOf.delete(intake.id);
  if (placing !== undefined) finish(turn, placing, null);
  early(turn, { kind: 'DiscardBody', stream });
  answerWaiters(turn, intake.id);
}

// --- as a shadow -----------------------------------------------------------------------------------------------------

/** The same bytes, or the report of another maker. */
export type HeldAs = 'held' | 'heldOtherwise';

export interface ShadowOpening extends IncomingShadow {
  readonly stored: StoredCopy | null;
}

export function shadowOpened(turn: Turn, opening: ShadowOpening): void {
  const { server } = turn;
  const refuse = (said: Reply, held: HeldAs | null = null): void => {
    const { id, stream } = opening;
    const refusal = { reply: said, tryOther: true };
    // The sender counts on what is held here, or gives its own up: not before it is durable (seed 367).
    if (held !== null) late(turn, { copy: id, kind: 'RefuseStream', stream, refuse: { ...refusal, [held]: true } });
    else early(turn, { kind: 'RefuseStream', stream, refuse: refusal });
    early(turn, { kind: 'DiscardBody', stream: opening.stream });
  };
  const sameBoundary =
    server.boundary.some((member) => member.name === opening.member) || wrong(turn, 'shadow-outside-boundary');
  // Only the owner places a copy of what it owns, inside its boundary (semantics.md S14).
  const mayPlace = opening.state.epoch.owner === opening.identity || wrong(turn, 'anybody-places');
  if (!sameBoundary) return refuse(reply('localError'));
  if (refetchAtRestOpened(turn, opening, refuse)) return;
  // Whoever has the bytes may send what is damaged here.
  if (server.damaged.has(opening.id) && server.copies.get(opening.id)?.facts.digest === opening.state.digest) {
    server.incoming.set(opening.stream, { ...opening, isRefetch: true });
    return early(turn, { kind: 'AcceptStream', stream: opening.stream });
  }
  if (opening.purpose === 'rest') return restOpened(turn, opening, refuse);
  if (!mayPlace) return refuse(reply('localError'));
  if (server.pressure !== 'Normal' || takesNothing(server))
    return refuse(reply('backPressure', { resource: server.pressedBy || 'leaving' }));
  // protocol.md 8: who has something else says what; the owner shall not go on asking for a shadow of what is done.
  const tombstone = server.tombstones.get(opening.id);
  if (opening.stored !== null) {
    refuse(reply('localError'));
    return sayFinal(turn, opening, { ...sharedState(opening.stored.facts, opening.stored.state), final: true });
  }
  if (refusedByTombstone(turn, opening)) {
    refuse(reply('shadowFailure'));
    if (tombstone?.kind === 'final') sayFinal(turn, opening, tombstoneState(tombstone));
    return;
  }
  server.incoming.set(opening.stream, { ...opening, ofHeld: server.copies.has(opening.id) });
  early(turn, { kind: 'AcceptStream', stream: opening.stream });
}

function sayFinal(turn: Turn, opening: IncomingShadow, state: SharedState): void {
  const grant: Grant = { items: [{ id: opening.id, granted: true, verdict: 'final', state }] };
  late(turn, { copy: opening.id, kind: 'Send', to: opening.member, frame: { kind: 'GRANT', grant } });
}

function refusedByTombstone(turn: Turn, opening: IncomingShadow): boolean {
  const tombstone = turn.server.tombstones.get(opening.id);
  if (tombstone === undefined || wrong(turn, 'late-shadow-resurrects')) return false;
  if (tombstone.kind === 'final') return true;
  // Only intake can be aborted (protocol.md 6d): what was released elsewhere, or taken over, may need this member as its shadow.
  return opening.state.standing === 'intake' && tombstone.abortedThrough >= opening.state.epoch.try;
}

export function shadowEnded(
  turn: Turn,
  stream: number,
  digest: string,
  sizeBytes: number,
  events: readonly TrackingEvent[],
): void {
  const { server } = turn;
  const opening = server.incoming.get(stream);
  if (opening === undefined) return early(turn, { kind: 'DiscardBody', stream });
  server.incoming.delete(stream);
  const epoch = opening.state.epoch;
  const answer = (outcome: 'stored' | 'refused' | 'owned'): void =>
    late(turn, {
      copy: wrong(turn, 'shadow-confirms-before-sync') ? ('' as CopyId) : opening.id,
      kind: 'AnswerStream',
      stream,
      result: { id: opening.id, epoch, outcome, digest, reply: null },
    });
  const existing = server.copies.get(opening.id);
  if (existing !== undefined && server.damaged.has(opening.id) && existing.facts.digest === digest) {
    refetched(turn, existing, stream);
    // Who places it counts on what is held at its epoch (protocol.md 8; seed 12486): the bytes came with it, the rest is as if they had been here.
    const isPlaced = epoch.owner === opening.identity && !sameEpoch(existing.state.epoch, epoch);
    return answer(isPlaced ? heldAlready(turn, existing, opening, digest) : 'stored');
  }
  if (refetchedAtRest(turn, opening, digest, sizeBytes, events, stream)) return answer('stored');
  // What it was for came to rest, or was mended, meanwhile: nothing new comes to be from it.
  if (opening.isRefetch === true) {
    early(turn, { kind: 'DiscardBody', stream });
    return answer('owned');
  }
  if (opening.purpose !== 'rest' && refusedByTombstone(turn, opening)) {
    transition(server.coverage, 'EndRefusedByTombstone', 'aborted', 'shadow', 'aborted');
    early(turn, { kind: 'DiscardBody', stream });
    return answer('refused');
  }
  if (existing !== undefined && !isOtherMakersDsn(server, existing, opening, digest)) {
    early(turn, { kind: 'DiscardBody', stream });
    return answer(heldAlready(turn, existing, opening, digest));
  }
  // What was held when the stream was opened, or came since, was removed or came to rest before it ended: the owner of another epoch has finished it, and need not
  // wait for whoever made it too to say so (seed 1183: a shadow of one who had heard it himself, and told nobody).
  if (existing === undefined && opening.ofHeld === true) {
    early(turn, { kind: 'DiscardBody', stream });
    return answer('refused');
  }
  const registered = existing?.registered;
  if (existing !== undefined) dropCopy(turn, existing);
  const facts = receivedFacts(turn, opening, { digest, sizeBytes, events });
  if (opening.purpose === 'rest') {
    restEnded(turn, opening, facts, stream);
    return answer('stored');
  }
  transition(server.coverage, 'ShadowReceived', '-', 'shadow', 'shadow');
  const copy = newCopy(facts, shadowState(opening.state));
  addCopy(server, copy);
  if (server.tombstones.delete(opening.id)) note(turn, { kind: 'forget', id: opening.id });
  commit(turn, { kind: 'commit', facts: copy.facts, state: copy.state, stream });
  late(turn, { copy: opening.id, kind: 'Track', event: 'HARECEIVE', facts, id: opening.id, peer: opening.member });
  answer('stored');
  // Shadows of the report that made room wait for its owner from now on (seed 800194: nobody told them anything again).
  if (registered !== undefined) tellHolders(turn, facts, copy.state, registered, 'owner');
  // Its owner answers when its own is durable.
  if (facts.kind === 'dsn') announceHeld(turn, copy);
}

/** As its owner has it: what it went through, and what was decided about it, comes with it. */
function shadowState({ epoch, standing, abortedThrough, recipients, crashes, suspensions }: SharedState): CopyState {
  const decided: Partial<CopyState> = { crashCount: crashes ?? 0, suspended: suspensions ?? false };
  return freshState({ queue: 'shadow', epoch, standing, abortedThrough, recipients, ...decided });
}

function heldAlready(turn: Turn, copy: Copy, opening: IncomingShadow, digest: string): 'stored' | 'owned' {
  if (reparent(turn, copy, opening, digest)) return 'stored';
  sayOwner(turn, copy, opening);
  return 'owned';
}

function receivedFacts(
  turn: Turn,
  opening: IncomingShadow,
  end: Pick<CopyFacts, 'digest' | 'sizeBytes' | 'events'>,
): CopyFacts {
  const { id, envelope, identity, openCounter, nonce, state } = opening;
  const { ancestor, kind } = state;
  const takenFrom = { identity, openCounter, nonce };
  return { id, ancestor, kind, envelope, ...end, acceptedAtMs: trustedNow(turn), takenFrom };
}

/** protocol.md 8: of two makers of one report the lower hears whose it is, and waits no longer for a shadow that nobody will be (seed 10090). */
function sayOwner(turn: Turn, { facts, state }: Copy, { member, state: theirs }: IncomingShadow): void {
  const isMine = state.epoch.owner === turn.server.me && state.standing === 'released';
  if (facts.kind !== 'dsn' || !isMine || compareEpochs(state.epoch, theirs.epoch) <= 0) return;
  const said = { id: facts.id, verdict: 'owner', state: sharedState(facts, state) } as const;
  late(turn, { copy: facts.id, kind: 'Send', to: member, frame: { kind: 'STATE', state: said } });
}

/** Two members made the same DSN (one id, other bytes): the one of the owner stays, the other makes room for it. */
function isOtherMakersDsn(server: Server, existing: Copy, opening: IncomingShadow, digest: string): boolean {
  if (server.mutants.has('other-bytes-protect')) return false;
  const isSame = existing.facts.kind === 'dsn' && existing.facts.digest !== digest && existing.delivering.size === 0;
  return isSame && compareEpochs(opening.state.epoch, existing.state.epoch) >= 0;
}

/** The copy is here already: it becomes the sender's shadow when the epoch says so and the bytes are the same (protocol.md 7, 8). */
function reparent(turn: Turn, existing: Copy, opening: IncomingShadow, digest: string): boolean {
  const { server } = turn;
  const order = compareEpochs(opening.state.epoch, existing.state.epoch);
  if ((existing.facts.digest !== digest && !wrong(turn, 'other-bytes-protect')) || order < 0) return false;
  if (roleOf(existing.state, server.me) === 'primary') {
    // A try that may still be given up ends no delivery under way; once released its owner claims this copy (protocol.md 7; seed 3298 under a dose).
    const mayBeGivenUp = existing.delivering.size > 0 && opening.state.standing === 'intake';
    return order > 0 && !mayBeGivenUp && demote(turn, existing, { ...opening.state, digest });
  }
  transition(server.coverage, 'AlreadyHeld', 'shadow', 'shadow', 'shadow');
  const merged = merge(existing.state, opening.state);
  const copy = existing;
  if (order > 0 && existing.state.epoch.owner !== merged.epoch.owner) copy.raisedFrom ??= existing.state.epoch.owner;
  server.held.get(copy.state.epoch.owner)?.delete(copy.facts.id);
  copy.state = merged;
  copy.recovered = null;
  const held = server.held.get(merged.epoch.owner) ?? new Set<CopyId>();
  held.add(copy.facts.id);
  server.held.set(merged.epoch.owner, held);
  commit(turn, { kind: 'state', id: copy.facts.id, state: merged });
  return sameEpoch(merged.epoch, opening.state.epoch);
}

export function shadowLost(turn: Turn, stream: number): void {
  if (turn.server.incoming.delete(stream)) early(turn, { kind: 'DiscardBody', stream });
}

// --- RESOLVE ---------------------------------------------------------------------------------------------------------

/** What became of `id`? A primary asks its candidates to abort; a front end asks its primary. */
export function resolveAsked(
  turn: Turn,
  from: string,
  role: 'transport' | 'frontend',
  resolve: Resolve,
  stored: StoredCopy | null,
): void {
  const { server } = turn;
  const { id, through } = resolve;
  const copy = server.copies.get(id);
  if (copy !== undefined && role === 'transport') notHeldBy(turn, copy, from);
  if (stored !== null) {
    transition(server.coverage, 'AbortDenied', stored.state.queue, roleOf(stored.state, server.me), stored.state.queue);
    return late(turn, {
      copy: id,
      kind: 'Send',
      to: from,
      frame: {
        kind: 'RESOLVED',
        resolved: { id, through, answer: 'final', epoch: stored.state.epoch, digest: stored.facts.digest },
      },
    });
  }
  if (
    role === 'transport' &&
    copy !== undefined &&
    copy.state.queue === 'shadow' &&
    (copy.state.standing === 'intake' || wrong(turn, 'abort-of-released')) &&
    (copy.state.epoch.try <= through || wrong(turn, 'abort-kills-higher-try')) &&
    (copy.state.epoch.owner === server.peers.get(from)?.identity || wrong(turn, 'abort-kills-higher-try'))
  ) {
    transition(server.coverage, 'AbortAcknowledged', 'shadow', 'shadow', 'aborted');
    server.copies.delete(id);
    server.held.get(copy.state.epoch.owner)?.delete(id);
    if (!wrong(turn, 'late-shadow-resurrects')) commit(turn, { kind: 'remove', id });
    const former = formerOwner(turn, copy);
    leaveTombstone(turn, id, through, copy.state.epoch, former);
    for (const { member } of former) if (server.peers.has(member)) ask(turn, id, through, member);
  } else if (
    role === 'transport' &&
    copy?.state.queue === 'shadow' &&
    copy.state.epoch.try <= through &&
    copy.state.epoch.owner === server.peers.get(from)?.identity
  ) {
    // The owner of a later try gave up what an earlier one had released (protocol.md 6d).
    promote(turn, copy);
  } else if (copy === undefined && isUnknown(turn, id, through, role) && !intakeUndecided(turn, id)) {
    transition(server.coverage, 'AbortAcknowledgedUnknown', '-', 'primary', 'aborted');
    const asked = role === 'frontend' && !wrong(turn, 'restart-forgets-candidates') ? everybody(turn, through) : [];
    const owner = (role === 'transport' ? server.peers.get(from)?.identity : null) ?? server.me;
    if (role === 'frontend' || !wrong(turn, 'refusal-without-tombstone'))
      leaveTombstone(turn, id, through, { try: through, term: 0, owner }, asked);
    if (role === 'frontend') askEverybody(turn, id, through);
  } else if (copy !== undefined && standingOf(turn, id, through, role).answer !== 'open') {
    transition(server.coverage, 'AbortDenied', copy.state.queue, roleOf(copy.state, server.me), copy.state.queue);
  }
  addWaiter(turn, id, { from, role, through, untilMs: turn.nowMs + Math.min(resolve.deadlineMs, 60_000) });
  answerWaiters(turn, id);
}

/** A member that asks what became of `id` has none of it, or gave up what it had with a higher try of its own: nobody counts on it (seed 8247). */
function notHeldBy(turn: Turn, copy: Copy, member: string): void {
  const { server } = turn;
  const identity = server.peers.get(member)?.identity;
  const { epoch, placements } = copy.state;
  const left = placements.filter((placement) => placement.identity !== identity || placement.status !== 'confirmed');
  if (epoch.owner !== server.me || left.length === placements.length) return;
  setState(turn, copy, { ...copy.state, placements: left }, 'lazy');
  if (confirmedPlacements(copy.state).length === 0) needsShadow(server, copy.facts.id);
}

/** What this member refused as somebody's candidate says nothing about the tries it was the primary of (protocol.md 6e). */
function isUnknown(turn: Turn, id: CopyId, through: number, role: 'transport' | 'frontend'): boolean {
  if (standingOf(turn, id, through, role).answer === 'unknown') return true;
  const tombstone = turn.server.tombstones.get(id);
  return role === 'frontend' && tombstone?.kind === 'aborted' && tombstone.epoch.owner !== turn.server.me;
}

/** A body of that id is still arriving from another front end connection. */
const intakeUndecided = (turn: Turn, id: CopyId): boolean => turn.server.intakeOf.has(id);

function leaveTombstone(
  turn: Turn,
  id: CopyId,
  through: number,
  epoch: SharedState['epoch'],
  placements: readonly Placement[] = [],
): void {
  const { me, tombstones } = turn.server;
  const known = tombstones.get(id);
  const abortedThrough = Math.max(through, known?.kind === 'aborted' ? known.abortedThrough : 0);
  // What is still open about a try of mine stays open when another owner aborts its own.
  const kept = known?.kind === 'aborted' && known.epoch.owner === me && epoch.owner !== me ? known : null;
  const tombstone = { id, kind: 'aborted', epoch, abortedThrough, recipients: null, digest: null, placements } as const;
  putTombstone(turn, kept === null ? tombstone : { ...kept, abortedThrough }, commit);
}
