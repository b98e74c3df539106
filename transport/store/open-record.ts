/** Names a database gives itself: its identity and one record per open (protocol.md section 1, "identity, nonce chain"). */
import type { Identity } from '../../common/message.ts';
import type { Random } from '../../common/platform/random.ts';

export interface OpenRecord {
  readonly openCounter: number;
  readonly nonce: string;
}

const CROCKFORD = '0123456789ABCDEFGHJKMNPQRSTVWXYZ';

/** 26 characters of Crockford base32: 130 random bits. */
export function newIdentity(random: Random): Identity {
  let text = '';
  for (const byte of random.bytes(26)) text += CROCKFORD[byte & 31];
  return text as Identity;
}

export const newNonce = (random: Random): string => random.bytes(16).toString('hex');
