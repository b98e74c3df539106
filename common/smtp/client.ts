/**
 * The lean SMTP (RFC 5321) and LMTP (RFC 2033) client. Owns: greeting, EHLO / LHLO, STARTTLS, the commands of a transaction, what each
 * reply means for each recipient. Commands of a transaction leave in one write when the server offers PIPELINING (RFC 2920).
 * Promises
 * - `send` never throws and gives one outcome per recipient: `accepted` and `rejected` are the server's (or our own) word, `broken` means
 *   the final dot was not sent, `unknown` that it may have been and no understandable reply came: the server may have the message.
 * - Memory is bounded by the socket's buffer plus one chunk of content. After `send`, `isUsable` says whether another one may follow.
 * Refuses: control characters in addresses; content the server cannot take (SIZE, 8BITMIME, SMTPUTF8).
 */
import type { EnvelopeRecipient, Reply } from '../message.ts';
import type { Clock } from '../platform/clock.ts';
import { authenticate, type Credentials } from './client-auth.ts';
import { ClientConnection, ClientError, type Dial, type TlsSettings } from './client-connection.ts';
import type { DaneProof } from './dane.ts';
import { DotStuffer } from './dot-stuffer.ts';
import { DEFAULT_REPLY_LIMITS, formatReply, type ReplyLimits, type ServerReply } from './reply-parser.ts';

export { ClientError, type ClientErrorCode } from './client-connection.ts';
export { formatReply } from './reply-parser.ts';

/** RFC 5321 4.5.3.2 gives the minima for a client that queues. */
export interface ClientTimeouts {
  readonly connectMs: number;
  /** 4.5.3.2.1; also EHLO, STARTTLS and the TLS handshake. */
  readonly greetingMs: number;
  /** 4.5.3.2.2 and 4.5.3.2.3: MAIL, RCPT, RSET. */
  readonly commandMs: number;
  /** 4.5.3.2.4: from DATA to 354. */
  readonly dataInitiationMs: number;
  /** 4.5.3.2.5: the server takes no more content. */
  readonly dataBlockMs: number;
  /** 4.5.3.2.6: from the final dot to the reply. Too short makes duplicates. */
  readonly dataTerminationMs: number;
}

export const RFC5321_TIMEOUTS: ClientTimeouts = {
  connectMs: 30_000,
  greetingMs: 300_000,
  commandMs: 300_000,
  dataInitiationMs: 120_000,
  dataBlockMs: 180_000,
  dataTerminationMs: 600_000,
};

export type TlsPolicy = 'None' | 'Opportunistic' | 'Required';

export interface ClientOptions {
  readonly protocol: 'SMTP' | 'LMTP';
  readonly host: string;
  readonly port: number;
  /** Local address of the connection; the system's choice when absent. */
  readonly sourceAddress?: string;
  /** Our name in EHLO / LHLO. */
  readonly hostname: string;
  readonly tls: TlsPolicy;
  /** Name the certificate must prove under `Required`; `host` when absent. */
  readonly tlsName?: string;
  /** With `Required`: encryption will do, whatever the certificate. */
  readonly isUnproven?: boolean;
  /** With `Required`: what the certificate must prove in place of that. */
  readonly dane?: DaneProof;
  /** Sent over TLS only; without them the server is not asked. */
  readonly credentials?: Credentials;
  /** PEM of the authorities trusted under `Required`; the system's when absent. */
  readonly ca?: string;
  readonly timeouts: ClientTimeouts;
  readonly replyLimits?: ReplyLimits;
  readonly clock: Clock;
  /** Cuts a connection attempt short. */
  readonly signal?: AbortSignal;
  /** A TCP connection of this machine when absent. */
  readonly dial?: Dial;
  /** EHLO keywords not to be believed, upper case: servers exist that offer what they cannot do. */
  readonly ignoredKeywords?: ReadonlySet<string>;
}

