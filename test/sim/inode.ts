/**
 * The bytes of one file of the simulated volume (`disk.ts`). Owns: what is durable and what only written, by sectors of 512 bytes, what a
 * power cut makes of it, and when it was written last (by the clock of the storage, which no pod's own changes).
 */
import type { Clock } from '../../common/platform/clock.ts';
import type { SeededRandom } from './scheduler.ts';

export const SECTOR = 512;

/** What a sector held: a part of a copy of all that one write went over. */
export interface OldSector {
  readonly copy: Buffer;
  readonly at: number;
}

export type Undo = Map<number, OldSector>;

export class Inode {
  readonly #clock: Clock;
  modifiedMs: number;
  bytes: Buffer = Buffer.alloc(0);
  size = 0;
  /** Everything below is known to be on the medium except for the sectors in `undo`. */
  durableSize = 0;
  /** Old contents of overwritten sectors below durableSize; the last map collects, earlier ones are being synced. */
  undo: Undo[] = [new Map()];
  /** What the medium holds where a sync failed: these pages count as clean but were never written. */
  lost: Undo = new Map();

  constructor(clock: Clock) {
    this.#clock = clock;
    this.modifiedMs = clock.wallMs();
  }

  write(buffers: readonly Uint8Array[], position: number): void {
    let length = 0;
    for (const buffer of buffers) length += buffer.length;
    const end = position + length;
    this.#keepOld(position, Math.min(end, this.durableSize));
    this.#reserve(end);
    let at = position;
    for (const buffer of buffers) {
      this.bytes.set(buffer, at);
      at += buffer.length;
    }
    this.size = Math.max(this.size, end);
    this.modifiedMs = this.#clock.wallMs();
  }

  truncate(size: number): void {
    // Treated as durable at once: nothing relies on a truncation surviving.
    this.modifiedMs = this.#clock.wallMs();
    this.#reserve(size);
    if (size < this.size) this.bytes.fill(0, size, this.size);
    this.size = size;
    this.durableSize = Math.min(this.durableSize, size);
    for (const map of this.undo) for (const sector of map.keys()) if (sector * SECTOR >= size) map.delete(sector);
  }

  #keepOld(from: number, to: number): void {
    const map = this.undo[this.undo.length - 1] as Undo;
    let copy: Buffer | null = null;
    const first = Math.floor(from / SECTOR);
    for (let sector = first; sector * SECTOR < to; sector++) {
      if (map.has(sector)) continue;
      copy ??= Buffer.from(this.bytes.subarray(first * SECTOR, Math.ceil(to / SECTOR) * SECTOR));
      map.set(sector, { copy, at: (sector - first) * SECTOR });
    }
  }

  #reserve(size: number): void {
    if (size <= this.bytes.length) return;
    const grown = Buffer.alloc(Math.max(size, this.bytes.length * 2, 4096));
    this.bytes.copy(grown, 0, 0, this.size);
    this.bytes = grown;
  }

  /** A sync failed: like Linux, the pages it covered are never written any more. */
  lose(index: number): void {
    for (const map of this.undo.splice(0, index + 1))
      for (const [sector, data] of map) if (!this.lost.has(sector)) this.lost.set(sector, data);
  }

  copy(): Inode {
    const other = new Inode(this.#clock);
    other.modifiedMs = this.modifiedMs;
    other.bytes = Buffer.from(this.bytes.subarray(0, this.size));
    other.size = this.size;
    other.durableSize = this.size;
    return other;
  }

  /** With everything that is not durable still undecided. */
  twin(): Inode {
    const other = this.copy();
    other.durableSize = this.durableSize;
    other.undo = this.undo.map((map) => new Map(map));
    other.lost = new Map(this.lost);
    return other;
  }

  /** The power fails: decides for every sector that is not known to be durable. */
  settle(random: SeededRandom): void {
    const grownFrom = Math.floor(this.durableSize / SECTOR);
    const grownTo = Math.ceil(this.size / SECTOR);
    const old = new Map<number, OldSector | null>();
    // The oldest undo wins: it is what the medium held.
    for (let i = this.undo.length - 1; i >= 0; i--)
      for (const [sector, data] of this.undo[i] as Undo) old.set(sector, data);
    for (let sector = grownFrom; sector < grownTo; sector++) if (!old.has(sector)) old.set(sector, null);
    for (const [sector, data] of this.lost) old.set(sector, data);
    this.undo = [new Map()];
    this.lost = new Map();
    if (old.size === 0) return;
    const mode = random.integer(0, 3);
    const sectors = [...old.keys()].sort((a, b) => a - b);
    const cut = random.integer(0, sectors.length);
    const torn = random.chance(0.5) ? random.pick(sectors) : -1;
    sectors.forEach((sector, index) => {
      const keep = mode === 0 ? false : mode === 1 ? true : mode === 2 ? index < cut : random.chance(0.5);
      if (keep && sector !== torn) return;
      const from = sector * SECTOR;
      const start = sector === torn && mode !== 0 ? from + random.integer(1, SECTOR - 1) : from;
      const previous = old.get(sector) ?? null;
      const keptSize = sector === grownFrom ? Math.max(0, this.durableSize - from) : 0;
      const end = Math.min(from + SECTOR, this.bytes.length);
      if (start >= end) return;
      if (previous !== null)
        previous.copy.copy(this.bytes, start, previous.at + start - from, previous.at + end - from);
      else this.bytes.fill(0, Math.max(start, from + keptSize), Math.max(start, end));
    });
    if (this.size > this.durableSize && random.chance(0.5)) {
      const size = random.integer(this.durableSize, this.size);
      this.bytes.fill(0, size, this.size);
      this.size = size;
    }
    this.durableSize = this.size;
  }
}
