/**
 * Deliveries under way. Owns: how many go out of the cluster at once (Exchange: MaxOutboundConnections), and who waits for one of them to end. A hundred thousand messages for ten
 * thousand domains would else all be begun in one step: each holds a connection, a part of its body and what its exchange of commands needs, 17 KB of memory a message (docs/performance.md).
 */
import type { OpenDelivery } from './hop.ts';

/** Of one transport, over all destinations. */
export const MOST_OUTBOUND = 1_000;

export class OpenDeliveries extends Map<number, OpenDelivery> {
  #outbound = 0;
  /** Next hops that could begin one more, the longest waiting first. */
  readonly #waiting = new Set<string>();

  override set(requestId: number, open: OpenDelivery): this {
    this.#left(this.get(requestId));
    if (isOutbound(open)) this.#outbound += 1;
    return super.set(requestId, open);
  }

  override delete(requestId: number): boolean {
    this.#left(this.get(requestId));
    return super.delete(requestId);
  }

  #left(open: OpenDelivery | undefined): void {
    if (open !== undefined && isOutbound(open)) this.#outbound -= 1;
  }

  get isFull(): boolean {
    return this.#outbound >= MOST_OUTBOUND;
  }

  wait(hop: string): void {
    this.#waiting.add(hop);
  }

  /** Who may begin one now; null: nobody waits, or there is no room. */
  next(): string | null {
    const [hop] = this.#waiting;
    if (hop === undefined || this.isFull) return null;
    this.#waiting.delete(hop);
    return hop;
  }
}

/** Not to a mailbox store, and not to another boundary of the cluster: those are few, and ours. */
export const isOutbound = ({ route }: Pick<OpenDelivery, 'route'>): boolean =>
  route.kind === 'smartHost' || route.kind === 'mx';
