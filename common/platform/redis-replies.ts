/**
 * The stream between a Redis server and its client library, with a guard: the server may be wrong, old, or in other hands, and a library that parses
 * whatever comes would hand its memory or its exceptions to it. Owns: the socket. Promise: only replies this program can have asked for get through
 * (simple strings, errors, integers, bulk strings up to `MAX_BULK_BYTES`; no arrays, no pushes); anything else ends the connection with an error.
 */
import { connect as connectPlain, type Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { connect as connectTls } from 'node:tls';
import type { Clock } from './clock.ts';

/** Room for INFO and for the longest statement. */
export const MAX_BULK_BYTES = 65_536;
const MAX_LINE_BYTES = 4_096;

const CR = 13;
const LF = 10;
const [SIMPLE, ERROR, INTEGER, BULK] = ['+', '-', ':', '$'].map((sign) => sign.charCodeAt(0));

/** Follows RESP2 replies byte by byte without keeping them. */
export class ReplyGuard {
  /** Type and digits of the line under way. */
  #line: number[] = [];
  #lineBytes = 0;
  #sawCr = false;
  /** Of a bulk string, its CRLF included. */
  #bulkLeft = 0;

  /** Null: let them through. */
  problemWith(chunk: Buffer): string | null {
    for (let at = 0; at < chunk.length; ) {
      if (this.#bulkLeft > 0) {
        const taken = Math.min(this.#bulkLeft, chunk.length - at);
        this.#bulkLeft -= taken;
        at += taken;
        continue;
      }
      const problem = this.#lineByte(chunk[at] ?? 0);
      if (problem !== null) return problem;
      at++;
    }
    return null;
  }

  #lineByte(byte: number): string | null {
    this.#lineBytes++;
    if (this.#lineBytes === 1 && ![SIMPLE, ERROR, INTEGER, BULK].includes(byte))
      return `a reply of type 0x${byte.toString(16)} that nobody asked for`;
    if (this.#lineBytes > MAX_LINE_BYTES) return 'an endless reply line';
    if (byte === LF) return this.#sawCr ? this.#lineEnd() : 'a bare line feed in a reply line';
    if (this.#sawCr) return 'a bare carriage return in a reply line';
    if (byte === CR) this.#sawCr = true;
    else if (this.#line.length < 24) this.#line.push(byte);
    return null;
  }

  #lineEnd(): string | null {
    const line = String.fromCharCode(...this.#line);
    const type = this.#line[0];
    this.#line = [];
    this.#lineBytes = 0;
    this.#sawCr = false;
    if (type === INTEGER) return /^:[+-]?\d{1,16}$/.test(line) ? null : 'an integer that is none';
    if (type !== BULK || line === '$-1') return null;
    if (!/^\$\d{1,9}$/.test(line)) return 'a bulk string of senseless length';
    const length = Number(line.slice(1));
    if (length > MAX_BULK_BYTES) return `a bulk string of ${length} bytes`;
    this.#bulkLeft = length + 2;
    return null;
  }
}

export interface RedisAddress {
  readonly host: string;
  readonly port: number;
  /** The certificate must be of an authority this machine (or NODE_EXTRA_CA_CERTS) believes, and name the host. */
  readonly tls: boolean;
}

/** What the library gets instead of a socket: connected, or destroyed already. */
export class GuardedStream extends Duplex {
  readonly #socket: Socket;
  readonly #guard = new ReplyGuard();

  constructor(socket: Socket) {
    super({ allowHalfOpen: false });
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => {
      const problem = this.#guard.problemWith(chunk);
      if (problem !== null) this.destroy(new Error(`Redis sent ${problem}`));
      else if (!this.destroyed && !this.push(chunk)) socket.pause();
    });
    socket.on('error', (error) => this.destroy(error));
    socket.on('end', () => this.destroy());
    socket.on('close', () => this.destroy());
  }

  setNoDelay(on: boolean): void {
    this.#socket.setNoDelay(on);
  }

  setKeepAlive(on: boolean, delayMs: number): void {
    this.#socket.setKeepAlive(on, delayMs);
  }

  override _read(): void {
    this.#socket.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#socket.write(chunk, done);
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#socket.destroy();
    done(error);
  }
}

/** Resolves with an open connection (TLS included), rejects after `timeoutMs` at the latest. */
export function openGuarded(
  address: RedisAddress,
  timeoutMs: number,
  clock: Clock,
  signal: AbortSignal,
): Promise<GuardedStream> {
  const { host, port, tls } = address;
  return new Promise((resolve, reject) => {
    const socket = tls ? connectTls({ host, port, servername: serverName(host) }) : connectPlain({ host, port });
    const fail = (error: Error): void => {
      timer.cancel();
      signal.removeEventListener('abort', abort);
      socket.destroy();
      reject(error);
    };
    const abort = (): void => fail(new Error('stopping'));
    const timer = clock.setTimer(timeoutMs, () => fail(new Error(`no connection within ${timeoutMs} ms`)));
    signal.addEventListener('abort', abort, { once: true });
    const closed = (): void => fail(new Error('closed while connecting'));
    socket.once('error', fail);
    socket.once('close', closed);
    socket.once(tls ? 'secureConnect' : 'connect', () => {
      timer.cancel();
      signal.removeEventListener('abort', abort);
      socket.off('close', closed);
      const stream = new GuardedStream(socket);
      socket.off('error', fail);
      resolve(stream);
    });
  });
}

/** RFC 6066 3: no addresses in SNI. */
const serverName = (host: string): string => (/^[\d.]+$|:/.test(host) ? '' : host);
