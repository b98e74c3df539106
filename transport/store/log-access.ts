/**
 * Reading back from the log while it lives: records and body extents by their place, Safety Net entries by id or in order. Owns: the
 * verification of everything it hands out, a cache of two footers. Fails with StoreError DAMAGED; a damaged footer is rebuilt from the
 * records it lists.
 */

import { crc32 } from 'node:zlib';
import type { CopyId } from '../../common/message.ts';
import type { FileHandle } from '../../common/platform/files.ts';
import type { Logger } from '../../common/platform/log.ts';
import type { CopyFacts, CopyState } from './database.ts';
import { bloomHas, bloomOf, buildBloom, decodeFooter, type RestingEntry } from './footer.ts';
import { StoreError } from './live-index.ts';
import { decodeRecord, type Kill, type LogRecord } from './log-record.ts';
import type { LogState } from './log-state.ts';
import { BLOCK, type Extent, HEADER, type ParsedRecord, type Place, parseRecord } from './record.ts';
import { type Owner, placeKey } from './safety-net-index.ts';
import { scanSegment } from './segment-scan.ts';

/** What is known of a segment that can be read. */
export interface ReadableSegment {
  readonly handle: FileHandle;
  readonly path: string;
  readonly end: number;
}

export interface RestingCopy {
  readonly facts: CopyFacts;
  readonly state: CopyState;
  readonly extents: readonly Extent[];
}

interface LoadedFooter {
  readonly entries: readonly RestingEntry[];
  readonly byId: ReadonlyMap<CopyId, RestingEntry>;
}

export class LogAccess {
  readonly #state: LogState;
  readonly #salt: Buffer;
  readonly #log: Logger;
  readonly #segment: (generation: number) => ReadableSegment | undefined;
  #footers: { readonly owner: Owner; readonly footer: LoadedFooter }[] = [];

  constructor(
    state: LogState,
    salt: Buffer,
    log: Logger,
    segment: (generation: number) => ReadableSegment | undefined,
  ) {
    this.#state = state;
    this.#salt = salt;
    this.#log = log;
    this.#segment = segment;
  }

  async readRange(generation: number, offset: number, length: number): Promise<Buffer> {
    const segment = this.#segment(generation);
    if (segment === undefined) throw new StoreError('DAMAGED', `the segment of generation ${generation} is missing`);
    const bytes = Buffer.allocUnsafe(length);
    const got = await segment.handle.read(bytes, 0, length, offset);
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

  async #readRecord([generation, offset, length]: Place): Promise<ParsedRecord> {
    const bytes = await this.readRange(generation, offset, length);
    const record = parseRecord(bytes, 0, this.#salt, generation, offset);
    if (record === null)
      throw new StoreError('DAMAGED', `the record at ${offset} of generation ${generation} is damaged`);
    return record;
  }

  async #decode(place: Place): Promise<LogRecord | null> {
    const record = await this.#readRecord(place);
    return decodeRecord(record.kind, record.meta);
  }

  /** State from the MOVE record, facts and extents from the COMMIT it points at. */
  async readResting(entry: RestingEntry): Promise<RestingCopy> {
    const move = await this.#decode(entry.at);
    if (move?.kind !== 'move') throw new StoreError('DAMAGED', 'a Safety Net entry points at something else');
    const commit = await this.#decode(move.commitAt);
    if (commit === null || (commit.kind !== 'commit' && commit.kind !== 'recall') || commit.facts.id !== move.id)
      throw new StoreError('DAMAGED', 'a Safety Net entry points at something else');
    return { facts: commit.facts, state: move.state, extents: commit.extents };
  }

