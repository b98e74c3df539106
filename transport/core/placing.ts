/**
 * Finding a shadow for one copy (semantics.md R3-R6, S8; protocol.md 6, 17). Owns: attempts, their deadlines, and what happens when they are used up.
 * The same search serves an intake (the client waits) and a copy that has no shadow (nobody waits).
 */

import type { MemberConfig } from '../../common/config.ts';
import { type CopyId, type Reply, sameEpoch } from '../../common/message.ts';
import type { Result } from '../../common/peer/messages.ts';
import { assert } from '../../common/platform/assert.ts';
import type { CopyState, Placement } from '../store/database.ts';
import { abortIntake, abortSettled } from './aborting.ts';
import { armAge } from './ages.ts';
import { answerIntake, answerWaiters, refuseIntake } from './answers.ts';
import { countAttempt } from './attempt-counts.ts';
import { type Copy, confirmedPlacements, IN_TRANSIT, register, sharedState, withPlacement } from './copy.ts';
import { noShadowReply } from './no-shadow.ts';
import { heldLate, placementAnswered, protectedNow, settle, tellProgress } from './ownership.ts';
import { type Candidate, nextCandidate } from './placement.ts';
import {
  type Attempt,
  addCopy,
  commit,
  DEADLINES,
  early,
  endSearch,
  late,
  needsShadow,
  type Placing,
  setState,
  setTimer,
  type Turn,
  wrong,
} from './state.ts';
import { transition } from './transitions.ts';

/** Starts the search; the body may still be arriving (`end` null). */
export function startPlacing(turn: Turn, placing: Placing): void {
  endSearch(turn, placing.id, null);
  turn.server.placings.set(placing.id, placing);
  if (placing.purpose === 'copy') turn.server.reshadowing += 1;
  nextAttempt(turn, placing);
}

export function mayReceive(turn: Turn, member: string): boolean {
  const peer = turn.server.peers.get(member);
  if (peer === undefined) return false;
  return peer.load === null || (peer.load.accepting && peer.load.backPressure === 'Normal');
}

/** Whom to try next, or null. Exported for the check before an intake is accepted at all. */
export function pickCandidate(
  turn: Turn,
  tried: readonly Attempt[],
  exclude: ReadonlySet<string> = NOBODY,
  from: MemberConfig = turn.server.self,
): string | null {
  const { server } = turn;
  const members = wrong(turn, 'shadow-outside-boundary')
    ? server.document.members.filter((member) => member.name !== server.name)
    : server.boundary;
  const { placings } = server;
  const able: Candidate[] = [];
  const prompt: Candidate[] = [];
  for (const { name, site, state } of members) {
    if (state !== 'active' || exclude.has(name) || !mayReceive(turn, name)) continue;
    const queued = server.peers.get(name)?.load?.queued ?? 0;
    const candidate = { member: name, site, queued, open: placings.openAt(name) };
    able.push(candidate);
    if (!isStalled(turn, name)) prompt.push(candidate);
  }
  // One that is slow to answer comes last, but a moment's pause of the only other disk is no reason to refuse mail: its END waits (6a).
  const healthy = prompt.length > 0 ? prompt : able;
  const policy = server.document.policies.shadowRedundancy;
  return nextCandidate({
    self: from,
    boundary: members,
    healthy,
    tried,
    policy: wrong(turn, 'local-before-remote') ? { ...policy, preference: 'LocalOnly' } : policy,
    draw: server.draw(),
  });
}

/** For what was accepted long ago: where policy would have it beside `from`, else anywhere - a second copy in the wrong site is better than none. */
export function pickHome(
  turn: Turn,
  exclude: ReadonlySet<string>,
  from: MemberConfig = turn.server.self,
): string | null {
  const preferred = pickCandidate(turn, [], exclude, from);
  if (preferred !== null) return preferred;
  const { server } = turn;
  const able = server.boundary.filter(
    ({ name, state }) => state === 'active' && !exclude.has(name) && mayReceive(turn, name),
  );
  return able[Math.floor(server.draw() * able.length)]?.name ?? null;
}

const NOBODY: ReadonlySet<string> = new Set();

/** Another holder is looked for: those that are confirmed already are no candidates. */
function holdersOf(turn: Turn, placing: Placing): ReadonlySet<string> {
  const copy = placing.purpose === 'copy' ? turn.server.copies.get(placing.id) : undefined;
  if (copy === undefined) return NOBODY;
  return new Set(confirmedPlacements(copy.state).map((placement) => placement.member));
}

