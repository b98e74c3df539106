/**
 * A watch is one JSON document per line. Owns: cutting bytes into lines, over any chunk borders. Pure.
 * Refuses (throws) a line longer than `MAX_LINE_BYTES`: no object is that large, so something else is talking to us.
 */
const NEWLINE = 0x0a;
/** etcd refuses objects over 1.5 MiB; JSON of what it stores may be some times larger. */
const MAX_LINE_BYTES = 16 * 1024 * 1024;

export class LineCutter {
  #parts: Buffer[] = [];
  #bytes = 0;

  /** Whole lines that ended in this chunk, without empty ones. */
  push(chunk: Buffer): string[] {
    const lines: string[] = [];
    let from = 0;
    for (let at = chunk.indexOf(NEWLINE); at >= 0; at = chunk.indexOf(NEWLINE, from)) {
      this.#keep(chunk.subarray(from, at));
      from = at + 1;
      const line = Buffer.concat(this.#parts).toString('utf8').trim();
      this.#parts = [];
      this.#bytes = 0;
      if (line !== '') lines.push(line);
    }
    this.#keep(chunk.subarray(from));
    return lines;
  }

  #keep(part: Buffer): void {
    if (part.length === 0) return;
    this.#bytes += part.length;
    if (this.#bytes > MAX_LINE_BYTES) throw new Error(`a line over ${MAX_LINE_BYTES} bytes`);
    this.#parts.push(part);
  }
}
