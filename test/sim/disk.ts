/**
 * A simulated volume behind the disk port. Owns: durable bytes, what was written but not synced, and the faults.
 * Promises: `crash` is a power cut - every 512-byte sector that was not synced is kept, lost or (at most one) torn by a seeded
 * choice, and names that were not synced may vanish, a prefix of them in order staying; after a failed sync the dirty pages are
 * never written (as Linux does). A handle belongs to an incarnation: once that is dead nothing it does takes effect and none of its
 * promises settles. Refuses nothing a disk would accept. Errors carry ENOSPC, EIO, ENOENT, EEXIST like the real ones.
 */
import type { Clock } from '../../common/platform/clock.ts';
import type { ExclusiveLock, FileHandle, Files } from '../../common/platform/files.ts';
import { deliverTo, type Incarnation } from './incarnation.ts';
import { Inode, SECTOR, type Undo } from './inode.ts';
import type { Scheduler, SeededRandom } from './scheduler.ts';

export interface SimDiskOptions {
  readonly capacityBytes?: number;
  /** Simulated milliseconds of one write or read, and of one sync. */
  readonly writeMs?: readonly [number, number];
  readonly syncMs?: readonly [number, number];
}

interface Volume {
  readonly names: ReadonlyMap<string, Inode>;
  readonly directories: ReadonlySet<string>;
}

/** A name that came, went or moved; plain data, so that a volume can be copied. */
interface NameChange {
  readonly directory: string;
  readonly gone: string | null;
  readonly come: { readonly path: string; readonly inode: Inode } | null;
}

function applyChange(names: Map<string, Inode>, change: NameChange): void {
  if (change.gone !== null) names.delete(change.gone);
  if (change.come !== null) names.set(change.come.path, change.come.inode);
}

const failure = (code: string, what: string): Error =>
  Object.assign(new Error(`${code}: simulated, ${what}`), { code });
const parent = (path: string): string => path.slice(0, Math.max(0, path.lastIndexOf('/')));
const never = <T>(): Promise<T> => new Promise<T>(() => undefined);

export class SimDisk {
  readonly #scheduler: Scheduler;
  readonly #options: SimDiskOptions;
  readonly #clock: Clock;
  readonly #random: SeededRandom;
  readonly #capacity: number;
  readonly #writeMs: readonly [number, number];
  readonly #syncMs: readonly [number, number];
  #names = new Map<string, Inode>();
  #durableNames = new Map<string, Inode>();
  #changes: NameChange[] = [];
  #directories = new Set<string>();
  #locks = new Map<string, Incarnation>();
  #full = false;
  #slow = 1;
  /** When the last thing that was begun while it was slow will be over. */
  #slowUntilMs = 0;
  #failWrite = 0;
  #failSync = 0;
  /** When it was full for the first time. */
  fullFromMs: number | null = null;
  /** Operations so far, for tests that fail the n-th. */
  readonly counts = { writes: 0, syncs: 0, reads: 0 };

  constructor(scheduler: Scheduler, options: SimDiskOptions = {}) {
    this.#scheduler = scheduler;
    this.#options = options;
    this.#clock = scheduler.clock();
    this.#random = scheduler.random.fork();
    this.#capacity = options.capacityBytes ?? 1 << 30;
    this.#writeMs = options.writeMs ?? [0.05, 0.15];
    this.#syncMs = options.syncMs ?? [0.1, 0.5];
  }

