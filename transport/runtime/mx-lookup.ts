/**
 * From a domain to the addresses that take its mail (RFC 5321 5.1, RFC 7505). Owns: the order of MX hosts, and to which addresses mail may go at all.
 * Promise: a domain is refused for good only by what its own name servers said; a doubtful answer defers. Nobody outside decides that this
 * pod speaks to itself or to a private network: such addresses are left out unless the connector allows them (docs/decisions/0023-mx-delivery.md).
 */
import { isIP } from 'node:net';
import { domainToASCII } from 'node:url';
import type { MxConfig } from '../../common/config.ts';
import type { Reply } from '../../common/message.ts';
import { inNetworks, networksOf } from '../../common/networks.ts';
import type { DnsAnswer, MailDns, MxRecord } from '../../common/platform/mail-dns.ts';
import { type Random, randomFraction } from '../../common/platform/random.ts';
import { isInPolicy, type StsPolicy } from '../../common/smtp/mta-sts.ts';

export interface MxTarget {
  readonly address: string;
  /** Under which the certificate must be valid. */
  readonly name: string;
  /** Proven names of the host, below which TLSA records may be (RFC 7672 2.2.2), in the order to look. */
  readonly tlsaBases?: readonly string[];
}

export type MxAnswer =
  /** At least one, in the order to try. */
  | {
      readonly kind: 'targets';
      readonly targets: readonly MxTarget[];
      /** Of the domain, when its MX records (or that there are none) were proven. */
      readonly provenNames: readonly string[];
    }
  | { readonly kind: 'failed'; readonly reply: Reply }
  | { readonly kind: 'deferred'; readonly reply: string };

/** One domain must not keep a delivery busy: hosts asked for, addresses tried. */
const MAX_HOSTS = 10;
const MAX_TARGETS = 10;

const OURSELVES = networksOf('loopback', ['127.0.0.0/8', '::1/128', '0.0.0.0/8', '::/128']);
/** Private, shared, link-local, multicast, reserved (RFC 6890). */
const NOT_PUBLIC = networksOf('not public', [
  ...['10.0.0.0/8', '100.64.0.0/10', '169.254.0.0/16', '172.16.0.0/12', '192.168.0.0/16', '224.0.0.0/3'],
  ...['fc00::/7', 'fe80::/10', 'ff00::/8'],
]);

/** What DNS says is public, or allowed by the connector. */
export function mayGoTo(address: string, allowNetworks: readonly string[]): boolean {
  if (inNetworks(networksOf('allowNetworks', allowNetworks), address)) return true;
  return !inNetworks(OURSELVES, address) && !inNetworks(NOT_PUBLIC, address);
}

export class MxLookup {
  readonly #dns: MailDns;
  readonly #random: Random;
  readonly #ownNames: ReadonlySet<string>;
  readonly #mx: MxConfig;

  constructor(dns: MailDns, random: Random, hostname: string, mx: MxConfig) {
    this.#dns = dns;
    this.#random = random;
    this.#ownNames = new Set([hostname, ...mx.ownNames].map((name) => name.toLowerCase()));
    this.#mx = mx;
  }

  async lookUp(domain: string): Promise<MxAnswer> {
    const literal = addressLiteral(domain);
    if (literal !== null) return this.#permitted(domain, [{ address: literal, name: literal }], []);
    const name = domainToASCII(domain);
    if (name === '') return failed(550, '5.1.2', `${domain} is not a domain name`);
    const answer = await this.#dns.mx(name);
    if (answer.kind === 'temporary') return { kind: 'deferred', reply: `4.4.3 DNS: ${answer.reason}` };
    const proven = answer.provenNames ?? [];
    if (answer.kind !== 'records') return this.#implicit(name, proven);
    const hosts = answer.records.filter(({ exchange }) => exchange !== '');
    if (hosts.length === 0) return failed(556, '5.1.10', `${domain} takes no mail (null MX)`);
    return this.#explicit(name, hosts, proven);
  }

  /** No MX: the domain is its own host. */
  async #implicit(domain: string, proven: readonly string[]): Promise<MxAnswer> {
    if (this.#ownNames.has(domain)) return loops(`${domain} is a name of this server`);
    const answer = await this.#dns.addresses(domain);
    switch (answer.kind) {
      case 'records':
        return this.#permitted(domain, targetsOf(domain, answer), proven);
      case 'temporary':
        return { kind: 'deferred', reply: `4.4.3 DNS: ${answer.reason}` };
      case 'noName':
        return failed(550, '5.1.2', `domain ${domain} does not exist`);
      case 'noRecords':
        return failed(550, '5.4.4', `domain ${domain} has neither MX nor address`);
    }
  }