/** A person wants it there, and only there; null: that member takes nothing now. */
function redirectedTo(turn: Turn, id: CopyId, holders: ReadonlySet<string>): string | null | undefined {
  const { server } = turn;
  const to = server.redirects.get(id);
  if (to === undefined || server.single.has(id) || server.moving.has(id)) return undefined;
  const isAble = server.boundary.some(({ name, state }) => name === to && state === 'active');
  return isAble && !holders.has(to) && mayReceive(turn, to) ? to : null;
}

/** Nobody waits for a copy of its own: one attempt a round anywhere when policy names no member. */
function nextMember(turn: Turn, placing: Placing, holders: ReadonlySet<string>): string | null {
  const wanted = placing.purpose === 'copy' ? redirectedTo(turn, placing.id, holders) : undefined;
  if (wanted !== undefined) return placing.attempts.length === 0 ? wanted : null;
  const member = pickCandidate(turn, placing.attempts, holders);
  return member === null && placing.purpose === 'copy' && placing.attempts.length === 0
    ? pickHome(turn, holders)
    : member;
}

function nextAttempt(turn: Turn, placing: Placing): void {
  const { server } = turn;
  const member = placing.phase === 'placing' ? nextMember(turn, placing, holdersOf(turn, placing)) : null;
  const peer = member === null ? undefined : server.peers.get(member);
  if (member === null || peer === undefined) return exhausted(turn, placing);
  server.nextAttempt += 1;
  const attempt: Attempt = {
    number: server.nextAttempt,
    member,
    site: server.document.members.find((entry) => entry.name === member)?.site ?? '',
    identity: peer.identity,
    status: 'opening',
    endSentAtMs: null,
    inDoubt: false,
  };
  server.placings.begin(placing, attempt);
  const copy = server.copies.get(placing.id);
  const intake = server.intakes.get(server.intakeOf.get(placing.id) ?? -1);
  const envelope = copy?.facts.envelope ?? intake?.envelope;
  assert(envelope !== undefined, 'placing without a copy or an intake', { id: placing.id });
  early(turn, {
    kind: 'OpenCandidate',
    id: placing.id,
    attempt: attempt.number,
    member,
    purpose: placing.purpose,
    envelope,
    state: copy === undefined ? intakeState(placing) : { ...sharedState(copy.facts, copy.state), epoch: placing.epoch },
  });
  // Two seconds an attempt; while the body arrives the clock starts with it (architecture.md section 8).
  if (placing.end !== null) setTimer(turn, DEADLINES.attemptMs, 'attempt', placing.id, attempt.number);
}

const intakeState = (placing: Placing) => ({
  id: placing.id,
  ancestor: null,
  kind: 'message' as const,
  epoch: placing.epoch,
  standing: 'intake' as const,
  abortedThrough: 0,
  digest: null,
  sizeBytes: 0,
  recipients: null,
  final: false,
});

/** The body is complete and its COMMIT handed to the log: END may go to whoever has answered OPEN-OK. */
export function bodyComplete(turn: Turn, placing: Placing, end: NonNullable<Placing['end']>): void {
  placing.end = end;
  setTimer(turn, DEADLINES.allAttemptsMs, 'placing', placing.id);
  const copy = wrong(turn, 'delivers-before-protected') ? turn.server.copies.get(placing.id) : undefined;
  if (copy !== undefined) settle(turn, copy);
  const current = placing.attempts.at(-1);
  if (current === undefined || current.status === 'failed') return nextAttempt(turn, placing);
  setTimer(turn, DEADLINES.attemptMs, 'attempt', placing.id, current.number);
  if (current.status === 'open') sendEnd(turn, placing, current);
}

function sendEnd(turn: Turn, placing: Placing, attempt: Attempt): void {
  assert(placing.end !== null, 'END before the body is complete', { id: placing.id });
  // protocol.md 6a: a peer that leaves an END unanswered gets no new one; it goes when the peer answers, or the attempt runs out unsent.
  if (isStalled(turn, attempt.member)) {
    turn.server.heldEnds.add(placing.id);
    return;
  }
  turn.server.placings.change(placing, attempt, { status: 'sentEnd', endSentAtMs: turn.nowMs });
  const { digest, sizeBytes, events } = placing.end;
  early(turn, { kind: 'EndCandidate', id: placing.id, attempt: attempt.number, digest, sizeBytes, events });
  if (wrong(turn, 'ack-before-shadow')) stored(turn, placing, attempt);
}

