/**
 * Which mail is signed, and with which keys (RFC 6376). Owns: those two decisions. Promise: only mail of our users is signed, so that nobody else gets a signature of our domains
 * by sending through us; of each domain at most one key signs. PURE.
 */
import type { BlockList } from 'node:net';
import type { DkimConfig, DkimKeyConfig } from '../../common/config.ts';
import type { Envelope } from '../../common/message.ts';
import { inNetworks, networksOf } from '../../common/networks.ts';

export class DkimPolicy {
  readonly config: DkimConfig;
  readonly #relayFrom: ReadonlyMap<string, BlockList>;

  constructor(config: DkimConfig) {
    this.config = config;
    this.#relayFrom = new Map(
      config.relayFrom.map(({ listener, networks }) => [listener, networksOf(`listener ${listener}`, networks)]),
    );
  }

  /** Made here, or from a client who may relay: those whom `frontend/policy.ts` lets send anywhere. */
  isOurs({ client, listener }: Pick<Envelope, 'client' | 'listener'>): boolean {
    if (client.address === '' || client.user !== null) return true;
    const networks = this.#relayFrom.get(listener);
    return networks !== undefined && inNetworks(networks, client.address);
  }

  /** One for each domain: the one that began last. A domain whose keys all begin later has none yet. */
  keysInForce(wallMs: number): readonly DkimKeyConfig[] {
    const byDomain = new Map<string, DkimKeyConfig>();
    for (const key of this.config.keys) {
      if (key.signsFromMs > wallMs) continue;
      const former = byDomain.get(key.domain);
      if (former === undefined || former.signsFromMs < key.signsFromMs) byDomain.set(key.domain, key);
    }
    return [...byDomain.values()];
  }
}
