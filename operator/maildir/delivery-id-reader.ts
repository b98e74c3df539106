/**
 * Finds the values of `X-MailCluster-Delivery` and `X-MailCluster-Content` while a message streams by. Owns: the first bytes of the header. Memory and work are
 * bounded: the sender puts the field in front of everything but its `Received:`; one that comes after the first 64 KB is not seen.
 */
const MAX_BYTES = 65_536;
const DELIVERY = /^X-MailCluster-Delivery[ \t]*:[ \t]*([\x21-\x7e]{1,200})[ \t]*$/im;
const CONTENT = /^X-MailCluster-Content[ \t]*:[ \t]*([\x21-\x7e]{1,200})[ \t]*$/im;

export class DeliveryIdReader {
  #header = '';
  #done = false;
  #id: string | null = null;
  #contentKey: string | null = null;

  push(content: Buffer): void {
    if (this.#done) return;
    // The first bytes of a line may have come with the chunk before.
    const from = Math.max(0, this.#header.length - 3);
    this.#header += content.toString('latin1', 0, MAX_BYTES - this.#header.length);
    const end = this.#header.startsWith('\r\n') ? 0 : this.#header.indexOf('\r\n\r\n', from);
    if (end < 0 && this.#header.length < MAX_BYTES) return;
    // A line that is cut off is not looked at: half an id is none.
    this.#finish(this.#header.slice(0, end < 0 ? this.#header.lastIndexOf('\n') : end));
  }

  /** Null when there is no such field. Ask at the end of the message. */
  get id(): string | null {
    if (!this.#done) this.#finish(this.#header);
    return this.#id;
  }

  /** The same: what a client's own retry has as well. */
  get contentKey(): string | null {
    if (!this.#done) this.#finish(this.#header);
    return this.#contentKey;
  }

  #finish(header: string): void {
    this.#done = true;
    this.#header = '';
    const lines = header.replaceAll('\r', '');
    this.#id = DELIVERY.exec(lines)?.[1] ?? null;
    this.#contentKey = CONTENT.exec(lines)?.[1] ?? null;
  }
}
