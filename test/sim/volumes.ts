/**
 * Volumes that are lost, copied, put back or go bad. Owns: the fault budget (semantics.md promise 2): whatever is destroyed has another holder at that
 * moment, on a volume that is whole and in nobody's doubt. Out of contract the budget is not asked; then exactly what had no other holder is missing.
 */
import { type CopyId, type Epoch, sameEpoch } from '../../common/message.ts';
import type { CopyState } from '../../transport/store/database.ts';
import { isArrival } from './crossing-checks.ts';
import { type Damage, wentBad } from './damage-checks.ts';
import { SimDisk } from './disk.ts';
import type { Volume } from './durable-view.ts';
import { type Pod, SEGMENT_BYTES } from './pod.ts';
import type { World } from './world.ts';

/** Whether this volume may be lost now: null, or why not. */
export function keptFromLosing(world: World, volume: Volume): string | null {
  const { view } = world;
  const boundary = world.boundaryOf(volume.member);
  for (const other of view.attached())
    if (other !== volume && (other.isDamaged || other.isContested) && world.boundaryOf(other.member) === boundary)
      return `the volume of ${other.member} is in doubt`;
  for (const [id, stored] of [...volume.live, ...volume.resting]) {
    if (isElsewhere(world, volume, id, stored.state.epoch)) continue;
    // Not answered, and nobody else ever had it: nothing was promised.
    const isNew = stored.state.standing === 'intake' && view.everHeld(id, stored.facts.digest) < 2;
    if (!isNew || !world.document.policies.shadowRedundancy.rejectMessageOnShadowFailure)
      return `only ${volume.member} has ${id}`;
  }
  for (const id of volume.asked)
    if (!isElsewhere(world, volume, id)) return `${volume.member} was not heard about ${id}`;
  return null;
}

/** `epoch`: of what is there. The copy of another try that is undecided may be given up at any time, and is nobody's protection (seed 5151 under a dose). */
function isElsewhere(world: World, volume: Volume, id: CopyId, epoch: Epoch | null = null): boolean {
  const isDecided = ({ standing, epoch: theirs }: CopyState): boolean =>
    standing === 'released' || epoch === null || sameEpoch(theirs, epoch);
  return world.view
    .holders(id)
    .some(
      (holder) =>
        holder.volume.member !== volume.member &&
        isDecided(holder.stored.state) &&
        !holder.volume.isDamaged &&
        !holder.volume.isContested &&
        !holder.volume.pending.some(({ write }) => write.kind === 'remove' && write.id === id),
    );
}

/** Messages that exist nowhere else: what a loss out of contract costs. There a medium that went bad may have lost them before (seed 6143 out of contract). */
function onlyOn(world: World, volume: Volume): CopyId[] {
  const counts = (other: Volume): boolean => other !== volume && !(world.isOutOfContract && other.isDamaged);
  return [...volume.live.keys(), ...volume.resting.keys()].filter(
    (id) => !world.view.holders(id).some((holder) => counts(holder.volume)),
  );
}

/** What of a volume remains is not seen again in this run. */
export function lose(world: World, volume: Volume): void {
  // What policy accepted without a shadow is promised by nobody once its only volume is fenced.
  const isPromised = world.document.policies.shadowRedundancy.rejectMessageOnShadowFailure;
  if (world.isOutOfContract || (volume.isContested && !isPromised))
    for (const id of onlyOn(world, volume)) world.doomed.add(id);
  world.view.lose(volume);
  world.counted('volumesLost');
}

/** Kill, empty volume: the next life has a new identity. */
export function wipe(world: World, pod: Pod, silent: boolean): void {
  world.trace(`volume of ${pod.key} is destroyed`);
  world.kill(pod.key, 'power', silent);
  lose(world, pod.volume);
  replace(world, pod);
  world.checkKept();
}

export function replace(world: World, pod: Pod): void {
  pod.disk = new SimDisk(world.scheduler);
  pod.mark = null;
  pod.volume = world.view.newVolume(pod.name);
}

