/**
 * The client's own limit on requests (client-go: QPS and burst). Owns: one token bucket for all calls of the process, first come first
 * served. It protects the API server from our bugs; fairness between clients is the server's (API Priority and Fairness).
 */
import type { Clock, Timer } from '../../common/platform/clock.ts';

export interface RateLimits {
  readonly perSecond: number;
  readonly burst: number;
}

interface Waiting {
  readonly go: (isGranted: boolean) => void;
}

export class RateLimit {
  readonly #clock: Clock;
  readonly #limits: RateLimits;
  readonly #waiting: Waiting[] = [];
  #tokens: number;
  #filledAtMs: number;
  #timer: Timer | null = null;

  constructor(clock: Clock, limits: RateLimits) {
    this.#clock = clock;
    this.#limits = limits;
    this.#tokens = limits.burst;
    this.#filledAtMs = clock.monotonicMs();
  }

  /** Resolves true when the call may be sent, false when the signal aborts first. */
  async take(signal: AbortSignal): Promise<boolean> {
    if (signal.aborted) return false;
    this.#refill();
    if (this.#waiting.length === 0 && this.#tokens >= 1) {
      this.#tokens -= 1;
      return true;
    }
    return await new Promise((resolve) => {
      const aborted = (): void => {
        this.#waiting.splice(this.#waiting.indexOf(waiting), 1);
        resolve(false);
      };
      const waiting: Waiting = {
        go: (isGranted) => {
          signal.removeEventListener('abort', aborted);
          resolve(isGranted);
        },
      };
      signal.addEventListener('abort', aborted, { once: true });
      this.#waiting.push(waiting);
      this.#arm();
    });
  }

  #refill(): void {
    const nowMs = this.#clock.monotonicMs();
    const gained = ((nowMs - this.#filledAtMs) / 1000) * this.#limits.perSecond;
    this.#tokens = Math.min(this.#limits.burst, this.#tokens + gained);
    this.#filledAtMs = nowMs;
  }

  #arm(): void {
    if (this.#timer !== null || this.#waiting.length === 0) return;
    const missingMs = Math.ceil(((1 - this.#tokens) / this.#limits.perSecond) * 1000);
    this.#timer = this.#clock.setTimer(Math.max(1, missingMs), () => {
      this.#timer = null;
      this.#refill();
      while (this.#tokens >= 1 && this.#waiting.length > 0) {
        this.#tokens -= 1;
        this.#waiting.shift()?.go(true);
      }
      this.#arm();
    });
  }
}
