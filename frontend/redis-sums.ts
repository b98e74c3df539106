/**
 * The sums that front ends share, in Redis. Owns: their keys. Promise: nobody waits for it; what cannot be added is dropped and counted, and the others
 * are told the rest with the next change. At most `MAX_UNDER_WAY` wait for an answer. An answer that is no sum is none.
 */
import { createHash } from 'node:crypto';
import type { Clock } from '../common/platform/clock.ts';
import { describeError } from '../common/platform/lifecycle.ts';
import type { Logger } from '../common/platform/log.ts';
import type { Metrics } from '../common/platform/metrics.ts';
import type { Random } from '../common/platform/random.ts';
import { isReply, RedisConnection } from '../common/platform/redis-connection.ts';
import type { RedisAddress } from '../common/platform/redis-replies.ts';
import type { SharedSums } from '../common/smtp/shared-tally.ts';

const MAX_UNDER_WAY = 1_000;

export interface RedisSumsOptions {
  readonly address: RedisAddress;
  readonly username: string | null;
  readonly password: string | null;
  readonly cluster: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly metrics: Metrics;
}

export class RedisSums implements SharedSums {
  readonly #options: RedisSumsOptions;
  readonly #redis: RedisConnection;
  #underWay = 0;

  constructor(options: RedisSumsOptions) {
    this.#options = options;
    this.#redis = new RedisConnection({
      ...options,
      purpose: 'shared limits',
      without: 'this front end counts for itself',
      onChange: (open) => options.metrics.set('shared_limits_up', open ? 1 : 0),
    });
  }

  get open(): boolean {
    return this.#redis.open;
  }

  add(name: string, amount: number, ttlMs: number, told: (sum: number) => void): boolean {
    if (!this.open || this.#underWay >= MAX_UNDER_WAY) {
      this.#count('dropped');
      return false;
    }
    this.#underWay++;
    void this.#add(name, amount, ttlMs, told).finally(() => {
      this.#underWay--;
    });
    return true;
  }

  usePassword(password: string): void {
    this.#redis.usePassword(password);
  }

  close(): void {
    this.#redis.close();
  }

  async #add(name: string, amount: number, ttlMs: number, told: (sum: number) => void): Promise<void> {
    try {
      const sum = await this.#redis.add(this.#key(name), amount, ttlMs);
      if (typeof sum !== 'number') throw new Error(`a ${typeof sum} where a sum was asked for`);
      this.#count('added');
      told(sum);
    } catch (error) {
      this.#count('failed');
      if (isReply(error)) this.#redis.complain({ error: describeError(error) }, 'shared limits are not counted');
    }
  }

  #count(result: 'added' | 'failed' | 'dropped'): void {
    this.#options.metrics.increment('shared_limits_total', { result });
  }

  /** Hashed: names of keys show up in places where users and addresses do not belong. */
  #key(name: string): string {
    return `mailcluster:${this.#options.cluster}:limit:${createHash('sha256').update(name).digest('base64url')}`;
  }
}
