/**
 * Looks for damage nobody has read yet (protocol.md 29): every segment from its first group to its last, in the order of the log, a piece at a
 * time. Owns: which copies a damaged place concerns, and where a pass goes on. Promise: a pass ends where the log ended when it began, and
 * names every copy in transit and every Safety Net entry some of whose bytes lie in what cannot be read; what only recovery would have read
 * (states, tombstones) is in memory and goes into a new checkpoint. Refuses nothing. Does not see through the page cache: a page that is
 * still in memory is read from there, whatever the medium has become.
 */
import type { CopyId } from '../../common/message.ts';
import type { Files } from '../../common/platform/files.ts';
import { commitPlace, extentsOf } from './body-place.ts';
import { checkpointIsWhole } from './checkpoint.ts';
import type { ScrubPosition, ScrubStep } from './database.ts';
import type { RestingEntry } from './footer.ts';
import { StoreError } from './live-index.ts';
import { isDamaged, type LogAccess } from './log-access.ts';
import type { LogState } from './log-state.ts';
import { BLOCK, type Extent, HEADER, type Place, padded, parseRecord } from './record.ts';
import { placeKey } from './safety-net-index.ts';
import type { Segment, SegmentPool } from './segment-pool.ts';
import { SegmentStream } from './segment-stream.ts';

export interface ScrubberOptions {
  readonly directory: string;
  readonly files: Files;
  readonly salt: Buffer;
  readonly state: LogState;
  readonly access: LogAccess;
  readonly pool: SegmentPool;
  /** A checkpoint is being written: its file is not to be looked at. */
  readonly isCheckpointing: () => boolean;
  /** Bytes of this copy cannot be read. */
  readonly onDamaged: (id: CopyId, at: Place, reason: string) => void;
  /** It is listed as damaged, and was not written anew since. */
  readonly isListed: (id: CopyId) => boolean;
  /** What is in memory has to be written down once more. */
  readonly wantCheckpoint: () => Promise<void>;
  /** A start would read this segment from end to end. */
  readonly isReplayed: (generation: number) => boolean;
  /** The newest segment at the start: its end is where the last whole group ended, and a copy may say that there was more. */
  readonly newestAtStart: number | null;
}

/** Bytes of a segment some of which are bad. */
interface Suspect {
  readonly generation: number;
  readonly from: number;
  readonly to: number;
  /** Nothing was ever written there, or all of it is gone: the copies say which. */
  readonly isBlank: boolean;
}

interface Cursor {
  generation: number;
  offset: number;
  /** Where the pass ends. */
  readonly last: readonly [generation: number, offset: number];
}

const overlaps = ({ generation, from, to }: Suspect, [at, offset, length]: Place): boolean =>
  at === generation && offset < to && offset + length > from;

export class Scrubber {
  readonly #options: ScrubberOptions;
  readonly #stream: SegmentStream;
  /** Places found bad in this life: each is counted once. */
  readonly #known = new Set<string>();

  constructor(options: ScrubberOptions) {
    this.#options = options;
    this.#stream = new SegmentStream(options.salt);
  }

