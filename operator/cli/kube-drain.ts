/**
 * `kubectl mailcluster drain`: takes a transport out of service by wanting one fewer at its site, which is how the operator drains
 * (kubernetes.md K3). Owns: the way from a member to the field of the resource. Promise: only the resource is changed, only if nobody
 * changed it meanwhile; the operator decides whether and when. Refuses what it would not do: another than the highest of its site, the last
 * of its boundary.
 */
import type { KubeFailure } from '../kube/failures.ts';
import { MAIL_CLUSTER, POD } from '../kube/kinds.ts';
import type { KubeObject } from '../kube/kube-object.ts';
import { LABEL } from '../resources/names.ts';
import { COMMON_HELP, type Command, type CommandContext, parse, UsageError } from './command.ts';
import { advice, chosen, findCluster, type KubeAccess, type MailClusterObject, openKube } from './kube-access.ts';
import { type Look, timeoutOption, WAIT_EXIT, WAIT_HELP, waitUntil } from './waiting.ts';

interface SiteEntry {
  readonly site: string;
  readonly replicas: number;
}
interface Spec {
  readonly dags?: readonly { readonly name: string; readonly members?: readonly SiteEntry[] }[];
  readonly standalone?: readonly SiteEntry[];
}

/** Where the resource says how many there are. */
export interface Place {
  readonly dag: string | null;
  readonly site: string;
  readonly replicas: number;
  /** Of the whole boundary. */
  readonly inBoundary: number;
}

export function placeOf(spec: Spec, dag: string | null, site: string): Place | null {
  const entries = dag === null ? spec.standalone : spec.dags?.find(({ name }) => name === dag)?.members;
  const own = entries?.find((one) => one.site === site);
  if (own === undefined) return null;
  const boundary = dag === null ? [own] : (entries ?? []);
  return { dag, site, replicas: own.replicas, inBoundary: boundary.reduce((sum, one) => sum + one.replicas, 0) };
}

export function fieldOf({ dag, site }: Place): string {
  return dag === null ? `spec.standalone[${site}].replicas` : `spec.dags[${dag}].members[${site}].replicas`;
}

/** The lists of the spec with the new number; what else is in them stays as it is. */
export function withReplicas(spec: Spec, { dag, site }: Place, replicas: number): Spec {
  const changed = (entries: readonly SiteEntry[] = []): readonly SiteEntry[] =>
    entries.map((one) => (one.site === site ? { ...one, replicas } : one));
  if (dag === null) return { standalone: changed(spec.standalone) };
  return { dags: (spec.dags ?? []).map((one) => (one.name === dag ? { ...one, members: changed(one.members) } : one)) };
}

const ordinalOf = (member: string): number => Number(/-(\d+)$/.exec(member)?.[1] ?? Number.NaN);
const sibling = (member: string, ordinal: number): string => member.replace(/\d+$/, String(ordinal));

/** The number that is to be wanted, or in words why it cannot be. */
export function wantedReplicas(member: string, place: Place, isCancel: boolean): number | string {
  const ordinal = ordinalOf(member);
  if (isCancel) return ordinal < place.replicas ? place.replicas : ordinal + 1;
  if (ordinal >= place.replicas) return place.replicas;
  if (ordinal < place.replicas - 1)
    return `only the highest of a site can go: drain ${sibling(member, place.replicas - 1)} first`;
  if (place.inBoundary === 1)
    return `${member} is the last member of ${place.dag === null ? `site ${place.site}` : `DAG ${place.dag}`}: nobody could take over its messages; add a member there first`;
  return place.replicas - 1;
}

async function findPlace(access: KubeAccess, cluster: MailClusterObject, member: string): Promise<Place | string> {
  const reported = cluster.status?.members ?? [];
  const own = reported.find(({ name }) => name === member);
  const pod = await access.api.get<KubeObject>(
    POD,
    { namespace: access.namespace, name: member },
    { deadlineMs: access.timeoutMs, retries: 1 },
  );
  const labels = pod.ok ? pod.value.metadata.labels : undefined;
  const isOurs = labels?.[LABEL.cluster] === cluster.metadata.name && labels[LABEL.role] === 'transport';
  if (!isOurs && own === undefined) {
    if (!pod.ok && pod.failure.kind !== 'notFound') return advice(pod.failure, access);
    const names = reported.map(({ name }) => name).join(', ');
    return `there is no member ${member}; ${names === '' ? '"kubectl mailcluster status" shows who is there' : `there are ${names}`}`;
  }
  const boundary = own?.boundary ?? '';
  const dag = isOurs ? (labels[LABEL.dag] ?? null) : boundary.startsWith('dag/') ? boundary.slice(4) : null;
  const site = (isOurs ? labels[LABEL.site] : undefined) ?? own?.site ?? '';
  return (
    placeOf(cluster.spec as Spec, dag, site) ??
    `the resource has no ${dag === null ? 'standalone' : `DAG ${dag} with`} site ${site} any more`
  );
}

