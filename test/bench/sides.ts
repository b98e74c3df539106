/**
 * The two sides of the bench behind one shape: something that accepts mail on a port, started fresh, whose CPU time and syncs can be
 * read. Each run gets an empty store in a new directory: resetting by deleting makes ext4 slow for minutes (performance.md section 1).
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { chownSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { until } from '../house/until.ts';
import { type Cluster, startCluster, twoSites } from '../process/harness.ts';
import { cpuByProcess } from './proc.ts';

export interface Running {
  readonly port: number;
  cpu(): ReadonlyMap<string, number>;
  /** Messages safely in the store, and syncs done for them; null where it cannot be read. */
  evidence(): Promise<{ readonly messages: number; readonly syncs: number | null }>;
  stop(): Promise<void>;
}

export interface Side {
  readonly name: string;
  start(): Promise<Running>;
}

/** Unpacked Debian packages: where Postfix' programs are when it is not installed. */
export interface PostfixInstallation {
  readonly prefix: string;
}

export const libraryPath = ({ prefix }: PostfixInstallation): string => join(prefix, 'usr/lib/postfix');

/** Any user that every Debian has and that is neither root nor `default_privs`. */
const MAIL_OWNER = 'mail';

const MAIN_CF = (directory: string, installation: PostfixInstallation): string => `
compatibility_level = 3.6
queue_directory = ${directory}/queue
data_directory = ${directory}/data
command_directory = ${installation.prefix}/usr/sbin
daemon_directory = ${installation.prefix}/usr/lib/postfix/sbin
shlib_directory = no
meta_directory = ${directory}/conf
mail_owner = ${MAIL_OWNER}
setgid_group = games
default_privs = nobody
import_environment = MAIL_CONFIG TZ LANG=C LD_LIBRARY_PATH
myhostname = bench.example.org
mydestination =
mynetworks = 127.0.0.0/8
alias_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtpd_recipient_restrictions = permit_mynetworks, reject
smtpd_relay_restrictions =
smtpd_peername_lookup = no
message_size_limit = 40000000
default_process_limit = 200
in_flow_delay = 0
defer_transports = smtp relay local virtual lmtp
maillog_file = ${directory}/maillog
maillog_file_prefixes = ${directory}
`;

const MASTER_CF = (port: number): string => `
127.0.0.1:${port} inet n - n - - smtpd
pickup   unix  n - n 60    1 pickup
cleanup  unix  n - n -     0 cleanup
qmgr     unix  n - n 300   1 qmgr
rewrite  unix  - - n -     - trivial-rewrite
bounce   unix  - - n -     0 bounce
defer    unix  - - n -     0 bounce
trace    unix  - - n -     0 bounce
verify   unix  - - n -     1 verify
flush    unix  n - n 1000? 0 flush
proxymap unix  - - n -     - proxymap
smtp     unix  - - n -     - smtp
relay    unix  - - n -     - smtp
error    unix  - - n -     - error
retry    unix  - - n -     - error
discard  unix  - - n -     - discard
anvil    unix  - - n -     1 anvil
scache   unix  - - n -     1 scache
postlog  unix-dgram n - n - 1 postlogd
`;

const QUEUES = [
  'incoming',
  'active',
  'deferred',
  'bounce',
  'defer',
  'corrupt',
  'hold',
  'flush',
  'trace',
  'private',
  'saved',
];

/** Postfix accepting into its queue: one synced copy, delivery deferred. Needs root: master switches users. */
export function postfixSide(installation: PostfixInstallation, newDirectory: () => string): Side {
  const owner = userIds(MAIL_OWNER);
  return {
    name: 'Postfix',
    start: async () => {
      const directory = newDirectory();
      const port = await freePort();
      const make = (name: string, theirs: boolean): void => {
        mkdirSync(join(directory, name), { recursive: true });
        if (theirs) chownSync(join(directory, name), owner.uid, owner.gid);
      };
      for (const name of ['conf', 'queue', 'queue/pid']) make(name, false);
      for (const name of ['data', ...['maildrop', 'public', ...QUEUES].map((queue) => `queue/${queue}`)])
        make(name, true);
      writeFileSync(join(directory, 'conf/main.cf'), MAIN_CF(directory, installation));
      writeFileSync(join(directory, 'conf/master.cf'), MASTER_CF(port));
      const master = spawn(
        join(installation.prefix, 'usr/lib/postfix/sbin/master'),
        ['-c', join(directory, 'conf'), '-d'],
        {
          env: { PATH: process.env.PATH, LD_LIBRARY_PATH: libraryPath(installation) },
          stdio: ['ignore', 'ignore', 'inherit'],
          // Postfix ends its children by process group: it needs one of its own.
          detached: true,
        },
      );
      const killGroup = (): void => endGroup(master, 'SIGKILL');
      process.once('exit', killGroup);
      await listening(master, port, 'Postfix');
      return {
        port,
        cpu: () => cpuByProcess(master.pid ?? 0, (_, name) => name),
        evidence: async () => ({
          messages: queuedMessages(join(directory, 'queue')),
          syncs: null,
        }),
        stop: async () => {
          endGroup(master, 'SIGTERM');
          await until('Postfix to end', () => master.exitCode !== null || master.signalCode !== null, {
            deadlineMs: 20_000,
          });
          killGroup();
          process.removeListener('exit', killGroup);
        },
      };
    },
  };
}

