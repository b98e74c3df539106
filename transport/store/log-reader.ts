/**
 * Reads a queue database as it lies on disk: newest valid checkpoint, then the log behind it (protocol.md 26). Owns: the order of
 * segments, which groups are durable, which damage is a torn tail (cut) and which is a media error (quarantined). Writes nothing, so
 * `store inspect` uses it too. Refuses with DAMAGED when the log cannot be put in order.
 */
import type { Files } from '../../common/platform/files.ts';
import { segmentsOf } from './body-place.ts';
import { type CheckpointHead, readCheckpoints } from './checkpoint.ts';
import type { Quarantined } from './database.ts';
import type { IdentityFile } from './identity-file.ts';
import { StoreError } from './live-index.ts';
import { decodeRecord } from './log-record.ts';
import { type Part, Replay, type TailRecord } from './log-replay.ts';
import { LogState } from './log-state.ts';
import { NO_MUTANTS, type StoreMutant } from './mutants.ts';
import { BLOCK, type Extent, HEADER, parseRecord, parseSegmentBlock, type SegmentHeader } from './record.ts';
import { segmentName, slotOf } from './segment-pool.ts';
import { type ScannedGroup, scanSegment } from './segment-scan.ts';
import { SegmentStream } from './segment-stream.ts';

export interface SegmentFile {
  readonly slot: number;
  readonly sizeBytes: number;
  /** 0: never used. */
  readonly generation: number;
  /** Undefined when block 0 cannot be read. */
  readonly previous: SegmentHeader['previous'] | undefined;
  readonly syncedThrough: number;
}

export interface LoadedLog {
  readonly state: LogState;
  /** Whole groups behind `syncedThrough`, not applied to `state`: they may not be on the medium yet, or are to be written anew all the same. */
  readonly tail: readonly TailRecord[];
  /** Segments that hold parts of bodies which the tail commits. */
  readonly tailNeeds: ReadonlySet<number>;
  /** Everything through here is on the medium. */
  readonly syncedThrough: number;
  readonly files: readonly SegmentFile[];
  /** Segments of the log behind the checkpoint, oldest first. */
  readonly chain: readonly number[];
  /** First unused byte by generation, where known. */
  readonly ends: Map<number, number>;
  /** The last segment with something durable in it: a header alone may be only in the page cache. */
  readonly lastGeneration: number;
  /** End of the last durable group in it. */
  readonly lastEnd: number;
  readonly highestGeneration: number;
  readonly checkpoint: CheckpointHead | null;
  readonly checkpointBytes: number;
  /** Segments from here on must stay for the sake of the older checkpoint. */
  readonly retainFrom: number;
  readonly quarantined: readonly Quarantined[];
  /** Groups behind the first torn one: never confirmed to anybody. */
  readonly cutGroups: number;
  /** A part of a body that was read and is not whole; null when all is well as far as was read. */
  damagedPart(extents: readonly Extent[]): Extent | null;
}

const damaged = (directory: string, what: string): StoreError =>
  new StoreError(
    'DAMAGED',
    `${directory}: ${what}; set the directory aside (never delete it), save what \`mailcluster store export\` can read, start with an empty one`,
  );

export interface LoadOptions {
  readonly mutants?: ReadonlySet<StoreMutant>;
  /** All of the newest segment is tail, so that recovery writes it anew and the segment is free. */
  readonly movesNewest?: boolean;
}

