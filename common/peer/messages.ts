/**
 * The messages of the peer protocol `mailcluster/1` (protocol.md section 12) as data. `frames.ts` puts them on the wire,
 * `session.ts` runs one connection. Fields are validated when a frame is decoded; a frame that does not match closes the connection.
 *
 * A *stream* carries one message body from its opener: OPEN, (OPEN-OK | REFUSE), CHUNK*, END | DROP, RESULT. Stream ids are
 * chosen by the opener: odd by the side that dialled, even by the side that accepted; never reused on a connection.
 */
import type { CopyId, Envelope, Epoch, Identity, Reply, SharedState, Standing } from '../message.ts';
import type { PeerRole } from '../platform/net.ts';

export interface OpenCounterEntry {
  readonly openCounter: number;
  readonly nonce: string;
}

/** First frame of the dialling side; the accepting side answers WELCOME (same fields) or REFUSED. */
export interface Hello {
  readonly versions: readonly number[];
  readonly role: PeerRole;
  readonly name: string;
  readonly cluster: string;
  /** Boundary of a transport, null for others. */
  readonly boundary: string | null;
  /** Identity and nonce chain of the queue database (protocol.md 1); null for a front end. */
  readonly database: {
    readonly identity: Identity;
    /** Newest last; at most the last 64 opens. */
    readonly chain: readonly OpenCounterEntry[];
    /** Last synced log sequence; never an unsynced one. */
    readonly syncedSequence: number;
  } | null;
  /** What the sender last saw of the receiver, or null. */
  readonly seen: {
    readonly identity: Identity;
    readonly openCounter: number;
    readonly nonce: string;
    readonly syncedSequence: number;
  } | null;
  /** Unique per process incarnation. */
  readonly uid: string;
  readonly generation: number;
}

export interface Load {
  /** Copies in transit here. */
  readonly queued: number;
  /** Intake streams open now. */
  readonly intake: number;
  readonly backPressure: 'Normal' | 'Medium' | 'High';
  /** For want of what; absent at Normal, and from older versions. */
  readonly pressedBy?: string;
  /** False while cordoned, draining or not yet recovered. */
  readonly accepting: boolean;
}

/** Sent at least every heartbeat and when something changed; any frame counts as contact. */
export interface Contact {
  readonly syncedSequence: number;
  /** The sender's elapsed time, which no jump of a wall clock moves (semantics.md S16). */
  readonly trustedMs: number;
  /** Nothing but its own wall clock says so: a new queue database that has heard nobody who knows. */
  readonly timeUnknown?: boolean;
  readonly generation: number;
  /** Names of the members the sender has an authenticated connection to. */
  readonly hears: readonly string[];
  readonly load: Load;
}

/** `rest`: a copy that is final and shall rest in a Safety Net of the receiver; its state says final. */
export type StreamKind = 'intake' | 'shadow' | 'copy' | 'rest';

export interface Open {
  readonly id: CopyId;
  /** For `intake`: try as the front end counts, term 0, owner = the receiver's identity (filled in by the receiver). */
  readonly epoch: Epoch;
  readonly kind: StreamKind;
  readonly envelope: Envelope;
  /** For `copy` and `shadow`: the state that goes with the body; null for `intake`. */
  readonly state: SharedState | null;
}

export interface OpenOk {
  /** Bytes of CHUNK payload the opener may send before the first CREDIT. */
  readonly credit: number;
  readonly maxMessageBytes: number;
}

export interface Refuse {
  readonly reply: Reply;
  /** True when another member may well accept it. */
  readonly tryOther: boolean;
  /** True when the copy is final here already: nothing need be sent. */
  readonly held?: boolean;
  /** True when the report of another maker about the same failure is final here: no second copy of these bytes, yet nobody needs both. */
  readonly heldOtherwise?: boolean;
  /** Tries up to this one are refused for good: a transport that relays may offer a higher one (semantics.md D3). */
  readonly abortedThrough?: number;
}

export interface End {
  readonly sizeBytes: number;
  /** SHA-256 of the body, hex. */
  readonly digest: string;
  /** The front end's events for tracking. */
  readonly events: readonly TrackingEvent[];
}

export interface TrackingEvent {
  readonly event: string;
  readonly atMs: number;
  readonly source: string;
  readonly detail?: string;
}

/**
 * stored: durable here as shadow at exactly `epoch`, digest equal (the only answer that protects, protocol.md 8).
 * protected / unprotected: durable here as primary with / by policy without a shadow. refused: durably refused (protocol.md 5).
 * owned: the receiver holds something else; a STATE follows. silent: nothing can be known, close without a reply.
 */
export type ResultOutcome = 'stored' | 'protected' | 'unprotected' | 'refused' | 'owned' | 'silent';

export interface Result {
  readonly id: CopyId;
  readonly epoch: Epoch;
  readonly outcome: ResultOutcome;
  readonly digest: string | null;
  readonly reply: Reply | null;
  /** Of the sender's queue database when this was said: whoever goes back behind it later is an older copy (protocol.md 1). */
  readonly syncedSequence?: number;
}

/** Asks to abort (primary to a candidate) or what became of it (front end to a primary), through this try. */
export interface Resolve {
  readonly id: CopyId;
  readonly through: number;
  readonly deadlineMs: number;
}

/** open: still undecided at the deadline. unknown is never said for RESOLVE by a candidate: it leaves a tombstone and says aborted. */
export type ResolvedAnswer =
  | 'aborted'
  | 'protected'
  | 'unprotected'
  | 'stored'
  | 'owned'
  | 'final'
  | 'open'
  | 'unknown';

