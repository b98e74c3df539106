/** Ledgers for tests: transports of one cluster with certificates of one authority, what they log and count. */
import type { CopyId, Identity } from '../../common/message.ts';
import { type Clock, systemClock } from '../../common/platform/clock.ts';
import { type LogFields, type Logger, silentLogger } from '../../common/platform/log.ts';
import type { Metrics } from '../../common/platform/metrics.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { type Authority, createAuthority, issueCertificate } from '../../operator/pki.ts';
import type { Ledger, LedgerAnswer, LedgerEntry, LedgerKey } from '../../transport/runtime/ledger.ts';
import type { StatementIdentity } from '../../transport/runtime/ledger-statement.ts';
import { openRedisLedger, type RedisLedger } from '../../transport/runtime/redis-ledger.ts';
import { until } from '../house/until.ts';

export const CLUSTER = 'mail';

export function entry(copy: string, recipient = 'bob@example.net', more: Partial<LedgerEntry> = {}): LedgerEntry {
  const epoch = { try: 1, term: 0, owner: 'OWNER' as Identity };
  return { copy: copy as CopyId, recipient, epoch, reply: `250 2.0.0 took ${copy}`, dsnPassedOn: false, ...more };
}

export const key = (copy: string, recipient = 'bob@example.net'): LedgerKey => ({ copy: copy as CopyId, recipient });

/** What the ledger says of one key, in short. */
export async function ask(ledger: Ledger, copy: string, recipient?: string): Promise<LedgerAnswer['kind']> {
  return (await ledger.known([key(copy, recipient)]))[0]?.kind ?? 'unknown';
}

export class Counted implements Metrics {
  readonly #values = new Map<string, number>();
  increment(name: string, labels: Readonly<Record<string, string>> = {}, by = 1): void {
    const full = [name, ...Object.values(labels)].join(' ');
    this.#values.set(full, (this.#values.get(full) ?? 0) + by);
  }
  set(name: string, value: number): void {
    this.#values.set(name, value);
  }
  observe(): void {
    // Durations are not looked at.
  }
  of(name: string): number {
    return this.#values.get(name) ?? 0;
  }
}

/** Issues identities; remembers what to close. */
export class LedgerCluster {
  readonly authority: Authority;
  readonly metrics = new Counted();
  readonly lines: { readonly fields: LogFields; readonly message: string }[] = [];
  readonly #opened: RedisLedger[] = [];
  readonly #clock: Clock;

  private constructor(authority: Authority, clock: Clock) {
    this.authority = authority;
    this.#clock = clock;
  }

  static async create(clock: Clock = systemClock): Promise<LedgerCluster> {
    return new LedgerCluster(await createAuthority(CLUSTER), clock);
  }

  async identity(
    name: string,
    more: {
      readonly role?: 'transport' | 'frontend' | 'operator';
      readonly authority?: Authority;
      readonly cluster?: string;
      readonly clock?: Clock;
    } = {},
  ): Promise<StatementIdentity> {
    const { role = 'transport', authority = this.authority, cluster = CLUSTER, clock = systemClock } = more;
    const request = { cluster, role, name, hosts: [], days: 1 };
    const pems = await issueCertificate(authority, request, { clock });
    return { ca: this.authority.certificatePem, certificate: pems.certificatePem, key: pems.keyPem };
  }

  async member(
    name: string,
    port: number,
    more: {
      readonly password?: string;
      readonly username?: string;
      readonly ttlMs?: number;
      readonly tls?: boolean;
    } = {},
  ): Promise<RedisLedger> {
    const keep = (fields: LogFields, message: string): unknown => this.lines.push({ fields, message });
    const log: Logger = { ...silentLogger, info: keep, warn: keep, error: keep };
    const ledger = openRedisLedger({
      address: { host: '127.0.0.1', port, tls: more.tls ?? false },
      username: more.username ?? null,
      password: more.password ?? null,
      cluster: CLUSTER,
      member: name,
      identity: await this.identity(name),
      ttlMs: () => more.ttlMs ?? 60_000,
      clock: this.#clock,
      random: systemRandom,
      log,
      metrics: this.metrics,
    });
    this.#opened.push(ledger);
    return ledger;
  }

  /** The same, waiting until the server answers. */
  async connected(name: string, port: number, more?: Parameters<LedgerCluster['member']>[2]): Promise<RedisLedger> {
    const ledger = await this.member(name, port, more);
    await opened(ledger);
    return ledger;
  }

  async written(count: number): Promise<void> {
    await until(`${count} entries written`, () => this.metrics.of('ledger_writes_total written') >= count, {
      deadlineMs: 5_000,
      everyMs: 5,
    });
  }

  async close(): Promise<void> {
    await Promise.all(this.#opened.splice(0).map((ledger) => ledger.close()));
  }
}

export async function opened(ledger: RedisLedger, wanted = true): Promise<void> {
  await until(`the ledger to be ${wanted ? 'in' : 'out of'} reach`, () => ledger.open === wanted, {
    deadlineMs: 25_000,
    everyMs: 5,
  });
}
