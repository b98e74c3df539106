/**
 * The Kubernetes API over HTTPS: the implementation of `api.ts`. Owns: requests, attempts, retries, the client's rate limit, metrics.
 * Promises: those of `api.ts`; Retry-After is honoured within the deadline; a 401 leads to fresh credentials and one more attempt; the
 * server is told our deadline (`timeout=`), so that it does not go on with a call we gave up. Fails with values only.
 */
import type { Clock } from '../../common/platform/clock.ts';
import type { Logger } from '../../common/platform/log.ts';
import type { Metrics } from '../../common/platform/metrics.ts';
import { type Random, randomFraction } from '../../common/platform/random.ts';
import {
  type Applied,
  type ApplyOptions,
  type CallOptions,
  type DeleteOptions,
  FIELD_MANAGER,
  type KubeApi,
  type ListPage,
  type PageOptions,
  type Scope,
  type Watch,
  type WatchOptions,
} from './api.ts';
import { CallWindow } from './call-window.ts';
import {
  describeFailure,
  fail,
  failureOf,
  type KubeFailure,
  type KubeResult,
  retryAfterMs,
  succeed,
} from './failures.ts';
import { ChannelError, type ChannelRequest, type ChannelStream, HttpChannel } from './http-channel.ts';
import type { KubeIdentity } from './identity.ts';
import {
  apiVersionOf,
  collectionPath,
  type KubeObject,
  type ObjectName,
  objectPath,
  queryOf,
  type ResourceKind,
  type Subresource,
} from './kube-object.ts';
import { pause } from './pause.ts';
import { RateLimit, type RateLimits } from './rate-limit.ts';
import { retryDelayMs } from './retrying.ts';
import { WatchStream } from './watch-stream.ts';

export interface KubeClientOptions {
  readonly identity: KubeIdentity;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** `mailcluster-operator/0.1.0`; the audit log shows it. */
  readonly userAgent: string;
  readonly rateLimits?: RateLimits;
  /** Only for who is not the operator: the kubectl plugin writes under its own name. */
  readonly fieldManager?: string;
}

type Verb = 'get' | 'list' | 'watch' | 'apply' | 'create' | 'update' | 'patch' | 'delete';

/** One call in the words of the API server. */
interface Call {
  readonly verb: Verb;
  readonly kind: ResourceKind;
  readonly method: ChannelRequest['method'];
  readonly path: string;
  readonly query: Readonly<Record<string, string | number | boolean | undefined>>;
  readonly isIdempotent: boolean;
  readonly contentType?: string;
  readonly body?: string;
}

interface Answer {
  readonly code: number;
  readonly body: Record<string, unknown>;
}

/**
 * Against a bug of ours only: one cluster of fifty members is some hundred writes, and a hundred clusters are one operator's. Who gets how much of a busy API
 * server is its own decision (API Priority and Fairness), and it says so with 429.
 */
const DEFAULT_RATE_LIMITS: RateLimits = { perSecond: 200, burst: 400 };
const DEFAULT_RETRIES = 4;
/** For the head of a watch. */
const WATCH_OPEN_DEADLINE_MS = 15_000;

export class KubeClient implements KubeApi {
  readonly #channel: HttpChannel;
  readonly #options: KubeClientOptions;
  readonly #limit: RateLimit;
  /** Unknown fields are refused instead of dropped silently. */
  readonly #writing: Call['query'];

