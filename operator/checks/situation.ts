/**
 * What the checks look at, prepared once from the snapshot: groups, members with pod, claim and answer, the topology document in force. Owns: how
 * these are found. Promise: an answer counts only for the pod that is there now; what is not known is null, never a good default. PURE.
 */
import type { TopologyDocument } from '../../common/config.ts';
import type { Gathered, MemberReport } from '../gathered.ts';
import type { MailCluster, MailClusterStatus } from '../resource/generated.ts';
import { readTopology } from '../resources/documents.ts';
import { ANNOTATION, claimName, LABEL, named, type Owner, ownerOf, TOPOLOGY_KEY } from '../resources/names.ts';
import {
  type ClaimObject,
  type ConfigMapObject,
  isControlledBy,
  isReady,
  type KubeObject,
  keyOf,
  type NodeObject,
  type PodObject,
  type StatefulSetObject,
} from '../resources/objects.ts';
import type { TransportGroup } from '../resources/transports.ts';
import { transportGroupName } from '../topology.ts';

export interface Group extends TransportGroup {
  /** As the spec says; 0 for one that it does not name any more. */
  readonly desired: number;
}

export type FormerMember = NonNullable<MailClusterStatus['members']>[number];

export interface Member {
  readonly name: string;
  readonly group: Group;
  readonly ordinal: number;
  readonly pod: PodObject | undefined;
  readonly node: NodeObject | undefined;
  readonly claim: ClaimObject | undefined;
  /** Of the pod that is there now; null: it says nothing. */
  readonly report: MemberReport | null;
  /** Why it says nothing, and since when as far as this process knows. */
  readonly silence: { readonly reason: string; readonly sinceMs: number | null } | null;
  /** What the status remembers of it. */
  readonly former: FormerMember | undefined;
}

export interface Situation {
  readonly gathered: Gathered;
  readonly cluster: MailCluster;
  readonly owner: Owner;
  /** Sorted by name. */
  readonly groups: readonly Group[];
  readonly members: readonly Member[];
  readonly previous: PreviousTopology;
  /** Ours and foreign ones, by `Kind/name`. */
  readonly objects: ReadonlyMap<string, KubeObject>;
}

export interface PreviousTopology {
  readonly document: TopologyDocument | null;
  /** Which of the two ConfigMaps must be written again, although the document stays. */
  readonly damaged: readonly ('main' | 'backup')[];
  readonly why: string;
  readonly main: ConfigMapObject | undefined;
  readonly backup: ConfigMapObject | undefined;
  /** Nobody has seen a higher generation, as far as anything tells. */
  readonly leastGeneration: number;
}

export const object = <T extends KubeObject>(
  objects: ReadonlyMap<string, KubeObject>,
  kind: string,
  name: string,
): T | undefined => objects.get(keyOf({ kind, name })) as T | undefined;

/** It has our name, but somebody else made it, or nobody. */
export const isForeign = (found: KubeObject, owner: Owner): boolean =>
  !isControlledBy(found, owner.uid) &&
  !(
    found.metadata.annotations?.[ANNOTATION.adopt] === 'true' &&
    !found.metadata.ownerReferences?.some((one) => one.controller)
  );

export function situationOf(gathered: Gathered, cluster: MailCluster): Situation {
  const owner = ownerOf(cluster, gathered.cluster.metadata);
  const objects = new Map(gathered.owned.map((one) => [keyOf({ kind: one.kind, name: one.metadata.name }), one]));
  const previous = previousTopology(gathered, owner, objects);
  const groups = groupsOf(cluster, previous.document, gathered.pods);
  const members = groups.flatMap((group) => membersOf(gathered, group, previous.document, objects));
  return { gathered, cluster, owner, groups, members, previous, objects };
}

/** The higher of the two usable copies: a crash between the two writes leaves the backup ahead. */
function previousTopology(
  gathered: Gathered,
  owner: Owner,
  objects: ReadonlyMap<string, KubeObject>,
): PreviousTopology {
  const own = (name: string): ConfigMapObject | undefined => object(objects, 'ConfigMap', name);
  const [main, backup] = [own(named.topology(owner.name)), own(named.topologyBackup(owner.name))];
  const mainRead = readTopology(main);
  const backupRead = isSameCopy(main, backup) ? mainRead : readTopology(backup);
  const documents = [mainRead, backupRead].flatMap((one) => (one.kind === 'document' ? [one.document] : []));
  const document = documents.reduce<TopologyDocument | null>(
    (best, one) => (best === null || one.generation > best.generation ? one : best),
    null,
  );
  const stale = (read: typeof mainRead): boolean =>
    document !== null && (read.kind === 'unusable' || read.document.generation < document.generation);
  const why = mainRead.kind === 'unusable' ? mainRead.why : backupRead.kind === 'unusable' ? backupRead.why : '';
  return {
    document,
    damaged: [...(stale(mainRead) ? (['main'] as const) : []), ...(stale(backupRead) ? (['backup'] as const) : [])],
    why,
    main,
    backup,
    leastGeneration: leastGeneration(gathered),
  };
}

/** Said of one, it holds for the other: reading a document of fifty members takes a millisecond. */
const isSameCopy = (main: ConfigMapObject | undefined, backup: ConfigMapObject | undefined): boolean =>
  main !== undefined &&
  backup !== undefined &&
  main.data?.[TOPOLOGY_KEY] === backup.data?.[TOPOLOGY_KEY] &&
  main.metadata.annotations?.[ANNOTATION.document] === backup.metadata.annotations?.[ANNOTATION.document];

