/**
 * The charts with Helm against a real API server: strict dry run, install, upgrade, rollback, uninstall, and what a person reads who installs twice, in the
 * wrong place, over CRDs of their own, or without rights. One control plane of this file, because releases own objects of the whole cluster; tests run in
 * the order they stand in and clean up after themselves.
 */
import { readFileSync } from 'node:fs';
import { cp, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it, type TestContext } from 'vitest';
import { parse, stringify } from 'yaml';
import type { ApiUser } from '../cluster/api-access.ts';
import type { ApiCluster } from '../cluster/api-server.ts';
import { missingForApiServer, startApiServer } from '../cluster/api-server.ts';
import type { KubeObject } from '../cluster/kube-client.ts';
import { readCrds } from '../cluster/shared-cluster.ts';
import { until } from '../house/until.ts';
import { CLUSTER_CHART, Helm, type HelmResult, OPERATOR_CHART, objectsOf, TWO_SITES } from '../rigs/helm.ts';
import { list, namesOf, ownOperator, PATIENCE, pathOf } from './operator-rig.ts';

const TIMEOUT_MS = 240_000;
const SYSTEM = 'mailcluster-system';
const RELEASE = 'mailcluster-operator';
const CRDS = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions';

let missing: string | null = null;
let cluster: ApiCluster;
let helm: Helm;

beforeAll(async () => {
  const opened = await Helm.open();
  missing = typeof opened === 'string' ? opened : await missingForApiServer();
  if (typeof opened === 'string' || missing !== null) return;
  helm = opened;
  cluster = await startApiServer();
  for (const name of [SYSTEM, 'elsewhere', 'mail']) await restricted(name);
}, TIMEOUT_MS);
afterAll(async () => {
  await helm?.close();
  await cluster?.stop();
}, TIMEOUT_MS);

function needsCluster(context: TestContext): void {
  // skip: Helm and the control plane are built in the stage api
  if (missing !== null) context.skip(missing);
  context.onTestFailed(() => cluster.keepLogs());
}

async function restricted(name: string): Promise<void> {
  const levels = ['enforce', 'warn'].map((mode) => [`pod-security.kubernetes.io/${mode}`, 'restricted']);
  await cluster.client.mustApply({
    apiVersion: 'v1',
    kind: 'Namespace',
    metadata: { name, labels: Object.fromEntries(levels) },
  });
}

const as = (kubeconfig: string, ...args: readonly string[]): Promise<HelmResult> =>
  helm.run(...args, '--kubeconfig', kubeconfig);
const admin = (...args: readonly string[]): Promise<HelmResult> => as(cluster.kubeconfig, ...args);

async function done(...args: readonly string[]): Promise<string> {
  const { code, out, err } = await admin(...args);
  if (code !== 0) throw new Error(`helm ${args.join(' ')}: exit code ${code}: ${err}`);
  expect(err).not.toMatch(/would violate|[Ww]arning/);
  return out;
}

const installOperator = (...args: readonly string[]): Promise<string> =>
  done('install', RELEASE, OPERATOR_CHART, '-n', SYSTEM, ...args);
const installCluster = (...args: readonly string[]): Promise<string> =>
  done('install', 'contoso', CLUSTER_CHART, '-n', 'mail', '-f', TWO_SITES, ...args);

async function refused(said: string | RegExp, ...args: readonly string[]): Promise<void> {
  const { code, err } = await admin(...args);
  expect(err).toMatch(said);
  expect(code).toBe(1);
}

const ourCrds = async (): Promise<readonly KubeObject[]> =>
  ((await cluster.client.get(CRDS)).items as KubeObject[]).filter(({ metadata }) =>
    metadata.name.endsWith('mailcluster.dev'),
  );
const crdNames = async (): Promise<readonly string[]> => namesOf(await ourCrds());

/** The API server empties and removes each in the background, and waits longer and longer after what fails there: its own words say why one stays. */
async function noCrdsLeft(): Promise<true> {
  const left = await ourCrds();
  const stateOf = ({ metadata: { name, deletionTimestamp, finalizers }, status }: KubeObject): string =>
    JSON.stringify({ name, deletionTimestamp, finalizers, status });
  if (left.length > 0) throw new Error(left.map(stateOf).join('\n'));
  return true;
}

