/** What the charts make of values, and which they refuse with the path: `helm lint` and `helm template`, no server asked. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, type TestContext } from 'vitest';
import { parse, parseAllDocuments } from 'yaml';
import {
  CERTIFICATE_SIGNING_REQUEST,
  CUSTOM_RESOURCE_DEFINITION,
  EVENT,
  kindOf,
  LEASE,
  MAIL_CLUSTER,
  MAILBOX_DATABASE,
  NAMESPACE,
  NODE,
  PERSISTENT_VOLUME,
  PERSISTENT_VOLUME_CLAIM,
  POD,
  RESUBMIT_REQUEST,
  STORAGE_CLASS,
  SUBJECT_ACCESS_REVIEW,
  TOKEN_REVIEW,
  TRANSPORT_ORDER,
} from '../../operator/kube/kinds.ts';
import type { ResourceKind } from '../../operator/kube/kube-object.ts';
import { parseOperatorConfig } from '../../operator/operator-config.ts';
import { OPERATOR_ENVIRONMENT } from '../../operator/operator-process.ts';
import { MADE_KINDS } from '../../operator/resources/names.ts';
import type { KubeObject } from '../cluster/kube-client.ts';
import { CLUSTER_CHART, Helm, OPERATOR_CHART, objectsOf, TWO_SITES } from '../rigs/helm.ts';

let opened: Helm | string = '';
beforeAll(async () => {
  opened = await Helm.open();
});
afterAll(async () => {
  if (typeof opened !== 'string') await opened.close();
});

function helmOf(context: TestContext): Helm {
  // skip: helm is built with the programs of the API level
  return typeof opened === 'string' ? context.skip(opened) : opened;
}

/** Everything switched the other way from its default. */
const ALL_ELSE = {
  fullnameOverride: 'mail-operator',
  image: {
    repository: 'images.example/mail/mailcluster',
    digest: `sha256:${'0a'.repeat(32)}`,
    pullPolicy: 'Always',
    pullSecrets: ['pull-secret'],
  },
  replicas: 2,
  watchNamespace: 'mail',
  clusterDomain: 'k8s.example',
  listenAddress: '0.0.0.0',
  log: { level: 'debug' },
  crds: { install: false },
  rbac: { userRoles: false },
  serviceAccount: { name: 'mail-operator', annotations: { 'example.com/role': 'mail' } },
  metrics: { monitor: 'PodMonitor', interval: '15s', labels: { release: 'prometheus' } },
  dashboards: { enabled: false, label: 'dashboards', labelValue: 'mail' },
  rules: { enabled: true, labels: { release: 'prometheus' }, runbook: 'https://docs.example/runbook.md' },
  networkPolicy: { enabled: false },
  namespaceGuard: { namespaces: ['mail', 'mail-two'] },
  podLabels: { team: 'mail' },
  podAnnotations: { 'example.com/note': 'mail' },
  nodeSelector: { 'kubernetes.io/os': 'linux' },
  tolerations: [{ key: 'mail', operator: 'Exists', effect: 'NoSchedule' }],
  affinity: { nodeAffinity: {} },
  priorityClassName: 'system-cluster-critical',
};

async function rendered(helm: Helm, chart: string, ...args: readonly string[]): Promise<readonly KubeObject[]> {
  const { code, out, err } = await helm.template(chart, ...args);
  expect([code, err]).toEqual([0, '']);
  return objectsOf(out);
}

const one = (objects: readonly KubeObject[], kind: string): KubeObject =>
  objects.find((object) => object.kind === kind) ?? expect.fail(`no ${kind}`);

it('lint has nothing to say, with few values and with all of them', async (context) => {
  const helm = helmOf(context);
  const all = await helm.values('all', ALL_ELSE);
  for (const args of [[OPERATOR_CHART], [OPERATOR_CHART, '-f', all], [CLUSTER_CHART, '-f', TWO_SITES]]) {
    const { code, out } = await helm.lint(...args);
    expect([code, out]).toEqual([0, expect.stringMatching(/1 chart\(s\) linted, 0 chart\(s\) failed/)]);
    expect(out).not.toMatch(/\[(WARNING|ERROR)\]/);
  }
});

