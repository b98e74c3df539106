/**
 * The wire: line discipline and data framing of RFC 5321, nothing else. Owns: where a command ends, where a message ends, dot
 * transparency (4.5.2), and what disqualifies a message while it streams by (semantics.md R11 and section 9).
 *
 * Promises: only CRLF ends a command; only CRLF.CRLF ends a message (the first CRLF may be the one that ended DATA); the outcome
 * does not depend on how the bytes were cut into chunks; a well-formed message comes out byte for byte with stuffed dots removed;
 * memory is bounded by one command line. Refuses: bare CR, bare LF, NUL and every limit - by naming the reply, after reading on to
 * the true end, so that nothing a client hid in a message is ever read as a command. Pure: no I/O, no time.
 */
import { isUtf8 } from 'node:buffer';
import type { Reply } from '../message.ts';
import { reply } from './replies.ts';

const CR = 13;
const LF = 10;
const DOT = 46;
const COLON = 58;

export type CommandLine =
  /** The line without its CRLF. May contain anything else, bare CR and LF too: the parser of the command refuses it. */
  { readonly kind: 'line'; readonly bytes: Buffer } | { readonly kind: 'too-long' };

// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const CONTROL = /[\x00-\x1f\x7f]/;
const EIGHT_BIT = /[\x80-\xff]/;

/** The text of a command line; null when it is not one line of UTF-8 text (a bare CR or LF is a control character too). */
export function commandText(bytes: Buffer): string | null {
  const text = bytes.toString('latin1');
  if (CONTROL.test(text)) return null;
  if (!EIGHT_BIT.test(text)) return text;
  return isUtf8(bytes) ? bytes.toString('utf8') : null;
}

/** Cuts the client's bytes into command lines. */
export class CommandLines {
  #buffer: Buffer = Buffer.alloc(0);
  #from = 0;
  #searched = 0;
  /** Bytes of an over-long line are dropped; its end still has to be found. */
  #skipping = false;

  push(chunk: Buffer): void {
    const rest = this.#buffer.length - this.#from;
    this.#searched -= this.#from;
    this.#buffer = rest === 0 ? chunk : Buffer.concat([this.#buffer.subarray(this.#from), chunk]);
    this.#from = 0;
  }

  /** Bytes received and not yet taken. */
  get bufferedBytes(): number {
    return this.#buffer.length - this.#from;
  }

