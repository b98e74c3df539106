/**
 * One runner per state directory. Owns: an exclusive lock on `DIR/lock`, held until release or the death of the process, however it dies
 * (performance.md: without native code the built-in SQLite is the way to a kernel lock). `null` when somebody else holds it.
 */
import { DatabaseSync } from 'node:sqlite';
import type { ExclusiveLock } from '../../common/platform/files.ts';

/** SQLITE_BUSY, SQLITE_LOCKED. */
const HELD = new Set([5, 6]);

export function takeLock(path: string): ExclusiveLock | null {
  const database = new DatabaseSync(path, { timeout: 0 });
  try {
    database.exec('PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE');
  } catch (error) {
    database.close();
    if (error instanceof Error && 'errcode' in error && HELD.has(Number(error.errcode))) return null;
    throw error;
  }
  return { release: async () => database.close() };
}