it('the operator accepts the configuration that the chart writes for it', async (context) => {
  const helm = helmOf(context);
  for (const args of [[], ['-f', await helm.values('all', ALL_ELSE)]]) {
    const objects = await rendered(helm, OPERATOR_CHART, ...args);
    const config = parseOperatorConfig(JSON.parse(one(objects, 'ConfigMap').data['operator.json']), '0.0.0');
    const deployment = one(objects, 'Deployment');
    const { containers } = deployment.spec.template.spec;
    expect(config.settings.image).toBe(containers[0].image);
    expect(deployment.spec.template.metadata.labels).toMatchObject(config.settings.podLabels);
    const service = objects.find(({ kind, spec }) => kind === 'Service' && spec.ports[0].name === 'signer');
    expect(new URL(config.settings.signerUrl).host).toBe(
      `${service?.metadata.name}.somewhere.svc.${config.settings.clusterDomain}:${service?.spec.ports[0].port}`,
    );
    const ports = containers[0].ports.map((port: KubeObject) => port.containerPort);
    expect(ports).toEqual([config.signer.port, config.metrics.port]);
    expect(config.settings.signerPort).toBe(config.signer.port);
  }
});

it('members keep their image when they are told to', async (context) => {
  const helm = helmOf(context);
  const objects = await rendered(helm, OPERATOR_CHART, '--set', 'membersImage=images.example/mailcluster:0.0.9');
  const { settings } = parseOperatorConfig(JSON.parse(one(objects, 'ConfigMap').data['operator.json']), '0.0.0');
  expect(settings.image).toBe('images.example/mailcluster:0.0.9');
  expect(one(objects, 'Deployment').spec.template.spec.containers[0].image).toMatch(/^localhost\/mailcluster:/);
});

it('the operator starts with the settings of memory that its figures were taken with', async (context) => {
  const deployment = one(await rendered(helmOf(context), OPERATOR_CHART), 'Deployment');
  const given: readonly { readonly name: string; readonly value?: string }[] =
    deployment.spec.template.spec.containers[0].env;
  expect(Object.fromEntries(given.map(({ name, value }) => [name, value]))).toMatchObject(OPERATOR_ENVIRONMENT);
});

const READ = ['get', 'list', 'watch'];

/** Resource, with its group -> verbs: what the code asks for and nothing else. */
function neededRights(): Readonly<Record<string, readonly string[]>> {
  const named = ({ group, plural }: ResourceKind): string => (group === '' ? plural : `${plural}.${group}`);
  const all = (kinds: readonly ResourceKind[], ...verbs: readonly string[]) =>
    Object.fromEntries(kinds.map((kind) => [named(kind), [...verbs].sort()]));
  return {
    ...all(MADE_KINDS.map(kindOf), ...READ, 'create', 'patch', 'delete'),
    ...all([MAIL_CLUSTER], ...READ, 'patch'),
    ...all([MAILBOX_DATABASE], ...READ),
    ...all([RESUBMIT_REQUEST], ...READ, 'create', 'patch'),
    ...all([TRANSPORT_ORDER], ...READ, 'delete'),
    ...all([NODE, PERSISTENT_VOLUME, STORAGE_CLASS, NAMESPACE, CUSTOM_RESOURCE_DEFINITION], ...READ),
    ...all([POD, PERSISTENT_VOLUME_CLAIM], ...READ, 'patch', 'delete'),
    ...all([EVENT], 'create', 'patch'),
    ...all([LEASE], 'create', 'get', 'update', 'patch'),
    ...all([TOKEN_REVIEW, SUBJECT_ACCESS_REVIEW], 'create'),
    ...all([CERTIFICATE_SIGNING_REQUEST], ...READ),
    'certificatesigningrequests/approval.certificates.k8s.io': ['patch', 'update'],
    'certificatesigningrequests/status.certificates.k8s.io': ['patch', 'update'],
    'signers.certificates.k8s.io': ['approve', 'sign'],
    'mailclusters/status.mailcluster.dev': ['patch'],
    'mailboxdatabases/status.mailcluster.dev': ['patch'],
    'resubmitrequests/status.mailcluster.dev': ['patch'],
    'transportorders/status.mailcluster.dev': ['patch'],
  };
}

function rightsIn(objects: readonly KubeObject[]): Readonly<Record<string, readonly string[]>> {
  const rights = new Map<string, Set<string>>();
  // The roles of people have no labels: they are a file of docs/.
  for (const { rules = [], metadata } of objects.filter(({ metadata: { labels } }) => labels !== undefined))
    for (const { apiGroups, resources, verbs, resourceNames } of rules) {
      if (resources.includes('signers'))
        expect(resourceNames).toEqual(['mailcluster.dev/viewer', 'mailcluster.dev/exporter']);
      if (resources.includes('leases') && !verbs.includes('create'))
        expect(metadata.name).toBe(`${resourceNames[0]}-leader-election`);
      for (const resource of resources) {
        const name = apiGroups[0] === '' ? resource : `${resource}.${apiGroups[0]}`;
        rights.set(name, new Set([...(rights.get(name) ?? []), ...verbs]));
      }
    }
  return Object.fromEntries([...rights].map(([name, verbs]) => [name, [...verbs].sort()]));
}

