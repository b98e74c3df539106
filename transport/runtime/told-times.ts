/**
 * Ages and times as people are told them. Owns: the two clocks of one answer. Promise: an age is the one that expiry goes by (`ageOf`), never that of a wall clock; what is
 * told as a time lies that long ago by the wall clock of this member, so that who reads it with a good clock comes to the same age.
 */
import type { Clock } from '../../common/platform/clock.ts';
import { ageOf } from '../core/ages.ts';
import type { Copy } from '../core/copy.ts';
import type { Server } from '../core/state.ts';

export interface Clocks {
  readonly nowMs: number;
  /** Wall time less monotonic time. */
  readonly offsetMs: number;
}

export function clocksOf(clock: Pick<Clock, 'monotonicMs' | 'wallMs'>): Clocks {
  const nowMs = clock.monotonicMs();
  return { nowMs, offsetMs: clock.wallMs() - nowMs };
}

/** Who accepted it may have a clock that is ahead of ours: nothing is younger than new. */
export const toldAge = (server: Pick<Server, 'trusted'>, copy: Copy, { nowMs }: Pick<Clocks, 'nowMs'>): number =>
  Math.max(0, Math.round(ageOf(server, copy, nowMs)));

export const sinceWall = (ageMs: number, { nowMs, offsetMs }: Clocks): number => Math.round(nowMs + offsetMs) - ageMs;
