/**
 * The DNS port: what mail asks of the domain name system. Owns: how answers are told apart. Promise: every question ends within a bound, at most
 * `MAX_QUESTIONS` are under way, and only the word of a name server makes a name absent: whatever else goes wrong is temporary.
 * Not promised: that an answer is true. Node's resolver does not validate DNSSEC (docs/decisions/0023-mx-delivery.md); one that is told to be asked by
 * `validating-dns.ts`, which says of each answer whether it was.
 */
import { Resolver } from 'node:dns/promises';
import type { Clock } from './clock.ts';
import { describeError } from './lifecycle.ts';

export type DnsAnswer<T> =
  | ((
      | { readonly kind: 'records' /** At least one. */; readonly records: readonly T[] }
      /** The name exists, nothing of this type does. */
      | { readonly kind: 'noRecords' }
      | { readonly kind: 'noName' }
    ) &
      Proof)
  | { readonly kind: 'temporary'; readonly reason: string };

export interface Proof {
  /**
   * Names under which the answer was validated with DNSSEC: what aliases lead to, then the one that was asked for (RFC 7672 2.2). Of an answer that was not validated
   * the name itself when its alias was. Absent or empty: nothing is proven.
   */
  readonly provenNames?: readonly string[];
}

export interface MxRecord {
  /** Empty: the domain takes no mail (RFC 7505). */
  readonly exchange: string;
  readonly preference: number;
}

export interface MailDns {
  mx(domain: string): Promise<DnsAnswer<MxRecord>>;
  /** The parts of a record put together. */
  txt(name: string): Promise<DnsAnswer<string>>;
  /** IPv6 before IPv4. */
  addresses(host: string): Promise<DnsAnswer<string>>;
}

export interface DnsBounds {
  /** Of one try; a server that is silent is asked twice. */
  readonly tryMs: number;
  /** Of one question, whatever the number of servers. */
  readonly questionMs: number;
}

export const DNS_BOUNDS: DnsBounds = { tryMs: 5_000, questionMs: 20_000 };
const MAX_QUESTIONS = 100;

/** `servers` like `192.0.2.53` or `[2001:db8::53]:5353`; none: those of the machine. */
export function nodeDns(clock: Clock, servers: readonly string[], bounds: DnsBounds = DNS_BOUNDS): MailDns {
  return new NodeDns(clock, servers, bounds);
}

/** Questions under way at once, each with its end. */
export class BoundedQuestions {
  readonly #clock: Clock;
  readonly #questionMs: number;
  readonly #waiting: (() => void)[] = [];
  #underWay = 0;

  constructor(clock: Clock, questionMs: number) {
    this.#clock = clock;
    this.#questionMs = questionMs;
  }

  /** `late` when the time is over first. */
  async run<T>(question: () => Promise<T>, late: (reason: string) => T): Promise<T> {
    if (this.#underWay >= MAX_QUESTIONS) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    else this.#underWay++;
    const { promise, resolve } = Promise.withResolvers<T>();
    const timer = this.#clock.setTimer(this.#questionMs, () =>
      resolve(late(`no answer in ${this.#questionMs / 1000} s`)),
    );
    try {
      return await Promise.race([question(), promise]);
    } finally {
      timer.cancel();
      const next = this.#waiting.shift();
      if (next === undefined) this.#underWay--;
      else next();
    }
  }
}

class NodeDns implements MailDns {
  readonly #resolver: Resolver;
  readonly #bounded: BoundedQuestions;

  constructor(clock: Clock, servers: readonly string[], { tryMs, questionMs }: DnsBounds) {
    this.#bounded = new BoundedQuestions(clock, questionMs);
    this.#resolver = new Resolver({ timeout: tryMs, tries: 2 });
    if (servers.length > 0) this.#resolver.setServers(servers);
  }

  mx(domain: string): Promise<DnsAnswer<MxRecord>> {
    return this.#ask(domain, 'MX', async () =>
      (await this.#resolver.resolveMx(domain)).map(({ exchange, priority }) => ({
        exchange: exchange.replace(/\.$/, '').toLowerCase(),
        preference: priority,
      })),
    );
  }

  txt(name: string): Promise<DnsAnswer<string>> {
    return this.#ask(name, 'TXT', async () => (await this.#resolver.resolveTxt(name)).map((parts) => parts.join('')));
  }

  async addresses(host: string): Promise<DnsAnswer<string>> {
    return bothFamilies(
      await Promise.all([
        this.#ask(host, 'AAAA', () => this.#resolver.resolve6(host)),
        this.#ask(host, 'A', () => this.#resolver.resolve4(host)),
      ]),
    );
  }

  #ask<T>(name: string, type: string, question: () => Promise<readonly T[]>): Promise<DnsAnswer<T>> {
    return this.#bounded.run(
      () => answerOf(name, type, question),
      (reason) => ({ kind: 'temporary', reason: `${type} of ${name}: ${reason}` }),
    );
  }
}

/** IPv6 before IPv4; proven where one of them is: asking for TLSA records in vain is the safe side (RFC 7672 2.2.2). */
export function bothFamilies([ipv6, ipv4]: readonly [DnsAnswer<string>, DnsAnswer<string>]): DnsAnswer<string> {
  const found = [ipv6, ipv4].filter((answer) => answer.kind === 'records');
  const records = found.flatMap((answer) => answer.records);
  const provenNames = [...new Set(found.flatMap((answer) => answer.provenNames ?? []))];
  if (records.length > 0) return { kind: 'records', records, ...(provenNames.length > 0 ? { provenNames } : {}) };
  if (ipv6.kind === 'temporary') return ipv6;
  if (ipv4.kind === 'temporary') return ipv4;
  return ipv6.kind === 'noName' ? ipv6 : ipv4;
}

async function answerOf<T>(name: string, type: string, question: () => Promise<readonly T[]>): Promise<DnsAnswer<T>> {
  try {
    const records = await question();
    return records.length === 0 ? { kind: 'noRecords' } : { kind: 'records', records };
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : null;
    if (code === 'ENODATA') return { kind: 'noRecords' };
    if (code === 'ENOTFOUND' || code === 'EBADNAME') return { kind: 'noName' };
    return {
      kind: 'temporary',
      reason: `${type} of ${name}: ${typeof code === 'string' ? code : describeError(error)}`,
    };
  }
}
