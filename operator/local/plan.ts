/**
 * What runs on one machine, as data: from the shared topology (`operator/topology.ts`) to the configuration of each process, and to what
 * `run.json` says. Owns: the names of port purposes, the limits of a laptop. No I/O; ports and files were found before.
 */
import { isAbsolute, join } from 'node:path';
import type { FrontendConfig, ListenerConfig, TransportConfig } from '../../common/config.ts';
import { connectorSecrets } from '../connectors.ts';
import { privateKeys } from '../dkim.ts';
import { contentFilter, receiptChecks } from '../receipt-checks.ts';
import type { MailboxDatabase, MailCluster } from '../resource/generated.ts';
import { forUsersOnly, frontendLimits, maildirPath, type PlannedFrontend, type PlannedTransport } from '../topology.ts';
import { CONNECTORS, type SecretFiles, tlsFiles, type WantedSecrets } from './credentials.ts';
import { LOOPBACK } from './ports.ts';
import type { StatePaths } from './state-directory.ts';

/** `--listen NAME=HOST:PORT`, or `--listen FRONTEND/NAME=HOST:PORT`. */
export interface ListenOption {
  readonly frontend: string | null;
  readonly name: string;
  readonly host: string;
  readonly port: number;
}

export interface PlannedStore {
  /** Also the name of its process and log. */
  readonly name: string;
  readonly database: string;
  readonly copy: string;
  readonly maildir: string;
}

export const portPurpose = {
  peer: (transport: string) => `transport/${transport}/peer`,
  admin: (transport: string) => `transport/${transport}/admin`,
  metrics: (name: string) => `${name}/metrics`,
  listener: (frontend: string, listener: string) => `frontend/${frontend}/${listener}`,
  store: (store: string) => `store/${store}/lmtp`,
};

/** Where a listener is bound: as --listen says, else a free loopback port. */
export interface Binding {
  readonly frontend: string;
  readonly listener: string;
  /** Null: a port of ours under `portPurpose.listener`. */
  readonly fixed: { readonly host: string; readonly port: number } | null;
}

/** Segments are preallocated: small ones suit one machine. */
const STORE = { segmentBytes: 16 << 20, reserveBytes: 32 << 20 } as const;

export const storeName = (database: string, copy: string): string => `store-${database}-${copy}`;

/** Embedded stores of the cluster's databases. A relative PATH is below the state directory. */
export function planStores(
  cluster: MailCluster,
  databases: readonly MailboxDatabase[],
  root: string,
): readonly PlannedStore[] {
  return databases
    .filter(
      (one) =>
        one.spec.clusterRef.name === cluster.metadata.name && one.metadata.namespace === cluster.metadata.namespace,
    )
    .flatMap((database) =>
      database.spec.copies.flatMap((copy) => {
        const path = maildirPath(copy.lmtp);
        if (path === null) return [];
        const name = storeName(database.metadata.name, copy.name);
        const maildir = isAbsolute(path) ? path : join(root, path);
        return [{ name, database: database.metadata.name, copy: copy.name, maildir }];
      }),
    );
}

/** Each `--listen` of a name goes to the next front end that has none yet. A string says what is wrong with the options. */
export function bindListeners(
  frontends: readonly PlannedFrontend[],
  options: readonly ListenOption[],
): readonly Binding[] | string {
  const bindings: Binding[] = frontends.flatMap((frontend) =>
    frontend.listeners.map((listener) => ({ frontend: frontend.name, listener: listener.name, fixed: null })),
  );
  for (const option of options) {
    const fits = (one: Binding): boolean =>
      one.listener === option.name && (option.frontend === null || one.frontend === option.frontend);
    const shown = `--listen ${option.frontend === null ? '' : `${option.frontend}/`}${option.name}=${option.host}:${option.port}`;
    if (!bindings.some(fits)) {
      const names = [
        ...new Set(
          bindings.map((one) => (option.frontend === null ? one.listener : `${one.frontend}/${one.listener}`)),
        ),
      ];
      return `${shown}: there is no such listener; there are ${names.join(', ') || 'none'}`;
    }
    const index = bindings.findIndex((one) => fits(one) && one.fixed === null);
    const free = bindings[index];
    if (free === undefined) return `${shown}: every front end has been given one already`;
    if (option.port !== 0) bindings[index] = { ...free, fixed: { host: option.host, port: option.port } };
  }
  return bindings;
}

