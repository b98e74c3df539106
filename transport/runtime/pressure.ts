/**
 * Back pressure from space (semantics.md R10; Exchange: resource throttling): the level follows from what would be free if every stream
 * that is open brought what it may still bring, so that large messages under way cannot pass the marks together. PURE. Hysteresis and
 * further resources come with issue 7.
 */
import type { StoreSpace } from '../store/database.ts';

export type PressureLevel = 'Normal' | 'Medium' | 'High';

/** Bytes of the volume that must stay free. */
export const MEDIUM_FREE_BYTES = 256 * 1024 * 1024;
export const HIGH_FREE_BYTES = 64 * 1024 * 1024;

/** `openBytes`: what open streams may still bring (`openBytesOf`); what they have brought is no longer free already. */
export function pressureOf(space: Pick<StoreSpace, 'freeBytes'>, openBytes = 0): PressureLevel {
  const freeBytes = space.freeBytes - openBytes;
  if (freeBytes < HIGH_FREE_BYTES) return 'High';
  return freeBytes < MEDIUM_FREE_BYTES ? 'Medium' : 'Normal';
}

export interface OpenStream {
  /** SIZE= of the client (RFC 1870), null when it said nothing. */
  readonly declaredSizeBytes: number | null;
  readonly receivedBytes: number;
}

/**
 * What streams may still bring: the rest of what was declared. A stream that declared nothing, or less than it brought, is taken to
 * bring as much again (at most the limit of a message): the reserve grows with the message instead of 25 MB for every short one.
 */
export function openBytesOf(streams: Iterable<OpenStream>, maxMessageBytes: number): number {
  let bytes = 0;
  for (const { declaredSizeBytes, receivedBytes } of streams) {
    const declared = Math.min(declaredSizeBytes ?? 0, maxMessageBytes);
    const expected =
      declared >= receivedBytes && declared > 0 ? declared : Math.min(2 * receivedBytes, maxMessageBytes);
    bytes += Math.max(0, expected - receivedBytes);
  }
  return bytes;
}
