/**
 * Resubmission from Safety Net (protocol.md section 6; Exchange: Add-ResubmitRequest). Start reading here: what the rest of the core calls. Owns: that finality
 * under a lost activation is none (row 19), which requests are under way on this member, and what it answers when a holder asks what it covers. The walk over
 * the Safety Nets is in resubmit-walk.ts, the new copies in resubmit-copy.ts, what a request means in resubmit-match.ts.
 */
import type { ResubmitRequestConfig } from '../../common/config.ts';
import type { CopyId, RecipientState } from '../../common/message.ts';
import type { Cover, Covered } from '../../common/peer/messages.ts';
import type { ResubmitView } from '../runtime/view.ts';
import type { CopyState, StoredCopy } from '../store/database.ts';
import { type Copy, IN_TRANSIT } from './copy.ts';
import { enqueue } from './delivery.ts';
import type { StoredCopies } from './events.ts';
import { bodyArrived, bodyMissing, type CopiedBody } from './resubmit-copy.ts';
import { failovers, isExpired, isForMe, isLost, selectedOf } from './resubmit-match.ts';
import {
  type CopyingBody,
  FACT,
  forget,
  isActive,
  isPaused,
  isSame,
  mayAnswerFor,
  newRun,
  type Run,
  type Saved,
  save,
} from './resubmit-run.ts';
import { advanceAll, coverageHeard, pageArrived, stop, tick } from './resubmit-walk.ts';
import { late, type Server, setState, type Turn, wrong } from './state.ts';
import { transition } from './transitions.ts';

/** What is under way; volatile but for the facts `resubmit/<name>`. */
export interface Resubmissions {
  readonly byName: Map<string, Run>;
  readonly copying: Map<CopyId, CopyingBody>;
  /** By name, what an earlier life wrote down. */
  readonly saved: Map<string, Saved>;
}

/** `facts`: what the queue database recovered. */
export function newResubmissions(facts: ReadonlyMap<string, unknown>): Resubmissions {
  const saved = new Map<string, Saved>();
  for (const [key, value] of facts) if (key.startsWith(FACT)) saved.set(key.slice(FACT.length), value as Saved);
  return { byName: new Map(), copying: new Map(), saved };
}

/** At start and after every change of the document: new, cancelled and removed requests; copies in transit are reopened (row 19). */
export function requestsChanged(turn: Turn): void {
  const { server } = turn;
  const { byName, saved } = server.resubmissions;
  const wanted = new Map<string, ResubmitRequestConfig>();
  for (const request of server.document.resubmitRequests)
    if (isForMe(server, request)) wanted.set(request.name, request);
  for (const [name, run] of byName) {
    const request = wanted.get(name);
    if (request !== undefined && isSame(run, request)) continue;
    stop(turn, run);
    byName.delete(name);
    if (request === undefined) forget(turn, name);
  }
  for (const request of wanted.values()) requestSeen(turn, request);
  for (const name of saved.keys()) forget(turn, name);
  reopenTransit(turn);
  advanceAll(turn);
}

function requestSeen(turn: Turn, request: ResubmitRequestConfig): void {
  const { byName } = turn.server.resubmissions;
  const before = byName.get(request.name);
  if (before !== undefined) before.request = request;
  const isOver = request.cancelled || isExpired(turn, request);
  // A request that was cancelled and is wanted again starts anew.
  const run = before === undefined || (before.stage === 'stopped' && !isOver) ? newRun(turn, request) : before;
  byName.set(request.name, run);
  if (isOver && run.stage !== 'done') stop(turn, run);
}

/** Every second. */
export function resubmissionTick(turn: Turn): void {
  for (const run of turn.server.resubmissions.byName.values()) tick(turn, run);
}

// --- finality that is none (protocol.md 19) ----------------------------------------------------------------------------

/** Same array when nothing changes. */
export function reopened(
  turn: Turn,
  { epoch, queue }: Pick<CopyState, 'epoch' | 'queue'>,
  recipients: readonly RecipientState[],
): readonly RecipientState[] {
  const { coverage } = turn.server;
  if (epoch.term > 0 && wrong(turn, 'promotion-keeps-lost-finality')) return recipients;
  if (!recipients.some(({ outcome, database }) => outcome === 'delivered' && database !== undefined)) return recipients;
  const requests = failovers(turn);
  if (wrong(turn, 'lost-delivery-is-final')) return recipients;
  if (requests.length === 0 || !recipients.some((recipient) => isLost(turn.server, requests, recipient)))
    return recipients;
  transition(coverage, 'RecipientReopened', queue, 'primary', queue);
  return recipients.map((recipient) =>
    isLost(turn.server, requests, recipient) ? { address: recipient.address, outcome: 'pending' } : recipient,
  );
}

