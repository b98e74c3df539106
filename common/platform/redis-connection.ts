/**
 * A connection to a Redis server that may be anything; the only file that knows the client library. Owns: that one connection and whether it can be trusted
 * to answer (the circuit). Promises: a command takes no longer than `COMMAND_TIMEOUT_MS`; while `open` is false nobody should ask; tries again for ever. One
 * command that is not answered, or not with an answer to it, shuts the circuit: nothing under way on that connection is waited for.
 *
 * What it does not promise is that an answer is true (semantics.md S15): that is for whoever asks.
 */
import { AbstractConnector, Redis } from 'ioredis';
import type { Clock } from './clock.ts';
import type { Logger } from './log.ts';
import { type Random, randomFraction } from './random.ts';
import { type GuardedStream, openGuarded, type RedisAddress } from './redis-replies.ts';

export interface RedisOptions {
  readonly address: RedisAddress;
  readonly username: string | null;
  readonly password: string | null;
  /** For the log: what it is for, and what is done without it. */
  readonly purpose: string;
  readonly without: string;
  readonly onChange: (open: boolean) => void;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
}

const COMMAND_TIMEOUT_MS = 500;
const CONNECT_TIMEOUT_MS = 2_000;
const FIRST_RETRY_MS = 100;
const LONGEST_RETRY_MS = 10_000;
/** A lying server may lie thousands of times a second; one line is enough. */
const COMPLAINT_EVERY_MS = 60_000;

export class RedisConnection {
  readonly #options: RedisOptions;
  readonly #redis: Redis;
  #open = false;
  #closed = false;
  /** Connections in a row that came to nothing; a completed one that does not answer is none. */
  #failures = 0;
  #lastError = '';
  #complainedAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: RedisOptions) {
    this.#options = options;
    options.onChange(false);
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

  /** The server answers. */
  get open(): boolean {
    return this.#open;
  }

  /** At most `maxBytes` of what lies there; anything else than bytes is a lie. */
  start(key: string, maxBytes: number): Promise<unknown> {
    return this.#asked(this.#redis.getrangeBuffer(key, 0, maxBytes));
  }

  async set(key: string, value: Buffer | string, ttlMs: number): Promise<void> {
    await this.#asked(this.#redis.set(key, value, 'PX', ttlMs));
  }

  /** The sum as the server says it. */
  async add(key: string, amount: number, ttlMs: number): Promise<unknown> {
    const [sum] = await this.#asked(
      Promise.all([this.#redis.incrby(key, amount) as Promise<unknown>, this.#redis.pexpire(key, ttlMs)]),
    );
    return sum;
  }

  usePassword(password: string): void {
    const { options } = this.#redis;
    if (password === options.password) return;
    options.password = password;
    this.#redis.disconnect(true);
  }

  /** Once a minute at most. */
  complain(fields: Readonly<Record<string, unknown>>, message: string): void {
    const { clock, log } = this.#options;
    if (clock.monotonicMs() - this.#complainedAtMs < COMPLAINT_EVERY_MS) return;
    this.#complainedAtMs = clock.monotonicMs();
    log.warn(fields, message);
  }

  close(): void {
    this.#closed = true;
    this.#shut('stopping');
    this.#redis.disconnect();
  }

  async #asked<T>(answer: Promise<T>): Promise<T> {
    try {
      return await answer;
    } catch (error) {
      if (!isReply(error)) this.#broken(error);
      throw error;
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
    const { address, log, onChange, purpose } = this.#options;
    onChange(true);
    log.info({ ...address }, `${purpose} in use`);
  }

  #broken(error: unknown): void {
    if (!this.#open) return;
    this.#lastError = textOf(error);
    this.#shut(this.#lastError);
    if (!this.#closed) this.#redis.disconnect(true);
  }

  #shut(reason: string): void {
    if (!this.#open) return;
    this.#open = false;
    const { address, log, onChange, purpose, without } = this.#options;
    onChange(false);
    if (!this.#closed) log.warn({ ...address, reason }, `${purpose} out of reach, ${without}`);
  }

  /** Doubling, with half of it left to chance: programs that lost one server together do not come back together. */
  #retryDelayMs(): number {
    const { random, address, purpose } = this.#options;
    const delayMs = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** Math.min(this.#failures, 10));
    this.#failures++;
    if (this.#failures > 1) this.complain({ ...address, error: this.#lastError }, `${purpose} out of reach`);
    return delayMs * (0.5 + randomFraction(random) / 2);
  }
}

/** The server said no; the connection is all right. */
export const isReply = (error: unknown): boolean => error instanceof Error && error.name === 'ReplyError';

export const textOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

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
