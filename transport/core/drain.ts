/**
 * A member on its way out, and a message that a person redirects (semantics.md section 7 row 18; protocol.md 9, 15, 16). Owns: RESIGN of what it owns, RELEASE of what it holds for others, and the
 * proof that it is empty. Promise: nothing is on fewer copies than before at any moment; every step can be repeated, so a crash or a change of mind at any of
 * them only means that the rest is done later, or not at all.
 */

import { compareEpochs, type Epoch, type Identity, sameEpoch } from '../../common/message.ts';
import type { Release, ReleaseAck, Resign } from '../../common/peer/messages.ts';
import type { DrainView } from '../runtime/view.ts';
import type { CopyState, Placement, StoredCopy } from '../store/database.ts';
import { armAge } from './ages.ts';
import { type Copy, IN_TRANSIT, merge, register, sharedState, withoutPlacement, withPlacement } from './copy.ts';
import { forgetDelivery } from './demotion.ts';
import { beginDoubt } from './doubt.ts';
import { announceHeld, settle, tellHolders } from './ownership.ts';
import { reopened } from './resubmission.ts';
import { commit, dropCopy, late, note, type Peer, type Server, setState, type Turn, wrong } from './state.ts';
import { transition } from './transitions.ts';

/** Copies handed over in one round. */
const PER_ROUND = 500;
/** protocol.md 16: no copy is taken in any more, whatever an older document says. */
export const LATCH_FACT = 'emptyLatch';

const stateOf = (server: Server, member: string): string =>
  server.document.members.find((entry) => entry.name === member)?.state ?? 'gone';

/** It has been proved empty, or is on its way there. */
export const takesNothing = (server: Server): boolean =>
  (server.self.state !== 'active' || server.latch !== null) && !server.mutants.has('drained-takes-more');

/** Every second: the own queue when this member is drained, shadows on others that are. */
export function drainTick(turn: Turn): void {
  const { server } = turn;
  if (server.latch !== null && server.self.state === 'active' && server.document.generation > server.latch) {
    server.latch = null;
    note(turn, { kind: 'fact', key: LATCH_FACT, value: null });
  }
  const isLeaving = server.self.state === 'draining';
  if (!isLeaving && !server.boundary.some((member) => member.state === 'draining')) {
    server.moving.clear();
    return;
  }
  if (isLeaving && !enoughStay(server)) return;
  let left = PER_ROUND;
  for (const copy of server.copies.values()) {
    if (left === 0) break;
    if (!isStill(server, copy)) continue;
    const moved = isLeaving ? handOver(turn, copy) : freeLeaving(turn, copy);
    if (moved) left -= 1;
  }
  if (isLeaving) latchIfEmpty(turn);
}

/** protocol.md 16: resigning to the last one that is healthy would leave one copy. */
function enoughStay(server: Server): boolean {
  const staying = server.boundary.filter((member) => member.state === 'active');
  const healthy = staying.filter((member) => server.peers.has(member.name));
  return healthy.length >= Math.min(2, staying.length) && healthy.length > 0;
}

/** Mine, released, and nothing is happening to it right now. */
function isStill(server: Server, copy: Copy): boolean {
  const { state } = copy;
  return (
    state.epoch.owner === server.me &&
    state.standing === 'released' &&
    IN_TRANSIT.has(state.queue) &&
    (copy.delivering.size === 0 || server.mutants.has('resigns-too-early')) &&
    copy.doubt === null &&
    copy.demoteTo === null &&
    !server.placings.has(copy.facts.id) &&
    !server.damaged.has(copy.facts.id)
  );
}

/** Holders confirmed at the present epoch that will stay and are connected. */
function staying(server: Server, copy: Copy): readonly { readonly placement: Placement; readonly peer: Peer }[] {
  return copy.state.placements.flatMap((placement) => {
    const peer = server.peers.get(placement.member);
    const isGood =
      placement.status === 'confirmed' &&
      sameEpoch(placement.epoch, copy.state.epoch) &&
      peer?.identity === placement.identity &&
      stateOf(server, placement.member) === 'active';
    return isGood && peer !== undefined ? [{ placement, peer }] : [];
  });
}

