/**
 * What the operator (or `mailcluster run`) does to a cluster, by the only means it has: newer topology documents (architecture of issue 4), processes that
 * are started and stopped, volumes that are given out. Owns: who is a member, drains, words about lost members, failovers and resubmit requests.
 */
import type { MemberConfig } from '../../common/config.ts';
import { resubmitViews } from '../../transport/core/resubmission.ts';
import { transportView } from '../../transport/runtime/transport-view.ts';
import type { Deed, RequestFields } from './deeds.ts';
import { deliverTo } from './incarnation.ts';
import type { Pod } from './pod.ts';
import { lose, replace } from './volumes.ts';
import type { World } from './world.ts';

/** The orchestrator's wall clock; pods differ from it by half a second. */
export const START_WALL_MS = 1_700_000_000_000;
export const wallOf = (world: World): number => START_WALL_MS + Math.floor(world.scheduler.nowMs);

/** A newer document; it reaches every pod by itself, some late (`maxDelayMs`), who is out of reach not before that ends. */
export function publish(world: World, deeds: readonly Deed[], maxDelayMs = 0): void {
  const document = world.maker.next(world.document, deeds, wallOf(world));
  if (document === null) return;
  for (const { action, message } of document.messageOrders ?? [])
    if (action === 'redirect') world.view.redirected.add(message);
  world.document = document;
  world.trace(`topology generation ${world.document.generation}`);
  if (world.documentDelayMs > 0) return handOutOfOrder(world);
  for (const pod of world.pods) {
    const delayMs = maxDelayMs === 0 ? 0 : world.random.integer(0, maxDelayMs);
    if (delayMs === 0) hand(world, pod);
    else world.scheduler.schedule(delayMs, () => hand(world, pod));
  }
}

/** To each after a time of its own: what is older by then may come behind what is newer. */
function handOutOfOrder(world: World): void {
  const { document } = world;
  for (const pod of world.pods)
    world.scheduler.schedule(world.random.integer(0, world.documentDelayMs), () => {
      if (pod.isOutOfReach) return;
      if (pod.document.generation > document.generation) world.counted('documents out of order');
      else pod.document = document;
      given(world, pod, document);
    });
}

/** The newest document arrives before the pod, unless it is out of reach. */
export function hand(world: World, pod: Pod): void {
  const { document } = world;
  if (pod.isOutOfReach || pod.document.generation >= document.generation) return;
  pod.document = document;
  given(world, pod, document);
}

function given(world: World, pod: Pod, document: World['document']): void {
  deliverTo(pod.incarnation, world.scheduler, () => {
    pod.server?.setTopology(document);
    // A front end's program refuses what is older before its proxy sees it (frontend/program.ts).
    if (document.generation < pod.document.generation) return;
    pod.proxy?.setTopology(document);
    pod.smtp?.setTopology(document);
  });
}

/**
 * Who may hold the second copy of what `name` has: active members of its boundary, in the sites the policies name where there are any (semantics.md R4); for
 * what has lost its second copy anybody is better than nobody.
 */
export function partnersOf(world: World, name: string): readonly MemberConfig[] {
  const boundary = world.boundaryOf(name);
  return world.document.members.filter(
    (member) => member.name !== name && member.boundary === boundary && member.state === 'active',
  );
}

/** The word "lost": pod and volume do not come back. The member itself may, on an empty volume. */
export function sayLost(world: World, member: string, identity: Pod['volume']['identity']): void {
  if (identity === null) return;
  world.lostByWord.set(identity, world.scheduler.nowMs);
  const word: Deed = { kind: 'retire', identity: { member, identity, uid: null, reason: 'lost' } };
  publish(world, [word], world.random.integer(0, 2_000));
}

// --- drain -----------------------------------------------------------------------------------------------------------

/** True when it began: two others must remain. */
export function drain(world: World, pod: Pod): boolean {
  if (world.draining.size > 0 || pod.isGone || partnersOf(world, pod.name).length < 2) return false;
  if (world.document.members.find((member) => member.name === pod.name)?.state !== 'active') return false;
  world.trace(`${pod.name} is to be drained`);
  publish(world, [{ kind: 'state', member: pod.name, state: 'draining' }], 500);
  world.draining.set(pod.name, { generation: world.document.generation });
  world.counted('drains');
  lookAtDrain(world, pod.name);
  return true;
}

export function cancelDrain(world: World, name: string): void {
  if (!world.draining.delete(name)) return;
  world.trace(`drain of ${name} is cancelled`);
  world.counted('drainsCancelled');
  publish(world, [{ kind: 'state', member: name, state: 'active' }], 500);
}

