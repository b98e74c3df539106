/**
 * Copies that come straight to rest (rehome.ts sends them), and copies at rest whose owner changes. Owns: that what rests here already is not written twice, and
 * that the higher epoch answers for it.
 */
import { compareEpochs, type RecipientState, type Reply, type SharedState } from '../../common/message.ts';
import { reply } from '../../common/smtp/replies.ts';
import type { CopyFacts, CopyState, StoredCopy } from '../store/database.ts';
import { freshState } from './copy.ts';
import { claimFrom } from './doubt.ts';
import { takesNothing } from './drain.ts';
import type { HeldAs, ShadowOpening } from './intake.ts';
import { changeResting, restsAlone } from './rehome.ts';
import { cameToRest } from './resubmission.ts';
import { commit, early, type IncomingShadow, late, type Turn, trustedNow } from './state.ts';
import { rememberFinal } from './tombstones.ts';
import { transition } from './transitions.ts';

/** What is lacking when it is only not the time for it. */
const BUSY = 'busy';

/** A copy that is final elsewhere shall rest here too (rehome.ts). A member that is drained hands over what it holds for others as well. */
export function restOpened(turn: Turn, opening: ShadowOpening, refuse: (said: Reply, held?: HeldAs) => void): void {
  const { server } = turn;
  const live = server.copies.get(opening.id);
  // Who is its shadow still will hear that it is final, from the owner or from whoever asks when it takes over.
  const isHeld =
    (opening.stored !== null && opening.stored.facts.digest === opening.state.digest) ||
    (live !== undefined && live.facts.digest === opening.state.digest);
  const { stored, state } = opening;
  // The owner of what rests here has changed: a drain handed it on, or another shadow succeeded.
  const isSucceeded = stored !== null && compareEpochs(state.epoch, stored.state.epoch) > 0;
  const { owner } = state.epoch;
  // Its new owner says so itself, or its former one hands it to me.
  const isTrue = owner === opening.identity || (owner === server.me && stored?.state.epoch.owner === opening.identity);
  if (isHeld && isSucceeded && isTrue) changeOwner(turn, stored, state.epoch);
  // I answer for it under a higher epoch than the sender's: that one is my shadow (row 34). It may have finished it without having heard that I took it over
  // (seed 30581), or have died after it handed it to me and before it gave its own up (seed 33065).
  const isMine = stored !== null && stored.state.epoch.owner === server.me;
  if (isHeld && isMine && compareEpochs(stored.state.epoch, state.epoch) >= (owner === server.me ? 0 : 1))
    claimFrom(turn, opening.member, opening.id, stored.state.epoch);
  if (isHeld) return refuse(reply('localError'), 'held');
  if (isReportOtherwise(turn, opening)) return refuse(reply('localError'), 'heldOtherwise');
  // Two members that send the same entry at once: one is enough.
  for (const other of server.incoming.values())
    if (other.id === opening.id) return refuse(reply('backPressure', { resource: BUSY }));
  const isWrong =
    opening.stored !== null || live !== undefined || !opening.state.final || opening.state.recipients === null;
  if (isWrong || server.pressure !== 'Normal' || takesNothing(server))
    return refuse(reply('backPressure', { resource: server.pressedBy || BUSY }));
  server.incoming.set(opening.stream, opening);
  early(turn, { kind: 'AcceptStream', stream: opening.stream });
}

/** Two members made it, and their bytes differ (docs/decisions/0006-two-makers-of-one-dsn.md). */
const isReportOtherwise = ({ server }: Turn, { id, state, stored }: ShadowOpening): boolean =>
  stored !== null &&
  state.kind === 'dsn' &&
  stored.facts.kind === 'dsn' &&
  stored.damaged === undefined &&
  !server.damaged.has(id);

export function changeOwner(turn: Turn, { facts, state }: StoredCopy, epoch: SharedState['epoch']): void {
  const isMine = epoch.owner === turn.server.me;
  const queue = isMine ? 'primarySafetyNet' : 'shadowSafetyNet';
  const next: CopyState = { ...state, epoch, queue, placements: [] };
  changeResting(turn, facts.id, next);
  cameToRest(turn, { facts, state: next });
  if (isMine) restsAlone(turn, { facts, state: next });
}

/** Straight to rest: committed and moved in one go. */
export function restEnded(turn: Turn, opening: IncomingShadow, facts: CopyFacts, stream: number): void {
  const { server } = turn;
  const { epoch, recipients, abortedThrough } = opening.state;
  const isMine = epoch.owner === server.me;
  const queue = isMine ? 'primarySafetyNet' : 'shadowSafetyNet';
  const state = freshState({
    queue: isMine ? 'submission' : 'shadow',
    epoch,
    standing: 'released',
    abortedThrough,
    recipients,
    finalAtMs: finalAt(turn, opening.member, recipients ?? []),
  });
  transition(server.coverage, 'RestReceived', '-', isMine ? 'primary' : 'shadow', queue);
  commit(turn, { kind: 'commit', facts, state, stream });
  commit(turn, { kind: 'move', id: facts.id, state: { ...state, queue } });
  rememberFinal(turn, facts, state);
  cameToRest(turn, { facts, state: { ...state, queue } });
  if (isMine || server.lost.has(epoch.owner)) restsAlone(turn, { facts, state: { ...state, queue } });
  late(turn, {
    copy: facts.id,
    kind: 'Track',
    event: 'HARECEIVE',
    facts,
    id: facts.id,
    peer: opening.member,
    detail: 'at rest',
  });
}

/**
 * It keeps the place in time it had (semantics.md N1): the last recipient's. By the sender's time where ours is ahead of that: a new queue database that was begun under
 * a wrong clock would else give it up at once (seed 30025).
 */
export function finalAt(turn: Turn, member: string, recipients: readonly RecipientState[]): number {
  const times = recipients.flatMap(({ atMs }) => (atMs === undefined ? [] : [atMs]));
  const aheadMs = turn.server.peers.get(member)?.aheadMs ?? 0;
  return times.length === 0 ? trustedNow(turn) : Math.min(trustedNow(turn), Math.max(...times) + Math.max(0, -aheadMs));
}
