/**
 * Safety Net copies find a second home again (semantics.md S8, N4; protocol.md 17): a paced walk over what rests here after a queue database was lost, and while
 * this member is drained. The same way of sending serves a member whose own body is damaged (FETCH). Owns: that an entry is given up here only after another
 * member has it durably, and that the walk never has more than a few copies in its hands.
 */
import type { CopyId, SharedState } from '../../common/message.ts';
import type { Fetch, Result } from '../../common/peer/messages.ts';
import type { CopyFacts, CopyState, Placement, StoredCopy } from '../store/database.ts';
import { roleOf, sharedState, withPlacement } from './copy.ts';
import { ANY_DIGEST } from './damage.ts';
import { claimAtRest, claimNow } from './doubt.ts';
import type { CoreEvent } from './events.ts';
import { hasHome, isDraining, needOf, seeksHome } from './homes.ts';
import { mayReceive, pickHome } from './placing.ts';
import { askOwner, askOwners, withoutAnswer } from './rest-owners.ts';
import { cameToRest } from './resubmission.ts';
import { commit, early, late, memberWith, note, setTimer, type Turn, wrong } from './state.ts';
import { isKnownHolder, isLeftToPartner, noSuccessors } from './successors.ts';
import { transition } from './transitions.ts';

const PAGE = 50;
/** Copies remembered one by one; beyond that a walk finds them. */
const MAX_WAITING = 1_000;
/** Set while something here may still have to find a home: a restart walks again. */
export const REHOME_FACT = 'rehoming';
/** Rounds of a second in which members may turn an entry away, and the pause before what is left is looked at again. */
const MAX_TRIES = 40;
const RETRY_WALK_MS = 600_000;
/** What is in one site only is looked for again when somebody of another is there, and not more often than this. */
const NARROW_PAUSE_MS = 60_000;
/** Copies under way at once: live mail shall hardly notice (protocol.md 17). */
const IN_HAND = 8;
/** From OPEN to the answer; large bodies take their time. */
const ANSWER_MS = 60_000;

interface Sending {
  readonly facts: CopyFacts;
  readonly state: CopyState;
  readonly notAt?: string;
  /** protect: gets a holder. handOver: leaves this database. fetch: somebody's own body is damaged. */
  readonly mode: 'protect' | 'handOver' | 'fetch';
  readonly member: string;
  readonly attempt: number;
  readonly sent: SharedState;
}

export interface Asked {
  readonly copy: StoredCopy;
  readonly atMs: number;
}

/** `notAt`: the member that is to give it up. */
interface Waiting extends StoredCopy {
  readonly notAt?: string;
}

export interface Rehoming {
  scan: number | null;
  /** Something happened since the walk began: walk once more. */
  again: boolean;
  done: boolean;
  /** What the present walk has met. */
  met: number;
  unreadable: number;
  /** Nothing was in transit here when the walk began, and nothing at rest has changed since: what it meets is all there is. */
  cleanStart: boolean;
  /** The fact says so. */
  marked: boolean;
  /** Changes at rest that are not durable yet, by copy. */
  readonly changing: Map<CopyId, number>;
  /** A whole walk of a draining member met nothing. */
  empty: boolean;
  readonly waiting: Waiting[];
  readonly sending: Map<CopyId, Sending>;
  /** Shadow entries of a draining member whose owner was asked to place them elsewhere. */
  readonly asked: Map<CopyId, Asked>;
  /** Shadow entries whose owner was asked whether it still has them. */
  readonly checking: Map<CopyId, Asked>;
  /** To be taken up again with the next round. */
  readonly later: StoredCopy[];
  /** How often an owner said that it has no other home for it yet. */
  readonly refusals: Map<CopyId, number>;
  /** How often an entry was turned away: in the end the walk goes on without it, and another walk meets it again. */
  readonly tries: Map<CopyId, number>;
  unplaced: number;
  /** Entries in one site only that policy wants in two: nobody of another site could take them. */
  narrow: number;
  /** Entries of which an owner that is there did not say whether it has them. */
  unanswered: number;
  /** When to walk again for what could not be read or placed. */
  retryAtMs: number | null;
  /** Not before that for what is in one site only (seed 3517: one walk left both). */
  spreadAtMs: number | null;
  /** Members that turned the copy away since the last pause. */
  readonly turnedAway: Map<CopyId, Set<string>>;
}

