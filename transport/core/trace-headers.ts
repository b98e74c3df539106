/**
 * Header fields written when a message is sent on, and the one that is taken out. Pure. Stored copies keep the message as it came in
 * (architecture.md section 8); everything here happens on the way out.
 * `Return-Path:` (RFC 5321 4.4) is not written here: our hop to a mailbox is LMTP, final delivery is the store's, and Dovecot and the
 * embedded Maildir store both write it; a second one would be wrong.
 */
import { type FilterField, writtenFields } from '../../common/content-filter.ts';
import type { ClientInfo, CopyId, Envelope } from '../../common/message.ts';
import { resultsFields } from './results-field.ts';

/** The store's duplicate suppression reads this field (protocol.md 23). */
export const DELIVERY_HEADER = 'X-MailCluster-Delivery';

/** And this one, by which it knows a client's own retry (protocol.md 24). */
export const CONTENT_HEADER = 'X-MailCluster-Content';

export interface TraceInput {
  readonly copyId: CopyId;
  /** Id of the eldest ancestor: the same for every resubmission of a message. */
  readonly deliveryId: string;
  /** Null: there is none (content-key.ts). */
  readonly contentKey: string | null;
  readonly envelope: Envelope;
  /** What its front end found out about who sent it (common/authentication-results.ts). */
  readonly results: readonly string[];
  /** What a content filter added (common/content-filter.ts); absent: nothing. */
  readonly filterFields?: readonly FilterField[];
  /** Host name of this transport. */
  readonly hostname: string;
  /** Member name, shown in a comment beside the front end. */
  readonly member: string;
}

/** The fields that go in front of the message, each ending in CRLF. */
export function traceHeaders(input: TraceInput): Buffer {
  const { deliveryId, contentKey, results, filterFields = [] } = input;
  const content = contentKey === null ? '' : `${CONTENT_HEADER}: ${word(contentKey)}\r\n`;
  // RFC 8601 5: above the field of the host that found it out; a filter may have found out something, too.
  const front = `${resultsFields(results)}${writtenFields(filterFields)}${receivedHeader(input)}`;
  return Buffer.from(`${front}${DELIVERY_HEADER}: ${word(deliveryId)}\r\n${content}`, 'latin1');
}

/** RFC 5321 4.4; the protocol in `with` is from RFC 3848 and RFC 6531 4.3. */
export function receivedHeader(input: TraceInput): string {
  const { envelope, copyId } = input;
  const { client } = envelope;
  const parts: string[] = [];
  // A message made here (DSN) came from no client; Postfix, too, leaves the from clause out then.
  if (client.address !== '') parts.push(`from ${domainWord(client.helo)} (${addressLiteral(client.address)})`);
  parts.push(`by ${domainWord(input.hostname)} (MailCluster; ${word(envelope.frontend)} to ${word(input.member)})`);
  if (client.address !== '') parts.push(`with ${word(client.protocol)}`);
  if (client.tls !== null) parts.push(`(version=${word(client.tls.version)} cipher=${word(client.tls.cipher)})`);
  let last = `id ${word(copyId)}`;
  const only = envelope.recipients.length === 1 ? envelope.recipients[0] : undefined;
  // RFC 5321 7.2: naming one of several recipients would give away a blind copy.
  if (only !== undefined && isPlainAddress(only.address)) last += `\r\n\tfor <${only.address}>`;
  parts.push(`${last};\r\n\t${messageDate(envelope.receivedAtMs)}`);
  return `Received: ${parts.join('\r\n\t')}\r\n`;
}

/** RFC 5322 3.3 in UTC: `Fri, 21 Nov 1997 09:55:06 +0000`. */
export function messageDate(wallMs: number): string {
  return new Date(wallMs).toUTCString().replace('GMT', '+0000');
}

/** RFC 5321 4.1.3. */
export function addressLiteral(address: ClientInfo['address']): string {
  // A dual-stack socket shows IPv4 clients as IPv4-mapped addresses (RFC 4291 2.5.5.2).
  const plain = address.replace(/^::ffff:(?=\d+\.)/i, '');
  return plain.includes(':') ? `[IPv6:${word(plain)}]` : `[${word(plain)}]`;
}

/** What a client said of itself may hold anything; a field gets only what cannot end it, a comment or a clause. */
function word(text: string): string {
  return text.replace(/[^\w.+:/=-]/g, '?').slice(0, 255) || '?';
}

