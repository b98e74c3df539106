/**
 * What people decide about messages and delivery queues (semantics.md D10; rows 23 to 25). Their orders stand in the topology document, which every member has: whoever
 * owns a message when it finds the order carries it out, once; every member looks after its own queues. Owns: that an order is durably done before anybody hears of it,
 * and the audit record of each. A suspended message is told to its holders, so that a takeover does not set it free; what is under way to a store comes to its end.
 */
import type { MessageOrder, QueueOrder, TopologyDocument } from '../../common/config.ts';
import type { CopyId, RecipientState } from '../../common/message.ts';
import type { TrackingEventName } from '../runtime/tracking-api.ts';
import { armAge } from './ages.ts';
import { type Copy, IN_TRANSIT, isFinal, isSuspended, retryAt } from './copy.ts';
import { enqueue, finalNow, finishIfFinal, hopDue, pump } from './delivery.ts';
import { redirect } from './drain.ts';
import { waitNowhere } from './hop.ts';
import { tellHolders } from './ownership.ts';
import { enterRisk, ORDERS_FACT } from './poison.ts';
import { forkDsn } from './reports.ts';
import { commit, late, type Server, setState, type Turn } from './state.ts';
import { transition } from './transitions.ts';

export const suspendedIn = ({ queueOrders = [] }: TopologyDocument): ReadonlySet<string> =>
  new Set(queueOrders.flatMap(({ queue, action }) => (action === 'suspend' ? [queue] : [])));

/** Every second, and when something comes to be poison. */
export function carryOut(turn: Turn): void {
  const { server } = turn;
  const { messageOrders = [], queueOrders = [] } = server.document;
  server.redirects.clear();
  for (const order of messageOrders) {
    const copy = server.copies.get(order.message);
    if (copy === undefined || server.risk.done.has(order.id) || copy.state.epoch.owner !== server.me) continue;
    // Out of poison it is submitted again; else it only goes on.
    const goesOn = order.action === 'resume' && copy.state.queue !== 'poison';
    const addresses = recipientsOf(copy).flatMap((one) => (isFinal(one) ? [] : [one.address]));
    const done = obey(turn, copy, order);
    if (done === 'not now') continue;
    settleOrder(turn, order.id);
    if (done === 'done') audit(turn, copy, order, EVENTS[goesOn ? 'continue' : order.action], addresses);
  }
  for (const order of queueOrders) {
    if (server.risk.done.has(order.id)) continue;
    obeyForQueue(turn, order);
    settleOrder(turn, order.id);
    const detail = `${order.action} of queue ${order.queue} by ${order.by}, order ${order.id}`;
    late(turn, {
      copy: null,
      kind: 'Track',
      event: 'QUEUE',
      facts: null,
      id: order.id as CopyId,
      peer: order.queue,
      detail,
    });
  }
}

const recipientsOf = ({ state, facts }: Copy): readonly RecipientState[] =>
  state.recipients ?? facts.envelope.recipients.map(({ address }) => ({ address, outcome: 'pending' }));

/** It is durable with what it changed: nobody does it twice. */
function settleOrder(turn: Turn, id: string): void {
  const { risk, document } = turn.server;
  risk.done.add(id);
  const known = new Set([...(document.messageOrders ?? []), ...(document.queueOrders ?? [])].map((one) => one.id));
  for (const one of risk.done) if (!known.has(one)) risk.done.delete(one);
  commit(turn, { kind: 'fact', key: ORDERS_FACT, value: [...risk.done] });
}

const EVENTS = {
  resume: 'RESUBMIT',
  suspend: 'SUSPEND',
  continue: 'RESUME',
  remove: 'REMOVE',
  removeWithNdr: 'REMOVE',
  redirect: 'HANDOVER',
} as const;
const WORDS = {
  suspend: 'suspend',
  resume: 'resume',
  remove: 'remove',
  removeWithNdr: 'remove with NDR',
  redirect: 'redirect',
} as const;

/** `addresses`: whom it was about, those that were not final. */
function audit(
  turn: Turn,
  { facts }: Copy,
  { action, id, by }: MessageOrder,
  event: TrackingEventName,
  addresses: readonly string[],
): void {
  const detail = `${WORDS[action]} by ${by}, order ${id}`;
  late(turn, { copy: facts.id, kind: 'Track', event, facts, id: facts.id, detail, addresses });
}

/** `known`: who owned it before me has done it, and said so. */
type Done = 'done' | 'known' | 'not now';

function obey(turn: Turn, copy: Copy, order: MessageOrder): Done {
  const { action } = order;
  if (action === 'redirect') return redirected(turn, copy, order);
  if (action === 'remove' || action === 'removeWithNdr')
    return remove(turn, copy, action === 'removeWithNdr') ? 'done' : 'not now';
  if (action === 'suspend') return suspend(turn, copy);
  if (copy.state.queue === 'poison') return resume(turn, copy) ? 'done' : 'not now';
  if (isSuspended(copy.state)) return setSuspended(turn, copy, 'AdminContinued');
  return copy.state.suspended === false ? 'not now' : 'known';
}

