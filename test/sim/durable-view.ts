/**
 * What the disks hold, by the word of the engines: one view per queue database, built from what was handed over and what became durable. Owns: the
 * invariants that must hold for every single write (protocol.md section 9: S5, S11, rules 8 and 11), whatever the run does next.
 */
import { createHash } from 'node:crypto';
import { type CopyId, compareEpochs, type Epoch, type Identity } from '../../common/message.ts';
import { isFinal, isSuccess } from '../../transport/core/copy.ts';
import type { CopyState, Recovered, StoredCopy, Tombstone, Write } from '../../transport/store/database.ts';

interface Disk {
  readonly member: string;
  live: Map<CopyId, StoredCopy>;
  readonly resting: Map<CopyId, StoredCopy>;
  readonly tombstones: Map<CopyId, Tombstone>;
  /** Handed over, not yet known to be durable. */
  pending: { readonly mark: number; readonly write: Write }[];
}

const heldKey = (id: CopyId, epoch: Epoch, digest: string): string =>
  `${id}/${epoch.try}/${epoch.term}/${epoch.owner}/${digest}`;

/** As the transport derives it (delivery.ts `dsnIdOf`). */
export const dsnIdOf = (id: CopyId, index: number, kind: string): CopyId =>
  createHash('sha256').update(`${id}/${index}/${kind}`).digest('hex').slice(0, 26).toUpperCase() as CopyId;

export class DurableView {
  readonly disks = new Map<Identity, Disk>();
  /** Copies whose finality, or whose abort, was ever durable, and where. */
  readonly finals = new Map<CopyId, Set<Identity>>();
  readonly aborts = new Map<CopyId, Set<Identity>>();
  readonly dsns = new Set<CopyId>();
  /** Every (copy, epoch, digest) an identity ever had durably. */
  readonly #had = new Map<Identity, Set<string>>();
  readonly #violate: (line: string) => void;
  readonly #reject: boolean;
  #mark = 0;

  constructor(violate: (line: string) => void, rejectUnprotected: boolean) {
    this.#violate = violate;
    this.#reject = rejectUnprotected;
  }

  /** Where a copy with these bytes rests or waits now, durably. */
  holders(id: CopyId, digest?: string): { readonly member: string; readonly stored: StoredCopy }[] {
    const found = [];
    for (const disk of this.disks.values()) {
      const stored = disk.live.get(id) ?? disk.resting.get(id);
      if (stored !== undefined && (digest === undefined || stored.facts.digest === digest))
        found.push({ member: disk.member, stored });
    }
    return found;
  }

  /** Nothing that somebody waits for is under way to a disk. */
  get isQuiet(): boolean {
    const counts = new Set(['commit', 'move', 'remove']);
    for (const disk of this.disks.values()) if (disk.pending.some(({ write }) => counts.has(write.kind))) return false;
    return true;
  }

  isFinal(id: CopyId): boolean {
    return this.finals.has(id);
  }

  /** In transit or held as shadow somewhere: it may still be delivered. */
  liveAnywhere(digest: string): { readonly member: string; readonly stored: StoredCopy }[] {
    const found = [];
    for (const disk of this.disks.values())
      for (const stored of disk.live.values())
        if (stored.facts.digest === digest) found.push({ member: disk.member, stored });
    return found;
  }

  // --- one life of an engine -----------------------------------------------------------------------------------------

