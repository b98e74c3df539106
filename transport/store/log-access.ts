/**
 * Reading back from the log while it lives: records and body extents by their place, Safety Net entries by id or in order. Owns: the
 * verification of everything it hands out, a cache of two footers, telling `report` once of everything it finds damaged. Fails with
 * StoreError DAMAGED, also for what the medium cannot read; a damaged footer is rebuilt from the records it lists, a damaged COMMIT
 * leaves what the MOVE record knows.
 */

import { crc32 } from 'node:zlib';
import type { CopyId } from '../../common/message.ts';
import type { FileHandle } from '../../common/platform/files.ts';
import type { Logger } from '../../common/platform/log.ts';
import { type Bloom, type BloomKey, bloomHas, bloomKey, buildBloom } from './bloom.ts';
import type { Quarantined, StoredCopy } from './database.ts';
import { bloomOf, byPlace, decodeFooter, FooterLines, type RestingEntry } from './footer.ts';
import { StoreError, safetyNetEntry } from './live-index.ts';
import { decodeRecord, type Kill, type LogRecord } from './log-record.ts';
import type { LogState } from './log-state.ts';
import { BLOCK, type Extent, HEADER, type ParsedRecord, type Place, padded, parseRecord } from './record.ts';
import { type RestingCopy, withoutCommit } from './resting-copy.ts';
import { type Owner, placeKey } from './safety-net-index.ts';
import { scanSegment } from './segment-scan.ts';

/** What is known of a segment that can be read. */
export interface ReadableSegment {
  readonly handle: FileHandle;
  readonly path: string;
  readonly end: number;
  readonly writing: Promise<void> | null;
}

export interface FoundEntry {
  readonly entry: RestingEntry;
  /** Null while it is in no footer. */
  readonly owner: Owner | null;
}

interface LoadedFooter {
  readonly lines: FooterLines;
  /** It is damaged and could not be rebuilt whole, but its filter is the original one: an id in the filter may have been listed. */
  readonly suspect: boolean;
}

interface FooterContents {
  readonly bloom: Bloom;
  readonly lines: FooterLines;
}

type MoveRecord = Extract<LogRecord, { kind: 'move' }>;
type CommitRecord = Extract<LogRecord, { kind: 'commit' | 'recall' }>;
type ReadRecord = (place: Place) => Promise<LogRecord | null>;

/** Bytes between two records that are cheaper to read than to skip, and most of one read. */
const GAP_BYTES = 32 * 1024;
const STRETCH_BYTES = 1 << 20;

/** Places that are read together, in the order of the log. */
function stretches(places: readonly Place[]): Place[][] {
  const all: Place[][] = [];
  for (const place of [...places].sort(byPlace)) {
    const stretch = all[all.length - 1];
    const first = stretch?.[0];
    const last = stretch?.[stretch.length - 1];
    const joins =
      first !== undefined &&
      last !== undefined &&
      first[0] === place[0] &&
      place[1] - (last[1] + last[2]) < GAP_BYTES &&
      place[1] + place[2] - first[1] <= STRETCH_BYTES;
    if (joins) stretch?.push(place);
    else all.push([place]);
  }
  return all;
}

/** What the medium answers when it cannot read a block (EBADMSG, EUCLEAN: checksums of the file system). */
const MEDIUM_ERRORS: readonly unknown[] = ['EIO', 'ENXIO', 'ENODATA', 'EREMOTEIO', 'EBADMSG', 'EUCLEAN'];
const FOOTERS_AT_ONCE = 16;
const FOOTERS_KEPT = 2;

export const isDamaged = (error: unknown): boolean => (error as { code?: unknown }).code === 'DAMAGED';

export class LogAccess {
  readonly #state: LogState;
  readonly #salt: Buffer;
  readonly #log: Logger;
  readonly #segment: (generation: number) => ReadableSegment | undefined;
  readonly #report: (item: Quarantined) => void;
  readonly #reported = new Set<string>();
  #footers: { readonly owner: Owner; readonly footer: Promise<LoadedFooter> }[] = [];
  #scratch: Buffer | null = null;

