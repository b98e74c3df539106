/**
 * The real delivery agent: LMTP to mailbox stores, SMTP to smart hosts and to the MX hosts of a domain. Owns: the connection pool, the
 * deliveries under way, which hosts lately failed. Promises and refusals: `delivery-api.ts`. Knows no queue and no schedule; the core does.
 * Fails by giving results; a stored body that cannot be read is reported through `onDamaged` and never sent half.
 */
import type { ConnectorSession, MxConfig } from '../../common/config.ts';
import type { CopyId, Reply } from '../../common/message.ts';
import type { Clock } from '../../common/platform/clock.ts';
import type { Logger } from '../../common/platform/log.ts';
import type { MailDns } from '../../common/platform/mail-dns.ts';
import type { Metrics } from '../../common/platform/metrics.ts';
import type { Random } from '../../common/platform/random.ts';
import { type ValidatingDns, validatingDns } from '../../common/platform/validating-dns.ts';
import {
  ClientError,
  type ClientTimeouts,
  formatReply,
  type OutgoingMessage,
  RFC5321_TIMEOUTS,
  type SendOutcome,
} from '../../common/smtp/client.ts';
import { shownTlsa } from '../../common/smtp/dane.ts';
import type { StsPolicy } from '../../common/smtp/mta-sts.ts';
import { OwnResultsRemover } from '../core/results-field.ts';
import { envelopeFor } from '../core/return-path.ts';
import { CONTENT_HEADER, DELIVERY_HEADER, HeaderFieldRemover, traceHeaders } from '../core/trace-headers.ts';
import { credentialsIn, type ReadCredentials } from './connector-credentials.ts';
import { type HostDane, lookUpDane } from './dane-lookup.ts';
import type {
  DeliveryRecipient,
  DeliveryRequest,
  DeliveryRoute,
  HostsOf,
  RecipientResult,
  SendingAgent,
} from './delivery-api.ts';
import { DeliveryPool, type Destination } from './delivery-pool.ts';
import { allDeferred, brokeDown, internalError, mayTryNextHost, toResult, unreadable } from './delivery-results.ts';
import { DeliveryTurns } from './delivery-turns.ts';
import { DkimSigning, type DkimSigningOptions, type Signature } from './dkim-signing.ts';
import { chooseTargets, MxLookup } from './mx-lookup.ts';
import { StsPolicies } from './sts-policies.ts';

const NO_SESSION: ConnectorSession = { isUnproven: false, credentials: null, sourceAddress: null };

type Deferred = Extract<RecipientResult, { kind: 'deferred' }>;
type MxRoute = Extract<DeliveryRoute, { kind: 'mx' }>;
type NoDestination =
  | { readonly kind: 'failed'; readonly reply: Reply }
  | { readonly kind: 'deferred'; readonly reply: string; readonly scope: 'host' };

export interface DeliveryAgentOptions {
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly random: Random;
  /** The resolver that asks these servers. */
  readonly dns: (servers: readonly string[]) => MailDns;
  /** Those that validate DNSSEC; over sockets when absent. */
  readonly validatingDns?: (servers: readonly string[]) => ValidatingDns;
  /** Name in EHLO, LHLO and `Received:`. */
  readonly hostname: string;
  readonly member: string;
  readonly readBody: (id: CopyId) => AsyncIterable<Buffer>;
  /** The stored copy of this id is damaged (`readBody` threw an error with code DAMAGED). */
  readonly onDamaged: (id: CopyId) => void;
  /** What smart hosts are told; none when absent. */
  readonly credentials?: ReadCredentials;
  /** Keys of DKIM and ARC in force and the directory of their Secrets; nothing is signed when absent. */
  readonly dkim?: Pick<DkimSigningOptions, 'config' | 'arc' | 'directory'>;
  readonly settings?: Partial<DeliverySettings>;
}

export interface DeliverySettings {
  readonly timeouts: ClientTimeouts;
  readonly idleMs: number;
  readonly maxConnectionsPerDestination: number;
  readonly maxMessagesPerConnection: number;
  /** RFC 5321 4.5.3.1.8 promises 100; more go in further transactions. */
  readonly maxRecipientsPerTransaction: number;
  /** How long a smart host that could not be used comes after the others. */
  readonly avoidHostMs: number;
  /** Of HTTPS, where policies of MTA-STS are. */
  readonly policyPort: number;
  /** PEM of the authorities for connectors with `tls: Required` and for policies; the system's when absent. */
  readonly ca?: string;
}