/** Helm asks for groups and schemas before anything else, and what it gets is made anew in the background when a CRD goes. */
async function removeCrds(): Promise<void> {
  for (const name of await crdNames()) {
    // A CRD that changed a moment ago is not served yet; deleted then, "could not list instances: storage is (re)initializing", it may stay for good.
    const [plural] = name.split('.');
    await until(`${name} to be served`, () => cluster.client.get(`/apis/mailcluster.dev/v1alpha1/${plural}`), PATIENCE);
    await cluster.client.must('DELETE', `${CRDS}/${name}`);
  }
  await until('the CRDs to be gone', noCrdsLeft, { ...PATIENCE, deadlineMs: 180_000 });
  await until(
    'groups and schemas without them',
    async () => {
      const groups = ((await cluster.client.get('/apis')).groups as { readonly name: string }[]).map(
        ({ name }) => name,
      );
      const schemas = Object.keys((await cluster.client.get('/openapi/v3')).paths);
      const ours = [...groups, ...schemas].filter((name) => name.includes('mailcluster.dev'));
      return ours.length === 0 && schemas.includes('apis/apiextensions.k8s.io/v1') && schemas.includes('apis/apps/v1');
    },
    PATIENCE,
  );
}

it(
  'without the CRDs a MailCluster is refused, and Helm says what is missing',
  async (context) => {
    needsCluster(context);
    await refused(
      /no matches for kind "MailCluster".*ensure CRDs are installed first/s,
      'install',
      'contoso',
      CLUSTER_CHART,
      '-n',
      'mail',
      '-f',
      TWO_SITES,
    );
  },
  TIMEOUT_MS,
);

it(
  'without rights: who may not, and what',
  async (context) => {
    needsCluster(context);
    const nobody: ApiUser = await cluster.serviceAccount(SYSTEM, 'nobody');
    const { code, err } = await as(nobody.kubeconfig, 'install', RELEASE, OPERATOR_CHART, '-n', SYSTEM);
    expect([code, err]).toEqual([
      1,
      expect.stringMatching(/forbidden: User "system:serviceaccount:mailcluster-system:nobody" cannot list resource/),
    ]);
    expect(await crdNames()).toEqual([]);
  },
  TIMEOUT_MS,
);

it(
  'over CRDs that were made by hand: refused with the reason, taken over when told to',
  async (context) => {
    needsCluster(context);
    for (const crd of await readCrds()) await cluster.client.mustApply(crd, { fieldManager: 'by-hand' });
    await refused(
      /CustomResourceDefinition "\w+\.mailcluster\.dev".*cannot be imported into the current release: invalid ownership metadata/s,
      ...['install', RELEASE, OPERATOR_CHART, '-n', SYSTEM],
    );
    await installOperator('--take-ownership');
    await done('uninstall', RELEASE, '-n', SYSTEM);
    expect(await crdNames()).toHaveLength(4);
    await removeCrds();
  },
  TIMEOUT_MS,
);

it(
  'over an older CRD that is not its own: refused with both versions and the command; after that command it is installed',
  async (context) => {
    needsCluster(context);
    const apply = async (change: (crd: KubeObject) => void): Promise<void> => {
      for (const crd of await readCrds()) {
        change(crd);
        await cluster.client.mustApply(crd, { fieldManager: 'by-hand' });
      }
    };
    const install = ['install', RELEASE, OPERATOR_CHART, '-n', SYSTEM, '--set', 'crds.install=false'];
    await apply(({ metadata }) => {
      if (metadata.annotations !== undefined) metadata.annotations['mailcluster.dev/schema-version'] = '0';
    });
    await refused(
      'CRD mailclusters.mailcluster.dev has schema 0, this chart needs 1, and crds.install is false: kubectl apply --server-side -f crds/ first',
      ...install,
    );
    await apply(() => undefined);
    await done(...install);
    await done('uninstall', RELEASE, '-n', SYSTEM);
    await removeCrds();
  },
  TIMEOUT_MS,
);

it(
  'install: all of it is accepted by the API server as strictly as can be, nothing against Restricted Pod Security; notes say what is next',
  async (context) => {
    needsCluster(context);
    const notes = await installOperator('--set', 'namespaceGuard.namespaces={mail}', '--set', 'replicas=2');
    expect(notes).toContain(`kubectl rollout status deployment/${RELEASE} -n ${SYSTEM}`);
    await until(
      'MailClusters to be served',
      async () => (await cluster.client.call('GET', '/apis/mailcluster.dev/v1alpha1/mailclusters')).status === 200,
      PATIENCE,
    );
    const { out } = await helm.template(
      OPERATOR_CHART,
      '-f',
      await helm.values('two', { replicas: 2, namespaceGuard: { namespaces: ['mail'] } }),
    );
    const clusterChart = await helm.template(CLUSTER_CHART, '-f', TWO_SITES);
    const objects = [...objectsOf(out), ...objectsOf(clusterChart.out)].map((object) =>
      object.metadata.namespace === undefined
        ? object
        : { ...object, metadata: { ...object.metadata, namespace: 'elsewhere' } },
    );
    expect(objects.length).toBeGreaterThan(20);
    for (const object of objects) {
      const { status, body, warnings } = await cluster.client.apply(object, { dryRun: true });
      expect([object.kind, object.metadata.name, status, body.message, warnings]).toEqual([
        object.kind,
        object.metadata.name,
        expect.toSatisfy((code: number) => code === 200 || code === 201),
        undefined,
        [],
      ]);
    }
  },
  TIMEOUT_MS,
);

