/**
 * Who is in the topology document, and as what: drain before shrink (kubernetes.md K3). Owns: the way Active -> Cordoned -> Draining -> Empty (gone) ->
 * Removed, one member per boundary at a time. Promise: a member goes only when it proved that it is empty, never had anything, lost
 * everything already, or a person said so by annotation; every step is read off the document and the pods' answers, so it goes on after
 * any interruption. Refuses: when nobody could take over, or the rest cannot hold what it has. PURE.
 */
import type { RetiredIdentity, TopologyDocument } from '../../common/config.ts';
import { ANNOTATION } from '../resources/names.ts';
import { drainRefusal } from '../topology.ts';
import { act, event, type Finding, LATER_MS, refuse, wait } from './finding.ts';
import { type Losses, volumeLost } from './losses.ts';
import {
  identityOf,
  isRunning,
  isServing,
  type Member,
  obligations,
  type Situation,
  stateIn,
  unprotectedOf,
} from './situation.ts';

type State = 'active' | 'cordoned' | 'draining' | 'gone';

export interface Membership {
  /** In the next document, by name; who is not here is in it no more. */
  readonly states: ReadonlyMap<string, State>;
  readonly retired: readonly RetiredIdentity[];
  readonly findings: readonly Finding[];
}

class Draft {
  readonly states = new Map<string, State>();
  readonly retired: RetiredIdentity[] = [];
  readonly findings: Finding[] = [];

  gone(member: Member, members: readonly Member[], reason: RetiredIdentity['reason']): void {
    this.states.set(member.name, 'gone');
    const identity = identityOf(member, members);
    if (identity === null || this.retired.some((one) => one.identity === identity)) return;
    const uid = member.former?.podUid ?? null;
    // What identityOf gives was an identity when a member said it.
    this.retired.push({ member: member.name, identity: identity as RetiredIdentity['identity'], uid, reason });
  }
}

export function decideMembership(situation: Situation, losses: Losses): Membership {
  const draft = new Draft();
  const { document } = situation.previous;
  for (const member of situation.members) {
    const state = stateIn(document, member.name);
    // A new one above one that is still on its way out would leave a hole in the StatefulSet: it comes when that is removed.
    if (state !== null || !hasGoneBelow(situation, member)) draft.states.set(member.name, state ?? 'active');
  }
  const boundaries = Map.groupBy(situation.members, ({ group }) => group.boundary);
  for (const [boundary, members] of boundaries) {
    for (const member of members.toReversed())
      if (draft.states.get(member.name) === 'gone') afterGone(draft, situation, members, member);
    forceRemovals(draft, situation, members);
    if (isLeaving(members)) boundaryLeaves(draft, situation, boundary, members, losses);
    else shrink(draft, situation, members, losses);
  }
  return draft;
}

const hasGoneBelow = ({ members, previous }: Situation, { group, ordinal }: Member): boolean =>
  members.some(
    (one) => one.group === group && one.ordinal < ordinal && stateIn(previous.document, one.name) === 'gone',
  );

const isSurplus = ({ ordinal, group }: Member): boolean => ordinal >= group.desired;
const isLeaving = (members: readonly Member[]): boolean => members.every(({ group }) => group.desired === 0);

/** Only the highest ordinal of a StatefulSet can go. */
const isTop = (draft: Draft, members: readonly Member[], member: Member): boolean =>
  members.every(
    (one) =>
      one.group !== member.group ||
      one.ordinal <= member.ordinal ||
      draft.states.get(one.name) === 'gone' ||
      !draft.states.has(one.name),
  );

