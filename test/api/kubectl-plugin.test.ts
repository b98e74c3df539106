/** `kubectl mailcluster` from end to end: the real kubectl, the real API server, real transports behind the pods, people with real roles. */
import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { afterAll, beforeAll, expect, inject, type TestContext, test } from 'vitest';
import { createCertificateRequest, generateKeys, keyToPem } from '../../common/platform/certificate-request.ts';
import { peerOfSubjectAltName } from '../../common/platform/peer-identity.ts';
import { ApiAccess } from '../cluster/api-access.ts';
import { KubeClient, type KubeObject } from '../cluster/kube-client.ts';
import { until } from '../house/until.ts';
import { makeMessage, notAccepted, type TestMessage } from '../process/ledger.ts';
import { sendAll } from '../process/smtp-sender.ts';
import { NAME, type PluginRig, pluginRig } from './kubectl-plugin-rig.ts';
import { ownOperator, PATIENCE } from './operator-rig.ts';
import type { Person } from './people.ts';

const START_MS = 180_000;
const TIMEOUT_MS = 120_000;
const VIEWER = ['mailcluster-certificate-requester', 'mailcluster-viewer'] as const;
/** None of these may leave in a bundle. */
const PLANTED = {
  subject: 'planted-subject-5d1c',
  body: 'planted-body-77aa',
  secret: 'planted-secret-90ef',
  localPart: 'planted-person',
} as const;

const closers: (() => unknown)[] = [];
let made: PluginRig | null = null;
let reader: Person;
let admin: Person;
let outsider: Person;
let id = '';

function letter(): TestMessage {
  const plain = makeMessage('plugin', `${PLANTED.localPart}@example.com`, 3_000);
  const text = plain.content.toString('latin1').replace('Subject: ledger plugin', `Subject: ${PLANTED.subject}`);
  return { ...plain, content: Buffer.from(`${text}${PLANTED.body}\r\n`, 'latin1') };
}

const shared = inject('sharedCluster');

beforeAll(async () => {
  if ('missing' in shared) return;
  const access = new ApiAccess(shared);
  closers.push(() => access.client.close());
  const lastApplied = JSON.stringify({ spec: { password: PLANTED.secret } });
  const rig = await pluginRig(
    access,
    { onTestFinished: (close) => void closers.push(close as () => unknown) },
    { 'kubectl.kubernetes.io/last-applied-configuration': lastApplied },
  );
  reader = await rig.person('reader', ...VIEWER);
  admin = await rig.person('admin', ...VIEWER, 'mailcluster-administrator', 'mailcluster-reporter');
  outsider = await rig.person('outsider', 'mailcluster-certificate-requester');
  const ledger = await sendAll({ targets: () => rig.mail.targets(), messages: [letter()], sessions: 1 });
  expect(notAccepted(ledger)).toEqual([]);
  made = rig;
}, START_MS);

afterAll(async () => {
  for (const close of closers.reverse()) await close();
}, START_MS);

function own(context: TestContext): PluginRig {
  if ('missing' in shared) return context.skip(shared.missing);
  if (made === null) throw new Error('the rig did not come up');
  return made;
}

interface Listed {
  readonly messages: readonly {
    readonly id: string;
    readonly copies: readonly { readonly queue: string; readonly member: string }[];
  }[];
}

test('a reader sees the members, who shadows whom, the queues and the message', {
  timeout: TIMEOUT_MS,
}, async (context) => {
  const rig = own(context);
  const { namespace, members } = rig;
  const { stdout, stderr } = await rig.plugin(reader, 'message', 'list', '-o', 'json');
  expect(stderr).toBe('');
  const [message] = (JSON.parse(stdout) as Listed).messages;
  id = message?.id ?? '';
  expect(id).toMatch(/^[0-9A-Z]{26}$/);
  const primary = message?.copies.find(({ queue }) => queue === 'delivery')?.member ?? '';
  const shadow = message?.copies.find(({ queue }) => queue === 'shadow')?.member ?? '';
  expect(members).toContain(primary);
  expect(members).toContain(shadow);

  const status = await rig.plugin(reader, 'status');
  expect(status.stderr).toBe('');
  expect(status.stdout).toMatch(new RegExp(`^MailCluster ${namespace}/${NAME}, `));
  for (const member of members) expect(status.stdout).toMatch(new RegExp(`^${member} +dag1 +(east|west) +ready `, 'm'));
  expect(status.stdout).toMatch(new RegExp(`^${primary} .*${shadow}:1$`, 'm'));
  // The operator is paused and has not looked at it: that is no secret.
  expect(status.stdout).toMatch(/Paused/);

  const queue = await rig.plugin(reader, 'queue');
  expect(queue).toMatchObject({ code: 0, stderr: '' });
  expect(queue.stdout).toMatch(new RegExp(`^${primary} +delivery .* 1 `, 'm'));
  expect((await rig.plugin(reader, 'trace', id)).stdout).toMatch(/HAREDIRECT|HARECEIVE/);
  const remembered = await rig.plugin(reader, 'trace', '--subject', PLANTED.subject.toUpperCase(), '--since', '1h');
  expect(remembered).toMatchObject({ code: 0, stdout: expect.stringContaining(id), stderr: '' });
  // Of the subject itself nothing is told.
  expect(remembered.stdout).not.toContain(PLANTED.subject);
  expect((await rig.plugin(reader, 'message', 'show', id)).stdout).toContain(`Copy on ${shadow}: shadow`);
  expect(await rig.plugin(reader, 'safety-net', 'count')).toMatchObject({ code: 0 });
});

