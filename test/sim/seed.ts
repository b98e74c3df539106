/**
 * One seed, one history. Owns: what a seed draws (topology, policies, sizes, which kinds of fault), the phase of faults and the phase of healing in which
 * progress is required. By hand: `node test/sim/run.ts --seed SEED [--mutant NAME]` prints its whole trace.
 */
import { createHash } from 'node:crypto';
import type { Mutant } from '../../transport/core/mutants.ts';
import type { TransitionCoverage } from '../../transport/core/transitions.ts';
import { checkEnd } from './checks.ts';
import { drawFaults, type Fault, scheduleFaults } from './faults.ts';
import { SeededRandom } from './scheduler.ts';
import { type ShapeOptions, simTopology } from './topology.ts';
import { World } from './world.ts';

export interface SeedOutcome {
  readonly seed: number;
  readonly violations: readonly string[];
  readonly events: number;
  readonly sent: number;
  readonly accepted: number;
  readonly coverage: TransitionCoverage;
  readonly faults: readonly Fault[];
  /** Of the whole trace: two runs of one seed must agree. */
  readonly traceHash: string;
}

/** What a seed is about besides its faults. */
interface Plan extends ShapeOptions {
  readonly expiry: boolean;
}

function drawPlan(random: SeededRandom): Plan {
  const sites = random.pick([[2], [1, 1], [2, 1], [2, 2], [1, 1, 1], [3]]);
  const expiry = random.chance(0.06);
  return {
    sites,
    dag: sites.some((count) => count < 2) || random.chance(0.7),
    frontends: random.integer(1, 2),
    policies: {
      preference: random.pick(['PreferRemote', 'PreferRemote', 'LocalOnly', 'RemoteOnly']),
      rejectMessageOnShadowFailure: random.chance(0.85),
    },
    // Longer than a history, and looked at often: only a clock that lies can expire anything.
    holdTimeMs: expiry ? 1_000_000 : 100_000,
    withoutConnector: !expiry && random.chance(0.12),
    expiry,
    ...(expiry ? { messageExpirationMs: 25_000, delayNotificationMs: 12_000 } : {}),
  };
}

function recipientsOf(random: SeededRandom): string[] {
  const kinds = ['alpha', 'beta', 'relay', 'refused', 'unknown'];
  return Array.from({ length: random.integer(1, 3) }, (_, index) => {
    const kind = random.chance(0.75) ? random.pick(kinds.slice(0, 2)) : random.pick(kinds);
    switch (kind) {
      case 'relay':
        return `friend-${index}@elsewhere.example`;
      case 'refused':
        return `refused-${index}@elsewhere.example`;
      case 'unknown':
        return `unknown-${index}@sim.example`;
      default:
        return `${kind}-${random.integer(0, 7)}@sim.example`;
    }
  }).filter((address, index, all) => all.indexOf(address) === index);
}

const drawSize = (random: SeededRandom, big: boolean): number =>
  random.chance(big ? 0.5 : 0.8)
    ? random.integer(200, 6_000)
    : big && random.chance(0.7)
      ? random.integer(270_000, 400_000)
      : random.integer(20_000, 90_000);

