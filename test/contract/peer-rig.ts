/**
 * Two ends of a peer connection over the simulated network, for tests: real sessions that record what they are told, and a raw end
 * that speaks any frames, also wrong ones.
 */

import { encodeFrame, FrameDecoder, type WireFrame } from '../../common/peer/frames.ts';
import type { ControlFrame, Hello } from '../../common/peer/messages.ts';
import { type PeerSessionOptions, runPeerSession } from '../../common/peer/session.ts';
import type { IncomingStream, OutgoingStreamHandlers, PeerSession } from '../../common/peer/session-api.ts';
import { silentLogger } from '../../common/platform/log.ts';
import type { Connection, PeerName } from '../../common/platform/net.ts';
import type { Incarnation } from '../sim/incarnation.ts';
import { SimNetwork, type SimNetworkOptions } from '../sim/net.ts';
import { Scheduler } from '../sim/scheduler.ts';
import { helloOf } from '../unit/peer-samples.ts';

export const FRONT: PeerName = { role: 'frontend', name: 'front' };
export const BACK: PeerName = { role: 'transport', name: 'back' };

export const HELLO: WireFrame = { kind: 'HELLO', hello: helloOf('frontend', 'front') };
export const WELCOME: WireFrame = { kind: 'WELCOME', hello: helloOf('transport', 'back') };

/** A session and everything it said. */
export class RecordedSession {
  session: PeerSession | null = null;
  readonly control: ControlFrame[] = [];
  readonly streams: IncomingStream[] = [];
  readonly closes: { readonly ready: boolean; readonly reason: string }[] = [];
  onStream: (stream: IncomingStream) => void = () => undefined;
  onReady: (session: PeerSession) => void = () => undefined;
  onControl: (frame: ControlFrame) => void = () => undefined;

  run(options: Omit<PeerSessionOptions, 'handlers'>): void {
    runPeerSession({
      ...options,
      handlers: {
        onReady: (session) => {
          this.session = session;
          this.onReady(session);
        },
        onControl: (_session, frame) => {
          this.control.push(frame);
          this.onControl(frame);
        },
        onStream: (_session, stream) => {
          this.streams.push(stream);
          this.onStream(stream);
        },
        onClose: (session, reason) => this.closes.push({ ready: session !== null, reason }),
      },
    });
  }

  get ready(): PeerSession {
    if (this.session === null) throw new Error(`not ready: ${JSON.stringify(this.closes)}`);
    return this.session;
  }

  get reason(): string {
    return this.closes[0]?.reason ?? 'open';
  }
}

/** Outgoing handlers that write down each call in order. */
export function recordedStream(): OutgoingStreamHandlers & { readonly calls: string[] } {
  const calls: string[] = [];
  return {
    calls,
    onOpenOk: (ok) => calls.push(`ok ${ok.credit}`),
    onCredit: () => calls.push('credit'),
    onRefuse: (refuse) => calls.push(`refuse ${refuse.reply.code} ${refuse.reply.text}`),
    onResult: (result) => calls.push(`result ${result.outcome}`),
    onLost: (reason) => calls.push(`lost ${reason}`),
  };
}

/** The end of a peer that may speak wrongly. */
export class RawPeer {
  readonly frames: WireFrame[] = [];
  closedReason: string | null = null;
  /** PINGs are answered, as who reads on does. */
  answers = false;
  readonly #connection: Connection;
  readonly #decoder = new FrameDecoder();

  constructor(connection: Connection) {
    this.#connection = connection;
    connection.start({
      onData: (chunk) => {
        this.#decoder.push(chunk);
        for (let frame = this.#decoder.next(); frame !== null; frame = this.#decoder.next()) {
          this.frames.push(frame);
          if (this.answers && frame.kind === 'PING') this.say({ kind: 'PONG' });
        }
      },
      onDrain: () => undefined,
      onClose: (reason) => {
        this.closedReason = reason;
      },
    });
  }

  say(...frames: readonly WireFrame[]): void {
    this.#connection.write(frames.flatMap((frame) => encodeFrame(frame)));
  }

  sayBytes(bytes: Buffer): void {
    this.#connection.write([bytes]);
  }

