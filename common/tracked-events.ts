/**
 * Names in message tracking (semantics.md D10): of its events, and of what travels with a copy among its events and is no event of its life. Details of the latter:
 * the Message-ID with its brackets; a hash of its subject (`smtp/subject-hash.ts`); the copy it was made of, in another boundary or in this one (semantics.md D3).
 */
export const MESSAGE_ID = 'MESSAGE-ID';
export const SUBJECT_HASH = 'SUBJECT-HASH';
export const PARENT = 'PARENT';

export const TRACKED_EVENTS = [
  'RECEIVE',
  'HAREDIRECT',
  'HARECEIVE',
  'HADISCARD',
  'SEND',
  'DELIVER',
  'DEFER',
  'FAIL',
  'DSN',
  'EXPIRE',
  'ABORT',
  'SAFETYNET',
  'RESUBMIT',
  'DEMOTE',
  'TAKEOVER',
  'HANDOVER',
  'QUARANTINE',
  'REFETCH',
  'REMOVE',
  'SUSPEND',
  'RESUME',
  /** About a delivery queue; the id is that of the order. */
  'QUEUE',
  'DUPLICATEDELIVER',
  'POISON',
  'LOAD',
  'FRONTEND',
] as const;

const OF_COPIES: ReadonlySet<string> = new Set(['HAREDIRECT', 'HARECEIVE', 'HADISCARD', 'SAFETYNET', 'LOAD']);
const FAILURES: ReadonlySet<string> = new Set(['FAIL', 'EXPIRE']);
const ENDS: ReadonlySet<string> = new Set(['DELIVER', 'SEND', 'DUPLICATEDELIVER', 'REMOVE']);

/** How much an event says of what became of a message: a failure more than a success of another recipient, an end more than a wait, anything more than what its copies do. */
export function weightOf(event: string): number {
  if (FAILURES.has(event)) return 3;
  if (ENDS.has(event)) return 2;
  return OF_COPIES.has(event) ? 0 : 1;
}
