/** `spec.arc` from the resource to what pods and processes get: what is refused and noted, its Secret as a file, what the operator says about a key that cannot sign. */
import { generateKeyPairSync } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { parseTopologyDocument } from '../../common/config-parse.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { arcConfig } from '../../operator/dkim.ts';
import { SecretStore } from '../../operator/local/credentials.ts';
import { wantedSecrets } from '../../operator/local/plan.ts';
import { prepareStateDirectory, statePaths } from '../../operator/local/state-directory.ts';
import { createReader, parseResources } from '../../operator/resource/load.ts';
import { connectorMounts } from '../../operator/resources/transports.ts';
import { simTopology } from '../sim/topology.ts';
import { resourcesOf, TWO_SITES } from './cluster-state.ts';
import { converge, running } from './operator-rig.ts';

const GOOD = String(generateKeyPairSync('ed25519').privateKey.export({ type: 'pkcs8', format: 'pem' }));
const secret = (data: Readonly<Record<string, string>>): string =>
  `---\n${JSON.stringify({ apiVersion: 'v1', kind: 'Secret', metadata: { name: 'keys' }, stringData: data })}\n`;
const OUT = '  sendConnectors: [{ name: out, addressSpaces: [{ domain: "*" }], delivery: MX }]\n';
const ARC = '  arc: { domain: contoso.com, selector: a1, secretRef: { name: keys } }\n';
const DKIM = '  dkim: { keys: [{ domain: contoso.com, selector: d1, secretRef: { name: keys, key: KEY } }] }\n';
const reader = createReader();

function load(spec: string, secrets = '', checks = '[ARC]') {
  const cluster = `apiVersion: mailcluster.dev/v1alpha1
kind: MailCluster
metadata: { name: contoso }
spec:
  sites: [{ name: east }]
  dags: [{ name: dag1, members: [{ site: east, replicas: 2 }] }]
  acceptedDomains: [{ name: contoso.com, type: InternalRelay }]
  frontend: { listeners: [{ name: smtp, port: 25, authenticationResults: { checks: ${checks} } }] }
${spec}`;
  return parseResources([{ file: 'f', text: `${cluster}${secrets}` }], reader);
}
function problems(...how: Parameters<typeof load>): readonly string[] {
  const result = load(...how);
  return result.ok ? [] : result.problems.map(({ path, problem, fix }) => `${path}: ${problem}; ${fix}`);
}
function notes(...how: Parameters<typeof load>): readonly string[] {
  const result = load(...how);
  if (!result.ok) throw new Error(JSON.stringify(result.problems));
  return result.notes.flatMap(({ path, problem }) => (path === 'spec.arc' ? [problem] : []));
}
function clusterOf(spec: string, secrets: string) {
  const result = load(spec, secrets);
  if (!result.ok || result.clusters[0] === undefined) throw new Error(JSON.stringify(result));
  return { cluster: result.clusters[0], secrets: result.secrets };
}

it('a key that is not there, or cannot sign, is refused with field and fix', () => {
  expect(problems(OUT + ARC)).toEqual([expect.stringContaining('there is no Secret keys in namespace default')]);
  expect(problems(OUT + ARC, secret({ other: GOOD }))).toEqual([
    expect.stringContaining('Secret keys has no key arc.key'),
  ]);
  expect(problems(OUT + ARC, secret({ 'arc.key': 'v=DKIM1; p=x' }))).toEqual([
    'spec.arc.secretRef.key: arc.key of Secret keys is no private key in PEM; put a private key in PEM there: openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048',
  ]);
});

it('a cluster that could never seal is noted, one that can is not', () => {
  const keys = secret({ 'arc.key': GOOD });
  expect(notes(OUT + ARC, keys)).toEqual([]);
  expect(notes(ARC, keys)).toEqual([
    'nothing is sealed: there is no send connector, and what stays here needs no seal',
  ]);
  expect(notes(OUT + ARC, keys, '[SPF, DKIM]')).toEqual([
    'nothing is sealed: no listener finds out what the chain of a message is',
  ]);
});

it('the topology document has it, a former one reads as it did, and one without is not changed', () => {
  const found = arcConfig(clusterOf(OUT + ARC, secret({ 'arc.key': GOOD })).cluster);
  expect(found).toEqual({
    ...{ failurePolicy: 'Defer', domain: 'contoso.com', selector: 'a1', secret: 'keys', key: 'arc.key' },
  });
  const document = simTopology({ sites: [2], dag: true, frontends: 1 });
  expect(parseTopologyDocument({ ...document, arc: found })).toMatchObject({ kind: 'ok', value: { arc: found } });
  const plain = parseTopologyDocument(document);
  expect(plain.kind === 'ok' && Object.hasOwn(plain.value, 'arc')).toBe(false);
  expect(parseTopologyDocument({ ...document, arc: { ...found, failurePolicy: 'SendUnsigned' } })).toMatchObject({
    ...{ kind: 'error', path: 'arc.failurePolicy' },
  });
});

it('its Secret is mounted, once for both kinds of keys; on one machine the key is a file', async () => {
  const both = OUT + ARC + DKIM.replace('KEY', 'arc.key');
  expect(connectorMounts(resourcesOf(`${TWO_SITES}${both}`).cluster).map(({ path }) => path)).toEqual([
    '/etc/mailcluster/connectors/keys',
  ]);
  const root = await mkdtemp(join(tmpdir(), 'mailcluster-arc-keys-'));
  try {
    const paths = statePaths(root);
    await prepareStateDirectory(paths);
    for (const spec of [OUT + ARC, both]) {
      const { cluster, secrets } = clusterOf(spec, secret({ 'arc.key': GOOD }));
      await new SecretStore(paths, systemRandom).write(wantedSecrets(cluster), secrets);
      expect(await readFile(join(paths.secrets, 'connectors', 'keys', 'arc.key'), 'utf8')).toBe(GOOD);
    }
  } finally {
    await rm(root, { recursive: true, force: true });
  }
});

it('the operator says which key cannot sign and what becomes of the mail, holds nothing else up, and is content when it can', () => {
  const model = running(`${TWO_SITES}${OUT}${ARC}${DKIM.replace('KEY', 'd1.key')}`);
  const keys = ['arc.key', 'd1.key'];
  model.secrets = [{ name: 'keys', keys: ['d1.key'], signingKeys: ['d1.key'] }];
  converge(model);
  expect(model.condition('Progressing')).toMatchObject({
    ...{ status: 'False', reason: 'MissingSecretKey', message: expect.stringContaining('arc.key') },
  });
  model.secrets = [{ name: 'keys', keys, signingKeys: ['d1.key'] }];
  converge(model);
  expect(model.condition('Progressing')).toMatchObject({ status: 'False', reason: 'InvalidArcKey' });
  expect(model.condition('Progressing')?.message).toMatch(
    /spec\.arc\.secretRef: key arc\.key of Secret keys cannot sign \(a1\._domainkey\.contoso\.com\), mail of strangers waits; put a private key/,
  );
  expect(model.memberNames).toHaveLength(4);
  model.secrets = [{ name: 'keys', keys, signingKeys: keys }];
  converge(model);
  expect(model.condition('Progressing')).toMatchObject({ status: 'True', reason: 'Converged' });
});
