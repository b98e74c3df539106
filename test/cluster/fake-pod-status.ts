/**
 * What a kubelet would write into the status of a pod. PURE. Owns: the states a test can ask for and how each reads to the controllers and
 * to a person (`kubectl get pods`: the reason of the waiting container).
 */
import { isDeepStrictEqual } from 'node:util';
import type { KubeObject } from './kube-client.ts';

export interface PodBehaviour {
  /**
   * `pending`: the kubelet has not got to it. `imageMissing`: ImagePullBackOff. `crashLoop`: CrashLoopBackOff. `notReady`: runs, its
   * readiness probe fails. `running`: runs and is ready. `failed`: ended with an error, for good.
   */
  readonly state: 'pending' | 'imageMissing' | 'crashLoop' | 'notReady' | 'running' | 'failed';
  /** Where it is reached, when a real process plays it; default: an address that nobody has. */
  readonly address?: string;
  /** Stays Terminating, as on a node whose containers hang. */
  readonly ignoresDeletion?: boolean;
}

const RESTARTS = 5;

type Condition = readonly [type: string, isTrue: boolean, reason: string | null];

/** The status to write, or null when it is there already. */
export function podStatus(pod: KubeObject, behaviour: PodBehaviour, address: string): KubeObject | null {
  const { state } = behaviour;
  if (state === 'pending') return null;
  const now = `${new Date().toISOString().slice(0, 19)}Z`;
  const before: KubeObject = pod.status ?? {};
  const isReady = state === 'running';
  const phase = state === 'imageMissing' ? 'Pending' : state === 'failed' ? 'Failed' : 'Running';
  const unready = isReady ? null : 'ContainersNotReady';
  const wanted: readonly Condition[] = [
    ['PodScheduled', true, null],
    ['Initialized', true, null],
    ['ContainersReady', isReady, unready],
    ['Ready', isReady, unready],
  ];
  const podIP = behaviour.address ?? address;
  const startTime = before.startTime ?? now;
  const status = {
    phase,
    ...{ startTime, hostIP: '10.243.0.1', hostIPs: [{ ip: '10.243.0.1' }] },
    ...(state === 'imageMissing' ? {} : { podIP, podIPs: [{ ip: podIP }] }),
    conditions: wanted.map(([type, isTrue, reason]) => condition(before, type, isTrue, reason, now)),
    containerStatuses: (pod.spec.containers as KubeObject[]).map((container) =>
      containerStatus(container, pod, state, startTime),
    ),
  };
  const current = Object.fromEntries(Object.keys(status).map((key) => [key, before[key]]));
  return isDeepStrictEqual(withoutTimes(current), withoutTimes(status)) ? null : status;
}

function condition(before: KubeObject, type: string, isTrue: boolean, reason: string | null, now: string): KubeObject {
  const status = isTrue ? 'True' : 'False';
  const old = (before.conditions as KubeObject[] | undefined)?.find((one) => one.type === type);
  const lastTransitionTime = old?.status === status ? old.lastTransitionTime : now;
  return { type, status, lastTransitionTime, ...(reason === null ? {} : { reason }) };
}

function containerStatus(
  { name, image }: KubeObject,
  pod: KubeObject,
  state: Exclude<PodBehaviour['state'], 'pending'>,
  startedAt: string,
): KubeObject {
  const isRunning = state === 'running' || state === 'notReady';
  const waiting: Readonly<Record<string, KubeObject>> = {
    imageMissing: { reason: 'ImagePullBackOff', message: `Back-off pulling image "${image}"` },
    crashLoop: { reason: 'CrashLoopBackOff', message: `back-off restarting failed container=${name}` },
  };
  const ended = { terminated: { exitCode: 1, reason: 'Error', startedAt, finishedAt: startedAt, containerID: '' } };
  const states = isRunning ? { running: { startedAt } } : state === 'failed' ? ended : { waiting: waiting[state] };
  return {
    name,
    image,
    imageID: '',
    ready: state === 'running',
    started: isRunning,
    restartCount: state === 'crashLoop' ? RESTARTS : 0,
    state: states,
    ...(isRunning ? { containerID: `fake://${pod.metadata.uid}/${name}` } : {}),
    ...(state === 'crashLoop' ? { lastState: ended } : {}),
  };
}

/** The API server adds fields and times that do not matter here. */
function withoutTimes(status: KubeObject): unknown {
  const { conditions, containerStatuses, phase, podIP } = status;
  return {
    phase,
    podIP,
    conditions: (conditions as KubeObject[] | undefined)
      ?.filter(({ type }) => ['PodScheduled', 'Initialized', 'ContainersReady', 'Ready'].includes(type))
      .map(({ type, status: value }) => `${type}=${value}`)
      .sort(),
    containers: (containerStatuses as KubeObject[] | undefined)?.map(({ name, ready, restartCount, state }) => ({
      ...{ name, ready, restartCount },
      state: Object.keys(state ?? {}),
      reason: state?.waiting?.reason,
    })),
  };
}
