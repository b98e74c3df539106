/**
 * The held session of one message, PURE (semantics.md R1, R9; protocol.md 5-7). Owns: which transport gets the body as which try, and
 * what the client is told. `proxy.ts` feeds it events and executes its actions; it never reads a clock or a socket.
 *
 * Promises: exactly one answer (a refusal before the 354, else one reply or one close); a 4yz/5yz after an END only when every try
 * that got an END is known to be durably refused or aborted; 250 only on the word of the last try that got an END; a try is never
 * cancelled after its END. Where nothing can be known: close without a reply (421 would be a 4yz too). A client that waits has a
 * deadline in every phase: `decide` before the 354, `cap` after its end of data (where something is found out first, that has a deadline of its own); in between its own pace is the edge's business.
 */
import type { Identity, Reply } from '../common/message.ts';
import type { Refuse } from '../common/peer/messages.ts';
import { assert, unreachable } from '../common/platform/assert.ts';
import type { FrontendMutant } from './mutants.ts';
import type {
  HeldAction,
  HeldEvent,
  HeldState,
  SessionReplies,
  SessionTimes,
  Step,
  TimerName,
  Try,
} from './session-model.ts';

const gotEnd = (attempt: Try): boolean =>
  attempt.fate === 'ended' || attempt.fate === 'unknown' || attempt.fate === 'aborted';

/** The machine with its settings; `step` is a pure function of state and event. */
export function heldSession(
  times: SessionTimes,
  replies: SessionReplies,
  mutants?: ReadonlySet<FrontendMutant>,
): (state: HeldState, event: HeldEvent) => Step {
  const settings = { times, replies, ...(mutants === undefined ? {} : { mutants }) };
  return (state, event) => stepSession(settings, state, event);
}

interface Settings {
  readonly times: SessionTimes;
  readonly replies: SessionReplies;
  readonly mutants?: ReadonlySet<FrontendMutant>;
}

function stepSession(settings: Settings, state: HeldState, event: HeldEvent): Step {
  if (state.phase === 'done') return { state, actions: [] };
  switch (event.kind) {
    case 'Start':
      assert(state.tries.length === 0 && state.phase === 'choosing', 'A held session starts once');
      return pick(state, [{ kind: 'set-timer', timer: 'decide', delayMs: settings.times.decideMs }]);
    case 'Picked':
      return picked(settings, state, event.member, event.identity);
    case 'NonePicked':
      return nonePicked(settings, state);
    case 'OpenOk':
      return openOk(state, event.serial);
    case 'Refused':
      return refused(settings, state, event.serial, event.refuse);
    case 'Lost':
      return lost(settings, state, event.serial);
    case 'Result':
      return result(settings, state, event);
    case 'Resolved':
      return resolved(settings, state, event);
    case 'Overflowed':
      return { state: { ...state, whole: false }, actions: [] };
    case 'BodyEnded':
      return bodyEnded(settings, state);
    case 'BodyRejected':
      return bodyRejected(state, event.reply);
    case 'Flushed':
      return flushed(state, event.serial);
    case 'ClientGone':
      return clientGone(state, event.reason);
    case 'TimerFired':
      return timerFired(settings, state, event.timer);
    default:
      return unreachable(event, 'Unknown event of a held session');
  }
}

function current(state: HeldState): Try | null {
  return state.tries.at(-1) ?? null;
}

/** The last try, when the event is about it. */
function ofCurrent(state: HeldState, serial: number): Try | null {
  const attempt = current(state);
  return attempt !== null && attempt.serial === serial ? attempt : null;
}

function withTry(state: HeldState, serial: number, change: Partial<Try>): HeldState {
  return { ...state, tries: state.tries.map((t) => (t.serial === serial ? { ...t, ...change } : t)) };
}

function exclude(state: HeldState, member: string): HeldState {
  return state.excluded.includes(member) ? state : { ...state, excluded: [...state.excluded, member] };
}

function pick(state: HeldState, before: readonly HeldAction[] = []): Step {
  const next: HeldState = { ...state, phase: 'choosing' };
  return { state: next, actions: [...before, { kind: 'pick', excluded: next.excluded }] };
}

