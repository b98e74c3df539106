/**
 * From released to final (semantics.md section 5): categorise, queue per next hop, retry, fork DSNs, and the move into Safety Net with
 * its discard status in one commit. Owns: that a recipient is final only by what a store, a relay, an expiry or an administrator said, and
 * that finality is durable before anybody hears of it.
 */

import type { CopyId, RecipientOutcome, RecipientState } from '../../common/message.ts';
import type { CopyState } from '../store/database.ts';
import {
  allFinal,
  type Copy,
  confirmedPlacements,
  deliveryEnded,
  deliveryIdOf,
  deliveryStarted,
  isFinal,
  isSuccess,
  isSuspended,
  owesReport,
  passedBoundaries,
  retryAt,
} from './copy.ts';
import { answerClaimant, demote, leaveFinal, obligations } from './demotion.ts';
import type { DeliveryResult, Route } from './events.ts';
import { seeksHome } from './homes.ts';
import { type Hop, type OpenDelivery, waitAt } from './hop.ts';
import { Line } from './line.ts';
import { isOutbound } from './open-deliveries.ts';
import { settle, tellHolders } from './ownership.ts';
import { begins, newPace, restMs, waitMs } from './pace.ts';
import { isJustAwake } from './presence.ts';
import { trackEnd } from './recipient-ends.ts';
import { restsAlone } from './rehome.ts';
import { dsnSafe, forkDsn, forkOwed, isSuccessOwed, kindOf, reportExpansions, resumeReports } from './reports.ts';
import { reopen, reopened } from './resubmission.ts';
import { type Resolution, resolveRecipient } from './routing.ts';
import { commit, dropCopy, late, type Server, setState, setTimer, type Turn, trustedNow, wrong } from './state.ts';
import { transition } from './transitions.ts';

const MAX_REPLY_LENGTH = 200;

export function resolve({ document, self, paths, mutants }: Server, { facts }: Copy, address: string): Resolution {
  const { site, boundary } = self;
  const origin = { site, sizeBytes: facts.sizeBytes };
  // What is resubmitted never crosses (semantics.md D3): it goes where it was delivered before.
  if (document.siteLinks === undefined || facts.kind === 'resubmission')
    return resolveRecipient(document, address, origin);
  const passed = mutants.has('circle-unseen') ? [] : passedBoundaries(facts);
  return resolveRecipient(document, address, { ...origin, crossing: { boundary, passed, paths } });
}

/** Row 13: resolves the recipients and puts the copy into its next hops' queues. */
export function categorize(turn: Turn, copy: Copy): void {
  const { server } = turn;
  const known = copy.state.recipients;
  const recipients: RecipientState[] = (
    known === null
      ? copy.facts.envelope.recipients.map(
          (recipient): RecipientState => ({ address: recipient.address, outcome: 'pending' }),
        )
      : reopened(turn, copy.state, known)
  ).slice();
  if (known === null) reportExpansions(turn, copy);
  const isReopened = known?.some((recipient, index) => isFinal(recipient) && recipient !== recipients[index]) === true;
  const failed: number[] = [];
  let routed = 0;
  for (const [index, recipient] of recipients.entries()) {
    if (isFinal(recipient)) continue;
    const resolution = resolve(server, copy, recipient.address);
    if (resolution.kind === 'unknown' || resolution.kind === 'tooLarge') {
      recipients[index] = finalNow(turn, recipient, 'failed', resolution.reply);
      failed.push(index);
    } else if (resolution.kind === 'route') routed += 1;
  }
  const reachable = routed > 0 || recipients.every(isFinal);
  const queue = reachable ? 'delivery' : 'unreachable';
  transition(server.coverage, 'Categorized', copy.state.queue, 'primary', queue);
  setState(turn, copy, { ...copy.state, queue, recipients }, failed.length > 0 || isReopened ? 'commit' : 'lazy');
  for (const { address, reply = '' } of failed.flatMap((index) => recipients[index] ?? []))
    trackEnd(turn, copy, 'FAIL', address, reply);
  for (const index of failed) forkDsn(turn, copy, 'failed', index);
  enqueue(turn, copy);
  // Whoever decided about some of them may not have been able to say that the report is safe: whose this is now does (seed 1361 under a dose).
  if (!finishIfFinal(turn, copy) && known !== null) resumeReports(turn, copy);
}

