/** The running transport as people see it (view.ts): computed when asked, from the core's memory and the queue database. */
import type { CopyId } from '../../common/message.ts';
import { lostMessages } from '../core/damage.ts';
import { drainView } from '../core/drain.ts';
import { resubmitViews } from '../core/resubmission.ts';
import { unprotectedCount } from '../core/server.ts';
import type { Queue } from '../store/database.ts';
import type { SendingAgent } from './delivery-api.ts';
import { knownCopies } from './known-copies.ts';
import { listMessages, listNextHops } from './message-listing.ts';
import { NOTHING_QUEUED, queueTotals, unreachableOf } from './queue-totals.ts';
import { routeView } from './route-view.ts';
import { countSafetyNet, listSafetyNet } from './safety-net-listing.ts';
import type { TransportServer } from './server.ts';
import { clocksOf, toldAge } from './told-times.ts';
import type { MessageDetail, TransportStatus, TransportView } from './view.ts';

const QUEUES: readonly Queue[] = [
  'submission',
  'delivery',
  'unreachable',
  'poison',
  'shadow',
  'primarySafetyNet',
  'shadowSafetyNet',
];

/** What is known of the way mail takes from here. */
type Sending = Pick<SendingAgent, 'hostsOf' | 'unvalidatedResolvers'>;

const SENDS_NOTHING: Sending = {
  hostsOf: async () => ({ hosts: [], problem: null, policy: null }),
  unvalidatedResolvers: () => [],
};

export function transportView(server: TransportServer, sending: Sending = SENDS_NOTHING): TransportView {
  return {
    status: () => statusOf(server, sending),
    nextHops: () => listNextHops(server.core, clocksOf(server.deps.clock)),
    messages: (filter, after, limit) => listMessages(server.core, filter, after, limit, clocksOf(server.deps.clock)),
    message: (id) => message(server, id),
    body: (id) => server.deps.database.readBody(id),
    safetyNet: (question, limit) => listSafetyNet(server.deps.database, question, limit),
    countSafetyNet: (question) => countSafetyNet(server.deps.database, question),
    known: (ids) => knownCopies(server.core, server.deps.database, ids),
    route: (address, sizeBytes) => routeView(server, sending.hostsOf, address, sizeBytes),
    lostMessages: () => lostMessages(server.core, server.deps.clock.monotonicMs()),
    resubmits: () => resubmitViews({ server: server.core, nowMs: server.deps.clock.monotonicMs() }),
  };
}

function statusOf(server: TransportServer, sending: Sending): TransportStatus {
  const { core, deps } = server;
  const net = deps.database.safetyNetCounts();
  const counted = queueTotals(core, clocksOf(deps.clock));
  const totals = new Map(QUEUES.map((queue) => [queue, counted.get(queue) ?? NOTHING_QUEUED]));
  totals.set('primarySafetyNet', { ...net.primary, oldestMs: net.oldestMs });
  totals.set('shadowSafetyNet', { ...net.shadow, oldestMs: net.oldestMs });
  const queues = Object.fromEntries(totals) as TransportStatus['queues'];
  return {
    name: deps.name,
    site: core.self.site,
    dag: core.self.dag,
    boundary: core.self.boundary,
    identity: deps.database.identity,
    openCounter: deps.database.chain.at(-1)?.openCounter ?? 0,
    state: server.state,
    generation: core.document.generation,
    queues,
    safetyNet: net,
    withoutRoute: unreachableOf(core).length,
    unprotected: unprotectedCount(core),
    discardsPending: core.tombstones.size,
    quarantined: deps.database.recovered.quarantined.length,
    scrub: server.scrubbing.view(),
    backPressure: core.pressure,
    pressedBy: core.pressedBy,
    drain: drainView(core, net.primary.messages + net.shadow.messages),
    lost: [...core.lost].map(([identity, { member, why }]) => ({ member, identity, why })),
    peers: server.peers.view(),
    space: deps.database.space(),
    unvalidatedResolvers: sending.unvalidatedResolvers(),
  };
}

async function message(server: TransportServer, id: CopyId): Promise<MessageDetail | null> {
  const copy = server.core.copies.get(id);
  if (copy !== undefined)
    return { facts: copy.facts, state: copy.state, ageMs: toldAge(server.core, copy, clocksOf(server.deps.clock)) };
  return await server.deps.database.lookup(id);
}
