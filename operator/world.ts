/**
 * Everything the operator watches. Owns: one reflector per kind, what of an object is kept, and which MailCluster a change concerns. Promise: a
 * change that a plan can see makes the keys of its clusters due; of what is not ours no data is kept (other people's Secrets above all),
 * and heartbeats of nodes wake nobody. Kinds that somebody may install later (PodMonitor, Certificate) are watched once they exist.
 */
import { isDeepStrictEqual } from 'node:util';
import type { Clock } from '../common/platform/clock.ts';
import type { Logger } from '../common/platform/log.ts';
import type { Metrics } from '../common/platform/metrics.ts';
import type { Random } from '../common/platform/random.ts';
import type { KubeApi } from './kube/api.ts';
import {
  CERTIFICATE,
  CONFIG_MAP,
  CUSTOM_RESOURCE_DEFINITION,
  DEPLOYMENT,
  HORIZONTAL_POD_AUTOSCALER,
  MAIL_CLUSTER,
  MAILBOX_DATABASE,
  NAMESPACE,
  NETWORK_POLICY,
  NODE,
  PERSISTENT_VOLUME,
  PERSISTENT_VOLUME_CLAIM,
  POD,
  POD_DISRUPTION_BUDGET,
  POD_MONITOR,
  RESUBMIT_REQUEST,
  SECRET,
  SERVICE,
  SERVICE_ACCOUNT,
  STATEFUL_SET,
  STORAGE_CLASS,
  TRANSPORT_ORDER,
} from './kube/kinds.ts';
import { apiVersionOf, type KubeObject, keyOf, type ResourceKind } from './kube/kube-object.ts';
import type { CacheChange, Indexer } from './kube/object-cache.ts';
import { Reflector } from './kube/reflector.ts';
import { LABEL, named } from './resources/names.ts';
import type { ClaimObject, PodObject } from './resources/objects.ts';
import { signingKeys, tlsProblem } from './secret-view.ts';

export interface WorldSide {
  readonly api: KubeApi;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** Empty: all namespaces. */
  readonly namespace: string;
}

/** An object as a cache has it: any fields besides those of `KubeObject`. */
export type Watched = KubeObject & { readonly [field: string]: unknown };

/** Made by the operator; whatever has a name like ours is looked at too (`concerns`). */
const MADE: readonly ResourceKind[] = [
  SERVICE_ACCOUNT,
  CONFIG_MAP,
  SECRET,
  SERVICE,
  STATEFUL_SET,
  DEPLOYMENT,
  POD_DISRUPTION_BUDGET,
  NETWORK_POLICY,
  HORIZONTAL_POD_AUTOSCALER,
];
/** Only where somebody installed them. */
const OPTIONAL: readonly ResourceKind[] = [POD_MONITOR, CERTIFICATE];
/** Of these an operator comes to know when their definition is there: it may be installed after it. */
const APPEARING: readonly ResourceKind[] = [...OPTIONAL, TRANSPORT_ORDER];
const RESOURCES: readonly ResourceKind[] = [MAIL_CLUSTER, MAILBOX_DATABASE, RESUBMIT_REQUEST];
const CLUSTER_WIDE: readonly ResourceKind[] = [
  NODE,
  PERSISTENT_VOLUME,
  STORAGE_CLASS,
  NAMESPACE,
  CUSTOM_RESOURCE_DEFINITION,
];
const LABELLED: readonly ResourceKind[] = [POD, PERSISTENT_VOLUME_CLAIM];

const idOf = (kind: ResourceKind): string => `${apiVersionOf(kind)}/${kind.kind}`;
const BY_NAMESPACE = 'namespace';
/** Under its cluster, and under every cluster for which its name could be meant (`concerns`). */
const BY_CLUSTER = 'cluster';
const BY_OWNER = 'owner';

export class World {
  readonly #side: WorldSide;
  readonly #reflectors = new Map<string, Reflector<Watched>>();
  readonly #due: (key: string) => void;

