/** What the operator makes out of one MailCluster, keeps so, and refuses to touch: against a real API server (kubernetes.md sections 2 and 3). */
import { expect, it, type TestContext } from 'vitest';
import { parseTopologyDocument } from '../../common/config-parse.ts';
import type { ApiAccess } from '../cluster/api-access.ts';
import { until } from '../house/until.ts';
import {
  applyAll,
  awaitCondition,
  awaitQuiet,
  list,
  namesOf,
  ownOperator,
  ownVolumes,
  PATIENCE,
  pathOf,
  twoSites,
  writesOf,
} from './operator-rig.ts';
import { nodesOfFile, ownNamespace, sharedAccess } from './rig.ts';

const api = sharedAccess();
nodesOfFile();

async function storage(access: ApiAccess, context: TestContext, namespace: string) {
  const storageClassName = await ownVolumes(access, context, namespace);
  return { transport: { storage: { size: '1Gi', storageClassName } } };
}

async function made(access: ApiAccess, namespace: string) {
  return await until(
    'everything to be there',
    async () => {
      const sets = await list(access, namespace, 'statefulsets');
      const deployments = await list(access, namespace, 'deployments');
      return sets.length === 2 && deployments.length === 2 && { sets, deployments };
    },
    PATIENCE,
  );
}

it('K1: one apply becomes StatefulSets, Services, budgets, documents, front ends and policies; then nothing more is written', async (context) => {
  const access = api(context);
  const namespace = await ownNamespace(access, context);
  const operator = await ownOperator(access, context, namespace);
  await applyAll(access, twoSites(namespace, await storage(access, context, namespace)));
  const { sets, deployments } = await made(access, namespace);
  expect(sets.map((one) => one.spec.replicas)).toEqual([2, 2]);
  for (const set of sets) {
    expect(set.spec.updateStrategy.type).toBe('OnDelete');
    expect(set.spec.persistentVolumeClaimRetentionPolicy).toEqual({ whenDeleted: 'Retain', whenScaled: 'Retain' });
    expect(set.spec.template.spec.automountServiceAccountToken).toBe(false);
    expect(set.spec.template.spec.securityContext.runAsNonRoot).toBe(true);
  }
  expect(namesOf(deployments).every((name) => name.startsWith('contoso-frontend-'))).toBe(true);
  expect(namesOf(await list(access, namespace, 'poddisruptionbudgets'))).toEqual(
    expect.arrayContaining(namesOf(sets) as string[]),
  );
  expect((await list(access, namespace, 'networkpolicies')).length).toBeGreaterThan(2);
  // The database is an object of its own: the first document may have been written before the operator saw it.
  const document = await until(
    'the topology document to name the database',
    async () => {
      const map = await access.client.get(pathOf(namespace, 'configmaps', 'contoso-topology'));
      const read = parseTopologyDocument(JSON.parse(map.data['topology.json'] ?? ''));
      return read.kind === 'ok' && read.value.databases.length > 0 && read.value;
    },
    PATIENCE,
  );
  expect(document).toMatchObject({ cluster: 'contoso', databases: [{ name: 'db01', activeCopy: 'sea' }] });
  await awaitCondition(access, namespace, 'Ready', { status: 'False' });
  const quiet = await awaitQuiet(access, namespace, operator.userAgent);
  // Another operator takes over: it finds everything as it is.
  await operator.stop();
  const second = await ownOperator(access, context, namespace, 'second');
  await until(
    'the second operator to lead',
    async () => (await list(access, namespace, 'leases'))[0]?.spec.holderIdentity.startsWith('second'),
    PATIENCE,
  );
  await access.client.mergePatch(pathOf(namespace, 'mailclusters', 'contoso'), {
    metadata: { annotations: { touched: 'yes' } },
  });
  await until(
    'the second operator to have read the cluster again',
    async () =>
      (await access.audit.entries()).some((one) => one.userAgent === second.userAgent && one.verb === 'watch'),
    PATIENCE,
  );
  const after = await writesOf(access, namespace, second.userAgent);
  expect({ first: quiet > 0, second: after.filter((one) => !one.resource.endsWith('/status')) }).toEqual({
    first: true,
    second: [],
  });
});

it('what somebody edits or deletes is put back, with an event', async (context) => {
  const access = api(context);
  const namespace = await ownNamespace(access, context);
  await ownOperator(access, context, namespace);
  await applyAll(access, twoSites(namespace, await storage(access, context, namespace)));
  const { sets } = await made(access, namespace);
  const name = String(sets[0]?.metadata.name);
  const patched = await access.client.mergePatch(pathOf(namespace, 'statefulsets', name), { spec: { replicas: 3 } });
  expect(patched.status).toBe(200);
  await until(
    'the size to be put back',
    async () => (await access.client.get(pathOf(namespace, 'statefulsets', name))).spec.replicas === 2,
    PATIENCE,
  );
  await access.client.mergePatch(pathOf(namespace, 'services', name), { spec: { publishNotReadyAddresses: false } });
  await until(
    'the Service to be as it was',
    async () => (await access.client.get(pathOf(namespace, 'services', name))).spec.publishNotReadyAddresses === true,
    PATIENCE,
  );
  await access.client.must('DELETE', pathOf(namespace, 'services', name));
  await until(
    'the Service to be put back',
    async () => namesOf(await list(access, namespace, 'services')).includes(name),
    PATIENCE,
  );
  await until(
    'an event about it',
    async () => (await list(access, namespace, 'events')).some((one) => one.reason === 'PutBack'),
    PATIENCE,
  );
});

