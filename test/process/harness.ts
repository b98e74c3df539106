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
import { parseRunFile, type RunFile } from '../../operator/local/run-file.ts';
import { ROOT } from '../house/sources.ts';
import { until } from '../house/until.ts';
import type { Delivered, StoredCopyView } from './ledger.ts';
import type { Target } from './smtp-sender.ts';

const CLI = join(ROOT, 'operator/cli/main.ts');
const run = promisify(execFile);

export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** One `mailcluster` command to its end. */
export async function mailcluster(...args: string[]): Promise<CommandResult> {
  const options = { timeout: 60_000, maxBuffer: 256 * 1024 * 1024 };
  return await run(process.execPath, [CLI, ...args], options).then(
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
  args: readonly string[] = [],
): Promise<Cluster> {
  const directory = await mkdtemp(join(tmpdir(), 'mailcluster-process-'));
  const cluster = new Cluster(directory, args);
  try {
    await mkdir(cluster.maildirs);
    await writeFile(cluster.resourceFile, resources(directory));
    await cluster.start();
    return cluster;
  } catch (error) {
    await cluster[Symbol.asyncDispose]();
    throw error;
  }
}

export class Cluster {
  readonly directory: string;
  readonly state: string;
  readonly maildirs: string;
  readonly resourceFile: string;
  readonly #args: readonly string[];
  #runner: ChildProcess | null = null;
  #output = '';
  /** Every pid ever seen in run.json: what clean-up must find gone. */
  readonly #pids = new Set<number>();

  constructor(directory: string, args: readonly string[]) {
    this.directory = directory;
    this.state = join(directory, 'state');
    this.maildirs = join(directory, 'maildirs');
    this.resourceFile = join(directory, 'cluster.yaml');
    this.#args = args;
  }

  /** Starts the runner and waits for run.json; again after `stop` on the same state. */
  async start(): Promise<void> {
    const before = await this.#runFileText();
    const runner = spawn(
      process.execPath,
      [CLI, 'run', '-f', this.resourceFile, '--state', this.state, ...this.#args],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    );
    this.#runner = runner;
    for (const stream of [runner.stdout, runner.stderr]) {
      stream.on('data', (chunk: Buffer) => {
        this.#output = `${this.#output}${chunk.toString()}`.slice(-16_384);
      });
    }
    await until(
      'run.json',
      async () => {
        if (runner.exitCode !== null || runner.signalCode !== null) return true;
        const now = await this.#runFileText();
        return now !== null && now !== before;
      },
      { deadlineMs: 45_000 },
    );
    if (runner.exitCode !== null || runner.signalCode !== null) {
      throw new Error(`mailcluster run ended (${runner.exitCode ?? runner.signalCode}):\n${this.#output}`);
    }
    await this.runFile();
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

  async #runFileText(): Promise<string | null> {
    const path = join(this.state, 'run.json');
    return existsSync(path) ? await readFile(path, 'utf8') : null;
  }

  async runFile(): Promise<RunFile> {
    const text = await readFile(join(this.state, 'run.json'), 'utf8');
    const file = parsed(text);
    for (const { pid } of [...file.frontends, ...file.transports, ...file.stores])
      if (pid !== null) this.#pids.add(pid);
    return file;
  }

  /** Where to send; a snapshot, read it again after a kill. */
  targets(): readonly Target[] {
    return parsed(readFileSync(join(this.state, 'run.json'), 'utf8')).listeners.map(({ host, port }) => ({
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
      { deadlineMs: 30_000 },
    );
  }

  /** SIGTERM and wait: the ordered stop. Returns the exit code. */
  async stop(): Promise<number | null> {
    const runner = this.#runner;
    if (runner === null) return null;
    if (runner.exitCode === null && runner.signalCode === null) runner.kill('SIGTERM');
    await until('the runner to end', () => runner.exitCode !== null || runner.signalCode !== null, {
      deadlineMs: 30_000,
    });
    this.#runner = null;
    return runner.exitCode;
  }

  /** Pids of run.json, past and present, that still live. */
  survivors(): readonly number[] {
    return [...this.#pids].filter(alive);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.stop();
    } finally {
      this.#runner?.kill('SIGKILL');
      for (const pid of this.survivors()) process.kill(pid, 'SIGKILL');
      await until('every process to be gone', () => this.survivors().length === 0, { deadlineMs: 10_000 });
      await rm(this.directory, { recursive: true, force: true });
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
  async stored(): Promise<readonly StoredCopyView[]> {
    const { transports } = await this.runFile();
    const all: StoredCopyView[] = [];
    for (const { name, queueDatabaseDirectory } of transports) {
      const result = await mailcluster('store', 'inspect', queueDatabaseDirectory, '-o', 'json');
      if (result.code !== 0) throw new Error(`store inspect ${name}: exit ${result.code}: ${result.stderr}`);
      all.push(...copiesOf(name, JSON.parse(result.stdout)));
    }
    return all;
  }
}

/** A file that does not parse is not there yet for those who wait for it. */
function parsed(text: string): RunFile {
  const file = parseRunFile(JSON.parse(text));
  if (typeof file === 'string') throw new Error(`run.json: ${file}`);
  return file;
}

interface InspectedCopy {
  readonly queue: string;
  readonly digest: string;
}

function copiesOf(member: string, document: { readonly copies: readonly InspectedCopy[] }): StoredCopyView[] {
  return document.copies.map(({ queue, digest }) => ({ member, queue, digest }));
}

/** The embedded store escapes what a file name cannot hold as %XX. */
const decodeMailbox = (name: string): string => decodeURIComponent(name);

/** False for a zombie too: a killed orphan may wait for a reaper for long (testing.md). */
export function alive(pid: number): boolean {
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return false;
    throw error;
  }
}

/** Two sites, one DAG of two or four transports, front ends, one mailbox database in Maildir; `spec` is merged textually at the end. */
export function twoSites(
  directory: string,
  options: {
    readonly perSite?: number;
    readonly frontends?: number;
    readonly frontend?: readonly string[];
    readonly spec?: readonly string[];
  } = {},
): string {
  const { perSite = 2, frontends = 2, frontend = [], spec = [] } = options;
  return `apiVersion: mailcluster.dev/v1alpha1
kind: MailCluster
metadata: { name: test }
spec:
  sites: [{ name: east }, { name: west }]
  dags:
    - name: dag1
      members: [{ site: east, replicas: ${perSite} }, { site: west, replicas: ${perSite} }]
  frontend:
    replicas: ${frontends}
    listeners: [{ name: smtp, port: 25, tls: None }]
${frontend.map((line) => `    ${line}\n`).join('')}  acceptedDomains: [{ name: example.com }]
${spec.map((line) => `  ${line}\n`).join('')}---
apiVersion: mailcluster.dev/v1alpha1
kind: MailboxDatabase
metadata: { name: db01 }
spec:
  clusterRef: { name: test }
  dag: dag1
  recipients: { domains: [example.com] }
  copies: [{ name: east, site: east, lmtp: "maildir:${join(directory, 'maildirs', 'db01-east')}" }]
  activeCopy: east
`;
}
