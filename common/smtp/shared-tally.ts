/**
 * What clients do, counted over all front ends: how much is under way now (`level`), or was begun within a window (`rate`), by client network or user.
 * Owns: this front end's counts, and what it was told of the others'. Promises: a decision never waits - it is made from what is known, and a moment later
 * everybody knows; without the others each front end counts for itself; memory is bounded.
 *
 * What others say is believed only of who is busy here as well (`OWN_SHARE`): a shared memory that lies makes limits tighter, it locks nobody out
 * (semantics.md S15). One that forgets makes them wider until the next slot.
 */
import type { Clock } from '../platform/clock.ts';

/** Adds to a sum that all front ends see, and tells the sum later, or never. */
export interface SharedSums {
  /** False: it was not even tried. */
  add(name: string, amount: number, ttlMs: number, told: (sum: number) => void): boolean;
}

/** Part of a limit that a front end grants whatever the others say. */
const OWN_SHARE = 0.25;
/** A flood from everywhere must not fill the memory: the oldest is forgotten. */
const MAX_KEYS = 50_000;

interface Count {
  own: number;
  /** Of it the others know. */
  sent: number;
  others: number;
  slot: number;
}

export interface TallyOptions {
  readonly name: string;
  readonly kind: 'level' | 'rate';
  /** `rate`: the window. `level`: how long a front end that died is still counted. */
  readonly slotMs: number;
  readonly clock: Clock;
  readonly shared: SharedSums | null;
}

export class SharedTally {
  readonly #options: TallyOptions;
  readonly #counts = new Map<string, Count>();
  #slot = 0;

  constructor(options: TallyOptions) {
    this.#options = options;
  }

  change(key: string, amount: number): void {
    const slot = this.#currentSlot();
    let count = this.#counts.get(key);
    if (count === undefined) {
      if (this.#counts.size >= MAX_KEYS) this.#forgetOldest();
      count = { own: 0, sent: 0, others: 0, slot };
      this.#counts.set(key, count);
    }
    count.own = Math.max(0, count.own + amount);
    this.#publish(key, count, slot);
    if (count.own === 0) this.#counts.delete(key);
  }

  /** Nothing more may begin. A limit of 0 is none. */
  reached(key: string, limit: number): boolean {
    this.#currentSlot();
    const count = this.#counts.get(key);
    if (limit === 0 || count === undefined) return false;
    return count.own >= limit || (count.own + count.others >= limit && count.own >= Math.max(1, limit * OWN_SHARE));
  }

  /** `level`: tells the others in every slot what is still under way; call it about twice a slot. */
  refresh(): void {
    const slot = this.#currentSlot();
    for (const [key, count] of this.#counts) this.#publish(key, count, slot);
  }

  #currentSlot(): number {
    const { clock, kind, slotMs } = this.#options;
    const slot = Math.floor(clock.wallMs() / slotMs);
    if (slot !== this.#slot && kind === 'rate') this.#counts.clear();
    this.#slot = slot;
    return slot;
  }

  #publish(key: string, count: Count, slot: number): void {
    const { name, slotMs, shared } = this.#options;
    if (shared === null) return;
    if (count.slot !== slot) Object.assign(count, { slot, sent: 0 });
    const amount = count.own - count.sent;
    if (amount === 0) return;
    const sent = count.own;
    const isUnderWay = shared.add(`${name}:${slot}:${key}`, amount, 2 * slotMs, (sum) => {
      if (count.slot === slot && Number.isSafeInteger(sum)) count.others = Math.max(0, sum - sent);
    });
    if (isUnderWay) count.sent = sent;
  }

  #forgetOldest(): void {
    const [oldest] = this.#counts.keys();
    if (oldest !== undefined) this.#counts.delete(oldest);
  }
}
