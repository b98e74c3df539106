/**
 * Everything one transport knows while it runs. Owns: the shape of the core's memory and the small moves all parts share (timers, writes,
 * effects). Only `step()` and what it calls may change it.
 */
import type { MemberConfig, TopologyDocument } from '../../common/config.ts';
import type { CopyId, Envelope, Epoch, Identity, Reply, SharedState } from '../../common/message.ts';
import type { Load, TrackingEvent } from '../../common/peer/messages.ts';
import type { Graves } from '../store/buried.ts';
import { type Compactor, packedOf } from '../store/compact.ts';
import type { CopyState, StoredCopy, Tombstone } from '../store/database.ts';
import type { Ages } from './ages.ts';
import type { ResolveWaiter } from './answers.ts';
import type { KnownPaths } from './boundary-path.ts';
import type { Copy, Doubt } from './copy.ts';
import type { Damage } from './damage.ts';
import type { CoreWrite, EarlyEffect, LateEffect, StepResult } from './events.ts';
import { type Hop, waitNowhere } from './hop.ts';
import type { Line } from './line.ts';
import type { Mutant } from './mutants.ts';
import type { OpenDeliveries } from './open-deliveries.ts';
import type { Placings } from './placings.ts';
import type { Risk } from './poison.ts';
import type { Rehoming } from './rehome.ts';
import type { ReportParents } from './report-parents.ts';
import type { Resubmissions } from './resubmission.ts';
import type { TransitionCoverage } from './transitions.ts';

/** semantics.md L6, protocol.md 5: deadlines that nest. */
export const DEADLINES = {
  attemptMs: 2_000,
  allAttemptsMs: 10_000,
  /** A peer with an END unanswered this long gets no new one (protocol.md 6a). */
  unansweredEndMs: 500,
  resolveCapMs: 45_000,
  doubtMs: 5_000,
} as const;

export interface Peer {
  readonly identity: Identity;
  readonly openCounter: number;
  readonly nonce: string;
  readonly session: number;
  readonly alone: ReadonlyMap<string, number>;
  /** Whom it hears, by its last CONTACT. */
  hears: readonly string[];
  load: Load | null;
  /** By how much its elapsed time is ahead of ours, by its last CONTACT. */
  aheadMs: number;
  /** This process stood still, and what it says now may be of before (presence.ts). */
  isLate: boolean;
  /** It has told everything it holds of ours on this session. */
  listed: boolean;
  /** When everything it has not answered was last claimed. */
  askedMs: number;
  /** Copies and tombstones that had a placement on it when the session began and that its list has not named so far. */
  readonly owing: Set<CopyId>;
}

export interface Attempt {
  readonly number: number;
  readonly member: string;
  readonly site: string;
  readonly identity: Identity;
  /** This and the next two change in `placings.change()` only. */
  readonly status: 'opening' | 'open' | 'sentEnd' | 'stored' | 'failed';
  readonly endSentAtMs: number | null;
  /** Failed with an END out and no durable refusal: it may hold the copy. */
  readonly inDoubt: boolean;
  /** What it said when it refused. */
  refusal?: Reply;
}

/** The search for a shadow for one copy: from the OPEN of an intake, or later for a copy that has none. */
export interface Placing {
  readonly id: CopyId;
  readonly purpose: 'shadow' | 'copy';
  readonly epoch: Epoch;
  readonly attempts: Attempt[];
  /** Set when the body is complete. */
  end: {
    readonly digest: string;
    readonly sizeBytes: number;
    readonly events: readonly TrackingEvent[];
    readonly atMs: number;
  } | null;
  phase: 'placing' | 'aborting';
  /** Members whose answer to RESOLVE is awaited while aborting. */
  readonly waiting: Map<string, Identity>;
}

/** A body on its way from a front end. */
export interface Intake {
  readonly stream: number;
  readonly frontend: string;
  readonly id: CopyId;
  readonly try: number;
  readonly envelope: Envelope;
  /** The client's front end still waits for the answer. */
  waiting: boolean;
  /** The last byte is here; null before. */
  endedAtMs: number | null;
}

