/**
 * Where a copy lies in the log: its COMMIT record and the parts of its body. Owns: that this is one flat list of small integers, held
 * once per queued copy. PURE.
 */
import type { Extent, Place } from './record.ts';

/** Generation, offset, length of the record that carries facts and extents; then generation, offset, length, signed crc32 per extent. */
export type BodyPlace = readonly number[];

const AT = 3;
const EXTENT = 4;

export function bodyPlace(at: Place, extents: readonly Extent[]): BodyPlace {
  const flat = [at[0], at[1], at[2]];
  for (const [generation, offset, length, crc] of extents) flat.push(generation, offset, length, crc | 0);
  return flat;
}

export const commitPlace = (body: BodyPlace): Place => [body[0] ?? 0, body[1] ?? 0, body[2] ?? 0];

export function extentsOf(body: BodyPlace): Extent[] {
  const extents: Extent[] = [];
  for (let i = AT; i + EXTENT <= body.length; i += EXTENT)
    extents.push([body[i] ?? 0, body[i + 1] ?? 0, body[i + 2] ?? 0, (body[i + 3] ?? 0) >>> 0]);
  return extents;
}

/** Segments a body lies in, its COMMIT record included. */
export function segmentsOf(body: BodyPlace): readonly number[] {
  const all = [body[0] ?? 0];
  for (let i = AT; i < body.length; i += EXTENT) if (!all.includes(body[i] ?? 0)) all.push(body[i] ?? 0);
  return all;
}