function picked(settings: Settings, state: HeldState, member: string, identity: Identity): Step {
  assert(state.phase === 'choosing', 'A transport was picked although none was asked for', { phase: state.phase });
  let number = 1;
  // protocol.md 7: whoever may have got body bytes stays behind; the next one is a higher try.
  for (const attempt of state.tries) number = Math.max(number, attempt.reached ? attempt.number + 1 : attempt.number);
  const attempt: Try = { serial: state.tries.length + 1, number, member, identity, fate: 'opening', reached: false };
  return {
    state: exclude({ ...state, phase: 'opening', tries: [...state.tries, attempt] }, member),
    actions: [
      { kind: 'set-timer', timer: 'open', delayMs: settings.times.openMs },
      { kind: 'open', attempt },
    ],
  };
}

function nonePicked(settings: Settings, state: HeldState): Step {
  assert(state.phase === 'choosing', 'No transport was found although none was asked for', { phase: state.phase });
  if (!state.continued) return fail(settings, state, state.lastRefusal ?? settings.replies.noTransport);
  const silent = lastEnded(state);
  if (silent !== null && silent.fate === 'unknown' && state.rounds < settings.times.resolveRounds)
    return ask(settings, state, silent);
  return fail(settings, state, state.lastRefusal ?? settings.replies.lost);
}

function lastEnded(state: HeldState): Try | null {
  return state.tries.findLast(gotEnd) ?? null;
}

const CONTINUE: readonly HeldAction[] = [{ kind: 'clear-timer', timer: 'decide' }, { kind: 'continue' }];

function openOk(state: HeldState, serial: number): Step {
  const attempt = ofCurrent(state, serial);
  if (attempt === null || attempt.fate !== 'opening') return { state, actions: [] };
  const next = withTry({ ...state, phase: 'streaming', continued: true }, serial, { fate: 'open', reached: true });
  return {
    state: next,
    actions: [
      { kind: 'clear-timer', timer: 'open' },
      ...(state.continued ? [] : CONTINUE),
      { kind: 'pump', serial, replay: state.continued },
    ],
  };
}

/** REFUSE is only sent by who got no END or threw it away unread: nobody will commit this try. */
function refused(settings: Settings, state: HeldState, serial: number, refuse: Refuse): Step {
  const attempt = ofCurrent(state, serial);
  if (attempt === null || !['opening', 'open', 'ended'].includes(attempt.fate)) return { state, actions: [] };
  const fate = attempt.fate === 'ended' ? 'aborted' : 'void';
  const next = { ...withTry(state, serial, { fate }), lastRefusal: refuse.reply };
  const clear: HeldAction[] = attempt.fate === 'opening' ? [{ kind: 'clear-timer', timer: 'open' }] : [];
  if (refuse.tryOther && (!next.continued || next.whole)) return pick(next, clear);
  return prepend(clear, fail(settings, next, refuse.reply));
}

function lost(settings: Settings, state: HeldState, serial: number): Step {
  const attempt = ofCurrent(state, serial);
  if (attempt === null) return { state, actions: [] };
  switch (attempt.fate) {
    case 'opening':
      return pick(withTry(state, serial, { fate: 'void' }), [{ kind: 'clear-timer', timer: 'open' }]);
    case 'open': {
      const next = withTry(state, serial, { fate: 'void' });
      return next.whole ? pick(next) : fail(settings, next, settings.replies.lost);
    }
    case 'ended': {
      if (settings.mutants?.has('silence-is-refusal') === true)
        return fail(settings, withTry(state, serial, { fate: 'aborted' }), settings.replies.lost);
      const next = withTry(state, serial, { fate: 'unknown' });
      return ask(settings, { ...next, rounds: 0 }, attempt);
    }
    case 'void':
    case 'unknown':
    case 'aborted':
      return { state, actions: [] };
    default:
      return unreachable(attempt.fate, 'Unknown fate of a try');
  }
}

/** protocol.md 5: a transport that fell silent after the END is asked what became of it. */
function ask(settings: Settings, state: HeldState, attempt: Try): Step {
  return {
    state: { ...state, phase: 'resolving', rounds: state.rounds + 1 },
    actions: [
      { kind: 'set-timer', timer: 'resolve', delayMs: settings.times.resolveWindowMs },
      { kind: 'resolve', attempt, deadlineMs: settings.times.resolveAskMs },
    ],
  };
}