/** A body on its way from the owner of a copy. */
export interface IncomingShadow {
  readonly stream: number;
  readonly member: string;
  readonly identity: Identity;
  readonly openCounter: number;
  readonly nonce: string;
  readonly purpose: 'shadow' | 'copy' | 'rest';
  /** A copy of this id was held when the stream was opened, or came to rest here since. */
  ofHeld?: boolean;
  /** Its body shall take the place of a damaged one. */
  readonly isRefetch?: true;
  /** What is known of the damaged copy when it is one at rest; null: its last record is what is damaged. */
  readonly rests?: StoredCopy | null;
  readonly id: CopyId;
  readonly envelope: Envelope;
  readonly state: SharedState;
}

export type TimerKind =
  | 'attempt'
  | 'placing'
  | 'cap'
  | 'doubt'
  | 'hop'
  | 'pace'
  | 'retry'
  | 'age'
  | 'safetyNet'
  | 'waiter'
  | 'reshadow'
  | 'guard'
  | 'presence'
  | 'takeover'
  | 'rehome'
  | 'clock';

export interface CoreTimer {
  readonly atMs: number;
  readonly kind: TimerKind;
  readonly id: string;
  readonly number: number;
}

export interface Server {
  readonly name: string;
  readonly me: Identity;
  readonly mutants: ReadonlySet<Mutant>;
  /** In [0, 1), from the runtime's random port. */
  readonly draw: () => number;
  /** Lower-case hex SHA-256 prefix, for derived copy ids (a pure function, passed in to keep node:crypto out). */
  readonly hashId: (text: string) => CopyId;
  document: TopologyDocument;
  self: MemberConfig;
  /** Members of the boundary without self. */
  boundary: readonly MemberConfig[];
  /** Over site links, from here. */
  paths: KnownPaths;
  pressure: 'Normal' | 'Medium' | 'High';
  /** For want of what; empty at Normal. */
  pressedBy: string;
  readonly copies: Map<CopyId, Copy>;
  readonly tombstones: Map<CopyId, Tombstone>;
  readonly graves: Graves;
  readonly intakes: Map<number, Intake>;
  readonly intakeOf: Map<CopyId, number>;
  readonly incoming: Map<number, IncomingShadow>;
  readonly placings: Placings;
  /** Searches whose END waits because the candidate leaves another one unanswered (protocol.md 6a). */
  readonly heldEnds: Set<CopyId>;
  readonly peers: Map<string, Peer>;
  readonly lastHeardMs: Map<string, number>;
  /** When another member last said that it hears this one. */
  readonly heardOfMs: Map<string, number>;
  /** Start of this process, or the end of its last standstill. */
  awakeSinceMs: number;
  /** The queue database each member was last met on, in this life or an earlier one. */
  readonly known: Map<string, Identity>;
  /** Which member every queue database ever met belonged to. */
  readonly memberOf: Map<Identity, string>;
  /** Shadows that were not released when this was last looked at. */
  intakeSeen: { readonly atMs: number; readonly ids: ReadonlySet<CopyId> };
  /** Copies held here of which an owner was named that this member has not met yet. */
  readonly unmetOwners: Set<CopyId>;
  /** Queue databases that will not come back, as far as is known here (takeover.ts); one that speaks again is taken off. */
  readonly lost: Map<Identity, { readonly member: string; readonly why: string; readonly sinceMs: number }>;
  /** What the document says is gone; void once it has spoken since. */
  readonly retired: Map<Identity, { readonly sinceMs: number; isVoid: boolean }>;
  /** Identities whose shadow copies are being promoted, slice by slice. */
  readonly takingOver: Set<Identity>;
  /** Members nobody here has heard for so long that what they hold does not count as a second copy. */
  readonly away: Set<string>;
  /** Protected copies that need another holder all the same: a member is drained. */
  readonly moving: Set<CopyId>;
  /** Of those that a person redirects, the member that shall have each first. */
  readonly redirects: Map<CopyId, string>;
  /** Copies ready to be given a shadow, in order. */
  readonly shadowless: Line<CopyId>;
  /** Searches of purpose `copy` under way. */
  reshadowing: number;
  readonly rehoming: Rehoming;
  /** Bodies that cannot be read, until they have been fetched again. */
  readonly damaged: Map<CopyId, Damage>;
  /** Proved empty under this generation of the document: nothing new is taken in. */
  latch: number | null;
  /** Since when no member is reached; null when one is, infinity once everything has been asked about. */
  aloneSinceMs: number | null;
  /** Last sign of life of a front end, the operator or a delivery target. */
  outsideReachedMs: number;
  lastStepMs: number;
  /** This Safety Net is whole from here on, ms since the epoch. */
  completeSinceMs: number;
  /** Scans of the Safety Net under way are numbered; a number is never used twice. */
  nextScan: number;
  readonly resubmissions: Resubmissions;
  readonly risk: Risk;
  sessions: number;
  /** Shadow copies by the identity that owns them, for LIST. */
  readonly held: Map<Identity, Set<CopyId>>;
  /** Members that have told since our start what they hold; a session that ends does not take that back. */
  readonly listedOnce: Set<string>;
  /** Of reports: about which message. */
  readonly reportParents: ReportParents;
  /** Released in-transit copies without a confirmed shadow. */
  readonly single: Set<CopyId>;
  /** In the order in which their waits end. */
  readonly doubtful: Set<CopyId>;
  lastDoubt: Doubt | null;
  /** Members to be asked about these copies, at these epochs, when they come back (protocol.md 13) - also when the copy is final by then. */
  readonly unasked: Map<string, Map<CopyId, Epoch>>;
  /** Tombstones that stay at least until this time, because a front end may still ask for them (tombstones.ts). */
  readonly guarded: Map<CopyId, number>;
  readonly resolveWaiters: Map<CopyId, ResolveWaiter[]>;
  readonly hops: Map<string, Hop>;
  /** Next hops to which nothing is sent, by the word of a person in the document. */
  suspendedQueues: ReadonlySet<string>;
  readonly deliveries: OpenDeliveries;
  readonly composing: Map<CopyId, number>;
  nextRequest: number;
  /** Numbers of attempts are never used twice: an answer that comes late must not be taken for another's. */
  nextAttempt: number;
  readonly timers: CoreTimer[];
  timersBound: number;
  readonly ages: Ages;
  /** What many copies have in common is held once; what rests long is held as text (docs/decisions/0010-memory-of-copies.md). */
  readonly compactor: Compactor;
  /** Copies that came to be lately, oldest first: still as they came. */
  readonly recent: Copy[];
  /** What the disk had at the start, as far as message tracking is not told of it. */
  readonly loaded: CopyId[];
  readonly coverage: TransitionCoverage;
  readonly startedAtMs: number;
  /** Elapsed time that wall-clock jumps cannot move (semantics.md S16), as an epoch-like number. */
  readonly trusted: TrustedTime;
}

