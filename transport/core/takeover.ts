/**
 * Taking over from a queue database that will not come back (semantics.md S5, S8; protocol.md 3, 4, 13). Owns: which identities are lost and why, and that
 * their shadow copies are promoted in slices, so that neither the loop nor live mail waits for a hundred thousand of them.
 */
import type { CopyId, Identity } from '../../common/message.ts';
import { answerWaiters } from './answers.ts';
import { confirmedPlacements, IN_TRANSIT } from './copy.ts';
import { promote } from './ownership.ts';
import { startRehoming } from './rehome.ts';
import { late, memberWith, needsShadow, note, type Server, setState, setTimer, type Turn, wrong } from './state.ts';
import { forgetIfAnswered } from './tombstones.ts';

/** Copies promoted in one step: a step must stay short. */
const SLICE = 250;

/** A member speaks on this identity: what it used before is lost, and what was believed lost speaks again (protocol.md 4). */
export function identityMet(turn: Turn, member: string, identity: Identity): void {
  const { server } = turn;
  server.lost.delete(identity);
  stillSpeaks(turn, identity, true);
  server.memberOf.set(identity, member);
  if (wrong(turn, 'new-identity-ignored')) return;
  for (const [other, owner] of server.memberOf)
    if (owner === member && other !== identity) lose(turn, other, 'replaced');
}

const VOID_FACT = 'voidWords';
/** Frames of a session that was up when the word came may have been under way for so long. */
const LAST_WORDS_MS = 5_000;

/** The orchestrator's word (protocol.md 4), looked at again every second: a session that is up then may be about to end. */
export function retirements(turn: Turn): void {
  const { server } = turn;
  for (const identity of server.retired.keys())
    if (!server.document.retired.some((entry) => entry.identity === identity)) {
      server.retired.delete(identity);
      saveVoidWords(turn);
    }
  for (const { identity, member, reason } of server.document.retired) {
    const said = server.retired.get(identity);
    if (said === undefined) {
      if (!server.memberOf.has(identity)) server.memberOf.set(identity, member);
      server.retired.set(identity, { sinceMs: turn.nowMs, isVoid: false });
    }
    if (said?.isVoid !== true) lose(turn, identity, reason === 'lost' ? 'confirmed lost' : 'drained');
  }
  if (wrong(turn, 'removed-member-awaited')) return;
  // A member leaves the document when nothing of it is left: what it had before its last database is gone as well (it was replaced, and left, while this one was away).
  const members = new Set(server.document.members.flatMap(({ name, state }) => (state === 'gone' ? [] : [name])));
  for (const [identity, member] of server.memberOf) if (!members.has(member)) lose(turn, identity, 'removed');
}

/** It speaks after the word that it is gone: that word is void. */
export function stillSpeaks(turn: Turn, identity: Identity, isNewSession: boolean): void {
  const said = turn.server.retired.get(identity);
  if (said === undefined || said.isVoid) return;
  if (!isNewSession && turn.nowMs - said.sinceMs <= LAST_WORDS_MS) return;
  said.isVoid = true;
  saveVoidWords(turn);
}

/** A restart must not believe the word again. */
function saveVoidWords(turn: Turn): void {
  const identities = [...turn.server.retired].flatMap(([identity, { isVoid }]) => (isVoid ? [identity] : []));
  note(turn, { kind: 'fact', key: VOID_FACT, value: identities.length === 0 ? null : identities });
}

export function voidWords(facts: ReadonlyMap<string, unknown>): Server['retired'] {
  const identities = (facts.get(VOID_FACT) ?? []) as readonly Identity[];
  return new Map(identities.map((identity) => [identity, { sinceMs: 0, isVoid: true }]));
}

export function lose(turn: Turn, identity: Identity, why: string): void {
  const { server } = turn;
  const isHeard = isThere(turn, identity);
  if (identity === server.me || server.lost.has(identity) || isHeard) return;
  server.lost.set(identity, { member: server.memberOf.get(identity) ?? '', why, sinceMs: turn.nowMs });
  late(turn, { copy: null, kind: 'Count', what: 'identityLost', label: why });
  if (!wrong(turn, 'lost-holder-kept')) dropHolder(turn, identity);
  takeOver(turn, identity);
  startRehoming(turn);
}

/** It speaks on this very database: no word says otherwise (protocol.md 4). */
const isThere = (turn: Turn, identity: Identity): boolean =>
  memberWith(turn.server, identity) !== null && !wrong(turn, 'gone-overrules-the-living');

/** Promotes what is held for this owner, a slice now and the rest as soon as the loop is free again. */
export function takeOver(turn: Turn, identity: Identity): void {
  const { server } = turn;
  const held = server.held.get(identity);
  if (held === undefined || isThere(turn, identity)) return;
  if (server.takingOver.has(identity)) return;
  server.takingOver.add(identity);
  takeOverSlice(turn, identity);
}

export function takeOverSlice(turn: Turn, identity: Identity): void {
  const { server } = turn;
  const ids: CopyId[] = [];
  for (const id of server.held.get(identity) ?? []) {
    ids.push(id);
    if (ids.length === SLICE) break;
  }
  // Its owner spoke again in the middle: what is left of it stays its own.
  if (ids.length === 0 || isThere(turn, identity)) {
    server.takingOver.delete(identity);
    return;
  }
  for (const id of ids) {
    const copy = server.copies.get(id);
    if (copy === undefined) continue;
    promote(turn, copy);
    late(turn, { copy: null, kind: 'Count', what: 'takenOver', label: server.lost.get(identity)?.why ?? 'no contact' });
    late(turn, {
      copy: id,
      kind: 'Track',
      event: 'TAKEOVER',
      facts: copy.facts,
      id,
      detail: server.lost.get(identity)?.why ?? 'no contact',
      peer: server.memberOf.get(identity) ?? '',
    });
  }
  // Not in this step: timers that are due are all run in one.
  setTimer(turn, 1, 'takeover', identity);
}

/** A queue database that is gone holds nothing: neither a shadow of mine nor anything to be told about. */
function dropHolder(turn: Turn, identity: Identity): void {
  const { server } = turn;
  for (const copy of server.copies.values()) {
    if (copy.state.epoch.owner !== server.me) continue;
    const placements = copy.state.placements.filter((placement) => placement.identity !== identity);
    if (placements.length === copy.state.placements.length) continue;
    setState(turn, copy, { ...copy.state, placements }, 'lazy');
    const isSingle =
      copy.state.standing === 'released' &&
      IN_TRANSIT.has(copy.state.queue) &&
      confirmedPlacements(copy.state).length === 0;
    if (isSingle) needsShadow(server, copy.facts.id);
  }
  for (const tombstone of [...server.tombstones.values()]) {
    // Who was asked whether it refused can never say so now: while a front end may ask, that stays open (protocol.md 6b).
    if (tombstone.kind === 'aborted' && server.guarded.has(tombstone.id)) continue;
    const placements = tombstone.placements.filter((placement) => placement.identity !== identity);
    if (placements.length !== tombstone.placements.length) {
      forgetIfAnswered(turn, { ...tombstone, placements });
      answerWaiters(turn, tombstone.id);
    }
  }
}
