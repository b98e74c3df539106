/** Back pressure from space (semantics.md R10; Exchange: resource throttling). PURE. Hysteresis and further resources come with issue 7. */
import type { StoreSpace } from '../store/database.ts';

/** Share of the volume that must stay free, and the least in bytes. */
const MEDIUM_FREE_BYTES = 256 * 1024 * 1024;
const HIGH_FREE_BYTES = 64 * 1024 * 1024;

export function pressureOf(space: StoreSpace): 'Normal' | 'Medium' | 'High' {
  if (space.freeBytes < HIGH_FREE_BYTES) return 'High';
  return space.freeBytes < MEDIUM_FREE_BYTES ? 'Medium' : 'Normal';
}