export interface TrustedTime {
  baseMs: number;
  monotonicAtBaseMs: number;
  /** Wall time by which this process may have been down, until a peer's clock agrees. */
  unwitnessedMs: number;
  savedWallMs: number;
  /** Of a new queue database, until a peer that knows has been heard: nothing but its own wall clock says what time it is. */
  isNew: boolean;
  /** Peers that do not know either, and were heard. */
  readonly newToo: Set<Identity>;
}

/** One call of `step()`. */
export interface Turn {
  readonly server: Server;
  readonly nowMs: number;
  readonly wallMs: number;
  readonly out: StepResult;
  /** Claims of this step by member: one frame for many copies (protocol.md 13). */
  readonly claims: Map<string, Map<CopyId, Epoch>>;
}

export const wrong = (turn: Turn, mutant: Mutant): boolean => turn.server.mutants.has(mutant);

export const trustedNow = (turn: Turn): number => trustedTime(turn.server, turn.nowMs);

export const trustedTime = ({ trusted }: Pick<Server, 'trusted'>, nowMs: number): number =>
  Math.floor(trusted.baseMs + (nowMs - trusted.monotonicAtBaseMs));

export const commit = (turn: Turn, write: CoreWrite): void => {
  turn.out.commit.push(write);
  if (write.kind !== 'move') return;
  // What is under way to here under its id must not take its place (semantics.md N1).
  for (const opening of turn.server.incoming.values()) if (opening.id === write.id) opening.ofHeld = true;
};
/** Lazy, but never before a commit of the same step: a state must not reach the log ahead of the record it changes. */
export const note = (turn: Turn, write: CoreWrite): void => {
  (turn.out.commit.length > 0 ? turn.out.commit : turn.out.note).push(write);
};
export const early = (turn: Turn, effect: EarlyEffect): void => {
  turn.out.now.push(effect);
};
export const late = (turn: Turn, effect: LateEffect): void => {
  turn.out.afterCommit.push(effect);
};

