/**
 * Whether a changed topology document may replace the one in force. Documents only ever go forward: an older one, or another one under
 * the same generation, was restored from a backup or written by a second orchestrator. PURE.
 */
import { isDeepStrictEqual } from 'node:util';
import type { TopologyDocument } from './config.ts';

/** Null, or what is wrong with `next`. */
export function documentRefusal(next: TopologyDocument, inForce: TopologyDocument): string | null {
  if (next.cluster !== inForce.cluster) return `it is of cluster ${next.cluster}, not of ${inForce.cluster}`;
  if (next.generation < inForce.generation)
    return `its generation ${next.generation} is older than ${inForce.generation}`;
  if (next.generation === inForce.generation && !isDeepStrictEqual(next, inForce))
    return `it says something else under the same generation ${next.generation}`;
  return null;
}
