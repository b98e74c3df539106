/**
 * Which queues a person sees first when there are more than a page: those with which something is wrong, then those with most messages. For the transport, which tells the first of its own,
 * and for who puts the answers of several together. PURE.
 */
export interface ListedQueue {
  readonly nextHop: string;
  readonly messages: number;
  readonly lastError: string | null;
  /** Absent from older versions. */
  readonly suspended?: boolean;
}

const needsSomebody = ({ lastError, suspended }: ListedQueue): boolean => lastError !== null || suspended === true;

/** Nothing is to be said about the others. */
const isOfNote = (queue: ListedQueue): boolean => queue.messages > 0 || needsSomebody(queue);

function compare(a: ListedQueue, b: ListedQueue): number {
  const byNeed = Number(needsSomebody(b)) - Number(needsSomebody(a));
  const byName = a.nextHop < b.nextHop ? -1 : Number(a.nextHop > b.nextHop);
  return byNeed || b.messages - a.messages || byName;
}

/** `more`: how many of note are behind the first `limit`. */
export function firstQueues<T extends ListedQueue>(
  queues: readonly T[],
  limit: number,
): { readonly nextHops: readonly T[]; readonly more: number } {
  const all = queues.filter(isOfNote).sort(compare);
  return { nextHops: all.slice(0, limit), more: Math.max(0, all.length - limit) };
}
