/**
 * The held session of one message, PURE (semantics.md R1, R9; protocol.md 5-7). Owns: which transport gets the body as which try, and
 * what the client is told. `proxy.ts` feeds it events and executes its actions; it never reads a clock or a socket.
 *
 * Promises: exactly one answer (a refusal before the 354, else one reply or one close); a 4yz/5yz after an END only when every try
 * that got an END is known to be durably refused or aborted; 250 only on the word of the last try that got an END; a try is never
 * cancelled after its END. Where nothing can be known: close without a reply (421 would be a 4yz too).
 */
import type { Identity, Reply } from '../common/message.ts';
import type { Refuse, ResolvedAnswer, ResultOutcome } from '../common/peer/messages.ts';
import { assert, unreachable } from '../common/platform/assert.ts';
import type { DataAnswer } from '../common/smtp/edge-api.ts';

/** All spans in ms; they nest: shadow attempts 10 s < resolve cap of the transport 45 s < `capMs` < reply bound 60 s (protocol.md 5). */
export interface SessionTimes {
  /** For one candidate to answer OPEN. */
  readonly openMs: number;
  /** How long a RESOLVE may wait at the transport; must be below `resolveWindowMs`. */
  readonly resolveAskMs: number;
  /** How long to try to learn from a transport what became of an END. */
  readonly resolveWindowMs: number;
  /** Pause before a transport that is alive and undecided is asked again. */
  readonly askAgainMs: number;
  /** Windows to spend when there is nobody to replay to. */
  readonly resolveRounds: number;
  /** From the first END to the answer. */
  readonly capMs: number;
}

export const SESSION_TIMES: SessionTimes = {
  openMs: 2_000,
  resolveAskMs: 1_500,
  resolveWindowMs: 2_000,
  askAgainMs: 250,
  resolveRounds: 5,
  capMs: 55_000,
};

export interface SessionReplies {
  /** No transport took the message. */
  readonly noTransport: Reply;
  /** The transport was lost and the body could not be given to another one. */
  readonly lost: Reply;
  readonly accepted: Reply;
}

/**
 * `void`: never got an END, nobody commits it. `ended`: END sent, answer awaited. `unknown`: END sent, then silence.
 * `aborted`: END sent, durably refused or aborted.
 */
export type Fate = 'opening' | 'open' | 'void' | 'ended' | 'unknown' | 'aborted';

export interface Try {
  /** Names this stream among all of the session. */
  readonly serial: number;
  /** `epoch.try` on the wire; raised once a stream could have taken body bytes. */
  readonly number: number;
  readonly member: string;
  readonly identity: Identity;
  readonly fate: Fate;
  readonly reached: boolean;
}

export type Phase = 'choosing' | 'opening' | 'streaming' | 'ended' | 'resolving' | 'draining' | 'done';

export interface HeldState {
  readonly phase: Phase;
  /** The 354 was said. */
  readonly continued: boolean;
  /** The client's end of data was seen and well-formed. */
  readonly bodyEnded: boolean;
  /** The replay buffer holds the body from its first byte. */
  readonly whole: boolean;
  readonly tries: readonly Try[];
  /** Members not to be chosen again for this message. */
  readonly excluded: readonly string[];
  readonly lastRefusal: Reply | null;
  /** While draining: what the client hears at its end of data. */
  readonly drainReply: Reply | null;
  readonly rounds: number;
}

export type HeldEvent =
  | { readonly kind: 'Start' }
  | { readonly kind: 'Picked'; readonly member: string; readonly identity: Identity }
  | { readonly kind: 'NonePicked' }
  | { readonly kind: 'OpenOk'; readonly serial: number }
  | { readonly kind: 'Refused'; readonly serial: number; readonly refuse: Refuse }
  | { readonly kind: 'Lost'; readonly serial: number; readonly reason: string }
  | {
      readonly kind: 'Result';
      readonly serial: number;
      readonly outcome: ResultOutcome;
      /** Named try and digest are ours. */
      readonly matches: boolean;
      readonly reply: Reply | null;
    }
  | {
      readonly kind: 'Resolved';
      readonly serial: number;
      readonly answer: ResolvedAnswer;
      /** The answer came from the queue database that got the END. */
      readonly sameIdentity: boolean;
      /** No digest, or ours. */
      readonly matches: boolean;
    }
  /** The replay buffer gave up the beginning of the body. */
  | { readonly kind: 'Overflowed' }
  | { readonly kind: 'BodyEnded' }
  | { readonly kind: 'BodyRejected'; readonly reply: Reply }
  /** Every byte of the ended body was handed to this stream. */
  | { readonly kind: 'Flushed'; readonly serial: number }
  | { readonly kind: 'ClientGone'; readonly reason: string }
  | { readonly kind: 'TimerFired'; readonly timer: TimerName };