export const finalNow = (
  turn: Turn,
  recipient: RecipientState,
  outcome: RecipientOutcome,
  reply: string,
): RecipientState => ({
  ...recipient,
  outcome,
  reply,
  // The window of a resubmit request is by the wall clock; where the two differ the later is the safe one (protocol.md 19).
  atMs: Math.max(trustedNow(turn), Math.floor(turn.wallMs)),
});

/** Puts what is still pending into the queues of its next hops. */
export function enqueue(turn: Turn, copy: Copy): void {
  const { server } = turn;
  if (copy.state.queue !== 'delivery' || isSuspended(copy.state) || copy.doubt !== null) return;
  if (server.damaged.has(copy.facts.id)) return;
  const [hops, due] = [new Set<string>(), new Set<Hop>()];
  copy.isPathless = false;
  for (const [index, recipient] of (copy.state.recipients ?? []).entries()) {
    if (isFinal(recipient) || copy.delivering.has(index)) continue;
    const resolution = resolve(server, copy, recipient.address);
    if (resolution.kind === 'unreachable') copy.isPathless = true;
    if (resolution.kind !== 'route') continue;
    const hop = server.hops.get(resolution.hop) ?? newHop(turn, resolution.hop, resolution.route);
    hop.route = resolution.route;
    if ((copy.retryAtMs.get(hop.key) ?? Number.NEGATIVE_INFINITY) <= turn.nowMs) due.add(hop);
    hops.add(hop.key);
  }
  waitAt(copy, [...due]);
  for (const key of hops) pump(turn, key);
}

function newHop(turn: Turn, key: string, route: Route): Hop {
  const rest = { active: 0, failures: 0, retryAtMs: null, lastError: null, lastDeferral: null };
  const hop: Hop = { key, route, ready: new Line(), alone: new Set([key]), pace: newPace(), ...rest };
  turn.server.hops.set(key, hop);
  return hop;
}

/** Starts deliveries while the hop is up and below its concurrency (semantics.md D6). */
export function pump(turn: Turn, key: string): void {
  const { server } = turn;
  const hop = server.hops.get(key);
  // protocol.md 15: who is drained opens no new delivery.
  if (hop === undefined || server.self.state === 'draining' || server.suspendedQueues.has(key)) return;
  // After a failed connection one delivery probes, the others wait.
  const { maxConcurrentDeliveriesPerDestination } = server.document.policies.queues;
  const { maxConcurrentDeliveries = null, messagesPerMinute = null } = limitsOf(hop) ?? {};
  const limit = hop.failures > 0 ? 1 : (maxConcurrentDeliveries ?? maxConcurrentDeliveriesPerDestination);
  while (hop.active < limit && (hop.retryAtMs === null || hop.retryAtMs <= turn.nowMs)) {
    if (isOutbound(hop) && server.deliveries.isFull) return server.deliveries.wait(key);
    if (messagesPerMinute !== null && hop.ready.size > 0)
      if (mustWait(turn, hop, waitMs(hop.pace, messagesPerMinute, turn.nowMs))) return;
    const id = hop.ready.take();
    if (id === undefined) return forgetIdleDomain(turn, hop);
    const copy = server.copies.get(id);
    if (copy === undefined || copy.state.queue !== 'delivery' || copy.state.epoch.owner !== server.me) continue;
    // A higher owner was seen: what is open comes to its end, nothing is opened any more (semantics.md S7).
    if (copy.doubt !== null || copy.demoteTo !== null || server.damaged.has(id) || isSuspended(copy.state)) continue;
    const began = startDelivery(turn, copy, hop);
    if (began && messagesPerMinute !== null) begins(hop.pace, messagesPerMinute, turn.nowMs);
  }
}

const limitsOf = ({ route }: Hop) => ('sendLimits' in route ? (route.sendLimits ?? null) : null);