it('grants just what the operator asks for', async (context) => {
  const helm = helmOf(context);
  const everywhere = await rendered(helm, OPERATOR_CHART);
  expect(rightsIn(everywhere)).toEqual(neededRights());
  const inOne = await rendered(helm, OPERATOR_CHART, '-f', await helm.values('all', ALL_ELSE));
  expect(rightsIn(inOne)).toEqual(neededRights());
});

it('grants no wildcard, and in other namespaces than its own only what watchNamespace says', async (context) => {
  const helm = helmOf(context);
  const everywhere = await rendered(helm, OPERATOR_CHART);
  const inOne = await rendered(helm, OPERATOR_CHART, '-f', await helm.values('all', ALL_ELSE));
  for (const objects of [everywhere, inOne])
    for (const { rules = [], kind, metadata } of objects)
      for (const rule of rules)
        for (const field of ['apiGroups', 'resources', 'verbs'])
          expect([kind, metadata.name, rule[field]]).toEqual([kind, metadata.name, expect.not.arrayContaining(['*'])]);
  const namespaced = ['pods', 'secrets', 'mailclusters', 'statefulsets'];
  const clusterWide = (objects: readonly KubeObject[]): readonly string[] => {
    const own = objects.find((object) => object.kind === 'ClusterRole' && object.metadata.labels !== undefined);
    return own?.rules.flatMap((rule: KubeObject) => rule.resources);
  };
  expect(clusterWide(everywhere)).toEqual(expect.arrayContaining(namespaced));
  expect(clusterWide(inOne).filter((resource) => namespaced.includes(resource))).toEqual([]);
  expect(one(inOne, 'Role').metadata.namespace).toBe('mail');
});

it('the CRDs are those of crds/, kept by Helm; the switch leaves them out', async (context) => {
  const helm = helmOf(context);
  const objects = await rendered(helm, OPERATOR_CHART);
  const crds = objects.filter(({ kind }) => kind === 'CustomResourceDefinition');
  for (const crd of crds) {
    const source = parse(readFileSync(join(OPERATOR_CHART, '../../crds', `${crd.spec.names.singular}.yaml`), 'utf8'));
    const annotations = { ...source.metadata.annotations, 'helm.sh/resource-policy': 'keep' };
    expect(crd).toEqual({ ...source, metadata: { ...source.metadata, annotations } });
  }
  expect(crds).toHaveLength(4);
  // Who orders is checked where orders can be.
  const isOfOrders = ({ metadata }: KubeObject): boolean => metadata.name === 'transportorders.mailcluster.dev';
  const policy = parseAllDocuments(readFileSync(join(OPERATOR_CHART, '../../docs/order-policy.yaml'), 'utf8'));
  expect(objects.filter((one) => isOfOrders(one) && one.kind.startsWith('Validating'))).toEqual(
    policy.map((one) => one.toJS()),
  );
  const without = await rendered(helm, OPERATOR_CHART, '--set', 'crds.install=false');
  expect(without.filter((one) => one.kind === 'CustomResourceDefinition' || isOfOrders(one))).toEqual([]);
});

it('optional objects come with their switch: second replica, monitor, guard', async (context) => {
  const helm = helmOf(context);
  const kinds = async (...args: string[]) =>
    new Set((await rendered(helm, OPERATOR_CHART, ...args, '--set', 'crds.install=false')).map(({ kind }) => kind));
  const few = await kinds();
  for (const kind of [
    'PodDisruptionBudget',
    'ServiceMonitor',
    'PodMonitor',
    'PrometheusRule',
    'ValidatingAdmissionPolicy',
  ])
    expect([kind, few.has(kind)]).toEqual([kind, false]);
  const all = await kinds('-f', await helm.values('all', ALL_ELSE));
  for (const kind of [
    'PodDisruptionBudget',
    'PodMonitor',
    'PrometheusRule',
    'ValidatingAdmissionPolicy',
    'ValidatingAdmissionPolicyBinding',
  ])
    expect([kind, all.has(kind)]).toEqual([kind, true]);
  expect(await kinds('--set', 'metrics.monitor=ServiceMonitor')).toContain('ServiceMonitor');
});

