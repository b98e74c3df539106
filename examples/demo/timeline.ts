/**
 * One traced message in words. Pure: the events of `mailcluster trace ID -o json` in, rows for a table out, with what an event means for
 * somebody who has never seen one. An event without a sentence here is shown as it is.
 */
import type { Sent } from './audit.ts';
import type { TraceEvent } from './cluster.ts';

/**
 * The most telling message: one that was on its way when the transport was killed, of these the one that was answered last - it had to be
 * sent to another transport. Without one, the one that took longest.
 */
export function chooseTraced(sent: readonly Sent[], killedAtMs: number): string | null {
  const accepted = sent.flatMap(({ answer, startedAtMs, endedAtMs }) =>
    answer.kind === 'accepted' ? [{ id: answer.id, startedAtMs, endedAtMs }] : [],
  );
  const caught = accepted.filter((one) => one.startedAtMs < killedAtMs && one.endedAtMs > killedAtMs);
  const [first] =
    caught.length > 0
      ? caught.toSorted((a, b) => b.endedAtMs - a.endedAtMs)
      : accepted.toSorted((a, b) => b.endedAtMs - b.startedAtMs - (a.endedAtMs - a.startedAtMs));
  return first?.id ?? null;
}

export interface TimelineRow {
  readonly after: string;
  readonly event: string;
  readonly where: string;
  readonly words: string;
}

export function timelineRows(events: readonly TraceEvent[], cluster: string): readonly TimelineRow[] {
  const startMs = events[0]?.atMs ?? 0;
  const short = shortNames(cluster);
  return merged(events).map((event) => ({
    after: `+${duration(event.atMs - startMs)}`,
    event: event.event,
    where: short(event.source),
    words: sentence(event, short),
  }));
}

/** Deliveries to several recipients at the same moment are one line; what a resubmission tells again of its ancestor is not shown twice. */
function merged(events: readonly TraceEvent[]): readonly TraceEvent[] {
  const out: TraceEvent[] = [];
  const told = new Set<string>();
  for (const event of events) {
    const words = `${event.atMs} ${event.source} ${event.detail}`;
    if ((event.event === 'FRONTEND' || event.event === 'MESSAGE-ID') && told.has(words)) continue;
    told.add(words);
    const last = out.at(-1);
    const same =
      last?.event === 'DELIVER' &&
      event.event === 'DELIVER' &&
      last.source === event.source &&
      last.peer === event.peer &&
      last.detail === event.detail;
    if (!same) out.push(event);
    else out[out.length - 1] = { ...last, recipients: [...(last.recipients ?? []), ...(event.recipients ?? [])] };
  }
  return out;
}

/** Member names begin with the cluster's name; here everybody is of one cluster. */
export function shortNames(cluster: string): (text: string) => string {
  return (text) => text.replaceAll(`${cluster}-`, '');
}

function sentence(
  { event, peer = '', recipients = [], detail = '' }: TraceEvent,
  short: (text: string) => string,
): string {
  const other = short(peer);
  switch (event) {
    case 'HARECEIVE':
      return `second copy on disk here: shadow of ${other}`;
    case 'RECEIVE':
      return detail === 'protected' ? 'both copies on disk: the front end may say 250' : short(detail);
    case 'HAREDIRECT':
      return `the shadow is on ${other}`;
    case 'DELIVER':
      return `${other}: ${recipients.length} x "${detail}"`;
    case 'TAKEOVER':
      return `the database of ${other} is gone: its shadow is the primary now`;
    case 'RESUBMIT':
      return `sent again out of Safety Net${short(detail.replace(/^of \S+/, ''))}`;
    case 'DEMOTE':
      return `another took over: shadow of ${other === '' ? 'the new primary' : other} now`;
    case 'SAFETYNET':
      return 'all delivered: kept in Primary Safety Net';
    case 'HADISCARD':
      return 'told so: kept in Shadow Safety Net';
    default:
      return short([other, detail].filter((part) => part !== '').join(': '));
  }
}

export const duration = (ms: number): string => (ms < 1_000 ? `${Math.round(ms)} ms` : `${(ms / 1_000).toFixed(1)} s`);
