/**
 * Who is there (protocol.md 3, 14). Owns: that silence alone takes nothing over before the whole span has passed and nobody else hears the member; that a
 * holder nobody has heard for a while no longer counts as a second copy; and that after an absence of our own everything is asked about once more.
 */
import type { CopyId, Identity } from '../../common/message.ts';
import { confirmedPlacements, IN_TRANSIT } from './copy.ts';
import { askAgain, beginDoubt, openClaims, sendClaims } from './doubt.ts';
import { announceHeld, findSingles } from './ownership.ts';
import {
  commit,
  dropCopy,
  needsShadow,
  type Peer,
  type Server,
  setState,
  type Turn,
  trustedNow,
  wrong,
} from './state.ts';
import { retirements, takeOver } from './takeover.ts';
import { lookAgain } from './tombstones.ts';

/** semantics.md L5: two copies again within 60 s; half of it is for the copying. */
const HOLDER_SILENT_MS = 30_000;
/** protocol.md 14. */
const STANDSTILL_MS = 30_000;
/** protocol.md 3: who reaches no member needs proof within a minute that it is not the one cut off. */
const OUTSIDE_MS = 60_000;

/** Longer than any placing takes (protocol.md 5). */
const INTAKE_LOOK_MS = 60_000;

export function presenceTick(turn: Turn): void {
  const { server } = turn;
  for (const { name } of server.boundary) {
    if (server.peers.has(name)) {
      server.away.delete(name);
      askAgain(turn, name);
      continue;
    }
    if (silentFor(turn, name) >= HOLDER_SILENT_MS && !server.away.has(name)) {
      server.away.add(name);
      holderAway(turn, name);
      findSingles(turn);
    }
  }
  for (const identity of server.held.keys()) ownerPresent(turn, identity);
  if (wrong(turn, 'shadow-expires-by-age')) dropOldShadows(turn);
  retirements(turn);
  isolation(turn);
  askAboutIntake(turn);
}

/**
 * What its owner neither released nor aborted between two looks may have come when that one was done with it, handed over or at rest (seed 12057: its END was
 * late): it is listed again, and the answer says what became of it.
 */
function askAboutIntake(turn: Turn): void {
  const { server } = turn;
  if (turn.nowMs - server.intakeSeen.atMs < INTAKE_LOOK_MS) return;
  const ids = new Set<CopyId>();
  for (const [id, copy] of server.copies) {
    if (copy.state.queue !== 'shadow' || copy.state.standing !== 'intake') continue;
    ids.add(id);
    if (server.intakeSeen.ids.has(id)) announceHeld(turn, copy);
  }
  server.intakeSeen = { atMs: turn.nowMs, ids };
}

/** Its last frame may be younger than its last CONTACT: silence counts from here (protocol.md 3). */
export function peerDown(turn: Turn, member: string): void {
  turn.server.peers.delete(member);
  turn.server.lastHeardMs.set(member, turn.nowMs);
}

/** Time since a member was heard, counted from this process's own start or waking at the earliest (protocol.md 3). */
function silentFor(turn: Turn, member: string): number {
  const { awakeSinceMs, lastHeardMs } = turn.server;
  return turn.nowMs - Math.max(awakeSinceMs, lastHeardMs.get(member) ?? 0);
}

/** Also of an owner that is no member any more, and of one that was lost before a copy came to be its own. */
function ownerPresent(turn: Turn, identity: Identity): void {
  const { server } = turn;
  if (server.lost.has(identity)) return takeOver(turn, identity);
  const member = server.memberOf.get(identity);
  if (member === undefined || server.peers.has(member)) return;
  const heardOfMs = turn.nowMs - (server.heardOfMs.get(member) ?? Number.NEGATIVE_INFINITY);
  const silentMs = Math.min(silentFor(turn, member), wrong(turn, 'absence-by-own-ears') ? Infinity : heardOfMs);
  if (silentMs >= spanMs(turn) && isAbsent(turn, member)) takeOver(turn, identity);
}

const spanMs = (turn: Turn): number =>
  wrong(turn, 'absence-at-once') ? 1_000 : turn.server.document.policies.shadowRedundancy.resubmitTimeSpanMs;

/** protocol.md 3: nobody I reach hears it either, and I am not the one who is cut off. */
function isAbsent(turn: Turn, member: string): boolean {
  const { server } = turn;
  if (wrong(turn, 'absence-by-own-ears')) return true;
  if (server.peers.size === 0) return turn.nowMs - server.outsideReachedMs < OUTSIDE_MS;
  for (const peer of server.peers.values()) if (peer.hears.includes(member)) return false;
  return true;
}

/** Taken out of the document: what it holds counts no more, and it is not going to answer anything. */
export function memberGone(turn: Turn, member: string): void {
  const { server } = turn;
  const asked = server.unasked.get(member);
  server.unasked.delete(member);
  for (const id of asked?.keys() ?? []) lookAgain(turn, id);
  server.away.delete(member);
  holderAway(turn, member);
  // It may have been the last one that had not told what it holds (seed 5808).
  findSingles(turn);
}

