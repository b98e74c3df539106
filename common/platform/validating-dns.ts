/**
 * A resolver that validates DNSSEC, asked for mail. Owns: what its answers prove, how long they are kept, and whether it validates at all. Promise: besides that of the DNS
 * port (`mail-dns.ts`) an answer is proven only when the resolver says so of all of it (AD); SERVFAIL, which is what a validator says of forged answers, is
 * temporary and never "there is none" (RFC 7672 2.1), and no other server is asked for what one of them found to be forged. Not promised: that nobody changes packets on the way from that resolver (RFC 7672 2.1, docs/decisions/0036-dane.md).
 * Only resolvers that somebody declared to validate may be asked through this.
 */
import { isIP } from 'node:net';
import { type NameServer, nameServer, shownNameServer } from '../name-server.ts';
import type { TlsaRecord } from '../smtp/dane.ts';
import type { Clock } from './clock.ts';
import { type Answer, canBeAsked, type DnsReply, type Exchanged, exchange, type RecordType } from './dns-exchange.ts';
import { describeError } from './lifecycle.ts';
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
  /**
   * Whether each server said of anything lately that it was validated; it is asked for the root when it did not. False: one of them does not validate. Null: none
   * answers.
   */
  validates(): Promise<boolean | null>;
  /** Servers that do not validate, as far as anybody has found out; what was found out long ago is asked for anew meanwhile. */
  notValidating(): readonly string[];
}

export interface ValidatingDnsPorts {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
}

/** Records, and for how long. */
interface Found<T = unknown> {
  readonly answer: DnsAnswer<T>;
  readonly ttlMs: number;
  /** The name that was asked for is an alias. */
  readonly isAlias: boolean;
}

/** What records of a type are to us: a value that holds nothing of the packet; null: one that is none. */
interface Kind<T> {
  readonly type: RecordType;
  read(record: Answer): T | null;
}

interface Kept {
  readonly found: Found;
  readonly untilMs: number;
  readonly bytes: number;
}

/** When it was learnt of a server whether it validates; null: it did not say. */
interface Seen {
  readonly validates: boolean | null;
  readonly atMs: number;
}

const MOST_KEPT = 10_000;
const MOST_KEPT_BYTES = 32 * 1_024 * 1_024;
/** What is larger is asked for each time: strangers decide how large. */
const MOST_RECORDS_KEPT = 100;
const LARGEST_KEPT = 4_096;
/** What a record takes beside its bytes. */
const RECORD_BYTES = 100;
/** A record that was mended is seen in this time, whatever its TTL. */
const LONGEST_MS = 3_600_000;
/** And of what nobody validated: who could write it once must not have it for long. */
const LONGEST_UNPROVEN_MS = 300_000;
/** RFC 2308 5: about what is not there. */
const LONGEST_ABSENT_MS = 300_000;
const MOST_ALIASES = 16;
const ROUNDS = 2;
/** How long it is believed that a server validates, or that it does not. */
const PROBE_MS = 600_000;
/** And that it does not answer. */
const PROBE_AGAIN_MS = 60_000;
const NOERROR = 0;
const SERVFAIL = 2;
const NXDOMAIN = 3;

const address = (type: 'A' | 'AAAA'): Kind<string> => ({
  type,
  // The codec makes something of any bytes.
  read: (one) => (one.type === type && isIP(one.data) === (type === 'A' ? 4 : 6) ? one.data : null),
});
const A = address('A');
const AAAA = address('AAAA');
const CNAME: Kind<string> = { type: 'CNAME', read: (one) => (one.type === 'CNAME' ? bare(one.data) : null) };
const MX: Kind<MxRecord> = {
  type: 'MX',
  read: (one) =>
    one.type === 'MX' ? { exchange: bare(one.data.exchange), preference: one.data.preference ?? 0 } : null,
};
const TXT: Kind<string> = {
  type: 'TXT',
  read: (one) => (one.type === 'TXT' ? [one.data].flat().map(String).join('') : null),
};
const TLSA: Kind<TlsaRecord> = {
  type: 'TLSA',
  read: ({ type, ...one }) => (type === 'TLSA' && 'data' in one ? withOwnBytes(one.data as TlsaRecord) : null),
};

