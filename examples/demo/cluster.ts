/**
 * The cluster of the demo, seen only as a user sees it: the command `mailcluster`, run.json, the Maildirs. Owns: the runner process
 * and the temporary directory. Promise: after `stop` every process that run.json ever named is gone; nothing outlives this process in
 * order, because the runner's children end with the runner.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { copyFile, cp, mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseRunFile, type RunFile } from '../../operator/local/run-file.ts';
import type { FrontendTarget } from './post.ts';

const ROOT = join(import.meta.dirname, '../..');
const CLI = join(ROOT, 'operator/cli/main.ts');
const RESOURCE = 'examples/two-site-dag.yaml';
const LOOK_EVERY_MS = 100;
const MOST_OUTPUT = 256 * 1024 * 1024;
/** Of one command; a drain on a slow machine takes longest. */
const MOST_MS = 240_000;

export class DemoFailure extends Error {}

export async function waitFor<T>(
  what: string,
  deadlineMs: number,
  look: () => Promise<T | null> | T | null,
  everyMs = LOOK_EVERY_MS,
): Promise<T> {
  const endMs = performance.now() + deadlineMs;
  for (;;) {
    const value = await look();
    if (value !== null) return value;
    if (performance.now() > endMs) throw new DemoFailure(`waited ${deadlineMs / 1000} s in vain for ${what}`);
    await new Promise<void>((resolve) => setTimeout(resolve, everyMs));
  }
}

export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Of `mailcluster status -o json`. */
export interface Status {
  readonly transports: readonly {
    readonly name: string;
    /** Absent while the transport does not answer. */
    readonly status?: {
      readonly queues: Readonly<Record<string, { readonly messages: number }>>;
      readonly unprotected: number | null;
      readonly lost: readonly { readonly identity: string }[];
    };
  }[];
  readonly problems: readonly string[];
  readonly notices: readonly string[];
}

export interface Waiting {
  readonly queued: number;
  readonly shadow: number;
  readonly problems: readonly string[];
}

/** Of `mailcluster resubmit list -o json`. */
interface ResubmitList {
  readonly requests: readonly {
    readonly metadata: { readonly name: string };
    readonly status: { readonly state?: string };
  }[];
}

export interface TraceEvent {
  readonly atMs: number;
  readonly event: string;
  readonly source: string;
  readonly peer?: string;
  readonly recipients?: readonly string[];
  readonly detail?: string;
}

export class DemoCluster {
  readonly directory: string;
  readonly state: string;
  readonly #pids = new Set<number>();
  #runner: ChildProcess | null = null;

  private constructor(directory: string) {
    this.directory = directory;
    this.state = join(directory, 'state');
  }

  static async prepare(): Promise<DemoCluster> {
    const cluster = new DemoCluster(await mkdtemp(join(tmpdir(), 'mailcluster-demo-')));
    await copyFile(join(ROOT, RESOURCE), cluster.#resourceFile);
    return cluster;
  }

  /** As a person would type them; every later command finds the state directory by this variable. */
  get runCommands(): readonly string[] {
    return [`export MAILCLUSTER_STATE=${this.state}`, `operator/cli/mailcluster run --watch -f ${this.#resourceFile}`];
  }

  /** The example as it is; the failover changes one word of it. */
  get #resourceFile(): string {
    return join(this.directory, 'cluster.yaml');
  }

  get runnerLog(): string {
    return join(this.directory, 'runner.log');
  }

