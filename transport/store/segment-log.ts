/**
 * The queue database on disk: an append-only log of segments (docs/internals.md, "Bytes on disk, commit order, recovery"). Owns: the
 * directory while it is open. Promises and refusals: `database.ts`. Opening refuses with a StoreError whose code is LOCKED, VERSION,
 * FOREIGN, DAMAGED or ENOSPC and whose message says what to do.
 */
import type { CopyId, Identity } from '../../common/message.ts';
import type { Clock } from '../../common/platform/clock.ts';
import type { ExclusiveLock, Files } from '../../common/platform/files.ts';
import type { Logger } from '../../common/platform/log.ts';
import type { Random } from '../../common/platform/random.ts';
import { extentsOf } from './body-place.ts';
import { LogBody } from './body-writer.ts';
import { Checkpointer } from './checkpointer.ts';
import type {
  BodyOptions,
  BodyWriter,
  Quarantined,
  QueueDatabase,
  Recovered,
  SafetyNetCopies,
  SafetyNetCounts,
  SafetyNetEntry,
  SafetyNetFilter,
  SafetyNetPage,
  SafetyNetPosition,
  SafetyNetShed,
  ScrubPosition,
  ScrubStep,
  StoredCopy,
  StoreSpace,
  Write,
} from './database.ts';
import { createIdentity, type IdentityFile, readIdentity, recordOpen } from './identity-file.ts';
import { notFound, StoreError } from './live-index.ts';
import { isDamaged, LogAccess } from './log-access.ts';
import { adoptSegments, loadForWriting, recoverLog } from './log-opening.ts';
import type { LoadedLog } from './log-reader.ts';
import type { RecoveredLog } from './log-recovery.ts';
import type { LogState } from './log-state.ts';
import { LogWriter } from './log-writer.ts';
import { NO_MUTANTS, type StoreMutant } from './mutants.ts';
import type { OpenRecord } from './open-record.ts';
import { prepareCall } from './prepared.ts';
import { QuarantineList } from './quarantine.ts';
import { type Extent, type Place, padded } from './record.ts';
import { SafetyNetKeeper } from './safety-net-keeper.ts';
import { SafetyNetWalk } from './safety-net-walk.ts';
import { Scrubber } from './scrub.ts';
import { type Segment, SegmentPool, slotOf } from './segment-pool.ts';

export interface SegmentLogOptions {
  readonly directory: string;
  readonly files: Files;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  /** A multiple of 4096; 64 MiB in production. */
  readonly segmentBytes: number;
  /** Kept free of appends: what a full disk can still record (protocol.md 28). */
  readonly reserveBytes: number;
  readonly onFatal: (reason: Error) => void;
  /** Commits that one sync has made durable; for who counts. */
  readonly onSynced?: (commits: number) => void;
  /** Something was found damaged on read, after opening; it is in `recovered.quarantined` already. */
  readonly onQuarantined?: (item: Quarantined) => void;
  readonly member: string;
  /** The simulator's known-wrong variants. */
  readonly mutants?: ReadonlySet<StoreMutant>;
}

export async function openSegmentLog(options: SegmentLogOptions): Promise<QueueDatabase> {
  const { files, directory } = options;
  await files.makeDirectory(directory);
  const lock = await files.lock(`${directory}/lock`);
  if (lock === null)
    throw new StoreError('LOCKED', `${directory} is open in another process: end that one first, nothing was changed`);
  try {
    const store = await openLocked(options, lock);
    await store.loadFilters();
    return store;
  } catch (error) {
    await lock.release();
    throw error;
  }
}

