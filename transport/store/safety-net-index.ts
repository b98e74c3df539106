/**
 * What is in memory about the Safety Nets: the entries not yet in a footer, and one summary per segment that has a footer. Owns: the
 * exact counts, which segments the entries need, which footer entries have ended since (few; kept in checkpoints). Touches no disk.
 */
import type { CopyId } from '../../common/message.ts';
import { type Bloom, bloomBytes } from './bloom.ts';
import type { SafetyNetCounts } from './database.ts';
import { entryLine, type RestingEntry } from './footer.ts';
import type { Kill } from './log-record.ts';
import type { Place } from './record.ts';

interface Sum {
  messages: number;
  bytes: number;
}

/** A segment whose footer lists entries. */
export interface Owner {
  readonly generation: number;
  /** The FOOTER record: place of header and meta, length of its body. */
  readonly footer: Place;
  readonly footerBytes: number;
  /** Segments whose MOVE records it lists, oldest first (more than one after a crash). */
  readonly sources: readonly number[];
  readonly primary: Sum;
  readonly shadow: Sum;
  readonly minFinalMs: number;
  readonly maxFinalMs: number;
  /** How many of its entries need which segment. */
  readonly refs: Map<number, number>;
  /** Offsets of MOVE records whose entries have ended, as `generation:offset`. */
  readonly dead: Set<string>;
  bloom: Bloom | null;
}

export const placeKey = (at: Place): string => `${at[0]}:${at[1]}`;

export class SafetyNetIndex {
  /** Entries in no footer yet, in the order of the log. */
  readonly open = new Map<CopyId, RestingEntry>();
  /** By generation, oldest first. */
  readonly owners = new Map<number, Owner>();
  /** Entries, open or in a footer, that need a segment. */
  readonly refs = new Map<number, number>();
  readonly #sums = { primary: { messages: 0, bytes: 0 }, shadow: { messages: 0, bytes: 0 } };
  #openBytes = 0;
  #openSources = new Set<number>();
  #lastAt: Place = [0, 0, 0];
  /** See `SafetyNetCounts`; null while this database has never said so. */
  #completeSinceMs: number | null = null;

  get completeSinceMs(): number | null {
    return this.#completeSinceMs;
  }

  /** Only later than before. */
  setCompleteSince(ms: number): void {
    this.#completeSinceMs = Math.max(ms, this.#completeSinceMs ?? ms);
  }

  /** The newest MOVE record that ever led to an entry here, or a place behind it. */
  get lastAt(): Place {
    return this.#lastAt;
  }

  add(resting: RestingEntry): void {
    this.open.set(resting.entry.id, resting);
    this.#openBytes += lineBytes(resting);
    this.#lastAt = resting.at;
    this.#openSources.add(resting.at[0]);
    this.#count(resting.entry.role, 1, resting.entry.sizeBytes);
    for (const generation of resting.refs) bump(this.refs, generation, 1);
  }

  /** How an open entry would be ended; null when the id is not among them. */
  openKill(id: CopyId): Kill | null {
    const found = this.open.get(id);
    if (found === undefined) return null;
    const { entry, at, refs } = found;
    return { owner: 0, at, role: entry.role, sizeBytes: entry.sizeBytes, refs };
  }

  kill(id: CopyId, kill: Kill): void {
    if (kill.owner === 0) {
      const found = this.open.get(id);
      if (found === undefined) return;
      this.open.delete(id);
      this.#openBytes -= lineBytes(found);
      // What the entry holds now, not what the record says: recovery may have moved it to another segment.
      const { entry, refs } = found;
      this.#drop(entry.role, entry.sizeBytes, refs);
      return;
    }
    const owner = this.owners.get(kill.owner);
    const key = placeKey(kill.at);
    if (owner === undefined || owner.dead.has(key)) return;
    owner.dead.add(key);
    owner[kill.role].messages -= 1;
    owner[kill.role].bytes -= kill.sizeBytes;
    for (const generation of kill.refs) bump(owner.refs, generation, -1);
    if (owner.primary.messages + owner.shadow.messages === 0) this.owners.delete(kill.owner);
    this.#drop(kill.role, kill.sizeBytes, kill.refs);
  }

