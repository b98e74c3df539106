/**
 * Delivery status notifications as copies of their own (protocol.md 11): forked from a failed, expired or delayed recipient, or from one that succeeded whose sender
 * asked for that, placed like any message. Owns: that a failure is announced, and a message with a success that is to be reported comes to rest, only once the report
 * rests on two databases, is final, or policy accepts it alone.
 */
import type { CopyId, RecipientState } from '../../common/message.ts';
import type { CopyFacts } from '../store/database.ts';
import { type Copy, confirmedPlacements, newCopy, owesReport } from './copy.ts';
import { finishIfFinal } from './delivery.ts';
import { beginDoubt } from './doubt.ts';
import { isReportWanted } from './dsn.ts';
import type { ComposeDsn, DeliveryResult, DsnKind } from './events.ts';
import { settle } from './ownership.ts';
import { createPrimary, reshadow } from './placing.ts';
import { isPoison, reportWaits } from './poison.ts';
import { early, late, needsShadow, setState, type Turn, trustedNow, wrong } from './state.ts';
import { transition } from './transitions.ts';

/** RFC 3461 4.1 NOTIFY; RFC 5321 6.1: never about a message with an empty reverse-path; semantics.md S9: none from a resubmission. */
function wantsDsn(copy: Copy, kind: DsnKind, index: number): boolean {
  if (copy.facts.envelope.reversePath === '' || copy.facts.kind !== 'message') return false;
  return isReportWanted(copy.facts.envelope.recipients[index]?.notify, kind);
}

/**
 * That a recipient failed is said once, whether for a reply or for its age: one member may have reported the one when it stood still, its successor the other
 * (seed 160 with SMTP clients).
 */
export function dsnIdOf(turn: Turn, id: CopyId, index: number, kind: DsnKind): CopyId {
  const said = wrong(turn, 'report-id-per-kind') ? kind : (SAID[kind] ?? kind);
  const maker = wrong(turn, 'report-id-per-maker') ? `/${turn.server.me}` : '';
  return turn.server.hashId(`${id}/${index}/${said}${maker}`);
}

const SAID: Readonly<Partial<Record<DsnKind, string>>> = {
  expired: 'failed',
  // A successor may have relayed elsewhere what it did not know to be delivered.
  delivered: 'success',
  relayed: 'success',
};

/**
 * RFC 3461 5.2.1, 5.2.2, 5.2.4: whether the sender is to hear of this success from us, and does not yet. Where it is passed on with its NOTIFY, whoever has it
 * reports. What was delivered under a lost activation, and again, was reported.
 */
export function isSuccessOwed(turn: Turn, copy: Copy, result: DeliveryResult): boolean {
  const { kind, index } = result;
  if ((kind !== 'delivered' && kind !== 'relayed') || result.isPassedOn === true) return false;
  return wantsDsn(copy, kind, index) && !copy.state.dsns.includes(dsnIdOf(turn, copy.facts.id, index, kind));
}

/** Successes of a message of mine of which nobody in this life has begun a report: another member delivered, and died before its sender was told. */
export function forkOwed(turn: Turn, copy: Copy): void {
  for (const [index, recipient] of (copy.state.recipients ?? []).entries())
    if (owesReport(recipient) && copy.reportsBegun?.has(index) !== true) forkDsn(turn, copy, kindOf(recipient), index);
}

const beginsReport = (copy: Copy, index: number): void => {
  copy.reportsBegun ??= new Set();
  copy.reportsBegun.add(index);
};

export function forkDsn(turn: Turn, copy: Copy, dsn: DsnKind, index: number): void {
  const { server } = turn;
  if (!wantsDsn(copy, dsn, index)) {
    if (dsn !== 'delayed') announce(turn, copy, [index]);
    return;
  }
  const id = dsnIdOf(turn, copy.facts.id, index, dsn);
  if ((dsn === 'delivered' || dsn === 'relayed') && !isPoison(copy.state)) beginsReport(copy, index);
  const existing = server.copies.get(id);
  if (existing !== undefined) return dsnExists(turn, copy, id, onTwoDatabases(turn, existing));
  if (server.composing.has(id) || isPoison(copy.state)) return;
  server.composing.set(id, index);
  const effect: ComposeDsn = {
    kind: 'ComposeDsn',
    id,
    parent: copy.facts.id,
    dsn,
    recipient: index,
    facts: copy.facts,
    state: copy.state,
  };
  if (!reportWaits(turn, effect)) early(turn, effect);
}

