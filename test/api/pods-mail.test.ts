/** One apply becomes transports and front ends that carry mail: the operator's plan and real processes (kubernetes.md K7, K9). */
import { expect, it } from 'vitest';
import { mailClusterInPods } from './pods-rig.ts';
import { sharedAccess } from './rig.ts';

const api = sharedAccess();

it('K7: one apply becomes a cluster that is ready, protected and acknowledges its generation; mail goes through it', async (context) => {
  const cluster = await mailClusterInPods(api(context), context, { replicas: [2, 2], frontends: 2 });
  const { membersReady, frontendsReady, topologyGeneration, members } = await cluster.settled();
  expect({ membersReady, frontendsReady }).toEqual({ membersReady: '4/4', frontendsReady: '2/2' });
  for (const one of members) expect(one).toMatchObject({ ready: true, generation: topologyGeneration, unprotected: 0 });
  await cluster.somewhereToGo(20_000);
  await cluster.send(20, 'first');
  await cluster.balanced();
}, 180_000);
