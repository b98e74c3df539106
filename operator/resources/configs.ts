/**
 * The configuration that all pods of one kind share. Owns: where a pod finds its files and on which ports it serves. Promise: what differs from
 * pod to pod is `$(NAME)`, filled in from the pod's environment by `common/pod-config.ts`; no secret is in it. PURE.
 */
import type { AddressListFile, FrontendConfig, ListenerConfig, TransportConfig } from '../../common/config.ts';
import { transportSecrets } from '../connectors.ts';
import type { OperatorSettings } from '../gathered.ts';
import { contentFilter, receiptChecks } from '../receipt-checks.ts';
import type { MailCluster } from '../resource/generated.ts';
import { forUsersOnly, frontendLimits, type PlannedListener } from '../topology.ts';
import {
  named,
  type Owner,
  PASSWORD_KEY,
  PATH,
  PORT,
  signerName,
  TOKEN_FILE,
  TOPOLOGY_KEY,
  TRUST_KEY,
} from './names.ts';

export interface SignerSettings {
  readonly url: string;
  readonly serverName: string;
  readonly tokenFile: string;
}

/** A Redis whose place is in a Secret; read by the pod when it starts. */
export interface LedgerReference {
  readonly urlFile: string;
}

export type RenderedTransport = Omit<TransportConfig, 'ledger' | 'signer'> & {
  readonly signer: SignerSettings;
  readonly ledger: TransportConfig['ledger'] | LedgerReference;
};
/** What is not asked for is left out: an operator that learns a setting renders the same bytes for who does not use it (K12). */
export type RenderedFrontend = Omit<FrontendConfig, 'signer' | 'proxyFrom' | 'sharedLimits'> & {
  readonly signer: SignerSettings;
  readonly sharedLimits?: RenderedTransport['ledger'];
  readonly proxyFrom?: readonly string[];
};

/** All addresses of the pod, of its address family: port-forward comes to the loopback address. */
const ANY = '$(ANY_ADDRESS)';
const NAME = '$(POD_NAME)';

/** Segments are preallocated; the same for every size of volume, so that growing one restarts nobody (K5). */
const STORE = { segmentBytes: 16 << 20, reserveBytes: 32 << 20 } as const;

function signer(owner: Owner, operator: OperatorSettings): SignerSettings {
  const path = `v1/namespaces/${owner.namespace}/clusters/${owner.name}/certificates`;
  return {
    url: `${operator.signerUrl.replace(/\/+$/, '')}/${path}`,
    serverName: signerName(owner.namespace, owner.name),
    tokenFile: `${PATH.token}/${TOKEN_FILE}`,
  };
}

const tlsFiles = (directory: string) => ({
  caFile: `${PATH.trust}/${TRUST_KEY}`,
  certificateFile: `${directory}/tls.crt`,
  keyFile: `${directory}/tls.key`,
});

export const serviceDomain = (service: string, owner: Owner, operator: OperatorSettings): string =>
  `${service}.${owner.namespace}.svc.${operator.clusterDomain}`;

function ledger(cluster: MailCluster, owner: Owner, operator: OperatorSettings): RenderedTransport['ledger'] {
  const { mode, urlSecretRef } = cluster.spec.redis;
  if (mode === 'None') return null;
  if (mode === 'External') return urlSecretRef === undefined ? null : { urlFile: `${PATH.redis}/${urlSecretRef.key}` };
  return {
    host: serviceDomain(named.redis(owner.name), owner, operator),
    port: PORT.redis,
    tls: false,
    username: null,
    passwordFile: `${PATH.redis}/${PASSWORD_KEY}`,
  };
}

