/**
 * The queue database as the rest of the transport sees it. Two engines implement it: the segment log (`segment-log.ts`,
 * production and simulator) and memory (`memory.ts`, fast unit tests of the core); both pass `test/contract/store.ts`.
 *
 * Promises
 * - `commit` resolves only when its writes, and every write handed over earlier, survive power loss; the writes of one call
 *   are recovered all or none, in order. Bodies are covered by the sync of the commit that names them.
 * - `note` writes ride with the next group and cost no sync of their own; they may be lost by a crash, never reordered.
 * - After the first failed write or sync nothing resolves any more and `onFatal` is called once with the reason: the process
 *   must end (protocol.md 27).
 * - A damaged record is quarantined and reported at open or on read, and never hides its neighbours.
 * Refuses: a second opener of the directory, a newer format version, another member's database.
 */
import type { CopyId, CopyKind, Envelope, Epoch, Identity, RecipientState, Standing } from '../../common/message.ts';
import type { TrackingEvent } from '../../common/peer/messages.ts';

/** The queue a copy is in is its state (semantics.md section 7; Exchange's queue names). */
export type Queue =
  | 'submission'
  | 'delivery'
  | 'unreachable'
  | 'poison'
  | 'shadow'
  | 'primarySafetyNet'
  | 'shadowSafetyNet';

/** Never changes after the COMMIT record. */
export interface CopyFacts {
  readonly id: CopyId;
  readonly ancestor: CopyId | null;
  readonly kind: CopyKind;
  readonly envelope: Envelope;
  /** SHA-256 of the body, hex. */
  readonly digest: string;
  readonly sizeBytes: number;
  /** Wall clock at which this copy was accepted here; for people. */
  readonly acceptedAtMs: number;
  /** For a shadow copy: what was seen of the owner when it was taken (protocol.md 1). */
  readonly takenFrom: { readonly identity: Identity; readonly openCounter: number; readonly nonce: string } | null;
  /** The front end's events, kept for `trace`. */
  readonly events: readonly TrackingEvent[];
}

export type PlacementStatus = 'sentEnd' | 'confirmed' | 'unasked' | 'owesAck' | 'releasing';

/** Another member that holds, may hold, or must acknowledge this copy (protocol.md section 11). */
export interface Placement {
  readonly identity: Identity;
  readonly member: string;
  readonly epoch: Epoch;
  readonly status: PlacementStatus;
}

/** Everything of a copy that changes. Small; written whole, except that `recipients` may be written as a patch. */
export interface CopyState {
  readonly queue: Queue;
  readonly epoch: Epoch;
  readonly standing: Standing;
  readonly abortedThrough: number;
  /** Null until categorised. */
  readonly recipients: readonly RecipientState[] | null;
  readonly placements: readonly Placement[];
  /** Elapsed monotonic age in ms up to the last write of this state (semantics.md S16). */
  readonly ageMs: number;
  /** Wall clock when the last recipient became final; null while in transit. */
  readonly finalAtMs: number | null;
  /** Why it was accepted or is held with one copy only; null when protected. */
  readonly unprotected: string | null;
  /** How often it was suspended and resumed, together: odd while it is suspended; false: never. */
  readonly suspended: number | false;
  readonly crashCount: number;
  /** A delay DSN was sent. */
  readonly delayed: boolean;
  /** DSN copy ids this copy has forked. */
  readonly dsns: readonly CopyId[];
  /** Attempts made so far per next hop, for the retry schedule; lazily written. */
  readonly attempts: number;
}

/** What remains when the body is gone but somebody must still be answered (protocol.md 9). */
export interface Tombstone {
  readonly id: CopyId;
  readonly kind: 'aborted' | 'final';
  readonly epoch: Epoch;
  readonly abortedThrough: number;
  /** For `final`: outcomes to tell the holders. */
  readonly recipients: readonly RecipientState[] | null;
  readonly digest: string | null;
  readonly placements: readonly Placement[];
}

/** What this database last saw of a peer's database (protocol.md 1). */
export interface Seen {
  readonly member: string;
  readonly identity: Identity;
  readonly openCounter: number;
  readonly nonce: string;
  readonly syncedSequence: number;
}

