/**
 * What a MailCluster lacks, and what its pods cannot do, is said in conditions and events by its own reason, and heals by itself when the thing
 * appears (issue: bad input). Against a real API server, scheduler and controllers.
 */
import { expect, it } from 'vitest';
import { type ApiAccess, nodePool } from '../cluster/api-access.ts';
import { FakeNodes } from '../cluster/fake-nodes.ts';
import type { KubeObject } from '../cluster/kube-client.ts';
import { until } from '../house/until.ts';
import { testCertificate } from '../rigs/test-certificate.ts';
import {
  allRunning,
  applyAll,
  awaitCondition,
  conditionOf,
  list,
  ownOperator,
  ownVolumes,
  PATIENCE,
  pathOf,
  twoSites,
} from './operator-rig.ts';
import { nodesOfFile, ownNamespace, POOL, sharedAccess } from './rig.ts';

const api = sharedAccess();
const nodes = nodesOfFile();

/** Events are written after the status that says the same (operator/kube/events.ts). */
async function noted(access: ApiAccess, namespace: string, reason: string, words: string): Promise<void> {
  await until(
    `an event ${reason} with "${words}"`,
    async () => {
      const events = await list(access, namespace, 'events');
      const notes = events
        .filter((one) => one.reason === reason && one.type === 'Warning')
        .map(({ note }) => `${note}`);
      if (notes.some((note) => note.includes(words))) return true;
      throw new Error(notes.join('\n') || 'none');
    },
    PATIENCE,
  );
}

/** Nothing of `reason` is said any more. */
async function healed(access: ApiAccess, namespace: string, words: string): Promise<void> {
  await until(
    `"${words}" to be over`,
    async () => {
      const { message = '', reason = '' } = (await conditionOf(access, namespace, 'Progressing')) ?? {};
      if (!`${reason} ${message}`.includes(words)) return true;
      throw new Error(message);
    },
    PATIENCE,
  );
}

it('a storage class, a Secret and a site that are missing: conditions and events name them, each heals when it appears, then the pods run', async (context) => {
  const access = api(context);
  const namespace = await ownNamespace(access, context);
  await ownOperator(access, context, namespace);
  const zone = `new-${POOL}`;
  const frontend = {
    replicas: 2,
    tlsSecretRef: { name: 'mail-tls' },
    listeners: [{ name: 'smtp', port: 25, tls: 'StartTls' }],
  };
  const transport = { storage: { size: '1Gi', storageClassName: `class-${namespace}` } };
  await applyAll(access, twoSites(namespace, { frontend, transport }, { zones: ['west-1', zone] }));
  const wanted = {
    MissingStorageClass: `there is no StorageClass class-${namespace}`,
    MissingSecret: 'mail-tls',
    NoNodeInSite: `site portland: no node has the labels topology.kubernetes.io/zone=${zone}`,
  };
  for (const [reason, words] of Object.entries(wanted)) {
    await until(
      `Progressing=False with "${words}"`,
      async () => {
        const { status, message = '' } = (await conditionOf(access, namespace, 'Progressing')) ?? {};
        if (status === 'False' && message.includes(words)) return true;
        throw new Error(`${status} ${message}`);
      },
      PATIENCE,
    );
    await noted(access, namespace, reason, words);
  }
  await ownVolumes(access, context, namespace);
  await healed(access, namespace, wanted.MissingStorageClass);
  const added = await FakeNodes.start(access.client, [{ name: zone, zone }], { pool: nodePool(POOL) });
  context.onTestFinished(async () => {
    await added.remove();
  });
  await healed(access, namespace, wanted.NoNodeInSite);
  await awaitCondition(access, namespace, 'Progressing', { reason: 'MissingSecret' });
  const secret = {
    apiVersion: 'v1',
    kind: 'Secret',
    type: 'kubernetes.io/tls',
    metadata: { name: 'mail-tls', namespace },
  };
  await applyAll(access, [{ ...secret, stringData: { 'tls.crt': 'certificate', 'tls.key': 'key' } }]);
  await awaitCondition(access, namespace, 'Progressing', { status: 'True' });
  await awaitCondition(access, namespace, 'CertificatesValid', { status: 'False', reason: 'InvalidCertificate' });
  const { cert, key } = await testCertificate('mail.contoso.com');
  await applyAll(access, [{ ...secret, stringData: { 'tls.crt': cert, 'tls.key': key } }]);
  await awaitCondition(access, namespace, 'CertificatesValid', { status: 'True' });
  await allRunning(access, namespace, 6);
  expect(added.failure).toBeNull();
});