export interface Resolved {
  readonly id: CopyId;
  readonly through: number;
  readonly answer: ResolvedAnswer;
  readonly epoch: Epoch | null;
  readonly digest: string | null;
}

/** What I hold as shadow of `owner` (protocol.md 9): whole list paged once per connection, then differences. */
export interface List {
  readonly owner: Identity;
  readonly items: readonly { readonly id: CopyId; readonly epoch: Epoch; readonly standing: Standing }[];
  /** False: more pages follow. */
  readonly complete: boolean;
}

export type Verdict = 'pending' | 'final' | 'aborted' | 'owner' | 'unknown';

/** Answer to LIST, CLAIM or an OPEN of something held otherwise; also streamed when finality becomes durable. */
export interface State {
  readonly id: CopyId;
  readonly verdict: Verdict;
  /** Null for `unknown`. */
  readonly state: SharedState | null;
}

export interface StateAck {
  readonly id: CopyId;
  /** The epoch that took effect here. */
  readonly epoch: Epoch;
  /** merged: I still hold it; moved / removed: the obligation is over; unknown: I hold nothing. All said after the record is durable. */
  readonly effect: 'merged' | 'moved' | 'removed' | 'unknown';
  readonly syncedSequence?: number;
}

export interface Claim {
  readonly items: readonly { readonly id: CopyId; readonly epoch: Epoch }[];
}

export interface Grant {
  readonly items: readonly {
    readonly id: CopyId;
    readonly granted: boolean;
    readonly verdict: Verdict;
    readonly state: SharedState | null;
  }[];
}

/** The owner hands a copy over (drain, redirect): `state.epoch` is higher and names the receiver, a confirmed holder (protocol.md 15). */
export interface Resign {
  readonly id: CopyId;
  readonly state: SharedState;
}

/** This holder is no longer needed (protocol.md 9): honoured only if `epoch` is the holder's own and it is not the owner. */
export interface Release {
  readonly id: CopyId;
  readonly epoch: Epoch;
}

/** Said after the deletion is durable, or when there is nothing to delete. */
export interface ReleaseAck {
  readonly id: CopyId;
  readonly epoch: Epoch;
}

/** A holder of shadow copies at rest asks their primary what it covers of a resubmit request (protocol.md 21). */
export interface Cover {
  readonly request: string;
  readonly ids: readonly CopyId[];
}

export interface Covered {
  readonly request: string;
  readonly items: readonly { readonly id: CopyId; readonly covered: boolean }[];
}

/** The body of a copy is damaged here; who holds it answers with OPEN kind `copy`, or with STATE `unknown`. */
export interface Fetch {
  readonly id: CopyId;
  readonly digest: string;
}

/** Every frame, with the stream it belongs to where there is one. */
export type Frame =
  | { readonly kind: 'HELLO'; readonly hello: Hello }
  | { readonly kind: 'WELCOME'; readonly hello: Hello }
  | { readonly kind: 'REFUSED'; readonly reason: string; readonly detail: string }
  | { readonly kind: 'CONTACT'; readonly contact: Contact }
  | { readonly kind: 'OPEN'; readonly stream: number; readonly open: Open }
  | { readonly kind: 'OPEN-OK'; readonly stream: number; readonly ok: OpenOk }
  | { readonly kind: 'REFUSE'; readonly stream: number; readonly refuse: Refuse }
  | { readonly kind: 'CHUNK'; readonly stream: number; readonly bytes: Buffer }
  | { readonly kind: 'CREDIT'; readonly stream: number; readonly bytes: number }
  | { readonly kind: 'END'; readonly stream: number; readonly end: End }
  | { readonly kind: 'DROP'; readonly stream: number; readonly reason: string }
  | { readonly kind: 'RESULT'; readonly stream: number; readonly result: Result }
  | { readonly kind: 'RESOLVE'; readonly resolve: Resolve }
  | { readonly kind: 'RESOLVED'; readonly resolved: Resolved }
  | { readonly kind: 'LIST'; readonly list: List }
  | { readonly kind: 'STATE'; readonly state: State }
  | { readonly kind: 'STATE-ACK'; readonly ack: StateAck }
  | { readonly kind: 'CLAIM'; readonly claim: Claim }
  | { readonly kind: 'GRANT'; readonly grant: Grant }
  | { readonly kind: 'RESIGN'; readonly resign: Resign }
  | { readonly kind: 'RELEASE'; readonly release: Release }
  | { readonly kind: 'RELEASE-ACK'; readonly released: ReleaseAck }
  | { readonly kind: 'COVER'; readonly cover: Cover }
  | { readonly kind: 'COVERED'; readonly covered: Covered }
  | { readonly kind: 'FETCH'; readonly fetch: Fetch }
  | { readonly kind: 'GOODBYE'; readonly reason: string };

/** Frames that are not part of a stream nor of the handshake. */
export type ControlFrame = Extract<
  Frame,
  {
    readonly kind:
      | 'CONTACT'
      | 'RESOLVE'
      | 'RESOLVED'
      | 'LIST'
      | 'STATE'
      | 'STATE-ACK'
      | 'CLAIM'
      | 'GRANT'
      | 'RESIGN'
      | 'RELEASE'
      | 'RELEASE-ACK'
      | 'COVER'
      | 'COVERED'
      | 'FETCH';
  }
>;
