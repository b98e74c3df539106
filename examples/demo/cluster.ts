/**
 * The cluster of the demo, seen only as a user sees it: the command `mailcluster`, run.json, the Maildirs. Owns: the runner process
 * and the temporary directory. Promise: after `stop` every process that run.json ever named is gone; nothing outlives this process in
 * order, because the runner's children end with the runner.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseRunFile, type RunFile, type RunTransport } from '../../operator/local/run-file.ts';
import type { DatabaseCopy, MailboxFile } from './audit.ts';
import { sha256 } from './letters.ts';
import type { FrontendTarget } from './post.ts';

const ROOT = join(import.meta.dirname, '../..');
const CLI = join(ROOT, 'operator/cli/main.ts');
const RESOURCE = 'examples/two-site-dag.yaml';
const LOOK_EVERY_MS = 100;
const MOST_OUTPUT = 256 * 1024 * 1024;

export class DemoFailure extends Error {}

export async function waitFor<T>(
  what: string,
  deadlineMs: number,
  look: () => Promise<T | null> | T | null,
): Promise<T> {
  const endMs = performance.now() + deadlineMs;
  for (;;) {
    const value = await look();
    if (value !== null) return value;
    if (performance.now() > endMs) throw new DemoFailure(`waited ${deadlineMs / 1000} s in vain for ${what}`);
    await new Promise<void>((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
  }
}

export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Waiting {
  readonly queued: number;
  readonly shadow: number;
  readonly problems: readonly string[];
}

interface StatusDocument {
  readonly transports: readonly {
    readonly status?: { readonly queues: Readonly<Record<string, { readonly messages: number }>> };
  }[];
  readonly problems: readonly string[];
}

interface InspectDocument {
  readonly copies: readonly InspectedCopy[];
  readonly safetyNet: readonly InspectedCopy[];
  readonly quarantined: readonly unknown[];
}

interface InspectedCopy {
  readonly id: string;
  readonly queue: string;
  readonly kind: string;
}

export interface DatabaseReading {
  readonly member: string;
  readonly site: string;
  readonly copies: readonly DatabaseCopy[];
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
    return new DemoCluster(await mkdtemp(join(tmpdir(), 'mailcluster-demo-')));
  }

  /** As a person would type them; every later command finds the state directory by this variable. */
  get runCommands(): readonly string[] {
    return [`export MAILCLUSTER_STATE=${this.state}`, `operator/cli/mailcluster run -f ${RESOURCE}`];
  }

  get runnerLog(): string {
    return join(this.directory, 'runner.log');
  }

  async start(deadlineMs: number): Promise<RunFile> {
    const log = openSync(this.runnerLog, 'a');
    const runner = spawn(process.execPath, [CLI, 'run', '-f', join(ROOT, RESOURCE), '--state', this.state], {
      cwd: ROOT,
      stdio: ['ignore', log, log],
    });
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

  #pidOf(name: string): number | null {
    const { frontends, transports } = this.runFile();
    return [...frontends, ...transports].find((one) => one.name === name)?.pid ?? null;
  }

  /** SIGKILL: no warning, no chance to write anything. Returns the pid it had. */
  kill(name: string): number {
    const pid = this.#pidOf(name);
    if (pid === null) throw new DemoFailure(`${name} is not running`);
    process.kill(pid, 'SIGKILL');
    return pid;
  }

  /** The new pid of `name`, or null while it is not back. */
  returned(name: string, oldPid: number): number | null {
    const pid = this.#pidOf(name);
    return pid !== null && pid !== oldPid && isAlive(pid) ? pid : null;
  }

  /** `mailcluster ARGS... --state DIR`. */
  command(...args: readonly string[]): Promise<CommandResult> {
    return cli([...args, '--state', this.state]);
  }

  /** Null when a transport does not answer: then nobody knows. */
  async waiting(): Promise<Waiting | null> {
    const { stdout } = await this.command('status', '-o', 'json');
    const { transports, problems } = JSON.parse(stdout) as StatusDocument;
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

  async trace(id: string): Promise<readonly TraceEvent[]> {
    const { stdout } = await this.command('trace', id, '-o', 'json');
    return (JSON.parse(stdout) as { readonly events: readonly TraceEvent[] }).events;
  }

  /** Everything in every database, the bodies read out and hashed. After `stop`, so that nobody alive can mend what is not on disk. */
  async readDatabases(run: RunFile, onRead: (done: number, of: number) => void): Promise<readonly DatabaseReading[]> {
    let done = 0;
    return await Promise.all(
      run.transports.map(async (transport) => {
        const reading = await this.#readDatabase(transport);
        done += 1;
        onRead(done, run.transports.length);
        return reading;
      }),
    );
  }

  async #readDatabase({ name, site, queueDatabaseDirectory }: RunTransport): Promise<DatabaseReading> {
    const bodies = join(this.directory, 'exported', name);
    const { stdout } = await cli(['store', 'inspect', queueDatabaseDirectory, '-o', 'json']);
    // Exit code 1 is damage: the body it hit is then missing below, and the audit says whose.
    await cli(['store', 'export', queueDatabaseDirectory, '--all', bodies]);
    const { copies, safetyNet } = JSON.parse(stdout) as InspectDocument;
    const read: DatabaseCopy[] = [];
    for (const { id, queue, kind } of [...copies, ...safetyNet])
      if (kind === 'message')
        read.push({ member: name, site, id, queue, digest: await digestOf(join(bodies, `${id}.eml`)) });
    return { member: name, site, copies: read };
  }

  /** Every message in the Maildirs of every database copy. */
  async readMailboxes(run: RunFile): Promise<readonly MailboxFile[]> {
    const found: MailboxFile[] = [];
    for (const { maildir } of run.stores) {
      const entries = await readdir(maildir, { recursive: true, withFileTypes: true });
      for (const entry of entries) {
        const [mailbox, folder] = entry.parentPath.split('/').slice(-2);
        if (!entry.isFile() || mailbox === undefined || (folder !== 'new' && folder !== 'cur')) continue;
        const bytes = await readFile(join(entry.parentPath, entry.name));
        // The store writes %XX for what a file name cannot hold.
        found.push({ mailbox: decodeURIComponent(mailbox), file: entry.name, bytes });
      }
    }
    return found;
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

async function digestOf(path: string): Promise<string | null> {
  try {
    return sha256(await readFile(path));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

function cli(args: readonly string[], fine: readonly number[] = [0, 1]): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    const options = { cwd: ROOT, maxBuffer: MOST_OUTPUT, timeout: 120_000 };
    execFile(process.execPath, [CLI, ...args], options, (error, stdout, stderr) => {
      const code = error === null ? 0 : error.code;
      if (typeof code === 'number' && fine.includes(code)) resolve({ code, stdout, stderr });
      else reject(new DemoFailure(`mailcluster ${args.join(' ')}: exit ${String(code)}: ${stderr || stdout}`));
    });
  });
}
