/**
 * Which of some ids this member knows anything of, and how: for `mailcluster message lost`, which compares what was acknowledged with what
 * there is. Owns nothing. Promise: an id is left out only when neither the core, nor a Safety Net, nor (when asked) tracking names it.
 */
import type { CopyId } from '../../common/message.ts';
import type { QueueDatabase, Tombstone } from '../store/database.ts';
import type { KnownCopy } from './view.ts';

export interface LiveCopies {
  readonly copies: { has(id: CopyId): boolean };
  readonly tombstones: { get(id: CopyId): Pick<Tombstone, 'kind'> | undefined };
  readonly damaged: { has(id: CopyId): boolean };
}

async function atRest(database: Pick<QueueDatabase, 'lookup'>, id: CopyId): Promise<KnownCopy | null> {
  try {
    const stored = await database.lookup(id);
    if (stored === null) return null;
    return { id, where: stored.damaged === undefined ? 'safetyNet' : 'damaged' };
  } catch (error) {
    // Everything that may lie in an unreadable part of the log answers so: known to be damaged, not known to be absent.
    if (error instanceof Error && 'code' in error && error.code === 'DAMAGED') return { id, where: 'damaged' };
    throw error;
  }
}

export async function knownCopies(
  live: LiveCopies,
  database: Pick<QueueDatabase, 'lookup'>,
  ids: readonly CopyId[],
): Promise<readonly KnownCopy[]> {
  const known: KnownCopy[] = [];
  for (const id of ids) {
    if (live.damaged.has(id)) known.push({ id, where: 'damaged' });
    else if (live.copies.has(id)) known.push({ id, where: 'transit' });
    else {
      const tombstone = live.tombstones.get(id);
      const found = (await atRest(database, id)) ?? (tombstone === undefined ? null : { id, where: tombstone.kind });
      if (found !== null) known.push(found);
    }
  }
  return known;
}
