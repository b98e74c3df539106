/**
 * The MTA-STS policies of receiving domains, as long as they say (RFC 8461 5.1). Owns: the cache, in memory, of at most `MOST_DOMAINS`; when a policy is fetched.
 * Promise: a policy that was seen counts until its max_age is over, whatever DNS or HTTPS say meanwhile, so that who breaks them gains nothing; one
 * fetch at a time for a domain, and none for `RETRY_MS` after one that failed. Not promised: that a restart remembers (docs/decisions/0024-send-connectors.md).
 */
import { domainToASCII } from 'node:url';
import type { MxConfig } from '../../common/config.ts';
import type { Clock } from '../../common/platform/clock.ts';
import type { Logger } from '../../common/platform/log.ts';
import type { MailDns } from '../../common/platform/mail-dns.ts';
import { type Fetched, fetchPolicy } from '../../common/platform/policy-fetch.ts';
import { parsePolicy, policyId, type StsPolicy } from '../../common/smtp/mta-sts.ts';
import { mayGoTo } from './mx-lookup.ts';

export interface StsOptions {
  readonly clock: Clock;
  readonly log: Logger;
  readonly port: number;
  /** PEM; the system's authorities when absent. */
  readonly ca?: string;
}

interface Known {
  readonly id: string;
  readonly policy: StsPolicy;
  readonly fetchedAtMs: number;
}

const MOST_DOMAINS = 1_000;
const RETRY_MS = 300_000;
const FETCH_MS = 30_000;
/** 3.3: fetched again well before its end, also while the id stays. */
const REFRESH_MS = 86_400_000;

export class StsPolicies {
  readonly #options: StsOptions;
  /** Least recently used first. */
  readonly #known = new Map<string, Known>();
  readonly #failedAtMs = new Map<string, number>();
  readonly #underWay = new Map<string, Promise<StsPolicy | null>>();

  constructor(options: StsOptions) {
    this.#options = options;
  }

  /** Null: the domain has none that we could learn of. */
  async policyOf(domain: string, dns: MailDns, mx: MxConfig): Promise<StsPolicy | null> {
    const name = domainToASCII(domain);
    // An address literal has no policy.
    if (name === '' || domain.startsWith('[')) return null;
    const key = `${name} ${mx.dnsServers.join(' ')}`;
    const answer = await dns.txt(`_mta-sts.${name}`);
    const id = answer.kind === 'records' ? policyId(answer.records) : null;
    const known = this.#use(key);
    if (id === null) return known?.policy ?? null;
    const now = this.#options.clock.monotonicMs();
    if (known !== null && known.id === id && now - known.fetchedAtMs < Math.min(REFRESH_MS, known.policy.maxAgeMs / 2))
      return known.policy;
    if (now - (this.#failedAtMs.get(key) ?? Number.NEGATIVE_INFINITY) < RETRY_MS) return known?.policy ?? null;
    const underWay = this.#underWay.get(key);
    if (underWay !== undefined) return underWay;
    const fetching = this.#fetch(name, key, id, dns, mx).finally(() => this.#underWay.delete(key));
    this.#underWay.set(key, fetching);
    return fetching;
  }

  #use(key: string): Known | null {
    const known = this.#known.get(key);
    if (known === undefined) return null;
    this.#known.delete(key);
    if (this.#options.clock.monotonicMs() - known.fetchedAtMs >= known.policy.maxAgeMs) return null;
    this.#known.set(key, known);
    return known;
  }

  async #fetch(domain: string, key: string, id: string, dns: MailDns, mx: MxConfig): Promise<StsPolicy | null> {
    const { clock, log } = this.#options;
    const fetched = await this.#ask(`mta-sts.${domain}`, dns, mx);
    const policy = 'problem' in fetched ? fetched : parsePolicy(fetched.text);
    if ('problem' in policy) {
      bounded(this.#failedAtMs, key, clock.monotonicMs());
      const known = this.#use(key);
      log.info({ domain, why: policy.problem, kept: known !== null }, 'no MTA-STS policy to be had');
      return known?.policy ?? null;
    }
    this.#failedAtMs.delete(key);
    bounded(this.#known, key, { id, policy, fetchedAtMs: clock.monotonicMs() });
    return policy;
  }

  async #ask(host: string, dns: MailDns, mx: MxConfig): Promise<Fetched> {
    const { clock, port, ca } = this.#options;
    const answer = await dns.addresses(host);
    if (answer.kind !== 'records') return { problem: `${host} has no address (${answer.kind})` };
    const addresses = answer.records.filter((address) => mayGoTo(address, mx.allowNetworks));
    // One of each family, as they come: IPv6 first.
    const chosen = [addresses[0], addresses.find((one) => one.includes('.'))].filter((one) => one !== undefined);
    let last: Fetched = { problem: `${host} has private addresses only` };
    for (const address of new Set(chosen)) {
      last = await fetchPolicy({ address, port, host, ...(ca === undefined ? {} : { ca }) }, FETCH_MS, clock);
      if ('text' in last) break;
    }
    return last;
  }
}

function bounded<T>(map: Map<string, T>, key: string, value: T): void {
  map.delete(key);
  map.set(key, value);
  const [oldest] = map.keys();
  if (map.size > MOST_DOMAINS && oldest !== undefined) map.delete(oldest);
}
