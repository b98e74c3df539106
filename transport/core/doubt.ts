/**
 * Doubt (protocol.md 7, 13, 14): somebody else may own or have finished this copy, so everybody is asked once, with one CLAIM for many copies, before it is
 * delivered. Owns: that the wait is bounded, and that who could not be asked is asked when it comes back.
 */
import type { CopyId, Epoch } from '../../common/message.ts';
import type { Claim } from '../../common/peer/messages.ts';
import type { Copy, Doubt } from './copy.ts';
import { enqueue } from './delivery.ts';
import { waitNowhere } from './hop.ts';
import { settle } from './ownership.ts';
import { DEADLINES, late, setTimer, type Turn, wrong } from './state.ts';

/** Copies in one frame. */
export const PAGE = 500;
const ASK_AGAIN_MS = 30_000;

/**
 * `all`: whoever may hold it or own it by now, connected or not, is waited for. `reachable`: one round trip to those who are there; the others are asked when
 * they come (protocol.md 13).
 */
export function beginDoubt(turn: Turn, copy: Copy, who: 'all' | 'reachable'): void {
  const { server } = turn;
  if (wrong(turn, 'claim-ignored')) return;
  if (who === 'all' && wrong(turn, 'reconcile-skipped')) return;
  if (who === 'reachable' && wrong(turn, 'promoted-without-claim')) return;
  const id = copy.facts.id;
  const waiting: string[] = [];
  for (const { name } of server.boundary) {
    if (who === 'all' || server.peers.has(name)) waiting.push(name);
    else askLater(turn, name, id, copy.state.epoch);
  }
  if (waiting.length === 0) return;
  copy.wasDoubtful = true;
  copy.doubt = doubtOf(turn, waiting);
  // Behind all others: `doubtful` is in the order in which the waits end.
  server.doubtful.delete(id);
  server.doubtful.add(id);
  waitNowhere(server.hops, copy);
  for (const member of waiting) if (server.peers.has(member)) claim(turn, member, id, copy.state.epoch);
}

/** One object and one timer for all that come into doubt together. */
function doubtOf(turn: Turn, waiting: readonly string[]): Doubt {
  const { server } = turn;
  const untilMs = turn.nowMs + DEADLINES.doubtMs;
  const last = server.lastDoubt;
  const isSame = last?.waiting.length === waiting.length && waiting.every((name, at) => name === last.waiting[at]);
  if (last !== null && isSame && last.untilMs === untilMs) return last;
  setTimer(turn, DEADLINES.doubtMs, 'doubt');
  server.lastDoubt = { untilMs, waiting };
  return server.lastDoubt;
}

function askLater(turn: Turn, member: string, id: CopyId, epoch: Epoch): void {
  if (wrong(turn, 'unasked-forgotten')) return;
  // It left while it was waited for: nobody is going to answer (seed 304: the tombstone stayed).
  if (!turn.server.boundary.some(({ name }) => name === member)) return;
  const later = turn.server.unasked.get(member) ?? new Map<CopyId, Epoch>();
  later.set(id, epoch);
  turn.server.unasked.set(member, later);
}

/** What this member was not asked for, or has not answered, and what a copy in doubt waits for. */
export function openClaims(turn: Turn, member: string): Map<CopyId, Epoch> {
  const { server } = turn;
  const claims = new Map(server.unasked.get(member) ?? []);
  for (const id of server.doubtful) {
    const copy = server.copies.get(id);
    if (copy?.doubt?.waiting.includes(member) === true) claims.set(id, copy.state.epoch);
  }
  // What became final meanwhile is claimed all the same: who still owns a lower try must stop. What is owned elsewhere by now is not ours to claim.
  for (const id of claims.keys()) {
    const copy = server.copies.get(id);
    // That it is ours is not written yet: it is claimed when it is.
    if (copy === undefined && server.rehoming.changing.has(id)) claims.delete(id);
    if (copy === undefined || copy.state.epoch.owner === server.me) continue;
    claims.delete(id);
    server.unasked.get(member)?.delete(id);
  }
  return claims;
}

/**
 * Who is there and has not answered a claim may not have been able to read what rests there, and be able by now (seed 1611 with SMTP clients: it was fetched
 * again, and nobody asked any more). A page at a time, in turn.
 */
