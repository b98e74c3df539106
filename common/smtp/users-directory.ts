/**
 * Users as a pod has them: a mounted Secret, one file per user, holding a password or its hash (or one file `users` with `user:...` lines). Owns:
 * reading that into what `users.ts` verifies; also reads the plain file that `mailcluster run` writes. Promise: passwords are hashed when
 * read and not kept, and hashed again only when something changed; files of the mount itself (`..data`) are no users. Throws
 * `UsersFileError`.
 */
import { createHash } from 'node:crypto';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Random } from '../platform/random.ts';
import { parseUsers, type Users, usersFileFromSecret } from './users.ts';

export class UsersReader {
  readonly #random: Random;
  readonly #known = new Map<string, { readonly digest: string; readonly users: Users }>();

  constructor(random: Random) {
    this.#random = random;
  }

  async read(path: string): Promise<Users> {
    if (!(await stat(path)).isDirectory()) return parseUsers(await readFile(path, 'utf8'));
    const names = (await readdir(path)).filter((name) => !name.startsWith('.')).sort();
    const files = await Promise.all(
      names.map(async (name) => [name, await readFile(join(path, name), 'utf8')] as const),
    );
    const digest = createHash('sha256').update(JSON.stringify(files)).digest('hex');
    const known = this.#known.get(path);
    if (known?.digest === digest) return known.users;
    const entries = files.flatMap(([name, text]) =>
      name === 'users' ? lines(text) : [[name, firstLine(text)] as const],
    );
    const users = parseUsers(await usersFileFromSecret(Object.fromEntries(entries), this.#random));
    this.#known.set(path, { digest, users });
    return users;
  }
}

const firstLine = (text: string): string => text.replace(/\r?\n$/, '');

const lines = (text: string): readonly (readonly [string, string])[] =>
  text
    .split(/\r?\n/)
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => {
      const colon = line.indexOf(':');
      return [line.slice(0, Math.max(colon, 0)), line.slice(colon + 1).trim()] as const;
    });
