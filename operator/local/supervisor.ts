/**
 * One child process of `mailcluster run`: started, watched, started again. Owns: the process and its IPC channel.
 * Promise: at most one process at a time; one that dies is started again after 0.2 s, doubling to 10 s, back to 0.2 s once it has been
 * ready for 30 s; `stop` returns when the process is gone (SIGTERM, after the grace period SIGKILL). It touches no directory but the log.
 * The child's side: it sends `{kind:'ready', ...facts}` when it serves and `{kind:'fatal', reason, remedy}` before it gives up, and it
 * exits when the channel closes, which is how a runner that was killed takes its children along.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync } from 'node:fs';
import type { Clock, Timer } from '../../common/platform/clock.ts';
import { TRANSPORT_ALLOCATOR, TRANSPORT_NODE_FLAGS } from '../transport-process.ts';

export interface ChildSpec {
  readonly name: string;
  readonly kind: 'transport' | 'frontend' | 'store';
  /** The module to run. */
  readonly entry: string;
  /** Asked at every start. */
  readonly args: () => readonly string[];
  readonly env: Readonly<Record<string, string>>;
}

export type ReadyFacts = Readonly<Record<string, unknown>>;

export type ChildState =
  | { readonly kind: 'idle' }
  | { readonly kind: 'starting'; readonly pid: number }
  | { readonly kind: 'ready'; readonly pid: number; readonly facts: ReadyFacts }
  | { readonly kind: 'waiting'; readonly reason: string; readonly delayMs: number }
  | { readonly kind: 'stopped' };

export interface ChildEvents {
  /** Before every start; may change files and ports. A string is the reason why the child cannot start now. */
  prepare(name: string): Promise<string | null>;
  onReady(name: string, facts: ReadyFacts): void;
  /** The process ended without being asked to, or could not be started; the next start follows after `delayMs`. */
  onDeath(name: string, reason: string, delayMs: number, attempts: number): void;
  /** Opens the log for appending; the descriptor is closed here. */
  openLog(name: string): number;
}

export const BACKOFF = { firstMs: 200, lastMs: 10_000, healthyMs: 30_000 } as const;
/** A little more than the programs give themselves: a front end waits for the transactions it holds. */
const STOP_GRACE_MS = { frontend: 75_000, transport: 30_000, store: 10_000 } as const;
/** A child without IPC of its own (the store) says it is ready with one line of JSON; longer first lines are not ours. */
const MAX_READY_LINE = 4_096;

export class SupervisedChild {
  readonly spec: ChildSpec;
  readonly #events: ChildEvents;
  readonly #clock: Clock;
  #state: ChildState = { kind: 'idle' };
  #process: ChildProcess | null = null;
  #exited: Promise<void> = Promise.resolve();
  #wanted = false;
  #failures = 0;
  /** A start that was overtaken by a stop and another start does nothing. */
  #launches = 0;
  #readyAtMs: number | null = null;
  #lastWords: string | null = null;
  #timer: Timer | null = null;
  /** Somebody waits for the child to be ready, or for its being stopped. */
  #waiting: (() => void) | null = null;

  constructor(spec: ChildSpec, events: ChildEvents, clock: Clock) {
    this.spec = spec;
    this.#events = events;
    this.#clock = clock;
  }

  get state(): ChildState {
    return this.#state;
  }

  get pid(): number | null {
    return this.#state.kind === 'ready' || this.#state.kind === 'starting' ? this.#state.pid : null;
  }

