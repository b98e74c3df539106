/**
 * A MailCluster of real processes for one test: `mailcluster run` with a resource text in a directory of its own, read back through
 * the documented interfaces only (run.json, Maildir, `mailcluster store inspect`). Owns: the runner process and the directory.
 * Promise: after `[Symbol.asyncDispose]` nothing of it runs and nothing is left on disk, also after a failed start.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { ROOT } from '../house/sources.ts';
import { until } from '../house/until.ts';
import { alive, ClusterView, signal } from './cluster-view.ts';

export { alive, type InspectedCopy, type InspectedDatabase, inspected, signal } from './cluster-view.ts';

const CLI = join(ROOT, 'operator/cli/main.ts');
/** As a person starts it: begins in a third of the time from the second on. */
const COMMAND = join(ROOT, 'operator/cli/mailcluster');
const run = promisify(execFile);

export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** One `mailcluster` command to its end. */
export async function mailcluster(...args: string[]): Promise<CommandResult> {
  return await ended(COMMAND, args);
}

/** One program of ours to its end. */
export async function program(file: string, ...args: string[]): Promise<CommandResult> {
  return await ended(process.execPath, [file, ...args]);
}

async function ended(file: string, args: readonly string[]): Promise<CommandResult> {
  const options = { timeout: 60_000, maxBuffer: 256 * 1024 * 1024 };
  return await run(file, args, options).then(
    ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
    (error: Error & { code?: number | string; stdout?: string; stderr?: string }) => {
      if (typeof error.code !== 'number') throw error;
      return { code: error.code, stdout: error.stdout ?? '', stderr: error.stderr ?? '' };
    },
  );
}

/** `resources` gets the directory in which a `maildir:` store may live. */
export async function startCluster(
  resources: (directory: string) => string,
  options: ClusterOptions = {},
): Promise<Cluster> {
  const directory = await mkdtemp(join(tmpdir(), 'mailcluster-process-'));
  const cluster = new Cluster(directory, options);
  try {
    await mkdir(cluster.maildirs);
    await writeFile(cluster.resourceFile, resources(directory));
    await cluster.start();
    await cluster.connected();
    return cluster;
  } catch (error) {
    await cluster[Symbol.asyncDispose]();
    throw error;
  }
}

export interface ClusterOptions {
  /** Further arguments of `mailcluster run`. */
  readonly args?: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
}

export class Cluster extends ClusterView {
  readonly #options: ClusterOptions;
  #runner: ChildProcess | null = null;
  #output = '';

  constructor(directory: string, options: ClusterOptions) {
    super(directory);
    this.#options = options;
  }

  /** Starts the runner and waits until it has said that all is ready; again after `stop` or `killRunner` on the same state. */
  async start(): Promise<void> {
    const { args = [], environment = {} } = this.#options;
    const runner = spawn(process.execPath, [CLI, 'run', '-f', this.resourceFile, '--state', this.state, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...environment },
    });
    this.#runner = runner;
    this.#output = '';
    for (const stream of [runner.stdout, runner.stderr]) {
      stream.on('data', (chunk: Buffer) => {
        this.#output = `${this.#output}${chunk.toString()}`.slice(-16_384);
      });
    }
    const ended = await until(
      'run.json',
      async () => {
        if (hasEnded(runner)) return 'ended' as const;
        return existsSync(this.runFilePath) && (await this.runFile()).pid === runner.pid ? ('ready' as const) : null;
      },
      { deadlineMs: 60_000 },
    );
    if (ended === 'ended') {
      const said = `${this.#output}\n${await this.lastWords()}`;
      throw new Error(`mailcluster run ended (${runner.exitCode ?? runner.signalCode}):\n${said}`);
    }
  }

  get runnerPid(): number {
    const pid = this.#runner?.pid;
    if (pid === undefined) throw new Error('the cluster is not running');
    return pid;
  }

  /** Last words of the runner and its children, for failure messages. */
  override get output(): string {
    return this.#output;
  }

  /** Reads the resource file again (SIGHUP) after writing `resources` into it. */
  async change(resources: string): Promise<void> {
    await writeFile(this.resourceFile, resources);
    process.kill(this.runnerPid, 'SIGHUP');
  }

  /**
   * SIGKILLs a transport and empties its queue directory before anybody can start it again on the old one: the runner stands still
   * meanwhile. It starts the transport again afterwards, with a volume that is new.
   */
  async destroy(name: string): Promise<void> {
    const { transports } = await this.runFile();
    const directory = transports.find((one) => one.name === name)?.queueDatabaseDirectory;
    if (directory === undefined) throw new Error(`no transport ${name}`);
    signal(this.runnerPid, 'SIGSTOP');
    try {
      await this.kill(name);
      await rm(directory, { recursive: true });
      await mkdir(directory);
    } finally {
      signal(this.runnerPid, 'SIGCONT');
    }
  }

  /** SIGKILLs the runner and waits until its children are gone as well. Returns how many there were. */
  async killRunner(): Promise<number> {
    const pid = this.runnerPid;
    const { frontends, transports, stores } = await this.runFile();
    const children = [...frontends, ...transports, ...stores].flatMap((one) => one.pid ?? []);
    signal(pid, 'SIGKILL');
    await until('death of the runner', () => !alive(pid), { deadlineMs: 10_000 });
    this.#runner = null;
    await until('the children to follow their runner', () => this.survivors().length === 0, { deadlineMs: 30_000 });
    return children.length;
  }

  /** SIGTERM and wait: the ordered stop. Returns the exit code. */
  async stop(): Promise<number | null> {
    const runner = this.#runner;
    if (runner === null) return null;
    if (!hasEnded(runner)) runner.kill('SIGTERM');
    await until('the runner to end', () => hasEnded(runner), { deadlineMs: 90_000 });
    this.#runner = null;
    return runner.exitCode;
  }

  /** Also what a test had stopped (SIGSTOP) or what it left half started. A kill that was not needed is fine: tests end with checks. */
  async [Symbol.asyncDispose](): Promise<void> {
    const runner = this.#runner;
    try {
      const stopped = [...(runner?.pid === undefined ? [] : [runner.pid]), ...this.survivors()].filter(alive);
      for (const pid of stopped) signal(pid, 'SIGCONT');
      await this.stop();
    } finally {
      runner?.kill('SIGKILL');
      for (const pid of this.survivors()) signal(pid, 'SIGKILL');
      await until('every process to be gone', () => this.survivors().length === 0, { deadlineMs: 30_000 });
      await rm(this.directory, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
    }
  }
}

