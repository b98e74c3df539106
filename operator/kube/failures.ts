/**
 * What can go wrong between us and the API server, as values. Owns: the kinds of failure and how an HTTP answer becomes one. Pure.
 * Promise: every answer that is not success has exactly one kind, also when its body is no Status (a proxy's page, half a JSON).
 * Names follow the reasons of k8s.io/apimachinery `metav1.StatusReason` where there is one.
 */
export interface FailureCause {
  /** `FieldValueInvalid`, `FieldManagerConflict` ... */
  readonly reason: string;
  readonly message: string;
  /** `.spec.replicas`, `metadata.name`; empty when the server named none. */
  readonly field: string;
}

interface Common {
  readonly message: string;
  /** HTTP status; 0 when there was no answer. */
  readonly code: number;
}

export type KubeFailure = Common &
  (
    | { readonly kind: 'notFound' | 'alreadyExists' | 'forbidden' | 'unauthorized' }
    /** 409: the resourceVersion or uid is not what was expected, or other managers own fields (then they are the causes). */
    | { readonly kind: 'conflict'; readonly causes: readonly FailureCause[] }
    /** 400, 422 and other refusals of what was asked; asking again is useless. */
    | { readonly kind: 'invalid'; readonly causes: readonly FailureCause[] }
    /** 410: the resourceVersion or the continue token is older than the server remembers. */
    | { readonly kind: 'gone' }
    /** 429, and 503 with Retry-After: the server did not do it and says when to ask again. */
    | { readonly kind: 'tooManyRequests'; readonly retryAfterMs: number | null }
    /** No usable answer. `perhapsDone`: the request may have been carried out all the same. */
    | { readonly kind: 'unavailable'; readonly perhapsDone: boolean }
    /** The namespace is being deleted: nothing can be created in it any more (kubernetes.md K10). */
    | { readonly kind: 'namespaceTerminating' }
    /** Our own deadline passed. */
    | { readonly kind: 'deadline'; readonly perhapsDone: boolean }
    /** Not sent: we may no longer be the leader. */
    | { readonly kind: 'fenced' }
    /** Not sent, or given up, because the caller stopped. */
    | { readonly kind: 'stopped' }
  );

export type FailureKind = KubeFailure['kind'];

export type KubeResult<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly failure: KubeFailure };

export const succeed = <T>(value: T): KubeResult<T> => ({ ok: true, value });
export const fail = (failure: KubeFailure): { readonly ok: false; readonly failure: KubeFailure } => ({
  ok: false,
  failure,
});

interface StatusBody {
  readonly message: string;
  readonly reason: string;
  readonly causes: readonly FailureCause[];
  readonly retryAfterSeconds: number | null;
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const textOf = (value: unknown): string => (typeof value === 'string' ? value : '');

const MAX_MESSAGE_LENGTH = 2_000;

function statusOf(body: unknown, fallback: string): StatusBody {
  const status = isRecord(body) && body.kind === 'Status' ? body : {};
  const details = isRecord(status.details) ? status.details : {};
  const causes = Array.isArray(details.causes) ? details.causes.filter(isRecord) : [];
  const seconds = details.retryAfterSeconds;
  return {
    message: (textOf(status.message) || fallback).slice(0, MAX_MESSAGE_LENGTH),
    reason: textOf(status.reason),
    causes: causes.map((one) => ({
      reason: textOf(one.reason),
      message: textOf(one.message),
      field: textOf(one.field),
    })),
    retryAfterSeconds: typeof seconds === 'number' && seconds > 0 ? seconds : null,
  };
}

/** Delay in seconds, or an HTTP date (RFC 9110 section 10.2.3); longer than an hour is taken for a mistake. */
export function retryAfterMs(header: string | undefined, wallMs: number): number | null {
  if (header === undefined) return null;
  const trimmed = header.trim();
  const delayMs = /^\d+$/.test(trimmed) ? Number(trimmed) * 1000 : Date.parse(trimmed) - wallMs;
  return Number.isFinite(delayMs) ? Math.min(Math.max(0, delayMs), 3_600_000) : null;
}

/** `body`: the parsed answer, or null when it is no JSON. */
export function failureOf(code: number, body: unknown, retryAfter: number | null): KubeFailure {
  const status = statusOf(body, `the API server answered ${code}`);
  const common = { message: status.message, code };
  const laterMs = retryAfter ?? (status.retryAfterSeconds === null ? null : status.retryAfterSeconds * 1000);
  if (status.causes.some((one) => one.reason === 'NamespaceTerminating'))
    return { kind: 'namespaceTerminating', ...common };
  switch (code) {
    case 401:
      return { kind: 'unauthorized', ...common };
    case 403:
      return { kind: 'forbidden', ...common };
    case 404:
      return { kind: 'notFound', ...common };
    case 409:
      return status.reason === 'AlreadyExists'
        ? { kind: 'alreadyExists', ...common }
        : { kind: 'conflict', causes: status.causes, ...common };
    case 410:
      return { kind: 'gone', ...common };
    case 429:
      return { kind: 'tooManyRequests', retryAfterMs: laterMs, ...common };
    default:
      if (code === 503 && laterMs !== null) return { kind: 'tooManyRequests', retryAfterMs: laterMs, ...common };
      // 504 is Timeout: the server gave up waiting, not necessarily doing.
      if (code >= 500) return { kind: 'unavailable', perhapsDone: true, ...common };
      return { kind: 'invalid', causes: status.causes, ...common };
  }
}

/** One line for logs, events and conditions: what, and which field. */
export function describeFailure(failure: KubeFailure): string {
  const causes = 'causes' in failure ? failure.causes : [];
  const fields = causes.map((one) => (one.field === '' ? one.message : `${one.field}: ${one.message}`));
  // The server repeats the causes in its message; what it left out is added.
  const missing = fields.filter((one) => !failure.message.includes(one));
  return [`${failure.kind}: ${failure.message}`, ...missing].join('; ');
}
