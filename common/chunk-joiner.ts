/**
 * Joins small pieces of a body: whoever sends one byte per packet must not cost a Buffer, a frame or a record per byte. Owns: the block
 * being filled. Promises: a chunk that was handed out never changes, what is joined stands behind it in the same block; chunks of a
 * block and more are never copied. Cannot fail.
 */

/** Neighbours that fit together into this are one chunk. */
export const JOIN_BYTES = 16 * 1024;
const FIRST_BYTES = 1024;

export class ChunkJoiner {
  #block: Buffer = Buffer.alloc(0);
  /** The part of the block that was handed out last. */
  #joined: Buffer | null = null;

  /** What takes the place of `last`; null when `chunk` stands alone. */
  join(last: Buffer | undefined, chunk: Buffer): Buffer | null {
    if (last === undefined || last.length + chunk.length > JOIN_BYTES) return null;
    const length = last.length + chunk.length;
    if (last !== this.#joined || length > this.#block.length) {
      this.#block = Buffer.allocUnsafeSlow(Math.min(JOIN_BYTES, Math.max(FIRST_BYTES, 2 * length)));
      last.copy(this.#block);
    }
    chunk.copy(this.#block, last.length);
    this.#joined = this.#block.subarray(0, length);
    return this.#joined;
  }
}
