/**
 * Finds the Message-ID (RFC 5322 3.6.4) of a message while it streams by. Owns: at most the first 16 KiB of the header; later it gives up: the field is for
 * people who search, nothing depends on it.
 */
const LIMIT_BYTES = 16_384;
const EMPTY = Buffer.alloc(0);
const FIELD = /(?:^|\r\n)Message-ID:[ \t]*(?:\r\n[ \t]+)?(<[^\r\n<> \t]{1,900}>)/i;

export class MessageIdFinder {
  #head: Buffer[] = [];
  #size = 0;
  #found: string | null = null;
  #over = false;

  push(chunk: Buffer): void {
    if (this.#over) return;
    this.#head.push(chunk.subarray(0, LIMIT_BYTES - this.#size));
    this.#size += Math.min(chunk.length, LIMIT_BYTES - this.#size);
    if (this.#size >= LIMIT_BYTES || chunk.includes('\r\n\r\n')) this.#search();
  }

  /** The id with its angle brackets, or null; call at the end of data. */
  get messageId(): string | null {
    if (!this.#over) this.#search();
    return this.#found;
  }

  #search(): void {
    this.#over = true;
    const [first = EMPTY] = this.#head;
    const head = this.#head.length > 1 ? Buffer.concat(this.#head) : first;
    const end = head.indexOf('\r\n\r\n');
    this.#found = FIELD.exec(head.toString('latin1', 0, end < 0 ? head.length : end + 2))?.[1] ?? null;
    this.#head = [];
  }
}