function askLater({ times }: Settings): HeldAction[] {
  return [
    { kind: 'set-timer', timer: 'resolve', delayMs: times.askAgainMs + times.resolveWindowMs },
    { kind: 'set-timer', timer: 'again', delayMs: times.askAgainMs },
  ];
}

function result(settings: Settings, state: HeldState, event: Extract<HeldEvent, { kind: 'Result' }>): Step {
  const attempt = ofCurrent(state, event.serial);
  if (attempt === null || attempt.fate !== 'ended') return { state, actions: [] };
  switch (event.outcome) {
    case 'protected':
    case 'unprotected':
      if (!event.matches) return close(state, 'the transport confirmed another body');
      return accept(settings, state, event.outcome);
    case 'refused':
      return conclude(withTry(state, attempt.serial, { fate: 'aborted' }), refusal(settings, event.reply));
    case 'owned': {
      const next = withTry(state, attempt.serial, { fate: 'unknown' });
      return ask(settings, { ...next, rounds: 0 }, attempt);
    }
    case 'silent':
      return close(state, 'the transport cannot know what became of the message');
    case 'stored':
      return close(state, 'the transport answered as a shadow');
    default:
      return unreachable(event.outcome, 'Unknown outcome of a stream');
  }
}

function resolved(settings: Settings, state: HeldState, event: Extract<HeldEvent, { kind: 'Resolved' }>): Step {
  const attempt = state.tries.find((t) => t.serial === event.serial);
  if (attempt === undefined || attempt.fate !== 'unknown') return { state, actions: [] };
  const waiting = state.phase === 'resolving';
  // Only the last try that got an END may answer the client (protocol.md 7).
  const last = lastEnded(state) === attempt;
  const answer = event.sameIdentity ? event.answer : 'unknown';
  if (answer === 'aborted') {
    const next = withTry(state, attempt.serial, { fate: 'aborted' });
    if (!waiting || !last) return { state: next, actions: [] };
    const free = { ...next, excluded: next.excluded.filter((name) => name !== attempt.member) };
    const clear: HeldAction = { kind: 'clear-timer', timer: 'resolve' };
    return next.whole ? pick(free, [clear]) : prepend([clear], conclude(next, settings.replies.lost));
  }
  if (!last) return { state, actions: [] };
  switch (answer) {
    case 'protected':
    case 'unprotected':
    case 'final': {
      if (!event.matches) return close(state, 'the transport holds another body');
      const later = current(state);
      // A replay that has not got its END is void: nobody will commit it.
      const drop = later !== null && (later.fate === 'opening' || later.fate === 'open') ? [dropped(later)] : [];
      return prepend(drop, accept(settings, state, answer === 'unprotected' ? 'unprotected' : 'protected'));
    }
    case 'stored':
    case 'open':
      // It is alive and undecided; it decides before the cap.
      return { state, actions: waiting ? askLater(settings) : [] };
    case 'owned':
    // A released copy, perhaps the only one: not yet a reason for a 250. A higher try makes it a pair (protocol.md 7).
    case 'unknown':
      return waiting ? replay(settings, state, attempt) : { state, actions: [] };
    default:
      return unreachable(answer, 'Unknown answer to RESOLVE');
  }
}

function replay(settings: Settings, state: HeldState, attempt: Try): Step {
  const clear: HeldAction = { kind: 'clear-timer', timer: 'resolve' };
  if (state.whole) return pick(state, [clear]);
  if (state.rounds < settings.times.resolveRounds) return ask(settings, state, attempt);
  return prepend([clear], conclude(state, settings.replies.lost));
}

function bodyRejected(state: HeldState, reply: Reply): Step {
  return giveUp(state, (next) => conclude(next, reply));
}

/** From here on the client waits for its answer, however far its bytes have got. */
function bodyEnded(settings: Settings, state: HeldState): Step {
  const next = { ...state, bodyEnded: true };
  if (state.phase === 'draining') return conclude(next, state.drainReply ?? settings.replies.lost);
  return { state: next, actions: [{ kind: 'set-timer', timer: 'cap', delayMs: settings.times.capMs }] };
}

function flushed(state: HeldState, serial: number): Step {
  const attempt = ofCurrent(state, serial);
  if (attempt === null || attempt.fate !== 'open' || !state.bodyEnded) return { state, actions: [] };
  return {
    state: withTry({ ...state, phase: 'ended' }, serial, { fate: 'ended' }),
    actions: [{ kind: 'end', serial }],
  };
}

