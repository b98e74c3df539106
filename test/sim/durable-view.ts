/**
 * What the volumes hold, by the word of the engines: built from what was handed over and what became durable. Owns: one picture per volume, also of those
 * that are gone, and the invariants that must hold for every single write (protocol.md section 9: S5, S6, S7, S11, S13, rules 8 and 11), whatever the run
 * does next.
 */
import { createHash } from 'node:crypto';
import { type CopyId, compareEpochs, type Epoch, type Identity } from '../../common/message.ts';
import { isFinal, isSuccess } from '../../transport/core/copy.ts';
import type { CopyState, QueueDatabase, Seen, StoredCopy, Tombstone, Write } from '../../transport/store/database.ts';
import { add, idOf, isResting, patched } from './writes.ts';

export interface Volume {
  readonly number: number;
  readonly member: string;
  /** Null until it was opened for the first time. */
  identity: Identity | null;
  chain: readonly { readonly openCounter: number; readonly nonce: string }[];
  live: Map<CopyId, StoredCopy>;
  resting: Map<CopyId, StoredCopy>;
  /** What may rest there: the database was asked, and its process may have ended before it answered. */
  asked: Set<CopyId>;
  tombstones: Map<CopyId, Tombstone>;
  /** By member; what this life was shown. */
  seen: Map<string, Seen>;
  /** Handed over, not yet known to be durable. */
  pending: { readonly mark: number; readonly write: Write }[];
  /** `lost`: destroyed or set aside; nothing of it counts any more. */
  status: 'attached' | 'lost';
  /** What was there when its disk became full for the first time. */
  hadWhenFull: ReadonlySet<CopyId> | null;
  /** Its medium went bad somewhere: what it holds is not known for certain. */
  isDamaged: boolean;
  /** A clone or a restored snapshot, or what was cloned: it may have to be set aside at any moment. */
  isContested: boolean;
}

const heldKey = (id: CopyId, epoch: Epoch, digest: string): string =>
  `${id}/${epoch.try}/${epoch.term}/${epoch.owner}/${digest}`;

/** As the transport derives it (reports.ts `dsnIdOf`): expiry is a failure, `relayed` a success. */
export const dsnIdOf = (id: CopyId, index: number, kind: 'failed' | 'delayed' | 'success'): CopyId =>
  createHash('sha256').update(`${id}/${index}/${kind}`).digest('hex').slice(0, 26).toUpperCase() as CopyId;

export class DurableView {
  readonly volumes: Volume[] = [];
  /** Copies whose finality, or whose abort, was ever durable, and where. */
  readonly finals = new Map<CopyId, Set<Identity>>();
  readonly aborts = new Map<CopyId, Set<Identity>>();
  /** A person wanted another owner for it (publish). */
  readonly redirected = new Set<CopyId>();
  readonly dsns = new Set<CopyId>();
  readonly expired = new Set<`${CopyId}/${number}`>();
  /** Resubmissions by id: who made them first. */
  readonly resubmissions = new Map<CopyId, { readonly stored: StoredCopy; readonly member: string }>();
  /** Copies that were on a volume when it was lost. */
  readonly bereft = new Set<CopyId>();
  /** Promotions: a shadow copy that became its holder's own, and whose it was. */
  readonly promotions: { readonly id: CopyId; readonly by: string; readonly of: Identity }[] = [];
  /** Copy and member: its owner of a higher try by the word of another, for it had lost its own record of that to a power cut. */
  readonly named = new Set<`${CopyId} ${string}`>();
  /** Called with every promotion, for who knows the pods (watch.ts). */
  onPromotion: (id: CopyId, by: string, of: Identity) => void = () => undefined;
  /** Called when the primary of a higher try has its copy durably: a front end's replay (protocol.md 7). */
  onReplay: (id: CopyId, by: string) => void = () => undefined;
  /** Called when a promotion is decided, in the very step. */
  onPromoting: (id: CopyId, by: Volume, of: Identity) => void = () => undefined;
  /** Called when a message is accepted without a shadow, as policy may allow. */
  onAcceptedAlone: (id: CopyId, by: Volume) => void = () => undefined;
  /** Called when an owner makes another member the owner. */
  onGivingUp: (id: CopyId, by: Volume) => void = () => undefined;
  /** Called with everything that is durably held for the first time, and with what an owner decides about its recipients, in the very step. */
  onCommitted: (volume: Volume, stored: StoredCopy) => void = () => undefined;
  onOutcomes: (volume: Volume, before: StoredCopy, after: CopyState) => void = () => undefined;
  /** Called when recipients of a copy are given up for its age. */
  onExpiring: (id: CopyId, by: Volume) => void = () => undefined;
  /** Every (copy, epoch, digest) an identity ever had durably. */
  readonly #had = new Map<Identity, Set<string>>();
  /** Where a copy became final as its owner's. */
  readonly #finishedBy = new Map<CopyId, Set<Identity>>();
  readonly #everHeld = new Map<string, Set<Identity>>();
  readonly #memberOf = new Map<Identity, string>();
  readonly #violate: (line: string) => void;
  readonly #reject: boolean;
  #mark = 0;

