/**
 * The real network of the inner hops: TLS 1.3 over TCP, ALPN `mailcluster/1`, certificates of the cluster's private authority on both
 * sides. Owns: sockets, listeners, the certificate files. Promises: a connection exists only between two members of this cluster, and
 * a dialled one only to the member that was expected; files are re-read when they change, for new connections, and a broken set of
 * files leaves the working one in use. Refuses resumed sessions (they would outlive a certificate). `connect` rejects with `code`:
 * ERR_PEER_IDENTITY, ETIMEDOUT, ECONNREFUSED, or what OpenSSL says.
 *
 * A TLS 1.3 client is connected before the server has judged its certificate: a refused one sees `onClose` right after.
 */
import { type FSWatcher, watch } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import * as tls from 'node:tls';
import type { Clock, Timer } from './clock.ts';
import type { Logger } from './log.ts';
import type { Connection, ConnectionHandlers, Listener, Network, PeerAddress, PeerName } from './net.ts';
import { peerOfSubjectAltName } from './peer-identity.ts';

export const PEER_ALPN = 'mailcluster/1';
/** The lighter one first: about a tenth less CPU for large bodies, measured. */
const CIPHERS = 'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384';
/** Queued bytes above which `write` asks the caller to wait. */
const HIGH_WATER_BYTES = 262_144;
/** Written at once when this much is gathered, so that large bodies do not wait for the end of a turn. */
const GATHER_BYTES = 65_536;
/** Up to here one copy costs less than a stream write for every frame. */
const COPY_BYTES = 16_384;
const HANDSHAKE_TIMEOUT_MS = 10_000;
/** Files of one set change one after the other; read when they have been quiet for this long, again when they did not match. */
const SETTLE_MS = 100;
const RETRY_MS = 2_000;

export interface TlsNetworkOptions {
  /** PEM files; a certificate file may hold a chain, the CA file several authorities (while one replaces the other). */
  readonly files: { readonly caFile: string; readonly certificateFile: string; readonly keyFile: string };
  readonly cluster: string;
  readonly clock: Clock;
  readonly log: Logger;
}

export interface TlsNetwork extends Network {
  /** Reads the files now; resolves to whether they were usable. */
  reload(): Promise<boolean>;
  /** Stops watching and listening; connections stay. */
  close(): Promise<void>;
}

const codedError = (code: string, detail: string): Error => Object.assign(new Error(`${code}: ${detail}`), { code });

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const code = (error as NodeJS.ErrnoException).code;
  return code === undefined || error.message.includes(code) ? error.message : `${code}: ${error.message}`;
}

class TlsConnection implements Connection {
  readonly remote: PeerName;
  readonly remoteAddress: string;
  readonly #socket: tls.TLSSocket;
  #handlers: ConnectionHandlers | null = null;
  #blocked = false;
  /** Given to `write` in this turn of the event loop. */
  #gathered: Uint8Array[] = [];
  #gatheredBytes = 0;
  #reason: string | null = null;
  #closed = false;

  constructor(socket: tls.TLSSocket, remote: PeerName) {
    this.#socket = socket;
    this.remote = remote;
    this.remoteAddress = `${socket.remoteAddress ?? ''}:${socket.remotePort ?? 0}`;
    socket.setNoDelay(true);
    socket.on('error', (error) => {
      this.#reason ??= reasonOf(error);
    });
    socket.on('close', () => {
      this.#closed = true;
      this.#tellClosed();
    });
  }

  start(handlers: ConnectionHandlers): void {
    this.#handlers = handlers;
    if (this.#closed) {
      queueMicrotask(() => this.#tellClosed());
      return;
    }
    this.#socket.on('drain', () => {
      this.#flush();
      if (!this.#blocked || this.#waitingBytes > HIGH_WATER_BYTES) return;
      this.#blocked = false;
      handlers.onDrain();
    });
    this.#socket.on('data', (chunk: Buffer) => handlers.onData(chunk));
  }

