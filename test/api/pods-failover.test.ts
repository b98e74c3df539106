/** A mailbox failover by changing one field (kubernetes.md K8, semantics.md N2 to N4): the request appears by itself, real transports carry it out. */
import { expect, it } from 'vitest';
import type { KubeObject } from '../cluster/kube-client.ts';
import { until } from '../house/until.ts';
import { list, pathOf } from './operator-rig.ts';
import { LONG, type MailClusterInPods, mailClusterInPods, type StoreName } from './pods-rig.ts';
import { sharedAccess } from './rig.ts';

const api = sharedAccess();
const TIMEOUT_MS = 240_000;

async function failOver({ access, namespace }: MailClusterInPods, activeCopy: StoreName): Promise<void> {
  const path = pathOf(namespace, 'mailboxdatabases', 'db01');
  expect((await access.client.mergePatch(path, { spec: { activeCopy } })).status).toBe(200);
}

/** The newest request, when it says so. */
async function request({ access, namespace }: MailClusterInPods, state: string): Promise<KubeObject> {
  return await until(
    `a ResubmitRequest to be ${state}`,
    async () => {
      const all = await list(access, namespace, 'resubmitrequests');
      const newest = [...all].sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1)).at(-1);
      if (newest?.status?.state !== state) throw new Error(JSON.stringify(newest?.status));
      return newest;
    },
    LONG,
  );
}

it(
  'K8: activeCopy is changed: mail goes to the other copy, and a ResubmitRequest brings what it lacks, by primaries; with one of them silent, by its shadows',
  async (context) => {
    const cluster = await mailClusterInPods(api(context), context, {
      replicas: [2, 1],
      nodesPerSite: 2,
      spec: { safetyNet: { unresponsivePrimaryTimeout: '10s' } },
    });
    await cluster.settled();
    await cluster.somewhereToGo(20_000);
    await cluster.send(30, 'window');
    await cluster.balanced({ store: 'sea' });
    await cluster.atRest();
    await cluster.stores.sea.stop();
    await failOver(cluster, 'pdx');
    await cluster.balanced({ store: 'pdx' });
    const first = await request(cluster, 'Completed');
    expect(first.spec.selector.database).toBe('db01');
    expect(first.status.counts).toMatchObject({ resubmitted: 30, byPrimaries: 30, byShadows: 0, failed: 0 });
    expect(first.status.members.map(({ state }: KubeObject) => state)).toEqual(['Done', 'Done', 'Done']);
    expect((await cluster.event('ResubmitCreated')).note).toContain(first.metadata.name);
    const database = await cluster.access.client.get(pathOf(cluster.namespace, 'mailboxdatabases', 'db01'));
    expect(database.status).toMatchObject({ activeCopy: 'pdx', activation: 2 });
    await cluster.settled();
    await cluster.atRest();
    // The way back, to a copy that lost everything, and one transport does not answer.
    const { member: silent, copies } = await cluster.primaryOfMost(['primarySafetyNet'], 60);
    await cluster.emptyStore('sea');
    await cluster.losePower(silent);
    await cluster.stores.sea.start();
    await failOver(cluster, 'sea');
    await cluster.balanced({ store: 'sea' });
    const counts = await until(
      'the shadows to have done their part',
      async () => {
        const running = await request(cluster, 'Running');
        const { byShadows = 0, byPrimaries = 0 } = running.status.counts ?? {};
        return byShadows > 0 && byPrimaries > 0 && { byShadows, byPrimaries };
      },
      LONG,
    );
    console.log(`failover with ${silent} silent: ${JSON.stringify(counts)}, ${copies} entries were its own`);
  },
  TIMEOUT_MS,
);
