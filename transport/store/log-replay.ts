/**
 * Applies the groups of a log, oldest first, to the state of a checkpoint. Owns: which groups are durable, which damage is a torn tail
 * (cut) and which is a media error (quarantined), and the tail that recovery writes once more. Touches no disk.
 */
import type { Quarantined } from './database.ts';
import type { SegmentFile } from './log-reader.ts';
import { decodeRecord } from './log-record.ts';
import type { LogState } from './log-state.ts';
import { BLOCK, type Extent, HEADER, type ParsedRecord } from './record.ts';
import { segmentName } from './segment-pool.ts';
import type { ScannedGroup } from './segment-scan.ts';

export interface TailRecord {
  readonly record: ParsedRecord;
  readonly body: Buffer;
}

/** One segment on its way in: its groups in order, in as many portions as they come. */
export interface SegmentReplay {
  add(groups: readonly ScannedGroup[]): void;
  end(): void;
}

/**
 * Every segment but the newest was synced before the next one was begun; where that one's header is lost, its first sequence says how
 * far (what lies behind is the torn tail of an earlier crash). Its header also says where this one ended: what is missing up to there is damage (seed 4045).
 */
export type Part =
  | { readonly kind: 'newest' /** All of it is tail. */; readonly moves: boolean }
  | { readonly kind: 'complete'; readonly before: number | null; readonly end: number | null };

/** Whether a group counts when everything through a sequence is durable; without a header its neighbours say. */
function isDurable(group: ScannedGroup, groups: readonly ScannedGroup[], index: number, through: number): boolean {
  if (group.header !== null) return group.header.sequence + group.header.count - 1 <= through;
  const next = groups.slice(index + 1).find((other) => other.header !== null)?.header;
  if (next !== undefined && next !== null) return next.sequence <= through + 1;
  return group.records.length > 0 && group.records.every((record) => record.sequence <= through);
}

/** Bytes between groups whose sequences follow each other: an empty group that only said what was synced, torn or damaged. */
const isOnlyMark = (lost: ScannedGroup, next: ScannedGroup | undefined, before: number): boolean =>
  lost.records.length === 0 && next?.header?.sequence === before + 1;

export class Replay {
  readonly state: LogState;
  readonly ends: Map<number, number>;
  readonly quarantined: Quarantined[] = [];
  readonly tail: TailRecord[] = [];
  synced: number;
  lastGeneration: number;
  lastEnd: number;
  cutGroups = 0;
  #applied: number;
  /** Checksums of whole chunks by generation and offset of the body; only for segments that were read. */
  readonly #chunks = new Map<number, Map<number, number>>();

  constructor(state: LogState, sequence: number, ends: Map<number, number>, lastGeneration: number) {
    this.lastGeneration = lastGeneration;
    this.lastEnd = ends.get(lastGeneration) ?? BLOCK;
    this.state = state;
    this.synced = sequence;
    this.#applied = sequence;
    this.ends = ends;
  }

  /** Everything through here is in the state. */
  get applied(): number {
    return this.#applied;
  }

  /** `marks`: what the groups of the segment say was synced when they were written. */
  begin(file: SegmentFile, part: Part, marks: readonly number[]): SegmentReplay {
    this.synced = marks.reduce((most, mark) => Math.max(most, mark), Math.max(this.synced, file.syncedThrough));
    this.#chunks.set(file.generation, new Map());
    const name = segmentName(file.slot);
    const through =
      part.kind === 'newest' ? this.synced : part.before === null ? Number.MAX_SAFE_INTEGER : part.before - 1;
    const isMoved = part.kind === 'newest' && part.moves;
    const isCutting = part.kind === 'newest' && this.state.mutants.has('damage-cuts-tail');
    let end = BLOCK;
    let torn = false;
    let durable = 0;
    let before = file.syncedThrough;
    return {
      add: (groups) => {
        for (const [index, group] of groups.entries()) {
          if (group.header === null && isOnlyMark(group, groups[index + 1], before)) continue;
          if (group.header !== null) {
            before = group.header.sequence + group.header.count - 1;
            this.synced = Math.max(this.synced, group.header.syncedThrough);
          }
          if (isCutting && group.damage.length > 0) torn = true;
          if (!isMoved && isDurable(group, groups, index, through) && !(isCutting && torn)) {
            this.#keepChunks(group);
            this.#applyGroup(name, group);
            end = group.end;
            // An empty group only says what was synced: it may be in the page cache alone, and the header of its segment with it.
            if (group.header === null || group.header.count > 0) durable += 1;
          } else if (part.kind === 'complete' || torn || group.header === null || group.damage.length > 0) {
            torn = true;
            this.cutGroups += 1;
          } else {
            this.#keepChunks(group);
            this.#keepTail(group);
          }
        }
      },
      end: () => {
        // A torn first write leaves no header either, but nothing durable behind it.
        if (file.previous === undefined && durable > 0)
          this.quarantined.push({ id: null, segment: name, offset: 0, reason: 'the header of the segment is damaged' });
        if (part.kind === 'complete' && part.end !== null) end = Math.max(end, part.end);
        this.ends.set(file.generation, end);
        if (part.kind === 'complete' || durable > 0) {
          this.lastGeneration = file.generation;
          this.lastEnd = end;
        }
        if (part.kind === 'complete') this.synced = Math.max(this.synced, this.#applied);
      },
    };
  }

  #applyGroup(segment: string, group: ScannedGroup): void {
    for (const { offset, reason, id } of group.damage) {
      const item: Quarantined = { id, segment, offset, reason };
      this.quarantined.push(item);
      if (id !== null && !this.state.index.quarantined.has(id)) this.state.index.quarantined.set(id, item);
    }
    for (const record of group.records) {
      // A group can lie in two segments when a recovery was interrupted.
      if (record.sequence <= this.#applied) continue;
      this.#applied = record.sequence;
      this.#applyRecord(segment, record);
    }
    if (group.header !== null) this.#applied = Math.max(this.#applied, group.header.sequence + group.header.count - 1);
  }

  #applyRecord(segment: string, record: ParsedRecord): void {
    const at = [record.generation, record.offset, HEADER + record.metaLength] as const;
    if (record.kind === 'footer') {
      if (this.state.net.open.size > 0) this.state.net.seal(at, record.bodyLength, null);
      return;
    }
    const change = decodeRecord(record.kind, record.meta);
    if (change === null) return;
    this.state.replay(change, at);
    if (change.kind !== 'commit' && change.kind !== 'recall') return;
    const lost = this.damagedPart(change.extents);
    if (lost === null) return;
    const reason = 'a part of the body is damaged';
    this.quarantined.push(this.state.quarantine(change.facts.id, segment, lost[1], reason));
  }

  damagedPart(extents: readonly Extent[]): Extent | null {
    const lost = extents.find(([generation, offset, , crc]) => {
      const chunks = this.#chunks.get(generation);
      return chunks !== undefined && chunks.get(offset) !== crc;
    });
    return lost ?? null;
  }

  #keepChunks(group: ScannedGroup): void {
    for (const record of group.records)
      if (record.kind === 'chunk')
        this.#chunks.get(record.generation)?.set(record.offset + HEADER + record.metaLength, record.bodyCrc);
  }

  /** Copies: the buffer of the reader is used again. */
  #keepTail(group: ScannedGroup): void {
    for (const record of group.records)
      if (record.sequence > this.#applied)
        this.tail.push({ record: { ...record, meta: Buffer.from(record.meta) }, body: Buffer.from(record.body) });
  }
}
