/**
 * The footer of a segment: the Safety Net entries whose MOVE records it lists, oldest first, behind a Bloom filter of their ids, so
 * that Safety Net needs no memory per message and the look-up of an absent id reads nothing. Owns: the bytes of a footer and the
 * filter. A footer is an index, never authoritative: a damaged one is rebuilt from the records (`safety-net-reader.ts`).
 */
import { crc32 } from 'node:zlib';
import type { CopyId } from '../../common/message.ts';
import type { SafetyNetEntry } from './database.ts';
import type { Place } from './record.ts';

export interface RestingEntry {
  readonly entry: SafetyNetEntry;
  /** The MOVE record. */
  readonly at: Place;
  /** Segments that must stay as long as the entry: those of its MOVE, its COMMIT and its body. */
  readonly refs: readonly number[];
}

type Row = readonly [CopyId, 0 | 1, readonly string[], number, number, Place, readonly number[]];

export function entryLine({ entry, at, refs }: RestingEntry): string {
  const { id, role, databases, finalAtMs, sizeBytes } = entry;
  return JSON.stringify([id, role === 'primary' ? 0 : 1, databases, finalAtMs, sizeBytes, at, refs] satisfies Row);
}

export function parseLines(text: string): RestingEntry[] {
  if (text === '') return [];
  const rows = JSON.parse(`[${text}]`) as readonly Row[];
  return rows.map(([id, role, databases, finalAtMs, sizeBytes, at, refs]) => ({
    entry: { id, role: role === 0 ? 'primary' : 'shadow', databases, finalAtMs, sizeBytes },
    at,
    refs,
  }));
}

const BITS_PER_ID = 10;
const PROBES = 6;

/** Two independent 32-bit hashes (FNV-1a with different bases). */
function hashes(id: string): readonly [number, number] {
  let a = 0x811c9dc5;
  let b = 0x9747b28c;
  for (let i = 0; i < id.length; i++) {
    const c = id.charCodeAt(i);
    a = Math.imul(a ^ c, 0x01000193);
    b = Math.imul(b ^ c, 0x85ebca6b);
    b ^= b >>> 13;
  }
  return [a >>> 0, (b | 1) >>> 0];
}

export const bloomBytes = (entries: number): number => Math.ceil((entries * BITS_PER_ID) / 8) + 8;

export function buildBloom(ids: Iterable<string>, count: number): Buffer {
  const bits = Buffer.alloc(bloomBytes(count));
  const size = bits.length * 8;
  for (const id of ids) {
    const [a, b] = hashes(id);
    for (let i = 0; i < PROBES; i++) {
      const bit = (a + i * b) % size;
      bits[bit >> 3] = (bits[bit >> 3] ?? 0) | (1 << (bit & 7));
    }
  }
  return bits;
}

/** False: certainly absent. */
export function bloomHas(bits: Buffer, id: string): boolean {
  const size = bits.length * 8;
  const [a, b] = hashes(id);
  for (let i = 0; i < PROBES; i++) {
    const bit = (a + i * b) % size;
    if (((bits[bit >> 3] ?? 0) & (1 << (bit & 7))) === 0) return false;
  }
  return true;
}

/** JSON and body of a FOOTER record. */
export function encodeFooter(
  resting: Iterable<{ readonly resting: RestingEntry; readonly line: string }>,
  count: number,
): { readonly meta: string; readonly body: readonly Buffer[]; readonly bloom: Buffer } {
  const sorted = [...resting].sort((x, y) => x.resting.entry.finalAtMs - y.resting.entry.finalAtMs);
  const bloom = buildBloom(
    sorted.map((item) => item.resting.entry.id),
    count,
  );
  const lines = Buffer.from(sorted.map((item) => item.line).join(','));
  return { meta: JSON.stringify({ n: count, b: bloom.length, c: crc32(bloom) }), body: [bloom, lines], bloom };
}

/** Length and checksum of the filter that begins the body. */
export function bloomOf(meta: Buffer): { readonly length: number; readonly crc: number } {
  const { b, c } = JSON.parse(meta.toString()) as { readonly b: number; readonly c: number };
  return { length: b, crc: c };
}

/** Splits the body of a FOOTER record. */
export function decodeFooter(meta: Buffer, body: Buffer): { readonly bloom: Buffer; readonly entries: RestingEntry[] } {
  const { length } = bloomOf(meta);
  return { bloom: Buffer.from(body.subarray(0, length)), entries: parseLines(body.subarray(length).toString()) };
}
