/**
 * When checkpoints are taken and which segments they free. Owns: the two checkpoint files, kept larger than needed so that a full disk
 * does not stop them. A checkpoint that finds no room is skipped and logged (the log is the truth); any other failure is fatal.
 */
import type { FileHandle, Files } from '../../common/platform/files.ts';
import type { Logger } from '../../common/platform/log.ts';
import { type CheckpointHead, checkpointName, snapshotState, writeCheckpoint } from './checkpoint.ts';
import type { LogState } from './log-state.ts';
import { FORMAT_VERSION, padded } from './record.ts';
import type { SegmentPool } from './segment-pool.ts';

export interface CheckpointerOptions {
  readonly directory: string;
  readonly files: Files;
  readonly log: Logger;
  readonly state: LogState;
  readonly pool: SegmentPool;
  readonly newest: CheckpointHead | null;
  readonly newestBytes: number;
  readonly retainFrom: number;
  readonly onFatal: (error: unknown) => void;
}

const GROW = 64 * 1024;
/** Read and applied in less than a second. */
const CHEAP_TAIL_BYTES = 192 << 20;
const ZEROS = Buffer.alloc(GROW);

export class Checkpointer {
  readonly #options: CheckpointerOptions;
  #handles: (FileHandle | null)[] = [null, null];
  #sizes = [0, 0];
  #newest: CheckpointHead | null;
  #lastBytes: number;
  #retainFrom: number;
  #running: Promise<void> | null = null;

  constructor(options: CheckpointerOptions) {
    this.#options = options;
    this.#newest = options.newest;
    this.#lastBytes = options.newestBytes;
    this.#retainFrom = options.retainFrom;
  }

  /**
   * Log bytes after which the next checkpoint pays for itself: a sixteenth of the log while a reopen still reads little of it, a quarter
   * beyond. (Encoding a growing queue at the end of each segment was a tenth of the CPU of a transport.)
   */
  get dueBytes(): number {
    return Math.max(4 * this.#lastBytes, Math.min(16 * this.#lastBytes, CHEAP_TAIL_BYTES));
  }

  /** The last segment the newest checkpoint stands for. */
  get through(): number {
    return this.#newest?.lastGeneration ?? 0;
  }

  get running(): boolean {
    return this.#running !== null;
  }

  async settled(): Promise<void> {
    await this.#running;
  }

  /**
   * Creates and fills both files, so that they exist when the disk is full; syncs what a killed process may have left in the page cache.
   */
  async prepare(names: readonly string[]): Promise<void> {
    await Promise.all([this.#prepareFile(0, names), this.#prepareFile(1, names)]);
  }

  async #prepareFile(number: number, names: readonly string[]): Promise<void> {
    const name = checkpointName(number);
    const path = `${this.#options.directory}/${name}`;
    const exists = names.includes(name);
    const handle = await this.#options.files.open(path, exists ? 'write' : 'create');
    this.#handles[number] = handle;
    this.#sizes[number] = exists ? await handle.sizeBytes() : 0;
    if (exists) await handle.datasync();
    if ((this.#sizes[number] ?? 0) === 0) await this.#grow(number, GROW);
  }

  /**
   * Everything applied so far must be durable. The picture is taken before this returns; the promise is for who wants to wait.
   */
  start(sequence: number, lastGeneration: number, lastEnd: number): Promise<void> {
    if (this.#running !== null) return this.#running;
    const { state, pool } = this.#options;
    const ends: [number, number][] = [[lastGeneration, lastEnd]];
    for (const segment of pool.used.values())
      if (segment.generation < lastGeneration) ends.push([segment.generation, segment.end]);
    const snapshot = snapshotState(state, ends);
    const head: CheckpointHead = {
      version: FORMAT_VERSION,
      number: (this.#newest?.number ?? 0) + 1,
      sequence,
      lastGeneration,
    };
    this.#running = this.#write(head, snapshot.frames()).finally(() => {
      this.#running = null;
    });
    return this.#running;
  }

  /** Gives segments back that nothing needs and both checkpoints are past. */
  recycle(currentGeneration: number): void {
    const { state, pool } = this.#options;
    for (const generation of [...pool.used.keys()])
      if (generation !== currentGeneration && generation < this.#retainFrom && !state.needs(generation))
        pool.release(generation);
  }

  async close(): Promise<void> {
    await this.#running;
    for (const handle of this.#handles) await handle?.close();
  }

  async #write(head: CheckpointHead, frames: Iterable<Buffer>): Promise<void> {
    const number = head.number % 2;
    const handle = this.#handles[number];
    if (handle == null) return;
    try {
      const bytes = await writeCheckpoint(handle, head, frames);
      this.#sizes[number] = Math.max(this.#sizes[number] ?? 0, bytes);
      if (this.#newest !== null) this.#retainFrom = this.#newest.lastGeneration + 1;
      this.#newest = head;
      this.#lastBytes = bytes;
      for (const file of [0, 1])
        if ((this.#sizes[file] ?? 0) < bytes) await this.#grow(file, padded(bytes + bytes / 2));
    } catch (error) {
      if ((error as { code?: string }).code === 'ENOSPC')
        this.#options.log.warn(
          { number: head.number },
          'queue database: no room for a checkpoint, the log goes on without',
        );
      else this.#options.onFatal(error);
    }
  }

  async #grow(number: number, sizeBytes: number): Promise<void> {
    const handle = this.#handles[number];
    let at = this.#sizes[number] ?? 0;
    for (; handle != null && at < sizeBytes; at += GROW)
      await handle.writev([ZEROS.subarray(0, Math.min(GROW, sizeBytes - at))], at);
    this.#sizes[number] = Math.max(at, sizeBytes);
  }
}
