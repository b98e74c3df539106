/**
 * The one adapter around `smtp-server` (docs/decisions/0002-smtp-server-adapter.md). The library keeps what it is good at: the
 * listener, its TLS handshakes (implicit and STARTTLS, contexts replaced without a restart), the half-closed end of a connection.
 * Everything a client can see is ours: `conversation.ts` speaks, `wire.ts` frames.
 *
 * Promises: all replies of a tick leave in one write; the greeting waits for one look at the socket, not for 100 ms; a client is not
 * read faster than its sink drains; connections are counted from accept to close. Fails: `startEdge` rejects with the error of the
 * listening socket, or with code EDGE_TLS when the listener wants TLS and there is no certificate. What the adapter relies on inside
 * the library is held by `test/contract/smtp-server-library.test.ts`.
 */
import type { AddressInfo, Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import { SMTPServer } from 'smtp-server';
import { SMTPConnection, type SMTPConnectionOptions } from 'smtp-server/lib/smtp-connection.js';
import { SMTPStream } from 'smtp-server/lib/smtp-stream.js';
import type { FrontendLimits, ListenerConfig } from '../config.ts';
import type { Reply } from '../message.ts';
import { type Clock, systemClock } from '../platform/clock.ts';
import type { Logger } from '../platform/log.ts';
import type { Metrics } from '../platform/metrics.ts';
import { ConnectionLedger } from './connection-ledger.ts';
import { Conversation } from './conversation.ts';
import type { ConversationPort, ConversationSetting } from './conversation-port.ts';
import type { EdgeHandlers } from './edge-api.ts';
import { formatReply, reply } from './replies.ts';

/** PEM. `ca` is sent along as chain of the certificate's issuers. */
export interface EdgeTls {
  readonly cert: string;
  readonly key: string;
  readonly ca?: string;
}

export interface EdgeOptions {
  readonly listener: ListenerConfig;
  /** Name of the front end in envelopes. */
  readonly frontend: string;
  /** Host name in greeting and EHLO. */
  readonly hostname: string;
  readonly limits: FrontendLimits;
  /** semantics.md section 9; default 50. */
  readonly maxReceivedHops?: number;
  readonly tls: EdgeTls | null;
  readonly handlers: EdgeHandlers;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** Shared by the listeners of a pod, so that the limits on connections hold for the pod. */
  readonly ledger?: ConnectionLedger;
  readonly clock?: Clock;
}

export interface EdgeServer {
  readonly port: number;
  /** Open connections, those still in a TLS handshake not counted. */
  readonly connections: number;
  /** For sessions that start TLS from now on. */
  setTls(tls: EdgeTls): void;
  /** For commands and messages that start from now on. */
  setLimits(limits: FrontendLimits, maxReceivedHops?: number): void;
  /**
   * Stops accepting. Graceful: sessions with a transaction finish it, the others get 421 4.3.2; resolves when all are gone.
   * Otherwise all are dropped; may follow a graceful close that takes too long.
   */
  close(graceful: boolean): Promise<void>;
}

const DEFAULT_MAX_HOPS = 50;
const BACKLOG = 1024;
/** A client that has not read this much of its replies gets no further command obeyed. */
const MAX_UNREAD_REPLY_BYTES = 64 * 1024;

export async function startEdge(options: EdgeOptions): Promise<EdgeServer> {
  if (options.tls === null && options.listener.tls !== 'None' && options.listener.tls !== 'StartTls') {
    const problem = `listener ${options.listener.name} has tls: ${options.listener.tls} but there is no certificate`;
    throw Object.assign(new Error(problem), { code: 'EDGE_TLS' });
  }
  const edge = new Edge(options);
  await edge.open();
  return edge;
}

const libraryTls = (tls: EdgeTls | null): { key?: string; cert?: string } =>
  tls === null ? {} : { key: tls.key, cert: tls.ca === undefined ? tls.cert : `${tls.cert.trimEnd()}\n${tls.ca}` };

class Edge extends SMTPServer implements EdgeServer {
  readonly ledger: ConnectionLedger;
  readonly #given: EdgeOptions;
  #setting: ConversationSetting;
  #open = new Set<EdgeConnection>();
  #closing: Promise<void> | null = null;

  constructor(given: EdgeOptions) {
    const { listener, limits, tls } = given;
    super({
      ...libraryTls(tls),
      minVersion: 'TLSv1.2', // RFC 8996; the library would offer TLS 1.0
      secure: listener.tls === 'Implicit',
      logger: false,
      disableReverseLookup: true,
      // Handshakes of implicit TLS that are not sessions yet.
      maxClients: limits.maxConnections,
      socketTimeout: limits.idleTimeoutMs,
    });
    this.#given = given;
    this.ledger = given.ledger ?? new ConnectionLedger();
    this.#setting = {
      ...given,
      maxReceivedHops: given.maxReceivedHops ?? DEFAULT_MAX_HOPS,
      tlsAvailable: tls !== null,
      clock: given.clock ?? systemClock,
      commandLabels: new Map(),
    };
    // Without a listener an 'error' event would end the process; these are clients' broken handshakes and resets.
    this.on('error', (error: Error) => given.log.debug({ listener: listener.name, err: error }, 'smtp connection error'));
  }

  get setting(): ConversationSetting {
    return this.#setting;
  }

  get port(): number {
    const address = this.server.address() as AddressInfo | null;
    return address?.port ?? 0;
  }

  // The library's set of connections forgets those that are closing; this counts sockets.
  get openConnections(): number {
    return this.#open.size;
  }

  async open(): Promise<void> {
    const { host, port } = this.#given.listener;
    await new Promise<void>((resolve, reject) => {
      this.server.once('error', reject);
      this.listen({ host, port, backlog: BACKLOG }, () => {
        this.server.removeListener('error', reject);
        resolve();
      });
    });
  }
}
