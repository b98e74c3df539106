/**
 * Names, labels, annotations, ports and paths of everything the operator makes. Owns: each of them once; builders, checks, gathering and the
 * signing endpoint refer to these. Promise: names are stable over upgrades, two clusters of one namespace never share one
 * (kubernetes.md section 2, architecture.md section 8). PURE.
 */
import { createHash } from 'node:crypto';
import type { MailCluster } from '../resource/generated.ts';
import type { KubeObject, ObjectMetadata, OwnerReference } from './objects.ts';

/** Identity of a MailCluster object, as far as objects refer to it. */
export interface Owner {
  readonly name: string;
  readonly namespace: string;
  readonly uid: string;
}

export const FIELD_MANAGER = 'mailcluster-operator';
export const FINALIZER = 'mailcluster.dev/volumes';

export const LABEL = {
  name: 'app.kubernetes.io/name',
  instance: 'app.kubernetes.io/instance',
  component: 'app.kubernetes.io/component',
  partOf: 'app.kubernetes.io/part-of',
  managedBy: 'app.kubernetes.io/managed-by',
  cluster: 'mailcluster.dev/cluster',
  role: 'mailcluster.dev/role',
  dag: 'mailcluster.dev/dag',
  site: 'mailcluster.dev/site',
  group: 'mailcluster.dev/group',
} as const;

/** Documented in docs/reference.md. */
export const ANNOTATION = {
  /** On a MailCluster, "true": nothing is written but status. */
  paused: 'mailcluster.dev/paused',
  /** On a MailCluster, names of members with commas between: removed without proof that they are empty. */
  forceRemove: 'mailcluster.dev/force-remove',
  /** On an object that has our name and no owner, "true": take it. */
  adopt: 'mailcluster.dev/adopt',
  /** On the CRD: the schema it has; an operator that knows less stops. */
  schemaVersion: 'mailcluster.dev/schema-version',
  /** On pods: the generation they are pointed to, so that a mounted file is looked at again at once. On kept claims: the last one. */
  generation: 'mailcluster.dev/generation',
  /** On pods: the authorities they are pointed to (`trustOf`), and since when, so that a mounted file is looked at again at once. */
  trust: 'mailcluster.dev/trust',
  /** On pods: the authorities they said they use. */
  trusts: 'mailcluster.dev/trusts',
  /** On what we applied: hash of what we wanted. */
  applied: 'mailcluster.dev/applied',
  /** On the topology ConfigMaps: hash of the document. */
  document: 'mailcluster.dev/document',
  /** On pod templates: what a pod was made from. */
  configHash: 'mailcluster.dev/config-hash',
  resourcesHash: 'mailcluster.dev/resources-hash',
  templateHash: 'mailcluster.dev/template-hash',
  /** On a CertificateSigningRequest of `PERSON_SIGNERS`: NAMESPACE/NAME of the MailCluster it is for. */
  mailCluster: 'mailcluster.dev/mailcluster',
} as const;

/** Version of the schema in crds/ that this operator knows (kubernetes.md K12). */
export const SCHEMA_VERSION = 1;

export const ROLES = ['transport', 'frontend', 'redis'] as const;
export type Role = (typeof ROLES)[number];

export const PORT = { peer: 7701, admin: 7702, metrics: 9090, redis: 6379 } as const;

/** Kinds the operator makes; what of them is ours and wanted no more is deleted. */
export const MADE_KINDS: readonly { readonly apiVersion: string; readonly kind: string }[] = [
  { apiVersion: 'v1', kind: 'ServiceAccount' },
  { apiVersion: 'v1', kind: 'ConfigMap' },
  { apiVersion: 'v1', kind: 'Secret' },
  { apiVersion: 'v1', kind: 'Service' },
  { apiVersion: 'apps/v1', kind: 'StatefulSet' },
  { apiVersion: 'apps/v1', kind: 'Deployment' },
  { apiVersion: 'policy/v1', kind: 'PodDisruptionBudget' },
  { apiVersion: 'networking.k8s.io/v1', kind: 'NetworkPolicy' },
  { apiVersion: 'autoscaling/v2', kind: 'HorizontalPodAutoscaler' },
  { apiVersion: 'monitoring.coreos.com/v1', kind: 'PodMonitor' },
  { apiVersion: 'cert-manager.io/v1', kind: 'Certificate' },
];

/** Where things are in a pod. */
export const PATH = {
  program: '/opt/mailcluster',
  data: '/var/lib/mailcluster',
  config: '/etc/mailcluster/config',
  topology: '/etc/mailcluster/topology',
  trust: '/etc/mailcluster/trust',
  redis: '/etc/mailcluster/redis',
  users: '/etc/mailcluster/users',
  addressLists: '/etc/mailcluster/address-lists',
  connectors: '/etc/mailcluster/connectors',
  smtpTls: '/etc/mailcluster/smtp-tls',
  token: '/var/run/secrets/mailcluster',
  /** A front end keeps its key in memory; a transport with its queue database. */
  volatileTls: '/var/run/mailcluster/tls',
  temporary: '/tmp',
} as const;