function leastGeneration({ cluster, members, claims }: Gathered): number {
  const answered = Object.values(members).flatMap((one) => (one.kind === 'answered' ? [one.report.generation] : []));
  // A claim that was kept from an earlier cluster: its queue database has seen these generations.
  const kept = claims.flatMap(({ metadata }) => Number(metadata.annotations?.[ANNOTATION.generation] ?? 0) || 0);
  return Math.max(0, cluster.status?.topologyGeneration ?? 0, ...answered, ...kept);
}

const ordinalOf = (group: string, member: string): number | null => {
  const match = member.startsWith(`${group}-`) ? /^(0|[1-9][0-9]*)$/.exec(member.slice(group.length + 1)) : null;
  return match === null ? null : Number(match[1]);
};

/** Of the spec, of the document, and - where there is no document - of what runs: nothing is forgotten because it is not asked for. */
function groupsOf(
  cluster: MailCluster,
  document: TopologyDocument | null,
  pods: readonly PodObject[],
): readonly Group[] {
  const groups = new Map<string, Group>();
  const add = (dag: string | null, site: string, desired: number): void => {
    const name = transportGroupName(cluster, dag, site);
    if (groups.has(name)) return;
    groups.set(name, { name, dag, site, boundary: dag === null ? `site/${site}` : `dag/${dag}`, desired });
  };
  for (const { name, members } of cluster.spec.dags)
    for (const { site, replicas } of members) add(name, site, replicas);
  for (const { site, replicas } of cluster.spec.standalone) add(null, site, replicas);
  for (const { dag, site } of document?.members ?? []) add(dag, site, 0);
  if (document === null)
    for (const { metadata } of pods) {
      const site = metadata.labels?.[LABEL.site];
      if (metadata.labels?.[LABEL.role] !== 'transport' || site === undefined) continue;
      add(metadata.labels[LABEL.dag] ?? null, site, 0);
    }
  return [...groups.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** How many of a group there are or are to be: those of the document stay until they are proved gone. */
function sizeOf(
  group: Group,
  gathered: Gathered,
  document: TopologyDocument | null,
  objects: ReadonlyMap<string, KubeObject>,
): number {
  const among = (names: readonly string[]): number =>
    1 + Math.max(-1, ...names.flatMap((name) => ordinalOf(group.name, name) ?? []));
  if (document !== null) return Math.max(group.desired, among(document.members.map(({ name }) => name)));
  const set = object<StatefulSetObject>(objects, 'StatefulSet', group.name);
  return Math.max(group.desired, set?.spec?.replicas ?? 0, among(gathered.pods.map(({ metadata }) => metadata.name)));
}

function membersOf(
  gathered: Gathered,
  group: Group,
  document: TopologyDocument | null,
  objects: ReadonlyMap<string, KubeObject>,
): readonly Member[] {
  return Array.from({ length: sizeOf(group, gathered, document, objects) }, (_, ordinal) => {
    const name = `${group.name}-${ordinal}`;
    const pod = gathered.pods.find(({ metadata }) => metadata.name === name);
    const answer = gathered.members[name];
    const isOfThisPod = answer?.kind === 'answered' && answer.podUid === pod?.metadata.uid;
    return {
      name,
      group,
      ordinal,
      pod,
      node: gathered.nodes.find(({ metadata }) => metadata.name === pod?.spec?.nodeName),
      claim: gathered.claims.find(({ metadata }) => metadata.name === claimName(name)),
      report: isOfThisPod ? answer.report : null,
      silence: isOfThisPod
        ? null
        : {
            reason: answer === undefined || answer.kind === 'answered' ? 'it was not asked yet' : answer.reason,
            sinceMs: answer === undefined || answer.kind === 'answered' ? null : answer.sinceMs,
          },
      former: gathered.cluster.status?.members?.find((one) => one.name === name),
    };
  });
}

export const stateIn = (document: TopologyDocument | null, member: string) =>
  document?.members.find(({ name }) => name === member)?.state ?? null;

/** Its process runs, whether it answers or not. */
export function isRunning({ pod }: Member): boolean {
  return pod?.status?.containerStatuses?.some(({ state }) => state?.running !== undefined) ?? false;
}

/** It serves, and said so to the operator too. */
export const isServing = (member: Member): boolean => isReady(member.pod) && member.report?.state === 'ready';

/** Of its queue database: what it says, else what it last said, else what its peers know. */
export function identityOf(member: Member, members: readonly Member[]): string | null {
  if (member.report !== null) return member.report.identity;
  if (member.former?.identity !== undefined) return member.former.identity;
  return (
    members.find(({ report }) => report?.identities[member.name] !== undefined)?.report?.identities[member.name] ?? null
  );
}

const IN_TRANSIT = ['submission', 'delivery', 'unreachable', 'poison', 'shadow'] as const;
const AT_REST = ['primarySafetyNet', 'shadowSafetyNet'] as const;

export const inTransit = (report: MemberReport): number =>
  IN_TRANSIT.reduce((sum, queue) => sum + report.queues[queue].messages, 0);
export const atRest = (report: MemberReport): number =>
  AT_REST.reduce((sum, queue) => sum + report.queues[queue].messages, 0);

/** Whatever it still has to do for anybody. */
export const obligations = (report: MemberReport): number =>
  inTransit(report) + atRest(report) + report.discardsPending;

/** Null: not known of somebody. */
export function unprotectedOf(members: readonly Member[]): number | null {
  return members.reduce<number | null>((sum, { report }) => {
    const own = report?.unprotected ?? null;
    return sum === null || own === null ? null : sum + own;
  }, 0);
}
