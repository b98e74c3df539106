/** One event of a message, in message tracking and in the log. Owns: which events the log keeps at `debug`. */
import type { LateEffect } from '../core/events.ts';
import type { CopyFacts } from '../store/database.ts';
import type { TransportDeps } from './deps.ts';
import type { TrackingEventName, TrackingHistory } from './tracking-api.ts';

type Deps = Pick<TransportDeps, 'clock' | 'log' | 'name' | 'tracking'>;

export function track(deps: Deps, effect: Extract<LateEffect, { readonly kind: 'Track' }>): void {
  const { facts, id, peer, detail, addresses } = effect;
  const messageId = facts?.events.find((event) => event.event === 'MESSAGE-ID')?.detail;
  deps.tracking.record({
    atMs: deps.clock.wallMs(),
    event: effect.event,
    source: deps.name,
    attemptId: id,
    ...(facts === null
      ? {}
      : {
          from: facts.envelope.reversePath,
          recipients: addresses ?? facts.envelope.recipients.map((entry) => entry.address),
        }),
    ...(peer === undefined ? {} : { peer }),
    ...(detail === undefined ? {} : { detail }),
    ...(messageId === undefined ? {} : { messageId }),
    ...(effect.event === 'RECEIVE' && facts !== null ? { history: historyOf(facts) } : {}),
  });
  const fields = {
    attemptId: id,
    event: effect.event,
    ...(peer === undefined ? {} : { peer }),
    ...(detail === undefined ? {} : { detail }),
  };
  if (BOOKKEEPING.has(effect.event)) deps.log.debug(fields, 'message event');
  else deps.log.info(fields, 'message event');
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