  /** Power cut. The harness ends the incarnations that used the disk. */
  crash(): void {
    const kept = this.#random.integer(0, this.#changes.length);
    for (const change of this.#changes.slice(0, kept)) applyChange(this.#durableNames, change);
    this.#changes = [];
    this.#names = new Map(this.#durableNames);
    for (const inode of new Set(this.#names.values())) inode.settle(this.#random);
    this.#locks.clear();
  }

  /** The volume is lost and comes back empty. */
  wipe(): void {
    this.#names = new Map();
    this.#durableNames = new Map();
    this.#changes = [];
    this.#directories.clear();
    this.#locks.clear();
  }

  /** What a volume snapshot would hold: everything written so far. */
  snapshot(): unknown {
    const names = new Map([...this.#names].map(([path, inode]) => [path, inode.copy()] as const));
    return { names, directories: new Set(this.#directories) } satisfies Volume;
  }

  restore(snapshot: unknown): void {
    const volume = snapshot as Volume;
    this.#names = new Map([...volume.names].map(([path, inode]) => [path, inode.copy()] as const));
    this.#durableNames = new Map(this.#names);
    this.#changes = [];
    this.#directories = new Set(volume.directories);
    this.#locks.clear();
  }

  /** A copy of the volume as it is after a power cut now: a snapshot of the storage system, or a clone. The original goes on. */
  copy(): SimDisk {
    const other = new SimDisk(this.#scheduler, this.#options);
    const twins = new Map<Inode, Inode>();
    const twinOf = (inode: Inode): Inode => {
      const twin = twins.get(inode) ?? inode.twin();
      twins.set(inode, twin);
      return twin;
    };
    other.#names = new Map([...this.#names].map(([path, inode]) => [path, twinOf(inode)] as const));
    other.#durableNames = new Map([...this.#durableNames].map(([path, inode]) => [path, twinOf(inode)] as const));
    other.#changes = this.#changes.map((change) => ({
      ...change,
      come: change.come === null ? null : { path: change.come.path, inode: twinOf(change.come.inode) },
    }));
    other.#directories = new Set(this.#directories);
    other.crash();
    return other;
  }

  /** While full nothing can grow and no name can be created; overwriting still works. */
  setFull(full: boolean): void {
    this.#full = full;
    if (full) this.fullFromMs ??= this.#scheduler.nowMs;
  }

  setSlow(factor: number): void {
    this.#slow = factor;
  }

  /** Slow, full or failing: what depends on it may take its time. */
  get isAiling(): boolean {
    const isBusy = this.#scheduler.nowMs < this.#slowUntilMs;
    return isBusy || this.#slow > 1 || this.#full || this.#failWrite > 0 || this.#failSync > 0;
  }

  /** The n-th write from now (1 is the next) fails with EIO and so does every later one; 0 heals. */
  failWrites(n: number): void {
    this.#failWrite = n;
  }

  /** The n-th sync from now fails with EIO, its data is lost, and so is every later one; 0 heals. */
  failSyncs(n: number): void {
    this.#failSync = n;
  }

  /** Flips one bit on the medium (seeded where not given); null when there is nothing to flip. */
  flipBit(path?: string, offset?: number): { readonly path: string; readonly offset: number } | null {
    const candidates = [...this.#names.keys()].filter((name) => (this.#names.get(name)?.size ?? 0) > 0).sort();
    if (candidates.length === 0) return null;
    const chosen = path ?? this.#random.pick(candidates);
    const inode = this.#names.get(chosen);
    if (inode === undefined || inode.size === 0) return null;
    const at = offset ?? this.#random.integer(0, inode.size - 1);
    inode.bytes[at] = (inode.bytes[at] ?? 0) ^ (1 << this.#random.integer(0, 7));
    return { path: chosen, offset: at };
  }

  /**
   * The medium goes bad in one place that holds something: a bit, a sector, or the rest of the file from there. Null when there is nothing to
   * damage. `names` limits it to files whose path it matches.
   */
  damage(how: 'bit' | 'sector' | 'tail', names: RegExp): { readonly path: string; readonly offset: number } | null {
    const candidates = [...this.#names.keys()].filter((name) => names.test(name)).sort();
    if (candidates.length === 0) return null;
    const path = this.#random.pick(candidates);
    const inode = this.#names.get(path) as Inode;
    for (let look = 0; look < 200 && inode.size > 0; look++) {
      const offset = this.#random.integer(0, inode.size - 1);
      if (inode.bytes[offset] === 0) continue;
      if (how === 'bit') return this.flipBit(path, offset);
      const from = Math.floor(offset / SECTOR) * SECTOR;
      const end = how === 'sector' ? Math.min(from + SECTOR, inode.size) : inode.size;
      inode.bytes.fill(0, how === 'sector' ? from : offset, end);
      return { path, offset };
    }
    return null;
  }

  /** Paths and sizes as a process sees them. */
  entries(): readonly { readonly path: string; readonly sizeBytes: number }[] {
    return [...this.#names].map(([path, inode]) => ({ path, sizeBytes: inode.size }));
  }

  /** Bytes of a file as a process sees them; for tests. */
  bytesOf(path: string): Buffer {
    const inode = this.#names.get(path);
    if (inode === undefined) throw failure('ENOENT', path);
    return Buffer.from(inode.bytes.subarray(0, inode.size));
  }

  usedBytes(): number {
    let used = 0;
    for (const inode of this.#names.values()) used += inode.size;
    return used;
  }

  /** The disk port of one process run. */
  files(incarnation: Incarnation): Files {
    return {
      open: (path, mode) => this.#step(incarnation, this.#writeMs, () => this.#open(incarnation, path, mode)),
      list: (directory) =>
        this.#step(incarnation, this.#writeMs, () => {
          if (!this.#directories.has(directory)) throw failure('ENOENT', directory);
          const prefix = `${directory}/`;
          return [...this.#names.keys()]
            .filter((path) => path.startsWith(prefix) && !path.slice(prefix.length).includes('/'))
            .map((path) => path.slice(prefix.length))
            .sort();
        }),
      makeDirectory: (path) =>
        this.#step(incarnation, this.#writeMs, () => {
          for (let at = path; at !== ''; at = parent(at)) this.#directories.add(at);
        }),
      rename: (from, to) =>
        this.#step(incarnation, this.#writeMs, () => {
          const inode = this.#names.get(from);
          if (inode === undefined) throw failure('ENOENT', from);
          this.#change({ directory: parent(to), gone: from, come: { path: to, inode } });
        }),
      unlink: (path) =>
        this.#step(incarnation, this.#writeMs, () => {
          if (!this.#names.has(path)) throw failure('ENOENT', path);
          this.#change({ directory: parent(path), gone: path, come: null });
        }),
      syncDirectory: (path) => this.#syncDirectory(incarnation, path),
      freeBytes: () =>
        this.#step(incarnation, this.#writeMs, () => (this.#full ? 0 : Math.max(0, this.#capacity - this.usedBytes()))),
      lock: (path) => this.#step(incarnation, this.#writeMs, () => this.#lock(incarnation, path)),
    };
  }

  #change(change: NameChange): void {
    applyChange(this.#names, change);
    this.#changes.push(change);
  }

  #lock(incarnation: Incarnation, path: string): ExclusiveLock | null {
    const holder = this.#locks.get(path);
    if (holder?.alive) return null;
    // The holder is compared by identity, so that a released lock is not freed twice.
    this.#locks.set(path, incarnation);
    return {
      release: async () => {
        if (this.#locks.get(path) === incarnation) this.#locks.delete(path);
      },
    };
  }

  #open(incarnation: Incarnation, path: string, mode: 'create' | 'write' | 'read'): FileHandle {
    let inode = this.#names.get(path);
    if (mode === 'create') {
      if (inode !== undefined) throw failure('EEXIST', path);
      if (this.#full) throw failure('ENOSPC', path);
      if (!this.#directories.has(parent(path))) throw failure('ENOENT', path);
      const created = new Inode(this.#clock);
      this.#change({ directory: parent(path), gone: null, come: { path, inode: created } });
      inode = created;
    }
    if (inode === undefined) throw failure('ENOENT', path);
    return this.#handle(incarnation, inode, path, mode !== 'read');
  }

  #handle(incarnation: Incarnation, inode: Inode, path: string, writable: boolean): FileHandle {
    return {
      writev: (buffers, position) => this.#write(incarnation, inode, path, writable, buffers, position),
      read: (target, offset, length, position) =>
        this.#step(incarnation, this.#writeMs, () => {
          this.counts.reads += 1;
          const end = Math.min(position + length, inode.size);
          if (end <= position) return 0;
          target.set(inode.bytes.subarray(position, end), offset);
          return end - position;
        }),
      datasync: () => this.#datasync(incarnation, inode, path),
      sizeBytes: () => this.#step(incarnation, this.#writeMs, () => inode.size),
      modifiedMs: () => this.#step(incarnation, this.#writeMs, () => inode.modifiedMs),
      truncate: (sizeBytes) =>
        this.#step(incarnation, this.#writeMs, () => {
          if (this.#full && sizeBytes > inode.size) throw failure('ENOSPC', path);
          inode.truncate(sizeBytes);
        }),
      close: () => this.#step(incarnation, [0, 0.01], () => undefined),
    };
  }

  /** Takes effect (or fails) now, settles later: a crash in between decides sector by sector. */
  #write(
    incarnation: Incarnation,
    inode: Inode,
    path: string,
    writable: boolean,
    buffers: readonly Uint8Array[],
    position: number,
  ): Promise<void> {
    if (!incarnation.alive) return never();
    this.counts.writes += 1;
    let error: Error | null = null;
    let length = 0;
    for (const buffer of buffers) length += buffer.length;
    const grows = position + length - inode.size;
    if (!writable) error = failure('EBADF', path);
    else if (this.#fails('write')) error = failure('EIO', `write ${path}`);
    else if (grows > 0 && (this.#full || this.usedBytes() + grows > this.#capacity)) error = failure('ENOSPC', path);
    else inode.write(buffers, position);
    return this.#later(incarnation, this.#writeMs, () => {
      if (error !== null) throw error;
    });
  }

  #datasync(incarnation: Incarnation, inode: Inode, path: string): Promise<void> {
    if (!incarnation.alive) return never();
    this.counts.syncs += 1;
    const covered = inode.undo[inode.undo.length - 1] as Undo;
    const coveredSize = inode.size;
    inode.undo.push(new Map());
    const failed = this.#fails('sync');
    return this.#later(incarnation, this.#syncMs, () => {
      const index = inode.undo.indexOf(covered);
      if (failed) {
        inode.lose(index);
        throw failure('EIO', `sync ${path}`);
      }
      // A crash in between has settled these sectors already.
      if (index === -1) return;
      // Everything written before is covered, whoever wrote it.
      for (const map of inode.undo.splice(0, index + 1)) for (const sector of map.keys()) inode.lost.delete(sector);
      inode.durableSize = Math.max(inode.durableSize, Math.min(coveredSize, inode.size));
    });
  }

