/**
 * The LMTP server (RFC 2033) in front of the embedded Maildir store. Owns: the listening socket and its sessions. Line discipline and
 * data framing are those of the edge (`common/smtp/wire.ts`).
 * Promise: 250 to a recipient after the final dot means that the store said it is durable, or was before. Any address is accepted.
 * Fails: a full disk is `452 4.3.1`, any other trouble with it `451 4.3.0`, each for the recipient it hit.
 */
import { createServer, type Server, type Socket } from 'node:net';
import type { EnvelopeRecipient, Reply } from '../../common/message.ts';
import type { Logger } from '../../common/platform/log.ts';
import { parseMail, parseRcpt } from '../../common/smtp/address.ts';
import type { MailFrom } from '../../common/smtp/edge-api.ts';
import { formatReply } from '../../common/smtp/replies.ts';
import { CommandLines, DataScanner } from '../../common/smtp/wire.ts';
import { DeliveryIdReader } from './delivery-id-reader.ts';
import { hasCode } from './duplicate-table.ts';
import type { MaildirDelivery, MaildirStore } from './maildir.ts';

export interface LmtpServerOptions {
  readonly store: MaildirStore;
  readonly log: Logger;
  readonly hostname: string;
  readonly host: string;
  readonly port: number;
  readonly maxMessageBytes?: number;
  readonly maxRecipients?: number;
  readonly idleTimeoutMs?: number;
}

const DEFAULTS = { maxMessageBytes: 1024 ** 3, maxRecipients: 1_000, idleTimeoutMs: 600_000 };
const MAX_COMMAND_BYTES = 4_096;

const said = (code: number, enhanced: string, text: string): Reply => ({ code, enhanced, text });
const OK = said(250, '2.0.0', 'OK');
const BAD_SEQUENCE = said(503, '5.5.1', 'Bad sequence of commands');

export class LmtpServer {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #sessions = new Set<Promise<void>>();

  private constructor(options: Required<LmtpServerOptions>) {
    this.#server = createServer({ noDelay: true }, (socket) => {
      this.#sockets.add(socket);
      const session = new LmtpSession(socket, options).run().finally(() => {
        this.#sockets.delete(socket);
        this.#sessions.delete(session);
      });
      this.#sessions.add(session);
    });
  }

  static async start(options: LmtpServerOptions): Promise<LmtpServer> {
    const server = new LmtpServer({ ...DEFAULTS, ...options });
    await new Promise<void>((resolve, reject) => {
      server.#server.once('error', reject);
      server.#server.listen(options.port, options.host, resolve);
    });
    return server;
  }

  get port(): number {
    const address = this.#server.address();
    return address !== null && typeof address === 'object' ? address.port : 0;
  }

  /** Cuts sessions off; what was not answered is not promised. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
    });
    for (const socket of this.#sockets) socket.destroy();
    await Promise.allSettled(this.#sessions);
    await closed;
  }
}

/** A recipient while content arrives: its file, or the error that came in between. */
interface Receiver {
  readonly delivery: MaildirDelivery | null;
  failure: Error | null;
}

interface Incoming {
  readonly scanner: DataScanner;
  readonly idReader: DeliveryIdReader;
  readonly receivers: Receiver[];
}

class LmtpSession {
  readonly #socket: Socket;
  readonly #options: Required<LmtpServerOptions>;
  readonly #lines = new CommandLines();
  #greeted = false;
  #mail: MailFrom | null = null;
  #recipients: EnvelopeRecipient[] = [];
  #incoming: Incoming | null = null;
  #quitting = false;

  constructor(socket: Socket, options: Required<LmtpServerOptions>) {
    this.#socket = socket;
    this.#options = options;
  }