/** So long no delivery begins here; a timer that comes earlier is enough. */
function mustWait(turn: Turn, { pace, key }: Hop, forMs: number): boolean {
  if (forMs <= 0) return false;
  if (turn.nowMs + forMs >= pace.timerAtMs) return true;
  pace.timerAtMs = turn.nowMs + forMs;
  setTimer(turn, forMs, 'pace', key);
  return true;
}

export function paceDue(turn: Turn, key: string): void {
  const hop = turn.server.hops.get(key);
  if (hop === undefined) return;
  hop.pace.timerAtMs = Number.POSITIVE_INFINITY;
  pump(turn, key);
}

/** There are as many domains as senders care to name: one for which nothing waits is not kept, when its pace is of no account any more. */
function forgetIdleDomain(turn: Turn, hop: Hop): void {
  if (hop.route.kind !== 'mx' || hop.active > 0 || mustWait(turn, hop, restMs(hop.pace, turn.nowMs))) return;
  turn.server.hops.delete(hop.key);
}

/** False: nothing of it goes this way now. */
function startDelivery(turn: Turn, copy: Copy, hop: Hop): boolean {
  const { server } = turn;
  const recipients: number[] = [];
  let { route } = hop;
  for (const [index, recipient] of (copy.state.recipients ?? []).entries()) {
    if (isFinal(recipient) || copy.delivering.has(index)) continue;
    const resolution = resolve(server, copy, recipient.address);
    // Its route went while it waited here, or was being delivered.
    if (resolution.kind === 'unreachable') copy.isPathless = true;
    if (resolution.kind !== 'route' || resolution.hop !== hop.key) continue;
    recipients.push(index);
    // Where it may wait on its way depends on where it has been.
    if (resolution.route.kind === 'boundary') route = resolution.route;
  }
  if (recipients.length === 0) return false;
  deliveryStarted(copy, recipients);
  server.nextRequest += 1;
  const open: OpenDelivery = {
    requestId: server.nextRequest,
    id: copy.facts.id,
    hop: hop.key,
    route,
    recipients,
  };
  server.deliveries.set(open.requestId, open);
  hop.active += 1;
  late(turn, {
    copy: copy.facts.id,
    kind: 'Deliver',
    requestId: open.requestId,
    facts: copy.facts,
    deliveryId: wrong(turn, 'key-of-each-copy') ? copy.facts.id : deliveryIdOf(copy.facts),
    route,
    recipients,
    addresses: copy.state.recipients ?? [],
  });
  return true;
}

/** What the store or the relay said, recipient by recipient. */
export function deliveryDone(turn: Turn, requestId: number, results: readonly DeliveryResult[]): void {
  const { server } = turn;
  const open = server.deliveries.get(requestId);
  if (open === undefined) return;
  server.deliveries.delete(requestId);
  const hop = server.hops.get(open.hop);
  const copy = server.copies.get(open.id);
  if (hop !== undefined) {
    hop.active -= 1;
    judgeHop(turn, hop, results);
  }
  if (copy !== undefined) {
    deliveryEnded(copy, open.recipients);
    recordResults(turn, copy, open, results);
  }
  pumpWaiting(turn);
  if (hop !== undefined) pump(turn, hop.key);
}

/** There is room for one more to go out: who has waited longest for it comes first. */
function pumpWaiting(turn: Turn): void {
  const { deliveries } = turn.server;
  for (let key = deliveries.next(); key !== null; key = deliveries.next()) pump(turn, key);
}

/**
 * Asked right before a transaction, for which a delivery may have waited long: for a connection, for its turn. What came into doubt meanwhile, or stood still
 * with the process, is asked about first (protocol.md 14), and nothing is opened any more of what has another owner (semantics.md S7).
 */
export function mayBegin(server: Server, requestId: number, nowMs: number): boolean {
  const open = server.deliveries.get(requestId);
  const copy = open === undefined ? undefined : server.copies.get(open.id);
  if (server.mutants.has('waiting-delivery-begins')) return true;
  if (open === undefined || copy === undefined) return false;
  if (isSuspended(copy.state) && !server.mutants.has('suspended-in-turn')) return false;
  if (server.suspendedQueues.has(open.hop)) return false;
  return copy.doubt === null && copy.demoteTo === null && !isJustAwake(server, nowMs);
}

