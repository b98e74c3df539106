/**
 * The queue database in memory, for tests of the core and the contract suite's second opinion. Owns: a `MemoryDisk` that survives
 * close, reopen and `crash`; what was not "synced" at a crash is gone and the store it belonged to never settles anything again.
 * Promises and refusals are those of `database.ts`; it has no bytes that could be damaged.
 */
import { createHash } from 'node:crypto';
import type { CopyId, Identity } from '../../common/message.ts';
import type { Clock } from '../../common/platform/clock.ts';
import type { Random } from '../../common/platform/random.ts';
import type {
  BodyWriter,
  CopyState,
  QueueDatabase,
  Recovered,
  SafetyNetCopies,
  SafetyNetCounts,
  SafetyNetEntry,
  SafetyNetFilter,
  SafetyNetPage,
  SafetyNetPosition,
  SafetyNetShed,
  ScrubStep,
  StoredCopy,
  StoreSpace,
  Write,
} from './database.ts';
import { type Live, LiveIndex, matches, notFound, StoreError, safetyNetEntry } from './live-index.ts';
import { newIdentity, newNonce, type OpenRecord } from './open-record.ts';

interface Image {
  readonly member: string;
  readonly identity: Identity;
  chain: readonly OpenRecord[];
  sequence: number;
  readonly index: LiveIndex<Buffer>;
  /** In the order in which they came to rest. */
  readonly resting: Map<CopyId, Resting>;
  completeSinceMs: number;
}

interface Resting extends Live<Buffer> {
  readonly position: number;
}

/** The volume: outlives the store objects opened on it. */
export class MemoryDisk {
  image: Image | null = null;
  holder: MemoryStore | null = null;

  /** Power cut or kill: the store that is open dies with what it had not synced. */
  crash(): void {
    this.holder?.die();
    this.holder = null;
  }

  wipe(): void {
    this.crash();
    this.image = null;
  }
}

export interface MemoryStoreOptions {
  readonly disk: MemoryDisk;
  readonly clock: Clock;
  readonly random: Random;
  readonly member: string;
  /** Time one sync takes on the clock; without it a sync takes one microtask. */
  readonly syncMs?: number;
  readonly capacityBytes?: number;
}

interface Call {
  readonly writes: readonly Write[];
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
  readonly note: boolean;
}

export async function openMemoryStore(options: MemoryStoreOptions): Promise<QueueDatabase> {
  const { disk, random, member } = options;
  if (disk.holder !== null)
    throw new StoreError('LOCKED', 'the database is open in another process: end that one first');
  const created = disk.image === null;
  disk.image ??= {
    member,
    identity: newIdentity(random),
    chain: [],
    sequence: 0,
    index: new LiveIndex(),
    resting: new Map(),
    completeSinceMs: Math.floor(options.clock.wallMs()),
  };
  const image = disk.image;
  if (image.member !== member)
    throw new StoreError(
      'FOREIGN',
      `the database belongs to ${image.member}, not to ${member}: give each member its own volume`,
    );
  const last = image.chain[image.chain.length - 1]?.openCounter ?? 0;
  image.chain = [...image.chain, { openCounter: last + 1, nonce: newNonce(random) }].slice(-64);
  const store = new MemoryStore(options, image, created);
  disk.holder = store;
  return store;
}

class MemoryStore implements QueueDatabase {
  readonly identity: Identity;
  recovered: Recovered;
  readonly #options: MemoryStoreOptions;
  readonly #image: Image;
  #queue: Call[] = [];
  #syncing = false;
  #noteTimer: { cancel(): void } | null = null;
  #dead = false;

  constructor(options: MemoryStoreOptions, image: Image, created: boolean) {
    this.#options = options;
    this.#image = image;
    this.identity = image.identity;
    const { index } = image;
    this.recovered = {
      copies: [...index.copies.values()].map(({ facts, state }) => ({ facts, state })),
      tombstones: [...index.tombstones.values()],
      seen: [...index.seen.values()],
      facts: new Map(index.facts),
      quarantined: [],
      created,
    };
  }

  get chain(): readonly OpenRecord[] {
    return this.#image.chain;
  }

  releaseRecovered(): void {
    const { quarantined, created } = this.recovered;
    this.recovered = { copies: [], tombstones: [], seen: [], facts: new Map(), quarantined, created };
  }

