/**
 * One timeline of a message out of what each member recorded: the transports' tracking, and the front end's events kept with the copies.
 * Pure. Promise: sorted by time, each event once although both copies and several members may tell it.
 */
import { PARENT, SUBJECT_HASH } from '../../common/tracked-events.ts';
import type { MessageDetailAnswer, TraceAnswer } from './answers.ts';
import { type Column, duration, table, time } from './output.ts';

const keyOf = (one: TraceAnswer): string =>
  JSON.stringify([
    one.attemptId,
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
  const unique = new Map([...traces.flat(), ...fromCopies].map(plain).map((one) => [keyOf(one), one]));
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

function detailOf(one: TraceAnswer): string {
  return [
    one.peer === undefined ? '' : `peer ${one.peer}`,
    one.from === undefined ? '' : `from <${one.from}>`,
    one.recipients === undefined || one.recipients.length === 0 ? '' : `to ${one.recipients.join(', ')}`,
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
