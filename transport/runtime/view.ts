/**
 * What the admin API, `mailcluster status` and the metrics may ask of a running transport. Plain data, cheap to compute, read only.
 * Implemented by the runtime (`server.ts`); served by `admin.ts`.
 */
import type { CopyId, RecipientState } from '../../common/message.ts';
import type { PathExplanation } from '../core/boundary-path.ts';
import type {
  CopyFacts,
  CopyState,
  Queue,
  SafetyNetCounts,
  SafetyNetEntry,
  SafetyNetFilter,
  SafetyNetPosition,
  StoreSpace,
} from '../store/database.ts';

export interface PeerView {
  readonly member: string;
  readonly connected: boolean;
  /** Wall clock of the last authenticated frame, ms; null when never. */
  readonly lastContactMs: number | null;
  readonly identity: string | null;
  /** Why there is no connection, or null. */
  readonly problem: string | null;
}

/** Row 18 of semantics.md: a member on its way out. `waitingFor` says in words what keeps it from being empty. */
export interface DrainView {
  readonly state: 'none' | 'draining' | 'empty';
  readonly copies: number;
  readonly safetyNet: number;
  readonly tombstones: number;
  readonly waitingFor: readonly string[];
}

/** How far the search for damage nobody has read yet has come (protocol.md 29). */
export interface ScrubView {
  readonly isRunning: boolean;
  /** Of the pass under way. */
  readonly doneBytes: number;
  readonly leftBytes: number;
  readonly bytesPerS: number;
  /** There is more than can be looked at in a quarter of the hold time at the highest pace. */
  readonly isTooSlow: boolean;
  /** Wall clock; null when no pass was ever ended. */
  readonly lastFullPassMs: number | null;
}

/** What this member has done for one resubmit request (protocol.md 22). */
export interface ResubmitView {
  readonly name: string;
  readonly state: 'Pending' | 'Running' | 'Paused' | 'Done' | 'Cancelled';
  /** Copies at rest here that the request means. */
  readonly selected: number;
  readonly resubmitted: number;
  readonly byPrimary: number;
  readonly byShadow: number;
  /** Resubmitted before already, by this member or another. */
  readonly present: number;
  /** Shadow copies whose primary answers for them. */
  readonly covered: number;
  readonly failed: number;
  /** Identities whose answer is still awaited. */
  readonly waitingFor: readonly string[];
  /** This member's Safety Net is whole from here on, ms since the epoch: creation or the last time something was shed. */
  readonly completeSinceMs: number;
  readonly errors: readonly string[];
}

export interface TransportStatus {
  readonly name: string;
  readonly site: string;
  readonly dag: string | null;
  readonly boundary: string;
  readonly identity: string;
  readonly openCounter: number;
  readonly state: 'recovering' | 'ready' | 'stopping';
  readonly generation: number;
  readonly queues: Readonly<
    Record<Queue, { readonly messages: number; readonly bytes: number; readonly oldestMs: number | null }>
  >;
  readonly safetyNet: SafetyNetCounts;
  /** Messages with a recipient for whom no next hop is known: all of the queue `unreachable`, and some of `delivery`. */
  readonly withoutRoute?: number;
  /** In-transit copies known to be on this database only; null while some peer has not answered since start (then it is unknown, not 0). */
  readonly unprotected: number | null;
  readonly discardsPending: number;
  readonly quarantined: number;
  readonly scrub: ScrubView;
  readonly backPressure: 'Normal' | 'Medium' | 'High';
  /** For want of what; empty at Normal. */
  readonly pressedBy: string;
  readonly drain: DrainView;
  /** Queue databases that were taken over from, with how it became known. */
  readonly lost: readonly { readonly member: string; readonly identity: string; readonly why: string }[];
  readonly peers: readonly PeerView[];
  readonly space: StoreSpace;
  /** Of connectors with DANE: servers that were found not to validate, `ADDRESS:PORT`. */
  readonly unvalidatedResolvers: readonly string[];
}

/** One delivery queue (next hop), Exchange's Get-Queue; or one in which nothing is sent, by its own name. */
export interface NextHopView {
  readonly queue: Queue;
  readonly nextHop: string;
  /** All that wait there or are being delivered. */
  readonly messages: number;
  /** Deliveries under way. */
  readonly active: number;
  /** Put off by what was said about them, not about the next hop. */
  readonly deferred: number;
  readonly nextRetryMs: number | null;
  readonly lastError: string | null;
  /** By the word of a person. */
  readonly suspended: boolean;
  /** As `MessageSummary.ageMs`, of the oldest; null: nothing waits. */
  readonly oldestAgeMs: number | null;
}

