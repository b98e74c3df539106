/**
 * What only a real API server can show of the operator's runtime: its own defaulting and field ownership, ServiceAccount tokens with the
 * rights of a role, compaction of etcd, a server that is stopped in the middle.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { systemClock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { FIELD_MANAGER, type KubeApi } from '../../operator/kube/api.ts';
import { isApplied } from '../../operator/kube/applied.ts';
import { Applier } from '../../operator/kube/applier.ts';
import { KubeClient } from '../../operator/kube/client.ts';
import type { KubeIdentity } from '../../operator/kube/identity.ts';
import * as kinds from '../../operator/kube/kinds.ts';
import { inClusterIdentity, kubeconfigIdentity } from '../../operator/kube/kube-config.ts';
import type { KubeObject, ResourceKind } from '../../operator/kube/kube-object.ts';
import { Leader } from '../../operator/kube/leader.ts';
import { Reflector } from '../../operator/kube/reflector.ts';
import { CountedMetrics, configMap, failureKind, must } from '../contract/kube-rig.ts';
import { until } from '../house/until.ts';
import { ownApiServer, ownNamespace, sharedAccess } from './rig.ts';

const access = sharedAccess();
const PATIENCE = { deadlineMs: 30_000 };

function clientOf(identity: KubeIdentity): { readonly api: KubeClient; readonly metrics: CountedMetrics } {
  const metrics = new CountedMetrics();
  const shared = { clock: systemClock, random: systemRandom, log: silentLogger, metrics };
  return { api: new KubeClient({ identity, userAgent: 'mailcluster-operator/test', ...shared }), metrics };
}

const labels = { app: 'mail' };
const container = {
  name: 'transport',
  image: 'localhost/mailcluster:1',
  args: ['--config', '/etc/mailcluster'],
  env: [{ name: 'POD', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } }],
  ports: [{ name: 'peer', containerPort: 7443 }],
  resources: { requests: { cpu: '1', memory: '512Mi' }, limits: { memory: '1Gi' } },
  readinessProbe: { httpGet: { path: '/ready', port: 'peer' } },
  securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] }, readOnlyRootFilesystem: true },
  volumeMounts: [
    { name: 'queue', mountPath: '/var/lib/mailcluster' },
    { name: 'tmp', mountPath: '/tmp' },
  ],
};
const template = {
  metadata: { labels, annotations: { 'mailcluster.dev/hash': 'x' } },
  spec: {
    containers: [container],
    terminationGracePeriodSeconds: 60,
    securityContext: { runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } },
    volumes: [{ name: 'tmp', emptyDir: {} }],
    tolerations: [{ key: 'a', operator: 'Exists' }],
  },
};

/** One of each kind the operator renders (kubernetes.md section 2), as it renders them. */
function rendered(namespace: string): readonly (readonly [ResourceKind, KubeObject])[] {
  const make = (kind: ResourceKind, rest: object): readonly [ResourceKind, KubeObject] => [
    kind,
    {
      apiVersion: kind.group === '' ? kind.version : `${kind.group}/${kind.version}`,
      kind: kind.kind,
      metadata: { namespace, name: 'dag1-seattle', labels, annotations: { 'mailcluster.dev/note': 'é' } },
      ...rest,
    },
  ];
  const selector = { matchLabels: labels };
  return [
    make(kinds.CONFIG_MAP, { data: { 'topology.json': '{"generation":1}' } }),
    make(kinds.SECRET, { type: 'Opaque', data: { key: 'eA==' } }),
    make(kinds.SERVICE, {
      spec: {
        clusterIP: 'None',
        publishNotReadyAddresses: true,
        selector: labels,
        ports: [{ name: 'peer', port: 7443 }],
      },
    }),
    make(kinds.STATEFUL_SET, {
      spec: {
        replicas: 2,
        serviceName: 'dag1-seattle',
        podManagementPolicy: 'Parallel',
        updateStrategy: { type: 'OnDelete' },
        persistentVolumeClaimRetentionPolicy: { whenDeleted: 'Retain', whenScaled: 'Retain' },
        selector,
        template,
        volumeClaimTemplates: [
          {
            apiVersion: 'v1',
            kind: 'PersistentVolumeClaim',
            metadata: { name: 'queue' },
            spec: { accessModes: ['ReadWriteOnce'], resources: { requests: { storage: '20Gi' } } },
          },
        ],
      },
    }),
    make(kinds.DEPLOYMENT, {
      spec: {
        replicas: 3,
        selector,
        template: { ...template, spec: { ...template.spec, containers: [{ ...container, volumeMounts: [] }] } },
      },
    }),
    make(kinds.POD_DISRUPTION_BUDGET, {
      spec: { maxUnavailable: 1, selector, unhealthyPodEvictionPolicy: 'IfHealthyBudget' },
    }),
    make(kinds.HORIZONTAL_POD_AUTOSCALER, {
      spec: {
        minReplicas: 2,
        maxReplicas: 5,
        scaleTargetRef: { apiVersion: 'apps/v1', kind: 'Deployment', name: 'dag1-seattle' },
        metrics: [
          { type: 'Resource', resource: { name: 'cpu', target: { type: 'Utilization', averageUtilization: 80 } } },
        ],
      },
    }),
    make(kinds.NETWORK_POLICY, {
      spec: {
        podSelector: selector,
        policyTypes: ['Ingress', 'Egress'],
        ingress: [{ from: [{ podSelector: selector }], ports: [{ port: 7443 }] }],
      },
    }),
  ];
}