export type Write =
  /** Final record of a streamed body: the copy exists from here on. Replaces an existing copy of that id. */
  | { readonly kind: 'commit'; readonly facts: CopyFacts; readonly state: CopyState; readonly body: BodyWriter }
  /**
   * New state of a copy that exists in transit (queue is not a Safety Net). `recipients` in `state` is ignored when `outcomes`
   * is given: then only the listed recipients change, by index.
   */
  | {
      readonly kind: 'state';
      readonly id: CopyId;
      readonly state: CopyState;
      readonly outcomes?: readonly (readonly [number, RecipientState])[];
    }
  /** The copy moves into a Safety Net (state.queue says which): it leaves memory and is found through footers from now on. */
  | { readonly kind: 'move'; readonly id: CopyId; readonly state: CopyState }
  /** A Safety Net copy comes back into transit (in memory again). */
  | { readonly kind: 'recall'; readonly id: CopyId; readonly state: CopyState }
  /** The copy and its body are gone. No error when it is not there. */
  | { readonly kind: 'remove'; readonly id: CopyId }
  | { readonly kind: 'tombstone'; readonly tombstone: Tombstone }
  | { readonly kind: 'forget'; readonly id: CopyId }
  | { readonly kind: 'seen'; readonly seen: Seen }
  /** Small durable facts of the server (cordon latch, suspended queues, accrued time ...); value null removes the key. */
  | { readonly kind: 'fact'; readonly key: string; readonly value: unknown };

/** A body on its way into the log. One per OPEN stream; chunks of many bodies interleave. */
/** What a body does when the volume has no room left but its reserve (protocol.md 28). Without any of these `append` waits until there is. */
export interface BodyOptions {
  /** It takes of the reserve: a report, which is short, or a copy that frees a segment. */
  readonly mayUseReserve?: boolean;
  /** Called when there is no room for what is pending; called again when it has gone on and there is none once more. */
  readonly onNoRoom?: () => void;
}

export interface BodyWriter {
  readonly id: CopyId;
  readonly sizeBytes: number;
  /** Buffered; resolves while less than 64 KiB of the body are still to be handed to the OS (not synced): the flow-control point. */
  append(chunk: Buffer): Promise<void>;
  /** Null when a COMMIT may name it now; else resolves when little of it waits: a COMMIT takes the rest along, out of the reserve if it must. */
  untilRoom(): Promise<void> | null;
  /** SHA-256 over everything appended, hex. Callable once appending is over. */
  digest(): string;
  /** Bytes already appended, from `offset`, at most `maxBytes`; for replay to another shadow (semantics.md R5). Empty at the end. */
  read(offset: number, maxBytes: number): Promise<Buffer>;
  /** The body will never be committed; its space is reclaimed with the segment. Idempotent, no-op after commit. */
  discard(): void;
}

export interface StoredCopy {
  readonly facts: CopyFacts;
  readonly state: CopyState;
  /**
   * Of a Safety Net copy whose COMMIT record cannot be read, why: its body cannot be read either, and of `facts` only id, ancestor,
   * kind, digest and size are known; the envelope is empty but for the addresses of its recipients.
   */
  readonly damaged?: string;
}

export interface Quarantined {
  /** Null when not even the id could be read. */
  readonly id: CopyId | null;
  readonly segment: string;
  readonly offset: number;
  readonly reason: string;
  /** Of a copy in transit: what is left of it, to get it again from a peer. Absent when nothing is. */
  readonly known?: KnownOfLost;
}

export interface KnownOfLost {
  /** SHA-256 of the body, hex. */
  readonly digest: string | null;
  /** Null when the COMMIT record is what is damaged. */
  readonly facts: CopyFacts | null;
  /** The newest state that could be read: who else holds it, in which epoch. */
  readonly state: CopyState | null;
}

export interface Recovered {
  /** In-transit and shadow copies, in commit order. */
  readonly copies: readonly StoredCopy[];
  readonly tombstones: readonly Tombstone[];
  readonly seen: readonly Seen[];
  readonly facts: ReadonlyMap<string, unknown>;
  /**
   * Grows when something is found damaged later, on read; what names a copy leaves it when that copy is committed anew, or removed. A
   * copy whose body turns out to be damaged on read stays in transit; one found damaged at open is only here.
   */
  readonly quarantined: readonly Quarantined[];
  /** True when the directory was empty or new: the identity is new. */
  readonly created: boolean;
}

/**
 * A place in the order in which copies came to rest. Opaque text. Holds over expiry, shedding, reopening: a walk that goes on behind it
 * misses nothing; after a crash it may meet again what it has met.
 */
export type SafetyNetPosition = string & { readonly [position]: 'SafetyNetPosition' };
declare const position: unique symbol;

/** Where a scrub goes on, and where it ends. Opaque text; holds over reopening. */
export type ScrubPosition = string & { readonly [scrubPosition]: 'ScrubPosition' };
declare const scrubPosition: unique symbol;

export interface ScrubStep {
  /** Bytes looked at. */
  readonly bytes: number;
  /** Copies some of whose bytes cannot be read, also when that was known; in transit or at rest. */
  readonly damaged: readonly CopyId[];
  /** Damaged places that concern no copy and were not known: they are in no list, so the caller counts them. */
  readonly newPlaces: number;
  /** Null: the pass is over. */
  readonly next: ScrubPosition | null;
  readonly leftBytes: number;
}

export interface SafetyNetEntry {
  readonly id: CopyId;
  readonly role: 'primary' | 'shadow';
  readonly databases: readonly string[];
  readonly finalAtMs: number;
  readonly sizeBytes: number;
}

