/**
 * Who may lead, decided from what a Lease says and when we saw it say so. Pure. The times written in a Lease are for people: clocks of two
 * machines differ (client-go, leaderelection). What counts is how long, by our own monotonic clock, the record has not changed.
 *
 * Never two writers, because: the holder may write until `renewDeadlineMs` after it *sent* its last renewal that succeeded; another takes the
 * lease only after the record stood still for `leaseDurationMs` since it *saw* it, which is later; and it takes it with the version it saw,
 * so a renewal in between makes it fail. Two openings are closed that client-go leaves: a Lease that vanished (deleted, restored from a
 * backup without it) may have had a holder, so whoever makes a new one waits as long before it writes; and an empty holder counts as
 * released only when the holder itself released it, not when somebody emptied the field.
 */
import type { KubeObject } from './kube-object.ts';

export interface LeaseTimes {
  /** How long the record must stand still before another takes it; client-go: 15 s. */
  readonly leaseDurationMs: number;
  /** How long after a renewal we may write; client-go: 10 s. Shorter than the duration by more than a write takes to die. */
  readonly renewDeadlineMs: number;
  /** Between two tries; client-go: 2 s. */
  readonly retryMs: number;
}

export const LEASE_TIMES: LeaseTimes = { leaseDurationMs: 15_000, renewDeadlineMs: 10_000, retryMs: 2_000 };

/** On the Lease while nobody holds it: who released it. */
export const RELEASED_BY = 'mailcluster.dev/released-by';

export interface Lease extends KubeObject {
  readonly spec?: {
    readonly holderIdentity?: string;
    readonly leaseDurationSeconds?: number;
    readonly acquireTime?: string;
    readonly renewTime?: string;
    readonly leaseTransitions?: number;
  };
}

/** What we saw last, and since when it has looked like that. */
export interface Observed {
  readonly version: string;
  readonly sinceMs: number;
}

export type LeaseMove =
  /** Nothing is there: make one, and write only after a holder we could not see has run out. */
  | { readonly kind: 'create' }
  | { readonly kind: 'renew' }
  /** Ours to take now. */
  | { readonly kind: 'take' }
  | { readonly kind: 'wait'; readonly holder: string };

export function observe(before: Observed | null, lease: Lease, nowMs: number): Observed {
  const version = `${lease.metadata.uid} ${lease.metadata.resourceVersion}`;
  return before?.version === version ? before : { version, sinceMs: nowMs };
}

export function nextMove(
  lease: Lease | null,
  observed: Observed | null,
  me: string,
  times: LeaseTimes,
  nowMs: number,
): LeaseMove {
  if (lease === null || observed === null) return { kind: 'create' };
  const holder = lease.spec?.holderIdentity ?? '';
  if (holder === me) return { kind: 'renew' };
  if (holder === '' && (lease.metadata.annotations?.[RELEASED_BY] ?? '') !== '') return { kind: 'take' };
  // The holder lives by what it wrote, if that is longer than ours.
  const durationMs = Math.max(times.leaseDurationMs, (lease.spec?.leaseDurationSeconds ?? 0) * 1000);
  return nowMs - observed.sinceMs >= durationMs ? { kind: 'take' } : { kind: 'wait', holder };
}

/** RFC 3339 with microseconds, as `metav1.MicroTime` wants it. */
export const microTime = (wallMs: number): string => new Date(wallMs).toISOString().replace(/Z$/, '000Z');

export interface LeaseText {
  readonly namespace: string;
  readonly name: string;
  readonly me: string;
  readonly times: LeaseTimes;
  readonly wallMs: number;
}

/** The record with us as holder; on top of what is there, so that its version is the precondition. */
export function heldLease(lease: Lease | null, { namespace, name, me, times, wallMs }: LeaseText): Lease {
  const now = microTime(wallMs);
  const isOurs = lease?.spec?.holderIdentity === me;
  const { [RELEASED_BY]: _, ...annotations } = lease?.metadata.annotations ?? {};
  return {
    apiVersion: 'coordination.k8s.io/v1',
    kind: 'Lease',
    metadata: { ...(lease?.metadata ?? { namespace, name }), annotations },
    spec: {
      holderIdentity: me,
      leaseDurationSeconds: Math.ceil(times.leaseDurationMs / 1000),
      acquireTime: isOurs ? (lease?.spec?.acquireTime ?? now) : now,
      renewTime: now,
      leaseTransitions: (lease?.spec?.leaseTransitions ?? 0) + (isOurs || lease === null ? 0 : 1),
    },
  };
}

/** The record with nobody as holder, in our hand. */
export function releasedLease(lease: Lease, me: string, wallMs: number): Lease {
  return {
    ...lease,
    metadata: { ...lease.metadata, annotations: { ...lease.metadata.annotations, [RELEASED_BY]: me } },
    spec: { ...lease.spec, holderIdentity: '', leaseDurationSeconds: 1, renewTime: microTime(wallMs) },
  };
}
