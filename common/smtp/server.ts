/**
 * The one adapter around `smtp-server` (docs/decisions/0003-smtp-server-adapter.md). The library keeps what it is good at: the
 * listener, its TLS handshakes (implicit and STARTTLS, contexts replaced without a restart), the half-closed end of a connection.
 * Everything a client can see is ours: `conversation.ts` speaks, `wire.ts` frames.
 *
 * Promises: all replies of a tick leave in one write; the greeting waits for one look at the socket, not for 100 ms; a client is not
 * read faster than its sink drains; connections are counted from accept to close. Fails: `startEdge` rejects with the error of the
 * listening socket, or with code EDGE_TLS when the listener wants TLS and there is no certificate. What the adapter relies on inside
 * the library is held by `test/contract/smtp-server-library.test.ts`.
 */
import { type AddressInfo, BlockList, type Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import { SMTPServer } from 'smtp-server';
import { SMTPConnection, type SMTPConnectionOptions } from 'smtp-server/lib/smtp-connection.js';
import { SMTPStream } from 'smtp-server/lib/smtp-stream.js';
import type { FrontendLimits, ListenerConfig } from '../config.ts';
import type { Reply } from '../message.ts';
import { inNetworks } from '../networks.ts';
import { type Clock, systemClock } from '../platform/clock.ts';
import type { Logger } from '../platform/log.ts';
import type { Metrics } from '../platform/metrics.ts';
import { ClientLimits } from './client-limits.ts';
import { type Admission, ConnectionLedger } from './connection-ledger.ts';
import { Conversation } from './conversation.ts';
import type { ConversationPort, ConversationSetting } from './conversation-port.ts';
import type { EdgeHandlers } from './edge-api.ts';
import { readProxyHeader } from './proxy-gate.ts';
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
  /** Load balancers: who connects from there says by a PROXY header whose connection it is. Nobody else is believed. */
  readonly proxyFrom?: BlockList;
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

/** An edge that listens nowhere: whoever has connections hands them over. */
export interface UnboundEdge extends EdgeServer {
  /** `socket` is connected and was not read from. TLS needs a socket of the machine; without it any duplex that looks like one will do. */
  accept(socket: Socket): void;
}

const DEFAULT_MAX_HOPS = 50;
const BACKLOG = 1024;
const TURNED_AWAY = {
  maxConnections: 'tooManyConnections',
  maxConnectionsPerClient: 'tooManyClientConnections',
  maxConnectionRatePerClient: 'connectingTooOften',
} as const;
const MAX_QUEUED_REPLIES = 16 * 1024;

export async function startEdge(options: EdgeOptions): Promise<EdgeServer> {
  const edge = newEdge(options);
  await edge.open();
  return edge;
}

export const unboundEdge = (options: EdgeOptions): UnboundEdge => newEdge(options);

function newEdge(options: EdgeOptions): Edge {
  if (options.tls === null && (options.listener.tls === 'StartTlsRequired' || options.listener.tls === 'Implicit')) {
    const problem = `listener ${options.listener.name} has tls: ${options.listener.tls} but there is no certificate`;
    throw Object.assign(new Error(problem), { code: 'EDGE_TLS' });
  }
  return new Edge(options);
}

const libraryTls = (tls: EdgeTls | null): { key?: string; cert?: string } =>
  tls === null ? {} : { key: tls.key, cert: tls.ca === undefined ? tls.cert : `${tls.cert.trimEnd()}\n${tls.ca}` };

class Edge implements UnboundEdge {
  readonly ledger: ConnectionLedger;
  readonly sessions = new Set<EdgeConnection>();
  setting: ConversationSetting;
  readonly #library: Library;
  #closed: Promise<void> | null = null;
  #onLastGone: (() => void) | null = null;

  constructor(options: EdgeOptions) {
    this.ledger = options.ledger ?? new ConnectionLedger(new ClientLimits(options.clock ?? systemClock, null));
    this.setting = {
      ...options,
      maxReceivedHops: options.maxReceivedHops ?? DEFAULT_MAX_HOPS,
      tlsAvailable: options.tls !== null,
      clock: options.clock ?? systemClock,
      commandLabels: new Map(),
      idleTimeoutMs: () => this.ledger.idleTimeoutMs(this.setting.limits),
    };
    this.#library = new Library(this, options);
  }

  get port(): number {
    return (this.#library.server.address() as AddressInfo | null)?.port ?? 0;
  }

  get connections(): number {
    return this.sessions.size;
  }

  get closing(): boolean {
    return this.#closed !== null;
  }

  async open(): Promise<void> {
    const { host, port } = this.setting.listener;
    const server = this.#library.server;
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      this.#library.listen({ host, port, backlog: BACKLOG }, () => {
        server.removeListener('error', reject);
        resolve();
      });
    });
  }

  accept(socket: Socket): void {
    this.#library.connect(socket);
  }

  setTls(tls: EdgeTls): void {
    this.#library.updateSecureContext(libraryTls(tls));
    this.setting = { ...this.setting, tlsAvailable: true };
  }

  setLimits(limits: FrontendLimits, maxReceivedHops?: number): void {
    this.setting = { ...this.setting, limits, maxReceivedHops: maxReceivedHops ?? this.setting.maxReceivedHops };
  }

  close(graceful: boolean): Promise<void> {
    this.#closed ??= this.#stopListening();
    // Handshakes of implicit TLS: the topmost socket, the library says why.
    for (const socket of this.#library._pendingSockets.values()) socket.destroy();
    for (const session of this.sessions) {
      if (graceful) session.shutDown();
      else session.destroy();
    }
    return this.#closed;
  }

  /** Resolves when the last socket is closed and its handlers have been told. */
  async #stopListening(): Promise<void> {
    await new Promise<void>((resolve) => this.#library.server.close(() => resolve()));
    if (this.sessions.size === 0) return;
    await new Promise<void>((resolve) => {
      this.#onLastGone = resolve;
    });
  }

  /** A connection came or went. */
  counted(): void {
    this.setting.metrics.set('smtp_connections', this.sessions.size, { listener: this.setting.listener.name });
    if (this.sessions.size === 0) this.#onLastGone?.();
  }
}

