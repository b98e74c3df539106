/** Send connectors from the resource to what pods and processes get: what is refused and noted, Secrets as files, ports that NetworkPolicies open. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { sendConnector } from '../../common/config-connectors.ts';
import { parseTransportConfig } from '../../common/config-parse.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { podConfig } from '../../common/pod-config.ts';
import { sendConnectors } from '../../operator/connectors.ts';
import { SecretStore } from '../../operator/local/credentials.ts';
import { transportConfig as localConfig, wantedSecrets } from '../../operator/local/plan.ts';
import { prepareStateDirectory, statePaths } from '../../operator/local/state-directory.ts';
import { readWanted } from '../../operator/local/wanted.ts';
import { createReader, parseResources } from '../../operator/resource/load.ts';
import { transportConfig } from '../../operator/resources/configs.ts';
import { networkPolicies } from '../../operator/resources/policies.ts';
import { connectorMounts } from '../../operator/resources/transports.ts';
import { planMembers } from '../../operator/topology.ts';
import { credentialsIn } from '../../transport/runtime/connector-credentials.ts';
import { ROOT } from '../house/sources.ts';
import { simTopology } from '../sim/topology.ts';
import { DATABASE, OPERATOR, resourcesOf, TWO_SITES } from './cluster-state.ts';
import { converge, running } from './operator-rig.ts';

const OWNER = { name: 'contoso', namespace: 'mail', uid: 'cluster-uid' };
const SECRET =
  '---\napiVersion: v1\nkind: Secret\nmetadata: { name: relay }\nstringData: { username: us, password: hush }\n';
const reader = createReader();

const cluster = (connectors: string, more = ''): string => `apiVersion: mailcluster.dev/v1alpha1
kind: MailCluster
metadata: { name: contoso }
spec:
  sites: [{ name: east }, { name: west }, { name: empty }]
  dags: [{ name: dag1, members: [{ site: east, replicas: 2 }, { site: west, replicas: 2 }] }]
  acceptedDomains: [{ name: contoso.com, type: InternalRelay }, { name: own.example }]
  sendConnectors: [${connectors}]
${more}`;
const load = (text: string) => parseResources([{ file: 'f', text }], reader);
function problems(connectors: string, more = ''): readonly string[] {
  const result = load(cluster(connectors, more));
  return result.ok ? [] : result.problems.map(({ path, problem, fix }) => `${path}: ${problem}; ${fix}`);
}
function notes(connectors: string, more = ''): readonly string[] {
  const result = load(cluster(connectors, more));
  if (!result.ok) throw new Error(JSON.stringify(result.problems));
  return result.notes.map(({ problem }) => problem).filter((one) => !one.startsWith('no MailboxDatabase'));
}
const out = (name: string, more = '', domain = '*', cost = 1): string =>
  `{ name: ${name}, addressSpaces: [{ domain: "${domain}", cost: ${cost} }], smartHosts: [{ host: relay.example.net }]${more === '' ? '' : `, ${more}`} }`;

describe('what is refused', () => {
  test.each([
    [
      'two for everybody in every site',
      `${out('a')}, ${out('b')}`,
      'spec.sendConnectors[1].addressSpaces[0]: send connectors a and b both serve * with cost 1 in every site; give one of them a higher cost, or give them different sites',
    ],
    [
      'two that share one site',
      `${out('a', 'sites: [east, west]')}, ${out('b', 'sites: [west]')}`,
      'spec.sendConnectors[1].addressSpaces[0]: send connectors a and b both serve * with cost 1 in west; give one of them a higher cost, or give them different sites',
    ],
    [
      'a smart host that MX records name for us',
      `${out('a', '', 'x.example').replace('relay.example.net', 'mx1.contoso.com')}, { name: b, addressSpaces: [{ domain: "*" }], delivery: MX, mx: { ownNames: [mx1.contoso.com] } }`,
      'spec.sendConnectors[0].smartHosts[0].host: send connector a would bring mail back: mx1.contoso.com is a name of this MailCluster; name a server outside; what is delivered here needs a MailboxDatabase, no send connector',
    ],
    [
      'a site without transports',
      out('a', 'sites: [empty]'),
      'spec.sendConnectors[0].sites: send connector a is for empty, where there is no transport; add members there, or name a site with transports: east, west',
    ],
    [
      'a Secret without a password',
      out('a', 'tls: Required, auth: { secretRef: { name: relay } }'),
      'spec.sendConnectors[0].auth.secretRef.name: Secret relay has no key password; add password to the Secret',
      SECRET.replace(', password: hush', ''),
    ],
  ])('%s', (_title, connectors, expected, more = '') => expect(problems(connectors, more)).toEqual([expected]));

  test.each([
    ['another cost', `${out('a')}, ${out('b', '', '*', 2)}`],
    ['other sites', `${out('a', 'sites: [east]')}, ${out('b', 'sites: [west]')}`],
    ['another domain', `${out('a')}, ${out('b', '', '*.example')}`],
  ])('%s is fine', (_title, connectors) => expect(problems(connectors)).toEqual([]));

  test('a smart host that is a listener of this machine', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'mailcluster-loop-'));
    try {
      const file = join(directory, 'c.yaml');
      await writeFile(file, cluster(out('a').replace('host: relay.example.net', 'host: 127.0.0.1, port: 2525')));
      const wanted = (port: number) =>
        readWanted([file], [{ frontend: null, name: 'smtp', host: '127.0.0.1', port }], directory, () => '');
      expect(wanted(2525)).toEqual({
        kind: 'problem',
        text: expect.stringMatching(
          /^send connector a would bring mail back: 127\.0\.0\.1:2525 is the listener smtp of /,
        ),
      });
      expect(wanted(2526).kind).toBe('ok');
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  });
});

test('mail of a site waits only where no site link leads to a site of the connector', async () => {
  const [three, waits] = [
    (links: string, connectors: string): readonly string[] => {
      const text = cluster(connectors).replace('sites: [{ name: east }', 'sites: [{ name: north }, { name: east }');
      const north = '{ site: east, replicas: 2 }, { site: north, replicas: 2 }';
      const result = load(
        text.replace('{ site: east, replicas: 2 }', north).replace('  dags:', `  siteLinks: [${links}]\n  dags:`),
      );
      if (!result.ok) throw new Error(JSON.stringify(result.problems));
      return result.notes.map(({ problem }) => problem).filter((one) => one.includes('waits in site'));
    },
    (sites: string) => [`mail for other domains waits in site ${sites}: send connector a is not for transports there`],
  ];
  const link = (a: string, b: string): string => `{ name: ${a}-${b}, sites: [${a}, ${b}], cost: 10 }`;
  expect(three('', out('a', 'sites: [east]'))).toEqual(waits('north, west'));
  expect(three(link('west', 'east'), out('a', 'sites: [east]'))).toEqual(waits('north'));
  expect(three(`${link('west', 'empty')}, ${link('empty', 'east')}`, out('a', 'sites: [east]'))).toEqual(
    waits('north'),
  );
  expect(three(`${link('north', 'west')}, ${link('west', 'east')}`, out('a', 'sites: [east]'))).toEqual([]);
  // Nobody sends where there is no transport.
  expect(three(link('west', 'empty'), `${out('a', 'sites: [east, empty]')}`)).toEqual(waits('north, west'));
  const example = await readFile(join(ROOT, 'examples/hub-site-local.yaml'), 'utf8');
  const result = load(example);
  expect(result.ok && result.notes.filter(({ problem }) => problem.includes('waits in site'))).toEqual([]);
});

test('what is odd but right is noted', () => {
  expect(notes(out('a', 'sites: [east]'))).toEqual([
    'mail for other domains waits in site west: send connector a is not for transports there',
  ]);
  expect(notes(`${out('a', 'sites: [east]', 'x.example')}, ${out('b')}`)).toEqual([]);
  expect(notes(out('a', '', 'own.example'))).toEqual([
    'send connector a is never used for own.example, an Authoritative domain',
  ]);
  expect(notes(out('a', 'tls: EncryptionOnly, auth: { secretRef: { name: relay } }'), SECRET)).toEqual([
    'send connector a tells its password to whoever answers: EncryptionOnly does not ask who that is',
  ]);
  expect(notes('{ name: a, addressSpaces: [{ domain: "*" }], delivery: MX, mx: { mtaSts: Ignore } }')).toEqual([
    'send connector a believes what DNS says: DANE is off',
  ]);
  const dane = (servers: string): readonly string[] =>
    notes(
      `{ name: a, addressSpaces: [{ domain: "*" }], delivery: MX, mx: { dane: Enforce, dnsServers: [${servers}] } }`,
    );
  expect(dane('127.0.0.1, "127.0.0.1:5353", "[::1]:53"')).toEqual([]);
  expect(dane('127.0.0.1, "10.0.0.53:5353"')).toEqual([
    'send connector a believes what 10.0.0.53:5353 calls validated: who can change packets on the way from there can forge TLSA records',
  ]);
});

test.each([
  ['', true],
  ['tls: None', false],
  ['mx: { port: 26 }', true],
  ['mx: { mtaSts: Ignore }', false],
  ['tls: Required, mx: { mtaSts: Enforce }', true],
])('MTA-STS by MX with "%s": %s', (more, expected) => {
  const result = load(
    cluster(`{ name: a, addressSpaces: [{ domain: "*" }], delivery: MX${more === '' ? '' : `, ${more}`} }`),
  );
  if (!result.ok || result.clusters[0] === undefined) throw new Error('refused');
  expect(sendConnectors(result.clusters[0])[0]?.mx?.mtaSts).toBe(expected);
});

test('DANE is in the document only where it is on: who does not use it keeps the bytes he has', () => {
  const documented = (mx: string) => {
    const result = load(cluster(`{ name: a, addressSpaces: [{ domain: "*" }], delivery: MX, mx: { ${mx} } }`));
    if (!result.ok || result.clusters[0] === undefined) throw new Error('refused');
    return sendConnectors(result.clusters[0])[0]?.mx;
  };
  expect(documented('dane: Enforce, dnsServers: [127.0.0.1]')).toMatchObject({ dane: true, dnsServers: ['127.0.0.1'] });
  for (const without of ['port: 25', 'dane: Ignore']) expect(documented(without)).not.toHaveProperty('dane');
});

test.each(['port: 25', 'dane: Enforce, dnsServers: [127.0.0.1]'])(
  'what the operator reads back is what it wrote, or it would write for ever: mx: { %s }',
  (mx) => {
    const result = load(cluster(`{ name: a, addressSpaces: [{ domain: "*" }], delivery: MX, mx: { ${mx} } }`));
    if (!result.ok || result.clusters[0] === undefined) throw new Error('refused');
    const written = sendConnectors(result.clusters[0])[0];
    const read = sendConnector(written, 'sendConnectors[0]');
    expect(JSON.parse(JSON.stringify(read))).toEqual(JSON.parse(JSON.stringify(written)));
  },
);

describe('on Kubernetes', () => {
  const withPassword = resourcesOf(
    `${TWO_SITES}  sendConnectors: [${out('a', 'tls: Required, auth: { secretRef: { name: relay } }')}, ${out('b', 'tls: Required, auth: { secretRef: { name: relay } }', 'x.example')}]\n`,
  ).cluster;
  const without = resourcesOf(TWO_SITES).cluster;

  test('a Secret is mounted once, and pods without it start; who names none gets the same bytes as before', () => {
    expect(connectorMounts(withPassword)).toEqual([
      {
        path: '/etc/mailcluster/connectors/relay',
        readOnly: true,
        volume: { name: 'connector-0', secret: { secretName: 'relay', defaultMode: 0o440, optional: true } },
      },
    ]);
    const pod = { POD_NAME: 'm-0', POD_NAMESPACE: 'mail', POD_UID: 'u', POD_IP: '10.0.0.7', NODE_NAME: 'n1' };
    const rendered = transportConfig(withPassword, OWNER, OPERATOR, 'group');
    expect(parseTransportConfig(podConfig(rendered, pod, null, () => undefined))).toMatchObject({
      value: { credentialsDirectory: '/etc/mailcluster/connectors' },
    });
    expect(connectorMounts(without)).toEqual([]);
    expect(transportConfig(without, OWNER, OPERATOR, 'group')).not.toHaveProperty('credentialsDirectory');
  });

  /** Ports that transports may go out to, whoever listens there. */
  function openPorts(more: { readonly mtaSts?: boolean; readonly dnsServers?: readonly string[] }) {
    const base = simTopology({ sites: [1], dag: true, frontends: 1 });
    const mx = { port: 25, dnsServers: [], allowNetworks: [], ownNames: [], mtaSts: false, ...more };
    const connector = {
      name: 'a',
      addressSpaces: [{ domain: '*', cost: 1 }],
      smartHosts: [],
      mx,
      tls: 'Opportunistic',
      sites: [],
    } as const;
    const document = { ...base, databases: [], sendConnectors: [connector] };
    const transport = networkPolicies(without, OWNER, OPERATOR, document).find(({ metadata }) =>
      metadata.name.endsWith('-transport'),
    );
    if (transport === undefined) throw new Error('no policy');
    const { egress } = transport.spec as {
      readonly egress: readonly {
        readonly to?: unknown;
        readonly ports: readonly { readonly protocol: string; readonly port: number }[];
      }[];
    };
    return egress
      .flatMap(({ to, ports }) => (to === undefined ? ports : []))
      .map((one) => `${one.protocol} ${one.port}`);
  }

  test.each([
    [true, ['UDP 53', 'TCP 53', 'TCP 25', 'TCP 443']],
    [false, ['UDP 53', 'TCP 53', 'TCP 25']],
  ])('with MTA-STS %s transports may go out to %j', (mtaSts, expected) => {
    expect(openPorts({ mtaSts })).toEqual(expected);
  });

  test('name servers on ports of their own may be asked there', () => {
    const dnsServers = [
      '192.0.2.53',
      '2001:db8::53',
      '192.0.2.53:53',
      '[2001:db8::53]:5353',
      '192.0.2.54:5353',
      '192.0.2.53:54',
    ];
    expect(openPorts({ dnsServers })).toEqual([
      'UDP 53',
      'TCP 53',
      'UDP 54',
      'TCP 54',
      'UDP 5353',
      'TCP 5353',
      'TCP 25',
    ]);
  });
});

