/**
 * `Authentication-Results:` (RFC 8601) on the way out. Owns: the fields written in front, and which fields of the message are taken out: those that claim to be of one of our hosts
 * (section 5), wherever they came from. Promises: every other byte is passed on as it is; memory is one field, `MAX_HELD_BYTES` at most; time grows with the message alone. PURE.
 */
import { authservIdOf } from '../../common/authentication-results.ts';
import { matchingBytes } from './trace-headers.ts';

const NAME = 'Authentication-Results';
/** RFC 5322 2.1.1; what cannot be folded may be longer, up to the 998 that a line may have. */
const LINE = 78;
const LONGEST_WORD = 950;

/** The fields, each ending in CRLF; of what says nothing but an authserv-id there is none. */
export function resultsFields(results: readonly string[]): string {
  return results
    .filter((value) => value.includes(';'))
    .map((value) => folded(`${NAME}: ${printable(value)}`))
    .join('');
}

/** The value alone, for a field of another name; without the CRLF at its end. */
export const foldedResults = (value: string): string => folded(printable(value)).trimEnd();

const printable = (value: string): string => value.replace(/[^\x20-\x7e]/g, '?');

function folded(text: string): string {
  const lines: string[] = [];
  // A result begins on a line of its own; the space stays, so that unfolding gives what was folded.
  for (const result of text.split(/(?<=;)(?= )/)) {
    let line = '';
    for (const word of result.split(/(?= )/).map((one) => one.slice(0, LONGEST_WORD))) {
      if (line.trim() === '' || line.length + word.length <= LINE) line += word;
      else {
        lines.push(line);
        line = word;
      }
    }
    if (line.trim() !== '') lines.push(line);
  }
  return `${lines.join('\r\n')}\r\n`;
}

const LF = 0x0a;
const CR = 0x0d;
const COLON = 0x3a;
const EMPTY = Buffer.alloc(0);
const LOWER_NAME = Buffer.from(NAME.toLowerCase());
const isSpace = (byte: number | undefined): boolean => byte === 0x20 || byte === 0x09;
/** White space and line ends before the colon: RFC 5322 4.5. */
const FIELD = /^authentication-results[ \t\r\n]*:/i;
/** What is looked at of a line to see whether a field of ours begins with it. */
const LOOKED_AT = 200;
/** Of a field; as much as front ends let a whole header have unless told otherwise. More is in no header that anybody means: it begins behind a line that is no field. */
const MAX_HELD_BYTES = 128 * 1024;

/**
 * Takes the fields of our hosts out of a streamed message, up to its first empty line: readers differ in whether a line that is no field ends the header, and a header may be
 * missing. A field longer than `MAX_HELD_BYTES` is one of ours when so much of it says so: by its authserv-id or, where none has ended by then, by naming us anywhere.
 */
export class OwnResultsRemover {
  readonly #ids: readonly string[];
  /** The start of a line, too little of it to know what it is. */
  #start: Buffer = EMPTY;
  /** A field that may be one of them, as far as it has come. */
  #field: Buffer[] = [];
  #fieldBytes = 0;
  /** What happens to the field under way. */
  #mode: 'pass' | 'hold' | 'drop' | 'body' = 'pass';
  #isLineStart = true;
  #removed = 0;

