/**
 * Attempt ids: 48 bits of wall-clock ms and 80 random bits in Crockford base32, 26 characters, sorted by time (a ULID).
 * Promise: never twice (random part), no state between calls. The time is for people and for sorting only.
 */
import type { AttemptId } from '../common/message.ts';
import type { Clock } from '../common/platform/clock.ts';
import type { Random } from '../common/platform/random.ts';

const ALPHABET = '0123456789ABCDEFGHJKMNPQRSTVWXYZ';
const TIME_LIMIT = 2 ** 48;

export function newAttemptId(clock: Clock, random: Random): AttemptId {
  let time = Math.floor(clock.wallMs()) % TIME_LIMIT;
  if (time < 0) time += TIME_LIMIT;
  let head = '';
  for (let i = 0; i < 10; i++) {
    head = ALPHABET.charAt(time % 32) + head;
    time = Math.floor(time / 32);
  }
  const bytes = random.bytes(10);
  let tail = '';
  // 5 bytes are 8 characters.
  for (let half = 0; half < 10; half += 5) {
    let value = bytes.readUIntBE(half, 5);
    let part = '';
    for (let i = 0; i < 8; i++) {
      part = ALPHABET.charAt(value % 32) + part;
      value = Math.floor(value / 32);
    }
    tail += part;
  }
  return (head + tail) as AttemptId;
}
