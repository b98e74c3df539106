/**
 * Checkpoints: two alternating files with everything the log says up to one point (protocol.md 26). Owns: their bytes. Promise: a
 * file is valid only as a whole (a checksum over all of it in its first block), so a checkpoint that was not finished leaves the other
 * one in force. The snapshot is taken in one go from lists of entries that are never changed; encoding and writing go in pieces.
 *
 * Block 0: crc32 of 4.. | length | JSON head. From block 1: frames of length | crc32 | JSON, up to `payloadBytes`.
 */
import { crc32 } from 'node:zlib';
import type { FileHandle, Files } from '../../common/platform/files.ts';
import { type CopyRows, decodeRows, encodeRows } from './checkpoint-rows.ts';
import type { Quarantined, Seen, Tombstone } from './database.ts';
import { entryLine, parseLines } from './footer.ts';
import type { LogState } from './log-state.ts';
import { LogState as State } from './log-state.ts';
import { BLOCK, FORMAT_VERSION, padded } from './record.ts';
import type { Owner } from './safety-net-index.ts';

export interface CheckpointHead {
  readonly version: number;
  /** Counts up; odd ones in file 1, even ones in file 0. */
  readonly number: number;
  /** Every record through this sequence is in it. */
  readonly sequence: number;
  /** The log goes on behind this segment. */
  readonly lastGeneration: number;
}

/** First unused byte of the segments still needed, by generation. */
export type SegmentEnds = readonly (readonly [generation: number, end: number])[];

interface Head extends CheckpointHead {
  readonly payloadBytes: number;
  readonly payloadCrc: number;
}

type OwnerRow = Omit<Owner, 'refs' | 'dead' | 'bloom'> & {
  readonly refs: readonly (readonly [number, number])[];
  readonly dead: readonly string[];
};

interface Frame {
  readonly rows?: CopyRows;
  readonly tombstones?: readonly Tombstone[];
  readonly seen?: readonly Seen[];
  readonly facts?: readonly (readonly [string, unknown])[];
  readonly owners?: readonly OwnerRow[];
  readonly quarantined?: readonly Quarantined[];
  readonly ends?: SegmentEnds;
  /** Lines of Safety Net entries that are in no footer yet. */
  readonly open?: readonly string[];
  readonly completeSinceMs?: number | null;
}

const PIECE = 256 * 1024;
/** Small, so that no text of a frame is a large object that only a full collection frees. */
const ROWS = 64;

export const checkpointName = (number: number): string => `checkpoint-${number % 2}`;

/** A consistent picture, taken without waiting; only `frames` costs time, piece by piece. */
export function snapshotState(state: LogState, ends: SegmentEnds): { frames(): Iterable<Buffer> } {
  const { index, net } = state;
  const copies = [...index.copies.values()];
  const tombstones = state.mutants.has('checkpoint-without-tombstones') ? [] : [...index.tombstones.values()];
  const rest: Frame = {
    ends,
    open: [...net.open.values()].map(entryLine),
    completeSinceMs: net.completeSinceMs,
    seen: [...index.seen.values()],
    facts: [...index.facts],
    quarantined: [...index.quarantined.values()],
    owners: [...net.owners.values()].map(({ bloom: _, ...owner }) => ({
      ...owner,
      primary: { ...owner.primary },
      shadow: { ...owner.shadow },
      refs: [...owner.refs],
      dead: [...owner.dead],
    })),
  };
  return {
    *frames() {
      yield frame(rest);
      for (let at = 0; at < tombstones.length; at += ROWS) yield frame({ tombstones: tombstones.slice(at, at + ROWS) });
      for (let at = 0; at < copies.length; at += ROWS) {
        yield frame({ rows: encodeRows(copies.slice(at, at + ROWS), state.compactor) });
      }
    },
  };
}

function frame(content: Frame): Buffer {
  const text = JSON.stringify(content);
  const length = Buffer.byteLength(text);
  const bytes = Buffer.allocUnsafe(8 + length);
  bytes.write(text, 8);
  bytes.writeUInt32LE(length, 0);
  bytes.writeUInt32LE(crc32(bytes.subarray(8)), 4);
  return bytes;
}