it(
  'a second time: the same name, and another operator of all namespaces, are refused; one of one namespace is not',
  async (context) => {
    needsCluster(context);
    await refused('cannot re-use a name that is still in use', 'install', RELEASE, OPERATOR_CHART, '-n', SYSTEM);
    const more = [
      'install',
      'second',
      OPERATOR_CHART,
      '-n',
      'elsewhere',
      '--set',
      'crds.install=false,rbac.userRoles=false',
    ];
    await refused(
      `release "${RELEASE}" in namespace "${SYSTEM}" is an operator of all namespaces already (ClusterRole ${SYSTEM}-${RELEASE}): upgrade that release, uninstall it first, or set watchNamespace in both`,
      ...more,
    );
    await refused(
      'is an operator of all namespaces already',
      ...['install', RELEASE, OPERATOR_CHART, '-n', 'elsewhere'],
    );
    await done(...more, '--set', 'watchNamespace=elsewhere');
    await done('uninstall', 'second', '-n', 'elsewhere');
  },
  TIMEOUT_MS,
);

it(
  'a second MailCluster of the same name is refused; what the schema cannot say is said by the CRD, with the path',
  async (context) => {
    needsCluster(context);
    const notes = await installCluster();
    expect(notes).toContain('kubectl wait --for=condition=Ready mc/contoso -n mail');
    await refused(
      /MailCluster "contoso" in namespace "mail" exists and cannot be imported/,
      'install',
      'other',
      CLUSTER_CHART,
      '-n',
      'mail',
      '-f',
      TWO_SITES,
    );
    const wrong = await helm.values('wrong', {
      spec: { siteLinks: [{ name: 'x', sites: ['seattle', 'nowhere'], cost: 1 }] },
    });
    await refused(
      /spec\.siteLinks: Invalid value.*siteLinks\[\]\.sites names a site which spec\.sites does not list/s,
      ...['upgrade', 'contoso', CLUSTER_CHART, '-n', 'mail', '-f', TWO_SITES, '-f', wrong],
    );
    // A failed upgrade is undone by the next good one.
    await done('upgrade', 'contoso', CLUSTER_CHART, '-n', 'mail', '-f', TWO_SITES, '--set', 'spec.frontend.replicas=3');
    const replicas = async () =>
      (await cluster.client.get(pathOf('mail', 'mailclusters', 'contoso'))).spec.frontend.replicas;
    expect(await replicas()).toBe(3);
    await done('rollback', 'contoso', '1', '-n', 'mail');
    expect(await replicas()).toBe(2);
  },
  TIMEOUT_MS,
);

it(
  'a guarded namespace is not deleted while a MailCluster is in it, others are',
  async (context) => {
    needsCluster(context);
    await until(
      'the policy to be in force',
      async () => {
        const { status, body } = await cluster.client.call('DELETE', '/api/v1/namespaces/mail?dryRun=All');
        return (
          status === 403 &&
          /MailCluster contoso is in namespace mail: its mail would be lost with it; kubectl delete mailcluster contoso -n mail first/.test(
            body.message,
          )
        );
      },
      PATIENCE,
    );
    expect((await cluster.client.call('DELETE', '/api/v1/namespaces/elsewhere?dryRun=All')).status).toBe(200);
    await done('uninstall', 'contoso', '-n', 'mail');
    await until(
      'the policy to let it go',
      async () => (await cluster.client.call('DELETE', '/api/v1/namespaces/mail?dryRun=All')).status === 200,
      PATIENCE,
    );
  },
  TIMEOUT_MS,
);

