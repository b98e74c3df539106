/**
 * The decisions of people as durable documents, one file each in `orders/` of the state directory, and what they come to. Owns: their form,
 * which of them may be, and the member states, retired queue databases and requests that follow. Promise: read again after a crash of the
 * command or of the runner at any step they mean the same. Refuses, with a text: the drain of the last active member, orders about what is
 * not there. PURE.
 */
import type { MemberConfig, MessageOrder, QueueOrder, RetiredIdentity, TopologyDocument } from '../../common/config.ts';
import type { CopyId, Identity } from '../../common/message.ts';
import { domainFault } from '../../common/smtp/address.ts';
import type { ResubmitRequest } from '../resource/generated.ts';
import type { WantedRequest } from '../resubmit-requests.ts';
import { type Decisions, drainRefusal } from '../topology.ts';

interface OrderHead {
  /** Random; the answer of the runner carries it. */
  readonly id: string;
  readonly atMs: number;
}

/** What is wanted of a member; a later order replaces an earlier one. */
export interface MemberOrder extends OrderHead {
  readonly kind: 'member';
  readonly member: string;
  readonly state: 'active' | 'draining';
}

/** Written by the runner: the member proved empty under the drain `order`. Void when that is no longer the order of the member. */
export interface GoneOrder extends OrderHead {
  readonly kind: 'gone';
  readonly member: string;
  readonly order: string;
  readonly identity: Identity;
}

export interface LostOrder extends OrderHead {
  readonly kind: 'lost';
  readonly member: string;
  readonly identity: Identity;
  readonly why: string;
}

export interface CancelOrder extends OrderHead {
  readonly kind: 'cancel';
  /** Name of the resubmit request. */
  readonly request: string;
}

export interface ResubmitOrder extends OrderHead {
  readonly kind: 'resubmit';
  readonly resource: ResubmitRequest;
}

/** What shall become of one message, in whose hands it ever is. A later order about it replaces an earlier one. */
export interface MessageOrderDocument extends OrderHead {
  readonly kind: 'message';
  readonly message: CopyId;
  readonly action: MessageOrder['action'];
  /** Of `redirect`, both. */
  readonly from?: string;
  readonly to?: string;
  readonly by: string;
}

/** What shall become of a delivery queue at every transport. `suspend` and `resume` replace one another, `retry` neither. */
export interface QueueOrderDocument extends OrderHead {
  readonly kind: 'queue';
  readonly queue: string;
  readonly action: QueueOrder['action'];
  readonly by: string;
}

export type Order =
  | QueueOrderDocument
  | MessageOrderDocument
  | MemberOrder
  | GoneOrder
  | LostOrder
  | CancelOrder
  | ResubmitOrder;

/** Name of its file in `orders/`. */
export function orderFile(order: Order): string {
  switch (order.kind) {
    case 'member':
    case 'gone':
      return `${order.kind}-${order.member}.json`;
    case 'lost':
      return `lost-${order.identity}.json`;
    case 'message':
      return `message-${order.message}.json`;
    case 'queue':
      return `${order.action === 'retry' ? 'retry' : 'queue'}-${encodeURIComponent(order.queue)}.json`;
    case 'cancel':
      return `cancel-${order.request}.json`;
    case 'resubmit':
      return `resubmit-${order.resource.metadata.name}.json`;
  }
}

const IDENTITY = /^[0-9A-HJKMNP-TV-Z]{26}$/;
export const isIdentity = (value: unknown): value is Identity => typeof value === 'string' && IDENTITY.test(value);

const TEXTS: Readonly<Record<Order['kind'], readonly string[]>> = {
  member: ['member', 'state'],
  gone: ['member', 'order', 'identity'],
  lost: ['member', 'identity', 'why'],
  cancel: ['request'],
  message: ['message', 'action', 'by'],
  queue: ['queue', 'action', 'by'],
  resubmit: [],
};

const MESSAGE_ACTIONS: readonly MessageOrder['action'][] = ['suspend', 'resume', 'remove', 'removeWithNdr', 'redirect'];
const QUEUE_ACTIONS: readonly QueueOrder['action'][] = ['suspend', 'resume', 'retry'];

