/**
 * One long-running program of a test cluster. Owns: its process, by pid, and its log file. Promises: it dies with the process that
 * started it, killed or not (PR_SET_PDEATHSIG), so nothing is left behind; `stop` and `kill` resolve when it is gone. An end that
 * nobody asked for is kept and told by `failure`. Never restarts anything by itself: that a program died is something tests want to see.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { until } from '../house/until.ts';

export interface DaemonCommand {
  readonly name: string;
  readonly file: string;
  readonly args: readonly string[];
  readonly directory: string;
  readonly logFile: string;
  /** Beside PATH and HOME. */
  readonly environment?: Readonly<Record<string, string>>;
}

const STOP_MS = 20_000;
const LOG_LINES = 15;

export class Daemon {
  readonly name: string;
  readonly #command: DaemonCommand;
  #child: ChildProcess | null = null;
  #ended: string | null = null;
  #isExpected = false;

  constructor(command: DaemonCommand) {
    this.#command = command;
    this.name = command.name;
  }

  get pid(): number | null {
    return this.#child?.pid ?? null;
  }

  /** Why it does not run although nobody ended it; null while all is well. */
  get failure(): string | null {
    return this.#ended === null || this.#isExpected ? null : `${this.name} ${this.#ended}:\n${this.tail()}`;
  }

  start(): void {
    if (this.#child !== null) throw new Error(`${this.name} runs already`);
    const { file, args, directory, logFile, environment = {} } = this.#command;
    const log = openSync(logFile, 'a');
    // setpriv replaces itself by the program, so the pid is the program's.
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', file, ...args], {
      cwd: directory,
      env: { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', HOME: directory, ...environment },
      stdio: ['ignore', log, log],
    });
    closeSync(log);
    this.#child = child;
    this.#ended = null;
    this.#isExpected = false;
    const end = (how: string): void => {
      this.#ended = how;
      this.#child = null;
    };
    child.once('error', (error) => end(`could not be started (${error.message})`));
    child.once('exit', (code, signal) => end(signal === null ? `ended with ${code}` : `ended by ${signal}`));
  }

  /** Ends it in its own way, after `STOP_MS` in ours. */
  async stop(): Promise<void> {
    const child = this.#child;
    if (child === null) return;
    this.#isExpected = true;
    // A stopped process takes no SIGTERM.
    child.kill('SIGCONT');
    child.kill('SIGTERM');
    const late = setTimeout(() => child.kill('SIGKILL'), STOP_MS);
    await this.#gone();
    clearTimeout(late);
  }

  async kill(): Promise<void> {
    const child = this.#child;
    if (child === null) return;
    this.#isExpected = true;
    child.kill('SIGKILL');
    await this.#gone();
  }

  /** SIGSTOP: connections stay open and nothing answers, as when a machine hangs. Until `resume`. */
  pause(): void {
    this.#child?.kill('SIGSTOP');
  }

  resume(): void {
    this.#child?.kill('SIGCONT');
  }

  /** The last lines of its log. */
  tail(): string {
    return readFileSync(this.#command.logFile, 'utf8').trimEnd().split('\n').slice(-LOG_LINES).join('\n');
  }

  async #gone(): Promise<void> {
    await until(`${this.name} to end`, () => this.#child === null, { deadlineMs: STOP_MS + 10_000, everyMs: 5 });
  }
}
