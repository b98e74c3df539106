/**
 * The transition table (protocol.md section 10) as data. Owns: which event may move a copy from which queue to which, in which
 * role. Only `transition()` assigns a copy's queue; the assertion, the picture in ARCHITECTURE.md and the coverage report of the
 * simulator come from this table. A row no test visits fails the simulator stage.
 */
import { assert } from '../../common/platform/assert.ts';
import type { Queue } from '../store/database.ts';
import type { Role } from './copy.ts';

/** A copy that is not (or no longer) there: `-` before it exists, `removed` after. */
export type Place = Queue | '-' | 'removed' | 'aborted';

export interface TransitionRow {
  /** Row number of protocol.md section 10. */
  readonly row: number;
  readonly event: TransitionEvent;
  readonly from: readonly Place[];
  /** Role after the event; `any` where both occur. */
  readonly role: Role | 'any';
  readonly to: readonly (Place | 'same')[];
  readonly guard: string;
  readonly committed: string;
}

export type TransitionEvent =
  | 'BodyReceived'
  | 'Protected'
  | 'AcceptedUnprotected'
  | 'IntakeAborted'
  | 'RecoveredHeld'
  | 'TryRaised'
  | 'EndRefusedByTombstone'
  | 'ShadowReceived'
  | 'AlreadyHeld'
  | 'AbortAcknowledged'
  | 'AbortAcknowledgedUnknown'
  | 'AbortDenied'
  | 'Categorized'
  | 'RoutingChanged'
  | 'RecipientFinal'
  | 'DsnProtected'
  | 'RetryScheduled'
  | 'Expired'
  | 'RecipientReopened'
  | 'AllRecipientsFinal'
  | 'NothingSucceeded'
  | 'DiscardNotified'
  | 'DiscardNotifiedFailed'
  | 'Claimed'
  | 'ClaimGranted'
  | 'Demoted'
  | 'TakenOverFinal'
  | 'ReshadowCommitted'
  | 'PlacementReleased'
  | 'Resigned'
  | 'BecameOwner'
  | 'CrashedRepeatedly'
  | 'AdminResumed'
  | 'AdminRemoved'
  | 'AdminSuspended'
  | 'AdminContinued'
  | 'Quarantined'
  | 'Refetched'
  | 'ResubmitRequested'
  | 'RoleChanged'
  | 'RestReceived'
  | 'Rehomed'
  | 'HandedOver'
  | 'AllPlacementsAnswered';

const row = (
  number: number,
  event: TransitionEvent,
  from: readonly Place[],
  role: Role | 'any',
  to: readonly (Place | 'same')[],
  guard: string,
  committed: string,
): TransitionRow => ({ row: number, event, from, role, to, guard, committed });

const TRANSIT = ['submission', 'delivery', 'unreachable'] as const;
/** What has a body here and is not final. */
const HELD = [...TRANSIT, 'poison'] as const;
const AT_REST = ['primarySafetyNet', 'shadowSafetyNet'] as const;

