/**
 * The operator killed after every single step it takes, and started again, until it is over (kubernetes.md K3, K5, K12): each table lists the steps by name.
 * Promise of the tables: the end state is that of an operator that lives, no step is done twice, none is left out. Pods are real processes
 * where a step needs their answer, else fake nodes play them.
 */
import { describe, expect, it } from 'vitest';
import { createAuthority } from '../../operator/pki.ts';
import type { KubeObject } from '../cluster/kube-client.ts';
import { until } from '../house/until.ts';
import { killedAfterEachStep, type NameOf, type Step } from './one-step.ts';
import {
  allRunning,
  applyAll,
  awaitQuiet,
  list,
  type OperatorPlace,
  ownOperator,
  ownVolumes,
  pathOf,
  statusOf,
  twoSites,
} from './operator-rig.ts';
import { LONG, mailClusterInPods } from './pods-rig.ts';
import { nodesOfFile, ownNamespace, sharedAccess } from './rig.ts';

const api = sharedAccess();
const TIMEOUT_MS = 300_000;
nodesOfFile();

/** Names of members and groups without the cluster and the hash. */
const short = (name: string): string =>
  name.replace(/^(queue-)?contoso-(dag1-)?/, '$1').replace(/-[0-9a-f]{6}(?=-\d+$|$)/, '');

const plainly: NameOf = ({ verb, kind, name }) => `${verb} ${kind} ${short(name)}`;

/** Answers of members open and close budgets, and make a push needless where they heard of a generation from each other: as often as need be. */
const isAside = (step: string): boolean => /^(budget|push)|PodDisruptionBudget|^patch Pod /.test(step);

/** The steps in their order, each once; what is aside may be anywhere. */
function expectOnce(steps: readonly string[], table: readonly string[]): void {
  console.log(`killed after ${steps.length} steps: ${steps.join(' | ')}`);
  expect(steps.filter((one) => !isAside(one))).toEqual(table);
}

/** Each once; those about one object in their order. */
function expectEach(steps: readonly string[], tables: readonly (readonly string[])[]): void {
  console.log(`killed after ${steps.length} steps: ${steps.join(' | ')}`);
  expect(steps.filter((one) => !isAside(one)).sort()).toEqual(tables.flat().sort());
  for (const table of tables) expect(steps.filter((one) => table.includes(one))).toEqual(table);
}

/** Everything there and ready, by an operator that lives; pods are played by fake nodes. */
async function standing(context: Parameters<typeof ownNamespace>[1]) {
  const access = api(context);
  const namespace = await ownNamespace(access, context);
  let made = 0;
  const startOperator = (place: OperatorPlace = {}) => ownOperator(access, context, namespace, `op-${++made}`, place);
  const storageClassName = await ownVolumes(access, context, namespace);
  const storage = { transport: { storage: { size: '1Gi', storageClassName } } };
  const operator = await startOperator();
  await applyAll(access, twoSites(namespace, storage));
  await allRunning(access, namespace, 6);
  // What it still had to do then would be steps of those that are killed.
  await awaitQuiet(access, namespace, operator.userAgent);
  const uids = async (): Promise<readonly string[]> =>
    (await list(access, namespace, 'pods')).map(({ metadata }) => metadata.uid as string).sort();
  return { access, namespace, startOperator, operator, uids, storageClassName };
}

describe('resize', () => {
  const MEMBERS = ['seattle-0', 'seattle-1', 'portland-0', 'portland-1'];
  const STEPS = [
    ...MEMBERS.map((name) => [`patch PersistentVolumeClaim queue-${name}`]),
    ...['seattle', 'portland'].map((name) => [`delete StatefulSet ${name}`, `apply StatefulSet ${name}`]),
  ];

  it(
    `K5: resize, the operator killed after each of: ${STEPS.flat().join(', ')}`,
    async (context) => {
      const { access, namespace, startOperator, operator, uids } = await standing(context);
      const before = await uids();
      await operator.stop();
      await access.client.mergePatch(pathOf(namespace, 'mailclusters', 'contoso'), {
        spec: { transport: { storage: { size: '2Gi' } } },
      });
      const sizeOf = ({ spec }: KubeObject): string => spec.resources.requests.storage;
      const isOver = async (): Promise<boolean> => {
        const claims = await list(access, namespace, 'persistentvolumeclaims');
        const sets = await list(access, namespace, 'statefulsets');
        const templates = sets.flatMap(({ spec }) => spec.volumeClaimTemplates as KubeObject[]);
        return sets.length === 2 && [...claims, ...templates].every((one) => sizeOf(one) === '2Gi');
      };
      const procedure = { access, namespace, startOperator, isOver, isAside, nameOf: plainly };
      const steps = await killedAfterEachStep(procedure, { ends: 'quiet' });
      expectEach(steps, STEPS);
      expect(await uids()).toEqual(before);
    },
    TIMEOUT_MS,
  );
});

