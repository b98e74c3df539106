/**
 * Everything the segment log knows in memory. Owns: what one record changes (the same code when it is written and when it is replayed)
 * and which segments are still needed for a body, an entry or a footer. Touches no disk.
 */
import type { CopyId } from '../../common/message.ts';
import { type BodyPlace, bodyPlace, segmentsOf } from './body-place.ts';
import { Compactor } from './compact.ts';
import type { CopyFacts, CopyState, KnownOfLost, Quarantined, StoredCopy } from './database.ts';
import { inSafetyNet, LiveIndex, nextState, safetyNetEntry } from './live-index.ts';
import type { LogRecord } from './log-record.ts';
import { NO_MUTANTS } from './mutants.ts';
import type { Place } from './record.ts';
import { bump, SafetyNetIndex } from './safety-net-index.ts';

/** Facts that stay open while a log is replayed: many are gone a little later in the log. */
const UNPACKED = 1_000;

export class LogState {
  readonly index = new LiveIndex<BodyPlace>();
  readonly net = new SafetyNetIndex();
  /** For what is read from the disk; what is written is shared with whoever wrote it. */
  readonly compactor = new Compactor();
  /** Facts of records that were read from the disk, open yet. */
  readonly #replayed: CopyFacts[] = [];
  /** Copies in transit that need a segment. */
  readonly liveRefs = new Map<number, number>();
  /** Bodies being written, readers, checkpoints: reasons to keep a segment that no record shows. */
  readonly pins = new Map<number, number>();
  liveBytes = 0;
  /** Segments that bodies in quarantine lie in: what comes to rest of such a copy needs them, or nobody would find it damaged there. */
  readonly #ofDamaged = new Map<CopyId, readonly number[]>();
  /** Empty but in the simulator. */
  mutants = NO_MUTANTS;
  /** The copy was written anew, or removed: what was damaged of it counts no longer. */
  onLifted: (id: CopyId) => void = () => undefined;

  needs(generation: number): boolean {
    return this.liveRefs.has(generation) || this.pins.has(generation) || this.net.needs(generation);
  }

  pin(generation: number): void {
    bump(this.pins, generation, 1);
  }

  unpin(generation: number): void {
    bump(this.pins, generation, -1);
  }

  /** A record read from the disk. */
  replay(record: LogRecord, at: Place): void {
    const { compactor } = this;
    if (record.kind === 'commit' || record.kind === 'recall')
      this.apply({ ...record, facts: this.#held(record.facts), state: compactor.state(record.state) }, at);
    else if (record.kind === 'state') this.apply({ ...record, state: compactor.state(record.state) }, at);
    else this.apply(record, at);
  }

  #held(facts: CopyFacts): CopyFacts {
    const held = this.compactor.hold(facts);
    this.#replayed.push(held);
    if (this.#replayed.length >= UNPACKED) this.packReplayed();
    return held;
  }

  /** What was replayed and is still there is packed. */
  packReplayed(): void {
    const { copies } = this.index;
    this.compactor.pack(this.#replayed.splice(0).filter((facts) => copies.get(facts.id)?.facts === facts));
  }

  apply(record: LogRecord, at: Place): void {
    switch (record.kind) {
      case 'commit':
      case 'recall':
        if (record.kind === 'commit') this.#lift(record.facts.id);
        this.#release(record.facts.id);
        if (record.kill !== null) this.net.kill(record.facts.id, record.kill);
        this.#hold({ facts: record.facts, state: record.state, body: bodyPlace(at, record.extents) });
        return;
      case 'state':
        if (this.index.copies.has(record.id)) this.index.setState(record.id, record.state, record.outcomes);
        else this.#stateOfLost(record, at);
        return;
      case 'move':
        this.#move(record, at);
        return;
      case 'remove':
        this.#lift(record.id);
        this.#release(record.id);
        if (record.kill !== null) this.net.kill(record.id, record.kill);
        this.index.remove(record.id);
        return;
      case 'expire':
        for (const owner of record.owners) this.net.expire(owner);
        if (record.completeSinceMs !== null) this.net.setCompleteSince(record.completeSinceMs);
        return;
      default:
        this.index.applySmall(record);
    }
  }

  /** From a checkpoint, or a commit: the copy is in transit. */
  #hold(copy: { readonly facts: CopyFacts; readonly state: CopyState; readonly body: BodyPlace }): void {
    this.index.put(copy);
    this.liveBytes += copy.facts.sizeBytes;
    for (const generation of segmentsOf(copy.body)) bump(this.liveRefs, generation, 1);
  }

  restoreCopy({ facts, state }: StoredCopy, body: BodyPlace): void {
    this.#hold({ facts, state, body });
  }

  /** A copy whose bytes are damaged: it is no longer in transit, what is known of it is remembered. */
  quarantine(id: CopyId, segment: string, offset: number, reason: string): Quarantined {
    const copy = this.index.copies.get(id);
    if (copy !== undefined) this.#ofDamaged.set(id, segmentsOf(copy.body));
    this.#release(id);
    this.index.copies.delete(id);
    const known: KnownOfLost | undefined = copy && {
      digest: copy.facts.digest,
      facts: copy.facts,
      state: copy.state,
    };
    const item: Quarantined = { id, segment, offset, reason, ...(known && { known }) };
    this.index.quarantined.set(id, item);
    return item;
  }

  /** Replay only: nobody writes the state of a copy that is not there, so its COMMIT record is what was damaged. */
  #stateOfLost(record: Extract<LogRecord, { kind: 'state' }>, at: Place): void {
    const { id } = record;
    const reason = 'the COMMIT record is damaged';
    const lost = this.index.quarantined.get(id) ?? { id, segment: `generation ${at[0]}`, offset: at[1], reason };
    const before = lost.known?.state ?? null;
    const state = before === null ? record.state : nextState(before, record.state, record.outcomes);
    const known = { digest: lost.known?.digest ?? null, facts: lost.known?.facts ?? null, state };
    this.index.quarantined.set(id, { ...lost, known });
  }

  #lift(id: CopyId): void {
    this.index.quarantined.delete(id);
    this.#ofDamaged.delete(id);
    this.onLifted(id);
  }

  #release(id: CopyId): void {
    const copy = this.index.copies.get(id);
    if (copy === undefined) return;
    this.liveBytes -= copy.facts.sizeBytes;
    for (const generation of segmentsOf(copy.body)) bump(this.liveRefs, generation, -1);
  }

  #move(record: Extract<LogRecord, { kind: 'move' }>, at: Place): void {
    const { id, state, brief } = record;
    const copy = this.index.copies.get(id);
    // What is damaged of a copy at rest is found again when somebody reads it.
    this.index.quarantined.delete(id);
    const ofDamaged = this.#ofDamaged.get(id) ?? [];
    this.#ofDamaged.delete(id);
    if (copy === undefined) {
      // Replay only: its COMMIT record or its body is damaged, yet it was final: the MOVE record answers for it.
      if (brief === null || !inSafetyNet(state.queue)) return;
      const refs = [...new Set([record.commitAt[0], at[0], ...ofDamaged])];
      this.net.add({ entry: safetyNetEntry({ id, sizeBytes: brief.sizeBytes }, state), at, refs });
      return;
    }
    this.#release(id);
    this.index.copies.delete(id);
    const refs = new Set(segmentsOf(copy.body));
    refs.add(at[0]);
    if (inSafetyNet(state.queue)) this.net.add({ entry: safetyNetEntry(copy.facts, state), at, refs: [...refs] });
  }
}