/** R7: after an END the stream is left alone and the transport keeps what it has; before it nobody needs the body any more. */
function clientGone(state: HeldState, reason: string): Step {
  const attempt = current(state);
  if (attempt !== null && (attempt.fate === 'opening' || attempt.fate === 'open'))
    return finish(withTry(state, attempt.serial, { fate: 'void' }), [{ kind: 'drop', serial: attempt.serial, reason }]);
  return finish(state, []);
}

function timerFired(settings: Settings, state: HeldState, timer: TimerName): Step {
  const attempt = current(state);
  switch (timer) {
    case 'open':
      if (attempt === null || attempt.fate !== 'opening') return { state, actions: [] };
      return pick(withTry(state, attempt.serial, { fate: 'void' }), [dropped(attempt)]);
    case 'resolve': {
      const silent = lastEnded(state);
      if (state.phase !== 'resolving' || silent === null) return { state, actions: [] };
      return replay(settings, state, silent);
    }
    case 'again': {
      const silent = lastEnded(state);
      if (state.phase !== 'resolving' || silent === null || silent.fate !== 'unknown') return { state, actions: [] };
      return ask(settings, { ...state, rounds: 0 }, silent);
    }
    case 'decide':
      if (state.continued) return { state, actions: [] };
      return giveUp(state, (next) => fail(settings, next, next.lastRefusal ?? settings.replies.noTransport));
    case 'cap':
      return giveUp(state, (next) => conclude(next, settings.replies.lost));
    default:
      return unreachable(timer, 'Unknown timer of a held session');
  }
}

/** A deadline has passed: a try without END is dropped and void, then `end` says what is left to say. */
function giveUp(state: HeldState, end: (state: HeldState) => Step): Step {
  const attempt = current(state);
  if (attempt === null || (attempt.fate !== 'opening' && attempt.fate !== 'open')) return end(state);
  return prepend([dropped(attempt)], end(withTry(state, attempt.serial, { fate: 'void' })));
}

const dropped = (attempt: Try): HeldAction => ({
  kind: 'drop',
  serial: attempt.serial,
  reason: 'another way was taken',
});

function prepend(actions: readonly HeldAction[], rest: Step): Step {
  return { state: rest.state, actions: [...actions, ...rest.actions] };
}

/** No transport will take it. Before the end of data the rest of the body is read first. */
function fail(settings: Settings, state: HeldState, reply: Reply): Step {
  const valid = refusal(settings, reply);
  if (!state.continued) return finish(state, [{ kind: 'refuse', reply: valid }]);
  if (state.bodyEnded) return conclude(state, valid);
  return { state: { ...state, phase: 'draining', drainReply: valid }, actions: [{ kind: 'discard-body' }] };
}

/** What a transport wants said, if it is a refusal at all. */
function refusal(settings: Settings, reply: Reply | null): Reply {
  return reply !== null && reply.code >= 400 && reply.code <= 599 ? reply : settings.replies.lost;
}

/** RFC 5321 4.2.5: a 4yz/5yz says that nobody will deliver this attempt; where that is not known, close without a reply. */
function conclude(state: HeldState, reply: Reply): Step {
  const undecided = state.tries.some((t) => t.fate === 'ended' || t.fate === 'unknown');
  if (undecided) return close(state, 'what became of the message cannot be known');
  assert(reply.code >= 400 && reply.code <= 599, 'A refusal needs a 4yz or 5yz', { code: reply.code });
  return finish(state, [{ kind: 'answer', answer: { kind: 'reply', reply }, protection: null }]);
}

function accept(settings: Settings, state: HeldState, outcome: 'protected' | 'unprotected'): Step {
  const protection = outcome === 'protected' ? 'shadowed' : 'unprotected';
  return finish(state, [{ kind: 'answer', answer: { kind: 'reply', reply: settings.replies.accepted }, protection }]);
}

function close(state: HeldState, reason: string): Step {
  return finish(state, [{ kind: 'answer', answer: { kind: 'close', reason }, protection: null }]);
}

function finish(state: HeldState, actions: readonly HeldAction[]): Step {
  return { state: { ...state, phase: 'done' }, actions: [...actions, { kind: 'release' }] };
}