/** Not begun, or (`results`) only in part: it goes on when everybody has been asked. */
export function deliveryWithheld(turn: Turn, requestId: number, results: readonly DeliveryResult[] = []): void {
  const { server } = turn;
  const open = server.deliveries.get(requestId);
  if (open === undefined) return;
  server.deliveries.delete(requestId);
  const hop = server.hops.get(open.hop);
  if (hop !== undefined) hop.active -= 1;
  const copy = server.copies.get(open.id);
  if (copy === undefined) return pumpWaiting(turn);
  deliveryEnded(copy, open.recipients);
  recordResults(turn, copy, open, results);
  if (server.copies.get(open.id) === copy && copy.state.epoch.owner === server.me) enqueue(turn, copy);
  pumpWaiting(turn);
  pump(turn, open.hop);
}

/** A hop where nothing went through rests for a while; any success wakes it. */
function judgeHop(turn: Turn, hop: Hop, results: readonly DeliveryResult[]): void {
  const down =
    results.length > 0 &&
    results.every((result) => result.kind === 'unknown' || (result.kind === 'deferred' && result.host));
  if (!down) {
    hop.failures = 0;
    hop.retryAtMs = null;
    hop.lastError = null;
    return;
  }
  const first = results[0];
  hop.failures += 1;
  hop.lastError = first === undefined ? null : first.kind === 'unknown' ? first.reason : first.reply;
  const waitMs = Math.min(60_000, 1_000 * 2 ** Math.min(hop.failures - 1, 6)) * (0.8 + 0.4 * turn.server.draw());
  hop.retryAtMs = turn.nowMs + waitMs;
  setTimer(turn, waitMs, 'hop', hop.key);
}

/** Exchange: DUPLICATEDELIVER, where it was not needed any more. */
function eventOf(result: Extract<DeliveryResult, { readonly kind: 'delivered' | 'relayed' | 'failed' }>) {
  if (result.kind === 'failed') return 'FAIL';
  if (result.isRepeat === true) return 'DUPLICATEDELIVER';
  return result.kind === 'relayed' ? 'SEND' : 'DELIVER';
}

function recordResults(turn: Turn, copy: Copy, open: OpenDelivery, results: readonly DeliveryResult[]): void {
  const { server } = turn;
  const heard = (copy.state.recipients ?? []).slice();
  const changed: number[] = [];
  const putOff = new Map<string, string[]>();
  for (const result of results) {
    const recipient = heard[result.index];
    if (recipient === undefined || isFinal(recipient)) continue;
    // A hostile next hop decides how long its text is; states travel in frames of bounded size.
    const reply = (result.kind === 'unknown' ? result.reason : result.reply).slice(0, MAX_REPLY_LENGTH);
    if (result.kind === 'deferred' || result.kind === 'unknown') {
      const those = putOff.get(reply) ?? [];
      those.push(recipient.address);
      putOff.set(reply, those);
      heard[result.index] = { ...recipient, reply };
      continue;
    }
    const outcome = result.kind;
    const final = withPlace(finalNow(turn, recipient, outcome, reply), open.route);
    const isAwaited = isSuccessOwed(turn, copy, result) && !wrong(turn, 'success-unawaited');
    heard[result.index] = isAwaited ? { ...final, announced: false } : final;
    changed.push(result.index);
    late(turn, {
      copy: null,
      kind: 'Count',
      what: outcome === 'failed' ? 'failed' : 'delivered',
      label: open.route.kind,
    });
    late(turn, {
      copy: copy.facts.id,
      kind: 'Track',
      event: eventOf(result),
      facts: copy.facts,
      id: copy.facts.id,
      peer: open.hop,
      detail: reply,
      addresses: [recipient.address],
    });
  }
  // protocol.md 19: what the old copy of a database took after the failover is delivered once more, to the new one.
  const recipients = reopened(turn, copy.state, heard);
  const state: CopyState = { ...copy.state, recipients, attempts: copy.state.attempts + (putOff.size > 0 ? 1 : 0) };
  if (changed.length > 0) transition(server.coverage, 'RecipientFinal', copy.state.queue, 'primary', copy.state.queue);
  const last = allFinal(recipients) && copy.delivering.size === 0;
  // The move carries the last outcomes itself: one commit, not two.
  if (last) copy.state = state;
  else if (changed.length > 0) setState(turn, copy, state, 'commit', changed);
  else setState(turn, copy, state, 'lazy', []);
  forkEnds(turn, copy, recipients, changed);
  if (putOff.size > 0) scheduleRetry(turn, copy, open.hop, putOff);
  const { demoteTo } = copy;
  if (demoteTo !== null && copy.delivering.size === 0) {
    // Final wins over owned elsewhere: nothing is left for the new owner to do but to hear it.
    if (!finishIfFinal(turn, copy)) demote(turn, copy, demoteTo);
    answerClaimant(turn, copy, demoteTo);
    return;
  }
  if (wrong(turn, 'discard-before-all-recipients') && changed.length > 0) finalize(turn, copy);
  else if (!finishIfFinal(turn, copy)) {
    if (changed.length > 0) tellHolders(turn, copy.facts, copy.state, copy.registered, 'pending');
    if (isRerouted(turn, copy, open)) enqueue(turn, copy);
  }
}

