/**
 * The queue of a controller. Owns: which keys wait, which run, which come back when. Promises: a key is never processed twice at once and
 * never forgotten - what is added while it runs, runs again after; keys take turns in the order they came, however often one is added;
 * a failing key comes back after its own growing pause and holds up nobody; after `stop` resolved nothing runs. Refuses keys after `stop`.
 * An exception of the work is a failure of that key alone (one cluster's bug does not stop the others), told to `failed`.
 */
import type { Clock, Timer } from '../../common/platform/clock.ts';
import type { Metrics } from '../../common/platform/metrics.ts';
import { type Random, randomFraction } from '../../common/platform/random.ts';
import { type BackoffLimits, backoffMs } from './backoff.ts';
import { pause } from './pause.ts';

export type WorkOutcome =
  | { readonly kind: 'done' }
  /** Nothing is wrong; look again then. */
  | { readonly kind: 'again'; readonly afterMs: number }
  /** Something is wrong; look again after the key's pause, or when the server said (Retry-After). */
  | { readonly kind: 'retry'; readonly reason: string; readonly afterMs?: number };

export interface WorkQueueOptions {
  /** In metrics. */
  readonly name: string;
  readonly work: (key: string, signal: AbortSignal) => Promise<WorkOutcome>;
  readonly failed: (key: string, error: unknown) => void;
  readonly concurrency: number;
  readonly clock: Clock;
  readonly random: Random;
  readonly metrics: Metrics;
  readonly backoff?: BackoffLimits;
  /** Between the end of a run and one that somebody asks for: what comes meanwhile is one run, not many. Default: none. */
  readonly restMs?: number;
}

/** client-go's controllers: 5 ms to 1000 s. Ours ends sooner, because what heals by itself should be seen healing. */
const DEFAULT_BACKOFF: BackoffLimits = { firstMs: 100, maxMs: 60_000 };

interface Delayed {
  readonly atMs: number;
  readonly timer: Timer;
}

export class WorkQueue {
  readonly #options: WorkQueueOptions;
  /** In order of arrival. */
  readonly #waiting = new Set<string>();
  readonly #running = new Set<string>();
  /** Added while running. */
  readonly #dirty = new Set<string>();
  readonly #delayed = new Map<string, Delayed>();
  readonly #failures = new Map<string, number>();
  readonly #endedAtMs = new Map<string, number>();
  readonly #stop = new AbortController();
  #idle: (() => void) | null = null;
  /** A queue that waits for its start takes keys and runs none. */
  #isStarted = false;

  constructor(options: WorkQueueOptions) {
    this.#options = options;
  }

  /** Keys that wait for a worker. */
  get depth(): number {
    return this.#waiting.size;
  }

  get runningCount(): number {
    return this.#running.size;
  }

  start(): void {
    this.#isStarted = true;
    this.#turn();
  }

  /** As soon as there is a worker, and the key has rested. */
  add(key: string): void {
    const { clock, restMs = 0 } = this.#options;
    const endedAtMs = this.#endedAtMs.get(key) ?? Number.NEGATIVE_INFINITY;
    const leftMs = endedAtMs + restMs - clock.monotonicMs();
    if (leftMs > 0 && !this.#running.has(key)) this.addAfter(key, leftMs);
    else this.#enqueue(key);
  }

  #enqueue(key: string): void {
    if (this.#stop.signal.aborted) return;
    if (this.#running.has(key)) this.#dirty.add(key);
    else this.#waiting.add(key);
    this.#turn();
  }

  /** At that time at the latest: an earlier one that is planned stays. */
  addAfter(key: string, delayMs: number): void {
    if (this.#stop.signal.aborted) return;
    if (delayMs <= 0) {
      this.#enqueue(key);
      return;
    }
    const { clock } = this.#options;
    const atMs = clock.monotonicMs() + delayMs;
    const planned = this.#delayed.get(key);
    if (planned !== undefined && planned.atMs <= atMs) return;
    planned?.timer.cancel();
    const timer = clock.setTimer(delayMs, () => {
      this.#delayed.delete(key);
      this.#enqueue(key);
    });
    this.#delayed.set(key, { atMs, timer });
  }

  /** What the key stands for is gone: its pauses and plans, too. */
  forget(key: string): void {
    this.#failures.delete(key);
    this.#endedAtMs.delete(key);
    this.#delayed.get(key)?.timer.cancel();
    this.#delayed.delete(key);
  }

  /** Takes nothing more, lets what runs finish; what does not within `graceMs` is told by its signal, and waited for. */
  async stop(graceMs: number): Promise<void> {
    if (this.#stop.signal.aborted && this.#running.size === 0) return;
    this.#isStarted = false;
    this.#waiting.clear();
    this.#dirty.clear();
    for (const { timer } of this.#delayed.values()) timer.cancel();
    this.#delayed.clear();
    this.#measure();
    const finished = this.#running.size === 0 ? Promise.resolve() : new Promise<void>((done) => (this.#idle = done));
    const patience = new AbortController();
    await Promise.race([finished, pause(this.#options.clock, graceMs, patience.signal)]);
    patience.abort();
    this.#stop.abort();
    await finished;
  }

  #turn(): void {
    while (this.#isStarted && this.#running.size < this.#options.concurrency) {
      const [key] = this.#waiting;
      if (key === undefined) break;
      this.#waiting.delete(key);
      this.#running.add(key);
      void this.#run(key);
    }
    this.#measure();
  }

  async #run(key: string): Promise<void> {
    const { work, failed } = this.#options;
    // What was planned was planned by an older look; this one plans anew.
    this.#delayed.get(key)?.timer.cancel();
    this.#delayed.delete(key);
    let outcome: WorkOutcome;
    try {
      outcome = await work(key, this.#stop.signal);
    } catch (error) {
      failed(key, error);
      outcome = { kind: 'retry', reason: 'exception' };
    }
    this.#running.delete(key);
    if (this.#options.restMs !== undefined) this.#endedAtMs.set(key, this.#options.clock.monotonicMs());
    if (!this.#isStarted) {
      if (this.#running.size === 0) this.#idle?.();
      return;
    }
    this.#settle(key, outcome);
    if (this.#dirty.delete(key)) this.add(key);
    this.#turn();
  }

  #settle(key: string, outcome: WorkOutcome): void {
    if (outcome.kind !== 'retry') {
      this.#failures.delete(key);
      if (outcome.kind === 'again') this.addAfter(key, outcome.afterMs);
      return;
    }
    const { random, metrics, name, backoff = DEFAULT_BACKOFF } = this.#options;
    const failures = this.#failures.get(key) ?? 0;
    this.#failures.set(key, failures + 1);
    metrics.increment('workqueue_retries_total', { queue: name });
    this.addAfter(key, Math.max(outcome.afterMs ?? 0, backoffMs(backoff, failures, randomFraction(random))));
  }

  #measure(): void {
    this.#options.metrics.set('workqueue_depth', this.#waiting.size, { queue: this.#options.name });
  }
}