export function askAgain(turn: Turn, member: string): void {
  const { peers, unasked } = turn.server;
  const peer = peers.get(member);
  const open = unasked.get(member);
  if (peer === undefined || open === undefined || turn.nowMs - peer.askedMs < ASK_AGAIN_MS) return;
  peer.askedMs = turn.nowMs;
  const page = [...openClaims(turn, member)].slice(0, PAGE);
  for (const [id, epoch] of page) if (open.delete(id)) open.set(id, epoch);
  sendClaims(turn, member, new Map(page));
}

/** What rests here has a new owner: whoever rests it under an older one shall know (row 34). Nobody waits for the answers. */
export function claimAtRest(turn: Turn, id: CopyId, epoch: Epoch): void {
  for (const { name } of turn.server.boundary) {
    if (!turn.server.peers.has(name)) askLater(turn, name, id, epoch);
    else claimFrom(turn, name, id, epoch);
  }
}

/** What was decided of this entry at rest is durable: who came meanwhile is asked. */
export function claimNow(turn: Turn, id: CopyId): void {
  for (const [member, open] of turn.server.unasked) {
    const epoch = open.get(id);
    if (epoch !== undefined) claimFrom(turn, member, id, epoch);
  }
}

/** One member shows that it does not know yet whose this is. Not with the others: it waits until that it is mine has been written. */
export function claimFrom(turn: Turn, member: string, id: CopyId, epoch: Epoch): void {
  if (!turn.server.peers.has(member)) return;
  late(turn, { copy: id, kind: 'Send', to: member, frame: { kind: 'CLAIM', claim: { items: [{ id, epoch }] } } });
}

/** Goes out with the others of this step. */
function claim(turn: Turn, member: string, id: CopyId, epoch: Epoch): void {
  const claims = turn.claims.get(member) ?? new Map<CopyId, Epoch>();
  claims.set(id, epoch);
  turn.claims.set(member, claims);
}

/** At the end of a step. */
export function flushClaims(turn: Turn): void {
  for (const [member, claims] of turn.claims) sendClaims(turn, member, claims);
  turn.claims.clear();
}

export function sendClaims(turn: Turn, member: string, claims: ReadonlyMap<CopyId, Epoch>): void {
  let items: Claim['items'][number][] = [];
  const send = (): void => {
    if (items.length > 0)
      late(turn, { copy: null, kind: 'Send', to: member, frame: { kind: 'CLAIM', claim: { items } } });
    items = [];
  };
  for (const [id, epoch] of claims) {
    items.push({ id, epoch });
    if (items.length === PAGE) send();
  }
  send();
}

/**
 * The wait is over: loss is worse than a duplicate. Who has not answered is asked on first contact. A page at a time: a hundred thousand in one step keep
 * everybody else waiting for seconds, and what all of them give rise to in memory.
 */
export function doubtsTimedOut(turn: Turn): void {
  const { doubtful, copies } = turn.server;
  let room = PAGE;
  for (const id of doubtful) {
    if (room-- === 0) return setTimer(turn, 1, 'doubt');
    const copy = copies.get(id);
    if (copy === undefined || copy.doubt === null) {
      doubtful.delete(id);
      continue;
    }
    if (turn.nowMs < copy.doubt.untilMs) return;
    // Also who is connected, until it has answered: the next session may be another.
    for (const member of copy.doubt.waiting) askLater(turn, member, id, copy.state.epoch);
    endDoubt(turn, copy);
  }
}

function endDoubt(turn: Turn, copy: Copy): void {
  copy.doubt = null;
  turn.server.doubtful.delete(copy.facts.id);
  late(turn, { copy: null, kind: 'Count', what: 'reconciled' });
  if (turn.server.single.has(copy.facts.id)) turn.server.shadowless.add(copy.facts.id);
  settle(turn, copy);
  enqueue(turn, copy);
}

export function answered(turn: Turn, copy: Copy, member: string): void {
  if (copy.doubt === null) return;
  const { untilMs, waiting } = copy.doubt;
  const left = waiting.filter((name) => name !== member);
  if (left.length === 0) endDoubt(turn, copy);
  else if (left.length < waiting.length) copy.doubt = { untilMs, waiting: left };
}
