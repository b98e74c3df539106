/** What each child needs on this machine: the ports it is given, its configuration, its directory. Pure: from what is wanted to data. */

import type { SecretFiles } from './credentials.ts';
import {
  type Binding,
  frontendConfig,
  type PlannedStore,
  type PortOf,
  portPurpose,
  storeName,
  transportConfig,
} from './plan.ts';
import { LOOPBACK } from './ports.ts';
import type { StatePaths } from './state-directory.ts';
import type { ChildSpec } from './supervisor.ts';
import type { Wanted } from './wanted.ts';

/** The entry files of the programs; tests put small ones in their place. */
export interface ProgramTable {
  readonly transport: string;
  readonly frontend: string;
  readonly store: string;
}

export interface ChildConfig {
  readonly name: string;
  readonly config: object;
  /** To be there before it starts. */
  readonly directory: string | null;
}

/** Of everybody who is planned, also of members that are gone: the document names their address. */
export function portPurposes({ members, stores, bindings }: Wanted): readonly string[] {
  return [
    ...members.transports.flatMap(({ name }) => [
      portPurpose.peer(name),
      portPurpose.admin(name),
      portPurpose.metrics(name),
    ]),
    ...members.frontends.map(({ name }) => portPurpose.metrics(name)),
    ...bindings
      .filter((one: Binding) => one.fixed === null)
      .map(({ frontend, listener }) => portPurpose.listener(frontend, listener)),
    ...stores.map(({ name }) => portPurpose.store(name)),
  ];
}

const storeEndpoint = (portOf: PortOf, store: string): { readonly host: string; readonly port: number } => ({
  host: LOOPBACK,
  port: portOf(portPurpose.store(store)),
});

export const endpointOfCopy = (portOf: PortOf, database: string, copy: string) =>
  storeEndpoint(portOf, storeName(database, copy));

function storeArguments(portOf: PortOf, store: PlannedStore): readonly string[] {
  const { host, port } = storeEndpoint(portOf, store.name);
  return ['--maildir', store.maildir, '--listen', `${host}:${port}`];
}

export function childConfigs(
  { cluster, members, stores, bindings }: Wanted,
  secrets: SecretFiles,
  paths: StatePaths,
  portOf: PortOf,
): readonly ChildConfig[] {
  return [
    ...stores.map((store) => ({
      name: store.name,
      config: { ...store, lmtp: storeEndpoint(portOf, store.name) },
      directory: store.maildir,
    })),
    ...members.transports.map((transport) => ({
      name: transport.name,
      config: transportConfig(cluster, transport, secrets, paths, portOf),
      directory: paths.queue(transport.name),
    })),
    ...members.frontends.map((frontend) => ({
      name: frontend.name,
      config: frontendConfig(cluster, frontend, bindings, secrets, paths, portOf),
      directory: paths.frontend(frontend.name),
    })),
  ];
}

/** In the order in which they are started. */
export function childSpecs(
  { members, stores }: Wanted,
  programs: ProgramTable,
  paths: StatePaths,
  portOf: PortOf,
): readonly ChildSpec[] {
  const env = { NODE_COMPILE_CACHE: paths.cache };
  const spec = (name: string, kind: ChildSpec['kind'], args: () => readonly string[]): ChildSpec => {
    return { name, kind, entry: programs[kind], args, env };
  };
  return [
    ...stores.map((store) => spec(store.name, 'store', () => storeArguments(portOf, store))),
    ...members.transports.map(({ name }) => spec(name, 'transport', () => [paths.config(name)])),
    ...members.frontends.map(({ name }) => spec(name, 'frontend', () => [paths.config(name)])),
  ];
}
