/**
 * Message tracking on disk (semantics.md D10): JSON lines in `tracking-NNNNNN.jsonl` beside the queue database.
 * Owns: the tracking directory. Promise: `record` only appends to a buffer, it never waits, throws or syncs (never on the commit path);
 * the buffer, each file and all files together are bounded, in size and in age (`tracking-retention.ts`); `search` sees the buffer and every file still there.
 * Refuses nothing. Fails: when the disk does not take a batch, and the oldest files make no room for it, the batch is dropped, counted and said
 * once per spell; mail is unaffected.
 * What was recorded in the last moments before a kill may be missing: the queue database, not this, is the proof of a message.
 */
import type { MessageTrackingConfig } from '../../common/config.ts';
import type { Clock, Timer } from '../../common/platform/clock.ts';
import type { FileHandle, Files } from '../../common/platform/files.ts';
import type { Logger } from '../../common/platform/log.ts';
import type { Metrics } from '../../common/platform/metrics.ts';
import type { Tracking, TrackingRecord } from './tracking-api.ts';
import { TrackedMessageFinder, type TrackedMessages, type TrackingQuestion } from './tracking-find.ts';
import { DroppedRecords, firstRecordMs, type TrackingGaps } from './tracking-gaps.ts';
import { recordsOf, TrackingLines } from './tracking-lines.ts';
import { type FinishedFile, Retention, type Volume } from './tracking-retention.ts';

export interface TrackingFilesOptions {
  readonly directory: string;
  readonly files: Files;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
  /** Beyond its bounds the oldest files go first; null: nothing is declared. */
  readonly retention?: MessageTrackingConfig | null;
  /** What is left of the volume that tracking shares with the queue database. */
  readonly volume?: () => Volume;
  readonly fileBytes?: number;
  readonly bufferBytes?: number;
  readonly flushIntervalMs?: number;
}

export interface TrackingSearch {
  /**
   * All records of these attempt ids, of every attempt that carried one of them as its Message-ID, and of what was made of one of them: the hops to other boundaries, reports,
   * resubmissions. Oldest first, at most `limit`; of a message with very many recipients the later records name some of them.
   */
  search(ids: readonly string[], limit?: number): Promise<readonly TrackingRecord[]>;
  /** The newest messages that match, each once. */
  find(question: TrackingQuestion, limit: number): Promise<TrackedMessages>;
  /** What a search does not find any more. Asked after it, it is true of it. */
  gaps(): Promise<TrackingGaps>;
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
  /** From now on; said in the log when it is another one. */
  setRetention(retention: MessageTrackingConfig | null): Promise<void>;
  close(): Promise<void>;
}

const ROOMY: Volume = { totalBytes: Number.POSITIVE_INFINITY, freeBytes: Number.POSITIVE_INFINITY };
const DEFAULTS = {
  ...{ retention: null, volume: () => ROOMY },
  ...{ fileBytes: 8 << 20, bufferBytes: 4 << 20, flushIntervalMs: 250 },
} as const;
/** Files grow old without anything being recorded. */
const PRUNE_MS = 60_000;
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

interface Current {
  readonly number: number;
  readonly handle: FileHandle;
  readonly startedMs: number;
  sizeBytes: number;
  lastWriteMs: number;
}

const MOST_QUESTIONS = 8;
/** A message to ten thousand names them all whenever they are put off, for days: beyond this much of an answer each record names a few. */
const WHOLE_RECORD_BYTES = 8 << 20;
const FEW_RECIPIENTS = 20;

const inShort = (record: TrackingRecord): TrackingRecord =>
  record.recipients === undefined ? record : { ...record, recipients: record.recipients.slice(0, FEW_RECIPIENTS) };

/** Nothing is wrong; ask again a little later. */
export class TrackingBusy extends Error {
  readonly code = 'BUSY';

  constructor() {
    super(`${MOST_QUESTIONS} questions wait for message tracking already; ask again when they are answered`);
  }
}

class TrackingDirectory implements TrackingFiles {
  readonly #options: Required<TrackingFilesOptions>;
  /** Finished files, oldest first. */
  #kept: FinishedFile[];
  #next: number;
  #current: Current | null = null;
  /** Recorded, not yet being written. */
  #buffer: string[] = [];
  #bufferBytes = 0;
  /** Being written now. */
  #inFlight: readonly string[] = [];
  #writing: Promise<void> = Promise.resolve();
  #reading: Promise<void> = Promise.resolve();
  #questions = 0;
  #timer: Timer | null = null;
  #failing = false;
  readonly #retention: Retention;
  readonly #dropped = new DroppedRecords();
  #pruneTimer: Timer | null = null;
  #pruneFailing = false;
  #closed = false;

