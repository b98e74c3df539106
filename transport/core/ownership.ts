/**
 * Who owns a copy and who holds it (protocol.md sections 4 and 5): LIST, STATE, CLAIM and their answers, discard by pull, doubt, demotion.
 * Owns: that a copy changes hands or leaves `shadow` only by what its owner durably said, and never by age or ignorance.
 */

import {
  type CopyId,
  compareEpochs,
  type Epoch,
  type Identity,
  type SharedState,
  sameEpoch,
} from '../../common/message.ts';
import type { List, State, StateAck, Verdict } from '../../common/peer/messages.ts';
import { hasRecipients } from '../store/compact.ts';
import type { CopyState, Placement, StoredCopy, Tombstone } from '../store/database.ts';
import { setAge } from './ages.ts';
import { answerWaiters } from './answers.ts';
import { isIncredible } from './claims.ts';
import { type Copy, IN_TRANSIT, isFinal, isSuccess, merge, register, sharedState, withPlacement } from './copy.ts';
import { demote } from './demotion.ts';
import { beginDoubt, openClaims, PAGE, sendClaims } from './doubt.ts';
import { becomeOwner, isReleasing, leavesAt, sendReleases } from './drain.ts';
import type { StoredCopies } from './events.ts';
import { repeatInquiries, repeatResolves } from './inquiry.ts';
import { enterRisk } from './poison.ts';
import { everybodyAccountedFor } from './presence.ts';
import { dsnSafe, ownerHasReport, resumeReports } from './reports.ts';
import { cameToRest, reopened } from './resubmission.ts';
import { commit, dropCopy, late, needsShadow, type Server, setState, type Turn, trustedNow, wrong } from './state.ts';
import { identityMet } from './takeover.ts';
import { forgetIfAnswered, rememberFinal, sweepTombstones } from './tombstones.ts';
import { transition } from './transitions.ts';

/** Something just made this copy safe (or accepted by policy): go on with it. */
export function protectedNow(turn: Turn, copy: Copy): void {
  if (copy.facts.kind === 'dsn') dsnSafe(turn, copy.facts.id);
  // protocol.md 7: the owner of a replay asks all members before it delivers.
  if (copy.state.epoch.try > 1 && copy.doubt === null && !wrong(turn, 'replay-not-asked'))
    beginDoubt(turn, copy, 'all');
  settle(turn, copy);
}

/** Delivers what may be delivered: released, mine, nobody left to ask. */
export function settle(turn: Turn, copy: Copy): void {
  if (
    copy.state.queue === 'submission' &&
    (copy.state.standing === 'released' || wrong(turn, 'delivers-before-protected')) &&
    copy.doubt === null &&
    copy.state.epoch.owner === turn.server.me
  )
    enterRisk(turn, copy);
}

// --- contact ---------------------------------------------------------------------------------------------------------

/** A session with a member is up: list what I hold of its copies, ask what is in doubt, repeat what it did not answer. */
export function peerUp(turn: Turn, member: string, identity: Identity, openCounter: number, nonce: string): void {
  const { server } = turn;
  server.sessions += 1;
  server.peers.set(member, {
    identity,
    openCounter,
    nonce,
    session: server.sessions,
    alone: new Map([[member, server.sessions]]),
    hears: [],
    load: null,
    aheadMs: 0,
    isLate: false,
    listed: false,
    askedMs: turn.nowMs,
    owing: owedBy(server, identity),
  });
  server.lastHeardMs.set(member, turn.nowMs);
  server.known.set(member, identity);
  server.away.delete(member);
  identityMet(turn, member, identity);
  // Before the list: whoever has heard all of it may forget what nobody asked for.
  sendClaims(turn, member, openClaims(turn, member));
  sendList(turn, member, identity, [...(server.held.get(identity) ?? [])], true);
  repeatResolves(turn, member);
  repeatInquiries(turn, member, identity);
  // Whoever named an owner that nobody had met here yet says it again: who took it over may never hear otherwise that this one holds it.
  for (const id of server.unmetOwners) {
    const copy = server.copies.get(id);
    if (copy !== undefined) announceHeld(turn, copy);
  }
  server.unmetOwners.clear();
}