/** It may still hold its copies, so it stays a placement that must be told; it is no protection any more. */
export function holderAway(turn: Turn, member: string): void {
  const { server } = turn;
  if (wrong(turn, 'silent-holder-counts')) return;
  for (const copy of server.copies.values()) {
    if (copy.state.epoch.owner !== server.me) continue;
    if (!copy.state.placements.some((one) => one.member === member && one.status === 'confirmed')) continue;
    const placements = copy.state.placements.map((one) =>
      one.member === member && one.status === 'confirmed' ? { ...one, status: 'sentEnd' as const } : one,
    );
    setState(turn, copy, { ...copy.state, placements }, 'lazy');
    const { standing, queue } = copy.state;
    if (standing === 'released' && IN_TRANSIT.has(queue) && confirmedPlacements(copy.state).length === 0)
      needsShadow(server, copy.facts.id);
  }
}

/** What must never be (protocol.md 10): only the simulator's known-wrong variant does it. */
function dropOldShadows(turn: Turn): void {
  for (const copy of [...turn.server.copies.values()]) {
    if (copy.state.queue !== 'shadow' || trustedNow(turn) - copy.facts.acceptedAtMs < 8_000) continue;
    dropCopy(turn, copy);
    commit(turn, { kind: 'remove', id: copy.facts.id });
  }
}

/** Members may have taken over from us while we reached none of them (protocol.md 14). */
function isolation(turn: Turn): void {
  const { server } = turn;
  if (server.peers.size > 0 || server.boundary.length === 0) {
    server.aloneSinceMs = null;
    return;
  }
  if (server.aloneSinceMs === null) {
    server.aloneSinceMs = turn.nowMs;
    return;
  }
  if (turn.nowMs - server.aloneSinceMs < STANDSTILL_MS || server.aloneSinceMs === Number.POSITIVE_INFINITY) return;
  // Asked once; copies accepted from now on are not doubtful.
  server.aloneSinceMs = Number.POSITIVE_INFINITY;
  doubtEverything(turn, false);
}

/** Something decided at `atMs` waited while the process stood still: others may have decided otherwise meanwhile. */
export const hasStoodStillSince = (server: Server, atMs: number, nowMs: number): boolean =>
  isJustAwake(server, nowMs) || (server.awakeSinceMs > atMs && !server.mutants.has('standstill-unnoticed'));

/** It stood still until now, and no step has noticed yet. */
export const isJustAwake = ({ lastStepMs, mutants }: Server, nowMs: number): boolean =>
  nowMs - lastStepMs > STANDSTILL_MS && !mutants.has('standstill-unnoticed');

/** Called with every step, before anything else: a process that stood still may have been taken over from. */
export function notice(turn: Turn): void {
  const { server } = turn;
  const stoodStillMs = turn.nowMs - server.lastStepMs;
  server.lastStepMs = turn.nowMs;
  if (stoodStillMs > STANDSTILL_MS) server.awakeSinceMs = turn.nowMs;
  if (stoodStillMs <= STANDSTILL_MS || wrong(turn, 'standstill-unnoticed')) return;
  for (const peer of server.peers.values()) peer.isLate = true;
  doubtEverything(turn, true);
}

/** What was sent while this process stood still lags behind by that time. */
const LATE_MS = 1_000;

/**
 * After a standstill frames come first that had waited in the socket, answers to older questions among them: they say nothing about now (seed 30581 under a dose). By
 * its first CONTACT from after it a member is in time again, and asked again. Where clocks jump meanwhile the doubt ends by its time.
 */
export function timeHeard(turn: Turn, member: string, peer: Peer, trustedMs: number): void {
  const aheadMs = trustedMs - trustedNow(turn);
  if (peer.isLate && aheadMs < peer.aheadMs - LATE_MS) return;
  peer.aheadMs = aheadMs;
  if (!peer.isLate) return;
  peer.isLate = false;
  sendClaims(turn, member, openClaims(turn, member));
}

/** `anew`: the time of a doubt that was under way passed while nothing could be heard (seed 33643). */
function doubtEverything(turn: Turn, anew: boolean): void {
  const { server } = turn;
  const ids: CopyId[] = [];
  for (const [id, { state, doubt }] of server.copies)
    if (state.epoch.owner === server.me && state.standing === 'released' && (anew || doubt === null)) ids.push(id);
  for (const id of ids) {
    const copy = server.copies.get(id);
    if (copy !== undefined && IN_TRANSIT.has(copy.state.queue)) beginDoubt(turn, copy, 'all');
  }
}

/** Everybody has told what they hold, or has been silent so long that it does not count. */
export const everybodyAccountedFor = (server: Server): boolean =>
  server.boundary.every(
    (member) =>
      server.peers.get(member.name)?.listed === true ||
      (!server.peers.has(member.name) && server.away.has(member.name)),
  );