export function wantedSecrets(cluster: MailCluster): WantedSecrets {
  const { tlsSecretRef, listeners } = cluster.spec.frontend;
  const { mode, urlSecretRef } = cluster.spec.redis;
  return {
    addressLists: cluster.spec.recipients?.addressLists ?? [],
    redisUrl: mode === 'External' && urlSecretRef !== undefined ? urlSecretRef : null,
    smtpTls: tlsSecretRef?.name ?? null,
    connectors: connectorSecrets(cluster),
    dkim: privateKeys(cluster).map(({ secretRef }) => secretRef),
    users: listeners.flatMap((listener) => (listener.auth === undefined ? [] : [listener.auth.secretRef.name])),
  };
}

/** A host name that is ours on this machine only (RFC 6761 6.3). */
const hostname = (name: string): string => `${name}.localhost`;

export type PortOf = (purpose: string) => number;

export function transportConfig(
  cluster: MailCluster,
  transport: PlannedTransport,
  secrets: SecretFiles,
  paths: StatePaths,
  portOf: PortOf,
): TransportConfig {
  const { name } = transport;
  return {
    name,
    topologyFile: paths.topology,
    queueDatabaseDirectory: paths.queue(name),
    tls: tlsFiles(paths, name),
    signer: null,
    listen: { host: LOOPBACK, port: portOf(portPurpose.peer(name)) },
    admin: { host: LOOPBACK, port: portOf(portPurpose.admin(name)) },
    metrics: { host: LOOPBACK, port: portOf(portPurpose.metrics(name)) },
    hostname: hostname(name),
    store: STORE,
    ledger: secrets.ledger,
    credentialsDirectory: join(paths.secrets, CONNECTORS),
    logLevel: cluster.spec.logLevel,
  };
}

export function frontendConfig(
  cluster: MailCluster,
  frontend: PlannedFrontend,
  bindings: readonly Binding[],
  secrets: SecretFiles,
  paths: StatePaths,
  portOf: PortOf,
): FrontendConfig {
  const { name, site } = frontend;
  const listeners = frontend.listeners.map((listener): ListenerConfig => {
    const fixed = bindings.find((one) => one.frontend === name && one.listener === listener.name)?.fixed ?? null;
    const users = listener.auth === undefined ? undefined : secrets.users.get(listener.auth.secretRef.name);
    return {
      name: listener.name,
      host: fixed?.host ?? LOOPBACK,
      port: fixed?.port ?? portOf(portPurpose.listener(name, listener.name)),
      tls: listener.tls,
      relayFrom: listener.relayFrom,
      usersFile: users ?? null,
      ...forUsersOnly(listener),
      ...receiptChecks(listener, hostname(cluster.metadata.name)),
      ...contentFilter(listener),
    };
  });
  return {
    name,
    site,
    topologyFile: paths.topology,
    tls: tlsFiles(paths, name),
    signer: null,
    smtpTls: secrets.smtpTls,
    listeners,
    proxyFrom: cluster.spec.frontend.proxyProtocol?.trustedCIDRs ?? [],
    metrics: { host: LOOPBACK, port: portOf(portPurpose.metrics(name)) },
    hostname: hostname(name),
    addressLists: secrets.addressLists,
    limits: frontendLimits(cluster),
    sharedLimits: secrets.ledger,
    logLevel: cluster.spec.logLevel,
  };
}

/** Said once at start: what a single machine does differently from what the resources ask for. */
export function localNotes(cluster: MailCluster): readonly string[] {
  const { redis } = cluster.spec;
  return [
    ...(redis.mode === 'Managed'
      ? [
          'redis: Managed is treated as None on one machine: each front end counts for itself, each transport remembers what it relayed',
        ]
      : []),
  ];
}
