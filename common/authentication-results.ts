/**
 * What a front end found out about who sent a message (RFC 8601), as it travels with it: events of the message, so that both copies have it for good and whoever delivers writes it.
 * Owns: the name of the event and what is in its detail: `AUTHSERV-ID; RESULT; RESULT`, or `AUTHSERV-ID` alone: nothing was found out, and nobody else may say that we did. PURE.
 */
import type { TrackingEvent } from './peer/messages.ts';

export const AUTHENTICATION = 'AUTHENTICATION';

/** A detail is cut at 4,096 characters: half a result must not come of it. */
export const MAX_RESULTS_LENGTH = 3_500;

/**
 * Checks of a listener, in the order in which their results are written. ARC comes first: what a stranger wrote may stand in a comment of those behind it, and be read as a result of ours
 * by whoever looks for one there (`chainStatusOf`).
 */
export const CHECKS = ['ARC', 'SPF', 'DKIM', 'DMARC'] as const;
export type Check = (typeof CHECKS)[number];

export const resultsOf = (events: readonly TrackingEvent[]): readonly string[] =>
  events.flatMap(({ event, detail }) => (event === AUTHENTICATION && detail !== undefined ? [detail] : []));

export const authservIdOf = (results: string): string => (results.split(';')[0] ?? '').trim().toLowerCase();

/** `cv=` of the next set (RFC 8617 4.4): what a host of ours found the chain to be when the message came in. Null: nobody looked, or could not tell. */
export type ChainStatus = 'none' | 'pass' | 'fail';

export function chainStatusOf(results: string): ChainStatus | null {
  const [, found] = /^[^;]*; arc=(none|pass|fail)(?:[ ;]|$)/.exec(results) ?? [];
  return (found ?? null) as ChainStatus | null;
}
