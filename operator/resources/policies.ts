/**
 * NetworkPolicies: nothing in, nothing out, and then what mail needs (kubernetes.md section 2). Owns: who may talk to whom. Promise: peers, front
 * ends and operator are told by label; where names must be resolved (mailbox stores, smart hosts) only the port is known, so only the
 * port is limited. Probes come from the node and are let in by Kubernetes itself. PURE.
 */
import { isIP } from 'node:net';
import type { TopologyDocument } from '../../common/config.ts';
import type { OperatorSettings } from '../gathered.ts';
import { contentFilter } from '../receipt-checks.ts';
import type { MailCluster } from '../resource/generated.ts';
import { targetPorts } from './configs.ts';
import { LABEL, metadata, named, type Owner, PORT, podSelector, type Role } from './names.ts';
import type { KubeObject } from './objects.ts';

const tcp = (...ports: readonly number[]) =>
  [...new Set(ports)].sort((a, b) => a - b).map((port) => ({ protocol: 'TCP', port }));
const pods = (owner: Owner, role: Role) => ({ podSelector: { matchLabels: podSelector(owner, role) } });

const udpAndTcp = (ports: readonly number[]) => ({
  ports: ports.flatMap((port) => [
    { protocol: 'UDP', port },
    { protocol: 'TCP', port },
  ]),
});

/** To wherever cluster DNS is: node-local caches have no label. */
const DNS = udpAndTcp([53]);

const operatorPeer = (operator: OperatorSettings) => ({
  namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': operator.namespace } },
  podSelector: { matchLabels: operator.podLabels },
});

const toSigner = (operator: OperatorSettings) => ({
  to: [operatorPeer(operator)],
  ports: tcp(operator.signerPort),
});

/** Anybody may scrape: the endpoint only reads and names nobody (observability.md). */
const METRICS_IN = { ports: tcp(PORT.metrics) };

function policy(owner: Owner, role: Role, ingress: readonly object[], egress: readonly object[]): KubeObject {
  return {
    apiVersion: 'networking.k8s.io/v1',
    kind: 'NetworkPolicy',
    metadata: metadata(owner, named.policy(owner.name, role), role),
    spec: {
      podSelector: { matchLabels: podSelector(owner, role) },
      policyTypes: ['Ingress', 'Egress'],
      ingress,
      egress,
    },
  };
}

function defaultDeny(owner: Owner): KubeObject {
  return {
    apiVersion: 'networking.k8s.io/v1',
    kind: 'NetworkPolicy',
    metadata: metadata(owner, named.policy(owner.name, 'default-deny'), 'policy'),
    spec: { podSelector: { matchLabels: { [LABEL.cluster]: owner.name } }, policyTypes: ['Ingress', 'Egress'] },
  };
}

function deliveryPorts(document: TopologyDocument): readonly number[] {
  const stores = document.databases.flatMap(({ copies }) => copies.map(({ lmtp }) => lmtp.port));
  const relays = document.sendConnectors.flatMap(({ smartHosts }) => smartHosts.map(({ port }) => port));
  const mx = document.sendConnectors.flatMap((connector) => connector.mx?.port ?? []);
  // Policies of receiving domains come from them (RFC 8461 3.3).
  const policies = document.sendConnectors.some((connector) => connector.mx?.mtaSts === true) ? [443] : [];
  return [...stores, ...relays, ...mx, ...policies];
}

/** Name servers that listen elsewhere: 192.0.2.53:5353, [2001:db8::53]:5353. */
function toNameServers(servers: readonly string[]): readonly object[] {
  const own = servers.filter((server) => isIP(server) === 0).map((server) => Number(/:(\d+)$/.exec(server)?.[1] ?? 53));
  const ports = [...new Set(own)].filter((port) => port !== 53).sort((a, b) => a - b);
  return ports.length === 0 ? [] : [udpAndTcp(ports)];
}

/** They may be named: only their ports are known. */
function toFilters(cluster: MailCluster): readonly object[] {
  const asked = cluster.spec.frontend.listeners.flatMap((one) => contentFilter(one).contentFilter?.port ?? []);
  return asked.length === 0 ? [] : [{ ports: tcp(...asked) }];
}

function toRedis(cluster: MailCluster, owner: Owner): readonly object[] {
  const { mode } = cluster.spec.redis;
  if (mode === 'None') return [];
  if (mode === 'Managed') return [{ to: [pods(owner, 'redis')], ports: tcp(PORT.redis) }];
  // Its place is in a Secret, whose value the operator does not read.
  return [{ ports: [{ protocol: 'TCP' }] }];
}

export function networkPolicies(
  cluster: MailCluster,
  owner: Owner,
  operator: OperatorSettings,
  document: TopologyDocument,
): readonly KubeObject[] {
  const peers = { to: [pods(owner, 'transport')], ports: tcp(PORT.peer) };
  const delivery = deliveryPorts(document);
  const transport = policy(
    owner,
    'transport',
    [
      { from: [pods(owner, 'transport'), pods(owner, 'frontend')], ports: tcp(PORT.peer) },
      { from: [operatorPeer(operator)], ports: tcp(PORT.admin) },
      METRICS_IN,
    ],
    [
      DNS,
      ...toNameServers(document.sendConnectors.flatMap((connector) => connector.mx?.dnsServers ?? [])),
      peers,
      toSigner(operator),
      ...(delivery.length === 0 ? [] : [{ ports: tcp(...delivery) }]),
      ...toRedis(cluster, owner),
    ],
  );
  const listeners = [...targetPorts(cluster.spec.frontend.listeners).values()];
  const asked = cluster.spec.frontend.listeners.flatMap((one) => one.authenticationResults?.dnsServers ?? []);
  const frontend = policy(
    owner,
    'frontend',
    [{ ports: tcp(...listeners) }, METRICS_IN],
    [DNS, ...toNameServers(asked), peers, toSigner(operator), ...toFilters(cluster), ...toRedis(cluster, owner)],
  );
  const redis = policy(
    owner,
    'redis',
    [{ from: [pods(owner, 'transport'), pods(owner, 'frontend')], ports: tcp(PORT.redis) }],
    [],
  );
  return [defaultDeny(owner), transport, frontend, ...(cluster.spec.redis.mode === 'Managed' ? [redis] : [])];
}
