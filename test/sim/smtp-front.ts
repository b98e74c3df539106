/**
 * The SMTP side of a simulated front end: the real `frontend/edge.ts` behind the real adapter around `smtp-server`, on simulated connections. Owns: one life
 * of it and its open connections. The message path behind it is the pod's proxy. TLS is left out: it would only hide the bytes.
 */
import type { Socket } from 'node:net';
import type { FrontendLimits, ListenerConfig, TopologyDocument } from '../../common/config.ts';
import type { Clock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { silentMetrics } from '../../common/platform/metrics.ts';
import type { Random } from '../../common/platform/random.ts';
import { ClientLimits } from '../../common/smtp/client-limits.ts';
import { type UnboundEdge, unboundEdge } from '../../common/smtp/server.ts';
import { FrontendEdge } from '../../frontend/edge.ts';
import type { MessageProxy } from '../../frontend/proxy.ts';
import type { Incarnation } from './incarnation.ts';
import { SimSocket, type SimWire } from './sim-socket.ts';

/** Clients from here may relay. */
export const TRUSTED_NETWORK = '10.1.0.0/16';

const LISTENER: ListenerConfig = {
  name: 'smtp',
  host: '::',
  port: 25,
  tls: 'None',
  relayFrom: [TRUSTED_NETWORK],
  usersFile: null,
};

/** Short spans, so that a client which is gone without a word is noticed within a history. */
export const SIM_LIMITS: FrontendLimits = {
  maxMessageBytes: 1_048_576,
  maxHeaderBytes: 131_072,
  maxRecipients: 100,
  maxCommandLineBytes: 4_096,
  maxDataLineBytes: 10_000,
  maxErrors: 10,
  maxJunkCommands: 50,
  idleTimeoutMs: 20_000,
  dataTimeoutMs: 120_000,
  minDataBytesPerSecond: 20,
  maxConnections: 100,
  maxConnectionsPerClient: 20,
  maxConnectionRatePerClient: 0,
  maxAuthFailures: 10,
  maxMessageRatePerUser: 0,
  replayBufferBytes: 1_048_576,
  totalReplayBufferBytes: 8_388_608,
};

export interface SmtpFrontDeps {
  readonly name: string;
  readonly life: Incarnation;
  readonly clock: Clock;
  readonly random: Random;
  readonly proxy: MessageProxy;
}

export class SmtpFront {
  readonly #life: Incarnation;
  readonly #handlers: FrontendEdge;
  readonly #edge: UnboundEdge;
  readonly #sockets = new Set<SimSocket>();

  constructor({ name, life, clock, random, proxy }: SmtpFrontDeps, document: TopologyDocument) {
    this.#life = life;
    const clients = new ClientLimits(clock, null);
    const side = { name, proxy, clock, random, clients, log: silentLogger, metrics: silentMetrics, limits: SIM_LIMITS };
    this.#handlers = new FrontendEdge({ ...side, listeners: [LISTENER] }, document);
    this.#edge = unboundEdge({
      listener: LISTENER,
      frontend: name,
      hostname: `${name}.sim`,
      limits: SIM_LIMITS,
      maxReceivedHops: document.policies.limits.maxReceivedHops,
      tls: null,
      handlers: this.#handlers,
      log: silentLogger,
      metrics: silentMetrics,
      clock,
    });
  }

  /** Sessions that are not over, those of clients that are gone without a word included. */
  get connections(): number {
    return this.#edge.connections;
  }

  setTopology(document: TopologyDocument): void {
    this.#handlers.setTopology(document);
    this.#edge.setLimits(SIM_LIMITS, document.policies.limits.maxReceivedHops);
  }

  /** A client's connection request arrived. */
  accept(wire: SimWire, client: SimSocket, from: { readonly address: string; readonly port: number }): void {
    const socket = new SimSocket(wire, this.#life, from);
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
    socket.join(client);
    this.#edge.accept(socket as unknown as Socket);
  }

  /** Call after the life has ended. */
  died(): void {
    for (const socket of this.#sockets) socket.processDied();
    this.#sockets.clear();
  }
}