test('a reader changes nothing, and the refusal names verb and resource', { timeout: TIMEOUT_MS }, async (context) => {
  const rig = own(context);
  const before = await rig.access.client.get(rig.path('mailclusters', NAME));
  const top = rig.members.find((one) => one.endsWith('-1')) ?? '';
  const drain = await rig.plugin(reader, 'drain', top);
  expect(drain).toMatchObject({ code: 1, stdout: '' });
  expect(drain.stderr).toMatch(
    /^Refused: .*cannot patch resource "mailclusters" in API group "mailcluster.dev" in the namespace /,
  );
  expect(drain.stderr.trimEnd().split('\n')).toHaveLength(1);
  const resubmit = await rig.plugin(
    reader,
    'resubmit',
    '--database',
    'db01',
    '--from',
    new Date(Date.now() - 60_000).toISOString(),
  );
  expect(resubmit.code).toBe(1);
  expect(resubmit.stderr).toMatch(/cannot get resource "configmaps"/);
  const after = await rig.access.client.get(rig.path('mailclusters', NAME));
  expect(after.spec).toEqual(before.spec);
  expect((await rig.access.client.get(rig.path('resubmitrequests', ''))).items).toEqual([]);
});

test('whoever may only ask for a certificate gets none, and sees nothing', { timeout: TIMEOUT_MS }, async (context) => {
  const rig = own(context);
  for (const words of [['status'], ['queue'], ['trace', id], ['trace', '--sender', '<>'], ['report']]) {
    const { code, stdout, stderr } = await rig.plugin(outsider, ...words);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(/cannot (list|get) resource "mailclusters".*docs\/cli\.md/);
    expect(stderr.trimEnd().split('\n')).toHaveLength(1);
  }
  // Everything but the right to view: pods and port-forward alone do not open an admin API.
  const apiVersion = 'rbac.authorization.k8s.io/v1';
  const metadata = { name: 'no-view', namespace: rig.namespace };
  await rig.access.client.mustApply({
    ...{ apiVersion, kind: 'Role', metadata },
    rules: [
      { apiGroups: ['mailcluster.dev'], resources: ['mailclusters'], verbs: ['get', 'list'] },
      { apiGroups: [''], resources: ['pods', 'pods/portforward'], verbs: ['get', 'list', 'create'] },
    ],
  });
  await rig.access.client.mustApply({
    ...{ apiVersion, kind: 'RoleBinding', metadata },
    roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'Role', name: 'no-view' },
    subjects: [{ kind: 'ServiceAccount', name: 'outsider', namespace: rig.namespace }],
  });
  const { code, stdout, stderr } = await rig.plugin(outsider, 'queue');
  expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
  expect(stderr).toContain(`User "${outsider.name}" cannot get resource "mailclusters/view"`);
  const { items } = await rig.access.client.get('/apis/certificates.k8s.io/v1/certificatesigningrequests');
  const theirs = (items as KubeObject[]).filter(({ spec }) => spec.username === outsider.name);
  expect(theirs.length).toBeGreaterThan(0);
  expect(theirs.filter(({ status }) => status?.certificate !== undefined)).toEqual([]);
});

