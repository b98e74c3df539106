/** Next hops and the deliveries that are open to them, as the core remembers them. Owns: their shape. PURE. */
import type { CopyId } from '../../common/message.ts';
import type { Route } from './events.ts';
import type { Line } from './line.ts';
import type { Pace } from './pace.ts';

/** A next hop: one database copy or one connector (semantics.md D6). */
export interface Hop {
  readonly key: string;
  route: Route;
  /** Copies ready to be sent, in order. */
  readonly ready: Line<CopyId>;
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
