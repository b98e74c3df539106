/** One event of a message, in message tracking and in the log. Owns: which events the log keeps at `debug`. */
import { MESSAGE_ID, PARENT, SUBJECT_HASH } from '../../common/tracked-events.ts';
import { deliveryIdOf } from '../core/copy.ts';
import type { LateEffect } from '../core/events.ts';
import type { CopyFacts } from '../store/database.ts';
import type { TransportDeps } from './deps.ts';
import type { TrackingEventName, TrackingHistory, TrackingRecord } from './tracking-api.ts';

type Deps = Pick<TransportDeps, 'clock' | 'log' | 'name' | 'tracking'>;

type Tracked = Extract<LateEffect, { readonly kind: 'Track' }>;

export function track(deps: Deps, effect: Tracked): void {
  const { facts, id, peer, detail, addresses } = effect;
  const { event } = effect;
  const record: Growing = { atMs: deps.clock.wallMs(), event, source: deps.name, attemptId: id };
  if (facts !== null) {
    const { envelope } = facts;
    record.from = envelope.reversePath;
    record.recipients = addresses ?? envelope.recipients.map((entry) => entry.address);
  }
  if (peer !== undefined) record.peer = peer;
  if (detail !== undefined) record.detail = detail;
  if (facts !== null) {
    nameIt(record, effect, facts);
    if (event === 'RECEIVE') record.history = historyOf(facts);
  }
  deps.tracking.record(record);
  const isBookkeeping = BOOKKEEPING.has(event);
  const fields = {
    attemptId: id,
    event,
    ...(peer === undefined ? {} : { peer }),
    ...(detail === undefined ? {} : { detail }),
  };
  if (isBookkeeping) deps.log.debug(fields, 'message event');
  else deps.log.info(fields, 'message event');
}

type Growing = { -readonly [Key in keyof TrackingRecord]: TrackingRecord[Key] };

/** By what people find it. */
function nameIt(record: Growing, { event, id, parent }: Tracked, facts: CopyFacts): void {
  const messageId = detailOf(facts, MESSAGE_ID);
  if (messageId !== undefined) record.messageId = messageId;
  const subjectHash = detailOf(facts, SUBJECT_HASH);
  if (subjectHash !== undefined) record.subjectHash = subjectHash;
  const root = deliveryIdOf(facts);
  if (root !== id) record.root = root;
  // A resubmission has the events of what it repeats.
  const made = parent ?? (BEGINS.has(event) && facts.kind !== 'resubmission' ? detailOf(facts, PARENT) : undefined);
  if (made !== undefined) record.parent = made;
}

function detailOf({ events }: CopyFacts, wanted: string): string | undefined {
  for (const { event, detail } of events) if (event === wanted) return detail;
  return undefined;
}

const BEGINS: ReadonlySet<TrackingEventName> = new Set(['RECEIVE', 'HARECEIVE']);

/**
 * Events that repeat what another line at `info` says: a primary logs RECEIVE and the outcome, a shadow its discard. Message tracking has all of them.
 */
const BOOKKEEPING: ReadonlySet<TrackingEventName> = new Set(['HAREDIRECT', 'HARECEIVE', 'SAFETYNET', 'LOAD']);

/** What the front end told of the message, for one record with RECEIVE. */
const historyOf = (facts: CopyFacts): readonly TrackingHistory[] =>
  facts.events.flatMap(({ event, atMs, source, detail }): TrackingHistory[] =>
    event === 'FRONTEND' ? [{ atMs, event, source, ...(detail === undefined ? {} : { detail }) }] : [],
  );
