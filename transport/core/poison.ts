/**
 * Messages that end the process (protocol.md 18; rows 22 to 24). Owns: the one door to the risky steps - categorising, and making a report from the original -
 * behind which the runtime has marked the copy by a write that survives the death of the process. Promise: after such a death only marked copies are suspects;
 * a suspect goes through the door alone; only a death while it was alone counts, and two make it poison: it waits for a person and does not expire.
 * What a person decides about it stands in the topology document (orders.ts).
 */
import type { CopyId } from '../../common/message.ts';
import type { CopyState } from '../store/database.ts';
import type { Copy } from './copy.ts';
import { categorize } from './delivery.ts';
import type { ComposeDsn } from './events.ts';
import { waitNowhere } from './hop.ts';
import { carryOut } from './orders.ts';
import { tellHolders } from './ownership.ts';
import { early, late, type Server, setState, type Turn, wrong } from './state.ts';
import { transition } from './transitions.ts';

export const POISON_DEATHS = 2;
/** Orders carried out here, so that a copy that comes to be poison again is not let go by the order of before. */
export const ORDERS_FACT = 'messageOrders';

/** What the mark said when the process died. */
export interface Marked {
  readonly ids: readonly CopyId[];
  readonly alone: boolean;
}

/** Writes the mark before it returns: it must be there before the next line runs. Nobody syncs it (protocol.md 18). */
export interface RiskMarks {
  begin(id: CopyId, alone: boolean): void;
  end(id: CopyId): void;
}

/** Where to mark, and what the mark of the life before says. */
export interface RiskOptions {
  readonly marks: RiskMarks;
  readonly marked: Marked;
}

const NO_MARKS: RiskMarks = { begin: () => undefined, end: () => undefined };

export interface Risk {
  readonly marks: RiskMarks;
  readonly suspects: Set<CopyId>;
  /** To be categorised: suspects, and whatever came while one was alone. */
  readonly waiting: Set<CopyId>;
  /** Reports to be made, by their ids: from a suspect, or while one was alone. */
  readonly reports: Map<CopyId, ComposeDsn>;
  alone: CopyId | null;
  readonly done: Set<string>;
}

export const newRisk = (options: RiskOptions | undefined, facts: ReadonlyMap<string, unknown>): Risk => ({
  marks: options?.marks ?? NO_MARKS,
  suspects: new Set(options?.marked.ids ?? []),
  waiting: new Set(),
  reports: new Map(),
  alone: null,
  done: new Set((facts.get(ORDERS_FACT) as readonly string[] | undefined) ?? []),
});

export const isPoison = (state: CopyState): boolean => state.crashCount >= POISON_DEATHS;

/** At the start: it was alone when the process died. */
export function countDeath(turn: Turn, options: RiskOptions | undefined): void {
  const [id] = options?.marked.ids ?? [];
  if (options?.marked.alone !== true || id === undefined || wrong(turn, 'deaths-uncounted')) return;
  const copy = turn.server.copies.get(id);
  if (copy === undefined || copy.state.epoch.owner !== turn.server.me) return;
  setState(turn, copy, { ...copy.state, crashCount: copy.state.crashCount + 1 }, 'commit', []);
}

const isSuspect = (server: Server, id: CopyId): boolean =>
  server.risk.suspects.has(id) || (server.copies.get(id)?.state.crashCount ?? 0) > 0;

/** The one way to `categorize`. */
export function enterRisk(turn: Turn, copy: Copy): void {
  const { risk } = turn.server;
  const { id } = copy.facts;
  if (isPoison(copy.state)) return putAside(turn, copy);
  if (risk.alone === null && !isSuspect(turn.server, id)) return passDoor(turn, copy, false);
  risk.waiting.add(id);
}

function passDoor(turn: Turn, copy: Copy, alone: boolean): void {
  const { marks } = turn.server.risk;
  marks.begin(copy.facts.id, alone);
  categorize(turn, copy);
  marks.end(copy.facts.id);
}

/** The original is read and parsed for a report about it; false: it may be made now. */
export function reportWaits(turn: Turn, effect: ComposeDsn): boolean {
  const { server } = turn;
  if (server.risk.alone === null && !isSuspect(server, effect.parent)) return false;
  server.risk.reports.set(effect.id, effect);
  return true;
}

function mayEnter(server: Server, id: CopyId): boolean {
  const copy = server.copies.get(id);
  const isReady = copy?.state.queue === 'submission' && copy.state.standing === 'released' && copy.doubt === null;
  return isReady && copy.state.epoch.owner === server.me;
}

/** At the end of a step: who comes next. */
export function openDoor(turn: Turn): void {
  const { server } = turn;
  const { risk } = server;
  if (risk.alone !== null || (risk.waiting.size === 0 && risk.reports.size === 0)) return;
  for (const id of [...risk.waiting]) {
    const copy = server.copies.get(id);
    if (copy === undefined || !mayEnter(server, id)) risk.waiting.delete(id);
    else if (!isSuspect(server, id)) {
      risk.waiting.delete(id);
      passDoor(turn, copy, false);
    }
  }
  for (const [id, report] of risk.reports) {
    if (isSuspect(server, report.parent)) continue;
    risk.reports.delete(id);
    early(turn, report);
  }
  // Reports that others wait for are being made: a suspect is not alone yet.
  if (server.composing.size > risk.reports.size) return;
  const [suspect] = risk.waiting;
  const [report] = risk.reports.values();
  const next = suspect ?? report?.parent;
  if (next === undefined) return;
  risk.alone = next;
  // The count of an earlier death must be durable, or it would be counted as the first for ever.
  late(turn, { copy: next, kind: 'EnterRisk', id: next });
}

export function riskEntered(turn: Turn, id: CopyId): void {
  const { server } = turn;
  const { risk } = server;
  if (risk.alone !== id) return;
  const copy = server.copies.get(id);
  if (copy !== undefined && risk.waiting.delete(id) && mayEnter(server, id)) passDoor(turn, copy, true);
  else {
    const report = [...risk.reports.values()].find(({ parent }) => parent === id);
    if (report !== undefined) {
      risk.reports.delete(report.id);
      return early(turn, { ...report, alone: true });
    }
  }
  risk.alone = null;
}

/** The report of a suspect was made, or could not be. */
export function riskLeft(turn: Turn, id: CopyId): void {
  if (turn.server.risk.alone === id) turn.server.risk.alone = null;
}

/** Row 22: out of every queue; its holders hear of it with the deaths. */
function putAside(turn: Turn, copy: Copy): void {
  const { server } = turn;
  const { id } = copy.facts;
  transition(server.coverage, 'CrashedRepeatedly', copy.state.queue, 'primary', 'poison');
  waitNowhere(server.hops, copy);
  setState(turn, copy, { ...copy.state, queue: 'poison' }, 'commit', []);
  late(turn, { copy: null, kind: 'Count', what: 'poison' });
  late(turn, { copy: id, kind: 'Track', event: 'POISON', facts: copy.facts, id });
  tellHolders(turn, copy.facts, copy.state, copy.registered, 'pending');
  carryOut(turn);
}