/** What a member on this identity may still hold, as far as is known here. */
function owedBy(server: Server, identity: Identity): Set<CopyId> {
  const ids = new Set<CopyId>();
  const isThere = ({ identity: where, status }: Placement): boolean => where === identity && status !== 'unasked';
  for (const tombstone of server.tombstones.values()) if (tombstone.placements.some(isThere)) ids.add(tombstone.id);
  for (const [id, copy] of server.copies)
    if (copy.state.epoch.owner === server.me && copy.state.placements.some(isThere)) ids.add(id);
  return ids;
}

function sendList(turn: Turn, member: string, owner: Identity, ids: readonly CopyId[], whole: boolean): void {
  const items = ids.flatMap((id) => {
    const copy = turn.server.copies.get(id);
    return copy === undefined ? [] : [{ id, epoch: copy.state.epoch, standing: copy.state.standing }];
  });
  for (let start = 0; start === 0 || start < items.length; start += PAGE) {
    const complete = whole && start + PAGE >= items.length;
    late(turn, {
      copy: null,
      kind: 'Send',
      to: member,
      frame: { kind: 'LIST', list: { owner, items: items.slice(start, start + PAGE), complete } },
    });
  }
}

/** A holder tells what it has of mine (protocol.md 9). */
export function listReceived(turn: Turn, member: string, list: List, stored: StoredCopies): void {
  const { server } = turn;
  const peer = server.peers.get(member);
  if (peer === undefined || list.owner !== server.me) return;
  for (const item of list.items) {
    const copy = server.copies.get(item.id);
    peer.owing.delete(item.id);
    // A try of mine that a power cut took, while I hold an older one of somebody else, is as unknown here as one I never had.
    const isLost =
      copy !== undefined && item.epoch.owner === server.me && compareEpochs(item.epoch, copy.state.epoch) > 0;
    if (copy !== undefined && isLost && becomeOwner(turn, copy, peer, item.epoch, null)) continue;
    if (copy === undefined || isLost) {
      sendState(turn, member, answerFor(turn, item.id, stored.get(item.id) ?? null, item.epoch));
      continue;
    }
    register(copy, member, peer);
    if (copy.state.epoch.owner !== server.me) {
      sendState(turn, member, { id: item.id, verdict: 'owner', state: sharedState(copy.facts, copy.state) });
    } else if (isReleasing(copy, peer.identity) && !sameEpoch(item.epoch, copy.state.epoch)) {
      leavesAt(turn, copy, peer.identity, item.epoch);
      sendReleases(turn, copy);
    } else if (copy.state.standing === 'released') {
      // A DSN that was composed again after a crash has its epoch, but other bytes; a list does not tell (protocol.md 8).
      if (sameEpoch(item.epoch, copy.state.epoch) && copy.facts.kind !== 'dsn')
        confirmHolder(turn, copy, member, peer.identity);
      if (isNews(copy, item))
        sendState(turn, member, { id: item.id, verdict: 'pending', state: sharedState(copy.facts, copy.state) });
    }
  }
  if (!list.complete) return;
  peer.listed = true;
  server.listedOnce.add(member);
  dropVanishedHolders(turn, member, peer.identity, peer.session);
  for (const id of peer.owing) placementAnswered(turn, id, peer.identity);
  peer.owing.clear();
  sweepTombstones(turn);
  findSingles(turn);
}

/** Whether the holder would learn anything: after a restart a hundred thousand answers would say what the lists said. */
function isNews({ facts, state }: Copy, item: List['items'][number]): boolean {
  const { recipients } = state;
  if (state.suspended !== false) return true;
  if (facts.kind === 'dsn' || item.standing !== state.standing || !sameEpoch(item.epoch, state.epoch)) return true;
  if (recipients === null) return false;
  // Resolved as they came in, nobody final: that is what the holder would do itself (protocol.md 18).
  if (recipients.some(isFinal)) return true;
  return !hasRecipients(
    facts,
    recipients.map(({ address }) => address),
  );
}