/** Gone: first its pod ends, then the claim goes by policy, then it is forgotten. */
function afterGone(draft: Draft, situation: Situation, members: readonly Member[], member: Member): void {
  const { pod, claim, name } = member;
  const { document } = situation.previous;
  const condition = 'Draining';
  const isBelow = members.some(
    (one) => one.group === member.group && one.ordinal > member.ordinal && draft.states.has(one.name),
  );
  if (pod !== undefined || isBelow) {
    draft.findings.push(wait('Removed', `${name} is empty and ends`, { condition }));
    return;
  }
  const proof = document?.retired.findLast((one) => one.member === name);
  const { whenScaled } = situation.cluster.spec.transport.storage;
  if (claim !== undefined && whenScaled === 'DeleteWhenEmpty' && proof?.reason === 'drained') {
    const message = `${name} was empty: its volume goes (storage.whenScaled is DeleteWhenEmpty)`;
    const claimRef = { apiVersion: 'v1', kind: 'PersistentVolumeClaim', name: claim.metadata.name };
    const deleting = claim.metadata.deletionTimestamp !== undefined;
    draft.findings.push(
      deleting
        ? wait('ClaimDeleted', `claim ${claim.metadata.name} is being deleted`, { condition })
        : act('ClaimDeleted', message, {
            condition,
            actions: [
              { kind: 'deleteClaim', name: claim.metadata.name, uid: claim.metadata.uid ?? '', why: 'ClaimDeleted' },
            ],
            events: [event('Normal', 'ClaimDeleted', message, claimRef)],
          }),
    );
    return;
  }
  // Wanted again: it comes back as a new member.
  if (isSurplus(member)) draft.states.delete(name);
  else draft.states.set(name, 'active');
  draft.findings.push(
    act('Removed', `${name} is removed`, { condition, events: [event('Normal', 'Removed', `${name} is removed`)] }),
  );
}

/** `mailcluster.dev/force-remove`: what the member still has is left to its shadows. Its volume stays. */
function forceRemovals(draft: Draft, situation: Situation, members: readonly Member[]): void {
  const text = situation.gathered.cluster.metadata.annotations?.[ANNOTATION.forceRemove] ?? '';
  const forced = new Set(text.split(',').map((one) => one.trim()));
  for (const member of members.toReversed()) {
    const { name, report } = member;
    const state = draft.states.get(name);
    if (!forced.has(name) || state === undefined || state === 'gone') continue;
    if (!isSurplus(member) || !isTop(draft, members, member)) {
      const message = `${name} cannot be removed by force while it is wanted: lower the replicas of its site first`;
      draft.findings.push(refuse('ForceRemoveRefused', message, { condition: 'Draining' }));
      continue;
    }
    const left = report === null ? 'nobody knows what it holds' : `it still has ${obligations(report)} obligations`;
    const message = `${name} is removed by force (annotation ${ANNOTATION.forceRemove}): ${left}; its volume is kept`;
    draft.gone(member, situation.members, 'lost');
    draft.findings.push(
      act('ForcedRemoval', message, { condition: 'Draining', events: [event('Warning', 'ForcedRemoval', message)] }),
    );
  }
}

/** No claim was ever filled and no process ever ran: there is nothing to hand over. */
export function neverStarted(member: Member, members: readonly Member[]): boolean {
  const { pod, claim } = member;
  const isUnused = claim === undefined || claim.status?.phase === 'Pending';
  const hasRun = pod?.status?.containerStatuses?.some(
    ({ state, restartCount = 0, lastState }) =>
      restartCount > 0 ||
      state?.running !== undefined ||
      state?.terminated !== undefined ||
      lastState?.terminated !== undefined,
  );
  return isUnused && hasRun !== true && member.report === null && identityOf(member, members) === null;
}

/** A person made the group smaller. */
function shrink(draft: Draft, situation: Situation, members: readonly Member[], losses: Losses): void {
  for (const member of members) cancelIfWanted(draft, member);
  const isGone = (one: Member): boolean => draft.states.get(one.name) === 'gone' || !draft.states.has(one.name);
  for (const member of members.toReversed()) {
    if (isGone(member) || !isSurplus(member) || !isTop(draft, members, member)) continue;
    const nothing = nothingToDrain(member, situation, losses);
    if (nothing === null) continue;
    draft.gone(member, situation.members, 'lost');
    draft.findings.push(
      act('NeverStarted', nothing, { condition: 'Draining', events: [event('Normal', 'NeverStarted', nothing)] }),
    );
  }
  const surplus = members.filter((one) => isSurplus(one) && !isGone(one));
  const under = surplus.filter((one) => draft.states.get(one.name) !== 'active');
  // One at a time; another begins when the one before is removed altogether.
  const [turn, ...others] =
    under.length > 0 ? under.toReversed() : surplus.filter((one) => isTop(draft, members, one)).slice(0, 1);
  for (const other of others) draft.states.set(other.name, 'active');
  if (turn === undefined) return;
  if (members.some((one) => draft.states.get(one.name) === 'gone') && draft.states.get(turn.name) === 'active') {
    draft.findings.push(
      wait('WaitingForTheOthers', `${turn.name} leaves when another of ${turn.group.boundary} is removed`, {
        condition: 'Draining',
      }),
    );
    return;
  }
  next(draft, situation, members, turn);
}

