/**
 * Damage nobody has read (protocol.md 29). Owns: the wait for a whole pass of every scrub after the last damage, and the invariant: what a volume still lists
 * can be read there afterwards, as long as another member of the boundary has the same bytes.
 */
import type { CopyId } from '../../common/message.ts';
import type { QueueDatabase } from '../../transport/store/database.ts';
import type { Incarnation } from './incarnation.ts';
import type { Pod } from './pod.ts';
import type { World } from './world.ts';

/** Two periods of the scrub and what a pass takes: a damaged record is found by one and asked for by the next at the latest. */
const PASSES_MS = 330_000;

/** Lets every transport look at all it has, if any medium was damaged. */
export async function scrubbed(world: World): Promise<void> {
  if (!world.counts.has('damages')) return;
  const { scheduler } = world;
  const wallMs = (pod: Pod): number => pod.server?.deps.clock.wallMs() ?? 0;
  const since = new Map(world.transports.map((pod) => [pod, wallMs(pod)]));
  // A pass under way may have been where the damage is before: the one after it counts.
  const passes = new Map<Pod, number>();
  const last = new Map<Pod, number | null>();
  const isDone = (pod: Pod): boolean => {
    const ended = pod.server?.scrubbing.view().lastFullPassMs ?? null;
    if (ended !== null && ended >= (since.get(pod) ?? 0) && ended !== last.get(pod)) {
      last.set(pod, ended);
      passes.set(pod, (passes.get(pod) ?? 0) + 1);
    }
    return (passes.get(pod) ?? 0) >= 2 && (pod.server?.core.damaged.size ?? 0) === 0;
  };
  await scheduler.run(() => world.transports.map(isDone).every((done) => done), scheduler.nowMs + PASSES_MS);
  // What was fetched last becomes durable.
  await scheduler.run(() => false, scheduler.nowMs + 2_000);
}

async function listed(database: QueueDatabase): Promise<CopyId[]> {
  const ids: CopyId[] = [];
  for await (const { id } of database.safetyNet({})) ids.push(id);
  return ids;
}

async function isReadable(database: QueueDatabase, id: CopyId): Promise<boolean> {
  try {
    for await (const _ of database.readBody(id));
    return true;
  } catch (error) {
    if (['DAMAGED', 'NOTFOUND'].includes((error as { code?: string }).code ?? '')) return false;
    throw error;
  }
}

export async function checkScrubbed(world: World, found: string[]): Promise<void> {
  if (!world.counts.has('damages')) return;
  const { scheduler } = world;
  const bad: { readonly pod: Pod; readonly id: CopyId }[] = [];
  for (const pod of world.transports) {
    const { database } = pod;
    if (database === null) continue;
    for (const id of await scheduler.await(listed(database)))
      if (!(await scheduler.await(isReadable(database, id)))) bad.push({ pod, id });
  }
  for (const { pod, id } of bad)
    for (const other of world.transports) {
      const { database } = other;
      const isOther = database !== null && other.name !== pod.name;
      if (!isOther || world.boundaryOf(other.name) !== world.boundaryOf(pod.name)) continue;
      if (await scheduler.await(isReadable(database, id)))
        found.push(
          `rule 29: ${pod.key} cannot read ${id}, which rests there, and has not got it back from ${other.key}`,
        );
    }
}

const asked = new WeakMap<Incarnation, Map<string, number>>();

/** A process asks for what rests, and for what is in transit, no more often than something was damaged. */
export function askedOnce(world: World, pod: Pod, what: string): void {
  const ofLife = asked.get(pod.incarnation) ?? new Map<string, number>();
  asked.set(pod.incarnation, ofLife);
  const times = (ofLife.get(what) ?? 0) + 1;
  ofLife.set(what, times);
  const damages = world.counts.get('damages') ?? 0;
  if (times > damages) world.violate(`rule 29: ${pod.key} asks for ${what} ${times} times, with ${damages} damages`);
}

export function damageMet(world: World, pod: Pod, id: CopyId): void {
  world.trace(`${pod.key} cannot read the body of ${id}`);
  pod.server?.bodyDamaged(id);
}

/** A bit flips in the body of something that rests there, and nobody is going to read it. */
export function damageRest(world: World, pod: Pod): void {
  const marker = Buffer.from('Subject:');
  for (const { path } of pod.disk.entries()) {
    if (!path.includes('segment')) continue;
    const at = pod.disk.bytesOf(path).indexOf(marker);
    if (at === -1) continue;
    pod.disk.flipBit(path, at + 2);
    world.trace(`volume of ${pod.key} damaged (bit) at ${path} ${at + 2}`);
    pod.volume.isDamaged = true;
    for (const id of [...pod.volume.live.keys(), ...pod.volume.resting.keys()]) world.view.bereft.add(id);
    return world.counted('damages');
  }
  throw new Error(`nothing to damage on ${pod.key}`);
}
