/**
 * Everything the segment log knows in memory. Owns: what one record changes (the same code when it is written and when it is replayed)
 * and which segments are still needed for a body, an entry or a footer. Touches no disk.
 */
import type { CopyId } from '../../common/message.ts';
import { inSafetyNet, LiveIndex, nextState, safetyNetEntry } from './live-index.ts';
import type { LogRecord } from './log-record.ts';
import type { Extent, Place } from './record.ts';
import { bump, SafetyNetIndex } from './safety-net-index.ts';

export interface BodyPlace {
  readonly extents: readonly Extent[];
  /** The record that carries facts and extents. */
  readonly at: Place;
}

/** Segments a body lies in, its COMMIT record included. */
export function segmentsOf(body: BodyPlace): readonly number[] {
  const last = body.extents[body.extents.length - 1];
  if (last === undefined || (body.extents.length === 1 && last[0] === body.at[0])) return [body.at[0]];
  const all = new Set<number>([body.at[0]]);
  for (const extent of body.extents) all.add(extent[0]);
  return [...all];
}

export class LogState {
  readonly index = new LiveIndex<BodyPlace>();
  readonly net = new SafetyNetIndex();
  /** Copies in transit that need a segment. */
  readonly liveRefs = new Map<number, number>();
  /** Bodies being written, readers, checkpoints: reasons to keep a segment that no record shows. */
  readonly pins = new Map<number, number>();
  liveBytes = 0;

  needs(generation: number): boolean {
    return this.liveRefs.has(generation) || this.pins.has(generation) || this.net.needs(generation);
  }

  pin(generation: number): void {
    bump(this.pins, generation, 1);
  }

  unpin(generation: number): void {
    bump(this.pins, generation, -1);
  }

  apply(record: LogRecord, at: Place): void {
    switch (record.kind) {
      case 'commit':
      case 'recall':
        this.#release(record.facts.id);
        if (record.kill !== null) this.net.kill(record.facts.id, record.kill);
        this.#hold({ facts: record.facts, state: record.state, body: { extents: record.extents, at } });
        return;
      case 'state':
        this.index.setState(record.id, record.state, record.outcomes);
        return;
      case 'move':
        this.#move(record, at);
        return;
      case 'remove':
        this.#release(record.id);
        if (record.kill !== null) this.net.kill(record.id, record.kill);
        this.index.remove(record.id);
        return;
      case 'expire':
        for (const owner of record.owners) this.net.expire(owner);
        return;
      default:
        this.index.applySmall(record);
    }
  }

  /** From a checkpoint, or a commit: the copy is in transit. */
  #hold(copy: { readonly facts: LiveFacts; readonly state: LiveState; readonly body: BodyPlace }): void {
    this.index.put(copy);
    this.liveBytes += copy.facts.sizeBytes;
    for (const generation of segmentsOf(copy.body)) bump(this.liveRefs, generation, 1);
  }

  restoreCopy(facts: LiveFacts, state: LiveState, body: BodyPlace): void {
    this.#hold({ facts, state, body });
  }

  /** A copy whose bytes are damaged: it is no longer listed, its id is remembered. */
  quarantine(id: CopyId, segment: string, offset: number, reason: string): void {
    this.#release(id);
    this.index.copies.delete(id);
    this.index.quarantined.set(id, { id, segment, offset, reason });
  }

  #release(id: CopyId): void {
    const copy = this.index.copies.get(id);
    if (copy === undefined) return;
    this.liveBytes -= copy.facts.sizeBytes;
    for (const generation of segmentsOf(copy.body)) bump(this.liveRefs, generation, -1);
  }

  #move(record: Extract<LogRecord, { kind: 'move' }>, at: Place): void {
    const copy = this.index.copies.get(record.id);
    if (copy === undefined) return;
    this.#release(record.id);
    this.index.copies.delete(record.id);
    const refs = new Set(segmentsOf(copy.body));
    refs.add(at[0]);
    const state = nextState(copy.state, record.state, undefined);
    if (inSafetyNet(state.queue)) this.net.add({ entry: safetyNetEntry(copy.facts, state), at, refs: [...refs] });
  }
}

type LiveFacts = Extract<LogRecord, { kind: 'commit' | 'recall' }>['facts'];
type LiveState = Extract<LogRecord, { kind: 'commit' | 'recall' }>['state'];