type AfterProxy = Parameters<SMTPServer['_handleProxy']>[1];

class Library extends SMTPServer {
  readonly #edge: Edge;
  readonly #proxyFrom: BlockList;

  constructor(edge: Edge, { tls, proxyFrom }: EdgeOptions) {
    const { listener, limits, log } = edge.setting;
    super({
      ...libraryTls(tls),
      minVersion: 'TLSv1.2', // RFC 8996; the library's default is TLS 1.0
      secure: listener.tls === 'Implicit',
      logger: false,
      // Both for handshakes of implicit TLS, which are not sessions yet.
      maxClients: limits.maxConnections,
      socketTimeout: limits.idleTimeoutMs,
    });
    this.#edge = edge;
    this.#proxyFrom = proxyFrom ?? new BlockList();
    // Broken handshakes and resets of clients; an 'error' event nobody listens to would end the process.
    this.on('error', (error: Error) => log.debug({ listener: listener.name, err: error }, 'smtp connection failed'));
  }

  override connect(socket: Socket | TLSSocket, socketOptions?: SMTPConnectionOptions | null): void {
    const connection = new EdgeConnection(this.#edge, this, socket, socketOptions);
    this.connections.add(connection);
    connection.on('error', (error: Error) => this.emit('error', error));
    connection.init();
  }

  override _expectsProxyHeader(socket: Socket): boolean {
    return inNetworks(this.#proxyFrom, socket.remoteAddress ?? '');
  }

  /** The library's own reads version 1 only, and takes what it does not understand for the balancer's word. */
  override _handleProxy(socket: Socket, callback: AfterProxy): void {
    if (!this._expectsProxyHeader(socket)) return super._handleProxy(socket, callback);
    const { clock, listener, log, metrics } = this.#edge.setting;
    readProxyHeader(socket, clock, (answer) => {
      if (answer.kind === 'passed') {
        const { client } = answer;
        // No id: the library makes one.
        return callback(
          null,
          client === null ? { id: '' } : { id: '', remoteAddress: client.address, remotePort: client.port },
        );
      }
      const { problem } = answer;
      metrics.increment('smtp_sessions_rejected_total', { reason: 'badProxyHeader' });
      log.warn({ listener: listener.name, balancer: socket.remoteAddress, problem }, 'smtp connection without client');
      socket.on('error', () => socket.destroy());
      if (listener.tls === 'Implicit') socket.destroy();
      else socket.end(formatReply(reply('badProxyHeader')), () => socket.destroy());
      callback(new Error(problem));
    });
  }
}

class EdgeConnection extends SMTPConnection implements ConversationPort {
  readonly #edge: Edge;
  readonly #conversation: Conversation;
  #release: (() => void) | null = null;
  #queued = '';
  #flushing = false;
  /** Bytes the conversation is busy with; the parser counts them as buffered. */
  #busyBytes = 0;
  #onDrained: (() => void) | null = null;
  /** The TLS socket already during its handshake, when `_socket` is still the raw one. */
  #topSocket: Socket;

  constructor(edge: Edge, library: SMTPServer, socket: Socket | TLSSocket, options?: SMTPConnectionOptions | null) {
    super(library, socket, options);
    this.#edge = edge;
    this.#topSocket = socket;
    this.#conversation = new Conversation(this.id, this, () => edge.setting);
  }

  override init(): void {
    const { listener, limits, metrics } = this.#edge.setting;
    metrics.increment('smtp_connections_total', { listener: listener.name });
    this.#edge.sessions.add(this);
    this.#edge.counted();
    this._setListeners(() => {
      if (this.#edge.closing) return this.#conversation.shutDown();
      const admission = this.#edge.ledger.admit(this.remoteAddress, limits);
      if (admission.kind === 'refused') return this.#turnAway(admission.limit);
      this.#release = admission.release;
      if (this.secure) this.#reportTls();
      // Reading starts at the end of this tick; the greeting follows the first look at the socket.
      setImmediate(() => this.#conversation.greet());
    });
  }

  // ---- ConversationPort ----

  get moreInput(): boolean {
    const parser = this._parser;
    return parser !== false && parser.writableLength > this.#busyBytes;
  }

  say(said: Reply): void {
    this.#queued += formatReply(said);
    if (this.#flushing) return;
    this.#flushing = true;
    // After the microtasks of this tick: handlers that answer at once have their replies in the same write.
    process.nextTick(() => this.#flush());
  }

  outputDrained(): Promise<void> | null {
    if (this.#queued.length > MAX_QUEUED_REPLIES) this.#flush();
    if (!this._socket.writableNeedDrain || this._socket.destroyed) return null;
    return new Promise((resolve) => {
      this.#onDrained = resolve;
      this._socket.once('drain', resolve);
    });
  }

  /** Sends what is queued, ends our side and gives the client 5 s to end its own; none when it does not read anyway. */
  override close(): void {
    this.#flush();
    if (this._socket.writableNeedDrain) this.destroy();
    super.close();
  }

  destroy(): void {
    this.#topSocket.destroy();
  }

  startTls(): void {
    this.#flush();
    this.upgrade(
      () => undefined,
      () => this.#reportTls(),
    );
  }

  shutDown(): void {
    this.#conversation.shutDown();
  }

  // ---- what the library calls ----

  // Runs inside the constructor of the library, before our own fields exist.
  override _createParser(): SMTPStream {
    return new EdgeParser((chunk, done) => this.#receive(chunk, done));
  }

  /** Timeouts are the conversation's; the library hands over the socket they would be armed on. */
  override _armTimeout(socket: Socket = this._socket): void {
    this.#topSocket = socket;
  }

  /** The library never speaks: every reply is a row of `replies.ts`. */
  override send(code: number): void {
    this.#edge.setting.log.error({ session: this.id, code }, 'smtp library tried to reply');
    this.destroy();
  }

  override _onClose(): void {
    super._onClose();
    this.#release?.();
    this.#release = null;
    this.#conversation.gone('connection closed by the client');
    this.#onDrained?.();
    if (this.#edge.sessions.delete(this)) this.#edge.counted();
  }

  // ---- private ----

  #receive(chunk: Buffer, done: () => void): void {
    this.#busyBytes = chunk.length;
    // A rejection is a broken invariant: unhandled on purpose, it ends the process.
    void this.#conversation.consume(chunk).then(() => {
      this.#busyBytes = 0;
      done();
    });
  }

  #flush(): void {
    const bytes = this.#queued;
    this.#queued = '';
    this.#flushing = false;
    // During the handshake `_socket` is still the raw one: plain text would break into the TLS records.
    if (bytes === '' || this._upgrading || !this._socket.writable) return;
    this._socket.write(bytes, 'latin1');
  }

  #reportTls(): void {
    const socket = this._socket;
    if (!('getProtocol' in socket)) return;
    this.#conversation.tlsStarted(socket.getProtocol() ?? 'unknown', socket.getCipher()?.name ?? 'unknown');
  }

  #turnAway(limit: Extract<Admission, { kind: 'refused' }>['limit']): void {
    // Not admitted, so not counted either: the socket goes as soon as the reply is out.
    this._socket.once('finish', () => this.destroy());
    this.#conversation.turnAway(TURNED_AWAY[limit], limit);
  }
}

/** Feeds the conversation instead of parsing; the library retires one and asks for another when TLS starts. */
class EdgeParser extends SMTPStream {
  readonly #receive: (chunk: Buffer, done: () => void) => void;

  constructor(receive: (chunk: Buffer, done: () => void) => void) {
    super();
    this.#receive = receive;
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding | 'buffer', next: () => void): void {
    if (this.isClosed) next();
    else this.#receive(chunk, next);
  }
}
