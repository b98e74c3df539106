/**
 * How a copy of mine stops being mine (protocol.md 12): a higher owner was seen, or a member says that all is done. Owns: that nothing is lost on the way - it
 * becomes a shadow or goes to rest, its shadows and a front end that waits are told.
 */
import { compareEpochs, type SharedState } from '../../common/message.ts';
import type { Grant, Verdict } from '../../common/peer/messages.ts';
import type { CopyState, Placement } from '../store/database.ts';
import { answerIntake, answerOwned, answerWaiters } from './answers.ts';
import { type Copy, isSuccess, merge, sharedState } from './copy.ts';
import { waitNowhere } from './hop.ts';
import { announceHeld, tellHolders, tombstoneState } from './ownership.ts';
import { finish, otherHolders } from './placing.ts';
import { restsAlone } from './rehome.ts';
import { dsnSafe } from './reports.ts';
import { cameToRest } from './resubmission.ts';
import { commit, dropCopy, endSearch, late, memberWith, setState, type Turn, trustedNow, wrong } from './state.ts';
import { everyMemberListed, putTombstone } from './tombstones.ts';
import { transition } from './transitions.ts';
/** A higher owner was seen: this copy becomes its shadow, or goes to rest when the owner says final. False while deliveries are open. */
export function demote(turn: Turn, copy: Copy, remote: SharedState): boolean {
  const { server } = turn;
  if (copy.delivering.size > 0 && !wrong(turn, 'demoted-while-delivering')) {
    const before = copy.demoteTo;
    const isMore = before === null || (!before.final && compareEpochs(remote.epoch, before.epoch) >= 0);
    if (isMore || remote.final) copy.demoteTo = remote;
    return false;
  }
  const from = copy.state.queue;
  const merged = merge(copy.state, remote);
  const base: CopyState = { ...merged, placements: [], unprotected: null };
  copy.demoteTo = null;
  copy.doubt = null;
  const id = copy.facts.id;
  late(turn, {
    copy: id,
    kind: 'Track',
    event: 'DEMOTE',
    facts: copy.facts,
    id,
    detail: remote.final ? 'final elsewhere' : 'owned elsewhere',
  });
  const { registered } = copy;
  if (remote.final) {
    const left = obligations(turn, copy);
    dropCopy(turn, copy);
    if (merged.recipients?.some(isSuccess) === true) {
      // Finished by an owner before me: then I am the one who answers for it, and finds it another holder.
      const isMine = base.epoch.owner === server.me;
      const queue = isMine ? 'primarySafetyNet' : 'shadowSafetyNet';
      transition(server.coverage, 'TakenOverFinal', from, isMine ? 'primary' : 'shadow', queue);
      const resting: CopyState = { ...base, queue, finalAtMs: trustedNow(turn) };
      commit(turn, { kind: 'move', id, state: resting });
      // What was final elsewhere under an activation that is lost is not final (protocol.md 19). Those who call it final take no shadow of it, so that it would
      // be left on one database and a drain wait for it for ever (seeds 30840, 31646): the request looks at it where it rests, as at what they rest.
      cameToRest(turn, { facts: copy.facts, state: resting });
      if (isMine) restsAlone(turn, { facts: copy.facts, state: resting });
    } else {
      transition(server.coverage, 'TakenOverFinal', from, 'shadow', 'removed');
      commit(turn, { kind: 'remove', id });
    }
    // Shadows of this copy must hear of it too (protocol.md 9): now where they are connected, by the tombstone later.
    leaveFinal(turn, copy, base, left);
    // A front end that still waits for this try: it is done, and rests here as well as where it was finished.
    answerIntake(turn, copy, 'protected');
    answerWaiters(turn, id);
    if (copy.facts.kind === 'dsn') dsnSafe(turn, id);
    tellHolders(turn, copy.facts, base, registered, 'final');
    return true;
  }
  transition(server.coverage, 'Demoted', from, 'shadow', 'shadow');
  if (wrong(turn, 'demotion-drops')) {
    dropCopy(turn, copy);
    commit(turn, { kind: 'remove', id });
    return true;
  }
  forgetDelivery(turn, copy);
  answerOwned(turn, copy);
  setState(turn, copy, { ...base, queue: 'shadow', epoch: merged.epoch }, 'commit');
  announceHeld(turn, copy);
  // Shadows of this copy re-parent to the new owner (row 9); those not connected hear it when they list.
  tellHolders(turn, copy.facts, copy.state, registered, 'owner');
  return true;
}

/** It is not mine to deliver any more. */
export function forgetDelivery(turn: Turn, copy: Copy): void {
  const { server } = turn;
  const { id } = copy.facts;
  waitNowhere(server.hops, copy);
  server.single.delete(id);
  server.shadowless.delete(id);
  server.moving.delete(id);
  server.doubtful.delete(id);
  endSearch(turn, id, null);
}

/** A claimant had to wait for deliveries under way: what became of them. What ended with its own word is final here too, and it has nothing left to tell. */
export function answerClaimant(turn: Turn, { facts, state }: Copy, claimed: SharedState): void {
  const member = memberWith(turn.server, claimed.epoch.owner);
  if (member === null) return;
  const isOver = claimed.final && !turn.server.copies.has(facts.id);
  const shared = sharedState(facts, isOver ? merge(state, claimed) : state);
  const final = isOver || shared.final;
  const verdict: Verdict = final ? 'final' : 'pending';
  const grant: Grant = { items: [{ id: facts.id, granted: true, verdict, state: { ...shared, final } }] };
  late(turn, { copy: facts.id, kind: 'Send', to: member, frame: { kind: 'GRANT', grant } });
}

/** Members that may still hold a copy that has become final here; candidates of a running search that were sent an END are among them. */
export function obligations(turn: Turn, copy: Copy): readonly Placement[] {
  const placing = turn.server.placings.get(copy.facts.id);
  const placements = placing === undefined ? copy.state.placements : otherHolders(placing, copy);
  if (placing !== undefined) finish(turn, placing, null);
  // Who is lost has nothing left to be told.
  return placements
    .filter((placement) => !turn.server.lost.has(placement.identity))
    .map((placement) => ({ ...placement, status: 'owesAck' as const }));
}

/** The tombstone of a final copy, unless nobody can be left who asks, or the Safety Net answers for it. */
export function leaveFinal(turn: Turn, copy: Copy, state: CopyState, placements: readonly Placement[]): void {
  const isUnasked = placements.length === 0 && everyMemberListed(turn) && state.recipients?.some(isSuccess) === true;
  // An earlier try may still be under way to here (`rememberFinal`).
  if (isUnasked && state.epoch.try === 1) return;
  const { epoch, abortedThrough, recipients } = state;
  const { id, digest } = copy.facts;
  const tombstone = { id, kind: 'final', epoch, abortedThrough, recipients, digest, placements } as const;
  putTombstone(turn, tombstone, commit);
  // Who has not listed it on this session would not be told otherwise; it answers that it has nothing, or moves it to rest.
  for (const { member, identity } of placements) {
    const peer = turn.server.peers.get(member);
    if (peer?.identity !== identity || copy.registered.get(member) === peer.session) continue;
    const told = { id, verdict: 'final', state: tombstoneState(tombstone) } as const;
    late(turn, { copy: id, kind: 'Send', to: member, frame: { kind: 'STATE', state: told } });
  }
}
