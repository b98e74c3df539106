/**
 * Kinds that others define, by their own CRDs (test/cluster/foreign-crds.ts): PodMonitor and PrometheusRule of the Prometheus operator, Certificate and Issuer of
 * cert-manager, which come, are used, and go again (kubernetes.md section 2). One control plane of this file, because CRDs are there for everybody; its
 * tests run in the order they stand in. Nobody here watches these kinds: the test plays cert-manager.
 */
import { afterAll, beforeAll, expect, it, type TestContext } from 'vitest';
import { createAuthority } from '../../operator/pki.ts';
import type { ApiCluster } from '../cluster/api-server.ts';
import { missingForApiServer, startApiServer } from '../cluster/api-server.ts';
import { foreignCrds, installCrd } from '../cluster/foreign-crds.ts';
import type { KubeObject } from '../cluster/kube-client.ts';
import { installCrds } from '../cluster/shared-cluster.ts';
import { until } from '../house/until.ts';
import { Helm, OPERATOR_CHART, objectsOf } from '../rigs/helm.ts';
import { applyAll, awaitCondition, awaitQuiet, ownOperator, PATIENCE, pathOf, twoSites } from './operator-rig.ts';
import { ownNamespace } from './rig.ts';

const TIMEOUT_MS = 240_000;
const CRDS = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions';
const MONITORING = '/apis/monitoring.coreos.com/v1';

let missing: string | null = null;
let cluster: ApiCluster;
let crds: ReadonlyMap<string, KubeObject> = new Map();

beforeAll(async () => {
  missing = await missingForApiServer();
  if (missing !== null) return;
  const found = await foreignCrds();
  if ('missing' in found) {
    missing = String(found.missing);
    return;
  }
  crds = found;
  cluster = await startApiServer();
  await installCrds(cluster);
}, TIMEOUT_MS);
afterAll(async () => await cluster?.stop(), TIMEOUT_MS);

function needsCluster(context: TestContext): ApiCluster {
  // skip: the control plane is built in the stage api, the CRDs are fetched as Go modules
  if (missing !== null) context.skip(missing);
  context.onTestFailed(() => cluster.keepLogs());
  return cluster;
}

const crd = (name: string): KubeObject => crds.get(name) ?? expect.fail(`no CRD ${name}`);

async function there(path: string): Promise<KubeObject> {
  return await until(
    `${path} to be there`,
    async () => {
      const { status, body } = await cluster.client.call('GET', path);
      return status === 200 && body;
    },
    PATIENCE,
  );
}

it(
  'a PodMonitor appears when its kind does, is left alone and put back; when the kind goes nothing is stuck',
  async (context) => {
    const access = needsCluster(context);
    const namespace = await ownNamespace(access, context);
    const operator = await ownOperator(access, context, namespace);
    await applyAll(access, twoSites(namespace));
    await there(pathOf(namespace, 'services', 'contoso-smtp'));
    const path = `${MONITORING}/namespaces/${namespace}/podmonitors/contoso-pods`;
    expect((await access.client.call('GET', path)).status).toBe(404);
    await installCrd(access, crd('podmonitors.monitoring.coreos.com'));
    const monitor = await there(path);
    expect(monitor.spec).toMatchObject({
      selector: { matchLabels: { 'mailcluster.dev/cluster': 'contoso' } },
      podMetricsEndpoints: [{ port: 'metrics', path: '/metrics' }],
    });
    expect(monitor.metadata.ownerReferences).toMatchObject([{ kind: 'MailCluster', name: 'contoso' }]);
    // What the API server adds by this schema is not taken for somebody's edit.
    const writes = await awaitQuiet(access, namespace, operator.userAgent);
    await access.client.mergePatch(path, { spec: { podMetricsEndpoints: [{ port: 'other' }] } });
    await until(
      'the endpoint to be put back',
      async () => (await access.client.get(path)).spec.podMetricsEndpoints[0].port === 'metrics',
      PATIENCE,
    );
    expect(await awaitQuiet(access, namespace, operator.userAgent)).toBeGreaterThan(writes);
    await access.client.must('DELETE', `${CRDS}/podmonitors.monitoring.coreos.com`);
    await until(
      'the kind to be gone',
      async () => (await access.client.call('GET', `${MONITORING}/podmonitors`)).status === 404,
      PATIENCE,
    );
    await access.client.must('DELETE', pathOf(namespace, 'services', 'contoso-smtp'));
    await there(pathOf(namespace, 'services', 'contoso-smtp'));
  },
  TIMEOUT_MS,
);

