/**
 * What the front end decides for the SMTP edge (`EdgeHandlers`): who may connect, send and to whom; the message itself goes to the
 * proxy. Owns: the policy of the current topology, the relay networks and users of each listener, the times of each session for
 * tracking. Promise: an unknown listener may relay nothing. Fails by replies only.
 */
import type { BlockList } from 'node:net';
import type { FrontendLimits, ListenerConfig, TopologyDocument } from '../common/config.ts';
import type { Envelope, EnvelopeRecipient, Reply } from '../common/message.ts';
import { inNetworks } from '../common/networks.ts';
import type { TrackingEvent } from '../common/peer/messages.ts';
import type { Clock } from '../common/platform/clock.ts';
import type { Logger } from '../common/platform/log.ts';
import type { Metrics } from '../common/platform/metrics.ts';
import type { Random } from '../common/platform/random.ts';
import { MAX_EXPANDED_RECIPIENTS } from '../common/recipients-parse.ts';
import type { ClientLimits } from '../common/smtp/client-limits.ts';
import type { DataDecision, EdgeHandlers, EdgeSession, MailFrom, ScramStart } from '../common/smtp/edge-api.ts';
import { reply } from '../common/smtp/replies.ts';
import { SCRAM } from '../common/smtp/scram.ts';
import { MAX_ENVELOPE_BYTES, recipientBytes } from '../common/smtp/transaction.ts';
import { scramKeysOf, serveScram, type Users, verifyPassword } from '../common/smtp/users.ts';
import type { AddressList } from './address-list.ts';
import type { ContentFilters } from './content-filters.ts';
import { expandEnvelope, expandedBytes } from './expansion.ts';
import { RecipientPolicy, relayNetworks } from './policy.ts';
import type { MessageProxy } from './proxy.ts';
import type { ReceiptChecks } from './receipt-checks.ts';
import type { Expansion } from './recipients.ts';

export interface FrontendEdgeDeps {
  readonly name: string;
  readonly proxy: Pick<MessageProxy, 'open' | 'pressedBy'>;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly listeners: readonly ListenerConfig[];
  readonly clients: ClientLimits;
  readonly limits: Pick<FrontendLimits, 'maxAuthFailures' | 'maxMessageRatePerUser'>;
  readonly metrics: Metrics;
  /** Absent: nobody's sender is looked at. */
  readonly checks?: Pick<ReceiptChecks, 'begin'>;
  /** Absent: no filter is asked. */
  readonly filters?: Pick<ContentFilters, 'begin'>;
}

interface SessionFacts {
  readonly trusted: boolean;
  /** Of the transaction under way: by the address as the client wrote it. */
  expansions: Map<string, Expansion>;
  recipients: number;
  sizeBytes: number;
}

const STRANGER: Pick<SessionFacts, 'trusted' | 'expansions'> = { trusted: false, expansions: new Map() };

/** Of an expansion, to people: a detail is bounded. */
const SHOWN_GROUPS = 5;

const isReply = (resolved: Expansion | Reply): resolved is Reply => 'code' in resolved;

export class FrontendEdge implements EdgeHandlers {
  readonly #deps: FrontendEdgeDeps;
  readonly #networks: ReadonlyMap<string, BlockList>;
  readonly #users = new Map<string, Users>();
  /** Listeners for those who have authenticated. */
  readonly #closed: ReadonlySet<string>;
  readonly #sessions = new Map<string, SessionFacts>();
  #topology: TopologyDocument;
  #lists: ReadonlyMap<string, AddressList> = new Map();
  #policy: RecipientPolicy;

  /** Throws when a `relayFrom` is not a network. */
  constructor(deps: FrontendEdgeDeps, topology: TopologyDocument) {
    this.#deps = deps;
    this.#closed = new Set(deps.listeners.filter((one) => one.authRequired === true).map(({ name }) => name));
    this.#networks = new Map(deps.listeners.map((listener) => [listener.name, relayNetworks(listener)]));
    this.#topology = topology;
    this.#policy = new RecipientPolicy(topology);
  }

