/**
 * The transport's core: `step(server, event, now)` (architecture.md section 3). Start reading here. Owns: which part answers which event. PURE: no I/O, no
 * clock, no randomness of its own, no logger. What must be durable comes back in `commit` and `note`, what may be said early in `now`, what may be said
 * only afterwards in `afterCommit`.
 */

import type { TopologyDocument } from '../../common/config.ts';
import type { CopyId, Identity } from '../../common/message.ts';
import type { Contact } from '../../common/peer/messages.ts';
import { unreachable } from '../../common/platform/assert.ts';
import type { Recovered } from '../store/database.ts';
import { resolveAnswered, resolveCapReached } from './aborting.ts';
import { setAge, takeAges } from './ages.ts';
import { answerWaiters } from './answers.ts';
import { claimReceived, grantReceived } from './claims.ts';
import { everyRecipient, newCopy, roleOf } from './copy.ts';
import { damageTick } from './damage.ts';
import {
  deliveryDone,
  deliveryWithheld,
  finishIfFinal,
  hopDue,
  paceDue,
  retryDue,
  routingChanged,
} from './delivery.ts';
import { beginDoubt, doubtsTimedOut, flushClaims } from './doubt.ts';
import { drainTick, releaseAcked, releaseReceived, resignReceived } from './drain.ts';
import { type CoreEvent, emptyStep, type StepResult } from './events.ts';
import { ageDue } from './expiry.ts';
import { spansSites } from './homes.ts';
import { inquiryAnswered } from './inquiry.ts';
import {
  intakeEnded,
  intakeLost,
  intakeOpened,
  resolveAsked,
  shadowEnded,
  shadowLost,
  shadowOpened,
} from './intake.ts';
import { tellLoaded } from './loaded.ts';
import { type CoreOptions, type Now, newServer, placeOf } from './new-server.ts';
import { carryOut, suspendedIn } from './orders.ts';
import { listReceived, peerUp, settle, stateAcknowledged, stateReceived } from './ownership.ts';
import {
  attemptTimedOut,
  candidateLost,
  candidateOpened,
  candidateRefused,
  candidateResult,
  mayReceive,
  placingOverdue,
  reshadow,
  reshadowRound,
} from './placing.ts';
import { countDeath, openDoor, type RiskOptions } from './poison.ts';
import { memberGone, notice, peerDown, presenceTick, timeHeard } from './presence.ts';
import {
  anotherSite,
  fetchReceived,
  REHOME_FACT,
  rehomeLost,
  rehomeOpened,
  rehomeOverdue,
  rehomePage,
  rehomeRefused,
  rehomeResult,
  rehomeTick,
  restingChanged,
  startRehoming,
} from './rehome.ts';
import { dsnAtRest, dsnComposed, resumeReports } from './reports.ts';
import {
  OWNER_COVER,
  ownerCoveredReceived,
  ownerCoverReceived,
  REHOME_COVER,
  rehomeCoveredReceived,
  rehomeCoverReceived,
} from './rest-owners.ts';
import {
  bodyCopied,
  bodyNotCopied,
  coveredReceived,
  coverReceived,
  requestsChanged,
  resubmissionPage,
  resubmissionTick,
} from './resubmission.ts';
import {
  addCopy,
  type CoreTimer,
  early,
  popTimer,
  type Server,
  setState,
  setTimer,
  type Turn,
  trustedNow,
  wrong,
} from './state.ts';
import { type StoreEvent, storeEvent } from './store-events.ts';
import { retirements, stillSpeaks, takeOverSlice } from './takeover.ts';
import { guard, guardsOver, sweepTombstones } from './tombstones.ts';
import { transition } from './transitions.ts';
import { beginTogether, saveClock, witness } from './trusted-time.ts';

const CLOCK_SAVE_MS = 30_000;
const RESHADOW_MS = 1_000;
const PRESENCE_MS = 1_000;