  /** `due`: called with `namespace/name` of every MailCluster that a change concerns. */
  constructor(side: WorldSide, due: (key: string) => void) {
    this.#side = side;
    this.#due = due;
    for (const kind of [...RESOURCES, ...MADE, ...CLUSTER_WIDE, ...LABELLED]) this.#watch(kind);
  }

  start(): void {
    for (const reflector of this.#reflectors.values()) reflector.start();
  }

  async stop(): Promise<void> {
    await Promise.all([...this.#reflectors.values()].map((one) => one.stop()));
  }

  /** False when stopped before. */
  async whenSynced(): Promise<boolean> {
    const synced = await Promise.all([...this.#reflectors.values()].map((one) => one.whenSynced()));
    return synced.every((one) => one);
  }

  get(kind: ResourceKind, namespace: string, name: string): Watched | undefined {
    return this.#reflectors.get(idOf(kind))?.objects.get(namespace === '' ? name : `${namespace}/${name}`);
  }

  inNamespace(kind: ResourceKind, namespace: string): readonly Watched[] {
    return this.#under(kind, BY_NAMESPACE, namespace);
  }

  ofCluster(kind: ResourceKind, namespace: string, cluster: string): readonly Watched[] {
    return this.#under(kind, BY_CLUSTER, `${namespace}/${cluster}`);
  }

  count(kind: ResourceKind): number {
    return this.#reflectors.get(idOf(kind))?.objects.size ?? 0;
  }

  all(kind: ResourceKind): Iterable<Watched> {
    return this.#reflectors.get(idOf(kind))?.objects.all() ?? [];
  }

  /** Of the kinds we make, all objects here that can concern this cluster. */
  made(namespace: string, cluster: string, uid: string): readonly Watched[] {
    const found = [...MADE, ...OPTIONAL].flatMap((kind) => [
      ...this.ofCluster(kind, namespace, cluster),
      ...this.#under(kind, BY_OWNER, `${namespace}/${uid}`),
    ]);
    return [...new Set(found)];
  }

  #under(kind: ResourceKind, index: string, value: string): readonly Watched[] {
    return this.#reflectors.get(idOf(kind))?.objects.under(index, value) ?? [];
  }

  has(kind: ResourceKind): boolean {
    return this.#reflectors.has(idOf(kind));
  }

  #watch(kind: ResourceKind): Reflector<Watched> {
    const { api, clock, random, log, metrics, namespace } = this.#side;
    const reflector = new Reflector<Watched>({
      api,
      kind,
      scope: {
        ...(kind.namespaced ? { namespace } : {}),
        ...(LABELLED.includes(kind) ? { labelSelector: LABEL.cluster } : {}),
      },
      clock,
      random,
      log,
      metrics,
      indexes: indexesOf(kind),
      trim: (object) => trimmed(kind, object),
    });
    reflector.onChange((change) => this.#changed(kind, change));
    this.#reflectors.set(idOf(kind), reflector);
    return reflector;
  }

  #changed(kind: ResourceKind, change: CacheChange<Watched>): void {
    if (change.type === 'updated' && isSame(change.before, change.object)) return;
    if (kind === CUSTOM_RESOURCE_DEFINITION) this.#definitionsChanged(change);
    for (const key of this.#concerned(kind, change.object)) this.#due(key);
  }

  /** A kind appeared: watched from now on. One that went leaves a reflector that finds nothing. */
  #definitionsChanged({ type, object }: CacheChange<Watched>): void {
    const kind = APPEARING.find(({ plural, group }) => object.metadata.name === `${plural}.${group}`);
    if (kind === undefined) return;
    if (type === 'deleted') {
      void this.#reflectors.get(idOf(kind))?.stop();
      this.#reflectors.delete(idOf(kind));
    } else if (!this.has(kind)) this.#watch(kind).start();
  }

  #concerned(kind: ResourceKind, object: Watched): readonly string[] {
    const { name, namespace = '', labels } = object.metadata;
    if (kind === MAIL_CLUSTER) return [keyOf(object)];
    if (kind === MAILBOX_DATABASE || kind === RESUBMIT_REQUEST || kind === TRANSPORT_ORDER) {
      const cluster = (object.spec as { clusterRef?: { name?: string } } | undefined)?.clusterRef?.name;
      return cluster === undefined ? [] : [`${namespace}/${cluster}`];
    }
    if (kind === NODE) return this.#clustersOn(name);
    if (kind === PERSISTENT_VOLUME) return this.#clusterOfVolume(object);
    if (kind === NAMESPACE) return this.inNamespace(MAIL_CLUSTER, name).map(keyOf);
    if (!kind.namespaced) return [...this.all(MAIL_CLUSTER)].map(keyOf);
    const own = labels?.[LABEL.cluster];
    if (own !== undefined) return [`${namespace}/${own}`];
    return this.inNamespace(MAIL_CLUSTER, namespace)
      .filter((cluster) => name.startsWith(`${cluster.metadata.name}-`) || this.#refersTo(cluster, name))
      .map(keyOf);
  }

  /** Secrets and ConfigMaps that the resources name. */
  #refersTo(cluster: Watched, name: string): boolean {
    const { namespace = '' } = cluster.metadata;
    const quoted = JSON.stringify(name);
    const databases = this.inNamespace(MAILBOX_DATABASE, namespace);
    return [cluster, ...databases].some(({ spec }) => JSON.stringify(spec ?? {}).includes(quoted));
  }

  #clustersOn(node: string): readonly string[] {
    const keys = new Set<string>();
    for (const pod of this.all(POD)) {
      if ((pod.spec as { nodeName?: string } | undefined)?.nodeName !== node) continue;
      keys.add(`${pod.metadata.namespace}/${pod.metadata.labels?.[LABEL.cluster]}`);
    }
    // A new node may be the one that a site was waiting for.
    return keys.size > 0 ? [...keys] : [...this.all(MAIL_CLUSTER)].map(keyOf);
  }

  #clusterOfVolume(object: Watched): readonly string[] {
    const claim = (object.spec as { claimRef?: { namespace?: string; name?: string } } | undefined)?.claimRef;
    const found = this.get(PERSISTENT_VOLUME_CLAIM, claim?.namespace ?? '', claim?.name ?? '');
    const cluster = found?.metadata.labels?.[LABEL.cluster];
    return cluster === undefined ? [] : [`${claim?.namespace}/${cluster}`];
  }
}