export interface SafetyNetFilter {
  readonly role?: 'primary' | 'shadow';
  readonly database?: string;
  readonly fromMs?: number;
  readonly toMs?: number;
  /** Only what came to rest behind this place. */
  readonly after?: SafetyNetPosition;
  /** Only what had come to rest by then (`safetyNetEnd`): a walk that changes what it meets would never end. */
  readonly through?: SafetyNetPosition;
}

export interface SafetyNetPage {
  readonly entries: readonly SafetyNetEntry[];
  /** Where the next page goes on (`filter.after`); null: this is the last one. */
  readonly next: SafetyNetPosition | null;
}

export interface SafetyNetCopies {
  readonly copies: readonly StoredCopy[];
  /** Listed, but damaged: they are in `recovered.quarantined`. */
  readonly unreadable: number;
  readonly next: SafetyNetPosition | null;
}

export interface SafetyNetShed {
  readonly messages: number;
  readonly bytes: number;
  /** `safetyNetCounts().completeSinceMs` afterwards. */
  readonly completeSinceMs: number;
}

export interface StoreSpace {
  readonly totalBytes: number;
  readonly liveBytes: number;
  readonly safetyNetBytes: number;
  readonly freeBytes: number;
  readonly segments: number;
}

export interface SafetyNetCounts {
  readonly primary: { readonly messages: number; readonly bytes: number };
  readonly shadow: { readonly messages: number; readonly bytes: number };
  readonly oldestMs: number | null;
  /**
   * Everything that became final from this wall clock time on and was put to rest here is still here, unless it expired: the later of the
   * creation of this database and the youngest entry that was shed for lack of room. The hold time is the caller's business.
   */
  readonly completeSinceMs: number;
}

export interface QueueDatabase {
  readonly identity: Identity;
  /** Every open of this database so far, newest last (at most the last 64). */
  readonly chain: readonly { readonly openCounter: number; readonly nonce: string }[];
  readonly recovered: Recovered;
  /**
   * The caller has taken over what was recovered: `recovered` keeps only the quarantine from now on. Otherwise every copy there was at the
   * start would stay in memory as it was then.
   */
  releaseRecovered(): void;
  /** Sequence of the last record known to be durable. */
  readonly syncedSequence: number;
  beginBody(id: CopyId, options?: BodyOptions): BodyWriter;
  commit(writes: readonly Write[]): Promise<void>;
  note(writes: readonly Write[]): void;
  /**
   * Bytes of a live or Safety Net body in order. Throws an Error with code DAMAGED when a checksum does not match, NOTFOUND when absent, also when
   * what does not match has been replaced meanwhile.
   */
  readBody(id: CopyId): AsyncIterable<Buffer>;
  /**
   * A Safety Net copy by id (a live one is the core's business); null when absent. Throws an Error with code DAMAGED when it is, or may
   * be, in a part of the log that cannot be read; `recovered.quarantined` grows by what was found damaged.
   */
  lookup(id: CopyId): Promise<StoredCopy | null>;
  /** False: `lookup` would answer null, and need not be asked. Asks no disk; true for a few of those that are nowhere as well. */
  mayRest(id: CopyId): boolean;
  /** In the order in which they came to rest; memory bounded by one segment footer. */
  safetyNet(filter: SafetyNetFilter): AsyncIterable<SafetyNetEntry>;
  /** At most `limit` entries of the same walk; nothing is held between two pages. */
  safetyNetPage(filter: SafetyNetFilter, limit: number): Promise<SafetyNetPage>;
  /**
   * The same with the copies themselves, read in the order of the log. Ends early, with `next` not null, after many entries that do not
   * match: a walk that finds little still lets others in.
   */
  safetyNetCopies(filter: SafetyNetFilter, limit: number): Promise<SafetyNetCopies>;
  /** The end of the order as it is now. */
  safetyNetEnd(): SafetyNetPosition;
  safetyNetCounts(): SafetyNetCounts;
  /** Drops segments whose every Safety Net entry became final before `beforeMs` (live leftovers are copied out first). Returns entries dropped. */
  expireSafetyNet(beforeMs: number): Promise<number>;
  /**
   * The quota: whole segments of Safety Net entries go, the first that came to rest first and whatever their age, until the Safety Nets
   * hold at most `maxBytes`. Copies in transit never go; they are copied out of those segments.
   */
  shedSafetyNet(maxBytes: number): Promise<SafetyNetShed>;
  /**
   * Reads on from `from` (null: a new pass) over about `maxBytes` of the log and verifies them (protocol.md 29). What is damaged is in
   * `recovered.quarantined` afterwards. One at a time.
   */
  scrub(from: ScrubPosition | null, maxBytes: number): Promise<ScrubStep>;
  space(): StoreSpace;
  close(): Promise<void>;
}
