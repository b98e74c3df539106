/**
 * The segment files. Owns: which are in use, which are free, creating them (zeros written and synced, so that the log never waits for
 * the file system's journal), the reserve that lets a pod deliver and discard with no byte free (protocol.md 28). Segments are recycled
 * in place. Fails with the disk's error when no segment can be had; running below the reserve is only logged.
 */
import type { FileHandle, Files } from '../../common/platform/files.ts';
import type { Logger } from '../../common/platform/log.ts';
import type { StoreMutant } from './mutants.ts';
import { BLOCK, FORMAT_VERSION, padded, segmentBlock } from './record.ts';

export interface Segment {
  readonly slot: number;
  readonly path: string;
  readonly handle: FileHandle;
  readonly sizeBytes: number;
  /** 0 while free and never used. */
  generation: number;
  /** First byte behind the last group. */
  end: number;
  /** The write of the next group; the index names what is in it already. */
  writing: Promise<void> | null;
}

export interface PoolOptions {
  readonly directory: string;
  readonly files: Files;
  readonly log: Logger;
  readonly salt: Buffer;
  readonly segmentBytes: number;
  readonly reserveBytes: number;
  /** The simulator's known-wrong variants. */
  readonly mutants?: ReadonlySet<StoreMutant>;
}

const SEGMENT_NAME = /^segment-(\d{6,})$/;
const ZERO_PIECE = Buffer.alloc(1 << 20);

export const segmentName = (slot: number): string => `segment-${String(slot).padStart(6, '0')}`;
export const slotOf = (name: string): number | null => {
  const match = SEGMENT_NAME.exec(name);
  return match === null ? null : Number(match[1]);
};

/** Two at least: one to write, one to open with. */
export const reserveSegments = ({
  reserveBytes,
  segmentBytes,
}: Pick<PoolOptions, 'reserveBytes' | 'segmentBytes'>): number => Math.max(2, Math.ceil(reserveBytes / segmentBytes));

export class SegmentPool {
  /** In use, by generation. */
  readonly used = new Map<number, Segment>();
  readonly reserveSegments: number;
  readonly #options: PoolOptions;
  #free: Segment[] = [];
  #nextSlot = 1;
  #replenishing: Promise<void> | null = null;
  #fileSystemFreeBytes = 0;
  /** No new segment could be had, and nothing has said since that one can. */
  #isFull = false;
  #closed = false;

  constructor(options: PoolOptions) {
    this.#options = options;
    this.reserveSegments = options.mutants?.has('no-reserve') === true ? 0 : reserveSegments(options);
  }

  get salt(): Buffer {
    return this.#options.salt;
  }

  get segmentBytes(): number {
    return this.#options.segmentBytes;
  }

  get freeSegments(): number {
    return this.#free.length;
  }

  get count(): number {
    return this.#free.length + this.used.size;
  }

  adopt(segment: Segment, inUse: boolean): void {
    this.#nextSlot = Math.max(this.#nextSlot, segment.slot + 1);
    if (inUse) this.used.set(segment.generation, segment);
    else this.#free.push(segment);
  }

  /** A segment of at least `minBytes`, not yet in use. Takes from the reserve when the file system is full. */
  async acquire(minBytes: number): Promise<Segment> {
    if (this.#find(minBytes) === -1 && this.#replenishing !== null) await this.#replenishing;
    const index = this.#find(minBytes);
    if (index !== -1) return this.#free.splice(index, 1)[0] as Segment;
    return this.#create(Math.max(this.#options.segmentBytes, padded(minBytes)));
  }

  /** Whether bodies may begin another segment: the reserve stays for what must be recorded with a full disk (protocol.md 28). */
  async hasRoomForBodies(): Promise<boolean> {
    if (this.#free.length <= this.reserveSegments && !this.#isFull) await this.replenish();
    return this.mayHaveRoom();
  }

  /** The same as far as it is known now; true also when a new segment would have to be tried. */
  mayHaveRoom(): boolean {
    return this.#free.length > this.reserveSegments || !this.#isFull;
  }

  /** Bytes of segments that are there and not of the reserve. */
  spareBytes(): number {
    return Math.max(0, this.#free.length - this.reserveSegments) * this.#options.segmentBytes;
  }

  take(segment: Segment, generation: number): void {
    segment.generation = generation;
    segment.end = BLOCK;
    this.used.set(generation, segment);
  }

  release(generation: number): void {
    const segment = this.used.get(generation);
    if (segment === undefined) return;
    this.used.delete(generation);
    this.#free.push(segment);
  }

  /** Brings the free segments back to the reserve and one more, in the background; rejects never. */
  replenish(): Promise<void> {
    this.#replenishing ??= this.#fill().finally(() => {
      this.#replenishing = null;
    });
    return this.#replenishing;
  }

  /** Bytes that appends may still take: not the reserve. */
  freeBytes(): number {
    const free = this.#free.reduce((sum, segment) => sum + segment.sizeBytes, 0);
    return Math.max(0, this.#fileSystemFreeBytes + free - this.reserveSegments * this.#options.segmentBytes);
  }

  totalBytes(): number {
    let bytes = this.#fileSystemFreeBytes;
    for (const segment of this.#free) bytes += segment.sizeBytes;
    for (const segment of this.used.values()) bytes += segment.sizeBytes;
    return bytes;
  }

  async sampleSpace(): Promise<void> {
    this.#fileSystemFreeBytes = await this.#options.files.freeBytes(this.#options.directory);
    if (this.#fileSystemFreeBytes > this.#options.segmentBytes) this.#isFull = false;
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#replenishing;
    for (const segment of [...this.#free, ...this.used.values()]) await segment.handle.close();
  }

  #find(minBytes: number): number {
    return this.#free.findIndex((segment) => segment.sizeBytes >= minBytes);
  }

  async #fill(): Promise<void> {
    try {
      while (!this.#closed && this.#free.length <= this.reserveSegments) {
        const missing = this.reserveSegments + 1 - this.#free.length;
        const made = await Promise.allSettled(
          Array.from({ length: Math.min(missing, 4) }, () => this.#create(this.#options.segmentBytes, false)),
        );
        // Not used before its name is durable.
        await this.#options.files.syncDirectory(this.#options.directory);
        for (const one of made) if (one.status === 'fulfilled') this.#free.push(one.value);
        for (const one of made) if (one.status === 'rejected') throw one.reason;
      }
    } catch (error) {
      this.#isFull = true;
      this.#options.log.warn(
        { error: String(error), free: this.#free.length },
        'queue database: no new segment, using the reserve',
      );
    }
  }

  async #create(sizeBytes: number, syncName = true): Promise<Segment> {
    const { directory, files, salt } = this.#options;
    const slot = this.#nextSlot++;
    const path = `${directory}/${segmentName(slot)}`;
    const handle = await files.open(path, 'create');
    try {
      const block = segmentBlock(salt, { version: FORMAT_VERSION, generation: 0, previous: null, syncedThrough: 0 });
      for (let at = 0; at < sizeBytes; at += ZERO_PIECE.length) {
        const piece = ZERO_PIECE.subarray(0, Math.min(ZERO_PIECE.length, sizeBytes - at));
        await handle.writev(at === 0 ? [block, piece.subarray(BLOCK)] : [piece], at);
        // In small steps: one large flush would hold up the syncs of the log.
        await handle.datasync();
      }
      if (syncName) await files.syncDirectory(directory);
    } catch (error) {
      await handle.close();
      await files.unlink(path);
      throw error;
    }
    return { slot, path, handle, sizeBytes, generation: 0, end: BLOCK, writing: null };
  }
}
