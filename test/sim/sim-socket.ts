/**
 * A simulated TCP connection between a mail client and a front end, as the streams that `smtp-server` and our own client expect. Owns: the bytes on the way
 * from one end to the other. Promises: bytes of one direction arrive in order, once, in arbitrary pieces that have nothing to do with how they were written;
 * the two directions end separately (FIN); who writes to an end that is closed gets a reset; a dead process neither reads, writes nor hears of anything.
 * Faults: a reset at a random byte, a machine that is gone without a word (half open). Fails like a socket: ECONNREFUSED, ECONNRESET.
 */
import { Duplex } from 'node:stream';
import type { Incarnation } from './incarnation.ts';
import type { Scheduler, SeededRandom } from './scheduler.ts';

/** What all connections of a world share. */
export interface SimWire {
  readonly scheduler: Scheduler;
  /** Of this wire alone. */
  readonly random: SeededRandom;
}

interface Item {
  readonly kind: 'bytes' | 'fin' | 'reset';
  bytes: Buffer;
  dueMs: number;
}

type Done = (error?: Error | null) => void;

const NO_BYTES = Buffer.alloc(0);
const IN_FLIGHT_BYTES = 32_768;
const FRAGMENT_CHANCE = 0.25;
const MIN_LATENCY_MS = 0.1;
const SPREAD_MS = 2;

const broken = (code: string): Error => Object.assign(new Error(code), { code });

export class SimSocket extends Duplex {
  readonly remoteAddress: string;
  readonly remotePort: number;
  readonly #wire: SimWire;
  readonly #life: Incarnation;
  #other: SimSocket | null = null;
  /** On the way from here to the other end. */
  #items: Item[] = [];
  #inFlightBytes = 0;
  #blocked: Done | null = null;
  #lastDueMs = 0;
  #isScheduled = false;
  #isFinSent = false;
  /** A reset came or went: nothing more leaves or arrives. */
  #isReset = false;
  /** The machine is gone: nobody answers for this end. */
  #isMute = false;
  /** Our reader has enough for now. */
  #isFull = false;

  constructor(wire: SimWire, life: Incarnation, remote: { readonly address: string; readonly port: number }) {
    super({ allowHalfOpen: false });
    this.#wire = wire;
    this.#life = life;
    this.remoteAddress = remote.address;
    this.remotePort = remote.port;
  }

  /** Both ends know each other: bytes flow. */
  join(other: SimSocket): void {
    this.#other = other;
    other.#other = this;
    this.#wake();
    other.#wake();
  }

  latencyMs(): number {
    return MIN_LATENCY_MS + this.#wire.random.next() * SPREAD_MS;
  }

  /** As net.Socket has it: what was written leaves, then the socket closes. */
  destroySoon(): void {
    if (this.writable) this.end();
    if (this.writableFinished) this.destroy();
    else this.once('finish', () => this.destroy());
  }

