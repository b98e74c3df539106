/**
 * What the admin API of a transport answers, as far as the commands read it (the other side: `transport/runtime/admin.ts`; programs do
 * not import each other, so the shapes stand here again). Owns nothing. Fields a newer or older member lacks are shown as `-`.
 */
import type { Envelope, RecipientState } from '../../common/message.ts';

export interface StatusAnswer {
  readonly name: string;
  readonly site: string;
  readonly dag: string | null;
  readonly identity: string;
  readonly openCounter: number;
  readonly state: string;
  readonly generation: number;
  readonly queues: Readonly<
    Record<string, { readonly messages: number; readonly bytes: number; readonly oldestMs: number | null }>
  >;
  readonly safetyNet: {
    readonly primary: { readonly messages: number; readonly bytes: number };
    readonly shadow: { readonly messages: number; readonly bytes: number };
    readonly oldestMs: number | null;
    readonly completeSinceMs?: number;
  };
  /** Absent from older versions. */
  readonly withoutRoute?: number;
  readonly unprotected: number | null;
  readonly discardsPending: number;
  readonly quarantined: number;
  readonly scrub?: {
    readonly isRunning: boolean;
    readonly doneBytes: number;
    readonly leftBytes: number;
    readonly isTooSlow: boolean;
    readonly lastFullPassMs: number | null;
  };
  readonly backPressure: string;
  /** Absent from older versions. */
  readonly pressedBy?: string;
  readonly drain?: {
    readonly state: 'none' | 'draining' | 'empty';
    readonly copies: number;
    readonly safetyNet: number;
    readonly tombstones: number;
    readonly waitingFor: readonly string[];
  };
  readonly lost?: readonly { readonly member: string; readonly identity: string; readonly why: string }[];
  readonly peers: readonly {
    readonly identity?: string | null;
    readonly member: string;
    readonly connected: boolean;
    readonly lastContactMs: number | null;
    readonly problem: string | null;
  }[];
}

export interface NextHopAnswer {
  readonly queue: string;
  readonly nextHop: string;
  readonly messages: number;
  /** Absent from older versions, like `deferred`. */
  readonly active?: number;
  readonly deferred?: number;
  readonly suspended?: boolean;
  readonly oldestAgeMs?: number | null;
  readonly nextRetryMs: number | null;
  readonly lastError: string | null;
}

export interface PathAnswer {
  readonly to: string;
  readonly what: string;
  readonly why: string;
  readonly ifDown: readonly { readonly site: string; readonly what: string }[];
}

export interface RouteAnswer {
  readonly kind: 'mailbox' | 'connector' | 'boundary' | 'unreachable' | 'refused';
  readonly site: string;
  readonly what: string;
  readonly why: string;
  readonly nextHop: string | null;
  readonly others: readonly { readonly name: string; readonly why: string }[];
  readonly hosts: readonly string[];
  readonly hostsProblem: string | null;
  readonly policy: string | null;
  /** Absent from transports before this was told. */
  readonly path?: PathAnswer | null;
  readonly waiting: number;
  readonly nextRetryMs: number | null;
  readonly lastError: string | null;
}

export interface MessageAnswer {
  readonly id: string;
  /** Absent from older versions, which find nothing by it either. */
  readonly crossedFrom?: string | null;
  readonly queue: string;
  readonly role: 'primary' | 'shadow';
  readonly from: string;
  readonly recipients: readonly RecipientState[];
  readonly sizeBytes: number;
  readonly acceptedAtMs: number;
  /** As of this answer, by the member's own rule; absent from older versions. */
  readonly ageMs?: number;
  readonly holders: readonly { readonly member: string; readonly status: string }[];
  readonly nextHops: readonly string[];
  readonly lastError: string | null;
  readonly nextAttemptMs: number | null;
  readonly suspended?: boolean;
}

export interface MessagesAnswer {
  readonly messages: readonly MessageAnswer[];
  /** Absent from older versions, which have neither pages nor filters. */
  readonly next?: string | null;
}

export interface MessageDetailAnswer {
  readonly facts: {
    readonly id: string;
    readonly kind: string;
    readonly envelope: Envelope;
    readonly digest: string;
    readonly sizeBytes: number;
    readonly acceptedAtMs: number;
    readonly events: readonly {
      readonly event: string;
      readonly atMs: number;
      readonly source: string;
      readonly detail?: string;
    }[];
  };
  readonly state: {
    readonly queue: string;
    readonly epoch: { readonly try: number; readonly term: number; readonly owner: string };
    readonly recipients: readonly RecipientState[] | null;
    readonly placements: readonly { readonly member: string; readonly status: string }[];
    readonly finalAtMs: number | null;
    readonly unprotected: string | null;
    /** Odd: suspended. */
    readonly suspended?: number | false;
  };
  /** Absent at rest, and from older versions. */
  readonly ageMs?: number;
}

export interface SafetyNetAnswer {
  readonly id: string;
  readonly role: 'primary' | 'shadow';
  readonly databases: readonly string[];
  readonly finalAtMs: number;
  readonly sizeBytes: number;
}

export interface TraceAnswer {
  readonly atMs: number;
  readonly event: string;
  readonly source: string;
  readonly attemptId: string;
  readonly messageId?: string;
  /** These three are absent from older versions as well. */
  readonly subjectHash?: string;
  readonly root?: string;
  readonly parent?: string;
  readonly from?: string;
  readonly recipients?: readonly string[];
  readonly peer?: string;
  readonly detail?: string;
}

/** All but `records` is absent from older versions. */
export interface TraceReply {
  readonly records: readonly TraceAnswer[];
  /** For how many of the ids in the question it looked; absent: for the first. */
  readonly asked?: number;
  /** There may be more records. */
  readonly cut?: boolean;
  /** What it does not have any more: from before a time, or of a time in which records were dropped. */
  readonly gaps?: {
    readonly beforeMs: number | null;
    readonly dropped: { readonly fromMs: number; readonly toMs: number } | null;
  };
}

export interface TrackedMessageAnswer {
  readonly id: string;
  readonly root: string | null;
  readonly messageId: string | null;
  readonly subjectHash: string | null;
  readonly from: string;
  readonly recipients: readonly string[];
  readonly recipientCount: number;
  readonly firstMs: number;
  readonly last: Pick<TraceAnswer, 'atMs' | 'event' | 'source' | 'peer' | 'detail'>;
}

export interface SafetyNetPageAnswer {
  readonly entries: readonly SafetyNetAnswer[];
  readonly unreadable: number;
  readonly next: string | null;
}

export interface SafetyNetCountAnswer {
  readonly primary: { readonly messages: number; readonly bytes: number };
  readonly shadow: { readonly messages: number; readonly bytes: number };
  readonly unreadable: number;
  readonly next: string | null;
}

/** `where`: transit, final, safetyNet, damaged, aborted. */
export interface KnownAnswer {
  readonly known: readonly { readonly id: string; readonly where: string }[];
}

export interface OutcomesAnswer {
  readonly outcomes: readonly {
    readonly id: string;
    readonly final: boolean;
    readonly recipients: readonly string[];
  }[];
}