/** Row 35. A copy without a holder that stays gets one first (placing.ts). */
function handOver(turn: Turn, copy: Copy): boolean {
  const { server } = turn;
  const [first] = staying(server, copy);
  if (first === undefined) {
    server.moving.add(copy.facts.id);
    return false;
  }
  resign(turn, copy, first.placement.member, first.placement.identity);
  return true;
}

/** `detail`: who wanted it, where a person did. */
function resign(turn: Turn, copy: Copy, member: string, identity: Identity, detail?: string): void {
  const { server } = turn;
  const { id } = copy.facts;
  const epoch: Epoch = { ...copy.state.epoch, term: copy.state.epoch.term + 1, owner: identity };
  const { registered } = copy;
  transition(server.coverage, 'Resigned', copy.state.queue, 'shadow', 'shadow');
  forgetDelivery(turn, copy);
  server.moving.delete(id);
  const state: CopyState = { ...copy.state, queue: 'shadow', epoch, placements: [], unprotected: null };
  if (wrong(turn, 'resign-not-durable')) {
    setState(turn, copy, state, 'lazy');
  } else setState(turn, copy, state, 'commit');
  const why = detail === undefined ? {} : { detail };
  late(turn, { copy: id, kind: 'Track', event: 'HANDOVER', facts: copy.facts, id, peer: member, ...why });
  late(turn, { copy: null, kind: 'Count', what: 'resigned' });
  const resign = { id, state: sharedState(copy.facts, copy.state) };
  late(turn, { copy: id, kind: 'Send', to: member, frame: { kind: 'RESIGN', resign } });
  announceHeld(turn, copy);
  tellHolders(turn, copy.facts, copy.state, registered, 'owner');
}

/** Row 35, of one message and to whom a person names. False: not now; a member that does not have it gets it first. */
export function redirect(turn: Turn, copy: Copy, to: string, detail: string): boolean {
  const { server } = turn;
  const holder = staying(server, copy).find(({ placement }) => placement.member === to)?.placement;
  if (holder === undefined) server.redirects.set(copy.facts.id, to);
  if (holder === undefined || !isStill(server, copy)) return false;
  resign(turn, copy, to, holder.identity, detail);
  if (wrong(turn, 'redirect-moves')) {
    dropCopy(turn, copy);
    commit(turn, { kind: 'remove', id: copy.facts.id });
  }
  return true;
}

/** Row 36: the owner I know hands its copy over to me, a holder. */
export function resignReceived(turn: Turn, member: string, { id, state: remote }: Resign): void {
  const { server } = turn;
  const peer = server.peers.get(member);
  const copy = server.copies.get(id);
  if (peer === undefined || copy === undefined || remote.digest !== copy.facts.digest) return;
  becomeOwner(turn, copy, peer, remote.epoch, remote);
}

/** Also when the RESIGN itself was lost and the former owner lists its copy as mine (protocol.md 15). */
export function becomeOwner(turn: Turn, copy: Copy, peer: Peer, epoch: Epoch, remote: Resign['state'] | null): boolean {
  const { server } = turn;
  const { state } = copy;
  const isFromOwner =
    state.queue === 'shadow' && (state.epoch.owner === peer.identity || wrong(turn, 'resign-from-anybody'));
  if (!isFromOwner || epoch.owner !== server.me || compareEpochs(epoch, state.epoch) <= 0) return false;
  const merged = remote === null ? { ...state, epoch } : merge(state, remote);
  const member = server.memberOf.get(peer.identity) ?? '';
  transition(server.coverage, 'BecameOwner', 'shadow', 'primary', 'submission');
  const placement: Placement = { identity: peer.identity, member, epoch, status: 'confirmed' };
  const recipients = merged.recipients === null ? null : reopened(turn, merged, merged.recipients);
  const next: CopyState = {
    ...merged,
    recipients,
    queue: 'submission',
    standing: 'released',
    placements: [placement],
    unprotected: null,
  };
  setState(turn, copy, next, 'commit');
  register(copy, member, peer);
  armAge(turn, copy);
  // The RESIGN was lost, and with it what had become of the recipients: ask first.
  if (remote === null) beginDoubt(turn, copy, 'reachable');
  settle(turn, copy);
  return true;
}

