/** What people get wrong, on real kubelets (issue: bad input): each ends in words that name the thing where the person looks, and heals when it is put right. */
import { join } from 'node:path';
import { afterAll, expect, it, type TestContext } from 'vitest';
import type { KubeObject } from '../../cluster/kube-client.ts';
import { ROOT } from '../../house/sources.ts';
import { until } from '../../house/until.ts';
import { CLUSTER_CHART, OPERATOR_CHART, TWO_SITES } from '../../rigs/helm.ts';
import { testCertificate } from '../../rigs/test-certificate.ts';
import { MailOnNodes } from '../mail-on-nodes.ts';
import { IMAGE_TAG, LONG, type NodeCluster, nodeCluster, RELEASE, SYSTEM } from '../node-cluster.ts';

const open = nodeCluster();
const TIMEOUT_MS = 600_000;
const SCHEMA_VERSION = 'mailcluster.dev/schema-version';
const opened = new Set<MailOnNodes>();
afterAll(async () => {
  for (const one of opened) await one.close();
}, LONG.deadlineMs);

/** Only one is there at a time: they share this machine's mailbox ports. */
async function fresh(context: TestContext): Promise<{ readonly cluster: NodeCluster; readonly mail: MailOnNodes }> {
  const cluster = await open(context);
  await cluster.operator();
  const mail = await MailOnNodes.prepare(cluster, 'wrong');
  opened.add(mail);
  context.onTestFinished(async () => {
    opened.delete(mail);
    await mail.close();
  }, LONG.deadlineMs);
  return { cluster, mail };
}

/** Words in the message of a condition. */
async function says(mail: MailOnNodes, type: string, words: RegExp): Promise<string> {
  return await until(
    `${type} to say ${words}`,
    async () => {
      const { conditions = [] } = await mail.status();
      const shown = (conditions as { type: string; status: string; reason: string; message: string }[])
        .filter((one) => one.type === type)
        .map(({ status, reason, message }) => `${status} ${reason} ${message}`)
        .join();
      if (words.test(shown)) return shown;
      throw new Error(shown);
    },
    LONG,
  );
}

/** Every volume that nobody has is of that class from now on. */
async function offerAs({ access }: NodeCluster, from: string, to: string): Promise<void> {
  const volumes = (await access.client.get('/api/v1/persistentvolumes')).items as KubeObject[];
  for (const { metadata, spec, status } of volumes) {
    if (spec.storageClassName !== from || status.phase !== 'Available') continue;
    const path = `/api/v1/persistentvolumes/${metadata.name}`;
    await access.client.mergePatch(path, { spec: { storageClassName: to } });
  }
}

it('wrong values are refused by Helm with the path of each', async (context) => {
  const cluster = await open(context);
  const wrong = await cluster.values('wrong', { replicas: -1, log: { level: 'chatty' }, imag: {} });
  const { code, err } = await cluster.helm('install', 'wrong', OPERATOR_CHART, '-n', SYSTEM, '-f', wrong);
  expect(code).not.toBe(0);
  for (const words of ['replicas', 'log', 'imag']) expect(err).toContain(words);
  const two = await cluster.values('two', { sites: [{ name: 'Seattle!' }] });
  const { code: second, err: said } = await cluster.helm('install', 'two', CLUSTER_CHART, '-n', 'default', '-f', two);
  expect(second).not.toBe(0);
  expect(said).toMatch(/sites/);
});

it(
  'the chart installed twice is refused, in the same namespace and in another; the first one goes on',
  async (context) => {
    const cluster = await open(context);
    await cluster.operator();
    const again = ['install', 'another', OPERATOR_CHART, '--set', `image.tag=${IMAGE_TAG}`];
    for (const namespace of [SYSTEM, 'default']) {
      const { code, err } = await cluster.helm(...again, '-n', namespace);
      expect(code).not.toBe(0);
      expect(err).toContain(
        `release "${RELEASE}" in namespace "${SYSTEM}" is an operator of all namespaces already (ClusterRole`,
      );
      expect(err).toContain('upgrade that release, uninstall it first, or set watchNamespace in both');
    }
    await cluster.mustHelm('test', 'mailcluster-operator', '--namespace', SYSTEM, '--timeout', '120s');
  },
  TIMEOUT_MS,
);

it(
  'a storage class that is not there, one that binds nothing, an image that is not there, and a zone that no node has: conditions name them; each heals when it is put right',
  async (context) => {
    const cluster = await open(context);
    // Called last, when the volumes are free again.
    context.onTestFinished(() => offerAs(cluster, 'fast', 'local'), LONG.deadlineMs);
    const { mail } = await fresh(context);
    await cluster.operator('--set', 'membersImage=localhost/mailcluster:nowhere');
    const storage = { size: '1Gi', storageClassName: 'fast' };
    await mail.apply({ transport: { storage } });
    await says(mail, 'Progressing', /^False .*there is no StorageClass fast/);
    await cluster.access.client.mustApply({
      ...{ apiVersion: 'storage.k8s.io/v1', kind: 'StorageClass', metadata: { name: 'fast' } },
      ...{ provisioner: 'kubernetes.io/no-provisioner', volumeBindingMode: 'WaitForFirstConsumer' },
    });
    // It binds nothing: no volume is of it, and nobody makes one.
    await says(mail, 'Progressing', /^False .*Unschedulable .*persistent volumes? to bind/);
    // Before there is such a class, claims would be bound to volumes of any zone.
    await offerAs(cluster, 'local', 'fast');
    await says(mail, 'Progressing', /^False .*ErrImageNeverPull/);
    const described = await cluster.kubectl('describe', 'mc', 'contoso', '-n', mail.namespace);
    expect(described).toMatch(/ErrImageNeverPull/);
    await cluster.kubectl('label', 'node', 'n2', 'topology.kubernetes.io/zone-', '--overwrite');
    await says(mail, 'Progressing', /site portland: no node has the labels topology\.kubernetes\.io\/zone=west-2/);
    await cluster.kubectl('label', 'node', 'n2', 'topology.kubernetes.io/zone=west-2', '--overwrite');
    await cluster.operator('--set', 'membersImage=');
    await mail.settled();
    await mail.somewhereToGo(4);
    await mail.send(20, 'after everything was put right');
    await mail.balanced('after everything was put right');
  },
  TIMEOUT_MS,
);

