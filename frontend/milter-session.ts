/**
 * What one mail filter is told about one message, and what it says (milter protocol). Owns: the order of commands, what of the message waits for the filter, the fields that it added.
 * Promises: one command at a time, each with its answer; at most `QUEUE_BYTES` and one chunk of the body wait, then the client does; the outcome is there within the time of one answer
 * after the end, `MAX_WAIT_MS` at most; whoever is not wanted any more is told (ABORT, QUIT) and left. Refuses what was not offered. Fails with `FilterFailure`.
 */
import {
  detailOf,
  type FilterField,
  MAX_FILTER_FIELDS,
  MAX_FILTER_FIELDS_LENGTH,
  problemOf,
} from '../common/content-filter.ts';
import type { Envelope, EnvelopeRecipient, Reply } from '../common/message.ts';
import { unreachable } from '../common/platform/assert.ts';
import type { Clock } from '../common/platform/clock.ts';
import { describeError } from '../common/platform/lifecycle.ts';
import { reply } from '../common/smtp/replies.ts';
import { type FilterAddress, FilterFailure, MilterConnection } from './milter-connection.ts';
import { ContentSplitter, type Piece } from './milter-content.ts';
import {
  type Answer,
  COMMAND,
  type Command,
  connection,
  header,
  MAX_DATA_BYTES,
  macros,
  negotiation,
  packet,
  STEP,
  texts,
  VERSION,
} from './milter-protocol.ts';

export type Outcome =
  | { readonly kind: 'accepted'; readonly fields: readonly FilterField[] }
  | { readonly kind: 'rejected' | 'deferred' | 'discarded'; readonly reply: Reply }
  | { readonly kind: 'failed'; readonly failure: FilterFailure };

export interface MilterTarget extends FilterAddress {
  readonly timeoutMs: number;
}

/** What macros say besides the envelope. */
export interface MilterFacts {
  readonly envelope: Envelope;
  /** Id of the attempt. */
  readonly id: string;
  readonly hostname: string;
}

const QUEUE_BYTES = 128 * 1024;
/** A client waits ten minutes for its answer (RFC 5321 4.5.3.2.6), the transports need their part. */
const MAX_WAIT_MS = 240_000;
/** Of one header field with its name: the data of one packet. */
export const MAX_FIELD_BYTES = 65_000;

/** Of its header fields, in lower case: a longer header is not remembered. */
const MAX_NAMES = 2_000;

/** Of which a message has one at most (RFC 5322 3.6, RFC 2045 3): a second one above it would be another message. */
const ONCE: ReadonlySet<string> = new Set([
  ...['date', 'from', 'sender', 'reply-to', 'to', 'cc', 'bcc', 'message-id', 'in-reply-to', 'references', 'subject'],
  ...['mime-version', 'return-path'],
]);

const ACCEPTED: Outcome = { kind: 'accepted', fields: [] };

export class MilterSession {
  readonly #clock: Clock;
  readonly #facts: MilterFacts;
  readonly #connection: MilterConnection;
  readonly #content: WaitingContent;
  readonly #splitter = new ContentSplitter(MAX_FIELD_BYTES);
  readonly #outcome: Promise<Outcome>;
  #steps = 0;
  #isSkipped = false;
  /** Of the fields of the message. */
  readonly #names = new Set<string>();
  #added: FilterField[] = [];
  #addedLength = 0;

  constructor(clock: Clock, target: MilterTarget, facts: MilterFacts, drain: () => void) {
    this.#clock = clock;
    this.#facts = facts;
    this.#content = new WaitingContent(drain);
    this.#connection = new MilterConnection(clock, target, target.timeoutMs);
    this.#outcome = this.#run();
  }

  /** False: wait until the drain that was given. */
  write(chunk: Buffer): boolean {
    return this.#content.push(chunk);
  }