  setTopology(topology: TopologyDocument): void {
    this.#topology = topology;
    this.#usePolicy();
  }

  setAddressLists(lists: ReadonlyMap<string, AddressList>): void {
    this.#lists = lists;
    this.#usePolicy();
  }

  #usePolicy(): void {
    this.#policy = new RecipientPolicy(this.#topology, this.#lists);
    for (const problem of this.#policy.recipients.problems())
      this.#deps.log.error({ problem, generation: this.#topology.generation }, 'group not usable as it is');
  }

  setUsers(listener: string, users: Users): void {
    this.#users.set(listener, users);
  }

  onConnect(session: EdgeSession): Reply | null {
    const networks = this.#networks.get(session.listener);
    const trusted = networks !== undefined && inNetworks(networks, session.client.address);
    this.#sessions.set(session.id, { trusted, expansions: new Map(), recipients: 0, sizeBytes: 0 });
    return null;
  }

  async onMailFrom(session: EdgeSession, _mail: MailFrom): Promise<Reply | null> {
    this.#forgetRecipients(session);
    if (this.#isStranger(session)) return reply('authRequired');
    // R10: said at MAIL FROM, so that nobody sends a body for nothing.
    const { clients, limits, proxy } = this.#deps;
    const resource = proxy.pressedBy;
    if (resource !== null) return reply('backPressure', { resource });
    const { user } = session.client;
    if (user === null || !clients.maySendNoMore(user, limits)) return null;
    this.#reached('maxMessageRatePerUser', session, user);
    return reply('tooManyMessages', { limit: limits.maxMessageRatePerUser });
  }

  /** Somebody whose mail this listener does not take (RFC 6409 section 4.3). */
  #isStranger({ id, listener, client }: EdgeSession): boolean {
    return client.user === null && this.#closed.has(listener) && !(this.#sessions.get(id)?.trusted ?? false);
  }