/** A confirmation that came after the search for a shadow was over. */
export function heldLate(turn: Turn, member: string, id: CopyId, epoch: CopyState['epoch']): void {
  const { server } = turn;
  const peer = server.peers.get(member);
  const copy = server.copies.get(id);
  if (peer === undefined) return;
  if (copy === undefined) {
    // Never "unknown" without a look into the Safety Net: the holder would take the copy over.
    if (server.tombstones.has(id)) sendState(turn, member, answerFor(turn, id, null, epoch));
    return;
  }
  register(copy, member, peer);
  if (copy.state.epoch.owner !== server.me)
    return sendState(turn, member, { id, verdict: 'owner', state: sharedState(copy.facts, copy.state) });
  if (copy.state.standing !== 'released') return;
  if (sameEpoch(epoch, copy.state.epoch)) confirmHolder(turn, copy, member, peer.identity);
  sendState(turn, member, { id, verdict: 'pending', state: sharedState(copy.facts, copy.state) });
}

/** To who has just become a holder: the OPEN did not say what became final while the body was on its way (semantics.md S6, seeds 15 and 27 with SMTP clients). */
export function tellProgress(turn: Turn, { facts, state, registered }: Copy, member: string): void {
  if (!registered.has(member) || state.recipients?.some(isFinal) !== true) return;
  sendState(turn, member, { id: facts.id, verdict: 'pending', state: sharedState(facts, state) });
}

export function confirmHolder(turn: Turn, copy: Copy, member: string, identity: Identity): void {
  turn.server.single.delete(copy.facts.id);
  if (
    copy.state.placements.some(
      (placement) =>
        placement.identity === identity &&
        placement.status === 'confirmed' &&
        sameEpoch(placement.epoch, copy.state.epoch),
    )
  )
    return;
  const placement: Placement = { identity, member, epoch: copy.state.epoch, status: 'confirmed' };
  setState(
    turn,
    copy,
    { ...copy.state, unprotected: null, placements: withPlacement(copy.state.placements, placement) },
    'lazy',
  );
  answerWaiters(turn, copy.facts.id);
  sendReleases(turn, copy);
  if (copy.facts.kind !== 'dsn') return;
  dsnSafe(turn, copy.facts.id);
  // It waited for this shadow; the search that asked for it may be over.
  settle(turn, copy);
}

/** A holder that listed everything and did not name a copy does not have it. */
function dropVanishedHolders(turn: Turn, member: string, identity: Identity, session: number): void {
  for (const copy of turn.server.copies.values()) {
    if (copy.state.epoch.owner !== turn.server.me || copy.registered.get(member) === session) continue;
    const left = copy.state.placements.filter(
      (placement) => placement.identity !== identity && placement.member !== member,
    );
    if (left.length !== copy.state.placements.length) setState(turn, copy, { ...copy.state, placements: left }, 'lazy');
  }
}

/** Once everybody has told what they hold, what nobody named rests here alone. */
export function findSingles(turn: Turn): void {
  const { server } = turn;
  if (!everybodyAccountedFor(server)) return;
  for (const copy of server.copies.values())
    if (
      copy.state.epoch.owner === server.me &&
      copy.state.standing === 'released' &&
      IN_TRANSIT.has(copy.state.queue) &&
      !copy.state.placements.some((placement) => placement.status === 'confirmed')
    )
      needsShadow(server, copy.facts.id);
}

