/**
 * One peer connection from the first byte to the last. Owns: handshake, the streams, keep-alive, closing. Promises session-api.ts:
 * frames leave in order, once per tick; every stream and the session itself are told exactly once that it is over, never from within
 * a call of the program; whatever closes, closes with a reason both sides can log. Trusts only `connection.remote` about who speaks.
 * A `PeerProtocolError` from decoder or streams closes the connection; an assertion is ours and is not caught.
 */
import { assert } from '../platform/assert.ts';
import type { Clock, Timer } from '../platform/clock.ts';
import type { Logger } from '../platform/log.ts';
import type { Connection, PeerName } from '../platform/net.ts';
import { PeerProtocolError } from './fields.ts';
import type { WireFrame } from './frames.ts';
import { encodeChunkHeader, encodeControl, FrameDecoder, MAX_CONTROL_BYTES, MAX_HANDSHAKE_BYTES } from './frames.ts';
import type { ControlFrame, Frame, Hello, Open } from './messages.ts';
import { type Defer, Outbox } from './outbox.ts';
import {
  type HelloCheck,
  type OutgoingStream,
  type OutgoingStreamHandlers,
  type PeerSession,
  type PeerSessionHandlers,
  REFUSED_BY_PEER,
} from './session-api.ts';
import { IncomingEnd, type OpenerFrame, OutgoingEnd, type ReceiverFrame, type StreamPort } from './streams.ts';

export interface PeerSessionOptions {
  readonly connection: Connection;
  /** True on the side that connected: it speaks first. */
  readonly dialled: boolean;
  /** Our HELLO or WELCOME; called when it is sent (on the accepting side after `check`) and for `versions` before. */
  readonly hello: () => Hello;
  readonly check: HelloCheck;
  readonly clock: Clock;
  readonly log: Logger;
  readonly handlers: PeerSessionHandlers;
  /** A PING is sent after this long without sending anything. */
  readonly keepAliveMs: number;
  /** The connection is given up after this long without receiving anything. */
  readonly deadAfterMs: number;
  readonly handshakeTimeoutMs: number;
  /** Streams of the peer open at once; more are refused with "try another". */
  readonly maxIncomingStreams: number;
  /** How frames of one tick are gathered; default `queueMicrotask`. */
  readonly defer?: Defer;
}

/** Runs a session over a fresh connection; everything else comes through `options.handlers`. */
export function runPeerSession(options: PeerSessionOptions): void {
  new Session(options).start();
}

/** Highest version both sides list; null when there is none. */
export function negotiateVersion(ours: readonly number[], theirs: readonly number[]): number | null {
  let best: number | null = null;
  for (const version of ours) if (theirs.includes(version) && version > (best ?? 0)) best = version;
  return best;
}

const MAX_REASON_LENGTH = 500;
/** A PING goes out behind so many bytes of control frames. */
const MARK_BYTES = 65_536;
const TOO_MANY = {
  reply: { code: 451, enhanced: '4.3.2', text: 'too many messages at once' },
  tryOther: true,
} as const;
/** An envelope that fits no frame: too many recipients (RFC 5321 4.5.3.1.10). */
const TOO_LARGE = { reply: { code: 452, enhanced: '4.5.3', text: 'envelope too large' }, tryOther: false } as const;

class Session implements PeerSession, StreamPort {
  readonly remote: PeerName;
  readonly dialled: boolean;
  closed = false;
  readonly #options: PeerSessionOptions;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #decoder = new FrameDecoder();
  readonly #outbox: Outbox;
  readonly #outgoing = new Map<number, OutgoingEnd>();
  readonly #incoming = new Map<number, IncomingEnd>();
  #hello: Hello | null = null;
  #version = 0;
  #lastOpened: number;
  #lastSeen: number;
  #liveIncoming = 0;
  #creditors: IncomingEnd[] = [];
  #timer: Timer | null = null;
  #timerDueMs = 0;
  #lastSentMs: number;
  #lastReceivedMs: number;
  /** Bytes of control frames before each PING that is not answered yet, and since the last PING. */
  #unanswered: number[] = [];
  #unmarkedBytes = 0;

