/**
 * TransportOrders as the topology document has them (docs/decisions/0034-orders-on-kubernetes.md): what people decide about queues and
 * messages on Kubernetes. Owns: which of them come into the next document, and what is said of each. Promise: what stands in a document
 * stays until a later order about the same thing, whatever becomes of its object; an order comes into force once; nothing is said to be in
 * force before the document that has it was written. What may not be is refused as `mailcluster run` refuses it (`local/orders.ts`). PURE.
 */
import type { TopologyDocument } from '../common/config.ts';
import type { CopyId } from '../common/message.ts';
import type { Observed } from './gathered.ts';
import {
  acceptance,
  admit,
  decisionsOf,
  type MessageOrderDocument,
  orderFile,
  type QueueOrderDocument,
} from './local/orders.ts';
import type { TransportOrder, TransportOrderStatus } from './resource/generated.ts';
import type { Decisions } from './topology.ts';

type Order = MessageOrderDocument | QueueOrderDocument;
export type ObservedOrder = Observed<TransportOrder, TransportOrderStatus>;

export interface OrderVerdict {
  readonly state: NonNullable<TransportOrderStatus['state']>;
  readonly message: string;
}

export interface OrdersInDocument {
  readonly decisions: Pick<Decisions, 'messages' | 'queues'>;
  /** By uid: of those that were open and are not any more. */
  readonly verdicts: ReadonlyMap<string, OrderVerdict>;
}

const QUEUE_ACTIONS = { Suspend: 'suspend', Resume: 'resume', Retry: 'retry' } as const;
const MESSAGE_ACTIONS = {
  ...QUEUE_ACTIONS,
  Remove: 'remove',
  RemoveWithNdr: 'removeWithNdr',
  Redirect: 'redirect',
} as const;

export const isOpen = ({ status }: Pick<ObservedOrder, 'status'>): boolean => status?.state === undefined;

/** As it is known in the document; null: it cannot be read. The uid is its id: a name may come again. */
function orderOf({ resource, metadata }: ObservedOrder): Order | null {
  if (resource === null) return null;
  const { queue, message, by } = resource.spec;
  const head = { id: metadata.uid ?? '', atMs: Date.parse(metadata.creationTimestamp ?? '') || 0, by };
  if (queue !== undefined) return { ...head, kind: 'queue', queue: queue.name, action: QUEUE_ACTIONS[queue.action] };
  if (message === undefined) return null;
  const { id, from, to } = message;
  const where = from === undefined || to === undefined ? {} : { from, to };
  return { ...head, kind: 'message', message: id as CopyId, action: MESSAGE_ACTIONS[message.action], ...where };
}

/** In the order in which they were written. */
function standingIn({ messageOrders = [], queueOrders = [] }: TopologyDocument): readonly Order[] {
  return [
    ...messageOrders.map((one, atMs): Order => ({ ...one, kind: 'message', atMs })),
    ...queueOrders.map((one, atMs): Order => ({ ...one, kind: 'queue', atMs })),
  ];
}

const isLater = (a: Order, b: Order): boolean => a.atMs > b.atMs || (a.atMs === b.atMs && a.id > b.id);

/** `previous`: as it is stored. When both copies of it are gone, what was in force comes back. */
export function ordersInDocument(
  previous: TopologyDocument | null,
  observed: readonly ObservedOrder[],
): OrdersInDocument {
  const verdicts = new Map<string, OrderVerdict>();
  const standing = previous === null ? [] : standingIn(previous);
  const inForce = new Set(standing.map(({ id }) => id));
  const known = observed.flatMap((one) => {
    const order = orderOf(one);
    if (order === null && isOpen(one))
      verdicts.set(one.metadata.uid ?? '', { state: 'Refused', message: one.problems.join('; ') });
    return order === null ? [] : [{ order, open: isOpen(one), refused: one.status?.state === 'Refused' }];
  });
  const settled = known.filter(({ order, open, refused }) => inForce.has(order.id) || (!open && !refused));
  const given: Order[] = [];
  for (const { order, open, refused } of known) {
    if (previous === null ? refused : !open) continue;
    const later = settled.find((one) => orderFile(one.order) === orderFile(order) && isLater(one.order, order));
    if (previous !== null && inForce.has(order.id))
      verdicts.set(order.id, { state: 'InForce', message: acceptance(order, previous.generation) });
    else if (previous !== null && later !== undefined)
      verdicts.set(order.id, { state: 'Superseded', message: `a later order of ${later.order.by} replaced it` });
    else given.push(order);
  }
  // Those that stand were written before any of these was given.
  const firstMs = standing.length;
  const sorted = given.sort((a, b) => (isLater(a, b) ? 1 : -1)).map((one, at) => ({ ...one, atMs: firstMs + at }));
  const { accepted, refused } = admit(previous, [...standing, ...sorted]);
  for (const { order, reason } of refused) verdicts.set(order.id, { state: 'Refused', message: reason });
  const latest = new Map<string, Order>();
  for (const order of accepted)
    if (order.kind === 'queue' || order.kind === 'message') latest.set(orderFile(order), order);
  const { messages, queues } = decisionsOf([...latest.values()]);
  return { decisions: { messages, queues }, verdicts };
}