/** Reports of what has just ended, and was not reopened at once. */
function forkEnds(turn: Turn, copy: Copy, recipients: readonly RecipientState[], changed: readonly number[]): void {
  for (const index of changed) {
    const recipient = recipients[index];
    if (recipient?.outcome === 'failed') forkDsn(turn, copy, 'failed', index);
    else if (recipient !== undefined && (owesReport(recipient) || wrong(turn, 'success-unawaited')))
      forkDsn(turn, copy, kindOf(recipient), index);
  }
}

/** While the delivery was open its next hop was given up: what is still pending waits in no queue. */
function isRerouted(turn: Turn, copy: Copy, { hop, route, recipients }: OpenDelivery): boolean {
  return recipients.some((index) => {
    const recipient = copy.state.recipients?.[index];
    if (recipient === undefined || isFinal(recipient)) return false;
    const now = resolve(turn.server, copy, recipient.address);
    if (now.kind !== 'route') return false;
    // The same copy may be active again by now: another activation all the same.
    const isOlder =
      now.route.kind === 'mailbox' && route.kind === 'mailbox' && now.route.activation !== route.activation;
    return now.hop !== hop || isOlder;
  });
}

function withPlace(recipient: RecipientState, route: Route): RecipientState {
  if (route.kind === 'boundary') return recipient;
  return route.kind === 'mailbox'
    ? { ...recipient, database: route.database, databaseCopy: route.copy, activation: route.activation }
    : { ...recipient, connector: route.connector };
}

/** D5: 4 x 1 min, 6 x 5 min, then every 10 min to relays; every 5 min to mailboxes; jittered. `putOff`: whom, by what was said of them. */
function scheduleRetry(turn: Turn, copy: Copy, key: string, putOff: ReadonlyMap<string, readonly string[]>): void {
  const { server } = turn;
  const hop = server.hops.get(key);
  const { retryIntervalsMs, mailboxRetryIntervalMs } = server.document.policies.queues;
  const index = Math.min(copy.state.attempts - 1, retryIntervalsMs.length - 1);
  const baseMs = key.startsWith('mailbox:')
    ? mailboxRetryIntervalMs
    : (retryIntervalsMs[Math.max(0, index)] ?? mailboxRetryIntervalMs);
  // While the hop itself is down its own timer decides; the copy is tried again as soon as it answers.
  const down = (hop?.failures ?? 0) > 0;
  const waitMs = down ? 0 : baseMs * (0.9 + 0.2 * server.draw());
  transition(server.coverage, 'RetryScheduled', copy.state.queue, 'primary', copy.state.queue);
  late(turn, { copy: null, kind: 'Count', what: 'deferred', label: down ? 'connection' : 'reply' });
  const { facts } = copy;
  for (const [detail, addresses] of putOff)
    late(turn, { copy: facts.id, kind: 'Track', event: 'DEFER', facts, id: facts.id, peer: key, detail, addresses });
  if (down) {
    if (!isSuspended(copy.state) && hop !== undefined) waitAt(copy, [hop]);
    return;
  }
  if (hop !== undefined) hop.lastDeferral = [...putOff.keys()].at(-1) ?? null;
  retryAt(copy, key, turn.nowMs + waitMs);
  setTimer(turn, waitMs + 1, 'retry', copy.facts.id);
}

