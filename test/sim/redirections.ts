/**
 * A person who redirects messages to other members while everything else goes wrong (semantics.md D10, protocol.md row 35). Owns: what was
 * ordered. Only the trait `redirects` has one (run.ts has some beside its seeds): no other history knows of it. Invariants that hold anyhow judge it: two copies,
 * one owner, nothing lost, nothing offered twice.
 */
import type { MessageOrder } from '../../common/config.ts';
import type { CopyId } from '../../common/message.ts';
import { publish } from './orchestrator.ts';
import type { SeededRandom } from './scheduler.ts';
import type { World } from './world.ts';

const EVERY_MS = 500;

export function redirectSome(world: World, random: SeededRandom, phaseMs: number): void {
  const orders = new Map<CopyId, MessageOrder>();
  let count = 0;
  const pick = <T>(all: readonly T[]): T | undefined => all[random.integer(0, Math.max(0, all.length - 1))];
  const act = (): void => {
    const owned = world.view
      .attached()
      .flatMap(({ member, identity, live }) =>
        [...live].flatMap(([id, { state }]) => (state.epoch.owner === identity ? [{ id, member }] : [])),
      )
      .sort((a, b) => (a.id === b.id ? 0 : a.id < b.id ? -1 : 1));
    const one = pick(owned);
    const from = world.document.members.find(({ name }) => name === one?.member);
    const others = world.document.members.filter(
      ({ name, boundary, state }) => name !== from?.name && boundary === from?.boundary && state === 'active',
    );
    const to = pick(others);
    if (one === undefined || from === undefined || to === undefined) return;
    count += 1;
    const order = { id: `redirect-${count}`, message: one.id, action: 'redirect', by: 'sim' } as const;
    orders.set(one.id, { ...order, from: from.name, to: to.name });
    publish(world, [{ kind: 'order', orders: [...orders.values()] }]);
  };
  for (let at = EVERY_MS; at < phaseMs; at += EVERY_MS) world.scheduler.schedule(at, act);
}