/** Builds the core from what the queue database recovered; the first step's result comes back with it. */
export function startCore(options: CoreOptions, now: Now): { readonly server: Server; readonly result: StepResult } {
  const server = newServer(options, now);
  const turn: Turn = { server, nowMs: now.monotonicMs, wallMs: now.wallMs, out: emptyStep(), claims: new Map() };
  recover(turn, options.recovered, options.risk);
  retirements(turn);
  requestsChanged(turn);
  setTimer(turn, PRESENCE_MS, 'presence');
  if (options.recovered.facts.has(REHOME_FACT)) startRehoming(turn);
  setTimer(turn, CLOCK_SAVE_MS, 'clock');
  setTimer(turn, RESHADOW_MS, 'reshadow');
  setTimer(turn, safetyNetPeriodMs(server), 'safetyNet');
  beginTogether(turn);
  saveClock(turn);
  return { server, result: finish(turn) };
}

/** Rows 5 and protocol.md 14: whatever survived is treated as accepted, and asks once before it is delivered. */
function recover(turn: Turn, recovered: Recovered, risk: RiskOptions | undefined): void {
  const { server } = turn;
  for (const tombstone of recovered.tombstones) guard(turn, tombstone.id);
  for (const { facts, state } of recovered.copies) {
    const copy = newCopy(facts, everyRecipient(facts, state));
    // What had to be mended is not what the database holds.
    const isWhole = copy.state === state;
    addCopy(server, copy);
    if (isWhole) copy.recovered = copy.state;
  }
  server.loaded.push(...server.copies.keys());
  countDeath(turn, risk);
  for (const copy of server.copies.values()) {
    if (roleOf(copy.state, server.me) !== 'primary') {
      if (wrong(turn, 'shadows-dropped-at-restart')) server.copies.delete(copy.facts.id);
      continue;
    }
    if (copy.state.standing === 'intake' && wrong(turn, 'recovered-intake-dropped')) {
      server.copies.delete(copy.facts.id);
      continue;
    }
    // Held in intake counts as accepted; queues are rebuilt from scratch: routes may have changed, attempts were cut off.
    transition(server.coverage, 'RecoveredHeld', copy.state.queue, 'primary', 'submission');
    copy.state = { ...copy.state, standing: 'released', queue: 'submission' };
    setAge(turn, 1_000, copy.facts.id);
    copy.wasDoubtful = true;
    beginDoubt(turn, copy, 'all');
    settle(turn, copy);
    resumeReports(turn, copy);
    finishIfFinal(turn, copy);
  }
}

export function step(server: Server, event: CoreEvent, now: Now): StepResult {
  const turn: Turn = { server, nowMs: now.monotonicMs, wallMs: now.wallMs, out: emptyStep(), claims: new Map() };
  notice(turn);
  dispatch(turn, event);
  reshadow(turn);
  return finish(turn);
}

function finish(turn: Turn): StepResult {
  openDoor(turn);
  flushClaims(turn);
  turn.out.wakeAtMs = turn.server.timers[0]?.atMs ?? null;
  return turn.out;
}

