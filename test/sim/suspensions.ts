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
/** Looks at what is still put aside, after the faults. */
const LOOKS = 4;
const LOOK_MS = 2_000;

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
    if (action === 'resume') world.poison.resumed(message);
  };
  const say = (...messages: readonly CopyId[]): void => {
    const said = messages.flatMap((message) => orders.get(message) ?? []);
    if (said.length > 0) publish(world, [{ kind: 'order', orders: said }]);
  };
  const act = (): void => {
    if (isOver) return;
    const ids = new Set<CopyId>();
    for (const volume of world.view.attached())
      for (const [id, { facts }] of volume.live) if (facts.kind === 'message') ids.add(id);
    const known = [...ids].sort();
    const message = known[random.integer(0, Math.max(0, known.length - 1))];
    if (message === undefined) return;
    decide(message, orders.get(message)?.action === 'suspend' ? 'resume' : 'suspend');
    say(message);
  };
  for (let at = EVERY_MS; at < phaseMs; at += EVERY_MS) world.scheduler.schedule(at, act);
  const poisoned = (): CopyId[] => {
    const all = world.view.attached().flatMap(({ live }) => [...live]);
    const ids = all.flatMap(([id, { state }]) => (state.queue === 'poison' && orders.has(id) ? [id] : []));
    return [...new Set(ids)].filter((id) => !world.poison.removed.has(id)).sort();
  };
  return {
    end: () => {
      isOver = true;
      // What was put aside as poison has its own order by now.
      const held = [...orders].flatMap(([message, { action }]) =>
        action === 'suspend' && !world.poison.removed.has(message) ? [message] : [],
      );
      const letGo = (messages: readonly CopyId[]): void => {
        for (const message of messages) decide(message, 'resume');
        say(...messages);
      };
      letGo(held);
      // What was let go, and then turned out to be poison, waits for another word.
      for (let look = 1; look <= LOOKS; look += 1) world.scheduler.schedule(look * LOOK_MS, () => letGo(poisoned()));
    },
  };
}

/** Row 25: who is held back begins nothing, whoever owns it. */
export function notHeldBack(world: World, pod: Pod, id: CopyId): void {
  const copy = pod.server?.core.copies.get(id);
  if (copy !== undefined && isSuspended(copy.state))
    world.violate(`row 25: ${pod.name} begins to deliver ${id}, which is suspended`);
}
