/** `kubectl wait` right after a change of the spec returns when that change is done, never on what was true before it (kubernetes.md K11). Real processes. */
import { expect, it } from 'vitest';
import type { KubeObject } from '../cluster/kube-client.ts';
import { list } from './operator-rig.ts';
import { type MailClusterInPods, mailClusterInPods } from './pods-rig.ts';
import { sharedAccess } from './rig.ts';

const api = sharedAccess();
const TIMEOUT_MS = 420_000;

async function waited({ access, namespace }: MailClusterInPods, condition: string): Promise<void> {
  const { code, stderr } = await access.kubectl([
    ...['-n', namespace, 'wait', `--for=condition=${condition}`, 'mc/contoso', '--timeout=120s'],
  ]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
}

const ready = (pods: readonly KubeObject[], role: string): readonly KubeObject[] =>
  pods.filter(
    ({ metadata, status }) =>
      metadata.labels['mailcluster.dev/role'] === role &&
      metadata.deletionTimestamp === undefined &&
      (status.conditions as KubeObject[]).some((one) => one.type === 'Ready' && one.status === 'True'),
  );

it(
  'K11: the spec is changed and kubectl waits: more front ends, more transports, other resources of both; each wait ends when it is so, and every condition is about this spec',
  async (context) => {
    const cluster = await mailClusterInPods(api(context), context, { replicas: [1, 1], frontends: 2 });
    const { access, namespace } = cluster;
    const now = () => list(access, namespace, 'pods');
    await cluster.settled();

    await cluster.patch({ frontend: { replicas: 4 } });
    await waited(cluster, 'Ready');
    expect(ready(await now(), 'frontend')).toHaveLength(4);

    await cluster.scale(2, 1);
    await waited(cluster, 'Ready');
    expect(ready(await now(), 'transport')).toHaveLength(3);

    const requests = { cpu: '123m' };
    await cluster.patch({ frontend: { replicas: 2, resources: { requests } }, transport: { resources: { requests } } });
    await waited(cluster, 'UpToDate');
    const serving = [...ready(await now(), 'frontend'), ...ready(await now(), 'transport')];
    const old = serving.filter(({ spec }) => spec.containers[0].resources?.requests?.cpu !== requests.cpu);
    expect(old.map(({ metadata }) => metadata.name)).toEqual([]);

    const { metadata, status } = await access.client.get(
      `/apis/mailcluster.dev/v1alpha1/namespaces/${namespace}/mailclusters/contoso`,
    );
    const about = (status.conditions as KubeObject[]).map((one) => one.observedGeneration);
    expect(new Set(about)).toEqual(new Set([metadata.generation]));
  },
  TIMEOUT_MS,
);