/** protocol.md 6a: it leaves an END unanswered. */
function isStalled({ server, nowMs }: Turn, member: string): boolean {
  const oldestMs = server.placings.oldestEndAt(member);
  return oldestMs !== null && nowMs - oldestMs > DEADLINES.unansweredEndMs;
}

/** The member answered something: ENDs that were held back for it may go, until it stalls again. */
function releaseHeldEnds(turn: Turn): void {
  const { server } = turn;
  if (server.heldEnds.size === 0) return;
  const held = [...server.heldEnds];
  server.heldEnds.clear();
  for (const id of held) {
    const placing = server.placings.get(id);
    const attempt = placing?.attempts.at(-1);
    if (placing?.phase === 'placing' && placing.end !== null && attempt?.status === 'open')
      sendEnd(turn, placing, attempt);
  }
}

function attemptOf(turn: Turn, id: CopyId, number: number): { placing: Placing; attempt: Attempt } | null {
  const placing = turn.server.placings.get(id);
  const attempt = placing?.attempts.find((entry) => entry.number === number);
  return placing === undefined || attempt === undefined ? null : { placing, attempt };
}

export function candidateOpened(turn: Turn, id: CopyId, number: number): void {
  const found = attemptOf(turn, id, number);
  if (found === null || found.attempt.status !== 'opening') return;
  turn.server.placings.change(found.placing, found.attempt, { status: 'open' });
  if (found.placing.end !== null && found.placing.phase === 'placing') sendEnd(turn, found.placing, found.attempt);
}

export function candidateRefused(turn: Turn, member: string, id: CopyId, number: number, refusal?: Reply): void {
  const found = attemptOf(turn, id, number);
  if (found === null) notHeld(turn, member, id);
  else {
    if (refusal !== undefined) found.attempt.refusal = refusal;
    attemptFailed(turn, found.placing, found.attempt, false);
  }
  releaseHeldEnds(turn);
}

/** The connection ended. With an END out it may hold the copy, else it cannot. */
export function candidateLost(turn: Turn, id: CopyId, number: number): void {
  const found = attemptOf(turn, id, number);
  if (found === null) return;
  // An END that timed out before stays in doubt: only a refusal or an answer clears that.
  const { attempt } = found;
  attemptFailed(turn, found.placing, attempt, attempt.inDoubt || attempt.status === 'sentEnd');
  releaseHeldEnds(turn);
}

/** An answer after the search was over: what was kept for this candidate is not needed. */
function notHeld(turn: Turn, member: string, id: CopyId): void {
  const identity = turn.server.peers.get(member)?.identity;
  if (identity !== undefined) placementAnswered(turn, id, identity);
}

export function attemptTimedOut(turn: Turn, id: CopyId, number: number): void {
  const found = attemptOf(turn, id, number);
  if (
    found === null ||
    (found.attempt.status !== 'opening' && found.attempt.status !== 'open' && found.attempt.status !== 'sentEnd')
  )
    return;
  const sentEnd = found.attempt.status === 'sentEnd';
  // After END a late confirmation is still welcome; before it the stream is useless.
  if (!sentEnd) early(turn, { kind: 'DropCandidate', id, attempt: number, reason: 'attempt deadline' });
  attemptFailed(turn, found.placing, found.attempt, sentEnd);
  releaseHeldEnds(turn);
}

function attemptFailed(turn: Turn, placing: Placing, attempt: Attempt, inDoubt: boolean): void {
  if (attempt.status === 'stored') return;
  const first = attempt.status !== 'failed';
  turn.server.placings.change(placing, attempt, { status: 'failed', inDoubt });
  if (!first) return;
  countAttempt(turn, placing, attempt, 'failed');
  if (placing.phase === 'placing' && attempt === placing.attempts.at(-1)) nextAttempt(turn, placing);
}

export function candidateResult(turn: Turn, member: string, id: CopyId, number: number, result: Result): void {
  resultOf(turn, member, id, number, result);
  releaseHeldEnds(turn);
}