function dispatch(turn: Turn, event: CoreEvent): void {
  const { server } = turn;
  switch (event.kind) {
    case 'TopologyChanged':
      return topologyChanged(turn, event.document);
    case 'PeerUp':
      peerUp(turn, event.member, event.identity, event.openCounter, event.nonce);
      return reshadowRound(turn);
    case 'PeerDown':
      return peerDown(turn, event.member);
    case 'PeerContact':
      return contactHeard(turn, event.member, event.contact);
    case 'IntakeOpened':
      server.outsideReachedMs = turn.nowMs;
      return intakeOpened(turn, event);
    case 'IntakeEnded':
      return intakeEnded(turn, event.stream, event.digest, event.sizeBytes, event.events);
    case 'IntakeLost':
      return intakeLost(turn, event.stream);
    case 'CandidateOpened':
      if (rehomeOpened(turn, event.id, event.attempt)) return;
      return candidateOpened(turn, event.id, event.attempt);
    case 'CandidateRefused':
      if (rehomeRefused(turn, event)) return;
      return candidateRefused(turn, event.member, event.id, event.attempt, event.refusal);
    case 'CandidateLost':
      if (rehomeLost(turn, event.id, event.attempt)) return;
      return candidateLost(turn, event.id, event.attempt);
    case 'CandidateResult':
      if (rehomeResult(turn, event.id, event.attempt, event.result)) return;
      return candidateResult(turn, event.member, event.id, event.attempt, event.result);
    case 'ShadowOpened':
      return shadowOpened(turn, event);
    case 'ShadowEnded':
      return shadowEnded(turn, event.stream, event.digest, event.sizeBytes, event.events);
    case 'ShadowLost':
      return shadowLost(turn, event.stream);
    case 'ResolveAsked':
      return resolveAsked(turn, event.from, event.role, event.resolve, event.stored);
    case 'ResolveAnswered':
      inquiryAnswered(turn, event.member, event.resolved);
      return resolveAnswered(turn, event.member, event.resolved.id, event.resolved.answer === 'aborted');
    case 'ListReceived':
      return listReceived(turn, event.member, event.list, event.stored);
    case 'StateReceived':
      return stateReceived(turn, event.member, event.state);
    case 'StateAcknowledged':
      return stateAcknowledged(turn, event.member, event.ack);
    case 'ClaimReceived':
      return claimReceived(turn, event.member, event.claim, event.stored);
    case 'GrantReceived':
      return grantReceived(turn, event.member, event.grant);
    case 'DeliveryDone':
      if (event.results.some((result) => result.kind === 'delivered' || result.kind === 'relayed'))
        server.outsideReachedMs = turn.nowMs;
      return deliveryDone(turn, event.requestId, event.results);
    case 'DsnComposed':
      return dsnComposed(turn, event);
    case 'DsnAtRest':
      return dsnAtRest(turn, event.id, event.parent);
    case 'PressureChanged':
      server.pressure = event.level;
      server.pressedBy = event.resource;
      return;
    case 'TimerFired':
      return timersFired(turn);
    default:
      return dispatchRest(turn, event);
  }
}

function contactHeard(turn: Turn, member: string, contact: Contact): void {
  const { server } = turn;
  const peer = server.peers.get(member);
  if (peer === undefined) return;
  const couldReceive = mayReceive(turn, member);
  peer.load = contact.load;
  if (!couldReceive && mayReceive(turn, member)) reshadowRound(turn);
  peer.hears = contact.hears;
  for (const name of peer.hears) server.heardOfMs.set(name, turn.nowMs);
  stillSpeaks(turn, peer.identity, false);
  server.lastHeardMs.set(member, turn.nowMs);
  witness(turn, peer.identity, contact);
  timeHeard(turn, member, peer, contact.trustedMs);
}

type RestEvent = Extract<
  CoreEvent,
  {
    readonly kind:
      | 'CoverReceived'
      | 'CoveredReceived'
      | 'BodyCopied'
      | 'BodyNotCopied'
      | 'SafetyNetPage'
      | 'RestingChanged'
      | 'ResignReceived'
      | 'ReleaseReceived'
      | 'ReleaseAcked'
      | 'FetchReceived'
      | 'DeliveryWithheld'
      | StoreEvent['kind']
      | 'OutsideReached';
  }
>;

const coverOf = (request: string): typeof coverReceived =>
  request === REHOME_COVER ? rehomeCoverReceived : request === OWNER_COVER ? ownerCoverReceived : coverReceived;

const coveredOf = (request: string): typeof coveredReceived =>
  request === REHOME_COVER ? rehomeCoveredReceived : request === OWNER_COVER ? ownerCoveredReceived : coveredReceived;

/** Takeover, drain, Safety Net: what has nothing to do with mail that comes in. */
function dispatchRest(turn: Turn, event: RestEvent): void {
  const { server } = turn;
  switch (event.kind) {
    case 'CoverReceived':
      return coverOf(event.cover.request)(turn, event.member, event.cover, event.stored);
    case 'CoveredReceived':
      return coveredOf(event.covered.request)(turn, event.member, event.covered);
    case 'BodyCopied':
      return bodyCopied(turn, event);
    case 'BodyNotCopied':
      return bodyNotCopied(turn, event.id, event.reason);
    case 'SafetyNetPage':
      if (!rehomePage(turn, event.scan, event.copies, event.unreadable, event.done))
        resubmissionPage(turn, event.scan, event.copies, event.unreadable, event.done);
      return;
    case 'RestingChanged':
      return restingChanged(turn, event.id);
    case 'ResignReceived':
      return resignReceived(turn, event.member, event.resign);
    case 'ReleaseReceived':
      return releaseReceived(turn, event.member, event.release, event.stored);
    case 'DeliveryWithheld':
      return deliveryWithheld(turn, event.requestId, event.results);
    case 'ReleaseAcked':
      return releaseAcked(turn, event.member, event.released);
    case 'FetchReceived':
      return fetchReceived(turn, event.member, event.fetch, event.stored);
    case 'BodyDamaged':
    case 'RestingDamaged':
    case 'ScrubPassed':
    case 'RiskEntered':
    case 'RiskLeft':
      return storeEvent(turn, event);
    case 'OutsideReached':
      server.outsideReachedMs = turn.nowMs;
      return;
    default:
      unreachable(event, 'unknown core event');
  }
}

