/**
 * Mail that goes in by SMTP: real conversations between a client and the real edge of a simulated front end. Owns: the clients - our own SMTP client most of
 * the time, with and without PIPELINING, sessions kept open for the next message; clients that talk too soon (`smtp-rude.ts`), break off, dawdle or are gone
 * without a word - and what their ledger says: accepted is a 250 that was read, refused a 4yz or 5yz, everything else is not known. Its draws are its own.
 */
import type { Socket } from 'node:net';
import type { Clock } from '../../common/platform/clock.ts';
import {
  connectClient,
  type MailClient,
  type RecipientOutcome,
  RFC5321_TIMEOUTS,
  type SendOutcome,
} from '../../common/smtp/client.ts';
import type { SmtpFault } from './faults.ts';
import { deliverTo, type Incarnation } from './incarnation.ts';
import { answered, enter, type SendOptions, type Sent } from './mail.ts';
import { SeededRandom } from './scheduler.ts';
import { SimSocket, type SimWire } from './sim-socket.ts';
import { drawBody, type SmtpBody } from './smtp-bodies.ts';
import { speakTooSoon } from './smtp-rude.ts';
import type { World } from './world.ts';

/** One machine with a connection, or about to have one. */
interface Client {
  readonly life: Incarnation;
  readonly frontend: string;
  readonly isTrusted: boolean;
  /** The last connection it made. */
  socket: SimSocket | null;
  mail: MailClient | null;
  /** The transaction under way: when the machine is gone, it is. */
  current: Sending | null;
}

/** One message under way. */
interface Sending {
  readonly sent: Sent;
  readonly body: SmtpBody;
  readonly client: Client;
  readonly fault: SmtpFault | null;
  readonly options: SendOptions;
  /** The dot has left. */
  isEnded: boolean;
  /** Resolves when the client is no more: nobody waits for an answer. */
  readonly gone: PromiseWithResolvers<'unfinished' | 'clientGone'>;
}

const FAULT_CHANCE = 0.35;
const REUSE_CHANCE = 0.5;

export class SmtpClients {
  readonly wire: SimWire;
  readonly #world: World;
  readonly #faults: readonly SmtpFault[];
  /** Sessions without a transaction, for the next message. */
  #idle: Client[] = [];
  #count = 0;
  /** Injected so far. */
  readonly done: SmtpFault[] = [];
  /** Refused at RCPT: nobody may deliver to these. */
  readonly #refused = new Map<Sent, readonly string[]>();

  constructor(world: World, seed: number, faults: readonly SmtpFault[]) {
    this.#world = world;
    this.#faults = faults;
    this.wire = { scheduler: world.scheduler, random: new SeededRandom(seed ^ 0x25_25) };
  }

