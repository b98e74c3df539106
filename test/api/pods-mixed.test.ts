/** Transports of different versions together under one operator, and another operator (kubernetes.md K12): real processes, real peers. */
import { expect, it } from 'vitest';
import type { KubeObject } from '../cluster/kube-client.ts';
import { until } from '../house/until.ts';
import { writesOf } from './operator-rig.ts';
import { LONG, mailClusterInPods } from './pods-rig.ts';
import { sharedAccess } from './rig.ts';

const api = sharedAccess();

it('K12: transports of the version before and of the one after together: mail flows, all acknowledge; another operator restarts nobody, until what is rendered changes: then only those whom that concerns', async (context) => {
  const isFormer = ({ metadata }: KubeObject): boolean => metadata.labels['mailcluster.dev/site'] === 'seattle';
  const build = (pod: KubeObject) => (isFormer(pod) ? 'former' : 'next');
  const cluster = await mailClusterInPods(api(context), context, { replicas: [2, 1], frontends: 2, build });
  const { access, namespace } = cluster;
  const processes = (role: string): readonly string[] =>
    cluster.pods.running
      .filter(({ pod }) => pod.metadata.labels['mailcluster.dev/role'] === role)
      .map(({ name, pod, pid }) => `${name} ${pod.metadata.uid} ${pid}`)
      .sort();
  await cluster.settled();
  await cluster.somewhereToGo(20_000, 3);
  await cluster.send(20, 'mixed');
  await cluster.balanced();
  const [transports, frontends] = [processes('transport'), processes('frontend')];
  expect([transports.length, frontends.length]).toEqual([3, 2]);

  await cluster.stopOperator();
  const next = await cluster.startOperator({ version: '0.0.1-next' });
  await cluster.settled();
  await cluster.scale(2, 1, { 'example.com/looked': 'at' });
  await cluster.patch({ safetyNet: { holdTime: '47h' } });
  const { topologyGeneration, members } = await cluster.settled();
  for (const one of members) expect(one).toMatchObject({ generation: topologyGeneration });
  const writes = (await writesOf(access, namespace, next.userAgent)).map(({ verb, resource }) => `${verb} ${resource}`);
  // What a member that is slow to answer leads to, and what it is told when it has not heard of it from another one.
  const aside = ['patch poddisruptionbudgets', 'patch pods', 'create events', 'patch events'];
  expect(new Set(writes.filter((one) => !aside.includes(one)))).toEqual(
    new Set(['patch mailclusters/status', 'patch configmaps']),
  );
  expect([processes('transport'), processes('frontend')]).toEqual([transports, frontends]);
  await cluster.send(10, 'another');

  await cluster.patch({ transport: { resources: { requests: { cpu: '123m' } } } });
  await until(
    'the transports to be other ones',
    () => processes('transport').every((one) => !transports.includes(one)) && processes('transport').length === 3,
    LONG,
  );
  await cluster.settled();
  expect(processes('frontend')).toEqual(frontends);
  await cluster.balanced();
}, 300_000);
