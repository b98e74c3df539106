/**
 * What the verifier of one model said. Owns: that only a search which met everything counts as a proof, and only a violated assertion as a bug that was found - not
 * a search that ended early, for whatever reason. Pure.
 */
import type { ModelCase } from './cases.ts';

export interface Ended {
  readonly output: string;
  /** Null: it did not end by itself. */
  readonly code: number | null;
}

export interface Found {
  /** Null: as it should be. */
  readonly problem: string | null;
  readonly states: string;
}

const NOT_WHOLE = /Search not completed|max search depth too small|out of memory|MEMLIM bound/;

export function judge(entry: ModelCase, { output, code }: Ended): Found {
  const states = /(\d+) states, stored/.exec(output)?.[1] ?? '0';
  const errors = /errors: (\d+)/.exec(output)?.[1];
  const violated = /assertion violated (.*) \(at depth \d+\)/.exec(output)?.[1] ?? null;
  if (entry.bug !== null) return { problem: violated === null ? 'NOT FOUND: no assertion was violated' : null, states };
  if (violated !== null) return { problem: `violated: ${violated}`, states };
  const isWhole = code === 0 && errors === '0' && !NOT_WHOLE.test(output);
  return { problem: isWhole ? null : `the search is no proof: ${output.trim().slice(0, 300)}`, states };
}
