/**
 * One message copy in memory and what follows from its state. Owns: the derived role, the part of the state that members
 * exchange, and the pure merge of what another member says (protocol.md section 11).
 * Promise: everything here only grows - a stale, repeated or reordered STATE changes nothing the second time.
 */
import {
  type CopyId,
  compareEpochs,
  type Identity,
  type RecipientState,
  type SharedState,
} from '../../common/message.ts';
import { recipientCount } from '../store/compact.ts';
import type { CopyFacts, CopyState, Placement, Queue } from '../store/database.ts';

/** Volatile companions of a durable copy; lost at a restart on purpose. */
export interface Copy {
  facts: CopyFacts;
  state: CopyState;
  /** What the database holds of it, while nothing was written since it was recovered (state.ts). */
  recovered: CopyState | null;
  /** Recovered or replayed: ask the members once before it is delivered (protocol.md 7, 14). */
  doubt: Doubt | null;
  /** It was in doubt once: what goes out may be a repeat. */
  wasDoubtful: boolean;
  /** Recipient indexes in the hands of a delivery agent. */
  delivering: ReadonlySet<number>;
  /** A higher epoch was seen while deliveries are open: demote when they are back (row 33). */
  demoteTo: SharedState | null;
  /** Session number per member on which this holder is registered (protocol.md 9). */
  registered: ReadonlyMap<string, number>;
  /** Monotonic time of the next delivery attempt per next hop. */
  retryAtMs: ReadonlyMap<string, number>;
  /** Next hops in whose lines it stands, or stood since it left all of them (hop.ts). */
  waitsAt: ReadonlySet<string>;
  /** Some recipient has no next hop, as far as was looked: for people (message-listing.ts). */
  isPathless: boolean;
  /** The owner that said, after its own commit, that it has this copy too (protocol.md 11). */
  vouchedBy: Identity | null;
  /** Of a report made in this life: about whom. A hundred thousand copies, or ten thousand recipients of one, need not be gone through for each. */
  reportOf?: { readonly parent: CopyId; readonly index: number };
  /** A higher try, mine or of another, of what was held for this owner: it counts on what is here until it hears otherwise. */
  raisedFrom?: Identity;
  /** Recipients of whose success a report was begun in this life. */
  reportsBegun?: Set<number>;
}

/** Replaced, never changed: a hundred thousand copies that came into doubt together share one. */
export interface Doubt {
  readonly untilMs: number;
  /** Members whose answer is still awaited. */
  readonly waiting: readonly string[];
}

export function newCopy(facts: CopyFacts, state: CopyState): Copy {
  return {
    facts,
    state,
    recovered: null,
    doubt: null,
    wasDoubtful: false,
    delivering: NONE,
    demoteTo: null,
    registered: NOTHING,
    retryAtMs: NOTHING,
    waitsAt: NOWHERE,
    isPathless: false,
    vouchedBy: null,
  };
}

/** Most copies only wait: three empty collections each were a fifth of the memory of a queue. Replaced, never changed. */
const NONE: ReadonlySet<number> = new Set();
const NOTHING: ReadonlyMap<string, number> = new Map();
export const NOWHERE: ReadonlySet<string> = new Set();

/** `peer`: the session; copies that are registered on one session only share its map. */
export function register(copy: Copy, member: string, peer: Registrar): void {
  const others = copy.registered.size - (copy.registered.has(member) ? 1 : 0);
  copy.registered = others === 0 ? peer.alone : new Map(copy.registered).set(member, peer.session);
}

export interface Registrar {
  readonly session: number;
  /** What is registered on this session alone. */
  readonly alone: ReadonlyMap<string, number>;
}

export function retryAt(copy: Copy, hop: string, atMs: number): void {
  copy.retryAtMs = new Map(copy.retryAtMs).set(hop, atMs);
}

export function deliveryStarted(copy: Copy, recipients: readonly number[]): void {
  copy.delivering = new Set([...copy.delivering, ...recipients]);
}