  hold(): void {
    this.#connection.pause();
  }

  /** Reasons of GOODBYE and REFUSED frames that came. */
  get farewell(): string {
    const frame = this.frames.find((one) => one.kind === 'GOODBYE' || one.kind === 'REFUSED');
    if (frame?.kind === 'GOODBYE') return frame.reason;
    return frame?.kind === 'REFUSED' ? `${frame.reason}: ${frame.detail}` : 'none';
  }
}

export interface RigOptions {
  readonly front?: Partial<PeerSessionOptions>;
  readonly back?: Partial<PeerSessionOptions>;
  readonly frontHello?: Hello;
  readonly backHello?: Hello;
}

/** What a test said outside an event of the scheduler leaves at the end of the tick; only then time may move. */
const flushed = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

export class PeerRig {
  readonly scheduler: Scheduler;
  readonly network: SimNetwork;
  readonly frontLife: Incarnation = { alive: true };
  readonly backLife: Incarnation = { alive: true };
  readonly front = new RecordedSession();
  readonly back = new RecordedSession();

  constructor(seed = 1, network: Partial<SimNetworkOptions> = {}) {
    this.scheduler = new Scheduler(seed);
    this.network = new SimNetwork(this.scheduler, network);
  }

  /** Connects; the front dials. */
  async connections(): Promise<{ readonly front: Connection; readonly back: Connection }> {
    const backNet = this.network.host(BACK, this.backLife);
    const frontNet = this.network.host(FRONT, this.frontLife);
    const accepted: Connection[] = [];
    const listener = await backNet.listen({ host: BACK.name, port: 0 }, (connection) => accepted.push(connection));
    let front: Connection | null = null;
    void frontNet.connect({ host: BACK.name, port: listener.port }, BACK, 5_000).then((connection) => {
      front = connection;
    });
    await this.scheduler.run(() => front !== null, 10_000);
    const back = accepted[0];
    if (front === null || back === undefined) throw new Error('no connection');
    return { front, back };
  }

  options(connection: Connection, dialled: boolean, hello: Hello): Omit<PeerSessionOptions, 'handlers'> {
    return {
      connection,
      dialled,
      hello: () => hello,
      check: () => ({ kind: 'accept' }),
      clock: this.scheduler.clock(),
      log: silentLogger,
      keepAliveMs: 1_000,
      deadAfterMs: 3_000,
      handshakeTimeoutMs: 2_000,
      maxIncomingStreams: 100,
    };
  }

  /** Two real sessions, started; `settle` to see the handshake done. */
  async start(rig: RigOptions = {}): Promise<void> {
    const { front, back } = await this.connections();
    this.back.run({ ...this.options(back, false, rig.backHello ?? helloOf('transport', 'back')), ...rig.back });
    this.front.run({ ...this.options(front, true, rig.frontHello ?? helloOf('frontend', 'front')), ...rig.front });
  }

  async ready(rig: RigOptions = {}): Promise<void> {
    await this.start(rig);
    await this.until(() => this.front.session !== null && this.back.session !== null);
  }

  /** A raw dialler against a real accepting session. */
  async rawDialler(back: Partial<PeerSessionOptions> = {}): Promise<RawPeer> {
    const connections = await this.connections();
    this.back.run({ ...this.options(connections.back, false, helloOf('transport', 'back')), ...back });
    return new RawPeer(connections.front);
  }

  /** A raw acceptor against a real dialling session. */
  async rawAcceptor(front: Partial<PeerSessionOptions> = {}): Promise<RawPeer> {
    const connections = await this.connections();
    this.front.run({ ...this.options(connections.front, true, helloOf('frontend', 'front')), ...front });
    return new RawPeer(connections.back);
  }

  async until(condition: () => boolean, spanMs = 10_000): Promise<void> {
    await flushed();
    const reached = await this.scheduler.run(condition, this.scheduler.nowMs + spanMs);
    if (!reached) throw new Error(`not reached; front ${this.front.reason}, back ${this.back.reason}`);
  }

  /** Lets simulated time pass. */
  async pass(spanMs: number): Promise<void> {
    await flushed();
    await this.scheduler.run(() => false, this.scheduler.nowMs + spanMs);
  }
}
