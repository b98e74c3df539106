/**
 * One moving deadline per connection. Owns: a timer that is armed rarely - moving the deadline is an assignment, because it moves with
 * every command. Promise: `expired` is never called early, and not at all after `cancel`.
 */
import type { Clock, Timer } from '../platform/clock.ts';

export class Deadline {
  readonly #clock: Clock;
  readonly #expired: () => void;
  #atMs = Number.POSITIVE_INFINITY;
  #timer: Timer | null = null;
  #timerAtMs = Number.POSITIVE_INFINITY;

  constructor(clock: Clock, expired: () => void) {
    this.#clock = clock;
    this.#expired = expired;
  }

  /** Monotonic ms; infinity for none. */
  set(atMs: number): void {
    this.#atMs = atMs;
    if (atMs >= this.#timerAtMs || atMs === Number.POSITIVE_INFINITY) return;
    this.#timer?.cancel();
    this.#arm();
  }

  cancel(): void {
    this.#atMs = Number.POSITIVE_INFINITY;
    this.#timer?.cancel();
    this.#timer = null;
    this.#timerAtMs = Number.POSITIVE_INFINITY;
  }

  #arm(): void {
    this.#timerAtMs = this.#atMs;
    this.#timer = this.#clock.setTimer(this.#atMs - this.#clock.monotonicMs(), () => this.#fired());
  }

  #fired(): void {
    this.#timer = null;
    this.#timerAtMs = Number.POSITIVE_INFINITY;
    if (this.#atMs === Number.POSITIVE_INFINITY) return;
    if (this.#clock.monotonicMs() < this.#atMs) {
      this.#arm();
      return;
    }
    this.#atMs = Number.POSITIVE_INFINITY;
    this.#expired();
  }
}