test('one member is away: the others answer, it is named, and the exit code says so', {
  timeout: TIMEOUT_MS,
}, async (context) => {
  const rig = own(context);
  const [away = '', ...others] = rig.members;
  const key = `${rig.namespace}/${away}`;
  const pod = rig.kubelet.pods.get(key);
  if (pod === undefined) throw new Error(`no pod ${key}`);
  rig.kubelet.pods.set(key, { ...pod, ports: {} });
  try {
    const { code, stdout, stderr } = await rig.plugin(reader, 'message', 'list');
    expect(code).toBe(1);
    expect(stdout).toContain(id);
    expect(stderr).toMatch(new RegExp(`^${away} is unreachable: .*connection refused`));
    const status = await rig.plugin(reader, 'status');
    expect(status.code).toBe(1);
    for (const member of others) expect(status.stdout).toMatch(new RegExp(`^${member} .* ready `, 'm'));
    expect(status.stdout).toMatch(new RegExp(`^${away} .* unreachable `, 'm'));
  } finally {
    rig.kubelet.pods.set(key, pod);
  }
});

test('an administrator drains by the resource, and cancels', { timeout: TIMEOUT_MS }, async (context) => {
  const rig = own(context);
  const replicas = async (): Promise<unknown> => {
    const { spec } = await rig.access.client.get(rig.path('mailclusters', NAME));
    return (spec.dags[0].members as KubeObject[]).map((one) => [one.site, one.replicas]);
  };
  const east = rig.members.filter((one) => one.includes('-east-'));
  const [low = '', top = ''] = east;
  expect(await rig.plugin(admin, 'drain', low)).toMatchObject({
    code: 1,
    stderr: expect.stringContaining(`drain ${top} first`),
  });
  expect(await rig.plugin(admin, 'drain', 'nobody-0')).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('there is no member nobody-0'),
  });
  const drained = await rig.plugin(admin, 'drain', top);
  expect(drained).toMatchObject({
    code: 0,
    stderr: '',
    stdout: expect.stringContaining('spec.dags[dag1].members[east].replicas'),
  });
  expect(await replicas()).toEqual([
    ['east', 1],
    ['west', 1],
  ]);
  expect(await rig.plugin(admin, 'drain', top)).toMatchObject({
    code: 0,
    stdout: expect.stringContaining('on its way out already'),
  });
  expect(await rig.plugin(admin, 'drain', top, '--cancel')).toMatchObject({ code: 0, stderr: '' });
  expect(await replicas()).toEqual([
    ['east', 2],
    ['west', 1],
  ]);
  const by = await rig.access.audit.writes(
    (one) => one.resource === 'mailclusters' && one.userAgent.startsWith('kubectl-mailcluster'),
  );
  expect(new Set(by.map((one) => one.verb))).toEqual(new Set(['patch']));
});

test('drain --wait: says how far it is; its end in time, by Ctrl-C and by a cancel leaves the drain as it is', {
  timeout: TIMEOUT_MS,
}, async (context) => {
  const rig = own(context);
  const top = rig.members.filter((one) => one.includes('-east-')).at(-1) ?? '';
  const wanted = async (): Promise<number> =>
    (await rig.access.client.get(rig.path('mailclusters', NAME))).spec.dags[0].members[0].replicas;
  // The operator is paused: nothing comes about.
  const late = await rig.plugin(admin, 'drain', top, '--wait', '--timeout=3s');
  expect(late).toMatchObject({ code: 4, stdout: expect.stringMatching(new RegExp(`^${top}: `, 'm')) });
  expect(late.stderr).toMatch(/is not gone after 3 s .*The drain of .* goes on/);
  expect(await wanted()).toBe(1);
  const progress = new RegExp(`^${top}: `, 'm');
  const interrupted = await rig.watched(admin, ['drain', top, '--wait'], progress, (plugin) => plugin.kill('SIGINT'));
  expect(interrupted).toMatchObject({
    code: 130,
    stderr: expect.stringMatching(/^Not waiting any more\. The drain of /),
  });
  expect(await wanted()).toBe(1);
  let cancelling: Promise<unknown> | null = null;
  const cancelled = await rig.watched(admin, ['drain', top, '--wait', '--timeout=1m'], progress, () => {
    cancelling ??= rig.plugin(admin, 'drain', top, '--cancel');
  });
  expect(await cancelling).toMatchObject({ code: 0 });
  expect(cancelled).toMatchObject({ code: 3, stderr: expect.stringContaining(`The drain of ${top} was cancelled`) });
  expect(await wanted()).toBe(2);
});

