/**
 * A transport program reduced to its side of the wire, at the network port: real peer sessions, a "disk" that survives its death, and a
 * script that says what goes wrong. For tests of the front end's proxy without the rest of the cluster.
 */
import { createHash } from 'node:crypto';
import type { CopyId, Envelope, Identity } from '../../common/message.ts';
import type { End, Load, Resolve, ResolvedAnswer, ResultOutcome } from '../../common/peer/messages.ts';
import { runPeerSession } from '../../common/peer/session.ts';
import type { IncomingStream, PeerSession } from '../../common/peer/session-api.ts';
import type { Clock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import type { Network, PeerAddress } from '../../common/platform/net.ts';
import type { Incarnation } from '../sim/incarnation.ts';
import type { SimNetwork } from '../sim/net.ts';
import { helloOf } from '../unit/peer-samples.ts';

/** What is durable at this transport about one id. */
export interface Held {
  readonly try: number;
  readonly body: Buffer;
  readonly envelope: Envelope;
  readonly end: End;
}

export interface Script {
  /** `hang`: no answer; `die`: the process ends. */
  onOpen: 'ok' | 'busy' | 'never' | 'hang' | 'die';
  /** Bytes after which something happens; null for never. `stall`: alive, but its disk takes no more: no credit. */
  atBytes: { readonly bytes: number; readonly what: 'die' | 'busy' | 'never' | 'stall' } | null;
  onEnd: ResultOutcome | 'hang' | 'die-empty' | 'die-holding';
  creditBytes: number;
  load: Load;
  /** Overrides what the disk would say. */
  resolve: ResolvedAnswer | 'hang' | null;
  /** What a HELLO is refused with; null: it is welcome. */
  refuses: string | null;
}

export const CALM: Load = { queued: 0, intake: 0, backPressure: 'Normal', accepting: true };

/** What one life of the process runs on. */
export interface Life {
  readonly network: Network;
  readonly clock: Clock;
  /** Ends it without a goodbye. */
  end(): void;
}

/** Lives on the simulated network. */
export function simLives(network: SimNetwork, name: string): () => Life {
  return () => {
    const incarnation: Incarnation = { alive: true };
    return {
      network: network.host({ role: 'transport', name }, incarnation),
      clock: network.scheduler.clock(),
      end: () => {
        incarnation.alive = false;
        network.reap();
      },
    };
  };
}

export class ScriptedTransport {
  readonly name: string;
  readonly script: Script = {
    onOpen: 'ok',
    atBytes: null,
    onEnd: 'protected',
    creditBytes: 65_536,
    load: CALM,
    resolve: null,
    refuses: null,
  };
  readonly held = new Map<CopyId, Held>();
  readonly abortedThrough = new Map<CopyId, number>();
  readonly opens: { readonly id: CopyId; readonly try: number }[] = [];
  readonly drops: string[] = [];
  readonly resolves: Resolve[] = [];
  ends = 0;
  /** Sessions that ever began. */
  sessions = 0;
  identity: Identity;
  /** Name of the cluster in HELLO. */
  readonly cluster: string;
  readonly #lives: () => Life;
  readonly #address: PeerAddress;
  #life: Life | null = null;
  #sessions = new Set<PeerSession>();

  constructor(name: string, cluster: string, address: PeerAddress, lives: () => Life) {
    this.name = name;
    this.cluster = cluster;
    this.#address = address;
    this.#lives = lives;
    this.identity = `ID-${name}` as Identity;
  }

  /** Resolves to the port. */
  async start(): Promise<number> {
    const life = this.#lives();
    this.#life = life;
    const { network, clock } = life;
    const listener = await network.listen(this.#address, (connection) => {
      runPeerSession({
        connection,
        dialled: false,
        hello: () => ({
          ...helloOf('transport', this.name),
          cluster: this.cluster,
          database: { identity: this.identity, chain: [{ openCounter: 1, nonce: 'n1' }], syncedSequence: 1 },
        }),
        check: () =>
          this.script.refuses === null
            ? { kind: 'accept' }
            : { kind: 'refuse', reason: this.script.refuses, detail: `says ${this.name}` },
        clock,
        log: silentLogger,
        keepAliveMs: 2_000,
        deadAfterMs: 10_000,
        handshakeTimeoutMs: 5_000,
        maxIncomingStreams: 100,
        handlers: {
          onReady: (session) => {
            this.#sessions.add(session);
            this.sessions += 1;
            this.#contact(session);
          },
          onControl: (session, frame) => {
            if (frame.kind === 'RESOLVE') this.#resolve(session, frame.resolve);
          },
          onStream: (_session, stream) => this.#stream(stream),
          onClose: (session) => {
            if (session !== null) this.#sessions.delete(session);
          },
        },
      });
    });
    return listener.port;
  }

  get openSessions(): number {
    return this.#sessions.size;
  }

  kill(): void {
    this.#sessions.clear();
    this.#life?.end();
  }

  /** Tells the front ends the load of the script. */
  contact(): void {
    for (const session of this.#sessions) this.#contact(session);
  }

  #contact(session: PeerSession): void {
    const { load } = this.script;
    session.send({
      kind: 'CONTACT',
      contact: { syncedSequence: 1, trustedMs: 0, generation: 1, hears: [], load },
    });
  }

  #refuse(stream: IncomingStream, how: 'busy' | 'never'): void {
    stream.refuse(
      how === 'busy'
        ? { reply: { code: 452, enhanced: '4.3.1', text: `${this.name} is full` }, tryOther: true }
        : { reply: { code: 552, enhanced: '5.3.4', text: 'too big' }, tryOther: false },
    );
  }

  #stream(stream: IncomingStream): void {
    const { id, epoch, envelope } = stream.open;
    this.opens.push({ id, try: epoch.try });
    if (epoch.owner !== this.identity) throw new Error('OPEN for another queue database');
    const { onOpen, creditBytes } = this.script;
    if (onOpen === 'busy' || onOpen === 'never') return this.#refuse(stream, onOpen);
    if (onOpen === 'die') return this.kill();
    if (onOpen === 'hang') return;
    const abortedThrough = this.abortedThrough.get(id) ?? 0;
    if (abortedThrough >= epoch.try)
      return stream.refuse({
        ...{ reply: { code: 451, enhanced: '4.4.0', text: 'not redundant' }, tryOther: false },
        abortedThrough,
      });
    const chunks: Buffer[] = [];
    let size = 0;
    stream.accept(
      { credit: creditBytes, maxMessageBytes: 1e9 },
      {
        onChunk: (bytes) => {
          chunks.push(bytes);
          size += bytes.length;
          const { atBytes } = this.script;
          if (atBytes === null || size < atBytes.bytes) return stream.grant(bytes.length);
          if (atBytes.what === 'stall') return;
          if (atBytes.what === 'die') this.kill();
          else if (!stream.closed) this.#refuse(stream, atBytes.what);
        },
        onEnd: (end) => this.#end(stream, { try: epoch.try, body: Buffer.concat(chunks), envelope, end }),
        onDrop: (reason) => this.drops.push(reason),
        onLost: () => undefined,
      },
    );
  }

  #end(stream: IncomingStream, copy: Held): void {
    this.ends += 1;
    const { id, epoch } = stream.open;
    const digest = createHash('sha256').update(copy.body).digest('hex');
    if (digest !== copy.end.digest) throw new Error('the body is not what END says');
    const { onEnd } = this.script;
    if (onEnd === 'die-empty') return this.kill();
    const keeps = onEnd === 'protected' || onEnd === 'unprotected' || onEnd === 'die-holding' || onEnd === 'hang';
    if (keeps) this.held.set(id, copy);
    if (onEnd === 'die-holding') return this.kill();
    if (onEnd === 'hang') return;
    if (onEnd === 'refused') this.abortedThrough.set(id, epoch.try);
    const reply = onEnd === 'refused' ? { code: 451, enhanced: '4.4.0', text: 'not redundant' } : null;
    stream.result({ id, epoch, outcome: onEnd, digest, reply });
  }

  #resolve(session: PeerSession, resolve: Resolve): void {
    this.resolves.push(resolve);
    const { id, through } = resolve;
    const held = this.held.get(id);
    const answer = this.script.resolve ?? (held === undefined ? 'aborted' : 'protected');
    if (answer === 'hang') return;
    if (answer === 'aborted') this.abortedThrough.set(id, through);
    session.send({
      kind: 'RESOLVED',
      resolved: { id, through, answer, epoch: null, digest: held?.end.digest ?? null },
    });
  }
}
