/** Fake nodes under the real scheduler and controllers: what tests of the operator will rely on. */
import { expect, it, type TestContext } from 'vitest';
import { type ApiAccess, nodePool } from '../cluster/api-access.ts';
import { FakeNodes } from '../cluster/fake-nodes.ts';
import type { KubeObject } from '../cluster/kube-client.ts';
import { until } from '../house/until.ts';
import { ownApiServer, ownNamespace, POOL, sharedAccess } from './rig.ts';

const api = sharedAccess();
const NODES = ['a', 'b', 'c'].map((letter) => ({ name: `node-${letter}`, zone: `zone-${letter}` }));
const SOON = { deadlineMs: 30_000 };

const statefulSet = (replicas: number, namespace = 'default'): KubeObject => {
  const labels = { app: 'queue' };
  const spread = {
    ...{ maxSkew: 1, topologyKey: 'topology.kubernetes.io/zone', whenUnsatisfiable: 'DoNotSchedule' },
    labelSelector: { matchLabels: labels },
  };
  return {
    ...{ apiVersion: 'apps/v1', kind: 'StatefulSet', metadata: { namespace, name: 'queue' } },
    spec: {
      ...{ replicas, serviceName: 'queue', podManagementPolicy: 'Parallel', selector: { matchLabels: labels } },
      template: {
        metadata: { labels },
        spec: {
          terminationGracePeriodSeconds: 30,
          topologySpreadConstraints: [spread],
          containers: [{ name: 'queue', image: 'localhost/queue:1' }],
        },
      },
    },
  };
};

interface Stage {
  readonly access: ApiAccess;
  readonly nodes: FakeNodes;
  readonly namespace: string;
}

/** Beside other tests. */
async function stage(context: TestContext, replicas: number): Promise<Stage> {
  const access = api(context);
  const namespace = await ownNamespace(access, context);
  const machines = NODES.map(({ name, zone }) => ({ name: `${name}-${namespace}`, zone }));
  const nodes = await FakeNodes.start(access.client, machines, { pool: nodePool(POOL) });
  context.onTestFinished(async () => {
    await access.client.must('DELETE', podsPath(namespace));
    await nodes.remove();
  });
  await access.client.mustApply(statefulSet(replicas, namespace));
  return { access, nodes, namespace };
}

/** With a node lifecycle that a test can wait for. */
async function quickStage(context: TestContext, replicas: number): Promise<Stage> {
  const access = await ownApiServer(context, { nodeGraceSeconds: 8, tolerationSeconds: 2 });
  const nodes = await FakeNodes.start(access.client, NODES);
  context.onTestFinished(() => nodes.stop());
  await access.client.mustApply(statefulSet(replicas));
  return { access, nodes, namespace: 'default' };
}

const podsPath = (namespace: string): string => `/api/v1/namespaces/${namespace}/pods`;
const podOf = async ({ access, namespace }: Stage, name: string): Promise<KubeObject | null> => {
  const { status, body } = await access.client.call('GET', `${podsPath(namespace)}/${name}`);
  return status === 200 ? body : null;
};
const isReady = (pod: KubeObject | null): boolean =>
  (pod?.status?.conditions as KubeObject[] | undefined)?.some(
    ({ type, status }) => type === 'Ready' && status === 'True',
  ) ?? false;
const readyReplicas = async ({ access, namespace }: Stage): Promise<number> =>
  (await access.client.get(`/apis/apps/v1/namespaces/${namespace}/statefulsets/queue`)).status.readyReplicas ?? 0;

it('a StatefulSet becomes ready, one pod in each zone, and shrinks by its highest ordinal', async (context) => {
  const here = await stage(context, 3);
  await until('three ready', async () => (await readyReplicas(here)) === 3, SOON);
  const pods = (await here.access.client.get(podsPath(here.namespace))).items as KubeObject[];
  const nodeNames = pods.map(({ spec }) => spec.nodeName as string).sort();
  expect(nodeNames).toEqual(NODES.map(({ name }) => `${name}-${here.namespace}`));
  expect(new Set(pods.map(({ status }) => status.podIP)).size).toBe(3);
  await here.access.client.mustApply(statefulSet(2, here.namespace));
  await until('queue-2 to be gone', async () => (await podOf(here, 'queue-2')) === null, SOON);
  expect(isReady(await podOf(here, 'queue-1'))).toBe(true);
  expect(here.nodes.failure).toBeNull();
});

