/**
 * SCRAM-SHA-256, the server's side (RFC 5802, RFC 7677). Owns: the keys of a user as the users file has them (the form of RFC 5803:
 * `SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY`, base64), making them from a password, and reading and answering the messages of the exchange. PURE but for
 * deriving keys, which runs off the event loop. Promise: from what is stored nobody can log in; a proof is compared in constant time. Refuses: channel binding (only
 * the -PLUS mechanism has it), extensions that are mandatory, a nonce that is not the one of this exchange.
 */
import { createHash, createHmac, pbkdf2, timingSafeEqual } from 'node:crypto';

export interface ScramKeys {
  readonly iterations: number;
  readonly salt: Buffer;
  readonly storedKey: Buffer;
  readonly serverKey: Buffer;
}

export const SCRAM = 'SCRAM-SHA-256';
const KEY_BYTES = 32;
/** RFC 7677 section 4. */
const MIN_ITERATIONS = 4_096;
/** The client computes them at every login as well. */
const MAX_ITERATIONS = 1_000_000;

const BASE64 = '([A-Za-z0-9+/]+={0,2})';
const STORED = new RegExp(`^SCRAM-SHA-256\\$(\\d{1,7}):${BASE64}\\$${BASE64}:${BASE64}$`);

export function parseScramKeys(text: string): ScramKeys | null {
  const match = STORED.exec(text);
  if (match === null) return null;
  const iterations = Number(match[1]);
  const bytes = (group: number): Buffer => Buffer.from(match[group] ?? '', 'base64');
  const [salt, storedKey, serverKey] = [bytes(2), bytes(3), bytes(4)];
  if (iterations < MIN_ITERATIONS || iterations > MAX_ITERATIONS || salt.length < 8) return null;
  if (storedKey.length !== KEY_BYTES || serverKey.length !== KEY_BYTES) return null;
  return { iterations, salt, storedKey, serverKey };
}

export const formatScramKeys = ({ iterations, salt, storedKey, serverKey }: ScramKeys): string =>
  `${SCRAM}$${iterations}:${salt.toString('base64')}$${storedKey.toString('base64')}:${serverKey.toString('base64')}`;

export const hmac = (key: Buffer, data: string): Buffer => createHmac('sha256', key).update(data, 'utf8').digest();
const sha256 = (data: Buffer): Buffer => createHash('sha256').update(data).digest();

/** What SASLprep (RFC 4013) maps: spaces to one space, what has no width to nothing, then NFKC. */
const prepared = (password: string): string =>
  password
    .replace(/[\u00a0\u1680\u2000-\u200b\u202f\u205f\u3000]/g, ' ')
    .replace(/\u00ad|\u034f|\u1806|[\u180b-\u180d]|\u200c|\u200d|\u2060|[\ufe00-\ufe0f]|\ufeff/g, '')
    .normalize('NFKC');

export async function deriveScramKeys(password: string, salt: Buffer, iterations: number): Promise<ScramKeys> {
  const salted = await new Promise<Buffer>((resolve, reject) => {
    pbkdf2(prepared(password), salt, iterations, KEY_BYTES, 'sha256', (error, key) =>
      error === null ? resolve(key) : reject(error),
    );
  });
  return { iterations, salt, storedKey: sha256(hmac(salted, 'Client Key')), serverKey: hmac(salted, 'Server Key') };
}

/** Whether the password is the one the keys were made from: for mechanisms that bring it. */
export async function isPasswordOf(keys: ScramKeys, password: string): Promise<boolean> {
  const { storedKey } = await deriveScramKeys(password, keys.salt, keys.iterations);
  return timingSafeEqual(storedKey, keys.storedKey);
}

export interface ClientFirst {
  readonly user: string;
  /** The GS2 header, which the final message repeats. */
  readonly header: string;
  readonly bare: string;
  readonly nonce: string;
}

// No `p=`: who wants channel binding must choose the -PLUS mechanism, which is not offered. `m=` is an extension nobody here knows.
const CLIENT_FIRST = /^([ny]),(?:a=([^,]+))?,(n=([^,]+),r=([\x21-\x2b\x2d-\x7e]+)(?:,[^,=]=[^,]*)*)$/s;
const CLIENT_FINAL = /^(c=([A-Za-z0-9+/=]+),r=([\x21-\x2b\x2d-\x7e]+)(?:,[^,=p]=[^,]*)*),p=([A-Za-z0-9+/]{43}=)$/s;

/** RFC 5802 section 5.1: a comma and an equals sign in a name are written as =2C and =3D. Null when it has another `=`. */
function nameOf(text: string): string | null {
  if (/=(?!2C|3D)/.test(text) || text.includes('\0')) return null;
  return text.replaceAll('=2C', ',').replaceAll('=3D', '=');
}

/** Null: not such a message. `other` when somebody else's rights are asked for. */
export function readClientFirst(message: string): ClientFirst | 'other' | null {
  const [, flag, other, bare, name, nonce] = CLIENT_FIRST.exec(message) ?? [];
  if (flag === undefined || bare === undefined || name === undefined || nonce === undefined) return null;
  const user = nameOf(name);
  if (user === null) return null;
  if (other !== undefined && nameOf(other) !== user) return 'other';
  return { user, header: message.slice(0, message.length - bare.length), bare, nonce };
}

/** The server's first message: both nonces, salt and iterations. */
export const serverFirst = (first: ClientFirst, { salt, iterations }: ScramKeys, nonce: string): string =>
  `r=${first.nonce}${nonce},s=${salt.toString('base64')},i=${iterations}`;

/** Reads the client's final message: the server's signature when the proof is right, `wrong` when it is not, null when it is no such message. */
export function checkClientFinal(
  message: string,
  first: ClientFirst,
  said: string,
  keys: ScramKeys,
): { readonly signature: string } | 'wrong' | null {
  const [, withoutProof, binding, nonce, proof] = CLIENT_FINAL.exec(message) ?? [];
  if (withoutProof === undefined || binding === undefined || nonce === undefined || proof === undefined) return null;
  if (binding !== Buffer.from(first.header, 'utf8').toString('base64') || !said.startsWith(`r=${nonce},`)) return null;
  const authMessage = `${first.bare},${said},${withoutProof}`;
  const mask = hmac(keys.storedKey, authMessage);
  const clientKey = Buffer.from(proof, 'base64').map((byte, at) => byte ^ (mask[at] ?? 0));
  if (!timingSafeEqual(sha256(Buffer.from(clientKey)), keys.storedKey)) return 'wrong';
  return { signature: `v=${hmac(keys.serverKey, authMessage).toString('base64')}` };
}