/** Rows that issue 3 uses; takeover, resubmission, drain, poison and quarantine add theirs. */
export const TRANSITIONS: readonly TransitionRow[] = [
  row(1, 'BodyReceived', ['-'], 'primary', ['submission'], 'END arrived, try > abortedThrough, no latch', 'COMMIT'),
  row(
    2,
    'Protected',
    ['submission'],
    'primary',
    ['same'],
    'stored at the same epoch with an equal digest, own COMMIT synced',
    'holders (lazy); then 250',
  ),
  row(
    3,
    'AcceptedUnprotected',
    ['submission'],
    'primary',
    ['same'],
    'policy false and a member heard lately, or the only member',
    'mark; then 250',
  ),
  row(
    4,
    'IntakeAborted',
    ['submission'],
    'primary',
    ['aborted'],
    'attempts exhausted',
    'ABORT; then RESOLVE, then 451',
  ),
  row(
    5,
    'RecoveredHeld',
    [...HELD],
    'primary',
    ['submission'],
    'opened again; what was held in intake counts as accepted',
    '-',
  ),
  row(6, 'TryRaised', [...HELD, 'shadow'], 'any', ['submission'], 'END of a higher try, equal digest', 'EPOCH'),
  row(7, 'EndRefusedByTombstone', ['-', 'aborted'], 'any', ['same'], 'try <= abortedThrough', '-'),
  row(8, 'ShadowReceived', ['-'], 'shadow', ['shadow'], 'id unknown, try allowed, no latch', 'COMMIT'),
  row(9, 'AlreadyHeld', ['shadow'], 'shadow', ['shadow'], 'same or higher epoch, owner not me', 'EPOCH'),
  row(10, 'AbortAcknowledged', ['shadow'], 'shadow', ['aborted'], 'standing intake, try <= n', 'ABORT'),
  row(11, 'AbortAcknowledgedUnknown', ['-', 'aborted'], 'any', ['aborted'], 'RESOLVE of an unknown id', 'ABORT'),
  row(
    12,
    'AbortDenied',
    [...HELD, 'shadow', 'primarySafetyNet', 'shadowSafetyNet'],
    'any',
    ['same'],
    'released or final',
    '-; owned / final',
  ),
  row(
    13,
    'Categorized',
    ['submission'],
    'primary',
    ['delivery', 'unreachable'],
    'released, not doubtful',
    'recipients (lazy)',
  ),
  row(14, 'RoutingChanged', ['unreachable'], 'primary', ['submission'], 'a route appeared', 'lazy'),
  row(15, 'RecipientFinal', ['delivery'], 'primary', ['delivery'], '-', 'FINAL'),
  row(
    16,
    'DsnProtected',
    [...HELD],
    'primary',
    ['same'],
    'DSN of a failure, or of a success that was to be reported: protected, final or unprotected by policy',
    'announce flag',
  ),
  row(17, 'RetryScheduled', ['delivery'], 'primary', ['delivery'], '-', 'lazy'),
  row(18, 'Expired', ['submission', 'delivery', 'unreachable'], 'primary', ['delivery'], 'age', 'FINAL(expired) + DSN'),
  row(
    19,
    'RecipientReopened',
    [...HELD, 'shadow'],
    'any',
    ['same'],
    'a request that is alive, delivered under a lost activation',
    'REOPEN',
  ),
  row(
    20,
    'AllRecipientsFinal',
    ['delivery'],
    'primary',
    ['primarySafetyNet'],
    'some success, DSNs announced',
    'MOVE + tombstone',
  ),
  row(21, 'NothingSucceeded', ['delivery'], 'primary', ['removed'], 'no success, DSNs announced', 'FINAL (tombstone)'),
  row(22, 'CrashedRepeatedly', [...TRANSIT], 'primary', ['poison'], 'two deaths, marked and alone', 'MOVE'),
  row(23, 'AdminResumed', ['poison'], 'primary', ['submission'], 'an order in the document', 'MOVE, audit'),
  row(
    24,
    'AdminRemoved',
    [...HELD],
    'primary',
    ['delivery'],
    'an order in the document, no delivery open; then row 20 or 21',
    'FINAL(removed), audit',
  ),
  row(25, 'AdminSuspended', [...TRANSIT], 'primary', ['same'], 'an order in the document, released', 'flag, audit'),
  row(25, 'AdminContinued', [...TRANSIT], 'primary', ['same'], 'an order in the document, suspended', 'flag, audit'),
  row(
    26,
    'DiscardNotified',
    ['shadow'],
    'shadow',
    ['shadowSafetyNet'],
    'some success, told by the owner, epoch >= mine',
    'MOVE; then ACK',
  ),
  row(27, 'DiscardNotifiedFailed', ['shadow'], 'shadow', ['removed'], 'failed or removed only', 'delete; then ACK'),
  row(
    31,
    'Claimed',
    ['shadow'],
    'primary',
    ['submission'],
    'its owner says unknown, or aborted for a released copy; or is lost, or absent for the span',
    'EPOCH(try, term+1, me)',
  ),
  row(32, 'ClaimGranted', ['shadow'], 'shadow', ['shadow'], 'epoch >= mine', 'EPOCH'),
  row(33, 'Demoted', [...HELD], 'shadow', ['shadow'], 'higher epoch, open deliveries merged', 'EPOCH + finality'),
  row(
    34,
    'TakenOverFinal',
    [...HELD],
    'any',
    ['shadowSafetyNet', 'primarySafetyNet', 'removed'],
    'a member says final',
    'MOVE',
  ),
  row(
    28,
    'PlacementReleased',
    ['shadow'],
    'shadow',
    ['removed'],
    'RELEASE of the owner names my epoch',
    'delete; then RELEASE-ACK',
  ),
  row(
    35,
    'Resigned',
    [...HELD],
    'shadow',
    ['shadow'],
    'draining, or redirected; D confirmed, no delivery open',
    'RESIGN',
  ),
  row(36, 'BecameOwner', ['shadow'], 'primary', ['submission'], 'its owner names me, higher epoch', 'EPOCH'),
  row(38, 'Quarantined', [...HELD, 'shadow', ...AT_REST], 'any', ['same'], 'it cannot be read, or scrub', 'volatile'),
  row(39, 'Refetched', [...HELD, 'shadow', ...AT_REST], 'any', ['same'], 'digest equal', 'COMMIT'),
  row(
    41,
    'ResubmitRequested',
    ['primarySafetyNet', 'shadowSafetyNet'],
    'any',
    ['same'],
    'a request means it; a shadow: the owner is lost, silent, or does not confirm holding it',
    'COMMIT(hash id) of the new copy',
  ),
  row(
    42,
    'RoleChanged',
    ['shadowSafetyNet'],
    'primary',
    ['primarySafetyNet'],
    'the owner is lost',
    'EPOCH(term+1, me)',
  ),
  row(
    42,
    'RestReceived',
    ['-'],
    'any',
    ['primarySafetyNet', 'shadowSafetyNet'],
    'final at the sender, nothing known of it here',
    'COMMIT + MOVE',
  ),
  row(42, 'Rehomed', ['primarySafetyNet'], 'primary', ['same'], 'a member has it durably', 'placement'),
  row(
    42,
    'HandedOver',
    ['primarySafetyNet', 'shadowSafetyNet'],
    'any',
    ['removed'],
    'draining; a member that stays has it durably',
    'delete',
  ),
  row(37, 'ReshadowCommitted', [...HELD], 'primary', ['same'], 'stored at the same epoch', 'placement (lazy)'),
  row(
    44,
    'AllPlacementsAnswered',
    ['aborted', 'removed', 'primarySafetyNet'],
    'any',
    ['same'],
    'acknowledged or retired',
    'forgotten (lazy)',
  ),
];

const BY_EVENT = new Map(TRANSITIONS.map((entry) => [entry.event, entry]));

/** Counts visits per row; the simulator adds them up over all seeds. */
export type TransitionCoverage = Map<TransitionEvent, number>;

/**
 * The only place where a copy changes its queue. Asserts that the table allows it and returns the new place.
 * `role` is the role after the event.
 */
export function transition(
  coverage: TransitionCoverage,
  event: TransitionEvent,
  from: Place,
  role: Role,
  to: Place,
): Place {
  const entry = BY_EVENT.get(event);
  assert(entry !== undefined, 'transition without a row', { event });
  assert(entry.from.includes(from), 'transition from a queue the table does not name', { event, from });
  assert(entry.role === 'any' || entry.role === role, 'transition in the wrong role', { event, role });
  assert(
    entry.to.includes(to) || (entry.to.includes('same') && to === from),
    'transition to a queue the table does not name',
    {
      event,
      from,
      to,
    },
  );
  coverage.set(event, (coverage.get(event) ?? 0) + 1);
  return to;
}