  async start(deadlineMs: number): Promise<RunFile> {
    const log = openSync(this.runnerLog, 'a');
    const args = ['run', '--watch', '-f', this.#resourceFile, '--state', this.state];
    const runner = spawn(process.execPath, [CLI, ...args], { cwd: ROOT, stdio: ['ignore', log, log] });
    closeSync(log);
    this.#runner = runner;
    return await waitFor('the cluster to be ready', deadlineMs, () => {
      if (ended(runner)) throw new DemoFailure(`mailcluster run ended (${runner.exitCode ?? runner.signalCode})`);
      return this.readRunFile();
    });
  }

  /** Null while the runner has not written it. */
  readRunFile(): RunFile | null {
    let text: string;
    try {
      text = readFileSync(join(this.state, 'run.json'), 'utf8');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw error;
    }
    const file = parseRunFile(JSON.parse(text));
    if (typeof file === 'string') throw new DemoFailure(`run.json: ${file}`);
    for (const { pid } of [...file.frontends, ...file.transports, ...file.stores])
      if (pid !== null) this.#pids.add(pid);
    return file;
  }

  runFile(): RunFile {
    const file = this.readRunFile();
    if (file === null) throw new DemoFailure('run.json is gone');
    return file;
  }

  targets(): readonly FrontendTarget[] {
    return this.runFile().listeners.filter((one) => one.name === 'smtp');
  }

  #pidOf(name: string): number {
    const { frontends, transports, stores } = this.runFile();
    const pid = [...frontends, ...transports, ...stores].find((one) => one.name === name)?.pid ?? null;
    if (pid === null) throw new DemoFailure(`${name} is not running`);
    return pid;
  }

  /** SIGKILL: no warning, no chance to write anything. Returns the pid it had. */
  kill(name: string): number {
    return this.signal(name, 'SIGKILL');
  }

  /** SIGSTOP: it stands still, its connections stay open. */
  signal(name: string, signal: 'SIGKILL' | 'SIGSTOP' | 'SIGCONT'): number {
    const pid = this.#pidOf(name);
    process.kill(pid, signal);
    return pid;
  }

  /**
   * SIGKILL, and its directory is moved away before it can be started again: the machine and its disk are gone. The runner, which stands
   * still meanwhile, starts it again on an empty one. `kept`: where the old one is, to be counted; nobody else looks there.
   */
  async destroy(name: string, directory: string): Promise<{ readonly pid: number; readonly kept: string }> {
    const kept = join(this.directory, 'destroyed', name);
    await mkdir(join(this.directory, 'destroyed'), { recursive: true });
    this.#runner?.kill('SIGSTOP');
    try {
      const pid = this.kill(name);
      await waitFor(`${name} to be dead`, 10_000, () => (isAlive(pid) ? null : true));
      await rename(directory, kept);
      await mkdir(directory, { mode: 0o700 });
      return { pid, kept };
    } finally {
      this.#runner?.kill('SIGCONT');
    }
  }

  /** What replication between the copies of a mailbox database does, once: `to` has everything that `from` has. */
  async replicate(from: string, to: string): Promise<void> {
    await cp(from, to, { recursive: true, filter: (path) => !path.endsWith('/.lock') && !path.endsWith('/tmp') });
  }