function indexesOf(kind: ResourceKind): Readonly<Record<string, Indexer<Watched>>> {
  const isMade = MADE.includes(kind) || OPTIONAL.includes(kind);
  const at = ({ metadata }: Watched, value: string): string => `${metadata.namespace ?? ''}/${value}`;
  return {
    [BY_NAMESPACE]: ({ metadata }) => [metadata.namespace ?? ''],
    [BY_CLUSTER]: (object) => {
      const { name, labels } = object.metadata;
      const parts = isMade ? name.split('-') : [];
      const prefixes = parts.slice(1).map((_, index) => parts.slice(0, index + 1).join('-'));
      const own = labels?.[LABEL.cluster];
      return [...new Set([...prefixes, ...(own === undefined ? [] : [own])])].map((value) => at(object, value));
    },
    [BY_OWNER]: (object) => (isMade ? (object.metadata.ownerReferences ?? []).map(({ uid }) => at(object, uid)) : []),
  };
}

/** Equal but for its version: the heartbeat of a node, a status that nobody reads. */
function isSame(before: Watched, object: Watched): boolean {
  const without = ({ metadata: { resourceVersion: _, ...metadata }, ...rest }: Watched) => ({ ...rest, metadata });
  return isDeepStrictEqual(without(before), without(object));
}

const emptied = (values: unknown): object =>
  Object.fromEntries(Object.keys((values as object | undefined) ?? {}).map((key) => [key, '']));

