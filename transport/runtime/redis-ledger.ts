/**
 * The ledger shared by the transports of a cluster, in Redis; the only file that knows the client library. Owns: one connection and whether it can
 * be trusted to answer (the circuit). Promises: those of `ledger.ts`; `known` takes no longer than `COMMAND_TIMEOUT_MS`, and no time at all while the
 * server is known not to answer; what this process relayed itself is remembered here as well; at most `MAX_WRITES_UNDER_WAY` writes wait.
 *
 * Nothing a server does gets further than that: absent, refusing, stopped, loading, wiped, restored from an old snapshot, answering with garbage,
 * other types, endless values or other people's entries - each costs at most a repeated offer (semantics.md S15). The server is never on the path
 * of a 250, ownership, discard or promotion. Fails by answering `unknown`, and tries again for ever.
 */
import { createHash } from 'node:crypto';
import { AbstractConnector, Redis } from 'ioredis';
import type { Clock } from '../../common/platform/clock.ts';
import type { Logger } from '../../common/platform/log.ts';
import type { Metrics } from '../../common/platform/metrics.ts';
import { type Random, randomFraction } from '../../common/platform/random.ts';
import { type Ledger, type LedgerAnswer, type LedgerEntry, type LedgerKey, MemoryLedger, nameOf } from './ledger.ts';
import { MAX_STATEMENT_BYTES, type StatementIdentity, Statements } from './ledger-statement.ts';
import { type GuardedStream, openGuarded, type RedisAddress } from './redis-replies.ts';

export interface RedisLedgerOptions {
  readonly address: RedisAddress;
  readonly username: string | null;
  readonly password: string | null;
  readonly cluster: string;
  readonly member: string;
  readonly identity: StatementIdentity;
  /** How long an entry can be of use: as long as the message can come back. */
  readonly ttlMs: () => number;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly metrics: Metrics;
}

export interface RedisLedger extends Ledger {
  /** Certificate files or password changed (null: keep it). Throws, and keeps the former, when the files do not fit together. */
  renew(identity: StatementIdentity, password: string | null): void;
  /** The server answers. */
  readonly open: boolean;
}

const COMMAND_TIMEOUT_MS = 500;
const CONNECT_TIMEOUT_MS = 2_000;
const FIRST_RETRY_MS = 100;
const LONGEST_RETRY_MS = 10_000;
const MAX_WRITES_UNDER_WAY = 2_000;
/** A lying server may lie thousands of times a second; one line is enough. */
const COMPLAINT_EVERY_MS = 60_000;

export function openRedisLedger(options: RedisLedgerOptions): RedisLedger {
  return new RedisBackedLedger(options);
}

