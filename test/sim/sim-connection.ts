/**
 * One end of a simulated connection. Owns: the bytes it has sent and the other end has not yet got. The order of what it does to the
 * other end is FIFO; each end calls back only while its incarnation lives. See net.ts for the promises.
 */
import type { Connection, ConnectionHandlers, PeerName } from '../../common/platform/net.ts';
import { deliverTo, type Incarnation, stillForMs } from './incarnation.ts';
import type { Scheduler, SeededRandom } from './scheduler.ts';

/** What an end needs of the network. */
export interface SimLink {
  readonly scheduler: Scheduler;
  readonly random: SeededRandom;
  readonly options: { readonly fragmentChance: number; readonly resetChance: number; readonly highWaterBytes: number };
  isCut(from: string, to: string): boolean;
  latencyMs(from: string, to: string): number;
  hasLiveHost(name: string): boolean;
  forget(connection: SimConnection): void;
}

interface Item {
  readonly kind: 'bytes' | 'end' | 'reset';
  bytes: Buffer;
  dueMs: number;
}

const NO_BYTES = Buffer.alloc(0);

export class SimConnection implements Connection {
  readonly remote: PeerName;
  readonly remoteAddress: string;
  readonly localName: string;
  readonly incarnation: Incarnation;
  /** Nothing is delivered here any more. */
  closed = false;
  readonly #link: SimLink;
  #other: SimConnection | null = null;
  #handlers: ConnectionHandlers | null = null;
  #paused = false;
  /** Kept for a start that comes after the end. */
  #reason = 'connection reset';
  #endSent = false;
  /** The machine vanished: nobody answers for this end until its name lives again. */
  #mute = false;
  /** On the way from here to the other end. */
  #items: Item[] = [];
  #bytesInFlight = 0;
  #lastDueMs = 0;
  #scheduled = false;
  #blocked = false;

  constructor(link: SimLink, localName: string, incarnation: Incarnation, remote: PeerName) {
    this.#link = link;
    this.localName = localName;
    this.incarnation = incarnation;
    this.remote = remote;
    this.remoteAddress = `${remote.name}:sim`;
  }

  join(other: SimConnection): void {
    this.#other = other;
  }

