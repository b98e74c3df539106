/**
 * A resolver that validates DNSSEC, asked for mail. Owns: what its answers prove, how long they are kept, and whether it validates at all. Promise: besides that of the DNS
 * port (`mail-dns.ts`) an answer is proven only when the resolver says so of all of it (AD); SERVFAIL, which is what a validator says of forged answers, is
 * temporary and never "there is none" (RFC 7672 2.1). Not promised: that nobody changes packets on the way from that resolver (RFC 7672 2.1, docs/decisions/0036-dane.md).
 * Only resolvers that somebody declared to validate may be asked through this.
 */
import { type NameServer, nameServer } from '../name-server.ts';
import type { TlsaRecord } from '../smtp/dane.ts';
import type { Clock } from './clock.ts';
import { type Answer, canBeAsked, type DnsReply, exchange, type RecordType } from './dns-exchange.ts';
import type { Logger } from './log.ts';
import {
  BoundedQuestions,
  bothFamilies,
  DNS_BOUNDS,
  type DnsAnswer,
  type DnsBounds,
  type MailDns,
  type MxRecord,
} from './mail-dns.ts';
import type { Random } from './random.ts';

export interface ValidatingDns extends MailDns {
  tlsa(name: string): Promise<DnsAnswer<TlsaRecord>>;
  /** Whether it said of anything lately that it was validated; it is asked for the root when it did not. Null: it does not answer. */
  validates(): Promise<boolean | null>;
}

export interface ValidatingDnsPorts {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
}

/** Records, and for how long. */
interface Found {
  readonly answer: DnsAnswer<Answer>;
  readonly ttlMs: number;
  /** The name that was asked for is an alias. */
  readonly isAlias: boolean;
}

interface Kept {
  readonly found: Found;
  readonly untilMs: number;
}

const MOST_KEPT = 10_000;
/** A record that was mended is seen in this time, whatever its TTL. */
const LONGEST_MS = 3_600_000;
/** RFC 2308 5: about what is not there. */
const LONGEST_ABSENT_MS = 300_000;
const MOST_ALIASES = 16;
const ROUNDS = 2;
/** How long it is believed that a resolver validates, or that it does not. */
const PROBE_MS = 600_000;
const NOERROR = 0;
const SERVFAIL = 2;
const NXDOMAIN = 3;

/** `servers` as in `nodeDns`; at least one. */
export function validatingDns(
  servers: readonly string[],
  ports: ValidatingDnsPorts,
  bounds: DnsBounds = DNS_BOUNDS,
): ValidatingDns {
  return new Validating(servers, ports, bounds);
}

class Validating implements ValidatingDns {
  readonly #servers: readonly NameServer[];
  readonly #ports: ValidatingDnsPorts;
  readonly #bounded: BoundedQuestions;
  readonly #tryMs: number;
  /** The oldest first. */
  readonly #kept = new Map<string, Kept>();
  readonly #underWay = new Map<string, Promise<Found>>();
  #seen: { readonly validates: boolean; readonly atMs: number } | null = null;

  constructor(servers: readonly string[], ports: ValidatingDnsPorts, { tryMs, questionMs }: DnsBounds) {
    this.#servers = servers.map(nameServer);
    this.#ports = ports;
    this.#tryMs = tryMs;
    this.#bounded = new BoundedQuestions(ports.clock, questionMs);
  }

  async mx(domain: string): Promise<DnsAnswer<MxRecord>> {
    const { answer } = await this.#ask(domain, 'MX');
    return mapped(answer, (one) =>
      one.type === 'MX' ? [{ exchange: bare(one.data.exchange), preference: one.data.preference ?? 0 }] : [],
    );
  }

  async txt(name: string): Promise<DnsAnswer<string>> {
    const { answer } = await this.#ask(name, 'TXT');
    return mapped(answer, (one) => (one.type === 'TXT' ? [[one.data].flat().map(String).join('')] : []));
  }

  async tlsa(name: string): Promise<DnsAnswer<TlsaRecord>> {
    const { answer } = await this.#ask(name, 'TLSA');
    return mapped(answer, ({ type, ...one }) => (type === 'TLSA' && 'data' in one ? [one.data as TlsaRecord] : []));
  }