  start(): void {
    if (this.#wanted) return;
    this.#wanted = true;
    void this.#launch();
  }

  /** Resolves when it is ready, or after `patienceMs` all the same: it is watched as ever. */
  startAndWait(patienceMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = this.#clock.setTimer(patienceMs, resolve);
      this.#waiting = () => {
        timer.cancel();
        resolve();
      };
      this.start();
    });
  }

  /** Tells the child to read its files again. */
  reload(): void {
    if (this.#process?.connected === true) {
      // A channel that closes meanwhile is followed by the exit, and that is reported.
      this.#process.send({ kind: 'reload' }, () => undefined);
    }
  }

  #doneWaiting(): void {
    this.#waiting?.();
    this.#waiting = null;
  }

  /** `graceMs`: until SIGKILL; as long as its program may need by default. */
  async stop(graceMs: number = STOP_GRACE_MS[this.spec.kind]): Promise<void> {
    this.#doneWaiting();
    this.#wanted = false;
    this.#launches++;
    this.#timer?.cancel();
    this.#timer = null;
    const child = this.#process;
    if (child !== null) {
      child.kill('SIGTERM');
      const kill = this.#clock.setTimer(graceMs, () => child.kill('SIGKILL'));
      await this.#exited;
      kill.cancel();
    }
    this.#state = { kind: 'stopped' };
  }

  /** For the last moment of the runner: no promise, no wait. */
  killNow(): void {
    this.#wanted = false;
    this.#process?.kill('SIGKILL');
  }

  async #launch(): Promise<void> {
    const launch = ++this.#launches;
    const isOvertaken = (): boolean => !this.#wanted || launch !== this.#launches;
    try {
      const refused = await this.#events.prepare(this.spec.name);
      if (isOvertaken()) return;
      if (refused !== null) this.#died(refused);
      else this.#spawn();
    } catch (error) {
      if (!isOvertaken()) this.#died(error instanceof Error ? error.message : String(error));
    }
  }

  #spawn(): void {
    const log = this.#events.openLog(this.spec.name);
    const child = spawn(
      process.execPath,
      [...(this.spec.kind === 'transport' ? TRANSPORT_NODE_FLAGS : []), this.spec.entry, ...this.spec.args()],
      {
        stdio: ['ignore', this.spec.kind === 'store' ? 'pipe' : log, log, 'ipc'],
        // Its own session: Ctrl-C reaches the runner alone, which then stops the children in order.
        detached: true,
        env: { ...process.env, ...(this.spec.kind === 'transport' ? TRANSPORT_ALLOCATOR : {}), ...this.spec.env },
      },
    );
    closeSync(log);
    this.#process = child;
    this.#lastWords = null;
    this.#readyAtMs = null;
    this.#state = { kind: 'starting', pid: child.pid ?? 0 };
    child.on('message', (message) => this.#onMessage(message));
    if (child.stdout !== null) this.#readReadyLine(child.stdout);
    this.#exited = new Promise((resolve) => {
      let over = false;
      const ended = (reason: string): void => {
        if (over) return;
        over = true;
        this.#process = null;
        resolve();
        if (this.#wanted) this.#died(this.#lastWords === null ? reason : `${reason}: ${this.#lastWords}`);
      };
      child.on('error', (error) => {
        if (child.pid === undefined) ended(`could not be started: ${error.message}`);
      });
      child.once('exit', (code, signal) => ended(signal === null ? `exited with code ${code}` : `killed by ${signal}`));
    });
  }

  #onMessage(message: unknown): void {
    if (typeof message !== 'object' || message === null || !('kind' in message)) return;
    if (message.kind === 'ready') {
      const { kind: _, ...facts } = message as Record<string, unknown>;
      this.#ready(facts);
    } else if (message.kind === 'fatal') {
      const { reason, remedy } = message as Record<string, unknown>;
      this.#lastWords = `${String(reason)}${remedy === undefined ? '' : ` (${String(remedy)})`}`;
    }
  }

  #readReadyLine(output: NodeJS.ReadableStream): void {
    let text = '';
    output.on('data', (chunk: Buffer) => {
      if (text.length > MAX_READY_LINE || this.#state.kind === 'ready') return;
      text += chunk.toString('utf8');
      const lines = text.split('\n');
      text = lines.pop() ?? '';
      for (const line of lines) {
        const facts = readyFactsOf(line);
        if (facts !== null) this.#ready(facts);
      }
    });
  }

  #ready(facts: ReadyFacts): void {
    const pid = this.#process?.pid;
    if (pid === undefined || this.#state.kind === 'ready') return;
    this.#state = { kind: 'ready', pid, facts };
    this.#readyAtMs = this.#clock.monotonicMs();
    this.#doneWaiting();
    this.#events.onReady(this.spec.name, facts);
  }

  #died(reason: string): void {
    const healthy = this.#readyAtMs !== null && this.#clock.monotonicMs() - this.#readyAtMs >= BACKOFF.healthyMs;
    this.#failures = healthy ? 1 : this.#failures + 1;
    const delayMs = Math.min(BACKOFF.firstMs * 2 ** (this.#failures - 1), BACKOFF.lastMs);
    this.#readyAtMs = null;
    this.#state = { kind: 'waiting', reason, delayMs };
    this.#timer = this.#clock.setTimer(delayMs, () => void this.#launch());
    this.#events.onDeath(this.spec.name, reason, delayMs, this.#failures);
  }
}

function readyFactsOf(line: string): ReadyFacts | null {
  if (!line.startsWith('{')) return null;
  try {
    const value: unknown = JSON.parse(line);
    if (typeof value !== 'object' || value === null || !('ready' in value) || value.ready !== true) return null;
    return value as ReadyFacts;
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}
