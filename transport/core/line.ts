/**
 * Who waits for a turn, in order, each at most once. Owns: that taking the first costs the same however many were taken before. A `Set` keeps a hole for
 * each one taken until it shrinks, and who begins at its head anew walks over all of them: 18 microseconds a turn for a line of 100,000, one with the place kept 0.2.
 */
export class Line<T> {
  readonly #waiting = new Set<T>();
  #head: IterableIterator<T> = this.#waiting.values();

  get size(): number {
    return this.#waiting.size;
  }

  /** At the end, unless it waits already. */
  add(item: T): void {
    this.#waiting.add(item);
  }

  delete(item: T): void {
    this.#waiting.delete(item);
  }

  /** Nobody leaves. */
  [Symbol.iterator](): IterableIterator<T> {
    return this.#waiting.values();
  }

  /** The first leaves the line; undefined when nobody waits. */
  take(): T | undefined {
    let first = this.#head.next();
    if (first.done === true) {
      // Whoever came after the last one was taken.
      this.#head = this.#waiting.values();
      first = this.#head.next();
    }
    if (first.done === true) return undefined;
    this.#waiting.delete(first.value);
    return first.value;
  }
}