  async addresses(host: string): Promise<DnsAnswer<string>> {
    return bothFamilies(await Promise.all([this.#family(host, 'AAAA'), this.#family(host, 'A')]));
  }

  async validates(): Promise<boolean | null> {
    const { clock, log } = this.#ports;
    if (this.#seen !== null && clock.monotonicMs() - this.#seen.atMs < PROBE_MS) return this.#seen.validates;
    const { answer } = await this.#ask('', 'NS');
    if (answer.kind === 'temporary') return null;
    const validates = (answer.provenNames ?? []).length > 0;
    this.#seen = { validates, atMs: clock.monotonicMs() };
    const resolver = this.#servers.map(({ address, port }) => `${address}:${port}`).join(', ');
    if (!validates)
      log.warn({ resolver }, 'mx.dnsServers do not validate DNSSEC: not even the root is; nothing is proven with DANE');
    return validates;
  }

  async #family(host: string, type: 'A' | 'AAAA'): Promise<DnsAnswer<string>> {
    const { answer, isAlias } = await this.#ask(host, type);
    const addresses = mapped(answer, (one) => (one.type === type ? [one.data] : []));
    const isProven = addresses.kind === 'temporary' || (addresses.provenNames ?? []).length > 0;
    if (isProven || !isAlias) return addresses;
    // RFC 7672 2.2.2: an alias in a signed zone that leads to one that is not; TLSA records may be where it is.
    const { answer: alias } = await this.#ask(host, 'CNAME');
    if (alias.kind === 'temporary') return alias;
    return (alias.provenNames ?? []).length > 0 ? { ...addresses, provenNames: [bare(host)] } : addresses;
  }

  #ask(name: string, type: RecordType): Promise<Found> {
    const key = `${type} ${name.toLowerCase()}`;
    const now = this.#ports.clock.monotonicMs();
    const kept = this.#kept.get(key);
    if (kept !== undefined && kept.untilMs > now) return Promise.resolve(kept.found);
    const underWay = this.#underWay.get(key);
    if (underWay !== undefined) return underWay;
    const asking = this.#askServers(name, type)
      .then((found) => {
        this.#keep(key, found);
        return found;
      })
      .finally(() => this.#underWay.delete(key));
    this.#underWay.set(key, asking);
    return asking;
  }

  #keep(key: string, found: Found): void {
    this.#kept.delete(key);
    if (found.ttlMs <= 0) return;
    this.#kept.set(key, { found, untilMs: this.#ports.clock.monotonicMs() + found.ttlMs });
    const [oldest] = this.#kept.keys();
    if (this.#kept.size > MOST_KEPT && oldest !== undefined) this.#kept.delete(oldest);
  }

  #askServers(name: string, type: RecordType): Promise<Found> {
    if (name !== '' && !canBeAsked(name))
      return Promise.resolve({ answer: { kind: 'noName' }, ttlMs: 0, isAlias: false });
    const what = `${type} of ${name === '' ? 'the root' : name}`;
    return this.#bounded.run(
      () => this.#rounds(name, type, what),
      (reason) => temporary(`${what}: ${reason}`),
    );
  }

  /** A server that fails is not the last word: another one, or the same a little later, may know. */
  async #rounds(name: string, type: RecordType, what: string): Promise<Found> {
    let last = 'no server';
    for (let round = 0; round < ROUNDS; round++)
      for (const server of this.#servers) {
        const reply = await exchange(server, { name, type }, this.#tryMs, this.#ports);
        if (!('problem' in reply) && (reply.rcode === NOERROR || reply.rcode === NXDOMAIN)) {
          if (reply.isAuthentic) this.#seen = { validates: true, atMs: this.#ports.clock.monotonicMs() };
          const read = attempt(() => found(reply, name, type));
          if (read !== null) return read;
          last = 'an answer that cannot be read';
          continue;
        }
        last = `${'problem' in reply ? reply.problem : rcodeText(reply.rcode)} (${server.address}:${server.port})`;
        // What it found to be forged it will find to be forged again.
        if (!('problem' in reply) && this.#servers.length === 1) return temporary(`${what}: ${last}`);
      }
    return temporary(`${what}: ${last}`);
  }
}

/** The codec takes what no server should send. */
function attempt(read: () => Found): Found | null {
  try {
    return read();
  } catch {
    return null;
  }
}

const temporary = (reason: string): Found => ({ answer: { kind: 'temporary', reason }, ttlMs: 0, isAlias: false });

const rcodeText = (rcode: number): string =>
  rcode === SERVFAIL ? 'SERVFAIL, so a validator says also of signatures that are wrong' : `response code ${rcode}`;

const bare = (name: string): string => name.replace(/\.$/, '').toLowerCase();

function found({ rcode, isAuthentic, answers, authorities }: DnsReply, asked: string, type: RecordType): Found {
  let name = bare(asked);
  let shortest = Number.POSITIVE_INFINITY;
  const note = (ttl: number | undefined): void => {
    shortest = Math.min(shortest, (ttl ?? 0) * 1_000);
  };
  let records: Answer[] = [];
  for (let steps = 0; steps <= MOST_ALIASES; steps++) {
    const here = answers.filter((one) => bare(one.name) === name);
    records = here.filter((one) => one.type === type);
    const alias = here.find((one) => one.type === 'CNAME');
    if (records.length > 0 || alias?.type !== 'CNAME') break;
    note(alias.ttl);
    name = bare(alias.data);
  }
  const isAlias = name !== bare(asked);
  const proof = isAuthentic ? { provenNames: [...new Set([name, bare(asked)])] } : {};
  if (records.length > 0) {
    for (const one of records) if (one.type !== 'OPT') note(one.ttl);
    return { answer: { kind: 'records', records, ...proof }, ttlMs: Math.min(shortest, LONGEST_MS), isAlias };
  }
  const start = authorities.find((one) => one.type === 'SOA');
  // RFC 2308 5: without it nobody says for how long.
  note(start?.type === 'SOA' ? Math.min(start.ttl ?? 0, start.data.minimum ?? 0) : 0);
  const kind = rcode === NXDOMAIN ? 'noName' : 'noRecords';
  return { answer: { kind, ...proof }, ttlMs: Math.min(shortest, LONGEST_ABSENT_MS), isAlias };
}

function mapped<T>(answer: DnsAnswer<Answer>, each: (record: Answer) => readonly T[]): DnsAnswer<T> {
  return answer.kind === 'records' ? { ...answer, records: answer.records.flatMap(each) } : answer;
}