/** Fenced (protocol.md 1): the volume is put away as it is, and the pod begins on an empty one - as the program does. */
export function setAside(world: World, pod: Pod, why: string): void {
  world.trace(`volume of ${pod.key} is set aside: ${why}`);
  // A log cut short by damage looks like an older copy, and is one.
  if (!pod.volume.isContested && !pod.volume.isDamaged)
    world.violate(`S9: ${pod.key} was fenced although nobody copied or replaced its volume: ${why}`);
  pod.setAside.push({ disk: pod.disk, why });
  world.counted('fenced');
  lose(world, pod.volume);
  replace(world, pod);
  world.checkKept();
}

export interface Snapshot {
  readonly disk: SimDisk;
  readonly volume: Volume;
}

/** The storage system copies the volume as it is, power-cut consistent. Nothing of the copy counts until it is attached. */
export function snapshot(world: World, pod: Pod): Snapshot {
  world.trace(`snapshot of ${pod.key}`);
  const volume = world.view.copyOf(pod.volume);
  volume.status = 'lost';
  return { disk: pod.disk.copy(), volume };
}

/** The snapshot takes the place of the volume; everything later is gone. */
export function restore(world: World, pod: Pod, old: Snapshot): void {
  world.trace(`${pod.key} gets its snapshot back`);
  world.counted('restored');
  world.kill(pod.key, 'power');
  lose(world, pod.volume);
  pod.disk = old.disk;
  pod.volume = old.volume;
  pod.volume.status = 'attached';
  pod.volume.isContested = true;
  world.checkKept();
}

/** A second process of the same member on a copy of its volume; the first one goes on. */
export function clone(world: World, pod: Pod): Pod {
  world.trace(`${pod.key} is cloned`);
  world.counted('clones');
  const { disk, volume } = snapshot(world, pod);
  volume.status = 'attached';
  volume.isContested = true;
  pod.volume.isContested = true;
  return world.addPod(`${pod.key}'`, pod.name, 'transport', { disk, volume });
}

/** The medium of a running or stopped member goes bad in one place; whether anybody notices is another matter. */
export function damage(world: World, pod: Pod, how: Damage, names: RegExp): void {
  const hit = pod.disk.damage(how, names);
  world.trace(`volume of ${pod.key} damaged (${how}) at ${hit === null ? 'nothing' : `${hit.path} ${hit.offset}`}`);
  if (hit === null) return;
  if (world.isOutOfContract) for (const id of onlyOn(world, pod.volume)) world.doomed.add(id);
  pod.volume.isDamaged = true;
  wentBad(pod.volume, how);
  for (const id of [...pod.volume.live.keys(), ...pod.volume.resting.keys()]) world.view.bereft.add(id);
  world.counted('damages');
}

/** Bodies of resubmissions, reports and mail of other boundaries that came, or were made, since its disk was full: no client sent them here. */
function madeSinceFull({ hadWhenFull, live, resting, pending }: Volume): number {
  const onTheWay = pending.flatMap(({ write }) => (write.kind === 'commit' ? [write.facts] : []));
  const there = [...live.values(), ...resting.values()].map(({ facts }) => facts);
  const sizes = new Map(
    [...there, ...onTheWay].flatMap((facts) =>
      (facts.kind === 'message' && !isArrival(facts)) || hadWhenFull?.has(facts.id) === true
        ? []
        : [[facts.id, facts.sizeBytes] as const],
    ),
  );
  return [...sizes.values()].reduce((sum, bytes) => sum + bytes, 0);
}

/**
 * protocol.md 28: a pod whose disk is full starts, delivers, discards and hands over out of its reserve; only bodies that came in together with the last free
 * byte may use that up.
 */
export function outOfRoom(world: World, pod: Pod): void {
  // A new volume has no reserve before it was opened once.
  if (pod.volume.identity === null) return;
  const fromMs = pod.disk.fullFromMs ?? 0;
  const open = world.sent.filter(({ answeredAtMs }) => answeredAtMs === null || answeredAtMs >= fromMs);
  const bytes = open.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0) + madeSinceFull(pod.volume);
  if (bytes < SEGMENT_BYTES)
    world.violate(
      `rule 28: ${pod.key} ends for want of room, and ${bytes} bytes of mail came in since its disk was full`,
    );
}