export async function loadLog(
  files: Files,
  directory: string,
  names: readonly string[],
  identity: IdentityFile,
  { mutants = NO_MUTANTS, movesNewest = false }: LoadOptions = {},
): Promise<LoadedLog> {
  const checkpoints = await readCheckpoints(files, directory, names);
  const { newest, older } = checkpoints;
  if (newest === null && checkpoints.broken.length > 1) throw damaged(directory, 'both checkpoints are damaged');
  const segments = await readSegmentFiles(files, directory, names, identity.salt);
  const through = newest?.head.lastGeneration ?? 0;
  const order = orderSegments(directory, segments, through);
  const state = newest?.state ?? new LogState();
  state.mutants = mutants;
  const replay = new Replay(state, newest?.head.sequence ?? 0, newest?.ends ?? new Map(), through);
  const stream = new SegmentStream(identity.salt);
  for (const [index, file] of order.entries()) {
    const next = order[index + 1];
    const end = next?.previous?.generation === file.generation ? next.previous.end : null;
    const before =
      next?.previous === undefined && next !== undefined
        ? await firstSequence(files, directory, next, identity.salt)
        : null;
    const part: Part = next === undefined ? { kind: 'newest', moves: movesNewest } : { kind: 'complete', before, end };
    const path = `${directory}/${segmentName(file.slot)}`;
    const limit = Math.min(end ?? file.sizeBytes, file.sizeBytes);
    await replaySegment(replay, stream, files, path, file, limit, identity.salt, part);
  }
  reportMissing(replay.state, segments, replay.quarantined);
  replay.state.packReplayed();
  return {
    state: replay.state,
    tail: replay.tail,
    tailNeeds: needsOf(replay.tail),
    syncedThrough: movesNewest ? replay.applied : replay.synced,
    files: segments,
    chain: order.map((file) => file.generation),
    ends: replay.ends,
    lastGeneration: replay.lastGeneration,
    lastEnd: replay.lastEnd,
    highestGeneration: segments.reduce((most, file) => Math.max(most, file.generation), through),
    checkpoint: newest?.head ?? null,
    checkpointBytes: newest?.bytes ?? 0,
    retainFrom: retention(newest?.head ?? null, older),
    quarantined: listDamage(replay),
    cutGroups: replay.cutGroups,
    damagedPart: (extents) => replay.damagedPart(extents),
  };
}

/** Whether everything in the newest segment is whole and at most so long: then it may be written anew. */
export function mayMoveNewest(loaded: LoadedLog, mostBytes: number): boolean {
  const newest = loaded.chain[loaded.chain.length - 1];
  if (newest === undefined || loaded.cutGroups > 0 || loaded.quarantined.length > 0) return false;
  const file = loaded.files.find(({ generation }) => generation === newest);
  if (file === undefined || (loaded.checkpoint?.sequence ?? 0) > file.syncedThrough) return false;
  const durable = loaded.lastGeneration === newest ? loaded.lastEnd - BLOCK : 0;
  const tail = loaded.tail.reduce((sum, { record, body }) => sum + HEADER + record.metaLength + body.length, 0);
  return durable > 0 && durable + tail <= mostBytes;
}

/** What is still damaged after the whole replay: with what is known of the copies, without those that were written anew. */
function listDamage({ state, quarantined }: Replay): Quarantined[] {
  const lost = state.index.quarantined;
  const listed = quarantined.filter((item) => item.id === null || lost.has(item.id));
  const rest = [...lost.values()].filter((item) => !listed.some((other) => other.id === item.id));
  return [...listed.map((item) => ({ ...item, ...known(item.id === null ? undefined : lost.get(item.id)) })), ...rest];
}

const known = (item: Quarantined | undefined): Pick<Quarantined, 'known'> =>
  item?.known === undefined ? {} : { known: item.known };

/** What is whole is taken piece by piece; only behind damage the segment is looked at as a whole. */
async function replaySegment(
  replay: Replay,
  stream: SegmentStream,
  files: Files,
  path: string,
  file: SegmentFile,
  limit: number,
  salt: Buffer,
  part: Part,
): Promise<void> {
  const { generation } = file;
  const handle = await files.open(path, 'read');
  try {
    stream.open(handle);
    const marks: number[] = [];
    // How much of the newest segment is durable stands in its later groups.
    if (part.kind === 'newest')
      for await (const header of stream.headers(generation, limit)) marks.push(header.syncedThrough);
    const behind = async (): Promise<ScannedGroup[]> => {
      if (!(await stream.anythingBehind(generation, limit))) return [];
      return scanSegment(await readWhole(files, path, limit), salt, generation, stream.at, limit);
    };
    for (const group of part.kind === 'newest' ? await behind() : [])
      if (group.header !== null) marks.push(group.header.syncedThrough);
    const segment = replay.begin(file, part, marks);
    for await (const group of stream.groups(generation, limit)) segment.add([group]);
    segment.add(await behind());
    segment.end();
  } finally {
    await handle.close();
  }
}