it('an object that somebody else made under our name is refused, not taken', async (context) => {
  const access = api(context);
  const namespace = await ownNamespace(access, context);
  await access.client.mustApply(
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'contoso-smtp', namespace },
      spec: { ports: [{ port: 99 }] },
    },
    { fieldManager: 'a-person' },
  );
  await ownOperator(access, context, namespace);
  await applyAll(access, twoSites(namespace, await storage(access, context, namespace)));
  const condition = await awaitCondition(access, namespace, 'Progressing', { reason: 'ForeignObject' });
  expect(condition.message).toContain('Service contoso-smtp');
  const service = await access.client.get(pathOf(namespace, 'services', 'contoso-smtp'));
  expect(service.spec.ports[0].port).toBe(99);
  await access.client.must('DELETE', pathOf(namespace, 'services', 'contoso-smtp'));
  await until(
    'our own Service',
    async () => (await list(access, namespace, 'services')).some((one) => one.spec.ports[0].port === 25),
    PATIENCE,
  );
});

it('paused: nothing is written but status; resumed: it goes on', async (context) => {
  const access = api(context);
  const namespace = await ownNamespace(access, context);
  const operator = await ownOperator(access, context, namespace);
  const [cluster, database] = twoSites(namespace);
  const annotations = { 'mailcluster.dev/paused': 'true' };
  await applyAll(access, [{ ...cluster, metadata: { ...cluster?.metadata, annotations } }, database ?? {}]);
  await awaitCondition(access, namespace, 'Paused', { status: 'True' });
  const writes = await writesOf(access, namespace, operator.userAgent);
  expect(writes.filter((one) => !one.resource.endsWith('/status') && one.resource !== 'events')).toEqual([]);
  await access.client.mergePatch(pathOf(namespace, 'mailclusters', 'contoso'), {
    metadata: { annotations: { 'mailcluster.dev/paused': null } },
  });
  await made(access, namespace);
});

it('a Secret that is missing is a condition, and heals when it appears', async (context) => {
  const access = api(context);
  const namespace = await ownNamespace(access, context);
  await ownOperator(access, context, namespace);
  const frontend = {
    replicas: 2,
    listeners: [
      { name: 'submission', port: 587, tls: 'StartTlsRequired', auth: { secretRef: { name: 'relay-users' } } },
    ],
  };
  await applyAll(access, twoSites(namespace, { frontend, ...(await storage(access, context, namespace)) }));
  const condition = await awaitCondition(access, namespace, 'Progressing', { reason: 'MissingSecret' });
  expect(condition.message).toContain('relay-users');
  await applyAll(access, [
    {
      apiVersion: 'v1',
      kind: 'Secret',
      metadata: { name: 'relay-users', namespace },
      stringData: { scanner: 'secret' },
    },
  ]);
  await until(
    'the condition to heal',
    async () => {
      const cluster = await access.client.get(pathOf(namespace, 'mailclusters', 'contoso'));
      const progressing = cluster.status.conditions.find((one: { type: string }) => one.type === 'Progressing');
      return progressing.reason !== 'MissingSecret';
    },
    PATIENCE,
  );
});

it('K10: deletion ends by itself, with and without an operator that saw the beginning; volumes are kept', async (context) => {
  const access = api(context);
  const namespace = await ownNamespace(access, context);
  const operator = await ownOperator(access, context, namespace);
  await applyAll(access, twoSites(namespace, await storage(access, context, namespace)));
  await made(access, namespace);
  await operator.stop();
  await access.client.must('DELETE', pathOf(namespace, 'mailclusters', 'contoso'));
  const held = await access.client.get(pathOf(namespace, 'mailclusters', 'contoso'));
  expect(held.metadata.deletionTimestamp).toBeDefined();
  await ownOperator(access, context, namespace, 'second');
  await until(
    'the MailCluster to be gone',
    async () => (await list(access, namespace, 'mailclusters')).length === 0,
    PATIENCE,
  );
});

it('two operators at once: one writes, and the other takes over at once when it stops', async (context) => {
  const access = api(context);
  const namespace = await ownNamespace(access, context);
  const first = await ownOperator(access, context, namespace, 'first');
  const second = await ownOperator(access, context, namespace, 'second');
  await applyAll(access, twoSites(namespace, await storage(access, context, namespace)));
  await made(access, namespace);
  const writers = new Set(
    (await access.audit.writes((one) => one.namespace === namespace && one.resource === 'statefulsets')).map(
      (one) => one.userAgent,
    ),
  );
  expect(writers.size).toBe(1);
  const leader = writers.has(first.userAgent) ? first : second;
  const other = leader === first ? second : first;
  await leader.stop();
  await access.client.mergePatch(pathOf(namespace, 'mailclusters', 'contoso'), { spec: { logLevel: 'debug' } });
  await until(
    'the other one to write',
    async () => (await writesOf(access, namespace, other.userAgent)).some((one) => one.resource === 'configmaps'),
    PATIENCE,
  );
});