/** What this member says about an id it has no live copy of. */
export function answerFor(turn: Turn, id: CopyId, stored: StoredCopy | null, asked: Epoch): State {
  const found = turn.server.tombstones.get(id);
  // An abort through try n says nothing about a higher try (protocol.md 6f), whose copy a power cut may have taken from here.
  const tombstone = found?.kind === 'aborted' && asked.try > found.abortedThrough ? undefined : found;
  if (stored !== null)
    return { id, verdict: 'final', state: { ...sharedState(stored.facts, stored.state), final: true } };
  if (tombstone === undefined) return { id, verdict: 'unknown', state: null };
  // What was found elsewhere by an inquiry is nobody's (inquiry.ts), yet the try of mine that is asked for was given up (seed 1172 under a dose).
  const isMine = tombstone.kind === 'aborted' && asked.owner === turn.server.me;
  return { id, verdict: tombstone.kind, state: { ...tombstoneState(tombstone), ...(isMine ? { epoch: asked } : {}) } };
}

export const tombstoneState = (tombstone: Tombstone): SharedState => ({
  id: tombstone.id,
  ancestor: null,
  kind: 'message',
  epoch: tombstone.epoch,
  standing: tombstone.kind === 'final' ? 'released' : 'intake',
  abortedThrough: tombstone.abortedThrough,
  digest: tombstone.digest,
  sizeBytes: 0,
  recipients: tombstone.recipients,
  final: tombstone.kind === 'final',
});

function sendState(turn: Turn, member: string, state: State): void {
  const early = state.verdict === 'final' && wrong(turn, 'discard-before-sync');
  late(turn, { copy: early ? ('' as CopyId) : state.id, kind: 'Send', to: member, frame: { kind: 'STATE', state } });
}

/** Streams finality or progress to the holders that registered on their present connection (protocol.md 9, semantics.md S6). */
export function tellHolders(
  turn: Turn,
  facts: Copy['facts'],
  state: CopyState,
  registered: ReadonlyMap<string, number>,
  verdict: Verdict,
): void {
  for (const [member, session] of registered) {
    const peer = turn.server.peers.get(member);
    // Who is being released must not learn a new epoch on the way (protocol.md 9).
    const isLeaving = peer !== undefined && verdict === 'pending' && isLeavingHolder(state, peer.identity);
    if (peer?.session === session && !isLeaving)
      sendState(turn, member, {
        id: facts.id,
        verdict,
        state: { ...sharedState(facts, state), final: verdict === 'final' },
      });
  }
}

const isLeavingHolder = (state: CopyState, identity: Identity): boolean =>
  state.placements.some((placement) => placement.identity === identity && placement.status === 'releasing');

// --- what an owner says ----------------------------------------------------------------------------------------------

