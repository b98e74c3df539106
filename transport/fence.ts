/**
 * Volumes that must not be used (protocol.md 1; semantics.md S9). Owns: the mark `fenced.json` in a queue database directory and the renaming of a marked one
 * to `queue.fenced-<n>` beside it before the next start. Promise: nothing is ever deleted; `mailcluster store export` reads what was set aside.
 */
import { open, readdir, rename, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Logger } from '../common/platform/log.ts';

export const FENCE_MARK = 'fenced.json';

export interface FenceMark {
  readonly why: string;
  readonly identity: string;
  /** ISO 8601. */
  readonly at: string;
}

/** Durable before the process ends: a start in between must not use the volume. */
export async function markFenced(directory: string, mark: FenceMark): Promise<void> {
  const file = await open(join(directory, FENCE_MARK), 'w');
  try {
    await file.writeFile(`${JSON.stringify(mark, null, 2)}\n`);
    await file.sync();
  } finally {
    await file.close();
  }
  await syncDirectory(directory);
}

async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Null when the directory is not marked; else where it is now. */
export async function setAsideIfFenced(directory: string, log: Logger): Promise<string | null> {
  try {
    await stat(join(directory, FENCE_MARK));
  } catch (error) {
    if ((error as { code?: string }).code === 'ENOENT') return null;
    throw error;
  }
  const parent = dirname(directory);
  const prefix = `${basename(directory)}.fenced-`;
  const names = await readdir(parent);
  const taken = names.filter((name) => name.startsWith(prefix)).map((name) => Number(name.slice(prefix.length)) || 0);
  const aside = join(parent, `${prefix}${Math.max(0, ...taken) + 1}`);
  await rename(directory, aside);
  await syncDirectory(parent);
  log.error({ aside, remedy: `read it with "mailcluster store export ${aside}"` }, 'fenced queue database set aside');
  return aside;
}
