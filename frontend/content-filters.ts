/**
 * The seat for a mail filter on each listener. Owns: who is asked about which message, what becomes of a message when there is no usable answer, and that people hear of it. Promises: no
 * message is lost - it is accepted, or its client is told; where no listener has a filter nothing is done at all. A failing filter is in the log every `LOG_EVERY_MS` for each listener,
 * however much mail there is; all of it is counted.
 */

import type { ContentFilterConfig, ListenerConfig } from '../common/config.ts';
import type { FilterField } from '../common/content-filter.ts';
import type { Envelope, Reply } from '../common/message.ts';
import type { Clock } from '../common/platform/clock.ts';
import type { Logger } from '../common/platform/log.ts';
import type { Metrics } from '../common/platform/metrics.ts';
import { SharedLookup } from '../common/platform/shared-lookup.ts';
import { reply } from '../common/smtp/replies.ts';
import type { FilterFailure } from './milter-connection.ts';
import { MilterSession, type Outcome } from './milter-session.ts';

export interface ContentFiltersDeps {
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly listeners: readonly ListenerConfig[];
  /** Name in greetings: filters know us by it. */
  readonly hostname: string;
}

export type FilterVerdict =
  /** `note`: for who looks at the message later; null: nothing out of the ordinary. */
  | { readonly kind: 'accept'; readonly fields: readonly FilterField[]; readonly note: string | null }
  | { readonly kind: 'refuse'; readonly reply: Reply };

/** What is asked about one message. */
export interface FilteredMessage {
  /** False: wait until the drain that was given. */
  write(chunk: Buffer): boolean;
  /** Never fails; the message must not be accepted before it is there. */
  end(): Promise<FilterVerdict>;
  /** Nobody wants to know any more. */
  abandon(): void;
}

const LOG_EVERY_MS = 10_000;

/** What becomes of a message, as it is counted. */
const RESULTS = ['accepted', 'rejected', 'deferred', 'discarded', 'failedDeferred', 'failedAccepted'] as const;
type Result = (typeof RESULTS)[number];

const REMEDY: Readonly<Record<FilterFailure['reason'], string>> = {
  connect: 'see that it runs, that contentFilter.address names it and that NetworkPolicies let front ends reach it',
  timeout: 'see what it waits for, or give it a longer contentFilter.timeout',
  closed: 'see its own log for why it ended the conversation',
  garbage: 'see that contentFilter.address is the port where it speaks milter',
  unsupported:
    'configure it to add header fields only (OpenDKIM: KeepAuthResults yes): no other change is offered to a contentFilter',
};

export class ContentFilters {
  readonly #deps: ContentFiltersDeps;
  readonly #settings: ReadonlyMap<string, ContentFilterConfig>;
  readonly #hosts: SharedLookup;
  readonly #underWay = new Set<MilterSession>();
  /** By listener: when the log said so, and how many it has kept to itself since. */
  readonly #logged = new Map<string, { atMs: number; more: number }>();

  constructor(deps: ContentFiltersDeps) {
    this.#deps = deps;
    this.#hosts = new SharedLookup(deps.clock);
    this.#settings = new Map(
      deps.listeners.flatMap(({ name, contentFilter }) => (contentFilter === undefined ? [] : [[name, contentFilter]])),
    );
    this.#countFromZero();
  }

  /** Null: nobody is asked. */
  begin(envelope: Envelope, id: string, drain: () => void): FilteredMessage | null {
    const settings = this.#settings.get(envelope.listener);
    if (settings === undefined) return null;
    const { clock, hostname, metrics } = this.#deps;
    const session = new MilterSession(
      clock,
      { ...settings, lookup: this.#hosts.lookup },
      { envelope, id, hostname },
      drain,
    );
    this.#underWay.add(session);
    let isWanted = true;
    return {
      write: (chunk) => session.write(chunk),
      end: async () => {
        const sinceMs = clock.monotonicMs();
        const outcome = await session.end();
        this.#underWay.delete(session);
        // Of a message that nobody takes any more.
        if (!isWanted) return { kind: 'accept', fields: [], note: null };
        metrics.observe('content_filter_wait_seconds', (clock.monotonicMs() - sinceMs) / 1000, {});
        return this.#judge(outcome, envelope.listener, settings, id);
      },
      abandon: () => {
        isWanted = false;
        session.abandon();
        this.#underWay.delete(session);
      },
    };
  }

  /** Messages that are still held are left without an answer. */
  close(): void {
    for (const session of this.#underWay) session.abandon();
    this.#underWay.clear();
  }

  /** The first failure is an increase, too; where there is no filter there is nothing to count. */
  #countFromZero(): void {
    for (const listener of this.#settings.keys()) {
      for (const result of RESULTS) this.#count(listener, result, 0);
      for (const reason of Object.keys(REMEDY))
        this.#deps.metrics.increment('content_filter_failures_total', { listener, reason }, 0);
    }
  }

  #count(listener: string, result: Result, by = 1): void {
    this.#deps.metrics.increment('content_filter_messages_total', { listener, result }, by);
  }

  #judge(outcome: Outcome, listener: string, settings: ContentFilterConfig, id: string): FilterVerdict {
    const { log } = this.#deps;
    if (outcome.kind === 'failed') return this.#withoutAnswer(outcome.failure, listener, settings);
    this.#count(listener, outcome.kind);
    if (outcome.kind === 'accepted') return { kind: 'accept', fields: outcome.fields, note: null };
    log.info(
      { attemptId: id, listener, result: outcome.kind, code: outcome.reply.code },
      'message refused by the content filter',
    );
    return { kind: 'refuse', reply: outcome.reply };
  }

  #withoutAnswer(failure: FilterFailure, listener: string, settings: ContentFilterConfig): FilterVerdict {
    const { metrics } = this.#deps;
    const { failurePolicy } = settings;
    const { reason, message } = failure;
    metrics.increment('content_filter_failures_total', { listener, reason });
    this.#count(listener, failurePolicy === 'Defer' ? 'failedDeferred' : 'failedAccepted');
    this.#tell(failure, listener, settings);
    if (failurePolicy === 'Defer') return { kind: 'refuse', reply: reply('filterUnavailable') };
    return { kind: 'accept', fields: [], note: `accepted without its content filter, ${reason}: ${message}` };
  }

  #tell({ reason, message }: FilterFailure, listener: string, settings: ContentFilterConfig): void {
    const { clock, log } = this.#deps;
    const nowMs = clock.monotonicMs();
    const last = this.#logged.get(listener);
    if (last !== undefined && nowMs - last.atMs < LOG_EVERY_MS) {
      last.more++;
      return;
    }
    this.#logged.set(listener, { atMs: nowMs, more: 0 });
    const { host, port, failurePolicy } = settings;
    const fields = {
      ...{ listener, filter: `${host}:${port}`, failurePolicy, reason, problem: message, remedy: REMEDY[reason] },
      failedSinceLastLine: last?.more ?? 0,
    };
    log.warn(fields, 'content filter gave no usable answer');
  }
}
