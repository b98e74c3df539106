/**
 * The list of what was found damaged, at open or later (`Recovered.quarantined`). Owns: each place is listed once; what names a copy
 * leaves the list when that copy is written anew or removed.
 */
import type { CopyId } from '../../common/message.ts';
import type { Quarantined } from './database.ts';

export class QuarantineList {
  readonly #items: Quarantined[];

  constructor(items: readonly Quarantined[]) {
    this.#items = [...items];
  }

  get items(): readonly Quarantined[] {
    return this.#items;
  }

  /** False when it is listed already. */
  add(item: Quarantined): boolean {
    const isListed = this.#items.some(
      (other) => other.id === item.id && other.segment === item.segment && other.offset === item.offset,
    );
    if (!isListed) this.#items.push(item);
    return !isListed;
  }

  names(id: CopyId): boolean {
    return this.#items.some((item) => item.id === id);
  }

  lift(id: CopyId): void {
    for (let index = this.#items.length - 1; index >= 0; index--)
      if (this.#items[index]?.id === id) this.#items.splice(index, 1);
  }
}
