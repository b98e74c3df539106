/**
 * Message tracking on disk (semantics.md D10): JSON lines in `tracking-NNNNNN.jsonl` beside the queue database.
 * Owns: the tracking directory. Promise: `record` only appends to a buffer, it never waits, throws or syncs (never on the commit path);
 * the buffer, each file and all files together are bounded; `search` sees the buffer and every file still there.
 * Refuses nothing. Fails: when the disk does not take a batch the batch is dropped, counted and said once per spell; mail is unaffected.
 * What was recorded in the last moments before a kill may be missing: the queue database, not this, is the proof of a message.
 */
import type { Clock, Timer } from '../../common/platform/clock.ts';
import type { FileHandle, Files } from '../../common/platform/files.ts';
import type { Logger } from '../../common/platform/log.ts';
import type { Metrics } from '../../common/platform/metrics.ts';
import type { Tracking, TrackingRecord } from './tracking-api.ts';
import { TrackedMessageFinder, type TrackedMessages, type TrackingQuestion } from './tracking-find.ts';
import { recordsOf, TrackingLines } from './tracking-lines.ts';

export interface TrackingFilesOptions {
  readonly directory: string;
  readonly files: Files;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
  readonly fileBytes?: number;
  /** Bound of all files together; the oldest go first. */
  readonly totalBytes?: number;
  readonly bufferBytes?: number;
  readonly flushIntervalMs?: number;
}

export interface TrackingSearch {
  /**
   * All records of these attempt ids, of every attempt that carried one of them as its Message-ID, and of what was made of one of them: the hops to other boundaries, reports,
   * resubmissions. Oldest first, at most `limit`.
   */
  search(ids: readonly string[], limit?: number): Promise<readonly TrackingRecord[]>;
  /** The newest messages that match, each once. */
  find(question: TrackingQuestion, limit: number): Promise<TrackedMessages>;
  /** What became of messages, as far as it is recorded here; one reading of the files for all of `ids`. */
  outcomes(ids: ReadonlySet<string>): Promise<readonly RecordedOutcome[]>;
}

export interface RecordedOutcome {
  readonly id: string;
  /** The whole message was final. */
  readonly final: boolean;
  /** Recipients with a final outcome. */
  readonly recipients: readonly string[];
}

/** Written when every recipient is final, by the owner and by a holder. */
const WHOLE: ReadonlySet<string> = new Set(['SAFETYNET', 'HADISCARD', 'REMOVE']);
const EACH: ReadonlySet<string> = new Set(['DELIVER', 'SEND', 'DUPLICATEDELIVER', 'FAIL', 'EXPIRE']);
const ATTEMPT = /"attemptId":"([^"\\]+)"/;
const NAMES = /"(?:attemptId|messageId|root|parent)":"((?:[^"\\]|\\.)*)"/g;
/** Up to that many it is faster to look for each in the whole line. */
const FEW = 8;

/** Whether a line is worth reading as JSON. */
function namingAny(names: ReadonlySet<string>): (line: string) => boolean {
  const escaped = new Set([...names].map((name) => JSON.stringify(name).slice(1, -1)));
  if (escaped.size > FEW)
    return (line) => [...line.matchAll(NAMES)].some(([, name]) => name !== undefined && escaped.has(name));
  const few = [...escaped];
  return (line) => few.some((name) => line.includes(name));
}

export interface TrackingFiles extends Tracking, TrackingSearch, AsyncDisposable {
  flush(): Promise<void>;
  close(): Promise<void>;
}

const DEFAULTS = { fileBytes: 8 << 20, totalBytes: 128 << 20, bufferBytes: 4 << 20, flushIntervalMs: 250 } as const;
/** A batch is written early when this much is waiting. */
const EARLY_FLUSH_BYTES = 64 << 10;
const READ_BYTES = 256 << 10;
const NAME = /^tracking-(\d{6,})\.jsonl$/;
const fileName = (number: number): string => `tracking-${String(number).padStart(6, '0')}.jsonl`;
const join = (directory: string, name: string): string => `${directory}/${name}`;
const codeOf = (error: unknown): string =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : 'UNKNOWN';

interface Kept {
  readonly number: number;
  readonly sizeBytes: number;
}