/**
 * RFC 3461 5.2.7: who asked for success hears that an alias was expanded, or that a list has it. Made when the message is categorised for the first time; a process
 * that dies right then owes nobody a failure, and does not say it.
 */
export function reportExpansions(turn: Turn, copy: Copy): void {
  const { server } = turn;
  const { id: parent, kind, envelope } = copy.facts;
  if (kind !== 'message' || envelope.reversePath === '' || isPoison(copy.state)) return;
  for (const [recipient, { action }] of (envelope.expanded ?? []).entries()) {
    const id = server.hashId(`${parent}/expansion ${recipient}`);
    if (server.copies.has(id) || server.composing.has(id) || copy.state.dsns.includes(id)) continue;
    server.composing.set(id, recipient);
    const { facts, state } = copy;
    const dsn = action === 'delivered' ? 'listed' : action;
    const effect: ComposeDsn = { kind: 'ComposeDsn', id, parent, dsn, recipient, facts, state };
    if (!reportWaits(turn, effect)) early(turn, effect);
  }
}

/** A shadow was confirmed; or this is the shadow, and its owner has said that it has it: the body came before that one's own commit was durable (seed 4299). */
const onTwoDatabases = (turn: Turn, { state, vouchedBy }: Copy): boolean =>
  state.epoch.owner === turn.server.me ? confirmedPlacements(state).length > 0 : vouchedBy === state.epoch.owner;

/** The owner of this report has it durably, at the epoch its shadow here knows. */
export function ownerHasReport(turn: Turn, dsn: Copy): void {
  if (dsn.facts.kind !== 'dsn' || dsn.state.queue !== 'shadow' || dsn.vouchedBy === dsn.state.epoch.owner) return;
  dsn.vouchedBy = dsn.state.epoch.owner;
  dsnSafe(turn, dsn.facts.id);
}

/** It has this report, from the next commit on. Of ten thousand recipients none has changed. */
function listReport(turn: Turn, parent: Copy, id: CopyId): void {
  turn.server.reportParents.set(id, parent.facts.id);
  const dsns = [...parent.state.dsns.filter((one) => one !== id), id];
  setState(turn, parent, { ...parent.state, dsns }, 'commit', []);
}

/** The report is there already, made for an earlier try of the same message or by another member. */
function dsnExists(turn: Turn, parent: Copy, id: CopyId, isSafe: boolean): void {
  if (!parent.state.dsns.includes(id)) listReport(turn, parent, id);
  if (isSafe) dsnSafe(turn, id);
}

export function dsnAtRest(turn: Turn, id: CopyId, parentId: CopyId): void {
  turn.server.composing.delete(id);
  const parent = turn.server.copies.get(parentId);
  if (parent !== undefined && parent.state.epoch.owner === turn.server.me) dsnExists(turn, parent, id, true);
}

export interface ComposedDsn {
  readonly stream: number;
  readonly id: CopyId;
  readonly parent: CopyId;
  /** The message may be final before the report is written, and is not waited for. */
  readonly aboutExpansion?: boolean;
  readonly envelope: CopyFacts['envelope'];
  readonly digest: string;
  readonly sizeBytes: number;
}

