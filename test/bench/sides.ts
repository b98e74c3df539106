/**
 * The two sides of the bench behind one shape: something that accepts mail on ports, started fresh, whose CPU time and evidence can be
 * read. Each run gets an empty store in a new directory: resetting by deleting makes ext4 slow for minutes (performance.md section 1).
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { createServer, type Server as NetServer } from 'node:net';
import { join } from 'node:path';
import { until } from '../house/until.ts';
import { type Cluster, startCluster, twoSites } from '../process/harness.ts';
import { freePort, isListening } from '../rigs/dovecot.ts';
import { Postfix, type PostfixOptions, postfixTool } from '../rigs/postfix.ts';
import type { Looking } from './looks.ts';
import { cpuByProcess, peakResidentMiB } from './proc.ts';

export interface Evidence {
  /** Messages that the side itself says it holds. */
  readonly messages: number;
  /** Second copies; null where the side makes none. */
  readonly copies: number | null;
  /** Syncs by store, for each store of the side; null where they cannot be read. */
  readonly syncs: ReadonlyMap<string, number> | null;
  /** How often the front ends did what they were to do besides; null where that is nothing, or cannot be read. */
  readonly looked: number | null;
}

export interface Running {
  readonly ports: readonly number[];
  cpu(): ReadonlyMap<string, number>;
  /** Peak resident memory by process, MiB. */
  memory(): ReadonlyMap<string, number>;
  evidence(): Promise<Evidence>;
  /** Whether the work of so many messages is all done: see `Work`. */
  isDone(messages: number): Promise<boolean>;
  stop(): Promise<void>;
}

/**
 * `accept`: done with the answer. `deliver`: every message is with an LMTP server and off the queue; MailCluster's shadow has heard of it, too. `chain`: Postfix passes
 * on to a second Postfix, until that one has all of it - the way to two copies without MailCluster, which has them with its answer.
 */
export type Work = 'accept' | 'deliver' | 'chain';

export interface Side {
  readonly name: 'Postfix' | 'MailCluster';
  start(): Promise<Running>;
}

/** Stock Postfix but for room for 100 sessions, no pause at intake and no reverse look-ups: the stronger opponent. */
const ROOM = [
  'default_process_limit = 200',
  'in_flow_delay = 0',
  'smtpd_peername_lookup = no',
  'message_size_limit = 40000000',
  // As many connections to the next hop as sessions bring mail, from the first message on.
  'default_destination_concurrency_limit = 100',
  'initial_destination_concurrency = 100',
];
/** Straight into the queue `hold`, one synced file: no work of the queue manager, no deferral logs. The rate of accepting, nothing else. */
const STRAIGHT_INTO_HOLD = 'smtpd_recipient_restrictions = check_client_access static:HOLD, permit_mynetworks, reject';
const OWN_ONLY = 'smtpd_recipient_restrictions = permit_mynetworks, reject';

/** Postfix accepting into its queue: one synced copy, delivery deferred; or passing on what it has accepted. */
export function postfixSide(work: Work, looking: Looking | null = null): Side {
  return {
    name: 'Postfix',
    start: async () => {
      const sink = work === 'deliver' ? await Sink.start() : null;
      const own = looking?.postfix ?? [];
      const second = work === 'chain' ? await startPostfix({ kind: 'queue' }) : null;
      const first = await startPostfix(
        sink !== null
          ? { kind: 'deliver', port: sink.port }
          : second !== null
            ? { kind: 'relay', port: second.smtpPort }
            : { kind: 'queue' },
        own,
      );
      const last = second ?? first;
      const roots = [first, second].flatMap((one) => one?.masterPid ?? []);
      const held = (one: Postfix): number => queuedMessages(join(one.directory, 'spool'));
      return {
        ports: [first.smtpPort],
        cpu: () => summed(roots.map((root) => cpuByProcess(root, (_, name) => name))),
        memory: () => new Map(),
        evidence: async () => ({ messages: sink?.messages ?? held(last), copies: null, syncs: null, looked: null }),
        isDone: async (messages) => {
          if (sink !== null) return sink.messages >= messages && held(first) === 0;
          return second === null || (held(second) >= messages && held(first) === 0);
        },
        stop: async () => {
          for (const one of [first, second, sink]) await one?.[Symbol.asyncDispose]();
        },
      };
    },
  };
}

async function startPostfix(role: PostfixOptions['role'], own: readonly string[] = []): Promise<Postfix> {
  const passesOn = role.kind === 'relay' || role.kind === 'deliver';
  const settings = [...ROOM, passesOn ? OWN_ONLY : STRAIGHT_INTO_HOLD, ...own];
  const postfix = await Postfix.start({ role, settings, keepDirectory: true });
  if ('missing' in postfix) throw new Error(postfix.missing);
  return postfix;
}

