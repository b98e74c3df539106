/** Message tracking (semantics.md D10): one record per event, searchable afterwards. Never on the commit path. */
export type TrackingEventName =
  | 'RECEIVE'
  | 'HAREDIRECT'
  | 'HARECEIVE'
  | 'HADISCARD'
  | 'SEND'
  | 'DELIVER'
  | 'DEFER'
  | 'FAIL'
  | 'DSN'
  | 'EXPIRE'
  | 'ABORT'
  | 'SAFETYNET'
  | 'RESUBMIT'
  | 'DEMOTE'
  | 'TAKEOVER'
  | 'HANDOVER'
  | 'QUARANTINE'
  | 'REFETCH'
  | 'REMOVE'
  | 'SUSPEND'
  | 'RESUME'
  /** About a delivery queue; the id is that of the order. */
  | 'QUEUE'
  | 'DUPLICATEDELIVER'
  | 'POISON'
  | 'LOAD'
  | 'FRONTEND';

export interface TrackingRecord {
  readonly atMs: number;
  readonly event: TrackingEventName;
  /** Program that saw it: member or front-end name. */
  readonly source: string;
  readonly attemptId: string;
  readonly messageId?: string;
  /** 16 hex digits (`common/smtp/subject-hash.ts`). */
  readonly subjectHash?: string;
  /** The message it is a part of or was resubmitted from, by the id that stores know; absent: itself. */
  readonly root?: string;
  /** Of what it was made, or about what, where it came to be. */
  readonly parent?: string;
  readonly from?: string;
  readonly recipients?: readonly string[];
  readonly peer?: string;
  readonly detail?: string;
  /** Earlier events of the same attempt, told with this one; a search gives each as a record of its own. */
  readonly history?: readonly TrackingHistory[];
}

export interface TrackingHistory {
  readonly atMs: number;
  readonly event: TrackingEventName;
  readonly source: string;
  readonly detail?: string;
}

export interface Tracking {
  record(record: TrackingRecord): void;
}
