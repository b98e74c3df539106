/**
 * The operator against a real API server: one in this process per test, watching one namespace. Owns: its ports, its client, its end with the test. The
 * process of `operator-process.test.ts` is the real program.
 */
import type { TestContext } from 'vitest';
import { systemClock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { createMetrics } from '../../common/platform/prom-metrics.ts';
import { systemRandom } from '../../common/platform/random.ts';
import type { KubeApi } from '../../operator/kube/api.ts';
import { KubeClient } from '../../operator/kube/client.ts';
import { kubeconfigIdentity } from '../../operator/kube/kube-config.ts';
import { releasedLease } from '../../operator/kube/lease-record.ts';
import { type OperatorConfig, parseOperatorConfig } from '../../operator/operator-config.ts';
import { type RunningOperator, startOperator } from '../../operator/program.ts';
import { type ApiAccess, nodePool } from '../cluster/api-access.ts';
import { FakeNodes } from '../cluster/fake-nodes.ts';
import type { KubeObject } from '../cluster/kube-client.ts';
import { type Patience, until } from '../house/until.ts';

/** As a deployment has it, so that a slow machine does not cost the lease; but asked for often. */
const LEASE = { durationMs: 15_000, renewDeadlineMs: 10_000, retryMs: 300 };

export const PATIENCE = { deadlineMs: 90_000, everyMs: 50 };

export interface OperatorHandle extends RunningOperator {
  readonly userAgent: string;
}

export interface OperatorPlace {
  readonly kubeconfig?: string;
  /** Where pods that are real processes get their certificates; default: a port that nobody knows. */
  readonly signer?: { readonly host: string; readonly port: number };
  readonly image?: string;
  readonly version?: string;
  readonly lease?: typeof LEASE;
  /** Which namespace it looks at, when not at its own; empty: at all. */
  readonly watch?: string;
  /** How it reaches the API server, when not straight as administrator: a kubeconfig. */
  readonly reach?: { readonly text: string };
  /** Between the operator and the API server. */
  readonly through?: (api: KubeApi) => KubeApi;
}

/** As its configuration file has it. */
export function operatorSettings(namespace: string, identity: string, place: OperatorPlace = {}): KubeObject {
  const { kubeconfig = '', signer, image = 'localhost/mailcluster:test', lease = LEASE, watch = namespace } = place;
  const { host, port } = signer ?? { host: 'mailcluster-operator.mail.svc', port: 8443 };
  const settings = {
    image,
    imagePullPolicy: 'Never',
    redisImage: 'localhost/valkey:test',
    namespace,
    signerUrl: `https://${host}:${port}`,
    signerPort: port,
  };
  const loopback = { host: '127.0.0.1', port: 0 };
  return {
    ...{ kubeconfig, watchNamespace: watch, lease: { namespace, ...lease }, identity, settings, concurrency: 4 },
    ...{ signer: signer ?? loopback, metrics: loopback },
  };
}

export const operatorConfig = (namespace: string, identity: string, place: OperatorPlace = {}): OperatorConfig =>
  parseOperatorConfig(operatorSettings(namespace, identity, place), place.version ?? '0.0.0-test');

/** Ends with the test, or before when the test stops it. */
export async function ownOperator(
  access: ApiAccess,
  context: TestContext,
  namespace: string,
  name = 'operator',
  place: OperatorPlace = {},
): Promise<OperatorHandle> {
  const userAgent = `mailcluster-operator/${name}-${namespace}`;
  const config = operatorConfig(namespace, name, place);
  const metrics = createMetrics({});
  const side = { clock: systemClock, random: systemRandom, log: silentLogger, metrics };
  const identity = await kubeconfigIdentity(place.reach ?? { file: access.kubeconfig });
  const api = new KubeClient({ identity, userAgent, ...side });
  const { through = (real: KubeApi) => real } = place;
  await leaseToTake(access, namespace, config.lease.name);
  const running = await startOperator(config, { api: through(api), ...side });
  let ended: Promise<void> | null = null;
  const stop = (): Promise<void> => {
    ended ??= running.stop().then(() => api.close());
    return ended;
  };
  context.onTestFinished(stop);
  return { facts: running.facts, stop, userAgent };
}

/** One that somebody gave back: who comes first need not wait for a holder that nobody can see. */
async function leaseToTake(access: ApiAccess, namespace: string, name: string): Promise<void> {
  const metadata = { namespace, name };
  const bare = { apiVersion: 'coordination.k8s.io/v1', kind: 'Lease', metadata };
  const { status } = await access.client.call('POST', pathOf(namespace, 'leases'), {
    body: releasedLease(bare, 'test', Date.now()),
  });
  if (status !== 201 && status !== 409) throw new Error(`no lease in ${namespace}: ${status}`);
}

/** Two machines in the two zones of `twoSites`, for one file of tests. */
export async function ownNodes(access: ApiAccess, pool: string): Promise<FakeNodes> {
  const nodes = ['west-1', 'west-2'].map((zone) => ({ name: `fake-${zone}-${pool}`, zone }));
  return await FakeNodes.start(access.client, nodes, { pool: nodePool(pool) });
}

/** Volumes for the claims of one namespace, gone with the test. */
export async function ownVolumes(
  access: ApiAccess,
  context: TestContext,
  namespace: string,
  many = 6,
): Promise<string> {
  const storageClass = `class-${namespace}`;
  const names = Array.from({ length: many }, (_, index) => `volume-${namespace}-${index}`);
  await access.client.mustApply({
    ...{ apiVersion: 'storage.k8s.io/v1', kind: 'StorageClass', metadata: { name: storageClass } },
    ...{ provisioner: 'kubernetes.io/no-provisioner', allowVolumeExpansion: true, volumeBindingMode: 'Immediate' },
  });
  for (const name of names)
    await access.client.mustApply({
      ...{ apiVersion: 'v1', kind: 'PersistentVolume', metadata: { name } },
      spec: {
        capacity: { storage: '1Ti' },
        accessModes: ['ReadWriteOnce'],
        storageClassName: storageClass,
        persistentVolumeReclaimPolicy: 'Retain',
        hostPath: { path: `/nowhere/${name}` },
      },
    });
  context.onTestFinished(async () => {
    for (const name of names) await access.client.call('DELETE', `/api/v1/persistentvolumes/${name}`);
    await access.client.call('DELETE', `/apis/storage.k8s.io/v1/storageclasses/${storageClass}`);
  });
  return storageClass;
}

/** A MailCluster of two sites with two transports each, and what it refers to. */
export function twoSites(
  namespace: string,
  spec: KubeObject = {},
  {
    zones = ['west-1', 'west-2'],
    replicas = [2, 2],
    lmtp = ['dovecot-sea.mail.svc:24', 'dovecot-pdx.mail.svc:24'],
  } = {},
): readonly KubeObject[] {
  return [
    {
      apiVersion: 'mailcluster.dev/v1alpha1',
      kind: 'MailCluster',
      metadata: { name: 'contoso', namespace },
      spec: {
        sites: [
          { name: 'seattle', nodeLabels: { 'topology.kubernetes.io/zone': zones[0] } },
          { name: 'portland', nodeLabels: { 'topology.kubernetes.io/zone': zones[1] } },
        ],
        dags: [
          {
            name: 'dag1',
            members: [
              { site: 'seattle', replicas: replicas[0] },
              { site: 'portland', replicas: replicas[1] },
            ],
          },
        ],
        frontend: { replicas: 2, listeners: [{ name: 'smtp', port: 25, tls: 'StartTls' }] },
        acceptedDomains: [{ name: 'contoso.com' }],
        redis: { mode: 'None' },
        ...spec,
      },
    },
    {
      apiVersion: 'mailcluster.dev/v1alpha1',
      kind: 'MailboxDatabase',
      metadata: { name: 'db01', namespace },
      spec: {
        clusterRef: { name: 'contoso' },
        dag: 'dag1',
        recipients: { domains: ['contoso.com'] },
        copies: [
          { name: 'sea', site: 'seattle', lmtp: lmtp[0] },
          { name: 'pdx', site: 'portland', lmtp: lmtp[1] },
        ],
        activeCopy: 'sea',
      },
    },
  ];
}

export async function applyAll(access: ApiAccess, objects: readonly KubeObject[]): Promise<void> {
  for (const object of objects) await access.client.mustApply(object, { fieldManager: 'a-person' });
}

const PATHS = {
  mailclusters: '/apis/mailcluster.dev/v1alpha1',
  resubmitrequests: '/apis/mailcluster.dev/v1alpha1',
  transportorders: '/apis/mailcluster.dev/v1alpha1',
  mailboxdatabases: '/apis/mailcluster.dev/v1alpha1',
  statefulsets: '/apis/apps/v1',
  deployments: '/apis/apps/v1',
  horizontalpodautoscalers: '/apis/autoscaling/v2',
  poddisruptionbudgets: '/apis/policy/v1',
  networkpolicies: '/apis/networking.k8s.io/v1',
  events: '/apis/events.k8s.io/v1',
  leases: '/apis/coordination.k8s.io/v1',
  configmaps: '/api/v1',
  secrets: '/api/v1',
  services: '/api/v1',
  serviceaccounts: '/api/v1',
  pods: '/api/v1',
  persistentvolumeclaims: '/api/v1',
} as const;
export type Plural = keyof typeof PATHS;

export const pathOf = (namespace: string, plural: Plural, name?: string): string =>
  `${PATHS[plural]}/namespaces/${namespace}/${plural}${name === undefined ? '' : `/${name}`}`;

export async function list(access: ApiAccess, namespace: string, plural: Plural): Promise<readonly KubeObject[]> {
  return (await access.client.get(pathOf(namespace, plural))).items as KubeObject[];
}

export const namesOf = (objects: readonly KubeObject[]): readonly string[] =>
  objects.map((one) => String(one.metadata.name)).sort();

export async function statusOf(access: ApiAccess, namespace: string, name = 'contoso'): Promise<KubeObject> {
  return ((await access.client.get(pathOf(namespace, 'mailclusters', name))).status ?? {}) as KubeObject;
}

export async function conditionOf(access: ApiAccess, namespace: string, type: string): Promise<KubeObject | null> {
  const { conditions = [] } = await statusOf(access, namespace);
  return (conditions as KubeObject[]).find((one) => one.type === type) ?? null;
}

/** The pods of a namespace that `isMeant`, when there are so many and all run. */
export const allRunning = (
  access: ApiAccess,
  namespace: string,
  count: number,
  isMeant: (pod: KubeObject) => boolean = () => true,
): Promise<readonly KubeObject[]> =>
  until(
    `all ${count} pods to run`,
    async () => {
      const pods = (await list(access, namespace, 'pods')).filter(isMeant);
      return pods.length === count && pods.every(({ status }) => status.phase === 'Running') && pods;
    },
    PATIENCE,
  );

export async function awaitCondition(
  access: ApiAccess,
  namespace: string,
  type: string,
  wanted: { readonly status?: string; readonly reason?: string; readonly message?: string },
  patience = PATIENCE,
): Promise<KubeObject> {
  const fits = (found: KubeObject | null): boolean =>
    found !== null && Object.entries(wanted).every(([field, value]) => found[field] === value);
  return await until(
    `condition ${type} to be ${JSON.stringify(wanted)}`,
    async () => {
      const found = await conditionOf(access, namespace, type);
      if (!fits(found)) throw new Error(JSON.stringify(found));
      return found;
    },
    patience,
  );
}

/** Everything is as the spec says, and everybody says so: ready, converged, protected. */
export async function awaitSettled(
  access: ApiAccess,
  namespace: string,
  { failure = () => null, ...patience }: Patience & { readonly failure?: () => string | null },
): Promise<KubeObject> {
  const wanted = { Ready: 'True', TopologyConverged: 'True', ShadowProtected: 'True', Progressing: 'True Converged' };
  return await until(
    'the cluster to be ready, converged and protected',
    async () => {
      const failed = failure();
      const status = await statusOf(access, namespace);
      const { observedGeneration, conditions = [] } = status;
      const { generation } = (await access.client.get(pathOf(namespace, 'mailclusters', 'contoso'))).metadata;
      const shown = Object.fromEntries(
        (conditions as KubeObject[]).map(({ type, status: value, reason, message }) => [
          type,
          `${value} ${reason} ${message}`,
        ]),
      );
      const isThere = Object.entries(wanted).every(([type, value]) => String(shown[type]).startsWith(value));
      if (failed === null && observedGeneration === generation && isThere) return status;
      throw new Error(`${failed ?? ''}${JSON.stringify(shown)}`);
    },
    patience,
  );
}

/** Writes of one operator in one namespace but for its lease. */
export async function writesOf(access: ApiAccess, namespace: string, userAgent: string) {
  return await access.audit.writes(
    (one) => one.namespace === namespace && one.userAgent === userAgent && one.resource !== 'leases',
  );
}

/** It has nothing left to write: two looks in a row found the same number of writes. */
export async function awaitQuiet(access: ApiAccess, namespace: string, userAgent: string): Promise<number> {
  let before = -1;
  return await until(
    'the operator to have nothing left to write',
    async () => {
      const now = (await writesOf(access, namespace, userAgent)).length;
      const isQuiet = now === before && now > 0;
      before = now;
      return isQuiet && now;
    },
    { deadlineMs: 60_000, everyMs: 3_000 },
  );
}
