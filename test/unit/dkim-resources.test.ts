/** DKIM keys from the resource to what pods and processes get: what is refused and noted, Secrets as files, what the operator says about a key that cannot sign. */
import { generateKeyPairSync } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseTopologyDocument } from '../../common/config-parse.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { dkimConfig } from '../../operator/dkim.ts';
import { SecretStore } from '../../operator/local/credentials.ts';
import { wantedSecrets } from '../../operator/local/plan.ts';
import { prepareStateDirectory, statePaths } from '../../operator/local/state-directory.ts';
import { createReader, parseResources } from '../../operator/resource/load.ts';
import { transportConfig } from '../../operator/resources/configs.ts';
import { connectorMounts } from '../../operator/resources/transports.ts';
import { signingKeys } from '../../operator/secret-view.ts';
import { simTopology } from '../sim/topology.ts';
import { OPERATOR, resourcesOf, TWO_SITES } from './cluster-state.ts';
import { converge, running } from './operator-rig.ts';

const pem = (key: ReturnType<typeof generateKeyPairSync>['privateKey']): string =>
  String(key.export({ type: 'pkcs8', format: 'pem' }));
const GOOD = pem(generateKeyPairSync('ed25519').privateKey);
const secret = (data: Readonly<Record<string, string>>): string =>
  `---\n${JSON.stringify({ apiVersion: 'v1', kind: 'Secret', metadata: { name: 'dkim' }, stringData: data })}\n`;
const OUT = '  sendConnectors: [{ name: out, addressSpaces: [{ domain: "*" }], delivery: MX }]\n';
const dkim = (keys: string, more = ''): string => `${OUT}  dkim: { keys: [${keys}]${more} }\n`;
const key = (selector: string, more = ''): string =>
  `{ domain: contoso.com, selector: ${selector}, secretRef: { name: dkim, key: ${selector}.key }${more} }`;
const reader = createReader();

function load(spec: string, secrets = '') {
  const cluster = `apiVersion: mailcluster.dev/v1alpha1
kind: MailCluster
metadata: { name: contoso }
spec:
  sites: [{ name: east }]
  dags: [{ name: dag1, members: [{ site: east, replicas: 2 }] }]
  acceptedDomains: [{ name: contoso.com, type: InternalRelay }]
  frontend: { listeners: [{ name: smtp, port: 25, relayFrom: [10.0.0.0/8] }, { name: other, port: 26 }] }
${spec}`;
  return parseResources([{ file: 'f', text: `${cluster}${secrets}` }], reader);
}
function problems(spec: string, secrets = ''): readonly string[] {
  const result = load(spec, secrets);
  return result.ok ? [] : result.problems.map(({ path, problem, fix }) => `${path}: ${problem}; ${fix}`);
}

describe('keys among the files', () => {
  it.each([
    ['no PEM', 'v=DKIM1; k=rsa; p=MIGf', 'is no private key in PEM'],
    [
      'a public key',
      String(generateKeyPairSync('ed25519').publicKey.export({ type: 'spki', format: 'pem' })),
      'has a passphrase',
    ],
    [
      'another kind',
      pem(generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey),
      'is a key of type ec, not RSA or Ed25519',
    ],
    [
      'too short',
      pem(generateKeyPairSync('rsa', { modulusLength: 768 }).privateKey),
      'is an RSA key of 768 bits, and 1024 are the least',
    ],
  ])('%s is refused, with field and fix', (_title, value, says) => {
    const [first, ...rest] = problems(dkim(key('s1')), secret({ 's1.key': value }));
    expect(first).toMatch(
      /^spec\.dkim\.keys\[0\]\.secretRef\.key: s1\.key of Secret dkim .*; put a private key in PEM there: openssl /,
    );
    expect(first).toContain(says);
    expect(rest).toEqual([]);
    expect(signingKeys({ 's1.key': Buffer.from(value).toString('base64') })).toEqual([]);
  });

  it('two that would sign from the same moment are refused, however it is written', () => {
    const both = (a: string, b: string) =>
      problems(dkim(`${key('s1', a)}, ${key('s2', b)}`), secret({ 's1.key': GOOD, 's2.key': GOOD }));
    const [at, same] = [', signsFrom: "2026-03-01T00:00:00Z"', ', signsFrom: "2026-03-01T01:00:00+01:00"'];
    const refused = expect.stringMatching(
      /^spec\.dkim\.keys\[1\]\.signsFrom: selectors s1 and s2 of contoso\.com sign from the same moment.*; give the newer one a signsFrom/,
    );
    expect(both('', '')).toEqual([refused]);
    expect(both(at, same)).toEqual([refused]);
    expect(both('', at)).toEqual([]);
  });

  it('what is missing is named; a cluster that sends nothing out is noted', () => {
    expect(problems(dkim(key('s1')))).toEqual([
      expect.stringContaining('there is no Secret dkim in namespace default'),
    ]);
    expect(problems(dkim(key('s1')), secret({ other: GOOD }))).toEqual([
      expect.stringContaining('Secret dkim has no key s1.key'),
    ]);
    const result = load(dkim(key('s1')).replace(OUT, ''), secret({ 's1.key': GOOD }));
    expect(result.ok && result.notes.map(({ problem }) => problem)).toContain(
      'nothing is signed: there is no send connector, and what stays here needs no signature',
    );
  });
});