  /** The next complete line, or null. `maxBytes` includes the CRLF (RFC 5321 4.5.3.1.4). */
  next(maxBytes: number): CommandLine | null {
    const buffer = this.#buffer;
    for (;;) {
      const lf = buffer.indexOf(LF, this.#searched);
      if (lf === -1) return this.#incomplete(maxBytes);
      this.#searched = lf + 1;
      if (lf === this.#from || buffer[lf - 1] !== CR) continue; // a bare LF ends nothing
      const line = buffer.subarray(this.#from, lf - 1);
      this.#from = lf + 1;
      const tooLong = this.#skipping || line.length + 2 > maxBytes;
      this.#skipping = false;
      return tooLong ? { kind: 'too-long' } : { kind: 'line', bytes: line };
    }
  }

  /** Everything not yet taken, for the data scanner or to be thrown away. */
  takeRest(): Buffer {
    const rest = this.#buffer.subarray(this.#from);
    this.#buffer = Buffer.alloc(0);
    this.#from = 0;
    this.#searched = 0;
    return rest;
  }

  #incomplete(maxBytes: number): null {
    const buffer = this.#buffer;
    this.#searched = buffer.length;
    if (this.#skipping || buffer.length - this.#from > maxBytes) {
      this.#skipping = true;
      // The last byte may be the CR of the CRLF that is still on its way.
      this.#from = buffer.at(-1) === CR ? buffer.length - 1 : buffer.length;
    }
    return null;
  }
}

export interface DataLimits {
  readonly maxMessageBytes: number;
  readonly maxHeaderBytes: number;
  /** One line with its CRLF. */
  readonly maxDataLineBytes: number;
  readonly maxReceivedHops: number;
}

export interface Scanned {
  /** Content to pass on, dots removed; null when there is none or the message is already disqualified. */
  readonly content: Buffer | null;
  /** What follows the end of the message; null while it has not been reached. */
  readonly rest: Buffer | null;
}

// Where the scanner is within a line. A dot that starts a line is never content: it ends the message or was stuffed.
const LINE_START = 0;
const AFTER_DOT = 1;
const AFTER_DOT_CR = 2;
const IN_TEXT = 3;
const AFTER_CR = 4;

// Where the scanner is within a header field; BODY once the header is over.
const FIELD_START = 0;
const FIELD_NAME = 1;
const FIELD_NAME_SPACE = 2;
const FIELD_VALUE = 3;
const BODY = 4;

// Faults are flags and the reply is chosen at the end by this order, so that it does not depend on how chunks were cut.
const NUL_BYTE = 1;
const BARE_CR = 2;
const BARE_LF = 4;
const TOO_BIG = 8;
const HEADER_TOO_BIG = 16;
const LINE_TOO_LONG = 32;
const TOO_MANY_HOPS = 64;

export type DataFault =
  | 'nulByte'
  | 'bareCr'
  | 'bareLf'
  | 'messageTooBig'
  | 'headerTooBig'
  | 'dataLineTooLong'
  | 'tooManyHops';

const FAULTS: readonly (readonly [number, DataFault])[] = [
  [NUL_BYTE, 'nulByte'],
  [BARE_CR, 'bareCr'],
  [BARE_LF, 'bareLf'],
  [TOO_BIG, 'messageTooBig'],
  [HEADER_TOO_BIG, 'headerTooBig'],
  [LINE_TOO_LONG, 'dataLineTooLong'],
  [TOO_MANY_HOPS, 'tooManyHops'],
];

const RECEIVED = Buffer.from('received');
const isSpace = (byte: number): boolean => byte === 32 || byte === 9;

/**
 * Reads one message after the 354. Give it every chunk until `rest` is not null. A chunk belongs to the scanner: stuffed dots are
 * removed in place, so that a message full of them costs no more than one copy.
 */
export class DataScanner {
  readonly #limits: DataLimits;
  #line = LINE_START;
  #field = FIELD_START;
  /** Letters of `received` matched so far by the field name; -1 when it is another one. */
  #matched = 0;
  #faults = 0;
  #hops = 0;
  /** Content bytes before the current chunk. */
  #sizeBytes = 0;
  /** Content bytes of the current line before the current chunk. */
  #lineBytes = 0;

  constructor(limits: DataLimits) {
    this.#limits = limits;
  }

  /** Content bytes so far: with CRLFs, without stuffed dots and the final dot (RFC 1870 section 5). */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** Null while nothing is wrong; final once the end was reached. */
  get fault(): DataFault | null {
    return FAULTS.find(([flag]) => (this.#faults & flag) !== 0)?.[1] ?? null;
  }

  /** What to answer to a message with a fault. */
  get rejected(): Reply | null {
    const limits = this.#limits;
    const fault = this.fault;
    switch (fault) {
      case null:
        return null;
      case 'messageTooBig':
        return reply(fault, { limit: limits.maxMessageBytes });
      case 'headerTooBig':
        return reply(fault, { limit: limits.maxHeaderBytes });
      case 'dataLineTooLong':
        return reply(fault, { limit: limits.maxDataLineBytes });
      case 'tooManyHops':
        return reply(fault, { limit: limits.maxReceivedHops });
      default:
        return reply(fault);
    }
  }

  scan(chunk: Buffer): Scanned {
    const length = chunk.length;
    const output = new Output(chunk);
    const skip = textSkipper(chunk);
    let pos = 0;
    /** Start of the current line's part in this chunk. */
    let lineFrom = 0;
    while (pos < length) {
      if (this.#line === IN_TEXT && this.#field >= FIELD_VALUE) {
        pos = skip(pos);
        if (pos === length) break;
      }
      const byte = chunk[pos] ?? 0;
      switch (this.#line) {
        case LINE_START:
          lineFrom = pos;
          this.#startLine(this.#sizeBytes + output.pendingBytes(pos));
          if (byte === DOT) {
            output.drop(pos, pos + 1);
            lineFrom = ++pos;
            this.#line = AFTER_DOT;
          } else this.#line = IN_TEXT;
          break;
        case AFTER_DOT:
          if (byte === CR) {
            output.drop(pos, pos + 1);
            lineFrom = ++pos;
            this.#line = AFTER_DOT_CR;
          } else this.#line = IN_TEXT;
          break;
        case AFTER_DOT_CR:
          if (byte === LF) return this.#finish(output, chunk.subarray(pos + 1));
          this.#faults |= BARE_CR;
          this.#line = IN_TEXT;
          break;
        case IN_TEXT:
          if (this.#field < FIELD_VALUE) this.#readField(byte);
          if (byte === CR) this.#line = AFTER_CR;
          else if (byte === LF) this.#faults |= BARE_LF;
          else if (byte === 0) this.#faults |= NUL_BYTE;
          pos++;
          break;
        default: // AFTER_CR
          if (byte === LF) {
            pos++;
            if (this.#lineBytes + pos - lineFrom > this.#limits.maxDataLineBytes) this.#faults |= LINE_TOO_LONG;
            this.#lineBytes = 0;
            lineFrom = pos;
            this.#line = LINE_START;
          } else {
            this.#faults |= BARE_CR;
            this.#line = IN_TEXT;
          }
      }
    }
    this.#lineBytes += length - lineFrom;
    if (this.#lineBytes > this.#limits.maxDataLineBytes) this.#faults |= LINE_TOO_LONG;
    return { content: this.#take(output, length), rest: null };
  }

  #finish(output: Output, rest: Buffer): Scanned {
    return { content: this.#take(output, -1), rest };
  }

  #take(output: Output, end: number): Buffer | null {
    if (end !== -1) output.keep(end);
    this.#sizeBytes += output.bytes;
    if (this.#sizeBytes > this.#limits.maxMessageBytes) this.#faults |= TOO_BIG;
    return this.#faults === 0 ? output.content() : null;
  }

  /** Called with the content offset of every line, the one that turns out to be the end of the message included. */
  #startLine(offset: number): void {
    if (this.#field === BODY) return;
    if (offset > this.#limits.maxHeaderBytes) this.#faults |= HEADER_TOO_BIG;
    this.#field = FIELD_START;
    // A message that starts with white space has no header; anywhere else it continues the field above.
    this.#matched = offset === 0 ? 0 : 1;
  }

  /** RFC 5322 2.2 and 4.5 (white space before the colon). A line that is no header field ends the header. */
  #readField(byte: number): void {
    if (this.#field === FIELD_START) {
      const first = this.#matched === 0;
      this.#matched = 0;
      if (isSpace(byte)) {
        this.#field = first ? BODY : FIELD_VALUE;
        return;
      }
      this.#field = byte === COLON ? BODY : FIELD_NAME;
    }
    if (byte === COLON && this.#field !== BODY) {
      this.#field = FIELD_VALUE;
      if (this.#matched === RECEIVED.length && ++this.#hops > this.#limits.maxReceivedHops)
        this.#faults |= TOO_MANY_HOPS;
    } else if (isSpace(byte)) this.#field = FIELD_NAME_SPACE;
    else if (this.#field !== FIELD_NAME || byte < 33 || byte > 126) this.#field = BODY;
    else if (this.#matched >= 0) this.#matched = RECEIVED[this.#matched] === (byte | 0x20) ? this.#matched + 1 : -1;
  }
}

/** What of a chunk is content, moved together in place. */
class Output {
  readonly #chunk: Buffer;
  /** Start of the run that is content but not yet placed. */
  #from = 0;
  /** Where the content placed so far starts and ends. */
  #start = 0;
  #end = 0;

  constructor(chunk: Buffer) {
    this.#chunk = chunk;
  }

  get bytes(): number {
    return this.#end - this.#start;
  }

  pendingBytes(pos: number): number {
    return this.bytes + pos - this.#from;
  }

  /** The bytes from `pos` to `next` are not content. */
  drop(pos: number, next: number): void {
    this.keep(pos);
    this.#from = next;
  }

  /** Everything up to `pos` that was not dropped is content. */
  keep(pos: number): void {
    const length = pos - this.#from;
    if (length > 0) {
      if (this.bytes === 0) {
        this.#start = this.#from;
        this.#end = this.#from;
      }
      this.#move(pos);
      this.#end += length;
    }
    this.#from = pos;
  }

  content(): Buffer | null {
    return this.bytes === 0 ? null : this.#chunk.subarray(this.#start, this.#end);
  }

  #move(to: number): void {
    const chunk = this.#chunk;
    if (this.#end === this.#from) return;
    if (to - this.#from > 64) {
      chunk.copyWithin(this.#end, this.#from, to);
      return;
    }
    let end = this.#end;
    for (let i = this.#from; i < to; i++) chunk[end++] = chunk[i] ?? 0;
  }
}

/**
 * A function that finds the next byte below 14 (CR, LF, NUL and a few harmless ones), four bytes at a time. `indexOf` for CR and
 * for LF costs twice as much with lines of ordinary length (docs/decisions/0003-smtp-server-adapter.md).
 */
function textSkipper(chunk: Buffer): (pos: number) => number {
  const length = chunk.length;
  const base = chunk.byteOffset;
  // The word view must be aligned; the bytes before and after it are looked at one by one.
  const lead = -base & 3;
  const count = length > lead ? (length - lead) >> 2 : 0;
  // A view of nothing would still have to be aligned with the end of the buffer.
  const words = count === 0 ? new Int32Array(0) : new Int32Array(chunk.buffer, base + lead, count);
  return (start) => {
    let pos = start;
    while (pos < length && ((pos - lead) & 3 || pos < lead)) {
      if ((chunk[pos] ?? 0) < 14) return pos;
      pos++;
    }
    let word = (pos - lead) >> 2;
    // "Some byte of w is below 14": exact as a yes or no, whatever the byte order.
    for (; word < count; word++) {
      const w = words[word] ?? 0;
      if (((w - 0x0e0e0e0e) | 0) & ~w & 0x80808080) break;
    }
    pos = Math.max(pos, lead + (word << 2));
    while (pos < length && (chunk[pos] ?? 0) >= 14) pos++;
    return pos;
  };
}
