/**
 * Which mail is sealed (RFC 8617), and with what. Owns: that decision. Promise: only what a host of ours has looked at when it came in, so that every seal states what was found out here;
 * those are strangers, for nobody else is looked at. PURE.
 */
import { type ChainStatus, chainStatusOf } from '../../common/authentication-results.ts';
import { foldedResults } from './results-field.ts';

export interface Seal {
  /** `cv=` of the set. */
  readonly status: ChainStatus;
  /** What ARC-Authentication-Results has behind its number, folded. */
  readonly results: string;
}

/** `results`: as they travel. Null: nothing is known about a chain. */
export function sealFor(results: readonly string[]): Seal | null {
  for (const one of results) {
    const status = chainStatusOf(one);
    if (status !== null) return { status, results: foldedResults(one) };
  }
  return null;
}
