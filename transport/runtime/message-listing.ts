/**
 * Messages and delivery queues as a person asks for them: filters, pages, what each waits for (view.ts). Owns: that a page costs the loop a bounded time however
 * many messages there are - cheap facts first, the envelope and the way of at most `LOOKED_AT` copies and `RECIPIENTS_TOLD` recipients. Promise: pages are in the order of the ids, no copy that is there
 * all the while is left out. Reads only.
 */
import type { CopyId, RecipientState } from '../../common/message.ts';
import { type Copy, deliveryIdOf, isFinal, isSuspended, roleOf } from '../core/copy.ts';
import { resolve } from '../core/delivery.ts';
import type { Hop } from '../core/hop.ts';
import { splitAddress } from '../core/routing.ts';
import type { Server } from '../core/state.ts';
import type { CopyFacts } from '../store/database.ts';
import { unreachableOf } from './queue-totals.ts';
import { type Clocks, toldAge } from './told-times.ts';
import type { MessageFilter, MessageListing, MessageSummary, NextHopView } from './view.ts';

/** Copies of one page whose envelope is read: inflated, 20 microseconds each. */
export const LOOKED_AT = 1_000;
/** Of one page, all together: each is told of in full, and a thousand messages may have a thousand each. */
export const RECIPIENTS_TOLD = 50_000;

export function listMessages(
  core: Server,
  filter: MessageFilter,
  after: CopyId | null,
  limit: number,
  clocks: Clocks,
): MessageListing {
  const candidates = firstById(core, filter, after, clocks);
  const messages: MessageSummary[] = [];
  let recipients = 0;
  for (const [index, copy] of candidates.entries()) {
    if (index === LOOKED_AT || messages.length === limit || recipients >= RECIPIENTS_TOLD)
      return { messages, next: candidates[index - 1]?.facts.id ?? null };
    if (!isOf(copy.facts, filter.attempt)) continue;
    const summary = summaryOf(core, copy, clocks);
    recipients += summary.recipients.length;
    if (matches(summary, filter)) messages.push(summary);
  }
  return { messages, next: null };
}

/** One more than is looked at, so that it is known whether there are others behind. */
function firstById(core: Server, filter: MessageFilter, after: CopyId | null, clocks: Clocks): readonly Copy[] {
  const crossed = canHaveCrossed(core);
  const byId = (a: Copy, b: Copy): number => (a.facts.id < b.facts.id ? -1 : 1);
  let found: Copy[] = [];
  let last: CopyId | null = null;
  for (const copy of core.copies.values()) {
    const { id } = copy.facts;
    if ((after !== null && id <= after) || (last !== null && id > last)) continue;
    if (!mayMatch(copy, filter, toldAge(core, copy, clocks), crossed) || found.push(copy) < 2 * LOOKED_AT) continue;
    found = found.sort(byId).slice(0, LOOKED_AT + 1);
    last = found.at(-1)?.facts.id ?? null;
  }
  return found.sort(byId).slice(0, LOOKED_AT + 1);
}

/** Something here could have another id than where it was accepted. */
const canHaveCrossed = ({ document, self }: Server): boolean =>
  document.siteLinks !== undefined || document.members.some(({ boundary }) => boundary !== self.boundary);

/** Itself, what was resubmitted of it, and what crossed from it (semantics.md D3). The last reads the envelope. */
const isOf = (facts: CopyFacts, attempt: string | null): boolean =>
  attempt === null || facts.id === attempt || deliveryIdOf(facts) === attempt;

function mayMatch({ facts, state }: Copy, filter: MessageFilter, ageMs: number, crossed: boolean): boolean {
  const { queue, attempt, olderThanMs, youngerThanMs, minBytes, maxBytes } = filter;
  return (
    (queue === null || state.queue === queue) &&
    (attempt === null || crossed || facts.id === attempt || facts.ancestor === attempt) &&
    (olderThanMs === null || ageMs > olderThanMs) &&
    (youngerThanMs === null || ageMs < youngerThanMs) &&
    (minBytes === null || facts.sizeBytes > minBytes) &&
    (maxBytes === null || facts.sizeBytes < maxBytes)
  );
}

