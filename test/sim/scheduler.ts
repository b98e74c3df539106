/**
 * Simulated time. Owns: the event heap every simulated port schedules on, and the seeded generator of the run. One event runs at a
 * time; all promise reactions it causes settle before the next one. Equal times are ordered by a seeded tie-break, so that a
 * seed is one history, reproducible to the byte.
 */
// The real one, whatever the global of that name is (escapes.ts).
import { setImmediate as turn } from 'node:timers';
import type { Clock, Timer } from '../../common/platform/clock.ts';
import type { Random } from '../../common/platform/random.ts';

/** mulberry32 over a 32-bit seed; good enough for choices, cheap, deterministic. */
export class SeededRandom implements Random {
  #state: number;
  constructor(seed: number) {
    this.#state = seed >>> 0;
  }
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 0x1_0000_0000;
  }
  /** Integer in [low, high]. */
  integer(low: number, high: number): number {
    return low + Math.floor(this.next() * (high - low + 1));
  }
  chance(probability: number): boolean {
    return this.next() < probability;
  }
  pick<T>(items: readonly T[]): T {
    const item = items[Math.floor(this.next() * items.length)];
    if (item === undefined) throw new Error('pick from an empty list');
    return item;
  }
  bytes(length: number): Buffer {
    const out = Buffer.allocUnsafe(length);
    for (let i = 0; i < length; i++) out[i] = Math.floor(this.next() * 256);
    return out;
  }
  /** An independent generator, so that one part's draws do not shift another's. */
  fork(): SeededRandom {
    return new SeededRandom(Math.floor(this.next() * 0x1_0000_0000));
  }
}

/**
 * So many events are asked for at once. Between two immediates of one turn every promise reaction and tick of the first one runs, which is what an event needs;
 * a turn of the process's own loop costs as much as an event.
 */
const EVENTS_PER_TURN = 128;
const NOW = Promise.resolve();

interface Entry {
  atMs: number;
  tie: number;
  order: number;
  run: (() => void) | null;
}

const before = (a: Entry, b: Entry): boolean =>
  a.atMs !== b.atMs ? a.atMs < b.atMs : a.tie !== b.tie ? a.tie < b.tie : a.order < b.order;

export class Scheduler {
  readonly random: SeededRandom;
  readonly #ties: SeededRandom;
  #heap: Entry[] = [];
  #nowMs = 0;
  #order = 0;
  #failure: unknown = null;
  eventCount = 0;

  constructor(seed: number) {
    this.random = new SeededRandom(seed);
    this.#ties = this.random.fork();
  }

  get nowMs(): number {
    return this.#nowMs;
  }

  /** Runs `callback` after `delayMs` of simulated time. */
  schedule(delayMs: number, callback: () => void): Timer {
    const entry: Entry = {
      atMs: this.#nowMs + Math.max(0, delayMs),
      tie: this.#ties.next(),
      order: this.#order++,
      run: callback,
    };
    this.#push(entry);
    return {
      cancel: () => {
        entry.run = null;
      },
    };
  }

  /** Ends the run: `run` rejects with this error. */
  fail(error: unknown): void {
    this.#failure ??= error;
  }

  /** Runs events until `until()` is true, time passes `limitMs`, or nothing is left. Returns whether `until()` became true. */
  run(until: () => boolean, limitMs: number): Promise<boolean> {
    return new Promise((resolve, reject) => {
      let isOver = false;
      const one = (): void => {
        if (isOver) return;
        try {
          const outcome = this.#next(until, limitMs);
          if (outcome === null) return;
          isOver = true;
          resolve(outcome);
        } catch (error) {
          isOver = true;
          reject(error);
        }
      };
      // As a reaction: what an event sets off by promises comes before its ticks.
      const soon = (): void => void NOW.then(one);
      let events = 4;
      const some = (): void => {
        if (isOver) return;
        for (let event = 1; event < events; event++) turn(soon);
        turn(some);
        soon();
        events = Math.min(2 * events, EVENTS_PER_TURN);
      };
      turn(some);
    });
  }

  /** Runs the next event; what it causes settles before the one after it. Not null: whether `until` is true at the end. */
  #next(until: () => boolean, limitMs: number): boolean | null {
    for (;;) {
      if (this.#failure !== null) throw this.#failure;
      if (until()) return true;
      const entry = this.#pop();
      if (entry === null) return until();
      if (entry.atMs > limitMs) {
        this.#push(entry);
        this.#nowMs = Math.max(this.#nowMs, limitMs);
        return false;
      }
      this.#nowMs = entry.atMs;
      if (entry.run === null) continue;
      this.eventCount += 1;
      entry.run();
      return null;
    }
  }

  /** Runs events until the promise settles: for checkers that ask a simulated part something. */
  async await<T>(promise: Promise<T>): Promise<T> {
    let outcome: { readonly value: T } | null = null;
    promise.then(
      (value) => {
        outcome = { value };
      },
      (error: unknown) => this.fail(error),
    );
    const settledInTime = await this.run(() => outcome !== null, this.#nowMs + 60_000);
    if (!settledInTime || outcome === null) throw new Error('nothing settled within a minute of simulated time');
    return (outcome as { readonly value: T }).value;
  }

  /** A pod's clock on this scheduler; `offsetMs` and `drift` make it differ from true time, `jumpWall` moves its wall clock. */
  clock(offsetMs = 0, drift = 1): Clock & { jumpWall(deltaMs: number): void } {
    let wallOffsetMs = 1_700_000_000_000 + offsetMs;
    const monotonicMs = (): number => offsetMs + this.#nowMs * drift;
    return {
      monotonicMs,
      wallMs: () => Math.floor(wallOffsetMs + this.#nowMs * drift),
      setTimer: (delayMs, callback) => {
        // Not early on this clock either, where sums of floats round down: who waits for a time would arm timers for ever in which none passes.
        const dueMs = monotonicMs() + Math.max(0, delayMs);
        let afterMs = delayMs / drift;
        for (let moreMs = 1e-9; offsetMs + (this.#nowMs + afterMs) * drift < dueMs; moreMs *= 2) afterMs += moreMs;
        return this.schedule(afterMs, callback);
      },
      jumpWall: (deltaMs) => {
        wallOffsetMs += deltaMs;
      },
    };
  }

  #push(entry: Entry): void {
    const heap = this.#heap;
    let i = heap.length;
    heap.push(entry);
    while (i > 0) {
      const parent = (i - 1) >> 1;
      const other = heap[parent] as Entry;
      if (!before(entry, other)) break;
      heap[i] = other;
      i = parent;
    }
    heap[i] = entry;
  }

  #pop(): Entry | null {
    const heap = this.#heap;
    const top = heap[0];
    const last = heap.pop();
    if (top === undefined || last === undefined) return null;
    if (heap.length === 0) return top;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && before(heap[child + 1] as Entry, heap[child] as Entry)) child += 1;
      if (!before(heap[child] as Entry, last)) break;
      heap[i] = heap[child] as Entry;
      i = child;
    }
    heap[i] = last;
    return top;
  }
}