  /** Whether finding out needs the disk. Cheap for ids that are nowhere. */
  needsDisk(id: CopyId): boolean {
    for (const owner of this.#state.net.owners.values())
      if (owner.bloom === null || bloomHas(owner.bloom, id)) return true;
    return false;
  }

  /** The Safety Net entry of an id, newest first; null when there is none. */
  async find(id: CopyId): Promise<{ readonly entry: RestingEntry; readonly owner: Owner | null } | null> {
    const open = this.#state.net.open.get(id);
    if (open !== undefined) return { entry: open.resting, owner: null };
    for (const owner of [...this.#state.net.owners.values()].reverse()) {
      if (owner.bloom === null) await this.#loadBloom(owner);
      if (owner.bloom !== null && !bloomHas(owner.bloom, id)) continue;
      const entry = (await this.#footer(owner)).byId.get(id);
      const current = this.#state.net.owners.get(owner.generation) === owner;
      if (entry !== undefined && current && !owner.dead.has(placeKey(entry.at))) return { entry, owner };
    }
    return null;
  }

  async findKill(id: CopyId): Promise<Kill | null> {
    const found = await this.find(id);
    if (found === null) return null;
    const { entry, at, refs } = found.entry;
    return { owner: found.owner?.generation ?? 0, at, role: entry.role, sizeBytes: entry.sizeBytes, refs };
  }

  /** The entries of a footer that still count, oldest first. */
  async entriesOf(owner: Owner): Promise<readonly RestingEntry[]> {
    const { entries } = await this.#footer(owner);
    return owner.dead.size === 0 ? entries : entries.filter((entry) => !owner.dead.has(placeKey(entry.at)));
  }

  async #footer(owner: Owner): Promise<LoadedFooter> {
    const cached = this.#footers.find((item) => item.owner === owner);
    if (cached !== undefined) return cached.footer;
    // The segment must not be recycled while it is read.
    this.#state.pin(owner.generation);
    try {
      const { entries, bloom } = await this.#readFooter(owner);
      owner.bloom = bloom;
      const byId = new Map<CopyId, RestingEntry>();
      for (const entry of entries) if (!owner.dead.has(placeKey(entry.at))) byId.set(entry.entry.id, entry);
      const footer = { entries, byId };
      this.#footers = [{ owner, footer }, ...this.#footers].slice(0, 2);
      return footer;
    } finally {
      this.#state.unpin(owner.generation);
    }
  }

  /** Only the filter, so that the first look-up after a start reads little. */
  async #loadBloom(owner: Owner): Promise<void> {
    const [generation, offset, length] = owner.footer;
    this.#state.pin(owner.generation);
    try {
      const record = parseRecord(await this.readRange(generation, offset, length), 0, this.#salt, generation, offset);
      if (record !== null && record.kind === 'footer') {
        const { length: bytes, crc } = bloomOf(record.meta);
        const bloom = await this.readRange(generation, offset + length, bytes);
        if (crc32(bloom) === crc) owner.bloom = bloom;
      }
    } finally {
      this.#state.unpin(owner.generation);
    }
    if (owner.bloom === null) await this.#footer(owner);
  }

  async #readFooter(owner: Owner): Promise<{ readonly bloom: Buffer; readonly entries: RestingEntry[] }> {
    const [generation, offset, length] = owner.footer;
    const bytes = await this.readRange(generation, offset, length + owner.footerBytes);
    const record = parseRecord(bytes, 0, this.#salt, generation, offset);
    if (record !== null && record.kind === 'footer' && crc32(bytes.subarray(length)) === record.bodyCrc)
      return decodeFooter(record.meta, bytes.subarray(length));
    this.#log.warn({ generation, offset }, 'queue database: a footer is damaged, rebuilding it from the records');
    return this.#rebuild(owner);
  }

  /** What the footer said, from the MOVE records of its segments. */
  async #rebuild(owner: Owner): Promise<{ readonly bloom: Buffer; readonly entries: RestingEntry[] }> {
    const found = new Map<string, RestingEntry>();
    for (const generation of owner.sources) {
      const segment = this.#segment(generation);
      if (segment === undefined) continue;
      const bytes = await this.readRange(generation, 0, segment.end);
      for (const group of scanSegment(bytes, this.#salt, generation, BLOCK, segment.end))
        for (const record of group.records) await this.#rebuildOne(found, record, owner);
    }
    const entries = [...found.values()].sort((a, b) => a.entry.finalAtMs - b.entry.finalAtMs);
    const ids = entries.map((entry) => entry.entry.id);
    return { bloom: buildBloom(ids, ids.length), entries };
  }

  async #rebuildOne(found: Map<string, RestingEntry>, record: ParsedRecord, owner: Owner): Promise<void> {
    if (record.kind === 'chunk' || record.kind === 'state') return;
    const change = decodeRecord(record.kind, record.meta);
    if (change === null) return;
    if ('kill' in change && change.kill !== null && change.kill.owner === 0) found.delete(placeKey(change.kill.at));
    if (change.kind !== 'move') return;
    const at: Place = [record.generation, record.offset, HEADER + record.metaLength];
    if (owner.dead.has(placeKey(at))) return;
    try {
      const commit = await this.#decode(change.commitAt);
      if (commit === null || !('extents' in commit)) return;
      const databases = new Set<string>();
      for (const recipient of change.state.recipients ?? [])
        if (recipient.database !== undefined) databases.add(recipient.database);
      const refs = new Set([record.generation, change.commitAt[0], ...commit.extents.map((extent) => extent[0])]);
      const role = change.state.queue === 'shadowSafetyNet' ? 'shadow' : 'primary';
      const { id, facts } = { id: change.id, facts: commit.facts };
      const entry = {
        id,
        role,
        databases: [...databases],
        finalAtMs: change.state.finalAtMs ?? 0,
        sizeBytes: facts.sizeBytes,
      } as const;
      found.set(placeKey(at), { entry, at, refs: [...refs] });
    } catch (error) {
      this.#log.warn({ id: change.id, error: String(error) }, 'queue database: a Safety Net copy is damaged');
    }
  }
}
