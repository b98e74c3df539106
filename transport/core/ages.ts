/**
 * How old copies are, and when they are looked at for it (semantics.md D5: delay notice, expiry). Owns: the one rule for an age; that copies of one moment share a timer -
 * one for each would cost as much memory as its recipient - and that those of copies that are gone are cleared away.
 */
import type { CopyId } from '../../common/message.ts';
import type { Copy } from './copy.ts';
import { type Server, setTimer, TIMERS_BOUND, type Turn, trustedTime } from './state.ts';

/** By the moment. */
export interface Ages {
  readonly due: Map<number, CopyId[]>;
  /** Ids in `due`, and at how many those of copies that are gone are cleared away. */
  size: number;
  bound: number;
}

/** Minutes and hours are kept to within a second, so that copies of one second share a timer. */
const COARSE_MS = 1_000;

export function setAge(turn: Turn, delayMs: number, id: CopyId): void {
  const { ages } = turn.server;
  const exactMs = turn.nowMs + delayMs;
  const atMs = delayMs < 60 * COARSE_MS ? exactMs : Math.ceil(exactMs / COARSE_MS) * COARSE_MS;
  const ids = ages.due.get(atMs);
  if (ids === undefined) {
    ages.due.set(atMs, [id]);
    setTimer(turn, atMs - turn.nowMs, 'age', '', atMs);
  } else ids.push(id);
  ages.size += 1;
  if (ages.size >= ages.bound) dropDeadAges(turn.server);
}

function dropDeadAges({ ages, copies }: Server): void {
  ages.size = 0;
  for (const [atMs, ids] of ages.due) {
    const alive = ids.filter((id) => copies.has(id));
    ages.due.set(atMs, alive);
    ages.size += alive.length;
  }
  ages.bound = Math.max(TIMERS_BOUND, 2 * ages.size);
}

export function takeAges({ ages }: Server, atMs: number): readonly CopyId[] {
  const ids = ages.due.get(atMs) ?? [];
  ages.due.delete(atMs);
  ages.size -= ids.length;
  return ids;
}

/** How long a message has been here, as far as that time was witnessed (semantics.md S16): what the delay notice and expiry go by, and what people are told. */
export const ageOf = (server: Pick<Server, 'trusted'>, { state, facts }: Copy, nowMs: number): number =>
  state.ageMs + trustedTime(server, nowMs) - facts.acceptedAtMs;

/** Delay notice and expiry of a copy that is mine to deliver. */
export function armAge(turn: Turn, copy: Copy): void {
  const { messageExpirationMs, delayNotificationMs } = turn.server.document.policies.queues;
  const ageMs = ageOf(turn.server, copy, turn.nowMs);
  setAge(turn, Math.max(1, Math.min(messageExpirationMs - ageMs, delayNotificationMs)), copy.facts.id);
}
