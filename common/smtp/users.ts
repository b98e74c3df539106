/**
 * Users who may authenticate: the file of a users Secret, one `user:$scrypt$ln=15,r=8,p=1$SALT$HASH` per line (base64 without
 * padding; blank lines and `#` comments allowed). Owns: that format, hashing and verifying. Promises: a password is compared in
 * constant time, off the event loop; an unknown user costs as much time as a wrong password. Refuses: a line that does not match,
 * naming its number and never its content.
 */
import { type ScryptOptions, scrypt, timingSafeEqual } from 'node:crypto';
import type { Random } from '../platform/random.ts';

export interface PasswordHash {
  readonly costLog2: number;
  readonly blockSize: number;
  readonly parallelization: number;
  readonly salt: Buffer;
  readonly hash: Buffer;
}

export type Users = ReadonlyMap<string, PasswordHash>;

export class UsersFileError extends Error {
  readonly code = 'USERS_FILE';
  readonly line: number;
  constructor(line: number, problem: string) {
    super(`users file, line ${line}: ${problem}`);
    this.name = 'UsersFileError';
    this.line = line;
  }
}

// RFC 7914. 32 MiB and about 60 ms a try: bearable for a login, expensive for a guess.
const COST_LOG2 = 15;
const BLOCK_SIZE = 8;
const PARALLELIZATION = 1;
const HASH_BYTES = 32;
const SALT_BYTES = 16;
const MAX_COST_LOG2 = 17;

const HASH = /^\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]{16,})\$([A-Za-z0-9+/]{22,})$/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const FORBIDDEN_IN_USER = /[\x00-\x20\x7f:]/;

function parseHash(text: string): PasswordHash | null {
  const match = HASH.exec(text);
  if (match === null) return null;
  const [costLog2, blockSize, parallelization] = [Number(match[1]), Number(match[2]), Number(match[3])];
  if (costLog2 < 10 || costLog2 > MAX_COST_LOG2 || blockSize < 1 || blockSize > 16) return null;
  if (parallelization < 1 || parallelization > 4) return null;
  const bytes = (base64: string | undefined): Buffer => Buffer.from(base64 ?? '', 'base64');
  return { costLog2, blockSize, parallelization, salt: bytes(match[4]), hash: bytes(match[5]) };
}

export const isPasswordHash = (text: string): boolean => parseHash(text) !== null;

/** Reads the file of a users Secret. Throws `UsersFileError`. */
export function parseUsers(text: string): Users {
  const users = new Map<string, PasswordHash>();
  for (const [index, raw] of text.split(/\r?\n/).entries()) {
    const line = raw.trim();
    if (line === '' || line.startsWith('#')) continue;
    const colon = line.indexOf(':');
    const user = line.slice(0, Math.max(colon, 0));
    if (colon < 1 || FORBIDDEN_IN_USER.test(user)) throw new UsersFileError(index + 1, 'expected user:$scrypt$...');
    const hash = parseHash(line.slice(colon + 1).trim());
    if (hash === null)
      throw new UsersFileError(index + 1, 'not a password hash of the form $scrypt$ln=,r=,p=$salt$hash');
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

const base64 = (bytes: Buffer): string => bytes.toString('base64').replace(/=+$/, '');

/** A hash for the users file. */
export async function hashPassword(password: string, random: Random): Promise<string> {
  const salt = random.bytes(SALT_BYTES);
  const options = scryptOptions(COST_LOG2, BLOCK_SIZE, PARALLELIZATION);
  const hash = await derive(password, salt, HASH_BYTES, options);
  return `$scrypt$ln=${COST_LOG2},r=${BLOCK_SIZE},p=${PARALLELIZATION}$${base64(salt)}$${base64(hash)}`;
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

const NOBODY: PasswordHash = {
  costLog2: COST_LOG2,
  blockSize: BLOCK_SIZE,
  parallelization: PARALLELIZATION,
  salt: Buffer.alloc(SALT_BYTES),
  hash: Buffer.alloc(HASH_BYTES),
};

/** True when the user exists and the password is right. */
export async function verifyPassword(users: Users, user: string, password: string): Promise<boolean> {
  const known = users.get(user);
  const expected = known ?? NOBODY;
  const options = scryptOptions(expected.costLog2, expected.blockSize, expected.parallelization);
  const actual = await derive(password, expected.salt, expected.hash.length, options);
  return timingSafeEqual(actual, expected.hash) && known !== undefined;
}
