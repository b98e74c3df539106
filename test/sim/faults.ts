/** What goes wrong in a seed and when. Owns: the kinds of fault and their doses; each ends by itself before or with the healing phase. */
import type { SeededRandom } from './scheduler.ts';
import type { World } from './world.ts';

export const FAULTS = [
  'killFrontend',
  'killTransport',
  'powerCut',
  'cutAtCommit',
  'killMidBody',
  'vanish',
  'resets',
  'resetPair',
  'lostReply',
  'cutPair',
  'oneWayCut',
  'clog',
  'slowDisk',
  'fullDisk',
  'failedSync',
  'failedWrite',
  'wallJump',
  'storeDown',
  'clientGone',
] as const;
export type Fault = (typeof FAULTS)[number];

/** Several kinds at once, each in about a quarter of the seeds; a tenth of the seeds has none. */
export const drawFaults = (random: SeededRandom): ReadonlySet<Fault> => {
  const share = random.chance(0.1) ? 0 : random.chance(0.3) ? 0.12 : 0.3;
  return new Set(FAULTS.filter(() => random.chance(share)));
};

export function scheduleFaults(world: World, random: SeededRandom, enabled: ReadonlySet<Fault>): Fault[] {
  const done: Fault[] = [];
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
  const frontend = (): string => random.pick(world.frontends).name;
  const anyone = (): string => random.pick([...world.transports, ...world.frontends]).name;
  const die = (name: string, how: 'process' | 'power', silent = false): void => {
    world.kill(name, how, silent);
    later(random.integer(100, 4_000), () => world.boot(name));
  };
  at('killFrontend', 1, () => die(frontend(), 'process'));
  at('killTransport', random.integer(1, 3), () => die(transport(), 'process'));
  at('powerCut', random.integer(1, 2), () => die(transport(), 'power'));
  at('cutAtCommit', random.integer(1, 3), () => {
    const name = transport();
    world.onNextCommit(name, () => {
      // On a disk that takes its time others hear of a body before it is durable here.
      const slow = random.chance(0.6) ? 20 : 1;
      world.disk(name)?.setSlow(slow);
      later(random.next() * (slow > 1 ? 8 : 1.2), () => {
        die(name, 'power');
        world.disk(name)?.setSlow(1);
      });
    });
  });
  at('vanish', 1, () => die(transport(), 'power', true));
  at('resetPair', 3, () => world.resetConnections(frontend(), transport()));
  at('cutPair', random.integer(1, 2), () => cut(world, random, anyone(), transport(), 'both'));
  at('oneWayCut', random.integer(1, 2), () => cut(world, random, anyone(), transport(), 'a-to-b'));
  at('clog', 2, () => {
    const [a, b] = [anyone(), transport()];
    const forMs = random.integer(500, 5_000);
    world.trace(`network between ${a} and ${b} is slow`);
    world.troubled([a, b], forMs);
    world.network.clog(a, b, random.integer(50, 3_000));
    later(forMs, () => world.network.restore(a, b));
  });
  at('slowDisk', 1, () => {
    const name = transport();
    const forMs = random.integer(500, 6_000);
    world.trace(`disk of ${name} is slow`);
    world.troubled([name], forMs);
    world.disk(name)?.setSlow(random.chance(0.3) ? 40_000 : random.integer(100, 8_000));
    later(forMs, () => world.disk(name)?.setSlow(1));
  });
  at('fullDisk', 1, () => {
    const name = transport();
    world.trace(`disk of ${name} is full`);
    world.disk(name)?.setFull(true);
    later(random.integer(500, 5_000), () => world.disk(name)?.setFull(false));
  });
  at('failedSync', 1, () => world.disk(transport())?.failSyncs(random.integer(1, 10)));
  at('failedWrite', 1, () => world.disk(transport())?.failWrites(random.integer(1, 10)));
  at('wallJump', 2, () => world.jumpWall(transport(), random.pick([30, -1, 400]) * 86_400_000));
  at('storeDown', 1, () => {
    const place = random.pick(['alpha', 'beta', 'internet']);
    if (world.store.down.has(place)) return;
    world.store.down.add(place);
    later(random.integer(500, 4_000), () => world.store.down.delete(place));
  });
  return done;
}

function cut(world: World, random: SeededRandom, a: string, b: string, direction: 'both' | 'a-to-b'): void {
  if (a === b) return;
  const forMs = random.integer(500, 12_000);
  world.troubled([a, b], forMs);
  world.trace(`network cut ${a} ${direction} ${b}`);
  world.network.cut(a, b, direction);
  world.scheduler.schedule(forMs, () => world.network.heal(a, b, direction));
}
