/**
 * `certificates.issuerRef` with the controllers of cert-manager themselves (`test/cluster/cert-manager/`), on a control plane of this file, with pods that are
 * real processes and mail through them (kubernetes.md section 2). Part of `make e2e`: they are compiled for minutes.
 */
import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect, it, type TestContext } from 'vitest';
import { certificatesIn } from '../../../common/trust.ts';
import { askMember } from '../../../operator/admin-client.ts';
import { issueCertificate, loadAuthority } from '../../../operator/pki.ts';
import { PATH, PORT } from '../../../operator/resources/names.ts';
import { applyAll, pathOf } from '../../api/operator-rig.ts';
import { LONG, type MailClusterInPods, mailClusterInPods } from '../../api/pods-rig.ts';
import { type ApiCluster, missingForApiServer, startApiServer } from '../../cluster/api-server.ts';
import type { KubeObject } from '../../cluster/kube-client.ts';
import { installCrds } from '../../cluster/shared-cluster.ts';
import { until } from '../../house/until.ts';
import { authorityOf, CertManager, companyRoot, issuerBy } from '../../rigs/cert-manager.ts';

const UP_MS = 240_000;
const AUTHORITY = 'contoso-authority';
const ISSUER = 'mail-ca';

let missing: string | null = null;
let access: ApiCluster;
let manager: CertManager;

beforeAll(async () => {
  missing = await missingForApiServer();
  if (missing !== null) return;
  access = await startApiServer();
  await installCrds(access);
  const opened = await CertManager.open(access);
  if ('missing' in opened) missing = opened.missing;
  else manager = opened;
}, UP_MS);
afterAll(async () => {
  await manager?.stop();
  await access?.stop();
}, UP_MS);

async function withCertManager(context: TestContext): Promise<void> {
  // skip: control plane and cert-manager are built by `make e2e`
  if (missing !== null) context.skip(missing);
  context.onTestFailed(() => access.keepLogs());
  await manager.replace('Sha1');
  context.onTestFinished(async () => {
    const { failure } = manager;
    await manager.stop();
    expect(failure).toBe(null);
  });
}

/** An issuer below a root, as a company has one: Issuer `mail-ca`. */
const companyIssuer = (namespace: string): readonly KubeObject[] => [
  ...companyRoot(namespace),
  authorityOf(namespace, ISSUER, 'company-root'),
  issuerBy(namespace, ISSUER),
];

async function secret({ namespace }: MailClusterInPods, name: string): Promise<Readonly<Record<string, string>>> {
  const { data } = await access.client.get(pathOf(namespace, 'secrets', name));
  return Object.fromEntries(
    Object.entries(data as Readonly<Record<string, string>>).map(([key, value]) => [
      key,
      Buffer.from(value, 'base64').toString(),
    ]),
  );
}

/** As people make one by hand: the Secret has no `ca.crt`, so that nobody knows the root. */
async function applyIssuerWithoutRoot(cluster: MailClusterInPods): Promise<void> {
  const { namespace } = cluster;
  await applyAll(access, [...companyRoot(namespace), authorityOf(namespace, 'below', 'company-root')]);
  const { 'tls.crt': crt, 'tls.key': key } = await until(
    'an authority below the root',
    async () => await secret(cluster, 'below').catch(() => null),
    LONG,
  );
  const given = { apiVersion: 'v1', kind: 'Secret', type: 'kubernetes.io/tls', metadata: { name: ISSUER, namespace } };
  await applyAll(access, [{ ...given, stringData: { 'tls.crt': crt, 'tls.key': key } }, issuerBy(namespace, ISSUER)]);
}

const first = (pem = ''): X509Certificate => new X509Certificate(certificatesIn(pem)[0] ?? '');

const processes = (cluster: MailClusterInPods): readonly string[] =>
  cluster.pods.running.map(({ name, pod, pid }) => `${name} ${pod.metadata.uid} ${pid}`).sort();

const authorityOfNow = async (cluster: MailClusterInPods): Promise<X509Certificate> =>
  first((await secret(cluster, AUTHORITY))['tls.crt']);

/** Every pod has a certificate by the key of this authority, and trusts one root, of that key. */
async function signedBy(cluster: MailClusterInPods, { publicKey }: X509Certificate): Promise<void> {
  for (const one of cluster.pods.running) {
    const isTransport = one.pod.metadata.labels['mailcluster.dev/role'] === 'transport';
    const directory = isTransport ? `${PATH.data}/tls` : PATH.volatileTls;
    const certificate = first(await readFile(one.path(`${directory}/tls.crt`), 'utf8'));
    const trusted = certificatesIn(await readFile(one.path(`${PATH.trust}/ca.crt`), 'utf8'));
    const signed = [certificate, ...trusted.map(first)].map((each) => each.verify(publicKey));
    expect({ pod: one.name, signed }).toEqual({ pod: one.name, signed: [true, true] });
  }
}

/** What comes after another in the Secret. */
const another = (cluster: MailClusterInPods, { serialNumber }: X509Certificate): Promise<X509Certificate> =>
  until(
    'another certificate of the authority',
    async () => {
      const found = await authorityOfNow(cluster);
      return found.serialNumber !== serialNumber && found;
    },
    LONG,
  );

/** Connections of now outlive any change of certificates: this member has to make all of its own anew. */
async function comesAgain(cluster: MailClusterInPods): Promise<string> {
  const [member = ''] = await cluster.members('portland');
  await cluster.pods.find(member).crash();
  await cluster.settled();
  return member;
}

