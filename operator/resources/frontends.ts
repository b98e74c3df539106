/**
 * Front ends: one Deployment per site (a pod learns its site by where it was put, without asking anybody: kubernetes.md section 2), a budget for
 * each, autoscalers when asked, and the one Service in front of all. Owns: their shape and how the total is spread. Promise: a roll never
 * has fewer than wanted. PURE.
 */
import type { OperatorSettings } from '../gathered.ts';
import type { MailCluster } from '../resource/generated.ts';
import { frontendGroupName, planMembers, share } from '../topology.ts';
import { addressListPath, configFile, frontendConfig, targetPorts } from './configs.ts';
import { LABEL, metadata, named, type Owner, PATH, podSelector } from './names.ts';
import type { KubeObject } from './objects.ts';
import { commonMounts, type Mount, memoryMount, podTemplate, type Site, secretMount } from './pods.ts';
import { redisMounts } from './transports.ts';

/** preStop, then the longest a held session may take (frontend/main.ts). */
const GRACE_SECONDS = 90;

export interface FrontendGroup {
  readonly name: string;
  readonly site: Site;
  readonly replicas: number;
  /** Null: a fixed number. */
  readonly autoscaling: { readonly min: number; readonly max: number; readonly targetCPU: number } | null;
}

export function frontendGroups(cluster: MailCluster): readonly FrontendGroup[] {
  const { sites, frontend } = cluster.spec;
  const planned = planMembers(cluster).frontends;
  return sites.map((site, index) => {
    const replicas = planned.filter((one) => one.site === site.name).length;
    const { autoscaling } = frontend;
    const max = autoscaling === undefined ? 0 : share(autoscaling.max, sites.length, index);
    return {
      name: frontendGroupName(cluster, site.name),
      site,
      replicas,
      // An autoscaler cannot begin at none: a site that is to have some later has one.
      autoscaling:
        autoscaling === undefined || max === 0
          ? null
          : { min: Math.max(1, replicas), max, targetCPU: autoscaling.targetCPU },
    };
  });
}

const selector = (owner: Owner, group: FrontendGroup): Readonly<Record<string, string>> => ({
  [LABEL.cluster]: owner.name,
  [LABEL.role]: 'frontend',
  [LABEL.group]: group.name,
});

const groupMetadata = (owner: Owner, group: FrontendGroup) =>
  metadata(owner, group.name, 'frontend', { [LABEL.site]: group.site.name, [LABEL.group]: group.name });

export const usersSecrets = (cluster: MailCluster): readonly string[] => [
  ...new Set(cluster.spec.frontend.listeners.flatMap(({ auth }) => (auth === undefined ? [] : [auth.secretRef.name]))),
];

/** A front end serves without a list; who is only in it hears 451 until it is there. */
const optionalMount = (name: string, configMap: string, path: string): Mount => ({
  volume: { name, configMap: { name: configMap, optional: true } },
  path,
  readOnly: true,
});

function mounts(cluster: MailCluster, owner: Owner): readonly Mount[] {
  const { tlsSecretRef } = cluster.spec.frontend;
  const lists = cluster.spec.recipients?.addressLists ?? [];
  return [
    ...commonMounts(owner),
    memoryMount('tls', PATH.volatileTls),
    ...redisMounts(cluster, owner),
    ...(tlsSecretRef === undefined ? [] : [secretMount('smtp-tls', tlsSecretRef.name, PATH.smtpTls)]),
    ...usersSecrets(cluster).map((name, index) => secretMount(`users-${index}`, name, `${PATH.users}/${name}`)),
    ...lists.flatMap(({ name, configMapRef }, index) =>
      configMapRef === undefined ? [] : [optionalMount(`list-${index}`, configMapRef.name, addressListPath(name))],
    ),
  ];
}

export function deployment(
  cluster: MailCluster,
  owner: Owner,
  operator: OperatorSettings,
  group: FrontendGroup,
): KubeObject {
  const ports = targetPorts(cluster.spec.frontend.listeners);
  return {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: groupMetadata(owner, group),
    spec: {
      // Left to the autoscaler where there is one: writing it would fight.
      ...(group.autoscaling === null ? { replicas: group.replicas } : {}),
      strategy: { type: 'RollingUpdate', rollingUpdate: { maxUnavailable: 0, maxSurge: 1 } },
      progressDeadlineSeconds: 600,
      revisionHistoryLimit: 3,
      selector: { matchLabels: selector(owner, group) },
      template: podTemplate({
        owner,
        operator,
        role: 'frontend',
        group: group.name,
        site: group.site,
        labels: { [LABEL.site]: group.site.name },
        program: 'frontend',
        configFile: configFile(group.name),
        config: frontendConfig(cluster, owner, operator, group.site.name),
        ports: [...ports].map(([name, containerPort]) => ({ name, containerPort })),
        mounts: mounts(cluster, owner),
        claims: [],
        resources: cluster.spec.frontend.resources,
        graceSeconds: GRACE_SECONDS,
      }),
    },
  };
}

export function frontendBudget(owner: Owner, group: FrontendGroup): KubeObject {
  return {
    apiVersion: 'policy/v1',
    kind: 'PodDisruptionBudget',
    metadata: groupMetadata(owner, group),
    spec: {
      maxUnavailable: 1,
      unhealthyPodEvictionPolicy: 'IfHealthyBudget',
      selector: { matchLabels: selector(owner, group) },
    },
  };
}

export function autoscaler(owner: Owner, group: FrontendGroup): KubeObject | null {
  if (group.autoscaling === null) return null;
  const { min, max, targetCPU } = group.autoscaling;
  return {
    apiVersion: 'autoscaling/v2',
    kind: 'HorizontalPodAutoscaler',
    metadata: groupMetadata(owner, group),
    spec: {
      scaleTargetRef: { apiVersion: 'apps/v1', kind: 'Deployment', name: group.name },
      minReplicas: min,
      maxReplicas: max,
      metrics: [
        { type: 'Resource', resource: { name: 'cpu', target: { type: 'Utilization', averageUtilization: targetCPU } } },
      ],
    },
  };
}

export function smtpService(cluster: MailCluster, owner: Owner): KubeObject {
  const { service, listeners } = cluster.spec.frontend;
  const ports = targetPorts(listeners);
  const name = named.smtpService(owner.name);
  const described = metadata(owner, name, 'frontend');
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { ...described, ...(service.annotations === undefined ? {} : { annotations: service.annotations }) },
    spec: {
      type: service.type,
      // The API server refuses it on a Service that is not reachable from outside.
      ...(service.type === 'ClusterIP' ? {} : { externalTrafficPolicy: service.externalTrafficPolicy }),
      selector: podSelector(owner, 'frontend'),
      ports: listeners.map((one) => ({
        name: one.name,
        port: one.port,
        targetPort: ports.get(one.name) ?? one.port,
        protocol: 'TCP',
      })),
    },
  };
}