/** Writes and syncs one checkpoint into an open file; returns its size. */
export async function writeCheckpoint(
  handle: FileHandle,
  head: CheckpointHead,
  frames: Iterable<Buffer>,
): Promise<number> {
  let at = BLOCK;
  let crc = 0;
  let pending: Buffer[] = [];
  let pendingBytes = 0;
  const flush = async (first: readonly Buffer[]): Promise<void> => {
    const position = first.length > 0 ? 0 : at;
    await handle.writev([...first, ...pending], position);
    at += pendingBytes;
    pending = [];
    pendingBytes = 0;
  };
  for (const piece of frames) {
    crc = crc32(piece, crc);
    pending.push(piece);
    pendingBytes += piece.length;
    if (pendingBytes >= PIECE) await flush([]);
  }
  const payloadBytes = at + pendingBytes - BLOCK;
  const block = headBlock({ ...head, payloadBytes, payloadCrc: crc });
  if (at === BLOCK) await flush([block]);
  else {
    await flush([]);
    await handle.writev([block], 0);
  }
  // One sync for all: the checksum decides whether everything arrived.
  await handle.datasync();
  return padded(at);
}

function headBlock(head: Head): Buffer {
  const text = JSON.stringify(head);
  const length = Buffer.byteLength(text);
  const bytes = Buffer.alloc(padded(8 + length));
  if (bytes.length !== BLOCK) throw new Error('checkpoint head outgrew its block');
  bytes.write(text, 8);
  bytes.writeUInt32LE(length, 4);
  bytes.writeUInt32LE(crc32(bytes.subarray(4, 8 + length)), 0);
  return bytes;
}

function parseHead(bytes: Buffer): Head | null {
  const length = bytes.readUInt32LE(4);
  if (length === 0 || length > BLOCK - 8) return null;
  if (crc32(bytes.subarray(4, 8 + length)) !== bytes.readUInt32LE(0)) return null;
  return JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Head;
}

export interface ReadCheckpoint {
  readonly head: CheckpointHead;
  readonly state: LogState;
  readonly ends: Map<number, number>;
  readonly bytes: number;
}

/** The frames of a checkpoint one by one, through one buffer. */
class FrameReader {
  /** Of everything read so far. */
  crc = 0;
  readonly #handle: FileHandle;
  readonly #payloadBytes: number;
  #buffer: Buffer;
  /** What is in the buffer and not yet given out. */
  #from = 0;
  #to = 0;
  #read = 0;

  constructor(handle: FileHandle, payloadBytes: number) {
    this.#handle = handle;
    this.#payloadBytes = payloadBytes;
    this.#buffer = Buffer.allocUnsafeSlow(Math.min(PIECE, payloadBytes));
  }