export function deliveryEnded(copy: Copy, recipients: readonly number[]): void {
  const left = [...copy.delivering].filter((index) => !recipients.includes(index));
  copy.delivering = left.length === 0 ? NONE : new Set(left);
}

/** The state of a copy that has just come to be. */
export const freshState = (first: Pick<CopyState, 'queue' | 'epoch' | 'standing'> & Partial<CopyState>): CopyState => ({
  abortedThrough: 0,
  recipients: null,
  placements: [],
  ageMs: 0,
  finalAtMs: null,
  unprotected: null,
  suspended: false,
  crashCount: 0,
  delayed: false,
  dsns: [],
  attempts: 0,
  ...first,
});

/**
 * Outcomes are recorded one by one; where damage took the record that listed the recipients, some would be missing (seed 18742) and the rest pass for all of
 * them. Nobody is final of whom nothing is known.
 */
export function everyRecipient(facts: CopyFacts, state: CopyState): CopyState {
  const known: readonly (RecipientState | null | undefined)[] | null = state.recipients;
  if (known === null) return state;
  if (known.length >= recipientCount(facts) && !known.includes(undefined) && !known.includes(null)) return state;
  const { recipients } = facts.envelope;
  const length = Math.max(known.length, recipients.length);
  let isWhole = true;
  const all = Array.from({ length }, (_, index): RecipientState => {
    const one = known[index];
    if (one !== undefined && one !== null) return one;
    isWhole = false;
    return { address: recipients[index]?.address ?? '', outcome: 'pending' };
  });
  return isWhole ? state : { ...state, recipients: all };
}

export type Role = 'primary' | 'shadow';

/** Primary = the epoch's owner is this queue database; nothing else decides. */
export function roleOf(state: CopyState, me: Identity): Role {
  return state.epoch.owner === me ? 'primary' : 'shadow';
}

export const IN_TRANSIT: ReadonlySet<Queue> = new Set(['submission', 'delivery', 'unreachable', 'poison']);

/** A person said that nothing more of it shall be delivered for now (row 25). */
export const isSuspended = ({ suspended }: Pick<CopyState, 'suspended'>): boolean => Number(suspended) % 2 === 1;

export const isFinal = (recipient: RecipientState): boolean => recipient.outcome !== 'pending';

/** Success is what enters Safety Net (semantics.md D8). */
export const isSuccess = (recipient: RecipientState): boolean =>
  recipient.outcome === 'delivered' || recipient.outcome === 'relayed';

/** Final for everybody: a failure counts only once its DSN is safe (protocol.md 11). */
export const isAnnounceable = (recipient: RecipientState): boolean =>
  isFinal(recipient) && (isSuccess(recipient) || recipient.outcome === 'removed' || recipient.announced === true);

/** It succeeded, and the report that its sender asked for is not safe yet. */
export const owesReport = (recipient: RecipientState): boolean => isSuccess(recipient) && recipient.announced === false;

export const allFinal = (recipients: readonly RecipientState[] | null): boolean =>
  recipients !== null && recipients.length > 0 && recipients.every((one) => isAnnounceable(one) && !owesReport(one));

export function databasesOf(recipients: readonly RecipientState[] | null): string[] {
  const names = new Set<string>();
  for (const recipient of recipients ?? [])
    if (isSuccess(recipient) && recipient.database !== undefined) names.add(recipient.database);
  return [...names];
}

export function sharedState(facts: CopyFacts, state: CopyState): SharedState {
  return {
    id: facts.id,
    ancestor: facts.ancestor,
    kind: facts.kind,
    epoch: state.epoch,
    standing: state.standing,
    abortedThrough: state.abortedThrough,
    digest: facts.digest,
    sizeBytes: facts.sizeBytes,
    recipients:
      state.recipients?.map((recipient) =>
        isAnnounceable(recipient) || !isFinal(recipient) ? recipient : pendingAgain(recipient),
      ) ?? null,
    final: allFinal(state.recipients),
    ...(state.crashCount > 0 ? { crashes: state.crashCount } : {}),
    ...(state.suspended === false ? {} : { suspensions: Number(state.suspended) }),
  };
}