export function summed(maps: readonly ReadonlyMap<string, number>[]): ReadonlyMap<string, number> {
  const sums = new Map<string, number>();
  for (const [name, ms] of maps.flatMap((map) => [...map])) sums.set(name, (sums.get(name) ?? 0) + ms);
  return sums;
}

/** An LMTP server that takes everything and counts it: `smtp-sink -L -c` of the Postfix package. */
class Sink {
  readonly port: number;
  readonly #child: ChildProcess;
  messages = 0;

  private constructor(port: number, child: ChildProcess) {
    this.port = port;
    this.#child = child;
    child.stdout?.setEncoding('latin1').on('data', (text: string) => {
      const counts = [...text.matchAll(/mesg=(\d+)/g)];
      this.messages = Math.max(this.messages, Number(counts.at(-1)?.[1] ?? 0));
    });
  }

  static async start(): Promise<Sink> {
    const port = await freePort();
    const command = await postfixTool('smtp-sink', ['-L', '-c', `127.0.0.1:${port}`, '200']);
    if ('missing' in command) throw new Error(command.missing);
    const sink = new Sink(port, spawn(command.file, [...command.args], { stdio: ['ignore', 'pipe', 'inherit'] }));
    await until('smtp-sink to listen', () => isListening(port), { deadlineMs: 10_000 });
    return sink;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill('SIGKILL');
    await until('smtp-sink to be gone', async () => !(await isListening(this.port)), { deadlineMs: 10_000 });
  }
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

/** Two sites, one DAG; mail for a store that nobody answers for, so that nothing but accepting happens, or for one that takes everything. */
export function mailclusterSide({ perSite, frontends }: Shape, work: Work, looking: Looking | null = null): Side {
  return {
    name: 'MailCluster',
    start: async () => {
      // Held open until the cluster has its ports, so that nobody else gets it; then closed: a connection is refused at once.
      const sink = work === 'deliver' ? await Sink.start() : null;
      const dead = await reservedPort();
      const cluster = await startCluster((directory) =>
        twoSites(directory, {
          perSite,
          frontends,
          listener: ['tls: None', ...(looking === null ? [] : [looking.listener])].join(', '),
          frontend: ['limits: { maxConnectionsPerClient: 1000 }'],
          lmtp: `127.0.0.1:${sink?.port ?? dead.port}`,
        }),
      ).finally(() => dead.server.close());
      const file = await cluster.runFile();
      const names = new Map<number, string>([[cluster.runnerPid, 'runner']]);
      for (const { pid, site } of file.frontends) if (pid !== null) names.set(pid, `front end ${site}`);
      for (const { pid, site } of file.transports) if (pid !== null) names.set(pid, `transport ${site}`);
      for (const { port } of file.listeners)
        await until(`somebody on port ${port}`, () => isListening(port), { deadlineMs: 20_000 });
      return {
        ports: file.listeners.map(({ port }) => port),
        cpu: () => cpuByProcess(cluster.runnerPid, (pid, name) => names.get(pid) ?? name),
        memory: () => new Map([...names].map(([pid, name]) => [name, peakResidentMiB(pid)])),
        evidence: () => clusterEvidence(cluster, looking?.counted ?? null),
        isDone: async (messages) => {
          if (sink === null) return true;
          if (sink.messages < messages) return false;
          return (await cluster.total('mailcluster_discarded_total')) >= messages;
        },
        stop: async () => {
          await cluster[Symbol.asyncDispose]();
          await sink?.[Symbol.asyncDispose]();
        },
      };
    },
  };
}

async function clusterEvidence(cluster: Cluster, counted: RegExp | null): Promise<Evidence> {
  const { transports, frontends } = await cluster.runFile();
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
    looked: counted === null ? null : await summedLines(frontends, counted),
    syncs: new Map(pages.map(([name, text]) => [name, total(text, 'store_syncs_total')])),
  };
}

async function summedLines(from: readonly { readonly metricsUrl: string }[], wanted: RegExp): Promise<number> {
  const pages = await Promise.all(from.map(async ({ metricsUrl }) => await (await fetch(metricsUrl)).text()));
  const lines = pages.flatMap((page) => page.split('\n')).filter((line) => wanted.test(line));
  return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
}

async function reservedPort(): Promise<{ readonly port: number; readonly server: NetServer }> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no free port');
  return { port: address.port, server };
}