it('dashboards are ConfigMaps for the sidecar of Grafana, word for word; the rules link to where the runbook is said to be', async (context) => {
  const helm = helmOf(context);
  const sidecar = ({ metadata }: KubeObject): boolean => metadata.labels?.grafana_dashboard === '1';
  const maps = (await rendered(helm, OPERATOR_CHART)).filter(sidecar);
  const directory = join(OPERATOR_CHART, 'files/dashboards');
  const files = readdirSync(directory);
  expect(files).toHaveLength(7);
  expect(Object.assign({}, ...maps.map(({ data }) => data))).toEqual(
    Object.fromEntries(files.map((name) => [name, readFileSync(join(directory, name), 'utf8')])),
  );
  const elsewhere = ['dashboards.namespace=grafana', 'dashboards.annotations.folder=Mail', 'dashboards.labels.team=x'];
  const moved = (await rendered(helm, OPERATOR_CHART, '--set', elsewhere.join(','))).filter(sidecar);
  expect(moved.map(({ metadata }) => [metadata.namespace, metadata.annotations])).toEqual(
    files.map(() => ['grafana', { folder: 'Mail' }]),
  );
  const all = await rendered(helm, OPERATOR_CHART, '-f', await helm.values('all', ALL_ELSE));
  expect(all.filter(sidecar)).toEqual([]);
  const { metadata, spec } = one(all, 'PrometheusRule');
  expect(metadata.labels.release).toBe('prometheus');
  const rules = readFileSync(join(OPERATOR_CHART, 'files/rules.yaml'), 'utf8');
  expect(spec).toEqual(parse(rules.replaceAll('docs/runbook.md#', 'https://docs.example/runbook.md#')));
});

interface Closed {
  readonly properties?: Readonly<Record<string, Closed>>;
  readonly additionalProperties?: unknown;
  readonly type?: unknown;
}

/** Paths of all objects that name their fields. */
function closedObjects(schema: Closed, path = ''): readonly string[] {
  const inner = Object.entries(schema.properties ?? {}).flatMap(([name, child]) =>
    closedObjects(child, `${path}/${name}`),
  );
  return schema.properties === undefined ? inner : [path, ...inner];
}

describe('the schema of the operator chart', () => {
  const schema = JSON.parse(readFileSync(join(OPERATOR_CHART, 'values.schema.json'), 'utf8')) as Closed;

  it('knows every value of values.yaml, and no other', () => {
    const paths = (value: unknown, at: string): readonly string[] =>
      typeof value === 'object' && value !== null && !Array.isArray(value)
        ? [at, ...Object.entries(value).flatMap(([name, child]) => paths(child, `${at}/${name}`))]
        : [at];
    const known = (node: Closed, at: string): readonly string[] => [
      at,
      ...Object.entries(node.properties ?? {}).flatMap(([name, child]) => known(child, `${at}/${name}`)),
    ];
    const given = paths(parse(readFileSync(join(OPERATOR_CHART, 'values.yaml'), 'utf8')), '');
    expect(given.filter((path) => !known(schema, '').includes(path))).toEqual([]);
    const open = /^\/(global|affinity\/.*|resources\/.*\/.*)$/;
    expect(known(schema, '').filter((path) => !given.includes(path) && !open.test(path))).toEqual([]);
  });

  it('refuses an unknown field in every object', async (context) => {
    const helm = helmOf(context);
    for (const path of closedObjects(schema)) {
      const names = path.split('/').slice(1);
      const values = names.reduceRight<object>((inner, name) => ({ [name]: inner }), { strangeField: 1 });
      const { code, err } = await helm.template(OPERATOR_CHART, '-f', await helm.values('strange', values));
      expect([path, code, err]).toEqual([
        path,
        1,
        expect.stringContaining(`- at '${path}': additional properties 'strangeField' not allowed`),
      ]);
    }
  });
});