/** A failure whose DSN is not yet safe is still pending for everybody else. */
const pendingAgain = (recipient: RecipientState): RecipientState => ({
  address: recipient.address,
  outcome: 'pending',
});

function mergeRecipient(local: RecipientState, remote: RecipientState): RecipientState {
  if (!isFinal(remote)) return local;
  if (!isFinal(local)) return remote;
  if (owesReport(local) && isSuccess(remote) && remote.announced === true) return remote;
  return (remote.activation ?? 0) > (local.activation ?? 0) ? remote : local;
}

/**
 * What this member's state becomes when it hears `remote` about the same copy (equal digest). Higher epoch wins; per recipient the
 * finality of the highest activation; released is sticky; an abort never reaches a released copy (protocol.md section 11).
 */
export function merge(local: CopyState, remote: SharedState): CopyState {
  const epoch = compareEpochs(remote.epoch, local.epoch) > 0 ? remote.epoch : local.epoch;
  const standing = local.standing === 'released' || remote.standing === 'released' ? 'released' : 'intake';
  const abortedThrough = Math.max(local.abortedThrough, remote.abortedThrough);
  const recipients = mergeRecipients(local.recipients, remote.recipients);
  // The mark travels (protocol.md 18).
  const crashCount = Math.max(local.crashCount, remote.crashes ?? 0);
  // It only grows, so that an answer that comes late takes nothing back.
  const suspended = (remote.suspensions ?? 0) > Number(local.suspended) ? Number(remote.suspensions) : local.suspended;
  const unchanged =
    suspended === local.suspended &&
    crashCount === local.crashCount &&
    epoch === local.epoch &&
    standing === local.standing &&
    abortedThrough === local.abortedThrough &&
    recipients === local.recipients;
  return unchanged ? local : { ...local, epoch, standing, abortedThrough, recipients, crashCount, suspended };
}

function mergeRecipients(
  local: readonly RecipientState[] | null,
  remote: readonly RecipientState[] | null,
): readonly RecipientState[] | null {
  if (remote === null) return local;
  if (local === null) return remote;
  if (local.length !== remote.length) return local;
  let changed = false;
  const merged = local.map((recipient, index) => {
    const other = remote[index];
    if (other === undefined || other.address !== recipient.address) return recipient;
    const result = mergeRecipient(recipient, other);
    if (result !== recipient) changed = true;
    return result;
  });
  return changed ? merged : local;
}

/** Replaces or adds the placement on one identity. */
export function withPlacement(placements: readonly Placement[], placement: Placement): readonly Placement[] {
  return [...placements.filter((other) => other.identity !== placement.identity), placement];
}

export const withoutPlacement = (placements: readonly Placement[], identity: Identity): readonly Placement[] =>
  placements.filter((other) => other.identity !== identity);

export const confirmedPlacements = (state: CopyState): readonly Placement[] =>
  state.placements.filter((placement) => placement.status === 'confirmed');

/** The event by which a transport hands a message on to another boundary: its source is the boundary it came from, its detail the id of the delivery. */
export const CROSSED = 'CROSSED';

/** Boundaries that had the message before this one, in order: they travel with its events. */
export const passedBoundaries = ({ events }: CopyFacts): readonly string[] =>
  events.filter(({ event }) => event === CROSSED).map(({ source }) => source);

/** The id whose delivery a store recognises: the eldest ancestor's (protocol.md 23). */
export function deliveryIdOf({ id, ancestor, events }: CopyFacts): CopyId {
  if (ancestor !== null) return ancestor;
  // A store may have had it from another boundary (semantics.md D3): the same id all the way.
  const crossed = events.find(({ event }) => event === CROSSED)?.detail;
  return crossed === undefined ? id : (crossed as CopyId);
}
