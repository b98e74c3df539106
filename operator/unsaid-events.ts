/**
 * Events of looks whose actions failed in the middle. Some of what they tell was done, and no later plan tells it again; the rest is planned anew, and said
 * once. Owns: these events until a look succeeds, the newest `MOST` of a cluster.
 */
import type { PlannedEvent } from './actions.ts';

const MOST = 50;

const nameOf = ({ type, reason, message, about }: PlannedEvent): string =>
  JSON.stringify([type, reason, message, about]);

export class UnsaidEvents {
  readonly #kept = new Map<string, readonly PlannedEvent[]>();

  /** What is to be said now, oldest first: nothing while actions fail. */
  after(key: string, planned: readonly PlannedEvent[], isCarriedOut: boolean): readonly PlannedEvent[] {
    const all = new Map([...(this.#kept.get(key) ?? []), ...planned].map((event) => [nameOf(event), event]));
    if (isCarriedOut) this.#kept.delete(key);
    else this.#kept.set(key, [...all.values()].slice(-MOST));
    return isCarriedOut ? [...all.values()] : [];
  }

  forget(key: string): void {
    this.#kept.delete(key);
  }
}