export interface MessageSummary {
  readonly id: CopyId;
  /** Its id where it was accepted, when that was in another boundary (semantics.md D3). */
  readonly crossedFrom: CopyId | null;
  readonly queue: Queue;
  readonly role: 'primary' | 'shadow';
  readonly from: string;
  readonly recipients: readonly RecipientState[];
  readonly sizeBytes: number;
  /** By the trusted time of who accepted it (semantics.md S16), which is no wall clock: for people there is `ageMs`. */
  readonly acceptedAtMs: number;
  /** How long it has been here by the time that expiry goes by, as of this answer. Filters by age mean this number. */
  readonly ageMs: number;
  readonly holders: readonly { readonly member: string; readonly status: string }[];
  /** Delivery queues in which it waits here. */
  readonly nextHops: readonly string[];
  readonly lastError: string | null;
  /** Wall clock; null when nothing is put off. */
  readonly nextAttemptMs: number | null;
  /** Itself, not its queue. */
  readonly suspended: boolean;
}

/** Null: whatever it is. Addresses are compared without case. */
export interface MessageFilter {
  readonly queue: Queue | null;
  readonly nextHop: string | null;
  /** Reverse-path; empty: of the null reverse-path. */
  readonly sender: string | null;
  readonly recipient: string | null;
  /** Of a recipient. */
  readonly domain: string | null;
  /** Part of the last error. */
  readonly error: string | null;
  /** An id: that message, what was resubmitted of it, and what crossed from it. */
  readonly attempt: string | null;
  /** By `MessageSummary.ageMs`. */
  readonly olderThanMs: number | null;
  readonly youngerThanMs: number | null;
  /** More than, and less than. */
  readonly minBytes: number | null;
  readonly maxBytes: number | null;
}

export interface MessageListing {
  readonly messages: readonly MessageSummary[];
  /** Null: this was the last page. A page may be empty and still have a next one. */
  readonly next: CopyId | null;
}

export interface MessageDetail {
  readonly facts: CopyFacts;
  readonly state: CopyState;
  /** As `MessageSummary.ageMs`; absent: it is at rest, and grows no older. */
  readonly ageMs?: number;
}

export interface SafetyNetQuestion {
  /** `filter.after`: the cursor of the page before. */
  readonly filter: SafetyNetFilter;
  /** Reverse-path and forward-path, compared without case; null: any. */
  readonly sender: string | null;
  readonly recipient: string | null;
}

export interface SafetyNetListing {
  readonly entries: readonly SafetyNetEntry[];
  readonly unreadable: number;
  /** Null: this was the last page. A page may be empty and still have a next one. */
  readonly next: SafetyNetPosition | null;
}

export interface SafetyNetTally {
  readonly primary: { readonly messages: number; readonly bytes: number };
  readonly shadow: { readonly messages: number; readonly bytes: number };
  readonly unreadable: number;
  /** Not null: that is the count so far, go on from here and add. */
  readonly next: SafetyNetPosition | null;
}

export interface KnownCopy {
  readonly id: CopyId;
  /** `final` and `aborted`: only a tombstone is left; `damaged`: it, or its bytes, cannot be read. */
  readonly where: 'transit' | 'final' | 'aborted' | 'safetyNet' | 'damaged';
}

/** Where a message would go from here; texts are for people. */
export interface RouteView {
  readonly kind: 'mailbox' | 'connector' | 'boundary' | 'unreachable' | 'refused';
  readonly site: string;
  readonly what: string;
  readonly why: string;
  readonly nextHop: string | null;
  readonly others: readonly { readonly name: string; readonly why: string }[];
  readonly hosts: readonly string[];
  readonly hostsProblem: string | null;
  readonly policy: 'enforce' | 'testing' | 'none' | null;
  readonly waiting: number;
  readonly nextRetryMs: number | null;
  readonly lastError: string | null;
  readonly path: PathExplanation | null;
}

export interface TransportView {
  status(): TransportStatus;
  nextHops(): readonly NextHopView[];
  /** In id order, starting after `after`. */
  messages(filter: MessageFilter, after: CopyId | null, limit: number): MessageListing;
  message(id: CopyId): Promise<MessageDetail | null>;
  /** What the client sent, without our trace fields. Throws with code NOTFOUND or DAMAGED. */
  body(id: CopyId): AsyncIterable<Buffer>;
  /** In the order in which they came to rest. */
  safetyNet(question: SafetyNetQuestion, limit: number): Promise<SafetyNetListing>;
  countSafetyNet(question: SafetyNetQuestion): Promise<SafetyNetTally>;
  resubmits(): readonly ResubmitView[];
  /** Those of `ids` of which there is something here. */
  known(ids: readonly CopyId[]): Promise<readonly KnownCopy[]>;
  route(address: string, sizeBytes: number): Promise<RouteView>;
  /** Messages nobody can give back: their bytes are damaged here and every member was asked. */
  lostMessages(): readonly CopyId[];
}
