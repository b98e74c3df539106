/**
 * Pods as they come up: the generation pushed to them, who has acknowledged it (kubernetes.md K7), and what keeps one from coming up, in the pod's own
 * words. Owns: those. PURE.
 */
import type { Action } from '../actions.ts';
import { isAsWanted, stamped } from '../resources/compare.ts';
import { ANNOTATION, LABEL } from '../resources/names.ts';
import { conditionOf, type DeploymentObject, type KubeObject, type PodObject } from '../resources/objects.ts';
import { act, type Finding, LATER_MS, refuse, wait } from './finding.ts';
import { isServing, object } from './situation.ts';
import type { View } from './view.ts';

/** A mounted file changes after 47-76 s by itself, after 0.1-0.8 s when the pod changes (measured): so the pod is changed. */
export function pushGeneration({ situation, topology }: View): readonly Finding[] {
  const { document } = topology;
  if (document === null) return [];
  const generation = String(document.generation);
  const knows = new Set(
    situation.members.flatMap(({ name, report }) => ((report?.generation ?? -1) >= document.generation ? [name] : [])),
  );
  const actions = situation.gathered.pods
    .filter(({ metadata }) => ['transport', 'frontend'].includes(metadata.labels?.[LABEL.role] ?? ''))
    .filter(({ metadata }) => metadata.deletionTimestamp === undefined && metadata.uid !== undefined)
    .filter(({ metadata }) => metadata.annotations?.[ANNOTATION.generation] !== generation && !knows.has(metadata.name))
    .map(
      ({ metadata }): Action => ({
        kind: 'annotate',
        target: { apiVersion: 'v1', kind: 'Pod', name: metadata.name },
        uid: metadata.uid ?? '',
        annotations: { [ANNOTATION.generation]: generation },
      }),
    );
  if (actions.length === 0) return [];
  return [act('WaitingForGeneration', `generation ${generation} is pushed to ${actions.length} pods`, { actions })];
}

export function acknowledged({ situation, membership, topology }: View): readonly Finding[] {
  const { document } = topology;
  if (document === null)
    return [wait('WaitingForGeneration', 'there is no topology document yet', { condition: 'TopologyConverged' })];
  const behind = situation.members.filter(
    ({ name, report }) =>
      membership.states.has(name) &&
      membership.states.get(name) !== 'gone' &&
      (report?.generation ?? -1) < document.generation,
  );
  if (behind.length === 0) return [];
  const names = behind.map(({ name }) => name).join(', ');
  return [
    wait('WaitingForGeneration', `generation ${document.generation} is not acknowledged by ${names}`, {
      condition: 'TopologyConverged',
    }),
  ];
}

const FAILING = new Set([
  'ErrImagePull',
  'ImagePullBackOff',
  'InvalidImageName',
  'ErrImageNeverPull',
  'CrashLoopBackOff',
  'CreateContainerConfigError',
  'CreateContainerError',
  'RunContainerError',
]);

function problemOf(pod: PodObject): readonly ['Unschedulable' | 'PodFailing', string] | null {
  const scheduled = conditionOf(pod.status?.conditions, 'PodScheduled');
  if (scheduled?.status === 'False')
    return ['Unschedulable', `pod ${pod.metadata.name}: ${scheduled.reason ?? ''} ${scheduled.message ?? ''}`.trim()];
  const waiting = pod.status?.containerStatuses
    ?.map(({ state }) => state?.waiting)
    .find((one) => FAILING.has(one?.reason ?? ''));
  if (waiting === undefined) return null;
  return ['PodFailing', `pod ${pod.metadata.name}: ${waiting.reason} ${waiting.message ?? ''}`.trim()];
}

export function failingPods({ situation }: View): readonly Finding[] {
  return situation.gathered.pods.flatMap((pod) => {
    const problem = pod.metadata.deletionTimestamp === undefined ? problemOf(pod) : null;
    return problem === null ? [] : [refuse(problem[0], problem[1], { condition: 'Progressing' })];
  });
}

export function membersServe({ situation, membership }: View): readonly Finding[] {
  const wanted = situation.members.filter(
    ({ name }) => membership.states.has(name) && membership.states.get(name) !== 'gone',
  );
  const away = wanted.filter((one) => !isServing(one));
  if (away.length === 0) return [];
  const names = away.map(({ name, silence }) => `${name} (${silence?.reason ?? 'not ready'})`).join(', ');
  return [
    wait('MembersNotReady', `${wanted.length - away.length} of ${wanted.length} serve; not yet: ${names}`, {
      condition: 'Ready',
    }),
  ];
}

export function frontendsServe({ situation, wanted }: View): readonly Finding[] {
  return wanted.frontends
    .filter(({ kind }) => kind === 'Deployment')
    .flatMap((one): readonly Finding[] => {
      const { name } = one.metadata;
      const found = object<DeploymentObject>(situation.objects, 'Deployment', name);
      const [replicas, ready] = [wantedReplicas(one, found), found?.status?.readyReplicas ?? 0];
      if (found !== undefined && ready >= replicas) return rollingOut(one, found, replicas);
      return [wait('FrontendsNotReady', `front ends ${name}: ${ready} of ${replicas} serve`, { condition: 'Ready' })];
    });
}

/** By the spec of now, not by what was applied for the one before: who waits for a condition waits for this one. Left out, an autoscaler decides. */
export const wantedReplicas = (wanted: KubeObject, found: DeploymentObject | undefined): number =>
  (wanted as DeploymentObject).spec?.replicas ?? found?.spec?.replicas ?? 1;

function rollingOut(wanted: KubeObject, found: DeploymentObject, replicas: number): readonly Finding[] {
  const { updatedReplicas = 0, observedGeneration = 0 } = found.status ?? {};
  const isSeen = isAsWanted(stamped(wanted), found) && observedGeneration >= (found.metadata.generation ?? 0);
  if (replicas === 0 || (updatedReplicas >= replicas && isSeen)) return [];
  const message = `front ends ${found.metadata.name}: ${updatedReplicas} of ${replicas} are up to date`;
  return [wait('RollingOut', message, { condition: 'UpToDate', afterMs: LATER_MS })];
}
