/**
 * The words of the held session (`session.ts`), PURE: its spans, its state, what happens to it, what it wants done. Owns no behaviour.
 */
import type { Identity, Reply } from '../common/message.ts';
import type { Refuse, ResolvedAnswer, ResultOutcome } from '../common/peer/messages.ts';
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
  /** From DATA to the 354 or a refusal: well below the 2 minutes a client waits (RFC 5321 4.5.3.2.3). */
  readonly decideMs: number;
  /** From the client's end of data to the answer, whether or not the END could be sent: a stalled transport must not hold the client. */
  readonly capMs: number;
}

export const SESSION_TIMES: SessionTimes = {
  openMs: 2_000,
  resolveAskMs: 1_500,
  resolveWindowMs: 2_000,
  askAgainMs: 250,
  resolveRounds: 5,
  decideMs: 20_000,
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

export type TimerName = 'open' | 'decide' | 'resolve' | 'again' | 'cap';

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
