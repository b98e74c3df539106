/**
 * One connection to a mail server, below the meaning of commands. Owns: the socket, the order of replies, the deadline.
 * Promise: every expected reply resolves exactly once, in order, with the reply or with the `ClientError` that ended the connection;
 * nothing rejects. After the first error the socket is gone. A reply nobody expects ends the connection, except while content is sent
 * (`earlyReply`).
 */
import { connect as connectSocket, isIP, type Socket } from 'node:net';
import { connect as connectTls, type DetailedPeerCertificate, type TLSSocket } from 'node:tls';
import type { Clock, Timer } from '../platform/clock.ts';
import { type DaneProof, daneVerdict } from './dane.ts';
import { formatReply, type ReplyLimits, ReplyParser, type ServerReply } from './reply-parser.ts';

export type ClientErrorCode =
  /** No TCP connection. */
  | 'CONNECT'
  | 'TIMEOUT'
  /** The other end closed or reset. */
  | 'CLOSED'
  /** The other end does not speak SMTP. */
  | 'GARBAGE'
  /** A 4yz or 5yz where the connection depends on a 2yz (greeting, EHLO); `reply` says which. */
  | 'REFUSED'
  | 'TLS'
  /** We are configured to authenticate and could not; `reply` says which, where there is one. */
  | 'AUTH'
  /** We closed it. */
  | 'ABORTED';

export class ClientError extends Error {
  readonly code: ClientErrorCode;
  readonly reply: ServerReply | null;
  constructor(code: ClientErrorCode, message: string, reply: ServerReply | null = null) {
    super(message);
    this.name = 'ClientError';
    this.code = code;
    this.reply = reply;
  }
}

export interface TlsSettings {
  /** True: chain and name are checked (policy `Required`). */
  readonly verify: boolean;
  /** In the certificate, when it is not the host that was dialled. */
  readonly name?: string;
  /** PEM; the system's authorities when absent. */
  readonly ca?: string;
  /** TLSA records decide, nobody else's authority (RFC 7672). */
  readonly dane?: DaneProof;
}

export interface DialAddress {
  readonly host: string;
  readonly port: number;
  /** From where; the system's choice when absent. */
  readonly sourceAddress?: string;
}

/** The way to a server: a socket that is connecting. The seam for a network that is not the machine's. */
export type Dial = (address: DialAddress) => Socket;

const dialDirectly: Dial = ({ host, port, sourceAddress: localAddress }) =>
  connectSocket({
    ...{ host, port, noDelay: true },
    // Of a name only addresses of that family can be reached from there.
    ...(localAddress === undefined ? {} : { localAddress, family: isIP(localAddress) }),
  });

interface Expectation {
  readonly timeoutMs: number;
  readonly resolve: (answer: ServerReply | ClientError) => void;
}

export class ClientConnection {
  readonly #clock: Clock;
  readonly #host: string;
  readonly #limits: ReplyLimits;
  #parser: ReplyParser;
  #socket: Socket | TLSSocket;
  #expected: Expectation[] = [];
  #error: ClientError | null = null;
  #deadlineMs = Number.POSITIVE_INFINITY;
  #timer: Timer | null = null;
  #timerAtMs = Number.POSITIVE_INFINITY;
  #wake: (() => void) | null = null;
  #sendingContent = false;
  #earlyReply: ServerReply | null = null;
  #upgrading = false;
  #provenBy: string | null = null;
  /** Runs once when the connection is no more. */
  onClosed: (error: ClientError) => void = () => undefined;

  private constructor(socket: Socket, host: string, clock: Clock, limits: ReplyLimits) {
    this.#socket = socket;
    this.#host = host;
    this.#clock = clock;
    this.#limits = limits;
    this.#parser = new ReplyParser(limits);
    this.#attach(socket);
  }

  static open(
    address: DialAddress,
    timeoutMs: number,
    clock: Clock,
    limits: ReplyLimits,
    signal: AbortSignal | undefined,
    dial: Dial = dialDirectly,
  ): Promise<ClientConnection | ClientError> {
    const { promise, resolve } = Promise.withResolvers<ClientConnection | ClientError>();
    if (signal?.aborted) return Promise.resolve(new ClientError('ABORTED', 'stopped'));
    const socket = dial(address);
    const settle = (outcome: ClientConnection | ClientError): void => {
      timer.cancel();
      signal?.removeEventListener('abort', onAbort);
      socket.off('error', onError);
      if (outcome instanceof ClientError) socket.on('error', () => undefined).destroy();
      resolve(outcome);
    };
    const onAbort = (): void => settle(new ClientError('ABORTED', 'stopped'));
    const onError = (error: Error): void => settle(new ClientError('CONNECT', `cannot connect: ${reasonOf(error)}`));
    const timer = clock.setTimer(timeoutMs, () => settle(new ClientError('TIMEOUT', 'time-out while connecting')));
    signal?.addEventListener('abort', onAbort);
    socket.on('error', onError);
    socket.once('connect', () => settle(new ClientConnection(socket, address.host, clock, limits)));
    return promise;
  }