export interface OutgoingMessage {
  /** Empty for `<>`. */
  readonly reversePath: string;
  readonly body: '7BIT' | '8BITMIME';
  readonly smtputf8: boolean;
  readonly ret?: 'FULL' | 'HDRS';
  readonly envid?: string;
  /** Upper bound of the bytes of `content`, for SIZE. */
  readonly sizeBytes: number;
  readonly recipients: readonly EnvelopeRecipient[];
  /** The content without dot stuffing. Called again when it must be looked through first; a throw breaks the transaction off. */
  readonly content: () => AsyncIterable<Buffer>;
}

export type SendStage = 'LOCAL' | 'MAIL' | 'RCPT' | 'DATA' | 'END';

export type RecipientOutcome =
  | { readonly kind: 'accepted'; readonly reply: Reply }
  | { readonly kind: 'rejected'; readonly reply: Reply; readonly stage: SendStage }
  | { readonly kind: 'broken'; readonly error: Error }
  | { readonly kind: 'unknown'; readonly error: ClientError };

export interface SendOutcome {
  readonly recipients: readonly RecipientOutcome[];
  /** What `content` threw, or null. */
  readonly contentError: Error | null;
  /** False: the connection broke before the server said anything about this transaction (a reused connection had gone stale). */
  readonly serverSpoke: boolean;
  /** The server offers DSN and was given the parameters (RFC 3461). */
  readonly dsnPassedOn: boolean;
  /** Who the server was proven to be with DANE, and by which record; for people. */
  readonly provenBy?: string;
}

/** Rejects with a `ClientError`. */
export async function connectClient(options: ClientOptions): Promise<MailClient> {
  try {
    return await openClient(options, options.tls);
  } catch (error) {
    // RFC 7435: opportunistic means better in the clear than not at all.
    if (options.tls !== 'Opportunistic' || !(error instanceof ClientError) || error.code !== 'TLS') throw error;
    return openClient(options, 'None');
  }
}

async function openClient(options: ClientOptions, tls: TlsPolicy): Promise<MailClient> {
  const { clock, timeouts, signal } = options;
  const limits = options.replyLimits ?? DEFAULT_REPLY_LIMITS;
  const opened = await ClientConnection.open(options, timeouts.connectMs, clock, limits, signal, options.dial);
  if (opened instanceof ClientError) throw opened;
  const onAbort = (): void => opened.destroy('ABORTED', 'stopped');
  signal?.addEventListener('abort', onAbort);
  try {
    demand(await opened.expect(timeouts.greetingMs), 220, 'greeting');
    let capabilities = await hello(opened, options);
    let secured = false;
    if (tls !== 'None') {
      secured = await startTls(opened, options, tls, capabilities);
      // RFC 3207 4.2: what was learnt before TLS is forgotten.
      if (secured) capabilities = await hello(opened, options);
    }
    const { credentials } = options;
    const offered = capabilities.get('AUTH') ?? null;
    if (credentials !== undefined)
      await authenticate({ connection: opened, secured, offered, timeoutMs: timeouts.greetingMs }, credentials);
    return new MailClient(opened, options, capabilities, secured);
  } catch (error) {
    opened.destroy('ABORTED', 'gave up');
    throw error;
  } finally {
    signal?.removeEventListener('abort', onAbort);
  }
}

function demand(answer: ServerReply | ClientError, code: number, what: string): ServerReply {
  if (answer instanceof ClientError) throw answer;
  if (answer.code !== code) throw new ClientError('REFUSED', `${what} refused: ${formatReply(answer)}`, answer);
  return answer;
}

type Capabilities = ReadonlyMap<string, string>;

async function hello(connection: ClientConnection, options: ClientOptions): Promise<Capabilities> {
  const verb = options.protocol === 'LMTP' ? 'LHLO' : 'EHLO';
  connection.write(`${verb} ${options.hostname}\r\n`);
  const answer = await connection.expect(options.timeouts.greetingMs);
  // RFC 5321 3.2: a server that knows no EHLO gets HELO.
  if (verb === 'EHLO' && !(answer instanceof ClientError) && [500, 501, 502, 504].includes(answer.code)) {
    connection.write(`HELO ${options.hostname}\r\n`);
    demand(await connection.expect(options.timeouts.greetingMs), 250, 'HELO');
    return new Map();
  }
  const capabilities = new Map<string, string>();
  for (const line of demand(answer, 250, verb).lines.slice(1)) {
    const [keyword = '', ...parameters] = line.trim().split(/ +/);
    const name = keyword.toUpperCase();
    if (options.ignoredKeywords?.has(name) !== true) capabilities.set(name, parameters.join(' '));
  }
  return capabilities;
}