export function setTimer(turn: Turn, delayMs: number, kind: TimerKind, id = '', number = 0): void {
  const { server } = turn;
  pushTimer(server.timers, { atMs: turn.nowMs + delayMs, kind, id, number });
  // A copy leaves timers of hours behind when it is delivered: cleared away each time the heap has doubled.
  if (server.timers.length >= server.timersBound) dropDeadTimers(server);
}

/** Length of the timer heap at which dead ones are first looked for. */
export const TIMERS_BOUND = 4_096;
/** Kinds that mean nothing without their copy or their search. */
const OF_COPIES: ReadonlySet<TimerKind> = new Set(['retry']);
const OF_PLACINGS: ReadonlySet<TimerKind> = new Set(['attempt', 'placing']);

function dropDeadTimers(server: Server): void {
  const heap = server.timers;
  const alive = heap.filter(({ kind, id }) =>
    OF_COPIES.has(kind) ? server.copies.has(id as CopyId) : !OF_PLACINGS.has(kind) || server.placings.has(id as CopyId),
  );
  heap.length = 0;
  for (const timer of alive) pushTimer(heap, timer);
  server.timersBound = Math.max(TIMERS_BOUND, 2 * heap.length);
}

function pushTimer(heap: CoreTimer[], timer: CoreTimer): void {
  let i = heap.length;
  heap.push(timer);
  while (i > 0) {
    const parent = (i - 1) >> 1;
    const other = heap[parent] as CoreTimer;
    if (other.atMs <= timer.atMs) break;
    heap[i] = other;
    i = parent;
  }
  heap[i] = timer;
}

export function popTimer(heap: CoreTimer[]): CoreTimer | undefined {
  const top = heap[0];
  const last = heap.pop();
  if (top === undefined || last === undefined || heap.length === 0) return top;
  let i = 0;
  for (;;) {
    let child = 2 * i + 1;
    if (child >= heap.length) break;
    if (child + 1 < heap.length && (heap[child + 1] as CoreTimer).atMs < (heap[child] as CoreTimer).atMs) child += 1;
    if ((heap[child] as CoreTimer).atMs >= last.atMs) break;
    heap[i] = heap[child] as CoreTimer;
    i = child;
  }
  heap[i] = last;
  return top;
}

/** Assigns and persists the new state of a copy that stays in memory; `lazy` only where the table says so. */
export function setState(
  turn: Turn,
  copy: Copy,
  next: CopyState,
  how: 'commit' | 'lazy',
  outcomes?: readonly number[],
): void {
  const { server } = turn;
  const { recovered } = copy;
  reindex(server, copy, next);
  if (recovered !== null && how === 'lazy' && outcomes === undefined && saysTheSame(next, recovered)) {
    // After a restart most copies are found to be where they were: nothing is written, and the state is held once.
    copy.state = recovered;
    return;
  }
  const state = server.compactor.thin(next, copy.state);
  copy.state = state;
  copy.recovered = null;
  const recipients = state.recipients;
  const patch =
    outcomes !== undefined && recipients !== null
      ? outcomes.flatMap((index) => {
          const recipient = recipients[index];
          return recipient === undefined ? [] : [[index, recipient] as const];
        })
      : undefined;
  const write: CoreWrite =
    patch === undefined
      ? { kind: 'state', id: copy.facts.id, state }
      : { kind: 'state', id: copy.facts.id, state, outcomes: patch };
  if (how === 'commit') return commit(turn, write);
  // The second state of a copy in one step stands for both: one record, not two - a commit when the first one was.
  const last = turn.out.commit.length > 0 ? turn.out.commit : turn.out.note;
  const before = last.at(-1);
  if (before?.kind === 'state' && before.id === write.id && before.outcomes === undefined && patch === undefined)
    last[last.length - 1] = write;
  else note(turn, write);
}