  /** `results`: as they travel; of each only its authserv-id counts here. */
  constructor(results: readonly string[]) {
    this.#ids = results.map(authservIdOf);
    if (this.#ids.length === 0) this.#mode = 'body';
  }

  /** Fields removed so far. */
  get removed(): number {
    return this.#removed;
  }

  /** What of this chunk is to be passed on now; pieces share memory with the chunk. */
  push(chunk: Buffer): Buffer[] {
    if (this.#mode === 'body') return [chunk];
    const bytes = this.#start.length === 0 ? chunk : Buffer.concat([this.#start, chunk]);
    this.#start = EMPTY;
    const out: Buffer[] = [];
    /** Start of what went nowhere yet; all of it belongs to fields with the same mode. */
    let from = 0;
    for (let at = 0; at < bytes.length; ) {
      if (this.#isLineStart) {
        const mode = this.#modeOf(bytes, at, from);
        if (mode === 'more') {
          this.#take(bytes.subarray(from, at), out);
          this.#start = Buffer.from(bytes.subarray(at));
          return out;
        }
        if (mode === 'hold' || (mode !== 'same' && mode !== this.#mode)) {
          this.#take(bytes.subarray(from, at), out);
          this.#begin(mode, out);
          from = at;
        }
        if (mode === 'body') break;
      }
      const end = bytes.indexOf(LF, at);
      this.#isLineStart = end >= 0;
      at = end < 0 ? bytes.length : end + 1;
    }
    this.#take(bytes.subarray(from), out);
    return out;
  }

  /** What was still held at the end of the message. */
  end(): Buffer[] {
    const out: Buffer[] = [];
    const start = this.#start;
    this.#start = EMPTY;
    if (start.length > 0) {
      this.#begin(isNamed(start) ? 'hold' : 'pass', out);
      this.#take(start, out);
    }
    this.#begin('pass', out);
    return out;
  }

  /** Of the line that begins at `at`; `same`: it goes on with the field before it, of which this chunk has the bytes from `from` on. */
  #modeOf(bytes: Buffer, at: number, from: number): 'pass' | 'hold' | 'body' | 'same' | 'more' {
    const first = bytes[at];
    if (isSpace(first)) return 'same';
    if (first === LF) return 'body';
    if (first === CR) {
      if (at + 1 === bytes.length) return 'more';
      return bytes[at + 1] === LF ? 'body' : 'pass';
    }
    // A colon may stand at the start of the line after the name.
    if (first === COLON && this.#mode === 'hold' && !this.#hasColon(bytes.subarray(from, at))) return 'same';
    const matching = matchingBytes(bytes, at, LOWER_NAME);
    if (matching < NAME.length) return at + matching === bytes.length ? 'more' : 'pass';
    const end = bytes.indexOf(LF, at);
    if (end < 0 && bytes.length - at < LOOKED_AT) return 'more';
    return isNamed(bytes.subarray(at, end < 0 ? bytes.length : end)) ? 'hold' : 'pass';
  }

  #hasColon(rest: Buffer): boolean {
    return this.#field.some((piece) => piece.includes(COLON)) || rest.includes(COLON);
  }

  /** More of the field under way. */
  #take(piece: Buffer, out: Buffer[]): void {
    if (piece.length === 0 || this.#mode === 'drop') return;
    if (this.#mode !== 'hold') out.push(piece);
    else {
      this.#field.push(Buffer.from(piece));
      this.#fieldBytes += piece.length;
      if (this.#fieldBytes > MAX_HELD_BYTES) this.#mode = this.#settle(out);
    }
  }

  /** The field before is whole. */
  #begin(mode: 'pass' | 'hold' | 'body', out: Buffer[]): void {
    if (this.#mode === 'hold') this.#settle(out);
    this.#mode = mode;
  }

  #settle(out: Buffer[]): 'pass' | 'drop' {
    const field = Buffer.concat(this.#field, this.#fieldBytes);
    this.#field = [];
    this.#fieldBytes = 0;
    if (this.#isOurs(field)) {
      this.#removed++;
      return 'drop';
    }
    out.push(field);
    return 'pass';
  }

  #isOurs(field: Buffer): boolean {
    const text = field.toString('latin1', 0, Math.min(field.length, MAX_HELD_BYTES));
    return FIELD.test(text) && claims(text.replace(FIELD, ''), this.#ids, field.length <= MAX_HELD_BYTES);
  }
}

const isNamed = (line: Buffer): boolean =>
  /^authentication-results[ \t\r]*(?:$|:)/i.test(line.toString('latin1', 0, Math.min(line.length, LOOKED_AT)));

/** Whether the body of a field says that one of these hosts wrote it; one that cannot be read counts when it names one anywhere. */
function claims(body: string, ids: readonly string[], isWhole: boolean): boolean {
  const head = headOf(body, isWhole);
  if (head === null) return ids.some((id) => body.toLowerCase().includes(id));
  const words = head.toLowerCase().trim().split(/\s+/);
  const first = (words[0] ?? '').replace(/\.$/, '');
  // White space or comments inside the name are no syntax, and some reader may take them out; what follows may be a version.
  const joined = words.join('');
  return ids.some((id) => first === id || (joined.startsWith(id) && /^\.?\d*$/.test(joined.slice(id.length))));
}

/** What stands before the first semicolon without comments and quotes; null: a comment or quote does not end, or it is not known where it does. */
function headOf(body: string, isWhole: boolean): string | null {
  let head = '';
  let depth = 0;
  let isQuoted = false;
  for (let at = 0; at < body.length; at++) {
    const sign = body.charAt(at);
    if (sign === '\\' && (depth > 0 || isQuoted)) {
      at++;
      if (depth === 0) head += body.charAt(at);
    } else if (isQuoted || (sign === '"' && depth === 0)) {
      if (sign === '"') isQuoted = !isQuoted;
      else head += sign;
    } else if (sign === '(') depth++;
    else if (sign === ')' && depth > 0) depth--;
    else if (depth === 0) {
      if (sign === ';') return head;
      head += sign;
    }
  }
  return depth > 0 || isQuoted || !isWhole ? null : head;
}
