/**
 * What a running transport is now, as gauges of the catalogue. Owns: which peers and primaries were named before. Promise: a time nobody can name
 * (the oldest message of an empty queue) and a peer that is no member any more are NaN, never 0: no comparison of an alert holds for them.
 */
import { resubmitViews } from '../core/resubmission.ts';
import { unprotectedCount } from '../core/server.ts';
import type { Queue } from '../store/database.ts';
import { RESOURCES } from './pressure.ts';
import { NOTHING_QUEUED, type QueueTotals } from './queue-totals.ts';
import type { TransportServer } from './server.ts';

const QUEUES = ['submission', 'delivery', 'unreachable', 'poison', 'shadow'] as const;
const STATES = ['recovering', 'ready', 'draining', 'drained', 'stopping'] as const;
const REQUEST_STATES = ['Pending', 'Running', 'Paused', 'Done', 'Cancelled'] as const;
const LEVELS = { Normal: 0, Medium: 1, High: 2 } as const;

const secondsOf = (ms: number | null): number => (ms === null ? Number.NaN : ms / 1000);

export class Gauges {
  readonly #server: TransportServer;
  readonly #peers = new Set<string>();
  readonly #primaries = new Set<string>();

  constructor(server: TransportServer) {
    this.#server = server;
    server.deps.metrics.set('fenced', 0);
  }

  set(queues: ReadonlyMap<Queue, QueueTotals>): void {
    this.#setQueues(queues);
    this.#setStore();
    this.#setMember();
    this.#setPeers();
    this.#setPrimaries();
  }

  #setQueues(queues: ReadonlyMap<Queue, QueueTotals>): void {
    const { metrics } = this.#server.deps;
    for (const kind of QUEUES) {
      const { messages, bytes, oldestMs } = queues.get(kind) ?? NOTHING_QUEUED;
      metrics.set('queue_messages', messages, { kind });
      metrics.set('queue_bytes', bytes, { kind });
      metrics.set('queue_oldest_message_timestamp_seconds', secondsOf(oldestMs), { kind });
    }
    metrics.set('poison_messages', queues.get('poison')?.messages ?? 0);
  }

  #setStore(): void {
    const { pressure, deps } = this.#server;
    const { metrics, database } = deps;
    const space = database.space();
    metrics.set('store_bytes', space.liveBytes + space.safetyNetBytes);
    metrics.set('store_free_bytes', space.freeBytes);
    for (const resource of RESOURCES)
      metrics.set('backpressure_level', LEVELS[pressure.levelOf(resource)], { resource });
    const net = database.safetyNetCounts();
    for (const role of ['primary', 'shadow'] as const) {
      metrics.set('safety_net_messages', net[role].messages, { role });
      metrics.set('safety_net_bytes', net[role].bytes, { role });
    }
    metrics.set('safety_net_oldest_timestamp_seconds', secondsOf(net.oldestMs));
  }

  #setMember(): void {
    const { core, deps, state } = this.#server;
    const { metrics } = deps;
    metrics.set('unprotected_messages', unprotectedCount(core) ?? Number.NaN);
    metrics.set('discards_pending', core.tombstones.size);
    const requests = resubmitViews({ server: core, nowMs: deps.clock.monotonicMs() });
    for (const one of REQUEST_STATES)
      metrics.set('resubmit_requests', requests.filter(({ state: its }) => its === one).length, { state: one });
    metrics.set('topology_generation', core.document.generation);
    metrics.set('drained', core.latch === null ? 0 : 1);
    const leaving = core.latch !== null ? 'drained' : core.self.state === 'draining' ? 'draining' : state;
    const now = state === 'ready' ? leaving : state;
    for (const one of STATES) metrics.set('member_state', one === now ? 1 : 0, { state: one });
  }

  #setPeers(): void {
    const { metrics } = this.#server.deps;
    const left = new Set(this.#peers);
    for (const { member: peer, connected, lastContactMs } of this.#server.peers.view()) {
      left.delete(peer);
      this.#peers.add(peer);
      metrics.set('peer_up', connected ? 1 : 0, { peer });
      metrics.set('heartbeat_age_timestamp_seconds', secondsOf(lastContactMs), { peer });
    }
    for (const peer of left) {
      this.#peers.delete(peer);
      metrics.set('peer_up', Number.NaN, { peer });
      metrics.set('heartbeat_age_timestamp_seconds', Number.NaN, { peer });
    }
  }

  /** By name: who comes back on a new volume is a new identity of the same member. */
  #setPrimaries(): void {
    const { core, deps } = this.#server;
    const held = new Map<string, number>([...this.#peers, ...this.#primaries].map((member) => [member, 0]));
    for (const [identity, ids] of core.held) {
      const member = core.memberOf.get(identity) ?? 'unknown';
      held.set(member, (held.get(member) ?? 0) + ids.size);
    }
    for (const [primary, messages] of held) {
      this.#primaries.add(primary);
      deps.metrics.set('shadow_queue_messages', messages, { primary });
    }
  }
}