  /** One transaction; resolves when the client knows its answer or is gone. */
  async send(
    frontend: string,
    recipients: readonly string[],
    sizeBytes: number,
    options: SendOptions = {},
  ): Promise<Sent> {
    const { random } = this.wire;
    const world = this.#world;
    const drawn = this.#faults.length > 0 && random.chance(FAULT_CHANCE) ? random.pick(this.#faults) : null;
    const fault = options.leaveAfterEnd === true ? 'goneAfterDot' : drawn;
    if (fault !== null) this.done.push(fault);
    const body = drawBody(random, world.sent.length, sizeBytes, fault === 'badContent');
    const sent = enter(world, frontend, recipients, body.stored, options.from);
    if (fault === 'talksTooSoon') {
      const client = this.#newClient(frontend);
      const socket = this.#dial(client);
      const isEarly = random.chance(0.3);
      const outcome = await speakTooSoon(socket, sent.envelope, body, isEarly, this.#clock(client));
      this.#note(client, sent, recipients, outcome.recipients, body);
      return sent;
    }
    const client = await this.#connected(frontend);
    if (client?.mail == null) {
      sent.answer = { kind: 'unfinished' };
      world.trace(`message ${sent.number}: no session with ${frontend}`);
      return sent;
    }
    const sending: Sending = { sent, body, client, fault, options, isEnded: false, gone: Promise.withResolvers() };
    client.current = sending;
    await this.#transact(sending, client.mail);
    if (client.current === sending) client.current = null;
    return sent;
  }

  /** Sessions kept open end. */
  quit(): void {
    for (const client of this.#idle.splice(0)) client.mail?.quit();
  }

  /** Every session is over, as the front ends see it, and what they still held for clients that are gone (semantics.md R7). */
  get isQuiet(): boolean {
    return this.#world.frontends.every((pod) => (pod.smtp?.connections ?? 0) + (pod.proxy?.inFlight ?? 0) === 0);
  }

  /** At the end: nothing of a client lingers in a front end, and who was refused got nothing. */
  check(): readonly string[] {
    const found: string[] = [];
    for (const pod of this.#world.frontends) {
      if (pod.smtp === null || pod.proxy === null) continue;
      const { connections } = pod.smtp;
      const { inFlight, replayBufferBytes } = pod.proxy;
      if (connections + inFlight + replayBufferBytes > 0)
        found.push(
          `L1: ${pod.name} still has ${connections} sessions, ${inFlight} messages and ${replayBufferBytes} bytes of them in memory`,
        );
    }
    for (const [sent, addresses] of this.#refused)
      for (const offer of this.#world.store.offers)
        if (offer.digest === sent.digest && addresses.includes(offer.address))
          found.push(`D1: message ${sent.number} was delivered to ${offer.address}, who was refused at RCPT`);
    return found;
  }

  // --- connections -------------------------------------------------------------------------------------------------------

  #newClient(frontend: string): Client {
    const isTrusted = this.wire.random.chance(0.8);
    return { life: { alive: true }, frontend, isTrusted, socket: null, mail: null, current: null };
  }

  async #connected(frontend: string): Promise<Client | null> {
    const { random } = this.wire;
    this.#idle = this.#idle.filter((client) => client.life.alive && client.mail?.isUsable === true);
    const idle = this.#idle.find((client) => client.frontend === frontend);
    if (idle !== undefined && random.chance(REUSE_CHANCE)) {
      this.#idle.splice(this.#idle.indexOf(idle), 1);
      return idle;
    }
    const client = this.#newClient(frontend);
    const ignored = random.chance(0.4) ? ['PIPELINING'] : [];
    try {
      client.mail = await connectClient({
        protocol: 'SMTP',
        host: frontend,
        port: 25,
        hostname: 'client.sim',
        tls: 'None',
        timeouts: RFC5321_TIMEOUTS,
        clock: this.#clock(client),
        dial: () => this.#dial(client) as unknown as Socket,
        ignoredKeywords: new Set(ignored),
      });
      return client;
    } catch {
      return null;
    }
  }

  #dial(client: Client): SimSocket {
    const { scheduler } = this.wire;
    this.#count += 1;
    const port = 30_000 + this.#count;
    const from = { address: client.isTrusted ? '10.1.0.7' : '203.0.113.7', port };
    const socket = new SimSocket(this.wire, client.life, { address: '10.1.0.25', port: 25 });
    client.socket = socket;
    scheduler.schedule(socket.latencyMs(), () => {
      const front = this.#world.pod(client.frontend)?.smtp ?? null;
      if (front === null) return void scheduler.schedule(socket.latencyMs(), () => socket.refused());
      front.accept(this.wire, socket, from);
      scheduler.schedule(socket.latencyMs(), () => {
        if (!socket.destroyed) socket.emit('connect');
      });
    });
    return socket;
  }

  /** Of a machine that may be gone. */
  #clock({ life }: Client): Clock {
    const { scheduler } = this.wire;
    const clock = scheduler.clock();
    return {
      monotonicMs: clock.monotonicMs,
      wallMs: clock.wallMs,
      setTimer: (delayMs, callback) => clock.setTimer(delayMs, () => deliverTo(life, scheduler, callback)),
    };
  }

  // --- a transaction -----------------------------------------------------------------------------------------------------

  async #transact(sending: Sending, mail: MailClient): Promise<void> {
    const { sent, body, client, gone } = sending;
    const { envelope } = sent;
    const recipients = envelope.recipients.map(({ address }) => address);
    const outcome = mail.send({
      reversePath: envelope.reversePath,
      body: body.hasEightBit ? '8BITMIME' : '7BIT',
      smtputf8: false,
      sizeBytes: body.stored.length + 2,
      recipients: envelope.recipients,
      content: () => this.#content(sending),
    });
    const end = await Promise.race([outcome, gone.promise]);
    if (typeof end === 'string') {
      sent.answer = { kind: end };
      return;
    }
    this.#note(client, sent, recipients, end.recipients, body);
    if (!mail.isUsable) return;
    if (this.#world.isHealing || this.wire.random.chance(0.5)) mail.quit();
    else this.#idle.push(client);
  }