function withOwnBytes({ certificate, ...numbers }: TlsaRecord): TlsaRecord {
  const own = Buffer.alloc(certificate.length);
  certificate.copy(own);
  return { ...numbers, certificate: own };
}

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
  readonly #bounds: DnsBounds;
  /** The oldest first. */
  readonly #kept = new Map<string, Kept>();
  #keptBytes = 0;
  readonly #underWay = new Map<string, Promise<Found>>();
  readonly #seen = new Map<NameServer, Seen>();
  #probes: Promise<boolean | null> | null = null;
  /** Of the list, the one that answered last. */
  #first = 0;

  constructor(servers: readonly string[], ports: ValidatingDnsPorts, bounds: DnsBounds) {
    this.#servers = servers.map(nameServer);
    this.#ports = ports;
    this.#bounds = bounds;
    this.#bounded = new BoundedQuestions(ports.clock, bounds.questionMs);
  }

  async mx(domain: string): Promise<DnsAnswer<MxRecord>> {
    return (await this.#ask(domain, MX)).answer;
  }

  async txt(name: string): Promise<DnsAnswer<string>> {
    return (await this.#ask(name, TXT)).answer;
  }

  async tlsa(name: string): Promise<DnsAnswer<TlsaRecord>> {
    return (await this.#ask(name, TLSA)).answer;
  }

  async addresses(host: string): Promise<DnsAnswer<string>> {
    return bothFamilies(await Promise.all([this.#family(host, AAAA), this.#family(host, A)]));
  }

  validates(): Promise<boolean | null> {
    this.#probes ??= this.#probeAll().finally(() => {
      this.#probes = null;
    });
    return this.#probes;
  }

  notValidating(): readonly string[] {
    const found = [...this.#seen].flatMap(([server, { validates }]) => (validates === false ? [server] : []));
    if (found.length > 0)
      this.validates().catch((error: unknown) =>
        this.#ports.log.error({ error: describeError(error) }, 'resolvers could not be asked whether they validate'),
      );
    return found.map(shownNameServer).sort();
  }

  async #probeAll(): Promise<boolean | null> {
    const said = await Promise.all(this.#servers.map((server) => this.#probe(server)));
    if (said.includes(false)) return false;
    return said.includes(true) ? true : null;
  }

  /** The server itself, not what is remembered: what the root's records were is no news. */
  async #probe(server: NameServer): Promise<boolean | null> {
    const { clock, log } = this.#ports;
    const seen = this.#seen.get(server);
    const longestMs = seen?.validates === null ? PROBE_AGAIN_MS : PROBE_MS;
    if (seen !== undefined && clock.monotonicMs() - seen.atMs < longestMs) return seen.validates;
    const reply: Exchanged = await this.#bounded.run(
      () => exchange(server, { name: '', type: 'NS' }, this.#bounds.tryMs, this.#ports),
      (problem) => ({ problem }),
    );
    const validates = isWord(reply) ? reply.isAuthentic : null;
    this.#seen.set(server, { validates, atMs: clock.monotonicMs() });
    if (validates === false)
      log.warn(
        { resolver: shownNameServer(server) },
        'mx.dnsServers do not validate DNSSEC: not even the root is; nothing is proven with DANE',
      );
    return validates;
  }

  async #family(host: string, kind: Kind<string>): Promise<DnsAnswer<string>> {
    const { answer: addresses, isAlias } = await this.#ask(host, kind);
    const isProven = addresses.kind === 'temporary' || (addresses.provenNames ?? []).length > 0;
    if (isProven || !isAlias) return addresses;
    // RFC 7672 2.2.2: an alias in a signed zone that leads to one that is not; TLSA records may be where it is.
    const { answer: alias } = await this.#ask(host, CNAME);
    if (alias.kind === 'temporary') return alias;
    return (alias.provenNames ?? []).length > 0 ? { ...addresses, provenNames: [bare(host)] } : addresses;
  }

  #ask<T>(name: string, kind: Kind<T>): Promise<Found<T>> {
    const key = `${kind.type} ${name.toLowerCase()}`;
    const now = this.#ports.clock.monotonicMs();
    const kept = this.#kept.get(key);
    // There is one kind for each type.
    if (kept !== undefined && kept.untilMs > now) return Promise.resolve(kept.found as Found<T>);
    const underWay = this.#underWay.get(key);
    if (underWay !== undefined) return underWay as Promise<Found<T>>;
    const asking = this.#askServers(name, kind)
      .then((found) => {
        this.#keep(key, found);
        return found;
      })
      .finally(() => this.#underWay.delete(key));
    this.#underWay.set(key, asking);
    return asking;
  }

  #keep(key: string, found: Found): void {
    this.#forget(key);
    const records = found.answer.kind === 'records' ? found.answer.records : [];
    const size = records.map(sizeOf).reduce((sum, one) => sum + one, 0);
    if (found.ttlMs <= 0 || records.length > MOST_RECORDS_KEPT || size > LARGEST_KEPT) return;
    const bytes = size + (1 + records.length) * RECORD_BYTES;
    this.#kept.set(key, { found, untilMs: this.#ports.clock.monotonicMs() + found.ttlMs, bytes });
    this.#keptBytes += bytes;
    for (const oldest of this.#kept.keys()) {
      if (this.#kept.size <= MOST_KEPT && this.#keptBytes <= MOST_KEPT_BYTES) return;
      this.#forget(oldest);
    }
  }

  #forget(key: string): void {
    this.#keptBytes -= this.#kept.get(key)?.bytes ?? 0;
    this.#kept.delete(key);
  }

  #askServers<T>(name: string, kind: Kind<T>): Promise<Found<T>> {
    if (!canBeAsked(name)) return Promise.resolve({ answer: { kind: 'noName' }, ttlMs: 0, isAlias: false });
    const what = `${kind.type} of ${name}`;
    return this.#bounded.run(
      () => this.#rounds(name, kind, what),
      (reason) => temporary(`${what}: ${reason}`),
    );
  }

  /** A server that is silent or knows nothing is not the last word: another one, or the same a little later, may know. */
  async #rounds<T>(name: string, kind: Kind<T>, what: string): Promise<Found<T>> {
    const { clock } = this.#ports;
    const count = this.#servers.length;
    const endMs = clock.monotonicMs() + this.#bounds.questionMs;
    const first = this.#first;
    let last = 'no server';
    for (let turn = 0; turn < ROUNDS * count; turn++) {
      const at = (first + turn) % count;
      const server = this.#servers[at];
      const leftMs = endMs - clock.monotonicMs();
      if (server === undefined || leftMs <= 0) break;
      // Each gets its turn before the time is over, however many are silent.
      const tryMs = Math.min(this.#bounds.tryMs, leftMs / (count - (turn % count)));
      const reply = await exchange(server, { name, type: kind.type }, tryMs, this.#ports);
      const read = isWord(reply) ? attempt(() => found(reply, name, kind)) : problemOf(reply);
      if (isWord(reply) && reply.isAuthentic) this.#seen.set(server, { validates: true, atMs: clock.monotonicMs() });
      if (typeof read !== 'string') {
        this.#first = at;
        return read;
      }
      last = `${read} (${shownNameServer(server)})`;
      // What one server found to be forged must not be true because another one does not look; what a server refuses it will refuse again.
      if (!('problem' in reply) && (reply.rcode === SERVFAIL || (count === 1 && !isWord(reply)))) break;
    }
    return temporary(`${what}: ${last}`);
  }
}