test('an administrator resubmits by an object, sees it, and cancels it', { timeout: TIMEOUT_MS }, async (context) => {
  const rig = own(context);
  const from = new Date(Date.now() - 3_600_000).toISOString();
  const made = await rig.plugin(
    admin,
    'resubmit',
    '--database',
    'db01',
    '--from',
    from,
    '--name',
    'again',
    '--dry-run',
  );
  expect(made).toMatchObject({ code: 0, stdout: expect.stringContaining('Resubmit request again is there') });
  const { spec } = await rig.access.client.get(rig.path('resubmitrequests', 'again'));
  expect(spec).toMatchObject({
    clusterRef: { name: NAME },
    selector: { database: 'db01' },
    dryRun: true,
    reason: 'Manual',
  });
  expect((await rig.plugin(reader, 'resubmit', 'list')).stdout).toMatch(/^again +\S+ +database db01 /m);
  expect(await rig.plugin(reader, 'resubmit', 'cancel', 'again')).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('cannot patch resource'),
  });
  expect(await rig.plugin(admin, 'resubmit', 'cancel', 'again')).toMatchObject({ code: 0 });
  expect((await rig.access.client.get(rig.path('resubmitrequests', 'again'))).spec.cancel).toBe(true);
  const unknown = await rig.plugin(admin, 'resubmit', '--database', 'db99', '--from', from);
  expect(unknown).toMatchObject({ code: 1, stderr: 'There is no database db99; there is db01.\n' });
});

test('the report has everything but secrets and mail', { timeout: TIMEOUT_MS }, async (context) => {
  const rig = own(context);
  const { namespace, members } = rig;
  const metadata = { namespace, labels: { 'mailcluster.dev/cluster': NAME } };
  await rig.access.client.mustApply({
    ...{ apiVersion: 'v1', kind: 'Secret', metadata: { ...metadata, name: `${NAME}-users` } },
    stringData: { alice: PLANTED.secret },
  });
  await rig.access.client.mustApply({
    ...{ apiVersion: 'v1', kind: 'ConfigMap', metadata: { ...metadata, name: `${NAME}-config` } },
    data: {
      'a.json': JSON.stringify({
        ledger: { url: `rediss://app:${PLANTED.secret}@redis:6379`, password: PLANTED.secret },
      }),
    },
  });
  const [first = ''] = members;
  const pod = rig.kubelet.pods.get(`${namespace}/${first}`);
  if (pod === undefined) throw new Error(`no pod ${first}`);
  const lines = [
    JSON.stringify({
      msg: 'redis',
      url: `redis://:${PLANTED.secret}@redis`,
      headers: { authorization: `Bearer ${PLANTED.secret}` },
    }),
    `token=${PLANTED.secret}`,
    `550 5.1.1 <${PLANTED.localPart}@example.com>: Subject: ${PLANTED.subject}`,
  ];
  rig.kubelet.pods.set(`${namespace}/${first}`, {
    ...pod,
    log: async () => `${await pod.log()}\n${lines.join('\n')}\n`,
  });
  const file = rig.file('bundle.tar.gz');
  const { code, stdout, stderr } = await rig.plugin(admin, 'report', '-f', file);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expect(stdout).toContain(file);
  const bundle = gunzipSync(readFileSync(file)).toString('utf8');
  for (const wanted of [
    'mailcluster.json',
    'mailboxdatabases.json',
    'pods.json',
    'configmaps.json',
    'events.json',
    'report.json',
    ...members.flatMap((one) => [
      `members/${one}/status.json`,
      `members/${one}/next-hops.json`,
      `pods/${one}/transport.log`,
      `pods/${one}/metrics.txt`,
    ]),
  ])
    expect(bundle).toContain(wanted);
  expect(bundle).toContain('mailcluster_queue_messages');
  expect(bundle).toContain('@example.com');
  expect(Object.entries(PLANTED).filter(([, text]) => bundle.includes(text))).toEqual([]);
  expect(bundle).not.toContain('PRIVATE KEY');
  // A reader gets what a reader may see, and is told what is not in it.
  const less = await rig.plugin(reader, 'report', '-f', rig.file('less.tar.gz'));
  expect(less.code).toBe(1);
  expect(less.stderr).toMatch(/^Not in it: log of .*cannot get resource "pods\/log"/m);
});

