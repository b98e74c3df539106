/**
 * One SMTP session after the socket: RFC 5321 command order, the transaction, limits, replies. Owns: what the client said so far and
 * which reply it gets. Knows no socket and no library; bytes come in through `consume`, everything goes out through the port.
 *
 * Promises: commands are answered in order, one reply each; nothing is read from the client between DATA and the 354; after the end
 * of data the client gets the handler's word or, where that is unknown, no reply at all (protocol.md 5). Refuses: unauthorised
 * pipelining (RFC 2920: EHLO, HELO, DATA, STARTTLS and AUTH end a group), whatever breaks a limit (semantics.md section 9).
 * A handler that fails before the end of data is answered 451; a broken invariant is not caught.
 */
import type { ClientInfo, Reply } from '../message.ts';
import { assert } from '../platform/assert.ts';
import { parseMail, parseRcpt } from './address.ts';
import { AuthDialogue } from './auth-dialogue.ts';
import { BEFORE_TLS, HTTP_VERBS, JUNK, keywords, protocolName, tlsOffered, VERBS } from './capabilities.ts';
import type { ConversationPort, ConversationSetting } from './conversation-port.ts';
import { DataTransfer, DrainGate } from './data-transfer.ts';
import { Deadline } from './deadline.ts';
import type { DataAnswer, DataDecision, EdgeSession } from './edge-api.ts';
import { reply } from './replies.ts';
import { type CutOff, Tally } from './tally.ts';
import { MAX_ENVELOPE_BYTES, recipientBytes, Transaction } from './transaction.ts';
import { type CommandLine, CommandLines, commandText } from './wire.ts';

/** What a command leaves to wait for. */
type Pending = Promise<void> | undefined;

export class Conversation implements EdgeSession {
  readonly id: string;
  readonly #port: ConversationPort;
  readonly #current: () => ConversationSetting;
  readonly #tally: Tally;
  readonly #deadline: Deadline;
  readonly #lines = new CommandLines();
  #connected = false;
  #greeted = false;
  #ended = false;
  #draining = false;
  #hello: { readonly verb: 'EHLO' | 'HELO'; readonly name: string } | null = null;
  #tls: ClientInfo['tls'] = null;
  #user: string | null = null;
  #auth: AuthDialogue | null = null;
  #transaction: Transaction | null = null;
  #data: DataTransfer | null = null;
  #idleAtMs = 0;

  /** `current` may answer differently later: limits and certificates change without a restart. */
  constructor(id: string, port: ConversationPort, current: () => ConversationSetting) {
    this.id = id;
    this.#port = port;
    this.#current = current;
    this.#tally = new Tally(id, port, current);
    this.#deadline = new Deadline(current().clock, () => this.#expired());
    this.#restartIdle();
  }

