/**
 * Walks over the Safety Nets in the order in which copies came to rest: footers oldest first, then what is in no footer yet. Owns: the
 * places at which a walk goes on. Promise: a page holds no more than one footer and itself in memory and nothing when it is done; an
 * entry that stays is met exactly once, whatever expires, is shed or moves meanwhile.
 */
import type {
  SafetyNetCopies,
  SafetyNetEntry,
  SafetyNetFilter,
  SafetyNetPage,
  SafetyNetPosition,
  StoredCopy,
} from './database.ts';
import { byPlace, type RestingEntry } from './footer.ts';
import { matches, StoreError } from './live-index.ts';
import type { LogAccess } from './log-access.ts';
import type { LogState } from './log-state.ts';
import type { Place } from './record.ts';
import { type Owner, placeKey } from './safety-net-index.ts';

/** Entries looked at for one page of copies. */
const LOOKED_AT = 20_000;

interface Met {
  readonly resting: RestingEntry;
  /** Null while it is in no footer. */
  readonly owner: Owner | null;
  readonly wanted: boolean;
}

export const positionOf = (at: Place): SafetyNetPosition => `${at[0]}:${at[1]}` as SafetyNetPosition;

export function placeOf(text: SafetyNetPosition): Place {
  const match = /^(\d{1,10}):(\d{1,16})$/.exec(text);
  if (match === null) throw new StoreError('POSITION', `not a place in a Safety Net: ${text}`);
  return [Number(match[1]), Number(match[2]), 0];
}

export class SafetyNetWalk {
  readonly #state: LogState;
  readonly #access: LogAccess;

  constructor(state: LogState, access: LogAccess) {
    this.#state = state;
    this.#access = access;
  }

  async *entries(filter: SafetyNetFilter): AsyncIterable<SafetyNetEntry> {
    for await (const { resting, wanted } of this.#met(filter)) if (wanted) yield resting.entry;
  }

  async page(filter: SafetyNetFilter, limit: number): Promise<SafetyNetPage> {
    const entries: SafetyNetEntry[] = [];
    for await (const { resting, wanted } of this.#met(filter)) {
      if (wanted) entries.push(resting.entry);
      if (entries.length >= limit) return { entries, next: positionOf(resting.at) };
    }
    return { entries, next: null };
  }

  async copies(filter: SafetyNetFilter, limit: number): Promise<SafetyNetCopies> {
    const found: Met[] = [];
    const pinned: number[] = [];
    let next: SafetyNetPosition | null = null;
    let lookedAt = 0;
    try {
      for await (const met of this.#met(filter)) {
        lookedAt += 1;
        if (met.wanted) {
          found.push(met);
          // Neither expiry nor compaction may give a segment away between the entry and its copy.
          for (const generation of met.resting.refs) {
            this.#state.pin(generation);
            pinned.push(generation);
          }
        }
        if (found.length < limit && lookedAt < LOOKED_AT) continue;
        next = positionOf(met.resting.at);
        break;
      }
      const stored = await this.#access.readManyStored(found.map((met) => met.resting));
      const copies: StoredCopy[] = [];
      let unreadable = 0;
      for (const [index, met] of found.entries()) {
        const copy = stored[index] ?? null;
        if (!this.#rests(met)) continue;
        if (copy === null || copy.damaged !== undefined) unreadable += 1;
        else copies.push(copy);
      }
      return { copies, unreadable, next };
    } finally {
      for (const generation of pinned) this.#state.unpin(generation);
    }
  }

  end(): SafetyNetPosition {
    return positionOf(this.#state.net.lastAt);
  }

  /** It may have left the Safety Net while it was read, or be in a footer by now. */
  #rests({ resting, owner }: Met): boolean {
    const { net } = this.#state;
    const { id } = resting.entry;
    const key = placeKey(resting.at);
    if (owner !== null) return net.owners.get(owner.generation) === owner && !owner.dead.has(key);
    const open = net.open.get(id);
    if (open !== undefined) return placeKey(open.at) === key;
    for (const other of net.owners.values())
      if (other.sources.includes(resting.at[0])) return !other.dead.has(key) && !this.#state.index.copies.has(id);
    return false;
  }

  async *#met(filter: SafetyNetFilter): AsyncIterable<Met> {
    const after = filter.after === undefined ? null : placeOf(filter.after);
    const through = filter.through === undefined ? null : placeOf(filter.through);
    const { net } = this.#state;
    const inside = (at: Place): boolean =>
      (after === null || byPlace(at, after) > 0) && (through === null || byPlace(at, through) <= 0);
    // As they are now: what is in no footer yet may be in one before it is reached.
    const open = [...net.open.values()];
    for (const owner of [...net.owners.values()]) {
      if (!mayMatch(owner, filter, after, through) || net.owners.get(owner.generation) !== owner) continue;
      for (const resting of (await this.#access.linesOf(owner)).behind(after)) {
        if (net.owners.get(owner.generation) !== owner) break;
        if (!inside(resting.at) || owner.dead.has(placeKey(resting.at))) continue;
        yield { resting, owner, wanted: matches(resting.entry, filter) };
      }
    }
    for (const resting of open) {
      const met = { resting, owner: null, wanted: matches(resting.entry, filter) };
      if (inside(resting.at) && this.#rests(met)) yield met;
    }
  }
}

/** Whether anything its footer lists can be wanted. */
function mayMatch(owner: Owner, filter: SafetyNetFilter, after: Place | null, through: Place | null): boolean {
  if (owner.maxFinalMs < (filter.fromMs ?? Number.NEGATIVE_INFINITY)) return false;
  if (owner.minFinalMs > (filter.toMs ?? Number.POSITIVE_INFINITY)) return false;
  if (filter.role !== undefined && owner[filter.role].messages === 0) return false;
  const oldest = owner.sources[0] ?? owner.generation;
  const newest = owner.sources[owner.sources.length - 1] ?? owner.generation;
  return (after === null || newest >= after[0]) && (through === null || oldest <= through[0]);
}