/** Assignment, and what is said of it. */
const WRONG: readonly (readonly [string, string])[] = [
  ['replicas=two', "at '/replicas': got string, want integer"],
  ['replicas=9', "at '/replicas': maximum: got 9, want 5"],
  ['image.repository=Not/An Image', "at '/image/repository': 'Not/An Image' does not match pattern"],
  ['image.tag=a b', "at '/image/tag': 'a b' does not match pattern"],
  ['image.digest=sha256:12', "at '/image/digest': 'sha256:12' does not match pattern"],
  ['image.pullPolicy=Sometimes', "at '/image/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'"],
  ['watchNamespace=Mail', "at '/watchNamespace': 'Mail' does not match pattern"],
  ['log.level=loud', "at '/log/level': value must be one of"],
  ['crds.install=perhaps', "at '/crds/install': got string, want boolean"],
  ['signer.port=0', "at '/signer/port': minimum: got 0, want 1"],
  ['metrics.monitor=Both', "at '/metrics/monitor': value must be one of 'None', 'ServiceMonitor', 'PodMonitor'"],
  ['dashboards.enabled=perhaps', "at '/dashboards/enabled': got string, want boolean"],
  ['dashboards.namespace=Grafana', "at '/dashboards/namespace': 'Grafana' does not match pattern"],
  ['rules.runbook=a#b', "at '/rules/runbook': 'a#b' does not match pattern"],
  ['metrics.interval=often', "at '/metrics/interval': 'often' does not match pattern"],
  ['resources.limits.memory=lots', "at '/resources/limits/memory': 'lots' does not match pattern"],
  ['namespaceGuard.namespaces={Mail}', "at '/namespaceGuard/namespaces/0': 'Mail' does not match pattern"],
  ['certificateLifetimeHours=0', "at '/certificateLifetimeHours': minimum: got 0, want 1"],
  ['tolerations[0].effect=Never', "at '/tolerations/0/effect': value must be one of"],
];

/** Of the cluster chart, besides good values. */
const WRONG_CLUSTER: readonly (readonly [object, string])[] = [
  [{ spec: { sites: null } }, "at '/spec': missing property 'sites'"],
  [{ spec: { strange: 1 } }, "at '/spec': additional properties 'strange' not allowed"],
  [
    { spec: { dags: [{ name: 'dag1', members: [{ site: 'seattle', replicas: 'two' }] }] } },
    "at '/spec/dags/0/members/0/replicas': got string, want integer",
  ],
  [
    { spec: { dags: [{ name: 'dag1', members: [{ site: 'seattle', replicas: -1 }] }] } },
    "at '/spec/dags/0/members/0/replicas': minimum",
  ],
  [
    { spec: { shadowRedundancy: { preference: 'PreferNear' } } },
    "at '/spec/shadowRedundancy/preference': value must be one of",
  ],
  [
    { spec: { frontend: { listeners: [{ name: 'smtp', port: 70_000, tls: 'None' }] } } },
    "at '/spec/frontend/listeners/0/port': maximum",
  ],
  [{ spec: { redis: { mode: 'Some' } } }, "at '/spec/redis/mode': value must be one of"],
  [{ databases: { db01: { activeCopy: 7 } } }, "at '/databases/db01/activeCopy': got number, want string"],
  [
    { databases: { db01: { clusterRef: { name: 'x' } } } },
    "at '/databases/db01': additional properties 'clusterRef' not allowed",
  ],
  [{ databases: { DB01: { copies: [] } } }, "- at '': 'DB01' does not match pattern"],
  [{ name: 'n'.repeat(41) }, "at '/name': maxLength: got 41, want 40"],
];

it('a wrong value of the operator chart is refused with its path', async (context) => {
  const helm = helmOf(context);
  for (const [assignment, said] of WRONG) {
    const { code, err } = await helm.template(OPERATOR_CHART, '--set', assignment);
    expect([assignment, code, err]).toEqual([assignment, 1, expect.stringContaining(said)]);
  }
});

it('a wrong value of the cluster chart is refused with its path', async (context) => {
  const helm = helmOf(context);
  for (const [values, said] of WRONG_CLUSTER) {
    const { code, err } = await helm.template(CLUSTER_CHART, '-f', TWO_SITES, '-f', await helm.values('wrong', values));
    expect([values, code, err]).toEqual([values, 1, expect.stringContaining(said)]);
  }
  const { code, err } = await helm.template(CLUSTER_CHART);
  expect([code, err]).toEqual([1, expect.stringContaining("at '/spec': missing property 'sites'")]);
  const long = await helm.run(
    'template',
    'r'.repeat(41),
    CLUSTER_CHART,
    '--kube-version',
    '1.34.0',
    '-f',
    TWO_SITES,
    '--set',
    'name=',
  );
  expect([long.code, long.err]).toEqual([1, expect.stringContaining('has 41 characters, at most 40 are possible')]);
});
