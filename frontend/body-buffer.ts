/**
 * The bytes of one body between client and transport. Owns: what was not yet sent, and - while it fits - everything from the first byte,
 * so that another transport can get it (semantics.md R9). Promise: memory is at most `replayLimitBytes` per message while it is whole,
 * else what is unsent (and one block); the sum over all messages is kept in `ReplayBudget`; small pieces are joined, so that a client
 * which sends byte by byte costs neither a Buffer nor a frame per byte. Gives up being whole, never bytes that were not sent.
 */
import { ChunkJoiner, JOIN_BYTES } from '../common/chunk-joiner.ts';
import { assert } from '../common/platform/assert.ts';

/** Bytes held by all sessions of this front end together. */
export class ReplayBudget {
  readonly limitBytes: number;
  usedBytes = 0;
  constructor(limitBytes: number) {
    this.limitBytes = limitBytes;
  }
}

export class BodyBuffer {
  readonly #budget: ReplayBudget;
  readonly #replayLimitBytes: number;
  readonly #joiner = new ChunkJoiner();
  #chunks: Buffer[] = [];
  /** Next chunk to send, and how much of it is gone. */
  #index = 0;
  #offset = 0;
  #heldBytes = 0;
  #unsentBytes = 0;
  /** Everything from the first byte is here. */
  whole = true;
  sizeBytes = 0;

  constructor(replayLimitBytes: number, budget: ReplayBudget) {
    this.#replayLimitBytes = replayLimitBytes;
    this.#budget = budget;
  }

  get unsentBytes(): number {
    return this.#unsentBytes;
  }

  /** Enough to send while more is to come; less waits for its neighbours or for the end of the body. */
  get worthSending(): boolean {
    return this.#unsentBytes >= JOIN_BYTES;
  }

  /** False: no room to stay whole with more; the caller either waits or calls `giveUp`. */
  get withinLimits(): boolean {
    return this.#heldBytes <= this.#replayLimitBytes && this.#budget.usedBytes <= this.#budget.limitBytes;
  }

  push(chunk: Buffer): void {
    if (chunk.length === 0) return;
    // Only what is not all sent can grow: who was given a chunk has taken it whole.
    const last = this.#index < this.#chunks.length ? this.#chunks[this.#chunks.length - 1] : undefined;
    const joined = this.#joiner.join(last, chunk);
    if (joined === null) this.#chunks.push(chunk);
    else this.#chunks[this.#chunks.length - 1] = joined;
    this.#hold(chunk.length);
    this.#unsentBytes += chunk.length;
    this.sizeBytes += chunk.length;
  }

  /** The next bytes to send, at most `limitBytes`; null when there are none. */
  take(limitBytes: number): Buffer | null {
    const chunk = this.#chunks[this.#index];
    if (chunk === undefined || limitBytes <= 0) return null;
    const rest = chunk.length - this.#offset;
    const taken =
      rest <= limitBytes ? chunk.subarray(this.#offset) : chunk.subarray(this.#offset, this.#offset + limitBytes);
    this.#unsentBytes -= taken.length;
    if (!this.whole) this.#hold(-taken.length);
    if (taken.length < rest) {
      this.#offset += taken.length;
      return taken;
    }
    this.#offset = 0;
    if (this.whole) this.#index += 1;
    else this.#chunks.shift();
    return taken;
  }

  /** Sends everything again. */
  rewind(): void {
    assert(this.whole, 'A body that is not whole cannot be replayed');
    this.#index = 0;
    this.#offset = 0;
    this.#unsentBytes = this.sizeBytes;
  }

  /** No replay any more: forgets what was sent. */
  giveUp(): void {
    if (!this.whole) return;
    this.whole = false;
    this.#chunks = this.#chunks.slice(this.#index);
    this.#index = 0;
    this.#hold(this.#unsentBytes - this.#heldBytes);
  }

  release(): void {
    this.giveUp();
    this.#chunks = [];
    this.#hold(-this.#heldBytes);
    this.#unsentBytes = 0;
  }

  #hold(bytes: number): void {
    this.#heldBytes += bytes;
    this.#budget.usedBytes += bytes;
  }
}
