/**
 * The time a call has. Owns: one abort signal out of its deadline, the fence and the caller's own signal, and which of them it was.
 * Every window must be closed, or its timer outlives the call.
 */
import type { Clock, Timer } from '../../common/platform/clock.ts';
import type { CallOptions } from './api.ts';
import { fail, type KubeFailure } from './failures.ts';

const DEFAULT_DEADLINE_MS = 30_000;

type EndedBy = 'deadline' | 'fenced' | 'stopped';

export class CallWindow {
  readonly #clock: Clock;
  readonly #controller = new AbortController();
  readonly #endMs: number;
  readonly #fenceMs: number;
  readonly #timer: Timer;
  readonly #outer: AbortSignal | undefined;
  readonly #onOuter = (): void => this.#end('stopped');
  #endedBy: EndedBy | null = null;

  constructor(clock: Clock, { deadlineMs = DEFAULT_DEADLINE_MS, notAfterMs, signal }: CallOptions) {
    this.#clock = clock;
    this.#fenceMs = notAfterMs ?? Number.POSITIVE_INFINITY;
    this.#endMs = Math.min(clock.monotonicMs() + deadlineMs, this.#fenceMs);
    this.#outer = signal;
    this.#timer = clock.setTimer(this.leftMs, () => this.#end(this.#endMs === this.#fenceMs ? 'fenced' : 'deadline'));
    if (signal?.aborted === true) this.#end('stopped');
    else signal?.addEventListener('abort', this.#onOuter, { once: true });
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  get leftMs(): number {
    return Math.max(0, this.#endMs - this.#clock.monotonicMs());
  }

  /** By the clock and not by the timer: a process that was stopped wakes up before its timers run. */
  get mayStillSend(): boolean {
    return !this.signal.aborted && this.#clock.monotonicMs() < this.#fenceMs;
  }

  /** Why the call is over; null while it is not. */
  failure(perhapsDone: boolean): KubeFailure | null {
    const endedBy = this.#endedBy ?? (this.#clock.monotonicMs() >= this.#fenceMs ? 'fenced' : null);
    switch (endedBy) {
      case null:
        return null;
      case 'deadline':
        return { kind: 'deadline', perhapsDone, code: 0, message: 'no answer in time' };
      case 'fenced':
        return { kind: 'fenced', code: 0, message: 'the lease may have run out' };
      case 'stopped':
        return { kind: 'stopped', code: 0, message: 'the caller stopped' };
    }
  }

  failed(perhapsDone: boolean): ReturnType<typeof fail> | null {
    const failure = this.failure(perhapsDone);
    return failure === null ? null : fail(failure);
  }

  close(): void {
    this.#timer.cancel();
    this.#outer?.removeEventListener('abort', this.#onOuter);
  }

  #end(by: EndedBy): void {
    if (this.#endedBy !== null) return;
    this.#endedBy = by;
    this.#controller.abort();
  }
}