export function retryDue(turn: Turn, id: CopyId): void {
  const copy = turn.server.copies.get(id);
  if (copy !== undefined && copy.state.epoch.owner === turn.server.me) enqueue(turn, copy);
}

export function hopDue(turn: Turn, key: string): void {
  const hop = turn.server.hops.get(key);
  if (hop === undefined) return;
  hop.retryAtMs = null;
  pump(turn, key);
}

/** Rows 20 and 21: Safety Net (or nothing, when nothing succeeded) and the discard status, in one commit. */
export function finishIfFinal(turn: Turn, copy: Copy): boolean {
  // An announcement within this step may have finished it already: finalising twice would move what is gone.
  if (turn.server.copies.get(copy.facts.id) !== copy) return true;
  // Another member may have delivered it, and died before it told its sender so.
  if (copy.state.recipients?.some(owesReport) === true) return resumeOwed(turn, copy);
  if (copy.state.queue !== 'delivery' || !allFinal(copy.state.recipients) || copy.delivering.size > 0) return false;
  if (reopen(turn, copy)) return false;
  // A higher owner was seen while the last delivery was open: what is final here rests as that one's shadow (row 34, seed 30581), else two would answer for it.
  if (copy.demoteTo !== null) demote(turn, copy, { ...copy.demoteTo, final: true });
  else finalize(turn, copy);
  return true;
}

/** True when that ended it. */
function resumeOwed(turn: Turn, copy: Copy): boolean {
  if (copy.state.queue === 'delivery' && copy.doubt === null) forkOwed(turn, copy);
  return turn.server.copies.get(copy.facts.id) !== copy;
}

function finalize(turn: Turn, copy: Copy): void {
  const { server } = turn;
  const id = copy.facts.id;
  const succeeded = copy.state.recipients?.some(isSuccess) === true;
  const state: CopyState = { ...copy.state, finalAtMs: trustedNow(turn), placements: homes(copy) };
  const placements = obligations(turn, copy);
  const registered = copy.registered;
  dropCopy(turn, copy);
  if (succeeded && !wrong(turn, 'safety-net-skipped')) {
    transition(server.coverage, 'AllRecipientsFinal', 'delivery', 'primary', 'primarySafetyNet');
    const resting: CopyState = { ...state, queue: 'primarySafetyNet' };
    commit(turn, { kind: 'move', id, state: resting });
    if (seeksHome(turn, resting)) restsAlone(turn, { facts: copy.facts, state: resting });
    late(turn, { copy: id, kind: 'Track', event: 'SAFETYNET', facts: copy.facts, id });
  } else {
    if (!succeeded) transition(server.coverage, 'NothingSucceeded', 'delivery', 'primary', 'removed');
    commit(turn, { kind: 'remove', id });
  }
  leaveFinal(turn, copy, state, placements);
  if (copy.facts.kind === 'dsn') dsnSafe(turn, id, copy);
  tellHolders(turn, copy.facts, state, registered, 'final');
}

/** Who will have it in Shadow Safety Net: known for as long as it rests here (rehome.ts). */
const homes = (copy: Copy): CopyState['placements'] => confirmedPlacements(copy.state);

/** Rows 14: after a change of the document, routes are looked up anew. */
export function routingChanged(turn: Turn): void {
  const { server } = turn;
  for (const copy of server.copies.values()) {
    if (copy.state.epoch.owner !== server.me) continue;
    if (copy.state.queue === 'unreachable') {
      transition(server.coverage, 'RoutingChanged', 'unreachable', 'primary', 'submission');
      setState(turn, copy, { ...copy.state, queue: 'submission' }, 'lazy');
      settle(turn, copy);
    } else enqueue(turn, copy);
  }
}