/** Reopens what a copy of mine has lost and sends it to the copy that is active now. True when there was something. */
export function reopen(turn: Turn, copy: Copy): boolean {
  const before = copy.state.recipients;
  if (before === null || !IN_TRANSIT.has(copy.state.queue)) return false;
  const recipients = reopened(turn, copy.state, before);
  if (recipients === before) return false;
  const changed = recipients.flatMap((recipient, index) => (recipient === before[index] ? [] : [index]));
  setState(turn, copy, { ...copy.state, recipients }, 'commit', changed);
  enqueue(turn, copy);
  return true;
}

/** What is open to the old copy comes back and is judged then (delivery.ts). */
function reopenTransit(turn: Turn): void {
  const { server } = turn;
  if (failovers(turn).length === 0) return;
  for (const copy of server.copies.values()) if (copy.state.epoch.owner === server.me) reopen(turn, copy);
}

// --- what rests --------------------------------------------------------------------------------------------------------

/**
 * Something rests here at a new place in the log although no delivery of this member put it there: handed over, inherited from an owner that is lost, or given
 * another holder or owner. A walk meets what rested when it began, where it rested then, and would miss it.
 */
export function cameToRest(turn: Turn, stored: StoredCopy): void {
  const { server } = turn;
  if (wrong(turn, 'arrivals-unwalked')) return;
  for (const run of server.resubmissions.byName.values()) {
    if (run.stage === 'stopped' || run.arrivals || run.request.dryRun) continue;
    if (selectedOf(server, run.request, stored).length === 0) continue;
    run.arrivals = true;
    save(turn, run);
  }
}

/** True when the scan was one of ours. */
export function resubmissionPage(
  turn: Turn,
  scan: number,
  copies: readonly StoredCopy[],
  unreadable: number,
  done: boolean,
): boolean {
  for (const run of turn.server.resubmissions.byName.values()) {
    if (run.scan?.number !== scan) continue;
    pageArrived(turn, run, copies, unreadable, done);
    return true;
  }
  return false;
}

export function bodyCopied(turn: Turn, body: CopiedBody): void {
  bodyArrived(turn, body);
  advanceAll(turn);
}

export function bodyNotCopied(turn: Turn, id: CopyId, reason: 'atRest' | 'unreadable'): void {
  bodyMissing(turn, id, reason);
  advanceAll(turn);
}

// --- who covers what (protocol.md 21) ----------------------------------------------------------------------------------

/**
 * A holder of my shadow copies at rest asks which of them I answer for. Who does not know the request yet says nothing, and is asked again; who is still at work
 * says only that; afterwards what rests here has been resubmitted, and what does not is not covered.
 */
export function coverReceived(turn: Turn, member: string, cover: Cover, stored: StoredCopies): void {
  const { server } = turn;
  const run = server.resubmissions.byName.get(cover.request);
  if (run === undefined || run.stage === 'stopped' || !server.boundary.some(({ name }) => name === member)) return;
  const isWorking = run.stage === 'primary' && run.again === null;
  if (isWorking && isPaused(server)) return;
  const items = isWorking
    ? []
    : cover.ids.map((id) => ({ id, covered: isCovered(server, run, id, stored.get(id) ?? null) }));
  const covered: Covered = { request: cover.request, items };
  late(turn, { copy: null, kind: 'Send', to: member, frame: { kind: 'COVERED', covered } });
}

function isCovered(server: Server, run: Run, id: CopyId, stored: StoredCopy | null): boolean {
  const live = server.copies.get(id);
  if (server.mutants.has('covered-unseen')) return true;
  if (live !== undefined) return live.state.epoch.owner === server.me;
  return stored?.state.queue === 'primarySafetyNet' && stored.damaged === undefined && mayAnswerFor(run, id);
}

export function coveredReceived(turn: Turn, member: string, covered: Covered): void {
  const run = turn.server.resubmissions.byName.get(covered.request);
  const identity = turn.server.peers.get(member)?.identity;
  if (run !== undefined && identity !== undefined) coverageHeard(turn, run, identity, covered);
}

// --- what is told about it ---------------------------------------------------------------------------------------------

export function resubmitViews({ server }: Pick<Turn, 'server' | 'nowMs'>): readonly ResubmitView[] {
  return [...server.resubmissions.byName.values()].map((run) => ({
    name: run.request.name,
    state: stateOf(server, run),
    selected: run.counts.selected,
    resubmitted: run.counts.byPrimary + run.counts.byShadow,
    byPrimary: run.counts.byPrimary,
    byShadow: run.counts.byShadow,
    present: run.counts.present,
    covered: run.counts.covered,
    failed: run.counts.failed,
    waitingFor: [...new Set([...run.waiting, ...run.asking.keys()])],
    completeSinceMs: server.completeSinceMs,
    errors: [...run.errors],
  }));
}

function stateOf(server: Server, run: Run): ResubmitView['state'] {
  if (run.stage === 'stopped') return 'Cancelled';
  // What came to rest here since then is still to be resubmitted.
  if (run.stage === 'done') return run.arrivals ? 'Running' : 'Done';
  if (isPaused(server)) return 'Paused';
  return isActive(run) || run.copying > 0 || run.stage !== 'primary' ? 'Running' : 'Pending';
}
