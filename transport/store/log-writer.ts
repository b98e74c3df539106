/**
 * The one writer of the log. Owns: the queue, forming groups (everything that waited while the last one was written is the next),
 * one writev and one fdatasync in flight, sealing a segment and beginning the next. Promises: calls take effect whole and in order;
 * a call resolves after the fdatasync that covers it; bodies and notes cost no sync of their own (protocol.md 25, 27). Fails once:
 * after the first failed write or sync nothing resolves and `onFatal` is told why.
 */
import type { Clock, Timer } from '../../common/platform/clock.ts';
import type { Logger } from '../../common/platform/log.ts';
import { BodyBacklog } from './body-backlog.ts';
import type { BodyHost, LogBody } from './body-writer.ts';
import { encodeFooter } from './footer.ts';
import { callBound, encodeCall, encodeChunks, groupBytes, SMALL_PART, unresolved } from './group-encoding.ts';
import type { LogAccess } from './log-access.ts';
import type { LogState } from './log-state.ts';
import type { Call } from './prepared.ts';
import { BLOCK, FORMAT_VERSION, GroupBuilder, HEADER, padded, segmentBlock } from './record.ts';
import type { Segment, SegmentPool } from './segment-pool.ts';

const GROUP_ITEMS = 1000;
/** Chunks are written without sync, but never more than this (protocol.md 27); with the last group it is half of a segment at most. */
const unsyncedBytes = (segmentBytes: number): number => Math.min(16 << 20, segmentBytes / 4);
const NOTE_MS = 1000;
const MARK_MS = 1000;

export interface LogEnd {
  readonly sequence: number;
  readonly lastGeneration: number;
  readonly lastEnd: number;
  readonly highestGeneration: number;
  /** A segment recovery has already begun. */
  readonly current: Segment | null;
}

export interface WriterOptions {
  readonly state: LogState;
  readonly pool: SegmentPool;
  readonly access: LogAccess;
  readonly clock: Clock;
  readonly log: Logger;
  readonly salt: Buffer;
  readonly end: LogEnd;
  /** The segment before the current one is complete and synced; everything applied so far is durable. */
  readonly onSealed: (lastGeneration: number) => void;
  /** Commits that one sync has made durable. */
  readonly onSynced?: ((commits: number) => void) | undefined;
  readonly onFatal: (reason: Error) => void;
}

type Item = Call | { readonly kind: 'body'; readonly body: LogBody } | { readonly kind: 'mark' } | Seal;
interface Seal {
  readonly kind: 'seal';
  readonly resolve: () => void;
}

interface Group {
  readonly buffers: readonly Buffer[];
  readonly bytes: number;
  readonly calls: readonly Call[];
  readonly bodies: readonly LogBody[];
  readonly sync: boolean;
}

/** A group while it is being filled. */
interface Filling {
  readonly calls: Call[];
  readonly bodies: LogBody[];
  mark: boolean;
}

/** What the head of the queue needs before it can go into a group. */
type Need =
  | { readonly kind: 'none' }
  | { readonly kind: 'segment'; readonly bytes: number; readonly moves: number; readonly moveBytes: number }
  | { readonly kind: 'bodySegment'; readonly body: LogBody }
  | { readonly kind: 'disk'; readonly call: Call }
  | { readonly kind: 'seal'; readonly seal: Seal };

export class LogWriter implements BodyHost {
  readonly #options: WriterOptions;
  readonly #builder: GroupBuilder;
  readonly #backlog = new BodyBacklog();
  readonly #groupBytes: number;
  readonly #mostUnsynced: number;
  /** Bodies that wait for room beyond the reserve. */
  readonly #waiting = new Set<LogBody>();
  #queue: Item[] = [];
  #running = false;
  #dead = false;
  #need: Need = { kind: 'none' };
  #current: Segment | null;
  #headerPending: Buffer | null = null;
  #lastGeneration: number;
  #lastEnd: number;
  #highestGeneration: number;
  #sequence: number;
  #synced: number;
  /** The syncedThrough of the newest group header on disk. */
  #marked: number;
  #unsyncedBytes = 0;
  #noteTimer: Timer | null = null;
  #markTimer: Timer | null = null;
  /** Bytes of log written, for the checkpoint policy. */
  bytesWritten = 0;

