/**
 * What simulated SMTP clients send. Owns: contents that try the line discipline of RFC 5321 - lines that begin with dots, nothing but dots, bytes above 127,
 * long lines, no end of the last line - and, when asked, one byte that no message may have (semantics.md R11).
 */
import { messageIdOf } from './mail.ts';
import type { SeededRandom } from './scheduler.ts';

export interface SmtpBody {
  /** As the client has it, before dots are doubled. */
  readonly bytes: Buffer;
  /** As it must be stored, when it is stored. */
  readonly stored: Buffer;
  readonly hasEightBit: boolean;
  /** What is wrong with it: it must be refused. */
  readonly defect: string | null;
}

const LINES: readonly ((random: SeededRandom) => string)[] = [
  () => 'x'.repeat(60),
  () => 'x'.repeat(60),
  () => '.',
  () => '..',
  () => '...',
  () => '.a line that begins with a dot',
  () => '. ',
  () => '',
  () => 'the end of it.',
  (random) => `QUIT ${random.integer(0, 9)}`,
  (random) => 'y'.repeat(random.integer(900, 998)),
  () => 'gr\u00fc\u00dfe, \u00ff\u0080',
];

const DEFECTS: ReadonlyMap<string, string> = new Map([
  ['a bare LF', '\n'],
  ['a bare LF before a dot', '\n.\r\n'],
  ['an end of data with bare LFs', '\n.\n'],
  ['a bare CR', '\r'],
  ['a bare CR before a dot', '\r.\r\n'],
  ['a NUL byte', '\0'],
]);

/** Some `sizeBytes` in all; unlike every other body of its world. */
export function drawBody(random: SeededRandom, number: number, sizeBytes: number, isDefective: boolean): SmtpBody {
  const header = Buffer.from(`Subject: ${number}\r\nMessage-ID: ${messageIdOf(number)}\r\n\r\n`);
  const lines = Array.from({ length: random.integer(3, 12) }, () => `${random.pick(LINES)(random)}\r\n`).join('');
  const block = Buffer.from(lines, 'latin1');
  const repeats = Math.max(1, Math.round((sizeBytes - header.length) / block.length));
  const content = Buffer.concat([header, ...Array.from({ length: repeats }, () => block)]);
  const hasEightBit = /[\x80-\xff]/.test(lines);
  if (isDefective) {
    const [defect, bytes] = random.pick([...DEFECTS]);
    // Between two bytes of ordinary text, so that it is what it says.
    const spoilt = Buffer.concat([content, Buffer.from(`abc${bytes}def\r\n`, 'latin1'), block]);
    return { bytes: spoilt, stored: spoilt, hasEightBit, defect };
  }
  // RFC 5321 4.1.1.4: who leaves the end of the last line out gets it added; the last line is one that is not empty.
  const isCut = random.chance(0.1) && !content.subarray(-4).equals(Buffer.from('\r\n\r\n'));
  const bytes = isCut ? content.subarray(0, -2) : content;
  return { bytes, stored: content, hasEightBit, defect: null };
}
