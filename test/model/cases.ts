/**
 * What the model checker is asked: every model with the bounds it is searched in, and every known-wrong variant of it, which must violate an assertion. Owns: the
 * list. A bug runs in the smallest bounds that show it.
 */

export interface ModelCase {
  /** `test/model/<model>.pml`; its header says which rules of the protocol it checks and which code keeps them. */
  readonly model: string;
  /** A bug switch of that file, or null: the protocol as it is. */
  readonly bug: string | null;
  /** Bounds, as definitions. */
  readonly bounds: readonly string[];
  /** Memory the search may use at most. */
  readonly mebibytes: number;
  readonly says: string;
}

const BUG_MEBIBYTES = 400;

const right = (model: string, says: string, mebibytes: number, ...bounds: string[]): ModelCase => ({
  model,
  bug: null,
  bounds,
  mebibytes,
  says,
});

const bugs = (
  model: string,
  list: Readonly<Record<string, readonly [says: string, ...bounds: string[]]>>,
): ModelCase[] =>
  Object.entries(list).map(([bug, [says, ...bounds]]) => ({ model, bug, bounds, mebibytes: BUG_MEBIBYTES, says }));

const ONE_TRY = 'TRIES=1';
const NO_CRASH = 'CRASHES=0';
const NO_LOSS = 'VOLUMES_LOST=0';

const INTAKE: readonly ModelCase[] = [
  right('intake', 'two tries, a power cut and a lost volume', 700),
  right('intake', 'takeover while the front end waits, a lost volume', 600, 'EARLY_TAKEOVER', NO_CRASH),
  right('intake', 'takeover while the front end waits, a power cut', 500, 'EARLY_TAKEOVER', NO_LOSS),
  ...bugs('intake', {
    ACK_ALONE: ['250 before a shadow has stored it', ONE_TRY],
    ACK_UNSYNCED: ['250 before the own record is durable', ONE_TRY],
    SHADOW_UNSYNCED: ['"stored" before the record of the shadow is durable', ONE_TRY],
    ANY_EPOCH: ['"stored" counts at whatever epoch', ONE_TRY],
    REFUSE_AT_ONCE: ['451 as soon as the own abort is durable', ONE_TRY],
    ABORT_UNSYNCED: ['RESOLVE before the abort is durable', ONE_TRY],
    NEW_DATABASE: ['a new database refuses for the one it replaces', NO_CRASH],
    NEW_DATABASE_ASKED: ['a new database answers the question to everybody for the one it replaces', NO_CRASH],
    REFUSAL_FORGOTTEN: ['what was refused as a candidate is forgotten', NO_LOSS],
    UNKNOWN_ABORTED: ['a restarted primary takes what it does not know for aborted', ONE_TRY],
    ABORT_RELEASED: ['an abort takes released copies', NO_CRASH, NO_LOSS],
    ABORT_ANY_TRY: ['an abort takes copies of every try', NO_CRASH],
    ANY_TRY_ANSWERS: ['the refusal of one try is relayed while another may live', NO_CRASH, NO_LOSS],
    LATE_END: ['an END is stored although its try was aborted', ONE_TRY],
  }),
];

const DISCARD: readonly ModelCase[] = [
  right('discard', 'frames in any order, a power cut, a lost volume or a damaged copy', 200),
  ...bugs('discard', {
    BY_AGE: ['a shadow copy is deleted by age'],
    UNKNOWN_IS_DONE: ['"unknown" ends a shadow copy'],
    NEW_IS_DONE: ['the ignorance of a new database ends a shadow copy'],
    FORGETS_EARLY: ['the tombstone goes before all have acknowledged'],
    BEFORE_ALL: ['the first final recipient discards the copy'],
    BEFORE_SYNC: ['finality is told before it is durable'],
    DSN_ALONE: ['a failure is announced while its DSN rests on one volume'],
    STALE_WINS: ['an older STATE replaces a newer one'],
    ACK_UNSYNCED: ['finality is acknowledged before its record is durable'],
  }),
];

