/**
 * CLAIM and GRANT (protocol.md 13): a would-be owner asks every member before it delivers. Owns: that a grant is durable before it is said, and that a higher
 * claim answers with itself.
 */
import { type CopyId, compareEpochs, type Epoch, type SharedState, sameEpoch } from '../../common/message.ts';
import type { Claim, Grant, Verdict } from '../../common/peer/messages.ts';
import type { CopyState, StoredCopy } from '../store/database.ts';
import { type Copy, isFinal, merge, register, sharedState } from './copy.ts';
import { finishIfFinal } from './delivery.ts';
import { demote } from './demotion.ts';
import { answered } from './doubt.ts';
import type { StoredCopies } from './events.ts';
import { acknowledge, announceHeld, answerFor, confirmHolder, placementAnswered, tellHolders } from './ownership.ts';
import { changeOwner } from './resting.ts';
import { reopened } from './resubmission.ts';
import { late, note, setState, type Turn, wrong } from './state.ts';
import { lookAgain } from './tombstones.ts';
import { transition } from './transitions.ts';

/** A would-be owner asks. A grant is durable before it is said; a higher claim answers with itself (protocol.md 13). */
export function claimReceived(turn: Turn, member: string, claim: Claim, stored: StoredCopies): void {
  const items: Grant['items'][number][] = [];
  for (const item of claim.items) items.push(grantFor(turn, member, item.id, item.epoch, stored.get(item.id) ?? null));
  for (const page of pagesOf(items))
    late(turn, { copy: null, kind: 'Send', to: member, frame: { kind: 'GRANT', grant: { items: page } } });
}

/** Frames are of bounded size: what counts is how many recipients they tell about. */
function pagesOf(items: readonly Grant['items'][number][]): Grant['items'][number][][] {
  const pages: Grant['items'][number][][] = [];
  let weight = 0;
  for (const item of items) {
    const itsWeight = 1 + (item.state?.recipients?.length ?? 0);
    const page = pages.at(-1);
    if (page === undefined || weight + itsWeight > 1_000) {
      pages.push([item]);
      weight = itsWeight;
    } else {
      page.push(item);
      weight += itsWeight;
    }
  }
  return pages;
}

/** Row 34 for what rests: who owns the higher epoch answers for it from now on, and this entry is its shadow. */
function succeededAtRest(turn: Turn, member: string, epoch: Epoch, stored: StoredCopy | null): void {
  const isOwn = epoch.owner === turn.server.peers.get(member)?.identity;
  if (stored === null || !isOwn || compareEpochs(epoch, stored.state.epoch) <= 0) return;
  changeOwner(turn, stored, epoch);
}

function grantFor(
  turn: Turn,
  member: string,
  id: CopyId,
  epoch: CopyState['epoch'],
  stored: StoredCopy | null,
): Grant['items'][number] {
  const { server } = turn;
  const copy = server.copies.get(id);
  if (copy === undefined) {
    succeededAtRest(turn, member, epoch, stored);
    const answer = answerFor(turn, id, stored, epoch);
    // Given up here, taken over there (row 31): what we asked about it is answered, and it is not aborted any more.
    const tombstone = turn.server.tombstones.get(id);
    const isOwn = epoch.owner === server.peers.get(member)?.identity;
    if (isOwn && tombstone?.kind === 'aborted' && compareEpochs(epoch, tombstone.epoch) > 0) {
      turn.server.tombstones.delete(id);
      note(turn, { kind: 'forget', id });
    }
    return { id, granted: true, verdict: answer.verdict, state: answer.state };
  }
  const order = wrong(turn, 'lower-claim-granted') ? 1 : compareEpochs(epoch, copy.state.epoch);
  if (order < 0) return { id, granted: false, verdict: 'owner', state: sharedState(copy.facts, copy.state) };
  if (order > 0) {
    // Nobody claims for somebody else (semantics.md S14).
    if (epoch.owner !== server.peers.get(member)?.identity && !wrong(turn, 'claims-for-others'))
      return { id, granted: false, verdict: 'owner', state: sharedState(copy.facts, copy.state) };
    const claimed = { ...sharedState(copy.facts, copy.state), epoch };
    if (copy.state.epoch.owner === server.me) {
      if (!demote(turn, copy, claimed))
        return { id, granted: false, verdict: 'pending', state: sharedState(copy.facts, copy.state) };
    } else {
      transition(server.coverage, 'ClaimGranted', copy.state.queue, 'shadow', copy.state.queue);
      setState(turn, copy, { ...copy.state, epoch }, wrong(turn, 'grant-not-durable') ? 'lazy' : 'commit');
    }
    announceHeld(turn, copy);
  }
  const peer = server.peers.get(member);
  if (peer !== undefined) register(copy, member, peer);
  const state = order === 0 && saysNothing(copy) ? null : sharedState(copy.facts, copy.state);
  return { id, granted: true, verdict: 'pending', state };
}

/**
 * What the owner asks about after a restart is mostly as it was: it gets a yes for each of a hundred thousand copies, not each of their states. A state also
 * tells which claim is answered: the first epoch there is was claimed once only. That it is held here, our LIST says as well (but not for DSNs).
 */
function saysNothing({ facts, state }: Copy): boolean {
  const { epoch, standing, abortedThrough, recipients, suspended } = state;
  const isFirst = epoch.try === 1 && epoch.term === 0;
  const isUntouched =
    standing === 'released' && abortedThrough === 0 && suspended === false && recipients?.some(isFinal) !== true;
  return facts.kind !== 'dsn' && isFirst && isUntouched;
}

