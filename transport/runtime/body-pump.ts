/**
 * Sends one growing or complete body to one candidate (semantics.md R3, R5). Owns: the position in the body. While the candidate keeps up, chunks are
 * forwarded as they arrive; when it lags (no credit) or is a later candidate, they are read back from the own queue database, so that memory is bounded
 * and the client is never slowed by a peer's disk.
 */
import type { End } from '../../common/peer/messages.ts';
import type { OutgoingStream } from '../../common/peer/session-api.ts';

/** Where a body comes from: a `BodyWriter` while it arrives, the log afterwards. */
export interface BodySource {
  /** Bytes available now. */
  readonly sizeBytes: number;
  read(offset: number, maxBytes: number): Promise<Buffer>;
}

const READ_BYTES = 262_144;

export class BodyPump {
  readonly #stream: OutgoingStream;
  readonly #source: BodySource;
  readonly #onError: (error: unknown) => void;
  #sent = 0;
  #end: End | null = null;
  #reading = false;
  #over = false;

  constructor(stream: OutgoingStream, source: BodySource, onError: (error: unknown) => void) {
    this.#stream = stream;
    this.#source = source;
    this.#onError = onError;
  }

  /** A chunk was just appended to the source. */
  offer(chunk: Buffer): void {
    if (this.#over || this.#reading) return;
    const keepsUp = this.#sent === this.#source.sizeBytes - chunk.length && this.#stream.credit >= chunk.length;
    if (!keepsUp) return this.pump();
    this.#stream.chunk(chunk);
    this.#sent += chunk.length;
  }

  /** Credit arrived, or more bytes did. */
  pump(): void {
    if (this.#over || this.#reading) return;
    if (this.#end !== null && this.#sent === this.#end.sizeBytes) {
      this.#over = true;
      this.#stream.end(this.#end);
      return;
    }
    const want = Math.min(this.#stream.credit, this.#source.sizeBytes - this.#sent, READ_BYTES);
    if (want <= 0) return;
    this.#reading = true;
    this.#source.read(this.#sent, want).then(
      (bytes) => {
        this.#reading = false;
        if (this.#over) return;
        // Shorter than announced: reading on would turn for ever.
        if (bytes.length === 0) {
          this.#over = true;
          this.#onError(new Error('body ends before its announced size'));
          return;
        }
        this.#sent += bytes.length;
        this.#stream.chunk(bytes);
        this.pump();
      },
      (error: unknown) => {
        this.#over = true;
        this.#onError(error);
      },
    );
  }

  /** END goes out once every byte has. */
  end(end: End): void {
    this.#end = end;
    this.pump();
  }

  /** END has left: the stream waits for its answer. */
  get ended(): boolean {
    return this.#end !== null && this.#sent === this.#end.sizeBytes;
  }

  stop(): void {
    this.#over = true;
  }
}