  async onRcptTo(session: EdgeSession, _mail: MailFrom, recipient: EnvelopeRecipient): Promise<Reply | null> {
    const facts = this.#sessions.get(session.id);
    const resolved = this.#policy.resolve(recipient.address, session.client, facts?.trusted ?? false);
    const refusal = resolved !== null && isReply(resolved) ? resolved : this.#take(facts, recipient, resolved);
    if (refusal !== null)
      this.#deps.log.info(
        { session: session.id, client: session.client.address, code: refusal.code, enhanced: refusal.enhanced },
        'recipient refused',
      );
    return refusal;
  }

  /** Frames between pods hold so many recipients and no more, whoever named them. */
  #take(facts: SessionFacts | undefined, recipient: EnvelopeRecipient, expansion: Expansion | null): Reply | null {
    if (facts === undefined) return null;
    const sizeBytes = expansion === null ? recipientBytes(recipient) : expandedBytes(expansion, recipient);
    const recipients = facts.recipients + (expansion?.members.length ?? 1);
    const isTooMuch = recipients > MAX_EXPANDED_RECIPIENTS || facts.sizeBytes + sizeBytes > MAX_ENVELOPE_BYTES;
    // Without groups the limits of the listener say it all.
    if (isTooMuch && (expansion !== null || facts.expansions.size > 0)) {
      this.#deps.metrics.increment('smtp_limits_total', { limit: 'maxExpandedRecipients' });
      return reply('tooManyExpanded', { limit: MAX_EXPANDED_RECIPIENTS });
    }
    facts.recipients = recipients;
    facts.sizeBytes += sizeBytes;
    if (expansion !== null) facts.expansions.set(recipient.address, expansion);
    return null;
  }

  #forgetRecipients(session: EdgeSession): void {
    const facts = this.#sessions.get(session.id);
    if (facts !== undefined) Object.assign(facts, { expansions: new Map(), recipients: 0, sizeBytes: 0 });
  }

  onData(session: EdgeSession, named: Envelope, drain: () => void): Promise<DataDecision> {
    if (session.client.user !== null) this.#deps.clients.messageBegun(session.client.user);
    const { trusted, expansions } = this.#sessions.get(session.id) ?? STRANGER;
    const envelope = expandEnvelope(named, expansions, this.#policy.recipients);
    const history = this.#history(session, named, expansions, envelope);
    const { checks, filters, proxy } = this.#deps;
    // What the sender's domain says of him is about the envelope as he wrote it, and so is what a filter hears.
    return proxy.open(
      envelope,
      drain,
      history,
      (goOn) => checks?.begin(named, trusted, goOn) ?? null,
      (id, goOn) => filters?.begin(named, id, goOn) ?? null,
    );
  }

  mechanisms(listener: string): readonly string[] {
    const users = this.#users.get(listener);
    return users !== undefined && serveScram(users) ? [SCRAM, 'PLAIN', 'LOGIN'] : ['PLAIN', 'LOGIN'];
  }

  async onAuth(session: EdgeSession, user: string, password: string): Promise<boolean | Reply> {
    const users = this.#users.get(session.listener);
    if (users === undefined) return false;
    const refusal = this.#mayNotTry(session, user);
    if (refusal !== null) return refusal;
    const right = await verifyPassword(users, user, password);
    this.#tried(session, user, right);
    return right;
  }

  onScram(session: EdgeSession, user: string): ScramStart | Reply {
    const keys = scramKeysOf(this.#users.get(session.listener) ?? new Map(), user);
    return this.#mayNotTry(session, user) ?? { keys, nonce: this.#deps.random.bytes(18).toString('base64') };
  }

  onScramEnd(session: EdgeSession, user: string, right: boolean): void {
    this.#tried(session, user, right);
  }

  /** Not even looked at: a guess costs the guesser more than us. */
  #mayNotTry(session: EdgeSession, user: string): Reply | null {
    const { clients, limits } = this.#deps;
    if (!clients.mayNotAuthenticate(session.client.address, user, limits)) return null;
    this.#reached('maxAuthFailures', session, user);
    return reply('authRefused');
  }

  #tried(session: EdgeSession, user: string, right: boolean): void {
    const { clients, log } = this.#deps;
    const { address } = session.client;
    if (!right) clients.authFailed(address, user);
    log.info({ session: session.id, client: address, right }, 'client authenticated');
  }

  onClose(session: EdgeSession): void {
    this.#sessions.delete(session.id);
  }

  #reached(limit: 'maxAuthFailures' | 'maxMessageRatePerUser', session: EdgeSession, user: string): void {
    const { log, metrics } = this.#deps;
    metrics.increment('smtp_limits_total', { limit });
    log.info({ session: session.id, client: session.client.address, user, limit }, 'limit of a client reached');
  }

  /** What `trace` shows of the client's side. */
  #history(
    session: EdgeSession,
    named: Envelope,
    expansions: ReadonlyMap<string, Expansion>,
    { recipients }: Envelope,
  ): TrackingEvent[] {
    const { client } = named;
    const who = client.user === null ? '' : `, user ${client.user}`;
    const from = `connect from [${client.address}]:${client.port} to ${session.listener}`;
    // One event: each is kept with both copies, told and written several times.
    const detail = `${from}, ${client.protocol} ${client.helo}${who}: MAIL, ${named.recipients.length} RCPT`;
    const event = { event: 'FRONTEND', atMs: named.receivedAtMs, source: this.#deps.name };
    if (expansions.size === 0) return [{ ...event, detail }];
    const groups = [...expansions.keys()].slice(0, SHOWN_GROUPS).join(', ');
    const more = expansions.size > SHOWN_GROUPS ? ` and ${expansions.size - SHOWN_GROUPS} more` : '';
    return [{ ...event, detail: `${detail}; ${groups}${more} expanded: ${recipients.length} recipients` }];
  }
}