function needsOf(tail: readonly TailRecord[]): Set<number> {
  const needs = new Set<number>();
  for (const { record } of tail) {
    if (record.kind !== 'commit' && record.kind !== 'recall') continue;
    const change = decodeRecord(record.kind, record.meta);
    if (change !== null && 'extents' in change) for (const [generation] of change.extents) needs.add(generation);
  }
  return needs;
}

function retention(newest: CheckpointHead | null, older: CheckpointHead | null): number {
  if (newest === null) return 1;
  if (older !== null) return older.lastGeneration + 1;
  return newest.number <= 1 ? 1 : newest.lastGeneration + 1;
}

/** Of a segment whose header is lost: what lies before it in the log ends below this. */
async function firstSequence(files: Files, directory: string, file: SegmentFile, salt: Buffer): Promise<number | null> {
  const bytes = await readWhole(files, `${directory}/${segmentName(file.slot)}`, file.sizeBytes);
  for (const group of scanSegment(bytes, salt, file.generation, BLOCK, bytes.length))
    if (group.header !== null) return group.header.sequence;
  return null;
}

async function readWhole(files: Files, path: string, length: number): Promise<Buffer> {
  const handle = await files.open(path, 'read');
  try {
    const bytes = Buffer.allocUnsafeSlow(length);
    let at = 0;
    while (at < length) {
      const got = await handle.read(bytes, at, Math.min(length - at, 4 << 20), at);
      if (got === 0) break;
      at += got;
    }
    return bytes.subarray(0, at);
  } finally {
    await handle.close();
  }
}

async function readSegmentFiles(
  files: Files,
  directory: string,
  names: readonly string[],
  salt: Buffer,
): Promise<SegmentFile[]> {
  const found: SegmentFile[] = [];
  const read = async (slot: number): Promise<void> => {
    const path = `${directory}/${segmentName(slot)}`;
    const handle = await files.open(path, 'read');
    const block = Buffer.alloc(BLOCK);
    const sizeBytes = await handle.sizeBytes();
    await handle.read(block, 0, BLOCK, 0);
    await handle.close();
    const header = parseSegmentBlock(block, salt);
    if (header !== null) {
      found.push({ slot, sizeBytes, ...header });
      return;
    }
    // Block 0 is torn or damaged: the groups say whose generation it is.
    const generation = salvageGeneration(await readWhole(files, path, sizeBytes), salt);
    found.push({ slot, sizeBytes, generation, previous: undefined, syncedThrough: 0 });
  };
  const slots = names.map(slotOf).filter((slot) => slot !== null);
  for (let at = 0; at < slots.length; at += 16) await Promise.all(slots.slice(at, at + 16).map(read));
  return found.sort((a, b) => a.generation - b.generation);
}

function salvageGeneration(bytes: Buffer, salt: Buffer): number {
  let highest = 0;
  for (let at = bytes.indexOf(salt); at !== -1; at = bytes.indexOf(salt, at + 1)) {
    const record = parseRecord(bytes, at, salt, null);
    if (record !== null && record.kind === 'group') highest = Math.max(highest, record.generation);
  }
  return highest;
}

/** The segments behind the checkpoint in log order, found by walking back from the newest. */
function orderSegments(directory: string, files: readonly SegmentFile[], through: number): SegmentFile[] {
  const behind = files.filter((file) => file.generation > through);
  const order: SegmentFile[] = [];
  let current = behind[behind.length - 1];
  while (current !== undefined) {
    order.unshift(current);
    const here: SegmentFile = current;
    if (here.previous === undefined) {
      current = behind.filter((file) => file.generation < here.generation).pop();
      continue;
    }
    const before = here.previous?.generation ?? 0;
    if (before <= through) break;
    current = behind.find((file) => file.generation === before);
    if (current === undefined) throw damaged(directory, `segment of generation ${before} is missing`);
  }
  return order;
}

/** Copies that lie in segments which are not there. */
function reportMissing(state: LogState, files: readonly SegmentFile[], quarantined: Quarantined[]): void {
  const present = new Set(files.map((file) => file.generation));
  if ([...state.liveRefs.keys()].every((generation) => present.has(generation))) return;
  for (const copy of [...state.index.copies.values()]) {
    const missing = segmentsOf(copy.body).find((generation) => !present.has(generation));
    if (missing === undefined) continue;
    quarantined.push(state.quarantine(copy.facts.id, `generation ${missing}`, 0, 'the segment is missing'));
  }
}