  /**
   * One TLS record and one system call for all frames that the sockets of one turn of the event loop gave rise to: with 100 clients
   * the calls were a quarter of the CPU of a front end and of a primary (docs/performance.md).
   */
  write(buffers: readonly Uint8Array[]): boolean {
    const socket = this.#socket;
    if (socket.destroyed || socket.writableEnded) return true;
    if (this.#gathered.length === 0) setImmediate(() => this.#flush());
    for (const buffer of buffers) {
      this.#gathered.push(buffer);
      this.#gatheredBytes += buffer.length;
    }
    if (this.#gatheredBytes >= GATHER_BYTES) this.#flush();
    this.#blocked = this.#waitingBytes > HIGH_WATER_BYTES && socket.writableNeedDrain;
    return !this.#blocked;
  }

  get #waitingBytes(): number {
    return this.#socket.writableLength + this.#gatheredBytes;
  }

  /**
   * Whoever does not wait (a list of a hundred thousand copies) fills this queue and not the socket's: node would encrypt all of it at once, and
   * 20 MB of small pieces stay with the allocator for ever.
   */
  #flush(limit = HIGH_WATER_BYTES): void {
    const socket = this.#socket;
    const room = limit - socket.writableLength;
    let bytes = 0;
    let count = 0;
    while (count < this.#gathered.length && bytes < room) bytes += (this.#gathered[count++] as Uint8Array).length;
    const buffers = this.#gathered.splice(0, count);
    this.#gatheredBytes -= bytes;
    if (buffers.length === 0 || socket.destroyed || socket.writableEnded) return;
    if (bytes <= COPY_BYTES) {
      socket.write(buffers.length === 1 ? (buffers[0] as Uint8Array) : Buffer.concat(buffers, bytes));
      return;
    }
    // One writev for all; for bodies cheaper than gathering here (measured: test/bench/peer-frames.ts).
    socket.cork();
    for (const buffer of buffers) socket.write(buffer);
    socket.uncork();
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  end(): void {
    this.#flush(Number.POSITIVE_INFINITY);
    this.#socket.end();
  }

  destroy(reason: string): void {
    this.#reason ??= reason;
    this.#socket.destroy();
  }

  #tellClosed(): void {
    const handlers = this.#handlers;
    this.#handlers = null;
    handlers?.onClose(this.#reason ?? 'closed by the other end');
  }
}

/** The certificate files as OpenSSL wants them; replaced as a whole. */
class Credentials {
  readonly #options: TlsNetworkOptions;
  readonly #watchers: FSWatcher[] = [];
  readonly #onChange: (context: tls.SecureContextOptions) => void;
  #timer: Timer | null = null;
  #texts = '';
  current: tls.SecureContextOptions = {};
  #closed = false;

  constructor(options: TlsNetworkOptions, onChange: (context: tls.SecureContextOptions) => void) {
    this.#options = options;
    this.#onChange = onChange;
  }

  /** Throws when the files are absent or do not fit together. */
  async read(): Promise<void> {
    const { caFile, certificateFile, keyFile } = this.#options.files;
    const [ca, cert, key] = await Promise.all([caFile, certificateFile, keyFile].map((file) => readFile(file, 'utf8')));
    const texts = `${ca}\n${cert}\n${key}`;
    if (texts === this.#texts || ca === undefined || cert === undefined || key === undefined) return;
    const context: tls.SecureContextOptions = {
      ca,
      cert,
      key,
      minVersion: 'TLSv1.3',
      maxVersion: 'TLSv1.3',
      ciphers: CIPHERS,
    };
    // Throws unless key and certificate are a pair.
    tls.createSecureContext(context);
    this.#texts = texts;
    this.current = context;
    this.#onChange(context);
  }

  /** Directories are watched, not files: mounted secrets are replaced by moving a link. */
  watch(): void {
    const { caFile, certificateFile, keyFile } = this.#options.files;
    for (const directory of new Set([caFile, certificateFile, keyFile].map((file) => dirname(file)))) {
      const watcher = watch(directory, () => this.#later(SETTLE_MS));
      watcher.on('error', (error) => {
        this.#options.log.warn({ directory, error: reasonOf(error) }, 'certificate directory can no longer be watched');
      });
      watcher.unref();
      this.#watchers.push(watcher);
    }
  }

  async reload(): Promise<boolean> {
    try {
      const before = this.#texts;
      await this.read();
      if (this.#texts !== before) this.#options.log.info({}, 'certificates re-read');
      return true;
    } catch (error) {
      this.#options.log.warn({ error: reasonOf(error) }, 'new certificate files not usable, keeping the old ones');
      // A change seen meanwhile has set an earlier look.
      if (this.#timer === null) this.#later(RETRY_MS);
      return false;
    }
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
    for (const watcher of this.#watchers) watcher.close();
  }

  #later(delayMs: number): void {
    if (this.#closed) return;
    this.#timer?.cancel();
    this.#timer = this.#options.clock.setTimer(delayMs, () => {
      this.#timer = null;
      void this.reload();
    });
  }
}

class TlsNetworkOverSockets implements TlsNetwork {
  readonly #options: TlsNetworkOptions;
  readonly #credentials: Credentials;
  readonly #servers = new Set<tls.Server>();

  constructor(options: TlsNetworkOptions) {
    this.#options = options;
    this.#credentials = new Credentials(options, (context) => {
      for (const server of this.#servers) server.setSecureContext(context);
    });
  }

  async open(): Promise<void> {
    await this.#credentials.read();
    this.#credentials.watch();
  }

  reload(): Promise<boolean> {
    return this.#credentials.reload();
  }

  async close(): Promise<void> {
    this.#credentials.close();
    for (const server of this.#servers) server.close();
    this.#servers.clear();
  }

  connect(address: PeerAddress, expected: PeerName, timeoutMs: number): Promise<Connection> {
    return new Promise((resolve, reject) => {
      const socket = tls.connect({
        ...this.#credentials.current,
        host: address.host,
        port: address.port,
        servername: '',
        ALPNProtocols: [PEER_ALPN],
        rejectUnauthorized: true,
        // Who it must be stands in the certificate, whatever the address says.
        checkServerIdentity: (_host, certificate) => this.#identityProblem(certificate.subjectaltname, expected),
      });
      const fail = (error: Error): void => {
        timer.cancel();
        socket.destroy();
        reject(error);
      };
      const timer = this.#options.clock.setTimer(timeoutMs, () =>
        fail(codedError('ETIMEDOUT', `${expected.role} ${expected.name} at ${address.host}:${address.port}`)),
      );
      socket.on('error', fail);
      const closed = (): void => fail(codedError('ECONNRESET', 'closed during the TLS handshake'));
      socket.once('close', closed);
      socket.once('secureConnect', () => {
        if (socket.alpnProtocol !== PEER_ALPN) {
          fail(codedError('ERR_PEER_IDENTITY', `the other end does not speak ${PEER_ALPN}`));
          return;
        }
        timer.cancel();
        socket.off('close', closed);
        const connection = new TlsConnection(socket, expected);
        socket.off('error', fail);
        resolve(connection);
      });
    });
  }

  #identityProblem(subjectAltName: string | undefined, expected: PeerName): Error | undefined {
    const peer = peerOfSubjectAltName(subjectAltName, this.#options.cluster);
    if (typeof peer === 'string') return codedError('ERR_PEER_IDENTITY', peer);
    if (peer.name === expected.name && peer.role === expected.role) return undefined;
    return codedError('ERR_PEER_IDENTITY', `it is ${peer.role} ${peer.name}, not ${expected.role} ${expected.name}`);
  }

  listen(address: PeerAddress, onConnection: (connection: Connection) => void): Promise<Listener> {
    const server = tls.createServer(
      {
        ...this.#credentials.current,
        requestCert: true,
        rejectUnauthorized: true,
        ALPNProtocols: [PEER_ALPN],
        handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
        noDelay: true,
      },
      (socket) => this.#onSocket(socket, onConnection),
    );
    server.on('tlsClientError', (error, socket) => {
      // Node drops a client with a bad certificate without an alert; why stands in `authorizationError`.
      const problem = socket.authorizationError ?? reasonOf(error);
      this.#options.log.warn({ remote: socket.remoteAddress, problem: String(problem) }, 'peer connection refused');
    });
    return new Promise((resolve, reject) => {
      server.once('error', reject);
      server.listen({ host: address.host, port: address.port }, () => {
        server.off('error', reject);
        server.on('error', (error) => this.#options.log.error({ error: reasonOf(error) }, 'peer listener failed'));
        this.#servers.add(server);
        const bound = server.address();
        resolve({
          port: typeof bound === 'object' && bound !== null ? bound.port : address.port,
          close: async () => {
            this.#servers.delete(server);
            server.close();
          },
        });
      });
    });
  }

  #onSocket(socket: tls.TLSSocket, onConnection: (connection: Connection) => void): void {
    const peer = peerOfSubjectAltName(socket.getPeerCertificate().subjectaltname, this.#options.cluster);
    const problem =
      typeof peer === 'string'
        ? peer
        : socket.isSessionReused()
          ? 'a resumed session'
          : socket.alpnProtocol === PEER_ALPN
            ? null
            : `it does not speak ${PEER_ALPN}`;
    if (problem !== null || typeof peer === 'string') {
      this.#options.log.warn({ remote: socket.remoteAddress, problem }, 'peer connection refused');
      socket.on('error', (error) =>
        this.#options.log.debug({ error: reasonOf(error) }, 'refused peer connection failed'),
      );
      socket.destroy();
      return;
    }
    onConnection(new TlsConnection(socket, peer));
  }
}

/** Reads the files, which must be usable, and watches them from then on. */
export async function openTlsNetwork(options: TlsNetworkOptions): Promise<TlsNetwork> {
  const network = new TlsNetworkOverSockets(options);
  await network.open();
  return network;
}
