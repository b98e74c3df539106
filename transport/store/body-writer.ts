/**
 * A body on its way into the log. Owns: the bytes not yet written, the digest, the list of parts written so far. Promises: `append`
 * resolves while less than 64 KiB of the body are still to be handed to the OS, `read` sees everything appended, written or not. The
 * log writer pulls from it: when 64 KiB wait, when a commit names the body, or when all bodies together hold too much - so the number
 * of records depends on the bytes of a body and never on how many pieces they came in. No timer: nobody waits for the rest.
 */
import { createHash } from 'node:crypto';
import { ChunkJoiner } from '../../common/chunk-joiner.ts';
import type { CopyId } from '../../common/message.ts';
import type { BodyOptions, BodyWriter } from './database.ts';
import type { Extent } from './record.ts';

/** Bytes of one body that are worth a record, and that may wait in memory for it. */
export const FLUSH_BYTES = 64 * 1024;

export interface BodyHost {
  /** The body has bytes to write. */
  wake(body: LogBody): void;
  /** Everything that waits in memory surely finds room beyond the reserve. */
  hasRoom(): boolean;
  /** What it holds in memory has grown (or shrunk) by that much. */
  holds(body: LogBody, bytes: number): void;
  /** It will never be committed, or was: its segments are no longer held for it. */
  release(body: LogBody): void;
  readRange(generation: number, offset: number, length: number): Promise<Buffer>;
}

interface Part {
  readonly start: number;
  readonly length: number;
  /** Null while only in memory. */
  extent: Extent | null;
  /** Null once the OS has it. */
  buffers: readonly Buffer[] | null;
}

export class LogBody implements BodyWriter {
  readonly id: CopyId;
  sizeBytes = 0;
  /** Segments pinned for it. */
  readonly pinned = new Set<number>();
  queued = false;
  /** Its COMMIT waits for the rest of it, or it makes room itself. */
  mayUseReserve: boolean;
  readonly #onNoRoom: (() => void) | null;
  readonly #host: BodyHost;
  readonly #hash = createHash('sha256');
  #digest: string | null = null;
  #parts: Part[] = [];
  #pending: Buffer[] = [];
  #pendingBytes = 0;
  readonly #joiner = new ChunkJoiner();
  /** The OS has everything up to here. */
  #written = 0;
  #waiting: { readonly through: number; readonly resolve: () => void }[] = [];
  #over = false;

  constructor(id: CopyId, host: BodyHost, { mayUseReserve = false, onNoRoom }: BodyOptions = {}) {
    this.id = id;
    this.#host = host;
    this.mayUseReserve = mayUseReserve;
    this.#onNoRoom = onNoRoom ?? null;
  }

  /** What is pending waits until there is room. */
  noRoom(): void {
    if (!this.#over) this.#onNoRoom?.();
  }

  get pendingBytes(): number {
    return this.#pendingBytes;
  }

  get parts(): number {
    return this.#parts.length;
  }

  append(chunk: Buffer): Promise<void> {
    if (this.#over || chunk.length === 0) return Promise.resolve();
    this.#hash.update(chunk);
    this.sizeBytes += chunk.length;
    const joined = this.#joiner.join(this.#pending[this.#pending.length - 1], chunk);
    if (joined === null) this.#pending.push(chunk);
    else this.#pending[this.#pending.length - 1] = joined;
    this.#pendingBytes += chunk.length;
    if (this.#pendingBytes >= FLUSH_BYTES) this.#host.wake(this);
    this.#host.holds(this, chunk.length);
    const through = this.sizeBytes;
    if (through - this.#written < FLUSH_BYTES) return Promise.resolve();
    return new Promise<void>((resolve) => this.#waiting.push({ through, resolve }));
  }

  untilRoom(): Promise<void> | null {
    if (this.#over || this.#pendingBytes < FLUSH_BYTES || this.#host.hasRoom()) return null;
    const through = this.sizeBytes;
    return new Promise<void>((resolve) => this.#waiting.push({ through, resolve }));
  }

  digest(): string {
    this.#digest ??= this.#hash.digest('hex');
    return this.#digest;
  }

  async read(offset: number, maxBytes: number): Promise<Buffer> {
    const out: Buffer[] = [];
    let at = offset;
    const end = Math.min(offset + maxBytes, this.sizeBytes);
    for (const part of this.#parts) {
      if (at >= end) break;
      if (at >= part.start + part.length) continue;
      const from = at - part.start;
      const length = Math.min(part.length - from, end - at);
      out.push(await this.#readPart(part, from, length));
      at += length;
    }
    if (at < end) {
      const pendingStart = this.sizeBytes - this.#pendingBytes;
      out.push(slice(this.#pending, at - pendingStart, end - at));
    }
    return out.length === 1 ? (out[0] as Buffer) : Buffer.concat(out);
  }

  async #readPart(part: Part, from: number, length: number): Promise<Buffer> {
    if (part.buffers !== null) return slice(part.buffers, from, length);
    const [generation, offset] = part.extent as Extent;
    return this.#host.readRange(generation, offset + from, length);
  }

  /** Takes up to `maxBytes` of what is pending for one record. */
  take(maxBytes: number): readonly Buffer[] {
    const taken: Buffer[] = [];
    let bytes = 0;
    while (this.#pending.length > 0 && bytes < maxBytes) {
      const first = this.#pending[0] as Buffer;
      if (bytes + first.length <= maxBytes) {
        taken.push(first);
        bytes += first.length;
        this.#pending.shift();
      } else {
        taken.push(first.subarray(0, maxBytes - bytes));
        this.#pending[0] = first.subarray(maxBytes - bytes);
        bytes = maxBytes;
      }
    }
    const start = this.sizeBytes - this.#pendingBytes;
    this.#pendingBytes -= bytes;
    this.#host.holds(this, -bytes);
    this.#parts.push({ start, length: bytes, extent: null, buffers: taken });
    return taken;
  }

  /** Where what was taken last will lie. */
  placed(extent: Extent): void {
    const part = this.#parts[this.#parts.length - 1] as Part;
    part.extent = extent;
  }

  /** The OS has everything taken so far. */
  written(): void {
    for (const part of this.#parts) part.buffers = null;
    this.#written = this.sizeBytes - this.#pendingBytes;
    while (this.#waiting.length > 0 && (this.#waiting[0]?.through ?? 0) - this.#written < FLUSH_BYTES)
      this.#waiting.shift()?.resolve();
  }

  extents(): readonly Extent[] {
    return this.#parts.map((part) => part.extent as Extent);
  }

  discard(): void {
    if (this.#over) return;
    this.#over = true;
    this.#pending = [];
    const held = this.#pendingBytes;
    this.sizeBytes -= held;
    this.#pendingBytes = 0;
    this.#host.holds(this, -held);
    for (const { resolve } of this.#waiting) resolve();
    this.#waiting = [];
    this.#host.release(this);
  }

  /** Its COMMIT is in the log: from now on the copy holds the segments. */
  committed(): void {
    if (this.#over) return;
    this.#over = true;
    this.#host.release(this);
  }
}

function slice(buffers: readonly Buffer[], from: number, length: number): Buffer {
  const out: Buffer[] = [];
  let at = 0;
  for (const buffer of buffers) {
    const start = Math.max(0, from - at);
    const end = Math.min(buffer.length, from + length - at);
    if (start < end) out.push(buffer.subarray(start, end));
    at += buffer.length;
  }
  return out.length === 1 ? (out[0] as Buffer) : Buffer.concat(out);
}
