/**
 * What the contract suite of the operator's runtime runs against: an API server behind a proxy that can fail, our own or the real one.
 * Owns: both, and every client it gave out.
 */
import { systemClock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import type { MetricName } from '../../common/platform/metric-catalog.ts';
import type { Labels, Metrics } from '../../common/platform/metrics.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { KubeClient, type KubeClientOptions } from '../../operator/kube/client.ts';
import { describeFailure, type KubeResult } from '../../operator/kube/failures.ts';
import type { KubeIdentity } from '../../operator/kube/identity.ts';
import { CUSTOM_RESOURCE_DEFINITION, NAMESPACE } from '../../operator/kube/kinds.ts';
import { kubeconfigIdentity } from '../../operator/kube/kube-config.ts';
import type { KubeObject, ResourceKind } from '../../operator/kube/kube-object.ts';
import { until } from '../house/until.ts';
import { FaultProxy, type Upstream } from '../rigs/fake-kube/fault-proxy.ts';
import { FakeKube } from '../rigs/fake-kube/server.ts';
import { testCertificate } from '../rigs/test-certificate.ts';

/** Counts what was counted. */
export class CountedMetrics implements Metrics {
  readonly counts = new Map<string, number>();
  increment(name: MetricName, labels: Labels = {}, by = 1): void {
    const key = [name, ...Object.values(labels)].join(' ');
    this.counts.set(key, (this.counts.get(key) ?? 0) + by);
  }
  set(name: MetricName, value: number, labels: Labels = {}): void {
    this.counts.set([name, ...Object.values(labels)].join(' '), value);
  }
  observe(): void {
    // Durations are not looked at.
  }
  /** Sum over all labels that begin like this. */
  sum(prefix: string): number {
    return [...this.counts].filter(([key]) => key.startsWith(prefix)).reduce((sum, [, count]) => sum + count, 0);
  }
}

export interface KubeRig {
  readonly proxy: FaultProxy;
  /** A client of its own connections; `nobody` may do nothing. */
  client(options?: {
    readonly as?: 'nobody';
    readonly manager?: string;
    readonly perSecond?: number;
  }): Promise<TestClient>;
  /** A namespace nobody else uses. */
  namespace(): Promise<string>;
  /** A client that does not go through the proxy. */
  beside(): Promise<KubeClient>;
  /** The server forgets older versions; null when it cannot be told to. */
  readonly compact: (() => Promise<void>) | null;
  stop(): Promise<void>;
}

export interface TestClient {
  readonly api: KubeClient;
  readonly metrics: CountedMetrics;
}

export const WIDGET: ResourceKind = {
  group: 'test.mailcluster.dev',
  version: 'v1',
  kind: 'Widget',
  plural: 'widgets',
  namespaced: true,
};

export interface Widget extends KubeObject {
  readonly spec?: {
    readonly size?: number;
    readonly color?: string;
    readonly tags?: readonly string[];
    readonly members?: readonly { readonly name: string; readonly size?: number }[];
  };
  readonly status?: { readonly phase?: string };
}

const text = { type: 'string' };
const count = { type: 'integer' };

const WIDGET_DEFINITION: KubeObject = {
  apiVersion: 'apiextensions.k8s.io/v1',
  kind: 'CustomResourceDefinition',
  metadata: { name: 'widgets.test.mailcluster.dev' },
  spec: {
    group: WIDGET.group,
    scope: 'Namespaced',
    names: { kind: 'Widget', plural: 'widgets', singular: 'widget', listKind: 'WidgetList' },
    versions: [
      {
        name: 'v1',
        served: true,
        storage: true,
        subresources: { status: {} },
        schema: {
          openAPIV3Schema: {
            type: 'object',
            properties: {
              spec: {
                type: 'object',
                properties: {
                  size: count,
                  color: text,
                  tags: { type: 'array', items: text, 'x-kubernetes-list-type': 'set' },
                  members: {
                    type: 'array',
                    'x-kubernetes-list-type': 'map',
                    'x-kubernetes-list-map-keys': ['name'],
                    items: { type: 'object', required: ['name'], properties: { name: text, size: count } },
                  },
                },
              },
              status: { type: 'object', properties: { phase: text } },
            },
          },
        },
      },
    ],
  },
};

export function must<T>(result: KubeResult<T>): T {
  if (!result.ok) throw new Error(describeFailure(result.failure));
  return result.value;
}

export function failureKind(result: KubeResult<unknown>): string {
  return result.ok ? 'ok' : result.failure.kind;
}

export const widget = (namespace: string, name: string, spec: Widget['spec'] = {}): Widget => ({
  apiVersion: 'test.mailcluster.dev/v1',
  kind: 'Widget',
  metadata: { namespace, name },
  spec,
});

export const configMap = (namespace: string, name: string, data: Record<string, string>): KubeObject => ({
  apiVersion: 'v1',
  kind: 'ConfigMap',
  metadata: { namespace, name },
  data,
});

interface Behind {
  readonly upstream: Upstream;
  readonly token: string | null;
  readonly compact: (() => Promise<void>) | null;
  stop(): Promise<void>;
}

export interface Access {
  readonly server: string;
  readonly ca: string;
  readonly user: Readonly<Record<string, string>>;
}

const base64 = (value: string): string => Buffer.from(value).toString('base64');

/** JSON is YAML. */
export const kubeconfigText = ({ server, ca, user }: Access): string =>
  JSON.stringify({
    'current-context': 'test',
    contexts: [{ name: 'test', context: { cluster: 'test', user: 'test' } }],
    clusters: [{ name: 'test', cluster: { server, 'certificate-authority-data': base64(ca) } }],
    users: [{ name: 'test', user }],
  });

const clientOf = (
  identity: KubeIdentity,
  metrics: Metrics,
  more: Pick<KubeClientOptions, 'rateLimits' | 'fieldManager'>,
): KubeClient =>
  new KubeClient({
    identity,
    clock: systemClock,
    random: systemRandom,
    log: silentLogger,
    metrics,
    userAgent: 'mailcluster-test/1',
    ...more,
  });

/** The rig over any server: proxy, clients, the test's own kind. */
async function rigOver(behind: Behind): Promise<KubeRig> {
  const certificate = await testCertificate('127.0.0.1');
  const proxy = new FaultProxy(behind.upstream, certificate);
  await proxy.up();
  const clients: KubeClient[] = [];
  const user = behind.token === null ? {} : { token: behind.token };
  const through: Access = { server: proxy.url, ca: certificate.ca, user };
  const client: KubeRig['client'] = async ({ as, manager, perSecond = 1000 } = {}) => {
    const metrics = new CountedMetrics();
    const identity = await kubeconfigIdentity({
      text: kubeconfigText(through),
      ...(as === undefined ? {} : { impersonate: as }),
    });
    const rateLimits = { perSecond, burst: perSecond };
    const api = clientOf(identity, metrics, {
      rateLimits,
      ...(manager === undefined ? {} : { fieldManager: manager }),
    });
    clients.push(api);
    return { api, metrics };
  };
  const beside = async (): Promise<KubeClient> => {
    const { url, ca, cert, key } = behind.upstream;
    const certified =
      cert === undefined || key === undefined
        ? user
        : { 'client-certificate-data': base64(cert), 'client-key-data': base64(key) };
    const identity = await kubeconfigIdentity({ text: kubeconfigText({ server: url, ca, user: certified }) });
    const api = clientOf(identity, new CountedMetrics(), {});
    clients.push(api);
    return api;
  };
  const { api } = await client();
  must(await api.apply(CUSTOM_RESOURCE_DEFINITION, WIDGET_DEFINITION));
  await until('the kind of the test is served', async () => (await api.list(WIDGET, {})).ok, { deadlineMs: 20_000 });
  const namespaces: string[] = [];
  const run = Date.now().toString(36);
  return {
    proxy,
    client,
    beside,
    compact: behind.compact,
    namespace: async () => {
      const name = `kube-${run}-${namespaces.length}`;
      namespaces.push(name);
      must(await api.create(NAMESPACE, { apiVersion: 'v1', kind: 'Namespace', metadata: { name } }));
      return name;
    },
    stop: async () => {
      for (const name of namespaces) await api.delete(NAMESPACE, { namespace: '', name });
      for (const one of clients) one.close();
      await proxy.stop();
      await behind.stop();
    },
  };
}

export async function fakeRig(): Promise<KubeRig> {
  const certificate = await testCertificate('127.0.0.1');
  const fake = new FakeKube({ certificate });
  fake.tokens.add('test-token');
  const url = await fake.start();
  return await rigOver({
    upstream: { url, ca: certificate.ca },
    token: 'test-token',
    compact: async () => fake.compact(),
    stop: () => fake.stop(),
  });
}

/** Over a server that is there and stays; the proxy shows its administrator's certificate. */
export async function realRig(upstream: Upstream): Promise<KubeRig> {
  return await rigOver({ upstream, token: null, compact: null, stop: async () => undefined });
}