const OWNERSHIP: readonly ModelCase[] = [
  right('ownership', 'two crashes, two cuts, two lost volumes', 400),
  ...bugs('ownership', {
    DROPS: ['a copy is removed when a higher epoch is seen', 'CUTS=1', NO_CRASH],
    TERM_ONLY: ['the owner breaks no tie between epochs', NO_CRASH],
    NO_CLAIM: ['a takeover asks nobody', 'CUTS=0', 'LOSSES=0'],
    NO_GRANT_RECORD: ['a grant leaves the old owner in place', 'CUTS=0', 'LOSSES=0'],
    NO_RECONCILE: ['who comes back delivers without asking', 'CUTS=0', 'LOSSES=0'],
    OLD_HOLDERS_COUNT: ['placements of the former epoch count as confirmed', 'CUTS=0'],
    LOST_HOLDER_COUNTS: ['a holder whose volume is gone goes on counting', 'CUTS=0'],
  }),
];

const RELEASE: readonly ModelCase[] = [
  right('release', 'three terms, one RELEASE, one RESIGN, a lost volume, frames late and repeated', 400),
  right('release', 'four terms without faults', 400, 'MAX_TERM=3', 'LOSSES=0', 'RESIGNS=0'),
  ...bugs('release', {
    SAME_EPOCH: ['RELEASE within one epoch', 'LOSSES=0', 'RESIGNS=0', 'RELEASES=2', 'MAX_TERM=1'],
    ANY_EPOCH: ['RELEASE is honoured at whatever epoch', 'LOSSES=0'],
    NONE_CONFIRMED: ['RELEASE before another holder is confirmed', 'LOSSES=0'],
    OLD_CONFIRMATION: ['"I hold it" counts at whatever epoch', 'LOSSES=0'],
    HOLDS_UNSYNCED: ['"I hold it" before the record is durable', 'LOSSES=0'],
    RESIGN_UNCONFIRMED: ['RESIGN for a member that has not confirmed', 'LOSSES=0'],
    RESIGN_DELETES: ['RESIGN deletes the own copy', 'LOSSES=0'],
  }),
];

const DRAIN: readonly ModelCase[] = [
  right('drain', 'drained, cancelled and drained again; members away; a crash', 200),
  ...bugs('drain', {
    NO_LATCH: ['who was proved empty takes copies again'],
    LATCH_FORGOTTEN: ['the latch does not outlive a crash'],
    STREAM_IGNORED: ['"empty" while a body is on its way'],
    RESTING_IGNORED: ['"empty" with entries at rest'],
    TOMBSTONE_IGNORED: ['"empty" while a finality is not acknowledged'],
    RELEASED_FIRST: ['let go before another holder has it'],
    DELETES_RESTING: ['an entry at rest is dropped before it is elsewhere'],
    OLD_REPORT: ['deleted on the "empty" of a drain that was cancelled'],
  }),
];

const FAILOVER: readonly ModelCase[] = [
  right('failover', 'one failover at any point of a message, a takeover, a lost volume', 200),
  ...bugs('failover', {
    REST_ONLY: ['copies in transit keep a lost finality'],
    NO_ACTIVATION: ['finality is merged without its activation'],
    NOT_AT_PROMOTION: ['a promoted copy keeps a lost finality'],
    OPEN_DELIVERY: ['a delivery open to the lost copy counts'],
    FINAL_ELSEWHERE: [
      "another member's lost finality ends a copy in transit, and the request does not look at it at rest",
    ],
    PART_CLOSED: ['what a primary covered stays closed when it is lost'],
    LEDGER: ['a ledger without the activation suppresses the second delivery'],
  }),
];

export const CASES: readonly ModelCase[] = [...INTAKE, ...DISCARD, ...OWNERSHIP, ...RELEASE, ...DRAIN, ...FAILOVER];