const without = (running: readonly string[], member: string): readonly string[] =>
  running.filter((one) => !one.startsWith(`${member} `));

it('says that an Issuer is not there, heals when it comes, whose root nobody need know; a renewed authority, with another key identifier too, is taken without a restart, and mail flows', async (context) => {
  await withCertManager(context);
  const certificates = { issuerRef: { name: ISSUER } };
  const cluster = await mailClusterInPods(access, context, { replicas: [2, 1], spec: { certificates } });
  const { message } = await cluster.condition('CertificatesValid', { reason: 'AuthorityMissing' });
  expect(message).toContain(`Issuer ${ISSUER} has not issued Certificate ${AUTHORITY} yet`);
  await applyIssuerWithoutRoot(cluster);
  await cluster.settled();
  await cluster.condition('CertificatesValid', { status: 'True' });
  let authority = await authorityOfNow(cluster);
  expect(authority.issuer).toBe('CN=below');
  await signedBy(cluster, authority);
  await cluster.somewhereToGo(20_000);
  await cluster.send(10, 'issued');
  for (const identifiers of ['Sha1', 'Sha256'] as const) {
    await manager.replace(identifiers);
    const running = processes(cluster);
    await manager.renew(cluster.namespace, AUTHORITY);
    authority = await another(cluster, authority);
    await cluster.send(10, `renewed${identifiers}`);
    const member = await comesAgain(cluster);
    expect(without(processes(cluster), member)).toEqual(without(running, member));
    await cluster.condition('CertificatesValid', { status: 'True' });
    await signedBy(cluster, authority);
    await cluster.send(10, `again${identifiers}`);
  }
  await cluster.balanced();
}, 400_000);

it('a cluster with an authority of its own is put under an Issuer: the same key, nobody restarts, mail flows', async (context) => {
  await withCertManager(context);
  await manager.replace('Sha256');
  const cluster = await mailClusterInPods(access, context, { replicas: [2, 1] });
  await applyAll(access, companyIssuer(cluster.namespace));
  await cluster.settled();
  await cluster.somewhereToGo(20_000);
  const running = processes(cluster);
  const own = await authorityOfNow(cluster);
  await cluster.patch({ certificates: { issuerRef: { name: ISSUER } } });
  // It takes a Secret that is there for its own; signed anew by an Issuer it is when somebody asks, or when it is to be renewed.
  const isAsked = async () => (await manager.readiness(cluster.namespace, AUTHORITY)) === 'True';
  await until('cert-manager to have the Certificate in hand', isAsked, LONG);
  await manager.renew(cluster.namespace, AUTHORITY);
  const authority = await another(cluster, own);
  expect(authority.issuer).toBe(`CN=${ISSUER}`);
  expect(authority.verify(own.publicKey)).toBe(false);
  await signedBy(cluster, own);
  await cluster.send(10, 'under');
  expect(processes(cluster)).toEqual(running);
  await comesAgain(cluster);
  await signedBy(cluster, authority);
  await cluster.condition('CertificatesValid', { status: 'True' });
  await cluster.send(10, 'again');
  await cluster.balanced();
}, 300_000);

it('who gets a certificate from the same Issuer, with the name of the operator in it, is nobody here', async (context) => {
  await withCertManager(context);
  const certificates = { issuerRef: { name: ISSUER } };
  const cluster = await mailClusterInPods(access, context, { replicas: [1, 1], spec: { certificates } });
  const { namespace } = cluster;
  await applyAll(access, [
    ...companyIssuer(namespace),
    {
      ...authorityOf(namespace, 'somebody', ISSUER),
      spec: {
        ...{ secretName: 'somebody', commonName: 'somebody', issuerRef: { name: ISSUER } },
        privateKey: { algorithm: 'ECDSA', size: 256 },
        usages: ['digital signature', 'client auth', 'server auth'],
        uris: ['mailcluster://contoso/operator/mailcluster-operator'],
      },
    },
  ]);
  await cluster.settled();
  await cluster.somewhereToGo(20_000, 2);
  await cluster.send(10, 'issued');
  await cluster.balanced();
  const somebody = await until(
    'a certificate for somebody else',
    async () => await secret(cluster, 'somebody').catch(() => null),
    LONG,
  );
  const [member = ''] = await cluster.members('seattle');
  const url = `https://${cluster.pods.find(member).machine.address}:${PORT.admin}`;
  const ca = (await access.client.get(pathOf(namespace, 'configmaps', 'contoso-trust'))).data['ca.crt'];
  const { 'tls.crt': certificatePem = '', 'tls.key': keyPem = '' } = await secret(cluster, AUTHORITY);
  const operator = { cluster: 'contoso', role: 'operator', name: 'mailcluster-operator', hosts: [], days: 1 } as const;
  const real = await issueCertificate(await loadAuthority({ certificatePem, keyPem }), operator);
  const ask = (cert = '', key = '') => askMember(url, '/v1/status', { ca, cert, key, cluster: 'contoso' }, member);
  expect(await ask(real.certificatePem, real.keyPem)).toMatchObject({ kind: 'answer' });
  expect(first(somebody['tls.crt']).subjectAltName).toBe(first(real.certificatePem).subjectAltName);
  expect(await ask(somebody['tls.crt'], somebody['tls.key'])).toEqual({
    ...{ kind: 'unreachable', member },
    reason: 'ECONNRESET',
  });
}, 300_000);