function domainWord(text: string): string {
  return text.replace(/[^\w.:[\]-]/g, '?').slice(0, 255) || 'unknown';
}

function isPlainAddress(address: string): boolean {
  return /^[\x21-\x7e]{1,320}$/.test(address) && !/[<>()\\";]/.test(address);
}

const LF = 0x0a;
const CR = 0x0d;
const COLON = 0x3a;
const isSpace = (byte: number): boolean => byte === 0x20 || byte === 0x09;

/** How much of `name`, in lower case, the bytes from `at` on are, whatever their own case: in a header without an end each line is looked at, so nothing is made for it. */
export function matchingBytes(bytes: Buffer, at: number, name: Buffer): number {
  let count = 0;
  while (count < name.length && at + count < bytes.length) {
    const byte = bytes[at + count] as number;
    if ((byte >= 0x41 && byte <= 0x5a ? byte | 0x20 : byte) !== name[count]) break;
    count++;
  }
  return count;
}

/**
 * Takes every field of one name out of a streamed header block, whatever its case, with its folded lines (RFC 5322 2.2.3) and also with
 * white space before the colon (4.5.8); passes everything else on byte for byte. Memory: one field name.
 */
export class HeaderFieldRemover {
  readonly #name: Buffer;
  readonly #initial: number;
  /** Bytes of a line that may still become the name. */
  #held: Buffer = Buffer.alloc(0);
  #state: 'line start' | 'keep' | 'drop' | 'body' = 'line start';
  /** What happens to a folded line: the same as to the line before. */
  #dropping = false;
  #removed = 0;

  constructor(name: string) {
    this.#name = Buffer.from(name.toLowerCase());
    this.#initial = this.#name[0] ?? 0;
  }

  /** Fields removed so far. */
  get removed(): number {
    return this.#removed;
  }

  /** What of this chunk is to be passed on now; pieces share memory with the chunk. */
  push(chunk: Buffer): Buffer[] {
    if (this.#state === 'body') return [chunk];
    const bytes = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk]);
    this.#held = Buffer.alloc(0);
    const out: Buffer[] = [];
    let at = 0;
    /** Start of the bytes to keep that are not in `out` yet. */
    let from = this.#state === 'drop' ? -1 : 0;
    const keepUntil = (end: number): void => {
      if (from >= 0 && end > from) out.push(bytes.subarray(from, end));
      from = -1;
    };
    while (at < bytes.length) {
      if (this.#state === 'line start') {
        const verdict = this.#isOther(bytes[at] as number) ? this.#decide(false) : this.#judge(bytes, at);
        if (verdict === 'more') {
          keepUntil(at);
          this.#held = Buffer.from(bytes.subarray(at));
          return out;
        }
        if (verdict === 'drop') keepUntil(at);
        else if (from < 0) from = at;
        this.#state = verdict;
        if (verdict === 'body') break;
      }
      const end = bytes.indexOf(LF, at);
      if (end < 0) break;
      at = end + 1;
      this.#state = 'line start';
    }
    keepUntil(bytes.length);
    return out;
  }

  /** What was still held at the end of the message: a last line without its end. */
  end(): Buffer[] {
    const held = this.#held;
    this.#held = Buffer.alloc(0);
    return held.length === 0 ? [] : [held];
  }

  /** A field that already begins with another letter: nearly all of them. */
  #isOther(first: number): boolean {
    return (first | 0x20) !== this.#initial && first !== LF && first !== CR && !isSpace(first);
  }

  #judge(bytes: Buffer, at: number): 'keep' | 'drop' | 'body' | 'more' {
    const first = bytes[at] as number;
    if (isSpace(first)) return this.#dropping ? 'drop' : 'keep';
    if (first === CR && at + 1 === bytes.length) return 'more';
    if (first === LF || (first === CR && bytes[at + 1] === LF)) return 'body';
    const end = at + matchingBytes(bytes, at, this.#name);
    if (end === bytes.length) return 'more';
    const next = bytes[end] ?? 0;
    return this.#decide(end - at === this.#name.length && (next === COLON || isSpace(next)));
  }

  #decide(drop: boolean): 'keep' | 'drop' {
    this.#dropping = drop;
    if (drop) this.#removed++;
    return drop ? 'drop' : 'keep';
  }
}