async function startTls(
  connection: ClientConnection,
  options: ClientOptions,
  policy: 'Opportunistic' | 'Required',
  capabilities: Capabilities,
): Promise<boolean> {
  if (!capabilities.has('STARTTLS')) {
    const why = options.dane === undefined ? 'TLS is required' : `TLSA records of ${options.dane.base} require TLS`;
    if (policy === 'Required') throw new ClientError('TLS', `${why} and STARTTLS is not offered`);
    return false;
  }
  connection.write('STARTTLS\r\n');
  const answer = await connection.expect(options.timeouts.greetingMs);
  if (answer instanceof ClientError) throw answer;
  if (answer.code !== 220) {
    if (policy === 'Required') throw new ClientError('TLS', `STARTTLS refused: ${formatReply(answer)}`, answer);
    return false;
  }
  const settings: TlsSettings = {
    verify: policy === 'Required' && options.isUnproven !== true,
    ...(options.tlsName === undefined ? {} : { name: options.tlsName }),
    ...(options.ca === undefined ? {} : { ca: options.ca }),
    ...(options.dane === undefined ? {} : { dane: options.dane }),
  };
  const failed = await connection.upgrade(settings, options.timeouts.greetingMs);
  if (failed !== null) throw failed;
  return true;
}

/** One transaction as it goes along. */
interface Transaction {
  readonly message: OutgoingMessage;
  readonly outcomes: (RecipientOutcome | null)[];
  /** Recipients the server said 2yz to, by index. */
  readonly accepted: number[];
  contentError: Error | null;
  serverSpoke: boolean;
}

export class MailClient {
  /** Whether the session is encrypted. */
  readonly secured: boolean;
  readonly #provenBy: string | null;
  readonly #connection: ClientConnection;
  readonly #lmtp: boolean;
  readonly #timeouts: ClientTimeouts;
  readonly #capabilities: Capabilities;
  #mustReset = false;

  constructor(connection: ClientConnection, options: ClientOptions, capabilities: Capabilities, secured: boolean) {
    this.#connection = connection;
    this.#lmtp = options.protocol === 'LMTP';
    this.#timeouts = options.timeouts;
    this.#capabilities = capabilities;
    this.secured = secured;
    this.#provenBy = connection.provenBy === null ? null : `${options.dane?.base} proven by ${connection.provenBy}`;
  }

  get isUsable(): boolean {
    return this.#connection.error === null;
  }