  constructor(options: Required<TrackingFilesOptions>, kept: FinishedFile[]) {
    this.#options = options;
    this.#kept = kept;
    // A file of an earlier process may end in half a line: never continued, only read.
    this.#next = (kept.at(-1)?.number ?? 0) + 1;
    const { retention: declared, volume, logger } = options;
    this.#retention = new Retention({ declared, volume, logger });
    this.#retention.tell(this.#usedBytes);
    this.#pruneLater();
  }

  setRetention(retention: MessageTrackingConfig | null): Promise<void> {
    if (!this.#retention.declare(retention)) return this.#writing;
    this.#retention.tell(this.#usedBytes);
    return this.flush();
  }

  #pruneLater(): void {
    if (this.#closed) return;
    this.#pruneTimer = this.#options.clock.setTimer(PRUNE_MS, () => void this.flush().then(() => this.#pruneLater()));
  }

  get #usedBytes(): number {
    return this.#kept.reduce((sum, file) => sum + file.sizeBytes, this.#current?.sizeBytes ?? 0);
  }

  record(record: TrackingRecord): void {
    if (this.#closed) return;
    const line = `${JSON.stringify(record)}\n`;
    if (this.#bufferBytes + line.length > this.#options.bufferBytes) {
      this.#options.metrics.increment('tracking_dropped_total');
      this.#dropped.take([line]);
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
    this.#writing = this.#writing.then(() => this.#writeBatch()).then(() => this.#prune());
    return this.#writing;
  }

  async #writeBatch(): Promise<void> {
    if (this.#buffer.length === 0) return;
    const batch = this.#buffer;
    this.#inFlight = batch;
    this.#buffer = [];
    this.#bufferBytes = 0;
    try {
      const bytes = Buffer.from(batch.join(''));
      await this.#append(bytes).catch((error: unknown) => this.#appendForOldest(bytes, error));
      this.#failing = false;
    } catch (error) {
      this.#options.metrics.increment('tracking_dropped_total', {}, batch.length);
      this.#dropped.take(batch);
      if (!this.#failing) {
        this.#options.logger.warn({ code: codeOf(error), records: batch.length }, 'tracking records dropped');
      }
      this.#failing = true;
      await this.#abandonCurrent(true);
    } finally {
      this.#inFlight = [];
    }
  }

  async #append(bytes: Buffer): Promise<void> {
    const { clock, directory, fileBytes, files } = this.#options;
    const largest = Math.min(fileBytes, this.#retention.bounds(this.#usedBytes).fileBytes);
    if (this.#current !== null && this.#current.sizeBytes + bytes.length > largest) {
      await this.#finishCurrent(this.#current);
    }
    if (this.#current === null) {
      const number = this.#next++;
      const handle = await files.open(join(directory, fileName(number)), 'create');
      const startedMs = clock.monotonicMs();
      this.#current = { number, handle, startedMs, lastWriteMs: startedMs, sizeBytes: 0 };
    }
    await this.#current.handle.writev([bytes], this.#current.sizeBytes);
    this.#current.sizeBytes += bytes.length;
    this.#current.lastWriteMs = clock.monotonicMs();
    // In the same turn: a search sees each record either here or in the file.
    this.#inFlight = [];
  }

  /** A volume can be full of segments that the queue database keeps for itself: then tracking lives on the room it has. */
  async #appendForOldest(bytes: Buffer, error: unknown): Promise<void> {
    if (codeOf(error) !== 'ENOSPC') throw error;
    await this.#abandonCurrent(true);
    const oldest = this.#kept.find(({ sizeBytes }) => sizeBytes >= EARLY_FLUSH_BYTES);
    if (oldest === undefined) throw error;
    await this.#remove(oldest);
    await this.#append(bytes);
  }

  async #finishCurrent({ number, handle, sizeBytes, lastWriteMs }: Current): Promise<void> {
    this.#kept.push({ number, sizeBytes, lastWriteMs });
    this.#current = null;
    await handle.close();
  }

