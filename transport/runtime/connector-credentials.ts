/**
 * What a connector authenticates with, from files as a Secret is mounted. Owns: how they are read. Promise: read anew for each connection, so that a changed
 * Secret needs no restart; a problem is a text that names the file and holds no secret.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Credentials } from '../../common/smtp/client-auth.ts';

/** `secret`: name of the Secret. */
export type ReadCredentials = (secret: string) => Promise<Credentials | { readonly problem: string }>;

export function credentialsIn(directory: string | null): ReadCredentials {
  return async (secret) => {
    if (directory === null) return { problem: `no directory with the Secret ${secret} is configured` };
    try {
      const [username, password] = await Promise.all([
        one(join(directory, secret, 'username')),
        one(join(directory, secret, 'password')),
      ]);
      return { username, password };
    } catch (error) {
      return { problem: `credentials of Secret ${secret}: ${error instanceof Error ? error.message : String(error)}` };
    }
  };
}

/** Editors and `kubectl create secret --from-file` leave a line end behind. */
async function one(file: string): Promise<string> {
  const text = (await readFile(file, 'utf8')).replace(/\r?\n$/, '');
  if (text === '') throw new Error(`${file} is empty`);
  // RFC 4616 2: NUL ends a part; a line end would end the command of AUTH LOGIN.
  if (/[\0\r\n]/.test(text)) throw new Error(`${file} holds more than one line`);
  return text;
}