export function stateReceived(turn: Turn, member: string, state: State): void {
  const { server } = turn;
  const peer = server.peers.get(member);
  const copy = server.copies.get(state.id);
  if (peer === undefined) return;
  if (copy === undefined) {
    if (state.verdict === 'final' || state.verdict === 'aborted')
      acknowledge(turn, member, state.id, state.state?.epoch ?? null, 'unknown');
    return;
  }
  const remote = state.state;
  if (remote === null) {
    if (copy.state.queue !== 'shadow' || copy.state.epoch.owner !== peer.identity) return;
    // protocol.md 10: "unknown" is never "done"; from the identity that owned it, it means that this is the copy that is left.
    if (wrong(turn, 'unknown-is-done')) removeShadow(turn, copy, member);
    else promote(turn, copy);
    return;
  }
  if (state.verdict === 'aborted') return abortReceived(turn, member, copy, remote, peer.identity);
  // Two makers' DSNs have other bytes, yet one outcome: finality of either ends both.
  if (remote.digest !== copy.facts.digest && copy.facts.kind !== 'dsn') return;
  // Who owns this copy says final: it may have heard so from the owner of a lower try, and answers with that one's epoch (semantics.md S3).
  if (state.verdict === 'final' && copy.state.queue === 'shadow' && copy.state.epoch.owner === peer.identity)
    return finalReceived(turn, member, copy, remote);
  if (state.verdict === 'final' && copy.state.queue === 'shadow' && wrong(turn, 'final-from-anybody'))
    return finalReceived(turn, member, copy, remote);
  const saysOwner = remote.epoch.owner === peer.identity;
  // Only who owns it, or owned it for all I know, says whose it is and what became of it (semantics.md S3, S14).
  const isPast = compareEpochs(remote.epoch, copy.state.epoch) < 0;
  if ((!saysOwner && copy.state.epoch.owner !== peer.identity) || isPast) {
    // The owner of a lower epoch finished it before it heard of mine: nothing is left to do, as when it says so to a claim (seed 4615).
    if (state.verdict === 'final' && saysOwner && copy.state.epoch.owner === server.me)
      return finalReceived(turn, member, copy, remote);
    // A former owner has nothing left to wait for: whoever owns it now tells.
    if (state.verdict === 'final' && copy.state.epoch.owner !== server.me)
      acknowledge(turn, member, state.id, remote.epoch, 'unknown');
    return;
  }
  if (isIncredible(turn, copy, remote)) {
    if (remote.epoch.owner !== server.me) server.unmetOwners.add(state.id);
    return;
  }
  if (state.verdict === 'final' && saysOwner) return finalReceived(turn, member, copy, remote);
  if (copy.state.epoch.owner === server.me && !sameEpoch(remote.epoch, copy.state.epoch)) {
    if (remote.standing === 'released') demote(turn, copy, remote);
    return;
  }
  const merged = merge(copy.state, wrong(turn, 'progress-ignored') ? { ...remote, recipients: null } : remote);
  if (merged === copy.state) return sameEpoch(remote.epoch, copy.state.epoch) ? ownerHasReport(turn, copy) : undefined;
  const reparented = merged.epoch !== copy.state.epoch;
  const isMine = merged.epoch.owner === server.me;
  const recipients =
    merged.recipients !== null && isMine ? reopened(turn, merged, merged.recipients) : merged.recipients;
  if (copy.state.queue === 'shadow') transition(server.coverage, 'AlreadyHeld', 'shadow', 'shadow', 'shadow');
  // What a person held back stays so after a takeover, also by who loses its power right now.
  const isHeldBack = merged.suspended !== copy.state.suspended;
  setState(turn, copy, { ...merged, recipients }, reparented || isHeldBack ? 'commit' : 'lazy');
  if (reparented) announceHeld(turn, copy);
  else ownerHasReport(turn, copy);
}

/** Lists one copy to its new owner, so that the owner knows and answers. */
export function announceHeld(turn: Turn, copy: Copy): void {
  for (const [member, peer] of turn.server.peers)
    if (peer.identity === copy.state.epoch.owner) sendList(turn, member, peer.identity, [copy.facts.id], false);
}

function abortReceived(turn: Turn, member: string, copy: Copy, remote: SharedState, from: Identity): void {
  const mine = copy.state;
  const byOwner = mine.epoch.owner === from && remote.epoch.owner === from;
  if (mine.queue !== 'shadow' || !byOwner || mine.epoch.try > remote.abortedThrough) return;
  // Only intake can be aborted (protocol.md 6d): what an earlier try released goes on without the owner that gave up.
  if (mine.standing === 'released' && !wrong(turn, 'abort-of-released')) return promote(turn, copy);
  if (!wrong(turn, 'late-shadow-resurrects')) {
    transition(turn.server.coverage, 'AbortAcknowledged', 'shadow', 'shadow', 'aborted');
    removeShadow(turn, copy, member);
  }
}

