/**
 * Where the bench finds Postfix: unpacked into the cache of `test/rigs/packages.ts`, or a prefix named by MAILCLUSTER_POSTFIX_PREFIX.
 * An installed Postfix (prefix `/`) works too; its own configuration and queue are never touched.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { PostfixInstallation } from './sides.ts';

export async function findPostfix(): Promise<PostfixInstallation> {
  const candidates = [process.env.MAILCLUSTER_POSTFIX_PREFIX, '/'].filter((one) => one !== undefined);
  const found = candidates.find((prefix) => existsSync(join(prefix, 'usr/lib/postfix/sbin/master')));
  if (found === undefined)
    throw new Error('no Postfix: apt-get install postfix, or name a prefix in MAILCLUSTER_POSTFIX_PREFIX');
  if (process.getuid?.() !== 0) throw new Error('Postfix must be started by root; run the bench as root');
  return { prefix: found };
}
