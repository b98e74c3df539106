/**
 * Ordered restarts (kubernetes.md K4). Owns: who is out of date and why, and whose turn it is. Promise: one member per boundary, only while everybody
 * there serves, knows the topology and says that no message is on one member only; never the last that serves in a site; nobody is
 * restarted from a template that the controller has not seen. What is not running holds nothing up and is replaced at once. PURE.
 */
import type { Action } from '../actions.ts';
import type { RestartReason } from '../reasons.ts';
import { isAsWanted, stamped } from '../resources/compare.ts';
import { ANNOTATION } from '../resources/names.ts';
import type { KubeObject, PodObject, StatefulSetObject } from '../resources/objects.ts';
import { annotationsOf } from '../resources/transports.ts';
import { act, event, type Finding, LATER_MS, wait } from './finding.ts';
import { isRunning, isServing, type Member, object, unprotectedOf } from './situation.ts';
import type { View } from './view.ts';

/** Null: it is as it should be. */
export function restartReason(
  pod: PodObject | undefined,
  set: KubeObject | undefined,
  image: string,
): RestartReason | null {
  if (pod === undefined || set === undefined) return null;
  const [is, should] = [pod.metadata.annotations ?? {}, annotationsOf(set)];
  const differs = (name: string): boolean => is[name] !== should[name];
  if (differs(ANNOTATION.configHash)) return 'ConfigurationChanged';
  if (pod.spec?.containers?.[0]?.image !== image) return 'ImageChanged';
  if (differs(ANNOTATION.resourcesHash)) return 'ResourcesChanged';
  return differs(ANNOTATION.templateHash) ? 'TemplateChanged' : null;
}

export interface OutOfDate {
  readonly member: Member;
  readonly reason: RestartReason;
}

export function outOfDate({ situation, wanted }: View): readonly OutOfDate[] {
  const { image } = situation.gathered.operator;
  return situation.members.flatMap((member) => {
    const set = wanted.sets.find(({ group }) => group === member.group)?.object;
    const reason = member.pod?.metadata.deletionTimestamp === undefined ? restartReason(member.pod, set, image) : null;
    return reason === null ? [] : [{ member, reason }];
  });
}

/** The controller makes new pods from this template already. */
function isPublished({ situation, wanted }: View, { group }: Member): boolean {
  const set = wanted.sets.find((one) => one.group === group)?.object;
  const found = object<StatefulSetObject>(situation.objects, 'StatefulSet', group.name);
  if (set === undefined || found === undefined || !isAsWanted(stamped(set), found)) return false;
  return (found.status?.observedGeneration ?? 0) >= (found.metadata.generation ?? 0);
}

export function restarts(view: View): readonly Finding[] {
  const stale = outOfDate(view).filter(({ member }) => view.membership.states.get(member.name) !== 'gone');
  const boundaries = Map.groupBy(stale, ({ member }) => member.group.boundary);
  return [...boundaries.values()].map((candidates) => inBoundary(view, candidates));
}

function inBoundary(view: View, candidates: readonly OutOfDate[]): Finding {
  const condition = 'UpToDate';
  const published = candidates.filter(({ member }) => isPublished(view, member));
  const [first] = published;
  if (first === undefined)
    return wait('WaitingForController', `${candidates[0]?.member.name} waits for the StatefulSet controller`, {
      condition,
    });
  // It crashes or never came up: nothing is lost by a new try, and perhaps the new version is the remedy.
  const dead = published.find(({ member }) => !isRunning(member));
  if (dead !== undefined) return restart(dead);
  const boundary = view.situation.members.filter(
    (one) => one.group.boundary === first.member.group.boundary && view.membership.states.get(one.name) !== 'gone',
  );
  const held = heldUp(view, boundary);
  if (held !== null)
    return { ...held, message: `${first.member.name} is to be restarted (${first.reason}); ${held.message}` };
  const able = published.find(({ member }) => !isLastOfSite(member, boundary));
  if (able !== undefined) return restart(able);
  const message = `${first.member.name} is to be restarted (${first.reason}), but it is the last that serves in ${first.member.group.site}`;
  return wait('LastOfSite', message, { condition, afterMs: LATER_MS });
}

/** Whoever is away or behind may be needed by the one that would restart. */
function heldUp({ situation, membership, topology }: View, boundary: readonly Member[]): Finding | null {
  const condition = 'UpToDate';
  const away = boundary.find((one) => !isServing(one));
  if (away !== undefined)
    return wait('WaitingForRestart', `${away.name} does not serve: ${away.silence?.reason ?? 'it is not ready'}`, {
      condition,
    });
  const leaving = boundary.find((one) => (membership.states.get(one.name) ?? 'active') !== 'active');
  if (leaving !== undefined) return wait('WaitingForTheOthers', `${leaving.name} is leaving`, { condition });
  const behind = boundary.find(({ report }) => (report?.generation ?? 0) < (topology.document?.generation ?? 0));
  if (behind !== undefined) return wait('WaitingForGeneration', `${behind.name} is behind`, { condition });
  if (!situation.cluster.spec.shadowRedundancy.enabled || boundary.length === 1) return null;
  const unprotected = unprotectedOf(boundary);
  if (unprotected === null)
    return wait('ProtectionUnknown', 'it is not known yet whether every message is on two members', { condition });
  return unprotected === 0
    ? null
    : wait('UnprotectedMessages', `${unprotected} messages are on one member only`, { condition });
}

/** A site with one member by design has others in its boundary. */
function isLastOfSite(member: Member, boundary: readonly Member[]): boolean {
  const others = boundary.filter((one) => one !== member && isServing(one));
  if (boundary.length === 1) return false;
  const inSite = boundary.filter((one) => one.group.site === member.group.site);
  return inSite.length > 1 ? !others.some((one) => one.group.site === member.group.site) : others.length === 0;
}

function restart({ member, reason }: OutOfDate): Finding {
  const { name, pod } = member;
  const { uid = '', resourceVersion = '' } = pod?.metadata ?? {};
  const message = `${name} is restarted: ${reason}`;
  const action: Action = { kind: 'restartPod', name, uid, resourceVersion, reason };
  const about = { apiVersion: 'v1', kind: 'Pod', name };
  return act('Restarting', message, {
    condition: 'UpToDate',
    actions: [action],
    events: [event('Normal', 'Restarting', message, about)],
  });
}