/** A string says what is wrong. `readResource` checks a ResubmitRequest against its CRD. */
export function parseOrder(value: unknown, readResource: (value: unknown) => ResubmitRequest | string): Order | string {
  if (typeof value !== 'object' || value === null) return 'not an object';
  const order = value as Readonly<Record<string, unknown>>;
  const kinds = Object.keys(TEXTS) as Order['kind'][];
  const kind = kinds.find((one) => one === order.kind);
  if (kind === undefined) return `unknown kind ${JSON.stringify(order.kind)}`;
  if (typeof order.id !== 'string' || typeof order.atMs !== 'number') return 'id or atMs is missing';
  const missing = TEXTS[kind].find((field) => typeof order[field] !== 'string');
  if (missing !== undefined) return `${missing}: not a text`;
  if ('identity' in order && !isIdentity(order.identity)) return 'identity: not the identity of a queue database';
  if (kind === 'member' && order.state !== 'active' && order.state !== 'draining') return 'state: active or draining';
  if (kind === 'message') {
    if (!isIdentity(order.message)) return 'message: not the id of a message';
    if (!MESSAGE_ACTIONS.some((one) => one === order.action)) return `action: ${MESSAGE_ACTIONS.join(', ')}`;
    const isWhole = [order.from, order.to].every((one) => typeof one === 'string');
    if (order.action === 'redirect' && !isWhole) return 'from, to: names of members';
  }
  if (kind === 'queue' && !QUEUE_ACTIONS.some((one) => one === order.action))
    return `action: ${QUEUE_ACTIONS.join(', ')}`;
  if (kind !== 'resubmit') return value as Order;
  const resource = readResource(order.resource);
  return typeof resource === 'string' ? resource : { kind, id: order.id, atMs: order.atMs, resource };
}

/** Older ones have long been carried out; the document is read by everybody. */
const MOST_MESSAGE_ORDERS = 500;
/** Of each kind. */
const MOST_QUEUE_ORDERS = 200;

const before = (a: OrderHead, b: OrderHead): number => a.atMs - b.atMs || (a.id < b.id ? -1 : 1);

/** States that are not `active`, of the orders alone. */
function memberStates(orders: readonly Order[]): ReadonlyMap<string, 'draining' | 'gone'> {
  const states = new Map<string, 'draining' | 'gone'>();
  for (const order of orders) {
    if (order.kind !== 'member' || order.state !== 'draining') continue;
    const gone = orders.some((one) => one.kind === 'gone' && one.order === order.id);
    states.set(order.member, gone ? 'gone' : 'draining');
  }
  return states;
}

const isCurrent = (orders: readonly Order[], gone: GoneOrder): boolean =>
  orders.some((one) => one.kind === 'member' && one.state === 'draining' && one.id === gone.order);

export interface Admitted {
  readonly accepted: readonly Order[];
  readonly refused: readonly { readonly order: Order; readonly reason: string }[];
}

/** In the order in which they were given. What is in the document already was admitted before. */
export function admit(document: TopologyDocument | null, orders: readonly Order[]): Admitted {
  const accepted: Order[] = [];
  const refused: { order: Order; reason: string }[] = [];
  for (const order of [...orders].sort(before)) {
    const reason = document === null ? null : refusalOf(document, accepted, order);
    if (reason === null) accepted.push(order);
    else refused.push({ order, reason });
  }
  return { accepted, refused };
}

function refusalOf(document: TopologyDocument, accepted: readonly Order[], order: Order): string | null {
  const { members, resubmitRequests, databases } = document;
  switch (order.kind) {
    case 'member': {
      const member = members.find(({ name }) => name === order.member);
      // Also one that was drained and then taken out of the files: what it was is kept as retired.
      if (member === undefined) return `there is no member ${order.member}`;
      if (order.state === 'active' || member.state !== 'active') return null;
      const states = memberStates(accepted);
      const stated = members.map((one): MemberConfig => {
        return { ...one, state: states.get(one.name) ?? (one.state === 'draining' ? 'active' : one.state) };
      });
      return drainRefusal({ ...document, members: stated }, order.member);
    }
    case 'lost':
      return members.some(({ name }) => name === order.member) ? null : `there is no member ${order.member}`;
    case 'cancel': {
      const known = resubmitRequests.some(({ name }) => name === order.request);
      const asked = accepted.some((one) => one.kind === 'resubmit' && one.resource.metadata.name === order.request);
      return known || asked ? null : `there is no resubmit request ${order.request} that could be cancelled`;
    }
    case 'resubmit': {
      const { metadata, spec } = order.resource;
      const { database } = spec.selector;
      const former = resubmitRequests.find(({ name }) => name === metadata.name);
      if (former !== undefined && former.createdAtMs !== order.atMs)
        return `there is a resubmit request ${metadata.name} already; choose another name`;
      if (database === undefined || databases.some(({ name }) => name === database)) return null;
      return `there is no database ${database}; there is ${databases.map(({ name }) => name).join(', ') || 'none'}`;
    }
    case 'queue':
      return queueRefusal(document, accepted, order);
    case 'message':
      return redirectRefusal(document, order);
    case 'gone':
      return null;
  }
}

/** One that stands in the document was good once; where it cannot be done any more the message stays where it is. */
function redirectRefusal(
  { members, messageOrders = [] }: TopologyDocument,
  order: MessageOrderDocument,
): string | null {
  const { action, from: fromName, to: toName, id } = order;
  if (action !== 'redirect' || messageOrders.some((one) => one.id === id)) return null;
  const [from, to] = [fromName, toName].map((name) => members.find((one) => one.name === name && one.state !== 'gone'));
  const known = members.filter(({ state }) => state === 'active').map(({ name }) => name);
  if (from === undefined) return `there is no member ${fromName} from which a message could be redirected`;
  if (to === undefined) return `there is no member ${toName}; there is ${known.join(', ') || 'none'}`;
  if (from.name === to.name) return `${to.name} has the message already; name another member`;
  if (from.boundary !== to.boundary)
    return `${to.name} is in ${to.boundary}, and a message of ${from.name} stays in ${from.boundary}; name a member of that`;
  return to.state === 'active' ? null : `${to.name} is ${to.state} and takes nothing; name an active member`;
}