class TrackingDirectory implements TrackingFiles {
  readonly #options: Required<TrackingFilesOptions>;
  /** Finished files, oldest first. */
  #kept: Kept[];
  #next: number;
  #current: { readonly number: number; readonly handle: FileHandle; sizeBytes: number } | null = null;
  /** Recorded, not yet being written. */
  #buffer: string[] = [];
  #bufferBytes = 0;
  /** Being written now. */
  #inFlight: readonly string[] = [];
  #writing: Promise<void> = Promise.resolve();
  #reading: Promise<void> = Promise.resolve();
  #timer: Timer | null = null;
  #failing = false;
  #closed = false;

  constructor(options: Required<TrackingFilesOptions>, kept: Kept[]) {
    this.#options = options;
    this.#kept = kept;
    // A file of an earlier process may end in half a line: never continued, only read.
    this.#next = (kept.at(-1)?.number ?? 0) + 1;
  }

  record(record: TrackingRecord): void {
    if (this.#closed) return;
    const line = `${JSON.stringify(record)}\n`;
    if (this.#bufferBytes + line.length > this.#options.bufferBytes) {
      this.#options.metrics.increment('tracking_dropped_total');
      return;
    }
    this.#buffer.push(line);
    this.#bufferBytes += line.length;
    if (this.#bufferBytes >= EARLY_FLUSH_BYTES && this.#inFlight.length === 0) void this.flush();
    else this.#timer ??= this.#options.clock.setTimer(this.#options.flushIntervalMs, () => void this.flush());
  }

  flush(): Promise<void> {
    this.#timer?.cancel();
    this.#timer = null;
    this.#writing = this.#writing.then(() => this.#writeBatch());
    return this.#writing;
  }

  async #writeBatch(): Promise<void> {
    if (this.#buffer.length === 0) return;
    const batch = this.#buffer;
    this.#inFlight = batch;
    this.#buffer = [];
    this.#bufferBytes = 0;
    try {
      await this.#append(Buffer.from(batch.join('')));
      this.#failing = false;
    } catch (error) {
      this.#options.metrics.increment('tracking_dropped_total', {}, batch.length);
      if (!this.#failing) {
        this.#options.logger.warn({ code: codeOf(error), records: batch.length }, 'tracking records dropped');
      }
      this.#failing = true;
      await this.#abandonCurrent();
    } finally {
      this.#inFlight = [];
    }
  }

  async #append(bytes: Buffer): Promise<void> {
    if (this.#current !== null && this.#current.sizeBytes + bytes.length > this.#options.fileBytes) {
      await this.#finishCurrent(this.#current);
    }
    if (this.#current === null) {
      const number = this.#next++;
      const path = join(this.#options.directory, fileName(number));
      this.#current = { number, handle: await this.#options.files.open(path, 'create'), sizeBytes: 0 };
    }
    await this.#current.handle.writev([bytes], this.#current.sizeBytes);
    this.#current.sizeBytes += bytes.length;
    // In the same turn: a search sees each record either here or in the file.
    this.#inFlight = [];
    await this.#prune();
  }

  async #finishCurrent(current: {
    readonly number: number;
    readonly handle: FileHandle;
    sizeBytes: number;
  }): Promise<void> {
    this.#kept.push({ number: current.number, sizeBytes: current.sizeBytes });
    this.#current = null;
    await current.handle.close();
  }