  async run(): Promise<void> {
    const socket = this.#socket;
    socket.setTimeout(this.#options.idleTimeoutMs, () => socket.destroy());
    // The loop below sees errors while it reads; what comes after it concerns nobody.
    socket.on('error', () => socket.destroy());
    socket.write(`220 ${this.#options.hostname} LMTP MailCluster Maildir\r\n`);
    try {
      for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
        socket.cork();
        await this.#read(chunk);
        socket.uncork();
        if (this.#quitting) break;
      }
    } catch (error) {
      // The client went away. Anything else is a surprise and ends the process (architecture.md sentence 5).
      const isSocketError =
        error instanceof Error && ('syscall' in error || hasCode(error, 'ERR_STREAM_PREMATURE_CLOSE'));
      if (!isSocketError) throw error;
      this.#options.log.debug({ error }, 'session broken off');
    }
    for (const { delivery } of this.#incoming?.receivers ?? []) await this.#abort(delivery);
    if (this.#quitting) socket.end();
    else socket.destroy();
  }

  async #read(chunk: Buffer): Promise<void> {
    let rest: Buffer | null = chunk;
    while (rest !== null && rest.length > 0 && !this.#quitting) {
      if (this.#incoming !== null) {
        rest = await this.#content(this.#incoming, rest);
        continue;
      }
      this.#lines.push(rest);
      rest = await this.#commands();
    }
  }

  /** Runs the complete commands; what follows DATA is returned. */
  async #commands(): Promise<Buffer | null> {
    for (;;) {
      const line = this.#lines.next(MAX_COMMAND_BYTES);
      if (line === null) return null;
      if (line.kind === 'too-long') this.#reply(said(500, '5.5.2', 'Line too long'));
      else await this.#command(line.bytes.toString('utf8'));
      if (this.#quitting) return null;
      if (this.#incoming !== null) return this.#lines.takeRest();
    }
  }

  async #command(line: string): Promise<void> {
    const verb = /^[A-Za-z]*/.exec(line)?.[0] ?? '';
    const text = line.slice(verb.length);
    switch (verb.toUpperCase()) {
      case 'LHLO':
        return this.#lhlo();
      case 'MAIL':
        return this.#mailFrom(text);
      case 'RCPT':
        return this.#rcptTo(text);
      case 'DATA':
        return await this.#data();
      case 'RSET':
        this.#reset();
        return this.#reply(OK);
      case 'NOOP':
        return this.#reply(OK);
      case 'VRFY':
        return this.#reply(said(252, '2.0.0', 'Any address is accepted'));
      case 'QUIT':
        this.#reply(said(221, '2.0.0', 'Bye'));
        this.#quitting = true;
        return;
      case 'HELO':
      case 'EHLO':
        return this.#reply(said(500, '5.5.1', 'This is LMTP: say LHLO')); // RFC 2033 4.1
      default:
        return this.#reply(said(500, '5.5.2', 'Unknown command'));
    }
  }

  #lhlo(): void {
    this.#greeted = true;
    this.#reset();
    const { hostname, maxMessageBytes } = this.#options;
    const offers = ['PIPELINING', 'ENHANCEDSTATUSCODES', '8BITMIME', 'SMTPUTF8', `SIZE ${maxMessageBytes}`];
    this.#reply(said(250, '', [hostname, ...offers].join('\n')));
  }

  #mailFrom(text: string): void {
    if (!this.#greeted || this.#mail !== null) return this.#reply(BAD_SEQUENCE);
    const parsed = parseMail(text);
    if (parsed.kind === 'refused') return this.#reply(parsed.reply);
    if ((parsed.value.declaredSizeBytes ?? 0) > this.#options.maxMessageBytes) {
      return this.#reply(said(552, '5.3.4', 'Message too big'));
    }
    this.#mail = parsed.value;
    this.#reply(said(250, '2.1.0', 'Sender OK'));
  }

  #rcptTo(text: string): void {
    if (this.#mail === null) return this.#reply(BAD_SEQUENCE);
    const parsed = parseRcpt(text, this.#mail.smtputf8);
    if (parsed.kind === 'refused') return this.#reply(parsed.reply);
    if (this.#recipients.length >= this.#options.maxRecipients) {
      return this.#reply(said(452, '4.5.3', 'Too many recipients'));
    }
    this.#recipients.push(parsed.value);
    this.#reply(said(250, '2.1.5', 'Recipient OK'));
  }

  async #data(): Promise<void> {
    if (this.#mail === null || this.#recipients.length === 0) return this.#reply(BAD_SEQUENCE); // RFC 2033 4.2
    const { reversePath } = this.#mail;
    const receivers = await Promise.all(this.#recipients.map(({ address }) => this.#begin(address, reversePath)));
    const unlimited = Number.MAX_SAFE_INTEGER;
    this.#incoming = {
      scanner: new DataScanner({
        maxMessageBytes: this.#options.maxMessageBytes,
        maxHeaderBytes: unlimited,
        maxDataLineBytes: unlimited,
        maxReceivedHops: unlimited,
      }),
      idReader: new DeliveryIdReader(),
      receivers,
    };
    this.#reply(said(354, '', 'End data with <CR><LF>.<CR><LF>'));
  }

  async #begin(address: string, reversePath: string): Promise<Receiver> {
    // RFC 5321 4.4: the system that makes the final delivery writes Return-Path.
    const head = Buffer.from(`Return-Path: <${reversePath}>\r\nDelivered-To: ${address}\r\n`);
    try {
      return { delivery: await this.#options.store.begin(address, head), failure: null };
    } catch (error) {
      return { delivery: null, failure: asError(error) };
    }
  }

  /** Returns what follows the end of the message, or null. */
  async #content(incoming: Incoming, chunk: Buffer): Promise<Buffer | null> {
    const { scanner, idReader, receivers } = incoming;
    const { content, rest } = scanner.scan(chunk);
    if (content !== null) {
      idReader.push(content);
      await Promise.all(receivers.map((receiver) => writeTo(receiver, content)));
    }
    if (rest === null) return null;
    const replies = await Promise.all(receivers.map((receiver) => this.#finish(receiver, scanner.rejected, idReader)));
    for (const [at, reply] of replies.entries()) {
      this.#options.log.info(
        { recipient: this.#recipients[at]?.address, attemptId: idReader.id, reply },
        'delivery answered',
      );
      this.#reply(reply);
    }
    this.#incoming = null;
    this.#reset();
    return rest;
  }

  async #finish({ delivery, failure }: Receiver, rejected: Reply | null, keys: DeliveryIdReader): Promise<Reply> {
    if (delivery === null || failure !== null || rejected !== null) {
      await this.#abort(delivery);
      return failure === null ? (rejected ?? OK) : this.#diskReply(failure);
    }
    try {
      const result = await delivery.commit(keys.id, keys.contentKey);
      return said(250, '2.0.0', result === 'stored' ? 'Stored' : 'Stored before, duplicate suppressed');
    } catch (error) {
      return this.#diskReply(asError(error));
    }
  }

  #diskReply(error: Error): Reply {
    this.#options.log.error({ error }, 'delivery failed on disk');
    const code = 'code' in error ? String(error.code) : '';
    if (['ENOSPC', 'EDQUOT', 'EFBIG'].includes(code)) return said(452, '4.3.1', 'Insufficient system storage');
    return said(451, '4.3.0', 'Mailbox cannot be written');
  }

  async #abort(delivery: MaildirDelivery | null): Promise<void> {
    try {
      await delivery?.abort();
    } catch (error) {
      // Left in `tmp`, which is cleared when the mailbox is next opened.
      this.#options.log.warn({ error }, 'temporary file not removed');
    }
  }

  #reset(): void {
    this.#mail = null;
    this.#recipients = [];
  }

  #reply(reply: Reply): void {
    this.#socket.write(formatReply(reply));
  }
}

async function writeTo(receiver: Receiver, content: Buffer): Promise<void> {
  if (receiver.delivery === null || receiver.failure !== null) return;
  try {
    await receiver.delivery.write(content);
  } catch (error) {
    receiver.failure = asError(error);
  }
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}
