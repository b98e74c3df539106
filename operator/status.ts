/**
 * The status of a MailCluster out of what the checks found (kubernetes.md K11). Owns: which finding makes which condition false, the members' lines,
 * the printed columns. Promise: `lastTransitionTime` moves only with `status`; an unchanged cluster gives an unchanged status; counters alone
 * are written at most every ten seconds; what is not known is left out or Unknown, never a good value. PURE.
 */
import type { Finding } from './checks/finding.ts';
import { isPaused } from './checks/gates.ts';
import { wantedReplicas } from './checks/pods-step.ts';
import { type OutOfDate, outOfDate } from './checks/restarts.ts';
import {
  identityOf,
  inTransit,
  isServing,
  type Member,
  object,
  obligations,
  unprotectedOf,
} from './checks/situation.ts';
import { trustText } from './checks/trust.ts';
import type { View } from './checks/view.ts';
import type { Gathered } from './gathered.ts';
import { CONDITIONS, type ConditionType, type Reason } from './reasons.ts';
import type { MailClusterStatus } from './resource/generated.ts';
import { canonical } from './resources/names.ts';
import type { DeploymentObject } from './resources/objects.ts';

type Condition = NonNullable<MailClusterStatus['conditions']>[number];
type MemberStatus = NonNullable<MailClusterStatus['members']>[number];
type Verdict = Pick<Condition, 'status' | 'message'> & { readonly reason: Reason };

export interface Found {
  readonly finding: Finding;
}

/** Under load counters change with every look. */
export const COUNTERS_EVERY_MS = 10_000;
/** Conditions of a cluster in which nothing is under way. */
const AT_REST: readonly (readonly [ConditionType, Condition['status']])[] = [
  ['Ready', 'True'],
  ['TopologyConverged', 'True'],
  ['ShadowProtected', 'True'],
  ['UpToDate', 'True'],
  ['Draining', 'False'],
];
const MOST_TEXT = 4_000;

const good = (reason: Reason, message: string): Verdict => ({ status: 'True', reason, message });

export function isAtRest(status: MailClusterStatus | null | undefined): boolean {
  return AT_REST.every(([type, wanted]) => {
    const found = status?.conditions?.find((one) => one.type === type);
    // With one copy by policy there is nothing to wait for.
    return found?.status === wanted || found?.reason === ('ShadowRedundancyDisabled' satisfies Reason);
  });
}

/** What a condition says when no finding is about it. */
function atRest(type: ConditionType, view: View): Verdict {
  switch (type) {
    case 'Ready':
      return good('AsExpected', 'every member and every front end serves');
    case 'TopologyConverged':
      return good('Converged', `everybody is at generation ${view.topology.document?.generation ?? 0}`);
    case 'ShadowProtected':
      return protection(view);
    case 'Progressing':
      return good('Converged', 'everything is as the spec says');
    case 'Draining':
      return { status: 'False', reason: 'NotDraining', message: 'no member is leaving' };
    case 'UpToDate':
      return good('AsExpected', 'every pod was made from the present template');
    case 'CertificatesValid':
      return good('Valid', `authority and certificates are valid${trustText(view.situation)}`);
    case 'StorageHealthy':
      return good('AsExpected', 'every volume is there');
    case 'Paused':
      return isPaused(view.situation.gathered)
        ? good('PausedByAnnotation', 'the annotation mailcluster.dev/paused holds every change back; mail flows')
        : { status: 'False', reason: 'NotPaused', message: 'changes are carried out' };
  }
}

const living = ({ situation, membership }: View): readonly Member[] =>
  situation.members.filter(({ name }) => membership.states.has(name) && membership.states.get(name) !== 'gone');

/**
 * By those that are left. What is lost for good holds nothing any more, and what was its alone nobody can count; but who has not heard of the loss may still count
 * on copies there. Null: not known.
 */
function unprotectedOfLiving(view: View): number | null {
  const { lost } = view.losses;
  const left = living(view).filter(({ name }) => !lost.has(name));
  const generation = view.topology.document?.generation ?? 0;
  const haveHeard = left.length > 0 && left.every(({ report }) => (report?.generation ?? 0) >= generation);
  return lost.size === 0 || haveHeard ? unprotectedOf(left) : null;
}

function protection(view: View): Verdict {
  if (!view.situation.cluster.spec.shadowRedundancy.enabled)
    return {
      status: 'False',
      reason: 'ShadowRedundancyDisabled',
      message: 'shadowRedundancy.enabled is false: one copy of each message',
    };
  const unprotected = unprotectedOfLiving(view);
  if (unprotected === null)
    return {
      status: 'Unknown',
      reason: 'ProtectionUnknown',
      message: `not every member says how many messages it holds alone${silentText(view)}`,
    };
  if (unprotected === 0) return good('Protected', 'every message in transit is on two members');
  return { status: 'False', reason: 'UnprotectedMessages', message: `${unprotected} messages are on one member only` };
}