  start(handlers: ConnectionHandlers): void {
    if (this.#handlers !== null) throw new Error('connection started twice');
    this.#handlers = handlers;
    if (this.closed) queueMicrotask(() => this.#tellClosed(this.#reason));
    else this.#other?.wakeOut();
  }

  write(buffers: readonly Uint8Array[]): boolean {
    if (this.closed || this.#endSent || !this.incarnation.alive) return true;
    // As a socket does: one buffer goes as it is.
    const [only] = buffers;
    const bytes = buffers.length === 1 && only instanceof Buffer ? only : Buffer.concat(buffers);
    if (bytes.length === 0) return !this.#blocked;
    const { random, options } = this.#link;
    if (options.resetChance > 0 && random.chance(options.resetChance)) {
      this.#send(bytes.subarray(0, random.integer(0, bytes.length)));
      this.#push('reset', NO_BYTES);
      this.#link.scheduler.schedule(this.#latencyMs(), () => this.closeNow('connection reset'));
      return true;
    }
    this.#send(bytes);
    if (this.#bytesInFlight > options.highWaterBytes) this.#blocked = true;
    return !this.#blocked;
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#other?.wakeOut();
  }

  end(): void {
    if (this.closed || this.#endSent || !this.incarnation.alive) return;
    this.#endSent = true;
    this.#push('end', NO_BYTES);
  }

  destroy(reason: string): void {
    if (this.closed || !this.incarnation.alive) return;
    this.#reason = reason;
    this.#leave();
    queueMicrotask(() => this.#tellClosed(reason));
  }

  /** The process behind this end died. */
  die(silent: boolean): void {
    if (this.closed) return;
    if (silent) {
      this.closed = true;
      this.#mute = true;
      this.#items = [];
      this.#link.forget(this);
    } else {
      this.#leave();
    }
  }

  /** This end learns now that the connection is over. */
  closeNow(reason: string): void {
    if (this.closed) return;
    this.closed = true;
    this.#reason = reason;
    this.#link.forget(this);
    this.#tellClosed(reason);
  }

  /** The other end gets a random prefix of what is on the way, then a reset; a cut cannot hold it. */
  resetOther(): void {
    this.#loseInFlight();
    if (this.#link.isCut(this.localName, this.remote.name)) {
      this.#link.scheduler.schedule(0, () => this.#other?.closeNow('connection reset'));
    } else {
      this.#push('reset', NO_BYTES);
    }
  }

  /** Something changed that may let held items through, in both directions. */
  wake(): void {
    this.wakeOut();
    this.#other?.wakeOut();
  }

  /** The same for what this end sent. */
  wakeOut(): void {
    if (this.#items.length > 0) this.#schedule(this.#latencyMs());
  }

  #loseInFlight(): void {
    const { random } = this.#link;
    if (this.#items.length === 0) return;
    this.#items.length = random.integer(0, this.#items.length);
    const last = this.#items.at(-1);
    if (last?.kind === 'bytes') last.bytes = last.bytes.subarray(0, random.integer(0, last.bytes.length));
  }

  #latencyMs(): number {
    return this.#link.latencyMs(this.localName, this.remote.name);
  }

  /** Closes this end without waiting; a kernel sends one reset, which a cut swallows. */
  #leave(): void {
    this.closed = true;
    this.#link.forget(this);
    this.#loseInFlight();
    if (this.#link.isCut(this.localName, this.remote.name)) this.#items = [];
    else this.#push('reset', NO_BYTES);
  }

  #tellClosed(reason: string): void {
    const handlers = this.#handlers;
    if (handlers === null || !this.incarnation.alive) return;
    this.#handlers = null;
    deliverTo(this.incarnation, this.#link.scheduler, () => handlers.onClose(reason));
  }

  #send(bytes: Buffer): void {
    this.#push('bytes', bytes);
    this.#bytesInFlight += bytes.length;
  }

  #push(kind: Item['kind'], bytes: Buffer): void {
    const now = this.#link.scheduler.nowMs;
    const dueMs = Math.max(this.#lastDueMs, now + this.#latencyMs());
    this.#lastDueMs = dueMs;
    this.#items.push({ kind, bytes, dueMs });
    this.#schedule(dueMs - now);
  }

  #schedule(delayMs: number): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    this.#link.scheduler.schedule(delayMs, () => {
      this.#scheduled = false;
      this.#pump();
    });
  }

  /** Hands everything due to the other end, unless a cut, a pause or its absence holds it. */
  #pump(): void {
    const other = this.#other;
    if (other === null || this.#items.length === 0 || this.#link.isCut(this.localName, this.remote.name)) return;
    if (!other.incarnation.alive && !other.closed) other.die(false);
    if (other.closed) {
      this.#answerForTheDead(other);
      return;
    }
    const stillMs = stillForMs(other.incarnation, this.#link.scheduler);
    if (stillMs > 0) return this.#schedule(stillMs);
    const now = this.#link.scheduler.nowMs;
    let taken = 0;
    for (const item of this.#items) {
      if (item.dueMs > now || other.#paused || other.#handlers === null || other.closed) break;
      if (item.kind === 'bytes' && !this.#deliverBytes(other, item)) break;
      if (item.kind === 'end') other.#gotEnd();
      if (item.kind === 'reset') other.closeNow('connection reset');
      taken += 1;
    }
    if (taken > 0) this.#items.splice(0, taken);
    this.#afterDelivery();
    const next = this.#items[0];
    if (next !== undefined && !other.#paused && other.#handlers !== null) this.#schedule(Math.max(0, next.dueMs - now));
  }

  /** False when a part of the item stays for later. */
  #deliverBytes(other: SimConnection, item: Item): boolean {
    const { random, options } = this.#link;
    while (item.bytes.length > 0) {
      const split = item.bytes.length > 1 && random.chance(options.fragmentChance);
      const piece = split ? item.bytes.subarray(0, random.integer(1, item.bytes.length - 1)) : item.bytes;
      item.bytes = item.bytes.subarray(piece.length);
      this.#bytesInFlight -= piece.length;
      other.#handlers?.onData(piece);
      if (other.closed) return true;
      if (item.bytes.length > 0 && (other.#paused || random.chance(options.fragmentChance))) {
        item.dueMs = this.#link.scheduler.nowMs + this.#latencyMs();
        return false;
      }
    }
    return true;
  }

  #afterDelivery(): void {
    if (!this.#blocked || this.#bytesInFlight > this.#link.options.highWaterBytes / 2) return;
    this.#blocked = false;
    this.#link.scheduler.schedule(0, () => {
      deliverTo(this.incarnation, this.#link.scheduler, () => {
        if (!this.closed) this.#handlers?.onDrain();
      });
    });
  }

  /** The other end closed its socket after we did (`end`), or sent its own bytes first. */
  #gotEnd(): void {
    if (!this.#endSent) {
      this.#endSent = true;
      this.#push('end', NO_BYTES);
    }
    this.closeNow('closed by the other end');
  }

  /** What reaches a closed end is answered with a reset, if somebody is there and the way back is open. */
  #answerForTheDead(other: SimConnection): void {
    if (this.#link.isCut(this.remote.name, this.localName)) return;
    if (other.#mute && !this.#link.hasLiveHost(this.remote.name)) return;
    this.#items = [];
    if (this.closed) return;
    this.#link.scheduler.schedule(this.#latencyMs(), () => this.closeNow('connection reset'));
  }
}
