/**
 * What the operator makes only when it is asked for: a front end that grows with its load, a Redis of the cluster's own (kubernetes.md section 2). Against a
 * real API server and its controllers.
 */
import { expect, it } from 'vitest';
import type { ApiAccess } from '../cluster/api-access.ts';
import type { KubeObject } from '../cluster/kube-client.ts';
import { until } from '../house/until.ts';
import { applyAll, list, ownOperator, ownVolumes, PATIENCE, pathOf, twoSites } from './operator-rig.ts';
import { nodesOfFile, ownNamespace, sharedAccess } from './rig.ts';

const api = sharedAccess();
nodesOfFile();

async function transport(access: ApiAccess, context: Parameters<typeof ownVolumes>[1], namespace: string) {
  return { storage: { size: '1Gi', storageClassName: await ownVolumes(access, context, namespace) } };
}

const isThere = async (access: ApiAccess, path: string): Promise<boolean> =>
  (await access.client.call('GET', path)).status === 200;

async function made(access: ApiAccess, path: string): Promise<KubeObject> {
  await until(`${path} to be there`, () => isThere(access, path), PATIENCE);
  return await access.client.get(path);
}

async function changed(access: ApiAccess, namespace: string, spec: KubeObject): Promise<void> {
  const path = pathOf(namespace, 'mailclusters', 'contoso');
  expect((await access.client.mergePatch(path, { spec })).status).toBe(200);
}

it('autoscaling: a HorizontalPodAutoscaler per site, and a size that somebody else sets is left alone', async (context) => {
  const access = api(context);
  const namespace = await ownNamespace(access, context);
  await ownOperator(access, context, namespace);
  const frontend = {
    autoscaling: { min: 2, max: 6, targetCPU: 70 },
    listeners: [{ name: 'smtp', port: 25, tls: 'StartTls' }],
  };
  await applyAll(access, twoSites(namespace, { frontend, transport: await transport(access, context, namespace) }));
  const scalers = await until(
    'a scaler per site',
    async () => {
      const found = await list(access, namespace, 'horizontalpodautoscalers');
      return found.length === 2 && found;
    },
    PATIENCE,
  );
  expect(scalers.map(({ spec }) => [spec.minReplicas, spec.maxReplicas])).toEqual([
    [1, 3],
    [1, 3],
  ]);
  const [{ spec }] = scalers as [KubeObject];
  expect(spec.metrics).toMatchObject([{ resource: { name: 'cpu', target: { averageUtilization: 70 } } }]);
  const target = pathOf(namespace, 'deployments', String(spec.scaleTargetRef.name));
  // As the autoscaler does: through the subresource.
  expect((await access.client.mergePatch(`${target}/scale`, { spec: { replicas: 3 } })).status).toBe(200);
  const { generation } = (await access.client.get(pathOf(namespace, 'mailclusters', 'contoso'))).metadata;
  await changed(access, namespace, { acceptedDomains: [{ name: 'contoso.com' }, { name: 'contoso.example' }] });
  await until(
    'the change to be seen',
    async () => {
      const now = await access.client.get(pathOf(namespace, 'mailclusters', 'contoso'));
      return Number(now.status?.observedGeneration) > Number(generation);
    },
    PATIENCE,
  );
  expect((await access.client.get(target)).spec.replicas).toBe(3);
});

it('redis Managed: one pod, its Service, a password that stays; None takes the pod away again', async (context) => {
  const access = api(context);
  const namespace = await ownNamespace(access, context);
  await ownOperator(access, context, namespace);
  const settings = { redis: { mode: 'Managed' }, transport: await transport(access, context, namespace) };
  await applyAll(access, twoSites(namespace, settings));
  const name = 'contoso-redis';
  const deployment = await made(access, pathOf(namespace, 'deployments', name));
  expect(deployment.spec.template.spec.containers[0].image).toBe('localhost/valkey:test');
  expect(deployment.spec.template.spec.automountServiceAccountToken).toBe(false);
  await made(access, pathOf(namespace, 'services', name));
  const secret = await made(access, pathOf(namespace, 'secrets', name));
  const password = Object.values(secret.data as Record<string, string>);
  expect(password.map((value) => Buffer.from(value, 'base64').length)).toEqual([expect.any(Number)]);
  await until(
    'the pod to run',
    async () => (await access.client.get(pathOf(namespace, 'deployments', name))).status?.readyReplicas === 1,
    PATIENCE,
  );
  const set = await until(
    'a StatefulSet',
    async () => (await list(access, namespace, 'statefulsets'))[0] ?? null,
    PATIENCE,
  );
  expect(JSON.stringify(set.spec.template.spec.volumes)).toContain(name);
  expect((await access.client.get(pathOf(namespace, 'secrets', name))).data).toEqual(secret.data);
  await changed(access, namespace, { redis: { mode: 'None' } });
  for (const plural of ['deployments', 'services'] as const)
    await until(
      `${plural} ${name} to go`,
      async () => !(await isThere(access, pathOf(namespace, plural, name))),
      PATIENCE,
    );
  // Switched on again it is the same Redis to the pods that still know the password.
  expect((await access.client.get(pathOf(namespace, 'secrets', name))).data).toEqual(secret.data);
});