function resultOf(turn: Turn, member: string, id: CopyId, number: number, result: Result): void {
  const found = attemptOf(turn, id, number);
  // The search is over, yet one more member holds the copy: it is a holder like any other.
  if (found === null) {
    if (result.outcome === 'stored') heldLate(turn, member, id, result.epoch);
    else if (result.outcome === 'refused') notHeld(turn, member, id);
    return;
  }
  const { placing, attempt } = found;
  const digestRight = result.digest === placing.end?.digest;
  const epochRight = sameEpoch(result.epoch, placing.epoch) || wrong(turn, 'any-answer-protects');
  // protocol.md 8: only "stored as shadow at exactly this epoch, digest equal" protects.
  const isStored = result.outcome === 'stored' || wrong(turn, 'any-answer-protects');
  if (isStored && (digestRight || wrong(turn, 'any-answer-protects')) && epochRight)
    return stored(turn, placing, attempt);
  if (result.reply !== null) attempt.refusal = result.reply;
  attemptFailed(turn, placing, attempt, false);
}

function stored(turn: Turn, placing: Placing, attempt: Attempt): void {
  const { server } = turn;
  const copy = server.copies.get(placing.id);
  if (placing.phase === 'aborting' || copy === undefined || !sameEpoch(copy.state.epoch, placing.epoch)) return;
  server.placings.change(placing, attempt, { status: 'stored' });
  const peer = server.peers.get(attempt.member);
  if (peer?.identity === attempt.identity) register(copy, attempt.member, peer);
  const placement: Placement = {
    identity: attempt.identity,
    member: attempt.member,
    epoch: placing.epoch,
    status: 'confirmed',
  };
  const wasIntake = copy.state.standing === 'intake';
  transition(
    server.coverage,
    wasIntake ? 'Protected' : 'ReshadowCommitted',
    copy.state.queue,
    'primary',
    copy.state.queue,
  );
  countAttempt(turn, placing, attempt, 'stored');
  late(turn, {
    copy: placing.id,
    kind: 'Track',
    event: 'HAREDIRECT',
    facts: copy.facts,
    id: placing.id,
    peer: attempt.member,
  });
  finish(turn, placing, attempt);
  setState(
    turn,
    copy,
    {
      ...copy.state,
      standing: 'released',
      unprotected: null,
      placements: withPlacement(otherHolders(placing, copy), placement),
    },
    'lazy',
  );
  server.single.delete(placing.id);
  server.moving.delete(placing.id);
  // A raised try may have been released before: its front end waits all the same.
  if (placing.purpose === 'shadow') {
    answerIntake(turn, copy, 'protected');
    answerWaiters(turn, placing.id);
  } else late(turn, { copy: null, kind: 'Count', what: 'reshadowed' });
  tellProgress(turn, copy, attempt.member);
  protectedNow(turn, copy);
}

/** Candidates that were sent END and may hold a copy stay known, so that they are told what becomes of it. */
export function otherHolders(placing: Placing, copy: Copy): readonly Placement[] {
  let placements = copy.state.placements;
  for (const attempt of placing.attempts)
    if (attempt.inDoubt || attempt.status === 'sentEnd')
      placements = withPlacement(placements, {
        identity: attempt.identity,
        member: attempt.member,
        epoch: placing.epoch,
        status: 'sentEnd',
      });
  return placements;
}

/** The search is over. */
export function finish(turn: Turn, placing: Placing, except: Attempt | null): void {
  endSearch(turn, placing.id, except);
}

/** The overall deadline, counted from the end of the body. */
export function placingOverdue(turn: Turn, id: CopyId): void {
  const placing = turn.server.placings.get(id);
  if (placing === undefined || placing.phase !== 'placing' || placing.end === null) return;
  if (turn.nowMs - placing.end.atMs < DEADLINES.allAttemptsMs - 1) return;
  const { placings } = turn.server;
  for (const attempt of placing.attempts)
    if (attempt.status === 'sentEnd') placings.change(placing, attempt, { inDoubt: true });
  exhausted(turn, placing);
}

/** All attempts of `placing` are used up, or its overall deadline has passed. */
function exhausted(turn: Turn, placing: Placing): void {
  const { server } = turn;
  if (placing.phase === 'aborting') return;
  if (placing.purpose === 'copy') {
    finish(turn, placing, null);
    const copy = server.copies.get(placing.id);
    if (copy !== undefined) setState(turn, copy, { ...copy.state, placements: otherHolders(placing, copy) }, 'lazy');
    return;
  }
  const reject = server.document.policies.shadowRedundancy.rejectMessageOnShadowFailure;
  if (placing.end === null) {
    // Nothing was sent an END: a plain refusal (protocol.md 5). With policy false the body goes on and is accepted alone.
    if (reject || !mayAcceptAlone(turn)) refuseIntake(turn, placing, noShadowReply(turn, placing.attempts));
    return;
  }
  const copy = server.copies.get(placing.id);
  assert(copy !== undefined, 'placing of a complete body without a copy', { id: placing.id });
  if (copy.state.standing === 'released') return keepReleased(turn, placing, copy);
  if (!reject && mayAcceptAlone(turn)) return acceptUnprotected(turn, placing, copy);
  abortIntake(turn, placing, copy);
}

