/**
 * ResubmitRequests and MailboxDatabases as people see them (kubernetes.md K8): a request for each failover in the document, and the status of both
 * kinds. Owns: those objects. Promise: counts are what the members say, by primaries and by shadows; a request that cannot be carried out says
 * why. PURE.
 */
import { isDeepStrictEqual } from 'node:util';
import type { ResubmitRequestConfig } from '../../common/config.ts';
import type { Gathered } from '../gathered.ts';
import type { MailboxDatabaseStatus, ResubmitRequestStatus } from '../resource/generated.ts';
import { canonical, metadata } from '../resources/names.ts';
import type { KubeObject } from '../resources/objects.ts';
import { expiredStatus, isOver, type MemberWord, requestResource, resubmitStatus } from '../resubmit-status.ts';
import { act, event, type Finding, LATER_MS, wait } from './finding.ts';
import { identityOf } from './situation.ts';
import { isOurs } from './topology-step.ts';
import type { View } from './view.ts';

/** A queue database is made by the first start on a new claim. */
const MADE_WITHIN_MS = 300_000;

export function requestsStep(view: View): readonly Finding[] {
  const { situation, topology } = view;
  const { document } = topology;
  if (document === null) return [];
  const { requests } = situation.gathered;
  const standing = new Map(document.resubmitRequests.map((one) => [one.name, one]));
  const made = document.resubmitRequests
    .filter((one) => one.lostActivation !== null && !requests.some(({ metadata: { name } }) => name === one.name))
    .map((one) => create(view, one));
  const told = requests.flatMap((one): readonly Finding[] => {
    const status = statusOf(view, one, standing.get(one.metadata.name));
    if (status === null || same(status, one.status)) return [];
    const { name, uid = '' } = one.metadata;
    return [act('AsExpected', '', { actions: [{ kind: 'writeRequestStatus', name, uid, status }] })];
  });
  const open = requests.filter(({ metadata: { name }, status }) => standing.has(name) && !isOver(status));
  const look = open.length === 0 ? [] : [wait('AsExpected', '', { afterMs: 1_000 })];
  return [...made, ...told, ...look, ...expiring(view)];
}

/** Nothing else would make the plan look when one is over. */
function expiring({ situation, topology }: View): readonly Finding[] {
  const times = (topology.document?.resubmitRequests ?? []).map(({ expiresAtMs }) => expiresAtMs);
  if (times.length === 0) return [];
  return [wait('AsExpected', '', { afterMs: Math.max(LATER_MS, Math.min(...times) - situation.gathered.nowMs) })];
}

function same(status: ResubmitRequestStatus, former: ResubmitRequestStatus | null): boolean {
  return former !== null && canonical(status) === canonical(former);
}

function create({ situation }: View, request: ResubmitRequestConfig): Finding {
  const { owner } = situation;
  const { spec, apiVersion, kind } = requestResource(request, { cluster: owner.name, namespace: owner.namespace }, {});
  const object: KubeObject = { apiVersion, kind, metadata: metadata(owner, request.name, 'resubmit'), spec };
  const message = `mailbox database ${request.database} failed over: what it may lack is resubmitted from Safety Net (ResubmitRequest ${request.name})`;
  return act('ResubmitCreated', message, {
    actions: [{ kind: 'apply', object, why: 'create' }],
    events: [event('Normal', 'ResubmitCreated', message)],
  });
}

type Request = Gathered['requests'][number];

/** Null: it stays. */
function statusOf(view: View, one: Request, request: ResubmitRequestConfig | undefined): ResubmitRequestStatus | null {
  const { situation, topology } = view;
  const { nowMs } = situation.gathered;
  const observedGeneration = one.metadata.generation ?? 0;
  if (request !== undefined)
    return { observedGeneration, ...resubmitStatus(request, wordsOf(view, request), one.status, nowMs) };
  if (isOver(one.status)) return null;
  if (one.status?.state !== undefined && one.status.startTime !== undefined) return expiredStatus(one.status, nowMs);
  const why = topology.unusable.get(one.metadata.name) ?? whyNot(view, one);
  const isNew = why === null;
  if (isNew && isOurs(one.metadata)) return null;
  return {
    observedGeneration,
    state: 'Failed',
    message: why ?? 'it expired before anybody could be asked',
    completionTime: new Date(nowMs).toISOString(),
  };
}

