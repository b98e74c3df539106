/**
 * What the holder of a shadow at rest asks its owner (protocol.md 16, 17, 21). Owns two questions: whether a member on its way out may drop it, which its owner
 * answers once it rests on another one that stays; and, in the walk after a loss, whether the owner still has it at all - it may have handed it on to the database
 * that was lost, before that one could tell (seed 70033). What nobody answers for is inherited.
 */
import type { CopyId, Identity } from '../../common/message.ts';
import type { Cover, Covered } from '../../common/peer/messages.ts';
import type { StoredCopy } from '../store/database.ts';
import { roleOf } from './copy.ts';
import type { StoredCopies } from './events.ts';
import { hasHome, isDraining } from './homes.ts';
import { changeResting, inherit, rehomeNext, restsAlone } from './rehome.ts';
import { commit, late, memberWith, type Turn, trustedNow, wrong } from './state.ts';
import { transition } from './transitions.ts';

/** In place of the name of a resubmit request: may I drop these, are they on another member that stays? */
export const REHOME_COVER = '#rehome';
/** In place of the name of a resubmit request: do you still have these? */
export const OWNER_COVER = '#owner';
/** Entries whose owner is asked at once. */
const ASKED = 100;
const ANSWER_SPAN_MS = 3_000;
/** Rounds, a second each, in which an owner may find another home for what a draining member holds. */
const PATIENCE = 60;
/** What is about to expire need not be with its owner any more. */
const OLD = 0.9;

/** Only the owner knows who else has it: it places it on another member first, and then says so (protocol.md 9, 17). */
export function askOwner(turn: Turn, copy: StoredCopy): boolean {
  const { server } = turn;
  const { id } = copy.facts;
  const owner = memberWith(server, copy.state.epoch.owner);
  if (owner === null || server.rehoming.asked.size >= ASKED) return false;
  server.rehoming.asked.set(id, { copy, atMs: turn.nowMs });
  const cover: Cover = { request: REHOME_COVER, ids: [id] };
  late(turn, { copy: null, kind: 'Send', to: owner, frame: { kind: 'COVER', cover } });
  return true;
}

/** A member on its way out asks; what has no other home is given one first. */
export function rehomeCoverReceived(turn: Turn, member: string, cover: Cover, stored: StoredCopies): void {
  const { server } = turn;
  const asker = server.peers.get(member)?.identity;
  const items: { id: CopyId; covered: boolean }[] = [];
  for (const id of cover.ids) {
    const copy = stored.get(id);
    if (copy?.state.queue !== 'primarySafetyNet' || copy.damaged !== undefined) {
      items.push({ id, covered: false });
      continue;
    }
    const placements = copy.state.placements.filter(({ identity }) => identity !== asker);
    // That it is going is durable before it may go: it would count as a holder again once its drain is cancelled.
    const isForgotten = placements.length === copy.state.placements.length;
    if (!isForgotten) changeResting(turn, id, { ...copy.state, placements });
    const hasOther = placements.some((placement) => hasHome(server, placement));
    const covered = (hasOther && isForgotten) || wrong(turn, 'released-before-placed');
    items.push({ id, covered });
    const isUnderWay = server.rehoming.sending.has(id) || server.rehoming.waiting.some((one) => one.facts.id === id);
    if (!hasOther && !isUnderWay)
      restsAlone(turn, { facts: copy.facts, state: { ...copy.state, placements }, notAt: member });
  }
  const covered: Covered = { request: REHOME_COVER, items };
  late(turn, { copy: null, kind: 'Send', to: member, frame: { kind: 'COVERED', covered } });
}

export function rehomeCoveredReceived(turn: Turn, _member: string, covered: Covered): void {
  const { server } = turn;
  const { rehoming } = server;
  for (const { id, covered: isCovered } of covered.items) {
    const entry = rehoming.asked.get(id);
    if (entry === undefined) continue;
    rehoming.asked.delete(id);
    const { copy } = entry;
    if (!isDraining(server)) continue;
    const refusals = (rehoming.refusals.get(id) ?? 0) + (isCovered ? 0 : 1);
    if (isCovered) {
      transition(server.coverage, 'HandedOver', copy.state.queue, roleOf(copy.state, server.me), 'removed');
      commit(turn, { kind: 'remove', id });
      rehoming.refusals.delete(id);
      late(turn, { copy: null, kind: 'Count', what: 'rehomed', label: 'handOver' });
    } else if (refusals >= PATIENCE) {
      // The owner does not have it any more, or cannot place it: what rests here stands in for it, and is handed over as such.
      rehoming.refusals.delete(id);
      inherit(turn, copy);
    } else {
      rehoming.refusals.set(id, refusals);
      rehoming.later.push(copy);
    }
  }
  rehomeNext(turn);
}

/** One question for each owner that is there. Who leaves asks something else, and of who is away it is decided when it is lost. */
export function askOwners(turn: Turn, copies: readonly StoredCopy[]): void {
  const { server } = turn;
  if (isDraining(server) || wrong(turn, 'owner-at-rest-unasked')) return;
  const oldMs = trustedNow(turn) - server.document.policies.safetyNet.holdTimeMs * OLD;
  const asked = new Map<Identity, CopyId[]>();
  for (const copy of copies) {
    const { facts, state } = copy;
    if ((state.finalAtMs ?? 0) < oldMs || memberWith(server, state.epoch.owner) === null) continue;
    server.rehoming.checking.set(facts.id, { copy, atMs: turn.nowMs });
    asked.set(state.epoch.owner, [...(asked.get(state.epoch.owner) ?? []), facts.id]);
  }
  for (const [owner, ids] of asked) {
    const to = memberWith(server, owner);
    const cover: Cover = { request: OWNER_COVER, ids };
    if (to !== null) late(turn, { copy: null, kind: 'Send', to, frame: { kind: 'COVER', cover } });
  }
}

/** In whatever state it is here: its holder will hear of that. */
export function ownerCoverReceived(turn: Turn, member: string, cover: Cover, stored: StoredCopies): void {
  const { copies, damaged } = turn.server;
  const items = cover.ids.map((id) => ({ id, covered: copies.has(id) || stored.has(id) || damaged.has(id) }));
  const covered: Covered = { request: OWNER_COVER, items };
  late(turn, { copy: null, kind: 'Send', to: member, frame: { kind: 'COVERED', covered } });
}

export function ownerCoveredReceived(turn: Turn, member: string, covered: Covered): void {
  const { server } = turn;
  const identity = server.peers.get(member)?.identity;
  for (const { id, covered: isCovered } of covered.items) {
    const entry = server.rehoming.checking.get(id);
    if (entry === undefined || entry.copy.state.epoch.owner !== identity) continue;
    server.rehoming.checking.delete(id);
    if (!isCovered) inherit(turn, entry.copy);
  }
  rehomeNext(turn);
}

/** Every second: who leaves asks again, the others do so in another walk. */
export function withoutAnswer({ server, nowMs }: Turn): void {
  const { rehoming } = server;
  const { asked, checking, later } = rehoming;
  for (const [id, { copy, atMs }] of asked) {
    if (nowMs - atMs < ANSWER_SPAN_MS) continue;
    asked.delete(id);
    later.push(copy);
  }
  for (const [id, { atMs }] of checking) {
    if (nowMs - atMs < ANSWER_SPAN_MS) continue;
    checking.delete(id);
    rehoming.unanswered += 1;
  }
}
