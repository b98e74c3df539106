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
/** Most bodies are one part or two: no buffer for each. */
const SCRATCH = Buffer.allocUnsafe(256);

export function packPlace(numbers: readonly number[]): BodyPlace {
  const length = NUMBER * numbers.length;
  const bytes = length <= SCRATCH.length ? SCRATCH : Buffer.allocUnsafe(length);
  for (let index = 0; index < numbers.length; index++)
    bytes.writeUInt32LE((numbers[index] as number) >>> 0, NUMBER * index);
  return bytes.toString('latin1', 0, length) as BodyPlace;
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

export function numbersOf(body: BodyPlace): number[] {
  const numbers: number[] = [];
  for (let index = 0; index * NUMBER < body.length; index++) numbers.push(numberAt(body, index));
  return numbers;
}

export function bodyPlace(at: Place, extents: readonly Extent[]): BodyPlace {
  const numbers: number[] = [...at];
  for (const extent of extents) numbers.push(...extent);
  return packPlace(numbers);
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
