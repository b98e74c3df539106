/**
 * Bloom filters over copy ids. Owns: their size and hashes. Promise: never says no to an id that is in it. One filter per segment with
 * Safety Net entries; every new id is asked of all of them, so a filter is large enough that 1,000 of them together rarely say yes
 * wrongly (2 in 100,000 each); 3 bytes per entry, 30 MB for 10 million. PURE.
 */

/** The bits, and how many of them belong to one id. */
export interface Bloom {
  readonly bits: Buffer;
  readonly probes: number;
}

const BITS_PER_ID = 24;
const PROBES = 10;

/** Computed once per id, whatever the number of filters. */
export type BloomKey = readonly [number, number];

/** Two independent 32-bit hashes (FNV-1a with different bases, mixed at the end). */
export function bloomKey(id: string): BloomKey {
  let a = 0x811c9dc5;
  let b = 0x9747b28c;
  for (let i = 0; i < id.length; i++) {
    const c = id.charCodeAt(i);
    a = Math.imul(a ^ c, 0x01000193);
    b = Math.imul(b ^ c, 0x85ebca6b);
    b ^= b >>> 13;
  }
  a = Math.imul(a ^ (a >>> 16), 0x7feb352d);
  a ^= a >>> 15;
  return [a >>> 0, (b | 1) >>> 0];
}

export const bloomBytes = (entries: number): number => Math.ceil((entries * BITS_PER_ID) / 8) + 8;

export function buildBloom(ids: readonly string[]): Bloom {
  const bits = Buffer.alloc(bloomBytes(ids.length));
  const size = bits.length * 8;
  for (const id of ids) {
    const [a, b] = bloomKey(id);
    for (let i = 0; i < PROBES; i++) {
      const bit = ((a + Math.imul(i, b)) >>> 0) % size;
      bits[bit >> 3] = (bits[bit >> 3] ?? 0) | (1 << (bit & 7));
    }
  }
  return { bits, probes: PROBES };
}

/** False: certainly absent. */
export function bloomHas({ bits, probes }: Bloom, [a, b]: BloomKey): boolean {
  const size = bits.length * 8;
  for (let i = 0; i < probes; i++) {
    const bit = ((a + Math.imul(i, b)) >>> 0) % size;
    if (((bits[bit >> 3] ?? 0) & (1 << (bit & 7))) === 0) return false;
  }
  return true;
}