describe('on one machine', () => {
  let root = '';
  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'mailcluster-connectors-'));
  });
  afterEach(() => rm(root, { recursive: true, force: true }));

  test('a Secret becomes files that the transport reads, and reads anew when they change', async () => {
    const paths = statePaths(root);
    await prepareStateDirectory(paths);
    const store = new SecretStore(paths, systemRandom);
    const write = async (secret: string) => {
      const read = load(cluster(out('a', 'tls: Required, auth: { secretRef: { name: relay } }'), secret));
      if (!read.ok || read.clusters[0] === undefined) throw new Error('refused');
      const [found] = read.clusters;
      const files = await store.write(wantedSecrets(found), read.secrets);
      const [transport] = planMembers(found).transports;
      if (transport === undefined) throw new Error('no transport');
      return { files, directory: localConfig(found, transport, files, paths, () => 0).credentialsDirectory ?? null };
    };
    const { directory } = await write(SECRET);
    const readNow = credentialsIn(directory);
    expect(await readNow('relay')).toEqual({ username: 'us', password: 'hush' });
    expect((await write(SECRET)).files.changed).toBe(false);
    expect((await write(SECRET.replace('hush', 'other'))).files.changed).toBe(true);
    expect(await readNow('relay')).toEqual({ username: 'us', password: 'other' });
  });
});