  /** The body as it is sent, in pieces, with what goes wrong on the way. */
  async *#content(sending: Sending): AsyncGenerator<Buffer> {
    const { body, fault, options, sent } = sending;
    const { random } = this.wire;
    const { bytes } = body;
    this.#world.trace(
      `message ${sent.number} for ${sent.envelope.recipients.map((one) => one.address).join(' ')}: 354`,
    );
    const breaksAt = fault === 'breaksOff' || fault === 'goneInData' ? random.integer(0, bytes.length) : -1;
    // Half a minute is more than the front end waits (smtp-front.ts).
    const longest = fault === 'dawdles' ? random.pick([4_000, 12_000, 30_000]) : 3;
    for (let offset = 0; offset < bytes.length; ) {
      const size = Math.min(bytes.length - offset, random.integer(500, 20_000));
      if (breaksAt >= 0 && offset + size >= breaksAt) {
        yield bytes.subarray(offset, breaksAt);
        await this.#leave(sending);
      }
      yield bytes.subarray(offset, offset + size);
      offset += size;
      await this.#pause(fault === 'dawdles' && random.chance(0.3) ? longest : random.integer(0, 3));
      if (offset >= bytes.length / 2) await options.halfway?.();
    }
    // The dot leaves within this event.
    this.wire.scheduler.schedule(0, () => {
      this.#world.trace(`message ${sent.number} end of data`);
      sending.isEnded = true;
      options.ended?.();
      // Its answer may be read by then, and the next message be under way (seed 8548).
      if (fault === 'goneAfterDot') this.wire.scheduler.schedule(random.next() * 40, () => void this.#leave(sending));
    });
  }

  #pause(delayMs: number): Promise<void> {
    return new Promise((resolve) => void this.wire.scheduler.schedule(delayMs, resolve));
  }

  /** The client breaks the connection, closes it, or is gone without a word; whoever waits here waits for ever. */
  #leave({ fault, client }: Sending): Promise<never> {
    const how = fault === 'goneInData' ? 'vanishes' : this.wire.random.pick(['breaks off', 'vanishes', 'closes']);
    const { current } = client;
    if (current !== null) this.#world.trace(`message ${current.sent.number}: its client ${how}`);
    if (how === 'breaks off') client.socket?.breakOff();
    else if (how === 'closes') client.mail?.destroy('closed');
    else {
      client.socket?.vanish();
      client.life.alive = false;
    }
    current?.gone.resolve(current.isEnded ? 'clientGone' : 'unfinished');
    return new Promise(() => undefined);
  }

  // --- what the client was told ------------------------------------------------------------------------------------------

  #note(
    client: Client,
    sent: Sent,
    recipients: readonly string[],
    outcomes: SendOutcome['recipients'],
    body: SmtpBody,
  ): void {
    const taken = recipients.filter((_, index) => !isRefusedAtRcpt(outcomes[index]));
    this.#refused.set(
      sent,
      recipients.filter((_, index) => isRefusedAtRcpt(outcomes[index])),
    );
    this.#checkRecipients(client, sent, recipients, outcomes);
    if (taken.length === 0) {
      sent.answer = { kind: 'refusedEarly' };
      return;
    }
    sent.envelope = { ...sent.envelope, recipients: taken.map((address) => ({ address })) };
    const outcome = outcomes.find((one) => !isRefusedAtRcpt(one));
    switch (outcome?.kind) {
      case 'accepted':
        if (body.defect !== null) this.#world.violate(`R11: message ${sent.number} with ${body.defect} was accepted`);
        return answered(this.#world, sent, { kind: 'reply', reply: outcome.reply });
      case 'rejected':
        return this.#refusal(sent, outcome, body);
      case 'broken':
        sent.answer = { kind: 'unfinished' };
        return;
      default:
        sent.answer = { kind: 'clientGone' };
    }
  }

  #refusal(sent: Sent, { reply, stage }: RecipientOutcome & { readonly kind: 'rejected' }, body: SmtpBody): void {
    const said = `${reply.code} ${reply.enhanced} ${reply.text}`;
    this.#world.trace(`message ${sent.number} refused at ${stage}: ${said}`);
    if (stage !== 'END') {
      sent.answer = { kind: 'refusedEarly' };
      return;
    }
    const isPermanent = reply.code >= 500;
    if (isPermanent !== (body.defect !== null))
      this.#world.violate(`R11: message ${sent.number} with ${body.defect ?? 'no defect'} was answered ${said}`);
    answered(this.#world, sent, { kind: 'reply', reply });
  }

  /** D1: known mailboxes are accepted from anybody, foreign domains from who may relay, nobody else is. */
  #checkRecipients(
    client: Client,
    sent: Sent,
    recipients: readonly string[],
    outcomes: readonly RecipientOutcome[],
  ): void {
    for (const [index, address] of recipients.entries()) {
      const outcome = outcomes[index];
      const mayGo = address.endsWith('@sim.example') ? !address.startsWith('unknown') : client.isTrusted;
      if (isRefusedAtRcpt(outcome) === mayGo && hasAnswer(outcome))
        this.#world.violate(`D1: message ${sent.number}: ${address} was ${mayGo ? 'refused' : 'accepted'} at RCPT`);
    }
  }
}

const isRefusedAtRcpt = (outcome: RecipientOutcome | undefined): boolean =>
  outcome?.kind === 'rejected' && outcome.stage === 'RCPT';

/** Whether the reply to RCPT was read, as far as the outcome says. */
const hasAnswer = (outcome: RecipientOutcome | undefined): boolean =>
  outcome?.kind === 'accepted' ||
  (outcome?.kind === 'unknown' && outcome.error.code !== 'ABORTED') ||
  (outcome?.kind === 'rejected' && (outcome.stage === 'RCPT' || outcome.stage === 'END'));