export const DEFAULT_DELIVERY_SETTINGS: DeliverySettings = {
  timeouts: RFC5321_TIMEOUTS,
  idleMs: 10_000,
  maxConnectionsPerDestination: 100,
  maxMessagesPerConnection: 1_000,
  maxRecipientsPerTransaction: 100,
  avoidHostMs: 30_000,
  policyPort: 443,
};

export function createDeliveryAgent(options: DeliveryAgentOptions): SendingAgent {
  return new SocketDeliveryAgent(options);
}

class SocketDeliveryAgent implements SendingAgent {
  readonly #options: DeliveryAgentOptions;
  readonly #settings: DeliverySettings;
  readonly #pool: DeliveryPool;
  readonly #turns = new DeliveryTurns();
  readonly #policies: StsPolicies;
  readonly #validating: ValidatingLists;
  readonly #signing: DkimSigning;
  readonly #underWay = new Set<Promise<void>>();
  /** `host:port` -> monotonic time until which the host comes last. */
  readonly #avoidUntilMs = new Map<string, number>();

  constructor(options: DeliveryAgentOptions) {
    this.#options = options;
    this.#settings = { ...DEFAULT_DELIVERY_SETTINGS, ...options.settings };
    const { timeouts, idleMs, maxConnectionsPerDestination, maxMessagesPerConnection } = this.#settings;
    const trust = this.#settings.ca === undefined ? {} : { ca: this.#settings.ca };
    const { clock, log } = options;
    this.#policies = new StsPolicies({ clock, log, port: this.#settings.policyPort, ...trust });
    const keys = options.dkim ?? { config: () => null, directory: null };
    this.#validating = new ValidatingLists(options.validatingDns ?? ((servers) => validatingDns(servers, options)));
    this.#signing = new DkimSigning({ clock, log, metrics: options.metrics, ...keys });
    this.#pool = new DeliveryPool({
      clock: options.clock,
      hostname: options.hostname,
      timeouts,
      idleMs,
      maxPerDestination: maxConnectionsPerDestination,
      maxMessages: maxMessagesPerConnection,
      credentials: options.credentials ?? credentialsIn(null),
      ...trust,
    });
  }

  start(request: DeliveryRequest, done: (results: readonly RecipientResult[]) => void): void {
    const { clock, metrics } = this.#options;
    const startedMs = clock.monotonicMs();
    const delivery = this.#turns
      .run(request, () => this.#deliver(request))
      .catch((thrown: unknown) => this.#broken(request, request.recipients, thrown))
      .then((results) => {
        const seconds = (clock.monotonicMs() - startedMs) / 1000;
        metrics.observe('delivery_duration_seconds', seconds, { route: request.route.kind });
        this.#log(request, results);
        done(results);
      })
      .finally(() => this.#underWay.delete(delivery));
    this.#underWay.add(delivery);
  }

  readonly unvalidatedResolvers = (): readonly string[] => this.#validating.notValidating();

  readonly hostsOf: HostsOf = async (route) => {
    const found = await this.#destinations(route);
    const policy = route.kind === 'mx' ? await this.#policyOf(route) : null;
    const mode = policy?.mode ?? null;
    if (Array.isArray(found)) return { hosts: found.map(shown), problem: null, policy: mode };
    const problem = found.kind === 'failed' ? formatReply(found.reply) : found.reply;
    return { hosts: [], problem, policy: mode };
  };

  async close(): Promise<void> {
    this.#pool.close();
    await this.#signing.close();
    await Promise.allSettled(this.#underWay);
  }

  async #deliver(request: DeliveryRequest): Promise<RecipientResult[]> {
    const signature = await this.#signature(request);
    if (typeof signature !== 'string') return request.recipients.map(({ index }) => ({ index, ...signature }));
    const results = new Map<number, RecipientResult>();
    let last: RecipientResult | undefined;
    for (const batch of this.#batches(request)) {
      // What concerns the host or the message concerns the other recipients as well.
      const over = last?.kind === 'withheld' || (last?.kind === 'deferred' && last.scope === 'host') ? last : null;
      const said: RecipientResult[] =
        over === null
          ? await this.#transact(request, batch, signature).catch((thrown: unknown) =>
              // Of this batch: what was said of others stands.
              this.#broken(request, batch, thrown),
            )
          : batch.map(({ index }) => ({ ...over, index }));
      for (const result of said) results.set(result.index, result);
      last = said.at(-1);
    }
    return request.recipients.flatMap(({ index }) => results.get(index) ?? []);
  }

  /** A transaction has one sender (RFC 5321 3.3) and not too many recipients. */
  #batches({ recipients }: DeliveryRequest): DeliveryRecipient[][] {
    const { maxRecipientsPerTransaction: most } = this.#settings;
    const bySender = Map.groupBy(recipients, ({ recipient }) => recipient.returnPath ?? -1);
    return [...bySender.values()].flatMap((those) =>
      Array.from({ length: Math.ceil(those.length / most) }, (_, at) => those.slice(at * most, (at + 1) * most)),
    );
  }

  /** One transaction: the first destination that can be used decides. */
  async #transact(
    request: DeliveryRequest,
    batch: readonly DeliveryRecipient[],
    signature: string,
  ): Promise<RecipientResult[]> {
    const destinations = await this.#destinations(request.route);
    if (!Array.isArray(destinations)) return batch.map(({ index }) => ({ ...destinations, index }));
    let results: RecipientResult[] | null = null;
    for (const destination of destinations) {
      const peer = `${destination.host}:${destination.port}`;
      const sent = await this.#send(destination, this.#message(request, batch, signature), request.mayBegin);
      if (destination.dane !== undefined && sent !== null) this.#countProof(sent);
      if (sent === null) return batch.map(({ index }) => ({ index, kind: 'withheld' }));
      if (sent instanceof ClientError) {
        this.#avoid(peer);
        results = allDeferred(batch, peer, sent);
        continue;
      }
      const { contentError } = sent;
      if (contentError !== null) this.#reportContentError(request.copyId, contentError);
      const context = { ...sent, route: request.route, peer };
      results = batch.map(({ index }, at) => toResult(index, outcomeAt(sent, at), context));
      const next = mayTryNextHost(sent);
      if (next || brokeDown(sent)) this.#avoid(peer);
      else this.#avoidUntilMs.delete(peer);
      if (!next) break;
    }
    return results ?? allDeferred(batch, 'routing', new ClientError('CONNECT', 'no smart host is configured'));
  }

  /** Null: it may not begin any more. */
  async #send(
    destination: Destination,
    message: OutgoingMessage,
    mayBegin: () => boolean,
  ): Promise<SendOutcome | ClientError | null> {
    for (let fresh = false; ; fresh = true) {
      const lease = await this.#pool.acquire(destination, fresh);
      if (lease instanceof ClientError) return lease;
      if (!mayBegin()) {
        this.#pool.release(destination, lease);
        return null;
      }
      const outcome = await lease.client.send(message);
      const wentStale = lease.reused && !fresh && !lease.client.isUsable && !outcome.serverSpoke;
      this.#pool.release(destination, lease);
      // Nothing was said about this transaction and no dot was sent: the next hop had closed an idle connection. Once more, freshly.
      if (!wentStale || outcome.contentError !== null) return outcome;
    }
  }

  /** In the order to try; or why there is none. */
  async #destinations(route: DeliveryRoute): Promise<Destination[] | NoDestination> {
    if (route.kind === 'mailbox') return [{ protocol: 'LMTP', host: route.host, port: route.port, tls: 'None' }];
    if (route.kind === 'mx') return this.#mxDestinations(route);
    return this.#avoidedLast(
      route.hosts.map(({ host, port }) => {
        const { tls, session = null } = route;
        return { protocol: 'SMTP' as const, host, port, tls, session };
      }),
    );
  }

  async #mxDestinations(route: MxRoute): Promise<Destination[] | NoDestination> {
    const { domain, mx, session = null } = route;
    const { random, hostname, metrics } = this.#options;
    const [answer, policy] = await Promise.all([
      new MxLookup(this.#dnsFor(mx), random, hostname, mx).lookUp(domain),
      this.#policyOf(route),
    ]);
    if (answer.kind === 'failed') return answer;
    if (answer.kind === 'deferred') return { ...answer, scope: 'host' };
    const dane =
      mx.dane === true
        ? await lookUpDane(domain, answer, mx.port, this.#validating.of(mx.dnsServers), metrics)
        : new Map<string, HostDane>();
    const known = answer.targets.filter(({ name }) => dane.get(name)?.kind !== 'unresolved');
    const doubtful = [...dane.values()].find((one) => one.kind === 'unresolved');
    if (known.length === 0 && doubtful !== undefined)
      return { kind: 'deferred', reply: `4.4.3 DNS: ${doubtful.reason}`, scope: 'host' };
    const hasProof = (name: string): boolean => dane.get(name)?.kind === 'proof';
    const chosen = chooseTargets(domain, known, policy, session?.sourceAddress ?? null, hasProof);
    if (typeof chosen === 'string') return { kind: 'deferred', reply: chosen, scope: 'host' };
    return this.#avoidedLast(
      chosen.map(({ address, name }) => ({
        ...{ protocol: 'SMTP' as const, host: address, port: mx.port, tlsName: name },
        ...wayTo(route, policy?.mode === 'enforce', dane.get(name) ?? null),
      })),
    );
  }

  #dnsFor({ dane, dnsServers }: MxConfig): MailDns {
    return dane === true ? this.#validating.of(dnsServers) : this.#options.dns(dnsServers);
  }

  async #policyOf({ domain, mx }: MxRoute): Promise<StsPolicy | null> {
    return mx.mtaSts === true ? this.#policies.policyOf(domain, this.#dnsFor(mx), mx) : null;
  }

  #countProof(sent: SendOutcome | ClientError): void {
    if (!(sent instanceof ClientError) || sent.code === 'TLS')
      this.#options.metrics.increment('dane_attempts_total', {
        outcome: sent instanceof ClientError ? 'refused' : 'proven',
      });
  }

  #avoidedLast(all: readonly Destination[]): Destination[] {
    const now = this.#options.clock.monotonicMs();
    const isAvoided = ({ host, port }: Destination): boolean => (this.#avoidUntilMs.get(`${host}:${port}`) ?? 0) > now;
    return [...all.filter((one) => !isAvoided(one)), ...all.filter(isAvoided)];
  }

  #avoid(peer: string): void {
    this.#avoidUntilMs.set(peer, this.#options.clock.monotonicMs() + this.#settings.avoidHostMs);
  }

  /** Fields of DKIM or ARC, empty for none; or what all recipients get in place of a transaction. */
  async #signature({
    route,
    copyId,
    envelope,
    results = [],
  }: DeliveryRequest): Promise<string | Omit<Deferred, 'index'>> {
    if (route.kind === 'mailbox') return '';
    try {
      const content = () => outgoing(this.#options.readBody(copyId), results);
      const found: Signature = await this.#signing.signatureOf({ envelope, results, content });
      return 'field' in found ? found.field : { kind: 'deferred', reply: found.deferred, scope: 'message' };
    } catch (thrown) {
      const error = thrown instanceof Error ? thrown : new Error(String(thrown));
      this.#reportContentError(copyId, error);
      return unreadable(error);
    }
  }

  #message(request: DeliveryRequest, batch: readonly DeliveryRecipient[], signature: string): OutgoingMessage {
    const { copyId, deliveryId, contentKey } = request;
    const envelope = envelopeFor(request.envelope, batch[0]?.recipient);
    const { hostname, member, readBody } = this.#options;
    const { results = [], filterFields = [] } = request;
    const fields = { results, filterFields };
    const trace = traceHeaders({ copyId, deliveryId, contentKey, envelope, ...fields, hostname, member });
    const front = Buffer.concat([trace, Buffer.from(signature, 'latin1')]);
    return {
      reversePath: envelope.reversePath,
      body: envelope.body,
      smtputf8: envelope.smtputf8,
      ...(envelope.ret === undefined ? {} : { ret: envelope.ret }),
      ...(envelope.envid === undefined ? {} : { envid: envelope.envid }),
      sizeBytes: front.length + request.sizeBytes + 2, // and the CRLF that a last line may lack
      recipients: batch.map(({ recipient }) => recipient),
      content: () => after(front, outgoing(readBody(copyId), results)),
    };
  }

  /** What nobody foresaw: the message waits, and the process goes on. */
  #broken(
    { deliveryId, copyId, requestId, route }: DeliveryRequest,
    recipients: readonly DeliveryRecipient[],
    thrown: unknown,
  ): RecipientResult[] {
    const error = thrown instanceof Error ? thrown : new Error(String(thrown));
    const fields = { attemptId: deliveryId, copyId, requestId, nextHop: nextHopOf(route), error: error.stack };
    this.#options.log.error(fields, 'delivery attempt ended in an internal error');
    return internalError(recipients, error);
  }

  #reportContentError(copyId: CopyId, error: Error): void {
    this.#options.log.error({ attemptId: copyId, error: error.message }, 'stored message cannot be read');
    if ('code' in error && error.code === 'DAMAGED') this.#options.onDamaged(copyId);
  }

  #log(request: DeliveryRequest, results: readonly RecipientResult[]): void {
    const { copyId, deliveryId, requestId, route } = request;
    const nextHop = nextHopOf(route);
    const fields = { attemptId: deliveryId, copyId, requestId, nextHop, results };
    const isDone = results.every(({ kind }) => kind === 'delivered' || kind === 'relayed');
    if (isDone) this.#options.log.debug(fields, 'delivery attempt succeeded');
    else this.#options.log.info(fields, 'delivery attempt left recipients undelivered');
  }
}

