/**
 * Tells people what the operator did, as Kubernetes Events. Owns: a bounded queue of them and one worker. Promises: `say` returns at once and
 * never fails, whatever the API server does; what is said again becomes a count, written at most every `FLUSH_MS`; what could not be
 * written is counted in `events_dropped_total`. Refuses nothing. Events are for people: nothing may depend on them.
 */
import type { Clock } from '../../common/platform/clock.ts';
import type { Logger } from '../../common/platform/log.ts';
import type { Metrics } from '../../common/platform/metrics.ts';
import type { Random } from '../../common/platform/random.ts';
import type { KubeApi } from './api.ts';
import { EventBook, type Series } from './event-book.ts';
import { describeFailure } from './failures.ts';
import { EVENT } from './kinds.ts';
import type { KubeObject, ObjectName } from './kube-object.ts';
import { microTime } from './lease-record.ts';
import { pause } from './pause.ts';

export interface EventsOptions {
  /** Fenced, so that two operators do not tell the same thing. */
  readonly api: KubeApi;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** `mailcluster.dev/operator`. */
  readonly controller: string;
  /** The pod. */
  readonly instance: string;
}

export interface Happening {
  readonly type: 'Normal' | 'Warning';
  /** CamelCase, for machines: `DrainStarted`. */
  readonly reason: string;
  /** What was done: `Drain`, `Apply`. */
  readonly action: string;
  /** For people; up to 1 KiB. */
  readonly note: string;
}

interface Event extends KubeObject {
  readonly [field: string]: unknown;
}

const MAX_QUEUED = 1_000;
const FLUSH_MS = 30_000;
const CALL_DEADLINE_MS = 5_000;
/** For all that is left when the operator stops. */
const LAST_WORDS_MS = 2_000;
/** Limits of events.k8s.io/v1. */
const MAX_NOTE_BYTES = 1_024;
const MAX_REASON_LENGTH = 128;

export class Events {
  readonly #options: EventsOptions;
  readonly #book = new EventBook();
  /** Series that differ from what the API server knows, and what they are about. */
  readonly #due = new Map<Series, KubeObject>();
  readonly #stop = new AbortController();
  #wake = Promise.withResolvers<void>();
  #loop: Promise<void> | null = null;
  #flushedAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: EventsOptions) {
    this.#options = options;
  }

  start(): void {
    this.#loop ??= this.#run();
  }

  /** What is due is written first, for a moment. */
  async stop(): Promise<void> {
    this.#stop.abort();
    this.#wake.resolve();
    await this.#loop;
  }

  say(about: KubeObject, happening: Happening): void {
    const { clock, random, metrics } = this.#options;
    const note = cut(happening.note, MAX_NOTE_BYTES);
    const reason = happening.reason.slice(0, MAX_REASON_LENGTH);
    const name = (): string => `${about.metadata.name.slice(0, 200)}.${random.bytes(8).toString('hex')}`;
    const said = { ...happening, note, reason, uid: about.metadata.uid ?? '' };
    const verdict = this.#book.say(said, clock.monotonicMs(), name);
    if (verdict.kind === 'dropped') metrics.increment('events_dropped_total', { reason: 'rate' });
    else if (this.#due.size >= MAX_QUEUED && !this.#due.has(verdict.series)) {
      if (verdict.kind === 'new') this.#book.drop(verdict.series);
      metrics.increment('events_dropped_total', { reason: 'backlog' });
    } else {
      this.#due.set(verdict.series, about);
      if (verdict.kind === 'new') this.#wake.resolve();
    }
  }

  async #run(): Promise<void> {
    const { clock } = this.#options;
    while (!this.#stop.signal.aborted) {
      await this.#flush(clock.monotonicMs() - this.#flushedAtMs >= FLUSH_MS);
      const nap = new AbortController();
      await Promise.race([this.#wake.promise, pause(clock, FLUSH_MS, nap.signal)]);
      nap.abort();
      this.#wake = Promise.withResolvers();
    }
    await this.#flush(true, clock.monotonicMs() + LAST_WORDS_MS);
  }

  /** New ones at once, counts only when it is their time. */
  async #flush(withCounts: boolean, endMs = Number.POSITIVE_INFINITY): Promise<void> {
    const { clock } = this.#options;
    if (withCounts) this.#flushedAtMs = clock.monotonicMs();
    for (const [series, about] of [...this.#due]) {
      const leftMs = endMs - clock.monotonicMs();
      if (leftMs <= 0) break;
      if (series.toldCount > 0 && !withCounts) continue;
      this.#due.delete(series);
      await this.#write(series, about, Math.min(CALL_DEADLINE_MS, leftMs));
    }
  }

  async #write(series: Series, about: KubeObject, deadlineMs: number): Promise<void> {
    const { api, metrics, log } = this.#options;
    const options = { retries: 1, deadlineMs };
    // Cluster-wide objects have their Events in `default`.
    const name: ObjectName = { namespace: about.metadata.namespace ?? 'default', name: series.name };
    const { count } = series;
    const written =
      series.toldCount === 0
        ? await api.create(EVENT, this.#event(series, about, name), options)
        : await api.patch(EVENT, name, { series: this.#seriesText(series) }, options);
    if (written.ok) {
      series.toldCount = count;
      return;
    }
    // Expired, deleted, refused: what is said next begins anew.
    this.#book.drop(series);
    metrics.increment('events_dropped_total', { reason: 'failed' });
    log.debug({ reason: series.said.reason, failure: describeFailure(written.failure) }, 'event not written');
  }

  #event(series: Series, about: KubeObject, { namespace, name }: ObjectName): Event {
    const { controller, instance } = this.#options;
    const { said } = series;
    const { metadata } = about;
    return {
      apiVersion: 'events.k8s.io/v1',
      kind: 'Event',
      metadata: { namespace, name },
      eventTime: microTime(this.#wallMs(series.firstMs)),
      reportingController: controller,
      reportingInstance: instance.slice(0, MAX_REASON_LENGTH),
      type: said.type,
      reason: said.reason,
      action: said.action,
      note: said.note,
      regarding: {
        apiVersion: about.apiVersion,
        kind: about.kind,
        name: metadata.name,
        ...(metadata.namespace === undefined ? {} : { namespace: metadata.namespace }),
        ...(metadata.uid === undefined ? {} : { uid: metadata.uid }),
      },
      ...(series.count > 1 ? { series: this.#seriesText(series) } : {}),
    };
  }

  #seriesText(series: Series): object {
    return { count: series.count, lastObservedTime: microTime(this.#wallMs(series.lastMs)) };
  }

  #wallMs(monotonicMs: number): number {
    const { clock } = this.#options;
    return clock.wallMs() - (clock.monotonicMs() - monotonicMs);
  }
}

/** Whole characters, up to so many bytes. */
function cut(text: string, maxBytes: number): string {
  if (Buffer.byteLength(text) <= maxBytes) return text;
  const whole = new TextDecoder('utf-8').decode(Buffer.from(text).subarray(0, maxBytes - 4));
  return `${whole.replace(/\uFFFD$/, '')}…`;
}
