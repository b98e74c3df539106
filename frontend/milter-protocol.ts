/**
 * The milter protocol of Sendmail, versions 2 to 6, as the mail server speaks it. Owns: packets as bytes, what is offered, and what a filter's answers mean. Promise: whatever comes is
 * an answer, or `GarbageError` with the reason; memory is one packet. A packet is a length (4 octets, of what follows), a code (1 octet) and data; texts end in NUL. PURE.
 */
import type { FilterField } from '../common/content-filter.ts';
import type { Reply } from '../common/message.ts';
import { REPLIES } from '../common/smtp/replies.ts';

export const VERSION = 6;

/** Commands that are sent. */
export const COMMAND = {
  negotiate: 'O',
  macros: 'D',
  connect: 'C',
  hello: 'H',
  mail: 'M',
  recipient: 'R',
  data: 'T',
  header: 'L',
  endOfHeader: 'N',
  body: 'B',
  endOfBody: 'E',
  abort: 'A',
  quit: 'Q',
} as const;
export type Command = (typeof COMMAND)[keyof typeof COMMAND];

/** Add header fields (SMFIF_ADDHDRS): the only change that is offered. */
const OFFERED_ACTIONS = 0x1;

/** Steps that a filter may do without, and answers that it may keep to itself (SMFIP_NO*, SMFIP_NR_*). */
export const STEP = {
  noConnect: 0x1,
  noHello: 0x2,
  noMail: 0x4,
  noRecipient: 0x8,
  noBody: 0x10,
  noHeader: 0x20,
  noEndOfHeader: 0x40,
  silentHeader: 0x80,
  noUnknown: 0x100,
  noData: 0x200,
  skip: 0x400,
  silentConnect: 0x1000,
  silentHello: 0x2000,
  silentMail: 0x4000,
  silentRecipient: 0x8000,
  silentData: 0x10000,
  silentUnknown: 0x20000,
  silentEndOfHeader: 0x40000,
  silentBody: 0x80000,
  /** White space behind the colon of a field is part of its value, in both directions. */
  leadingSpace: 0x100000,
} as const;
const OFFERED_STEPS = Object.values(STEP).reduce((sum, bit) => sum | bit, 0);

/** What a filter of the default size takes (MILTER_CHUNK_SIZE). */
export const MAX_DATA_BYTES = 65_535;
/** Of one answer; the largest there may be is a piece of another body, which is not offered. */
const MAX_ANSWER_BYTES = 65_536 + 16;

const NUL = Buffer.alloc(1);

/** Whoever reads texts of this protocol ends them at the first NUL. */
const text = (value: string, encoding: BufferEncoding = 'utf8'): Buffer =>
  Buffer.concat([Buffer.from(value.replaceAll('\0', ''), encoding), NUL]);

export function packet(command: Command, ...data: readonly Buffer[]): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(1 + data.reduce((sum, { length }) => sum + length, 0));
  head.write(command, 4, 'latin1');
  return Buffer.concat([head, ...data]);
}

export const texts = (...values: readonly string[]): Buffer => Buffer.concat(values.map((value) => text(value)));

/** A field as `ContentSplitter` has it: each sign is a byte. Whoever has not asked for it gets no white space behind the colon. */
export function header(name: string, value: string, leadingSpace: boolean): Buffer {
  const told = leadingSpace ? value : value.replace(/^[ \t]/, '');
  return packet(COMMAND.header, text(name, 'latin1'), text(told, 'latin1'));
}

export function negotiation(): Buffer {
  const data = Buffer.alloc(12);
  data.writeUInt32BE(VERSION);
  data.writeUInt32BE(OFFERED_ACTIONS, 4);
  data.writeUInt32BE(OFFERED_STEPS, 8);
  return packet(COMMAND.negotiate, data);
}

/** Macros belong to the command that comes next. */
export const macros = (command: Command, values: Readonly<Record<string, string | null>>): Buffer =>
  packet(
    COMMAND.macros,
    Buffer.from(command, 'latin1'),
    texts(...Object.entries(values).flatMap(([name, value]) => (value === null ? [] : [name, value]))),
  );

/** `address`: IPv4 or IPv6, as numbers. */
export function connection(hostname: string, address: string, port: number): Buffer {
  const at = Buffer.alloc(2);
  at.writeUInt16BE(port);
  const family = Buffer.from(address.includes(':') ? '6' : '4', 'latin1');
  return packet(COMMAND.connect, text(hostname), family, at, text(address));
}

type PlainKind = 'continue' | 'accept' | 'reject' | 'tempfail' | 'discard' | 'skip' | 'progress' | 'failed';

