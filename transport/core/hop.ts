/**
 * Next hops and the deliveries that are open to them, as the core remembers them. Owns: their shape, and that a copy knows in which lines it stands: who leaves need not be looked for
 * in those of ten thousand domains, which was half of what a delivery cost.
 */
import type { CopyId } from '../../common/message.ts';
import { type Copy, NOWHERE } from './copy.ts';
import type { Route } from './events.ts';
import type { Line } from './line.ts';
import type { Pace } from './pace.ts';

/** A next hop: one database copy or one connector (semantics.md D6). */
export interface Hop {
  readonly key: string;
  route: Route;
  /** Copies ready to be sent, in order: see `waitAt`. */
  readonly ready: Line<CopyId>;
  /** For copies that wait here and nowhere else. */
  readonly alone: ReadonlySet<string>;
  active: number;
  failures: number;
  retryAtMs: number | null;
  /** Why nothing went through. */
  lastError: string | null;
  /** What was said of recipients that were put off, while others went through or might have. */
  lastDeferral: string | null;
  readonly pace: Pace;
}

export interface OpenDelivery {
  readonly requestId: number;
  readonly id: CopyId;
  readonly hop: string;
  readonly route: Route;
  readonly recipients: readonly number[];
}

/** Each at the end of its line, unless it stands there already. All at once: a message to ten thousand domains stands in as many. */
export function waitAt(copy: Copy, hops: readonly Hop[]): void {
  for (const { ready } of hops) ready.add(copy.facts.id);
  const [first] = hops;
  if (first === undefined || hops.every(({ key }) => copy.waitsAt.has(key))) return;
  const isAlone = copy.waitsAt.size === 0 && hops.length === 1;
  copy.waitsAt = isAlone ? first.alone : new Set([...copy.waitsAt, ...hops.map(({ key }) => key)]);
}

/** It leaves every line. */
export function waitNowhere(hops: ReadonlyMap<string, Hop>, copy: Copy): void {
  for (const key of copy.waitsAt) hops.get(key)?.ready.delete(copy.facts.id);
  copy.waitsAt = NOWHERE;
}
