/**
 * What is under way for one resubmit request on this member (protocol.md 19-22; semantics.md N2-N6): first its own entries, then, for primaries that cannot, its
 * shadow entries. Owns: the stages, their order and their bounds - one page of entries per request, 64 bodies under way, some thousand new copies in transit -
 * and what a restart finds of them. Everything starts from scratch after a restart unless it was done: ids are derived, so nothing is made twice.
 */
import type { ResubmitRequestConfig } from '../../common/config.ts';
import type { CopyId, Identity } from '../../common/message.ts';
import type { CopyFacts, StoredCopy } from '../store/database.ts';
import type { Selected } from './resubmit-match.ts';
import { note, type Server, type Turn, trustedNow } from './state.ts';

/** Bodies being copied, over all requests. */
export const MOST_BODIES = 64;
/** New copies of one request in transit: a database that is down must not fill the memory. */
export const MOST_IN_TRANSIT = 4_000;
/** Requests that have entries in their hands. */
export const MOST_ACTIVE = 8;
const MOST_ERRORS = 10;
/** Beyond it nothing is answered for any more. */
const MOST_UNREADABLE = 1_000;

export type ByRole = 'primary' | 'shadow';

/** One copy at rest that the request means. */
export interface Item {
  readonly stored: StoredCopy;
  readonly selected: readonly Selected[];
  readonly role: ByRole;
}

/** A primary that was asked what it covers of a page. */
export interface Asking {
  readonly items: Map<CopyId, Item>;
  sentAtMs: number;
  /** Its last answer, also one that only says that it is at work. */
  heardAtMs: number;
}

export interface Scan {
  readonly number: number;
  /** A page is on its way. */
  isReading: boolean;
  isOver: boolean;
  /** Whose entries cannot be answered for by their owner, when the walk began. */
  readonly gone: ReadonlySet<Identity>;
}

export interface Counts {
  selected: number;
  byPrimary: number;
  byShadow: number;
  present: number;
  covered: number;
  failed: number;
}

/** Why a walk is made once more: entries came to rest here later, or an owner that had answered for its entries is gone. */
export type Again = 'arrivals' | 'orphans' | null;

export interface Run {
  request: ResubmitRequestConfig;
  readonly signature: string;
  /** Trusted time at which this member first saw the request. */
  readonly seenAtMs: number;
  /** Whoever asks dates by another clock: entries of that time may be dated so much earlier here (seed 7283 with SMTP clients). */
  readonly behindMs: number;
  stage: 'primary' | 'shadow' | 'waiting' | 'done' | 'stopped';
  again: Again;
  scan: Scan | null;
  /** Owners whose entries the present walk is about; null: all. */
  only: ReadonlySet<Identity> | null;
  readonly page: Item[];
  readonly asking: Map<Identity, Asking>;
  /** Owners that cannot be reached; their entries are walked over again when it is decided. */
  readonly waiting: Set<Identity>;
  readonly unresponsive: Set<Identity>;
  /** Owners that were gone when their entries were resubmitted. */
  readonly handled: Set<Identity>;
  readonly unreadable: Set<CopyId>;
  /** Bodies of this request being copied. */
  copying: number;
  /** New copies that may still be in transit. */
  readonly made: Set<CopyId>;
  arrivals: boolean;
  arrivalsAtMs: number;
  readonly counts: Counts;
  readonly errors: string[];
}

export interface CopyingBody {
  readonly run: Run;
  readonly from: CopyId;
  readonly role: ByRole;
  readonly again: Again;
  /** Digest is that of the body it is made from. */
  readonly facts: CopyFacts;
  readonly recipients: readonly string[];
}

export interface Saved {
  readonly signature: string;
  readonly seenAtMs: number;
  readonly behindMs?: number;
  readonly done: boolean;
  readonly counts: Counts;
  readonly errors: readonly string[];
  readonly handled: readonly Identity[];
  readonly unreadable: readonly CopyId[];
}

/** Of the queue database, one for each request. */
export const FACT = 'resubmit/';

