/**
 * What the front end decides for the SMTP edge (`EdgeHandlers`): who may connect, send and to whom; the message itself goes to the
 * proxy. Owns: the policy of the current topology, the relay networks and users of each listener, the times of each session for
 * tracking. Promise: an unknown listener may relay nothing. Fails by replies only.
 */
import type { BlockList } from 'node:net';
import type { ListenerConfig, TopologyDocument } from '../common/config.ts';
import type { Envelope, EnvelopeRecipient, Reply } from '../common/message.ts';
import { inNetworks } from '../common/networks.ts';
import type { TrackingEvent } from '../common/peer/messages.ts';
import type { Clock } from '../common/platform/clock.ts';
import type { Logger } from '../common/platform/log.ts';
import type { DataDecision, EdgeHandlers, EdgeSession, MailFrom } from '../common/smtp/edge-api.ts';
import { reply } from '../common/smtp/replies.ts';
import { type Users, verifyPassword } from '../common/smtp/users.ts';
import { RecipientPolicy, relayNetworks } from './policy.ts';
import type { MessageProxy } from './proxy.ts';

export interface FrontendEdgeDeps {
  readonly name: string;
  readonly proxy: Pick<MessageProxy, 'open' | 'pressedBy'>;
  readonly clock: Clock;
  readonly log: Logger;
  readonly listeners: readonly ListenerConfig[];
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

  async onMailFrom(_session: EdgeSession, _mail: MailFrom): Promise<Reply | null> {
    // R10: said at MAIL FROM, so that nobody sends a body for nothing.
    const resource = this.#deps.proxy.pressedBy;
    return resource === null ? null : reply('backPressure', { resource });
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
    return this.#deps.proxy.open(envelope, drain, this.#history(session, envelope));
  }

  async onAuth(session: EdgeSession, user: string, password: string): Promise<boolean> {
    const users = this.#users.get(session.listener);
    if (users === undefined) return false;
    const right = await verifyPassword(users, user, password);
    this.#deps.log.info({ session: session.id, client: session.client.address, right }, 'client authenticated');
    return right;
  }

  onClose(session: EdgeSession): void {
    this.#sessions.delete(session.id);
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
