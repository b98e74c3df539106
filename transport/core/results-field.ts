/**
 * `Authentication-Results:` (RFC 8601) on the way out. Owns: the fields written in front, and which fields of the message are taken out: those that claim to be of one of our hosts
 * (section 5), wherever they came from. Promise: every other byte is passed on as it is; memory is one field. PURE.
 */
import { authservIdOf } from '../../common/authentication-results.ts';

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
const isSpace = (byte: number | undefined): boolean => byte === 0x20 || byte === 0x09;
/** White space and line ends before the colon: RFC 5322 4.5. */
const FIELD = /^authentication-results[ \t\r\n]*:/i;

/** Takes the fields of our hosts out of a streamed message. */
export class OwnResultsRemover {
  readonly #ids: readonly string[];
  /** From the first byte that is not decided about. */
  #held: Buffer = Buffer.alloc(0);
  /** `#held` begins with a field that may be one of them; else with the start of a line, or nothing. */
  #suspect = false;
  #inBody = false;
  #removed = 0;

  /** `results`: as they travel; of each only its authserv-id counts here. */
  constructor(results: readonly string[]) {
    this.#ids = results.map(authservIdOf);
    this.#inBody = this.#ids.length === 0;
  }

  /** Fields removed so far. */
  get removed(): number {
    return this.#removed;
  }

  /** What of this chunk is to be passed on now; pieces share memory with the chunk. */
  push(chunk: Buffer): Buffer[] {
    if (this.#inBody) return [chunk];
    const bytes = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk]);
    const out: Buffer[] = [];
    /** Start of what is not in `out` yet. */
    let from = 0;
    let at = 0;
    for (let end = bytes.indexOf(LF, at); end >= 0 && !this.#inBody; end = bytes.indexOf(LF, at)) {
      if (!this.#continues(bytes, at, from)) {
        from = this.#decide(bytes, from, at, out);
        this.#inBody = bytes[at] === LF || (bytes[at] === CR && bytes[at + 1] === LF);
        this.#suspect = !this.#inBody && isNamed(bytes.subarray(at, end));
        if (this.#suspect) {
          if (at > from) out.push(bytes.subarray(from, at));
          from = at;
        }
      }
      at = end + 1;
    }
    // An unfinished line, and the field it may belong to, wait for the rest.
    const until = this.#inBody ? bytes.length : this.#suspect ? from : at;
    if (until > from) out.push(bytes.subarray(from, until));
    this.#held = Buffer.from(bytes.subarray(until));
    return out;
  }

  /** What was still held at the end of the message. */
  end(): Buffer[] {
    const held = this.#held;
    this.#held = Buffer.alloc(0);
    if (held.length === 0) return [];
    const isField = this.#suspect || isNamed(held);
    this.#suspect = false;
    return isField && this.#isOurs(held) ? [] : [held];
  }

  /** Whether this line goes on with the field before it; a colon may stand at the start of the line after the name. */
  #continues(bytes: Buffer, at: number, from: number): boolean {
    if (isSpace(bytes[at])) return true;
    return this.#suspect && at > from && bytes[at] === 0x3a && bytes.indexOf(0x3a, from) === at;
  }

  /** The field before `at` is whole: where what is to be kept begins. */
  #decide(bytes: Buffer, from: number, at: number, out: Buffer[]): number {
    if (!this.#suspect || at === from) return from;
    this.#suspect = false;
    if (this.#isOurs(bytes.subarray(from, at))) return at;
    out.push(bytes.subarray(from, at));
    return at;
  }

  #isOurs(field: Buffer): boolean {
    const text = field.toString('latin1');
    if (!FIELD.test(text)) return false;
    const isOurs = claims(text.replace(FIELD, ''), this.#ids);
    if (isOurs) this.#removed++;
    return isOurs;
  }
}

const isNamed = (line: Buffer): boolean =>
  /^authentication-results[ \t\r]*(?:$|:)/i.test(line.toString('latin1', 0, Math.min(line.length, 200)));

/** Whether the body of a field says that one of these hosts wrote it; one that cannot be read counts when it names one anywhere. */
function claims(body: string, ids: readonly string[]): boolean {
  const head = headOf(body);
  if (head === null) return ids.some((id) => body.toLowerCase().includes(id));
  const words = head.toLowerCase().trim().split(/\s+/);
  const first = (words[0] ?? '').replace(/\.$/, '');
  // White space or comments inside the name are no syntax, and some reader may take them out; what follows may be a version.
  const joined = words.join('');
  return ids.some((id) => first === id || (joined.startsWith(id) && /^\.?\d*$/.test(joined.slice(id.length))));
}

/** What stands before the first semicolon without comments and quotes; null: a comment or quote does not end. */
function headOf(body: string): string | null {
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
  return depth > 0 || isQuoted ? null : head;
}