function lookAtDrain(world: World, name: string): void {
  world.scheduler.schedule(world.operatorDelayMs, () => {
    const drained = world.draining.get(name);
    if (drained === undefined) return;
    const pod = world.transports.find((one) => one.name === name);
    const isReached = pod?.server?.state === 'ready' && world.twinOf(pod) === undefined;
    const status = isReached && pod.server !== null ? transportView(pod.server).status() : null;
    if (pod === undefined || status?.drain.state !== 'empty' || status.generation < drained.generation)
      return lookAtDrain(world, name);
    leave(world, pod);
  });
}

/** S13: who calls itself empty has nothing by the word of the disk; it is stopped and never asked for anything again. */
function leave(world: World, pod: Pod): void {
  const { volume } = pod;
  for (const [id, stored] of [...volume.live, ...volume.resting])
    world.violate(`S13: ${pod.name} calls itself empty and holds ${id} in ${stored.state.queue}`);
  world.trace(`${pod.name} is empty and leaves`);
  world.kill(pod.key, 'process');
  pod.isGone = true;
  world.draining.delete(pod.name);
  world.counted('drained');
  const { identity } = volume;
  lose(world, volume);
  const gone: Deed = { kind: 'state', member: pod.name, state: 'gone' };
  const retired: readonly Deed[] =
    identity === null
      ? []
      : [{ kind: 'retire', identity: { member: pod.name, identity, uid: null, reason: 'drained' } }];
  publish(world, [gone, ...retired], 500);
  world.checkKept();
}

/** A member more: one that was drained under its old name, or a new one beside `like`. */
export function scaleUp(world: World, like: string): void {
  const gone = world.document.members.find((member) => member.state === 'gone');
  if (gone !== undefined) {
    const pod = world.pods.find((one) => one.name === gone.name && one.isGone);
    if (pod === undefined) return;
    world.trace(`${gone.name} is a member again`);
    replace(world, pod);
    pod.isGone = false;
    publish(world, [{ kind: 'state', member: gone.name, state: 'active' }], 500);
    pod.document = world.document;
    return world.boot(pod.key);
  }
  const model = world.document.members.find((member) => member.name === like);
  if (model === undefined || world.document.members.length > 5) return;
  const before = new Set(world.document.members.map((member) => member.name));
  world.trace(`a new member beside ${like}`);
  publish(world, [{ kind: 'add', beside: model }], 500);
  for (const { name } of world.document.members) {
    if (before.has(name)) continue;
    world.addPod(name, name, 'transport');
    world.boot(name);
  }
}

// --- mailbox failover and resubmission -------------------------------------------------------------------------------

/** The active copy changes to one that lags behind: activation and request come in one generation (protocol.md 19, 20). */
export function failOver(world: World, name: string, lagMs: number): void {
  const database = world.document.databases.find((entry) => entry.name === name);
  const next = database?.copies.find((copy) => copy.name !== database.activeCopy);
  if (database === undefined || next === undefined) return;
  const missing = world.store.failOver(name, database.activeCopy, next.name, lagMs);
  world.trace(`database ${name} fails over to ${next.name}, ${lagMs} ms behind: ${missing} deliveries missing`);
  world.counted('failovers');
  world.counted('deliveriesMissing', missing);
  publish(world, [{ kind: 'activate', database: name, copy: next.name }], world.random.integer(0, 3_000));
}

/** A person asks. */
export function resubmit(world: World, fields: RequestFields): string {
  const name = `manual-${world.document.resubmitRequests.length}`;
  world.trace(`resubmit request ${name}: ${JSON.stringify(fields)}`);
  world.counted('requests');
  publish(world, [{ kind: 'request', name, fields }], world.random.integer(0, 2_000));
  return name;
}

export function cancelRequest(world: World, name: string): void {
  world.trace(`resubmit request ${name} is cancelled`);
  publish(world, [{ kind: 'cancel', request: name }]);
}

/** Requests that some living member has not finished, as lines. */
export function unfinishedRequests(world: World): string[] {
  const found: string[] = [];
  if (world.document.resubmitRequests.length === 0) return found;
  for (const pod of world.transports) {
    if (pod.server === null) continue;
    const views = resubmitViews({ server: pod.server.core, nowMs: pod.server.deps.clock.monotonicMs() });
    for (const { name, cancelled, boundary } of world.document.resubmitRequests) {
      // Who is of another boundary has nothing of it and never hears of it (semantics.md N3).
      if (boundary !== null && boundary !== world.boundaryOf(pod.name)) continue;
      const view = views.find((entry) => entry.name === name);
      const isDone = view?.state === 'Done' || view?.state === 'Cancelled' || cancelled;
      if (!isDone)
        found.push(
          `request ${name} is ${view?.state ?? 'unknown'} at ${pod.name}${view === undefined ? '' : `, waiting for ${view.waitingFor.join(' ')}`}`,
        );
    }
  }
  return found;
}