export type Answer =
  | { readonly kind: 'negotiated'; readonly version: number; readonly steps: number }
  | { readonly kind: PlainKind }
  | { readonly kind: 'reply'; readonly reply: Reply }
  /** `index`: where it goes; null: to the others. */
  | { readonly kind: 'field'; readonly field: FilterField; readonly index: number | null }
  /** Change, or with an empty value remove, a field: not offered, but of one that is not there it is an addition. */
  | { readonly kind: 'changed field'; readonly field: FilterField }
  /** What was not offered. */
  | { readonly kind: 'change'; readonly what: string };

export class GarbageError extends Error {}

const PLAIN: Readonly<Record<string, PlainKind>> = {
  c: 'continue',
  a: 'accept',
  r: 'reject',
  t: 'tempfail',
  d: 'discard',
  s: 'skip',
  p: 'progress',
  // "Cause a connection failure", "shut the connection down": of no use for a message.
  f: 'failed',
  '4': 'failed',
};

const CHANGES: Readonly<Record<string, string>> = {
  '+': 'add a recipient',
  '2': 'add a recipient',
  '-': 'remove a recipient',
  b: 'replace the body',
  e: 'change the sender',
  q: 'quarantine the message',
};

/** Packets out of a stream. */
export class AnswerReader {
  #held: Buffer = Buffer.alloc(0);

  /** Throws `GarbageError`: there is no way back into step. */
  push(chunk: Buffer): Answer[] {
    this.#held = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk]);
    const answers: Answer[] = [];
    while (this.#held.length >= 5) {
      const length = this.#held.readUInt32BE();
      if (length === 0 || length > MAX_ANSWER_BYTES) throw new GarbageError(`an answer of ${length} bytes`);
      if (this.#held.length < 4 + length) break;
      answers.push(answerOf(this.#held.toString('latin1', 4, 5), this.#held.subarray(5, 4 + length)));
      this.#held = this.#held.subarray(4 + length);
    }
    return answers;
  }
}

function answerOf(code: string, data: Buffer): Answer {
  const kind = PLAIN[code];
  if (kind !== undefined) return { kind };
  const what = CHANGES[code];
  if (what !== undefined) return { kind: 'change', what };
  if (code === COMMAND.negotiate) {
    if (data.length < 12) throw new GarbageError('a negotiation that is too short');
    return { kind: 'negotiated', version: data.readUInt32BE(), steps: data.readUInt32BE(8) };
  }
  if (code === 'h') return { kind: 'field', field: fieldOf(data), index: null };
  if (code === 'i' && data.length > 4)
    return { kind: 'field', field: fieldOf(data.subarray(4)), index: data.readUInt32BE() };
  if (code === 'm' && data.length > 4) return { kind: 'changed field', field: fieldOf(data.subarray(4)) };
  if (code === 'y') return { kind: 'reply', reply: replyOf(textsOf(data)[0] ?? '') };
  throw new GarbageError(`an answer with code ${JSON.stringify(code)}`);
}

/** Each must have its end. */
function textsOf(data: Buffer): readonly string[] {
  if (data.at(-1) !== 0) throw new GarbageError('a text without an end');
  return data.toString('latin1', 0, data.length - 1).split('\0');
}

function fieldOf(data: Buffer): FilterField {
  const [name = '', value, ...more] = textsOf(data);
  if (value === undefined || more.length > 0) throw new GarbageError('a header field without name and value');
  // What is not ASCII is no header (RFC 5322 2.2), and nothing that was signed.
  return {
    name,
    value: value
      .replaceAll('\r\n', '\n')
      .replace(/[^\0-\x7f]/g, '?')
      .trimEnd(),
  };
}

const MAX_REPLY_LINES = 10;

/** `550 5.7.1 Spam`, or several such lines. Sendmail takes it for a format: a percent sign comes twice. */
function replyOf(said: string): Reply {
  const [first = '', ...rest] = said.split(/\r?\n/, MAX_REPLY_LINES).filter((line) => line !== '');
  const match = /^([45]\d\d)(?:[ -]|$)(?:([45]\.\d{1,3}\.\d{1,3})(?: |$))?/.exec(first);
  if (match === null) throw new GarbageError(`the reply ${JSON.stringify(first.slice(0, 100))}`);
  const [, code = '', enhanced] = match;
  const own = code.startsWith('5') ? REPLIES.filterRejected : REPLIES.filterDeferred;
  const lines = [first, ...rest].map((line) =>
    line
      .replace(/^\d\d\d(?:[ -]|$)(?:\d\.\d{1,3}\.\d{1,3}(?: |$))?/, '')
      .replace(/%(%?)/g, '$1')
      .replace(/[^\x20-\x7e]/g, '?')
      .slice(0, 400),
  );
  const words = lines.join('\n').trim();
  return {
    // RFC 5321 3.8: a server closes the connection with it.
    code: code === '421' ? 451 : Number(code),
    enhanced: enhanced?.[0] === code[0] ? (enhanced ?? own.enhanced) : own.enhanced,
    text: words === '' ? own.text : words,
  };
}