  async #explicit(domain: string, records: readonly MxRecord[], proven: readonly string[]): Promise<MxAnswer> {
    const own = records.filter(({ exchange }) => this.#ownNames.has(exchange)).map(({ preference }) => preference);
    const better = records.filter(({ preference }) => preference < Math.min(...own, Number.POSITIVE_INFINITY));
    if (better.length === 0) return loops(`the best MX of ${domain} is this server`);
    const hosts = this.#inOrder(better).slice(0, MAX_HOSTS);
    const answers = await Promise.all(hosts.map(({ exchange }) => this.#dns.addresses(exchange)));
    const targets = answers.flatMap((answer, at) =>
      answer.kind === 'records' ? targetsOf(hosts[at]?.exchange ?? '', answer) : [],
    );
    if (targets.length > 0) return this.#permitted(domain, targets, proven);
    const doubtful = answers.find((answer) => answer.kind === 'temporary');
    if (doubtful !== undefined) return { kind: 'deferred', reply: `4.4.3 DNS: ${doubtful.reason}` };
    return failed(
      550,
      '5.4.4',
      `no MX of ${domain} has an address: ${hosts.map(({ exchange }) => exchange).join(', ')}`,
    );
  }

  /** By preference; equals in random order, so that load spreads. */
  #inOrder(records: readonly MxRecord[]): readonly MxRecord[] {
    return records
      .map((record) => ({ record, draw: randomFraction(this.#random) }))
      .sort((a, b) => a.record.preference - b.record.preference || a.draw - b.draw)
      .map(({ record }) => record);
  }

  #permitted(domain: string, all: readonly MxTarget[], provenNames: readonly string[]): MxAnswer {
    const isOurs = ({ address }: MxTarget): boolean => inNetworks(OURSELVES, address);
    const targets = all.filter((one) => mayGoTo(one.address, this.#mx.allowNetworks));
    if (targets.length > 0) return { kind: 'targets', targets: targets.slice(0, MAX_TARGETS), provenNames };
    const where = all.map(({ name, address }) => `${name} [${address}]`).join(', ');
    if (all.every(isOurs)) return loops(`mail for ${domain} would come back to this server: ${where}`);
    const fix = 'list its network in mx.allowNetworks of the send connector if that is meant';
    return { kind: 'deferred', reply: `4.4.4 mail for ${domain} would go to a private network: ${where}; ${fix}` };
  }
}

const targetsOf = (
  name: string,
  { records, provenNames: tlsaBases = [] }: Extract<DnsAnswer<string>, { kind: 'records' }>,
): readonly MxTarget[] => records.map((address) => ({ address, name, tlsaBases }));

/**
 * Those that the policy of the domain means (RFC 8461 5) and the source address can reach; a text says why the message waits. Who has TLSA records (`hasProof`) is
 * asked for what they say, not for what the policy does (RFC 8461 2).
 */
export function chooseTargets(
  domain: string,
  all: readonly MxTarget[],
  policy: StsPolicy | null,
  sourceAddress: string | null,
  hasProof: (name: string) => boolean = () => false,
): readonly MxTarget[] | string {
  const isMeant = (name: string): boolean => policy?.mode !== 'enforce' || isInPolicy(policy, name);
  const meant = all.filter(({ name }) => hasProof(name) || isMeant(name));
  const names = [...new Set(all.map(({ name }) => name))].join(', ');
  if (meant.length === 0)
    return `4.7.0 the MTA-STS policy of ${domain} means ${policy?.mx.join(', ')}, but DNS says ${names}`;
  if (sourceAddress === null) return meant;
  const reachable = meant.filter(({ address }) => isIP(address) === isIP(sourceAddress));
  if (reachable.length > 0) return reachable;
  return `4.4.4 no host of ${domain} can be reached from ${sourceAddress}: ${names}; it is sourceAddress of the send connector`;
}

function failed(code: number, enhanced: string, text: string): MxAnswer {
  return { kind: 'failed', reply: { code, enhanced, text } };
}

function loops(text: string): MxAnswer {
  return failed(554, '5.4.6', text);
}

/** `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 4.1.3). */
function addressLiteral(domain: string): string | null {
  const inside = /^\[(?:ipv6:)?(.+)\]$/i.exec(domain)?.[1];
  return inside !== undefined && isIP(inside) !== 0 ? inside : null;
}
