/** The reader of resources: defaults, lines, rules about changes, references, and its agreement with the CRDs. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import { isCidr } from '../../operator/resource/cel.ts';
import { renderTypes } from '../../operator/resource/generate-types.ts';
import { createReader, type LoadOptions, loadResources, parseResources } from '../../operator/resource/load.ts';
import { type ParsedDocument, parseDocument } from '../../operator/resource/parse.ts';
import { formatPath, renderProblem } from '../../operator/resource/problem.ts';
import { parseDuration, parseSize } from '../../operator/resource/quantity.ts';
import { KINDS, readSchema, type SchemaNode } from '../../operator/resource/schema.ts';
import { readYaml } from '../../operator/resource/source-document.ts';
import { checkStructure } from '../../operator/resource/structure.ts';

const reader = createReader();
const load = (text: string, options?: LoadOptions) => parseResources([{ file: 'a.yaml', text }], reader, options);

const CLUSTER = `apiVersion: mailcluster.dev/v1alpha1
kind: MailCluster
metadata: { name: contoso }
spec:
  sites: [{ name: seattle }, { name: portland }]
  dags:
    - name: dag1
      members: [{ site: seattle, replicas: 2 }, { site: portland, replicas: 2 }]
  acceptedDomains: [{ name: contoso.com }]
`;
const DATABASE = `---
apiVersion: mailcluster.dev/v1alpha1
kind: MailboxDatabase
metadata: { name: db01 }
spec:
  clusterRef: { name: contoso }
  dag: dag1
  recipients: { domains: [contoso.com] }
  copies: [{ name: sea, site: seattle, lmtp: "store:24" }]
  activeCopy: sea
`;

function loaded(text: string, options?: LoadOptions) {
  const result = load(text, options);
  if (!result.ok) throw new Error(result.problems.map(renderProblem).join('\n'));
  return result;
}

function problems(text: string, options?: LoadOptions): readonly string[] {
  const result = load(text, options);
  return result.ok
    ? []
    : result.problems.map((entry) => `${entry.line} ${entry.path}: ${entry.problem} => ${entry.fix}`);
}

const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value));

it('a text that nests without end is said to be no YAML, not a full stack (the library calls itself for each level)', () => {
  expect(problems(`${CLUSTER}${'a: '.repeat(5_000)}\n---\n`)).toEqual([
    expect.stringMatching(/^11 : not YAML: what begins about here never ends .*=> look for a bracket/),
  ]);
});

describe('defaults', () => {
  const spec = loaded(CLUSTER + DATABASE).clusters[0]?.spec;

  it.each([
    [
      'shadowRedundancy',
      {
        enabled: true,
        preference: 'PreferRemote',
        maxRetriesForRemoteSiteShadow: 4,
        maxRetriesForLocalSiteShadow: 2,
        rejectMessageOnShadowFailure: true,
        heartbeatFrequency: '10s',
        resubmitTimeSpan: '15m',
        messageAutoDiscardInterval: '48h',
      },
    ],
    ['safetyNet', { holdTime: '48h', unresponsivePrimaryTimeout: '5m' }],
    ['messageTracking', { maxAge: '720h' }],
    ['redis', { mode: 'Managed' }],
    ['acceptedDomains', [{ name: 'contoso.com', type: 'Authoritative' }]],
    ['sendConnectors', []],
    ['siteLinks', []],
    ['standalone', []],
    [
      'sites',
      [
        { name: 'seattle', hubSite: false },
        { name: 'portland', hubSite: false },
      ],
    ],
    ['logLevel', 'info'],
  ] as const)('of %s', (field, expected) => expect(plain(spec?.[field])).toEqual(expected));

  it('fill what a half-written object leaves out', () => {
    const text = `${CLUSTER}  shadowRedundancy: { preference: LocalOnly }\n  frontend: { limits: { maxErrors: 3 } }\n`;
    const { shadowRedundancy, frontend } = loaded(text).clusters[0]?.spec ?? {};
    expect(shadowRedundancy?.preference).toBe('LocalOnly');
    expect(shadowRedundancy?.heartbeatFrequency).toBe('10s');
    expect(frontend?.limits).toMatchObject({ maxErrors: 3, maxMessageSize: '35Mi', totalReplayBufferSize: '256Mi' });
    expect(frontend?.listeners).toMatchObject([{ name: 'smtp', port: 25, tls: 'StartTls', relayFrom: [] }]);
    expect(frontend?.replicas).toBeUndefined();
  });

  it('replace null, as the API server does', () => {
    expect(loaded(`${CLUSTER}  logLevel: null\n`).clusters[0]?.spec.logLevel).toBe('info');
  });

  it('of a database and a send connector', () => {
    const database = loaded(CLUSTER + DATABASE).databases[0]?.spec;
    expect(plain(database?.failover)).toEqual({ mode: 'Manual', lossWindow: '15m' });
    expect(database?.recipients.localParts).toBe('CaseInsensitive');
    expect(database?.copies[0]?.replayLag).toBe('0s');
    const text = `${CLUSTER}  sendConnectors: [{ name: out, addressSpaces: [{ domain: "*" }], smartHosts: [{ host: relay }] }]\n`;
    expect(plain(loaded(text).clusters[0]?.spec.sendConnectors[0])).toEqual({
      name: 'out',
      addressSpaces: [{ domain: '*', cost: 1 }],
      delivery: 'SmartHost',
      smartHosts: [{ host: 'relay', port: 25 }],
      tls: 'Opportunistic',
      sites: [],
    });
  });
});

function visit(schema: SchemaNode, path: string, see: (node: SchemaNode, path: string) => void): void {
  see(schema, path);
  for (const [name, child] of schema.properties) visit(child, `${path}.${name}`, see);
  if (schema.items !== null) visit(schema.items, `${path}[]`, see);
}

describe('the CRDs', () => {
  const nodes: (readonly [string, SchemaNode])[] = [];
  for (const kind of KINDS) {
    const root = reader.schemas.get(kind);
    if (root !== undefined) visit(root, kind, (node, path) => nodes.push([path, node]));
  }

  it('spell every default out in full', () => {
    const incomplete = nodes.filter(([, node]) => {
      if (node.defaultValue === undefined) return false;
      const { value, findings } = checkStructure(node, structuredClone(node.defaultValue), []);
      return findings.length > 0 || JSON.stringify(plain(value)) !== JSON.stringify(node.defaultValue);
    });
    expect(incomplete.map(([path]) => path)).toEqual([]);
  });

  it('give an object the default that its fields have', () => {
    const different = nodes.filter(([, node]) => {
      // A map (`requests`) has no fields.
      if (node.type !== 'object' || node.additional !== null || node.defaultValue === undefined) return false;
      const filled = checkStructure(node, {}, []).value;
      return JSON.stringify(sorted(filled)) !== JSON.stringify(sorted(node.defaultValue));
    });
    // `mode: Managed` and the rest; a required field cannot have a default of its own.
    expect(different.map(([path]) => path)).toEqual([]);
  });

  it('bound every list and every text of spec that a person writes, for the cost of rules', () => {
    const unbounded = nodes.filter(([path, node]) => {
      if (!path.includes('.spec')) return false;
      if (node.type === 'array') return node.maxItems === null;
      return node.type === 'string' && node.enumeration === null && node.format === null && node.maxLength === null;
    });
    expect(unbounded.map(([path]) => path)).toEqual([]);
  });

  it('say in every rule what is wrong and what to write', () => {
    const rules = nodes.flatMap(([path, node]) => node.rules.map((rule) => [path, rule] as const));
    expect(rules.length).toBeGreaterThan(50);
    for (const [path, rule] of rules) expect(rule.message, path).toMatch(/^[^;]+; .{8,}/);
  });

  it('are what generated.ts was generated from', () => {
    const path = fileURLToPath(new URL('../../operator/resource/generated.ts', import.meta.url));
    const stale = 'stale: run node operator/resource/generate-types.ts';
    expect(readFileSync(path, 'utf8') === renderTypes(reader.schemas), stale).toBe(true);
  });

  it('are refused when they say what the walker does not check', () => {
    expect(() => readSchema({ type: 'string', not: {} }, 'x')).toThrow('unknown keyword');
    expect(() => readSchema({ type: 'number' }, 'x')).toThrow('unknown type');
  });
});

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, child]) => [key, sorted(child)]),
  );
}

describe('problems', () => {
  it('point at the entry which breaks a rule, and at its line', () => {
    const text = CLUSTER.replace(
      '{ site: portland, replicas: 2 }]',
      '{ site: portland, replicas: 2 },\n        { site: denver, replicas: 1 }]',
    );
    expect(problems(text)).toEqual([
      '9 spec.dags[0].members[2].site: dags[].members[].site names a site which spec.sites does not list => add the site to spec.sites or correct the name',
    ]);
  });

  it('are all found at once, in one document and over documents', () => {
    const text = `${CLUSTER}  logLevel: loud\n  frontends: {}\n${DATABASE.replace('activeCopy: sea', 'activeCopy: pdx')}`;
    expect(problems(text)).toEqual([
      '10 spec.logLevel: "loud" is not one of debug, info, warn, error => choose one of debug, info, warn, error',
      '11 spec.frontends: unknown field frontends => did you mean frontend?',
      '21 spec.activeCopy: activeCopy names no entry of copies => write the name of one of them',
    ]);
  });

  it('are rendered as one readable block', () => {
    const result = load(`${CLUSTER}  logLevel: loud\n`);
    expect(result.ok ? '' : result.problems.map(renderProblem).join('')).toBe(
      'a.yaml:10: MailCluster/contoso  spec.logLevel\n  wrong: "loud" is not one of debug, info, warn, error\n  right: choose one of debug, info, warn, error',
    );
    expect(formatPath(['spec', 'a', 0, 'x.y/z'])).toBe('spec.a[0]["x.y/z"]');
  });

  it.each([
    ['nothing', '', 'there is no resource'],
    ['a text', 'hello', 'not a resource'],
    ['no kind', 'apiVersion: v1\nmetadata: { name: a }', 'field kind is missing'],
    ['no metadata', 'apiVersion: v1\nkind: Secret', 'field metadata is missing'],
    [
      'no spec',
      'apiVersion: mailcluster.dev/v1alpha1\nkind: MailCluster\nmetadata: { name: a }',
      'field spec is missing',
    ],
    ['an alias bomb', `a: &a [1, 1]\nb: &b [${'*a,'.repeat(60)}]\nc: [${'*b,'.repeat(60)}]`, 'not a resource'],
    [
      'a spec which is a list',
      'apiVersion: mailcluster.dev/v1alpha1\nkind: MailCluster\nmetadata: { name: a }\nspec: []',
      'is a list, not an object',
    ],
    ['a foreign kind', 'apiVersion: apps/v1\nkind: Deployment\nmetadata: { name: a }', 'unknown kind "Deployment"'],
    ['a metadata field', CLUSTER.replace('name: contoso', 'name: contoso, lables: {}'), 'unknown field lables'],
  ])('of %s', (_, text, expected) => expect(problems(text)[0]).toContain(expected));
});

describe('rules about changes', () => {
  const request = (spec: string): string =>
    `apiVersion: mailcluster.dev/v1alpha1\nkind: ResubmitRequest\nmetadata: { name: again }\nspec:\n  clusterRef: { name: contoso }\n  selector: { database: db01 }\n  window: { from: "2026-01-05T06:00:00Z" }\n${spec}`;
  const parse = (text: string, old?: string): ParsedDocument => {
    const documents = readYaml({ file: 'a', text }).documents;
    const former = old === undefined ? undefined : parse(old);
    const oldSpec = former?.kind === 'resource' && 'spec' in former.resource ? former.resource.spec : undefined;
    const [document] = documents;
    if (document === undefined) throw new Error('no document');
    return parseDocument(document, reader, oldSpec);
  };
  const verdict = (old: string, text: string): readonly string[] => {
    const result = parse(text, old);
    return result.kind === 'invalid' ? result.findings.map((finding) => finding.problem) : [];
  };

  it.each([
    ['the same', '', '', []],
    ['cancelled', '', '  cancel: true\n', []],
    ['dry run taken back', '  dryRun: true\n', '', ['a request cannot change, only be cancelled']],
    ['an activation added', '', '  lostActivation: 3\n', ['a request cannot change, only be cancelled']],
    ['cancelled no more', '  cancel: true\n', '', ['a cancelled request cannot go on']],
  ])('of a request: %s', (_, old, text, expected) => expect(verdict(request(old), request(text))).toEqual(expected));

  it('a volume cannot shrink, a database cannot move', () => {
    const sized = (size: string): string => `${CLUSTER}  transport: { storage: { size: ${size} } }\n`;
    expect(verdict(sized('20Gi'), sized('40Gi'))).toEqual([]);
    expect(verdict(sized('20Gi'), sized('2048Mi'))).toEqual(['storage.size cannot shrink, volumes only grow']);
    expect(verdict(DATABASE, DATABASE.replace('name: contoso', 'name: fabrikam'))).toEqual([
      'clusterRef cannot change',
    ]);
  });
});

describe('references', () => {
  const listener =
    '  frontend: { listeners: [{ name: submission, port: 587, auth: { secretRef: { name: users } } }] }\n';
  const secret = (data: string): string => `---\napiVersion: v1\nkind: Secret\nmetadata: { name: users }\n${data}\n`;

  it('to a missing Secret are an error to run and a note to validate', () => {
    expect(problems(CLUSTER + listener)[0]).toContain('there is no Secret users');
    expect(loaded(CLUSTER + listener, { missingReferences: 'note' }).notes[0]?.problem).toContain(
      'there is no Secret users',
    );
  });

  it.each([
    ['stringData', secret('stringData: { alice: secret }'), []],
    ['data', secret(`data: { alice: ${Buffer.from('secret').toString('base64')} }`), []],
    ['nobody', secret('stringData: {}'), ['holds no user']],
    ['no password', secret('stringData: { alice: "" }'), ['holds an empty password for alice']],
    ['a bad name', secret('stringData: { "a b": "x" }'), ['which is no user name']],
    ['a number', secret('stringData: { alice: 12 }'), ['12 is not text']],
    [
      'another namespace',
      secret('stringData: { alice: x }').replace('name: users', 'name: users, namespace: other'),
      ['there is no Secret users'],
    ],
  ])('to users in a Secret: %s', (_, text, expected) => {
    const found = problems(CLUSTER + listener + text);
    expect(found).toHaveLength(expected.length);
    for (const [index, part] of expected.entries()) expect(found[index]).toContain(part);
  });

  it('to addresses in a ConfigMap count as claims', () => {
    const from = (name: string): string =>
      DATABASE.replace('name: db01', `name: ${name}`).replace(
        '{ domains: [contoso.com] }',
        '{ addressesFrom: { configMapRef: { name: people } } }',
      );
    const map =
      '---\napiVersion: v1\nkind: ConfigMap\nmetadata: { name: people }\ndata: { addresses: "# us\\nAnna@contoso.com\\n" }\n';
    expect(problems(CLUSTER + from('db01') + map)).toEqual([]);
    expect(problems(CLUSTER + from('db01') + from('db02') + map)[0]).toContain(
      'Anna@contoso.com belongs to MailboxDatabase db01 already',
    );
    expect(problems(CLUSTER + from('db01') + map.replace('Anna@', 'Anna'))[0]).toContain('which is not an address');
    expect(problems(CLUSTER + from('db01'))[0]).toContain('there is no ConfigMap people');
  });

  it('compare local parts as the database says', () => {
    const addresses = (list: string): string => CLUSTER + DATABASE.replace('{ domains: [contoso.com] }', list);
    expect(problems(addresses('{ addresses: [Bob@contoso.com, bob@CONTOSO.com] }'))[0]).toContain('is listed twice');
    expect(problems(addresses('{ localParts: CaseSensitive, addresses: [Bob@contoso.com, bob@contoso.com] }'))).toEqual(
      [],
    );
  });

  it('note what is odd but right', () => {
    const text = `${CLUSTER}  sendConnectors: [{ name: out, delivery: MX, addressSpaces: [{ domain: "*" }] }]\n`;
    expect(loaded(text).notes.map((note) => note.problem)).toEqual([
      'no MailboxDatabase in these files holds contoso.com',
      'send connector out believes what DNS says of domains without an MTA-STS policy: DANE is off',
    ]);
    expect(
      loaded(`apiVersion: v1\nkind: Namespace\nmetadata: { name: mail }\n---\n${CLUSTER}${DATABASE}`).notes[0]?.problem,
    ).toBe('left out');
  });

  it('hold time may equal replay lag and loss window together', () => {
    const lagged = (hold: string): string =>
      `${CLUSTER}  safetyNet: { holdTime: ${hold} }\n${DATABASE.replace('store:24"', 'store:24", replayLag: 24h')}`;
    expect(problems(lagged('24h15m'))).toEqual([]);
    expect(problems(lagged('24h14m59s'))[0]).toContain('is more than safetyNet.holdTime 24h14m59s');
  });
});

describe('times', () => {
  const request = (to: string) =>
    `${CLUSTER}${DATABASE}---
apiVersion: mailcluster.dev/v1alpha1
kind: ResubmitRequest
metadata: { name: again }
spec: { clusterRef: { name: contoso }, selector: { database: db01 }, window: { from: "2026-01-01T00:00:00Z", to: "${to}" } }
`;
  it.each(['2026-02-28T23:59:59Z', '2028-02-29T00:00:00.5+01:00'])('%s is one', (time) => {
    expect(load(request(time)).ok).toBe(true);
  });

  it.each([
    '2026-02-30T00:00:00Z',
    '2027-02-29T00:00:00Z',
    '2026-02-28T24:00:00Z',
    '2026-02-28T00:00:60Z',
    '2026-02-28',
  ])('%s is none, as for the API server', (time) => {
    const loaded = load(request(time));
    expect(loaded.ok ? [] : loaded.problems.map(({ problem }) => problem)).toEqual([`"${time}" is no RFC 3339 time`]);
  });
});

describe('files', () => {
  const made: string[] = [];
  const directory = (): string => {
    const path = mkdtempSync(join(tmpdir(), 'mailcluster-resource-'));
    made.push(path);
    return path;
  };
  afterEach(() => {
    for (const path of made.splice(0)) rmSync(path, { recursive: true, force: true });
  });

  it('of a directory are joined, without its subdirectories', () => {
    const path = directory();
    writeFileSync(join(path, 'b.yml'), CLUSTER);
    writeFileSync(join(path, 'a.yaml'), DATABASE);
    writeFileSync(join(path, 'notes.txt'), 'not: [yaml');
    mkdirSync(join(path, 'broken'));
    writeFileSync(join(path, 'broken', 'c.yaml'), 'not: [yaml');
    const result = loadResources([path]);
    expect(result.ok && [result.clusters.length, result.databases.length]).toEqual([1, 1]);
  });

  it.each([
    ['absent', 'there is no such file'],
    ['.', 'the directory holds no'],
  ])('%s: %s', (name, expected) => {
    const result = loadResources([join(directory(), name)]);
    expect(result.ok ? '' : result.problems[0]?.problem).toContain(expected);
  });

  it('named - are read from stdin; JSON is YAML too', () => {
    const resource = { apiVersion: 'v1', kind: 'Secret', metadata: { name: 'a' }, stringData: { k: 'v' } };
    const result = loadResources(['-'], { readStdin: () => JSON.stringify(resource) });
    expect(result.ok && result.secrets[0]?.data).toEqual({ k: 'v' });
  });

  it('defined twice over two files name the first', () => {
    const path = directory();
    writeFileSync(join(path, 'a.yaml'), CLUSTER);
    writeFileSync(join(path, 'b.yaml'), CLUSTER);
    const result = loadResources([join(path, 'a.yaml'), join(path, 'b.yaml')]);
    expect(result.ok ? '' : result.problems[0]?.problem).toContain(`first in ${join(path, 'a.yaml')}:1`);
  });
});

describe('quantities', () => {
  it.each([
    ['10s', 10_000],
    ['1h30m', 5_400_000],
    ['250ms', 250],
    ['0s', 0],
    ['1d', null],
    ['-1s', null],
    ['1.5h', null],
    ['', null],
    ['10', null],
  ] as const)('duration %s', (text, expected) => expect(parseDuration(text)).toBe(expected));
  it.each([
    ['35Mi', 36_700_160],
    ['1000', 1000],
    ['1k', 1000],
    ['2Ti', 2 * 1024 ** 4],
    ['35MB', null],
    ['-1', null],
    ['1.5Gi', null],
    ['', null],
  ] as const)('size %s', (text, expected) => expect(parseSize(text)).toBe(expected));
  it.each([
    ['10.1.0.0/16', true],
    ['2001:db8::/32', true],
    ['::ffff:1.2.3.4/96', false],
    ['10.0.0.0/33', false],
    ['10.0.0.0/08', false],
    ['10.0.0.0', false],
    ['fe80::1%eth0/64', false],
  ] as const)('network %s', (text, expected) => expect(isCidr(text)).toBe(expected));
});