/** The DSN's body is in the log: it becomes a message of ours, which needs a shadow like any other. */
export function dsnComposed(turn: Turn, dsn: ComposedDsn): void {
  const { server } = turn;
  const index = server.composing.get(dsn.id);
  server.composing.delete(dsn.id);
  const parent = server.copies.get(dsn.parent);
  const existing = server.copies.get(dsn.id);
  const isOurs = parent === undefined ? dsn.aboutExpansion === true : parent.state.epoch.owner === server.me;
  if (!isOurs || existing !== undefined) {
    early(turn, { kind: 'DiscardBody', stream: dsn.stream });
    // Another maker's arrived while ours was being composed.
    if (existing !== undefined && parent !== undefined && parent.state.epoch.owner === server.me)
      dsnExists(turn, parent, dsn.id, onTwoDatabases(turn, existing));
    return;
  }
  const facts: CopyFacts = {
    id: dsn.id,
    ancestor: null,
    kind: 'dsn',
    envelope: dsn.envelope,
    digest: dsn.digest,
    sizeBytes: dsn.sizeBytes,
    acceptedAtMs: trustedNow(turn),
    takenFrom: null,
    events: [],
  };
  const alone = server.boundary.length === 0;
  const copy = newCopy(facts, {
    queue: 'submission',
    epoch: { try: 1, term: 0, owner: server.me },
    standing: 'released',
    abortedThrough: 0,
    recipients: null,
    placements: [],
    ageMs: 0,
    finalAtMs: null,
    unprotected: 'not yet placed',
    suspended: false,
    crashCount: 0,
    delayed: false,
    dsns: [],
    attempts: 0,
  });
  if (index !== undefined) copy.reportOf = { parent: dsn.parent, index };
  createPrimary(turn, copy, dsn.stream);
  needsShadow(server, dsn.id);
  if (parent !== undefined) listReport(turn, parent, dsn.id);
  late(turn, { copy: null, kind: 'Count', what: 'dsn' });
  const { parent: about } = dsn;
  late(turn, { copy: dsn.id, kind: 'Track', event: 'DSN', facts, id: dsn.id, detail: `about ${about}`, parent: about });
  reshadow(turn);
  // Another member may have made it too, or taken over from its maker (seed 1267): one of the two sends it.
  beginDoubt(turn, copy, 'reachable');
  const byPolicy = !server.document.policies.shadowRedundancy.rejectMessageOnShadowFailure;
  if (alone || byPolicy || wrong(turn, 'dsn-unprotected')) {
    dsnSafe(turn, dsn.id);
    settle(turn, copy);
  }
}

/** Row 16: the DSN rests on two databases (or policy does not ask for it): the failure may be announced. */
export function dsnSafe(turn: Turn, dsnId: CopyId, dsn = turn.server.copies.get(dsnId)): void {
  const { copies, me, reportParents } = turn.server;
  const known = dsn?.reportOf;
  const parent = known?.parent ?? reportParents.get(dsnId);
  const copy = parent === undefined ? undefined : copies.get(parent);
  // Who owns the message announces; a shadow hears of it (protocol.md 11).
  if (copy === undefined || !copy.state.dsns.includes(dsnId) || copy.state.epoch.owner !== me) return;
  const recipients = copy.state.recipients ?? [];
  const indexes = known === undefined ? [...recipients.keys()] : [known.index];
  const isMeant = (index: number): boolean => {
    const recipient = recipients[index];
    return recipient !== undefined && dsnIdOf(turn, copy.facts.id, index, kindOf(recipient)) === dsnId;
  };
  announce(turn, copy, indexes.filter(isMeant));
}

/** The report that its end brings, or would. */
export const kindOf = ({ outcome }: RecipientState): Exclude<DsnKind, 'delayed'> =>
  outcome === 'pending' || outcome === 'removed' ? 'failed' : outcome;

export function announce(turn: Turn, copy: Copy, indexes: readonly number[]): void {
  if (indexes.length === 0 || copy.state.recipients === null) return;
  const recipients = copy.state.recipients.map((recipient, index) =>
    indexes.includes(index) ? { ...recipient, announced: true } : recipient,
  );
  transition(turn.server.coverage, 'DsnProtected', copy.state.queue, 'primary', copy.state.queue);
  setState(turn, copy, { ...copy.state, recipients }, 'commit', indexes);
  finishIfFinal(turn, copy);
}

/** After a restart, and of what another member did: reports that were being composed when the process ended are forked again; ids are derived, so none doubles. */
export function resumeReports(turn: Turn, copy: Copy): void {
  for (const [index, recipient] of (copy.state.recipients ?? []).entries()) {
    const isFailure = recipient.outcome === 'failed' || recipient.outcome === 'expired';
    if (!owesReport(recipient) && (!isFailure || recipient.announced === true)) continue;
    const kind = kindOf(recipient);
    const id = dsnIdOf(turn, copy.facts.id, index, kind);
    const dsn = turn.server.copies.get(id);
    const isSafe = dsn === undefined ? copy.state.dsns.includes(id) : onTwoDatabases(turn, dsn);
    if (isSafe) announce(turn, copy, [index]);
    else if (dsn === undefined) forkDsn(turn, copy, kind, index);
    // Its maker is another one: when it is safe, or done, this message is looked for by it.
    else dsnExists(turn, copy, id, false);
  }
}