  get syncedSequence(): number {
    return this.#image.sequence;
  }

  die(): void {
    this.#dead = true;
    this.#queue = [];
    this.#noteTimer?.cancel();
  }

  beginBody(id: CopyId): BodyWriter {
    return new MemoryBody(id);
  }

  commit(writes: readonly Write[]): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#dead) return;
      this.#queue.push({ writes, resolve, reject, note: false });
      this.#start();
    });
  }

  note(writes: readonly Write[]): void {
    if (this.#dead) return;
    const ignore = (): void => undefined;
    this.#queue.push({ writes, resolve: ignore, reject: ignore, note: true });
    this.#noteTimer ??= this.#options.clock.setTimer(1000, () => {
      this.#noteTimer = null;
      this.#start();
    });
  }

  async *readBody(id: CopyId): AsyncIterable<Buffer> {
    const copy = this.#image.index.copies.get(id) ?? this.#image.resting.get(id);
    if (copy === undefined) throw notFound(id);
    for (let at = 0; at < copy.body.length; at += 262_144) yield copy.body.subarray(at, at + 262_144);
  }

  async lookup(id: CopyId): Promise<StoredCopy | null> {
    const copy = this.#image.resting.get(id);
    return copy === undefined ? null : { facts: copy.facts, state: copy.state };
  }

  mayRest(id: CopyId): boolean {
    return this.#image.resting.has(id);
  }

  async *safetyNet(filter: SafetyNetFilter): AsyncIterable<SafetyNetEntry> {
    for (const { facts, state } of this.#chosen(filter)) yield safetyNetEntry(facts, state);
  }

  async safetyNetPage(filter: SafetyNetFilter, limit: number): Promise<SafetyNetPage> {
    const { page, next } = this.#page(filter, limit);
    return { entries: page.map(({ facts, state }) => safetyNetEntry(facts, state)), next };
  }

  async safetyNetCopies(filter: SafetyNetFilter, limit: number): Promise<SafetyNetCopies> {
    const { page, next } = this.#page(filter, limit);
    return { copies: page.map(({ facts, state }) => ({ facts, state })), unreadable: 0, next };
  }

  safetyNetEnd(): SafetyNetPosition {
    return String(this.#image.sequence) as SafetyNetPosition;
  }

  #chosen(filter: SafetyNetFilter): Resting[] {
    const after = filter.after === undefined ? 0 : Number(filter.after);
    const through = filter.through === undefined ? Number.POSITIVE_INFINITY : Number(filter.through);
    return [...this.#image.resting.values()].filter(
      ({ facts, state, position }) =>
        position > after && position <= through && matches(safetyNetEntry(facts, state), filter),
    );
  }

  #page(filter: SafetyNetFilter, limit: number): { readonly page: Resting[]; readonly next: SafetyNetPosition | null } {
    const page = this.#chosen(filter).slice(0, limit);
    const last = page.length < limit ? undefined : page[page.length - 1];
    return { page, next: last === undefined ? null : (String(last.position) as SafetyNetPosition) };
  }

  safetyNetCounts(): SafetyNetCounts {
    const sums = { primary: { messages: 0, bytes: 0 }, shadow: { messages: 0, bytes: 0 } };
    let oldestMs: number | null = null;
    for (const { facts, state } of this.#image.resting.values()) {
      const entry = safetyNetEntry(facts, state);
      sums[entry.role].messages += 1;
      sums[entry.role].bytes += entry.sizeBytes;
      if (oldestMs === null || entry.finalAtMs < oldestMs) oldestMs = entry.finalAtMs;
    }
    return { ...sums, oldestMs, completeSinceMs: this.#image.completeSinceMs };
  }

  /** Every entry is a segment of its own here. */
  async expireSafetyNet(beforeMs: number): Promise<number> {
    let dropped = 0;
    for (const [id, { state }] of this.#image.resting)
      if ((state.finalAtMs ?? 0) < beforeMs) {
        this.#image.resting.delete(id);
        dropped += 1;
      }
    return dropped;
  }

  async shedSafetyNet(maxBytes: number): Promise<SafetyNetShed> {
    let left = this.space().safetyNetBytes;
    let messages = 0;
    let bytes = 0;
    for (const [id, { body, state }] of this.#image.resting) {
      if (left <= maxBytes) break;
      left -= body.length;
      messages += 1;
      bytes += body.length;
      this.#image.resting.delete(id);
      this.#image.completeSinceMs = Math.max(this.#image.completeSinceMs, (state.finalAtMs ?? 0) + 1);
    }
    return { messages, bytes, completeSinceMs: this.#image.completeSinceMs };
  }

  async scrub(): Promise<ScrubStep> {
    const { liveBytes, safetyNetBytes } = this.space();
    return { bytes: liveBytes + safetyNetBytes, damaged: [], newPlaces: 0, next: null, leftBytes: 0 };
  }

  space(): StoreSpace {
    let liveBytes = 0;
    for (const copy of this.#image.index.copies.values()) liveBytes += copy.body.length;
    let safetyNetBytes = 0;
    for (const copy of this.#image.resting.values()) safetyNetBytes += copy.body.length;
    const totalBytes = this.#options.capacityBytes ?? 1 << 30;
    const freeBytes = Math.max(0, totalBytes - liveBytes - safetyNetBytes);
    return { totalBytes, liveBytes, safetyNetBytes, freeBytes, segments: 1 };
  }

  async close(): Promise<void> {
    if (this.#dead) return;
    if (this.#queue.length > 0) await this.commit([]);
    this.die();
    if (this.#options.disk.holder === this) this.#options.disk.holder = null;
  }

  #start(): void {
    if (this.#syncing || this.#dead) return;
    this.#syncing = true;
    const sync = (): void => {
      if (this.#dead) return;
      this.#syncing = false;
      const calls = this.#queue;
      this.#queue = [];
      this.#noteTimer?.cancel();
      this.#noteTimer = null;
      for (const call of calls) this.#apply(call);
    };
    if (this.#options.syncMs === undefined) queueMicrotask(sync);
    else this.#options.clock.setTimer(this.#options.syncMs, sync);
  }

  #apply(call: Call): void {
    const { index, resting } = this.#image;
    try {
      index.check(call.writes, (id) => resting.has(id));
    } catch (error) {
      call.reject(error);
      return;
    }
    for (const write of call.writes) {
      this.#image.sequence += 1;
      this.#applyOne(write);
    }
    call.resolve();
  }

  #rest({ facts, body }: Live<Buffer>, state: CopyState): void {
    this.#image.resting.set(facts.id, { facts, state, body, position: this.#image.sequence });
  }

  #applyOne(write: Write): void {
    const { index, resting } = this.#image;
    switch (write.kind) {
      case 'commit': {
        resting.delete(write.facts.id);
        index.put({ facts: write.facts, state: write.state, body: (write.body as MemoryBody).commit() });
        return;
      }
      case 'state':
        index.setState(write.id, write.state, write.outcomes);
        return;
      case 'move': {
        const copy = index.copies.get(write.id);
        index.remove(write.id);
        if (copy !== undefined) this.#rest(copy, write.state);
        return;
      }
      case 'recall': {
        const copy = resting.get(write.id);
        resting.delete(write.id);
        if (copy !== undefined) index.put({ facts: copy.facts, state: write.state, body: copy.body });
        return;
      }
      case 'remove':
        resting.delete(write.id);
        index.remove(write.id);
        return;
      default:
        index.applySmall(write);
    }
  }
}

class MemoryBody implements BodyWriter {
  readonly id: CopyId;
  sizeBytes = 0;
  readonly #hash = createHash('sha256');
  #digest: string | null = null;
  #chunks: Buffer[] = [];
  #committed = false;

  constructor(id: CopyId) {
    this.id = id;
  }

  async append(chunk: Buffer): Promise<void> {
    this.#chunks.push(Buffer.from(chunk));
    this.#hash.update(chunk);
    this.sizeBytes += chunk.length;
  }

  untilRoom(): null {
    return null;
  }

  digest(): string {
    this.#digest ??= this.#hash.digest('hex');
    return this.#digest;
  }

  async read(offset: number, maxBytes: number): Promise<Buffer> {
    return this.#whole().subarray(offset, offset + maxBytes);
  }

  commit(): Buffer {
    this.#committed = true;
    return this.#whole();
  }

  #whole(): Buffer {
    if (this.#chunks.length !== 1) this.#chunks = [Buffer.concat(this.#chunks)];
    return this.#chunks[0] as Buffer;
  }

  discard(): void {
    if (!this.#committed) this.#chunks = [];
  }
}
