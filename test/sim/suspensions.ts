/**
 * A person who suspends and resumes messages while everything else goes wrong (semantics.md D10, row 25). Owns: what was ordered, and that all of it is let go when
 * the faults are over. Only a dose with the trait `suspends` has one: no other history knows of it.
 */
import type { MessageOrder } from '../../common/config.ts';
import type { CopyId } from '../../common/message.ts';
import { isSuspended } from '../../transport/core/copy.ts';
import { publish } from './orchestrator.ts';
import type { Pod } from './pod.ts';
import type { SeededRandom } from './scheduler.ts';
import type { World } from './world.ts';

const EVERY_MS = 700;

export interface Suspensions {
  /** Nothing is held back any more. */
  end(): void;
}

export function suspendSome(world: World, random: SeededRandom, phaseMs: number): Suspensions {
  const orders = new Map<CopyId, MessageOrder>();
  let count = 0;
  let isOver = false;
  const decide = (message: CopyId, action: MessageOrder['action']): void => {
    count += 1;
    orders.set(message, { id: `order-${count}`, message, action, by: 'sim' });
  };
  const say = (): void => publish(world, [{ kind: 'order', orders: [...orders.values()] }]);
  const act = (): void => {
    if (isOver) return;
    const ids = new Set<CopyId>();
    for (const volume of world.view.attached())
      for (const [id, { facts }] of volume.live) if (facts.kind === 'message') ids.add(id);
    const known = [...ids].sort();
    const message = known[random.integer(0, Math.max(0, known.length - 1))];
    if (message === undefined) return;
    decide(message, orders.get(message)?.action === 'suspend' ? 'resume' : 'suspend');
    say();
  };
  for (let at = EVERY_MS; at < phaseMs; at += EVERY_MS) world.scheduler.schedule(at, act);
  return {
    end: () => {
      isOver = true;
      for (const [message, { action }] of orders) if (action === 'suspend') decide(message, 'resume');
      if (orders.size > 0) say();
    },
  };
}

/** Row 25: who is held back begins nothing, whoever owns it. */
export function notHeldBack(world: World, pod: Pod, id: CopyId): void {
  const copy = pod.server?.core.copies.get(id);
  if (copy !== undefined && isSuspended(copy.state))
    world.violate(`row 25: ${pod.name} begins to deliver ${id}, which is suspended`);
}
