/**
 * What two sides of a session know of each other's queue databases (protocol.md 1). Owns: when a chain of nonces and a log sequence show that a queue database is
 * not the one that was met before: an older copy, or a clone. PURE.
 */
import type { Hello } from '../../common/peer/messages.ts';
import type { QueueDatabase, Seen } from '../store/database.ts';

type Database = NonNullable<Hello['database']>;

/** The other's chain must contain what was seen of it, and not end below the sequence seen. Null: it does. */
export function brokenChain(theirs: Database, seen: Seen | undefined): string | null {
  if (seen === undefined) return null;
  const last = theirs.chain.at(-1);
  const entry = theirs.chain.find((open) => open.openCounter === seen.openCounter);
  if (last !== undefined && last.openCounter < seen.openCounter)
    return `its newest open ${last.openCounter} is older than open ${seen.openCounter} seen before`;
  const oldest = theirs.chain.at(0);
  // The chain shows the last 64 opens: only an older one may be missing.
  if (entry === undefined && (oldest === undefined || oldest.openCounter <= seen.openCounter))
    return `open ${seen.openCounter} seen before is missing in its chain`;
  if (entry !== undefined && entry.nonce !== seen.nonce)
    return `open ${seen.openCounter} carries another nonce than the one seen before`;
  if (theirs.syncedSequence < seen.syncedSequence)
    return `its log ends at ${theirs.syncedSequence}, ${seen.syncedSequence} was seen before`;
  return null;
}

/** What the other saw of this queue database must be in our own chain, and not lie beyond our log. */
export function ownBrokenChain(
  { identity, chain, syncedSequence }: Pick<QueueDatabase, 'identity' | 'chain' | 'syncedSequence'>,
  seen: Hello['seen'],
): string | null {
  if (seen === null || seen.identity !== identity) return null;
  const entry = chain.find((open) => open.openCounter === seen.openCounter);
  const last = chain.at(-1)?.openCounter ?? 0;
  if (seen.openCounter > last)
    return `open ${seen.openCounter} of it, ours is ${last}: another process goes on with a copy`;
  if (entry !== undefined && entry.nonce !== seen.nonce)
    return `another open ${seen.openCounter} of it: this is a copy`;
  if (syncedSequence < seen.syncedSequence)
    return `its log up to ${seen.syncedSequence}, ours ends at ${syncedSequence}: this is an older copy`;
  return null;
}