  /** The JSON of the next frame; null when it is not whole. */
  async next(): Promise<string | 'end' | null> {
    if (this.#read === this.#payloadBytes && this.#from === this.#to) return 'end';
    if (!(await this.#has(8))) return null;
    const length = this.#buffer.readUInt32LE(this.#from);
    const crc = this.#buffer.readUInt32LE(this.#from + 4);
    if (length > this.#payloadBytes || !(await this.#has(8 + length))) return null;
    const body = this.#buffer.subarray(this.#from + 8, this.#from + 8 + length);
    // Zeros where a frame should be are not an empty frame.
    if (length === 0 || crc32(body) !== crc) return null;
    this.#from += 8 + length;
    return body.toString();
  }

  /** Brings that many bytes into the buffer. */
  async #has(bytes: number): Promise<boolean> {
    if (this.#to - this.#from >= bytes) return true;
    const target = bytes > this.#buffer.length ? Buffer.allocUnsafeSlow(bytes) : this.#buffer;
    this.#buffer.copy(target, 0, this.#from, this.#to);
    this.#to -= this.#from;
    this.#from = 0;
    this.#buffer = target;
    const wanted = Math.min(this.#buffer.length - this.#to, this.#payloadBytes - this.#read);
    if (wanted + this.#to < bytes) return false;
    const got = await this.#handle.read(this.#buffer, this.#to, wanted, BLOCK + this.#read);
    this.crc = crc32(this.#buffer.subarray(this.#to, this.#to + got), this.crc);
    this.#to += got;
    this.#read += got;
    return got === wanted;
  }
}

/** What one file says it holds: `empty` when nothing was ever written, null when that cannot be read. */
async function readHead(files: Files, path: string): Promise<Head | 'empty' | null> {
  const handle = await files.open(path, 'read');
  try {
    const block = Buffer.alloc(BLOCK);
    if ((await handle.read(block, 0, BLOCK, 0)) < BLOCK || block.every((byte) => byte === 0)) return 'empty';
    const head = parseHead(block);
    return head === null || head.version > FORMAT_VERSION ? null : head;
  } finally {
    await handle.close();
  }
}

/** Null when it is not whole. */
async function readState(files: Files, path: string, head: Head): Promise<ReadCheckpoint | null> {
  const handle = await files.open(path, 'read');
  try {
    const state = new State();
    const ends = new Map<number, number>();
    const frames = new FrameReader(handle, head.payloadBytes);
    for (let text = await frames.next(); text !== 'end'; text = await frames.next()) {
      if (text === null) return null;
      restore(state, ends, JSON.parse(text) as Frame);
    }
    return frames.crc === head.payloadCrc ? { head, state, ends, bytes: BLOCK + head.payloadBytes } : null;
  } finally {
    await handle.close();
  }
}

/** Whether a file can be used by a start: nothing was ever written to it, or all of it is whole. Holds one piece of it in memory. */
export async function checkpointIsWhole(files: Files, directory: string, number: number): Promise<boolean> {
  const path = `${directory}/${checkpointName(number)}`;
  const head = await readHead(files, path);
  if (head === 'empty' || head === null) return head === 'empty';
  const handle = await files.open(path, 'read');
  try {
    const frames = new FrameReader(handle, head.payloadBytes);
    for (let text = await frames.next(); text !== 'end'; text = await frames.next()) if (text === null) return false;
    return frames.crc === head.payloadCrc;
  } finally {
    await handle.close();
  }
}

function restore(state: LogState, ends: Map<number, number>, content: Frame): void {
  const { index, net } = state;
  for (const [generation, end] of content.ends ?? []) ends.set(generation, end);
  for (const { body, ...stored } of content.rows === undefined ? [] : decodeRows(content.rows, state.compactor))
    state.restoreCopy(stored, body);
  for (const tombstone of content.tombstones ?? []) index.tombstones.set(tombstone.id, tombstone);
  for (const seen of content.seen ?? []) index.seen.set(seen.identity, seen);
  for (const [key, value] of content.facts ?? []) index.facts.set(key, value);
  for (const item of content.quarantined ?? []) if (item.id !== null) index.quarantined.set(item.id, item);
  for (const owner of content.owners ?? [])
    net.restore({ ...owner, refs: new Map(owner.refs), dead: new Set(owner.dead), bloom: null });
  for (const resting of parseLines((content.open ?? []).join(','))) net.add(resting);
  if (typeof content.completeSinceMs === 'number') net.setCompleteSince(content.completeSinceMs);
}

export interface Checkpoints {
  readonly newest: ReadCheckpoint | null;
  /** The head of the other one; whether all of it is whole was not looked at. */
  readonly older: CheckpointHead | null;
  /** Files that hold bytes which are not a whole checkpoint: damage, or one that was not finished. */
  readonly broken: readonly string[];
}

/** The newest valid checkpoint of the two files. The other one is not read: it would take as much memory and time again. */
export async function readCheckpoints(files: Files, directory: string, names: readonly string[]): Promise<Checkpoints> {
  const broken: string[] = [];
  const heads: { readonly name: string; readonly head: Head }[] = [];
  for (const name of [checkpointName(0), checkpointName(1)]) {
    if (!names.includes(name)) continue;
    const head = await readHead(files, `${directory}/${name}`);
    if (head === null) broken.push(name);
    else if (head !== 'empty') heads.push({ name, head });
  }
  heads.sort((a, b) => b.head.number - a.head.number);
  for (const [index, { name, head }] of heads.entries()) {
    const newest = await readState(files, `${directory}/${name}`, head);
    if (newest !== null) return { newest, older: heads[index + 1]?.head ?? null, broken };
    broken.push(name);
  }
  return { newest: null, older: null, broken };
}
