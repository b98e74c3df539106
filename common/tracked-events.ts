/**
 * Events of message tracking, by which a person looks for messages. And names of what travels with a copy among its events and is no event of its life: by what message tracking finds it (semantics.md D10). Details: the Message-ID
 * with its brackets; a hash of its subject (`smtp/subject-hash.ts`); the copy it was made of, in another boundary or in this one (semantics.md D3).
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
  'PROMOTE',
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
