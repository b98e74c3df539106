/**
 * A queue database read from outside: no lock, no write, also while its owner runs. Owns: what `mailcluster store` shows - the durable
 * prefix of the log (what is behind the last confirmed sync is only counted) - and the verification of every byte. A live database
 * moves on while it is read: whoever finds it out of order reads again.
 */
import { createHash } from 'node:crypto';
import type { CopyId } from '../../common/message.ts';
import type { FileHandle, Files } from '../../common/platform/files.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { extentsOf } from './body-place.ts';
import type { StoredCopy } from './database.ts';
import type { RestingEntry } from './footer.ts';
import { type IdentityFile, readIdentity } from './identity-file.ts';
import { notFound, StoreError } from './live-index.ts';
import { isDamaged, LogAccess, type ReadableSegment } from './log-access.ts';
import { type LoadedLog, loadLog } from './log-reader.ts';
import { BLOCK, type Extent } from './record.ts';
import { placeKey } from './safety-net-index.ts';
import { segmentName } from './segment-pool.ts';
import { scanSegment } from './segment-scan.ts';

export interface ShownCopy extends StoredCopy {
  readonly where: 'transit' | 'safetyNet';
}

export interface DamageReport {
  readonly id: CopyId | null;
  readonly segment: string;
  readonly offset: number;
  readonly reason: string;
}

export class ReadOnlyDatabase {
  readonly identity: IdentityFile;
  readonly loaded: LoadedLog;
  readonly #access: LogAccess;
  readonly #handles: readonly FileHandle[];
  readonly #segments: ReadonlyMap<number, ReadableSegment>;

  private constructor(
    identity: IdentityFile,
    loaded: LoadedLog,
    handles: readonly FileHandle[],
    segments: ReadonlyMap<number, ReadableSegment>,
  ) {
    this.identity = identity;
    this.loaded = loaded;
    this.#handles = handles;
    this.#segments = segments;
    this.#access = new LogAccess(loaded.state, identity.salt, silentLogger, (generation) => segments.get(generation));
  }

  static async open(files: Files, directory: string): Promise<ReadOnlyDatabase> {
    const names = await files.list(directory);
    const identity = await readIdentity(files, directory, names);
    if (identity === null) throw new StoreError('NOTFOUND', `${directory} holds no queue database`);
    const loaded = await loadLog(files, directory, names, identity);
    const handles: FileHandle[] = [];
    const segments = new Map<number, ReadableSegment>();
    for (const { slot, generation, sizeBytes } of loaded.files) {
      if (generation === 0 || !(loaded.state.needs(generation) || loaded.ends.has(generation))) continue;
      const path = `${directory}/${segmentName(slot)}`;
      const handle = await files.open(path, 'read');
      handles.push(handle);
      segments.set(generation, { handle, path, end: loaded.ends.get(generation) ?? sizeBytes, writing: null });
    }
    return new ReadOnlyDatabase(identity, loaded, handles, segments);
  }

  async close(): Promise<void> {
    for (const handle of this.#handles) await handle.close();
  }

  /** In transit in commit order, then Safety Net. */
  async *copies(): AsyncIterable<ShownCopy> {
    for (const { facts, state } of this.loaded.state.index.copies.values()) yield { where: 'transit', facts, state };
    for await (const entry of this.#resting()) {
      const stored = await this.#readable(this.#access.readStored(entry));
      if (stored !== null) yield { where: 'safetyNet', ...stored };
    }
  }

  async *#resting(): AsyncIterable<RestingEntry> {
    const { net } = this.loaded.state;
    for (const owner of net.owners.values())
      for (const resting of (await this.#access.linesOf(owner)).behind(null))
        if (!owner.dead.has(placeKey(resting.at))) yield resting;
    yield* net.open.values();
  }

  /** Null for what is damaged: `verify` says so. */
  async #readable<T>(reading: Promise<T>): Promise<T | null> {
    try {
      return await reading;
    } catch (error) {
      if (isDamaged(error)) return null;
      throw error;
    }
  }

  async *body(id: CopyId): AsyncIterable<Buffer> {
    const live = this.loaded.state.index.copies.get(id);
    let extents: readonly Extent[] | undefined = live && extentsOf(live.body);
    if (extents === undefined) {
      const found = await this.#access.find(id);
      if (found === null) throw notFound(id);
      extents = (await this.#access.readResting(found.entry)).extents;
    }
    for (const extent of extents) yield await this.#access.readExtent(extent);
  }

  /** Every record of every segment in use, every body with its digest. */
  async verify(): Promise<readonly DamageReport[]> {
    const found: DamageReport[] = [...this.loaded.quarantined];
    const known = new Set(found.map((item) => `${item.segment}:${item.offset}`));
    for (const [generation, segment] of this.#segments) {
      const bytes = await this.#access.readRange(generation, 0, segment.end);
      const name = segment.path.slice(segment.path.lastIndexOf('/') + 1);
      for (const group of scanSegment(bytes, this.identity.salt, generation, BLOCK, segment.end))
        for (const { offset, reason, id } of group.damage)
          if (!known.has(`${name}:${offset}`)) found.push({ id, segment: name, offset, reason });
    }
    for (const { facts, body } of this.loaded.state.index.copies.values())
      await this.#verifyBody(found, facts.id, facts.digest, facts.sizeBytes, extentsOf(body));
    for await (const entry of this.#resting()) {
      const copy = await this.#readable(this.#access.readResting(entry));
      if (copy !== null)
        await this.#verifyBody(found, copy.facts.id, copy.facts.digest, copy.facts.sizeBytes, copy.extents);
      else {
        const { id } = entry.entry;
        found.push({
          id,
          segment: `generation ${entry.at[0]}`,
          offset: entry.at[1],
          reason: 'a record of it is damaged',
        });
      }
    }
    return found;
  }

  async #verifyBody(
    found: DamageReport[],
    id: CopyId,
    digest: string,
    sizeBytes: number,
    extents: readonly Extent[],
  ): Promise<void> {
    const hash = createHash('sha256');
    let bytes = 0;
    for (const extent of extents) {
      const part = await this.#access.readExtent(extent).catch((error: unknown) => String(error));
      if (typeof part === 'string') {
        found.push({ id, segment: `generation ${extent[0]}`, offset: extent[1], reason: part });
        return;
      }
      hash.update(part);
      bytes += part.length;
    }
    if (bytes === sizeBytes && hash.digest('hex') === digest) return;
    found.push({
      id,
      segment: `generation ${extents[0]?.[0] ?? 0}`,
      offset: extents[0]?.[1] ?? 0,
      reason: 'the body does not match its digest',
    });
  }
}