  constructor(options: WriterOptions) {
    this.#options = options;
    this.#builder = new GroupBuilder(options.salt);
    this.#groupBytes = groupBytes(options.pool.segmentBytes);
    this.#mostUnsynced = unsyncedBytes(options.pool.segmentBytes);
    const { end } = options;
    this.#current = end.current;
    this.#lastGeneration = end.lastGeneration;
    this.#lastEnd = end.lastEnd;
    this.#highestGeneration = end.highestGeneration;
    this.#sequence = end.sequence;
    this.#synced = end.sequence;
    this.#marked = end.sequence;
  }

  get syncedSequence(): number {
    return this.#synced;
  }

  get currentGeneration(): number {
    return this.#current?.generation ?? 0;
  }

  /** Room left in the current segment. */
  get roomBytes(): number {
    return this.#current === null ? 0 : this.#current.sizeBytes - this.#current.end;
  }

  get lastGeneration(): number {
    return this.#lastGeneration;
  }

  get lastEnd(): number {
    return this.#lastEnd;
  }

  push(call: Call): void {
    if (this.#dead) return;
    // The rest of a body goes before the COMMIT that names it, in the same group when there is room.
    for (const write of call.prepared)
      if (write.kind === 'commit' || write.kind === 'relocate') {
        write.body.mayUseReserve = true;
        this.#waiting.delete(write.body);
        this.#enqueue(write.body);
      }
    this.#queue.push(call);
    if (!call.note) this.#start();
    else if (!this.#running)
      this.#noteTimer ??= this.#options.clock.setTimer(NOTE_MS, () => {
        this.#noteTimer = null;
        this.#start();
      });
  }