/** What is kept of an object: five thousand pods whole are most of an operator's memory. */
function trimmed(kind: ResourceKind, object: Watched): Watched {
  const { managedFields: _, ...metadata } = object.metadata;
  const bare = { apiVersion: apiVersionOf(kind), kind: kind.kind, metadata };
  const isOurs = metadata.labels?.[LABEL.cluster] !== undefined;
  if (kind === NODE) {
    const { taints, unschedulable } = (object.spec ?? {}) as { taints?: unknown; unschedulable?: unknown };
    const { annotations: _annotations, ...named } = metadata;
    return { ...bare, metadata: named, spec: { taints, unschedulable } };
  }
  if (kind === CUSTOM_RESOURCE_DEFINITION || kind === NAMESPACE) return { ...bare, status: phaseOf(object) };
  if (kind === SECRET) {
    // The authority alone is read; of all others the names of their keys, and whether they are of use.
    const isAuthority = isOurs && metadata.name === named.authority(metadata.labels?.[LABEL.cluster] ?? '');
    if (isAuthority) return { ...bare, type: object.type, data: object.data };
    const { data } = object;
    const use = { tlsProblem: tlsProblem(data), signingKeys: signingKeys(data) };
    return { ...bare, type: object.type, data: emptied(data), ...use };
  }
  if (kind === CONFIG_MAP && !isOurs) return { ...bare, data: emptied(object.data) };
  if (kind === POD) return { ...bare, metadata: identified(metadata), ...podParts(object) };
  if (kind === PERSISTENT_VOLUME_CLAIM) return { ...bare, metadata: identified(metadata), ...claimParts(object) };
  if (kind === PERSISTENT_VOLUME) {
    const { uid, name, namespace } = (object.spec as { claimRef?: Partial<ClaimRef> } | undefined)?.claimRef ?? {};
    const { labels: _labels, annotations: _annotations, ...named } = identified(metadata);
    return { ...bare, metadata: named, spec: { claimRef: { uid, name, namespace } }, status: phaseOf(object) };
  }
  if (MADE.includes(kind) && !isOurs) return bare;
  return { ...object, ...bare };
}

interface ClaimRef {
  readonly uid: string;
  readonly name: string;
  readonly namespace: string;
}

/** Of things that others own and there are thousands of. */
function identified(metadata: Watched['metadata']): Watched['metadata'] {
  const { name, namespace, uid, resourceVersion, creationTimestamp, deletionTimestamp, labels, annotations } = metadata;
  const some = { name, namespace, uid, resourceVersion, creationTimestamp, deletionTimestamp, labels, annotations };
  // One shape for all of them: fields that are not there are undefined, and read as such.
  return some as Watched['metadata'];
}

/** What the plan reads of a claim (`ClaimObject`). */
function claimParts({ spec = {}, status = {} }: Watched): object {
  const { volumeName, storageClassName, resources } = spec as NonNullable<ClaimObject['spec']>;
  const { phase, capacity, conditions } = status as NonNullable<ClaimObject['status']>;
  return {
    spec: { volumeName, storageClassName, resources: { requests: resources?.requests } },
    status: { phase, capacity, conditions },
  };
}

/** Of a pod's conditions those that are read. */
const POD_CONDITIONS: readonly string[] = ['Ready', 'PodScheduled'];

/** What the plan (`PodObject`), the signing endpoint and the questions to members read. */
function podParts({ spec = {}, status = {} }: Watched): object {
  const { nodeName, serviceAccountName, containers = [] } = spec as PodObject['spec'] & { serviceAccountName?: string };
  const { phase, podIP, conditions, containerStatuses = [] } = status as NonNullable<PodObject['status']>;
  return {
    spec: { nodeName, serviceAccountName, containers: containers.map(({ name, image }) => ({ name, image })) },
    status: {
      ...{ phase, podIP },
      conditions: conditions
        ?.filter(({ type }) => POD_CONDITIONS.includes(type))
        .map(({ type, status: is, reason, message }) => ({ type, status: is, reason, message })),
      containerStatuses: containerStatuses.map(({ name, ready, restartCount, state, lastState }) => ({
        ...{ name, ready, restartCount, state, lastState },
      })),
    },
  };
}

const phaseOf = (object: Watched): object => ({
  phase: (object.status as { phase?: unknown } | undefined)?.phase,
});
