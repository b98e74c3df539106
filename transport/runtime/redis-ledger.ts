/**
 * The ledger shared by the transports of a cluster, in Redis (common/platform/redis-connection.ts). Owns: what is written there and believed of it.
 * Promises: those of `ledger.ts`; `known` takes no longer than one command may, and no time at all while the server is known not to answer; what this process relayed itself is remembered here as well; at most `MAX_WRITES_UNDER_WAY` writes wait.
 *
 * Nothing a server does gets further than that: absent, refusing, stopped, loading, wiped, restored from an old snapshot, answering with garbage,
 * other types, endless values or other people's entries - each costs at most a repeated offer (semantics.md S15). The server is never on the path
 * of a 250, ownership, discard or promotion. Fails by answering `unknown`, and tries again for ever.
 */
import { createHash } from 'node:crypto';
import type { Clock } from '../../common/platform/clock.ts';
import type { Logger } from '../../common/platform/log.ts';
import type { Metrics } from '../../common/platform/metrics.ts';
import type { Random } from '../../common/platform/random.ts';
import { isReply, RedisConnection, textOf } from '../../common/platform/redis-connection.ts';
import type { RedisAddress } from '../../common/platform/redis-replies.ts';
import { type Ledger, type LedgerAnswer, type LedgerEntry, type LedgerKey, MemoryLedger, nameOf } from './ledger.ts';
import { MAX_STATEMENT_BYTES, type StatementIdentity, Statements } from './ledger-statement.ts';

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

const MAX_WRITES_UNDER_WAY = 2_000;

export function openRedisLedger(options: RedisLedgerOptions): RedisLedger {
  return new RedisBackedLedger(options);
}

class RedisBackedLedger implements RedisLedger {
  readonly #options: RedisLedgerOptions;
  readonly #statements: Statements;
  readonly #memory: MemoryLedger;
  readonly #redis: RedisConnection;
  readonly #writes = new Set<Promise<void>>();
  #closed = false;

  constructor(options: RedisLedgerOptions) {
    this.#options = options;
    this.#statements = new Statements(options.cluster, options.clock, options.identity);
    this.#memory = new MemoryLedger(options.member);
    this.#redis = new RedisConnection({
      ...options,
      purpose: 'shared ledger',
      without: 'this transport remembers for itself',
      onChange: (open) => options.metrics.set('ledger_up', open ? 1 : 0),
    });
  }

  get open(): boolean {
    return this.#redis.open;
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
      if (!this.open || this.#writes.size >= MAX_WRITES_UNDER_WAY) {
        this.#options.metrics.increment('ledger_writes_total', { result: 'dropped' });
        continue;
      }
      const write = this.#write(entry).finally(() => this.#writes.delete(write));
      this.#writes.add(write);
    }
  }

  renew(identity: StatementIdentity, password: string | null): void {
    this.#statements.renew(identity);
    if (password !== null) this.#redis.usePassword(password);
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.allSettled(this.#writes);
    this.#redis.close();
  }

  /** Hashed: names of keys show up in places where addresses do not belong. */
  #redisKey(key: LedgerKey): string {
    const hash = createHash('sha256').update(nameOf(key)).digest('base64url');
    return `mailcluster:${this.#options.cluster}:relayed:${hash}`;
  }

  async #ask(key: LedgerKey): Promise<LedgerAnswer> {
    if (!this.open) return { kind: 'unknown' };
    try {
      // Whatever lies there, no more than this comes over the wire.
      const value = await this.#redis.start(this.#redisKey(key), MAX_STATEMENT_BYTES);
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
    if (isReply(error)) this.#redis.complain({ error: reason }, 'the ledger answers with an error');
    return { kind: 'unknown' };
  }

  #disbelieve({ copy }: LedgerKey, reason: string): LedgerAnswer {
    this.#options.metrics.increment('ledger_entries_rejected_total');
    this.#redis.complain({ attemptId: copy, reason }, 'an entry of the ledger proves nothing, as if it were not there');
    return { kind: 'absent' };
  }

  async #write(entry: LedgerEntry): Promise<void> {
    const { metrics } = this.#options;
    try {
      const statement = await this.#statements.write(entry);
      await this.#redis.set(this.#redisKey(entry), statement, Math.max(1, Math.round(this.#options.ttlMs())));
      metrics.increment('ledger_writes_total', { result: 'written' });
    } catch (error) {
      metrics.increment('ledger_writes_total', { result: 'failed' });
      if (isReply(error)) this.#redis.complain({ error: textOf(error) }, 'the ledger takes no entry');
    }
  }
}
