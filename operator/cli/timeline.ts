/**
 * One timeline of a message out of what each member recorded: the transports' tracking, and the front end's events kept with the copies.
 * Pure. Promise: sorted by time, each event once although both copies and several members may tell it.
 */
import { MESSAGE_ID, PARENT, SUBJECT_HASH } from '../../common/tracked-events.ts';
import type { MessageDetailAnswer, TraceAnswer } from './answers.ts';
import { type Column, duration, table, time } from './output.ts';

/** What travels with a message to each hop, told where it began only. */
const TRAVELS: ReadonlySet<string> = new Set(['FRONTEND', MESSAGE_ID, 'AUTHENTICATION', 'CONTENT-FILTER', 'CROSSED']);

const keyOf = (one: TraceAnswer): string =>
  JSON.stringify([
    TRAVELS.has(one.event) ? '' : one.attemptId,
    one.atMs,
    one.event,
    one.source,
    one.peer ?? '',
    one.detail ?? '',
    one.recipients ?? [],
  ]);

/** A transport's tracking repeats the front end's events as `EVENT detail`; the copy has them as they came. */
function plain(one: TraceAnswer): TraceAnswer {
  const prefix = `${one.event} `;
  return one.detail?.startsWith(prefix) === true ? { ...one, detail: one.detail.slice(prefix.length) } : one;
}

export function timeline(
  traces: readonly (readonly TraceAnswer[])[],
  copies: readonly MessageDetailAnswer[],
): readonly TraceAnswer[] {
  const fromCopies = copies.flatMap((copy) =>
    copy.facts.events
      .filter(({ event }) => event !== SUBJECT_HASH && event !== PARENT)
      .map((event): TraceAnswer => ({ ...event, attemptId: copy.facts.id })),
  );
  const unique = new Map<string, TraceAnswer>();
  for (const one of [...traces.flat(), ...fromCopies].map(plain)) {
    const key = keyOf(one);
    const known = unique.get(key);
    if (known === undefined || (known.root !== undefined && one.root === undefined)) unique.set(key, one);
  }
  return [...unique.values()].sort((a, b) => a.atMs - b.atMs || order(a.event) - order(b.event));
}

/** For events of one millisecond: the way a message takes. */
const WAY = [
  'FRONTEND',
  'CONTENT-FILTER',
  'AUTHENTICATION',
  'RECEIVE',
  'HAREDIRECT',
  'HARECEIVE',
  'DEFER',
  'SEND',
  'DUPLICATEDELIVER',
  'DELIVER',
  'FAIL',
  'EXPIRE',
  'REMOVE',
  'DSN',
  'SAFETYNET',
  'HADISCARD',
];
function order(event: string): number {
  const index = WAY.indexOf(event);
  return index < 0 ? WAY.length : index;
}

const MOST_NAMED = 20;

/** A list of ten thousand fills no screen; "-o json" has all. */
function several(addresses: readonly string[]): string {
  const left = addresses.length - MOST_NAMED;
  return `${addresses.slice(0, MOST_NAMED).join(', ')}${left > 0 ? ` and ${left} more` : ''}`;
}

function detailOf(one: TraceAnswer): string {
  return [
    one.peer === undefined ? '' : `peer ${one.peer}`,
    one.from === undefined ? '' : `from <${one.from}>`,
    one.recipients === undefined || one.recipients.length === 0 ? '' : `to ${several(one.recipients)}`,
    one.messageId === undefined ? '' : `message-id ${one.messageId}`,
    one.detail ?? '',
  ]
    .filter((part) => part !== '')
    .join('; ');
}

export function renderTimeline(events: readonly TraceAnswer[]): string {
  const startMs = events[0]?.atMs ?? 0;
  const several = new Set(events.map((one) => one.attemptId)).size > 1;
  const columns: readonly Column<TraceAnswer>[] = [
    { title: 'TIME (UTC)', value: (one) => time(one.atMs) },
    { title: 'AFTER', value: (one) => `+${duration(one.atMs - startMs)}`, right: true },
    { title: 'EVENT', value: (one) => one.event },
    { title: 'SOURCE', value: (one) => one.source },
    ...(several ? [{ title: 'ATTEMPT', value: (one: TraceAnswer) => one.attemptId }] : []),
    { title: 'DETAIL', value: detailOf },
  ];
  return table(columns, events);
}
