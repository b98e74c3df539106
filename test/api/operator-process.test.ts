/** The operator as a process of its own, ended by SIGKILL wherever it is, and started again on the same configuration (kubernetes.md K2, K3). */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, type TestContext } from 'vitest';
import type { ApiAccess } from '../cluster/api-access.ts';
import { Daemon } from '../cluster/daemon.ts';
import { ROOT } from '../house/sources.ts';
import { until } from '../house/until.ts';
import {
  applyAll,
  list,
  namesOf,
  operatorSettings,
  ownVolumes,
  PATIENCE,
  type Plural,
  pathOf,
  twoSites,
} from './operator-rig.ts';
import { compileCache, ownNamespace, sharedAccess } from './rig.ts';

const api = sharedAccess();
/** The lease is given back within `retryMs`, also on a machine that has much to do. */
const LEASE = { durationMs: 4_000, renewDeadlineMs: 3_000, retryMs: 1_000 };

async function operatorProcess(access: ApiAccess, context: TestContext, namespace: string): Promise<Daemon> {
  const directory = await mkdtemp(join(tmpdir(), 'mailcluster-operator-'));
  const config = join(directory, 'operator.json');
  await writeFile(
    config,
    JSON.stringify(operatorSettings(namespace, 'process', { kubeconfig: access.kubeconfig, lease: LEASE })),
  );
  const operator = new Daemon({
    name: 'operator',
    file: process.execPath,
    args: [join(ROOT, 'operator/main.ts'), config],
    ...{ directory, logFile: join(directory, 'operator.log') },
    environment: { NODE_COMPILE_CACHE: compileCache() },
  });
  context.onTestFinished(async () => {
    if (context.task.result?.state === 'fail') console.error(operator.tail());
    await operator.kill();
    await rm(directory, { recursive: true, force: true });
  });
  return operator;
}

/** Kinds in the order in which the plan makes them: when the first of each is there, the process is killed. */
const MOMENTS = ['secrets', 'services', 'statefulsets'] as const;

it('the process is killed again and again while it makes a cluster; the last one finishes it, nothing is there twice, and SIGTERM gives the lease back', async (context) => {
  const access = api(context);
  const namespace = await ownNamespace(access, context);
  const operator = await operatorProcess(access, context, namespace);
  const storageClassName = await ownVolumes(access, context, namespace);
  operator.start();
  await applyAll(access, twoSites(namespace, { transport: { storage: { size: '1Gi', storageClassName } } }));
  const ours = async (plural: Plural): Promise<readonly string[]> =>
    namesOf(await list(access, namespace, plural)).filter((name) => name.startsWith('contoso'));
  const holder = async (): Promise<string> => (await list(access, namespace, 'leases'))[0]?.spec.holderIdentity ?? '';
  let killed = '';
  for (const plural of MOMENTS) {
    await until(`the first of ${plural}`, async () => (await ours(plural)).length > 0, PATIENCE);
    await operator.kill();
    killed = await holder();
    operator.start();
  }
  await until('the last one to lead', async () => (await holder()) !== killed, PATIENCE);
  await until('all pods to be there', async () => (await list(access, namespace, 'pods')).length === 6, PATIENCE);
  expect(await ours('configmaps')).toEqual(
    ['config', 'topology', 'topology-backup', 'trust'].map((name) => `contoso-${name}`),
  );
  // The database is an object of its own: a document before it was seen is a generation, one with it another. No death costs one.
  const generation = await until(
    'the topology document to name the database',
    async () => {
      const { metadata, data } = await access.client.get(pathOf(namespace, 'configmaps', 'contoso-topology'));
      const named = JSON.parse(data['topology.json']).databases.length > 0;
      return named && metadata.annotations['mailcluster.dev/generation'];
    },
    PATIENCE,
  );
  expect(['1', '2']).toContain(generation);
  expect(await ours('secrets')).toEqual(['contoso-authority']);
  await operator.stop();
  expect({ holder: await holder(), failure: operator.failure }).toEqual({ holder: '', failure: null });
}, 180_000);
