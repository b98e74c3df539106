/**
 * How many SMTP connections are open, in all and per client network (semantics.md section 9). Share one ledger between the
 * listeners of a pod. Owns: the counts. Promise: a client is an IPv4 address or an IPv6 /64, because a /64 is what one customer
 * gets; an IPv4-mapped address is that IPv4 address.
 */
import { isIPv6 } from 'node:net';

/** The key under which connections from `address` are counted together. */
export function clientNetwork(address: string): string {
  const plain = address.replace(/^::ffff:(?=\d+\.)/i, '').replace(/%.*$/, '');
  if (!isIPv6(plain)) return plain;
  const [head = '', tail] = plain.split('::');
  const groups = head === '' ? [] : head.split(':');
  if (tail !== undefined) {
    const after = tail === '' ? [] : tail.split(':');
    // A dotted quad at the end stands for two groups.
    const length = after.length + (tail.includes('.') ? 1 : 0);
    while (groups.length + length < 8) groups.push('0');
    groups.push(...after);
  }
  return `${groups
    .slice(0, 4)
    .map((group) => Number.parseInt(group, 16).toString(16))
    .join(':')}::/64`;
}

export interface ConnectionLimits {
  readonly maxConnections: number;
  readonly maxConnectionsPerClient: number;
}

export type Admission =
  | { readonly kind: 'admitted'; readonly release: () => void }
  | { readonly kind: 'refused'; readonly limit: keyof ConnectionLimits };

export class ConnectionLedger {
  #total = 0;
  readonly #byClient = new Map<string, number>();

  get total(): number {
    return this.#total;
  }

  /** Counts one connection in until `release` (idempotent) is called. */
  admit(address: string, limits: ConnectionLimits): Admission {
    const key = clientNetwork(address);
    const fromClient = this.#byClient.get(key) ?? 0;
    if (this.#total >= limits.maxConnections) return { kind: 'refused', limit: 'maxConnections' };
    if (fromClient >= limits.maxConnectionsPerClient) return { kind: 'refused', limit: 'maxConnectionsPerClient' };
    this.#total++;
    this.#byClient.set(key, fromClient + 1);
    let released = false;
    const release = (): void => {
      if (released) return;
      released = true;
      this.#total--;
      const left = (this.#byClient.get(key) ?? 1) - 1;
      if (left > 0) this.#byClient.set(key, left);
      else this.#byClient.delete(key);
    };
    return { kind: 'admitted', release };
  }
}
