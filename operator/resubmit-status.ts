/**
 * What became of a resubmit request, out of what its members say (protocol.md 21-22). Owns: the aggregation, shared by `mailcluster run`
 * and the operator, and the resource shape of a request (crds/resubmitrequest.yaml). Promise: Completed only when every member of the
 * boundary is done and the window is covered; else it says who or what is missing. A member that is silent keeps its last word. PURE.
 */
import type { ResubmitRequestConfig } from '../common/config.ts';
import { API_VERSION } from './resource/api-version.ts';
import type { ResubmitRequestSpec, ResubmitRequestStatus } from './resource/generated.ts';

/** What a member tells under `GET /v1/resubmit` (the other side: `ResubmitView` of transport/runtime/view.ts). */
export interface ResubmitAnswer {
  readonly name: string;
  readonly state: 'Pending' | 'Running' | 'Paused' | 'Done' | 'Cancelled';
  readonly selected: number;
  readonly resubmitted: number;
  readonly byPrimary: number;
  readonly byShadow: number;
  readonly present: number;
  readonly covered: number;
  readonly failed: number;
  readonly waitingFor: readonly string[];
  readonly completeSinceMs: number;
  readonly errors: readonly string[];
}

export interface MemberWord {
  readonly name: string;
  readonly boundary: string;
  /** Of the queue database that speaks, or spoke last; null when none is known. */
  readonly identity: string | null;
  /** Null: it answers, but does not know the request yet. A text: it does not answer, and why. */
  readonly answer: ResubmitAnswer | null | string;
  /** Its queue database is retired as lost and no other has spoken. */
  readonly lost: boolean;
  /** That queue database is the first this member ever had and was there by then; null: it replaced another. */
  readonly firstSinceMs: number | null;
}

export type MemberStatus = NonNullable<ResubmitRequestStatus['members']>[number];

export interface ResubmitResource {
  readonly apiVersion: string;
  readonly kind: 'ResubmitRequest';
  readonly metadata: { readonly name: string; readonly namespace: string; readonly creationTimestamp: string };
  readonly spec: ResubmitRequestSpec;
  readonly status: ResubmitRequestStatus;
}

const TERMINAL = new Set<ResubmitRequestStatus['state']>([
  'Completed',
  'CompletedWithErrors',
  'Partial',
  'Cancelled',
  'Failed',
]);
const MOST_TEXT = 1_000;

export const isOver = (status: ResubmitRequestStatus | null): boolean => TERMINAL.has(status?.state);

const iso = (ms: number): string => new Date(ms).toISOString();

export function requestResource(
  request: ResubmitRequestConfig,
  of: { readonly cluster: string; readonly namespace: string },
  status: ResubmitRequestStatus,
): ResubmitResource {
  const { database, sender, recipient, messageId, lostActivation } = request;
  const selector = {
    ...(database === null ? {} : { database }),
    ...(sender === null ? {} : { sender }),
    ...(recipient === null ? {} : { recipient }),
    ...(messageId === null ? {} : { messageId }),
  };
  return {
    apiVersion: API_VERSION,
    kind: 'ResubmitRequest',
    metadata: { name: request.name, namespace: of.namespace, creationTimestamp: iso(request.createdAtMs) },
    spec: {
      clusterRef: { name: of.cluster },
      selector,
      window: { from: iso(request.fromMs), ...(request.toMs === null ? {} : { to: iso(request.toMs) }) },
      ...(lostActivation === null ? {} : { lostActivation }),
      reason: lostActivation === null ? 'Manual' : 'Failover',
      dryRun: request.dryRun,
      cancel: request.cancelled,
    },
    status,
  };
}

function memberStatus(word: MemberWord, former: MemberStatus | undefined): MemberStatus {
  const { name, answer, identity } = word;
  const known = identity === null ? {} : { identity };
  if (word.lost && (answer === null || typeof answer === 'string'))
    return { name, ...known, state: 'Lost', message: 'its queue database is lost; shadows answer for it' };
  if (answer === null) return { name, ...known, state: 'Pending', message: 'has not begun' };
  if (typeof answer === 'string') {
    // What it said stays said while it is the same queue database.
    const same = former !== undefined && former.identity === (identity ?? undefined);
    if (same && (former.state === 'Done' || former.state === 'Cancelled')) return former;
    const message = `does not answer: ${answer}`.slice(0, MOST_TEXT);
    return same ? { ...former, message } : { name, ...known, state: 'Pending', message };
  }
  const whole = word.firstSinceMs !== null && answer.completeSinceMs <= word.firstSinceMs;
  const said = [
    ...answer.errors,
    ...(answer.waitingFor.length === 0 ? [] : [`waits for ${answer.waitingFor.join(', ')}`]),
  ].join('; ');
  return {
    name,
    ...known,
    state: answer.state,
    // What it holds as a shadow and its primary answers for is counted there: each message once.
    selected: Math.max(0, answer.selected - answer.covered),
    resubmitted: answer.resubmitted,
    byPrimaries: answer.byPrimary,
    byShadows: answer.byShadow,
    present: answer.present,
    failed: answer.failed,
    ...(whole ? {} : { completeSince: iso(answer.completeSinceMs) }),
    ...(said === '' ? {} : { message: said.slice(0, MOST_TEXT) }),
  };
}

