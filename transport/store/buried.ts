/**
 * Tombstones in little memory: each delivered copy leaves one for two minutes (core/tombstones.ts), 50,000 of them while a resubmission runs, and hardly any
 * is asked for. Owns: that recipients and digest of old ones are held deflated, neighbours together, in place for everybody who holds the tombstone.
 * Promise: it equals what it was, also when it is spread or made JSON of.
 */
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import type { Tombstone } from './database.ts';

type Rest = Pick<Tombstone, 'recipients' | 'digest'>;

/** In one block: more would deflate little better, and keep more alive for the last one. */
export const BURIED_TOGETHER = 64;

class Buried {
  readonly id: Tombstone['id'];
  readonly kind: Tombstone['kind'];
  readonly epoch: Tombstone['epoch'];
  readonly abortedThrough: number;
  readonly placements: Tombstone['placements'];
  /** Open, or the block it is in. */
  #rest: Rest | Buffer;
  #at = 0;

  constructor(tombstone: Tombstone) {
    this.id = tombstone.id;
    this.kind = tombstone.kind;
    this.epoch = tombstone.epoch;
    this.abortedThrough = tombstone.abortedThrough;
    this.placements = tombstone.placements;
    this.#rest = { recipients: tombstone.recipients, digest: tombstone.digest };
    Object.defineProperties(this, SHOWN);
  }

  static rest(buried: Buried): Rest {
    const rest = buried.#rest;
    if (!Buffer.isBuffer(rest)) return rest;
    const all = JSON.parse(inflateRawSync(rest).toString()) as readonly Rest[];
    return all[buried.#at] as Rest;
  }

  static bury(some: readonly Buried[]): void {
    const rests = some.map((buried) => Buried.rest(buried));
    const bytes = deflateRawSync(JSON.stringify(rests), { level: 1, memLevel: 6, windowBits: 14 });
    // What zlib gives is the beginning of a buffer of 16 KB.
    const block = Buffer.allocUnsafeSlow(bytes.length);
    bytes.copy(block);
    for (const [at, buried] of some.entries()) {
      buried.#rest = block;
      buried.#at = at;
    }
  }
}

/** The same functions for all: with others V8 would keep the properties of each object in a table of its own. */
const SHOWN: PropertyDescriptorMap = {
  recipients: {
    enumerable: true,
    get(this: Buried) {
      return Buried.rest(this).recipients;
    },
  },
  digest: {
    enumerable: true,
    get(this: Buried) {
      return Buried.rest(this).digest;
    },
  },
};

/** The same tombstone, open: it can be buried later. */
export const buriable = (tombstone: Tombstone): Tombstone =>
  tombstone instanceof Buried ? tombstone : (new Buried(tombstone) as unknown as Tombstone);

/** In place; those that are not buriable stay as they are. */
export function bury(tombstones: readonly Tombstone[]): void {
  const all = tombstones.filter((tombstone) => tombstone instanceof Buried);
  for (let from = 0; from < all.length; from += BURIED_TOGETHER)
    Buried.bury(all.slice(from, from + BURIED_TOGETHER) as unknown as readonly Buried[]);
}