it(
  'with the rights of the chart and no others an operator makes everything, and is refused nothing',
  async (context) => {
    needsCluster(context);
    await installCluster();
    const user = await cluster.serviceAccount(SYSTEM, RELEASE);
    const { kubeconfig } = user;
    await ownOperator(cluster, context, SYSTEM, RELEASE, {
      reach: { text: readFileSync(kubeconfig, 'utf8') },
      watch: '',
    });
    await until(
      'everything to be there',
      async () => {
        const found = await Promise.all(
          (['statefulsets', 'deployments', 'networkpolicies', 'secrets', 'events'] as const).map((kind) =>
            list(cluster, 'mail', kind),
          ),
        );
        return found.every((items) => items.length > 0);
      },
      PATIENCE,
    );
    const { spec } = (await list(cluster, 'mail', 'statefulsets'))[0] ?? {};
    expect(spec.replicas).toBe(2);
    await done('uninstall', 'contoso', '-n', 'mail');
    await until(
      'the MailCluster to be gone',
      async () => (await list(cluster, 'mail', 'mailclusters')).length === 0,
      PATIENCE,
    );
    const name = `system:serviceaccount:${SYSTEM}:${RELEASE}`;
    const asked = (await cluster.audit.entries()).filter((entry) => entry.user === name);
    expect(asked.length).toBeGreaterThan(50);
    expect(asked.filter(({ code }) => code === 401 || code === 403)).toEqual([]);
  },
  TIMEOUT_MS,
);

it(
  'upgrade, rollback, uninstall: CRDs and MailClusters stay; the same release comes back over them, another name when told to',
  async (context) => {
    needsCluster(context);
    await installCluster();
    const deployment = async () => await cluster.client.get(pathOf(SYSTEM, 'deployments', RELEASE));
    await done('upgrade', RELEASE, OPERATOR_CHART, '-n', SYSTEM, '--set', 'log.level=debug');
    const changed = await deployment();
    expect(changed.spec.replicas).toBe(1);
    await done('rollback', RELEASE, '1', '-n', SYSTEM);
    const back = await deployment();
    expect(back.spec.replicas).toBe(2);
    const hash = (object: KubeObject): string =>
      object.spec.template.metadata.annotations['mailcluster.dev/config-hash'];
    expect(hash(back)).not.toBe(hash(changed));

    const said = await done('uninstall', RELEASE, '-n', SYSTEM);
    expect(said).toMatch(
      /kept due to the resource policy:.*\[CustomResourceDefinition\] mailclusters\.mailcluster\.dev/s,
    );
    expect([await crdNames(), namesOf(await list(cluster, 'mail', 'mailclusters'))]).toEqual([
      expect.toSatisfy((names: string[]) => names.length === 4),
      ['contoso'],
    ]);
    await installOperator();
    await done('uninstall', RELEASE, '-n', SYSTEM);
    await refused(
      /must equal "other".*current value is "mailcluster-operator"/s,
      'install',
      'other',
      OPERATOR_CHART,
      '-n',
      'elsewhere',
    );
    await done('install', 'other', OPERATOR_CHART, '-n', 'elsewhere', '--take-ownership');
    await done('uninstall', 'other', '-n', 'elsewhere');
    expect(namesOf(await list(cluster, 'mail', 'mailclusters'))).toEqual(['contoso']);
  },
  TIMEOUT_MS,
);

/** The chart as it was before a field was added to the CRD. */
async function olderChart(directory: string): Promise<string> {
  const chart = join(directory, 'older');
  await cp(OPERATOR_CHART, chart, { recursive: true });
  const file = join(chart, 'files/crds/mailcluster.yaml');
  const crd = parse(await readFile(file, 'utf8'));
  crd.metadata.annotations['mailcluster.dev/schema-version'] = '0';
  delete crd.spec.versions[0].schema.openAPIV3Schema.properties.spec.properties.logLevel;
  await writeFile(file, stringify(crd));
  return chart;
}

it(
  'from an older version of the chart: the CRD is the new one, what was there stays, a new field is known',
  async (context) => {
    needsCluster(context);
    const older = await olderChart(helm.home);
    const schema = async () => (await cluster.client.get(`${CRDS}/mailclusters.mailcluster.dev`)).metadata.annotations;
    await done('install', RELEASE, older, '-n', SYSTEM, '--take-ownership');
    expect(await schema()).toMatchObject({ 'mailcluster.dev/schema-version': '0', 'helm.sh/resource-policy': 'keep' });
    const changed = [
      'upgrade',
      'contoso',
      CLUSTER_CHART,
      '-n',
      'mail',
      '-f',
      TWO_SITES,
      '--set',
      'spec.logLevel=debug',
    ];
    await done('upgrade', RELEASE, OPERATOR_CHART, '-n', SYSTEM);
    expect(await schema()).toMatchObject({ 'mailcluster.dev/schema-version': '1', 'helm.sh/resource-policy': 'keep' });
    await until(
      'the new field to be kept',
      async () => {
        await done(...changed);
        return (await cluster.client.get(pathOf('mail', 'mailclusters', 'contoso'))).spec.logLevel === 'debug';
      },
      PATIENCE,
    );
    await done('uninstall', RELEASE, '-n', SYSTEM);
  },
  TIMEOUT_MS,
);
