/**
 * The transports of one (DAG, site) or standalone site: StatefulSet, headless Service, disruption budget (kubernetes.md section 2). Owns: their
 * shape. Promise: the controller never deletes a claim and never restarts a pod by itself (Retain, OnDelete): both are the plan's, after
 * proof. PURE.
 */
import { transportSecrets } from '../connectors.ts';
import type { OperatorSettings } from '../gathered.ts';
import type { MailCluster } from '../resource/generated.ts';
import { configFile, transportConfig } from './configs.ts';
import { ANNOTATION, CLAIM_TEMPLATE, LABEL, labels, metadata, named, type Owner, PATH, PORT } from './names.ts';
import type { KubeObject } from './objects.ts';
import { commonMounts, type Mount, podTemplate, type Site, secretMount } from './pods.ts';

export interface TransportGroup {
  readonly name: string;
  readonly dag: string | null;
  readonly site: string;
  readonly boundary: string;
}

/** preStop, then what a transport needs to stop in order (transport/main.ts) and some more. */
const GRACE_SECONDS = 30;

const groupLabels = ({ dag, site }: TransportGroup): Readonly<Record<string, string>> => ({
  [LABEL.site]: site,
  ...(dag === null ? {} : { [LABEL.dag]: dag }),
});

const selector = (owner: Owner, group: TransportGroup): Readonly<Record<string, string>> => ({
  [LABEL.cluster]: owner.name,
  [LABEL.role]: 'transport',
  [LABEL.group]: group.name,
});

/** Where the ledger's password or URL is. */
export function redisMounts(cluster: MailCluster, owner: Owner): readonly Mount[] {
  const { mode, urlSecretRef } = cluster.spec.redis;
  const secret = mode === 'Managed' ? named.redis(owner.name) : urlSecretRef?.name;
  if (mode === 'None' || secret === undefined) return [];
  // Mail does not wait for Redis, nor for a Secret about it (semantics.md S15).
  return [optional('redis', secret, PATH.redis)];
}

/** Its pods start without it, too. */
function optional(name: string, secretName: string, path: string): Mount {
  const mount = secretMount(name, secretName, path);
  return { ...mount, volume: { ...mount.volume, secret: { secretName, defaultMode: 0o440, optional: true } } };
}

/** Volumes have numbers: a name of a Secret can be longer than that of a volume. Mail to other places does not wait for a password. */
export const connectorMounts = (cluster: MailCluster): readonly Mount[] =>
  transportSecrets(cluster).map((secret, at) => optional(`connector-${at}`, secret, `${PATH.connectors}/${secret}`));

export function statefulSet(
  cluster: MailCluster,
  owner: Owner,
  operator: OperatorSettings,
  group: TransportGroup,
  replicas: number,
  site: Site | undefined,
): KubeObject {
  const { storage, resources } = cluster.spec.transport;
  const own = groupLabels(group);
  return {
    apiVersion: 'apps/v1',
    kind: 'StatefulSet',
    metadata: metadata(owner, group.name, 'transport', { ...own, [LABEL.group]: group.name }),
    spec: {
      replicas,
      serviceName: group.name,
      podManagementPolicy: 'Parallel',
      updateStrategy: { type: 'OnDelete' },
      persistentVolumeClaimRetentionPolicy: { whenDeleted: 'Retain', whenScaled: 'Retain' },
      revisionHistoryLimit: 3,
      selector: { matchLabels: selector(owner, group) },
      template: podTemplate({
        owner,
        operator,
        role: 'transport',
        group: group.name,
        site,
        labels: own,
        program: 'transport',
        configFile: configFile(group.name),
        config: transportConfig(cluster, owner, operator, group.name),
        ports: [
          { name: 'peer', containerPort: PORT.peer },
          { name: 'admin', containerPort: PORT.admin },
        ],
        mounts: [...commonMounts(owner), ...redisMounts(cluster, owner), ...connectorMounts(cluster)],
        claims: [{ name: CLAIM_TEMPLATE, mountPath: PATH.data }],
        resources,
        graceSeconds: GRACE_SECONDS,
      }),
      volumeClaimTemplates: [
        {
          // As the API server writes it back.
          apiVersion: 'v1',
          kind: 'PersistentVolumeClaim',
          metadata: { name: CLAIM_TEMPLATE, labels: labels(owner, 'transport', { ...own, [LABEL.group]: group.name }) },
          spec: {
            accessModes: ['ReadWriteOnce'],
            volumeMode: 'Filesystem',
            ...(storage.storageClassName === undefined ? {} : { storageClassName: storage.storageClassName }),
            resources: { requests: { storage: storage.size } },
          },
        },
      ],
    },
  };
}

/** A name for each pod, also while it is not ready: members find each other before they are. */
export function headlessService(owner: Owner, group: TransportGroup): KubeObject {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: metadata(owner, group.name, 'transport', { ...groupLabels(group), [LABEL.group]: group.name }),
    spec: {
      type: 'ClusterIP',
      clusterIP: 'None',
      publishNotReadyAddresses: true,
      selector: selector(owner, group),
      ports: [
        { name: 'peer', port: PORT.peer, targetPort: PORT.peer, protocol: 'TCP' },
        { name: 'admin', port: PORT.admin, targetPort: PORT.admin, protocol: 'TCP' },
      ],
    },
  };
}

/** Closed: the very next eviction is refused. `IfHealthyBudget`: also for pods that are not ready (kubernetes.md K6). */
export function transportBudget(owner: Owner, group: TransportGroup, open: boolean): KubeObject {
  return {
    apiVersion: 'policy/v1',
    kind: 'PodDisruptionBudget',
    metadata: metadata(owner, group.name, 'transport', { ...groupLabels(group), [LABEL.group]: group.name }),
    spec: {
      maxUnavailable: open ? 1 : 0,
      unhealthyPodEvictionPolicy: 'IfHealthyBudget',
      selector: { matchLabels: selector(owner, group) },
    },
  };
}

/** Why a pod differs from what its template says now; null: it does not. Compared by the annotations that `podTemplate` wrote. */
export function annotationsOf(object: KubeObject): Readonly<Record<string, string>> {
  const spec = object.spec as
    | { readonly template?: { readonly metadata?: { readonly annotations?: Readonly<Record<string, string>> } } }
    | undefined;
  return spec?.template?.metadata?.annotations ?? {};
}

export const HASHES = [ANNOTATION.configHash, ANNOTATION.resourcesHash, ANNOTATION.templateHash] as const;