  constructor(options: PeerSessionOptions) {
    this.#options = options;
    this.remote = options.connection.remote;
    this.dialled = options.dialled;
    this.#clock = options.clock;
    this.#log = options.log.child({ peer: this.remote.name, peerRole: this.remote.role });
    // Ids: odd by the dialler, even by the acceptor, each side's only growing.
    this.#lastOpened = options.dialled ? -1 : 0;
    this.#lastSeen = options.dialled ? 0 : -1;
    this.#lastSentMs = this.#lastReceivedMs = this.#clock.monotonicMs();
    this.#decoder.maxControlBytes = MAX_HANDSHAKE_BYTES;
    this.#outbox = new Outbox(options.connection, options.defer ?? queueMicrotask, {
      beforeFlush: () => this.#payCredits(),
      onWritten: () => {
        this.#lastSentMs = this.#clock.monotonicMs();
      },
      onOverflow: () => this.#shut('too much queued: the peer asks but does not read', null),
    });
  }

  start(): void {
    const { connection, handshakeTimeoutMs } = this.#options;
    this.#timer = this.#clock.setTimer(handshakeTimeoutMs, () => this.#shut('handshake timed out', null));
    connection.start({
      onData: (chunk) => this.#onData(chunk),
      onDrain: () => this.#outbox.onDrain(),
      onClose: (reason) => this.#onConnectionClose(reason),
    });
    if (this.dialled) this.put({ kind: 'HELLO', hello: this.#options.hello() });
  }

  // What the program calls.

  get hello(): Hello {
    assert(this.#hello !== null, 'session used before the handshake');
    return this.#hello;
  }

  get version(): number {
    return this.#version;
  }

  get queuedBytes(): number {
    return this.#outbox.queuedBytes;
  }

  get unheardBytes(): number {
    return this.#unanswered.reduce((sum, bytes) => sum + bytes, this.#unmarkedBytes);
  }

  send(frame: ControlFrame): void {
    if (this.closed) return;
    const bytes = encodeControl(frame);
    // Frames between the programs may be lost at any time (protocol.md: they are repeated); one that fits nowhere must not stop the rest.
    if (bytes === null)
      this.#log.error({ frame: frame.kind, maxBytes: MAX_CONTROL_BYTES }, 'frame too large, not sent');
    else this.sendEncoded(bytes);
  }

  sendEncoded(bytes: Uint8Array): void {
    if (this.closed) return;
    this.#outbox.putControl(bytes);
    this.#unmarkedBytes += bytes.length;
    if (this.#unmarkedBytes >= MARK_BYTES) this.#ping();
  }

  /** Its answer says that everything before it was read. */
  #ping(): void {
    this.#unanswered.push(this.#unmarkedBytes);
    this.#unmarkedBytes = 0;
    this.put({ kind: 'PING' });
  }

  openStream(open: Open, handlers: OutgoingStreamHandlers): OutgoingStream {
    const id = this.#lastOpened + 2;
    const stream = new OutgoingEnd(id, this, handlers);
    if (this.closed) {
      this.defer(() => stream.lose('the connection is closed'));
      return stream;
    }
    const bytes = encodeControl({ kind: 'OPEN', stream: id, open });
    if (bytes === null) {
      stream.refuseLocally(TOO_LARGE);
      return stream;
    }
    this.#lastOpened = id;
    this.#outgoing.set(id, stream);
    this.#outbox.putControl(bytes);
    return stream;
  }

  close(reason: string): void {
    this.#shut(reason, { kind: 'GOODBYE', reason: reason.slice(0, MAX_REASON_LENGTH) });
  }

  // What the streams call.

  put(frame: Exclude<WireFrame, { readonly kind: 'CHUNK' }>): void {
    if (this.closed) return;
    const bytes = encodeControl(frame);
    if (bytes === null) {
      this.#log.error({ frame: frame.kind, maxBytes: MAX_CONTROL_BYTES }, 'own frame too large');
      this.close(`own ${frame.kind} too large`);
      return;
    }
    this.#outbox.putControl(bytes);
  }

  putChunk(stream: number, bytes: Buffer): void {
    if (!this.closed) this.#outbox.putChunk(encodeChunkHeader(stream, bytes.length), bytes);
  }

  defer(callback: () => void): void {
    (this.#options.defer ?? queueMicrotask)(callback);
  }

  forget(stream: number): void {
    if (!this.#outgoing.delete(stream)) this.#incoming.delete(stream);
  }

  owesCredit(stream: IncomingEnd): void {
    this.#creditors.push(stream);
    this.#outbox.touch();
  }

  freed(): void {
    this.#liveIncoming -= 1;
  }

  #payCredits(): void {
    if (this.#creditors.length === 0) return;
    const creditors = this.#creditors;
    this.#creditors = [];
    for (const stream of creditors) stream.payCredit();
  }

  // What the connection calls.

  #onData(chunk: Buffer): void {
    if (this.closed) return;
    this.#lastReceivedMs = this.#clock.monotonicMs();
    try {
      this.#decoder.push(chunk);
      while (!this.closed) {
        const frame = this.#decoder.next();
        if (frame === null) break;
        if (this.#hello === null) this.#handshake(frame);
        else this.#receive(frame);
      }
    } catch (error) {
      if (!(error instanceof PeerProtocolError)) throw error;
      this.#violated(error);
    }
  }

  #violated(error: PeerProtocolError): void {
    const reason = `protocol error: ${error.message}`.slice(0, MAX_REASON_LENGTH);
    this.#log.warn({ field: error.field, problem: error.problem }, 'peer broke the protocol');
    if (this.#hello === null && !this.dialled) this.#refuseHello('ProtocolError', error.message);
    else this.#shut(reason, { kind: 'GOODBYE', reason });
  }

  #onConnectionClose(reason: string): void {
    this.#timer?.cancel();
    this.#timer = null;
    if (this.closed) return;
    this.closed = true;
    this.#outbox.abandon();
    this.#tellClosed(reason);
  }

  // Handshake.

  #handshake(frame: WireFrame): void {
    if (frame.kind === 'GOODBYE') this.#shut(`closed by the peer: ${frame.reason}`, null);
    else if (frame.kind === 'REFUSED' && this.dialled) this.#onRefused(frame.reason, frame.detail);
    else if (frame.kind === 'WELCOME' && this.dialled) this.#meet(frame.hello);
    else if (frame.kind === 'HELLO' && !this.dialled) this.#meet(frame.hello);
    else throw new PeerProtocolError(frame.kind, 'not allowed before the handshake is done');
  }

  #onRefused(reason: string, detail: string): void {
    this.#shut(`${REFUSED_BY_PEER}${reason}: ${detail}`, null);
  }

  #meet(hello: Hello): void {
    const { remote } = this;
    if (hello.name !== remote.name || hello.role !== remote.role) {
      const detail = `HELLO says ${hello.role} ${hello.name}, the certificate ${remote.role} ${remote.name}`;
      this.#refuseHello('IdentityMismatch', detail);
      return;
    }
    const versions = this.#options.hello().versions;
    const version = negotiateVersion(versions, hello.versions);
    if (version === null) {
      const detail = `we speak ${versions.join(', ')}, you offer ${hello.versions.join(', ')}`;
      this.#refuseHello('NoCommonVersion', detail);
      return;
    }
    const decision = this.#options.check(hello, remote);
    if (decision.kind === 'refuse') {
      this.#refuseHello(decision.reason, decision.detail);
      return;
    }
    if (!this.dialled) this.put({ kind: 'WELCOME', hello: this.#options.hello() });
    this.#hello = hello;
    this.#version = version;
    this.#decoder.maxControlBytes = MAX_CONTROL_BYTES;
    this.#timer?.cancel();
    this.#arm();
    this.#log.debug({ version }, 'peer session ready');
    this.#options.handlers.onReady(this);
  }

  /** The dialler may refuse a WELCOME the same way; the acceptor then learns it as the end of the session. */
  #refuseHello(reason: string, detail: string): void {
    const cut = detail.slice(0, MAX_REASON_LENGTH);
    this.#shut(`refused: ${reason}: ${cut}`, { kind: 'REFUSED', reason, detail: cut });
  }

  // Frames after the handshake.

  #receive(frame: WireFrame): void {
    switch (frame.kind) {
      case 'CHUNK':
      case 'END':
      case 'DROP':
        this.#toReceiver(frame);
        break;
      case 'OPEN-OK':
      case 'REFUSE':
      case 'CREDIT':
      case 'RESULT':
        this.#toOpener(frame);
        break;
      case 'OPEN':
        this.#onOpen(frame.stream, frame.open);
        break;
      case 'CONTACT':
      case 'RESOLVE':
      case 'RESOLVED':
      case 'LIST':
      case 'STATE':
      case 'STATE-ACK':
      case 'CLAIM':
      case 'GRANT':
      case 'RESIGN':
      case 'RELEASE':
      case 'RELEASE-ACK':
      case 'COVER':
      case 'COVERED':
      case 'FETCH':
        this.#options.handlers.onControl(this, frame);
        break;
      case 'PING':
        this.put({ kind: 'PONG' });
        break;
      case 'PONG':
        this.#unanswered.shift();
        break;
      case 'GOODBYE':
        this.#shut(`closed by the peer: ${frame.reason}`, null);
        break;
      default:
        this.#handshakeFrameLater(frame);
    }
  }

  /** Only a dialler that does not like our WELCOME may still say REFUSED. */
  #handshakeFrameLater(frame: Extract<Frame, { readonly kind: 'HELLO' | 'WELCOME' | 'REFUSED' }>): void {
    if (frame.kind === 'REFUSED' && !this.dialled) this.#onRefused(frame.reason, frame.detail);
    else throw new PeerProtocolError(frame.kind, 'not allowed after the handshake');
  }

  #toReceiver(frame: OpenerFrame): void {
    const stream = this.#incoming.get(frame.stream);
    if (stream === undefined) throw new PeerProtocolError(`${frame.kind} stream`, `${frame.stream} is not open`);
    stream.receive(frame);
  }

  #toOpener(frame: ReceiverFrame): void {
    const stream = this.#outgoing.get(frame.stream);
    if (stream === undefined) throw new PeerProtocolError(`${frame.kind} stream`, `${frame.stream} is not open`);
    stream.receive(frame);
  }

  #onOpen(id: number, open: Open): void {
    const { maxIncomingStreams, handlers } = this.#options;
    if (id <= this.#lastSeen || (id - this.#lastSeen) % 2 !== 0) {
      throw new PeerProtocolError('OPEN stream', `${id} after ${this.#lastSeen}`);
    }
    // Refused streams linger until the opener answers; a peer that never does may not pile them up.
    if (this.#incoming.size >= 4 * maxIncomingStreams + 1_024) {
      throw new PeerProtocolError('OPEN', 'too many refused streams without an answer');
    }
    this.#lastSeen = id;
    const stream = new IncomingEnd(id, open, this);
    this.#incoming.set(id, stream);
    this.#liveIncoming += 1;
    if (this.#liveIncoming > maxIncomingStreams) stream.refuse(TOO_MANY);
    else handlers.onStream(this, stream);
  }

  // Keep-alive and the end.

  #arm(): void {
    const { keepAliveMs, deadAfterMs } = this.#options;
    const now = this.#clock.monotonicMs();
    this.#timerDueMs = Math.max(now + 1, Math.min(this.#lastSentMs + keepAliveMs, this.#lastReceivedMs + deadAfterMs));
    this.#timer = this.#clock.setTimer(this.#timerDueMs - now, () => this.#onTimer());
  }

  #onTimer(): void {
    const { keepAliveMs, deadAfterMs } = this.#options;
    const now = this.#clock.monotonicMs();
    if (now - this.#lastReceivedMs >= deadAfterMs) {
      // A process that stood still finds old timers before it has read what came meanwhile.
      if (now - this.#timerDueMs <= keepAliveMs) {
        this.#shut(`nothing received for ${deadAfterMs} ms`, null);
        return;
      }
      this.#lastReceivedMs = now - deadAfterMs + keepAliveMs;
    }
    if (now - this.#lastSentMs >= keepAliveMs) {
      this.#lastSentMs = now;
      if (this.#outbox.idle) this.#ping();
    }
    this.#arm();
  }

  /** Ends the session from this side; with a farewell it is flushed first, else the connection is dropped at once. */
  #shut(reason: string, farewell: Extract<Frame, { readonly kind: 'GOODBYE' | 'REFUSED' }> | null): void {
    if (this.closed) return;
    const { connection } = this.#options;
    this.#timer?.cancel();
    this.#timer = null;
    if (farewell === null) {
      this.closed = true;
      this.#outbox.abandon();
      connection.destroy(reason);
    } else {
      this.put(farewell);
      // The farewell itself may have overflowed the outbox and ended everything.
      if (this.closed) return;
      this.closed = true;
      this.#timer = this.#clock.setTimer(this.#options.deadAfterMs, () => connection.destroy(reason));
      this.#outbox.finish();
    }
    this.#tellClosed(reason);
  }

  /** Deferred, so that no call of the program re-enters it. */
  #tellClosed(reason: string): void {
    this.#log.debug({ reason }, 'peer session closed');
    this.defer(() => {
      for (const stream of this.#outgoing.values()) stream.lose(reason);
      for (const stream of this.#incoming.values()) stream.lose(reason);
      this.#outgoing.clear();
      this.#incoming.clear();
      this.#creditors = [];
      this.#options.handlers.onClose(this.#hello === null ? null : this, reason);
    });
  }
}