it('the topology document has what signs, and a former program reads it without', () => {
  const later = key('s2', ', signsFrom: "2026-03-01T00:00:00Z"');
  const result = load(
    dkim(`${later}, ${key('s1')}`, ', failurePolicy: SendUnsigned'),
    secret({ 's1.key': GOOD, 's2.key': GOOD }),
  );
  if (!result.ok || result.clusters[0] === undefined) throw new Error(JSON.stringify(result));
  const found = dkimConfig(result.clusters[0]);
  if (found === null) throw new Error('nothing is signed');
  expect(found).toEqual({
    failurePolicy: 'SendUnsigned',
    keys: [
      { domain: 'contoso.com', selector: 's1', secret: 'dkim', key: 's1.key', signsFromMs: 0 },
      { domain: 'contoso.com', selector: 's2', secret: 'dkim', key: 's2.key', signsFromMs: Date.UTC(2026, 2, 1) },
    ],
    relayFrom: [{ listener: 'smtp', networks: ['10.0.0.0/8'] }],
  });
  const document = simTopology({ sites: [2], dag: true, frontends: 1 });
  expect(parseTopologyDocument({ ...document, dkim: found })).toMatchObject({ kind: 'ok', value: { dkim: found } });
  const plain = parseTopologyDocument(document);
  expect(plain.kind === 'ok' && Object.hasOwn(plain.value, 'dkim')).toBe(false);
  expect(parseTopologyDocument({ ...document, dkim: { ...found, failurePolicy: 'Maybe' } })).toMatchObject({
    ...{ kind: 'error', path: 'dkim.failurePolicy' },
  });
});

it('on Kubernetes a Secret is mounted once for all its keys, and pods start without it', () => {
  const owner = { name: 'contoso', namespace: 'mail', uid: 'cluster-uid' };
  const { cluster } = resourcesOf(
    `${TWO_SITES}${dkim(`${key('s1')}, ${key('s2', ', signsFrom: "2026-03-01T00:00:00Z"')}`)}`,
  );
  expect(connectorMounts(cluster)).toEqual([
    {
      path: '/etc/mailcluster/connectors/dkim',
      readOnly: true,
      volume: { name: 'connector-0', secret: { secretName: 'dkim', defaultMode: 0o440, optional: true } },
    },
  ]);
  expect(transportConfig(cluster, owner, OPERATOR, 'group')).toMatchObject({
    credentialsDirectory: '/etc/mailcluster/connectors',
  });
});

it('on one machine each key becomes a file of its own, for its owner only', async () => {
  const root = await mkdtemp(join(tmpdir(), 'mailcluster-dkim-keys-'));
  try {
    const paths = statePaths(root);
    await prepareStateDirectory(paths);
    const read = load(dkim(key('s1')), secret({ 's1.key': GOOD, 'not-asked-for': 'x' }));
    if (!read.ok || read.clusters[0] === undefined) throw new Error('refused');
    const store = new SecretStore(paths, systemRandom);
    const wanted = wantedSecrets(read.clusters[0]);
    expect((await store.write(wanted, read.secrets)).changed).toBe(true);
    expect(await readFile(join(paths.secrets, 'connectors', 'dkim', 's1.key'), 'utf8')).toBe(GOOD);
    await expect(readFile(join(paths.secrets, 'connectors', 'dkim', 'not-asked-for'))).rejects.toThrow('ENOENT');
    expect((await store.write(wanted, read.secrets)).changed).toBe(false);
  } finally {
    await rm(root, { recursive: true, force: true });
  }
});

describe('the operator', () => {
  const keys = ['s1.key', 's2.key'];
  const spec = dkim(`${key('s1')}, ${key('s2', ', signsFrom: "2026-03-01T00:00:00Z"')}`);

  it('says which key cannot sign and what becomes of the mail, holds nothing else up, and is content when it can', () => {
    const model = running(`${TWO_SITES}${spec}`);
    model.secrets = [{ name: 'dkim', keys, signingKeys: ['s1.key'] }];
    converge(model);
    const condition = model.condition('Progressing');
    expect(condition).toMatchObject({ status: 'False', reason: 'InvalidDkimKey' });
    expect(condition?.message).toMatch(
      /spec\.dkim\.keys\[1\]\.secretRef: key s2\.key of Secret dkim cannot sign \(s2\._domainkey\.contoso\.com\), its mail waits; put a private key/,
    );
    expect(model.memberNames).toHaveLength(4);
    model.secrets = [{ name: 'dkim', keys, signingKeys: keys }];
    converge(model);
    expect(model.condition('Progressing')).toMatchObject({ status: 'True', reason: 'Converged' });
  });

  it('misses every key of a Secret that several are in', () => {
    const model = running(`${TWO_SITES}${spec}`);
    model.secrets = [{ name: 'dkim', keys: ['s1.key'], signingKeys: ['s1.key'] }];
    converge(model);
    expect(model.condition('Progressing')).toMatchObject({
      ...{ status: 'False', reason: 'MissingSecretKey', message: expect.stringContaining('s2.key') },
    });
  });

  it('keeps of a Secret which of its keys can sign, not what they are', () => {
    const base64 = (text: string): string => Buffer.from(text).toString('base64');
    expect(signingKeys({ 's1.key': base64(GOOD), text: base64('x'), empty: '' })).toEqual(['s1.key']);
    expect(signingKeys(undefined)).toEqual([]);
  });
});