  async step(from: ScrubPosition | null, maxBytes: number): Promise<ScrubStep> {
    const cursor = from === null ? this.#begin() : cursorOf(from);
    const segment = this.#segmentAt(cursor);
    if (segment === null) return this.#end(cursor);
    const { generation } = segment;
    if (generation !== cursor.generation) Object.assign(cursor, { generation, offset: BLOCK });
    const limit = generation === cursor.last[0] ? Math.min(cursor.last[1], segment.end) : segment.end;
    const before = cursor.offset;
    const { state } = this.#options;
    state.pin(generation);
    try {
      const suspect = await this.#read(segment, cursor, limit, maxBytes);
      const bytes = cursor.offset - before;
      const found = suspect === null ? NOTHING : await this.#concerned(suspect);
      if (cursor.offset >= limit) Object.assign(cursor, { generation: generation + 1, offset: BLOCK });
      return { bytes, ...found, next: positionOf(cursor), leftBytes: this.#left(cursor) };
    } finally {
      state.unpin(generation);
    }
  }

  #begin(): Cursor {
    const newest = Math.max(0, ...this.#options.pool.used.keys());
    return { generation: 0, offset: BLOCK, last: [newest, this.#options.pool.used.get(newest)?.end ?? 0] };
  }

  #segmentAt({ generation, last }: Cursor): Segment | null {
    let found: Segment | null = null;
    for (const segment of this.#options.pool.used.values()) {
      if (segment.generation < generation || segment.generation > last[0]) continue;
      if (found === null || segment.generation < found.generation) found = segment;
    }
    return found;
  }

  #left(cursor: Cursor): number {
    let bytes = 0;
    for (const { generation, end } of this.#options.pool.used.values()) {
      if (generation < cursor.generation || generation > cursor.last[0]) continue;
      const to = generation === cursor.last[0] ? Math.min(end, cursor.last[1]) : end;
      bytes += Math.max(0, to - (generation === cursor.generation ? cursor.offset : BLOCK));
    }
    return bytes;
  }

  /** Moves the cursor over whole groups; answers with what is not whole, which ends the step. */
  async #read(segment: Segment, cursor: Cursor, limit: number, maxBytes: number): Promise<Suspect | null> {
    const { generation } = segment;
    const from = cursor.offset;
    this.#stream.open(segment.handle);
    try {
      for await (const group of this.#stream.groups(generation, limit, from)) {
        cursor.offset = group.end;
        if (group.end - from >= maxBytes) return null;
      }
    } catch (error) {
      if (!this.#options.access.isMediumError(error)) throw error;
    }
    if (cursor.offset >= limit) return this.#behindEnd(generation, limit);
    const to = await this.#nextGroup(segment, cursor.offset, limit);
    const isBlank = to === limit && limit === segment.sizeBytes && (await this.#isBlank(segment, cursor.offset));
    const suspect = { generation, from: cursor.offset, to, isBlank };
    cursor.offset = to;
    return suspect;
  }

  #behindEnd(generation: number, from: number): Suspect | null {
    if (generation !== this.#options.newestAtStart) return null;
    return { generation, from, to: Number.MAX_SAFE_INTEGER, isBlank: true };
  }

  /** Where something readable begins again. */
  async #nextGroup(segment: Segment, from: number, limit: number): Promise<number> {
    const first = await this.#groupAt(segment, from);
    if (first !== null) return Math.min(limit, first);
    for (let at = from + BLOCK; at < limit; at += BLOCK) if ((await this.#groupAt(segment, at)) !== null) return at;
    return limit;
  }

  /** The end of the group whose header is at `at`; null when none is. */
  async #groupAt(segment: Segment, at: number): Promise<number | null> {
    const head = Buffer.alloc(HEADER);
    try {
      // JSON of a group header is empty: 64 bytes are all of it.
      if ((await segment.handle.read(head, 0, HEADER, at)) < HEADER) return null;
    } catch (error) {
      if (!this.#options.access.isMediumError(error)) throw error;
      return null;
    }
    const header = parseRecord(head, 0, this.#options.salt, segment.generation, at);
    return header?.kind === 'group' ? at + padded(HEADER + header.bodyLength) : null;
  }

  /** A segment that was recovered without a known end: behind its last group there is nothing. */
  async #isBlank(segment: Segment, from: number): Promise<boolean> {
    try {
      return !(await this.#stream.anythingBehind(segment.generation, segment.sizeBytes, from));
    } catch (error) {
      if (!this.#options.access.isMediumError(error)) throw error;
      return false;
    }
  }

  async #concerned(suspect: Suspect): Promise<Pick<ScrubStep, 'damaged' | 'newPlaces'>> {
    const met = [...(await this.#inTransit(suspect)), ...(await this.#atRest(suspect))];
    // While the others were looked at the first of them may have come back whole.
    const damaged = met.filter((id) => this.#options.isListed(id));
    if (suspect.isBlank && met.length === 0) return NOTHING;
    if (this.#options.isReplayed(suspect.generation)) await this.#options.wantCheckpoint();
    const key = `${suspect.generation}:${suspect.from}`;
    const isNew = !this.#known.has(key);
    this.#known.add(key);
    return { damaged, newPlaces: isNew && met.length === 0 ? 1 : 0 };
  }

  async #inTransit(suspect: Suspect): Promise<CopyId[]> {
    const { state, access, onDamaged } = this.#options;
    const damaged: CopyId[] = [];
    for (const [id, { body }] of [...state.index.copies]) {
      const at = commitPlace(body);
      const extents = extentsOf(body).filter(([generation, offset, length]) =>
        overlaps(suspect, [generation, offset, length]),
      );
      if (!overlaps(suspect, at) && extents.length === 0) continue;
      // Its facts are in memory, yet once it rests they are read from the COMMIT record.
      const reason = await reasonOf(() => access.verifyRecord(at));
      const bad = reason === null ? await this.#badExtent(extents) : { at, reason };
      if (bad === null || state.index.copies.get(id)?.body !== body) continue;
      damaged.push(id);
      onDamaged(id, bad.at, bad.reason);
    }
    return damaged;
  }

  async #badExtent(extents: readonly Extent[]): Promise<{ readonly at: Place; readonly reason: string } | null> {
    for (const extent of extents) {
      const reason = await reasonOf(() => this.#options.access.readExtent(extent));
      if (reason !== null) return { at: [extent[0], extent[1], extent[2]], reason };
    }
    return null;
  }

  async #atRest(suspect: Suspect): Promise<CopyId[]> {
    const { state, access } = this.#options;
    const { net } = state;
    const damaged: CopyId[] = [];
    for (const owner of [...net.owners.values()]) {
      if (!owner.refs.has(suspect.generation)) continue;
      for (const resting of (await access.linesOf(owner)).behind(null))
        if (!owner.dead.has(placeKey(resting.at)) && (await this.#isBad(suspect, resting)))
          damaged.push(resting.entry.id);
    }
    for (const resting of [...net.open.values()])
      if (await this.#isBad(suspect, resting)) damaged.push(resting.entry.id);
    return damaged;
  }

  async #isBad(suspect: Suspect, resting: RestingEntry): Promise<boolean> {
    const { access, onDamaged } = this.#options;
    const { id } = resting.entry;
    if (!resting.refs.includes(suspect.generation)) return false;
    let extents: readonly Extent[] | null = null;
    // Damaged records are reported by whoever reads them.
    const isUnreadable = await reasonOf(async () => {
      extents = (await access.readResting(resting)).extents;
    });
    const inside = ([generation, offset, length]: Extent): boolean => overlaps(suspect, [generation, offset, length]);
    const bad = isUnreadable === null ? await this.#badExtent((extents ?? []).filter(inside)) : null;
    if (isUnreadable === null && bad === null) return false;
    // It may have left, or have been written anew, while we looked.
    const now = await access.find(id).catch((error: unknown) => {
      if (isDamaged(error)) return undefined;
      throw error;
    });
    if (now === null || (now !== undefined && placeKey(now.entry.at) !== placeKey(resting.at))) return false;
    if (bad !== null) onDamaged(id, bad.at, bad.reason);
    return true;
  }

  /** Copies some of whose bytes lie in segments that are not there. */
  async #ofMissing(): Promise<CopyId[]> {
    const { state, pool } = this.#options;
    const damaged = new Set<CopyId>();
    for (const generation of new Set([...state.net.refs.keys(), ...state.liveRefs.keys()])) {
      if (pool.used.has(generation)) continue;
      const all: Suspect = { generation, from: 0, to: Number.MAX_SAFE_INTEGER, isBlank: false };
      for (const id of [...(await this.#inTransit(all)), ...(await this.#atRest(all))]) damaged.add(id);
    }
    return [...damaged];
  }

  async #end(cursor: Cursor): Promise<ScrubStep> {
    const { directory, files, isCheckpointing, wantCheckpoint } = this.#options;
    const damaged = await this.#ofMissing();
    let broken = 0;
    for (const number of [0, 1]) {
      if (isCheckpointing()) break;
      if (!(await checkpointIsWhole(files, directory, number)) && !isCheckpointing()) broken += 1;
    }
    // The older of the two is overwritten first: one new checkpoint for each of them.
    if (broken > 0) for (const _ of [0, 1]) await wantCheckpoint();
    const key = `checkpoint:${cursor.last[0]}`;
    const newPlaces = this.#known.has(key) ? 0 : broken;
    if (broken > 0) this.#known.add(key);
    return { bytes: 0, damaged, newPlaces, next: null, leftBytes: 0 };
  }
}

const NOTHING: Pick<ScrubStep, 'damaged' | 'newPlaces'> = { damaged: [], newPlaces: 0 };

async function reasonOf(look: () => Promise<unknown>): Promise<string | null> {
  try {
    await look();
    return null;
  } catch (error) {
    if (isDamaged(error)) return (error as Error).message;
    throw error;
  }
}

const positionOf = ({ generation, offset, last }: Cursor): ScrubPosition =>
  `${generation}:${offset}:${last[0]}:${last[1]}` as ScrubPosition;

function cursorOf(text: ScrubPosition): Cursor {
  const match = /^(\d{1,10}):(\d{1,16}):(\d{1,10}):(\d{1,16})$/.exec(text);
  if (match === null) throw new StoreError('POSITION', `not a place in a scrub: ${text}`);
  const [generation = 0, offset = 0, last = 0, end = 0] = match.slice(1).map(Number);
  return { generation, offset, last: [last, end] };
}
