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
import type { ClientLimits } from '../common/smtp/client-limits.ts';
import type { DataDecision, EdgeHandlers, EdgeSession, MailFrom, ScramStart } from '../common/smtp/edge-api.ts';
import { reply } from '../common/smtp/replies.ts';
import { SCRAM } from '../common/smtp/scram.ts';
import { scramKeysOf, serveScram, type Users, verifyPassword } from '../common/smtp/users.ts';
import { RecipientPolicy, relayNetworks } from './policy.ts';
import type { MessageProxy } from './proxy.ts';

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
}

interface SessionFacts {
  readonly trusted: boolean;
}

export class FrontendEdge implements EdgeHandlers {
  readonly #deps: FrontendEdgeDeps;
  readonly #networks: ReadonlyMap<string, BlockList>;
  readonly #users = new Map<string, Users>();
  readonly #sessions = new Map<string, SessionFacts>();
  #policy: RecipientPolicy;

  /** Throws when a `relayFrom` is not a network. */
  constructor(deps: FrontendEdgeDeps, topology: TopologyDocument) {
    this.#deps = deps;
    this.#networks = new Map(deps.listeners.map((listener) => [listener.name, relayNetworks(listener)]));
    this.#policy = new RecipientPolicy(topology);
  }

  setTopology(topology: TopologyDocument): void {
    this.#policy = new RecipientPolicy(topology);
  }

  setUsers(listener: string, users: Users): void {
    this.#users.set(listener, users);
  }

  onConnect(session: EdgeSession): Reply | null {
    const networks = this.#networks.get(session.listener);
    const trusted = networks !== undefined && inNetworks(networks, session.client.address);
    this.#sessions.set(session.id, { trusted });
    return null;
  }

  async onMailFrom(session: EdgeSession, _mail: MailFrom): Promise<Reply | null> {
    // R10: said at MAIL FROM, so that nobody sends a body for nothing.
    const { clients, limits, proxy } = this.#deps;
    const resource = proxy.pressedBy;
    if (resource !== null) return reply('backPressure', { resource });
    const { user } = session.client;
    if (user === null || !clients.maySendNoMore(user, limits)) return null;
    this.#reached('maxMessageRatePerUser', session, user);
    return reply('tooManyMessages', { limit: limits.maxMessageRatePerUser });
  }

  async onRcptTo(session: EdgeSession, _mail: MailFrom, recipient: EnvelopeRecipient): Promise<Reply | null> {
    const trusted = this.#sessions.get(session.id)?.trusted ?? false;
    const refusal = this.#policy.check(recipient.address, session.client, trusted);
    if (refusal !== null)
      this.#deps.log.info(
        { session: session.id, client: session.client.address, code: refusal.code, enhanced: refusal.enhanced },
        'recipient refused',
      );
    return refusal;
  }

  onData(session: EdgeSession, envelope: Envelope, drain: () => void): Promise<DataDecision> {
    if (session.client.user !== null) this.#deps.clients.messageBegun(session.client.user);
    return this.#deps.proxy.open(envelope, drain, this.#history(session, envelope));
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
  #history(session: EdgeSession, envelope: Envelope): TrackingEvent[] {
    const { client } = envelope;
    const who = client.user === null ? '' : `, user ${client.user}`;
    const from = `connect from [${client.address}]:${client.port} to ${session.listener}`;
    // One event: each is kept with both copies, told and written several times.
    const detail = `${from}, ${client.protocol} ${client.helo}${who}: MAIL, ${envelope.recipients.length} RCPT`;
    return [{ event: 'FRONTEND', atMs: envelope.receivedAtMs, source: this.#deps.name, detail }];
  }
}