it('pods that cannot be scheduled, then an image that is not there: Progressing=False with the reason of the pod itself, until it is over', {
  timeout: 200_000,
}, async (context) => {
  const access = api(context);
  const namespace = await ownNamespace(access, context);
  await ownOperator(access, context, namespace);
  // Front ends come up meanwhile: theirs would be another reason at the same time.
  const isTransport = ({ metadata }: KubeObject): boolean => metadata.labels?.['mailcluster.dev/role'] === 'transport';
  const running = (): void => nodes().behave(() => ({ state: 'running' }));
  context.onTestFinished(running);
  nodes().behave((pod) => ({ state: isTransport(pod) ? 'imageMissing' : 'running' }));
  const storage = { size: '1Gi', storageClassName: await ownVolumes(access, context, namespace) };
  const resources = (cpu: string) => ({ requests: { cpu, memory: '512Mi' } });
  await applyAll(access, twoSites(namespace, { transport: { storage, resources: resources('1000') } }));
  const words = /pod contoso-dag1-\S+: Unschedulable 0\/\d+ nodes are available: .*Insufficient cpu/;
  // Claims that are not bound yet come first.
  await until(
    'the words of the scheduler',
    async () => {
      const { status, reason, message } = (await conditionOf(access, namespace, 'Progressing')) ?? {};
      if (status === 'False' && reason === 'Unschedulable' && words.test(message)) return true;
      throw new Error(`${status} ${reason} ${message}`);
    },
    PATIENCE,
  );
  await noted(access, namespace, 'Unschedulable', 'Insufficient cpu');
  const spec = { transport: { resources: resources('1') } };
  expect((await access.client.mergePatch(pathOf(namespace, 'mailclusters', 'contoso'), { spec })).status).toBe(200);
  await healed(access, namespace, 'Unschedulable');
  const missing = await awaitCondition(access, namespace, 'Progressing', { status: 'False', reason: 'PodFailing' });
  expect(missing.message).toMatch(/pod contoso-\S+: ImagePullBackOff /);
  await noted(access, namespace, 'PodFailing', 'ImagePullBackOff');
  running();
  await awaitCondition(access, namespace, 'Progressing', { status: 'True' });
});

it('a storage class that was misspelt: claims that never got a volume are made anew with the right one, and the pods run', async (context) => {
  const access = api(context);
  const namespace = await ownNamespace(access, context);
  await ownOperator(access, context, namespace);
  const inClass = (storageClassName: string) => ({ transport: { storage: { size: '1Gi', storageClassName } } });
  await applyAll(access, twoSites(namespace, inClass(`misspelt-${namespace}`)));
  await awaitCondition(access, namespace, 'Progressing', { status: 'False', reason: 'MissingStorageClass' });
  const claims = () => list(access, namespace, 'persistentvolumeclaims');
  await until('claims that wait', async () => (await claims()).length === 4, PATIENCE);
  const spec = inClass(await ownVolumes(access, context, namespace));
  expect((await access.client.mergePatch(pathOf(namespace, 'mailclusters', 'contoso'), { spec })).status).toBe(200);
  await allRunning(access, namespace, 6);
  expect((await claims()).map(({ spec: { storageClassName } }) => storageClassName)).toEqual(
    Array(4).fill(spec.transport.storage.storageClassName),
  );
  await awaitCondition(access, namespace, 'Progressing', { status: 'True' });
});
