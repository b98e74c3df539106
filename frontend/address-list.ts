/**
 * Many addresses in little memory, PURE. Owns: the bytes of the file they came in, and a table of where in it each begins: 100,000 addresses are
 * their own length and a megabyte. Compares without case. Refuses: a list with a line that is no address, more than `MAX_ADDRESSES`.
 */
export const MAX_ADDRESSES = 500_000;
export const MAX_LIST_BYTES = 32 * 1_048_576;

const MAX_ADDRESS_BYTES = 254; // RFC 5321 4.5.3.1.3
const LF = 10;
const HASH = 35;
const AT = 64;

/** Of a dot-atom or a domain (RFC 5321 4.1.2), besides letters and digits. */
const MARKS = "!#$%&'*+/=?^_`{|}~.-";

function isAllowed(byte: number): boolean {
  const letter = byte | 32;
  return (letter >= 97 && letter <= 122) || (byte >= 48 && byte <= 57) || MARKS.includes(String.fromCharCode(byte));
}

const isBlank = (byte: number | undefined): boolean => byte === 32 || byte === 9 || byte === 13;
const folded = (byte: number): number => (byte >= 65 && byte <= 90 ? byte + 32 : byte);

export class AddressList {
  readonly #bytes: Buffer;
  /** Where each address begins and ends, in the order of the file. */
  readonly #places: Uint32Array;
  /** Open addressing: number of the address + 1, 0 is free. */
  readonly #table: Uint32Array;

  private constructor(bytes: Buffer, places: Uint32Array) {
    this.#bytes = bytes;
    this.#places = places;
    this.#table = new Uint32Array(2 ** Math.ceil(Math.log2(places.length + 2)));
    for (let at = 0; at < places.length / 2; at++) {
      const slot = this.#slot(bytes, places[2 * at] ?? 0, places[2 * at + 1] ?? 0);
      // Listed twice: the first counts.
      if (this.#table[slot] === 0) this.#table[slot] = at + 1;
    }
  }

  /** Or the first line that is no address, for people. `bytes` is kept. */
  static parse(bytes: Buffer): AddressList | string {
    if (bytes.length > MAX_LIST_BYTES) return `has ${bytes.length} bytes, the limit is ${MAX_LIST_BYTES}`;
    const places: number[] = [];
    let line = 0;
    for (let from = 0; from < bytes.length; ) {
      line += 1;
      const lf = bytes.indexOf(LF, from);
      let end = lf < 0 ? bytes.length : lf;
      let start = from;
      from = end + 1;
      while (start < end && isBlank(bytes[start])) start++;
      while (end > start && isBlank(bytes[end - 1])) end--;
      if (start === end || bytes[start] === HASH) continue;
      if (!isAddress(bytes, start, end))
        return `line ${line}: ${JSON.stringify(bytes.toString('utf8', start, Math.min(end, start + 60)))} is not an address; write one like alice@contoso.com on each line`;
      if (places.length / 2 === MAX_ADDRESSES) return `has more than ${MAX_ADDRESSES} addresses`;
      places.push(start, end);
    }
    return new AddressList(bytes, Uint32Array.from(places));
  }

  get size(): number {
    return this.#places.length / 2;
  }

  /** What it takes, without objects. */
  get sizeBytes(): number {
    return this.#bytes.length + this.#places.byteLength + this.#table.byteLength;
  }

  has(address: string): boolean {
    const bytes = Buffer.from(address);
    return this.#table[this.#slot(bytes, 0, bytes.length)] !== 0;
  }

  isOf(bytes: Buffer): boolean {
    return this.#bytes.equals(bytes);
  }

  /** In the order of the file. */
  *[Symbol.iterator](): Generator<string> {
    for (let at = 0; at < this.#places.length; at += 2)
      yield this.#bytes.toString('latin1', this.#places[at] ?? 0, this.#places[at + 1] ?? 0);
  }

  /** Where this address is in the table, or would be. */
  #slot(bytes: Buffer, from: number, to: number): number {
    const mask = this.#table.length - 1;
    let slot = hashOf(bytes, from, to) & mask;
    for (let entry = this.#table[slot] ?? 0; entry !== 0; entry = this.#table[slot] ?? 0) {
      if (this.#isAt(entry - 1, bytes, from, to)) return slot;
      slot = (slot + 1) & mask;
    }
    return slot;
  }

  #isAt(number: number, bytes: Buffer, from: number, to: number): boolean {
    const start = this.#places[2 * number] ?? 0;
    if ((this.#places[2 * number + 1] ?? 0) - start !== to - from) return false;
    for (let at = 0; at < to - from; at++)
      if (folded(this.#bytes[start + at] ?? 0) !== folded(bytes[from + at] ?? 0)) return false;
    return true;
  }
}

/** FNV-1a of what is compared. */
function hashOf(bytes: Buffer, from: number, to: number): number {
  let hash = 0x811c9dc5;
  for (let at = from; at < to; at++) hash = Math.imul(hash ^ folded(bytes[at] ?? 0), 0x01000193);
  return hash ^ (hash >>> 15);
}

function isAddress(bytes: Buffer, start: number, end: number): boolean {
  if (end - start > MAX_ADDRESS_BYTES) return false;
  let at = -1;
  for (let i = start; i < end; i++) {
    const byte = bytes[i] ?? 0;
    if (byte === AT && at < 0) at = i;
    else if (!isAllowed(byte)) return false;
  }
  return at > start && at < end - 1;
}