/** Who is silent and not known to be lost may hold what nobody else has. */
function silentText(view: View): string {
  const silent = living(view).filter(({ name, report }) => report === null && !view.losses.lost.has(name));
  const names = silent.map(({ name }) => name).join(', ');
  return names === '' ? '' : `; silent: ${names}`;
}

function joined(findings: readonly Finding[]): string {
  const text = [...new Set(findings.map(({ message }) => message))].join('; ');
  return text.length <= MOST_TEXT ? text : `${text.slice(0, MOST_TEXT)} ...`;
}

/** Refusals first: they need a person. */
function verdict(type: ConditionType, view: View, findings: readonly Finding[]): Verdict {
  const about = findings.filter(({ condition }) => condition === type);
  const ordered = [...about.filter(({ kind }) => kind === 'refuse'), ...about.filter(({ kind }) => kind !== 'refuse')];
  const [first] = ordered;
  if (type === 'Progressing') return progress(findings, view);
  if (first === undefined) return atRest(type, view);
  if (type === 'Draining') {
    const isUnderWay = about.some(({ kind }) => kind !== 'refuse');
    return { status: isUnderWay ? 'True' : 'False', reason: first.reason, message: joined(ordered) };
  }
  return { status: 'False', reason: first.reason, message: joined(ordered) };
}

/** False: it is stuck. True: it goes on, or there is nothing to do. */
function progress(findings: readonly Finding[], view: View): Verdict {
  const stuck = findings.filter(({ kind, condition }) => kind === 'refuse' && condition === 'Progressing');
  const [first] = stuck;
  if (first !== undefined) return { status: 'False', reason: first.reason, message: joined(stuck) };
  const moving = findings.filter(({ kind, message }) => kind !== 'refuse' && message !== '');
  const [next] = moving;
  return next === undefined ? atRest('Progressing', view) : good(next.reason, joined(moving));
}

function conditions(gathered: Gathered, verdicts: ReadonlyMap<ConditionType, Verdict>): readonly Condition[] {
  const { status, metadata } = gathered.cluster;
  const at = new Date(gathered.nowMs).toISOString();
  return [...verdicts].map(([type, now]) => {
    const former = status?.conditions?.find((one) => one.type === type);
    return {
      type,
      status: now.status,
      observedGeneration: metadata.generation ?? 0,
      lastTransitionTime: former?.status === now.status ? former.lastTransitionTime : at,
      reason: now.reason,
      message: now.message,
    };
  });
}

/** Where nothing could be looked at: what was known stays, and why. */
export function shortStatus(gathered: Gathered, found: readonly Found[]): MailClusterStatus {
  const { status, metadata } = gathered.cluster;
  const [first] = found.flatMap(({ finding }) => (finding.stop ? [finding] : []));
  const why: Verdict = {
    status: 'False',
    reason: first?.reason ?? 'InvalidSpec',
    message: first?.message ?? '',
  };
  const changed = conditions(gathered, new Map([['Progressing', why]]));
  const kept = (status?.conditions ?? []).filter(({ type }) => type !== 'Progressing');
  return { ...status, observedGeneration: metadata.generation ?? 0, conditions: [...kept, ...changed] };
}

export function statusOf(gathered: Gathered, view: View, found: readonly Found[]): MailClusterStatus {
  const findings = found.map(({ finding }) => finding);
  const verdicts = new Map(CONDITIONS.map((type) => [type, verdict(type, view, findings)]));
  const members = living(view);
  const reports = members.flatMap(({ report }) => report ?? []);
  const oldest = oldestMessageTime(gathered, reports);
  const generation = view.topology.document?.generation;
  const stale = new Map(outOfDate(view).map((one) => [one.member.name, one]));
  return {
    observedGeneration: gathered.cluster.metadata.generation ?? 0,
    ...(generation === undefined ? {} : { topologyGeneration: generation }),
    membersReady: `${members.filter(isServing).length}/${members.length}`,
    frontendsReady: frontendsReady(view),
    ...(oldest === null ? {} : { oldestMessageTime: oldest }),
    counts: counts(members, unprotectedOfLiving(view)),
    members: view.situation.members
      .filter(({ name }) => view.membership.states.has(name))
      .map((member) => memberStatus(view, member, findings, stale.get(member.name))),
    conditions: conditions(gathered, verdicts),
  };
}

/** Members tell it as long ago as the message is old, by two clocks that are a little apart: what differs by less is the same message. */
const SAME_MS = 1_000;

function oldestMessageTime({ cluster }: Gathered, reports: readonly NonNullable<Member['report']>[]): string | null {
  const times = reports.flatMap(({ queues }) =>
    [queues.submission, queues.delivery, queues.unreachable].flatMap(({ oldestMs }) => oldestMs ?? []),
  );
  if (times.length === 0) return null;
  const former = cluster.status?.oldestMessageTime;
  const oldestMs = Math.min(...times);
  if (former !== undefined && Math.abs(Date.parse(former) - oldestMs) < SAME_MS) return former;
  return new Date(oldestMs).toISOString();
}