  #syncDirectory(incarnation: Incarnation, path: string): Promise<void> {
    if (!incarnation.alive) return never();
    const covered = this.#changes.filter((change) => change.directory === path);
    const failed = this.#fails('sync');
    return this.#later(incarnation, this.#syncMs, () => {
      if (failed) throw failure('EIO', `sync ${path}`);
      for (const change of covered) if (this.#changes.includes(change)) applyChange(this.#durableNames, change);
      this.#changes = this.#changes.filter((change) => !covered.includes(change));
    });
  }

  #fails(what: 'write' | 'sync'): boolean {
    const left = what === 'write' ? this.#failWrite : this.#failSync;
    if (left === 0) return false;
    const next = Math.max(1, left - 1);
    if (what === 'write') this.#failWrite = next;
    else this.#failSync = next;
    return left === 1;
  }

  #step<T>(incarnation: Incarnation, span: readonly [number, number], run: () => T): Promise<T> {
    return incarnation.alive ? this.#later(incarnation, span, run) : never();
  }

  #later<T>(incarnation: Incarnation, span: readonly [number, number], run: () => T): Promise<T> {
    const [low, high] = span;
    const delayMs = (low + this.#random.next() * (high - low)) * this.#slow;
    if (this.#slow > 1) this.#slowUntilMs = Math.max(this.#slowUntilMs, this.#scheduler.nowMs + delayMs);
    return new Promise<T>((resolve, reject) => {
      this.#scheduler.schedule(delayMs, () =>
        deliverTo(incarnation, this.#scheduler, () => {
          try {
            resolve(run());
          } catch (error) {
            reject(error);
          }
        }),
      );
    });
  }
}