/** Its own record is that of the handover. */
function redirected(turn: Turn, copy: Copy, { id, from, to = '', by }: MessageOrder): Done {
  // Who came to own it meanwhile, by a takeover or this very order, keeps it.
  if (from !== turn.server.name) return 'known';
  return redirect(turn, copy, to, `redirect by ${by}, order ${id}`) ? 'known' : 'not now';
}

// --- one message -----------------------------------------------------------------------------------------------------

/** Row 25. While a higher owner is known it is that one's to do; poison waits for a person anyway. */
function suspend(turn: Turn, copy: Copy): Done {
  const { state } = copy;
  if (state.standing === 'intake' || state.queue === 'poison') return 'not now';
  return isSuspended(state) ? 'known' : setSuspended(turn, copy, 'AdminSuspended');
}

function setSuspended(turn: Turn, copy: Copy, event: 'AdminSuspended' | 'AdminContinued'): Done {
  const { server } = turn;
  const { facts, state } = copy;
  if (!IN_TRANSIT.has(state.queue) || copy.demoteTo !== null) return 'not now';
  transition(server.coverage, event, state.queue, 'primary', state.queue);
  setState(turn, copy, { ...state, suspended: Number(state.suspended) + 1 }, 'commit');
  tellHolders(turn, facts, copy.state, copy.registered, 'pending');
  if (event === 'AdminSuspended') waitNowhere(server.hops, copy);
  else {
    enqueue(turn, copy);
    armAge(turn, copy);
  }
  return 'done';
}

/** Row 23: as if nothing had happened. Should its owner be lost, who takes over has heard of the deaths and asks a person again. */
function resume(turn: Turn, copy: Copy): boolean {
  if (copy.state.queue !== 'poison') return false;
  transition(turn.server.coverage, 'AdminResumed', 'poison', 'primary', 'submission');
  // One word of a person lets it go, also where it was held back before it became poison.
  const { suspended } = copy.state;
  const isHeldBack = isSuspended(copy.state);
  const free = isHeldBack ? Number(suspended) + 1 : suspended;
  setState(turn, copy, { ...copy.state, queue: 'submission', crashCount: 0, suspended: free }, 'commit', []);
  if (isHeldBack) tellHolders(turn, copy.facts, copy.state, copy.registered, 'pending');
  armAge(turn, copy);
  // Alone, and not before it is durable that this order is carried out: should the process die of it again, nobody orders that twice.
  turn.server.risk.suspects.add(copy.facts.id);
  enterRisk(turn, copy);
  return true;
}

/** For the sender: RFC 3463 7.1, refused by policy. */
const REMOVED_REPLY = '550 5.7.1 Removed by an administrator';

/** Row 24: what is not final yet will not be delivered; the sender is told when it is wanted. While a store has it the order waits. */
function remove(turn: Turn, copy: Copy, withNdr: boolean): boolean {
  const { state } = copy;
  const isBusy =
    copy.delivering.size > 0 || copy.doubt !== null || copy.demoteTo !== null || state.standing === 'intake';
  if (isBusy || !IN_TRANSIT.has(state.queue)) return false;
  transition(turn.server.coverage, 'AdminRemoved', state.queue, 'primary', 'delivery');
  const known = recipientsOf(copy);
  const open = known.flatMap((one, index) => (isFinal(one) ? [] : [index]));
  const recipients = known.map((one) => {
    if (isFinal(one)) return one;
    return withNdr
      ? finalNow(turn, one, 'failed', REMOVED_REPLY)
      : finalNow(turn, one, 'removed', 'removed by an administrator');
  });
  waitNowhere(turn.server.hops, copy);
  setState(turn, copy, { ...state, queue: 'delivery', crashCount: 0, recipients }, 'commit');
  if (withNdr) for (const index of open) forkDsn(turn, copy, 'failed', index);
  finishIfFinal(turn, copy);
  return true;
}

// --- one queue -------------------------------------------------------------------------------------------------------

/** Suspended or not follows from the document alone (`suspendedIn`): here is what begins, or is tried, at once. */
function obeyForQueue(turn: Turn, { queue, action }: QueueOrder): void {
  if (action === 'suspend') return;
  if (action === 'retry') {
    for (const copy of waitingFor(turn.server, queue)) {
      retryAt(copy, queue, turn.nowMs);
      enqueue(turn, copy);
    }
    return hopDue(turn, queue);
  }
  pump(turn, queue);
}

/** Put off there, and mine to deliver. */
const waitingFor = ({ copies, me }: Server, queue: string): readonly Copy[] =>
  [...copies.values()].filter(({ state, retryAtMs }) => retryAtMs.has(queue) && state.epoch.owner === me);