export const newRehoming = (): Rehoming => ({
  scan: null,
  again: false,
  done: true,
  met: 0,
  unreadable: 0,
  cleanStart: false,
  marked: false,
  changing: new Map(),
  empty: false,
  waiting: [],
  sending: new Map(),
  asked: new Map(),
  checking: new Map(),
  later: [],
  refusals: new Map(),
  tries: new Map(),
  unplaced: 0,
  narrow: 0,
  unanswered: 0,
  retryAtMs: null,
  spreadAtMs: null,
  turnedAway: new Map(),
});

export function startRehoming(turn: Turn): void {
  const { rehoming } = turn.server;
  if (wrong(turn, 'safety-net-not-rehomed')) return;
  if (!rehoming.done) {
    rehoming.again = true;
    return;
  }
  mark(turn, true);
  turn.server.nextScan += 1;
  const { copies, intakes, incoming } = turn.server;
  rehoming.cleanStart = copies.size === 0 && intakes.size === 0 && incoming.size === 0;
  Object.assign(rehoming, {
    scan: turn.server.nextScan,
    again: false,
    done: false,
    met: 0,
    unreadable: 0,
    unplaced: 0,
    narrow: 0,
    unanswered: 0,
    retryAtMs: null,
    spreadAtMs: null,
  });
  early(turn, { kind: 'ScanSafetyNet', scan: turn.server.nextScan, filter: {}, pageSize: PAGE });
}

function mark(turn: Turn, isUnderWay: boolean): void {
  const { rehoming } = turn.server;
  if (rehoming.marked === isUnderWay) return;
  // What was decided and is not written yet, a restart must decide again.
  if (!isUnderWay && rehoming.changing.size > 0) return;
  rehoming.marked = isUnderWay;
  note(turn, { kind: 'fact', key: REHOME_FACT, value: isUnderWay ? true : null });
}

/** It came to rest with nobody else known to have it, or nobody of another site: delivered before it got its shadow, or after that one was lost. */
export function restsAlone(turn: Turn, copy: Waiting): void {
  const { rehoming, boundary } = turn.server;
  if (boundary.length === 0 || wrong(turn, 'safety-net-not-rehomed')) return;
  mark(turn, true);
  if (rehoming.waiting.length >= MAX_WAITING) {
    startRehoming(turn);
    return;
  }
  rehoming.waiting.push(copy);
  rehomeNext(turn);
}

/** True when the scan is ours. */
export function rehomePage(
  turn: Turn,
  scan: number,
  copies: readonly StoredCopy[],
  unreadable: number,
  done: boolean,
): boolean {
  const { rehoming } = turn.server;
  if (rehoming.scan !== scan) return false;
  rehoming.met += copies.length;
  rehoming.unreadable += unreadable;
  const shadows: StoredCopy[] = [];
  for (const copy of copies)
    if (needOf(turn, copy) !== 'none') rehoming.waiting.push(copy);
    else if (copy.state.queue === 'shadowSafetyNet') shadows.push(copy);
  askOwners(turn, shadows);
  if (done) rehoming.scan = null;
  rehomeNext(turn);
  return true;
}

/** Takes up the next copies; called when one is done, and every second. */
export function rehomeNext(turn: Turn): void {
  const { server } = turn;
  const { rehoming } = server;
  // Medium pressure: live mail first (semantics.md R10). A drain goes on, it makes room.
  if (server.pressure === 'Normal' || isDraining(server)) {
    for (let tries = rehoming.waiting.length; tries > 0 && rehoming.sending.size < IN_HAND; tries--) {
      const copy = rehoming.waiting.shift();
      if (copy === undefined) break;
      if (!takeUp(turn, copy)) rehoming.waiting.push(copy);
    }
  }
  if (rehoming.waiting.length > 0) return;
  if (rehoming.scan !== null) {
    if (rehoming.sending.size < IN_HAND && rehoming.checking.size === 0)
      early(turn, { kind: 'NextSafetyNetPage', scan: rehoming.scan });
    return;
  }
  if (rehoming.sending.size > 0 || rehoming.asked.size > 0 || rehoming.checking.size > 0 || rehoming.later.length > 0)
    return;
  if (rehoming.done) {
    if (rehoming.retryAtMs === null && rehoming.narrow === 0) mark(turn, false);
    return;
  }
  rehoming.done = true;
  rehoming.empty = isDraining(server) && rehoming.met === 0 && rehoming.unreadable === 0 && rehoming.cleanStart;
  const isLeft = rehoming.unplaced > 0 || rehoming.unreadable > 0 || rehoming.unanswered > 0;
  if (rehoming.again) return startRehoming(turn);
  if (isLeft) rehoming.retryAtMs = turn.nowMs + RETRY_WALK_MS;
  if (rehoming.narrow > 0) rehoming.spreadAtMs = turn.nowMs + NARROW_PAUSE_MS;
  else if (!isLeft) mark(turn, false);
}

