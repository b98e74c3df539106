/** One event of a message, in message tracking and in the log. Owns: which events the log keeps at `debug`. */
import type { LateEffect } from '../core/events.ts';
import type { CopyFacts } from '../store/database.ts';
import type { TransportDeps } from './deps.ts';
import type { TrackingEventName, TrackingHistory, TrackingRecord } from './tracking-api.ts';

type Deps = Pick<TransportDeps, 'clock' | 'log' | 'name' | 'tracking'>;

export function track(deps: Deps, effect: Extract<LateEffect, { readonly kind: 'Track' }>): void {
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
    const messageId = messageIdOf(facts);
    if (messageId !== undefined) record.messageId = messageId;
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

function messageIdOf({ events }: CopyFacts): string | undefined {
  for (const { event, detail } of events) if (event === 'MESSAGE-ID') return detail;
  return undefined;
}

/**
 * Events that repeat what another line at `info` says: a primary logs RECEIVE and the outcome, a shadow its discard. Message tracking has all of them.
 */
const BOOKKEEPING: ReadonlySet<TrackingEventName> = new Set(['HAREDIRECT', 'HARECEIVE', 'SAFETYNET']);

/** What the front end told of the message, for one record with RECEIVE. */
const historyOf = (facts: CopyFacts): readonly TrackingHistory[] =>
  facts.events.flatMap(({ event, atMs, source, detail }): TrackingHistory[] =>
    event === 'FRONTEND' ? [{ atMs, event, source, ...(detail === undefined ? {} : { detail }) }] : [],
  );
