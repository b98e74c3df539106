/**
 * What message tracking keeps of a header while the message streams by: Message-ID (RFC 5322 3.6.4), and a hash of Subject (3.6.5). Owns: at most the first
 * 16 KiB of the header; later it gives up: both are for people who search, nothing depends on them.
 */
import { subjectHash } from './subject-hash.ts';

const LIMIT_BYTES = 16_384;
const EMPTY = Buffer.alloc(0);
/** Blanks before the colon are obsolete (RFC 5322 4.5.8), and are sent. */
const MESSAGE_ID = /(?:^|\r\n)Message-ID[ \t]*:[ \t]*(?:\r\n[ \t]+)?(<[^\r\n<> \t]{1,900}>)/i;
/** To its very end: a part of it would have another hash. */
const SUBJECT = /(?:^|\r\n)Subject[ \t]*:([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)\r\n(?![ \t])/i;

interface Found {
  readonly messageId: string | null;
  readonly subjectHash: string | null;
}

export class TrackedFields {
  #head: Buffer[] = [];
  #size = 0;
  #found: Found | null = null;

  push(chunk: Buffer): void {
    if (this.#found !== null) return;
    this.#head.push(chunk.subarray(0, LIMIT_BYTES - this.#size));
    this.#size += Math.min(chunk.length, LIMIT_BYTES - this.#size);
    if (this.#size >= LIMIT_BYTES || chunk.includes('\r\n\r\n')) this.#found = this.#search();
  }

  /** The id with its angle brackets, or null; call at the end of data. */
  get messageId(): string | null {
    return this.#whole().messageId;
  }

  /** Null when there is no subject, or nothing in it; call at the end of data. */
  get subjectHash(): string | null {
    return this.#whole().subjectHash;
  }

  #whole(): Found {
    this.#found ??= this.#search();
    return this.#found;
  }

  #search(): Found {
    const [first = EMPTY] = this.#head;
    const head = this.#head.length > 1 ? Buffer.concat(this.#head) : first;
    this.#head = [];
    // Without a header the empty line comes first.
    const end = head.indexOf('\r\n') === 0 ? -2 : head.indexOf('\r\n\r\n');
    const header = head.toString('latin1', 0, end === -1 ? head.length : end + 2);
    const [, messageId] = MESSAGE_ID.exec(header) ?? [];
    const [, subject] = SUBJECT.exec(header) ?? [];
    return {
      messageId: messageId === undefined ? null : asText(messageId),
      subjectHash: subject === undefined ? null : subjectHash(asText(subject)),
    };
  }
}

/** As octets it was UTF-8 (RFC 6532), or of no charset that anybody knows. */
const asText = (octets: string): string => Buffer.from(octets, 'latin1').toString('utf8');