export type TimerName = 'open' | 'resolve' | 'again' | 'cap';

export type HeldAction =
  /** Ask the picker; answer with Picked or NonePicked. */
  | { readonly kind: 'pick'; readonly excluded: readonly string[] }
  | { readonly kind: 'open'; readonly attempt: Try }
  | { readonly kind: 'drop'; readonly serial: number; readonly reason: string }
  /** Say 354 and let the body flow. */
  | { readonly kind: 'continue' }
  /** Send the body to this stream from its first byte. */
  | { readonly kind: 'pump'; readonly serial: number; readonly replay: boolean }
  | { readonly kind: 'end'; readonly serial: number }
  | { readonly kind: 'resolve'; readonly attempt: Try; readonly deadlineMs: number }
  /** Nobody will get the rest of the body: read and forget it. */
  | { readonly kind: 'discard-body' }
  /** Before the 354. */
  | { readonly kind: 'refuse'; readonly reply: Reply }
  | { readonly kind: 'answer'; readonly answer: DataAnswer; readonly protection: 'shadowed' | 'unprotected' | null }
  | { readonly kind: 'set-timer'; readonly timer: TimerName; readonly delayMs: number }
  | { readonly kind: 'clear-timer'; readonly timer: TimerName }
  /** The session is over: free everything. Always last. */
  | { readonly kind: 'release' };

export interface Step {
  readonly state: HeldState;
  readonly actions: readonly HeldAction[];
}

export const INITIAL_STATE: HeldState = {
  phase: 'choosing',
  continued: false,
  bodyEnded: false,
  whole: true,
  tries: [],
  excluded: [],
  lastRefusal: null,
  drainReply: null,
  rounds: 0,
};

const gotEnd = (attempt: Try): boolean =>
  attempt.fate === 'ended' || attempt.fate === 'unknown' || attempt.fate === 'aborted';

/** The machine with its settings; `step` is a pure function of state and event. */
export function heldSession(
  times: SessionTimes,
  replies: SessionReplies,
): (state: HeldState, event: HeldEvent) => Step {
  return (state, event) => stepSession({ times, replies }, state, event);
}

interface Settings {
  readonly times: SessionTimes;
  readonly replies: SessionReplies;
}

function stepSession(settings: Settings, state: HeldState, event: HeldEvent): Step {
  if (state.phase === 'done') return { state, actions: [] };
  switch (event.kind) {
    case 'Start':
      assert(state.tries.length === 0 && state.phase === 'choosing', 'A held session starts once');
      return pick(state);
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
      if (state.phase === 'draining')
        return conclude({ ...state, bodyEnded: true }, state.drainReply ?? settings.replies.lost);
      return { state: { ...state, bodyEnded: true }, actions: [] };
    case 'BodyRejected':
      return bodyRejected(state, event.reply);
    case 'Flushed':
      return flushed(settings, state, event.serial);
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

function openOk(state: HeldState, serial: number): Step {
  const attempt = ofCurrent(state, serial);
  if (attempt === null || attempt.fate !== 'opening') return { state, actions: [] };
  const next = withTry({ ...state, phase: 'streaming', continued: true }, serial, { fate: 'open', reached: true });
  return {
    state: next,
    actions: [
      { kind: 'clear-timer', timer: 'open' },
      ...(state.continued ? [] : [{ kind: 'continue' } as const]),
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
  const attempt = current(state);
  const drop = attempt !== null && (attempt.fate === 'opening' || attempt.fate === 'open') ? [dropped(attempt)] : [];
  const next = attempt === null || drop.length === 0 ? state : withTry(state, attempt.serial, { fate: 'void' });
  return prepend(drop, conclude(next, reply));
}

function flushed(settings: Settings, state: HeldState, serial: number): Step {
  const attempt = ofCurrent(state, serial);
  if (attempt === null || attempt.fate !== 'open' || !state.bodyEnded) return { state, actions: [] };
  const first = lastEnded(state) === null;
  return {
    state: withTry({ ...state, phase: 'ended' }, serial, { fate: 'ended' }),
    actions: [
      ...(first ? [{ kind: 'set-timer', timer: 'cap', delayMs: settings.times.capMs } as const] : []),
      { kind: 'end', serial },
    ],
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
    case 'cap': {
      if (attempt === null || (attempt.fate !== 'opening' && attempt.fate !== 'open'))
        return conclude(state, settings.replies.lost);
      return prepend(
        [dropped(attempt)],
        conclude(withTry(state, attempt.serial, { fate: 'void' }), settings.replies.lost),
      );
    }
    default:
      return unreachable(timer, 'Unknown timer of a held session');
  }
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
