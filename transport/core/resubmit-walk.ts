/**
 * The walk of a resubmit request over the Safety Nets of this member (protocol.md 20-22; semantics.md N3, N4). Owns: that every entry the request means is
 * resubmitted here, or answered for by its primary, before the request is called done; that an owner which cannot be reached is waited for only so long, and one
 * that is lost not at all. Never holds more than a page; what must wait is remembered by its owner and walked over again.
 */
import type { CopyId, Identity } from '../../common/message.ts';
import type { Covered } from '../../common/peer/messages.ts';
import type { StoredCopy } from '../store/database.ts';
import { make, unreadableEntries } from './resubmit-copy.ts';
import { filterOf, isExpired, isLostActivation, selectedOf } from './resubmit-match.ts';
import {
  type Asking,
  addError,
  hasRoom,
  type Item,
  isActive,
  isPaused,
  MOST_ACTIVE,
  type Run,
  save,
} from './resubmit-run.ts';
import { early, late, memberWith, type Turn, trustedNow, wrong } from './state.ts';

const PAGE = 100;
/** A question without an answer is asked again: who does not know the request yet says nothing. */
const REPEAT_MS = 5_000;
/** Entries that came to rest late are looked for at most this often; more rarely while the Safety Net is being re-homed and more of them come all the time. */
const ARRIVALS_MS = 30_000;
const ARRIVALS_REHOMING_MS = 300_000;

/** Goes on with everything that can go on now. */
export function advanceAll(turn: Turn): void {
  for (const run of turn.server.resubmissions.byName.values()) advance(turn, run);
}

export function advance(turn: Turn, run: Run): void {
  if (run.stage === 'stopped' || run.stage === 'done' || isPaused(turn.server)) return;
  while (run.page.length > 0 && hasRoom(turn.server, run)) {
    const item = run.page.shift();
    if (item !== undefined) make(turn, run, item);
  }
  if (run.page.length > 0 || run.asking.size > 0 || run.stage === 'waiting') return;
  const { scan } = run;
  if (scan === null) return startWalk(turn, run);
  if (!scan.isOver) {
    if (scan.isReading) return;
    scan.isReading = true;
    early(turn, { kind: 'NextSafetyNetPage', scan: scan.number });
  } else if (run.copying === 0) walkOver(turn, run, scan.gone);
}

function startWalk(turn: Turn, run: Run): void {
  const { server } = turn;
  let active = 0;
  for (const other of server.resubmissions.byName.values()) if (isActive(other)) active += 1;
  if (active >= MOST_ACTIVE) return;
  server.nextScan += 1;
  run.scan = { number: server.nextScan, isReading: true, isOver: false, gone: goneIdentities(turn) };
  const role = run.stage === 'primary' ? 'primary' : 'shadow';
  early(turn, {
    kind: 'ScanSafetyNet',
    scan: server.nextScan,
    filter: filterOf(turn, run.request, role),
    pageSize: PAGE,
  });
}

/**
 * Queue databases that are lost, or whose member has been silent for the whole span (protocol.md 3). To think so of one that lives costs a second copy of a
 * message that its store recognises.
 */
function goneIdentities({ server, nowMs }: Turn): ReadonlySet<Identity> {
  const gone = new Set<Identity>(server.lost.keys());
  if (server.mutants.has('shadow-never-covers')) return new Set();
  const { resubmitTimeSpanMs } = server.document.policies.shadowRedundancy;
  for (const { name } of server.boundary) {
    const identity = server.known.get(name);
    if (identity === undefined || server.peers.has(name)) continue;
    if (nowMs - Math.max(server.startedAtMs, server.lastHeardMs.get(name) ?? 0) >= resubmitTimeSpanMs)
      gone.add(identity);
  }
  return gone;
}

export function pageArrived(
  turn: Turn,
  run: Run,
  copies: readonly StoredCopy[],
  unreadable: number,
  isOver: boolean,
): void {
  const { scan } = run;
  if (scan === null) return;
  scan.isReading = false;
  scan.isOver = isOver;
  if (run.again === null && run.only === null) unreadableEntries(run, unreadable);
  const asked = new Map<Identity, Map<CopyId, Item>>();
  for (const stored of copies) {
    const role = stored.state.queue === 'primarySafetyNet' ? 'primary' : 'shadow';
    const { owner } = stored.state.epoch;
    // It changed hands since its entry was read: whoever turned it over says so (`cameToRest`).
    if (role !== (run.stage === 'primary' ? 'primary' : 'shadow')) continue;
    if (role === 'shadow' && run.only !== null && !run.only.has(owner)) continue;
    const selected = selectedOf(turn.server, run.request, stored);
    if (selected.length === 0) continue;
    const item: Item = { stored, selected, role };
    const who = role === 'primary' ? 'me' : answerer(turn, run, owner);
    if (who === 'me') run.page.push(item);
    else if (who === 'nobody') {
      if (!wrong(turn, 'absent-primary-skipped')) run.waiting.add(owner);
    } else asked.set(owner, (asked.get(owner) ?? new Map<CopyId, Item>()).set(stored.facts.id, item));
  }
  for (const [owner, items] of asked) {
    const asking: Asking = { items, sentAtMs: turn.nowMs, heardAtMs: turn.nowMs };
    run.asking.set(owner, asking);
    ask(turn, run, owner, asking);
  }
  advance(turn, run);
}

/** Who decides about a shadow entry: I do, its owner does, or nobody yet. */
function answerer(turn: Turn, run: Run, owner: Identity): 'me' | 'owner' | 'nobody' {
  const { server } = turn;
  if (owner === server.me) return 'me';
  if (memberWith(server, owner) !== null) return run.unresponsive.has(owner) ? 'me' : 'owner';
  if (run.unresponsive.has(owner) || run.scan?.gone.has(owner) === true) return 'me';
  return 'nobody';
}

