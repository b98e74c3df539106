/**
 * By which people find messages with a subject, without subjects in logs and tracking. PURE. Promise: the same for every way to write one subject: folded or not
 * (RFC 5322 2.2.3), in encoded words (RFC 2047, decoded by libmime) or in UTF-8 (RFC 6532), in any case and with any white space. It is no secret of a subject
 * that can be guessed. Refuses nothing: bytes that mean nothing count as what a decoder makes of them.
 */
import { createHash } from 'node:crypto';
import libmime from 'libmime';

/** Nobody reads further, and a stranger decides how long it is. */
const LONGEST = 2_048;
const HEX_DIGITS = 16;

/** `text` is the body of a Subject field, or what a person typed; 16 hex digits, null when there is nothing in it. */
export function subjectHash(text: string): string | null {
  const unfolded = text.replaceAll(/\r?\n(?=[ \t])/g, '').slice(0, LONGEST);
  const plain = decoded(unfolded).normalize('NFKC').replaceAll(/\s+/g, ' ').trim();
  // Up and down again: what has no capital of its own (as in Straße) is the same in both cases.
  const folded = plain.toUpperCase().toLowerCase();
  return folded === '' ? null : createHash('sha256').update(folded).digest('hex').slice(0, HEX_DIGITS);
}

/** A stranger writes what is decoded: no message fails for its sake. */
function decoded(text: string): string {
  if (!text.includes('=?')) return text;
  try {
    return libmime.decodeWords(text);
  } catch {
    return text;
  }
}
