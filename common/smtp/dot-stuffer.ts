/**
 * Transparency of the content on its way out (RFC 5321 4.5.2), streaming. Owns: the last two bytes sent.
 * A dot after *any* LF is doubled: for well-formed content that is the same as after CRLF, and content with a bare LF can never be read
 * as an end of data by a lax next hop.
 */
const LF = 0x0a;
const CR = 0x0d;
const DOT = 0x2e;
const LF_DOT = Buffer.from('\n.');

export class DotStuffer {
  #last = LF;
  #beforeLast = CR;

  /** The chunk itself when it holds nothing to double, else a copy with the dots. */
  push(chunk: Buffer): Buffer {
    if (chunk.length === 0) return chunk;
    const at: number[] = [];
    if (this.#last === LF && chunk[0] === DOT) at.push(0);
    for (let found = chunk.indexOf(LF_DOT); found >= 0; found = chunk.indexOf(LF_DOT, found + 2)) at.push(found + 1);
    this.#beforeLast = chunk.length > 1 ? (chunk[chunk.length - 2] ?? 0) : this.#last;
    this.#last = chunk[chunk.length - 1] ?? 0;
    if (at.length === 0) return chunk;
    const out = Buffer.allocUnsafe(chunk.length + at.length);
    let from = 0;
    let to = 0;
    for (const dot of at) {
      to += chunk.copy(out, to, from, dot);
      out[to++] = DOT;
      from = dot;
    }
    chunk.copy(out, to, from);
    return out;
  }

  /** End of data; first ends the last line when the content did not (RFC 5321 4.1.1.4). */
  end(): Buffer {
    return Buffer.from(this.#last === LF && this.#beforeLast === CR ? '.\r\n' : '\r\n.\r\n');
  }
}