  constructor(violate: (line: string) => void, rejectUnprotected: boolean) {
    this.#violate = violate;
    this.#reject = rejectUnprotected;
  }

  newVolume(member: string): Volume {
    const volume: Volume = {
      number: this.volumes.length,
      member,
      identity: null,
      chain: [],
      live: new Map(),
      hadWhenFull: null,
      resting: new Map(),
      asked: new Set(),
      tombstones: new Map(),
      seen: new Map(),
      pending: [],
      status: 'attached',
      isDamaged: false,
      isContested: false,
    };
    this.volumes.push(volume);
    return volume;
  }

  /** What a crash-consistent copy of the volume holds. */
  copyOf(volume: Volume): Volume {
    const copy = this.newVolume(volume.member);
    copy.identity = volume.identity;
    copy.chain = volume.chain;
    copy.live = new Map(volume.live);
    copy.resting = new Map(volume.resting);
    copy.asked = new Set(volume.asked);
    copy.tombstones = new Map(volume.tombstones);
    copy.pending = [...volume.pending];
    copy.isDamaged = volume.isDamaged;
    return copy;
  }

  /** Destroyed or set aside. */
  lose(volume: Volume): void {
    volume.status = 'lost';
    for (const id of [...volume.live.keys(), ...volume.resting.keys(), ...volume.asked]) this.bereft.add(id);
  }

  attached(): Volume[] {
    return this.volumes.filter((volume) => volume.status === 'attached');
  }

  memberOf(identity: Identity): string | undefined {
    return this.#memberOf.get(identity);
  }

  /** Where a copy with these bytes rests or waits now, durably; one entry per identity. */
  holders(id: CopyId, digest?: string): { readonly member: string; readonly stored: StoredCopy; volume: Volume }[] {
    const found = new Map<Identity, { readonly member: string; readonly stored: StoredCopy; volume: Volume }>();
    for (const volume of this.volumes) {
      if (volume.status !== 'attached' || volume.identity === null) continue;
      const stored = volume.live.get(id) ?? volume.resting.get(id);
      if (stored !== undefined && (digest === undefined || stored.facts.digest === digest))
        found.set(volume.identity, { member: volume.member, stored, volume });
    }
    return [...found.values()];
  }

  /** On how many queue databases it ever was durable. */
  everHeld(id: CopyId, digest: string): number {
    return this.#everHeld.get(`${id}/${digest}`)?.size ?? 0;
  }

  /** Nothing that somebody waits for is under way to a disk. */
  get isQuiet(): boolean {
    const counts = new Set(['commit', 'move', 'remove']);
    return this.attached().every((volume) => !volume.pending.some(({ write }) => counts.has(write.kind)));
  }

  isFinal(id: CopyId): boolean {
    return this.finals.has(id);
  }

  /** In transit or held as shadow somewhere: it may still be delivered. */
  liveAnywhere(digest: string): { readonly member: string; readonly stored: StoredCopy; volume: Volume }[] {
    const found = [];
    for (const volume of this.attached())
      for (const stored of volume.live.values())
        if (stored.facts.digest === digest) found.push({ member: volume.member, stored, volume });
    return found;
  }