/** Claimed, offered a shadow of it, known to hold it, or owner of a higher epoch: nobody else has a say in a copy of mine. */
function maySpeak(turn: Turn, member: string, { id, state }: Grant['items'][number]): boolean {
  const { copies, unasked, placings, peers } = turn.server;
  const copy = copies.get(id);
  const isHigherOwner =
    copy !== undefined &&
    state !== null &&
    state.epoch.owner === peers.get(member)?.identity &&
    compareEpochs(state.epoch, copy.state.epoch) > 0;
  return (
    isHigherOwner ||
    copy?.doubt?.waiting.includes(member) === true ||
    copy?.registered.has(member) === true ||
    unasked.get(member)?.has(id) === true ||
    placings.get(id)?.attempts.some((attempt) => attempt.member === member) === true
  );
}

export function grantReceived(turn: Turn, member: string, grant: Grant): void {
  const { server } = turn;
  const peer = server.peers.get(member);
  if (peer === undefined) return;
  for (const item of grant.items) {
    const mayBeHeard = maySpeak(turn, member, item);
    const isHeardNow = isAnswer(item) && !peer.isLate;
    if (isHeardNow && server.unasked.get(member)?.delete(item.id) === true) lookAgain(turn, item.id);
    // Who says so itself has nothing left to be told.
    if (item.verdict === 'final') placementAnswered(turn, item.id, peer.identity);
    const copy = server.copies.get(item.id);
    if (copy === undefined || !mayBeHeard) continue;
    if (item.state !== null && (item.state.digest === copy.facts.digest || copy.facts.kind === 'dsn'))
      heardAbout(turn, member, copy, item.state, item.verdict);
    const still = server.copies.get(item.id);
    // The answer to an earlier claim of mine, at a lower epoch, does not count for this one.
    const isOld =
      item.verdict === 'pending' &&
      item.state !== null &&
      still !== undefined &&
      compareEpochs(item.state.epoch, still.state.epoch) < 0;
    if (still !== undefined && !isOld && isHeardNow) answered(turn, still, member);
  }
}

/** Not granted and nothing else said: it is being delivered there right now, and what became of it is said later, or asked for again. */
const isAnswer = ({ granted, verdict }: Grant['items'][number]): boolean => granted || verdict !== 'pending';

/**
 * An epoch above mine that cannot be: it names me although I never wrote it, or a database nobody of this boundary was ever met with. A copy
 * given to nobody would wait for ever (semantics.md S14); when such an owner exists it will tell itself.
 */
export function isIncredible(turn: Turn, copy: Copy, remote: SharedState): boolean {
  if (compareEpochs(remote.epoch, copy.state.epoch) <= 0) return false;
  return remote.epoch.owner === turn.server.me || !turn.server.memberOf.has(remote.epoch.owner);
}

/** Who may say that everything is done: the owner of that epoch, or a member that was asked or holds the copy. */
function mayEnd(turn: Turn, copy: Copy, member: string, remote: SharedState): boolean {
  const { server } = turn;
  return (
    remote.epoch.owner === server.peers.get(member)?.identity ||
    compareEpochs(remote.epoch, copy.state.epoch) > 0 ||
    copy.doubt?.waiting.includes(member) === true ||
    copy.registered.has(member) ||
    server.placings.get(copy.facts.id)?.attempts.some((attempt) => attempt.member === member) === true
  );
}

const finals = (recipients: CopyState['recipients']): number => recipients?.filter(isFinal).length ?? 0;

/** A member's knowledge about a copy of mine: a higher owner demotes me, finality is merged, a holder is remembered. */
function heardAbout(turn: Turn, member: string, copy: Copy, remote: SharedState, verdict: Verdict): void {
  const { server } = turn;
  const peer = server.peers.get(member);
  if (verdict === 'aborted' || copy.state.epoch.owner !== server.me || isIncredible(turn, copy, remote)) return;
  if (verdict === 'final') {
    if (mayEnd(turn, copy, member, remote) && demote(turn, copy, { ...remote, final: true }))
      acknowledge(turn, member, copy.facts.id, remote.epoch, 'moved');
    return;
  }
  if (compareEpochs(remote.epoch, copy.state.epoch) > 0) {
    // A higher try that is still in intake may be aborted; once released its owner claims this copy itself (protocol.md 7).
    if (remote.standing === 'released') demote(turn, copy, remote);
    return;
  }
  const merged = merge(copy.state, remote);
  const recipients = merged.recipients === null ? null : reopened(turn, merged, merged.recipients);
  if (merged !== copy.state) {
    const isNews = finals(recipients) > finals(copy.state.recipients);
    setState(turn, copy, { ...merged, recipients }, 'lazy');
    if (finishIfFinal(turn, copy)) return;
    // Whom a former owner has served, its holders heard from nobody whose word counts with them (seed 326).
    if (isNews) tellHolders(turn, copy.facts, copy.state, copy.registered, 'pending');
  }
  if (
    peer !== undefined &&
    verdict === 'pending' &&
    sameEpoch(remote.epoch, copy.state.epoch) &&
    copy.state.standing === 'released'
  ) {
    register(copy, member, peer);
    // protocol.md 8: only equal bytes protect.
    if (remote.digest === copy.facts.digest) confirmHolder(turn, copy, member, peer.identity);
  }
}