  #drop(role: 'primary' | 'shadow', sizeBytes: number, refs: readonly number[]): void {
    this.#count(role, -1, -sizeBytes);
    for (const generation of refs) bump(this.refs, generation, -1);
  }

  /** Upper bound of a FOOTER record for the open entries and `more` bytes of lines of further ones. */
  footerBound(moreEntries: number, moreBytes: number): number {
    const entries = this.open.size + moreEntries;
    return entries === 0 ? 0 : 128 + bloomBytes(entries) + this.#openBytes + moreBytes + 2 * entries;
  }

  /** The open entries are now listed by the footer at `footer`. */
  seal(footer: Place, footerBytes: number, bloom: Bloom | null): void {
    const owner: Owner = {
      generation: footer[0],
      footer,
      footerBytes,
      sources: [...this.#openSources].sort((a, b) => a - b),
      primary: { messages: 0, bytes: 0 },
      shadow: { messages: 0, bytes: 0 },
      ...this.#span(),
      refs: new Map(),
      dead: new Set(),
      bloom,
    };
    for (const resting of this.open.values()) {
      owner[resting.entry.role].messages += 1;
      owner[resting.entry.role].bytes += resting.entry.sizeBytes;
      for (const generation of resting.refs) bump(owner.refs, generation, 1);
    }
    this.open.clear();
    this.#openBytes = 0;
    this.#openSources = new Set();
    this.owners.set(owner.generation, owner);
  }

  /** From a checkpoint. */
  restore(owner: Owner): void {
    this.owners.set(owner.generation, owner);
    this.#lastAt = [owner.generation, Number.MAX_SAFE_INTEGER, 0];
    for (const role of ['primary', 'shadow'] as const) this.#count(role, owner[role].messages, owner[role].bytes);
    for (const [generation, count] of owner.refs) bump(this.refs, generation, count);
  }

  /** Everything the footer of `generation` lists ends. */
  expire(generation: number): number {
    const owner = this.owners.get(generation);
    if (owner === undefined) return 0;
    this.owners.delete(generation);
    for (const role of ['primary', 'shadow'] as const) this.#count(role, -owner[role].messages, -owner[role].bytes);
    for (const [needed, count] of owner.refs) bump(this.refs, needed, -count);
    return owner.primary.messages + owner.shadow.messages;
  }

  /** Whether an entry, or a footer, needs the segment. */
  needs(generation: number): boolean {
    return (this.refs.get(generation) ?? 0) > 0 || this.owners.has(generation);
  }

  /** `oldestMs` is exact up to entries that ended before their segment did. */
  counts(): SafetyNetCounts {
    let oldestMs: number | null = this.open.size > 0 ? this.#span().minFinalMs : null;
    for (const owner of this.owners.values())
      if (oldestMs === null || owner.minFinalMs < oldestMs) oldestMs = owner.minFinalMs;
    const completeSinceMs = this.#completeSinceMs ?? 0;
    return { primary: { ...this.#sums.primary }, shadow: { ...this.#sums.shadow }, oldestMs, completeSinceMs };
  }

  #span(): { readonly minFinalMs: number; readonly maxFinalMs: number } {
    let minFinalMs = Number.MAX_SAFE_INTEGER;
    let maxFinalMs = 0;
    for (const resting of this.open.values()) {
      minFinalMs = Math.min(minFinalMs, resting.entry.finalAtMs);
      maxFinalMs = Math.max(maxFinalMs, resting.entry.finalAtMs);
    }
    return { minFinalMs, maxFinalMs };
  }

  #count(role: 'primary' | 'shadow', messages: number, bytes: number): void {
    this.#sums[role].messages += messages;
    this.#sums[role].bytes += bytes;
  }
}

const lineBytes = (resting: RestingEntry): number => Buffer.byteLength(entryLine(resting));

export function bump(counts: Map<number, number>, key: number, by: number): void {
  const next = (counts.get(key) ?? 0) + by;
  if (next === 0) counts.delete(key);
  else counts.set(key, next);
}