  /** The TLSA record that the certificate matches. */
  get provenBy(): string | null {
    return this.#provenBy;
  }

  get error(): ClientError | null {
    return this.#error;
  }

  get earlyReply(): ServerReply | null {
    return this.#earlyReply;
  }

  /** The next reply nobody is waiting for yet. `timeoutMs` counts from when it is the next one due. */
  expect(timeoutMs: number): Promise<ServerReply | ClientError> {
    if (this.#error !== null) return Promise.resolve(this.#error);
    const { promise, resolve } = Promise.withResolvers<ServerReply | ClientError>();
    this.#expected.push({ timeoutMs, resolve });
    if (this.#expected.length === 1) this.#arm(timeoutMs);
    return promise;
  }

  write(bytes: string | Buffer): void {
    if (this.#error === null) this.#socket.write(bytes);
  }

  /** From here on `writeContent` is used and an unexpected reply becomes `earlyReply`. Bytes are gathered until the buffer is full. */
  beginContent(): void {
    this.#sendingContent = true;
    this.#earlyReply = null;
    this.#socket.cork();
  }

  /** Resolves when more may be written; early when the connection ended or the server spoke: look at `error` and `earlyReply`. */
  async writeContent(bytes: Buffer, timeoutMs: number): Promise<void> {
    if (this.#error !== null || this.#socket.write(bytes)) return;
    this.#socket.uncork();
    if (this.#socket.writableNeedDrain && this.#earlyReply === null) {
      this.#arm(timeoutMs);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#deadlineMs = Number.POSITIVE_INFINITY;
    }
    if (this.#error === null) this.#socket.cork();
  }

  /** Sends the last bytes of the content; replies are expected again. False: an early reply or the end came first, nothing was sent. */
  endContent(bytes: Buffer): boolean {
    this.#sendingContent = false;
    if (this.#error !== null || this.#earlyReply !== null) return false;
    this.#socket.write(bytes);
    this.#socket.uncork();
    return true;
  }

  /** STARTTLS has been answered 220: the handshake (RFC 3207 4.1). */
  async upgrade(settings: TlsSettings, timeoutMs: number): Promise<ClientError | null> {
    if (this.#error !== null) return this.#error;
    // Bytes sent in the clear behind the 220 would be read as if they had come through TLS.
    if (!this.#parser.isBetweenReplies) return this.#fail('GARBAGE', 'plaintext follows the answer to STARTTLS');
    const plain = this.#socket;
    plain.removeAllListeners('data').removeAllListeners('drain');
    this.#upgrading = true;
    const { dane } = settings;
    const name = dane?.base ?? settings.name ?? this.#host;
    const secure = connectTls({
      socket: plain,
      host: name,
      ...(isIP(name) === 0 ? { servername: name } : {}),
      ...(settings.ca === undefined ? {} : { ca: settings.ca }),
      rejectUnauthorized: settings.verify && dane === undefined,
      minVersion: 'TLSv1.2',
    });
    this.#arm(timeoutMs);
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
      secure.once('secureConnect', resolve);
      secure.on('error', (error) => {
        if (this.#upgrading) this.#fail('TLS', `TLS failed: ${reasonOf(error)}`);
      });
      secure.once('close', () => {
        if (this.#upgrading) this.#fail('TLS', 'TLS failed: connection closed');
      });
    });
    this.#wake = null;
    if (this.#error === null) {
      // From here on TLS is what is closed: the socket below it closed under a finished handshake ends the process.
      this.#socket = secure;
      // Nothing has been said over TLS yet.
      if (dane !== undefined) await this.#prove(secure, dane);
    }
    this.#upgrading = false;
    this.#deadlineMs = Number.POSITIVE_INFINITY;
    if (this.#error !== null) {
      secure.destroy();
      return this.#error;
    }
    this.#parser = new ReplyParser(this.#limits);
    this.#attach(secure);
    return null;
  }

  async #prove(secure: TLSSocket, dane: DaneProof): Promise<void> {
    try {
      const verdict = await daneVerdict(dane, chainOf(secure), this.#clock.wallMs());
      if ('problem' in verdict) this.#fail('TLS', `DANE: ${verdict.problem}`);
      else this.#provenBy = verdict.by;
    } catch (error) {
      // A stranger's bytes: what there is that we do not know of must refuse this host, and nothing else.
      this.#fail('TLS', `DANE: the certificate of ${dane.base} cannot be read: ${reasonOf(error)}`);
    }
  }

  /** Says QUIT without waiting for the answer (the outcome of every transaction is known) and closes. */
  quit(): void {
    if (this.#error !== null) return;
    this.#socket.write('QUIT\r\n');
    const socket = this.#socket;
    this.#fail('ABORTED', 'closed by us', () => socket.destroySoon());
  }

  destroy(code: ClientErrorCode, reason: string): void {
    this.#fail(code, reason);
  }

  #attach(socket: Socket): void {
    socket.on('data', (chunk: Buffer) => this.#onData(chunk));
    socket.on('drain', () => this.#wakeUp());
    socket.on('error', (error) => {
      if (!this.#upgrading) this.#fail('CLOSED', `connection lost: ${reasonOf(error)}`);
    });
    socket.on('close', () => this.#fail(this.#upgrading ? 'TLS' : 'CLOSED', 'connection closed by the other end'));
    socket.on('end', () => this.#fail(this.#upgrading ? 'TLS' : 'CLOSED', 'connection closed by the other end'));
  }

  #onData(chunk: Buffer): void {
    if (this.#error !== null) return;
    try {
      this.#parser.push(chunk, (reply) => this.#onReply(reply));
    } catch (error) {
      this.#fail('GARBAGE', `not SMTP: ${reasonOf(error)}`);
    }
  }

  #onReply(reply: ServerReply): void {
    if (this.#error !== null) return;
    const next = this.#expected.shift();
    if (next !== undefined) {
      const following = this.#expected[0];
      if (following === undefined) this.#deadlineMs = Number.POSITIVE_INFINITY;
      else this.#arm(following.timeoutMs);
      next.resolve(reply);
    } else if (this.#sendingContent && this.#earlyReply === null) {
      this.#earlyReply = reply;
      this.#wakeUp();
    } else {
      // Usually `421 idle too long` (RFC 5321 3.8).
      this.#fail(reply.code === 421 ? 'CLOSED' : 'GARBAGE', `unexpected reply: ${formatReply(reply)}`);
    }
  }

  #wakeUp(): void {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }

  #arm(timeoutMs: number): void {
    const now = this.#clock.monotonicMs();
    this.#deadlineMs = now + timeoutMs;
    if (this.#timer !== null && this.#timerAtMs <= this.#deadlineMs) return;
    this.#timer?.cancel();
    this.#timerAtMs = this.#deadlineMs;
    this.#timer = this.#clock.setTimer(timeoutMs, () => this.#onTimer());
  }

  /** One timer serves many deadlines: it only looks whether the present one has passed. */
  #onTimer(): void {
    this.#timer = null;
    this.#timerAtMs = Number.POSITIVE_INFINITY;
    if (this.#deadlineMs === Number.POSITIVE_INFINITY) return;
    const left = this.#deadlineMs - this.#clock.monotonicMs();
    if (left <= 0) this.#fail('TIMEOUT', 'time-out: the other end does not answer');
    else this.#arm(left);
  }

  #fail(code: ClientErrorCode, reason: string, close?: () => void): ClientError {
    if (this.#error !== null) return this.#error;
    const error = new ClientError(code, reason);
    this.#error = error;
    this.#timer?.cancel();
    this.#timer = null;
    if (close === undefined) this.#socket.destroy();
    else close();
    for (const { resolve } of this.#expected.splice(0)) resolve(error);
    this.#wakeUp();
    this.onClosed(error);
    return error;
  }
}

/** What the server sent, its own certificate first. */
function chainOf(secure: TLSSocket): readonly Buffer[] {
  const chain: Buffer[] = [];
  // A root names itself as its issuer.
  const seen = new Set<DetailedPeerCertificate>();
  let next: DetailedPeerCertificate | undefined = secure.getPeerCertificate(true);
  while (next?.raw !== undefined && !seen.has(next)) {
    seen.add(next);
    chain.push(next.raw);
    next = next.issuerCertificate;
  }
  return chain;
}

function reasonOf(error: unknown): string {
  if (error instanceof Error && 'syscall' in error && error.syscall === 'bind' && 'address' in error)
    return `${error.address} is not an address of this machine; correct sourceAddress of the send connector`;
  if (!(error instanceof Error)) return String(error);
  // Several addresses were tried: the first failure names the cause.
  if (error instanceof AggregateError && error.errors.length > 0) return reasonOf(error.errors[0]);
  return error.message;
}