/** Another request under an old name is another request. */
const signatureOf = (request: ResubmitRequestConfig): string =>
  JSON.stringify([
    request.createdAtMs,
    request.database,
    request.sender,
    request.recipient,
    request.messageId,
    request.fromMs,
    request.toMs,
    request.lostActivation,
    request.dryRun,
  ]);

export const isSame = (run: Run, request: ResubmitRequestConfig): boolean => run.signature === signatureOf(request);

/** The trusted clock stands still for time that nobody witnessed, and nobody sees a request before it was made. */
function behindMs(turn: Turn, { createdAtMs }: ResubmitRequestConfig): number {
  return Math.max(0, turn.wallMs - trustedNow(turn), createdAtMs - trustedNow(turn));
}

export function newRun(turn: Turn, request: ResubmitRequestConfig): Run {
  const { saved } = turn.server.resubmissions;
  const signature = signatureOf(request);
  const found = saved.get(request.name);
  const before = found?.signature === signature ? found : null;
  saved.delete(request.name);
  const run: Run = {
    request,
    signature,
    seenAtMs: before?.seenAtMs ?? trustedNow(turn),
    behindMs: before?.behindMs ?? behindMs(turn, request),
    stage: before?.done === true ? 'done' : 'primary',
    again: null,
    scan: null,
    only: null,
    page: [],
    asking: new Map(),
    waiting: new Set(),
    unresponsive: new Set(),
    handled: new Set(before?.handled ?? []),
    unreadable: new Set(before?.unreadable ?? []),
    copying: 0,
    made: new Set(),
    arrivals: false,
    arrivalsAtMs: Number.NEGATIVE_INFINITY,
    counts: { selected: 0, byPrimary: 0, byShadow: 0, present: 0, covered: 0, failed: 0 },
    errors: [],
  };
  if (before?.done === true) {
    Object.assign(run.counts, before.counts);
    run.errors.push(...before.errors);
  } else {
    run.handled.clear();
    run.unreadable.clear();
  }
  if (before === null) save(turn, run);
  return run;
}

/** Lazy: it reaches the log after every copy it counts, so what it calls done is durable when it is. */
export function save(turn: Turn, run: Run): void {
  const value: Saved = {
    signature: run.signature,
    seenAtMs: run.seenAtMs,
    behindMs: run.behindMs,
    done: run.stage === 'done' && !run.arrivals,
    counts: { ...run.counts },
    errors: [...run.errors],
    handled: [...run.handled],
    unreadable: [...run.unreadable],
  };
  note(turn, { kind: 'fact', key: FACT + run.request.name, value });
}

export function forget(turn: Turn, name: string): void {
  turn.server.resubmissions.saved.delete(name);
  note(turn, { kind: 'fact', key: FACT + name, value: null });
}

export function addError(run: Run, error: string): void {
  if (run.errors.length < MOST_ERRORS && !run.errors.includes(error)) run.errors.push(error);
}

export function unreadable(run: Run, id: CopyId): void {
  run.counts.failed += 1;
  addError(run, `the body of ${id} cannot be read`);
  if (run.unreadable.size < MOST_UNREADABLE) run.unreadable.add(id);
}

/** What could not be read here must come from who holds it as well. */
export const mayAnswerFor = (run: Run, id: CopyId): boolean =>
  run.unreadable.size < MOST_UNREADABLE && !run.unreadable.has(id);

export const isActive = (run: Run): boolean => run.scan !== null || run.page.length > 0 || run.asking.size > 0;

/** Medium pressure: live mail first (semantics.md R10). A draining member makes nothing new: what it hands over is resubmitted by who gets it. */
export const isPaused = (server: Server): boolean => server.pressure !== 'Normal' || server.self.state === 'draining';

/** There is room for one more body. */
export function hasRoom(server: Server, run: Run): boolean {
  if (server.resubmissions.copying.size >= MOST_BODIES) return false;
  if (run.made.size + run.copying < MOST_IN_TRANSIT) return true;
  for (const id of run.made) if (!server.copies.has(id)) run.made.delete(id);
  return run.made.size + run.copying < MOST_IN_TRANSIT;
}