  constructor(
    state: LogState,
    salt: Buffer,
    log: Logger,
    segment: (generation: number) => ReadableSegment | undefined,
    report: (item: Quarantined) => void = () => undefined,
  ) {
    this.#state = state;
    this.#salt = salt;
    this.#log = log;
    this.#segment = segment;
    this.#report = report;
  }

  #damaged(id: CopyId | null, [generation, offset]: Place, reason: string): void {
    const key = `${generation}:${offset}`;
    if (this.#reported.has(key)) return;
    this.#reported.add(key);
    const path = this.#segment(generation)?.path;
    const segment = path === undefined ? `generation ${generation}` : path.slice(path.lastIndexOf('/') + 1);
    this.#report({ id, segment, offset, reason });
  }

  /** `into`: memory for the bytes, of which nothing outlives the caller's use. */
  async readRange(generation: number, offset: number, length: number, into?: Buffer): Promise<Buffer> {
    const segment = this.#segment(generation);
    if (segment === undefined) throw new StoreError('DAMAGED', `the segment of generation ${generation} is missing`);
    // What is not there yet is not damaged.
    if (offset + length > segment.end) await segment.writing;
    const bytes = into?.subarray(0, length) ?? Buffer.allocUnsafe(length);
    const got = await segment.handle.read(bytes, 0, length, offset).catch((error: unknown) => {
      if (!MEDIUM_ERRORS.includes((error as { code?: unknown }).code)) throw error;
      throw new StoreError('DAMAGED', `${segment.path} cannot be read at ${offset}: ${String(error)}`);
    });
    if (got < length) throw new StoreError('DAMAGED', `${segment.path} ends at ${offset + got}`);
    return bytes;
  }

  /** One part of a body, verified. */
  async readExtent([generation, offset, length, crc]: Extent): Promise<Buffer> {
    const bytes = await this.readRange(generation, offset, length);
    if (crc32(bytes) !== crc)
      throw new StoreError(
        'DAMAGED',
        `body bytes at ${offset} of generation ${generation} do not match their checksum`,
      );
    return bytes;
  }

  /** Throws DAMAGED when header and JSON of a record are not whole. */
  async verifyRecord(at: Place): Promise<void> {
    await this.#readRecord(at);
  }

  isMediumError(error: unknown): boolean {
    return MEDIUM_ERRORS.includes((error as { code?: unknown }).code);
  }

  async #readRecord([generation, offset, length]: Place): Promise<ParsedRecord> {
    const bytes = await this.readRange(generation, offset, length);
    const record = parseRecord(bytes, 0, this.#salt, generation, offset);
    if (record === null)
      throw new StoreError('DAMAGED', `the record at ${offset} of generation ${generation} is damaged`);
    return record;
  }