const same = (a: string, b: string): boolean => a.toLowerCase() === b.toLowerCase();

function matches({ from, recipients, nextHops, lastError }: MessageSummary, filter: MessageFilter): boolean {
  const { sender, recipient, domain, nextHop, error } = filter;
  return (
    (sender === null || same(from, sender)) &&
    (recipient === null || recipients.some(({ address }) => same(address, recipient))) &&
    (domain === null || recipients.some(({ address }) => splitAddress(address).domain === domain.toLowerCase())) &&
    (nextHop === null || nextHops.includes(nextHop)) &&
    (error === null || lastError?.toLowerCase().includes(error.toLowerCase()) === true)
  );
}

function summaryOf(core: Server, copy: Copy, clocks: Clocks): MessageSummary {
  const { facts, state } = copy;
  const { envelope } = facts;
  const { recipients, nextHops } = waysOf(core, copy);
  const nextAttempts = nextHops.flatMap((key) => copy.retryAtMs.get(key) ?? core.hops.get(key)?.retryAtMs ?? []);
  return {
    id: facts.id,
    crossedFrom: facts.ancestor === null && deliveryIdOf(facts) !== facts.id ? deliveryIdOf(facts) : null,
    queue: state.queue,
    role: roleOf(state, core.me),
    from: envelope.reversePath,
    recipients,
    sizeBytes: facts.sizeBytes,
    acceptedAtMs: facts.acceptedAtMs,
    ageMs: toldAge(core, copy, clocks),
    holders: state.placements.map(({ member, status }) => ({ member, status })),
    nextHops,
    lastError: lastErrorOf(core, recipients, nextHops),
    nextAttemptMs: nextAttempts.length === 0 ? null : Math.round(Math.min(...nextAttempts) + clocks.offsetMs),
    suspended: isSuspended(state),
  };
}

/** As the queue in which it waits, as a whole or with some of its recipients. */
const UNREACHABLE = 'unreachable';

/** Where it waits, or is being delivered to right now; of whom has no next hop, why. */
function waysOf(core: Server, copy: Copy): Pick<MessageSummary, 'recipients' | 'nextHops'> {
  const { state, facts } = copy;
  const known =
    state.recipients ??
    facts.envelope.recipients.map(({ address }): RecipientState => ({ address, outcome: 'pending' }));
  const isRouted = state.queue === 'delivery' || state.queue === 'unreachable';
  if (!isRouted || state.epoch.owner !== core.me) return { recipients: known, nextHops: [] };
  const hops = new Set<string>();
  const recipients = known.map((recipient) => {
    if (isFinal(recipient)) return recipient;
    const resolution = resolve(core, copy, recipient.address);
    // Until the next look at the routes nothing of it goes anywhere.
    if (resolution.kind === 'route' && state.queue === 'delivery') hops.add(resolution.hop);
    if (resolution.kind !== 'unreachable') return recipient;
    hops.add(UNREACHABLE);
    return { ...recipient, reply: resolution.reason };
  });
  return { recipients, nextHops: [...hops] };
}

/** What was said of the message itself, else why its next hop cannot be used. */
function lastErrorOf(core: Server, recipients: readonly RecipientState[], nextHops: readonly string[]): string | null {
  const own = recipients.find((one) => !isFinal(one) && one.reply !== undefined && one.reply !== '');
  if (own?.reply !== undefined) return own.reply;
  for (const key of nextHops) {
    const hop = core.hops.get(key);
    if (hop !== undefined && hop.failures > 0 && hop.lastError !== null) return hop.lastError;
  }
  return null;
}

// --- queues ----------------------------------------------------------------------------------------------------------

interface PutOff {
  messages: number;
  /** Monotonic: when the first of them is due. */
  firstMs: number;
  oldestAgeMs: number;
}