it('hooks keep pods pending, crashing, without image or not ready, and let them go', async (context) => {
  const here = await stage(context, 0);
  const states = {
    'queue-0': 'pending',
    'queue-1': 'crashLoop',
    'queue-2': 'imageMissing',
    'queue-3': 'notReady',
  } as const;
  here.nodes.behave(({ metadata }) => ({ state: states[metadata.name as keyof typeof states] ?? 'running' }));
  await here.access.client.mustApply(statefulSet(5, here.namespace));
  await until('queue-4 ready', async () => isReady(await podOf(here, 'queue-4')), SOON);
  const shown = async (): Promise<Readonly<Record<string, string>>> => {
    const { stdout } = await here.access.kubectl(['get', 'pods', '-n', here.namespace, '--no-headers']);
    return Object.fromEntries(
      stdout
        .trim()
        .split('\n')
        .map((row) => row.split(/\s+/))
        .map(([name, ready, state]) => [name, `${ready} ${state}`]),
    );
  };
  const wanted = {
    'queue-0': '0/1 Pending',
    'queue-1': '0/1 CrashLoopBackOff',
    'queue-2': '0/1 ImagePullBackOff',
    'queue-3': '0/1 Running',
    'queue-4': '1/1 Running',
  };
  await until('every pod as the hook says', async () => JSON.stringify(await shown()) === JSON.stringify(wanted), SOON);
  here.nodes.behave(() => ({ state: 'running' }));
  await until('all ready', async () => (await readyReplicas(here)) === 5, SOON);
});

it('a lost node is NotReady, keeps its pod Terminating, and lets it go when out of service', async (context) => {
  const here = await quickStage(context, 3);
  await until('three ready', async () => (await readyReplicas(here)) === 3, SOON);
  const lost = await podOf(here, 'queue-1');
  const node = String(lost?.spec.nodeName);
  here.nodes.lose(node);
  const nodeReady = async (): Promise<string> => {
    const { conditions } = (await here.access.client.get(`/api/v1/nodes/${node}`)).status;
    return (conditions as KubeObject[]).find(({ type }) => type === 'Ready')?.status;
  };
  await until('the node to be NotReady', async () => (await nodeReady()) === 'Unknown', SOON);
  await until(
    'its pod to be Terminating',
    async () => (await podOf(here, 'queue-1'))?.metadata.deletionTimestamp !== undefined,
    SOON,
  );
  expect((await podOf(here, 'queue-1'))?.metadata.uid).toBe(lost?.metadata.uid);
  await here.nodes.outOfService(node);
  const isGone = async (): Promise<boolean> => (await podOf(here, 'queue-1'))?.metadata.uid !== lost?.metadata.uid;
  // The pod garbage collector looks every 20 s.
  await until('the pod object to be gone', isGone, { deadlineMs: 45_000 });
}, 150_000);

it('follows the API server through a restart', async (context) => {
  const cluster = await ownApiServer(context);
  await using nodes = await FakeNodes.start(cluster.client, NODES);
  const here: Stage = { access: cluster, nodes, namespace: 'default' };
  await cluster.apiServer.kill();
  await cluster.startAgain(cluster.apiServer);
  await cluster.client.mustApply(statefulSet(3));
  await until('three ready', async () => (await readyReplicas(here)) === 3, { deadlineMs: 50_000 });
}, 150_000);

it('pods of a namespace run on the nodes of its pool only, whatever else is there and however empty', async (context) => {
  const access = api(context);
  const pools = [`${POOL}-one`, `${POOL}-two`, `${POOL}-none`];
  const spaces = await Promise.all(pools.map((pool) => access.namespace('pool', pool)));
  context.onTestFinished(async () => {
    for (const { remove } of spaces) await remove();
  });
  const fakes = await Promise.all(
    pools.slice(0, 2).map(async (pool) => {
      const nodes = await FakeNodes.start(access.client, [{ name: pool, zone: POOL }], { pool: nodePool(pool) });
      context.onTestFinished(async () => {
        await nodes.remove();
      });
      return nodes;
    }),
  );
  const containers = [{ name: 'queue', image: 'localhost/queue:1' }];
  const pod = (namespace: string, name: string, spec: KubeObject = {}): KubeObject => ({
    ...{ apiVersion: 'v1', kind: 'Pod', metadata: { namespace, name }, spec: { containers, ...spec } },
  });
  const found = async (at: number, name: string): Promise<KubeObject> =>
    await access.client.get(`/api/v1/namespaces/${spaces[at]?.name}/pods/${name}`);
  const names = ['a', 'b', 'c', 'd'];
  for (const name of names) for (const { name: space } of spaces) await access.client.mustApply(pod(space, name));
  for (const name of names) {
    for (const at of [0, 1]) {
      await until('the pod to run', async () => (await found(at, name)).status.phase === 'Running', SOON);
      expect((await found(at, name)).spec.nodeName).toBe(pools[at]);
    }
    await until(
      'the pod of the pool without nodes to be unschedulable',
      async () => ((await found(2, name)).status.conditions ?? [])[0]?.reason === 'Unschedulable',
      SOON,
    );
  }
  expect(fakes.map(({ failure }) => failure)).toEqual([null, null]);
  // Whoever goes past the scheduler is noticed.
  await access.client.mustApply(pod(String(spaces[1]?.name), 'stranger', { nodeName: pools[0] }));
  await until('the stranger to be noticed', () => fakes[0]?.failure?.includes('/stranger came to node') ?? false, SOON);
});
