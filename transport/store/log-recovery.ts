/**
 * Puts a log that was read in order for writing again. Owns: protocol.md 27 - after a crash the page cache cannot be trusted, so the
 * groups behind the last confirmed sync are written once more to a fresh segment and synced, and only then does that segment's header
 * make it part of the log. Sequences stay as they were: a peer may have seen them. Fails with the disk's error.
 */
import type { Quarantined } from './database.ts';
import type { LoadedLog } from './log-reader.ts';
import { commitJson, decodeRecord, type Kill, type LogRecord, moveJson, removeJson } from './log-record.ts';
import type { TailRecord } from './log-replay.ts';
import type { LogEnd } from './log-writer.ts';
import {
  BLOCK,
  type Extent,
  FORMAT_VERSION,
  GroupBuilder,
  HEADER,
  type Place,
  padded,
  segmentBlock,
} from './record.ts';
import type { SegmentPool } from './segment-pool.ts';

export interface RecoveredLog {
  readonly end: LogEnd;
  readonly quarantined: readonly Quarantined[];
}

export async function rewriteTail(loaded: LoadedLog, pool: SegmentPool): Promise<RecoveredLog> {
  const { salt } = pool;
  const { lastGeneration, lastEnd, highestGeneration, syncedThrough } = loaded;
  const first = loaded.tail[0];
  if (first === undefined) {
    const end = { sequence: syncedThrough, lastGeneration, lastEnd, highestGeneration, current: null };
    return { end, quarantined: [] };
  }
  const bound = loaded.tail.reduce((sum, item) => sum + HEADER + longest(item), HEADER);
  const footer = loaded.state.net.footerBound(loaded.tail.length, bound);
  const segment = await pool.acquire(BLOCK + padded(bound) + padded(HEADER + footer));
  const generation = highestGeneration + 1;
  pool.take(segment, generation);
  const rewriter = new Rewriter(loaded, salt, generation, first.record.sequence);
  const { buffers, bytes, sequence } = rewriter.run();
  const isTrusted = loaded.state.mutants.has('recovery-trusts-page-cache');
  await segment.handle.writev(buffers, BLOCK);
  if (!isTrusted) await segment.handle.datasync();
  const previous = { generation: lastGeneration, end: lastEnd };
  const header = segmentBlock(salt, { version: FORMAT_VERSION, generation, previous, syncedThrough });
  await segment.handle.writev([header], 0);
  if (!isTrusted) await segment.handle.datasync();
  segment.end = BLOCK + bytes;
  const end = { sequence, lastGeneration, lastEnd, highestGeneration: generation, current: segment };
  return { end, quarantined: rewriter.quarantined };
}

/** Bytes of a record once the places it names have changed: each is in brackets, and its numbers grow by this at most. */
const PLACE_GROWTH = 24;

function longest({ record, body }: TailRecord): number {
  let bytes = record.metaLength + body.length;
  for (let at = record.meta.indexOf('['); at !== -1; at = record.meta.indexOf('[', at + 1)) bytes += PLACE_GROWTH;
  return bytes;
}

class Rewriter {
  readonly quarantined: Quarantined[] = [];
  readonly #loaded: LoadedLog;
  readonly #builder: GroupBuilder;
  readonly #firstSequence: number;
  /** New extents and places by the old `generation:offset`. */
  readonly #extents = new Map<string, Extent>();
  readonly #places = new Map<string, Place>();

  constructor(loaded: LoadedLog, salt: Buffer, generation: number, firstSequence: number) {
    this.#loaded = loaded;
    this.#builder = new GroupBuilder(salt);
    this.#firstSequence = firstSequence;
    this.#builder.begin(generation, BLOCK, firstSequence);
  }

  run(): { readonly buffers: readonly Buffer[]; readonly bytes: number; readonly sequence: number } {
    const wanted = this.#wanted();
    for (const item of this.#loaded.tail) this.#rewrite(item, wanted);
    this.#loaded.state.packReplayed();
    const { buffers, bytes } = this.#builder.finish(this.#loaded.syncedThrough);
    return { buffers, bytes, sequence: this.#firstSequence + this.#builder.count - 1 };
  }

  /** Chunks that a COMMIT in the tail names; the others belong to bodies that will never be committed. */
  #wanted(): Set<string> {
    const wanted = new Set<string>();
    for (const { record } of this.#loaded.tail) {
      if (record.kind !== 'commit' && record.kind !== 'recall') continue;
      const change = decodeRecord(record.kind, record.meta);
      if (change !== null && 'extents' in change)
        for (const [generation, offset] of change.extents) wanted.add(`${generation}:${offset}`);
    }
    return wanted;
  }

  #rewrite({ record, body }: TailRecord, wanted: ReadonlySet<string>): void {
    const builder = this.#builder;
    const bodyOffset = record.offset + HEADER + record.metaLength;
    const change = decodeRecord(record.kind, record.meta);
    if (change === null) {
      // A footer is not needed, its entries are in memory; an unwanted chunk only keeps its sequence.
      const key = `${record.generation}:${bodyOffset}`;
      const keep = record.kind === 'chunk' && wanted.has(key);
      const place = builder.add('chunk', '', keep ? [body] : []);
      if (keep) this.#extents.set(key, [place[0], place[1] + place[2], body.length, builder.lastBodyCrc]);
      return;
    }
    const moved = this.#moved(change);
    const place = builder.add(record.kind, this.#json(moved, record.meta));
    this.#places.set(`${record.generation}:${record.offset}`, place);
    this.#loaded.state.replay(moved, place);
    if (!('extents' in moved)) return;
    const lost = this.#loaded.damagedPart(moved.extents);
    if (lost === null) return;
    const { state } = this.#loaded;
    const { id } = moved.facts;
    this.quarantined.push(state.quarantine(id, `generation ${lost[0]}`, lost[1], 'a part of the body is damaged'));
  }

  /** The same record with the new places in it. */
  #moved(change: LogRecord): LogRecord {
    switch (change.kind) {
      case 'commit':
      case 'recall': {
        const extents = change.extents.map((extent) => this.#extents.get(`${extent[0]}:${extent[1]}`) ?? extent);
        return { ...change, extents, kill: this.#movedKill(change.kill) };
      }
      case 'move':
        return { ...change, commitAt: this.#movedPlace(change.commitAt) };
      case 'remove':
        return { ...change, kill: this.#movedKill(change.kill) };
      default:
        return change;
    }
  }

  #movedPlace(place: Place): Place {
    return this.#places.get(`${place[0]}:${place[1]}`) ?? place;
  }

  #movedKill(kill: Kill | null): Kill | null {
    return kill === null ? null : { ...kill, at: this.#movedPlace(kill.at) };
  }

  #json(change: LogRecord, meta: Buffer): string {
    switch (change.kind) {
      case 'commit':
      case 'recall':
        return commitJson(
          change.facts.id,
          change.extents,
          change.kill,
          JSON.stringify(change.facts),
          JSON.stringify(change.state),
        );
      case 'move':
        return moveJson(change.id, change.commitAt, change.brief, JSON.stringify(change.state));
      case 'remove':
        return removeJson(change.id, change.kill);
      default:
        return meta.toString();
    }
  }
}