function saysTheSame(a: CopyState, b: CopyState): boolean {
  for (const key of Object.keys(b) as (keyof CopyState)[]) {
    const one = a[key];
    const other = b[key];
    if (one === other) continue;
    if (!Array.isArray(one) || !Array.isArray(other) || one.length !== other.length) return false;
    if (one.some((item, at) => item !== other[at])) return false;
  }
  return true;
}

/** Keeps `held` in step with who owns a shadow copy. */
export function reindex(server: Server, copy: Copy, next: CopyState | null): void {
  const id = copy.facts.id;
  const before = copy.state.epoch.owner;
  if (next !== null && next.epoch.owner === before && server.held.get(before)?.has(id) === (before !== server.me))
    return;
  const old = server.held.get(before);
  if (old !== undefined) {
    old.delete(id);
    if (old.size === 0) server.held.delete(before);
  }
  if (next === null || next.epoch.owner === server.me) return;
  const set = server.held.get(next.epoch.owner) ?? new Set<CopyId>();
  set.add(id);
  server.held.set(next.epoch.owner, set);
}

/** Copies that stay as they came: most are delivered before they are older than that. */
const RECENT = 1_000;

/** A new one becomes what everybody else, the database included, shall hold of it: write `copy.facts` and `copy.state` afterwards. */
export function addCopy(server: Server, copy: Copy): void {
  const { compactor, recent } = server;
  const facts = compactor.hold(copy.facts);
  if (facts !== copy.facts) {
    copy.facts = facts;
    copy.state = compactor.thin(copy.state, null);
    recent.push(copy);
    if (recent.length >= 2 * RECENT) packOldest(server);
  }
  server.copies.set(facts.id, copy);
  server.reportParents.add(copy);
  if (copy.state.epoch.owner !== server.me) reindex(server, copy, copy.state);
}

function packOldest({ recent, copies, compactor }: Server): void {
  const old = recent.splice(0, RECENT).filter((copy) => copies.get(copy.facts.id) === copy);
  compactor.pack(old.map(({ facts }) => facts).filter((facts) => packedOf(facts) === null));
}

/** The copy leaves memory: moved to a Safety Net, aborted or removed. */
export function dropCopy(turn: Turn, copy: Copy): void {
  const { server } = turn;
  const id = copy.facts.id;
  reindex(server, copy, null);
  server.copies.delete(id);
  server.reportParents.remove(copy);
  server.single.delete(id);
  server.shadowless.delete(id);
  server.moving.delete(id);
  server.damaged.delete(id);
  server.doubtful.delete(id);
  endSearch(turn, id, null);
  waitNowhere(server.hops, copy);
}

/** Ends the search for a shadow: streams that have no END out are dropped, the others may answer into the void. */
export function endSearch(turn: Turn, id: CopyId, except: Attempt | null): void {
  const placing = turn.server.placings.get(id);
  // An abort goes on until it is settled, whatever becomes of the id meanwhile: a front end waits for its answer.
  if (placing === undefined || placing.phase === 'aborting') return;
  turn.server.placings.delete(id);
  if (placing.purpose === 'copy') turn.server.reshadowing -= 1;
  for (const attempt of placing.attempts)
    if (attempt !== except && (attempt.status === 'opening' || attempt.status === 'open'))
      early(turn, { kind: 'DropCandidate', id, attempt: attempt.number, reason: 'no longer needed' });
}

/** It rests on one database only. */
export function needsShadow(server: Server, id: CopyId): void {
  server.single.add(id);
  server.shadowless.add(id);
}

/** The connected member that runs on this identity now, or null. */
export function memberWith(server: Server, identity: Identity): string | null {
  for (const [member, peer] of server.peers) if (peer.identity === identity) return member;
  return null;
}
