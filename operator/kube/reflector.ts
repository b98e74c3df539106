/**
 * A copy of all objects of a kind that keeps itself true. Owns: one list, then one watch after another, for ever. Promises: it never stops
 * by itself, whatever the server or the network does; after a broken watch it goes on where it was; when that is gone (410) it lists again
 * and tells only what differs; a watch that went silent is given up after `stallMs`; handlers hear of every object that came to stay,
 * changed or went, in order, after the cache has it. Refuses nothing; while the server is away the cache is what it was (`isSynced` stays
 * true: stale, not wrong - whoever writes uses preconditions). A handler that throws is a bug and ends the process.
 */
import type { Clock } from '../../common/platform/clock.ts';
import type { Logger } from '../../common/platform/log.ts';
import type { Metrics } from '../../common/platform/metrics.ts';
import { type Random, randomFraction } from '../../common/platform/random.ts';
import type { KubeApi, ListPage, Scope, WatchEnd, WatchEvent } from './api.ts';
import { type BackoffLimits, backoffMs } from './backoff.ts';
import { describeFailure, type KubeFailure, type KubeResult, succeed } from './failures.ts';
import { type KubeObject, keyOf, type ResourceKind } from './kube-object.ts';
import { type CacheChange, type Indexer, ObjectCache, type ObjectReader, takeIn, takeInAll } from './object-cache.ts';
import { pause } from './pause.ts';

export interface ReflectorOptions<T extends KubeObject> {
  readonly api: KubeApi;
  readonly kind: ResourceKind;
  readonly scope: Scope;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly indexes?: Readonly<Record<string, Indexer<T>>>;
  /** Leaves out what nobody reads: five thousand pods with their managedFields are most of an operator's memory. */
  readonly trim?: (object: T) => T;
  readonly pageSize?: number;
  /** Half to all of it, at random, so that a restarted API server is not asked by everybody in the same second. */
  readonly watchSeconds?: number;
  readonly stallMs?: number;
  readonly backoff?: BackoffLimits;
}

type RelistReason = 'start' | 'gone';

const PAGE_SIZE = 500;
const WATCH_SECONDS = 600;
/** Bookmarks come about every 60 s. */
const STALL_MS = 90_000;
/** client-go: 800 ms to 30 s. */
const BACKOFF: BackoffLimits = { firstMs: 500, maxMs: 30_000 };
/** A watch that lived as long as this was healthy: what ends it next starts from the shortest pause. */
const HEALTHY_MS = 10_000;

export class Reflector<T extends KubeObject> {
  readonly #options: ReflectorOptions<T>;
  readonly #cache: ObjectCache<T>;
  readonly #handlers: ((change: CacheChange<T>) => void)[] = [];
  readonly #stop = new AbortController();
  readonly #synced = Promise.withResolvers<boolean>();
  #loop: Promise<void> | null = null;
  #isSynced = false;
  #failures = 0;
  /** Where the next watch begins; null: nothing known, list. */
  #version: string | null = null;

  constructor(options: ReflectorOptions<T>) {
    this.#options = options;
    this.#cache = new ObjectCache(options.indexes);
  }

  get objects(): ObjectReader<T> {
    return this.#cache;
  }

  /** The first list is in the cache. */
  get isSynced(): boolean {
    return this.#isSynced;
  }

  /** True with the first list; false when stopped before. */
  whenSynced(): Promise<boolean> {
    return this.#synced.promise;
  }

  /** Before `start`. */
  onChange(handler: (change: CacheChange<T>) => void): void {
    this.#handlers.push(handler);
  }

  start(): void {
    this.#loop ??= this.#run();
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    this.#synced.resolve(false);
    await this.#loop;
  }