/** protocol.md 2: a member alone needs contact within three heartbeats, unless it is the only one by the document. */
function mayAcceptAlone(turn: Turn): boolean {
  const { server } = turn;
  if (server.boundary.length === 0 || wrong(turn, 'accepts-alone-unseen')) return true;
  const span = 3 * server.document.policies.shadowRedundancy.heartbeatFrequencyMs;
  for (const member of server.boundary) {
    const heard = server.lastHeardMs.get(member.name);
    if (heard !== undefined && turn.nowMs - heard <= span) return true;
  }
  return false;
}

function acceptUnprotected(turn: Turn, placing: Placing, copy: Copy): void {
  const { server } = turn;
  finish(turn, placing, null);
  transition(server.coverage, 'AcceptedUnprotected', copy.state.queue, 'primary', copy.state.queue);
  const state: CopyState = {
    ...copy.state,
    standing: 'released',
    unprotected: 'no shadow could be had',
    placements: otherHolders(placing, copy),
  };
  setState(turn, copy, state, 'commit');
  needsShadow(server, placing.id);
  answerIntake(turn, copy, 'unprotected');
  answerWaiters(turn, placing.id);
  protectedNow(turn, copy);
}

/** A higher try of what an earlier try had released cannot be aborted (protocol.md 6d): it stays, and the front end hears nothing. */
function keepReleased(turn: Turn, placing: Placing, copy: Copy): void {
  finish(turn, placing, null);
  setState(turn, copy, { ...copy.state, placements: otherHolders(placing, copy) }, 'lazy');
  needsShadow(turn.server, placing.id);
  abortSettled(turn, placing, 'silent');
  protectedNow(turn, copy);
}

/** Searches for copies nobody waits for that run at once: re-protection of thousands of copies a second, and beside live mail hardly felt by it. */
const RESHADOWS = { besideMail: 64, alone: 192 } as const;

/** Gives copies that rest on one database only a shadow, and those whose holder is drained another one (semantics.md R6, S8). */
export function reshadow(turn: Turn): void {
  const { server } = turn;
  if (wrong(turn, 'promoted-not-reshadowed')) return;
  const atOnce = server.intakes.size > 0 ? RESHADOWS.besideMail : RESHADOWS.alone;
  while (server.reshadowing < atOnce) {
    const id = server.shadowless.take();
    if (id === undefined) return;
    const copy = server.copies.get(id);
    if (copy === undefined || !IN_TRANSIT.has(copy.state.queue) || copy.state.epoch.owner !== server.me) {
      server.single.delete(id);
      server.moving.delete(id);
      continue;
    }
    // What cannot be done now is tried again with the next round.
    const isBusy = server.placings.has(id) || copy.doubt !== null || server.damaged.has(id);
    if (isBusy || copy.state.standing !== 'released') continue;
    const exclude = new Set(confirmedPlacements(copy.state).map((placement) => placement.member));
    const wanted = redirectedTo(turn, id, exclude);
    if (wanted === null || (wanted === undefined && pickHome(turn, exclude) === null)) continue;
    startPlacing(turn, {
      id,
      purpose: 'copy',
      epoch: copy.state.epoch,
      attempts: [],
      end: { digest: copy.facts.digest, sizeBytes: copy.facts.sizeBytes, events: copy.facts.events, atMs: turn.nowMs },
      phase: 'placing',
      waiting: new Map(),
    });
  }
}

/** Every second: what is still alone, or still to move, is in the queue again. */
export function reshadowRound(turn: Turn): void {
  const { server } = turn;
  for (const ids of [server.single, server.moving, server.redirects.keys()])
    for (const id of ids) if (!server.placings.has(id)) server.shadowless.add(id);
}

/** Creates the copy of a body that is complete in the log. */
export function createPrimary(turn: Turn, copy: Copy, stream: number): void {
  transition(turn.server.coverage, 'BodyReceived', '-', 'primary', copy.state.queue);
  addCopy(turn.server, copy);
  commit(turn, { kind: 'commit', facts: copy.facts, state: copy.state, stream });
  armAge(turn, copy);
}
