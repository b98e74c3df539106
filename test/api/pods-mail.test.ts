/** One apply becomes transports and front ends that carry mail: the operator's plan and real processes (kubernetes.md K7, K9). */
import { expect, it } from 'vitest';
import { installCrds } from '../cluster/shared-cluster.ts';
import { writesOf } from './operator-rig.ts';
import { mailClusterInPods } from './pods-rig.ts';
import { ownApiServer, sharedAccess } from './rig.ts';

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

it('K9: mail flows, a transport is restarted and queues are delivered while the operator and the API server are away; then they find everything as it is', async (context) => {
  const own = await ownApiServer(context);
  await installCrds(own);
  const cluster = await mailClusterInPods(own, context, { replicas: [2, 1] });
  await cluster.settled();
  await cluster.somewhereToGo(20_000);
  const [member = ''] = await cluster.members('seattle');
  const ready = await cluster.condition('Ready', { status: 'True' });
  await cluster.stopOperator();
  await own.apiServer.stop();
  try {
    await cluster.send(10, 'without');
    await cluster.balanced();
    // Its certificate is on its volume; who signs is away.
    await cluster.pods.find(member).crash();
    await cluster.somewhereToGo(60_000, 3);
    await cluster.stores.sea.stop();
    await cluster.send(10, 'queued');
    await cluster.stores.sea.start();
    await cluster.balanced();
  } finally {
    await own.startAgain(own.apiServer);
  }
  const operator = await cluster.startOperator();
  await cluster.settled();
  const writes = await writesOf(own, cluster.namespace, operator.userAgent);
  expect(writes.filter(({ resource }) => !resource.endsWith('/status')).map(({ uri }) => uri)).toEqual([]);
  expect((await cluster.condition('Ready', { status: 'True' })).lastTransitionTime).toBe(ready.lastTransitionTime);
  await cluster.send(5, 'again');
  await cluster.balanced();
}, 240_000);