export const TOPOLOGY_KEY = 'topology.json';
export const TRUST_KEY = 'ca.crt';
export const TOKEN_FILE = 'token';
export const PASSWORD_KEY = 'password';
/** Audience of the projected token: the API server itself refuses it (kubernetes.md section 2). */
export const SIGNER_AUDIENCE = 'mailcluster.dev/signer';
/** Of certificates for people, by the role that each gives (operator/access-requests.ts). */
export const PERSON_SIGNERS = { viewer: 'mailcluster.dev/viewer', exporter: 'mailcluster.dev/exporter' } as const;
export const CLAIM_TEMPLATE = 'queue';

/** Every name begins with that of the cluster: `concerns` relies on it. */
export const named = {
  topology: (cluster: string) => `${cluster}-topology`,
  topologyBackup: (cluster: string) => `${cluster}-topology-backup`,
  config: (cluster: string) => `${cluster}-config`,
  trust: (cluster: string) => `${cluster}-trust`,
  authority: (cluster: string) => `${cluster}-authority`,
  serviceAccount: (cluster: string) => `${cluster}-pods`,
  smtpService: (cluster: string) => `${cluster}-smtp`,
  redis: (cluster: string) => `${cluster}-redis`,
  policy: (cluster: string, role: Role | 'default-deny') => `${cluster}-${role}`,
  podMonitor: (cluster: string) => `${cluster}-pods`,
} as const;

export const claimName = (member: string): string => `${CLAIM_TEMPLATE}-${member}`;
export const memberOfClaim = (claim: string): string => claim.slice(CLAIM_TEMPLATE.length + 1);

/** Name of the endpoint in TLS; shown and checked, never resolved (RFC 6066). */
export const signerName = (namespace: string, cluster: string): string =>
  `signer.${cluster}.${namespace}.mailcluster.internal`;

export function ownerOf(cluster: MailCluster, metadata: ObjectMetadata): Owner {
  return { name: cluster.metadata.name, namespace: cluster.metadata.namespace, uid: metadata.uid ?? '' };
}

export function labels(owner: Owner, role: string, more: Readonly<Record<string, string>> = {}) {
  return {
    [LABEL.name]: 'mailcluster',
    [LABEL.instance]: owner.name,
    [LABEL.component]: role,
    [LABEL.partOf]: 'mailcluster',
    [LABEL.managedBy]: 'mailcluster-operator',
    [LABEL.cluster]: owner.name,
    ...more,
  };
}

/** By which pods of one role are chosen: never changes, and names no other cluster's. */
export const podSelector = (owner: Owner, role: Role): Readonly<Record<string, string>> => ({
  [LABEL.cluster]: owner.name,
  [LABEL.role]: role,
});

export function ownerReference(owner: Owner): OwnerReference {
  const { name, uid } = owner;
  return { apiVersion: 'mailcluster.dev/v1alpha1', kind: 'MailCluster', name, uid, controller: true };
}

export function metadata(
  owner: Owner,
  name: string,
  role: string,
  more: Readonly<Record<string, string>> = {},
): ObjectMetadata {
  return {
    name,
    namespace: owner.namespace,
    labels: labels(owner, role, more),
    ownerReferences: [ownerReference(owner)],
  };
}

/** What gathering must bring of the kinds above: what is ours, and what only has a name like ours. */
export function concerns(owner: Owner, object: KubeObject): boolean {
  const { name, labels: own, ownerReferences } = object.metadata;
  return (
    own?.[LABEL.cluster] === owner.name ||
    (ownerReferences?.some((one) => one.uid === owner.uid) ?? false) ||
    name.startsWith(`${owner.name}-`)
  );
}

/** JSON with its keys in order: equal things give equal text. Hashes of it stand in annotations, so not a byte of it may ever change (K12). */
export const canonical = (value: unknown): string => JSON.stringify(ordered(value));

/** For a `JSON.stringify` that need not ask back for every field. What is in order already stays what it is. */
function ordered(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value;
  if ('toJSON' in value && typeof value.toJSON === 'function') return ordered(value.toJSON());
  if (Array.isArray(value)) return value.map(ordered);
  const fields = value as Readonly<Record<string, unknown>>;
  const names = Object.keys(fields);
  const isInOrder = names.every((name, index) => index === 0 || (names[index - 1] as string) < name);
  if (!isInOrder) names.sort();
  const inner = names.map((name) => ordered(fields[name]));
  if (isInOrder && inner.every((one, index) => one === fields[names[index] as string])) return value;
  return Object.fromEntries(names.map((name, index) => [name, inner[index]]));
}

export const hashOf = (value: unknown): string =>
  createHash('sha256').update(canonical(value)).digest('hex').slice(0, 32);