const hasEnded = (child: ChildProcess): boolean => child.exitCode !== null || child.signalCode !== null;

/** Two sites, one DAG, front ends, one mailbox database (Maildir unless `lmtp` says otherwise); `spec` is merged textually at the end. */
export function twoSites(
  directory: string,
  options: {
    /** Transports in each site, or in east and in west. */
    readonly perSite?: number | readonly [east: number, west: number];
    readonly frontends?: number;
    readonly listener?: string;
    readonly frontend?: readonly string[];
    readonly lmtp?: string;
    /** All copies of the mailbox database, in place of the one in east. */
    readonly copies?: readonly { readonly name: string; readonly site: string; readonly lmtp: string }[];
    readonly activeCopy?: string;
    readonly spec?: readonly string[];
    readonly queues?: string;
    readonly shadowRedundancy?: string;
  } = {},
): string {
  const { perSite = 2, frontends = 2, listener = 'tls: None', frontend = [], spec = [] } = options;
  const [east, west] = typeof perSite === 'number' ? [perSite, perSite] : perSite;
  const { lmtp = `maildir:${join(directory, 'maildirs', 'db01-east')}`, activeCopy = 'east' } = options;
  const copies = options.copies ?? [{ name: 'east', site: 'east', lmtp }];
  // Retries and heartbeats within the life of a test; what a test says itself comes later and wins.
  const queues = options.queues ?? 'mailboxRetryInterval: 1s, retryIntervals: [1s]';
  return `apiVersion: mailcluster.dev/v1alpha1
kind: MailCluster
metadata: { name: test }
spec:
  sites: [{ name: east }, { name: west }]
  dags:
    - name: dag1
      members: [{ site: east, replicas: ${east} }, { site: west, replicas: ${west} }]
  frontend:
    replicas: ${frontends}
    listeners: [{ name: smtp, port: 25, ${listener} }]
${frontend.map((line) => `    ${line}\n`).join('')}  acceptedDomains: [{ name: example.com }]
  queues: { ${queues} }
  shadowRedundancy: { heartbeatFrequency: 1s${options.shadowRedundancy === undefined ? '' : `, ${options.shadowRedundancy}`} }
${spec.map((line) => `  ${line}\n`).join('')}---
apiVersion: mailcluster.dev/v1alpha1
kind: MailboxDatabase
metadata: { name: db01 }
spec:
  clusterRef: { name: test }
  dag: dag1
  recipients: { domains: [example.com] }
  copies: [${copies.map((one) => `{ name: ${one.name}, site: ${one.site}, lmtp: "${one.lmtp}" }`).join(', ')}]
  activeCopy: ${activeCopy}
`;
}
