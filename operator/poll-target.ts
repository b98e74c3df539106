/** Whom the member poll asks in a cluster, and how often. Owns: that judgement, out of what is watched. */
import type { Authorities } from './authorities.ts';
import { MAIL_CLUSTER, POD, RESUBMIT_REQUEST } from './kube/kinds.ts';
import { nameOf } from './kube/kube-object.ts';
import type { MemberPod, PollTarget } from './member-poll.ts';
import type { MailClusterStatus } from './resource/generated.ts';
import { LABEL } from './resources/names.ts';
import type { PodObject } from './resources/objects.ts';
import { isAtRest } from './status.ts';
import type { Watched, World } from './world.ts';

export async function pollTarget(
  world: Pick<World, 'get' | 'inNamespace' | 'ofCluster'>,
  authorities: Pick<Authorities, 'identity'>,
  key: string,
): Promise<PollTarget | null> {
  const { namespace = '', name } = nameOf(key);
  const cluster = world.get(MAIL_CLUSTER, namespace, name);
  if (cluster === undefined) return null;
  const pods = world
    .ofCluster(POD, namespace, name)
    .filter(({ metadata }) => metadata.labels?.[LABEL.role] === 'transport');
  const requests = world
    .inNamespace(RESUBMIT_REQUEST, namespace)
    .filter(({ spec }) => (spec as { clusterRef?: { name?: string } } | undefined)?.clusterRef?.name === name);
  const status = cluster.status as MailClusterStatus | undefined;
  const present = new Set(pods.map(({ metadata }) => metadata.name));
  const missing = (status?.members ?? []).filter((one) => !present.has(one.name));
  return {
    pods: pods.flatMap((pod) => memberPod(pod)),
    absent: [
      ...pods.flatMap((pod) =>
        memberPod(pod).length > 0 ? [] : [{ name: pod.metadata.name, reason: 'its pod has no address yet' }],
      ),
      ...missing.map((one) => ({ name: one.name, reason: 'it has no pod' })),
    ],
    wantsResubmits: requests.length > 0,
    tls: await authorities.identity(namespace, name),
    isBusy: isBusy(status, requests),
  };
}

function memberPod(pod: Watched): readonly MemberPod[] {
  const { name, uid = '' } = pod.metadata;
  const address = (pod as unknown as PodObject).status?.podIP;
  return address === undefined || address === '' ? [] : [{ name, uid, address }];
}

function isBusy(status: MailClusterStatus | undefined, requests: readonly Watched[]): boolean {
  const running = requests.some(({ status: own }) => {
    const state = (own as { state?: string } | undefined)?.state;
    return state === undefined || state === 'Pending' || state === 'Running';
  });
  return running || !isAtRest(status);
}