  /** The change of one word that is a failover, as a person would make it; the runner watches the file. */
  async changeResource(from: string, to: string): Promise<string> {
    const text = await readFile(this.#resourceFile, 'utf8');
    if (!text.includes(from)) throw new DemoFailure(`${this.#resourceFile} has no "${from}"`);
    await writeFile(this.#resourceFile, text.replace(from, to));
    return `sed -i 's/${from}/${to}/' ${this.#resourceFile}`;
  }

  /** The new pid of `name`, or null while it is not back. */
  returned(name: string, oldPid: number): number | null {
    const { frontends, transports, stores } = this.runFile();
    const pid = [...frontends, ...transports, ...stores].find((one) => one.name === name)?.pid ?? null;
    return pid !== null && pid !== oldPid && isAlive(pid) ? pid : null;
  }

  /** `mailcluster ARGS... --state DIR`. */
  command(...args: readonly string[]): Promise<CommandResult> {
    return cli([...args, '--state', this.state]);
  }

  async status(): Promise<Status> {
    const { stdout } = await this.command('status', '-o', 'json');
    return JSON.parse(stdout) as Status;
  }

  /** Null when a transport does not answer: then nobody knows. */
  async waiting(): Promise<Waiting | null> {
    const { transports, problems } = await this.status();
    if (transports.some((one) => one.status === undefined)) return null;
    const count = (queues: readonly string[]): number =>
      transports
        .flatMap((one) => queues.map((queue) => one.status?.queues[queue]?.messages ?? 0))
        .reduce((sum, messages) => sum + messages, 0);
    return {
      queued: count(['submission', 'delivery', 'unreachable', 'poison']),
      shadow: count(['shadow']),
      problems,
    };
  }

  /** Every resubmit request with its state. */
  async resubmissions(): Promise<readonly { readonly name: string; readonly state: string }[]> {
    const { stdout } = await this.command('resubmit', 'list', '-o', 'json');
    const { requests } = JSON.parse(stdout) as ResubmitList;
    return requests.map(({ metadata, status }) => ({ name: metadata.name, state: status.state ?? 'Pending' }));
  }

  /** `mailcluster member drain NAME --wait`; `onLeft` hears how much it has still to hand over. */
  drain(name: string, onLeft: (copies: number) => void): Promise<CommandResult> {
    return cli(['member', 'drain', name, '--wait', '--state', this.state], (line) => {
      const found = /: (\d+) messages?, (\d+) in Safety Net/.exec(line);
      if (found !== null) onLeft(Number(found[1]) + Number(found[2]));
    });
  }

  /** Ids of what rests in both Safety Nets of a member, as it says itself. */
  async safetyNet(name: string): Promise<readonly string[]> {
    const { stdout } = await this.command('safety-net', 'list', '--member', name, '--limit', '1000000', '-o', 'json');
    return stdout
      .split('\n')
      .flatMap((line) => (line === '' ? [] : [(JSON.parse(line) as { readonly id: string }).id]));
  }

  async trace(id: string): Promise<readonly TraceEvent[]> {
    const { stdout } = await this.command('trace', id, '-o', 'json');
    return (JSON.parse(stdout) as { readonly events: readonly TraceEvent[] }).events;
  }

  /** SIGTERM, and SIGKILL for what is left at the deadline. */
  async stop(deadlineMs: number): Promise<void> {
    const runner = this.#runner;
    if (runner === null) return;
    this.readRunFile();
    if (!ended(runner)) runner.kill('SIGTERM');
    try {
      await waitFor('the runner to stop', deadlineMs, () => (ended(runner) ? true : null));
    } finally {
      if (!ended(runner)) runner.kill('SIGKILL');
      for (const pid of this.#pids) if (isAlive(pid)) process.kill(pid, 'SIGKILL');
    }
    this.#runner = null;
  }

  /** For the last moment of this process: no waiting, no mercy. */
  killRunner(): void {
    if (this.#runner !== null && !ended(this.#runner)) this.#runner.kill('SIGKILL');
  }

  async remove(): Promise<void> {
    await rm(this.directory, { recursive: true, force: true });
  }
}

const ended = (child: ChildProcess): boolean => child.exitCode !== null || child.signalCode !== null;

/** False for a zombie too. */
function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ESRCH' || code === 'ENOENT') return false;
    throw error;
  }
}

/** `mailcluster ARGS...`. */
export function cli(args: readonly string[], onLine: (line: string) => void = () => undefined): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    const options = { cwd: ROOT, maxBuffer: MOST_OUTPUT, timeout: MOST_MS };
    const child = execFile(process.execPath, [CLI, ...args], options, (error, stdout, stderr) => {
      const code = error === null ? 0 : error.code;
      // 1 is a finding of the command, no failure of it.
      if (code === 0 || code === 1) resolve({ code, stdout, stderr });
      else reject(new DemoFailure(`mailcluster ${args.join(' ')}: exit ${String(code)}: ${stderr || stdout}`));
    });
    child.stdout?.on('data', (text: string) => text.split('\n').forEach(onLine));
  });
}