function cancelIfWanted(draft: Draft, member: Member): void {
  const state = draft.states.get(member.name);
  if (isSurplus(member) || (state !== 'cordoned' && state !== 'draining')) return;
  draft.states.set(member.name, 'active');
  const message = `${member.name} is wanted again and stays`;
  draft.findings.push(act('DrainCancelled', message, { events: [event('Normal', 'DrainCancelled', message)] }));
}

function nothingToDrain(member: Member, situation: Situation, losses: Losses): string | null {
  if (neverStarted(member, situation.members)) return `${member.name} never ran: it is removed as it is`;
  const lost = losses.lost.has(member.name) || volumeLost(member, situation.gathered);
  if (lost && member.report === null && !isRunning(member))
    return `${member.name} lost its volume: nothing of it is left to hand over`;
  return null;
}

const remedyOf = (name: string): string =>
  `repair it, or remove it with the annotation ${ANNOTATION.forceRemove}: ${name}`;

/** The one whose turn it is, one state further if it may. */
function next(draft: Draft, situation: Situation, members: readonly Member[], member: Member): void {
  const { document } = situation.previous;
  const { name } = member;
  const condition = 'Draining';
  if (document === null) return;
  const state = draft.states.get(name);
  const others = members.filter(
    (one) => one !== member && draft.states.get(one.name) !== 'gone' && draft.states.has(one.name),
  );
  const silent = [member, ...others].find(({ report }) => (report?.generation ?? -1) < document.generation);
  if (state === 'active') {
    const finding = mayLeave(document, draft, members, member, others, situation.cluster.spec.shadowRedundancy.enabled);
    if (finding !== null) draft.findings.push(finding);
    if (finding?.kind === 'act') draft.states.set(name, 'cordoned');
    return;
  }
  if (silent !== undefined) {
    const why = silent.silence?.reason ?? `it is at generation ${silent.report?.generation}`;
    const remedy = silent === member && silent.report === null ? `; ${remedyOf(name)}` : '';
    const message = `${name} is ${state}; ${silent.name} does not know generation ${document.generation} yet: ${why}${remedy}`;
    draft.findings.push(
      wait(silent.report === null ? 'MemberUnreachable' : 'WaitingForGeneration', message, { condition }),
    );
    return;
  }
  if (state === 'cordoned') {
    draft.states.set(name, 'draining');
    const message = `${name} hands over what it has`;
    draft.findings.push(act('Draining', message, { condition, events: [event('Normal', 'Draining', message)] }));
  } else whenEmpty(draft, situation, member);
}

/** Act: it may. */
function mayLeave(
  document: TopologyDocument,
  draft: Draft,
  members: readonly Member[],
  member: Member,
  others: readonly Member[],
  isProtecting: boolean,
): Finding | null {
  const { name } = member;
  const condition = 'Draining';
  const as = (one: string): State => draft.states.get(one) ?? 'gone';
  const boundary = new Set(members.map((one) => one.name));
  const view = {
    ...document,
    members: document.members.map((one) => (boundary.has(one.name) ? { ...one, state: as(one.name) } : one)),
  };
  // A member that is not in the document yet holds nothing; it is wanted or never started.
  if (!document.members.some((one) => one.name === name)) return null;
  const last = drainRefusal(view, name);
  if (last !== null) return refuse('LastMember', last, { condition });
  if (member.report === null) {
    const message = `${name} does not answer, so it cannot hand over: ${member.silence?.reason ?? ''}; ${remedyOf(name)}`;
    return refuse('MemberUnreachable', message, { condition });
  }
  const silent = others.find((one) => !isServing(one));
  if (silent !== undefined) {
    const message = `${name} stays until ${silent.name} serves: ${silent.silence?.reason ?? 'it is not ready'}`;
    return wait('WaitingForTheOthers', message, { condition });
  }
  if (isProtecting && unprotectedOf(members) !== 0) {
    return wait(
      'UnprotectedMessages',
      `${name} stays until every message of ${member.group.boundary} is on two members`,
      { condition },
    );
  }
  const full = cannotAbsorb(
    member,
    others.filter((one) => as(one.name) === 'active'),
  );
  if (full !== null) return refuse('CannotAbsorb', full, { condition });
  const message = `${name} takes nothing new and is going to leave ${member.group.boundary}`;
  return act('Cordoned', message, { condition, events: [event('Normal', 'Cordoned', message)] });
}

