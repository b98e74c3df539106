/**
 * Tombstones in little memory: each delivered copy leaves one for two minutes (core/tombstones.ts), 50,000 of them while a resubmission runs, and hardly any
 * is asked for. Owns: that recipients and digest of old ones are held deflated, neighbours together, in place for everybody who holds the tombstone.
 * Promise: it equals what it was, also when it is spread or made JSON of.
 */
import type { Tombstone } from './database.ts';
import { deflated, inflated } from './raw-deflate.ts';

type Rest = Pick<Tombstone, 'recipients' | 'digest'>;

/** In one block: more would deflate little better, and keep more alive for the last one. */
export const BURIED_TOGETHER = 64;

/** Neighbours, deflated: bytes as a text, for among the allocator's pieces of a moment a few that stay would keep whole pages. */
class Block {
  readonly text: string;
  readonly #reader: Graves;

  constructor(text: string, reader: Graves) {
    this.text = text;
    this.#reader = reader;
  }

  rest(at: number): Rest {
    return this.#reader.read(this)[at] as Rest;
  }
}

class Buried {
  readonly id: Tombstone['id'];
  readonly kind: Tombstone['kind'];
  readonly epoch: Tombstone['epoch'];
  readonly abortedThrough: number;
  readonly placements: Tombstone['placements'];
  /** Open, or the block it is in. */
  #rest: Rest | Block;
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
    return rest instanceof Block ? rest.rest(buried.#at) : rest;
  }

  static into(block: Block, some: readonly Buried[]): void {
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

/** Tombstones that stay as they came: most acknowledgements are there before one is older than that. */
const RECENT = 1_000;

/** Of one holder: its blocks, and what will be in the next ones. */
export class Graves {
  /** Those that came lately, oldest first. */
  readonly #recent: Tombstone[] = [];
  /** A checkpoint asks for all of them in their order, each twice: read once a block, not 128 times, each with 16 KB of buffers outside the heap. */
  #last: { readonly block: Block; readonly rests: readonly Rest[] } | null = null;

  /** The same tombstone, to be held in its place among `all`; older ones that still are there are buried. */
  keep(made: Tombstone, all: ReadonlyMap<Tombstone['id'], Tombstone>): Tombstone {
    const tombstone = buriable(made);
    this.#recent.push(tombstone);
    if (this.#recent.length >= 2 * RECENT)
      this.bury(this.#recent.splice(0, RECENT).filter((one) => all.get(one.id) === one));
    return tombstone;
  }

  /** In place; those that are not buriable stay as they are. */
  bury(tombstones: readonly Tombstone[]): void {
    const all = tombstones.filter((tombstone) => tombstone instanceof Buried) as unknown as readonly Buried[];
    for (let from = 0; from < all.length; from += BURIED_TOGETHER) {
      const some = all.slice(from, from + BURIED_TOGETHER);
      const rests = JSON.stringify(some.map((buried) => Buried.rest(buried)));
      const text = deflated(rests).toString('latin1');
      Buried.into(new Block(text, this), some);
    }
  }

  read(block: Block): readonly Rest[] {
    if (this.#last?.block !== block)
      this.#last = {
        block,
        rests: JSON.parse(inflated(Buffer.from(block.text, 'latin1'))) as readonly Rest[],
      };
    return this.#last.rests;
  }
}