/** How to speak to a host: TLSA records before the policy of the domain (RFC 8461 2), both before what the connector would be content with. */
function wayTo(
  { tls, session = null }: MxRoute,
  isEnforced: boolean,
  dane: HostDane | null,
): Pick<Destination, 'tls' | 'session' | 'dane' | 'noDane'> {
  if (dane?.kind === 'proof') return { tls: 'Required', session, dane: dane.proof };
  const said = dane === null || dane.kind === 'unresolved' ? {} : { noDane: dane.why };
  if (isEnforced)
    return { tls: 'Required', session: session === null ? null : { ...session, isUnproven: false }, ...said };
  if (dane?.kind !== 'unusable' || tls === 'Required') return { tls, session, ...said };
  return { tls: 'Required', session: { ...(session ?? NO_SESSION), isUnproven: true }, ...said };
}

function shown({ host, port, tlsName, tls, session, dane, noDane }: Destination): string {
  const proof = session?.isUnproven === true ? 'TLS, whatever the certificate' : 'TLS with a proven certificate';
  const proven = dane === undefined ? proof : `TLS proven by ${dane.records.map(shownTlsa).join(', ')} (DANE)`;
  const why = noDane === undefined ? '' : ` (no DANE: ${noDane})`;
  const how = { None: 'no TLS', Opportunistic: 'TLS when offered', Required: proven }[tls] + why;
  const password = session?.credentials ? `, AUTH with Secret ${session.credentials}` : '';
  return `${tlsName === undefined || tlsName === host ? host : `${tlsName} [${host}]`}:${port}, ${how}${password}`;
}

