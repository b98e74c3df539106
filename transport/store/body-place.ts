/**
 * Where a copy lies in the log: its COMMIT record and the parts of its body. Owns: that this is one short text, four characters of eight
 * bits to a number, held once per queued copy (as a list it took twice as much). PURE.
 */
import type { Extent, Place } from './record.ts';

/** Generation, offset, length of the record that carries facts and extents; then generation, offset, length, crc32 per extent. */
export type BodyPlace = string & { readonly [packed]: 'BodyPlace' };
declare const packed: unique symbol;

const NUMBER = 4;
const AT = 3;
const EXTENT = 4;

export function packPlace(numbers: readonly number[]): BodyPlace {
  const bytes = Buffer.allocUnsafe(NUMBER * numbers.length);
  for (const [index, number] of numbers.entries()) bytes.writeUInt32LE(number >>> 0, NUMBER * index);
  return bytes.toString('latin1') as BodyPlace;
}

const numberAt = (body: BodyPlace, index: number): number => {
  const at = index * NUMBER;
  return (
    (body.charCodeAt(at) |
      (body.charCodeAt(at + 1) << 8) |
      (body.charCodeAt(at + 2) << 16) |
      (body.charCodeAt(at + 3) << 24)) >>>
    0
  );
};

export const numbersOf = (body: BodyPlace): number[] =>
  Array.from({ length: body.length / NUMBER }, (_, index) => numberAt(body, index));

export function bodyPlace(at: Place, extents: readonly Extent[]): BodyPlace {
  return packPlace([...at, ...extents.flat()]);
}

export const commitPlace = (body: BodyPlace): Place => [numberAt(body, 0), numberAt(body, 1), numberAt(body, 2)];

export function extentsOf(body: BodyPlace): Extent[] {
  const extents: Extent[] = [];
  for (let i = AT; (i + EXTENT) * NUMBER <= body.length; i += EXTENT)
    extents.push([numberAt(body, i), numberAt(body, i + 1), numberAt(body, i + 2), numberAt(body, i + 3)]);
  return extents;
}

/** Segments a body lies in, its COMMIT record included. */
export function segmentsOf(body: BodyPlace): readonly number[] {
  const all = [numberAt(body, 0)];
  for (let i = AT; i * NUMBER < body.length; i += EXTENT) {
    const generation = numberAt(body, i);
    if (!all.includes(generation)) all.push(generation);
  }
  return all;
}