  refused(): void {
    if (this.#life.alive) this.destroy(broken('ECONNREFUSED'));
  }

  // --- faults ----------------------------------------------------------------------------------------------------------

  /** The connection breaks: this end hears it now, the other one after a random part of what was on the way. */
  breakOff(): void {
    const { random } = this.#wire;
    const bytes = Buffer.concat(this.#items.map((item) => item.bytes));
    const kept = bytes.subarray(0, random.integer(0, bytes.length));
    this.#items = [];
    if (kept.length > 0) this.#push('bytes', kept);
    this.#push('reset', NO_BYTES);
    this.#hearReset();
  }

  /** The machine behind this end is gone; what it had sent arrives, nothing else ever does. The caller ends the life. */
  vanish(): void {
    this.#isMute = true;
  }

  /** The process behind this end died: its system says so to the other end, with what was on the way or without. */
  processDied(): void {
    if (this.#isFinSent || this.#isReset) return;
    if (this.#wire.random.chance(0.5)) this.#items = [];
    this.#isFinSent = true;
    this.#push(this.#wire.random.chance(0.5) ? 'fin' : 'reset', NO_BYTES);
  }

  // --- what the stream calls -------------------------------------------------------------------------------------------

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: Done): void {
    if (!this.#life.alive) return;
    if (this.#isReset) return done(broken('ECONNRESET'));
    // The receiver may change what it gets.
    this.#push('bytes', Buffer.from(chunk));
    this.#inFlightBytes += chunk.length;
    if (this.#inFlightBytes <= IN_FLIGHT_BYTES) done();
    else this.#blocked = done;
  }

  override _read(): void {
    if (!this.#isFull) return;
    this.#isFull = false;
    if (this.#other !== null) this.#other.#wake();
  }

  override _final(done: Done): void {
    if (!this.#life.alive) return;
    this.#finish();
    done();
  }

  override _destroy(error: Error | null, done: Done): void {
    if (!this.#life.alive) return;
    this.#finish();
    done(error);
  }

  // --- the way -----------------------------------------------------------------------------------------------------------

  #finish(): void {
    if (this.#isFinSent || this.#isReset) return;
    this.#isFinSent = true;
    this.#push('fin', NO_BYTES);
  }

  #push(kind: Item['kind'], bytes: Buffer): void {
    const { nowMs } = this.#wire.scheduler;
    this.#lastDueMs = Math.max(this.#lastDueMs, nowMs + this.latencyMs());
    this.#items.push({ kind, bytes, dueMs: this.#lastDueMs });
    this.#wake();
  }

  /** There may be something to hand over. */
  #wake(): void {
    const next = this.#items[0];
    if (next === undefined || this.#other === null || this.#isScheduled || this.#other.#isFull) return;
    this.#isScheduled = true;
    this.#wire.scheduler.schedule(Math.max(0, next.dueMs - this.#wire.scheduler.nowMs), () => {
      this.#isScheduled = false;
      if (this.#other !== null) this.#deliver(this.#other);
    });
  }

  #deliver(other: SimSocket): void {
    if (other.#isMute) {
      this.#items = [];
      return;
    }
    const { nowMs } = this.#wire.scheduler;
    const bytes = this.#takeDue(nowMs);
    if (bytes.length > 0) {
      if (!other.#life.alive || other.destroyed || other.readableEnded) return this.#answeredByReset();
      this.#inFlightBytes -= bytes.length;
      if (!other.push(bytes)) other.#isFull = true;
      this.#unblock();
    }
    const next = this.#items[0];
    if (next !== undefined && next.kind !== 'bytes' && next.dueMs <= nowMs && !other.#isFull) {
      this.#items = [];
      if (next.kind === 'reset') other.#hearReset();
      else if (other.#life.alive && !other.destroyed) other.push(null);
    }
    this.#wake();
  }

  /** Everything that is due, cut at a random byte now and then: the rest comes later. */
  #takeDue(nowMs: number): Buffer {
    const due: Buffer[] = [];
    for (let next = this.#items[0]; next?.kind === 'bytes' && next.dueMs <= nowMs; next = this.#items[0]) {
      due.push(next.bytes);
      this.#items.shift();
    }
    const bytes = due.length === 1 ? (due[0] ?? NO_BYTES) : Buffer.concat(due);
    const { random } = this.#wire;
    if (bytes.length < 2 || !random.chance(FRAGMENT_CHANCE)) return bytes;
    const at = random.integer(1, bytes.length - 1);
    this.#items.unshift({ kind: 'bytes', bytes: bytes.subarray(at), dueMs: nowMs + this.latencyMs() });
    return bytes.subarray(0, at);
  }

  #unblock(): void {
    const done = this.#blocked;
    if (done === null || this.#inFlightBytes > IN_FLIGHT_BYTES / 2 || !this.#life.alive) return;
    this.#blocked = null;
    done();
  }

  /** What reaches a closed end is answered with a reset. */
  #answeredByReset(): void {
    this.#items = [];
    this.#wire.scheduler.schedule(this.latencyMs(), () => this.#hearReset());
  }

  #hearReset(): void {
    if (this.#isReset || this.#isMute || !this.#life.alive) return;
    this.#isReset = true;
    this.destroy(broken('ECONNRESET'));
  }
}