/** What is put off at each next hop. */
function deferredByHop(core: Server, clocks: Clocks): ReadonlyMap<string, PutOff> {
  const deferred = new Map<string, PutOff>();
  for (const copy of core.copies.values()) {
    if (copy.state.queue !== 'delivery') continue;
    for (const [key, atMs] of copy.retryAtMs) {
      if (atMs <= clocks.nowMs) continue;
      const oldestAgeMs = toldAge(core, copy, clocks);
      const known = deferred.get(key);
      if (known === undefined) deferred.set(key, { messages: 1, firstMs: atMs, oldestAgeMs });
      else {
        known.messages += 1;
        known.firstMs = Math.min(known.firstMs, atMs);
        known.oldestAgeMs = Math.max(known.oldestAgeMs, oldestAgeMs);
      }
    }
  }
  return deferred;
}

function* copiesNamed({ copies }: Server, ids: Iterable<CopyId>): Iterable<Copy> {
  for (const id of ids) {
    const copy = copies.get(id);
    if (copy !== undefined) yield copy;
  }
}

/** Null: there is none. */
function oldestOf(core: Server, copies: Iterable<Copy>, clocks: Clocks): number | null {
  let oldest: number | null = null;
  for (const copy of copies) oldest = Math.max(oldest ?? 0, toldAge(core, copy, clocks));
  return oldest;
}

function mostOf(numbers: readonly (number | null)[]): number | null {
  const known = numbers.filter((one) => one !== null);
  return known.length === 0 ? null : Math.max(...known);
}

/** What is said of the next hop as a whole, while it cannot be used; else what was said of those that it put off. */
function hopError({ failures, lastError, lastDeferral }: Hop, isAnyPutOff: boolean): string | null {
  if (failures > 0 || !isAnyPutOff) return lastError;
  return lastDeferral ?? lastError;
}

const UNSENT = ['submission', 'unreachable', 'poison'] as const;

/** Of one of them: they may have others. */
function whyUnreachable(core: Server, copy: Copy | undefined): string | null {
  if (copy === undefined) return null;
  const { recipients, nextHops } = waysOf(core, copy);
  return nextHops.includes(UNREACHABLE) ? lastErrorOf(core, recipients, []) : null;
}

/** Delivery queues, one for each next hop, then those in which nothing is sent. */
export function listNextHops(core: Server, clocks: Clocks): readonly NextHopView[] {
  const deferred = deferredByHop(core, clocks);
  const delivering = Map.groupBy(core.deliveries.values(), ({ hop }) => hop);
  const wall = (ms: number | null): number | null => (ms === null ? null : Math.round(ms + clocks.offsetMs));
  const hops = [...core.hops.values()].map((hop): NextHopView => {
    const { messages = 0, firstMs = null, oldestAgeMs = null } = deferred.get(hop.key) ?? {};
    const sent = (delivering.get(hop.key) ?? []).map(({ id }) => id);
    const ages = [sent, hop.ready].map((ids) => oldestOf(core, copiesNamed(core, ids), clocks));
    return {
      queue: 'delivery',
      nextHop: hop.key,
      messages: hop.ready.size + hop.active + messages,
      active: hop.active,
      deferred: messages,
      nextRetryMs: wall(hop.retryAtMs ?? (hop.ready.size > 0 ? null : firstMs)),
      lastError: hopError(hop, messages > 0),
      suspended: core.suspendedQueues.has(hop.key),
      oldestAgeMs: mostOf([oldestAgeMs, ...ages]),
    };
  });
  return [...hops, ...listUnsent(core, clocks)];
}

function listUnsent(core: Server, clocks: Clocks): readonly NextHopView[] {
  const waiting = { submission: [] as Copy[], unreachable: unreachableOf(core), poison: [] as Copy[] };
  for (const copy of core.copies.values()) {
    const { queue } = copy.state;
    if (queue === 'submission' || queue === 'poison') waiting[queue].push(copy);
  }
  return UNSENT.flatMap((queue): readonly NextHopView[] => {
    const copies = waiting[queue];
    if (copies.length === 0) return [];
    const lastError = queue === UNREACHABLE ? whyUnreachable(core, copies[0]) : null;
    const idle = { active: 0, deferred: 0, nextRetryMs: null, lastError, suspended: false };
    return [{ queue, nextHop: queue, messages: copies.length, ...idle, oldestAgeMs: oldestOf(core, copies, clocks) }];
  });
}