test('what is wrong with the question is said in one line', { timeout: TIMEOUT_MS }, async (context) => {
  const rig = own(context);
  const oneLine = async (words: readonly string[], text: RegExp, code = 1): Promise<void> => {
    const result = await rig.kubectl(['mailcluster', ...words]);
    expect([words, result.code]).toEqual([words, code]);
    expect(result.stderr).toMatch(text);
    expect(result.stderr.trimEnd().split('\n')).toHaveLength(1);
  };
  const as = ['--kubeconfig', admin.kubeconfig];
  await oneLine(['status'], /no kubeconfig: .*say --kubeconfig FILE/);
  await oneLine(['status', '--kubeconfig', '/nowhere'], /no kubeconfig: \/nowhere cannot be read/);
  await oneLine(['status', ...as, '--context', 'other'], /no context "other".*kubectl config get-contexts/);
  await oneLine(
    ['status', 'fabrikam', ...as, '-n', rig.namespace],
    /there is no MailCluster fabrikam in namespace .*; there is test/,
  );
  await oneLine(
    ['queue', '--kubeconfig', rig.access.kubeconfig, '-n', 'default'],
    /there is no MailCluster in namespace default; say -n/,
  );
  const everywhere = await rig.kubectl(['mailcluster', 'status', '-A', '--kubeconfig', rig.access.kubeconfig]);
  expect(everywhere.stdout).toMatch(new RegExp(`^${rig.namespace} +${NAME} `, 'm'));
});

test('a certificate says viewer and nothing else, whatever the request says, and not for long', {
  timeout: TIMEOUT_MS,
}, async (context) => {
  const rig = own(context);
  const client = new KubeClient(reader);
  closers.push(() => client.close());
  const base = '/apis/certificates.k8s.io/v1/certificatesigningrequests';
  const key = await keyToPem((await generateKeys()).privateKey);
  const request = Buffer.from(await createCertificateRequest(key, 'mailcluster-operator')).toString('base64');
  const ask = async (name: string, cluster: string | null, seconds = 86_400): Promise<KubeObject> => {
    const annotations = cluster === null ? {} : { 'mailcluster.dev/mailcluster': cluster };
    const spec = {
      ...{ signerName: 'mailcluster.dev/viewer', request, expirationSeconds: seconds },
      usages: ['digital signature', 'client auth'],
    };
    const metadata = { name: `${name}-${rig.namespace}`, annotations };
    await client.must('POST', base, {
      body: { apiVersion: 'certificates.k8s.io/v1', kind: 'CertificateSigningRequest', metadata, spec },
    });
    return await until(
      `an answer to ${name}`,
      async () => {
        const { status } = await client.get(`${base}/${metadata.name}`);
        return (status?.certificate ?? status?.conditions?.some((one: KubeObject) => one.type === 'Denied'))
          ? status
          : null;
      },
      PATIENCE,
    );
  };
  const { certificate } = await ask('long', `${rig.namespace}/${NAME}`);
  const pem = Buffer.from(String(certificate), 'base64').toString('utf8');
  const leaf = new X509Certificate(pem);
  expect(leaf.subjectAltName).toBe(`URI:mailcluster://${NAME}/viewer/long-${rig.namespace}`);
  expect(peerOfSubjectAltName(leaf.subjectAltName, NAME)).toBe(`the certificate is of viewer long-${rig.namespace}`);
  expect(leaf.keyUsage).toEqual(['1.3.6.1.5.5.7.3.2']);
  expect(Date.parse(leaf.validTo) - Date.now()).toBeLessThanOrEqual(3_600_000);
  const denied = async (name: string, cluster: string | null): Promise<string> =>
    String((await ask(name, cluster)).conditions?.[0]?.reason);
  expect(await denied('nowhere', null)).toBe('MailClusterNoCluster');
  expect(await denied('unknown', `${rig.namespace}/fabrikam`)).toBe('MailClusterNoSuchCluster');
});

test('without an operator nobody signs, and the plugin says so; the next one signs what is left', {
  timeout: TIMEOUT_MS,
}, async (context) => {
  const rig = own(context);
  await rig.operator.stop();
  const { code, stderr } = await rig.plugin(reader, 'queue', '--request-timeout', '2s');
  expect(code).toBe(1);
  expect(stderr).toMatch(/the operator has not signed CertificateSigningRequest \S+ in 2 s/);
  // Its approval is there, the certificate is not: as if the operator had died in between.
  const name = /CertificateSigningRequest (\S+)/.exec(stderr)?.[1] ?? '';
  const { client } = rig.access;
  const path = `/apis/certificates.k8s.io/v1/certificatesigningrequests/${name}`;
  const condition = { type: 'Approved', status: 'True', reason: 'Before', message: '' };
  const request = await client.get(path);
  await client.must('PUT', `${path}/approval`, { body: { ...request, status: { conditions: [condition] } } });
  await ownOperator(rig.access, context, rig.namespace, 'next');
  await until('the certificate', async () => (await client.get(path)).status?.certificate, PATIENCE);
});