/** `group`: the headless Service of the StatefulSet, under which each pod has a name of its own. */
export function transportConfig(
  cluster: MailCluster,
  owner: Owner,
  operator: OperatorSettings,
  group: string,
): RenderedTransport {
  return {
    name: NAME,
    topologyFile: `${PATH.topology}/${TOPOLOGY_KEY}`,
    queueDatabaseDirectory: `${PATH.data}/queue`,
    tls: tlsFiles(`${PATH.data}/tls`),
    signer: signer(owner, operator),
    listen: { host: ANY, port: PORT.peer },
    admin: { host: ANY, port: PORT.admin },
    metrics: { host: ANY, port: PORT.metrics },
    hostname: `${NAME}.${serviceDomain(group, owner, operator)}`,
    store: STORE,
    ledger: ledger(cluster, owner, operator),
    ...(transportSecrets(cluster).length === 0 ? {} : { credentialsDirectory: PATH.connectors }),
    logLevel: cluster.spec.logLevel,
  };
}

/** Ports of a pod are above 1024; the Service has the well-known ones. Distinct, whatever was chosen there. */
export function targetPorts(listeners: readonly PlannedListener[]): ReadonlyMap<string, number> {
  const taken = new Set<number>([PORT.metrics]);
  const targets = new Map<string, number>();
  // Who keeps its own port comes first, so that nobody else is put there.
  const high = (one: PlannedListener): boolean => one.port > 1024;
  for (const listener of [...listeners.filter(high), ...listeners.filter((one) => !high(one))]) {
    let port = high(listener) ? listener.port : 10_000 + listener.port;
    while (taken.has(port)) port = port === 65_535 ? 1_025 : port + 1;
    taken.add(port);
    targets.set(listener.name, port);
  }
  return targets;
}

export function frontendConfig(
  cluster: MailCluster,
  owner: Owner,
  operator: OperatorSettings,
  site: string,
): RenderedFrontend {
  const { listeners, tlsSecretRef, proxyProtocol } = cluster.spec.frontend;
  const ports = targetPorts(listeners);
  const shared = ledger(cluster, owner, operator);
  const lists = addressLists(cluster);
  const smtpHost = serviceDomain(named.smtpService(owner.name), owner, operator);
  return {
    name: NAME,
    site,
    topologyFile: `${PATH.topology}/${TOPOLOGY_KEY}`,
    tls: tlsFiles(PATH.volatileTls),
    signer: signer(owner, operator),
    smtpTls:
      tlsSecretRef === undefined
        ? null
        : { certificateFile: `${PATH.smtpTls}/tls.crt`, keyFile: `${PATH.smtpTls}/tls.key` },
    listeners: listeners.map(
      (one): ListenerConfig => ({
        name: one.name,
        host: ANY,
        port: ports.get(one.name) ?? one.port,
        tls: one.tls,
        relayFrom: one.relayFrom,
        // A mounted Secret, one key per user (common/smtp/users-directory.ts).
        usersFile: one.auth === undefined ? null : `${PATH.users}/${one.auth.secretRef.name}`,
        ...forUsersOnly(one),
        ...receiptChecks(one, smtpHost),
        ...contentFilter(one),
      }),
    ),
    ...(proxyProtocol === undefined ? {} : { proxyFrom: proxyProtocol.trustedCIDRs }),
    metrics: { host: ANY, port: PORT.metrics },
    hostname: `${NAME}.${smtpHost}`,
    ...(lists.length === 0 ? {} : { addressLists: lists }),
    limits: frontendLimits(cluster),
    ...(shared === null ? {} : { sharedLimits: shared }),
    logLevel: cluster.spec.logLevel,
  };
}

export const addressListPath = (list: string): string => `${PATH.addressLists}/${list}`;

function addressLists(cluster: MailCluster): readonly AddressListFile[] {
  return (cluster.spec.recipients?.addressLists ?? []).flatMap(({ name, configMapRef, file }) => {
    const path = configMapRef === undefined ? file : `${addressListPath(name)}/${configMapRef.key}`;
    return path === undefined ? [] : [{ name, file: path }];
  });
}

/** Key of the rendered configuration in the ConfigMap. */
export const configFile = (group: string): string => `${group}.json`;