function whyNot({ topology }: View, { resource, problems }: Request): string | null {
  if (resource === null) return problems.join('; ');
  const { database } = resource.spec.selector;
  if (database === undefined || topology.document?.databases.some(({ name }) => name === database)) return null;
  return `there is no MailboxDatabase ${database}`;
}

function wordsOf({ situation, losses, topology }: View, request: ResubmitRequestConfig): readonly MemberWord[] {
  const { document } = topology;
  const retired = document?.retired ?? [];
  return (document?.members ?? [])
    .filter(({ state, boundary }) => state !== 'gone' && (request.boundary === null || boundary === request.boundary))
    .map(({ name, boundary }) => {
      const member = situation.members.find((one) => one.name === name);
      const identity = member === undefined ? null : identityOf(member, situation.members);
      const made = Date.parse(member?.claim?.metadata.creationTimestamp ?? '');
      const isFirst = !retired.some((one) => one.member === name) && Number.isFinite(made);
      return {
        name,
        boundary,
        identity,
        answer:
          member === undefined || member.report === null
            ? (member?.silence?.reason ?? 'it is not running')
            : (member.report.resubmits.find((one) => one.name === request.name) ?? null),
        lost: losses.lost.has(name) || retired.some((one) => one.identity === identity && one.reason === 'lost'),
        firstSinceMs: isFirst ? made + MADE_WITHIN_MS : null,
      };
    });
}

export function databasesStep({ situation, references, topology }: View): readonly Finding[] {
  const { nowMs } = situation.gathered;
  return situation.gathered.databases.flatMap((one): readonly Finding[] => {
    const { name, uid = '', generation = 0 } = one.metadata;
    const current = topology.document?.databases.find((database) => database.name === name);
    const former = one.status ?? {};
    const risen = former.activation !== undefined && current !== undefined && former.activation < current.activation;
    const wrong = references.findings.filter(
      ({ message }) => message.includes(`MailboxDatabase ${name}:`) || message.includes(`MailboxDatabase/${name} `),
    );
    const isGood = current !== undefined && !references.frozen.has(name);
    const at = new Date(nowMs).toISOString();
    const ready = {
      type: 'Ready',
      status: isGood ? ('True' as const) : ('False' as const),
      observedGeneration: generation,
      reason: isGood ? 'AsExpected' : (wrong[0]?.reason ?? 'TopologyRefused'),
      message: isGood
        ? `mail goes to copy ${current.activeCopy}`
        : wrong.map(({ message }) => message).join('; ') || 'it is in no topology document',
    };
    const before = former.conditions?.find(({ type }) => type === 'Ready');
    const lastTransitionTime = before?.status === ready.status ? before.lastTransitionTime : at;
    const status: MailboxDatabaseStatus = {
      ...former,
      observedGeneration: generation,
      ...(current === undefined ? {} : { activeCopy: current.activeCopy, activation: current.activation }),
      ...(risen ? { lastFailoverTime: at } : {}),
      conditions: [{ ...ready, lastTransitionTime }],
    };
    const moved = `MailboxDatabase ${name}: mail goes to copy ${current?.activeCopy} from now on`;
    const events = risen ? [event('Normal', 'FailedOver', moved)] : [];
    if (isDeepStrictEqual(JSON.parse(canonical(status)), JSON.parse(canonical(former)))) return [];
    return [act('AsExpected', '', { actions: [{ kind: 'writeDatabaseStatus', name, uid, status }], events })];
  });
}