  /** After a failed write the end of the file is unknown: cut it off, leave the file behind, begin another with the next batch. */
  async #abandonCurrent(isTorn: boolean): Promise<void> {
    const current = this.#current;
    if (current === null) return;
    const unfinished = (error: unknown): void =>
      this.#options.logger.debug({ code: codeOf(error) }, 'tracking file did not close');
    if (isTorn) await current.handle.truncate(current.sizeBytes).catch(unfinished);
    await this.#finishCurrent(current).catch(unfinished);
    // A full disk has room for names: they would be more with every batch.
    for (const file of this.#kept) if (file.sizeBytes === 0) await this.#remove(file).catch(unfinished);
  }

  async #prune(): Promise<void> {
    const { clock, logger, metrics } = this.#options;
    const nowMs = clock.monotonicMs();
    try {
      const current = this.#current;
      const { fileAgeMs } = this.#retention.bounds(this.#usedBytes);
      if (current !== null && nowMs - current.startedMs >= fileAgeMs) await this.#finishCurrent(current);
      const gone = this.#retention.surplus(this.#kept, this.#usedBytes, nowMs);
      for (const file of this.#kept.slice(0, gone)) await this.#remove(file);
      this.#pruneFailing = false;
    } catch (error) {
      if (!this.#pruneFailing)
        logger.warn({ code: codeOf(error) }, 'message tracking beyond its bounds is not removed');
      this.#pruneFailing = true;
    }
    metrics.set('tracking_bytes', this.#usedBytes);
  }

  /** Somebody else may have removed it. */
  async #remove(file: FinishedFile): Promise<void> {
    await this.#options.files.unlink(join(this.#options.directory, fileName(file.number))).catch((error: unknown) => {
      if (codeOf(error) !== 'ENOENT') throw error;
    });
    this.#kept = this.#kept.filter((one) => one !== file);
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

  async gaps(): Promise<TrackingGaps> {
    const { clock, directory, files } = this.#options;
    const { maxAgeMs, fileAgeMs } = this.#retention.bounds(this.#usedBytes);
    // When all of it has gone numbers begin anew, and nothing but the age tells of it.
    const times = Number.isFinite(maxAgeMs) ? [Math.round(clock.wallMs() - maxAgeMs - fileAgeMs)] : [];
    const numbers = [...this.#kept, ...(this.#current === null ? [] : [this.#current])].map(({ number }) => number);
    // The first file that there ever was has not gone: nothing has.
    for (const number of numbers[0] === 1 ? [] : numbers) {
      const firstMs = await firstRecordMs(files, join(directory, fileName(number)));
      if (firstMs === null) continue;
      times.push(firstMs);
      break;
    }
    return { beforeMs: times.length === 0 ? null : Math.max(...times), dropped: this.#dropped.span };
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
    let bytes = 0;
    const take = (line: string): void => {
      if (found.length >= limit || !mayName(line)) return;
      const records = recordsOf(line);
      if (!records.some(matches)) return;
      bytes += line.length;
      found.push(...(bytes <= WHOLE_RECORD_BYTES ? records : records.map(inShort)));
    };
    await this.#eachLine(take);
    return found;
  }

  /** One after the other: a line of people with questions holds up no mail. Fails: `BUSY`, when the line is long already. */
  #eachLine(take: (line: string) => void): Promise<void> {
    if (this.#questions >= MOST_QUESTIONS) return Promise.reject(new TrackingBusy());
    this.#questions += 1;
    const read = this.#reading.then(() => this.#readAll(take));
    this.#reading = read
      .catch(() => undefined)
      .then(() => {
        this.#questions -= 1;
      });
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
    this.#pruneTimer?.cancel();
    await this.#abandonCurrent(false);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

export async function openTracking(options: TrackingFilesOptions): Promise<TrackingFiles> {
  const complete = { ...DEFAULTS, ...options };
  await complete.files.makeDirectory(complete.directory);
  const [nowMs, wallMs] = [complete.clock.monotonicMs(), complete.clock.wallMs()];
  const kept: FinishedFile[] = [];
  for (const name of await complete.files.list(complete.directory)) {
    const number = NAME.exec(name)?.[1];
    if (number === undefined) continue;
    const handle = await complete.files.open(join(complete.directory, name), 'read');
    try {
      // How old it is now is the wall clock's word, once: a jump of it later removes nothing.
      const lastWriteMs = nowMs - Math.max(0, wallMs - (await handle.modifiedMs()));
      kept.push({ number: Number(number), sizeBytes: await handle.sizeBytes(), lastWriteMs });
    } finally {
      await handle.close();
    }
  }
  kept.sort((a, b) => a.number - b.number);
  const opened = new TrackingDirectory(complete, kept);
  await opened.flush();
  return opened;
}