/** What is remembered of answers, and how many questions are under way, is of one list of servers. */
class ValidatingLists {
  readonly #make: (servers: readonly string[]) => ValidatingDns;
  readonly #known = new Map<string, ValidatingDns>();

  constructor(make: (servers: readonly string[]) => ValidatingDns) {
    this.#make = make;
  }

  of(servers: readonly string[]): ValidatingDns {
    const key = servers.join(' ');
    const dns = this.#known.get(key) ?? this.#make(servers);
    this.#known.set(key, dns);
    return dns;
  }

  notValidating(): readonly string[] {
    return [...new Set([...this.#known.values()].flatMap((dns) => dns.notValidating()))].sort();
  }
}

function nextHopOf(route: DeliveryRoute): string {
  if (route.kind === 'mailbox') return `${route.database}/${route.copy}`;
  return route.kind === 'mx' ? `${route.connector}/${route.domain}` : route.connector;
}

function outcomeAt(sent: SendOutcome, at: number): SendOutcome['recipients'][number] {
  return sent.recipients[at] ?? { kind: 'broken', error: new ClientError('ABORTED', 'no outcome') };
}

async function* after(front: Buffer, content: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  yield front;
  yield* content;
}

/** The message as the next hop gets it, but for our own fields: foreign ones by which a store knows messages, or that pretend to be our results, are taken out. */
async function* outgoing(body: AsyncIterable<Buffer>, results: readonly string[]): AsyncGenerator<Buffer> {
  if (results.length === 0) yield* withoutIds(body);
  else {
    const remover = new OwnResultsRemover(results);
    for await (const chunk of withoutIds(body)) yield* remover.push(chunk);
    yield* remover.end();
  }
}

async function* withoutIds(body: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const first = new HeaderFieldRemover(DELIVERY_HEADER);
  const second = new HeaderFieldRemover(CONTENT_HEADER);
  for await (const chunk of body) for (const piece of first.push(chunk)) yield* second.push(piece);
  for (const piece of first.end()) yield* second.push(piece);
  yield* second.end();
}