  get #setting(): ConversationSetting {
    return this.#current();
  }

  get listener(): string {
    return this.#setting.listener.name;
  }

  get client(): ClientInfo {
    return {
      address: this.#port.remoteAddress,
      port: this.#port.remotePort,
      helo: this.#hello?.name ?? '',
      protocol: protocolName({
        extended: this.#hello?.verb === 'EHLO',
        tls: this.#tls !== null,
        authenticated: this.#user !== null,
        smtputf8: this.#transaction?.mail.smtputf8 === true,
      }),
      tls: this.#tls,
      user: this.#user,
    };
  }

  /** Says 220 or turns the client away. Bytes that arrived before are an early talker's. */
  greet(): void {
    if (this.#ended) return;
    this.#connected = true;
    const refusal = this.#setting.handlers.onConnect(this);
    if (refusal !== null) {
      assert(refusal.code >= 400, 'a refusal must be 4yz or 5yz', { code: refusal.code });
      this.#cutOff('refusedByPolicy', refusal);
      return;
    }
    this.#greeted = true;
    this.#port.say(reply('greeting', { hostname: this.#setting.hostname }));
    this.#restartIdle();
  }

  tlsStarted(version: string, cipher: string): void {
    this.#tls = { version, cipher };
    this.#restartIdle();
  }

  /** Resolves when the chunk has been dealt with: the next one waits until then. */
  async consume(chunk: Buffer): Promise<void> {
    if (this.#ended) return;
    if (!this.#greeted) {
      // RFC 5321 4.3.1: the client waits for the greeting.
      this.#cutOff('earlyTalker', reply('earlyTalker'));
      return;
    }
    this.#deadline.set(Number.POSITIVE_INFINITY);
    let input: Buffer | null = chunk;
    while (input !== null && !this.#ended) {
      input = this.#data === null ? await this.#obey(input) : await this.#receive(this.#data, input);
    }
    if (!this.#ended) this.#deadline.set(this.#data?.checkAtMs ?? this.#idleAtMs);
  }

  /** Over a limit on connections: a 421 instead of the greeting. */
  turnAway(reason: 'tooManyConnections' | 'tooManyClientConnections' | 'connectingTooOften', limit: string): void {
    this.#tally.limit(limit);
    this.#cutOff(reason, reply(reason));
  }

  /** Stops after the transaction in progress: 421 4.3.2. */
  shutDown(): void {
    this.#draining = true;
    this.#leaveWhenDrained();
  }

  /** The connection is gone, whoever closed it. */
  gone(reason: string): void {
    this.#leave(reason);
    if (this.#connected) this.#setting.handlers.onClose(this);
    this.#connected = false;
  }

  // ---- commands ----

  async #obey(input: Buffer): Promise<Buffer | null> {
    this.#lines.push(input);
    for (;;) {
      const line = this.#lines.next(this.#setting.limits.maxCommandLineBytes);
      if (line === null) return null;
      const pending = this.#auth === null ? this.#command(line) : this.#authLine(this.#auth, line);
      if (pending !== undefined) await pending;
      if (this.#ended) return null;
      this.#idleAtMs = this.#setting.clock.monotonicMs() + this.#setting.idleTimeoutMs();
      if (this.#data !== null) {
        const rest = this.#lines.takeRest();
        return rest.length > 0 ? rest : null;
      }
      this.#leaveWhenDrained();
      const blocked = this.#port.outputDrained();
      if (blocked === null) continue;
      // A client that does not read its replies is idle.
      this.#deadline.set(this.#idleAtMs);
      await blocked;
      this.#deadline.set(Number.POSITIVE_INFINITY);
    }
  }

  #command(line: CommandLine): Pending {
    this.#tally.verb = 'OTHER';
    if (line.kind === 'too-long') {
      this.#tally.limit('maxCommandLineBytes');
      return this.#answer(reply('lineTooLong', { limit: this.#setting.limits.maxCommandLineBytes }));
    }
    const text = commandText(line.bytes);
    if (text === null) return this.#answer(reply('syntaxError'));
    const space = text.indexOf(' ');
    const verb = (space === -1 ? text : text.slice(0, space)).toUpperCase();
    const rest = space === -1 ? '' : text.slice(space).trimEnd(); // RFC 5321 4.1.1: trailing space is tolerated
    if (HTTP_VERBS.has(verb)) return this.#cutOff('notHttp', reply('notHttp'));
    if (!VERBS.has(verb)) return this.#answer(reply('unknownCommand'));
    this.#tally.verb = verb;
    if (this.#setting.listener.tls === 'StartTlsRequired' && this.#tls === null && !BEFORE_TLS.has(verb)) {
      return this.#answer(reply('startTlsFirst'));
    }
    if (JUNK.has(verb) && this.#tally.tooMuchJunk()) {
      return this.#cutOff('tooManyJunkCommands', reply('tooManyJunkCommands'));
    }
    return this.#dispatch(verb, rest);
  }

  #dispatch(verb: string, rest: string): Pending {
    switch (verb) {
      case 'MAIL':
        return this.#mail(rest);
      case 'RCPT':
        return this.#rcpt(rest);
      case 'EHLO':
      case 'HELO':
        return this.#sayHello(verb, rest.trim());
      case 'AUTH':
        return this.#startAuth(rest);
      case 'NOOP':
        return this.#answer(reply('ok'));
      case 'HELP':
        return this.#answer(reply('help'));
      case 'VRFY':
        return this.#answer(rest === '' ? reply('argumentMissing', { verb }) : reply('cannotVerify'));
      case 'EXPN':
        return this.#answer(reply('notImplemented', { verb }));
    }
    if (rest !== '') return this.#answer(reply('noArguments', { verb }));
    switch (verb) {
      case 'DATA':
        return this.#startData();
      case 'RSET':
        this.#transaction = null;
        return this.#answer(reply('ok'));
      case 'STARTTLS':
        return this.#startTls();
      default: // QUIT; what follows it is not read
        this.#answer(reply('bye'));
        this.#leave('quit');
        this.#port.close();
    }
  }

  #sayHello(verb: 'EHLO' | 'HELO', name: string): undefined {
    // RFC 5321 4.1.1.1 wants a domain or an address literal; clients send machine names, so only what could do harm is refused.
    if (name === '' || name.includes(' ') || Buffer.byteLength(name) > 255) {
      return this.#answer(reply('badHello', { verb }));
    }
    if (this.#pipelined()) return this.#refusePipelining();
    this.#hello = { verb, name };
    this.#transaction = null; // RFC 5321 4.1.4
    const hello = reply('hello', { hostname: this.#setting.hostname, client: name });
    this.#answer(
      verb === 'HELO'
        ? hello
        : { ...hello, text: [hello.text, ...keywords(this.#setting, this.#tls !== null)].join('\n') },
    );
  }

  async #mail(text: string): Promise<void> {
    const { limits, handlers, clock } = this.#setting;
    if (this.#hello === null) return this.#answer(reply('helloFirst'));
    if (this.#transaction !== null) return this.#answer(reply('nestedMail'));
    const parsed = parseMail(text);
    if (parsed.kind === 'refused') return this.#answer(parsed.reply);
    const mail = parsed.value;
    if (mail.declaredSizeBytes !== null && mail.declaredSizeBytes > limits.maxMessageBytes) {
      this.#tally.limit('maxMessageBytes');
      return this.#answer(reply('messageTooBig', { limit: limits.maxMessageBytes })); // RFC 1870 6.1
    }
    const refusal = await this.#ask('MAIL', () => handlers.onMailFrom(this, mail));
    if (this.#ended) return;
    if (refusal !== null) return this.#answer(refusal);
    this.#transaction = new Transaction(mail, clock.wallMs());
    this.#answer(reply('senderOk'));
  }

  async #rcpt(text: string): Promise<void> {
    const { limits, handlers } = this.#setting;
    const transaction = this.#transaction;
    if (transaction === null) return this.#answer(reply('mailFirst'));
    const parsed = parseRcpt(text, transaction.mail.smtputf8);
    if (parsed.kind === 'refused') {
      transaction.refusedRecipients++;
      return this.#answer(parsed.reply);
    }
    const sizeBytes = recipientBytes(parsed.value);
    const broken = transaction.brokenBy(sizeBytes, limits.maxRecipients);
    if (broken !== null) {
      this.#tally.limit(broken);
      return this.#answer(
        broken === 'maxRecipients'
          ? reply('tooManyRecipients', { limit: limits.maxRecipients })
          : reply('envelopeTooBig', { limit: MAX_ENVELOPE_BYTES }),
      );
    }
    const accepted = transaction.recipients.length;
    const refusal = await this.#ask('RCPT', () => handlers.onRcptTo(this, transaction.mail, parsed.value, accepted));
    if (this.#ended) return;
    if (refusal !== null) {
      transaction.refusedRecipients++;
      // One stale address among good ones must not cost the client its session, and with it the good ones.
      return this.#answer(refusal, accepted === 0);
    }
    transaction.accept(parsed.value, sizeBytes);
    this.#answer(reply('recipientOk'));
  }

  // ---- DATA ----

  async #startData(): Promise<void> {
    const { limits, clock, maxReceivedHops } = this.#setting;
    const transaction = this.#transaction;
    if (transaction === null) return this.#answer(reply('mailFirst'));
    if (transaction.recipients.length === 0) {
      return this.#answer(reply(transaction.refusedRecipients > 0 ? 'noValidRecipients' : 'rcptFirst'));
    }
    if (this.#pipelined()) return this.#refusePipelining();
    const gate = new DrainGate();
    const decision = await this.#decide(transaction, gate);
    if (decision.kind === 'refuse') {
      this.#transaction = null;
      if (!this.#ended) this.#answer(decision.reply);
      return;
    }
    if (this.#ended) return decision.sink.abort('client gone before the 354');
    if (this.#pipelined()) {
      decision.sink.abort('content sent before the 354');
      return this.#refusePipelining();
    }
    this.#data = new DataTransfer(decision.sink, gate, { ...limits, maxReceivedHops }, clock.monotonicMs());
    this.#answer(reply('sendData'));
  }

  async #decide(transaction: Transaction, gate: DrainGate): Promise<DataDecision> {
    const { handlers, listener, frontend } = this.#setting;
    const { mail, recipients, receivedAtMs } = transaction;
    const envelope = { ...mail, recipients, client: this.client, frontend, listener: listener.name, receivedAtMs };
    try {
      const decision = await handlers.onData(this, envelope, gate.open);
      if (decision.kind === 'refuse') assert(decision.reply.code >= 400, 'a refusal must be 4yz or 5yz');
      return decision;
    } catch (error) {
      return { kind: 'refuse', reply: this.#tally.failed('DATA', error) };
    }
  }

  async #receive(data: DataTransfer, chunk: Buffer): Promise<Buffer | null> {
    let received: ReturnType<DataTransfer['receive']>;
    try {
      received = data.receive(chunk);
    } catch (error) {
      this.#cutOff('handlerFailed', this.#tally.failed('content', error));
      return null;
    }
    if (received.full !== null) {
      this.#deadline.set(data.capMs);
      await received.full;
      if (this.#ended) return null;
      this.#deadline.set(Number.POSITIVE_INFINITY);
    }
    if (received.rest === null) return null;
    await this.#endData(data);
    return received.rest.length > 0 ? received.rest : null;
  }

  async #endData(data: DataTransfer): Promise<void> {
    this.#tally.verb = 'END-OF-DATA';
    this.#deadline.set(Number.POSITIVE_INFINITY);
    const answer = await this.#outcome(data);
    this.#data = null;
    this.#transaction = null;
    if (this.#ended) return; // semantics.md R7: the handler keeps what it accepted; it has heard that the client is gone
    if (data.fault !== null) this.#tally.fault(data.fault);
    if (answer.kind === 'close') {
      this.#setting.log.warn({ session: this.id, reason: answer.reason }, 'smtp session closed without a reply');
      this.#leave(answer.reason);
      this.#port.destroy();
      return;
    }
    const said = data.rejected ?? answer.reply;
    if (said.code < 300) this.#tally.forgive();
    this.#answer(said);
    if (this.#ended) return;
    this.#restartIdle();
    this.#leaveWhenDrained();
  }

  async #outcome(data: DataTransfer): Promise<DataAnswer> {
    try {
      return await data.end();
    } catch (error) {
      // Nobody knows what became of the message: any reply could be a lie (protocol.md 5).
      this.#tally.failed('end of data', error);
      return { kind: 'close', reason: 'handler failed after the end of data' };
    }
  }

  // ---- TLS and AUTH ----

  #startTls(): undefined {
    if (this.#tls !== null) return this.#answer(reply('tlsActive'));
    if (!tlsOffered(this.#setting, false)) return this.#answer(reply('notImplemented', { verb: 'STARTTLS' }));
    // Commands sent along in plain text must never run inside TLS (RFC 3207 section 6).
    if (this.#pipelined()) return this.#refusePipelining();
    // RFC 3207 section 4.2: nothing learned before TLS survives.
    this.#hello = null;
    this.#transaction = null;
    this.#answer(reply('tlsReady'));
    this.#port.startTls();
  }

  #startAuth(text: string): Pending {
    if (this.#setting.listener.usersFile === null) return this.#answer(reply('notImplemented', { verb: 'AUTH' }));
    if (this.#hello?.verb !== 'EHLO') return this.#answer(reply('ehloFirst'));
    if (this.#tls === null) return this.#answer(reply('encryptionRequired'));
    if (this.#user !== null) return this.#answer(reply('alreadyAuthenticated'));
    if (this.#transaction !== null) return this.#answer(reply('authInTransaction')); // RFC 4954 section 4
    return this.#authStep(new AuthDialogue(this, this.#setting.handlers, this.#tally), text);
  }

  #authLine(auth: AuthDialogue, line: CommandLine): Pending {
    this.#auth = null;
    if (line.kind === 'too-long') {
      this.#tally.limit('maxCommandLineBytes');
      return this.#answer(reply('authLineTooLong', { limit: this.#setting.limits.maxCommandLineBytes }));
    }
    return this.#authStep(auth, line.bytes.toString('latin1'));
  }

  async #authStep(auth: AuthDialogue, text: string): Promise<void> {
    if (this.#pipelined()) return this.#refusePipelining();
    const said = await auth.hear(text);
    if (this.#ended) return;
    this.#auth = auth.isOpen ? auth : null;
    this.#user = auth.user;
    this.#answer(said);
  }

  // ---- replies, limits, ends ----

  /** Answers the current command; `counts` says whether a 5yz is held against the client. */
  #answer(said: Reply, counts = true): undefined {
    if (this.#ended) return;
    if (said.code >= 500 && counts && this.#tally.tooManyErrors()) {
      return this.#cutOff('tooManyErrors', reply('tooManyErrors'));
    }
    this.#tally.say(said);
    // RFC 5321 3.8: a 421 closes the connection, also when it comes from a handler.
    if (said.code === 421) this.#finish('refused by policy');
  }

  /** Ends the session with a last reply. */
  #cutOff(reason: CutOff, said: Reply): undefined {
    this.#tally.cutOff(reason);
    this.#tally.say(said);
    this.#finish(reason);
  }

  #finish(reason: string): void {
    this.#leave(reason);
    this.#port.close();
  }

  #leave(reason: string): void {
    this.#ended = true;
    this.#deadline.cancel();
    this.#data?.abort(reason);
  }

  #leaveWhenDrained(): void {
    if (!this.#draining || this.#ended || this.#transaction !== null) return;
    this.#tally.verb = 'OTHER';
    this.#tally.say(reply('shuttingDown'));
    this.#finish('shutting down');
  }

  #refusePipelining(): undefined {
    return this.#cutOff('unauthorisedPipelining', reply('unauthorisedPipelining', { verb: this.#tally.verb }));
  }

  #pipelined(): boolean {
    return this.#lines.bufferedBytes > 0 || this.#port.moreInput;
  }

  async #ask(what: string, question: () => Promise<Reply | null>): Promise<Reply | null> {
    try {
      const refusal = await question();
      if (refusal !== null) assert(refusal.code >= 400, 'a refusal must be 4yz or 5yz', { code: refusal.code });
      return refusal;
    } catch (error) {
      return this.#tally.failed(what, error);
    }
  }

  #restartIdle(): void {
    this.#idleAtMs = this.#setting.clock.monotonicMs() + this.#setting.idleTimeoutMs();
    this.#deadline.set(this.#idleAtMs);
  }

  #expired(): void {
    if (this.#ended) return;
    this.#tally.verb = 'OTHER';
    const slow = this.#data === null ? 'idleTimeout' : this.#data.tooSlow(this.#setting.clock.monotonicMs());
    if (slow === null) {
      this.#deadline.set(this.#data?.checkAtMs ?? this.#idleAtMs);
      return;
    }
    this.#tally.limit(slow);
    this.#cutOff(slow, reply(slow));
  }
}
