/**
 * What the resources refer to and what must be there for it: Secrets, ConfigMaps, storage classes, sites with nodes; and what spans two objects
 * (`operator/resource/cross-check.ts`). Owns: the condition for each, and which databases stay as they are meanwhile. Promise: everything heals by
 * itself when the thing appears; a database whose description cannot be used keeps the former one, so that its mail is not refused. PURE.
 */
import { dkimKeys, privateKeys } from '../dkim.ts';
import type { Gathered } from '../gathered.ts';
import { crossCheck, type Located } from '../resource/cross-check.ts';
import type { MailCluster } from '../resource/generated.ts';
import type { Resource, Secret } from '../resource/parse.ts';
import { usersSecrets } from '../resources/frontends.ts';
import { type Finding, LATER_MS, refuse } from './finding.ts';
import type { Group, Situation } from './situation.ts';
import { unsupportedDatabases } from './topology-step.ts';

export interface References {
  readonly findings: readonly Finding[];
  readonly frozen: ReadonlySet<string>;
}

const missing = (
  reason: 'MissingSecret' | 'MissingSecretKey' | 'MissingConfigMap' | 'MissingStorageClass',
  message: string,
): Finding => refuse(reason, message, { condition: 'Progressing' });

export function references(situation: Situation): References {
  const { gathered, cluster } = situation;
  const crossed = crossFindings(gathered, cluster);
  const maildirs = unsupportedDatabases(gathered.databases.flatMap(({ resource }) => resource ?? []));
  const invalid = gathered.databases.filter(({ resource }) => resource === null);
  return {
    frozen: new Set([...crossed.frozen, ...maildirs, ...invalid.map(({ metadata }) => metadata.name)]),
    findings: [
      ...wantedSecrets(cluster).flatMap(({ name, keys }) => missingSecret(gathered, name, keys)),
      ...invalidCertificate(gathered, cluster),
      ...invalidKeys(gathered, cluster),
      ...storageClass(gathered, cluster),
      ...situation.groups.flatMap((group) => nodesOfSite(situation, group)),
      ...invalid.map(({ metadata, problems }) =>
        refuse('InvalidSpec', `MailboxDatabase ${metadata.name}: ${problems.join('; ')}`, { condition: 'Progressing' }),
      ),
      ...maildirs.map((name) =>
        refuse(
          'UnsupportedEndpoint',
          `MailboxDatabase ${name}: maildir: is for one machine only; write HOST:PORT of an LMTP server`,
          { condition: 'Progressing' },
        ),
      ),
      ...crossed.findings,
    ],
  };
}

/** Secrets of people, with the keys we read; empty keys: any. */
export function wantedSecrets({
  spec,
}: MailCluster): readonly { readonly name: string; readonly keys: readonly string[] }[] {
  return wantedOf(spec);
}

function wantedOf(spec: MailCluster['spec']) {
  const { tlsSecretRef } = spec.frontend;
  const { urlSecretRef } = spec.redis;
  return [
    ...(tlsSecretRef === undefined ? [] : [{ name: tlsSecretRef.name, keys: ['tls.crt', 'tls.key'] }]),
    ...(urlSecretRef === undefined ? [] : [{ name: urlSecretRef.name, keys: [urlSecretRef.key] }]),
    ...spec.sendConnectors.flatMap(({ auth }) =>
      auth === undefined ? [] : [{ name: auth.secretRef.name, keys: ['username', 'password'] }],
    ),
    ...spec.frontend.listeners.flatMap(({ auth }) =>
      auth === undefined ? [] : [{ name: auth.secretRef.name, keys: [] }],
    ),
    ...keySecrets(spec),
  ].filter((one, index, all) => all.findIndex(({ name }) => name === one.name) === index);
}

/** With all the keys that are read of each. */
function keySecrets(spec: MailCluster['spec']) {
  const bySecret = Map.groupBy(privateKeys({ spec }), ({ secretRef }) => secretRef.name);
  return [...bySecret].map(([name, keys]) => ({
    name,
    keys: [...new Set(keys.map(({ secretRef }) => secretRef.key))],
  }));
}

/** Transports go on; what such a key should sign or seal waits or goes without, as the resource says. */
function invalidKeys({ secrets }: Gathered, { spec }: MailCluster): readonly Finding[] {
  const { dkim, arc } = spec;
  const unsigned = dkim?.failurePolicy === 'SendUnsigned' ? 'its mail goes unsigned' : 'its mail waits';
  const unsealed = arc?.failurePolicy === 'SendUnsealed' ? 'mail goes unsealed' : 'mail of strangers waits';
  return [
    ...dkimKeys({ spec }).map((one, at) => {
      return { ...one, field: `dkim.keys[${at}]`, effect: unsigned, reason: 'InvalidDkimKey' as const };
    }),
    ...(arc === undefined ? [] : [{ ...arc, field: 'arc', effect: unsealed, reason: 'InvalidArcKey' as const }]),
  ].flatMap(({ domain, selector, secretRef: { name, key }, field, effect, reason }) => {
    const found = secrets.find((one) => one.name === name);
    if (found === undefined || !found.keys.includes(key) || found.signingKeys.includes(key)) return [];
    const message = `spec.${field}.secretRef: key ${key} of Secret ${name} cannot sign (${selector}._domainkey.${domain}), ${effect}; put a private key in PEM there, RSA of 1024 bits or more or Ed25519, without a passphrase`;
    return [refuse(reason, message, { condition: 'Progressing' })];
  });
}

