/**
 * One message on its way from the client into the handler's sink. Owns: the scanner, back-pressure, and how fast the client must
 * send. Promises: nothing is written to the sink while it is full or once the content is disqualified; exactly one of `end` and
 * `abort` is called on it, and after `end` it hears at most once that the client is gone. Time the sink was full is never held against the client, except by the cap over the whole message.
 */
import type { Reply } from '../message.ts';
import type { DataAnswer, DataSink } from './edge-api.ts';
import { type DataFault, type DataLimits, DataScanner } from './wire.ts';

/** Lets `drain` be called before, during and after the write that was refused. */
export class DrainGate {
  #open = true;
  #waiting: (() => void) | null = null;

  readonly open = (): void => {
    this.#open = true;
    this.#waiting?.();
    this.#waiting = null;
  };

  close(): void {
    this.#open = false;
  }

  /** Null when it is open. */
  opened(): Promise<void> | null {
    if (this.#open) return null;
    return new Promise((resolve) => {
      this.#waiting = resolve;
    });
  }
}

export interface PaceLimits {
  readonly dataTimeoutMs: number;
  readonly minDataBytesPerSecond: number;
  /** The rate is looked at once per this span; also how long the client may send nothing. */
  readonly idleTimeoutMs: number;
}

export class DataTransfer {
  readonly #scanner: DataScanner;
  readonly #sink: DataSink;
  readonly #gate: DrainGate;
  readonly #pace: PaceLimits;
  readonly capMs: number;
  #windowEndMs: number;
  #windowBytes = 0;
  #blockedInWindow = false;
  #over = false;
  #gone = false;

  constructor(sink: DataSink, gate: DrainGate, limits: DataLimits & PaceLimits, nowMs: number) {
    this.#scanner = new DataScanner(limits);
    this.#sink = sink;
    this.#gate = gate;
    this.#pace = limits;
    this.capMs = nowMs + limits.dataTimeoutMs;
    this.#windowEndMs = nowMs + limits.idleTimeoutMs;
  }

  /** When `tooSlow` wants to be asked next. */
  get checkAtMs(): number {
    return Math.min(this.capMs, this.#windowEndMs);
  }

  get fault(): DataFault | null {
    return this.#scanner.fault;
  }

  get rejected(): Reply | null {
    return this.#scanner.rejected;
  }

  /** `rest` is what follows the message, null while it goes on; wait for `full` before the next chunk. */
  receive(chunk: Buffer): { readonly rest: Buffer | null; readonly full: Promise<void> | null } {
    this.#windowBytes += chunk.length;
    const { content, rest } = this.#scanner.scan(chunk);
    if (content === null) return { rest, full: null };
    this.#gate.close();
    const full = this.#sink.write(content) ? null : this.#gate.opened();
    if (full !== null) this.#blockedInWindow = true;
    return { rest, full };
  }

  /** The reply a client deserves that is too slow at `nowMs`, or null. */
  tooSlow(nowMs: number): 'dataTimeout' | 'idleTimeout' | 'dataTooSlow' | null {
    if (nowMs >= this.capMs) return 'dataTimeout';
    if (nowMs < this.#windowEndMs) return null;
    const bytes = this.#windowBytes;
    const seconds = this.#pace.idleTimeoutMs / 1000;
    const excused = this.#blockedInWindow;
    this.#windowBytes = 0;
    this.#blockedInWindow = false;
    this.#windowEndMs = nowMs + this.#pace.idleTimeoutMs;
    if (excused) return null;
    if (bytes === 0) return 'idleTimeout';
    return bytes < this.#pace.minDataBytesPerSecond * seconds ? 'dataTooSlow' : null;
  }

  end(): Promise<DataAnswer> {
    this.#over = true;
    return this.#sink.end({ sizeBytes: this.#scanner.sizeBytes, rejected: this.#scanner.rejected });
  }

  /** The client is gone, or cut off. Idempotent. */
  abort(reason: string): void {
    if (this.#gone) return;
    this.#gone = true;
    if (this.#over) return this.#sink.gone(reason);
    this.#over = true;
    this.#gate.open();
    this.#sink.abort(reason);
  }
}