/** False when nobody can take it now. */
function takeUp(turn: Turn, copy: Waiting): boolean {
  const { server } = turn;
  const { id } = copy.facts;
  if (server.rehoming.sending.has(id) || server.copies.has(id)) return true;
  const need = needOf(turn, copy);
  if (need === 'none') return true;
  if (need === 'inherit') return inherit(turn, copy);
  if (need === 'askOwner') return askOwner(turn, copy);
  const member = targetOf(turn, copy, need);
  if (member === null) return need === 'spread' && staysNarrow(turn, id);
  const identity = server.peers.get(member)?.identity;
  if (identity === undefined) return false;
  const { epoch } = copy.state;
  // Who gets the last copy of the primary becomes it (row 35 for what rests); a shadow's successor serves the same owner.
  const isHandedOn = need === 'handOver' && epoch.owner === server.me;
  const sentEpoch = isHandedOn ? { ...epoch, term: epoch.term + 1, owner: identity } : epoch;
  send(turn, copy, need === 'spread' ? 'protect' : need, member, 'rest', {
    ...sharedState(copy.facts, copy.state),
    epoch: sentEpoch,
    final: true,
  });
  return true;
}

/** True when nobody of another site can take it now: two copies in one site wait for nobody. Who turned it away a moment ago is asked again. */
function staysNarrow({ server: { rehoming } }: Turn, id: CopyId): boolean {
  if (rehoming.turnedAway.has(id)) return false;
  rehoming.narrow += 1;
  return true;
}

/** Row 42: the owner is lost, or does not have it any more, so this shadow at rest is what is left of the primary. The walk finds it a holder in the same go. */
export function inherit(turn: Turn, { facts, state }: StoredCopy): boolean {
  const { server } = turn;
  const epoch = { ...state.epoch, term: state.epoch.term + 1, owner: server.me };
  transition(server.coverage, 'RoleChanged', 'shadowSafetyNet', 'primary', 'primarySafetyNet');
  const next: CopyState = { ...state, epoch, queue: 'primarySafetyNet', placements: [] };
  moveAgain(turn, facts, next);
  claimAtRest(turn, facts.id, epoch);
  server.rehoming.waiting.push({ facts, state: next });
  return true;
}

/** Not a commit of this step: what expires at this very moment cannot be changed, and that must not end the process. */
function moveAgain(turn: Turn, facts: CopyFacts, state: CopyState): void {
  changeResting(turn, facts.id, state);
  cameToRest(turn, { facts, state });
}

/** It has another place in the log then, behind what a walk under way will look at: that walk proves nothing (seed 32118). */
export function changeResting(turn: Turn, id: CopyId, state: CopyState): void {
  const { rehoming } = turn.server;
  rehoming.cleanStart = false;
  rehoming.changing.set(id, (rehoming.changing.get(id) ?? 0) + 1);
  rehoming.checking.delete(id);
  // What waits its turn was read before.
  for (const list of [rehoming.waiting, rehoming.later])
    for (const [index, copy] of list.entries()) if (copy.facts.id === id) list[index] = { ...copy, state };
  early(turn, { kind: 'ChangeResting', id, state });
}

/** A change at rest is durable, or what it was about has ended. */
export function restingChanged(turn: Turn, id: CopyId): void {
  const { changing } = turn.server.rehoming;
  const left = (changing.get(id) ?? 1) - 1;
  if (left > 0) changing.set(id, left);
  else {
    changing.delete(id);
    claimNow(turn, id);
  }
  rehomeNext(turn);
}

