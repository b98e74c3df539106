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

/** Ready, and what was accepted waits for the mailbox store, which is there again: who delivers it has it. */
async function withMailAt(cluster: MailClusterInPods, victim: string, count: number): Promise<number> {
  await cluster.somewhereToGo(20_000);
  await cluster.stores.sea.stop();
  await cluster.send(count, 'queued');
  return (await cluster.copiesOf(victim)).filter(({ queue }) => queue !== 'shadow').length;
}

it(
  'K6: a node is out of service: what its transport had is delivered by its shadows within a minute of that word, not before',
  async (context) => {
    const cluster = await mailClusterInPods(api(context), context, { replicas: [2, 1] });
    await cluster.settled();
    const [victim = ''] = await cluster.members('portland');
    const [other = ''] = await cluster.members('seattle');
    const alone = await withMailAt(cluster, victim, 40);
    expect(alone).toBeGreaterThan(0);
    const node = await cluster.losePower(victim);
    await cluster.stores.sea.start();
    await cluster.awaitBudget(other, 0);
    // The others deliver what they are primary of, and wait for the rest: silence alone counts after fifteen minutes.
    await cluster.delivered(40 - alone);
    expect(await cluster.events('NodeOutOfService')).toEqual([]);
    await cluster.nodes.outOfService(node);
    const startMs = performance.now();
    await cluster.balanced({ within: TAKEOVER_MS });
    console.log(
      `out of service: ${alone} of 40 taken over and delivered ${Math.round(performance.now() - startMs)} ms later`,
    );
    expect((await cluster.event('NodeOutOfService')).note).toContain(victim);
    await cluster.member(victim, { state: 'Lost' });
  },
  TIMEOUT_MS,
);

it(
  'K6: a volume is lost: its shadows take over within a minute; the member starts anew on another one when a person lets it',
  async (context) => {
    const cluster = await mailClusterInPods(api(context), context, { replicas: [2, 1] });
    await cluster.settled();
    const { access, namespace } = cluster;
    const [victim = ''] = await cluster.members('portland');
    const former = (await cluster.member(victim, {})).identity;
    const alone = await withMailAt(cluster, victim, 40);
    expect(alone).toBeGreaterThan(0);
    await cluster.stores.sea.start();
    await cluster.delivered(40 - alone);
    const claim = pathOf(namespace, 'persistentvolumeclaims', `queue-${victim}`);
    const volume = `/api/v1/persistentvolumes/${(await access.client.get(claim)).spec.volumeName}`;
    await cluster.pods.find(victim).losePower();
    await access.client.must('DELETE', volume);
    await access.client.mergePatch(volume, { metadata: { finalizers: null } });
    const startMs = performance.now();
    await cluster.balanced({ within: TAKEOVER_MS });
    console.log(
      `volume lost: ${alone} of 40 taken over and delivered ${Math.round(performance.now() - startMs)} ms later`,
    );
    expect((await cluster.event('VolumeLost')).note).toContain(victim);
    await cluster.condition('StorageHealthy', { reason: 'ClaimLost' });
    // What a person does: the claim and the pod that cannot work any more.
    await access.client.must('DELETE', claim);
    await access.client.must('DELETE', pathOf(namespace, 'pods', victim), { body: { gracePeriodSeconds: 0 } });
    await cluster.settled();
    expect((await cluster.member(victim, { ready: true })).identity).not.toBe(former);
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
    const { message } = await cluster.condition('ShadowProtected', { status: 'False', reason: 'UnprotectedMessages' });
    expect(message).toContain('5 messages');
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
