/** What is lost for good is told to the transports at once, and what is alone cannot be evicted (kubernetes.md K6, semantics.md S5, L3): real processes. */
import { expect, it } from 'vitest';
import { until } from '../house/until.ts';
import { pathOf } from './operator-rig.ts';
import { LONG, type MailClusterInPods, mailClusterInPods } from './pods-rig.ts';
import { sharedAccess } from './rig.ts';

const api = sharedAccess();
const TIMEOUT_MS = 240_000;
/** semantics.md L3. */
const TAKEOVER_MS = 60_000;
const MESSAGES = 40;

/** Mail that waits for the mailbox store; the transport that is primary of most of it, and of how much. */
async function withMail(cluster: MailClusterInPods): Promise<{ readonly member: string; readonly copies: number }> {
  await cluster.settled();
  await cluster.somewhereToGo(20_000);
  await cluster.stores.sea.stop();
  await cluster.send(MESSAGES, 'queued');
  return await cluster.primaryOfMost(['submission', 'delivery'], MESSAGES);
}

it(
  'K6: a node is out of service: what its transport had is delivered by its shadows within a minute of that word, not before',
  async (context) => {
    const cluster = await mailClusterInPods(api(context), context, { replicas: [2, 1], nodesPerSite: 2 });
    const { member, copies } = await withMail(cluster);
    const node = await cluster.losePower(member);
    await cluster.stores.sea.start();
    await cluster.awaitBudget(member, 0);
    // The others deliver what they are primary of, and wait with the rest: silence alone counts after fifteen minutes.
    await cluster.delivered(MESSAGES - copies);
    expect(await cluster.events('NodeOutOfService')).toEqual([]);
    expect(await cluster.countDelivered()).toBe(MESSAGES - copies);
    await cluster.nodes.outOfService(node);
    const startMs = performance.now();
    await cluster.balanced({ within: TAKEOVER_MS });
    const tookMs = Math.round(performance.now() - startMs);
    console.log(`out of service: ${copies} of ${MESSAGES} taken over and delivered ${tookMs} ms later`);
    expect((await cluster.event('NodeOutOfService')).note).toContain(member);
  },
  TIMEOUT_MS,
);

it(
  'K6: a volume is lost: its shadows take over within a minute; the member starts anew on another one when a person lets it',
  async (context) => {
    const cluster = await mailClusterInPods(api(context), context, { replicas: [2, 1] });
    const { access, namespace } = cluster;
    const { member, copies } = await withMail(cluster);
    const former = (await cluster.member(member, {})).identity;
    const claim = pathOf(namespace, 'persistentvolumeclaims', `queue-${member}`);
    const volume = `/api/v1/persistentvolumes/${(await access.client.get(claim)).spec.volumeName}`;
    await cluster.pods.find(member).losePower();
    await cluster.stores.sea.start();
    await cluster.delivered(MESSAGES - copies);
    await access.client.must('DELETE', volume);
    await access.client.mergePatch(volume, { metadata: { finalizers: null } });
    const startMs = performance.now();
    await cluster.balanced({ within: TAKEOVER_MS });
    const tookMs = Math.round(performance.now() - startMs);
    console.log(`volume lost: ${copies} of ${MESSAGES} taken over and delivered ${tookMs} ms later`);
    expect((await cluster.event('VolumeLost')).note).toContain(member);
    await cluster.condition('StorageHealthy', { reason: 'ClaimLost' });
    // What a person does: the claim and the pod that cannot work any more.
    await access.client.must('DELETE', claim);
    await access.client.must('DELETE', pathOf(namespace, 'pods', member), { body: { gracePeriodSeconds: 0 } });
    await cluster.settled();
    expect((await cluster.member(member, { ready: true })).identity).not.toBe(former);
    await cluster.send(10, 'after');
    await cluster.balanced();
  },
  TIMEOUT_MS,
);

it(
  'K6: a pod object is deleted and nobody can come instead: half a minute later its shadows take over; when it comes after all, its queue database is welcome',
  async (context) => {
    const cluster = await mailClusterInPods(api(context), context, { replicas: [2, 1] });
    const { access, namespace } = cluster;
    const { member, copies } = await withMail(cluster);
    const { identity } = await cluster.member(member, {});
    const node = `/api/v1/nodes/${cluster.pods.find(member).pod.spec.nodeName}`;
    const cordon = async (unschedulable: boolean): Promise<void> => {
      expect((await access.client.mergePatch(node, { spec: { unschedulable } })).status).toBe(200);
    };
    await cordon(true);
    await access.client.must('DELETE', pathOf(namespace, 'pods', member), { body: { gracePeriodSeconds: 0 } });
    await cluster.stores.sea.start();
    await cluster.delivered(MESSAGES - copies);
    const startMs = performance.now();
    await cluster.balanced({ within: TAKEOVER_MS });
    console.log(
      `pod gone: ${copies} of ${MESSAGES} taken over and delivered ${Math.round(performance.now() - startMs)} ms later`,
    );
    expect((await cluster.event('PodGone')).note).toContain(`the pod of ${member} is gone`);
    await cordon(false);
    await cluster.settled();
    expect((await cluster.member(member, { ready: true })).identity).toBe(identity);
    await cluster.send(10, 'after');
    await cluster.balanced();
  },
  TIMEOUT_MS,
);

it(
  'K6: a budget is closed while anything is on one transport only, an eviction is refused; open again when it is protected',
  async (context) => {
    const cluster = await mailClusterInPods(api(context), context, {
      replicas: [1, 1],
      spec: { shadowRedundancy: { heartbeatFrequency: '1s', rejectMessageOnShadowFailure: false } },
    });
    await cluster.settled();
    await cluster.somewhereToGo(20_000);
    const [here = ''] = await cluster.members('seattle');
    const [full = ''] = await cluster.members('portland');
    await cluster.awaitBudget(here, 1);
    await cluster.stores.sea.stop();
    // It serves, and takes no shadow.
    await cluster.fill(full);
    await cluster.send(5, 'alone');
    // Its first word may come while they are still arriving.
    const message = '5 messages are on one member only';
    await cluster.condition('ShadowProtected', { status: 'False', reason: 'UnprotectedMessages', message });
    expect((await cluster.status()).membersReady).toBe('2/2');
    await cluster.awaitBudget(here, 0);
    await cluster.awaitBudget(full, 0);
    const evict = async (): Promise<number> => {
      const path = `${pathOf(cluster.namespace, 'pods', here)}/eviction`;
      const eviction = {
        apiVersion: 'policy/v1',
        kind: 'Eviction',
        metadata: { name: here, namespace: cluster.namespace },
      };
      return (await cluster.access.client.call('POST', path, { body: eviction })).status;
    };
    expect(await evict()).toBe(429);
    await cluster.pods.setFreeBytes(full, null);
    await cluster.condition('ShadowProtected', { status: 'True' });
    await cluster.awaitBudget(here, 1);
    await until('the eviction to be allowed', async () => (await evict()) === 201, LONG);
    await cluster.stores.sea.start();
    await cluster.balanced();
    await cluster.settled();
  },
  TIMEOUT_MS,
);