/** Another member than those that are known to have it; a drain may end at the partner when nobody else is left. */
function targetOf(turn: Turn, copy: Waiting, need: 'protect' | 'spread' | 'handOver'): string | null {
  const { server } = turn;
  const partners = new Set(copy.state.placements.map((placement) => placement.member));
  const owner = memberWith(server, copy.state.epoch.owner);
  if (owner !== null) partners.add(owner);
  const exclude = new Set(server.rehoming.turnedAway.get(copy.facts.id));
  if (copy.notAt !== undefined) exclude.add(copy.notAt);
  if (need === 'spread') for (const { name, site } of server.boundary) if (site === server.self.site) exclude.add(name);
  if (need === 'handOver' && !wrong(turn, 'partner-counts-as-successor'))
    for (const name of noSuccessors(turn, copy.facts.id, partners)) exclude.add(name);
  // Of a drained entry it is the partner's site that counts: both copies would else come to be in one.
  const partner =
    need === 'handOver' ? server.boundary.find((one) => one.state === 'active' && partners.has(one.name)) : undefined;
  return pickHome(turn, exclude, partner);
}

function send(
  turn: Turn,
  copy: Waiting,
  mode: Sending['mode'],
  member: string,
  purpose: 'rest' | 'copy',
  sent: SharedState,
): void {
  const { server } = turn;
  server.nextAttempt += 1;
  const attempt = server.nextAttempt;
  const { facts, state, notAt } = copy;
  const away = notAt === undefined ? {} : { notAt };
  server.rehoming.sending.set(facts.id, { facts, state, ...away, mode, member, attempt, sent });
  const { id, envelope } = facts;
  late(turn, { copy: id, kind: 'OpenCandidate', id, attempt, member, purpose, envelope, state: sent });
  setTimer(turn, ANSWER_MS, 'rehome', facts.id, attempt);
}

function sendingOf(turn: Turn, id: CopyId, attempt: number): Sending | null {
  const sending = turn.server.rehoming.sending.get(id);
  return sending?.attempt === attempt ? sending : null;
}

/** The events of a stream of ours; each answers false when the attempt is not ours. */
export function rehomeOpened(turn: Turn, id: CopyId, attempt: number): boolean {
  const sending = sendingOf(turn, id, attempt);
  if (sending === null) return false;
  const { digest, sizeBytes, events } = sending.facts;
  early(turn, { kind: 'EndCandidate', id, attempt, digest, sizeBytes, events });
  return true;
}

export function rehomeRefused(turn: Turn, said: Extract<CoreEvent, { readonly kind: 'CandidateRefused' }>): boolean {
  const sending = sendingOf(turn, said.id, said.attempt);
  if (sending === null) return false;
  const isHandOver = sending.mode === 'handOver';
  // Other bytes never protect (protocol.md 8); yet of two reports about one failure nobody waits for a home of the second (seed 60410).
  const isHeld = said.held || (said.heldOtherwise === true && sending.mode !== 'fetch');
  if (!isHeld || (isHandOver && isLeftToPartner(turn, sending))) turnedAway(turn, sending);
  else if (isHandOver ? isKnownHolder(turn, sending) : said.held) settled(turn, sending);
  else foundHolder(turn, sending);
  return true;
}

/** For this walk only: what is written names none but who has the same bytes. */
function foundHolder(turn: Turn, sending: Sending): void {
  const { server } = turn;
  const { facts, state, member } = sending;
  const identity = server.peers.get(member)?.identity;
  server.rehoming.sending.delete(facts.id);
  const placement: Placement | null =
    identity === undefined ? null : { identity, member, epoch: state.epoch, status: 'sentEnd' };
  const placements = placement === null ? state.placements : withPlacement(state.placements, placement);
  server.rehoming.waiting.push({ facts, state: { ...state, placements } });
  rehomeNext(turn);
}

export function rehomeResult(turn: Turn, id: CopyId, attempt: number, result: Result): boolean {
  const sending = sendingOf(turn, id, attempt);
  if (sending === null) return false;
  if (result.outcome === 'stored' && result.digest === sending.facts.digest) settled(turn, sending);
  else turnedAway(turn, sending);
  return true;
}

/** The connection ended, or no answer came: whether the member has it now, it says when it is asked again. */
export function rehomeLost(turn: Turn, id: CopyId, attempt: number): boolean {
  const sending = sendingOf(turn, id, attempt);
  if (sending === null) return false;
  turnedAway(turn, sending);
  return true;
}

export function rehomeOverdue(turn: Turn, id: CopyId, attempt: number): void {
  const sending = sendingOf(turn, id, attempt);
  if (sending === null) return;
  early(turn, { kind: 'DropCandidate', id, attempt, reason: 'no answer' });
  turnedAway(turn, sending);
}

