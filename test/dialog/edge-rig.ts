/**
 * The real edge on a real socket with handlers that record what they got and misbehave when an address says so:
 * MAIL from `refused@` 550, from `broken@` throws; RCPT to `unknown@` 550; DATA from `full@` 452, from `hold@` waits for `release()`;
 * sink: from `slow@` is full after each write until `drain()`; end of data: `closed@` close, `lost@` throws, `single@` 451 4.4.0,
 * `judged@` waits for `release()`.
 */
import { createHash, pbkdf2Sync, randomBytes } from 'node:crypto';
import type { FrontendLimits, ListenerConfig } from '../../common/config.ts';
import type { Envelope, Reply } from '../../common/message.ts';
import type { Clock, Timer } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { type Metrics, silentMetrics } from '../../common/platform/metrics.ts';
import type {
  DataAnswer,
  DataDecision,
  DataEnd,
  DataSink,
  EdgeHandlers,
  EdgeSession,
  ScramStart,
} from '../../common/smtp/edge-api.ts';
import { reply } from '../../common/smtp/replies.ts';
import { hmac } from '../../common/smtp/scram.ts';
import { type EdgeOptions, type EdgeServer, startEdge } from '../../common/smtp/server.ts';

/** Time that passes only when told to. */
export class ManualClock implements Clock {
  #nowMs = 0;
  readonly #timers = new Set<{ readonly atMs: number; readonly run: () => void }>();
  monotonicMs(): number {
    return this.#nowMs;
  }
  wallMs(): number {
    return 1_700_000_000_000 + this.#nowMs;
  }
  setTimer(delayMs: number, run: () => void): Timer {
    const timer = { atMs: this.#nowMs + delayMs, run };
    this.#timers.add(timer);
    return { cancel: () => this.#timers.delete(timer) };
  }
  advance(ms: number): void {
    const endMs = this.#nowMs + ms;
    for (;;) {
      const due = [...this.#timers].filter((timer) => timer.atMs <= endMs).sort((a, b) => a.atMs - b.atMs)[0];
      if (due === undefined) break;
      this.#nowMs = Math.max(this.#nowMs, due.atMs);
      this.#timers.delete(due);
      due.run();
    }
    this.#nowMs = endMs;
  }
}

/** One message as the handlers saw it. */
export interface Received {
  readonly envelope: Envelope;
  content: string;
  writes: number;
  end: DataEnd | null;
  aborted: string | null;
  /** After the end. */
  readonly gone: string[];
}

export const LIMITS: FrontendLimits = {
  maxMessageBytes: 100_000,
  maxHeaderBytes: 2_000,
  maxRecipients: 100,
  maxCommandLineBytes: 2_048,
  maxDataLineBytes: 10_000,
  maxErrors: 10,
  maxJunkCommands: 50,
  idleTimeoutMs: 60_000,
  dataTimeoutMs: 600_000,
  minDataBytesPerSecond: 500,
  maxConnections: 100,
  maxConnectionsPerClient: 20,
  maxConnectionRatePerClient: 0,
  maxAuthFailures: 10,
  maxMessageRatePerUser: 0,
  replayBufferBytes: 0,
  totalReplayBufferBytes: 0,
};

export class Recorder implements EdgeHandlers {
  readonly messages: Received[] = [];
  readonly auth: { readonly user: string; readonly password: string }[] = [];
  readonly users: ReadonlyMap<string, string>;
  connected = 0;
  closed = 0;
  refuseConnections: Reply | null = null;
  readonly #held: (() => void)[] = [];
  readonly #full: (() => void)[] = [];

  constructor(users: ReadonlyMap<string, string> = new Map()) {
    this.users = users;
  }

  onConnect(): Reply | null {
    this.connected++;
    return this.refuseConnections;
  }
  async onMailFrom(_session: EdgeSession, mail: { readonly reversePath: string }): Promise<Reply | null> {
    if (mail.reversePath.startsWith('broken@')) throw new Error('this handler is broken');
    return mail.reversePath.startsWith('refused@') ? reply('relayDenied') : null;
  }
  async onRcptTo(
    _session: EdgeSession,
    _mail: unknown,
    recipient: { readonly address: string },
  ): Promise<Reply | null> {
    return recipient.address.startsWith('unknown@') ? reply('unknownRecipient') : null;
  }
  onData(_session: EdgeSession, envelope: Envelope, drain: () => void) {
    return this.receive(envelope, drain);
  }
  async receive(envelope: Envelope, drain: () => void): Promise<DataDecision> {
    const from = envelope.reversePath;
    if (from.startsWith('full@')) return { kind: 'refuse', reply: reply('backPressure', { resource: 'disk' }) };
    if (from.startsWith('hold@')) await new Promise<void>((resolve) => this.#held.push(resolve));
    const message: Received = { envelope, content: '', writes: 0, end: null, aborted: null, gone: [] };
    this.messages.push(message);
    return { kind: 'accept', sink: this.#sink(message, from, drain) };
  }
  async onAuth(_session: EdgeSession, user: string, password: string): Promise<boolean | Reply> {
    this.auth.push({ user, password });
    if (user === 'broken') throw new Error('this handler is broken');
    if (user === 'guessed') return reply('authRefused');
    return this.users.get(user) === password;
  }
  mechanisms(): readonly string[] {
    return ['SCRAM-SHA-256', 'PLAIN', 'LOGIN'];
  }
  /** Salt, iterations and nonce of the example in RFC 7677; for nobody, keys that no proof fits. */
  onScram(_session: EdgeSession, user: string): ScramStart | Reply {
    if (user === 'broken') throw new Error('this handler is broken');
    if (user === 'guessed') return reply('authRefused');
    const salt = Buffer.from('W22ZaJ0SNY7soEsUEjb6gQ==', 'base64');
    const salted = pbkdf2Sync(this.users.get(user) ?? randomBytes(9), salt, 4_096, 32, 'sha256');
    const storedKey = createHash('sha256').update(hmac(salted, 'Client Key')).digest();
    const keys = { iterations: 4_096, salt, storedKey, serverKey: hmac(salted, 'Server Key') };
    return { keys, nonce: '%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0' };
  }
  onScramEnd(_session: EdgeSession, user: string, right: boolean): void {
    this.auth.push({ user, password: right ? 'proved' : 'not proved' });
  }
  onClose(): void {
    this.closed++;
  }
  /** Lets held DATA go on. */
  release(): void {
    for (const go of this.#held.splice(0)) go();
  }
  /** Tells full sinks' writers to go on. */
  drain(): void {
    for (const go of this.#full.splice(0)) go();
  }
  get holding(): number {
    return this.#held.length;
  }
  get full(): number {
    return this.#full.length;
  }

  #sink(message: Received, from: string, drain: () => void): DataSink {
    return {
      write: (chunk) => {
        message.content += chunk.toString('latin1');
        message.writes++;
        if (!from.startsWith('slow@')) return true;
        this.#full.push(drain);
        return false;
      },
      end: async (end): Promise<DataAnswer> => {
        message.end = end;
        if (from.startsWith('closed@')) return { kind: 'close', reason: 'nobody knows' };
        if (from.startsWith('judged@')) await new Promise<void>((resolve) => this.#held.push(resolve));
        if (from.startsWith('lost@')) throw new Error('this handler is broken');
        if (from.startsWith('single@')) return { kind: 'reply', reply: reply('shadowFailure') };
        return { kind: 'reply', reply: reply('accepted', { id: `M${this.messages.indexOf(message) + 1}` }) };
      },
      abort: (reason) => {
        message.aborted = reason;
      },
      gone: (reason) => message.gone.push(reason),
    };
  }
}

export interface EdgeRig {
  readonly edge: EdgeServer;
  readonly recorder: Recorder;
  readonly clock: ManualClock;
}

export interface RigOptions extends Partial<Omit<EdgeOptions, 'listener' | 'limits'>> {
  readonly listener?: Partial<ListenerConfig>;
  readonly limits?: Partial<FrontendLimits>;
  readonly users?: ReadonlyMap<string, string> | null;
  readonly metrics?: Metrics;
}

export async function startRig(options: RigOptions = {}): Promise<EdgeRig> {
  const clock = new ManualClock();
  const recorder = new Recorder(options.users ?? undefined);
  const { users, listener, limits, ...rest } = options;
  const edge = await startEdge({
    frontend: 'fe-1',
    hostname: 'mx.example.net',
    tls: null,
    handlers: recorder,
    log: silentLogger,
    metrics: silentMetrics,
    clock,
    ...rest,
    listener: {
      name: 'smtp',
      host: '127.0.0.1',
      port: 0,
      tls: 'None',
      relayFrom: [],
      usersFile: users === undefined || users === null ? null : 'users',
      ...listener,
    },
    limits: { ...LIMITS, ...limits },
  });
  return { edge, recorder, clock };
}