  async end(): Promise<Outcome> {
    this.#content.end();
    const timer = this.#clock.setTimer(MAX_WAIT_MS, () =>
      this.#connection.giveUp(
        new FilterFailure('timeout', `progress, and no answer in ${MAX_WAIT_MS / 1000} s after the end of the message`),
      ),
    );
    const outcome = await this.#outcome;
    timer.cancel();
    return outcome;
  }

  /** Nobody wants to know any more. */
  abandon(): void {
    this.#content.swallow();
    this.#connection.close(packet(COMMAND.abort), packet(COMMAND.quit));
  }

  async #run(): Promise<Outcome> {
    try {
      const early = await this.#converse();
      this.#connection.close(...(early.isOver ? [] : [packet(COMMAND.abort)]), packet(COMMAND.quit));
      return early.outcome;
    } catch (error) {
      this.#connection.close(packet(COMMAND.abort), packet(COMMAND.quit));
      const failure = error instanceof FilterFailure ? error : new FilterFailure('garbage', describeError(error));
      return { kind: 'failed', failure };
    } finally {
      this.#content.swallow();
    }
  }

  /** `isOver`: the filter has said its last word about the whole of it. */
  async #converse(): Promise<{ readonly outcome: Outcome; readonly isOver: boolean }> {
    await this.#connection.connected();
    await this.#negotiate();
    const early = (await this.#tellEnvelope()) ?? (await this.#tellContent());
    if (early !== null) return { outcome: early, isOver: false };
    return { outcome: await this.#askForVerdict(), isOver: true };
  }

  async #negotiate(): Promise<void> {
    await this.#connection.send(negotiation());
    const answer = await this.#negotiated();
    if (answer.kind !== 'negotiated') throw unexpected(answer, 'its negotiation');
    if (answer.version < 2 || answer.version > VERSION)
      throw new FilterFailure('unsupported', `it speaks version ${answer.version} of the protocol, we 2 to ${VERSION}`);
    this.#steps = answer.steps;
    // DATA came with version 4: an older filter does not know it.
    if (answer.version < 4) this.#steps |= STEP.noData;
  }

  /** A filter of Sendmail's library that needs more than was offered hangs up here, and says so in its own log only. */
  async #negotiated(): Promise<Answer> {
    try {
      return await this.#connection.answer();
    } catch (error) {
      if (!(error instanceof FilterFailure) || error.reason !== 'closed') throw error;
      const why = 'it hung up when it was told that it may add header fields and nothing else';
      throw new FilterFailure('unsupported', `${why}: ${error.message}`);
    }
  }

  async #tellEnvelope(): Promise<Outcome | null> {
    const { envelope, id, hostname } = this.#facts;
    const { client, listener, recipients } = envelope;
    // A dual-stack socket shows IPv4 clients as IPv4-mapped addresses (RFC 4291 2.5.5.2).
    const address = client.address.replace(/^::ffff:(?=\d+\.)/i, '');
    const name = `[${address}]`;
    const { tls, user } = client;
    const atConnect = {
      ...{ j: hostname, _: name, v: 'MailCluster', '{daemon_name}': listener },
      ...{ '{client_addr}': address, '{client_name}': name, '{client_port}': `${client.port}` },
    };
    const atHello = { '{tls_version}': tls?.version ?? null, '{cipher}': tls?.cipher ?? null };
    // Which mechanism it was is not known any more; filters ask whether there is one.
    const atMail = {
      ...{ i: id, '{auth_authen}': user, '{auth_type}': user === null ? null : 'SASL' },
      '{mail_addr}': envelope.reversePath,
    };
    const { noConnect, noHello, noMail, noRecipient, noData } = STEP;
    const { silentConnect, silentHello, silentMail, silentRecipient, silentData } = STEP;
    const hello = packet(COMMAND.hello, texts(client.helo));
    const mail = packet(COMMAND.mail, texts(`<${envelope.reversePath}>`, ...parametersOf(envelope)));
    return (
      (await this.#tell(connection(name, address, client.port), noConnect, silentConnect, atConnect)) ??
      (await this.#tell(hello, noHello, silentHello, atHello)) ??
      (await this.#tell(mail, noMail, silentMail, atMail)) ??
      (await this.#tellEach(recipients, (one) => {
        const command = packet(COMMAND.recipient, texts(`<${one.address}>`, ...parametersOfRecipient(one)));
        return this.#tell(command, noRecipient, silentRecipient, { i: id, '{rcpt_addr}': one.address });
      })) ??
      (await this.#tell(packet(COMMAND.data), noData, silentData, { i: id }))
    );
  }

  async #tellEach<T>(all: Iterable<T>, tell: (one: T) => Promise<Outcome | null>): Promise<Outcome | null> {
    for (const one of all) {
      const early = await tell(one);
      if (early !== null) return early;
    }
    return null;
  }

  async #tellContent(): Promise<Outcome | null> {
    for (;;) {
      const bytes = await this.#content.take(MAX_DATA_BYTES);
      const pieces = bytes === null ? this.#splitter.end() : this.#splitter.push(bytes);
      const early = await this.#tellEach(pieces, (piece) => this.#tellPiece(piece));
      if (early !== null || bytes === null) return early;
    }
  }

  async #tellPiece(piece: Piece): Promise<Outcome | null> {
    const leadingSpace = (this.#steps & STEP.leadingSpace) !== 0;
    switch (piece.kind) {
      case 'field':
        if (this.#names.size < MAX_NAMES) this.#names.add(piece.name.toLowerCase());
        return this.#tell(header(piece.name, piece.value, leadingSpace), STEP.noHeader, STEP.silentHeader);
      case 'end of header':
        return this.#tell(packet(COMMAND.endOfHeader), STEP.noEndOfHeader, STEP.silentEndOfHeader, {
          i: this.#facts.id,
        });
      case 'body':
        if (this.#isSkipped) return null;
        return this.#tell(packet(COMMAND.body, piece.bytes), STEP.noBody, STEP.silentBody);
      case 'too big':
        // What it cannot be told, it cannot judge; with Accept, too, or a long field would be a way past it.
        return { kind: 'rejected', reply: reply('filterFieldTooBig', { limit: MAX_FIELD_BYTES }) };
      default:
        return unreachable(piece, 'Unknown piece of a message');
    }
  }

  /** A command that may be the last one. */
  async #tell(
    command: Buffer,
    unwanted: number,
    silent: number,
    values?: Readonly<Record<string, string | null>>,
  ): Promise<Outcome | null> {
    if ((this.#steps & unwanted) !== 0) return null;
    const before = values === undefined ? [] : [macros(command.toString('latin1', 4, 5) as Command, values)];
    await this.#connection.send(...before, command);
    if ((this.#steps & silent) !== 0) return null;
    const answer = await this.#connection.answer();
    if (answer.kind === 'continue') return null;
    if (answer.kind === 'skip' && unwanted === STEP.noBody) {
      this.#isSkipped = true;
      return null;
    }
    const early = verdictOf(answer);
    if (early === null) throw unexpected(answer, 'an answer before the end of the message');
    return early;
  }

  async #askForVerdict(): Promise<Outcome> {
    await this.#connection.send(macros(COMMAND.endOfBody, { i: this.#facts.id }), packet(COMMAND.endOfBody));
    for (;;) {
      const answer = await this.#connection.answer();
      if (answer.kind === 'field') this.#add(answer.field, answer.index);
      else if (answer.kind === 'changed field') this.#change(answer.field);
      else {
        const verdict = verdictOf(answer);
        if (answer.kind !== 'continue' && verdict === null) throw unexpected(answer, 'its verdict');
        return verdict === null || verdict.kind === 'accepted' ? { kind: 'accepted', fields: this.#added } : verdict;
      }
    }
  }

  /**
   * The message stays as it came: a mark of the filter (so rspamd marks spam) goes above the field that the message has, where readers find it first, and a
   * sender who writes such a field himself gains nothing. What it has added itself it may not take back; what is to go stays.
   */
  #change(field: FilterField): void {
    const name = field.name.toLowerCase();
    if (this.#added.some((one) => one.name.toLowerCase() === name))
      throw new FilterFailure('unsupported', 'it wants to change or remove a header field that it has added');
    const mayBeThere = this.#names.has(name) || this.#names.size >= MAX_NAMES;
    const isOnce = ONCE.has(name) || name.startsWith('content-');
    if (mayBeThere && (isOnce || field.value === ''))
      throw new FilterFailure('unsupported', 'it wants to change or remove a header field, and may add some only');
    if (field.value !== '') this.#add(field, 0);
  }

  /** All go above the message; `index` 0 and 1 are above those before. */
  #add(said: FilterField, index: number | null): void {
    const isBare = (this.#steps & STEP.leadingSpace) === 0;
    const field = isBare && said.value !== '' ? { ...said, value: ` ${said.value}` } : said;
    const problem = problemOf(field);
    const shown = JSON.stringify(field.name.slice(0, 100));
    if (problem !== null)
      throw new FilterFailure('unsupported', `it wants to add a header field ${shown}, but ${problem}`);
    this.#addedLength += detailOf(field).length;
    if (this.#added.length >= MAX_FILTER_FIELDS || this.#addedLength > MAX_FILTER_FIELDS_LENGTH) {
      const most = `${MAX_FILTER_FIELDS} header fields of ${MAX_FILTER_FIELDS_LENGTH} characters in all`;
      throw new FilterFailure('unsupported', `it wants to add more than ${most}`);
    }
    const at = index === null ? this.#added.length : Math.max(0, index - 1);
    this.#added.splice(at, 0, field);
  }
}

/** Null: it is none. */
function verdictOf(answer: Answer): Outcome | null {
  switch (answer.kind) {
    case 'accept':
      return ACCEPTED;
    case 'reject':
      return { kind: 'rejected', reply: reply('filterRejected') };
    // Nobody's mail vanishes: who sent it hears that it was not taken.
    case 'discard':
      return { kind: 'discarded', reply: reply('filterRejected') };
    case 'tempfail':
      return { kind: 'deferred', reply: reply('filterDeferred') };
    case 'reply':
      return { kind: answer.reply.code < 500 ? 'deferred' : 'rejected', reply: answer.reply };
    default:
      return null;
  }
}

function unexpected(answer: Answer, place: string): FilterFailure {
  if (answer.kind === 'change')
    return new FilterFailure('unsupported', `it wants to ${answer.what}, and may add header fields only`);
  if (answer.kind === 'failed') return new FilterFailure('closed', 'it says that it cannot go on');
  return new FilterFailure('garbage', `${answer.kind} in place of ${place}`);
}

/** ESMTP parameters, as clients write them. */
function parametersOf({ body, smtputf8, declaredSizeBytes }: Envelope): readonly string[] {
  return [
    ...(declaredSizeBytes === null ? [] : [`SIZE=${declaredSizeBytes}`]),
    ...(body === '8BITMIME' ? ['BODY=8BITMIME'] : []),
    ...(smtputf8 ? ['SMTPUTF8'] : []),
  ];
}

const parametersOfRecipient = ({ notify, orcpt }: EnvelopeRecipient): readonly string[] => [
  ...(notify === undefined ? [] : [`NOTIFY=${notify}`]),
  ...(orcpt === undefined ? [] : [`ORCPT=${orcpt}`]),
];

/** What came of a message and the filter has not been told. */
class WaitingContent {
  readonly #drain: () => void;
  #chunks: Buffer[] = [];
  #bytes = 0;
  #isFull = false;
  #isEnded = false;
  #isSwallowed = false;
  #wake: (() => void) | null = null;

  constructor(drain: () => void) {
    this.#drain = drain;
  }

  /** False: full. */
  push(chunk: Buffer): boolean {
    if (this.#isSwallowed || chunk.length === 0) return true;
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
    this.#isFull = this.#bytes >= QUEUE_BYTES;
    this.#wake?.();
    return !this.#isFull;
  }

  end(): void {
    this.#isEnded = true;
    this.#wake?.();
  }

  /** What waits and what comes is wanted no more. */
  swallow(): void {
    this.#isSwallowed = true;
    this.#chunks = [];
    this.#bytes = 0;
    this.#relax();
    this.#wake?.();
  }

  /** Small pieces together, up to this; null: that was all. */
  async take(maxBytes: number): Promise<Buffer | null> {
    while (this.#chunks.length === 0) {
      if (this.#isSwallowed) throw new FilterFailure('closed', 'nobody wants to know any more');
      if (this.#isEnded) return null;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = null;
    }
    const taken: Buffer[] = [];
    let room = maxBytes;
    while (room > 0) {
      const [first] = this.#chunks;
      if (first === undefined) break;
      const part = first.subarray(0, room);
      taken.push(part);
      room -= part.length;
      if (part.length === first.length) this.#chunks.shift();
      else this.#chunks[0] = first.subarray(part.length);
    }
    this.#bytes -= maxBytes - room;
    if (this.#bytes < QUEUE_BYTES / 2) this.#relax();
    return taken.length === 1 ? (taken[0] as Buffer) : Buffer.concat(taken);
  }

  #relax(): void {
    if (!this.#isFull) return;
    this.#isFull = false;
    this.#drain();
  }
}
