/** From the children's states to `run.json`. Pure. What a process reported about itself wins over what it was told. */
import type { TlsFiles } from '../../common/config.ts';
import type { MembershipPlan } from '../topology.ts';
import { type Binding, type PlannedStore, type PortOf, portPurpose } from './plan.ts';
import { LOOPBACK } from './ports.ts';
import type { RunFile, RunListener } from './run-file.ts';
import type { StatePaths } from './state-directory.ts';
import type { ChildState } from './supervisor.ts';

export interface RunState {
  readonly cluster: string;
  readonly generation: number;
  readonly paths: StatePaths;
  readonly operatorTls: TlsFiles;
  readonly members: MembershipPlan;
  readonly stores: readonly PlannedStore[];
  readonly bindings: readonly Binding[];
  readonly portOf: PortOf;
  childOf(name: string): ChildState;
}

function factOf(child: ChildState, name: string): unknown {
  return child.kind === 'ready' ? child.facts[name] : undefined;
}

function portFact(child: ChildState, name: string, fallback: number): number {
  const value = factOf(child, name);
  return typeof value === 'number' && value > 0 ? value : fallback;
}

function listenerPort(child: ChildState, listener: string, fallback: number): number {
  const listeners = factOf(child, 'listeners');
  if (!Array.isArray(listeners)) return fallback;
  const found: unknown = listeners.find(
    (one: unknown) => typeof one === 'object' && one !== null && 'name' in one && one.name === listener,
  );
  return typeof found === 'object' && found !== null && 'port' in found && typeof found.port === 'number'
    ? found.port
    : fallback;
}

/** A process that is starting does not serve yet: only a ready one has a pid here. */
const pidOf = (child: ChildState): number | null => (child.kind === 'ready' ? child.pid : null);

export function runFileOf(state: RunState): RunFile {
  const { members, paths, portOf } = state;
  const metricsUrl = (name: string): string => {
    const port = portFact(state.childOf(name), 'metricsPort', portOf(portPurpose.metrics(name)));
    return `http://${LOOPBACK}:${port}/metrics`;
  };
  const listeners = state.bindings.map(({ frontend, listener, fixed }): RunListener => {
    const port = fixed?.port ?? portOf(portPurpose.listener(frontend, listener));
    const host = fixed?.host ?? LOOPBACK;
    return { name: listener, host, port: listenerPort(state.childOf(frontend), listener, port), frontend };
  });
  return {
    version: 1,
    cluster: state.cluster,
    pid: process.pid,
    state: paths.root,
    generation: state.generation,
    topologyFile: paths.topology,
    operatorTls: state.operatorTls,
    listeners,
    frontends: members.frontends.map(({ name, site }) => {
      return { name, site, pid: pidOf(state.childOf(name)), metricsUrl: metricsUrl(name) };
    }),
    transports: members.transports.map(({ name, dag, site }) => {
      const child = state.childOf(name);
      const adminPort = portFact(child, 'adminPort', portOf(portPurpose.admin(name)));
      return {
        name,
        dag,
        site,
        pid: pidOf(child),
        queueDatabaseDirectory: paths.queue(name),
        adminUrl: `https://${LOOPBACK}:${adminPort}`,
        metricsUrl: metricsUrl(name),
      };
    }),
    stores: state.stores.map(({ name, database, copy, maildir }) => {
      const child = state.childOf(name);
      const port = portFact(child, 'port', portOf(portPurpose.store(name)));
      return { name, database, copy, pid: pidOf(child), host: LOOPBACK, port, maildir };
    }),
  };
}
