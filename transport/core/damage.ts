/**
 * Bodies that cannot be read any more (semantics.md S11; rows 38 to 40): a copy whose bytes are damaged counts as lost and is fetched again from whoever has
 * it. Owns: that it is not delivered meanwhile, and that a message nobody has is listed, never silently given up.
 */
import type { CopyId } from '../../common/message.ts';
import { type Copy, roleOf } from './copy.ts';
import { enqueue } from './delivery.ts';
import { waitNowhere } from './hop.ts';
import { commit, late, type Turn } from './state.ts';
import { transition } from './transitions.ts';

export interface Damage {
  readonly sinceMs: number;
  readonly digest: string;
  /** It rests in a Safety Net: when it was last found to be damaged there (damage-at-rest.ts). */
  readonly seenMs?: number;
}

/** In place of a digest that cannot be read any more. */
export const ANY_DIGEST = '0'.repeat(64);
/** Copies at rest asked for in one round: live mail shall hardly notice. */
const RESTING_AT_ONCE = 16;

/** With everybody there and nobody answering this long, the message is reported as lost; it stays listed and is asked for all the same. */
const LISTED_AFTER_MS = 60_000;

export function bodyDamaged(turn: Turn, id: CopyId): void {
  const { server } = turn;
  const copy = server.copies.get(id);
  if (copy === undefined || server.damaged.has(id)) return;
  const { digest } = copy.facts;
  server.damaged.set(id, { sinceMs: turn.nowMs, digest });
  transition(server.coverage, 'Quarantined', copy.state.queue, roleOf(copy.state, server.me), copy.state.queue);
  late(turn, { copy: null, kind: 'Count', what: 'quarantined' });
  late(turn, { copy: id, kind: 'Track', event: 'QUARANTINE', facts: copy.facts, id });
  waitNowhere(server.hops, copy);
  askFor(turn, id, digest);
}

/** Every second: those who came back are asked as well. */
export function damageTick(turn: Turn): void {
  const { server } = turn;
  let resting = 0;
  for (const [id, { digest, seenMs }] of server.damaged) {
    if (seenMs !== undefined) resting += 1;
    if (seenMs === undefined || resting <= RESTING_AT_ONCE) askFor(turn, id, digest);
  }
}

export function askFor(turn: Turn, id: CopyId, digest: string): void {
  for (const { name } of turn.server.boundary)
    if (turn.server.peers.has(name))
      late(turn, { copy: id, kind: 'Send', to: name, frame: { kind: 'FETCH', fetch: { id, digest } } });
}

/** Row 39: the same bytes again; the state stays what it is. */
export function refetched(turn: Turn, copy: Copy, stream: number): void {
  const { server } = turn;
  const { id } = copy.facts;
  server.damaged.delete(id);
  transition(server.coverage, 'Refetched', copy.state.queue, roleOf(copy.state, server.me), copy.state.queue);
  commit(turn, { kind: 'commit', facts: copy.facts, state: copy.state, stream });
  late(turn, { copy: null, kind: 'Count', what: 'refetched' });
  late(turn, { copy: id, kind: 'Track', event: 'REFETCH', facts: copy.facts, id });
  enqueue(turn, copy);
}

/** Row 40: messages of which every member of the boundary has been asked and none has the bytes. */
export function lostMessages(server: Turn['server'], nowMs: number): readonly CopyId[] {
  if (!server.boundary.every((member) => server.peers.has(member.name))) return [];
  return [...server.damaged].flatMap(([id, { sinceMs }]) => (nowMs - sinceMs >= LISTED_AFTER_MS ? [id] : []));
}
