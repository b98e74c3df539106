/**
 * The two sides of the bench behind one shape: something that accepts mail on ports, started fresh, whose CPU time and evidence can be
 * read. Each run gets an empty store in a new directory: resetting by deleting makes ext4 slow for minutes (performance.md section 1).
 */

import { readdirSync } from 'node:fs';
import { connect, createServer, type Server as NetServer } from 'node:net';
import { join } from 'node:path';
import { until } from '../house/until.ts';
import { type Cluster, startCluster, twoSites } from '../process/harness.ts';
import { Postfix } from '../rigs/postfix.ts';
import { cpuByProcess, peakResidentMiB } from './proc.ts';

export interface Evidence {
  /** Messages that the side itself says it holds. */
  readonly messages: number;
  /** Second copies; null where the side makes none. */
  readonly copies: number | null;
  /** Syncs by store, for each store of the side; null where they cannot be read. */
  readonly syncs: ReadonlyMap<string, number> | null;
}

export interface Running {
  readonly ports: readonly number[];
  cpu(): ReadonlyMap<string, number>;
  /** Peak resident memory by process, MiB. */
  memory(): ReadonlyMap<string, number>;
  evidence(): Promise<Evidence>;
  stop(): Promise<void>;
}

export interface Side {
  readonly name: 'Postfix' | 'MailCluster';
  start(): Promise<Running>;
}

/** Stock Postfix but for room for 100 sessions, no pause at intake and no reverse look-ups: the stronger opponent. */
const SETTINGS = [
  'default_process_limit = 200',
  'in_flow_delay = 0',
  'smtpd_peername_lookup = no',
  'message_size_limit = 40000000',
  // Straight into the queue `hold`, one synced file: no work of the queue manager, no deferral logs. The rate of accepting, nothing else.
  'smtpd_recipient_restrictions = check_client_access static:HOLD, permit_mynetworks, reject',
];

/** Postfix accepting into its queue: one synced copy, delivery deferred. */
export function postfixSide(): Side {
  return {
    name: 'Postfix',
    start: async () => {
      const postfix = await Postfix.start({ role: { kind: 'queue' }, settings: SETTINGS, keepDirectory: true });
      if ('missing' in postfix) throw new Error(postfix.missing);
      const root = postfix.masterPid ?? 0;
      return {
        ports: [postfix.smtpPort],
        cpu: () => cpuByProcess(root, (_, name) => name),
        memory: () => new Map(),
        evidence: async () => ({
          messages: queuedMessages(join(postfix.directory, 'spool')),
          copies: null,
          syncs: null,
        }),
        stop: () => postfix[Symbol.asyncDispose](),
      };
    },
  };
}

/** In the order in which Postfix moves them on, so that a message on its way is seen at least once; queue ids are unique. */
function queuedMessages(spool: string): number {
  const names = ['incoming', 'active', 'deferred', 'hold'].flatMap((name) =>
    readdirSync(join(spool, name), { recursive: true, encoding: 'utf8' }).map((path) => path.split('/').at(-1) ?? ''),
  );
  return new Set(names.filter((name) => /^[0-9A-F]{8,}$/.test(name))).size;
}

export interface Shape {
  readonly perSite: number;
  readonly frontends: number;
}

/** Two sites, one DAG; mail for a store that nobody answers for, so that nothing but accepting happens. */
export function mailclusterSide({ perSite, frontends }: Shape): Side {
  return {
    name: 'MailCluster',
    start: async () => {
      // Held open until the cluster has its ports, so that nobody else gets it; then closed: a connection is refused at once.
      const dead = await reservedPort();
      const cluster = await startCluster((directory) =>
        twoSites(directory, {
          perSite,
          frontends,
          frontend: ['limits: { maxConnectionsPerClient: 1000 }'],
        }).replace(/lmtp: "[^"]*"/, `lmtp: "127.0.0.1:${dead.port}"`),
      ).finally(() => dead.server.close());
      const file = await cluster.runFile();
      const names = new Map<number, string>([[cluster.runnerPid, 'runner']]);
      for (const { pid, site } of file.frontends) if (pid !== null) names.set(pid, `front end ${site}`);
      for (const { pid, site } of file.transports) if (pid !== null) names.set(pid, `transport ${site}`);
      for (const { port } of file.listeners) await listening(port);
      return {
        ports: file.listeners.map(({ port }) => port),
        cpu: () => cpuByProcess(cluster.runnerPid, (pid, name) => names.get(pid) ?? name),
        memory: () => new Map([...names].map(([pid, name]) => [name, peakResidentMiB(pid)])),
        evidence: () => clusterEvidence(cluster),
        stop: () => cluster[Symbol.asyncDispose](),
      };
    },
  };
}

async function clusterEvidence(cluster: Cluster): Promise<Evidence> {
  const { transports } = await cluster.runFile();
  const pages = await Promise.all(
    transports.map(async ({ name, metricsUrl }) => [name, await (await fetch(metricsUrl)).text()] as const),
  );
  const total = (text: string, name: string, label = ''): number =>
    [...text.matchAll(new RegExp(`^mailcluster_${name}(?:\\{[^}]*${label}[^}]*\\})? (\\S+)`, 'gm'))].reduce(
      (sum, found) => sum + Number(found[1]),
      0,
    );
  return {
    messages: pages.reduce((sum, [, text]) => sum + total(text, 'messages_accepted_total'), 0),
    copies: pages.reduce((sum, [, text]) => sum + total(text, 'shadow_attempts_total', 'result="stored"'), 0),
    syncs: new Map(pages.map(([name, text]) => [name, total(text, 'store_syncs_total')])),
  };
}

async function reservedPort(): Promise<{ readonly port: number; readonly server: NetServer }> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no free port');
  return { port: address.port, server };
}

function listening(port: number): Promise<boolean> {
  return until(
    `a greeting on port ${port}`,
    () =>
      new Promise<boolean>((resolve) => {
        const socket = connect(port, '127.0.0.1');
        socket.once('data', () => resolve(socket.destroy() !== null));
        socket.once('error', () => resolve(false));
      }),
    { deadlineMs: 20_000 },
  );
}
