/**
 * A message, as it comes in, in the pieces that a mail filter is told: its header fields one by one, then its body. Owns: where a field ends and where the header does. Promise: time
 * grows with the message alone, memory is one field; every byte behind the header is body, and a line that is no field begins it, as with Postfix and Sendmail. PURE.
 */
export type Piece =
  /** `value`: what follows the colon; lines of it end in `\n`. */
  | { readonly kind: 'field'; readonly name: string; readonly value: string }
  | { readonly kind: 'end of header' }
  | { readonly kind: 'body'; readonly bytes: Buffer }
  /** A field that does not fit: nothing comes behind it. */
  | { readonly kind: 'too big' };

const LF = 0x0a;
const CR = 0x0d;
const isSpace = (byte: number | undefined): boolean => byte === 0x20 || byte === 0x09;
/** White space before the colon: RFC 5322 4.5. */
const FIELD = /^([\x21-\x39\x3b-\x7e]+)[ \t]*:/;

export class ContentSplitter {
  readonly #maxFieldBytes: number;
  /** Whole lines of the field under way. */
  #field: Buffer[] = [];
  /** Of the line under way. */
  #line: Buffer[] = [];
  #heldBytes = 0;
  #state: 'header' | 'body' | 'too big' = 'header';

  constructor(maxFieldBytes: number) {
    this.#maxFieldBytes = maxFieldBytes;
  }

  push(chunk: Buffer): Piece[] {
    const pieces: Piece[] = [];
    let at = 0;
    while (this.#state === 'header' && at < chunk.length) {
      const end = chunk.indexOf(LF, at);
      const until = end < 0 ? chunk.length : end + 1;
      this.#line.push(chunk.subarray(at, until));
      this.#heldBytes += until - at;
      at = until;
      if (this.#heldBytes > this.#maxFieldBytes) {
        // The field before it may be what is large, or this line, or both: a field that is whole is told first.
        this.#overflow(pieces);
      }
      if (end >= 0 && this.#isHeader()) this.#lineEnded(pieces);
    }
    if (this.#state === 'body' && at < chunk.length) pieces.push({ kind: 'body', bytes: chunk.subarray(at) });
    return pieces;
  }

  /** The message is over. */
  end(): Piece[] {
    const pieces: Piece[] = [];
    if (this.#state !== 'header') return pieces;
    if (this.#line.length > 0) this.#lineEnded(pieces);
    if (this.#isHeader()) this.#headerEnded(pieces);
    return pieces;
  }

  #isHeader(): boolean {
    return this.#state === 'header';
  }

  #overflow(pieces: Piece[]): void {
    const lineBytes = this.#line.reduce((sum, { length }) => sum + length, 0);
    if (!isSpace(this.#line[0]?.[0])) this.#fieldEnded(pieces);
    this.#heldBytes = this.#field.reduce((sum, { length }) => sum + length, lineBytes);
    if (this.#heldBytes <= this.#maxFieldBytes) return;
    const line = Buffer.concat(this.#line);
    this.#line = [];
    if (this.#field.length === 0 && !FIELD.test(line.toString('latin1', 0, this.#maxFieldBytes))) {
      // No field of any size begins like that.
      this.#headerEnded(pieces);
      pieces.push({ kind: 'body', bytes: line });
      return;
    }
    this.#state = 'too big';
    this.#field = [];
    pieces.push({ kind: 'too big' });
  }

  #lineEnded(pieces: Piece[]): void {
    const line = this.#line.length === 1 ? (this.#line[0] as Buffer) : Buffer.concat(this.#line);
    this.#line = [];
    if (isSpace(line[0]) && this.#field.length > 0) {
      this.#field.push(line);
      return;
    }
    this.#fieldEnded(pieces);
    const isBlank = line[0] === LF || (line[0] === CR && line[1] === LF);
    if (!isBlank && FIELD.test(line.toString('latin1'))) {
      this.#field.push(line);
      this.#heldBytes = line.length;
      return;
    }
    this.#headerEnded(pieces);
    if (!isBlank) pieces.push({ kind: 'body', bytes: line });
  }

  #fieldEnded(pieces: Piece[]): void {
    if (this.#field.length === 0) return;
    const text = Buffer.concat(this.#field).toString('latin1');
    this.#field = [];
    const [head = '', name = ''] = FIELD.exec(text) ?? [];
    const value = text.slice(head.length).replaceAll('\r\n', '\n').replace(/\n$/, '');
    pieces.push({ kind: 'field', name, value });
  }

  #headerEnded(pieces: Piece[]): void {
    this.#fieldEnded(pieces);
    this.#state = 'body';
    this.#heldBytes = 0;
    pieces.push({ kind: 'end of header' });
  }
}