test('resolvers for DANE that do not validate: named with connector, members and remedy; not those that are no longer asked', () => {
  const connector = (name: string, servers: string, dane: string): string =>
    `{ name: ${name}, addressSpaces: [{ domain: ${name}.example }], delivery: MX, mx: { dnsServers: [${servers}], dane: ${dane} } }`;
  const spec = (servers: string, dane = 'Enforce'): string =>
    `${TWO_SITES}  sendConnectors: [${connector('out', servers, dane)}, ${connector('plain', '10.0.0.9', 'Ignore')}]\n`;
  const model = running(spec('10.0.0.53, "fd00::53"'));
  const [one = '', other = ''] = model.memberNames;
  model.unvalidated.set(one, ['10.0.0.9:53', '[fd00::53]:53']);
  model.unvalidated.set(other, ['[fd00::53]:53']);
  expect(converge(model).flat()).toEqual([]);
  expect(model.condition('Progressing')).toMatchObject({ status: 'False', reason: 'DaneUnvalidated' });
  const message = model.condition('Progressing')?.message;
  expect(message).toMatch(/^send connector out /);
  expect(message).toContain(`[fd00::53]:53 (say ${one}, ${other}) do not validate DNSSEC: mail goes out`);
  expect(message).toContain('(unbound: auto-trust-anchor-file)');
  expect(message).not.toContain('plain');
  expect(model.condition('Ready')).toMatchObject({ status: 'True' });
  expect(model.said('DaneUnvalidated')).toBe(1);
  for (const mended of [spec('10.0.0.53'), spec('"fd00::53"', 'Ignore')]) {
    model.change(mended, { db01: DATABASE });
    converge(model);
    expect(model.condition('Progressing')).toMatchObject({ status: 'True', reason: 'Converged' });
  }
  model.change(spec('"[fd00::53]:53"'), { db01: DATABASE });
  converge(model);
  expect(model.condition('Progressing')).toMatchObject({ status: 'False', reason: 'DaneUnvalidated' });
  model.unvalidated.clear();
  converge(model);
  expect(model.condition('Progressing')).toMatchObject({ status: 'True', reason: 'Converged' });
});
