/**
 * Messages that end whoever categorises them, or makes a report of them (protocol.md 18). Owns: their deaths, the bound on them, and the person who looks at what
 * was put aside once the faults are over: the program is mended, each such message is resumed or removed by an order in the topology document.
 */
import type { CopyId } from '../../common/message.ts';
import type { RiskOptions } from '../../transport/core/poison.ts';
import { markedBy } from '../../transport/runtime/risk-marks.ts';
import { publish } from './orchestrator.ts';
import type { Pod } from './pod.ts';
import { SeededRandom } from './scheduler.ts';
import type { World } from './world.ts';

/** Of one message and one database: met unawares, twice alone, and one more for a count that a fault took. */
const MOST_DEATHS = 4;

export class Poison {
  /** Digests. */
  readonly bodies = new Set<string>();
  /** A person ordered their removal. */
  readonly removed = new Set<CopyId>();
  /** What a removed resubmission was to bring back: nobody does that any more, by the word of a person (seed 13762). */
  readonly notBroughtBack = new Set<CopyId>();
  readonly #deaths = new Map<string, number>();
  readonly #resumed = new Map<CopyId, number>();
  #isMended = false;

  /** The marks of one life of a pod; the text survives the process, not the power. */
  marksOf(world: World, pod: Pod): RiskOptions {
    const { incarnation } = pod;
    return markedBy({
      found: pod.mark,
      write: (text) => {
        if (!incarnation.alive) return;
        pod.mark = text;
        const victims = text.split(' ').map((word) => word.trim() as CopyId);
        for (const id of victims) if (this.#kills(pod, id)) this.#dies(world, pod, id);
      },
    });
  }

  #kills(pod: Pod, id: CopyId): boolean {
    const facts = pod.volume.live.get(id)?.facts;
    return !this.#isMended && facts !== undefined && facts.kind !== 'dsn' && this.bodies.has(facts.digest);
  }

  #dies(world: World, pod: Pod, id: CopyId): never {
    const key = `${id} ${pod.volume.identity}`;
    const deaths = (this.#deaths.get(key) ?? 0) + 1;
    this.#deaths.set(key, deaths);
    world.counted('poison deaths');
    const cuts = world.troubles.filter((trouble) => trouble.who.includes(pod.name)).length - deaths;
    const most = MOST_DEATHS * (1 + (this.#resumed.get(id) ?? 0)) + Math.max(0, cuts);
    if (deaths > most) world.violate(`rule 18: ${id} has ended ${pod.key} ${deaths} times`);
    world.trace(`${pod.key} dies of ${id}`);
    world.kill(pod.key, 'process');
    world.scheduler.schedule(50 + (deaths % 5) * 60, () => world.boot(pod.key));
    throw new Error(`${pod.key} died of ${id}`);
  }

  /** A person wants it tried again, before anything was mended. */
  resumed(id: CopyId): void {
    this.#resumed.set(id, (this.#resumed.get(id) ?? 0) + 1);
  }

  /** By hand, for scenarios. */
  order(world: World, action: 'suspend' | 'resume' | 'remove', message: CopyId): void {
    this.#isMended = true;
    if (action === 'remove') this.removed.add(message);
    const id = action === 'suspend' ? `suspend-${message}` : `order-${message}`;
    publish(world, [{ kind: 'order', orders: [{ id, message, action, by: 'sim' }] }]);
  }

  /** The mended program is there; somebody looks at what was put aside. */
  mend(world: World): void {
    if (this.bodies.size === 0 || this.#isMended) return;
    this.#isMended = true;
    const random = new SeededRandom(world.sent.length);
    const ids = new Map<CopyId, CopyId | null>();
    for (const volume of world.view.attached())
      for (const [id, { facts }] of volume.live)
        if (this.bodies.has(facts.digest) && facts.kind !== 'dsn') ids.set(id, facts.ancestor);
    const orders = [...ids.keys()].sort().map((message) => {
      const action = random.chance(0.6) ? ('resume' as const) : ('remove' as const);
      if (action === 'remove') this.removed.add(message);
      const ancestor = ids.get(message) ?? null;
      if (action === 'remove' && ancestor !== null) this.notBroughtBack.add(ancestor);
      return { id: `order-${message}`, message, action, by: 'sim' };
    });
    if (orders.length > 0) publish(world, [{ kind: 'order', orders }]);
  }
}
