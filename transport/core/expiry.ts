/**
 * What becomes of a message that grows old (semantics.md D5; row 18): the delay notice, and the end. Owns: that nobody is given up while somebody may have delivered it
 * (protocol.md 14), or while a person holds it back (semantics.md D10); its age goes on meanwhile.
 */
import type { CopyId, RecipientState } from '../../common/message.ts';
import { ageOf, setAge } from './ages.ts';
import { type Copy, isFinal, isSuspended } from './copy.ts';
import { enqueue, finalNow, finishIfFinal, resolve } from './delivery.ts';
import { waitNowhere } from './hop.ts';
import { isPoison } from './poison.ts';
import { trackEnd, whyPending } from './recipient-ends.ts';
import { forkDsn } from './reports.ts';
import { late, setState, type Turn, wrong } from './state.ts';
import { transition } from './transitions.ts';

/** Delay DSN after `delayNotification`, expiry after `messageExpiration` (Exchange: DelayNotificationTimeout, MessageExpirationTimeout). */
export function ageDue(turn: Turn, id: CopyId): void {
  const { server } = turn;
  const copy = server.copies.get(id);
  // Poison waits for a person (protocol.md 18).
  if (copy === undefined || copy.state.epoch.owner !== server.me || isPoison(copy.state)) return;
  const { messageExpirationMs, delayNotificationMs } = server.document.policies.queues;
  const ageMs = ageOf(server, copy, turn.nowMs);
  if (ageMs >= messageExpirationMs) return expire(turn, copy);
  setAge(turn, Math.max(1, (ageMs >= delayNotificationMs ? messageExpirationMs : delayNotificationMs) - ageMs), id);
  if (ageMs < delayNotificationMs || copy.state.delayed || copy.state.queue === 'submission') return;
  setState(turn, copy, { ...copy.state, delayed: true }, 'lazy');
  for (const [index, recipient] of (copy.state.recipients ?? []).entries())
    if (!isFinal(recipient)) forkDsn(turn, copy, 'delayed', index);
}

/** protocol.md 14: a report of failure waits for whoever may have delivered it, until that member counts as lost. */
function isUnanswered(turn: Turn, copy: Copy): boolean {
  const { unasked, lastHeardMs, startedAtMs, document } = turn.server;
  if (wrong(turn, 'expires-unanswered')) return false;
  for (const [member, claims] of unasked) {
    const silentMs = turn.nowMs - Math.max(startedAtMs, lastHeardMs.get(member) ?? 0);
    const isMember = document.members.some((entry) => entry.name === member && entry.state !== 'gone');
    if (isMember && claims.has(copy.facts.id) && silentMs < document.policies.shadowRedundancy.resubmitTimeSpanMs)
      return true;
  }
  return false;
}

const HELD_LOOK_MS = 10_000;

const isDone = ({ state }: Copy, index: number): boolean => {
  const recipient = state.recipients?.[index];
  return recipient !== undefined && isFinal(recipient);
};

/** Recipients that wait because a person suspended the message, or the queue in which they are. */
function heldBack({ server }: Turn, copy: Copy): ReadonlySet<number> {
  const held = new Set<number>();
  const isWhole = isSuspended(copy.state);
  if (!isWhole && server.suspendedQueues.size === 0) return held;
  const addresses = copy.state.recipients ?? copy.facts.envelope.recipients;
  for (const [index, { address }] of addresses.entries()) {
    const resolution = isWhole ? null : resolve(server, copy, address);
    if (resolution === null || (resolution.kind === 'route' && server.suspendedQueues.has(resolution.hop)))
      held.add(index);
  }
  return held;
}

function expire(turn: Turn, copy: Copy): void {
  const { server } = turn;
  if (copy.delivering.size > 0 || copy.state.standing === 'intake' || copy.doubt !== null || isUnanswered(turn, copy)) {
    setAge(turn, 1_000, copy.facts.id);
    return;
  }
  // What a person holds back is not given up behind their back: its age goes on, and decides once it is let go (semantics.md D10).
  const held = heldBack(turn, copy);
  if (held.size > 0) setAge(turn, HELD_LOOK_MS, copy.facts.id);
  if (
    held.size > 0 &&
    (copy.state.recipients ?? copy.facts.envelope.recipients).every(
      (_, index) => isDone(copy, index) || held.has(index),
    )
  )
    return;
  transition(server.coverage, 'Expired', copy.state.queue, 'primary', 'delivery');
  const expired: number[] = [];
  const ends: { readonly address: string; readonly why: string | null }[] = [];
  const recipients = (
    copy.state.recipients ??
    copy.facts.envelope.recipients.map((entry): RecipientState => ({ address: entry.address, outcome: 'pending' }))
  ).map((recipient, index) => {
    if (isFinal(recipient) || held.has(index)) return recipient;
    expired.push(index);
    ends.push({ address: recipient.address, why: whyPending(server, copy, recipient) });
    return finalNow(turn, recipient, 'expired', recipient.reply ?? '');
  });
  waitNowhere(server.hops, copy);
  setState(turn, copy, { ...copy.state, queue: 'delivery', recipients }, 'commit');
  late(turn, { copy: null, kind: 'Count', what: 'expired' });
  for (const { address, why } of ends) trackEnd(turn, copy, 'EXPIRE', address, why ?? 'not delivered in time');
  for (const index of expired) forkDsn(turn, copy, 'expired', index);
  if (!finishIfFinal(turn, copy) && held.size > 0) enqueue(turn, copy);
}
