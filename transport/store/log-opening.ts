/**
 * From the files of a queue database to a log that is written again. Owns: which segments are in use, freeing some where none is to spare (protocol.md 28: a pod
 * starts with a full disk, however often), and the order of that and of writing the tail anew (log-recovery.ts). Fails with ENOSPC when no segment is left.
 */
import type { Files } from '../../common/platform/files.ts';
import type { Checkpointer } from './checkpointer.ts';
import type { IdentityFile } from './identity-file.ts';
import { StoreError } from './live-index.ts';
import { type LoadedLog, loadLog, mayMoveNewest } from './log-reader.ts';
import { type RecoveredLog, rewriteTail } from './log-recovery.ts';
import { NO_MUTANTS } from './mutants.ts';
import { BLOCK, padded } from './record.ts';
import type { SegmentLogOptions } from './segment-log.ts';
import { reserveSegments, type SegmentPool, segmentName } from './segment-pool.ts';

/**
 * Each life begins a segment of its own. With no segment to spare what little the last life wrote is written anew with the tail, so that its segment is
 * free: a pod that restarts again and again must not use up its reserve.
 */
export async function loadForWriting(
  options: SegmentLogOptions,
  names: readonly string[],
  identity: IdentityFile,
): Promise<LoadedLog> {
  const { files, directory, mutants = NO_MUTANTS } = options;
  const loaded = await loadLog(files, directory, names, identity, { mutants });
  const spare = loaded.files.filter((file) => file.sizeBytes >= 2 * BLOCK && !isInUse(loaded, file.generation)).length;
  const reserved = reserveSegments(options);
  const isScarce = spare <= reserved && mayMoveNewest(loaded, padded(options.segmentBytes) / 2);
  return isScarce ? loadLog(files, directory, names, identity, { mutants, movesNewest: true }) : loaded;
}

function isInUse(loaded: LoadedLog, generation: number): boolean {
  if (generation === 0) return false;
  if (generation > (loaded.checkpoint?.lastGeneration ?? 0)) return loaded.chain.includes(generation);
  return generation >= loaded.retainFrom || loaded.state.needs(generation) || loaded.tailNeeds.has(generation);
}

export async function adoptSegments(
  files: Files,
  directory: string,
  pool: SegmentPool,
  loaded: LoadedLog,
): Promise<void> {
  for (const file of loaded.files) {
    const { slot, generation, sizeBytes } = file;
    const inUse = isInUse(loaded, generation);
    // A file that was being made when the power failed.
    if (sizeBytes < 2 * BLOCK && !inUse) {
      await files.unlink(`${directory}/${segmentName(slot)}`);
      continue;
    }
    const path = `${directory}/${segmentName(slot)}`;
    const handle = await files.open(path, 'write');
    const end = loaded.ends.get(generation) ?? sizeBytes;
    pool.adopt({ slot, path, handle, sizeBytes, generation, end, writing: null }, inUse);
  }
}

/** Writes the tail anew; frees segments first where none is spare. */
export async function recoverLog(
  { directory }: SegmentLogOptions,
  loaded: LoadedLog,
  pool: SegmentPool,
  checkpointer: Checkpointer,
  isNew: boolean,
): Promise<RecoveredLog> {
  const { chain, tail, tailNeeds, syncedThrough, lastGeneration, lastEnd, state } = loaded;
  // Two, so that nothing is kept for the sake of the older one.
  const makeRoom = async (sequence: number, currentGeneration: number): Promise<void> => {
    for (let round = 0; round < 2; round++) await checkpointer.start(sequence, lastGeneration, lastEnd);
    checkpointer.recycle(currentGeneration);
  };
  // What the tail commits is in no copy yet: parts of its bodies may lie in segments before it (seed 4498: one was given back, and a message lost).
  for (const generation of tailNeeds) state.pin(generation);
  // A checkpoint stands for whole segments: none before the tail is written anew, unless the tail is all there is in the newest one.
  const isWhole = tail.length === 0 || lastGeneration < (chain[chain.length - 1] ?? 0);
  if (!isNew && isWhole && pool.freeSegments <= pool.reserveSegments) await makeRoom(syncedThrough, 0);
  if (pool.freeSegments === 0)
    throw new StoreError('ENOSPC', `${directory} has no room for a segment: give the volume more space`);
  const recovered = await rewriteTail(loaded, pool);
  for (const generation of tailNeeds) state.unpin(generation);
  // What was written anew as a whole is not part of the log any more.
  for (const generation of chain) if (generation > lastGeneration && !state.needs(generation)) pool.release(generation);
  const { current, sequence } = recovered.end;
  // What the tail says may free a segment. Not sooner than it must: what a checkpoint knows of the newest segment is not moved by the next life.
  if (current !== null && pool.freeSegments === 0) await makeRoom(sequence, current.generation);
  return recovered;
}
