/**
 * Users who may authenticate: the file of a users Secret, one `user:HASH` per line (blank lines and `#` comments allowed), HASH either
 * `SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY` (scram.ts), good for every mechanism, or `$scrypt$ln=15,r=8,p=1$SALT$HASH` (base64 without padding), which
 * serves PLAIN and LOGIN only. Owns: that format, hashing and verifying. Promises: a password is compared in constant time, off the event loop; an unknown user
 * looks like any other and costs as much time as a wrong password. Refuses: a line that does not match, naming its number and never its content.
 */
import { createHash, type ScryptOptions, scrypt, timingSafeEqual } from 'node:crypto';
import type { Random } from '../platform/random.ts';
import { deriveScramKeys, formatScramKeys, hmac, isPasswordOf, parseScramKeys, type ScramKeys } from './scram.ts';

export interface ScryptHash {
  readonly costLog2: number;
  readonly blockSize: number;
  readonly parallelization: number;
  readonly salt: Buffer;
  readonly hash: Buffer;
}

export type PasswordHash = ScryptHash | ScramKeys;
export type Users = ReadonlyMap<string, PasswordHash>;

export class UsersFileError extends Error {
  readonly code = 'USERS_FILE';
  readonly line: number;
  readonly problem: string;
  constructor(line: number, problem: string) {
    super(`users file, line ${line}: ${problem}`);
    this.name = 'UsersFileError';
    this.line = line;
    this.problem = problem;
  }
}

/** About 60 ms a try, here as with the client: bearable for a login, expensive for a guess. */
const ITERATIONS = 100_000;
const SALT_BYTES = 16;
const MAX_COST_LOG2 = 17;

const HASH = /^\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]{16,})\$([A-Za-z0-9+/]{22,})$/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const FORBIDDEN_IN_USER = /[\x00-\x20\x7f:]/;

function parseScrypt(text: string): ScryptHash | null {
  const match = HASH.exec(text);
  if (match === null) return null;
  const [costLog2, blockSize, parallelization] = [Number(match[1]), Number(match[2]), Number(match[3])];
  if (costLog2 < 10 || costLog2 > MAX_COST_LOG2 || blockSize < 1 || blockSize > 16) return null;
  if (parallelization < 1 || parallelization > 4) return null;
  const bytes = (base64: string | undefined): Buffer => Buffer.from(base64 ?? '', 'base64');
  return { costLog2, blockSize, parallelization, salt: bytes(match[4]), hash: bytes(match[5]) };
}

const parseHash = (text: string): PasswordHash | null => parseScramKeys(text) ?? parseScrypt(text);

export const isPasswordHash = (text: string): boolean => parseHash(text) !== null;
const isScram = (hash: PasswordHash): hash is ScramKeys => 'storedKey' in hash;

/** Reads the file of a users Secret. Throws `UsersFileError`. */
export function parseUsers(text: string): Users {
  const users = new Map<string, PasswordHash>();
  for (const [index, raw] of text.split(/\r?\n/).entries()) {
    const line = raw.trim();
    if (line === '' || line.startsWith('#')) continue;
    const colon = line.indexOf(':');
    const user = line.slice(0, Math.max(colon, 0));
    if (colon < 1 || FORBIDDEN_IN_USER.test(user)) throw new UsersFileError(index + 1, 'expected user:HASH');
    const hash = parseHash(line.slice(colon + 1).trim());
    if (hash === null)
      throw new UsersFileError(
        index + 1,
        'not a password hash of the form SCRAM-SHA-256$iterations:salt$storedkey:serverkey or $scrypt$ln=,r=,p=$salt$hash',
      );
    if (users.has(user)) throw new UsersFileError(index + 1, 'this user was given before');
    users.set(user, hash);
  }
  return users;
}

function derive(password: string, salt: Buffer, bytes: number, options: ScryptOptions): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    scrypt(password, salt, bytes, options, (error, key) => (error === null ? resolve(key) : reject(error)));
  });
}

function scryptOptions(costLog2: number, blockSize: number, parallelization: number): ScryptOptions {
  const N = 2 ** costLog2;
  // Node refuses to use more memory than `maxmem`; scrypt needs 128 * N * r and a little.
  return { N, r: blockSize, p: parallelization, maxmem: 128 * N * blockSize + 1024 * 1024 * parallelization };
}

/** A hash for the users file. */
export async function hashPassword(password: string, random: Random): Promise<string> {
  return formatScramKeys(await deriveScramKeys(password, random.bytes(SALT_BYTES), ITERATIONS));
}

/** The users file of a Secret's `stringData`: plain passwords are hashed, hashes are taken over. Throws `UsersFileError`. */
export async function usersFileFromSecret(
  stringData: Readonly<Record<string, string>>,
  random: Random,
): Promise<string> {
  let file = '';
  let line = 0;
  for (const [user, value] of Object.entries(stringData)) {
    line++;
    if (user === '' || FORBIDDEN_IN_USER.test(user)) throw new UsersFileError(line, 'bad user name');
    if (value === '') throw new UsersFileError(line, 'empty password');
    file += `${user}:${isPasswordHash(value) ? value : await hashPassword(value, random)}\n`;
  }
  return file;
}

/** Whether everybody can log in by SCRAM: a client that chooses it where it is offered must not fail for what the file lacks. */
export function serveScram(users: Users): boolean {
  for (const hash of users.values()) if (!isScram(hash)) return false;
  return users.size > 0;
}

/**
 * The keys of a user for SCRAM, and for nobody some that no proof fits: the same salt for the same name at every front end that has the same file, as a user
 * would have.
 */
export function scramKeysOf(users: Users, user: string): ScramKeys {
  const known = users.get(user);
  if (known !== undefined && isScram(known)) return known;
  const everybody = [...users.values()].filter(isScram);
  const digest = createHash('sha256');
  for (const { storedKey } of everybody) digest.update(storedKey);
  const secret = digest.digest();
  const salt = hmac(secret, `salt ${user}`).subarray(0, everybody[0]?.salt.length ?? SALT_BYTES);
  const [storedKey, serverKey] = [hmac(secret, `stored ${user}`), hmac(secret, `server ${user}`)];
  return { iterations: everybody[0]?.iterations ?? ITERATIONS, salt, storedKey, serverKey };
}

async function isRight(expected: PasswordHash, password: string): Promise<boolean> {
  if (isScram(expected)) return await isPasswordOf(expected, password);
  const options = scryptOptions(expected.costLog2, expected.blockSize, expected.parallelization);
  return timingSafeEqual(await derive(password, expected.salt, expected.hash.length, options), expected.hash);
}

/** True when the user exists and the password is right. */
export async function verifyPassword(users: Users, user: string, password: string): Promise<boolean> {
  const known = users.get(user);
  const [anybody] = users.values();
  const right = await isRight(known ?? anybody ?? scramKeysOf(users, user), password);
  return right && known !== undefined;
}