  /** Runs once when the connection is no more, whoever ended it. */
  onClosed(callback: () => void): void {
    if (this.#connection.error === null) this.#connection.onClosed = callback;
    else callback();
  }

  /** One at a time. */
  async send(message: OutgoingMessage): Promise<SendOutcome> {
    const transaction: Transaction = {
      message,
      outcomes: message.recipients.map(() => null),
      accepted: [],
      contentError: null,
      serverSpoke: false,
    };
    const declareBody = await this.#checkLocally(transaction);
    const open = undecided(transaction);
    if (open.length > 0 && (await this.#sendEnvelope(transaction, open, declareBody)))
      await this.#sendContent(transaction);
    return {
      recipients: transaction.outcomes.map(
        (outcome) =>
          outcome ?? { kind: 'broken', error: this.#connection.error ?? new ClientError('ABORTED', 'stopped') },
      ),
      contentError: transaction.contentError,
      serverSpoke: transaction.serverSpoke,
      dsnPassedOn: this.#capabilities.has('DSN'),
      ...(this.#provenBy === null ? {} : { provenBy: this.#provenBy }),
    };
  }

  /** Ends the session politely; nothing is under way. */
  quit(): void {
    this.#connection.quit();
  }

  /** Cuts the connection; a `send` under way resolves with what that means. */
  destroy(reason: string): void {
    this.#connection.destroy('ABORTED', reason);
  }

  /** Decides what needs no server. Returns whether BODY=8BITMIME is to be declared. */
  async #checkLocally(transaction: Transaction): Promise<boolean> {
    const { message, outcomes } = transaction;
    const limitBytes = Number(this.#capabilities.get('SIZE') ?? '0');
    if (limitBytes > 0 && message.sizeBytes > limitBytes) {
      rejectOpen(transaction, local(552, '5.3.4', `Message size exceeds the next hop's limit of ${limitBytes} bytes`));
      return false;
    }
    if (hasControls(message.reversePath)) {
      rejectOpen(transaction, local(553, '5.1.7', 'Sender address contains control characters'));
      return false;
    }
    message.recipients.forEach(({ address }, index) => {
      if (hasControls(address)) {
        outcomes[index] = rejected(local(553, '5.1.3', 'Recipient address contains control characters'), 'LOCAL');
      }
    });
    const wants8Bit = message.body === '8BITMIME';
    const lacks8Bit = wants8Bit && !this.#capabilities.has('8BITMIME');
    const lacksUtf8 = message.smtputf8 && !this.#capabilities.has('SMTPUTF8');
    if (!lacks8Bit && !lacksUtf8) return wants8Bit;
    // Many clients declare what they do not use: only content that really needs the extension is refused.
    if (lacksUtf8 && isNonAscii(message.reversePath)) {
      rejectOpen(transaction, local(550, '5.6.7', 'Next hop lacks SMTPUTF8 which the sender address needs')); // RFC 6531 3.4
    }
    message.recipients.forEach(({ address }, index) => {
      if (lacksUtf8 && isNonAscii(address) && outcomes[index] === null) {
        outcomes[index] = rejected(local(553, '5.6.7', 'Next hop lacks SMTPUTF8 which the address needs'), 'LOCAL');
      }
    });
    if (undecided(transaction).length === 0) return false;
    const high = await this.#findHighBytes(transaction);
    if (high === 'header' && lacksUtf8) {
      rejectOpen(transaction, local(554, '5.6.9', 'Next hop lacks SMTPUTF8 which the header needs'));
    } else if (high !== null && lacks8Bit) {
      rejectOpen(transaction, local(554, '5.6.3', 'Next hop lacks 8BITMIME which the content needs')); // RFC 6152 3
    }
    return wants8Bit && !lacks8Bit;
  }

  /** Where the first byte above 127 is; the header counts before the body. */
  async #findHighBytes(transaction: Transaction): Promise<'header' | 'body' | null> {
    let tail = '\r\n';
    let inHeader = true;
    try {
      for await (const chunk of transaction.message.content()) {
        const text = tail + chunk.toString('latin1');
        const end = inHeader ? text.indexOf('\r\n\r\n') : 0;
        // biome-ignore lint/suspicious/noControlCharactersInRegex: the ASCII range is meant
        const at = text.search(/[^\u0000-\u007f]/);
        if (at >= 0) return inHeader && (end < 0 || at < end) ? 'header' : 'body';
        if (end >= 0) inHeader = false;
        tail = text.slice(-3);
      }
    } catch (error) {
      breakOff(transaction, error);
    }
    return null;
  }

  /** MAIL, RCPT and DATA. True when the server waits for content. */
  async #sendEnvelope(transaction: Transaction, open: readonly number[], declareBody: boolean): Promise<boolean> {
    const pipelining = this.#capabilities.has('PIPELINING');
    const { commandMs, dataInitiationMs } = this.#timeouts;
    const recipients = open.map((index) => ({ index, line: this.#rcptLine(transaction.message, index) }));
    const lines = [this.#mailLine(transaction.message, declareBody), ...recipients.map(({ line }) => line), 'DATA'];
    if (this.#mustReset) lines.unshift('RSET');
    if (pipelining) this.#connection.write(`${lines.join('\r\n')}\r\n`);
    const ask = (line: string, timeoutMs: number): Promise<ServerReply | ClientError> => {
      if (!pipelining) this.#connection.write(`${line}\r\n`);
      return this.#connection.expect(timeoutMs);
    };
    const wasDirty = this.#mustReset;
    this.#mustReset = true;
    // With pipelining every reply is expected at once, before the first is awaited.
    const early = pipelining ? lines.map((line) => ask(line, line === 'DATA' ? dataInitiationMs : commandMs)) : null;
    let next = 0;
    const answerTo = (line: string, timeoutMs: number): Promise<ServerReply | ClientError> =>
      early?.[next++] ?? ask(line, timeoutMs);

    if (wasDirty) {
      const reset = await answerTo('RSET', commandMs);
      if (reset instanceof ClientError) return false;
      transaction.serverSpoke = true;
      // RFC 5321 4.1.1.5: always 250. Another answer (421) is about the connection, not about the message.
      if (reset.code !== 250) return this.#giveUp('CLOSED', `RSET refused: ${formatReply(reset)}`);
    }
    const mail = await answerTo(lines[wasDirty ? 1 : 0] ?? '', commandMs);
    if (mail instanceof ClientError) return false;
    transaction.serverSpoke = true;
    if (isUnexpected(mail)) return this.#giveUp('GARBAGE', `strange answer to MAIL: ${formatReply(mail)}`);
    if (mail.code >= 400) {
      rejectOpen(transaction, mail, 'MAIL');
      if (!pipelining) return false;
    }
    for (const { index, line } of recipients) {
      const answer = await answerTo(line, commandMs);
      if (answer instanceof ClientError) return false;
      if (isUnexpected(answer)) return this.#giveUp('GARBAGE', `strange answer to RCPT: ${formatReply(answer)}`);
      if (transaction.outcomes[index] !== null) continue;
      if (answer.code < 300) transaction.accepted.push(index);
      else transaction.outcomes[index] = rejected(recipientReply(answer), 'RCPT');
    }
    if (transaction.accepted.length === 0 && !pipelining) return false;
    const data = await answerTo('DATA', dataInitiationMs);
    if (data instanceof ClientError) return false;
    if (data.code === 354) {
      // Nobody would get the content; RFC 2920 3.1 knows servers that say 354 nevertheless. A new connection is the clean way out.
      if (transaction.accepted.length === 0) return this.#giveUp('GARBAGE', '354 without a valid recipient');
      return true;
    }
    if (data.code < 400) return this.#giveUp('GARBAGE', `strange answer to DATA: ${formatReply(data)}`);
    for (const index of transaction.accepted.splice(0)) transaction.outcomes[index] = rejected(data, 'DATA');
    return false;
  }

  async #sendContent(transaction: Transaction): Promise<void> {
    const { dataBlockMs, dataTerminationMs } = this.#timeouts;
    const connection = this.#connection;
    const stuffer = new DotStuffer();
    connection.beginContent();
    try {
      for await (const chunk of transaction.message.content()) {
        await connection.writeContent(stuffer.push(chunk), dataBlockMs);
        if (connection.error !== null || connection.earlyReply !== null) break;
      }
    } catch (error) {
      connection.destroy('ABORTED', 'content cannot be read'); // without the dot nobody has it
      breakOff(transaction, error);
      return;
    }
    if (!connection.endContent(stuffer.end())) {
      const early = connection.earlyReply;
      if (early !== null && early.code >= 400) {
        for (const index of transaction.accepted) transaction.outcomes[index] = rejected(early, 'DATA');
      }
      connection.destroy('GARBAGE', 'reply before the end of the content');
      return;
    }
    // RFC 2033 4.2: one reply for each accepted recipient, in order. All are expected before the first is awaited.
    const finals = this.#lmtp ? transaction.accepted : transaction.accepted.slice(0, 1);
    const answers = finals.map(() => connection.expect(dataTerminationMs));
    for (const [position, index] of transaction.accepted.entries()) {
      const answer = await (answers[position] ?? answers[0]);
      transaction.outcomes[index] = this.#finalOutcome(answer);
    }
    if (connection.error === null) this.#mustReset = false;
  }

  #finalOutcome(answer: ServerReply | ClientError | undefined): RecipientOutcome {
    if (answer === undefined || answer instanceof ClientError) {
      return { kind: 'unknown', error: answer ?? new ClientError('GARBAGE', 'no reply') };
    }
    if (isUnexpected(answer)) {
      this.#connection.destroy('GARBAGE', 'strange reply to the end of data');
      return { kind: 'unknown', error: new ClientError('GARBAGE', `strange reply: ${formatReply(answer)}`) };
    }
    return answer.code < 300 ? { kind: 'accepted', reply: answer } : rejected(answer, 'END');
  }

  #giveUp(code: 'GARBAGE' | 'CLOSED', reason: string): false {
    this.#connection.destroy(code, reason);
    return false;
  }

  #mailLine(message: OutgoingMessage, declareBody: boolean): string {
    const has = (keyword: string): boolean => this.#capabilities.has(keyword);
    let line = `MAIL FROM:<${message.reversePath}>`;
    if (has('SIZE')) line += ` SIZE=${message.sizeBytes}`; // RFC 1870 6
    if (declareBody) line += ' BODY=8BITMIME';
    if (message.smtputf8 && has('SMTPUTF8')) line += ' SMTPUTF8';
    if (has('DSN')) {
      if (message.ret !== undefined) line += ` RET=${message.ret}`;
      if (isParameter(message.envid)) line += ` ENVID=${message.envid}`;
    }
    return line;
  }

  #rcptLine(message: OutgoingMessage, index: number): string {
    const recipient = message.recipients[index];
    let line = `RCPT TO:<${recipient?.address ?? ''}>`;
    if (this.#capabilities.has('DSN')) {
      if (isParameter(recipient?.notify)) line += ` NOTIFY=${recipient.notify}`;
      if (isParameter(recipient?.orcpt)) line += ` ORCPT=${recipient.orcpt}`;
    }
    return line;
  }
}

const rejected = (reply: Reply, stage: SendStage): RecipientOutcome => ({ kind: 'rejected', reply, stage });
const local = (code: number, enhanced: string, text: string): Reply => ({ code, enhanced, text });
const isUnexpected = (reply: Reply): boolean => reply.code >= 300 && reply.code < 400;
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const hasControls = (address: string): boolean => /[\u0000-\u001f\u007f]/.test(address);
// biome-ignore lint/suspicious/noControlCharactersInRegex: the ASCII range is meant
const isNonAscii = (text: string): boolean => /[^\u0000-\u007f]/.test(text);
const isParameter = (value: string | undefined): value is string =>
  value !== undefined && /^[^\s\p{Cc}]+$/u.test(value);

function undecided(transaction: Transaction): number[] {
  return transaction.outcomes.flatMap((outcome, index) => (outcome === null ? [index] : []));
}

function rejectOpen(transaction: Transaction, reply: Reply, stage: SendStage = 'LOCAL'): void {
  for (const index of undecided(transaction)) transaction.outcomes[index] = rejected(reply, stage);
}

function breakOff(transaction: Transaction, thrown: unknown): void {
  const error = thrown instanceof Error ? thrown : new Error(String(thrown));
  transaction.contentError = error;
  for (const index of undecided(transaction)) transaction.outcomes[index] = { kind: 'broken', error };
}

/** RFC 5321 4.5.3.1.10: a 552 to RCPT that does not speak of the mailbox means "too many recipients", which is 452. */
function recipientReply(reply: ServerReply): Reply {
  const plain = reply.enhanced === '5.0.0' || reply.enhanced === '5.5.3';
  return reply.code === 552 && plain ? { code: 452, enhanced: '4.5.3', text: reply.text } : reply;
}
