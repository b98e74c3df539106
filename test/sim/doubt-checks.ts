/**
 * Who delivers has asked (protocol.md 14). Owns: the checker of that rule, called when a delivery is started and again when its transaction begins: in between it
 * may wait for a connection while the process stands still.
 */
import type { CopyId } from '../../common/message.ts';
import type { Pod } from './pod.ts';
import { TROUBLE_LEAD_MS, type World } from './world.ts';

/** How long a doubtful copy waits, less what a clock that is slow may make of it. */
const DOUBT_MS = 4_800;

/** Rule 14: what was accepted before this open, or before a long standstill, is asked about first, for up to five seconds. */
export function checkDoubt(world: World, pod: Pod, id: CopyId): void {
  const core = pod.server?.core;
  const { nowMs } = world.scheduler;
  const doubt = pod.doubts.findLast((one) => one.ids.has(id));
  if (core === undefined || doubt === undefined || nowMs - doubt.sinceMs > DOUBT_MS) return;
  // What waited for the disk when the process stood still is as old as everything else.
  if (doubt.isStandstill && (core.awakeSinceMs === doubt.awakeBeforeMs || core.copies.get(id)?.doubt != null))
    world.violate(`rule 14: ${pod.key} delivers ${id} after it stood still, before it has asked anybody`);
  // Told that it was final before a failover it is reopened at once.
  if (world.counts.has('failovers')) return;
  // A member it hears of only now, born while it stood still, holds what another member gave it: that one is asked.
  const newFromMs = doubt.fromMs ?? doubt.sinceMs;
  const isNew = (name: string): boolean => (world.pod(name)?.bornMs ?? 0) >= newFromMs;
  // It was there when this one went on, and answered, before something happened to it: else the doubt would last.
  const isLostSince = (name: string): boolean =>
    doubt.isStandstill &&
    world.troubles.some(({ who, fromMs }) => who.includes(name) && fromMs + TROUBLE_LEAD_MS > doubt.sinceMs + 1);
  // It stood still as well, came back, and answered; the session in which it did so ended in the same moment.
  const hasWoken = (name: string): boolean => {
    const wokeMs = world.pod(name)?.incarnation.resumeAtMs ?? 0;
    return doubt.isStandstill && wokeMs > doubt.sinceMs && wokeMs <= nowMs;
  };
  const unasked = core.boundary.filter(
    ({ name, state }) =>
      !isNew(name) &&
      !isLostSince(name) &&
      !hasWoken(name) &&
      state === 'active' &&
      !core.peers.has(name) &&
      (doubt.isStandstill || !core.listedOnce.has(name)),
  );
  // Who takes over, or hears that it is the owner, asks whoever is there (protocol.md 13).
  const isTaken = world.view.promotions.some((one) => one.id === id && one.by === pod.name);
  if (unasked.length > 0 && !isTaken && !world.view.named.has(`${id} ${pod.name}`))
    world.violate(
      `rule 14: ${pod.key} delivers ${id} ${Math.floor(nowMs - doubt.sinceMs)} ms after it was away, without having asked ${unasked.map((member) => member.name).join(' ')}`,
    );
}