function cannotAbsorb({ name, report }: Member, rest: readonly Member[]): string | null {
  const able = rest.filter((one) => one.report?.backPressure !== 'High');
  if (able.length === 0) return `${name} cannot leave: every other member is under high back pressure`;
  const free = able.reduce((sum, one) => sum + (one.report?.space.freeBytes ?? 0), 0);
  const needed = report?.space.liveBytes ?? 0;
  if (free >= needed) return null;
  return `${name} cannot leave: it holds ${needed} bytes and the others have room for ${free}; enlarge storage.size or add a member`;
}

function whenEmpty(draft: Draft, situation: Situation, member: Member): void {
  const { name, report } = member;
  const condition = 'Draining';
  if (report?.drain.state !== 'empty') {
    const { copies = 0, safetyNet = 0, tombstones = 0, waitingFor = [] } = report?.drain ?? {};
    const why = waitingFor.length === 0 ? '' : ` (${waitingFor.join('; ')})`;
    const message = `${name} drains: ${copies} copies, ${safetyNet} in Safety Net, ${tombstones} answers to give${why}`;
    draft.findings.push(wait('WaitingForEmpty', message, { condition }));
    return;
  }
  draft.gone(member, situation.members, 'drained');
  const message = `${name} proved that it is empty`;
  draft.findings.push(act('Emptied', message, { condition, events: [event('Normal', 'Emptied', message)] }));
}

/**
 * A whole boundary goes: there is nobody to hand over to, and making fewer copies would be worse. All take nothing new, and they go together
 * when what they have was delivered and its Safety Net is over.
 */
function boundaryLeaves(
  draft: Draft,
  situation: Situation,
  boundary: string,
  members: readonly Member[],
  losses: Losses,
): void {
  const { document } = situation.previous;
  const left = members.filter((one) => draft.states.has(one.name) && draft.states.get(one.name) !== 'gone');
  const condition = 'Draining';
  if (document === null || left.length === 0) return;
  const fresh = left.filter((one) => draft.states.get(one.name) !== 'cordoned');
  for (const member of left) draft.states.set(member.name, 'cordoned');
  if (fresh.length > 0) {
    const message = `${boundary} is to go: its ${left.length} members take nothing new and go when all they hold is over; annotate ${ANNOTATION.forceRemove} to end that sooner`;
    draft.findings.push(
      act('BoundaryLeaving', message, { condition, events: [event('Warning', 'BoundaryLeaving', message)] }),
    );
    return;
  }
  const busy = left.find(
    (one) =>
      nothingToDrain(one, situation, losses) === null &&
      (one.report === null || one.report.generation < document.generation || obligations(one.report) > 0),
  );
  if (busy !== undefined) {
    const what =
      busy.report === null ? (busy.silence?.reason ?? 'it does not answer') : `${obligations(busy.report)} obligations`;
    draft.findings.push(
      wait('BoundaryLeaving', `${boundary} is to go; ${busy.name} is not empty: ${what}`, {
        condition,
        afterMs: LATER_MS,
      }),
    );
    return;
  }
  for (const member of left) draft.gone(member, situation.members, 'drained');
  draft.findings.push(
    act('Emptied', `everybody in ${boundary} is empty`, {
      condition,
      events: [event('Normal', 'Emptied', `everybody in ${boundary} is empty`)],
    }),
  );
}