/** Row 31: the owner itself says that it holds nothing (any more). Whoever else is left is asked first, then it is delivered. */
export function promote(turn: Turn, copy: Copy): void {
  const { server } = turn;
  const { epoch, recipients } = copy.state;
  transition(server.coverage, 'Claimed', copy.state.queue, 'primary', 'submission');
  const taken: CopyState = {
    ...copy.state,
    queue: 'submission',
    standing: 'released',
    epoch: { ...epoch, term: epoch.term + 1, owner: server.me },
    placements: [],
    // Not accepted alone by policy: nobody is promised anything before a shadow is confirmed (protocol.md 8).
    unprotected: null,
  };
  const state = recipients === null ? taken : { ...taken, recipients: reopened(turn, taken, recipients) };
  setState(
    turn,
    copy,
    wrong(turn, 'promotion-keeps-epoch') ? { ...state, epoch: { ...epoch, owner: server.me } } : state,
    'commit',
  );
  needsShadow(server, copy.facts.id);
  setAge(turn, 1_000, copy.facts.id);
  beginDoubt(turn, copy, 'reachable');
  resumeReports(turn, copy);
  settle(turn, copy);
}

function removeShadow(turn: Turn, copy: Copy, member: string): void {
  dropCopy(turn, copy);
  commit(turn, { kind: 'remove', id: copy.facts.id });
  acknowledge(turn, member, copy.facts.id, copy.state.epoch, 'removed');
}

/** Discard notification from the owner of exactly this copy (semantics.md S3, S4): the copy moves, it is not deleted. */
function finalReceived(turn: Turn, member: string, copy: Copy, remote: SharedState): void {
  const { server } = turn;
  if (copy.state.epoch.owner === server.me) {
    if (demote(turn, copy, { ...remote, final: true })) acknowledge(turn, member, copy.facts.id, remote.epoch, 'moved');
    return;
  }
  if (copy.state.queue !== 'shadow') return;
  const merged: CopyState = { ...merge(copy.state, remote), finalAtMs: trustedNow(turn) };
  const succeeded = merged.recipients?.some(isSuccess) === true && !wrong(turn, 'discard-deletes');
  dropCopy(turn, copy);
  if (succeeded) {
    transition(server.coverage, 'DiscardNotified', 'shadow', 'shadow', 'shadowSafetyNet');
    const resting: CopyState = { ...merged, queue: 'shadowSafetyNet' };
    commit(turn, { kind: 'move', id: copy.facts.id, state: resting });
    // The owner may not be able to answer for it when it is asked: its own entry may be damaged.
    cameToRest(turn, { facts: copy.facts, state: resting });
  } else {
    transition(server.coverage, 'DiscardNotifiedFailed', 'shadow', 'shadow', 'removed');
    commit(turn, { kind: 'remove', id: copy.facts.id });
  }
  rememberFinal(turn, copy.facts, merged);
  // Another maker's report about a message of mine is done as well.
  if (copy.facts.kind === 'dsn') dsnSafe(turn, copy.facts.id);
  late(turn, { copy: null, kind: 'Count', what: 'discarded' });
  late(turn, {
    copy: copy.facts.id,
    kind: 'Track',
    event: 'HADISCARD',
    facts: copy.facts,
    id: copy.facts.id,
    peer: member,
  });
  acknowledge(turn, member, copy.facts.id, merged.epoch, succeeded ? 'moved' : 'removed');
}

export function acknowledge(
  turn: Turn,
  member: string,
  id: CopyId,
  epoch: StateAck['epoch'] | null,
  effect: StateAck['effect'],
): void {
  if (epoch === null) return;
  late(turn, { copy: id, kind: 'Send', to: member, frame: { kind: 'STATE-ACK', ack: { id, epoch, effect } } });
}

export function stateAcknowledged(turn: Turn, member: string, ack: StateAck): void {
  const { server } = turn;
  const peer = server.peers.get(member);
  if (peer !== undefined && ack.effect !== 'merged') placementAnswered(turn, ack.id, peer.identity);
}

/** A holder gave its copy up, or lists everything it holds and does not name it: it has nothing left to be told. */
export function placementAnswered(turn: Turn, id: CopyId, identity: Identity): void {
  const tombstone = turn.server.tombstones.get(id);
  if (tombstone === undefined) return;
  const placements = tombstone.placements.filter((placement) => placement.identity !== identity);
  if (placements.length === tombstone.placements.length) return;
  forgetIfAnswered(turn, { ...tombstone, placements });
  answerWaiters(turn, id);
}
