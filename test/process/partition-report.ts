/** What `partition-driver.ts` (in its private network) tells `partition.test.ts`, as lines of JSON. */
export const CUTS = [
  'transports',
  'transports-one-way',
  'frontend',
  'frontend-one-way',
  'site',
  'site-one-way',
  'one-alone',
] as const;

export type CutName = (typeof CUTS)[number];

export const isCutName = (text: string): text is CutName => CUTS.some((name) => name === text);

export interface CutReport {
  readonly name: CutName;
  readonly cut: string;
  readonly line: string;
  readonly accepted: number;
  /** Queue databases that somebody thinks are gone for good: a partition destroys none. */
  readonly lost: readonly string[];
  /** Of the ledger over all cuts so far, and of the copies; empty when all is well. */
  readonly problems: readonly string[];
}
