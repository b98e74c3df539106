/**
 * What all bodies under way hold in memory because it is not worth a record of its own yet. Owns: the sum, and who is written first
 * when it is too much. Promise: the sum stays near `BACKLOG_BYTES`, and no body is written in smaller parts for the sake of others than
 * half of what a body holds on average.
 */
import type { LogBody } from './body-writer.ts';

/** Of all bodies together; above it the larger ones are written. */
export const BACKLOG_BYTES = 8 << 20;

export class BodyBacklog {
  readonly #bodies = new Set<LogBody>();
  #bytes = 0;

  get bytes(): number {
    return this.#bytes;
  }

  /** The body holds `bytes` more (or less) than before. Returns the bodies to be written now. */
  changed(body: LogBody, bytes: number): readonly LogBody[] {
    this.#bytes += bytes;
    if (body.pendingBytes === 0) this.#bodies.delete(body);
    else this.#bodies.add(body);
    if (bytes <= 0 || this.#bytes <= BACKLOG_BYTES) return [];
    // Bodies below half of the average hold less than half of all bytes.
    const least = this.#bytes / this.#bodies.size / 2;
    return [...this.#bodies].filter((item) => !item.queued && item.pendingBytes >= least);
  }
}
