/**
 * The AUTH dialogue (RFC 4954): mechanisms SCRAM-SHA-256 (RFC 5802, 7677), PLAIN (RFC 4616) and LOGIN. Pure: what the client said in, the next step out. Owns: the
 * encoding of the exchange. Refuses: other mechanisms, anything that is not canonical base64 of UTF-8, acting for another user.
 */
import { isUtf8 } from 'node:buffer';
import type { Reply } from '../message.ts';
import { reply } from './replies.ts';
import { type ClientFirst, checkClientFinal, readClientFirst, SCRAM, type ScramKeys, serverFirst } from './scram.ts';

export type AuthStep =
  | { readonly kind: 'challenge'; readonly reply: Reply; readonly next: (line: string) => AuthStep }
  | { readonly kind: 'refuse'; readonly reply: Reply }
  | { readonly kind: 'credentials'; readonly user: string; readonly password: string }
  /** Goes on with the keys of this user and a nonce of ours. */
  | { readonly kind: 'keys'; readonly user: string; readonly next: (keys: ScramKeys, nonce: string) => AuthStep }
  /** By SCRAM; the client has had our signature when it is right. */
  | { readonly kind: 'proof'; readonly user: string; readonly right: boolean };

const refuse = (said: Reply): AuthStep => ({ kind: 'refuse', reply: said });
const malformed = (): AuthStep => refuse(reply('authMalformed'));

/** Decodes canonical base64; null when it is anything else. */
function decode(base64: string): string | null {
  const bytes = Buffer.from(base64, 'base64');
  if (bytes.toString('base64') !== base64 || !isUtf8(bytes)) return null;
  return bytes.toString('utf8');
}

/** `next` gets what the client answers, decoded. */
function challenge(prompt: string, next: (text: string) => AuthStep): AuthStep {
  return {
    kind: 'challenge',
    reply: reply('challenge', { prompt: Buffer.from(prompt).toString('base64') }),
    next: (line) => {
      if (line === '*') return refuse(reply('authCancelled')); // RFC 4954 section 4
      const text = decode(line);
      return text === null ? malformed() : next(text);
    },
  };
}

function plain(message: string): AuthStep {
  const [authorizationId, user, password, ...rest] = message.split('\0');
  if (user === undefined || password === undefined || rest.length > 0 || user === '' || password === '')
    return malformed();
  if (authorizationId !== '' && authorizationId !== user) return refuse(reply('authFailed'));
  return { kind: 'credentials', user, password };
}

function loginPassword(user: string): AuthStep {
  if (user === '' || user.includes('\0')) return malformed();
  return challenge('Password:', (password) =>
    password === '' || password.includes('\0') ? malformed() : { kind: 'credentials', user, password },
  );
}

function scram(message: string): AuthStep {
  const first = readClientFirst(message);
  if (first === null) return malformed();
  if (first === 'other') return refuse(reply('authFailed'));
  return {
    kind: 'keys',
    user: first.user,
    next: (keys, nonce) => scramKeys(first, keys, serverFirst(first, keys, nonce)),
  };
}

const scramKeys = (first: ClientFirst, keys: ScramKeys, said: string): AuthStep =>
  challenge(said, (message) => {
    const checked = checkClientFinal(message, first, said, keys);
    if (checked === null) return malformed();
    const { user } = first;
    if (checked === 'wrong') return { kind: 'proof', user, right: false };
    // RFC 4954 section 4: what the server says last is a challenge with an empty answer.
    return challenge(checked.signature, (nothing) =>
      nothing === '' ? { kind: 'proof', user, right: true } : malformed(),
    );
  });

const MECHANISMS: Readonly<Record<string, { readonly prompt: string; readonly first: (text: string) => AuthStep }>> = {
  PLAIN: { prompt: '', first: plain },
  LOGIN: { prompt: 'Username:', first: loginPassword },
  [SCRAM]: { prompt: '', first: scram },
};

/** `text` is what follows `AUTH`. */
export function startAuth(text: string, mechanisms: readonly string[]): AuthStep {
  const [mechanism, initial, ...rest] = text.trim().split(/ +/);
  if (mechanism === undefined || mechanism === '') return refuse(reply('argumentMissing', { verb: 'AUTH' }));
  if (rest.length > 0) return malformed();
  const name = mechanism.toUpperCase();
  const chosen = mechanisms.includes(name) ? MECHANISMS[name] : undefined;
  if (chosen === undefined) return refuse(reply('unknownMechanism'));
  if (initial === undefined) return challenge(chosen.prompt, chosen.first);
  // RFC 4954 section 4: a lone "=" is an empty initial response.
  const message = initial === '=' ? '' : decode(initial);
  return message === null ? malformed() : chosen.first(message);
}