function ask(turn: Turn, run: Run, owner: Identity, asking: Asking): void {
  const member = memberWith(turn.server, owner);
  if (member === null) return;
  asking.sentAtMs = turn.nowMs;
  const cover = { request: run.request.name, ids: [...asking.items.keys()] };
  late(turn, { copy: null, kind: 'Send', to: member, frame: { kind: 'COVER', cover } });
}

/** protocol.md 21: what no live primary confirms holding is resubmitted from here. */
export function coverageHeard(turn: Turn, run: Run, owner: Identity, covered: Covered): void {
  const asking = run.asking.get(owner);
  if (asking === undefined) return;
  asking.heardAtMs = turn.nowMs;
  for (const { id, covered: isCovered } of covered.items) {
    const item = asking.items.get(id);
    if (item === undefined) continue;
    asking.items.delete(id);
    if (!isCovered) run.page.push(item);
    else if (run.again === null) {
      run.counts.selected += 1;
      run.counts.covered += 1;
    }
  }
  if (asking.items.size === 0) run.asking.delete(owner);
  advance(turn, run);
}

/** A walk has met everything it could. */
function walkOver(turn: Turn, run: Run, gone: ReadonlySet<Identity>): void {
  run.scan = null;
  if (run.stage === 'primary') {
    run.stage = 'shadow';
    run.only = null;
    return startWalk(turn, run);
  }
  for (const identity of gone) if (run.only === null || run.only.has(identity)) run.handled.add(identity);
  finish(turn, run);
}

/** Done when nobody is waited for and, after a failover, no delivery to the lost copy is open any more (protocol.md 20). */
function finish(turn: Turn, run: Run): void {
  run.only = null;
  run.stage = run.waiting.size > 0 || isDeliveryOpen(turn, run) ? 'waiting' : 'done';
  if (run.stage !== 'done') return;
  run.again = null;
  save(turn, run);
}

function isDeliveryOpen({ server }: Turn, { request }: Run): boolean {
  if (request.lostActivation === null || request.dryRun) return false;
  for (const { route } of server.deliveries.values())
    if (route.kind === 'mailbox' && isLostActivation(server.document, request, route.database, route.activation))
      return true;
  return false;
}

/** Every second: what depends on time, or on who is there. */
export function tick(turn: Turn, run: Run): void {
  if (run.stage === 'stopped') return;
  if (run.stage === 'done') return lookAgain(turn, run);
  if (isExpired(turn, run.request)) {
    addError(run, 'its lifetime was over before it was complete');
    return stop(turn, run);
  }
  for (const [owner, asking] of run.asking) stillAsking(turn, run, owner, asking);
  if (run.stage === 'waiting') decideWaiting(turn, run);
  advance(turn, run);
}

const timeoutMs = ({ server }: Turn): number => server.document.policies.safetyNet.unresponsivePrimaryTimeoutMs;

function stillAsking(turn: Turn, run: Run, owner: Identity, asking: Asking): void {
  if (memberWith(turn.server, owner) === null) {
    run.asking.delete(owner);
    run.waiting.add(owner);
  } else if (turn.nowMs - asking.heardAtMs >= timeoutMs(turn)) {
    run.asking.delete(owner);
    run.unresponsive.add(owner);
    addError(run, `${owner} did not answer in time`);
    run.page.push(...asking.items.values());
  } else if (turn.nowMs - asking.sentAtMs >= REPEAT_MS) ask(turn, run, owner, asking);
}

/** semantics.md N4: an unreachable primary is waited for until `unresponsivePrimaryTimeout` after the request was first seen here. */
function decideWaiting(turn: Turn, run: Run): void {
  const gone = goneIdentities(turn);
  const isLate = trustedNow(turn) - run.seenAtMs >= timeoutMs(turn) && !wrong(turn, 'shadow-never-covers');
  const decided = new Set<Identity>();
  for (const owner of run.waiting) {
    const isThere = memberWith(turn.server, owner) !== null;
    if (!isThere && !gone.has(owner) && !isLate) continue;
    if (!isThere && isLate) run.unresponsive.add(owner);
    decided.add(owner);
    run.waiting.delete(owner);
  }
  if (decided.size === 0) {
    if (run.waiting.size === 0) finish(turn, run);
    return;
  }
  run.stage = 'shadow';
  run.only = decided;
}

/** What is done is not done for ever: entries come to rest here later, and primaries that answered for theirs are lost. */
function lookAgain(turn: Turn, run: Run): void {
  if (isExpired(turn, run.request) || run.request.dryRun) return;
  const restMs = turn.server.rehoming.done ? ARRIVALS_MS : ARRIVALS_REHOMING_MS;
  if (run.arrivals && turn.nowMs - run.arrivalsAtMs >= restMs) {
    run.arrivals = false;
    run.arrivalsAtMs = turn.nowMs;
    begin(run, 'primary', 'arrivals', null);
  } else {
    const orphaned = [...goneIdentities(turn)].filter((identity) => !run.handled.has(identity));
    if (orphaned.length === 0) return;
    begin(run, 'shadow', 'orphans', new Set(orphaned));
  }
  save(turn, run);
  advance(turn, run);
}

function begin(run: Run, stage: 'primary' | 'shadow', again: Run['again'], only: Run['only']): void {
  run.stage = stage;
  run.again = again;
  run.only = only;
}

export function stop(turn: Turn, run: Run): void {
  if (run.scan !== null) early(turn, { kind: 'EndScan', scan: run.scan.number });
  run.scan = null;
  run.stage = 'stopped';
  run.page.length = 0;
  run.asking.clear();
  run.waiting.clear();
}