function topologyChanged(turn: Turn, document: TopologyDocument): void {
  const { server } = turn;
  if (document.generation <= server.document.generation) return;
  const before = server.boundary;
  const spanned = spansSites(server);
  server.document = document;
  Object.assign(server, placeOf(document, server.name));
  if (!spanned && spansSites(server)) anotherSite(turn);
  server.suspendedQueues = suspendedIn(document);
  for (const { name } of before) if (!server.boundary.some((member) => member.name === name)) memberGone(turn, name);
  sweepTombstones(turn);
  routingChanged(turn);
  retirements(turn);
  requestsChanged(turn);
  // Leaving, or staying after all.
  server.rehoming.empty = false;
}

function timersFired(turn: Turn): void {
  const { server } = turn;
  for (let top = server.timers[0]; top !== undefined && top.atMs <= turn.nowMs; top = server.timers[0]) {
    popTimer(server.timers);
    runTimer(turn, top);
  }
}

function runTimer(turn: Turn, top: CoreTimer): void {
  const { server } = turn;
  const id = top.id as CopyId;
  switch (top.kind) {
    case 'attempt':
      attemptTimedOut(turn, id, top.number);
      break;
    case 'placing':
      return placingOverdue(turn, id);
    case 'cap':
      resolveCapReached(turn, id);
      break;
    case 'doubt':
      doubtsTimedOut(turn);
      break;
    case 'hop':
      hopDue(turn, top.id);
      break;
    case 'pace':
      paceDue(turn, top.id);
      break;
    case 'retry':
      retryDue(turn, id);
      break;
    case 'age':
      for (const due of takeAges(server, top.number)) ageDue(turn, due);
      break;
    case 'guard':
      guardsOver(turn);
      break;
    case 'waiter':
      answerWaiters(turn, id);
      break;
    case 'reshadow':
      reshadowRound(turn);
      resubmissionTick(turn);
      rehomeTick(turn);
      damageTick(turn);
      drainTick(turn);
      tellLoaded(turn);
      setTimer(turn, RESHADOW_MS, 'reshadow');
      break;
    case 'presence':
      presenceTick(turn);
      carryOut(turn);
      setTimer(turn, PRESENCE_MS, 'presence');
      break;
    case 'takeover':
      takeOverSlice(turn, top.id as Identity);
      break;
    case 'rehome':
      rehomeOverdue(turn, id, top.number);
      break;
    case 'safetyNet': {
      const nowMs = wrong(turn, 'wall-clock-expiry') ? turn.wallMs : trustedNow(turn);
      const beforeMs = nowMs - server.document.policies.safetyNet.holdTimeMs;
      if (!server.trusted.isNew) early(turn, { kind: 'ExpireSafetyNet', beforeMs });
      setTimer(turn, safetyNetPeriodMs(server), 'safetyNet');
      break;
    }
    case 'clock':
      beginTogether(turn);
      saveClock(turn);
      setTimer(turn, CLOCK_SAVE_MS, 'clock');
      break;
  }
}

const safetyNetPeriodMs = (server: Server): number =>
  Math.max(1_000, Math.min(60_000, server.document.policies.safetyNet.holdTimeMs / 20));

/** In-transit copies of mine that rest on this database only; null while somebody has not told since our start what it holds. */
export function unprotectedCount(server: Server): number | null {
  const isKnown = server.boundary.every(({ name }) => server.listedOnce.has(name) || server.away.has(name));
  return isKnown ? server.single.size : null;
}

export { setState };
