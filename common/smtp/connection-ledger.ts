/**
 * How many SMTP connections are open in all, and who may open one more (semantics.md section 9). Share one ledger between the
 * listeners of a pod. Owns: the total; what one client network may do is counted by `ClientLimits`.
 */
import type { FrontendLimits } from '../config.ts';
import type { ClientLimit, ClientLimits } from './client-limits.ts';

export type ConnectionLimits = Pick<
  FrontendLimits,
  'maxConnections' | 'maxConnectionsPerClient' | 'maxConnectionRatePerClient'
>;

export type Admission =
  | { readonly kind: 'admitted'; readonly release: () => void }
  | { readonly kind: 'refused'; readonly limit: 'maxConnections' | ClientLimit };

/** From this share of `maxConnections` on, silence is cut shorter (semantics.md section 9; Postfix: stress-adaptive behaviour). */
const CROWDED_SHARE = 0.8;
const CROWDED_IDLE_MS = 10_000;

export class ConnectionLedger {
  readonly #clients: ClientLimits;
  #total = 0;

  constructor(clients: ClientLimits) {
    this.#clients = clients;
  }

  get total(): number {
    return this.#total;
  }

  /** How long a client may be silent now, ms: those who say nothing must not keep out those who would. */
  idleTimeoutMs({ maxConnections, idleTimeoutMs }: Pick<FrontendLimits, 'maxConnections' | 'idleTimeoutMs'>): number {
    const isCrowded = this.#total > CROWDED_SHARE * maxConnections;
    return isCrowded ? Math.min(idleTimeoutMs, CROWDED_IDLE_MS) : idleTimeoutMs;
  }

  /** Counts one connection in until `release` (idempotent) is called. */
  admit(address: string, limits: ConnectionLimits): Admission {
    if (this.#total >= limits.maxConnections) return { kind: 'refused', limit: 'maxConnections' };
    const limit = this.#clients.refuses(address, limits);
    if (limit !== null) return { kind: 'refused', limit };
    this.#total++;
    this.#clients.cameIn(address);
    let released = false;
    const release = (): void => {
      if (released) return;
      released = true;
      this.#total--;
      this.#clients.left(address);
    };
    return { kind: 'admitted', release };
  }
}