// --- RELEASE (protocol.md 9) -----------------------------------------------------------------------------------------

/** A holder is drained: another holder first, then the term rises without it, then it may go. */
function freeLeaving(turn: Turn, copy: Copy): boolean {
  const { server } = turn;
  const leaving = copy.state.placements.filter(({ member }) => stateOf(server, member) === 'draining');
  if (leaving.length === 0) return false;
  const stay = staying(server, copy);
  if (stay.length === 0) {
    server.moving.add(copy.facts.id);
    return false;
  }
  server.moving.delete(copy.facts.id);
  // The round trip of an earlier raise is still under way, or the RELEASE is.
  if (leaving.every((placement) => placement.status === 'releasing')) {
    sendReleases(turn, copy);
    return false;
  }
  raiseForRelease(turn, copy, leaving);
  return true;
}

function raiseForRelease(turn: Turn, copy: Copy, leaving: readonly Placement[]): void {
  const { server } = turn;
  const old = copy.state.epoch;
  const epoch: Epoch = wrong(turn, 'release-within-one-epoch') ? old : { ...old, term: old.term + 1, owner: server.me };
  let { placements } = copy.state;
  for (const placement of leaving)
    placements = withPlacement(placements, { ...placement, epoch: placement.epoch, status: 'releasing' });
  setState(turn, copy, { ...copy.state, epoch, placements }, 'commit');
  for (const { placement } of staying(server, { ...copy, state: { ...copy.state, epoch: old } })) {
    const state = { id: copy.facts.id, verdict: 'pending', state: sharedState(copy.facts, copy.state) } as const;
    late(turn, { copy: copy.facts.id, kind: 'Send', to: placement.member, frame: { kind: 'STATE', state } });
  }
  if (wrong(turn, 'release-before-confirmed')) sendReleases(turn, copy, true);
}

/** Whoever is to go hears it once another holder is confirmed at the raised epoch. */
export function sendReleases(turn: Turn, copy: Copy, isForced = false): void {
  const { server } = turn;
  if (!isForced && staying(server, copy).length === 0) return;
  for (const placement of copy.state.placements) {
    if (placement.status !== 'releasing' || server.peers.get(placement.member)?.identity !== placement.identity)
      continue;
    const release: Release = { id: copy.facts.id, epoch: placement.epoch };
    late(turn, { copy: copy.facts.id, kind: 'Send', to: placement.member, frame: { kind: 'RELEASE', release } });
  }
}

export const isReleasing = (copy: Copy, identity: Identity): boolean =>
  copy.state.placements.some((placement) => placement.identity === identity && placement.status === 'releasing');

/** Row 28. */
export function releaseReceived(turn: Turn, member: string, release: Release, stored: StoredCopy | null): void {
  const { server } = turn;
  const peer = server.peers.get(member);
  const copy = server.copies.get(release.id);
  if (peer === undefined) return;
  if (copy !== undefined) {
    const { epoch } = copy.state;
    const isMeant =
      (epoch.owner === peer.identity || wrong(turn, 'release-from-anybody')) &&
      copy.state.queue === 'shadow' &&
      (sameEpoch(epoch, release.epoch) || wrong(turn, 'release-of-any-epoch'));
    // It learned the new epoch meanwhile, so it counts as a holder again: it says so, and the owner raises once more.
    if (!isMeant) return announceHeld(turn, copy);
    transition(server.coverage, 'PlacementReleased', 'shadow', 'shadow', 'removed');
    dropCopy(turn, copy);
    commit(turn, { kind: 'remove', id: release.id });
    late(turn, { copy: null, kind: 'Count', what: 'released' });
  } else if (stored !== null) return;
  const released: ReleaseAck = { id: release.id, epoch: release.epoch };
  late(turn, { copy: release.id, kind: 'Send', to: member, frame: { kind: 'RELEASE-ACK', released } });
}

