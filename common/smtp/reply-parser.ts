/**
 * Reads the replies of a server (RFC 5321 4.2). Owns: the bytes between two complete replies, at most one line plus the texts so far.
 * Refuses, by throwing `ReplySyntaxError`: lines that do not end in CRLF, do not start with a code 2yz-5yz, are too long, replies of too
 * many lines or of lines that disagree about the code. Replies that were complete before the offence have been handed out.
 */
import type { Reply } from '../message.ts';

export interface ServerReply extends Reply {
  /** Text of each line without code, separator and CRLF; printable characters only. */
  readonly lines: readonly string[];
}

export interface ReplyLimits {
  /** Bytes of one line with its CRLF. RFC 5321 4.5.3.1.5 says 512; real servers go beyond it. */
  readonly maxLineBytes: number;
  readonly maxLines: number;
}

export const DEFAULT_REPLY_LIMITS: ReplyLimits = { maxLineBytes: 2048, maxLines: 128 };

export class ReplySyntaxError extends Error {
  readonly code = 'REPLY_SYNTAX';
}

const LF = 0x0a;
const CR = 0x0d;
/** What is kept of a reply's text; it goes into logs, queue views and DSNs. */
const MAX_TEXT_LENGTH = 1000;
const ENHANCED = /^([245]\.\d{1,3}\.\d{1,3})(?: +|$)/;
const LINE = /^([2-5]\d\d)(?:([ -])(.*))?$/s;

export class ReplyParser {
  readonly #limits: ReplyLimits;
  #rest: Buffer = Buffer.alloc(0);
  #code = 0;
  #lines: string[] = [];

  constructor(limits: ReplyLimits = DEFAULT_REPLY_LIMITS) {
    this.#limits = limits;
  }

  /** No part of a reply is waiting for its end. */
  get isBetweenReplies(): boolean {
    return this.#rest.length === 0 && this.#lines.length === 0;
  }

  push(chunk: Buffer, onReply: (reply: ServerReply) => void): void {
    let bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    for (;;) {
      const end = bytes.indexOf(LF);
      const lineBytes = end < 0 ? bytes.length : end + 1;
      if (lineBytes > this.#limits.maxLineBytes) throw new ReplySyntaxError('reply line is too long');
      if (end < 0) break;
      if (end === 0 || bytes[end - 1] !== CR) throw new ReplySyntaxError('reply line does not end in CRLF');
      const reply = this.#line(bytes.toString('utf8', 0, end - 1));
      bytes = bytes.subarray(end + 1);
      if (reply !== null) onReply(reply);
    }
    // A copy: the remainder must not keep a whole receive buffer alive.
    this.#rest = bytes.length === 0 ? bytes : Buffer.from(bytes);
  }

  #line(line: string): ServerReply | null {
    const match = LINE.exec(line);
    if (match === null) throw new ReplySyntaxError(`reply line makes no sense: ${printable(line).slice(0, 60)}`);
    const code = Number(match[1]);
    if (this.#lines.length > 0 && code !== this.#code)
      throw new ReplySyntaxError('reply lines disagree about the code');
    if (this.#lines.length >= this.#limits.maxLines) throw new ReplySyntaxError('reply has too many lines');
    this.#code = code;
    this.#lines.push(printable(match[3] ?? ''));
    if (match[2] === '-') return null;
    const lines = this.#lines;
    this.#lines = [];
    return composeReply(code, lines);
  }
}

function composeReply(code: number, lines: readonly string[]): ServerReply {
  const digit = String(code).slice(0, 1);
  const first = ENHANCED.exec(lines[0] ?? '')?.[1];
  // RFC 2034 4: the class of the enhanced code must agree with the first digit of the reply; otherwise it is not one.
  const enhanced = first?.startsWith(digit) ? first : null;
  const texts = enhanced === null ? lines : lines.map((line) => line.replace(ENHANCED, ''));
  return { code, enhanced: enhanced ?? `${digit}.0.0`, text: texts.join(' ').slice(0, MAX_TEXT_LENGTH).trim(), lines };
}

function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is removed here
  return text.replace(/[\u0000-\u001f\u007f-\u009f\ufffd]/g, '?');
}

/** `code enhanced text`, the form in which replies are kept and shown. */
export function formatReply(reply: Reply): string {
  return `${reply.code} ${reply.enhanced} ${reply.text}`.trimEnd();
}
