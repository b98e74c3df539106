/**
 * The letters of the demo: what is sent, by whom, to whom, and how one is recognised when it is found again. Pure: the same number makes
 * the same letter. Sizes are spread from 1 KB to 1 MB, small ones more often; every letter has one to four recipients, lines that start
 * with dots and letters outside ASCII. A few are malformed on purpose, so that there is something to refuse.
 */
import { createHash } from 'node:crypto';

export interface Letter {
  readonly id: string;
  readonly messageId: string;
  readonly from: string;
  readonly recipients: readonly string[];
  /** As it must arrive: CRLF lines, dots not doubled. */
  readonly content: Buffer;
  readonly digest: string;
  /** Holds a bare LF, with which one mail server smuggles commands past another; a careful one refuses it (554 5.6.0). */
  readonly malformed: boolean;
}

const PEOPLE = ['anna', 'bela', 'chen', 'dora', 'emil', 'fatima', 'goran', 'hanna', 'ivo', 'june', 'kofi', 'lena'];
const SMALLEST = 1_024;
const LARGEST = 1_048_576;
const MALFORMED_EVERY = 60;
const LINE = 64;

export const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

export function writeLetter(number: number, domain: string): Letter {
  const id = `letter-${String(number + 1).padStart(4, '0')}`;
  const seed = createHash('sha256').update(id).digest();
  const recipients = Array.from({ length: 1 + ((seed[0] ?? 0) % 4) }, (_, i) => {
    // 5 is prime to 12: no one twice.
    return `${PEOPLE[((seed[1] ?? 0) + 5 * i) % PEOPLE.length]}@${domain}`;
  });
  const share = number === 0 ? 0 : number === 1 ? 1 : seed.readUInt16BE(2) / 65_535;
  const sizeBytes = Math.round(SMALLEST * (LARGEST / SMALLEST) ** share);
  const from = 'postcards@example.org';
  const messageId = `<${id}@demo.example.org>`;
  const malformed = number % MALFORMED_EVERY === MALFORMED_EVERY / 2;
  const head = [
    `Message-ID: ${messageId}`,
    `From: <${from}>`,
    `To: ${recipients.map((one) => `<${one}>`).join(', ')}`,
    `Subject: ${id} of the demo`,
    'Date: Thu, 01 Jan 2026 00:00:00 +0000',
    'MIME-Version: 1.0',
    'Content-Type: text/plain; charset=utf-8',
    'Content-Transfer-Encoding: 8bit',
    '',
    'Grüße, こんにちは.',
    '.a line that starts with a dot, and one that is a dot:',
    '.',
    malformed ? 'a bare LF\n.\r\nends this mail for careless servers' : '',
    '',
  ].join('\r\n');
  const content = Buffer.concat([Buffer.from(head), filler(seed, sizeBytes - Buffer.byteLength(head))]);
  return { id, messageId, from, recipients, content, digest: sha256(content), malformed };
}

/** Lines that compress badly and differ from letter to letter; always ends with CRLF. */
function filler(seed: Buffer, sizeBytes: number): Buffer {
  if (sizeBytes <= 2) return Buffer.alloc(0);
  const letters = createHash('shake256', { outputLength: Math.ceil(sizeBytes / 2) })
    .update(seed)
    .digest('hex');
  const out = Buffer.alloc(sizeBytes);
  for (let at = 0; at < sizeBytes; ) {
    const end = Math.min(at + LINE, sizeBytes - 2);
    // No line of its own for what is too short for one.
    const stop = sizeBytes - end - 2 <= 2 ? sizeBytes - 2 : end;
    out.write(letters.slice(at, stop), at, 'latin1');
    out.write('\r\n', stop, 'latin1');
    at = stop + 2;
  }
  return out;
}

/** What the system may put on top of a letter (RFC 5321 4.4, protocol.md 23); none of these is in a letter as it is sent. */
const TRACE_FIELD = /^(?:Return-Path|Delivered-To|Received|X-MailCluster-Delivery|X-MailCluster-Content)[ \t]*:/i;

/** A delivered file without the trace fields on top: what must be byte for byte what was sent. */
export function withoutTrace(file: Buffer): Buffer {
  let at = 0;
  let inTrace = false;
  for (;;) {
    const end = file.indexOf('\n', at) + 1;
    if (end === 0) return file.subarray(at);
    const line = file.toString('latin1', at, Math.min(end, at + 100));
    const folded = line.startsWith(' ') || line.startsWith('\t');
    inTrace = folded ? inTrace : TRACE_FIELD.test(line);
    if (!inTrace) return file.subarray(at);
    at = end;
  }
}

/** Which letter this is, also when bytes of it were changed. */
export function letterIdOf(file: Buffer): string | null {
  return /^Message-ID: <([^@>]+)@demo\.example\.org>/m.exec(file.toString('latin1', 0, 8_192))?.[1] ?? null;
}