  wake(body: LogBody): void {
    if (this.#enqueue(body)) this.#start();
  }

  holds(body: LogBody, bytes: number): void {
    for (const large of this.#backlog.changed(body, bytes)) this.wake(large);
  }

  hasRoom(): boolean {
    return this.#backlog.bytes <= this.roomBytes + this.#options.pool.spareBytes();
  }

  #enqueue(body: LogBody): boolean {
    if (this.#dead || body.queued || body.pendingBytes === 0 || this.#waiting.has(body)) return false;
    body.queued = true;
    this.#queue.push({ kind: 'body', body });
    return true;
  }

  /** Space has come back, or may have: bodies that waited for it go on. */
  resumeBodies(): void {
    if (this.#waiting.size === 0 || !this.#options.pool.mayHaveRoom()) return;
    const bodies = [...this.#waiting];
    this.#waiting.clear();
    for (const body of bodies) this.wake(body);
  }

  release(body: LogBody): void {
    this.#waiting.delete(body);
    for (const generation of body.pinned) this.#options.state.unpin(generation);
    body.pinned.clear();
  }

  readRange(generation: number, offset: number, length: number): Promise<Buffer> {
    return this.#options.access.readRange(generation, offset, length);
  }

  /** Writes everything queued, ends the current segment with its footer, syncs. */
  seal(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#dead) return;
      this.#queue.push({ kind: 'seal', resolve });
      this.#start();
    });
  }

  /** Nothing is written or settled from now on. */
  stop(): void {
    this.#dead = true;
    this.#queue = [];
    this.#noteTimer?.cancel();
    this.#markTimer?.cancel();
  }

  fail(error: unknown): void {
    if (this.#dead) return;
    this.stop();
    this.#options.onFatal(error instanceof Error ? error : new Error(String(error)));
  }

  #start(): void {
    if (this.#running) return;
    this.#running = true;
    // After the code that called us: an append and the commit of the same tick share a group.
    queueMicrotask(() => queueMicrotask(() => void this.#run()));
  }

  async #run(): Promise<void> {
    try {
      this.#noteTimer?.cancel();
      this.#noteTimer = null;
      while (this.#queue.length > 0 && !this.#dead) {
        const group = this.#fill();
        if (group === null) await this.#provide();
        else await this.#write(group);
      }
      this.#running = false;
      if (this.#marked < this.#synced && !this.#dead) this.#markLater();
    } catch (error) {
      this.fail(error);
    }
  }

  /** A second after the last sync, one unsynced block says that it is durable: for recovery and for readers of a live database. */
  #markLater(): void {
    this.#markTimer ??= this.#options.clock.setTimer(MARK_MS, () => {
      this.#markTimer = null;
      if (this.#running || this.#dead || this.#marked >= this.#synced) return;
      this.#queue.unshift({ kind: 'mark' });
      this.#start();
    });
  }

  /** Moves items from the queue into one group. Null when the first one needs something that takes time, or nothing is left. */
  #fill(): Group | null {
    this.#need = { kind: 'none' };
    const segment = this.#current;
    const builder = this.#builder;
    if (segment !== null) builder.begin(segment.generation, segment.end, this.#sequence + 1);
    const group: Filling = { calls: [], bodies: [], mark: false };
    for (let items = 0; this.#queue.length > 0 && items < GROUP_ITEMS; items++) {
      if (items > 0 && builder.length >= this.#groupBytes) break;
      const item = this.#queue[0] as Item;
      const added = this.#addItem(item, segment, group);
      if (typeof added === 'object') {
        // Only the head of the queue may ask for something: whatever is in the group goes first.
        if (items === 0) this.#need = added;
        break;
      }
      if (added === 'part') break;
      this.#queue.shift();
    }
    return this.#finish(segment, group);
  }

  #finish(segment: Segment | null, { calls, bodies, mark }: Filling): Group | null {
    const wantsSync = calls.some((call) => !call.note);
    const builder = this.#builder;
    if (segment === null || (builder.count === 0 && !mark)) {
      if (segment !== null && wantsSync && this.#synced < this.#sequence)
        return { buffers: [], bytes: 0, calls, bodies, sync: true };
      // Calls that were refused or had nothing to write.
      for (const call of calls) call.resolve();
      return null;
    }
    this.#marked = this.#synced;
    const { buffers, bytes } = builder.finish(this.#synced);
    this.#sequence += builder.count;
    return { buffers, bytes, calls, bodies, sync: wantsSync || this.#unsyncedBytes + bytes >= this.#mostUnsynced };
  }

  /** Adds an item to the group: all of it, a part, or says what it needs first. */
  #addItem(item: Item, segment: Segment | null, group: Filling): 'all' | 'part' | Need {
    if (item.kind === 'seal') return { kind: 'seal', seal: item };
    if (item.kind === 'mark') {
      // Never the first of a segment: nothing in it would be durable, its header neither.
      group.mark = segment !== null && this.#headerPending === null && this.#room(segment, 0, 0) >= 0;
      return 'all';
    }
    if (item.kind === 'body') {
      const wants: Need = { kind: 'bodySegment', body: item.body };
      if (segment === null) return wants;
      const room = this.#room(segment, 0, 0);
      const added = encodeChunks(this.#builder, this.#options.state, item.body, room, this.#groupBytes);
      if (added === 'nothing') return wants;
      group.bodies.push(item.body);
      if (added === 'all') item.body.queued = false;
      return added;
    }
    const { state, access } = this.#options;
    if (unresolved(item, state, access)) return { kind: 'disk', call: item };
    const bytes = callBound(state, item);
    if (segment === null || this.#room(segment, item.moves, item.moveBytes) < bytes)
      return { kind: 'segment', bytes, moves: item.moves, moveBytes: item.moveBytes };
    encodeCall(this.#builder, state, item);
    group.calls.push(item);
    return 'all';
  }

  /** Bytes left for records in the group being built, the footer of the segment set aside. */
  #room(segment: Segment, moves: number, moveBytes: number): number {
    const footer = this.#options.state.net.footerBound(moves, moveBytes);
    const reserved = footer === 0 ? 0 : padded(HEADER + footer);
    return segment.sizeBytes - segment.end - reserved - this.#builder.length;
  }

  async #write(group: Group): Promise<void> {
    const segment = this.#current as Segment;
    if (group.bytes > 0) await this.#append(segment, group.buffers, group.bytes);
    if (this.#dead) return;
    for (const body of group.bodies) body.written();
    for (const call of group.calls) if (call.note) call.resolve();
    if (!group.sync) return;
    await this.#sync(segment);
    if (this.#dead) return;
    const commits = group.calls.filter(({ note }) => !note);
    for (const call of commits) call.resolve();
    this.#options.onSynced?.(commits.length);
  }

  async #append(segment: Segment, buffers: readonly Buffer[], bytes: number): Promise<void> {
    const header = this.#headerPending;
    segment.writing = segment.handle.writev(
      header === null ? buffers : [header, ...buffers],
      header === null ? segment.end : 0,
    );
    await segment.writing;
    segment.writing = null;
    this.#headerPending = null;
    segment.end += bytes;
    this.#unsyncedBytes += bytes;
    this.bytesWritten += bytes;
  }

  async #sync(segment: Segment): Promise<void> {
    const through = this.#sequence;
    try {
      await segment.handle.datasync();
    } catch (error) {
      if (!this.#options.state.mutants.has('sync-error-ignored')) throw error;
    }
    this.#unsyncedBytes = 0;
    this.#synced = through;
  }

  async #provide(): Promise<void> {
    const need = this.#need;
    if (need.kind === 'segment') await this.#begin(need.bytes, need.moves, need.moveBytes);
    else if (need.kind === 'bodySegment') await this.#beginForBody(need.body);
    else if (need.kind === 'disk') await this.#resolve(need.call);
    else if (need.kind === 'seal') {
      const { open } = this.#options.state.net;
      if (this.#current === null && open.size > 0) await this.#begin(0, 0, 0);
      await this.#end();
      this.#queue.shift();
      need.seal.resolve();
    }
  }

  /** Bodies leave the reserve alone (protocol.md 28) unless their COMMIT waits behind them: then the rest is short. */
  async #beginForBody(body: LogBody): Promise<void> {
    if (body.mayUseReserve || (await this.#options.pool.hasRoomForBodies()) || body.mayUseReserve)
      return this.#begin(SMALL_PART + HEADER, 0, 0);
    if (this.#dead) return;
    this.#queue.shift();
    body.queued = false;
    // It may have been discarded meanwhile.
    if (body.pendingBytes === 0) return;
    this.#waiting.add(body);
    body.noRoom();
  }

  /** Looks up what a call must know of Safety Net copies. Only the recall of a copy that cannot be read is refused. */
  async #resolve(call: Call): Promise<void> {
    const { state, access, log } = this.#options;
    try {
      for (const write of call.prepared) {
        if (write.kind !== 'recall' && write.kind !== 'remove' && write.kind !== 'commit') continue;
        const id = write.kind === 'commit' ? write.facts.id : write.id;
        if (state.index.copies.has(id)) continue;
        const found = await access.find(id).catch((error: unknown) => {
          if (write.kind === 'recall') throw error;
          // An entry that may be in an unreadable place ends with its segment; a new message does not wait for it.
          log.error({ id, error: String(error) }, 'queue database: whether a copy rests here cannot be read');
          return null;
        });
        call.found ??= { kills: new Map(), resting: new Map() };
        call.found.kills.set(id, access.killOf(found));
        if (write.kind === 'recall' && found !== null)
          call.found.resting.set(id, await access.readResting(found.entry));
      }
    } catch (error) {
      this.#queue.shift();
      call.reject(error);
    }
  }

  /** Completes the current segment: its footer, a sync. */
  async #end(): Promise<void> {
    const segment = this.#current;
    if (segment === null) return;
    const { state } = this.#options;
    if (this.#headerPending !== null && state.net.open.size === 0) {
      // Nothing was written to it.
      this.#headerPending = null;
      this.#current = null;
      this.#options.pool.release(segment.generation);
      return;
    }
    if (state.net.open.size > 0) {
      const { meta, body, bloom } = encodeFooter([...state.net.open.values()]);
      this.#builder.begin(segment.generation, segment.end, this.#sequence + 1);
      const place = this.#builder.add('footer', meta, body);
      const bytes = body.reduce((sum, buffer) => sum + buffer.length, 0);
      const group = this.#builder.finish(this.#synced);
      this.#sequence += 1;
      state.net.seal(place, bytes, bloom);
      await this.#append(segment, group.buffers, group.bytes);
    }
    if (this.#synced < this.#sequence || this.#unsyncedBytes > 0) await this.#sync(segment);
    this.#lastGeneration = segment.generation;
    this.#lastEnd = segment.end;
    this.#current = null;
    if (!this.#dead) this.#options.onSealed(segment.generation);
  }

  async #begin(bytes: number, moves: number, moveBytes: number): Promise<void> {
    const { pool, salt, state } = this.#options;
    await this.#end();
    // What was looked up may have moved into the footer.
    const head = this.#queue[0];
    if (head?.kind === 'call') head.found = null;
    const footer = state.net.footerBound(moves, moveBytes);
    const wanted = BLOCK + padded(HEADER + bytes) + (footer === 0 ? 0 : padded(HEADER + footer));
    const segment = await pool.acquire(wanted);
    const generation = ++this.#highestGeneration;
    pool.take(segment, generation);
    const previous = this.#lastGeneration === 0 ? null : { generation: this.#lastGeneration, end: this.#lastEnd };
    this.#headerPending = segmentBlock(salt, {
      version: FORMAT_VERSION,
      generation,
      previous,
      syncedThrough: this.#synced,
    });
    this.#current = segment;
    void pool.replenish();
  }
}