/** Something about the name. */
const isWord = (reply: Exchanged): reply is DnsReply =>
  !('problem' in reply) && (reply.rcode === NOERROR || reply.rcode === NXDOMAIN);

const problemOf = (reply: Exchanged): string => ('problem' in reply ? reply.problem : rcodeText(reply.rcode));

function sizeOf(value: unknown): number {
  if (typeof value === 'string' || Buffer.isBuffer(value)) return value.length;
  return typeof value === 'object' && value !== null
    ? Object.values(value).reduce((sum: number, one) => sum + sizeOf(one), 0)
    : 0;
}

/** The codec takes what no server should send. */
function attempt<T>(read: () => Found<T> | string): Found<T> | string {
  try {
    return read();
  } catch {
    return UNREADABLE;
  }
}

const UNREADABLE = 'an answer that cannot be read';

const temporary = (reason: string): Found<never> => ({
  answer: { kind: 'temporary', reason },
  ttlMs: 0,
  isAlias: false,
});

const rcodeText = (rcode: number): string =>
  rcode === SERVFAIL ? 'SERVFAIL, so a validator says also of signatures that are wrong' : `response code ${rcode}`;

const bare = (name: string): string => name.replace(/\.$/, '').toLowerCase();

/** A text: the server did not answer. */
function found<T>(reply: DnsReply, asked: string, { type, read }: Kind<T>): Found<T> | string {
  const { rcode, isAuthentic, answers, authorities } = reply;
  let name = bare(asked);
  let shortest = isAuthentic ? LONGEST_MS : LONGEST_UNPROVEN_MS;
  const note = (ttl: number | undefined): void => {
    shortest = Math.min(shortest, (ttl ?? 0) * 1_000);
  };
  let here: Answer[] = [];
  for (let steps = 0; steps <= MOST_ALIASES; steps++) {
    const all = answers.filter((one) => bare(one.name) === name);
    here = all.filter((one) => one.type === type);
    const alias = all.find((one) => one.type === 'CNAME');
    if (here.length > 0 || alias?.type !== 'CNAME') break;
    note(alias.ttl);
    name = bare(alias.data);
  }
  const isAlias = name !== bare(asked);
  const proof = isAuthentic ? { provenNames: [...new Set([name, bare(asked)])] } : {};
  if (here.length > 0) {
    for (const one of here) if (one.type !== 'OPT') note(one.ttl);
    const records = here.map(read).filter((one) => one !== null);
    if (records.length === 0) return UNREADABLE;
    return { answer: { kind: 'records', records, ...proof }, ttlMs: shortest, isAlias };
  }
  if (rcode === NOERROR && isReferral(reply, isAlias)) return 'it names other servers, or none, in place of an answer';
  const start = authorities.find((one) => one.type === 'SOA');
  // RFC 2308 5: without it nobody says for how long.
  note(start?.type === 'SOA' ? Math.min(start.ttl ?? 0, start.data.minimum ?? 0) : 0);
  const kind = rcode === NXDOMAIN ? 'noName' : 'noRecords';
  return { answer: { kind, ...proof }, ttlMs: Math.min(shortest, LONGEST_ABSENT_MS), isAlias };
}

/** Who neither asks others nor knows the zone does not know that there is nothing in it (RFC 1034 4.3.2, RFC 2308 2.2). */
function isReferral({ isRecursive, isAuthoritative, authorities }: DnsReply, isAlias: boolean): boolean {
  if (!isRecursive && !isAuthoritative) return true;
  if (authorities.some(({ type }) => type === 'SOA')) return false;
  return authorities.some(({ type }) => type === 'NS') || (!isRecursive && isAlias);
}
