/**
 * What goes wrong between sites that are linked. Owns: the doses of these kinds; they are drawn and planned from a stream of their own, and in worlds with site
 * links only.
 */
import type { Doses } from './faults.ts';
import { publish } from './orchestrator.ts';

export function scheduleCrossingFaults(doses: Doses): void {
  const { world, random, at, later } = doses;
  const site = (): string => random.pick(world.document.sites).name;
  const siteOf = (name: string): string | undefined =>
    world.document.members.find((member) => member.name === name)?.site;
  at('linksChange', 3, () => {
    world.documentDelayMs = random.integer(1_000, 8_000);
    const deed = { kind: 'links', cost: random.pick([10, 60]), shortCut: random.pick([5, 20, 100, 200]) } as const;
    world.trace(`the last link costs ${deed.cost}, the short cut ${deed.shortCut}`);
    publish(world, [deed]);
  });
  at('siteCut', 1, () => {
    const away = site();
    const forMs = random.integer(2_000, 14_000);
    world.trace(`${away} and the other sites do not reach each other`);
    const [inside, outside] = [true, false].map((isIn) =>
      world.transports.filter(({ name }) => (siteOf(name) === away) === isIn),
    );
    for (const a of inside ?? [])
      for (const b of outside ?? []) {
        world.troubled([a.name, b.name], forMs);
        world.network.cut(a.name, b.name);
        world.scheduler.schedule(forMs, () => world.network.heal(a.name, b.name));
      }
  });
  at('siteDown', 1, () => {
    const down = site();
    world.trace(`nothing runs in ${down}`);
    for (const pod of world.transports) {
      if (siteOf(pod.name) !== down) continue;
      world.kill(pod.key, random.chance(0.5) ? 'power' : 'process', random.chance(0.3));
      later(random.integer(2_000, 14_000), () => world.boot(pod.key));
    }
  });
}