  // --- one life of an engine -----------------------------------------------------------------------------------------

  /**
   * S11: what was durable is there, unless something handed over later took it away and reached the disk before the end. Answers with what may rest there or
   * not: the database has to be asked (`answered`).
   */
  opened(volume: Volume, database: QueueDatabase): readonly CopyId[] {
    const { identity, recovered } = database;
    const isFirst = volume.identity === null;
    if (!isFirst && volume.identity !== identity)
      this.#violate(`S6: ${volume.member} opened a volume of ${volume.identity} as ${identity}`);
    volume.identity = identity;
    volume.chain = database.chain;
    this.#memberOf.set(identity, volume.member);
    const live = new Map(recovered.copies.map((stored) => [stored.facts.id, stored]));
    if (!volume.isDamaged)
      for (const found of recovered.quarantined)
        this.#violate(
          `S11: ${volume.member} quarantined ${found.id ?? 'a record'} although no medium was damaged: ${found.reason}`,
        );
    for (const [id, stored] of volume.live) {
      if (live.has(id)) continue;
      const later = volume.pending.map((entry) => entry.write).filter((write) => idOf(write) === id);
      const moved = later.find((write) => write.kind === 'move');
      if (moved?.kind === 'move') {
        volume.resting.set(id, { facts: stored.facts, state: moved.state });
        add(this.finals, id, identity);
      } else if (!later.some((write) => write.kind === 'remove') && !volume.isDamaged)
        this.#violate(`S11: ${volume.member} lost ${id}, which was durable in ${stored.state.queue}`);
      else if (volume.isDamaged) this.bereft.add(id);
    }
    volume.live = live;
    const forgotten = new Set(volume.pending.flatMap(({ write }) => (write.kind === 'forget' ? [write.id] : [])));
    const unsure = new Set<CopyId>([...volume.asked, ...(volume.isDamaged ? volume.resting.keys() : [])]);
    for (const { write } of volume.pending) {
      const id = idOf(write);
      if (id !== null && write.kind !== 'state' && write.kind !== 'move') unsure.add(id);
    }
    for (const id of [...unsure, ...live.keys()]) volume.resting.delete(id);
    volume.pending = [];
    volume.seen = new Map(recovered.seen.map((seen) => [seen.member, seen]));
    this.#tombstonesAreKept(volume, recovered.tombstones, forgotten);
    for (const tombstone of recovered.tombstones) this.#tombstone(volume, tombstone);
    for (const stored of recovered.copies) {
      if (stored.facts.kind === 'dsn') this.dsns.add(stored.facts.id);
      this.#remember(volume, stored);
      this.onCommitted(volume, stored);
    }
    volume.asked = new Set([...unsure].filter((id) => !live.has(id)));
    return [...volume.asked];
  }

  /** By the word of the database; null: it does not rest there in a way that helps anybody. */
  answered(volume: Volume, id: CopyId, stored: StoredCopy | null): void {
    volume.asked.delete(id);
    if (volume.live.has(id)) return;
    if (stored === null || stored.damaged !== undefined) {
      if (volume.isDamaged) this.bereft.add(id);
      return;
    }
    volume.resting.set(stored.facts.id, stored);
    this.#remember(volume, stored);
  }

  handed(volume: Volume, writes: readonly Write[]): number {
    this.#mark += 1;
    for (const write of writes) {
      volume.pending.push({ mark: this.#mark, write });
      // A recall is the first half of a change at rest.
      if ('state' in write && write.kind !== 'recall')
        this.#placementsAreTrue(volume, idOf(write) as CopyId, write.state);
      if (write.kind === 'seen') this.#seenGrows(volume, write.seen);
      if (write.kind === 'state') this.#decided(volume, write);
      const moved = write.kind === 'move' ? volume.live.get(write.id) : undefined;
      if (write.kind === 'move' && moved !== undefined) this.onOutcomes(volume, moved, write.state);
    }
    return this.#mark;
  }

  #decided(volume: Volume, write: Extract<Write, { readonly kind: 'state' }>): void {
    const durable = volume.live.get(write.id);
    if (durable === undefined) return;
    // What was decided before, and is still on its way to the disk, was judged then (seeds 4919 smtp, 6632).
    const state = volume.pending.reduce(
      (sum, { write: one }) => (one !== write && one.kind === 'state' && one.id === write.id ? patched(sum, one) : sum),
      durable.state,
    );
    const before = { ...durable, state };
    const after = patched(state, write);
    this.onOutcomes(volume, before, after);
    const { owner } = after.epoch;
    if (state.queue === 'shadow' && owner === volume.identity && after.epoch.try === state.epoch.try)
      this.onPromoting(write.id, volume, state.epoch.owner);
    if (state.unprotected === null && after.unprotected !== null) this.onAcceptedAlone(write.id, volume);
    if (state.epoch.owner === volume.identity && owner !== volume.identity) this.onGivingUp(write.id, volume);
    const expired = (recipients: CopyState['recipients']): number[] =>
      (recipients ?? []).flatMap(({ outcome }, index) => (outcome === 'expired' ? [index] : []));
    const now = expired(after.recipients);
    for (const index of now) this.expired.add(`${write.id}/${index}`);
    if (owner === volume.identity && now.length > expired(state.recipients).length) this.onExpiring(write.id, volume);
  }

  durable(volume: Volume, mark: number): void {
    const done = volume.pending.filter((entry) => entry.mark <= mark);
    volume.pending = volume.pending.filter((entry) => entry.mark > mark);
    for (const { write } of done) this.#apply(volume, write);
  }

  #apply(volume: Volume, write: Write): void {
    switch (write.kind) {
      case 'commit':
        return this.#committed(volume, { facts: write.facts, state: write.state });
      case 'state': {
        const before = volume.live.get(write.id);
        if (before === undefined) return;
        const stored = { facts: before.facts, state: patched(before.state, write) };
        this.#epochGrows(volume, before, stored);
        volume.live.set(write.id, stored);
        this.#remember(volume, stored);
        this.#announcedIsSafe(volume, before, stored);
        return;
      }
      case 'move': {
        const before = volume.live.get(write.id);
        volume.live.delete(write.id);
        if (before !== undefined) {
          const stored = { facts: before.facts, state: write.state };
          volume.resting.set(write.id, stored);
          this.#remember(volume, stored);
        }
        this.#left(volume, before, 'moved to a Safety Net');
        if (volume.identity === null) return;
        add(this.finals, write.id, volume.identity);
        if (write.state.queue === 'primarySafetyNet') add(this.#finishedBy, write.id, volume.identity);
        return;
      }
      case 'recall': {
        const before = volume.resting.get(write.id);
        volume.resting.delete(write.id);
        if (before !== undefined) volume.live.set(write.id, { facts: before.facts, state: write.state });
        return;
      }
      case 'remove':
        return this.#removed(volume, write.id);
      case 'tombstone':
        return this.#tombstone(volume, write.tombstone);
      case 'forget':
        volume.tombstones.delete(write.id);
        return;
      default:
        return;
    }
  }

  #committed(volume: Volume, stored: StoredCopy): void {
    const { id, kind, digest } = stored.facts;
    const { epoch } = stored.state;
    if (epoch.try > 1 && epoch.owner === volume.identity && !isResting(stored.state)) this.onReplay(id, volume.member);
    const before = volume.live.get(id);
    if (before?.state.queue === 'shadow' && before.facts.digest !== digest && kind !== 'dsn')
      this.#violate(`S5: ${volume.member} replaced the shadow copy of ${id} by other bytes`);
    // What rests leaves by expiry, a drain or a person, or it is mended: a copy in transit with its id would end where that one ends.
    const rested = volume.resting.get(id);
    if (rested !== undefined && !isResting(stored.state) && !volume.isDamaged)
      this.#violate(`N1: ${volume.member} put a copy in transit in the place of ${id} in ${rested.state.queue}`);
    volume.live.delete(id);
    volume.resting.delete(id);
    (isResting(stored.state) ? volume.resting : volume.live).set(id, stored);
    if (isResting(stored.state) && volume.identity !== null) add(this.finals, id, volume.identity);
    if (kind === 'dsn') this.dsns.add(id);
    if (kind === 'resubmission' && !this.resubmissions.has(id))
      this.resubmissions.set(id, { stored, member: volume.member });
    this.#remember(volume, stored);
    this.onCommitted(volume, stored);
  }

  #removed(volume: Volume, id: CopyId): void {
    const before = volume.live.get(id);
    volume.live.delete(id);
    this.#left(volume, before, 'was removed');
    if (before?.state.queue !== 'shadow' && before?.state.recipients?.every(isFinal) && volume.identity !== null)
      add(this.finals, id, volume.identity);
    const rested = volume.resting.get(id);
    volume.resting.delete(id);
    // S13: who empties itself leaves as many copies behind as there were, and two where it can.
    if (rested === undefined || before !== undefined) return;
    const others = this.holders(id).filter((holder) => holder.volume !== volume).length;
    if (others < 2 && !this.bereft.has(id) && this.everHeld(id, rested.facts.digest) >= 2)
      this.#violate(`S13: ${volume.member} gave ${id} up in ${rested.state.queue} while ${others} others held it`);
  }

  #tombstone(volume: Volume, tombstone: Tombstone): void {
    volume.tombstones.set(tombstone.id, tombstone);
    if (volume.identity !== null)
      add(tombstone.kind === 'final' ? this.finals : this.aborts, tombstone.id, volume.identity);
  }

  #remember(volume: Volume, stored: StoredCopy): void {
    const { identity } = volume;
    if (identity === null) return;
    const had = this.#had.get(identity) ?? new Set<string>();
    had.add(heldKey(stored.facts.id, stored.state.epoch, stored.facts.digest));
    this.#had.set(identity, had);
    const key = `${stored.facts.id}/${stored.facts.digest}`;
    const ever = this.#everHeld.get(key) ?? new Set<Identity>();
    ever.add(identity);
    this.#everHeld.set(key, ever);
  }

  /** Rules 9 and 26: what was durably refused or final is remembered until it is durably forgotten. */
  #tombstonesAreKept(volume: Volume, found: readonly Tombstone[], forgotten: ReadonlySet<CopyId>): void {
    const there = new Set(found.map(({ id }) => id));
    for (const [id, { kind }] of volume.tombstones)
      if (!there.has(id) && !forgotten.has(id) && !volume.isDamaged)
        this.#violate(`S11: ${volume.member} lost the tombstone (${kind}) of ${id}`);
    volume.tombstones = new Map();
  }

  // --- invariants ----------------------------------------------------------------------------------------------------

  /** S7: owner epochs only grow; a promotion is noted with whose copy it was. */
  #epochGrows(volume: Volume, before: StoredCopy, after: StoredCopy): void {
    const { id } = before.facts;
    if (compareEpochs(after.state.epoch, before.state.epoch) < 0)
      this.#violate(`S7: the epoch of ${id} on ${volume.member} went back`);
    const isSameTry = after.state.epoch.try === before.state.epoch.try;
    if (before.state.queue !== 'shadow' || after.state.epoch.owner !== volume.identity) return;
    if (!isSameTry) return void this.named.add(`${id} ${volume.member}`);
    this.promotions.push({ id, by: volume.member, of: before.state.epoch.owner });
    this.onPromotion(id, volume.member, before.state.epoch.owner);
  }

  /** S6: no life of a database is accepted after a later one, nor one whose log ends before what it had said. */
  #seenGrows(volume: Volume, seen: Seen): void {
    const before = volume.seen.get(seen.member);
    volume.seen.set(seen.member, seen);
    if (before === undefined || before.identity !== seen.identity) return;
    const isOlder =
      seen.openCounter < before.openCounter ||
      (seen.openCounter === before.openCounter && seen.nonce !== before.nonce) ||
      seen.syncedSequence < before.syncedSequence;
    if (isOlder)
      this.#violate(
        `S6: ${volume.member} accepted ${seen.member} at open ${seen.openCounter}, sequence ${seen.syncedSequence} after open ${before.openCounter}, sequence ${before.syncedSequence}`,
      );
  }

  /**
   * S5: a shadow copy leaves `shadow` only by final, aborted or released (or re-parented, promoted: those keep it), durable at whom it was told of by. A
   * release leaves two others.
   */
  #left(volume: Volume, before: StoredCopy | undefined, how: string): void {
    if (before?.state.queue !== 'shadow') return;
    const { id } = before.facts;
    const elsewhere = (where: ReadonlySet<Identity> | undefined): boolean =>
      [...(where ?? [])].some((other) => other !== volume.identity);
    const isAborted = before.state.standing === 'intake' && elsewhere(this.aborts.get(id));
    // It may have finished it itself, before a higher try came.
    const wasMine = volume.identity !== null && this.#finishedBy.get(id)?.has(volume.identity) === true;
    if (wasMine || elsewhere(this.finals.get(id)) || (how === 'was removed' && isAborted)) return;
    const others = this.holders(id, before.facts.digest).filter((holder) => holder.volume !== volume).length;
    const raised = this.#holdersAbove(volume, before);
    // A RELEASE follows the confirmation of another holder at the raised epoch (protocol.md 9).
    if (how === 'was removed' && (this.bereft.has(id) ? others >= 1 : raised >= 2)) return;
    this.#violate(
      `S5: the shadow copy of ${id} on ${volume.member} ${how}, but nobody has durably finished or aborted it, and ${others} others hold it, ${raised} of them at a raised epoch`,
    );
  }

  /** Other databases that have it at a higher epoch; of two incarnations of one database either may be the one that confirmed. */
  #holdersAbove(volume: Volume, { facts, state }: StoredCopy): number {
    const found = new Set<Identity | null>();
    for (const other of this.attached()) {
      const theirs = other.live.get(facts.id) ?? other.resting.get(facts.id);
      const isSame = other !== volume && theirs?.facts.digest === facts.digest;
      if (isSame && compareEpochs(theirs.state.epoch, state.epoch) > 0) found.add(other.identity);
    }
    return found.size;
  }

  /**
   * Rule 8: a confirmed placement names a database that durably had this copy at this epoch with these bytes; the home of what rests, one that durably had the
   * bytes, under whatever owner.
   */
  #placementsAreTrue(volume: Volume, id: CopyId, state: CopyState): void {
    const mine = volume.pending.findLast(
      (entry) => entry.write.kind === 'commit' && entry.write.facts.id === id,
    )?.write;
    const digest =
      mine?.kind === 'commit' ? mine.facts.digest : (volume.live.get(id) ?? volume.resting.get(id))?.facts.digest;
    // All zeros: the record itself is damaged, and whatever rests under this id is asked for (protocol.md 29).
    if (digest === undefined || /^0+$/.test(digest)) return;
    for (const placement of state.placements) {
      if (placement.status !== 'confirmed' || compareEpochs(placement.epoch, state.epoch) !== 0) continue;
      const isHeld = isResting(state)
        ? this.#everHeld.get(`${id}/${digest}`)?.has(placement.identity)
        : this.#had.get(placement.identity)?.has(heldKey(id, placement.epoch, digest));
      if (isHeld !== true)
        this.#violate(
          `rule 8: ${volume.member} counts on ${placement.member} for ${id}, which never durably held it at that epoch with those bytes`,
        );
    }
  }

  /** Rule 11: a failure, or a success that is to be reported, is announced once its DSN rests on two databases, is final, or policy accepts it alone. */
  #announcedIsSafe(volume: Volume, before: StoredCopy, after: StoredCopy): void {
    if (!this.#reject || after.facts.kind !== 'message' || after.facts.envelope.reversePath === '') return;
    if (after.state.queue === 'shadow') return;
    for (const [index, recipient] of (after.state.recipients ?? []).entries()) {
      if (recipient.announced !== true || before.state.recipients?.[index]?.announced === true) continue;
      const kind = isSuccess(recipient) ? 'success' : 'failed';
      const dsn = dsnIdOf(after.facts.id, index, kind);
      const held = this.holders(dsn).length;
      if (held < 2 && !this.finals.has(dsn) && !this.bereft.has(dsn))
        this.#violate(
          `rule 11: ${volume.member} announced the end (${kind}) of ${recipient.address} in ${after.facts.id} with ${held} copies of its DSN`,
        );
    }
  }
}