it(
  'what the chart makes for Prometheus is what the schemas of the Prometheus operator take, unknown fields refused',
  async (context) => {
    const access = needsCluster(context);
    const namespace = await ownNamespace(access, context);
    const helm = await Helm.open();
    // skip: helm is built with the programs of the API level
    if (typeof helm === 'string') return context.skip(helm);
    context.onTestFinished(() => helm.close());
    for (const kind of ['podmonitors', 'prometheusrules', 'servicemonitors'])
      await installCrd(access, crd(`${kind}.monitoring.coreos.com`));
    const seen = new Set<string>();
    for (const monitor of ['PodMonitor', 'ServiceMonitor']) {
      const values = await helm.values(monitor, { metrics: { monitor, interval: '15s' }, rules: { enabled: true } });
      const { code, out, err } = await helm.template(OPERATOR_CHART, '-f', values);
      expect([code, err]).toEqual([0, '']);
      for (const object of objectsOf(out).filter((one) => one.apiVersion.startsWith('monitoring.coreos.com/'))) {
        seen.add(object.kind);
        const { stderr, ...result } = await access.kubectl(
          ['apply', '--server-side', '--validate=strict', '-n', namespace, '-f', '-'],
          { input: JSON.stringify({ ...object, metadata: { ...object.metadata, namespace } }) },
        );
        expect({ kind: object.kind, code: result.code, stderr }).toEqual({ kind: object.kind, code: 0, stderr: '' });
      }
    }
    expect([...seen].sort()).toEqual(['PodMonitor', 'PrometheusRule', 'ServiceMonitor']);
  },
  TIMEOUT_MS,
);

it(
  'issuerRef: says what is missing, asks cert-manager for an authority, and takes the one it makes',
  async (context) => {
    const access = needsCluster(context);
    const namespace = await ownNamespace(access, context);
    const operator = await ownOperator(access, context, namespace);
    const certificates = { issuerRef: { kind: 'Issuer', name: 'mail-ca' } };
    await applyAll(access, twoSites(namespace, { certificates }));
    const lacking = await awaitCondition(access, namespace, 'CertificatesValid', { reason: 'IssuerKindMissing' });
    expect(lacking.message).toContain('install it or remove issuerRef');
    await installCrd(access, crd('issuers.cert-manager.io'));
    await installCrd(access, crd('certificates.cert-manager.io'));
    await awaitCondition(access, namespace, 'CertificatesValid', { reason: 'AuthorityMissing' });
    const asked = await there(`/apis/cert-manager.io/v1/namespaces/${namespace}/certificates/contoso-authority`);
    expect(asked.spec).toMatchObject({ isCA: true, issuerRef: { kind: 'Issuer', name: 'mail-ca' } });
    const issued = await createAuthority('contoso');
    await access.client.mustApply({
      apiVersion: 'v1',
      kind: 'Secret',
      type: 'kubernetes.io/tls',
      metadata: { name: asked.spec.secretName, namespace, labels: asked.spec.secretTemplate.labels },
      stringData: { 'tls.crt': issued.certificatePem, 'tls.key': issued.keyPem, 'ca.crt': issued.certificatePem },
    });
    await awaitCondition(access, namespace, 'CertificatesValid', { status: 'True' });
    await awaitQuiet(access, namespace, operator.userAgent);
  },
  TIMEOUT_MS,
);