function userIds(name: string): { readonly uid: number; readonly gid: number } {
  const [, uid, gid] = new RegExp(`^${name}:[^:]*:(\\d+):(\\d+):`, 'm').exec(readFileSync('/etc/passwd', 'utf8')) ?? [];
  if (uid === undefined || gid === undefined) throw new Error(`no user ${name} to run Postfix as`);
  return { uid: Number(uid), gid: Number(gid) };
}

/** In the order in which Postfix moves them on, so that a message on its way is seen at least once; queue ids are unique. */
function queuedMessages(queue: string): number {
  const names = ['incoming', 'active', 'deferred', 'hold'].flatMap((name) =>
    readdirSync(join(queue, name), { recursive: true, encoding: 'utf8' }).map((path) => path.split('/').at(-1) ?? ''),
  );
  return new Set(names.filter((name) => /^[0-9A-F]{8,}$/.test(name))).size;
}

/** Two transports in two sites, one front end; mail for a store that nobody answers for, so that nothing but accepting happens. */
export function mailclusterSide(): Side {
  return {
    name: 'MailCluster',
    start: async () => {
      const deadPort = await freePort();
      const cluster = await startCluster((directory) =>
        twoSites(directory, {
          perSite: 1,
          frontends: 1,
          frontend: ['limits: { maxConnectionsPerClient: 1000 }'],
        }).replace(/lmtp: "[^"]*"/, `lmtp: "127.0.0.1:${deadPort}"`),
      );
      const file = await cluster.runFile();
      const [listener] = file.listeners;
      if (listener === undefined) throw new Error('run.json has no listener');
      const names = new Map(
        [...file.frontends, ...file.transports, ...file.stores].flatMap((one) =>
          one.pid === null ? [] : [[one.pid, one.name] as const],
        ),
      );
      return {
        port: listener.port,
        cpu: () =>
          cpuByProcess(
            cluster.runnerPid,
            (pid, name) => names.get(pid) ?? (pid === cluster.runnerPid ? 'runner' : name),
          ),
        evidence: () => clusterEvidence(cluster),
        stop: () => cluster[Symbol.asyncDispose](),
      };
    },
  };
}

async function clusterEvidence(cluster: Cluster): Promise<{ messages: number; syncs: number }> {
  const { transports } = await cluster.runFile();
  const pages = await Promise.all(transports.map(async ({ metricsUrl }) => await (await fetch(metricsUrl)).text()));
  const sum = (name: string): number =>
    pages
      .flatMap((page) => [...page.matchAll(new RegExp(`^mailcluster_${name}(?:\\{[^}]*\\})? (\\S+)`, 'gm'))])
      .reduce((total, found) => total + Number(found[1]), 0);
  return { messages: sum('messages_accepted_total'), syncs: sum('store_syncs_total') };
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no free port');
  return address.port;
}

async function listening(child: ChildProcess, port: number, name: string): Promise<void> {
  await until(
    `${name} to listen`,
    () =>
      new Promise<boolean>((resolve) => {
        if (child.exitCode !== null) throw new Error(`${name} ended with ${child.exitCode}`);
        const socket = connect(port, '127.0.0.1');
        socket.once('data', () => resolve(socket.destroy() !== null));
        socket.once('error', () => resolve(false));
      }),
    { deadlineMs: 20_000 },
  );
}

function endGroup(leader: ChildProcess, signal: NodeJS.Signals): void {
  if (leader.pid === undefined) return;
  try {
    process.kill(-leader.pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
