/**
 * A segment read in pieces: its whole groups one after the other, as far as nothing is damaged. Owns: one buffer for all segments of a
 * start, so that reading a log takes the memory of its largest group and not of its segments. What comes behind the first group that is
 * not whole is the business of `segment-scan.ts`; `anythingBehind` says whether there is something.
 */
import type { FileHandle } from '../../common/platform/files.ts';
import { BLOCK, HEADER, type ParsedRecord, padded, parseRecord, SALT_BYTES } from './record.ts';
import { type ScannedGroup, scanGroup } from './segment-scan.ts';

const PIECE = 1 << 20;

export class SegmentStream {
  readonly #salt: Buffer;
  /** As large as what was read into it so far at once: a piece, or less where the segments are smaller. */
  #buffer = Buffer.alloc(0);
  /** What the buffer holds: `#length` bytes of the segment from `#base` on. */
  #base = 0;
  #length = 0;
  #handle: FileHandle | null = null;
  /** First byte behind the last group that `groups` or `headers` gave. */
  at = BLOCK;

  constructor(salt: Buffer) {
    this.#salt = salt;
  }

  open(handle: FileHandle): void {
    this.#handle = handle;
    this.#length = 0;
    this.at = BLOCK;
  }

  /** Whole groups up to `limit`. Their bytes are valid until the next one is asked for. */
  async *groups(generation: number, limit: number, from = BLOCK): AsyncIterable<ScannedGroup> {
    this.at = from;
    for (
      let header = await this.#header(generation, limit);
      header !== null;
      header = await this.#header(generation, limit)
    ) {
      const bytes = await this.#bytes(this.at, HEADER + header.bodyLength, limit);
      if (bytes === null) return;
      const group = scanGroup(bytes, this.#salt, header, this.at);
      if (group.damage.length > 0) return;
      this.at = group.end;
      yield group;
    }
  }

  /** Only the group headers, whether their groups are whole or not. */
  async *headers(generation: number, limit: number): AsyncIterable<ParsedRecord> {
    this.at = BLOCK;
    for (
      let header = await this.#header(generation, limit);
      header !== null;
      header = await this.#header(generation, limit)
    ) {
      yield header;
      this.at += padded(HEADER + header.bodyLength);
    }
  }

  /** Whether a record of this generation begins in what is left. */
  async anythingBehind(generation: number, limit: number, start = this.at): Promise<boolean> {
    for (let from = start; from < limit; from += PIECE - HEADER) {
      const bytes = await this.#bytes(from, Math.min(PIECE, limit - from), limit);
      if (bytes === null) return false;
      for (
        let at = bytes.indexOf(this.#salt);
        at !== -1 && at + HEADER <= bytes.length;
        at = bytes.indexOf(this.#salt, at + 1)
      )
        if (
          bytes.readUInt32LE(at + SALT_BYTES + 4) === generation &&
          bytes.readUInt32LE(at + SALT_BYTES + 8) === from + at
        )
          return true;
    }
    return false;
  }

  async #header(generation: number, limit: number): Promise<ParsedRecord | null> {
    const bytes = await this.#bytes(this.at, HEADER, limit);
    const header = bytes === null ? null : parseRecord(bytes, 0, this.#salt, generation, this.at);
    return header?.kind === 'group' ? header : null;
  }

  /** Bytes of the segment; null when there are not so many. */
  async #bytes(from: number, length: number, limit: number): Promise<Buffer | null> {
    if (from + length > limit) return null;
    if (from < this.#base || from + length > this.#base + this.#length) await this.#fill(from, length, limit);
    const at = from - this.#base;
    return at + length > this.#length ? null : this.#buffer.subarray(at, at + length);
  }

  async #fill(from: number, atLeast: number, limit: number): Promise<void> {
    const wanted = Math.min(Math.max(PIECE, this.#buffer.length, padded(atLeast)), limit - from);
    if (wanted > this.#buffer.length) this.#buffer = Buffer.allocUnsafeSlow(wanted);
    this.#base = from;
    this.#length = 0;
    while (this.#length < wanted) {
      const got =
        (await this.#handle?.read(this.#buffer, this.#length, wanted - this.#length, from + this.#length)) ?? 0;
      if (got === 0) return;
      this.#length += got;
    }
  }
}
