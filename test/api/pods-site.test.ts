/** A whole site lost at once (kubernetes.md K6, semantics.md S8, L3): those that are left protect among themselves, and the status says so. Real processes. */
import { expect, it } from 'vitest';
import type { KubeObject } from '../cluster/kube-client.ts';
import { until } from '../house/until.ts';
import { pathOf } from './operator-rig.ts';
import { LONG, type MailClusterInPods, mailClusterInPods } from './pods-rig.ts';
import { sharedAccess } from './rig.ts';

const api = sharedAccess();
const TIMEOUT_MS = 300_000;
const PROTECTED_MS = 60_000;
const MESSAGES = 40;

/** Until the status says it of everything that is in transit. */
async function protectedSince(cluster: MailClusterInPods, startMs: number): Promise<number> {
  await until(
    'ShadowProtected to be True',
    async () => {
      const [found, members] = await protection(cluster);
      if (found?.status === 'True') return true;
      throw new Error(JSON.stringify({ found, members }));
    },
    LONG,
  );
  return Math.round(performance.now() - startMs);
}

async function protection(cluster: MailClusterInPods) {
  const { conditions, members } = await cluster.status();
  return [
    (conditions as KubeObject[]).find(({ type }) => type === 'ShadowProtected'),
    members as KubeObject[],
  ] as const;
}

it(
  'K6: the machines of a site are dead: within a minute of that word everything is on two members of the other site, and ShadowProtected says so and goes on saying so',
  async (context) => {
    const cluster = await mailClusterInPods(api(context), context, { replicas: [2, 2], frontends: 2 });
    await cluster.settled();
    await cluster.somewhereToGo(20_000, 4);
    await cluster.stores.sea.stop();
    await cluster.send(MESSAGES, 'before');
    const dead = await cluster.members('seattle');
    const node = await cluster.losePower(dead[0] ?? '');
    await cluster.nodes.outOfService(node);
    const startMs = performance.now();
    for (const member of dead) await cluster.member(member, { state: 'Lost' });
    const tookMs = await protectedSince(cluster, startMs);
    console.log(`a site out of service to ShadowProtected, ${MESSAGES} messages: ${tookMs} ms`);
    expect(tookMs).toBeLessThan(PROTECTED_MS);
    expect((await cluster.status()).counts).toMatchObject({ unprotected: 0 });
    // What Kubernetes does some twenty seconds later: those that it makes in their place find no machine. That says nothing about the mail.
    const [before] = await protection(cluster);
    for (const member of dead) {
      const pod = pathOf(cluster.namespace, 'pods', member);
      await cluster.access.client.must('DELETE', pod, { body: { gracePeriodSeconds: 0 } });
    }
    await cluster.condition('Progressing', { status: 'False', reason: 'Unschedulable' });
    const [after, members] = await protection(cluster);
    expect(after).toMatchObject({ status: 'True', lastTransitionTime: before?.lastTransitionTime });
    expect(members).toMatchObject(dead.map(() => ({ state: 'Active' })).concat(dead.map(() => ({ state: 'Lost' }))));
    await cluster.send(10, 'after');
    await cluster.condition('ShadowProtected', { status: 'True' });
    await cluster.stores.sea.start();
    await cluster.balanced();
  },
  TIMEOUT_MS,
);
