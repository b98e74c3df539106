/** The proxy over the simulated network with two scripted transports, and a client before it. Owns: what these scenarios share. */
import type { TopologyDocument } from '../../common/config.ts';
import type { Envelope, Reply } from '../../common/message.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { silentMetrics } from '../../common/platform/metrics.ts';
import type { DataAnswer, DataDecision } from '../../common/smtp/edge-api.ts';
import type { FilteredMessage } from '../../frontend/content-filters.ts';
import { MessageProxy } from '../../frontend/proxy.ts';
import type { ReceiptCheck } from '../../frontend/receipt-checks.ts';
import type { Incarnation } from '../sim/incarnation.ts';
import { SimNetwork } from '../sim/net.ts';
import { Scheduler } from '../sim/scheduler.ts';
import { simTopology } from '../sim/topology.ts';
import { sampleEnvelope } from '../unit/peer-samples.ts';
import { countingChunks } from './counting-chunks.ts';
import { ScriptedTransport, simLives } from './scripted-transport.ts';

export const REPLAY_BYTES = 256 * 1024;
export const BARE_LF: Reply = { code: 554, enhanced: '5.6.0', text: 'bare LF' };

export interface World {
  readonly scheduler: Scheduler;
  readonly network: SimNetwork;
  readonly proxy: MessageProxy;
  readonly a: ScriptedTransport;
  readonly b: ScriptedTransport;
  readonly topology: TopologyDocument;
  /** CHUNK frames of the front end, as it cut them: the network makes other pieces of them. */
  readonly sent: { readonly chunks: number };
  run(until: () => boolean): Promise<void>;
}

/** Two transports; `a` is in the front end's own site and therefore chosen first. */
export async function world(seed = 1, options: { totalReplayBytes?: number; started?: boolean } = {}): Promise<World> {
  const scheduler = new Scheduler(seed);
  const network = new SimNetwork(scheduler);
  const topology: TopologyDocument = { ...simTopology({ sites: [1, 1], dag: true, frontends: 1 }), cluster: 'mail' };
  const transport = (name: string): ScriptedTransport =>
    new ScriptedTransport(name, 'mail', { host: name, port: 4000 }, simLives(network, name));
  const [a, b] = [transport('t-0-0'), transport('t-1-0')];
  const incarnation: Incarnation = { alive: true };
  const sent = { chunks: 0 };
  const proxy = new MessageProxy(
    {
      name: 'f-0',
      site: 'site-0',
      uid: 'uid-1',
      clock: scheduler.clock(),
      random: scheduler.random.fork(),
      network: countingChunks(network.host({ role: 'frontend', name: 'f-0' }, incarnation), sent),
      log: silentLogger,
      metrics: silentMetrics,
      limits: {
        replayBufferBytes: REPLAY_BYTES,
        totalReplayBufferBytes: options.totalReplayBytes ?? 10 * REPLAY_BYTES,
      },
    },
    topology,
  );
  const run = async (until: () => boolean): Promise<void> => {
    // What was just called settles before time moves on.
    scheduler.schedule(0, () => undefined);
    const reached = await scheduler.run(until, scheduler.nowMs + 120_000);
    if (!reached) throw new Error('the awaited state did not come within 120 s of simulated time');
  };
  if (options.started !== false) {
    void a.start();
    void b.start();
    proxy.start();
    await run(() => proxy.available === 2);
  }
  return { scheduler, network, proxy, a, b, topology, sent, run };
}

interface SendOptions {
  readonly chunk?: number;
  readonly rejected?: Reply;
  readonly abortAt?: number;
  /** After the end of data the client is gone as soon as this resolves. */
  readonly goneAfterEnd?: Promise<void>;
  readonly check?: ReceiptCheck;
  readonly filter?: FilteredMessage;
}

/** A client that sends a body as fast as it is allowed to. */
export class Client {
  decision: DataDecision | null = null;
  answer: DataAnswer | null = null;
  answeredAtMs = 0;
  maxBurst = 0;
  #resume: (() => void) | null = null;
  readonly #world: World;

  constructor(on: World, body: Buffer, options: SendOptions = {}) {
    this.#world = on;
    const envelope: Envelope = { ...sampleEnvelope, recipients: [{ address: 'alpha-1@sim.example' }] };
    void this.#send(envelope, body, options);
  }

  async #send(envelope: Envelope, body: Buffer, options: SendOptions) {
    const { proxy, scheduler } = this.#world;
    const drain = (): void => {
      const resume = this.#resume;
      this.#resume = null;
      resume?.();
    };
    this.decision = await proxy.open(
      envelope,
      drain,
      [],
      () => options.check ?? null,
      () => options.filter ?? null,
    );
    if (this.decision.kind === 'refuse') return;
    const { sink } = this.decision;
    const size = options.chunk ?? 8192;
    for (let at = 0; at < body.length; at += size) {
      if (options.abortAt !== undefined && at >= options.abortAt) return sink.abort('client reset');
      const drained = new Promise<void>((resolve) => {
        this.#resume = resolve;
      });
      const room = sink.write(body.subarray(at, at + size));
      this.maxBurst = Math.max(this.maxBurst, proxy.replayBufferBytes);
      if (!room) await drained;
      // The client's own speed, so that things can happen in between.
      await new Promise<void>((resolve) => scheduler.schedule(0.2, resolve));
    }
    void options.goneAfterEnd?.then(() => sink.gone('client reset'));
    this.answer = await sink.end({ sizeBytes: body.length, rejected: options.rejected ?? null });
    this.answeredAtMs = scheduler.nowMs;
  }

  get code(): number | 'close' | null {
    if (this.decision?.kind === 'refuse') return this.decision.reply.code;
    if (this.answer === null) return null;
    return this.answer.kind === 'close' ? 'close' : this.answer.reply.code;
  }

  async over(): Promise<number | 'close' | null> {
    await this.#world.run(() => this.code !== null);
    return this.code;
  }
}

export function bodyOf(bytes: number): Buffer {
  const body = Buffer.alloc(bytes);
  for (let i = 0; i < bytes; i++) body[i] = (i * 7 + (i >> 8)) & 0xff;
  return body;
}

export const holdersOf = (w: World, body: Buffer): string[] =>
  [w.a, w.b].filter((t) => [...t.held.values()].some((h) => h.body.equals(body))).map((t) => t.name);