it(
  'a Secret with a broken certificate: the condition names it, mail goes on with the former; a good one heals it',
  async (context) => {
    const { cluster, mail } = await fresh(context);
    const secret = (data: Readonly<Record<string, string>>) => ({
      ...{ apiVersion: 'v1', kind: 'Secret', type: 'kubernetes.io/tls' },
      metadata: { name: 'mail-tls', namespace: mail.namespace },
      stringData: data,
    });
    const { cert, key } = await testCertificate('mail.contoso.com');
    const good = { 'tls.crt': cert, 'tls.key': key };
    await cluster.access.client.mustApply(secret(good));
    const listeners = [{ name: 'smtp', port: 25, tls: 'StartTls' }];
    await mail.apply({ frontend: { replicas: 2, tlsSecretRef: { name: 'mail-tls' }, listeners } });
    await mail.settled();
    await mail.condition('CertificatesValid', { status: 'True' });
    await mail.somewhereToGo(4);
    const load = await mail.load({ perSecond: 10 });
    await load.goesOn(20, LONG.deadlineMs);
    await cluster.access.client.mustApply(secret({ 'tls.crt': 'not a certificate', 'tls.key': 'no key' }));
    const said = await says(
      mail,
      'CertificatesValid',
      /^False InvalidCertificate .*Secret mail-tls: tls\.crt is no certificate/,
    );
    console.log(`broken certificate: CertificatesValid ${said}`);
    await load.goesOn(50, LONG.deadlineMs);
    await cluster.access.client.mustApply(secret(good));
    await mail.condition('CertificatesValid', { status: 'True' });
    expect(mail.add(await load.stop(), 'a broken certificate').refusedAnew).toEqual([]);
    await mail.balanced('a broken certificate');
  },
  TIMEOUT_MS,
);

/** As a person would read it. */
const operatorLog = (cluster: NodeCluster): Promise<string> =>
  cluster.kubectl('logs', '-n', SYSTEM, '--selector', 'app.kubernetes.io/name=mailcluster-operator', '--tail=-1');

it(
  'a namespace that no operator looks at, an older CRD, an operator without rights: notes, condition and log say so, mail flows, each heals when it is put right',
  async (context) => {
    const { cluster, mail } = await fresh(context);
    await cluster.operator('--set', 'watchNamespace=default');
    const settings = [
      ...['transport.storage.size=1Gi', 'transport.storage.storageClassName=local'],
      ...['transport.resources.requests.cpu=200m', 'frontend.resources.requests.cpu=200m'],
    ].map((one) => `spec.${one}`);
    const lmtp = [0, 1]
      .map((at) => `databases.db01.copies[${at}].lmtp=${mail.lmtp(at === 0 ? 'sea' : 'pdx')}`)
      .join(',');
    const notes = await cluster.mustHelm(
      ...['install', 'contoso', CLUSTER_CHART, '-n', mail.namespace, '-f', TWO_SITES],
      ...['--set', `${settings.join(',')},${lmtp}`],
    );
    expect(notes).toContain(
      'No condition appears: no operator looks at this namespace (chart mailcluster-operator, its value watchNamespace).',
    );
    await cluster.mustHelm('test', 'mailcluster-operator', '--namespace', SYSTEM, '--timeout', '120s');
    expect([await mail.status(), await mail.names('statefulsets')]).toEqual([{}, []]);
    await cluster.operator();
    await mail.settled();
    await mail.somewhereToGo(4);
    const load = await mail.load({ perSecond: 5 });

    await cluster.kubectl('annotate', 'crd', 'mailclusters.mailcluster.dev', `${SCHEMA_VERSION}=0`, '--overwrite');
    await says(
      mail,
      'Progressing',
      /^False CrdTooOld .*the CRD has schema 0, this operator .* knows 1: .*kubectl apply/,
    );
    expect(await cluster.kubectl('describe', 'mc', 'contoso', '-n', mail.namespace)).toMatch(/CrdTooOld/);
    await cluster.kubectl('apply', '--server-side', '--force-conflicts', '-f', join(ROOT, 'crds'));
    await mail.settled();

    await cluster.mustHelm('uninstall', RELEASE, '-n', SYSTEM, '--wait');
    await expect(cluster.operator('--set', 'rbac.create=false', '--timeout', '20s')).rejects.toThrow(
      new RegExp(`Deployment/${SYSTEM}/${RELEASE} not ready|context deadline exceeded`),
    );
    expect(await operatorLog(cluster)).toMatch(
      /nodes is forbidden: User \\"system:serviceaccount:mailcluster-system:mailcluster-operator\\" cannot list resource/,
    );
    await load.goesOn(40, LONG.deadlineMs);
    await cluster.operator();
    await mail.settled();
    expect(mail.add(await load.stop(), 'nobody looks, or may not').refusedAnew).toEqual([]);
    await mail.balanced('nobody looks, or may not');
  },
  TIMEOUT_MS,
);