/** What a holder that is to leave says of its own epoch is what RELEASE must name. */
export function leavesAt(turn: Turn, copy: Copy, identity: Identity, epoch: Epoch): void {
  const placements = copy.state.placements.map((placement) =>
    placement.identity === identity && !sameEpoch(placement.epoch, epoch) ? { ...placement, epoch } : placement,
  );
  if (placements.some((placement, index) => placement !== copy.state.placements[index]))
    setState(turn, copy, { ...copy.state, placements }, 'lazy');
}

export function releaseAcked(turn: Turn, member: string, { id, epoch }: ReleaseAck): void {
  const { server } = turn;
  const peer = server.peers.get(member);
  const copy = server.copies.get(id);
  if (peer === undefined || copy === undefined || !isReleasing(copy, peer.identity)) return;
  // The answer to an earlier one may come late.
  const asked = copy.state.placements.find((placement) => placement.identity === peer.identity);
  if (asked !== undefined && !sameEpoch(asked.epoch, epoch)) return;
  setState(turn, copy, { ...copy.state, placements: withoutPlacement(copy.state.placements, peer.identity) }, 'lazy');
}

// --- the proof -------------------------------------------------------------------------------------------------------

const openTombstones = (server: Server): number => {
  let open = 0;
  for (const tombstone of server.tombstones.values()) if (tombstone.placements.length > 0) open += 1;
  return open;
};

function latchIfEmpty(turn: Turn): void {
  const { server } = turn;
  const { rehoming } = server;
  if (server.latch !== null) return;
  const nothingLeft =
    server.copies.size === 0 &&
    server.intakes.size === 0 &&
    server.incoming.size === 0 &&
    server.composing.size === 0 &&
    server.resubmissions.copying.size === 0 &&
    openTombstones(server) === 0;
  if (wrong(turn, 'empty-while-resting') ? !nothingLeft : !nothingLeft || !rehoming.empty) {
    // What came to rest after the walk began must be met by another walk.
    if (server.copies.size > 0) rehoming.empty = false;
    return;
  }
  server.latch = server.document.generation;
  commit(turn, { kind: 'fact', key: LATCH_FACT, value: { generation: server.latch } });
  late(turn, { copy: null, kind: 'Count', what: 'drained' });
}

/** `resting`: copies in the Safety Nets here. */
export function drainView(server: Server, resting: number): DrainView {
  const state = server.latch !== null ? 'empty' : server.self.state === 'draining' ? 'draining' : 'none';
  const waitingFor: string[] = [];
  const tombstones = openTombstones(server);
  if (state === 'draining') {
    if (!enoughStay(server))
      waitingFor.push(
        'two other members (or the only one that stays) to be connected, so that nothing is left on one copy',
      );
    if (server.rehoming.unreadable > 0)
      waitingFor.push(`${server.rehoming.unreadable} damaged Safety Net entries that cannot be handed over`);
    const homeless = server.rehoming.waiting.length + server.rehoming.unplaced;
    if (homeless > 0) waitingFor.push(`${homeless} Safety Net entries that no member takes now`);
    if (server.rehoming.asked.size > 0)
      waitingFor.push(`${server.rehoming.asked.size} Safety Net entries whose primary must place them elsewhere first`);
    if (tombstones > 0) waitingFor.push(`${tombstones} acknowledgements of members that still have to be told`);
  }
  return { state, copies: server.copies.size, safetyNet: resting, tombstones, waitingFor };
}

export function latchOf(facts: ReadonlyMap<string, unknown>): number | null {
  const latch = facts.get(LATCH_FACT) as { readonly generation: number } | undefined;
  return latch?.generation ?? null;
}