class RedisBackedLedger implements RedisLedger {
  readonly #options: RedisLedgerOptions;
  readonly #statements: Statements;
  readonly #memory: MemoryLedger;
  readonly #redis: Redis;
  readonly #writes = new Set<Promise<void>>();
  #open = false;
  #closed = false;
  /** Connections in a row that came to nothing; a completed one that does not answer is none. */
  #failures = 0;
  #lastError = '';
  #complainedAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: RedisLedgerOptions) {
    this.#options = options;
    this.#statements = new Statements(options.cluster, options.clock, options.identity);
    this.#memory = new MemoryLedger(options.member);
    options.metrics.set('ledger_up', 0);
    this.#redis = new Redis({
      Connector: connectorTo(options.address, options.clock),
      ...(options.username === null ? {} : { username: options.username }),
      ...(options.password === null ? {} : { password: options.password }),
      // RESP2 has no pushes; nothing is said at the start that old servers or narrow ACLs refuse; our own PING decides.
      protocol: 2,
      enableReadyCheck: false,
      disableClientInfo: true,
      enableOfflineQueue: false,
      autoResendUnfulfilledCommands: false,
      maxRetriesPerRequest: 0,
      commandTimeout: COMMAND_TIMEOUT_MS,
      retryStrategy: () => this.#retryDelayMs(),
    });
    this.#redis.on('ready', () => void this.#probe());
    this.#redis.on('close', () => this.#shut('connection closed'));
    this.#redis.on('error', (error: Error) => {
      this.#lastError = error.message;
      // A reply nobody asked for: from here on every answer would belong to another question.
      this.#broken(error);
    });
  }

  get open(): boolean {
    return this.#open;
  }

  async known(keys: readonly LedgerKey[]): Promise<readonly LedgerAnswer[]> {
    const answers = await Promise.all(keys.map((key) => this.#memory.find(key) ?? this.#ask(key)));
    for (const { kind } of answers) this.#options.metrics.increment('ledger_lookups_total', { result: kind });
    return answers;
  }

  record(entries: readonly LedgerEntry[]): void {
    if (this.#closed) return;
    this.#memory.record(entries);
    for (const entry of entries) {
      if (!this.#open || this.#writes.size >= MAX_WRITES_UNDER_WAY) {
        this.#options.metrics.increment('ledger_writes_total', { result: 'dropped' });
        continue;
      }
      const write = this.#write(entry).finally(() => this.#writes.delete(write));
      this.#writes.add(write);
    }
  }

  renew(identity: StatementIdentity, password: string | null): void {
    this.#statements.renew(identity);
    const { options } = this.#redis;
    if (password === null || password === options.password) return;
    options.password = password;
    this.#redis.disconnect(true);
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.allSettled(this.#writes);
    this.#shut('stopping');
    this.#redis.disconnect();
  }

  /** Hashed: names of keys show up in places where addresses do not belong. */
  #redisKey(key: LedgerKey): string {
    const hash = createHash('sha256').update(nameOf(key)).digest('base64url');
    return `mailcluster:${this.#options.cluster}:relayed:${hash}`;
  }

  async #ask(key: LedgerKey): Promise<LedgerAnswer> {
    if (!this.#open) return { kind: 'unknown' };
    try {
      // Whatever lies there, no more than this comes over the wire.
      const value: unknown = await this.#redis.getrangeBuffer(this.#redisKey(key), 0, MAX_STATEMENT_BYTES);
      if (value === null || (Buffer.isBuffer(value) && value.length === 0)) return { kind: 'absent' };
      const read = Buffer.isBuffer(value) ? this.#statements.read(key, value) : `a ${typeof value}`;
      return typeof read === 'string' ? this.#disbelieve(key, read) : read;
    } catch (error) {
      return this.#unanswered(key, error);
    }
  }

  #unanswered(key: LedgerKey, error: unknown): LedgerAnswer {
    const reason = textOf(error);
    if (/^WRONGTYPE/.test(reason)) return this.#disbelieve(key, reason);
    if (!isReply(error)) this.#broken(error);
    else this.#complain({ error: reason }, 'the ledger answers with an error');
    return { kind: 'unknown' };
  }

  #disbelieve({ copy }: LedgerKey, reason: string): LedgerAnswer {
    this.#options.metrics.increment('ledger_entries_rejected_total');
    this.#complain({ attemptId: copy, reason }, 'an entry of the ledger proves nothing, as if it were not there');
    return { kind: 'absent' };
  }

  async #write(entry: LedgerEntry): Promise<void> {
    const { metrics } = this.#options;
    try {
      const statement = await this.#statements.write(entry);
      await this.#redis.set(this.#redisKey(entry), statement, 'PX', Math.max(1, Math.round(this.#options.ttlMs())));
      metrics.increment('ledger_writes_total', { result: 'written' });
    } catch (error) {
      metrics.increment('ledger_writes_total', { result: 'failed' });
      if (isReply(error)) this.#complain({ error: textOf(error) }, 'the ledger takes no entry');
      else this.#broken(error);
    }
  }

  /** Connected is not enough: a stopped server still has its connections accepted. */
  async #probe(): Promise<void> {
    try {
      const answer: unknown = await this.#redis.ping();
      if (answer !== 'PONG') throw new Error('PING was not answered with PONG');
    } catch (error) {
      this.#lastError = textOf(error);
      if (!this.#closed && this.#redis.status === 'ready') this.#redis.disconnect(true);
      return;
    }
    if (this.#closed) return;
    this.#failures = 0;
    this.#open = true;
    this.#options.metrics.set('ledger_up', 1);
    this.#options.log.info({ ...this.#options.address }, 'shared ledger in use');
  }

  /** A command was not answered, or not with an answer to it: nothing that is under way on this connection is waited for. */
  #broken(error: unknown): void {
    if (!this.#open) return;
    this.#lastError = textOf(error);
    this.#shut(this.#lastError);
    if (!this.#closed) this.#redis.disconnect(true);
  }

  #shut(reason: string): void {
    if (!this.#open) return;
    this.#open = false;
    const { metrics, log, address } = this.#options;
    metrics.set('ledger_up', 0);
    if (!this.#closed)
      log.warn({ ...address, reason }, 'shared ledger out of reach, this transport remembers for itself');
  }

  /** Doubling, with half of it left to chance: transports that lost one server together do not come back together. */
  #retryDelayMs(): number {
    const { random, address } = this.#options;
    const delayMs = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** Math.min(this.#failures, 10));
    this.#failures++;
    if (this.#failures > 1) this.#complain({ ...address, error: this.#lastError }, 'shared ledger out of reach');
    return delayMs * (0.5 + randomFraction(random) / 2);
  }

  #complain(fields: Readonly<Record<string, unknown>>, message: string): void {
    const { clock, log } = this.#options;
    if (clock.monotonicMs() - this.#complainedAtMs < COMPLAINT_EVERY_MS) return;
    this.#complainedAtMs = clock.monotonicMs();
    log.warn(fields, message);
  }
}

/** The server said no; the connection is all right. */
const isReply = (error: unknown): boolean => error instanceof Error && error.name === 'ReplyError';

const textOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

type LibraryStream = Awaited<ReturnType<AbstractConnector['connect']>>;

/** Our guarded stream in the place of the library's socket. */
function connectorTo(address: RedisAddress, clock: Clock): new (options: unknown) => AbstractConnector {
  return class extends AbstractConnector {
    #abort = new AbortController();

    constructor() {
      super(0);
    }

    async connect(): Promise<LibraryStream> {
      this.#abort = new AbortController();
      let stream: GuardedStream | ClosedStream;
      try {
        stream = await openGuarded(address, CONNECT_TIMEOUT_MS, clock, this.#abort.signal);
        this.#abort.signal.addEventListener('abort', () => stream.destroy());
      } catch (error) {
        // The library tries again when it is handed a closed stream, and gives up when it is handed an exception.
        this.firstError = error instanceof Error ? error : new Error(String(error));
        stream = CLOSED;
      }
      return stream as unknown as LibraryStream;
    }

    override disconnect(): void {
      this.#abort.abort();
    }
  };
}

interface ClosedStream {
  readonly destroyed: true;
  setNoDelay(): void;
  setKeepAlive(): void;
  destroy(): void;
}

const CLOSED: ClosedStream = {
  destroyed: true,
  setNoDelay: () => undefined,
  setKeepAlive: () => undefined,
  destroy: () => undefined,
};