  /** S11: what was durable is there, unless something handed over later took it away and reached the disk before the end. */
  recovered(member: string, identity: Identity, recovered: Recovered): void {
    const before = this.disks.get(identity);
    const live = new Map(recovered.copies.map((stored) => [stored.facts.id, stored]));
    const disk: Disk = before ?? { member, live, resting: new Map(), tombstones: new Map(), pending: [] };
    this.disks.set(identity, disk);
    for (const found of recovered.quarantined)
      this.#violate(
        `S11: ${member} quarantined ${found.id ?? 'a record'} although no medium was damaged: ${found.reason}`,
      );
    for (const [id, stored] of before?.live ?? []) {
      if (live.has(id)) continue;
      const later = disk.pending.map((entry) => entry.write).filter((write) => idOf(write) === id);
      const moved = later.find((write) => write.kind === 'move');
      if (moved?.kind === 'move') {
        disk.resting.set(id, { facts: stored.facts, state: moved.state });
        add(this.finals, id, identity);
      } else if (!later.some((write) => write.kind === 'remove'))
        this.#violate(`S11: ${member} lost ${id}, which was durable in ${stored.state.queue}`);
    }
    disk.live = live;
    disk.pending = [];
    for (const tombstone of recovered.tombstones) this.#tombstone(identity, disk, tombstone);
    for (const stored of recovered.copies) {
      if (stored.facts.kind === 'dsn') this.dsns.add(stored.facts.id);
      this.#remember(identity, stored);
    }
  }

  handed(identity: Identity, writes: readonly Write[]): number {
    const disk = this.disks.get(identity);
    this.#mark += 1;
    for (const write of writes) {
      disk?.pending.push({ mark: this.#mark, write });
      if (write.kind === 'state' || write.kind === 'commit')
        this.#placementsAreTrue(identity, write.kind === 'state' ? write.id : write.facts.id, write.state);
    }
    return this.#mark;
  }

  durable(identity: Identity, mark: number): void {
    const disk = this.disks.get(identity);
    if (disk === undefined) return;
    const done = disk.pending.filter((entry) => entry.mark <= mark);
    disk.pending = disk.pending.filter((entry) => entry.mark > mark);
    for (const { write } of done) this.#apply(identity, disk, write);
  }

  #apply(identity: Identity, disk: Disk, write: Write): void {
    switch (write.kind) {
      case 'commit': {
        const before = disk.live.get(write.facts.id);
        const stored = { facts: write.facts, state: write.state };
        if (
          before?.state.queue === 'shadow' &&
          before.facts.digest !== write.facts.digest &&
          before.facts.kind !== 'dsn'
        )
          this.#violate(`S5: ${disk.member} replaced the shadow copy of ${write.facts.id} by other bytes`);
        disk.live.set(write.facts.id, stored);
        if (write.facts.kind === 'dsn') this.dsns.add(write.facts.id);
        this.#remember(identity, stored);
        return;
      }
      case 'state': {
        const before = disk.live.get(write.id);
        if (before === undefined) return;
        const stored = { facts: before.facts, state: write.state };
        disk.live.set(write.id, stored);
        this.#remember(identity, stored);
        this.#announcedIsSafe(disk, before, stored);
        return;
      }
      case 'move': {
        const before = disk.live.get(write.id);
        disk.live.delete(write.id);
        if (before !== undefined) disk.resting.set(write.id, { facts: before.facts, state: write.state });
        this.#left(identity, disk, before, 'moved to a Safety Net');
        add(this.finals, write.id, identity);
        return;
      }
      case 'remove': {
        const before = disk.live.get(write.id);
        disk.live.delete(write.id);
        this.#left(identity, disk, before, 'was removed');
        if (before?.state.queue !== 'shadow' && before?.state.recipients?.every(isFinal))
          add(this.finals, write.id, identity);
        return;
      }
      case 'tombstone':
        return this.#tombstone(identity, disk, write.tombstone);
      case 'forget':
        disk.tombstones.delete(write.id);
        return;
      default:
        return;
    }
  }

  #tombstone(identity: Identity, disk: Disk, tombstone: Tombstone): void {
    disk.tombstones.set(tombstone.id, tombstone);
    add(tombstone.kind === 'final' ? this.finals : this.aborts, tombstone.id, identity);
  }

  #remember(identity: Identity, stored: StoredCopy): void {
    const had = this.#had.get(identity) ?? new Set<string>();
    had.add(heldKey(stored.facts.id, stored.state.epoch, stored.facts.digest));
    this.#had.set(identity, had);
  }

  // --- invariants ----------------------------------------------------------------------------------------------------

  /** S5: a shadow copy leaves `shadow` only by final, aborted (or re-parented, promoted: those keep it), durable at whom it was told of by. */
  #left(identity: Identity, disk: Disk, before: StoredCopy | undefined, how: string): void {
    if (before?.state.queue !== 'shadow') return;
    const { id } = before.facts;
    const elsewhere = (where: ReadonlySet<Identity> | undefined): boolean =>
      [...(where ?? [])].some((other) => other !== identity);
    const isAborted = before.state.standing === 'intake' && elsewhere(this.aborts.get(id));
    if (!elsewhere(this.finals.get(id)) && !(how === 'was removed' && isAborted))
      this.#violate(
        `S5: the shadow copy of ${id} on ${disk.member} ${how}, but nobody has durably finished or aborted it`,
      );
  }

  /** Rule 8: a confirmed placement names a database that durably had this copy at this epoch with these bytes. */
  #placementsAreTrue(identity: Identity, id: CopyId, state: CopyState): void {
    const disk = this.disks.get(identity);
    const mine = disk?.pending.findLast((entry) => entry.write.kind === 'commit' && entry.write.facts.id === id)?.write;
    const digest = mine?.kind === 'commit' ? mine.facts.digest : disk?.live.get(id)?.facts.digest;
    if (digest === undefined) return;
    for (const placement of state.placements) {
      if (placement.status !== 'confirmed' || compareEpochs(placement.epoch, state.epoch) !== 0) continue;
      if (!this.#had.get(placement.identity)?.has(heldKey(id, placement.epoch, digest)))
        this.#violate(
          `rule 8: ${disk?.member} counts on ${placement.member} for ${id}, which never durably held it at that epoch with those bytes`,
        );
    }
  }

  /** Rule 11: a failure is announced once its DSN rests on two databases, is final, or policy accepts it alone. */
  #announcedIsSafe(disk: Disk, before: StoredCopy, after: StoredCopy): void {
    if (!this.#reject || after.facts.kind !== 'message' || after.facts.envelope.reversePath === '') return;
    if (after.state.queue === 'shadow') return;
    for (const [index, recipient] of (after.state.recipients ?? []).entries()) {
      if (recipient.announced !== true || before.state.recipients?.[index]?.announced === true || isSuccess(recipient))
        continue;
      const dsn = dsnIdOf(after.facts.id, index, recipient.outcome === 'expired' ? 'expired' : 'failed');
      const held = this.holders(dsn).length;
      if (held < 2 && !this.finals.has(dsn))
        this.#violate(
          `rule 11: ${disk.member} announced the failure of ${recipient.address} in ${after.facts.id} with ${held} copies of its DSN`,
        );
    }
  }
}

function add(map: Map<CopyId, Set<Identity>>, id: CopyId, identity: Identity): void {
  const set = map.get(id) ?? new Set<Identity>();
  set.add(identity);
  map.set(id, set);
}

function idOf(write: Write): CopyId | null {
  switch (write.kind) {
    case 'commit':
      return write.facts.id;
    case 'state':
    case 'move':
    case 'remove':
    case 'recall':
      return write.id;
    default:
      return null;
  }
}