  readonly #decode: ReadRecord = async (place) => {
    const record = await this.#readRecord(place);
    return decodeRecord(record.kind, record.meta);
  };

  async #readMove(entry: RestingEntry, read: ReadRecord = this.#decode): Promise<MoveRecord> {
    try {
      const move = await read(entry.at);
      if (move?.kind === 'move') return move;
      throw new StoreError('DAMAGED', 'a Safety Net entry points at something else');
    } catch (error) {
      if (isDamaged(error)) this.#damaged(entry.entry.id, entry.at, String(error));
      throw error;
    }
  }

  async #readCommit(id: CopyId, at: Place, read: ReadRecord = this.#decode): Promise<CommitRecord> {
    try {
      const commit = await read(at);
      if ((commit?.kind === 'commit' || commit?.kind === 'recall') && commit.facts.id === id) return commit;
      throw new StoreError('DAMAGED', 'a Safety Net entry points at something else');
    } catch (error) {
      if (isDamaged(error)) this.#damaged(id, at, String(error));
      throw error;
    }
  }

  /** State from the MOVE record, facts and extents from the COMMIT it points at. */
  async readResting(entry: RestingEntry): Promise<RestingCopy> {
    const move = await this.#readMove(entry);
    const commit = await this.#readCommit(move.id, move.commitAt);
    return { facts: commit.facts, state: move.state, extents: commit.extents };
  }

  /** The same without the body; what the MOVE record knows when the COMMIT is damaged. */
  async readStored(entry: RestingEntry): Promise<StoredCopy> {
    return this.#storedOf(await this.#readMove(entry), this.#decode);
  }

  async #storedOf(move: MoveRecord, read: ReadRecord): Promise<StoredCopy> {
    try {
      const { facts } = await this.#readCommit(move.id, move.commitAt, read);
      return { facts, state: move.state };
    } catch (error) {
      if (!isDamaged(error) || move.brief === null) throw error;
      return withoutCommit(move.id, move.state, move.brief, (error as Error).message);
    }
  }

  /** Many at once, in few reads; null for what is damaged. */
  async readManyStored(entries: readonly RestingEntry[]): Promise<readonly (StoredCopy | null)[]> {
    const readable = async <T>(reading: Promise<T>): Promise<T | null> => {
      try {
        return await reading;
      } catch (error) {
        if (isDamaged(error)) return null;
        throw error;
      }
    };
    const readMove = await this.#ahead(entries.map((entry) => entry.at));
    const moves = await Promise.all(entries.map((entry) => readable(this.#readMove(entry, readMove))));
    const readCommit = await this.#ahead(moves.flatMap((move) => (move === null ? [] : [move.commitAt])));
    return Promise.all(moves.map((move) => (move === null ? null : readable(this.#storedOf(move, readCommit)))));
  }

  /** Reads the stretches that hold these places; records that are not whole there are read again one by one. */
  async #ahead(places: readonly Place[]): Promise<ReadRecord> {
    const found = new Map<string, LogRecord | null>();
    // V8 lets 64 MB of buffers become garbage before it looks: one for all stretches of all pages, when nobody else has it.
    const scratch = this.#scratch ?? Buffer.allocUnsafeSlow(STRETCH_BYTES);
    this.#scratch = null;
    for (const stretch of stretches(places)) await this.#readStretch(stretch, scratch, found);
    this.#scratch = scratch;
    return async (place) => found.get(placeKey(place)) ?? this.#decode(place);
  }

  async #readStretch(stretch: readonly Place[], scratch: Buffer, found: Map<string, LogRecord | null>): Promise<void> {
    const [generation, from] = stretch[0] as Place;
    const last = stretch[stretch.length - 1] as Place;
    const length = last[1] + last[2] - from;
    const into = length <= scratch.length ? scratch : undefined;
    const bytes = await this.readRange(generation, from, length, into).catch((error: unknown) => {
      if (isDamaged(error)) return null;
      throw error;
    });
    for (const place of bytes === null ? [] : stretch) {
      const record = parseRecord(bytes as Buffer, place[1] - from, this.#salt, generation, from);
      if (record !== null) found.set(placeKey(place), decodeRecord(record.kind, record.meta));
    }
  }

  /** Whether finding out needs the disk. Cheap for ids that are nowhere. */
  needsDisk(id: CopyId): boolean {
    const key = bloomKey(id);
    for (const owner of this.#state.net.owners.values())
      if (owner.bloom === null || bloomHas(owner.bloom, key)) return true;
    return false;
  }

  /**
   * The Safety Net entry of an id, newest first; null when there is none. While a footer is read, the entry may get another place (`recall`, `move`), or be sealed into a
   * footer: after each read everything that is newer is looked at again (seed 1349 under a dose: it was called gone, and written anew).
   */
  async find(id: CopyId): Promise<FoundEntry | null> {
    const key = bloomKey(id);
    const looked = new Set<Owner>();
    for (;;) {
      const open = this.#state.net.open.get(id);
      if (open !== undefined) return { entry: open, owner: null };
      const owner = this.#newestThatMayList(key, looked);
      if (owner === null) return null;
      looked.add(owner);
      if (owner.bloom === null) await this.#loadBloom(owner);
      if (owner.bloom !== null && !bloomHas(owner.bloom, key)) continue;
      const { lines, suspect } = await this.#footer(owner);
      const entry = lines.find(id);
      if (this.#state.net.owners.get(owner.generation) !== owner) continue;
      if (entry !== null && !owner.dead.has(placeKey(entry.at))) return { entry, owner };
      if (entry === null && suspect)
        throw new StoreError('DAMAGED', `${id} may be listed in the damaged footer of generation ${owner.generation}`);
    }
  }

  #newestThatMayList(key: BloomKey, looked: ReadonlySet<Owner>): Owner | null {
    let newest: Owner | null = null;
    for (const owner of this.#state.net.owners.values())
      if (!looked.has(owner) && (owner.bloom === null || bloomHas(owner.bloom, key))) newest = owner;
    return newest;
  }

  /** What was found is where it was: nothing has changed, moved or ended it since. */
  isStill(id: CopyId, { entry, owner }: FoundEntry): boolean {
    if (owner === null) return this.#state.net.open.get(id) === entry;
    return this.#state.net.owners.get(owner.generation) === owner && !owner.dead.has(placeKey(entry.at));
  }

  /** How the end of a found entry is written; null when the index of open entries knows. */
  killOf(found: FoundEntry | null): Kill | null {
    if (found === null || found.owner === null) return null;
    const { entry, at, refs } = found.entry;
    return { owner: found.owner.generation, at, role: entry.role, sizeBytes: entry.sizeBytes, refs };
  }

  /** Every filter into memory, so that no commit has to wait for that. */
  async loadBlooms(): Promise<void> {
    const owners = [...this.#state.net.owners.values()].filter((owner) => owner.bloom === null);
    for (let at = 0; at < owners.length; at += FOOTERS_AT_ONCE)
      await Promise.all(owners.slice(at, at + FOOTERS_AT_ONCE).map((owner) => this.#readBloom(owner)));
    // To rebuild one takes a whole segment of memory: one by one.
    for (const owner of owners) if (owner.bloom === null) await this.#footer(owner);
  }

  /** The lines of a footer, also of entries that have ended. */
  async linesOf(owner: Owner): Promise<FooterLines> {
    return (await this.#footer(owner)).lines;
  }

  /** Who asks while it is being read waits for the same bytes: a footer takes megabytes. */
  #footer(owner: Owner): Promise<LoadedFooter> {
    const cached = this.#footers.find((item) => item.owner === owner);
    if (cached !== undefined) return cached.footer;
    const footer = this.#loadFooter(owner);
    this.#footers = [{ owner, footer }, ...this.#footers].slice(0, FOOTERS_KEPT);
    footer.catch(() => {
      this.#footers = this.#footers.filter((item) => item.footer !== footer);
    });
    return footer;
  }

  async #loadFooter(owner: Owner): Promise<LoadedFooter> {
    // The segment must not be recycled while it is read.
    this.#state.pin(owner.generation);
    try {
      const intact = await this.#readFooter(owner);
      const { lines, bloom, suspect } = intact === null ? await this.#rebuilt(owner) : { ...intact, suspect: false };
      owner.bloom = bloom;
      return { lines, suspect };
    } finally {
      this.#state.unpin(owner.generation);
    }
  }

  async #loadBloom(owner: Owner): Promise<void> {
    await this.#readBloom(owner);
    if (owner.bloom === null) await this.#footer(owner);
  }

  /** Only the filter, so that the first look-up after a start reads little. It stays null when it is damaged. */
  async #readBloom(owner: Owner): Promise<void> {
    const [generation, offset, length] = owner.footer;
    this.#state.pin(owner.generation);
    try {
      const record = parseRecord(await this.readRange(generation, offset, length), 0, this.#salt, generation, offset);
      if (record === null || record.kind !== 'footer') return;
      const { length: bytes, crc, probes } = bloomOf(record.meta);
      if (probes === null) return;
      const bits = await this.readRange(generation, offset + length, bytes);
      if (crc32(bits) === crc) owner.bloom = { bits, probes };
    } catch (error) {
      if (!isDamaged(error)) throw error;
      this.#log.debug({ generation, error: String(error) }, 'queue database: a filter cannot be read');
    } finally {
      this.#state.unpin(owner.generation);
    }
  }

  /** Null when it is damaged. */
  async #readFooter(owner: Owner): Promise<FooterContents | null> {
    const [generation, offset, length] = owner.footer;
    let reason = 'the footer is damaged';
    try {
      const bytes = await this.readRange(generation, offset, length + owner.footerBytes);
      const record = parseRecord(bytes, 0, this.#salt, generation, offset);
      if (record !== null && record.kind === 'footer' && crc32(bytes.subarray(length)) === record.bodyCrc)
        return decodeFooter(record.meta, bytes.subarray(length));
    } catch (error) {
      if (!isDamaged(error)) throw error;
      reason = String(error);
    }
    this.#damaged(null, owner.footer, `${reason}; it is rebuilt from the records`);
    return null;
  }

  /** What the footer said, from the MOVE records of its segments. */
  async #rebuilt(owner: Owner): Promise<FooterContents & { readonly suspect: boolean }> {
    const found = new Map<string, RestingEntry>();
    let whole = true;
    for (const generation of owner.sources) {
      const segment = this.#segment(generation);
      const read = segment === undefined ? null : await this.#readTolerant(generation, segment.end);
      if (read === null || !read.whole) whole = false;
      if (read === null) continue;
      for (const group of scanSegment(read.bytes, this.#salt, generation, BLOCK, read.bytes.length)) {
        // The footer's own group lists nothing that could be lost.
        const isFooter = generation === owner.footer[0] && group.offset >= owner.footer[1] - HEADER;
        if (group.damage.length > 0 && !isFooter) whole = false;
        for (const record of group.records) if (!(await this.#rebuildOne(found, record, owner))) whole = false;
      }
    }
    const entries = [...found.values()].sort((a, b) => byPlace(a.at, b.at));
    const lines = FooterLines.of(entries);
    if (!whole && owner.bloom !== null) return { bloom: owner.bloom, lines, suspect: true };
    return { bloom: buildBloom(entries.map((entry) => entry.entry.id)), lines, suspect: false };
  }

  /** A segment with zeros where it cannot be read. */
  async #readTolerant(
    generation: number,
    length: number,
  ): Promise<{ readonly bytes: Buffer; readonly whole: boolean }> {
    const bytes = Buffer.alloc(length);
    const whole = await this.#readAround(bytes, generation, 0, length);
    return { bytes, whole };
  }

  /** Halves what cannot be read down to the block. */
  async #readAround(target: Buffer, generation: number, from: number, to: number): Promise<boolean> {
    try {
      (await this.readRange(generation, from, to - from)).copy(target, from);
      return true;
    } catch (error) {
      if (!isDamaged(error)) throw error;
      if (to - from <= BLOCK) {
        this.#damaged(null, [generation, from, to - from], String(error));
        return false;
      }
      const middle = from + padded((to - from) / 2);
      const first = await this.#readAround(target, generation, from, middle);
      return (await this.#readAround(target, generation, middle, to)) && first;
    }
  }

  /** False when an entry is lost. */
  async #rebuildOne(found: Map<string, RestingEntry>, record: ParsedRecord, owner: Owner): Promise<boolean> {
    if (record.kind === 'chunk' || record.kind === 'state') return true;
    const change = decodeRecord(record.kind, record.meta);
    if (change === null) return true;
    if ('kill' in change && change.kill !== null && change.kill.owner === 0) found.delete(placeKey(change.kill.at));
    if (change.kind !== 'move') return true;
    const at: Place = [record.generation, record.offset, HEADER + record.metaLength];
    if (owner.dead.has(placeKey(at))) return true;
    const { id, commitAt, state, brief } = change;
    const commit = await this.#readCommit(id, commitAt).catch((error: unknown) => {
      if (!isDamaged(error)) throw error;
      return null;
    });
    const sizeBytes = commit?.facts.sizeBytes ?? brief?.sizeBytes;
    if (sizeBytes === undefined) return false;
    const refs = new Set([record.generation, commitAt[0]]);
    for (const [generation] of commit?.extents ?? []) refs.add(generation);
    const entry = safetyNetEntry({ id, sizeBytes }, state);
    found.set(placeKey(at), { entry, at, refs: [...refs] });
    return true;
  }
}
