/**
 * A MailCluster of real processes for one test: `mailcluster run` with a resource text in a directory of its own, read back through
 * the documented interfaces only (run.json, Maildir, `mailcluster store inspect`). Owns: the runner process and the directory.
 * Promise: after `[Symbol.asyncDispose]` nothing of it runs and nothing is left on disk, also after a failed start.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Target } from '../../examples/demo/smtp-connection.ts';
import { parseRunFile, type RunFile } from '../../operator/local/run-file.ts';
import { storeCommand } from '../../transport/inspect.ts';
import { ROOT } from '../house/sources.ts';
import { until } from '../house/until.ts';
import type { Delivered, LedgerEntry, StoredCopyView } from './ledger.ts';

const CLI = join(ROOT, 'operator/cli/main.ts');
const run = promisify(execFile);

export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** One `mailcluster` command to its end. */
export async function mailcluster(...args: string[]): Promise<CommandResult> {
  return await program(CLI, ...args);
}

/** One program of ours to its end. */
export async function program(file: string, ...args: string[]): Promise<CommandResult> {
  const options = { timeout: 60_000, maxBuffer: 256 * 1024 * 1024 };
  return await run(process.execPath, [file, ...args], options).then(
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

export class Cluster {
  readonly directory: string;
  readonly state: string;
  readonly maildirs: string;
  readonly resourceFile: string;
  readonly #options: ClusterOptions;
  #runner: ChildProcess | null = null;
  #output = '';
  /** Every pid ever seen in run.json: what clean-up must find gone. */
  readonly #pids = new Set<number>();

  constructor(directory: string, options: ClusterOptions) {
    this.directory = directory;
    this.state = join(directory, 'state');
    this.maildirs = join(directory, 'maildirs');
    this.resourceFile = join(directory, 'cluster.yaml');
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
        return existsSync(this.#runFilePath) && (await this.runFile()).pid === runner.pid ? ('ready' as const) : null;
      },
      { deadlineMs: 60_000 },
    );
    if (ended === 'ended') {
      const said = `${this.#output}\n${await this.lastWords()}`;
      throw new Error(`mailcluster run ended (${runner.exitCode ?? runner.signalCode}):\n${said}`);
    }
  }

  /** Ends of the logs of the processes: the directory is gone when somebody reads the failure. */
  async lastWords(): Promise<string> {
    const directory = join(this.state, 'logs');
    const names = existsSync(directory) ? await readdir(directory) : [];
    const ends = names.map(
      async (name) => `--- ${name}\n${(await readFile(join(directory, name), 'utf8')).slice(-1_000)}`,
    );
    return (await Promise.all(ends)).join('\n');
  }

  /** run.json says that every process serves; they also have to find each other before the first message is not answered 451. */
  async connected(): Promise<void> {
    await until(
      'every process to know every other',
      async () => {
        const { transports, frontends } = await this.runFile();
        const known = frontends.map(({ metricsUrl }) => transportsAvailable(metricsUrl));
        if ((await Promise.all(known)).some((count) => count !== transports.length)) return false;
        // All test clusters have one boundary: everybody has everybody else as a peer.
        return (await this.total('mailcluster_peer_up')) === transports.length * (transports.length - 1);
      },
      { deadlineMs: 30_000 },
    );
  }

  /** Waits until every front end has at least two transports to choose from; after the deadline it goes on all the same. */
  async somewhereToGo(deadlineMs: number): Promise<void> {
    const open = async (): Promise<boolean> => {
      const { frontends } = await this.runFile();
      const known = await Promise.all(frontends.map(({ metricsUrl }) => transportsAvailable(metricsUrl)));
      return known.every((count) => count >= 2);
    };
    await until('transports to choose from', open, { deadlineMs, everyMs: 100 }).catch(() => undefined);
  }

  get runnerPid(): number {
    const pid = this.#runner?.pid;
    if (pid === undefined) throw new Error('the cluster is not running');
    return pid;
  }

  /** Last words of the runner and its children, for failure messages. */
  get output(): string {
    return this.#output;
  }

  get #runFilePath(): string {
    return join(this.state, 'run.json');
  }

  /** Reads the resource file again (SIGHUP) after writing `resources` into it. */
  async change(resources: string): Promise<void> {
    await writeFile(this.resourceFile, resources);
    process.kill(this.runnerPid, 'SIGHUP');
  }

  async runFile(): Promise<RunFile> {
    const text = await readFile(this.#runFilePath, 'utf8');
    const file = parsed(text);
    for (const { pid } of [...file.frontends, ...file.transports, ...file.stores])
      if (pid !== null) this.#pids.add(pid);
    return file;
  }

  /** Where to send; a snapshot, read it again after a kill. */
  targets(): readonly Target[] {
    return parsed(readFileSync(this.#runFilePath, 'utf8')).listeners.map(({ host, port }) => ({
      host,
      port,
    }));
  }

  /** Null while the runner is about to start it again. */
  async pidOf(name: string): Promise<number | null> {
    const { frontends, transports, stores } = await this.runFile();
    const found = [...frontends, ...transports, ...stores].find((one) => one.name === name);
    if (found === undefined) throw new Error(`no process ${name} in run.json`);
    return found.pid;
  }

  /** SIGKILLs a front end or transport by name and returns its pid once it is dead. */
  async kill(name: string): Promise<number> {
    const pid = await this.pidOf(name);
    if (pid === null) throw new Error(`${name} is not running (run.json)`);
    process.kill(pid, 'SIGKILL');
    await until(`death of ${name}`, () => !alive(pid), { deadlineMs: 10_000 });
    return pid;
  }

  /** Waits until run.json names another, living pid for `name`. */
  async restarted(name: string, oldPid: number): Promise<void> {
    await until(
      `restart of ${name}`,
      async () => {
        const pid = await this.pidOf(name);
        return pid !== null && pid !== oldPid && alive(pid);
      },
      { deadlineMs: 40_000 },
    );
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

  /** Pids of run.json, past and present, that still live. */
  survivors(): readonly number[] {
    return [...this.#pids].filter(alive);
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

  /** Everything in the Maildir stores below `maildirs`, over all databases and copies. */
  async delivered(): Promise<readonly Delivered[]> {
    const entries = await readdir(this.maildirs, { recursive: true, withFileTypes: true });
    const files = entries.filter((entry) => entry.isFile() && /\/(new|cur)$/.test(entry.parentPath));
    return await Promise.all(
      files.map(async (entry) => ({
        mailbox: decodeMailbox(entry.parentPath.split('/').at(-2) ?? ''),
        file: entry.name,
        bytes: await readFile(join(entry.parentPath, entry.name)),
      })),
    );
  }

  /** Every copy in every queue database, through the offline tool: it reads what is durable, not what a process claims. */
  async stored(): Promise<readonly InspectedCopy[]> {
    const { transports } = await this.runFile();
    const all: InspectedCopy[] = [];
    for (const { name, site, queueDatabaseDirectory } of transports) {
      const { copies, safetyNet } = await inspected(queueDatabaseDirectory);
      for (const copy of [...copies, ...safetyNet]) all.push({ ...copy, member: name, site });
    }
    return all;
  }

  /** A metric summed over its labels and over all transports, or those named; one that is not there counts as 0. */
  async total(metric: string, members?: readonly string[]): Promise<number> {
    const { transports } = await this.runFile();
    const asked = transports.filter(({ name }) => members?.includes(name) ?? true);
    const pages = asked.map(async ({ metricsUrl }) => await (await fetch(metricsUrl)).text());
    const lines = (await Promise.all(pages)).flatMap((page) => page.split('\n'));
    return lines
      .filter((line) => line.startsWith(`${metric}{`) || line.startsWith(`${metric} `))
      .reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
  }

  /**
   * Waits until nothing is on its way, no shadow is held, and each accepted message of the ledger rests in a Primary Safety Net. A live
   * database shows what is known to be synced, a moment late; an empty one therefore says nothing about a message just sent.
   */
  async drained(deadlineMs: number, ledger: readonly LedgerEntry[]): Promise<readonly InspectedCopy[]> {
    const expected = ledger.filter(({ answer }) => answer.kind === 'accepted').map(({ message }) => message.digest);
    let last: readonly InspectedCopy[] = [];
    try {
      return await until(
        'empty queues',
        async () => {
          last = await this.stored();
          const resting = new Set(last.filter(({ queue }) => queue === 'primarySafetyNet').map(({ digest }) => digest));
          const done = last.every(({ where }) => where === 'safetyNet') && expected.every((one) => resting.has(one));
          return done ? last : null;
        },
        { deadlineMs, everyMs: 250 },
      );
    } catch (error) {
      const left = last.filter((copy) => copy.where !== 'safetyNet');
      const shown = left
        .slice(0, 10)
        .map(
          (copy) => `${copy.member} ${copy.id} ${copy.queue} owner ${copy.owner} ${JSON.stringify(copy.recipients)}`,
        );
      const resting = last.length - left.length;
      throw new Error(
        `${String(error)}\n${resting} of ${expected.length} at rest, ${left.length} copies left:\n${shown.join('\n')}\n${this.#output}`,
      );
    }
  }
}

async function transportsAvailable(metricsUrl: string): Promise<number> {
  const page = await (await fetch(metricsUrl)).text();
  return Number(/^mailcluster_proxy_transports_available\{[^}]*\} (\d+)$/m.exec(page)?.[1]);
}

const hasEnded = (child: ChildProcess): boolean => child.exitCode !== null || child.signalCode !== null;

/** A file that does not parse is not there yet for those who wait for it. */
function parsed(text: string): RunFile {
  const file = parseRunFile(JSON.parse(text));
  if (typeof file === 'string') throw new Error(`run.json: ${file}`);
  return file;
}

/** What `mailcluster store inspect -o json` says of a copy; the fields that tests look at. */
export interface InspectedCopy extends StoredCopyView {
  readonly site: string;
  readonly id: string;
  readonly where: 'transit' | 'safetyNet';
  readonly kind: 'message' | 'dsn';
  readonly owner: string;
  readonly from: string;
  readonly to: readonly string[];
  readonly recipients: unknown;
  /** Why it was accepted with one copy, or null. */
  readonly unprotected: string | null;
}

export interface InspectedDatabase {
  readonly identity: string;
  readonly member: string;
  readonly chain: readonly { readonly openCounter: number }[];
  readonly copies: readonly InspectedCopy[];
  readonly safetyNet: readonly InspectedCopy[];
  readonly quarantined: readonly unknown[];
}

/** `mailcluster store inspect DIR -o json`, in this process: tests ask often. */
export async function inspected(directory: string): Promise<InspectedDatabase> {
  const lines: string[] = [];
  const code = await storeCommand(['inspect', directory, '-o', 'json'], (line) => lines.push(line));
  if (code !== 0) throw new Error(`store inspect ${directory}: exit ${code}: ${lines.join('\n').slice(0, 2_000)}`);
  return JSON.parse(lines.join('\n')) as InspectedDatabase;
}

/** The embedded store escapes what a file name cannot hold as %XX. */
const decodeMailbox = (name: string): string => decodeURIComponent(name);

/** False when there is no such process any more. */
export function signal(pid: number, name: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
    throw error;
  }
}

/** False for a zombie too: a killed orphan may wait for a reaper for long (testing.md). */
export function alive(pid: number): boolean {
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return false;
    throw error;
  }
}

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
    readonly spec?: readonly string[];
    readonly queues?: string;
    readonly shadowRedundancy?: string;
  } = {},
): string {
  const { perSite = 2, frontends = 2, listener = 'tls: None', frontend = [], spec = [] } = options;
  const [east, west] = typeof perSite === 'number' ? [perSite, perSite] : perSite;
  const { lmtp = `maildir:${join(directory, 'maildirs', 'db01-east')}` } = options;
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
  copies: [{ name: east, site: east, lmtp: "${lmtp}" }]
  activeCopy: east
`;
}