export async function runSeed(
  seed: number,
  mutants: ReadonlySet<Mutant> = new Set(),
  trace?: (line: string) => void,
): Promise<SeedOutcome> {
  const random = new SeededRandom(seed ^ 0x5eed);
  const plan = drawPlan(random);
  const enabled = drawFaults(random);
  const hash = createHash('sha256');
  const world = new World({
    seed,
    document: simTopology(plan),
    mutants,
    resetChance: enabled.has('resets') ? 0.002 : 0,
    trace: (line) => {
      hash.update(line);
      trace?.(line);
    },
  });
  const { scheduler } = world;
  world.trace(
    `seed ${seed}: sites ${plan.sites.join('+')}, ${plan.dag ? 'one DAG' : 'no DAG'}, ${JSON.stringify(plan.policies)}${plan.expiry ? ', expiry' : ''}, faults ${[...enabled].join(', ') || 'none'}`,
  );
  if (enabled.has('resets')) world.calm = false;
  world.startAll();
  await scheduler.run(() => everybodyKnows(world), 20_000);
  const start = scheduler.nowMs;
  const messages = random.integer(3, 10);
  for (let number = 0; number < messages; number++) {
    const frontend = random.pick(world.frontends).name;
    const recipients = recipientsOf(random);
    const size = drawSize(random, enabled.has('slowDisk') && number < 4);
    const leave = enabled.has('clientGone') && random.chance(0.2);
    const loseReply = enabled.has('lostReply') && random.chance(0.3);
    const dieHalfway = enabled.has('killMidBody') && random.chance(0.15);
    scheduler.schedule(random.integer(0, 6_000), () => {
      const halfway = async (): Promise<void> => {
        if (dieHalfway) dieFor(world, random, random.chance(0.5) ? frontend : random.pick(world.transports).name);
      };
      const ended = (): void => {
        if (loseReply) scheduler.schedule(random.next() * 6, () => loseReplies(world, frontend));
      };
      world
        .send(frontend, recipients, size, { leaveAfterEnd: leave, halfway, ended })
        .catch((error: unknown) => scheduler.fail(error));
    });
  }
  if (plan.withoutConnector === true)
    scheduler.schedule(random.integer(2_000, 9_000), () =>
      world.setTopology({ ...simTopology({ ...plan, withoutConnector: false }), generation: 2 }),
    );
  if (plan.expiry) world.store.down.add('alpha');
  const faults = scheduleFaults(world, random, enabled);
  for (let at = 500; at < 12_000; at += 500) scheduler.schedule(at, () => world.checkKept());
  await scheduler.run(() => false, start + 12_000);
  heal(world);
  if (plan.expiry) {
    world.store.down.add('alpha');
    await scheduler.run(() => false, start + 30_000);
    world.store.down.clear();
  }
  await settle(world);
  if (plan.expiry) await forget(world);
  const violations = await checkEnd(world, { expiry: plan.expiry });
  const accepted = world.sent.filter((sent) => sent.answer?.kind === 'reply' && sent.answer.reply.code === 250).length;
  return {
    seed,
    violations,
    events: scheduler.eventCount,
    sent: world.sent.length,
    accepted,
    coverage: world.coverage,
    faults,
    traceHash: hash.digest('hex'),
  };
}

/** Long after the last word nobody can ask any more: tombstones go. */
async function forget(world: World): Promise<void> {
  await world.scheduler.run(() => false, world.scheduler.nowMs + 140_000);
  for (const pod of world.transports)
    for (const tombstone of pod.server?.core.tombstones.values() ?? [])
      world.violate(
        `L8: ${pod.name} still keeps a tombstone (${tombstone.kind}) of ${tombstone.id} for ${tombstone.placements.map((placement) => placement.member).join(' ')}`,
      );
}

/** Every transport has heard every other of its boundary and every front end has a place to go. */
export const everybodyKnows = (world: World): boolean =>
  world.transports.every((pod) => {
    const core = pod.server?.core;
    return (
      pod.server?.state === 'ready' && core?.boundary.every((member) => core.peers.get(member.name)?.listed === true)
    );
  }) && world.frontends.every((pod) => (pod.proxy?.available ?? 0) === world.document.members.length);

/** The front end loses its transports after END: a higher try has to find out (semantics.md R9). */
function loseReplies(world: World, frontend: string): void {
  world.calm = false;
  for (const pod of world.transports) world.resetConnections(frontend, pod.name);
}

function dieFor(world: World, random: SeededRandom, name: string): void {
  if (!world.isAlive(name)) return;
  world.calm = false;
  world.kill(name, 'process');
  world.scheduler.schedule(random.integer(100, 4_000), () => world.boot(name));
}

export function heal(world: World): void {
  world.trace('faults end');
  world.network.healAll();
  world.network.options.resetChance = 0;
  world.store.moody = false;
  world.store.down.clear();
  for (const pod of world.transports) {
    pod.onCommit = null;
    const disk = world.disk(pod.name);
    disk?.setSlow(1);
    disk?.setFull(false);
    disk?.failSyncs(0);
    disk?.failWrites(0);
  }
  for (const pod of [...world.transports, ...world.frontends]) world.boot(pod.name);
}

/** Progress is required: every session answered, every queue empty, within a bound of simulated time. */
export async function settle(world: World): Promise<void> {
  const { scheduler } = world;
  const quiet = (): boolean =>
    world.transports.every(
      (pod) => pod.server !== null && pod.server.core.placings.size === 0 && pod.server.core.copies.size === 0,
    );
  const idle = (): boolean => world.sent.every((sent) => sent.answer !== null || sent.life?.alive !== true) && quiet();
  await scheduler.run(() => idle() && world.view.isQuiet, scheduler.nowMs + 150_000);
  // What became idle in memory still has to become durable, and a tick of the Safety Net's clock must have passed.
  await scheduler.run(() => false, scheduler.nowMs + 2_000);
}