function turnedAway(turn: Turn, sending: Sending): void {
  const { rehoming } = turn.server;
  const { id } = sending.facts;
  rehoming.sending.delete(id);
  if (sending.mode === 'fetch') return;
  const by = rehoming.turnedAway.get(id) ?? new Set<string>();
  by.add(sending.member);
  rehoming.turnedAway.set(id, by);
  const tries = (rehoming.tries.get(id) ?? 0) + 1;
  if (tries < MAX_TRIES) {
    rehoming.tries.set(id, tries);
    rehoming.waiting.push(sending);
    return;
  }
  rehoming.tries.delete(id);
  rehoming.turnedAway.delete(id);
  rehoming.unplaced += 1;
  // Outside of a walk nothing else would look for it again.
  if (rehoming.done) rehoming.retryAtMs ??= turn.nowMs + RETRY_WALK_MS;
  rehomeNext(turn);
}

/** Every second: members that turned something away are asked again. */
export function rehomeTick(turn: Turn): void {
  const { rehoming } = turn.server;
  rehoming.turnedAway.clear();
  if (!isDraining(turn.server)) rehoming.refusals.clear();
  withoutAnswer(turn);
  rehoming.waiting.push(...rehoming.later.splice(0));
  const isDue = isWalkDue(turn);
  if (rehoming.done && (isDue || (isDraining(turn.server) && !rehoming.empty))) startRehoming(turn);
  if (!rehoming.done || rehoming.waiting.length > 0) rehomeNext(turn);
}

/** The boundary has a second site from now on: what rests here is in the first one (seed 466 with SMTP clients). */
export function anotherSite(turn: Turn): void {
  turn.server.rehoming.narrow += 1;
  mark(turn, true);
}

function isWalkDue(turn: Turn): boolean {
  const { nowMs, server } = turn;
  const { rehoming, boundary, self } = server;
  const { retryAtMs, spreadAtMs, narrow } = rehoming;
  if (retryAtMs !== null && nowMs >= retryAtMs) return true;
  if (narrow === 0 || (spreadAtMs !== null && nowMs < spreadAtMs)) return false;
  // Nothing is read before somebody of another site can take it.
  return boundary.some(({ name, site, state }) => site !== self.site && state === 'active' && mayReceive(turn, name));
}

/** The member has it durably: it is a holder from now on, or the only place. */
function settled(turn: Turn, sending: Sending): void {
  const { server } = turn;
  const { facts, state, mode, member } = sending;
  const { id } = facts;
  server.rehoming.sending.delete(id);
  server.rehoming.turnedAway.delete(id);
  server.rehoming.tries.delete(id);
  const identity = server.peers.get(member)?.identity;
  if (mode === 'handOver') {
    transition(server.coverage, 'HandedOver', state.queue, roleOf(state, server.me), 'removed');
    commit(turn, { kind: 'remove', id });
  } else if (mode === 'protect' && identity !== undefined) {
    const placement: Placement = { identity, member, epoch: state.epoch, status: 'confirmed' };
    transition(server.coverage, 'Rehomed', 'primarySafetyNet', 'primary', 'primarySafetyNet');
    const homes = state.placements.filter((one) => one.status === 'confirmed' && hasHome(server, one));
    const next = { ...state, placements: withPlacement(homes, placement) };
    moveAgain(turn, facts, next);
    // The nearest was there first: better than none, and not the end (seed 244).
    if (seeksHome(turn, next)) server.rehoming.waiting.push({ facts, state: next });
  }
  if (mode !== 'fetch') late(turn, { copy: null, kind: 'Count', what: 'rehomed', label: mode });
  rehomeNext(turn);
}

/** A member's own body is damaged: whoever has the same bytes sends them (row 39). */
export function fetchReceived(turn: Turn, member: string, fetch: Fetch, stored: StoredCopy | null): void {
  const { server } = turn;
  const live = server.copies.get(fetch.id);
  const copy: StoredCopy | null = live === undefined ? stored : { facts: live.facts, state: live.state };
  if (copy === null || copy.damaged !== undefined || server.damaged.has(fetch.id)) return;
  // Who cannot read even what it had asks for whatever rests under that id.
  const isWanted = copy.facts.digest === fetch.digest || (live === undefined && fetch.digest === ANY_DIGEST);
  if (!isWanted) return;
  if (server.rehoming.sending.has(fetch.id) || !server.boundary.some((one) => one.name === member)) return;
  send(turn, copy, 'fetch', member, 'copy', sharedState(copy.facts, copy.state));
}
