/**
 * What is said to a front end about a message (protocol.md 5): the RESULT of its stream and the RESOLVED of its question. Owns: that exactly
 * one answer leaves per stream, after everything it depends on is durable.
 */
import { type CopyId, type Reply, sameEpoch } from '../../common/message.ts';
import type { Resolved, ResolvedAnswer } from '../../common/peer/messages.ts';
import { allFinal, type Copy, confirmedPlacements } from './copy.ts';
import { early, late, type Placing, setTimer, type Turn } from './state.ts';

export interface ResolveWaiter {
  readonly from: string;
  /** A front end asks the primary of its try, a transport asks its candidate. */
  readonly role: 'transport' | 'frontend';
  readonly through: number;
  readonly untilMs: number;
}

/** 250 to the client's front end; a client that has gone changes nothing (semantics.md R7). */
export function answerIntake(turn: Turn, copy: Copy, outcome: 'protected' | 'unprotected'): void {
  const { server } = turn;
  const id = copy.facts.id;
  const stream = server.intakeOf.get(id);
  if (stream === undefined) return;
  const intake = server.intakes.get(stream);
  server.intakeOf.delete(id);
  server.intakes.delete(stream);
  late(turn, { copy: null, kind: 'Count', what: 'accepted', label: outcome, value: copy.facts.sizeBytes });
  if (intake === undefined) return;
  const endedAtMs = intake.endedAtMs ?? turn.nowMs;
  late(turn, { copy: null, kind: 'Count', what: 'acceptDuration', value: (turn.nowMs - endedAtMs) / 1000 });
  late(turn, {
    copy: id,
    kind: 'Track',
    event: 'RECEIVE',
    facts: copy.facts,
    id,
    peer: intake.frontend,
    detail: outcome,
  });
  if (!intake.waiting) return;
  late(turn, {
    copy: server.mutants.has('ack-before-own-sync') ? ('' as CopyId) : id,
    kind: 'AnswerStream',
    stream,
    result: { id, epoch: copy.state.epoch, outcome, digest: copy.facts.digest, reply: null },
  });
}

/** The copy of a waiting front end changed hands: it asks what became of it. */
export function answerOwned(turn: Turn, copy: Copy): void {
  const { server } = turn;
  const id = copy.facts.id;
  const stream = server.intakeOf.get(id);
  if (stream === undefined) return;
  const intake = server.intakes.get(stream);
  server.intakeOf.delete(id);
  server.intakes.delete(stream);
  if (intake?.waiting !== true) return;
  const { epoch } = copy.state;
  const result = { id, epoch, outcome: 'owned', digest: copy.facts.digest, reply: null } as const;
  late(turn, { copy: id, kind: 'AnswerStream', stream, result });
}

/** Before END: a plain refusal, nothing was promised and nothing is kept. */
export function refuseIntake(turn: Turn, placing: Placing, reply: Reply): void {
  const { server } = turn;
  server.placings.delete(placing.id);
  const stream = server.intakeOf.get(placing.id);
  if (stream === undefined) return;
  server.intakeOf.delete(placing.id);
  server.intakes.delete(stream);
  early(turn, { kind: 'DiscardBody', stream });
  early(turn, { kind: 'RefuseStream', stream, refuse: { reply, tryOther: true } });
  late(turn, { copy: null, kind: 'Count', what: 'refused', label: 'shadow' });
}

/** What can be said about `id` now; `open` while it is undecided. */
export function standingOf(turn: Turn, id: CopyId, through: number, role: ResolveWaiter['role']): Resolved {
  const { server } = turn;
  const say = (answer: ResolvedAnswer, copy: Copy | null): Resolved => ({
    id,
    through,
    answer,
    epoch: copy?.state.epoch ?? null,
    digest: copy?.facts.digest ?? null,
  });
  const copy = server.copies.get(id) ?? null;
  if (copy !== null) {
    if (allFinal(copy.state.recipients)) return say('final', copy);
    if (copy.state.epoch.owner !== server.me) return say(copy.state.standing === 'released' ? 'owned' : 'stored', copy);
    if (copy.state.standing === 'intake') return say('open', copy);
    if (copy.state.epoch.try > through) return say('owned', copy);
    if (confirmedPlacements(copy.state).some((placement) => sameEpoch(placement.epoch, copy.state.epoch)))
      return say('protected', copy);
    // Recovered, and nobody has confirmed a shadow yet: nothing may be promised (protocol.md 8). Policy may accept it alone.
    return say(copy.state.unprotected === null ? 'open' : 'unprotected', copy);
  }
  if (server.intakeOf.has(id) && server.placings.get(id)?.phase === 'placing') return say('open', null);
  // An abort still being told to the candidates is not yet an answer.
  if (server.placings.get(id)?.phase === 'aborting') return say('open', null);
  const tombstone = server.tombstones.get(id);
  if (tombstone?.kind === 'final') return say('final', null);
  // What was refused here as somebody's candidate says nothing about the tries this member was the primary of.
  const isOthers = role === 'frontend' && tombstone?.epoch.owner !== server.me;
  // Whoever has not durably refused may still hold it (protocol.md 6b, 6e) - alone, for all that is known: neither a refusal nor a promise. A member that asks
  // means this member alone and asks the others itself: two that asked each other would wait for ever (seed 8238 with SMTP clients).
  const isOpen = tombstone?.placements.some(({ status }) => role === 'frontend' || status !== 'unasked') === true;
  if (tombstone !== undefined && tombstone.abortedThrough >= through)
    return say(isOpen || isOthers ? 'open' : 'aborted', null);
  return say('unknown', null);
}

export function addWaiter(turn: Turn, id: CopyId, waiter: ResolveWaiter): void {
  const waiters = turn.server.resolveWaiters.get(id) ?? [];
  waiters.push(waiter);
  turn.server.resolveWaiters.set(id, waiters);
  setTimer(turn, Math.max(0, waiter.untilMs - turn.nowMs), 'waiter', id);
}

/** Tells the front ends that asked, once it is decided or their deadline has come. */
export function answerWaiters(turn: Turn, id: CopyId): void {
  const waiters = turn.server.resolveWaiters.get(id);
  if (waiters === undefined) return;
  const left = waiters.filter((waiter) => {
    const resolved = standingOf(turn, id, waiter.through, waiter.role);
    if (resolved.answer === 'open' && turn.nowMs < waiter.untilMs) return true;
    late(turn, { copy: id, kind: 'Send', to: waiter.from, frame: { kind: 'RESOLVED', resolved } });
    return false;
  });
  if (left.length === 0) turn.server.resolveWaiters.delete(id);
  else turn.server.resolveWaiters.set(id, left);
}