describe('the real API server', () => {
  it('what was applied is known as applied, for every kind the operator renders: the second round asks nothing', async (context) => {
    const cluster = access(context);
    const namespace = await ownNamespace(cluster, context);
    const { api, metrics } = clientOf(await kubeconfigIdentity({ file: cluster.kubeconfig }));
    context.onTestFinished(() => api.close());
    const wishes = rendered(namespace);
    const round = async (applier: Applier): Promise<string[]> => {
      const effects: string[] = [];
      for (const [kind, wish] of wishes) {
        const live = await api.get<KubeObject>(kind, { namespace, name: wish.metadata.name });
        const result = must(await applier.ensure(kind, wish, live.ok ? live.value : undefined, { force: true }));
        effects.push(`${kind.kind} ${result.effect}`);
      }
      return effects;
    };
    const applier = new Applier(api);
    const say = (effect: string): string[] => wishes.map(([kind]) => `${kind.kind} ${effect}`);
    expect(await round(applier)).toEqual(say('created'));
    const applies = (): number => metrics.sum('api_requests_total apply');
    expect(applies()).toBe(wishes.length);
    // Also after a restart, without any memory: from the object alone.
    expect(await round(new Applier(api))).toEqual(say('unchanged'));
    expect(applies()).toBe(wishes.length);
    for (const [kind, wish] of wishes) {
      const live = must(await api.get<KubeObject>(kind, { namespace, name: wish.metadata.name }));
      expect(isApplied({ ...wish, metadata: { ...wish.metadata, labels: {} } }, live, FIELD_MANAGER), kind.kind).toBe(
        false,
      );
    }
    // Somebody scales by hand: put back.
    must(await api.patch(kinds.STATEFUL_SET, { namespace, name: 'dag1-seattle' }, { spec: { replicas: 9 } }));
    const effects = await round(new Applier(api));
    expect(effects.filter((one) => !one.endsWith('unchanged'))).toEqual(['StatefulSet configured']);
    const writes = await cluster.audit.writes(
      (entry) => entry.namespace === namespace && entry.fieldManager === FIELD_MANAGER,
    );
    expect(writes).toHaveLength(wishes.length + 2);
  });

  it('a pod’s own identity: token and authority from files, exactly the rights of its role', async (context) => {
    const cluster = access(context);
    const namespace = await ownNamespace(cluster, context);
    const account = await cluster.serviceAccount(namespace, 'operator');
    const directory = await mkdtemp(join(tmpdir(), 'kube-pod-'));
    context.onTestFinished(() => rm(directory, { recursive: true }));
    const write = (file: string, text: string): Promise<void> => writeFile(join(directory, file), text);
    await Promise.all([write('token', 'not-a-token'), write('ca.crt', cluster.caPem), write('namespace', namespace)]);
    const { hostname, port } = new URL(cluster.url);
    const env = { KUBERNETES_SERVICE_HOST: hostname, KUBERNETES_SERVICE_PORT: port };
    const identity = await inClusterIdentity({ clock: systemClock, env, directory });
    if (identity === null) throw new Error('no identity');
    const { api, metrics } = clientOf(identity);
    context.onTestFinished(() => api.close());
    const get = (): Promise<unknown> => api.get(kinds.CONFIG_MAP, { namespace, name: 'a' }).then(failureKind);
    expect(await get()).toBe('unauthorized');
    // The kubelet wrote a fresh one; the 401 makes us read it.
    await write('token', account.token);
    expect(await get()).toBe('forbidden');
    const admin = clientOf(await kubeconfigIdentity({ file: cluster.kubeconfig })).api;
    context.onTestFinished(() => admin.close());
    await allow(admin, namespace);
    await until('the role is in force', async () => (await get()) === 'notFound', PATIENCE);
    expect(failureKind(await api.apply(kinds.CONFIG_MAP, configMap(namespace, 'a', { a: '1' })))).toBe('ok');
    expect(failureKind(await api.list(kinds.SECRET, { namespace }))).toBe('forbidden');
    expect(metrics.sum('api_connections_total')).toBe(1);
  });

  it('etcd compacts and the API server is killed: lists again, says only what changed', {
    timeout: 180_000,
  }, async (context) => {
    const cluster = await ownApiServer(context, { controllers: false });
    const { api, metrics } = clientOf(await kubeconfigIdentity({ file: cluster.kubeconfig }));
    context.onTestFinished(() => api.close());
    const namespace = 'default';
    const put = (name: string, at: number): Promise<unknown> =>
      api.apply(kinds.CONFIG_MAP, configMap(namespace, name, { at: String(at) })).then(must);
    await put('stays', 1);
    await put('changes', 1);
    const shared = { clock: systemClock, random: systemRandom, log: silentLogger, metrics };
    const reflector = new Reflector({
      api,
      kind: kinds.CONFIG_MAP,
      scope: { namespace, fieldSelector: 'metadata.name!=kube-root-ca.crt' },
      backoff: { firstMs: 50, maxMs: 500 },
      ...shared,
    });
    const said: string[] = [];
    reflector.onChange(({ type, object }) => said.push(`${type} ${object.metadata.name}`));
    reflector.start();
    context.onTestFinished(() => reflector.stop());
    await reflector.whenSynced();
    said.length = 0;
    // It hears nothing while the server is held, killed, and has forgotten.
    for (let round = 0; round < 3; round += 1) {
      await cluster.apiServer.kill();
      await cluster.compact();
      await cluster.startAgain(cluster.apiServer);
      await put('changes', 10 + round);
      await until(
        'the change is heard',
        () =>
          reflector.objects.get(`${namespace}/changes`)?.data !== undefined &&
          JSON.stringify(reflector.objects.get(`${namespace}/changes`)?.data).includes(String(10 + round)),
        PATIENCE,
      );
    }
    expect(new Set(said)).toEqual(new Set(['updated changes']));
    expect(reflector.objects.size).toBe(2);
    console.log(
      `relists after ${[...metrics.counts].filter(([key]) => /relists|watch_ends/.test(key)).map(([key, n]) => `${key}: ${n}`)}`,
    );
  });

  it('a server that is stopped in the middle: the leader stops writing in time, two never lead', {
    timeout: 180_000,
  }, async (context) => {
    const cluster = await ownApiServer(context, { controllers: false });
    const times = { leaseDurationMs: 3_000, renewDeadlineMs: 2_000, retryMs: 300 };
    const leaders = await Promise.all(
      ['a', 'b'].map(async (identity) => {
        const { api, metrics } = clientOf(await kubeconfigIdentity({ file: cluster.kubeconfig }));
        const shared = { clock: systemClock, random: systemRandom, log: silentLogger, metrics };
        const leader = new Leader({
          api,
          lease: { namespace: 'default', name: 'operator' },
          identity,
          times,
          ...shared,
        });
        leader.start();
        context.onTestFinished(async () => {
          await leader.stop();
          api.close();
        });
        return leader;
      }),
    );
    const writing = (): number => leaders.filter((one) => one.mayWrite).length;
    const most: number[] = [];
    const becomes = (count: number): Promise<unknown> =>
      until(
        `${count} lead`,
        () => {
          most.push(writing());
          return writing() === count;
        },
        PATIENCE,
      );
    await becomes(1);
    cluster.apiServer.pause();
    const startMs = systemClock.monotonicMs();
    await becomes(0);
    expect(systemClock.monotonicMs() - startMs).toBeLessThan(times.renewDeadlineMs + 500);
    cluster.apiServer.resume();
    await becomes(1);
    expect(Math.max(...most)).toBe(1);
  });
});

async function allow(admin: KubeApi, namespace: string): Promise<void> {
  const rbac = (kind: string, plural: string): ResourceKind => ({
    group: 'rbac.authorization.k8s.io',
    version: 'v1',
    kind,
    plural,
    namespaced: true,
  });
  const metadata = { namespace, name: 'operator' };
  const apiVersion = 'rbac.authorization.k8s.io/v1';
  const rules = [{ apiGroups: [''], resources: ['configmaps'], verbs: ['get', 'create', 'patch'] }];
  must(await admin.create(rbac('Role', 'roles'), { apiVersion, kind: 'Role', metadata, rules } as KubeObject));
  const binding = {
    apiVersion,
    kind: 'RoleBinding',
    metadata,
    roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'Role', name: 'operator' },
    subjects: [{ kind: 'ServiceAccount', name: 'operator', namespace }],
  };
  must(await admin.create(rbac('RoleBinding', 'rolebindings'), binding as KubeObject));
}