/** As transports name it (routing.ts): a domain in lower case. Of `*` or `Example.org` nobody has a queue. */
const isNextHop = (domain: string): boolean => domainFault(domain) === null && domain === domain.toLowerCase();

/** A queue that nobody could ever have would be suspended in vain. One that stands in the document may be resumed all the same. */
function queueRefusal(
  document: TopologyDocument,
  accepted: readonly Order[],
  { queue, action, id }: QueueOrderDocument,
): string | null {
  const { databases, sendConnectors, siteLinks, members, queueOrders = [] } = document;
  if (queueOrders.some((one) => one.id === id || (action === 'resume' && one.queue === queue))) return null;
  const suspended = accepted.filter((one) => one.kind === 'queue' && one.action === 'suspend').length;
  if (action === 'suspend' && suspended >= MOST_QUEUE_ORDERS)
    return `${MOST_QUEUE_ORDERS} queues are suspended already; resume one first`;
  const across = siteLinks === undefined ? [] : members.flatMap((one) => [one.boundary, `${one.boundary}/${one.site}`]);
  const own = [
    ...databases.flatMap(({ name, copies }) => copies.map((copy) => `mailbox:${name}/${copy.name}`)),
    ...[...new Set(across)].map((where) => `boundary:${where}`),
  ];
  const connectors = sendConnectors.map(({ name, mx }) => ({ queue: `connector:${name}`, perDomain: mx !== null }));
  const isOfConnector = connectors.some((one) =>
    one.perDomain
      ? queue.startsWith(`${one.queue}/`) && isNextHop(queue.slice(one.queue.length + 1))
      : queue === one.queue,
  );
  if (own.includes(queue) || isOfConnector) return null;
  const known = [...own, ...connectors.map((one) => (one.perDomain ? `${one.queue}/DOMAIN` : one.queue))];
  return `there can be no delivery queue ${queue}; there is ${known.join(', ') || 'none'}`;
}

export function decisionsOf(orders: readonly Order[]): Decisions {
  const states = memberStates(orders);
  const retired = orders.flatMap((order): RetiredIdentity[] => {
    // A drain that was cancelled in the last moment: that database lives on.
    if (order.kind !== 'lost' && (order.kind !== 'gone' || !isCurrent(orders, order))) return [];
    const { member, identity } = order;
    return [{ member, identity, uid: null, reason: order.kind === 'lost' ? 'lost' : 'drained' }];
  });
  const cancelled = new Set(orders.flatMap((order) => (order.kind === 'cancel' ? [order.request] : [])));
  const messages = orders
    .flatMap((one) => (one.kind === 'message' ? [one] : []))
    .sort(before)
    .slice(-MOST_MESSAGE_ORDERS)
    .map(({ id, message, action, from, to, by }): MessageOrder => {
      const where = from === undefined || to === undefined ? {} : { from, to };
      return { id, message, action, ...where, by };
    });
  return { members: states, retired, cancelled, messages, queues: queueOrders(orders) };
}

/** What is suspended stays; of the rest the latest are enough: each is done once, in a second. */
function queueOrders(orders: readonly Order[]): readonly QueueOrder[] {
  const all = orders.flatMap((one) => (one.kind === 'queue' ? [one] : [])).sort(before);
  const others = new Set(all.filter(({ action }) => action !== 'suspend').slice(-MOST_QUEUE_ORDERS));
  return all
    .filter((one) => one.action === 'suspend' || others.has(one))
    .map(({ id, queue, action, by }): QueueOrder => ({ id, queue, action, by }));
}

export function requestsOf(orders: readonly Order[]): readonly WantedRequest[] {
  return orders.flatMap((order) =>
    order.kind === 'resubmit' ? [{ request: order.resource, createdAtMs: order.atMs }] : [],
  );
}

/** What the person who gave the order is told. */
export function acceptance(order: Order, generation: number): string {
  const since = `topology generation ${generation}`;
  switch (order.kind) {
    case 'member':
      return order.state === 'draining'
        ? `${order.member} is draining since ${since}`
        : `${order.member} is active since ${since}`;
    case 'lost':
      return `queue database ${order.identity} of ${order.member} is lost since ${since}`;
    case 'cancel':
      return `resubmit request ${order.request} is cancelled since ${since}`;
    case 'resubmit':
      return `resubmit request ${order.resource.metadata.name} is there since ${since}`;
    case 'queue':
      return `queue ${order.queue}: ${order.action} ordered in ${since}`;
    case 'message':
      return `${order.message}: ${order.action} ordered in ${since}; its owner carries it out`;
    case 'gone':
      return `${order.member} is gone since ${since}`;
  }
}