async function openLocked(options: SegmentLogOptions, lock: ExclusiveLock): Promise<SegmentLog> {
  const { files, directory, random, member, log, mutants = NO_MUTANTS } = options;
  const names = await files.list(directory);
  const found = await readIdentity(files, directory, names);
  if (found === null && names.some((name) => slotOf(name) !== null))
    throw new StoreError('DAMAGED', `${directory} has segments but no identity: set it aside, start with an empty one`);
  if (found !== null && found.member !== member)
    throw new StoreError(
      'FOREIGN',
      `${directory} belongs to member ${found.member}, this is ${member}: give each member its own volume`,
    );
  // Read before the open is recorded: a refused open leaves no trace.
  const identity = found ?? (await createIdentity(files, directory, names, random, member, mutants));
  const loaded = await loadForWriting(options, names, identity);
  const opened = found === null ? identity : await recordOpen(files, directory, identity, random);
  const pool = new SegmentPool({ ...options, salt: identity.salt, segmentBytes: padded(options.segmentBytes) });
  await adoptSegments(files, directory, pool, loaded);
  let opening = true;
  const checkpointer = new Checkpointer({
    directory,
    files,
    log,
    state: loaded.state,
    pool,
    newest: loaded.checkpoint,
    newestBytes: loaded.checkpointBytes,
    retainFrom: loaded.retainFrom,
    onFatal: (error) => {
      // Before the database is open its opening fails.
      if (opening) throw error;
      store.fail(error);
    },
  });
  try {
    await checkpointer.prepare(names);
    // Names that a killed process made may be only in the page cache.
    await files.syncDirectory(directory);
    await pool.sampleSpace();
    if (found === null || pool.freeSegments === 0) await pool.replenish();
  } catch (error) {
    if (found === null || (error as { code?: string }).code !== 'ENOSPC') throw error;
    log.warn({ error: String(error) }, 'queue database: opening with a full disk, using the reserve');
  }
  const recovered = await recoverLog(options, loaded, pool, checkpointer, found === null);
  if (loaded.cutGroups > 0) log.warn({ groups: loaded.cutGroups }, 'queue database: cut an unsynced tail');
  const store: SegmentLog = new SegmentLog(
    options,
    lock,
    opened,
    loaded,
    recovered,
    pool,
    checkpointer,
    found === null,
  );
  opening = false;
  void pool.replenish();
  return store;
}

class SegmentLog implements QueueDatabase {
  readonly identity: Identity;
  readonly chain: readonly OpenRecord[];
  recovered: Recovered;
  readonly #options: SegmentLogOptions;
  readonly #lock: ExclusiveLock;
  readonly #state: LogState;
  readonly #pool: SegmentPool;
  readonly #checkpointer: Checkpointer;
  readonly #access: LogAccess;
  readonly #writer: LogWriter;
  readonly #walk: SafetyNetWalk;
  readonly #keeper: SafetyNetKeeper;
  readonly #quarantine: QuarantineList;
  readonly #scrubber: Scrubber;
  #wantsCheckpoint = false;
  #checkpointAt = 0;
  #sampledAtMs = 0;
  #closed = false;

