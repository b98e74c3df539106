/**
 * One seed, one history. Owns: what a seed draws (topology, policies, sizes, which kinds of fault), the phase of faults and the phase of healing in which
 * progress is required. Run one by hand: `node test/sim/seed.ts SEED [MUTANT]` prints its whole trace.
 */
import { MUTANTS, type Mutant } from '../../transport/core/mutants.ts';
import type { TransitionCoverage } from '../../transport/core/transitions.ts';
import { checkEnd } from './checks.ts';
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
  readonly faults: readonly string[];
}

const FAULTS = ['killFrontend', 'killTransport', 'powerCut', 'resets', 'cutPair', 'oneWayCut', 'clog', 'slowDisk', 'wallJump', 'storeDown', 'clientGone'] as const;
type Fault = (typeof FAULTS)[number];

function drawShape(random: SeededRandom): ShapeOptions {
  const sites = random.pick([[2], [1, 1], [2, 1], [2, 2], [1, 1, 1], [3]]);
  return {
    sites,
    dag: sites.some((count) => count < 2) || random.chance(0.7),
    frontends: random.integer(1, 2),
    policies: {
      preference: random.pick(['PreferRemote', 'PreferRemote', 'LocalOnly', 'RemoteOnly']),
      rejectMessageOnShadowFailure: random.chance(0.85),
    },
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

export async function runSeed(seed: number, mutants: ReadonlySet<Mutant> = new Set(), trace?: (line: string) => void): Promise<SeedOutcome> {
  const random = new SeededRandom(seed ^ 0x5eed);
  const shape = drawShape(random);
  const enabled = new Set<Fault>(FAULTS.filter(() => random.chance(0.35)));
  const world = new World({ seed, document: simTopology(shape), mutants, resetChance: enabled.has('resets') ? 0.002 : 0, ...(trace === undefined ? {} : { trace }) });
  world.trace(`seed ${seed}: sites ${shape.sites.join('+')}, ${shape.dag ? 'one DAG' : 'no DAG'}, faults ${[...enabled].join(', ') || 'none'}`);
  if (enabled.has('resets')) world.calm = false;
  world.startAll();
  await world.scheduler.run(() => world.transports.every((pod) => pod.server?.state === 'ready' && [...pod.server.core.boundary].every((member) => pod.server?.core.peers.get(member.name)?.listed === true)), 20_000);
  const messages = random.integer(3, 10);
  for (let number = 0; number < messages; number++) {
    const frontend = random.pick(world.frontends).name;
    const recipients = recipientsOf(random);
    const size = random.chance(0.8) ? random.integer(200, 6_000) : random.integer(20_000, 90_000);
    const leave = enabled.has('clientGone') && random.chance(0.2);
    world.scheduler.schedule(random.integer(0, 6_000), () => {
      world.send(frontend, recipients, size, { leaveAfterEnd: leave }).catch((error: unknown) => world.scheduler.fail(error));
    });
  }
  const faults = scheduleFaults(world, random, enabled);
  const start = world.scheduler.nowMs;
  await world.scheduler.run(() => false, start + 12_000);
  heal(world);
  await settle(world);
  const violations = await checkEnd(world);
  const accepted = world.sent.filter((sent) => sent.answer?.kind === 'reply' && sent.answer.reply.code === 250).length;
  return { seed, violations, events: world.scheduler.eventCount, sent: world.sent.length, accepted, coverage: world.coverage, faults };
}

function scheduleFaults(world: World, random: SeededRandom, enabled: ReadonlySet<Fault>): string[] {
  const done: string[] = [];
  const at = (fault: Fault, count: number, act: () => void): void => {
    if (!enabled.has(fault)) return;
    for (let i = 0; i < count; i++)
      world.scheduler.schedule(random.integer(50, 9_000), () => {
        done.push(fault);
        world.calm = false;
        act();
      });
  };
  const later = (delayMs: number, act: () => void): void => void world.scheduler.schedule(delayMs, act);
  const transport = (): string => random.pick(world.transports).name;
  const anyone = (): string => random.pick([...world.transports, ...world.frontends]).name;
  const die = (name: string, how: 'process' | 'power'): void => {
    world.kill(name, how);
    later(random.integer(100, 4_000), () => world.boot(name));
  };
  at('killFrontend', 1, () => die(random.pick(world.frontends).name, 'process'));
  at('killTransport', random.integer(1, 3), () => die(transport(), 'process'));
  at('powerCut', random.integer(1, 2), () => die(transport(), 'power'));
  at('cutPair', random.integer(1, 2), () => cut(world, random, anyone(), transport(), 'both', later));
  at('oneWayCut', random.integer(1, 2), () => cut(world, random, anyone(), transport(), 'a-to-b', later));
  at('clog', 2, () => {
    const [a, b] = [anyone(), transport()];
    world.network.clog(a, b, random.integer(50, 3_000));
    later(random.integer(500, 5_000), () => world.network.restore(a, b));
  });
  at('slowDisk', 1, () => {
    const disk = world.disk(transport());
    disk?.setSlow(random.integer(100, 8_000));
    later(random.integer(500, 4_000), () => disk?.setSlow(1));
  });
  at('wallJump', 2, () => world.jumpWall(transport(), random.pick([30, -1, 400]) * 86_400_000));
  at('storeDown', 1, () => {
    world.store.down = true;
    later(random.integer(500, 4_000), () => {
      world.store.down = false;
    });
  });
  return done;
}

function cut(world: World, random: SeededRandom, a: string, b: string, direction: 'both' | 'a-to-b', later: (delayMs: number, act: () => void) => void): void {
  if (a === b) return;
  world.cuts += 1;
  world.trace(`network cut ${a} ${direction} ${b}`);
  world.network.cut(a, b, direction);
  later(random.integer(500, 12_000), () => world.network.heal(a, b, direction));
}

function heal(world: World): void {
  world.trace('faults end');
  world.network.healAll();
  world.network.options.resetChance = 0;
  world.store.moody = false;
  world.store.down = false;
  for (const pod of world.transports) world.disk(pod.name)?.setSlow(1);
  for (const pod of [...world.transports, ...world.frontends]) world.boot(pod.name);
}

/** Progress is required: every session answered, every queue empty, within a bound of simulated time. */
async function settle(world: World): Promise<void> {
  const idle = (): boolean =>
    world.transports.every((pod) => pod.server !== null && pod.server.core.copies.size === 0 && pod.server.core.placings.size === 0) && world.sent.every((sent) => sent.answer !== null || !world.isAlive(sent.envelope.frontend));
  await world.scheduler.run(idle, world.scheduler.nowMs + 150_000);
  // What became idle in memory still has to become durable.
  await world.scheduler.run(() => false, world.scheduler.nowMs + 3_000);
}

if (import.meta.main) {
  const mutant = process.argv[3] as Mutant | undefined;
  if (mutant !== undefined && !(mutant in MUTANTS)) throw new Error(`no mutant ${mutant}; there are ${Object.keys(MUTANTS).join(', ')}`);
  const outcome = await runSeed(Number(process.argv[2]), new Set(mutant === undefined ? [] : [mutant]), (line) => console.log(line));
  console.log(`${outcome.sent} sent, ${outcome.accepted} accepted, ${outcome.events} events`);
  for (const violation of outcome.violations) console.log(`VIOLATION ${violation}`);
  process.exitCode = outcome.violations.length === 0 ? 0 : 1;
}
