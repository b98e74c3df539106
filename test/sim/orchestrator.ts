/**
 * What the operator (or `mailcluster run`) does to a cluster, by the only means it has: newer topology documents (architecture of issue 4), processes that
 * are started and stopped, volumes that are given out. Owns: who is a member, drains, words about lost members, failovers and resubmit requests.
 */
import type {
  MailboxDatabaseConfig,
  MemberConfig,
  ResubmitRequestConfig,
  TopologyDocument,
} from '../../common/config.ts';
import { resubmitViews } from '../../transport/core/resubmission.ts';
import { transportView } from '../../transport/runtime/transport-view.ts';
import { deliverTo } from './incarnation.ts';
import type { Pod } from './pod.ts';
import { lose, replace } from './volumes.ts';
import type { World } from './world.ts';

/** The orchestrator's wall clock; pods differ from it by half a second. */
export const wallOf = (world: World): number => 1_700_000_000_000 + Math.floor(world.scheduler.nowMs);

type Change = (document: TopologyDocument) => Partial<TopologyDocument>;

/** A newer document; it reaches every pod by itself, some late (`maxDelayMs`), who is out of reach not before that ends. */
export function publish(world: World, change: Change, maxDelayMs = 0): void {
  const { document } = world;
  world.document = { ...document, ...change(document), generation: document.generation + 1 };
  world.trace(`topology generation ${world.document.generation}`);
  for (const pod of world.pods) {
    const delayMs = maxDelayMs === 0 ? 0 : world.random.integer(0, maxDelayMs);
    if (delayMs === 0) hand(world, pod);
    else world.scheduler.schedule(delayMs, () => hand(world, pod));
  }
}

/** The newest document arrives before the pod, unless it is out of reach. */
export function hand(world: World, pod: Pod): void {
  const { document } = world;
  if (pod.isOutOfReach || pod.document.generation >= document.generation) return;
  pod.document = document;
  deliverTo(pod.incarnation, world.scheduler, () => {
    pod.server?.setTopology(document);
    pod.proxy?.setTopology(document);
  });
}

const withMember = (document: TopologyDocument, name: string, state: MemberConfig['state']): readonly MemberConfig[] =>
  document.members.map((member) => (member.name === name ? { ...member, state } : member));

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
  publish(
    world,
    (document) => ({ retired: [...document.retired, { member, identity, uid: null, reason: 'lost' }] }),
    world.random.integer(0, 2_000),
  );
}

// --- drain -----------------------------------------------------------------------------------------------------------

/** True when it began: two others must remain. */
export function drain(world: World, pod: Pod): boolean {
  if (world.draining.size > 0 || pod.isGone || partnersOf(world, pod.name).length < 2) return false;
  if (world.document.members.find((member) => member.name === pod.name)?.state !== 'active') return false;
  world.trace(`${pod.name} is to be drained`);
  publish(world, (document) => ({ members: withMember(document, pod.name, 'draining') }), 500);
  world.draining.set(pod.name, { generation: world.document.generation });
  world.counted('drains');
  lookAtDrain(world, pod.name);
  return true;
}

export function cancelDrain(world: World, name: string): void {
  if (!world.draining.delete(name)) return;
  world.trace(`drain of ${name} is cancelled`);
  world.counted('drainsCancelled');
  publish(world, (document) => ({ members: withMember(document, name, 'active') }), 500);
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
  publish(
    world,
    (document) => ({
      members: withMember(document, pod.name, 'gone'),
      retired:
        identity === null
          ? document.retired
          : [...document.retired, { member: pod.name, identity, uid: null, reason: 'drained' }],
    }),
    500,
  );
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
    publish(world, (document) => ({ members: withMember(document, gone.name, 'active') }), 500);
    pod.document = world.document;
    return world.boot(pod.key);
  }
  const model = world.document.members.find((member) => member.name === like);
  if (model === undefined || world.document.members.length > 5) return;
  const name = `t-x-${world.document.members.length}`;
  world.trace(`${name} is a new member`);
  const fresh: MemberConfig = { ...model, name, address: { host: name, port: 4000 }, state: 'active' };
  publish(world, (document) => ({ members: [...document.members, fresh] }), 500);
  world.addPod(name, name, 'transport');
  world.boot(name);
}

// --- mailbox failover and resubmission -------------------------------------------------------------------------------

const REQUEST_LIFE_MS = 3_600_000;

const request = (world: World, fields: Partial<ResubmitRequestConfig> & { readonly name: string }) => ({
  boundary: null,
  database: null,
  sender: null,
  recipient: null,
  messageId: null,
  fromMs: 0,
  toMs: null,
  lostActivation: null,
  createdAtMs: wallOf(world),
  expiresAtMs: wallOf(world) + REQUEST_LIFE_MS,
  dryRun: false,
  cancelled: false,
  ...fields,
});

/** The active copy changes to one that lags behind: activation and request come in one generation (protocol.md 19, 20). */
export function failOver(world: World, name: string, lagMs: number): void {
  const database = world.document.databases.find((entry) => entry.name === name);
  const next = database?.copies.find((copy) => copy.name !== database.activeCopy);
  if (database === undefined || next === undefined) return;
  const missing = world.store.failOver(name, database.activeCopy, next.name, lagMs);
  world.trace(`database ${name} fails over to ${next.name}, ${lagMs} ms behind: ${missing} deliveries missing`);
  world.counted('failovers');
  world.counted('deliveriesMissing', missing);
  const failover = request(world, {
    name: `failover-${name}-${database.activation + 1}`,
    database: name,
    fromMs: wallOf(world) - database.lossWindowMs - next.replayLagMs,
    lostActivation: database.activation,
  });
  const moved: MailboxDatabaseConfig = { ...database, activeCopy: next.name, activation: database.activation + 1 };
  publish(
    world,
    (document) => ({
      databases: document.databases.map((entry) => (entry.name === name ? moved : entry)),
      resubmitRequests: [...document.resubmitRequests, failover],
    }),
    world.random.integer(0, 3_000),
  );
}

/** A person asks. */
export function resubmit(world: World, fields: Partial<ResubmitRequestConfig>): string {
  const name = `manual-${world.document.resubmitRequests.length}`;
  world.trace(`resubmit request ${name}: ${JSON.stringify(fields)}`);
  world.counted('requests');
  publish(
    world,
    (document) => ({
      resubmitRequests: [...document.resubmitRequests, request(world, { ...fields, name })],
    }),
    world.random.integer(0, 2_000),
  );
  return name;
}

export function cancelRequest(world: World, name: string): void {
  world.trace(`resubmit request ${name} is cancelled`);
  publish(world, (document) => ({
    resubmitRequests: document.resubmitRequests.map((entry) =>
      entry.name === name ? { ...entry, cancelled: true } : entry,
    ),
  }));
}

/** Requests that some living member has not finished, as lines. */
export function unfinishedRequests(world: World): string[] {
  const found: string[] = [];
  if (world.document.resubmitRequests.length === 0) return found;
  for (const pod of world.transports) {
    if (pod.server === null) continue;
    const views = resubmitViews({ server: pod.server.core, nowMs: pod.server.deps.clock.monotonicMs() });
    for (const { name, cancelled, boundary } of world.document.resubmitRequests) {
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