  async #run(): Promise<void> {
    let reason: RelistReason = 'start';
    while (!this.#stop.signal.aborted) {
      if (this.#version === null) {
        await this.#relist(reason);
        reason = 'gone';
      } else await this.#watchOnce(this.#version);
    }
  }

  async #relist(reason: RelistReason): Promise<void> {
    const { kind, metrics } = this.#options;
    metrics.increment('relists_total', { resource: kind.plural, reason });
    const listed = await this.#listAll();
    if (this.#stop.signal.aborted) return;
    if (!listed.ok) {
      await this.#wait('list failed', describeFailure(listed.failure), askedDelayMs(listed.failure));
      return;
    }
    this.#failures = 0;
    const { trim = (object) => object } = this.#options;
    this.#tell(takeInAll(this.#cache, listed.value.items.map(trim)));
    this.#version = listed.value.resourceVersion;
    if (this.#isSynced) return;
    this.#isSynced = true;
    this.#synced.resolve(true);
  }

  async #listAll(): Promise<KubeResult<ListPage<T>>> {
    const { api, kind, scope, pageSize = PAGE_SIZE } = this.#options;
    const signal = this.#stop.signal;
    const items: T[] = [];
    let continueToken = '';
    for (;;) {
      const page = await api.list<T>(kind, scope, { limit: pageSize, continueToken, signal });
      // The token outlived compaction: pages of one moment are not to be had any more, all at once is.
      if (!page.ok && page.failure.kind === 'gone' && continueToken !== '')
        return await api.list<T>(kind, scope, { signal });
      if (!page.ok) return page;
      items.push(...page.value.items);
      continueToken = page.value.continueToken;
      if (continueToken === '') return succeed({ ...page.value, items });
    }
  }

  async #watchOnce(from: string): Promise<void> {
    const { api, kind, scope, clock, random, watchSeconds = WATCH_SECONDS, stallMs = STALL_MS } = this.#options;
    const startMs = clock.monotonicMs();
    const timeoutSeconds = Math.max(1, Math.ceil(watchSeconds * (0.5 + randomFraction(random) / 2)));
    const opened = await api.watch<T>(kind, scope, {
      resourceVersion: from,
      timeoutSeconds,
      stallMs,
      signal: this.#stop.signal,
    });
    if (!opened.ok) {
      this.#count(opened.failure.kind === 'gone' ? 'gone' : 'refused');
      if (opened.failure.kind === 'gone') this.#version = null;
      else await this.#wait('watch refused', describeFailure(opened.failure), askedDelayMs(opened.failure));
      return;
    }
    let heard = 0;
    const end = await opened.value.run((event) => {
      heard += 1;
      this.#take(event);
    });
    const livedMs = clock.monotonicMs() - startMs;
    await this.#ended(end, heard > 0 || livedMs >= HEALTHY_MS);
  }

  async #ended(end: WatchEnd, wasHealthy: boolean): Promise<void> {
    if (end.kind === 'stopped') return;
    this.#count(end.kind);
    if (wasHealthy) this.#failures = 0;
    if (end.kind === 'gone') this.#version = null;
    else if (end.kind !== 'end' || !wasHealthy) await this.#wait('watch ended', `${end.kind}: ${end.message}`, 0);
  }

  #take(event: WatchEvent<T>): void {
    if (event.type === 'BOOKMARK') {
      this.#version = event.resourceVersion;
      return;
    }
    const { trim = (object) => object } = this.#options;
    const object = trim(event.object);
    if (event.type === 'DELETED') {
      const before = this.#cache.remove(keyOf(object));
      if (before !== undefined) this.#tell([{ type: 'deleted', object }]);
    } else this.#tell(takeIn(this.#cache, object));
    // Last: a handler that threw has not been skipped.
    this.#version = event.object.metadata.resourceVersion ?? this.#version;
  }

  #tell(changes: readonly CacheChange<T>[]): void {
    for (const change of changes) for (const handler of this.#handlers) handler(change);
  }

  #count(reason: WatchEnd['kind'] | 'refused'): void {
    this.#options.metrics.increment('watch_ends_total', { resource: this.#options.kind.plural, reason });
  }

  async #wait(what: string, why: string, askedMs: number): Promise<void> {
    const { clock, random, log, kind, backoff = BACKOFF } = this.#options;
    const delayMs = Math.max(askedMs, backoffMs(backoff, this.#failures, randomFraction(random)));
    this.#failures += 1;
    log.info({ resource: kind.plural, what, why, delayMs, failures: this.#failures }, 'API server, again later');
    await pause(clock, delayMs, this.#stop.signal);
  }
}

const askedDelayMs = (failure: KubeFailure): number =>
  failure.kind === 'tooManyRequests' ? (failure.retryAfterMs ?? 0) : 0;
