/**
 * What one session has yet to write. Owns: batching of all frames of a tick into one `write`, holding back while the connection is
 * full, the cap on queued control bytes. Promise: frames leave in the order they were put. Refuses more than `CONTROL_CAP_BYTES` of
 * control frames (a peer that asks but does not read): `onOverflow`. Bodies are not capped here, stream credit bounds them.
 */
import type { Connection } from '../platform/net.ts';

export const CONTROL_CAP_BYTES = 16 * 1_048_576;

/** Runs a callback once at the end of the current tick. */
export type Defer = (callback: () => void) => void;

export interface OutboxHooks {
  /** Last chance of a tick to put something. */
  beforeFlush(): void;
  onWritten(): void;
  onOverflow(): void;
}

export class Outbox {
  readonly #connection: Connection;
  readonly #defer: Defer;
  readonly #hooks: OutboxHooks;
  #buffers: Uint8Array[] = [];
  #bytes = 0;
  #controlBytes = 0;
  /** Bytes of the write that found the connection full. */
  #takenBytes = 0;
  #full = false;
  #scheduled = false;
  #closed = false;

  constructor(connection: Connection, defer: Defer, hooks: OutboxHooks) {
    this.#connection = connection;
    this.#defer = defer;
    this.#hooks = hooks;
  }

  /** An upper bound of what the OS has not taken yet. */
  get queuedBytes(): number {
    return this.#bytes + this.#takenBytes;
  }

  get idle(): boolean {
    return this.#bytes === 0 && !this.#full;
  }

  putControl(frame: Uint8Array): void {
    if (this.#closed) return;
    this.#buffers.push(frame);
    this.#bytes += frame.length;
    this.#controlBytes += frame.length;
    if (this.#controlBytes > CONTROL_CAP_BYTES) this.#hooks.onOverflow();
    else this.touch();
  }

  putChunk(header: Uint8Array, payload: Uint8Array): void {
    if (this.#closed) return;
    this.#buffers.push(header, payload);
    this.#bytes += header.length + payload.length;
    this.touch();
  }

  /** Makes sure a flush happens at the end of this tick. */
  touch(): void {
    if (this.#scheduled || this.#full || this.#closed) return;
    this.#scheduled = true;
    this.#defer(() => {
      this.#scheduled = false;
      this.#flush();
    });
  }

  onDrain(): void {
    this.#full = false;
    this.#takenBytes = 0;
    this.touch();
  }

  /** Writes what is queued and closes behind it; nothing can be put any more. */
  finish(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#buffers.length > 0) this.#connection.write(this.#buffers);
    this.#drop();
    this.#connection.end();
  }

  /** Forgets everything. */
  abandon(): void {
    this.#closed = true;
    this.#drop();
  }

  #drop(): void {
    this.#buffers = [];
    this.#bytes = 0;
    this.#controlBytes = 0;
    this.#takenBytes = 0;
  }

  #flush(): void {
    if (this.#closed || this.#full) return;
    this.#hooks.beforeFlush();
    if (this.#buffers.length === 0) return;
    const buffers = this.#buffers;
    const bytes = this.#bytes;
    this.#drop();
    this.#hooks.onWritten();
    if (this.#connection.write(buffers)) return;
    this.#full = true;
    this.#takenBytes = bytes;
  }
}
