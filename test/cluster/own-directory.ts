/**
 * Temporary directories of control planes. Owns: their name, a note in each of who made it, and the removal of those whose maker was
 * killed and so could not. Promises: never touches one whose maker runs, nor one that a failed test keeps.
 */
import { readFileSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const PREFIX = 'mailcluster-api-';
const NOTE = 'owner';

/** Which process has this pid: its start in ticks since boot, because pids are used again. Null: none that runs. */
function incarnation(pid: number): string | null {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
    return fields[0] === 'Z' ? null : `${pid} ${fields[19]}`;
  } catch {
    return null;
  }
}

export async function createDirectory(): Promise<string> {
  await removeOrphans();
  const directory = await mkdtemp(join(tmpdir(), PREFIX));
  await writeFile(join(directory, NOTE), incarnation(process.pid) ?? '');
  return directory;
}

/** For a person to look into. */
export const keepDirectory = (directory: string): Promise<void> => rm(join(directory, NOTE), { force: true });

export const removeDirectory = (directory: string): Promise<void> => rm(directory, { recursive: true, force: true });

async function removeOrphans(): Promise<void> {
  const names = (await readdir(tmpdir())).filter((name) => name.startsWith(PREFIX));
  for (const directory of names.map((name) => join(tmpdir(), name))) {
    // Without a note it is kept, or half made, or somebody else's.
    const owner = await readFile(join(directory, NOTE), 'utf8').catch(() => '');
    if (owner !== '' && incarnation(Number(owner.split(' ')[0])) !== owner) await removeDirectory(directory);
  }
}