describe('rotate', () => {
  const STEPS = ['apply ConfigMap trust', 'apply ConfigMap trust'];

  it(
    `K12: rotate, the operator killed after each of: ${STEPS.join(', ')}`,
    async (context) => {
      const { access, namespace, startOperator, operator, uids } = await standing(context);
      const before = await uids();
      await operator.stop();
      const secret = pathOf(namespace, 'secrets', 'contoso-authority');
      const former = Buffer.from((await access.client.get(secret)).data['tls.crt'], 'base64').toString();
      const { certificatePem, keyPem } = await createAuthority('contoso');
      const trusted = async (): Promise<string> =>
        (await access.client.get(pathOf(namespace, 'configmaps', 'contoso-trust'))).data['ca.crt'];
      const base64 = (text: string): string => Buffer.from(text).toString('base64');
      const steps: string[] = [];
      for (const trust of [[certificatePem, former], [certificatePem]]) {
        const data = {
          'tls.crt': base64(certificatePem),
          'tls.key': base64(keyPem),
          'ca.crt': base64(trust.at(-1) ?? ''),
        };
        expect((await access.client.mergePatch(secret, { data })).status).toBe(200);
        const isOver = async (): Promise<boolean> => {
          const pems = (await trusted()).match(/-----BEGIN[^-]+-----[^-]+-----END[^-]+-----/g) ?? [];
          return pems.length === trust.length && pems.every((pem, at) => trust[at]?.includes(pem));
        };
        steps.push(
          ...(await killedAfterEachStep(
            { access, namespace, startOperator, isOver, isAside, nameOf: plainly },
            { ends: 'quiet' },
          )),
        );
      }
      expectOnce(steps, STEPS);
      expect(await uids()).toEqual(before);
    },
    TIMEOUT_MS,
  );
});

/** What of the topology document a step says about one member. */
function named(member: () => string): NameOf {
  return ({ verb, kind, name, body }: Step): string => {
    if (kind === 'Pod' && verb === 'patch') return `push to ${short(name)}`;
    if (kind === 'PodDisruptionBudget') return `budget of ${short(name)}: ${body.spec?.maxUnavailable}`;
    if (kind === 'StatefulSet') return `size of ${short(name)}: ${body.spec?.replicas}`;
    const document = body.data?.['topology.json'] as string | undefined;
    if (document === undefined) return `${verb} ${kind} ${short(name)}`;
    const found = (JSON.parse(document).members as KubeObject[]).find((one) => one.name === member());
    return `${short(name)}: ${found?.state ?? 'without it'}`;
  };
}

describe('drain', () => {
  const written = (state: string) => [`topology-backup: ${state}`, `topology: ${state}`];
  const STEPS = [
    ...written('cordoned'),
    ...written('draining'),
    ...written('gone'),
    'size of seattle: 1',
    'delete PersistentVolumeClaim queue-seattle-1',
    ...written('without it'),
  ];

  it(
    `K3: drain, the operator killed after each of: ${STEPS.join(', ')}`,
    async (context) => {
      const storage = { whenScaled: 'DeleteWhenEmpty' };
      const cluster = await mailClusterInPods(api(context), context, { replicas: [2, 1], storage });
      const { access, namespace } = cluster;
      await cluster.settled();
      await cluster.somewhereToGo(20_000);
      const [, leaving = ''] = await cluster.members('seattle');
      await cluster.stores.sea.stop();
      await cluster.send(20, 'queued');
      await cluster.stopOperator();
      await cluster.scale(1, 1);
      const isOver = async (): Promise<boolean> => {
        const { topologyGeneration, members = [] } = await statusOf(access, namespace);
        const document = await access.client.get(pathOf(namespace, 'configmaps', 'contoso-topology'));
        const listed = (JSON.parse(document.data['topology.json']).members as KubeObject[]).length;
        return listed === 2 && members.every(({ generation }: KubeObject) => generation === topologyGeneration);
      };
      const startOperator = (place: OperatorPlace) => cluster.startOperator(place);
      const nameOf = named(() => leaving);
      expectOnce(await killedAfterEachStep({ access, namespace, startOperator, isOver, isAside, nameOf }), STEPS);
      await cluster.startOperator();
      await cluster.settled();
      expect(await cluster.members()).toHaveLength(2);
      await cluster.stores.sea.start();
      await cluster.balanced();
    },
    TIMEOUT_MS,
  );
});

describe('upgrade', () => {
  const GROUPS = ['portland', 'seattle'];
  const STEPS = [
    ...GROUPS.map((name) => [`size of ${name}: 1`, `delete Pod ${name}-0`]),
    ...GROUPS.map((name) => [`apply Deployment frontend-${name}`]),
  ];

  it(
    `K4: upgrade, the operator killed after each of: ${STEPS.flat().join(', ')}`,
    async (context) => {
      const cluster = await mailClusterInPods(api(context), context, { replicas: [1, 1], frontends: 2 });
      const { access, namespace } = cluster;
      await cluster.settled();
      await cluster.somewhereToGo(20_000);
      await cluster.stores.sea.stop();
      await cluster.send(20, 'queued');
      await cluster.stopOperator();
      const image = 'localhost/mailcluster:next';
      const isOver = async (): Promise<boolean> => {
        const pods = await list(access, namespace, 'pods');
        const { membersReady } = await statusOf(access, namespace);
        return (
          pods.length === 4 && pods.every(({ spec }) => spec.containers[0].image === image) && membersReady === '2/2'
        );
      };
      const startOperator = (place: OperatorPlace) => cluster.startOperator({ ...place, image });
      const nameOf = named(() => '');
      const steps = await killedAfterEachStep({ access, namespace, startOperator, isOver, isAside, nameOf });
      expectEach(steps, STEPS);
      await cluster.startOperator({ image });
      await cluster.settled();
      await cluster.stores.sea.start();
      await cluster.balanced();
      await until('nothing to be on its way', async () => (await cluster.status()).counts.queued === 0, LONG);
    },
    TIMEOUT_MS,
  );
});
