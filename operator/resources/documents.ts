/**
 * What pods read and what belongs to all of them: the topology document in its ConfigMaps, the rendered configuration, the certificates to trust,
 * the ServiceAccount, and what only exists where its kind does. Owns: their shape. Promise: the document is written twice, and each copy says
 * by a hash whether it is what we wrote: the generation must never go back (common/document-refusal.ts). PURE.
 */
import type { TopologyDocument } from '../../common/config.ts';
import { parseJson, parseTopologyDocument } from '../../common/config-parse.ts';
import type { OperatorSettings } from '../gathered.ts';
import type { MailCluster } from '../resource/generated.ts';
import { configFile, frontendConfig, transportConfig } from './configs.ts';
import type { FrontendGroup } from './frontends.ts';
import {
  ANNOTATION,
  canonical,
  hashOf,
  LABEL,
  labels,
  metadata,
  named,
  type Owner,
  PORT,
  TOPOLOGY_KEY,
  TRUST_KEY,
} from './names.ts';
import type { ConfigMapObject, KubeObject } from './objects.ts';
import type { TransportGroup } from './transports.ts';

/** Of an object in etcd (1.5 MiB by default), less what is around the document. */
export const MAX_DOCUMENT_BYTES = 1_000_000;

function configMap(owner: Owner, name: string, role: string, data: Readonly<Record<string, string>>): ConfigMapObject {
  return { apiVersion: 'v1', kind: 'ConfigMap', metadata: metadata(owner, name, role), data };
}

/** `resourceVersion`: the write fails when somebody else wrote meanwhile; absent where it is to be created. */
export function topologyConfigMap(
  owner: Owner,
  name: string,
  document: TopologyDocument,
  resourceVersion: string | undefined,
): ConfigMapObject {
  const object = configMap(owner, name, 'topology', { [TOPOLOGY_KEY]: `${canonical(document)}\n` });
  return {
    ...object,
    metadata: {
      ...object.metadata,
      ...(resourceVersion === undefined ? {} : { resourceVersion }),
      annotations: {
        [ANNOTATION.generation]: String(document.generation),
        [ANNOTATION.document]: hashOf(document),
      },
    },
  };
}

export type ReadTopology =
  | { readonly kind: 'document'; readonly document: TopologyDocument }
  /** Not there, not readable, or not what we wrote. */
  | { readonly kind: 'unusable'; readonly why: string };

export function readTopology(object: ConfigMapObject | undefined): ReadTopology {
  if (object === undefined) return { kind: 'unusable', why: 'is not there' };
  const text = object.data?.[TOPOLOGY_KEY];
  if (text === undefined) return { kind: 'unusable', why: `has no ${TOPOLOGY_KEY}` };
  const parsed = parseJson(parseTopologyDocument, text);
  if (parsed.kind === 'error') return { kind: 'unusable', why: `${parsed.path}: ${parsed.problem}` };
  if (object.metadata.annotations?.[ANNOTATION.document] !== hashOf(parsed.value))
    return { kind: 'unusable', why: 'was changed by somebody else' };
  return { kind: 'document', document: parsed.value };
}

export function configurations(
  cluster: MailCluster,
  owner: Owner,
  operator: OperatorSettings,
  transports: readonly TransportGroup[],
  frontends: readonly FrontendGroup[],
): KubeObject {
  const rendered = [
    ...transports.map(({ name }) => [name, transportConfig(cluster, owner, operator, name)] as const),
    ...frontends.map(({ name, site }) => [name, frontendConfig(cluster, owner, operator, site.name)] as const),
  ];
  const data = Object.fromEntries(rendered.map(([name, config]) => [configFile(name), `${canonical(config)}\n`]));
  return configMap(owner, named.config(owner.name), 'config', data);
}

export const trust = (owner: Owner, trustPem: string): KubeObject =>
  configMap(owner, named.trust(owner.name), 'trust', { [TRUST_KEY]: trustPem });

/** Its token opens nothing: it only says to the signing endpoint which pod asks. */
export const serviceAccount = (owner: Owner): KubeObject => ({
  apiVersion: 'v1',
  kind: 'ServiceAccount',
  metadata: metadata(owner, named.serviceAccount(owner.name), 'pods'),
  automountServiceAccountToken: false,
});

export const authoritySecret = (owner: Owner): KubeObject => ({
  apiVersion: 'v1',
  kind: 'Secret',
  type: 'kubernetes.io/tls',
  metadata: metadata(owner, named.authority(owner.name), 'authority'),
});

/** cert-manager makes the authority: pods' certificates are then part of the issuer's chain. */
export function authorityCertificate(cluster: MailCluster, owner: Owner): KubeObject | null {
  const issuer = cluster.spec.certificates?.issuerRef;
  if (issuer === undefined) return null;
  return {
    apiVersion: 'cert-manager.io/v1',
    kind: 'Certificate',
    metadata: metadata(owner, named.authority(owner.name), 'authority'),
    spec: {
      isCA: true,
      commonName: `MailCluster ${owner.name}`,
      secretName: named.authority(owner.name),
      // By which we know it as the authority of this cluster: of other Secrets we keep the names of their keys only.
      secretTemplate: { labels: labels(owner, 'authority') },
      duration: '8760h0m0s',
      renewBefore: '2160h0m0s',
      // The same key when it is renewed: what it signed before stays good. Another key is for a person to bring in.
      privateKey: { algorithm: 'ECDSA', size: 256, encoding: 'PKCS8', rotationPolicy: 'Never' },
      issuerRef: { group: 'cert-manager.io', kind: issuer.kind, name: issuer.name },
    },
  };
}

export function podMonitor(owner: Owner): KubeObject {
  return {
    apiVersion: 'monitoring.coreos.com/v1',
    kind: 'PodMonitor',
    metadata: metadata(owner, named.podMonitor(owner.name), 'monitoring'),
    spec: {
      selector: {
        matchLabels: { [LABEL.cluster]: owner.name },
        matchExpressions: [{ key: LABEL.role, operator: 'In', values: ['transport', 'frontend'] }],
      },
      podMetricsEndpoints: [{ port: 'metrics', path: '/metrics', scheme: 'http' }],
    },
  };
}

/** Where a member is dialled: its name under the headless Service, which outlives its address (kubernetes.md section 2). */
export const memberHost = (member: string, group: string, owner: Owner, operator: OperatorSettings) => ({
  host: `${member}.${group}.${owner.namespace}.svc.${operator.clusterDomain}`,
  port: PORT.peer,
});