function missingSecret({ secrets }: Gathered, name: string, keys: readonly string[]): readonly Finding[] {
  const found = secrets.find((one) => one.name === name);
  if (found === undefined) {
    const what = keys.length === 0 ? '' : ` with ${keys.join(' and ')}`;
    return [missing('MissingSecret', `there is no Secret ${name}; create it${what}`)];
  }
  const absent = keys.filter((key) => !found.keys.includes(key));
  if (absent.length === 0 && found.keys.length > 0) return [];
  return [missing('MissingSecretKey', `Secret ${name} has no ${absent.join(' and ') || 'key at all'}; add it`)];
}

/** Front ends that run keep the former certificate; a new one cannot start. */
function invalidCertificate({ secrets }: Gathered, { spec }: MailCluster): readonly Finding[] {
  const name = spec.frontend.tlsSecretRef?.name;
  const problem = secrets.find((one) => one.name === name)?.tlsProblem ?? null;
  if (problem === null) return [];
  const message = `Secret ${name}: ${problem}; front ends that run keep the former certificate, correct it before one restarts`;
  return [refuse('InvalidCertificate', message, { condition: 'CertificatesValid' })];
}

function storageClass({ storageClasses }: Gathered, { spec }: MailCluster): readonly Finding[] {
  const name = spec.transport.storage.storageClassName;
  if (name === undefined || storageClasses.some(({ metadata }) => metadata.name === name)) return [];
  const names = storageClasses.map(({ metadata }) => metadata.name).join(', ') || 'none';
  return [missing('MissingStorageClass', `there is no StorageClass ${name}; there is ${names}`)];
}

function nodesOfSite({ gathered, cluster }: Situation, group: Group): readonly Finding[] {
  const site = cluster.spec.sites.find(({ name }) => name === group.site);
  const wanted = Object.entries(site?.nodeLabels ?? {});
  if (wanted.length === 0 || group.desired === 0) return [];
  const fits = gathered.nodes.some(({ metadata }) => wanted.every(([key, value]) => metadata.labels?.[key] === value));
  if (fits) return [];
  const text = wanted.map(([key, value]) => `${key}=${value}`).join(',');
  return [
    refuse('NoNodeInSite', `site ${group.site}: no node has the labels ${text}; correct nodeLabels or label nodes`, {
      condition: 'Progressing',
      afterMs: LATER_MS,
    }),
  ];
}

/** Its place is its name. */
const located = <R extends Resource>(resource: R): Located<R> => ({
  resource,
  document: {
    problem: (finding, format) => ({
      file: '',
      line: 0,
      document: `${resource.kind}/${resource.metadata.name}`,
      path: format(finding.path),
      problem: finding.problem,
      fix: finding.fix,
    }),
  },
});

/** Secrets were looked at above, and their values never come here. */
function standInSecrets(cluster: MailCluster): readonly Secret[] {
  const users = new Set(usersSecrets(cluster));
  return wantedSecrets(cluster).map(({ name, keys }) => ({
    kind: 'Secret',
    metadata: { name, namespace: cluster.metadata.namespace, labels: {}, annotations: {} },
    data: Object.fromEntries([...keys, ...(users.has(name) ? ['user'] : [])].map((key) => [key, 'not looked at'])),
  }));
}

function crossFindings(gathered: Gathered, cluster: MailCluster): References {
  const databases = gathered.databases.flatMap(({ resource }) => resource ?? []);
  const resources: readonly Resource[] = [cluster, ...databases, ...gathered.configMaps, ...standInSecrets(cluster)];
  const { problems, notes } = crossCheck(resources.map(located), 'note');
  // What is only worth a note on files is a missing thing here.
  const absent = notes.filter(({ problem }) => problem.startsWith('there is no ConfigMap'));
  const frozen = new Set(
    [...problems, ...absent].flatMap(({ document }) =>
      document.startsWith('MailboxDatabase/') ? [document.slice('MailboxDatabase/'.length)] : [],
    ),
  );
  const say = (one: (typeof problems)[number]): string =>
    `${one.document} ${one.path}: ${one.problem}; ${one.fix}`.replaceAll(' in these files', '');
  return {
    frozen,
    findings: [
      ...absent.map((one) => missing('MissingConfigMap', say(one))),
      ...problems.map((one) => refuse('InvalidReference', say(one), { condition: 'Progressing' })),
    ],
  };
}