function counts(members: readonly Member[], unprotected: number | null): NonNullable<MailClusterStatus['counts']> {
  const sum = (of: (report: NonNullable<Member['report']>) => number): number =>
    members.reduce((total, { report }) => total + (report === null ? 0 : of(report)), 0);
  return {
    queued: sum(({ queues }) => queues.submission.messages + queues.delivery.messages + queues.unreachable.messages),
    shadow: sum(({ queues }) => queues.shadow.messages),
    ...(unprotected === null ? {} : { unprotected }),
    poison: sum(({ queues }) => queues.poison.messages),
    primarySafetyNet: sum(({ queues }) => queues.primarySafetyNet.messages),
    shadowSafetyNet: sum(({ queues }) => queues.shadowSafetyNet.messages),
  };
}

function frontendsReady({ situation, wanted }: View): string {
  const deployments = wanted.frontends.filter(({ kind }) => kind === 'Deployment');
  const counted = deployments.map((one) => {
    const found = object<DeploymentObject>(situation.objects, 'Deployment', one.metadata.name);
    return { ready: found?.status?.readyReplicas ?? 0, wanted: wantedReplicas(one, found) };
  });
  const total = (of: 'ready' | 'wanted'): number => counted.reduce((sum, one) => sum + one[of], 0);
  return `${total('ready')}/${total('wanted')}`;
}

const STATES = { active: 'Active', cordoned: 'Cordoned', draining: 'Draining', gone: 'Empty' } as const;

function memberStatus(
  view: View,
  member: Member,
  findings: readonly Finding[],
  stale: OutOfDate | undefined,
): MemberStatus {
  const { name, group, report, former, pod, claim, silence } = member;
  const state = STATES[view.membership.states.get(name) ?? 'active'];
  const identity = identityOf(member, view.situation.members);
  const isKnown = report !== null;
  const restart = restartOf(member, findings);
  const isFresh = state === 'Active' && !isKnown && identity === null;
  // The proof of what is lost hangs on what was there when it last spoke.
  const [podUid, claimUid, volume] = isKnown
    ? [pod?.metadata.uid, claim?.metadata.uid, claim?.spec?.volumeName]
    : [former?.podUid, former?.claimUid, former?.volume];
  return {
    name,
    boundary: group.boundary,
    site: group.site,
    state: view.losses.lost.has(name) ? 'Lost' : isFresh ? 'Pending' : state,
    ready: isServing(member),
    ...(report === null
      ? {}
      : {
          generation: report.generation,
          queued: inTransit(report) - report.queues.shadow.messages,
          shadow: report.queues.shadow.messages,
          ...(report.unprotected === null ? {} : { unprotected: report.unprotected }),
        }),
    ...(identity === null ? {} : { identity }),
    ...(podUid === undefined ? {} : { podUid }),
    ...(claimUid === undefined ? {} : { claimUid }),
    ...(volume === undefined ? {} : { volume }),
    ...(restart === null ? {} : { restartReason: restart }),
    ...messageOf(view, member, silence?.reason ?? null, stale),
  };
}

/** From the order on until it serves again; that its pod is gone meanwhile is no loss. */
function restartOf({ name, former, pod, report }: Member, findings: readonly Finding[]): string | null {
  const ordered = findings
    .flatMap(({ actions = [] }) => actions)
    .find((one) => one.kind === 'restartPod' && one.name === name);
  if (ordered?.kind === 'restartPod') return ordered.reason;
  const isBack = report !== null && former?.podUid !== pod?.metadata.uid;
  return former?.restartReason === undefined || isBack ? null : former.restartReason;
}

function messageOf(
  view: View,
  member: Member,
  silence: string | null,
  stale: OutOfDate | undefined,
): { readonly message?: string } {
  const state = view.membership.states.get(member.name);
  const leaving =
    state === 'active' || member.report === null ? null : `${obligations(member.report)} obligations are left`;
  const message = [silence, stale === undefined ? null : `is to be restarted: ${stale.reason}`, leaving]
    .filter((one) => one !== null)
    .join('; ');
  return message === '' ? {} : { message: message.slice(0, 1_000) };
}

/** Null: nothing new. 'later': new counters alone, and the last ones were written just now. */
export function statusToWrite(
  { cluster, nowMs, statusWrittenAtMs }: Gathered,
  next: MailClusterStatus,
): MailClusterStatus | null | 'later' {
  const former = cluster.status ?? {};
  if (canonical(next) === canonical(former)) return null;
  const isOnlyCounters = canonical(withoutCounters(next)) === canonical(withoutCounters(former));
  const isFresh = statusWrittenAtMs !== null && nowMs - statusWrittenAtMs < COUNTERS_EVERY_MS;
  return isOnlyCounters && isFresh ? 'later' : next;
}

function withoutCounters({
  counts: _counts,
  oldestMessageTime: _oldest,
  members = [],
  conditions: all = [],
  ...rest
}: MailClusterStatus) {
  return {
    ...rest,
    members: members.map(
      ({ queued: _queued, shadow: _shadow, unprotected: _unprotected, message: _message, ...one }) => one,
    ),
    conditions: all.map(({ message: _text, ...one }) => one),
  };
}