const sinceOf = (member: MemberStatus): number => {
  if (member.state === 'Lost') return Number.POSITIVE_INFINITY;
  return member.completeSince === undefined ? 0 : Date.parse(member.completeSince);
};

/**
 * Every message of the window rested with two members: what one no longer has the others still cover. From where on at most one Safety
 * Net per boundary is incomplete, and whose do not reach back to `fromMs`.
 */
export function coverage(
  fromMs: number,
  members: readonly MemberStatus[],
  boundaryOf: (name: string) => string,
): { readonly fromMs: number; readonly short: readonly MemberStatus[] } {
  let coveredFromMs = 0;
  const short: MemberStatus[] = [];
  for (const group of Map.groupBy(members, (member) => boundaryOf(member.name)).values()) {
    const incomplete = group.filter((member) => sinceOf(member) > fromMs);
    const sorted = group.map(sinceOf).sort((a, b) => b - a);
    const since = sorted[sorted.length === 1 ? 0 : 1] ?? 0;
    if (since <= fromMs) continue;
    coveredFromMs = Math.max(coveredFromMs, since);
    short.push(...incomplete);
  }
  return { fromMs: coveredFromMs, short };
}

function uncovered(request: ResubmitRequestConfig, members: readonly MemberStatus[], words: readonly MemberWord[]) {
  const boundaries = new Map(words.map(({ name, boundary }) => [name, boundary]));
  const { fromMs, short } = coverage(request.fromMs, members, (name) => boundaries.get(name) ?? '');
  if (short.length === 0) return null;
  const whose = short
    .map(({ name, completeSince }) => (completeSince === undefined ? `${name} (lost)` : `${name} (${completeSince})`))
    .join(', ');
  const end = request.toMs !== null && request.toMs < fromMs ? iso(request.toMs) : null;
  const part = Number.isFinite(fromMs) && end === null ? `before ${iso(fromMs)}` : `until ${end ?? 'now'}`;
  return `what was delivered from ${iso(request.fromMs)} ${part} cannot be covered for certain: two or more Safety Nets do not reach back to it: ${whose}`;
}

export function resubmitStatus(
  request: ResubmitRequestConfig,
  words: readonly MemberWord[],
  former: ResubmitRequestStatus | null,
  nowMs: number,
): ResubmitRequestStatus {
  const members = words.map((word) =>
    memberStatus(
      word,
      former?.members?.find((one) => one.name === word.name),
    ),
  );
  const sum = (field: 'selected' | 'resubmitted' | 'byPrimaries' | 'byShadows' | 'present' | 'failed'): number =>
    members.reduce((total, member) => total + (member[field] ?? 0), 0);
  const [state, message] = verdict(request, members, words);
  const begun = state !== 'Pending';
  const ended = TERMINAL.has(state);
  return {
    state,
    ...(message === null ? {} : { message }),
    ...(begun ? { startTime: former?.startTime ?? iso(nowMs) } : {}),
    ...(ended ? { completionTime: (isOver(former) ? former?.completionTime : undefined) ?? iso(nowMs) } : {}),
    counts: {
      selected: sum('selected'),
      resubmitted: sum('resubmitted'),
      byPrimaries: sum('byPrimaries'),
      byShadows: sum('byShadows'),
      present: sum('present'),
      failed: sum('failed'),
    },
    members,
  };
}

/** Of a request that is in no document any more and of which nobody can be asked. */
export function expiredStatus(status: ResubmitRequestStatus, nowMs: number): ResubmitRequestStatus {
  const state = (status.counts?.resubmitted ?? 0) > 0 ? 'Partial' : 'Failed';
  const message = `the request expired before everybody was done${status.message === undefined ? '' : `: ${status.message}`}`;
  return { ...status, state, message, completionTime: iso(nowMs) };
}

function verdict(
  request: ResubmitRequestConfig,
  members: readonly MemberStatus[],
  words: readonly MemberWord[],
): readonly [NonNullable<ResubmitRequestStatus['state']>, string | null] {
  if (request.cancelled) return ['Cancelled', 'cancelled; what was resubmitted stays resubmitted'];
  const open = members.filter(({ state }) => state !== 'Done' && state !== 'Lost');
  const who = open.map(({ name, message }) => (message === undefined ? name : `${name} (${message})`)).join(', ');
  if (open.length > 0 || members.length === 0) {
    const begun = members.some(({ state }) => state !== 'Pending');
    return [begun ? 'Running' : 'Pending', who === '' ? null : `waits for ${who}`];
  }
  const gap = uncovered(request, members, words);
  if (gap !== null) return ['Partial', gap];
  const troubled = members.filter((member) => (member.failed ?? 0) > 0 || (member.message ?? '') !== '');
  const failed = troubled.filter(({ state }) => state !== 'Lost');
  if (failed.length === 0) return ['Completed', null];
  return ['CompletedWithErrors', failed.map(({ name, message }) => `${name}: ${message ?? 'some failed'}`).join('; ')];
}