  constructor(
    options: SegmentLogOptions,
    lock: ExclusiveLock,
    identity: IdentityFile,
    loaded: LoadedLog,
    recovered: RecoveredLog,
    pool: SegmentPool,
    checkpointer: Checkpointer,
    created: boolean,
  ) {
    this.identity = identity.identity;
    this.chain = identity.chain;
    this.#options = options;
    this.#lock = lock;
    this.#state = loaded.state;
    this.#pool = pool;
    this.#checkpointer = checkpointer;
    const damage = [...loaded.quarantined, ...recovered.quarantined];
    // The tail may have written some of it anew.
    const isStill = ({ id }: Quarantined): boolean => id === null || loaded.state.index.quarantined.has(id);
    this.#quarantine = new QuarantineList(damage.filter(isStill));
    this.#state.onLifted = (id) => this.#quarantine.lift(id);
    this.recovered = recoveredView(loaded.state, this.#quarantine.items, created);
    const segment = (generation: number): Segment | undefined => pool.used.get(generation);
    this.#access = new LogAccess(this.#state, identity.salt, options.log, segment, (item) => this.#found(item));
    this.#walk = new SafetyNetWalk(this.#state, this.#access);
    this.#writer = new LogWriter({
      state: this.#state,
      pool,
      access: this.#access,
      clock: options.clock,
      log: options.log,
      salt: identity.salt,
      end: recovered.end,
      onSealed: (generation) => this.#sealed(generation),
      onFatal: options.onFatal,
      onSynced: options.onSynced,
    });
    this.#keeper = new SafetyNetKeeper({
      state: this.#state,
      access: this.#access,
      writer: this.#writer,
      log: options.log,
      recycle: () => this.#recycle(),
    });
    this.#scrubber = new Scrubber({
      directory: options.directory,
      files: options.files,
      salt: identity.salt,
      state: this.#state,
      access: this.#access,
      pool,
      isCheckpointing: () => checkpointer.running,
      onDamaged: (id, at, reason) => this.#listDamaged(id, at, reason),
      isListed: (id) => this.#quarantine.names(id),
      wantCheckpoint: () => this.#checkpointSoon(),
      isReplayed: (generation) => generation > checkpointer.through,
      newestAtStart: loaded.chain.at(-1) ?? null,
    });
    if (this.#state.net.completeSinceMs === null) this.#keeper.begin(options.clock.wallMs());
  }

  releaseRecovered(): void {
    const { quarantined, created } = this.recovered;
    this.recovered = { copies: [], tombstones: [], seen: [], facts: new Map(), quarantined, created };
  }

  get syncedSequence(): number {
    return this.#writer.syncedSequence;
  }

  loadFilters(): Promise<void> {
    return this.#access.loadBlooms();
  }

  fail(error: unknown): void {
    this.#writer.fail(error);
  }

  beginBody(id: CopyId, options?: BodyOptions): BodyWriter {
    return new LogBody(id, this.#writer, options);
  }

  commit(writes: readonly Write[]): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#writer.push(prepareCall(writes, { note: false, resolve, reject }));
    });
  }

  note(writes: readonly Write[]): void {
    const resolve = (): void => undefined;
    const reject = (error: unknown): void =>
      this.#options.log.debug({ error: String(error) }, 'queue database: a note came too late');
    this.#writer.push(prepareCall(writes, { note: true, resolve, reject }));
  }

  async *readBody(id: CopyId): AsyncIterable<Buffer> {
    const extents = await this.#extentsOf(id);
    const segments = new Set(extents.map((extent) => extent[0]));
    for (const generation of segments) this.#state.pin(generation);
    try {
      for (const extent of extents) yield await this.#extent(id, extent);
    } catch (error) {
      // It may have been removed or have expired while it was read.
      if (this.#state.index.copies.has(id) || (await this.#access.find(id)) !== null) throw error;
      throw notFound(id);
    } finally {
      for (const generation of segments) this.#state.unpin(generation);
    }
  }

  async #extentsOf(id: CopyId): Promise<readonly Extent[]> {
    const live = this.#state.index.copies.get(id);
    if (live !== undefined) return extentsOf(live.body);
    const found = await this.#access.find(id);
    const bad = this.#state.index.quarantined.get(id);
    if (found === null && bad !== undefined)
      throw new StoreError('DAMAGED', `${id}: ${bad.reason} (${bad.segment} at ${bad.offset})`);
    if (found === null) throw notFound(id);
    return (await this.#access.readResting(found.entry)).extents;
  }

  async lookup(id: CopyId): Promise<StoredCopy | null> {
    for (;;) {
      if (this.#state.index.copies.has(id)) return null;
      const found = await this.#access.find(id);
      if (found === null) return null;
      const stored = await this.#access.readStored(found.entry).catch((error: unknown) => {
        if (this.#access.isStill(id, found)) throw error;
        return null;
      });
      // Else it has changed while it was read, and what was read is what it was.
      if (stored !== null && this.#access.isStill(id, found)) return stored;
    }
  }

  mayRest(id: CopyId): boolean {
    if (this.#state.index.copies.has(id)) return false;
    return this.#state.net.open.has(id) || this.#access.needsDisk(id);
  }

  safetyNet(filter: SafetyNetFilter): AsyncIterable<SafetyNetEntry> {
    return this.#walk.entries(filter);
  }

  safetyNetPage(filter: SafetyNetFilter, limit: number): Promise<SafetyNetPage> {
    return this.#walk.page(filter, limit);
  }

  safetyNetCopies(filter: SafetyNetFilter, limit: number): Promise<SafetyNetCopies> {
    return this.#walk.copies(filter, limit);
  }

  safetyNetEnd(): SafetyNetPosition {
    return this.#walk.end();
  }

  safetyNetCounts(): SafetyNetCounts {
    return this.#state.net.counts();
  }

  expireSafetyNet(beforeMs: number): Promise<number> {
    return this.#keeper.expire(beforeMs);
  }

  shedSafetyNet(maxBytes: number): Promise<SafetyNetShed> {
    return this.#keeper.shed(maxBytes);
  }

  scrub(from: ScrubPosition | null, maxBytes: number): Promise<ScrubStep> {
    return this.#scrubber.step(from, maxBytes);
  }

  /** With the end of a segment: the moment at which everything in memory is durable. */
  async #checkpointSoon(): Promise<void> {
    if (this.#closed) return;
    this.#wantsCheckpoint = true;
    await this.#writer.seal();
    await this.#checkpointer.settled();
  }

  #listDamaged(id: CopyId, [generation, offset]: Place, reason: string): void {
    const item = { id, segment: this.#segmentName(generation), offset, reason };
    if (this.#state.index.copies.has(id)) this.#state.index.quarantined.set(id, item);
    this.#found(item);
  }

  #segmentName(generation: number): string {
    const path = this.#pool.used.get(generation)?.path;
    return path === undefined ? `generation ${generation}` : path.slice(path.lastIndexOf('/') + 1);
  }

  space(): StoreSpace {
    const now = this.#options.clock.monotonicMs();
    if (now - this.#sampledAtMs > 1000 && !this.#closed) {
      this.#sampledAtMs = now;
      this.#sampleSpace();
    }
    const counts = this.#state.net.counts();
    return {
      totalBytes: this.#pool.totalBytes(),
      liveBytes: this.#state.liveBytes,
      safetyNetBytes: counts.primary.bytes + counts.shadow.bytes,
      freeBytes: this.#pool.freeBytes() + this.#writer.roomBytes,
      segments: this.#pool.count,
    };
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#writer.seal();
    // One may be under way that was begun earlier.
    await this.#checkpointer.settled();
    await this.#checkpointer.start(this.#writer.syncedSequence, this.#writer.lastGeneration, this.#writer.lastEnd);
    this.#writer.stop();
    await this.#checkpointer.close();
    await this.#pool.close();
    await this.#lock.release();
  }

  /** A part of a body; what is damaged is listed, so that it can be had from elsewhere. */
  async #extent(id: CopyId, extent: Extent): Promise<Buffer> {
    try {
      return await this.#access.readExtent(extent);
    } catch (error) {
      if (!isDamaged(error)) throw error;
      const [generation, offset, length] = extent;
      if (!(await this.#isPartOf(id, extent)))
        throw new StoreError('NOTFOUND', `${id} has been written anew, or has gone, since this began to read it`);
      this.#listDamaged(id, [generation, offset, length], (error as Error).message);
      throw error;
    }
  }

  /** False for a body that has been written anew since, or is gone: what was read is no longer anybody's. */
  async #isPartOf(id: CopyId, [generation, offset]: Extent): Promise<boolean> {
    try {
      return (await this.#extentsOf(id)).some(([inside, at]) => inside === generation && at === offset);
    } catch {
      return false;
    }
  }

  #found(item: Quarantined): void {
    if (!this.#quarantine.add(item)) return;
    this.#options.log.error({ ...item }, 'queue database: damage found on read');
    this.#options.onQuarantined?.(item);
  }

  /** A segment is complete and synced: the moment at which everything in memory is durable. */
  #sealed(generation: number): void {
    const since = this.#writer.bytesWritten - this.#checkpointAt;
    const scarce = this.#pool.freeSegments <= this.#pool.reserveSegments;
    const due = since >= this.#checkpointer.dueBytes || scarce || this.#wantsCheckpoint;
    if (!this.#closed && !this.#checkpointer.running && due) {
      this.#wantsCheckpoint = false;
      this.#checkpointAt = this.#writer.bytesWritten;
      void this.#checkpointer
        .start(this.#writer.syncedSequence, generation, this.#writer.lastEnd)
        .then(() => this.#recycle());
    }
    this.#recycle();
    this.#sampleSpace();
  }

  #recycle(): void {
    this.#checkpointer.recycle(this.#writer.currentGeneration);
    this.#writer.resumeBodies();
  }

  #sampleSpace(): void {
    this.#pool
      .sampleSpace()
      .then(() => this.#writer.resumeBodies())
      .catch((error) => this.#writer.fail(error));
  }
}

function recoveredView(state: LogState, quarantined: readonly Quarantined[], created: boolean): Recovered {
  const { index } = state;
  return {
    copies: [...index.copies.values()].map(({ facts, state: now }) => ({ facts, state: now })),
    tombstones: [...index.tombstones.values()],
    seen: [...index.seen.values()],
    facts: new Map(index.facts),
    quarantined,
    created,
  };
}