  /** After a failed write the end of the file is unknown: leave it behind, begin another with the next batch. */
  async #abandonCurrent(): Promise<void> {
    const current = this.#current;
    if (current === null) return;
    await this.#finishCurrent(current).catch((error: unknown) =>
      this.#options.logger.debug({ code: codeOf(error) }, 'tracking file did not close'),
    );
  }

  async #prune(): Promise<void> {
    let total = (this.#current?.sizeBytes ?? 0) + this.#kept.reduce((sum, file) => sum + file.sizeBytes, 0);
    for (let oldest = this.#kept[0]; total > this.#options.totalBytes && oldest !== undefined; oldest = this.#kept[0]) {
      await this.#options.files.unlink(join(this.#options.directory, fileName(oldest.number)));
      this.#kept.shift();
      total -= oldest.sizeBytes;
    }
  }

  async search(ids: readonly string[], limit = 10_000): Promise<readonly TrackingRecord[]> {
    const wanted = new Set(ids);
    const isNamed = (name: string | undefined): boolean => name !== undefined && wanted.has(name);
    const named = await this.#scan(wanted, limit, ({ attemptId, messageId, root, parent }) =>
      [attemptId, messageId, root, parent].some(isNamed),
    );
    const attempts = new Set(named.map((record) => record.attemptId));
    // Found by another name: the other records of those attempts do not repeat it.
    const found = [...attempts].every(isNamed)
      ? named
      : await this.#scan(attempts, limit, ({ attemptId }) => attempts.has(attemptId));
    return [...found].sort((a, b) => a.atMs - b.atMs);
  }

  async find(question: TrackingQuestion, limit: number): Promise<TrackedMessages> {
    const finder = new TrackedMessageFinder(question, limit);
    await this.#eachLine((line) => finder.take(line));
    return finder.answer;
  }

  async outcomes(ids: ReadonlySet<string>): Promise<readonly RecordedOutcome[]> {
    const found = new Map<string, { final: boolean; readonly recipients: Set<string> }>();
    await this.#eachLine((line) => {
      const named = ATTEMPT.exec(line)?.[1];
      if (named === undefined || !ids.has(named)) return;
      for (const { event, recipients, attemptId: id } of recordsOf(line)) {
        if (!ids.has(id) || (!WHOLE.has(event) && !EACH.has(event))) continue;
        const outcome = found.get(id) ?? { final: false, recipients: new Set() };
        found.set(id, outcome);
        outcome.final ||= WHOLE.has(event);
        for (const recipient of recipients ?? []) if (EACH.has(event)) outcome.recipients.add(recipient);
      }
    });
    return [...found].map(([id, { final, recipients }]) => ({ id, final, recipients: [...recipients] }));
  }

  async #scan(
    needles: ReadonlySet<string>,
    limit: number,
    matches: (record: TrackingRecord) => boolean,
  ): Promise<TrackingRecord[]> {
    const mayName = namingAny(needles);
    const found: TrackingRecord[] = [];
    const take = (line: string): void => {
      if (found.length >= limit || !mayName(line)) return;
      const records = recordsOf(line);
      if (records.some(matches)) found.push(...records);
    };
    await this.#eachLine(take);
    return found;
  }

  /** One after the other: a line of people with questions holds up no mail. */
  #eachLine(take: (line: string) => void): Promise<void> {
    const read = this.#reading.then(() => this.#readAll(take));
    this.#reading = read.catch(() => undefined);
    return read;
  }

  async #readAll(take: (line: string) => void): Promise<void> {
    // What is recorded or in flight now; a batch that reaches the file meanwhile lies beyond the size read below.
    const waiting = [...this.#inFlight, ...this.#buffer];
    const current = this.#current;
    const files = [
      ...this.#kept,
      ...(current === null ? [] : [{ number: current.number, sizeBytes: current.sizeBytes }]),
    ];
    for (const file of files) await this.#readLines(file, take);
    for (const line of waiting) take(line.trimEnd());
  }

  async #readLines(file: Kept, take: (line: string) => void): Promise<void> {
    let handle: FileHandle;
    try {
      handle = await this.#options.files.open(join(this.#options.directory, fileName(file.number)), 'read');
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return; // pruned meanwhile
      throw error;
    }
    try {
      const chunk = Buffer.alloc(READ_BYTES);
      const lines = new TrackingLines();
      for (let position = 0; position < file.sizeBytes; ) {
        const wanted = Math.min(chunk.length, file.sizeBytes - position);
        const got = await handle.read(chunk, 0, wanted, position);
        if (got === 0) break;
        position += got;
        for (const line of lines.push(chunk.subarray(0, got))) take(line);
      }
    } finally {
      await handle.close();
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    await this.flush();
    this.#closed = true;
    await this.#abandonCurrent();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

export async function openTracking(options: TrackingFilesOptions): Promise<TrackingFiles> {
  const complete = { ...DEFAULTS, ...options };
  await complete.files.makeDirectory(complete.directory);
  const kept: Kept[] = [];
  for (const name of await complete.files.list(complete.directory)) {
    const number = NAME.exec(name)?.[1];
    if (number === undefined) continue;
    const handle = await complete.files.open(join(complete.directory, name), 'read');
    try {
      kept.push({ number: Number(number), sizeBytes: await handle.sizeBytes() });
    } finally {
      await handle.close();
    }
  }
  kept.sort((a, b) => a.number - b.number);
  return new TrackingDirectory(complete, kept);
}