  constructor(options: KubeClientOptions) {
    this.#options = options;
    this.#writing = { fieldValidation: 'Strict', fieldManager: options.fieldManager ?? FIELD_MANAGER };
    this.#limit = new RateLimit(options.clock, options.rateLimits ?? DEFAULT_RATE_LIMITS);
    this.#channel = new HttpChannel({
      identity: options.identity,
      userAgent: options.userAgent,
      opened: () => options.metrics.increment('api_connections_total'),
    });
  }

  async get<T extends KubeObject>(
    kind: ResourceKind,
    name: ObjectName,
    options: CallOptions = {},
  ): Promise<KubeResult<T>> {
    const path = objectPath(kind, name);
    return this.#object(
      await this.#call({ verb: 'get', kind, method: 'GET', path, query: {}, isIdempotent: true }, options),
    );
  }

  async list<T extends KubeObject>(
    kind: ResourceKind,
    scope: Scope,
    options: PageOptions = {},
  ): Promise<KubeResult<ListPage<T>>> {
    const path = collectionPath(kind, scope.namespace);
    const query = { ...selectors(scope), limit: options.limit, continue: options.continueToken || undefined };
    const result = await this.#call({ verb: 'list', kind, method: 'GET', path, query, isIdempotent: true }, options);
    return result.ok ? pageOf<T>(kind, result.value) : result;
  }

  async watch<T extends KubeObject>(
    kind: ResourceKind,
    scope: Scope,
    options: WatchOptions,
  ): Promise<KubeResult<Watch<T>>> {
    const query = {
      ...selectors(scope),
      watch: true,
      allowWatchBookmarks: true,
      resourceVersion: options.resourceVersion,
      timeoutSeconds: options.timeoutSeconds,
    };
    const path = collectionPath(kind, scope.namespace);
    const call: Call = { verb: 'watch', kind, method: 'GET', path, query, isIdempotent: true };
    const opened = await this.#openWatch(call, options.signal);
    if (!opened.ok) return opened;
    return succeed(new WatchStream<T>(opened.value, kind, options, this.#options.clock));
  }

  async apply<T extends KubeObject>(
    kind: ResourceKind,
    object: T,
    options: ApplyOptions = {},
  ): Promise<KubeResult<Applied<T>>> {
    const { managedFields: _, ...metadata } = object.metadata;
    const uid = options.mustExist === undefined ? {} : { uid: options.mustExist.uid };
    const body = { ...object, apiVersion: apiVersionOf(kind), kind: kind.kind, metadata: { ...metadata, ...uid } };
    const result = await this.#call(
      {
        verb: 'apply',
        kind,
        method: 'PATCH',
        path: objectPath(kind, targetOf(object), options.subresource),
        query: { ...this.#writing, force: options.force ?? false },
        isIdempotent: true,
        // JSON is YAML; servers before 1.32 know this type only.
        contentType: 'application/apply-patch+yaml',
        body: JSON.stringify(body),
      },
      options,
    );
    const applied = this.#object<T>(result);
    if (!applied.ok || !result.ok) return applied as KubeResult<never>;
    return succeed({ object: applied.value, isCreated: result.value.code === 201 });
  }

  async create<T extends KubeObject>(
    kind: ResourceKind,
    object: T,
    options: CallOptions & { readonly subresource?: Subresource; readonly name?: string } = {},
  ): Promise<KubeResult<T>> {
    const { namespace, name } = targetOf(object);
    const path =
      options.subresource === undefined
        ? collectionPath(kind, namespace)
        : objectPath(kind, { namespace, name: options.name ?? name }, options.subresource);
    const body = JSON.stringify(object);
    return this.#object(
      await this.#call(
        { verb: 'create', kind, method: 'POST', path, query: this.#writing, isIdempotent: false, body },
        options,
      ),
    );
  }

  async replace<T extends KubeObject>(
    kind: ResourceKind,
    object: T,
    options: CallOptions & { readonly subresource?: 'status' } = {},
  ): Promise<KubeResult<T>> {
    const path = objectPath(kind, targetOf(object), options.subresource);
    const body = JSON.stringify(object);
    return this.#object(
      await this.#call(
        { verb: 'update', kind, method: 'PUT', path, query: this.#writing, isIdempotent: false, body },
        options,
      ),
    );
  }

  async patch<T extends KubeObject>(
    kind: ResourceKind,
    name: ObjectName,
    patch: Readonly<Record<string, unknown>>,
    options: CallOptions & { readonly subresource?: Subresource } = {},
  ): Promise<KubeResult<T>> {
    return this.#object(
      await this.#call(
        {
          verb: 'patch',
          kind,
          method: 'PATCH',
          path: objectPath(kind, name, options.subresource),
          query: this.#writing,
          isIdempotent: true,
          contentType: 'application/merge-patch+json',
          body: JSON.stringify(patch),
        },
        options,
      ),
    );
  }

  async delete(
    kind: ResourceKind,
    name: ObjectName,
    options: DeleteOptions = {},
  ): Promise<KubeResult<'gone' | 'terminating'>> {
    const { uid, resourceVersion, propagation = 'Background', gracePeriodSeconds } = options;
    const body = JSON.stringify({
      kind: 'DeleteOptions',
      apiVersion: 'v1',
      propagationPolicy: propagation,
      ...(gracePeriodSeconds === undefined ? {} : { gracePeriodSeconds }),
      ...(uid === undefined && resourceVersion === undefined ? {} : { preconditions: { uid, resourceVersion } }),
    });
    const path = objectPath(kind, name);
    const result = await this.#call(
      { verb: 'delete', kind, method: 'DELETE', path, query: {}, isIdempotent: true, body },
      options,
    );
    if (!result.ok) return result.failure.kind === 'notFound' ? succeed('gone') : result;
    const metadata = result.value.body.metadata as Record<string, unknown> | undefined;
    return succeed(metadata?.deletionTimestamp === undefined ? 'gone' : 'terminating');
  }

  /** Ends every connection and with them every call and watch. */
  close(): void {
    this.#channel.close();
  }

  #object<T extends KubeObject>(result: KubeResult<Answer>): KubeResult<T> {
    if (!result.ok) return result;
    const { body, code } = result.value;
    if (typeof body.metadata !== 'object' || body.metadata === null)
      return fail({ kind: 'unavailable', perhapsDone: true, code, message: 'the answer is no object' });
    return succeed(body as unknown as T);
  }

  /** All attempts of one call. */
  async #call(call: Call, options: CallOptions): Promise<KubeResult<Answer>> {
    const { clock, random, identity, log } = this.#options;
    const window = new CallWindow(clock, options);
    try {
      let mayRenewCredentials = true;
      for (let attempts = 1; ; attempts += 1) {
        const result = await this.#attempt(call, options, window);
        if (result.ok) return result;
        const { failure } = result;
        if (failure.kind === 'unauthorized' && mayRenewCredentials) {
          mayRenewCredentials = false;
          identity.refuse();
          continue;
        }
        const delayMs = retryDelayMs({
          failure,
          isIdempotent: call.isIdempotent,
          attempts,
          maxRetries: options.retries ?? DEFAULT_RETRIES,
          leftMs: window.leftMs,
          fraction: randomFraction(random),
        });
        if (delayMs === null) return result;
        log.debug({ verb: call.verb, path: call.path, failure: describeFailure(failure), delayMs }, 'API call again');
        if (!(await pause(clock, delayMs, window.signal))) return window.failed(couldBeDone(failure)) ?? result;
      }
    } finally {
      window.close();
    }
  }

  async #attempt(call: Call, options: CallOptions, window: CallWindow): Promise<KubeResult<Answer>> {
    if (options.isUrgent !== true) await this.#limit.take(window.signal);
    const over = window.failed(false);
    if (over !== null) return over;
    const startMs = this.#options.clock.monotonicMs();
    const timeout = `${Math.max(1, Math.ceil(window.leftMs / 1000))}s`;
    try {
      const answer = await this.#channel.send({
        ...requestOf(call, { ...call.query, timeout }),
        signal: window.signal,
        mayStillSend: () => window.mayStillSend,
      });
      const result = this.#read(answer.code, answer.body, answer.retryAfter);
      this.#count(call, String(answer.code), startMs);
      return result;
    } catch (error) {
      if (!(error instanceof ChannelError)) throw error;
      this.#count(call, 'none', startMs);
      return window.failed(error.perhapsDone) ?? fail(unavailable(error));
    }
  }

  #read(code: number, text: string, retryAfter: string | undefined): KubeResult<Answer> {
    const body = parsed(text);
    if (code >= 200 && code < 300) {
      // A login page, a proxy's own JSON: something else answered.
      return typeof body?.kind === 'string' && typeof body.apiVersion === 'string'
        ? succeed({ code, body })
        : fail({ kind: 'unavailable', perhapsDone: true, code, message: 'the answer is no object of Kubernetes' });
    }
    return fail(failureOf(code, body, retryAfterMs(retryAfter, this.#options.clock.wallMs())));
  }

  /** One attempt and no retry: whoever watches has a loop of its own. The stream outlives the window of its opening. */
  async #openWatch(call: Call, outer: AbortSignal): Promise<KubeResult<ChannelStream>> {
    const { clock, identity } = this.#options;
    const window = new CallWindow(clock, { deadlineMs: WATCH_OPEN_DEADLINE_MS, signal: outer });
    const startMs = clock.monotonicMs();
    try {
      if (!(await this.#limit.take(window.signal))) return window.failed(false) ?? fail(STOPPED);
      const stream = await this.#channel.open({ ...requestOf(call, call.query), signal: window.signal });
      this.#count(call, String(stream.code), startMs);
      if (stream.code === 200) return succeed(stream);
      const text = await textOf(stream);
      const result = this.#read(stream.code, text, stream.retryAfter);
      if (!result.ok && result.failure.kind === 'unauthorized') identity.refuse();
      return result.ok ? fail(unavailable(new ChannelError(`watch answered ${stream.code}`, false))) : result;
    } catch (error) {
      if (!(error instanceof ChannelError)) throw error;
      this.#count(call, 'none', startMs);
      return window.failed(false) ?? fail(unavailable(error));
    } finally {
      window.close();
    }
  }

  #count(call: Call, code: string, startMs: number): void {
    const { metrics, clock } = this.#options;
    metrics.increment('api_requests_total', { verb: call.verb, resource: call.kind.plural, code });
    if (call.verb !== 'watch')
      metrics.observe('api_request_duration_seconds', (clock.monotonicMs() - startMs) / 1000, { verb: call.verb });
  }
}

const STOPPED: KubeFailure = { kind: 'stopped', code: 0, message: 'the caller stopped' };

const couldBeDone = (failure: KubeFailure): boolean => 'perhapsDone' in failure && failure.perhapsDone;

const unavailable = (error: ChannelError): KubeFailure => ({
  kind: 'unavailable',
  perhapsDone: error.perhapsDone,
  code: 0,
  message: error.message,
});

const targetOf = (object: KubeObject): ObjectName => ({
  namespace: object.metadata.namespace ?? '',
  name: object.metadata.name,
});

const selectors = ({ labelSelector, fieldSelector }: Scope): Record<string, string | undefined> => ({
  labelSelector: labelSelector || undefined,
  fieldSelector: fieldSelector || undefined,
});

const requestOf = (call: Call, query: Call['query']): Omit<ChannelRequest, 'signal'> => ({
  method: call.method,
  path: call.path + queryOf(query),
  ...(call.body === undefined ? {} : { body: call.body }),
  ...(call.contentType === undefined ? {} : { contentType: call.contentType }),
});

function parsed(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : null;
  } catch {
    return null;
  }
}

/** The body of a refusal: short, or it is not one of the API server. */
async function textOf(stream: ChannelStream): Promise<string> {
  let text = '';
  try {
    for await (const chunk of stream.chunks) {
      text += chunk.toString('utf8');
      if (text.length > 65_536) break;
    }
  } catch {
    // What was read says enough; without it the code does.
  }
  stream.close();
  return text;
}

/** Items of a list carry neither kind nor apiVersion for the built-in kinds. */
function pageOf<T extends KubeObject>(kind: ResourceKind, { body, code }: Answer): KubeResult<ListPage<T>> {
  const { items, metadata } = body as { items?: unknown; metadata?: { resourceVersion?: string; continue?: string } };
  if (!Array.isArray(items) || metadata?.resourceVersion === undefined)
    return fail({ kind: 'unavailable', perhapsDone: true, code, message: 'the answer is no list' });
  const names = { apiVersion: apiVersionOf(kind), kind: kind.kind };
  return succeed({
    items: items.map((item) => ({ ...names, ...(item as object) }) as unknown as T),
    resourceVersion: metadata.resourceVersion,
    continueToken: metadata.continue ?? '',
  });
}