/** May be over by itself: the API server is away, or asks to wait. */
const MAY_HEAL = new Set<KubeFailure['kind']>(['unavailable', 'deadline', 'tooManyRequests']);

async function lookAt(access: KubeAccess, name: string, member: string): Promise<Look> {
  const { namespace, timeoutMs } = access;
  const found = await access.api.get<MailClusterObject>(MAIL_CLUSTER, { namespace, name }, { deadlineMs: timeoutMs });
  if (!found.ok) {
    const why = advice(found.failure, access);
    return MAY_HEAL.has(found.failure.kind)
      ? { kind: 'going', text: `looking again: ${why}` }
      : { kind: 'over', code: 1, text: `It is not known what becomes of ${member}: ${why}.` };
  }
  const { status, metadata, spec } = found.value;
  const isSeen = (status?.observedGeneration ?? 0) >= (metadata.generation ?? 0);
  const own = status?.members?.find((one) => one.name === member);
  if (isSeen && own === undefined)
    return { kind: 'over', code: 0, text: `${member} is gone: it was empty and its pod has ended.` };
  const place = await findPlace(access, found.value, member);
  if (typeof place !== 'string' && ordinalOf(member) < (placeOf(spec, place.dag, place.site)?.replicas ?? 0)) {
    const text = `The drain of ${member} was cancelled: ${fieldOf(place)} is ${place.replicas}.`;
    return { kind: 'over', code: WAIT_EXIT.cancelled, text };
  }
  const draining = status?.conditions?.find(({ type }) => type === 'Draining');
  const parts = [own?.state, own?.message, isSeen ? draining?.message : 'the operator has not looked at it yet'];
  return { kind: 'going', text: parts.filter((part) => part !== undefined && part !== '').join('; ') };
}

const cancelHint = (member: string): string => `"kubectl mailcluster drain ${member} --cancel" ends it at any time`;

function waitUntilGone(
  access: KubeAccess,
  name: string,
  member: string,
  timeoutMs: number | null,
  context: CommandContext,
): Promise<number> {
  const goesOn = `The drain of ${member} goes on; watch it with "kubectl mailcluster status", ${cancelHint(member)}.`;
  return waitUntil({ what: member, goesOn, timeoutMs, look: () => lookAt(access, name, member) }, context);
}

export const kubeDrainCommand: Command = {
  summary: 'take a transport out of service: it hands over everything first',
  help: `Usage: mailcluster drain MEMBER [--wait [--timeout DURATION]] [--state DIR]
       mailcluster drain MEMBER --cancel [--state DIR]

Wants one transport fewer at the site of MEMBER (which must be the highest of its site): the operator drains it and ends its pod when it has proved that it
is empty. Nothing is on fewer copies meanwhile. It needs the right to patch the MailCluster. --cancel wants it back, at any step.

  --wait                 return when the member is gone; says how far it is
${WAIT_HELP}
${COMMON_HELP}

Examples:
  mailcluster drain contoso-dag1-seattle-4d5e6f-1 --wait`,
  run: async (args, context) => {
    const options = { cancel: { type: 'boolean' }, wait: { type: 'boolean' }, timeout: { type: 'string' } } as const;
    const parsed = parse(args, context, options, [1, 1]);
    const member = parsed.positionals[0] ?? '';
    const isCancel = parsed.values.cancel === true;
    if (isCancel && parsed.values.wait === true) throw new UsageError('--cancel has nothing to wait for');
    const timeoutMs = timeoutOption(parsed);
    const access = await openKube(parsed.values, context);
    context.atEnd(access.close);
    const cluster = await findCluster(access, chosen(parsed.values));
    const { name, namespace = '', resourceVersion } = cluster.metadata;
    const { out, err } = context.output;
    const place = await findPlace(access, cluster, member);
    const wanted = typeof place === 'string' ? place : wantedReplicas(member, place, isCancel);
    if (typeof place === 'string' || typeof wanted === 'string') {
      err(`Refused: ${wanted}.\n`);
      return 1;
    }
    if (wanted === place.replicas)
      out(isCancel ? `${member} is wanted; there is nothing to cancel.\n` : `${member} is on its way out already.\n`);
    else {
      const patch = { metadata: { resourceVersion }, spec: withReplicas(cluster.spec as Spec, place, wanted) };
      const done = await access.api.patch(MAIL_CLUSTER, { namespace, name }, patch, { deadlineMs: access.timeoutMs });
      if (!done.ok) {
        err(`Refused: ${advice(done.failure, access)}.\n`);
        return 1;
      }
      out(
        `${fieldOf(place)} of MailCluster ${name} is ${wanted} now (it was ${place.replicas}); put it into your own files, too.\n`,
      );
      if (!isCancel)
        out(
          `The operator drains ${member} now and ends it when it is empty. Watch it with "kubectl mailcluster status"; ${cancelHint(member)}.\n`,
        );
    }
    return parsed.values.wait === true ? await waitUntilGone(access, name, member, timeoutMs, context) : 0;
  },
};
