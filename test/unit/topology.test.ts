/** Names, spreading, boundaries, generation and activation: what the operator and `mailcluster run` both build on. */
import { describe, expect, it } from 'vitest';
import { parseTopologyDocument } from '../../common/config-parse.ts';
import { frontendLimits, maildirPath, nextTopology, planMembers } from '../../operator/topology.ts';
import { DATABASE, document, next, resources, type Shape, UNDECIDED } from './topology-shapes.ts';

const names = (shape: Shape): readonly string[] =>
  planMembers(resources({ databases: '', ...shape }).cluster).transports.map((member) => member.name);

describe('members', () => {
  it('are named after cluster, dag and site, with boundary and ordinal', () => {
    const { transports } = planMembers(resources().cluster);
    expect(transports.map(({ name, ...rest }) => ({ ...rest, name: name.replace(/[0-9a-f]{6}/, 'HASH') }))).toEqual([
      { name: 'contoso-dag1-seattle-HASH-0', dag: 'dag1', site: 'seattle', boundary: 'dag/dag1', ordinal: 0 },
      { name: 'contoso-dag1-seattle-HASH-1', dag: 'dag1', site: 'seattle', boundary: 'dag/dag1', ordinal: 1 },
      { name: 'contoso-dag1-portland-HASH-0', dag: 'dag1', site: 'portland', boundary: 'dag/dag1', ordinal: 0 },
      { name: 'contoso-dag1-portland-HASH-1', dag: 'dag1', site: 'portland', boundary: 'dag/dag1', ordinal: 1 },
    ]);
  });

  it('of no dag have their site as boundary', () => {
    const { cluster } = resources({
      dags: '[]',
      spec: '  standalone: [{ site: portland, replicas: 2 }]',
      databases: '',
    });
    expect(planMembers(cluster).transports.map(({ dag, boundary }) => [dag, boundary])).toEqual([
      [null, 'site/portland'],
      [null, 'site/portland'],
    ]);
    expect(planMembers(cluster).transports[1]?.name).toMatch(/^contoso-portland-[0-9a-f]{6}-1$/);
  });

  it('keep their names when others come', () => {
    const before = names({});
    const after = names({
      dags: '[{ name: dag0, members: [{ site: seattle, replicas: 2 }] }, { name: dag1, members: [{ site: portland, replicas: 3 }, { site: seattle, replicas: 2 }] }]',
    });
    expect(after).toEqual(expect.arrayContaining([...before]));
  });

  it('of dag a-b in site c are not those of dag a in site b-c', () => {
    const sites = '[{ name: c }, { name: b-c }]';
    const found = names({
      sites,
      dags: '[{ name: a-b, members: [{ site: c, replicas: 2 }] }, { name: a, members: [{ site: b-c, replicas: 2 }] }]',
    });
    expect(found.map((name) => name.slice(0, 'contoso-a-b-c'.length))).toEqual(
      Array.from({ length: 4 }, () => 'contoso-a-b-c'),
    );
    expect(new Set(found).size).toBe(4);
  });

  it('of a dag and a standalone site differ where their readable parts agree', () => {
    const shape = {
      sites: '[{ name: b }, { name: a-b }]',
      dags: '[{ name: a, members: [{ site: b, replicas: 2 }] }]',
      spec: '  standalone: [{ site: a-b, replicas: 2 }]',
    };
    expect(new Set(names(shape)).size).toBe(4);
  });

  it.each([
    [40, 63, 63],
    [40, 1, 63],
    [1, 63, 1],
    [20, 20, 20],
  ])('fit 63 characters: cluster %i, dag %i, site %i', (cluster, dag, site) => {
    const shape = {
      name: 'c'.repeat(cluster),
      sites: `[{ name: ${'s'.repeat(site)} }, { name: ${'s'.repeat(site - 1)}t }]`,
      dags: `[{ name: ${'d'.repeat(dag)}, members: [{ site: ${'s'.repeat(site)}, replicas: 1000 }, { site: ${'s'.repeat(site - 1)}t, replicas: 1 }] }]`,
    };
    const found = names(shape);
    expect(new Set(found).size).toBe(1001);
    for (const name of found) {
      expect(name.length).toBeLessThanOrEqual(63);
      // The StatefulSet's name: room for the controller-revision-hash label.
      expect(name.replace(/-\d+$/, '').length).toBeLessThanOrEqual(52);
      expect(name).toMatch(/^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/);
    }
  });
});

describe('front ends', () => {
  const spread = (frontend: string, sites = '[{ name: seattle }, { name: portland }, { name: denver }]') => {
    const plan = planMembers(resources({ sites, spec: frontend, databases: '' }).cluster);
    expect(new Set(plan.frontends.map((entry) => entry.name)).size).toBe(plan.frontends.length);
    return plan.frontends.map((entry) => entry.site);
  };
  const count = (found: readonly string[]) =>
    ['seattle', 'portland', 'denver'].map((site) => found.filter((entry) => entry === site).length);

  it.each([
    ['  frontend: { replicas: 7 }', [3, 2, 2]],
    ['  frontend: { replicas: 6 }', [2, 2, 2]],
    ['  frontend: { replicas: 1 }', [1, 0, 0]],
    ['  frontend: { replicas: 0 }', [0, 0, 0]],
    ['', [1, 1, 0]],
    ['  frontend: { autoscaling: { min: 4, max: 9 } }', [2, 1, 1]],
  ])('%s are spread evenly', (frontend, expected) => expect(count(spread(frontend))).toEqual(expected));

  it('have names of their own and the listeners of the cluster', () => {
    const [first] = planMembers(resources().cluster).frontends;
    expect(first?.name).toMatch(/^contoso-frontend-seattle-[0-9a-f]{6}-0$/);
    expect(first?.listeners.map(({ name, port, tls }) => [name, port, tls])).toEqual([['smtp', 25, 'StartTls']]);
  });

  it('get their limits in bytes and milliseconds', () => {
    expect(frontendLimits(resources().cluster)).toMatchObject({
      maxMessageBytes: 35 * 1024 ** 2,
      maxHeaderBytes: 131_072,
      idleTimeoutMs: 60_000,
      dataTimeoutMs: 600_000,
      replayBufferBytes: 1_048_576,
      maxCommandLineBytes: 2048,
    });
  });
});

describe('the document', () => {
  it('is one that pods accept, unchanged', () => {
    const found = document(null);
    expect(parseTopologyDocument(JSON.parse(JSON.stringify(found)))).toEqual({ kind: 'ok', value: found });
  });

  it('holds databases, endpoints and policies', () => {
    const { databases, policies, generation } = document(null);
    expect(generation).toBe(1);
    expect(databases).toEqual([
      {
        name: 'db01',
        boundary: 'dag/dag1',
        domains: ['contoso.com'],
        addresses: ['bob@contoso.com'],
        caseSensitiveLocalParts: false,
        copies: [
          { name: 'pdx', site: 'portland', lmtp: { host: '2001:db8::24', port: 2424 }, replayLagMs: 3_600_000 },
          { name: 'sea', site: 'seattle', lmtp: { host: '127.0.0.1', port: 24 }, replayLagMs: 0 },
        ],
        activeCopy: 'sea',
        activation: 1,
        lossWindowMs: 900_000,
        hidesClientRetries: true,
      },
    ]);
    expect(policies.queues.retryIntervalsMs).toEqual(
      [1, 1, 1, 1, 5, 5, 5, 5, 5, 5, 10].map((minutes) => minutes * 60_000),
    );
    expect(policies.shadowRedundancy).toMatchObject({
      enabled: true,
      heartbeatFrequencyMs: 10_000,
      maxRetriesForRemoteSiteShadow: 4,
    });
    expect(policies.limits).toEqual({
      maxMessageBytes: 36_700_160,
      maxHeaderBytes: 131_072,
      maxRecipients: 1000,
      maxReceivedHops: 50,
    });
  });

  it('keeps case where the database wants it', () => {
    const databases = DATABASE.replace('{ domains', '{ localParts: CaseSensitive, domains');
    expect(document(null, { databases }).databases[0]).toMatchObject({
      addresses: ['Bob@contoso.com'],
      caseSensitiveLocalParts: true,
    });
  });

  it('holds smart hosts in their order, and how MX connectors ask DNS', () => {
    const spec =
      '  sendConnectors: [{ name: b, addressSpaces: [{ domain: "*" }], smartHosts: [{ host: z }, { host: a, port: 587 }], sites: [seattle, portland], tls: EncryptionOnly, maxMessageSize: 1Mi, maxMessagesPerMinute: 30 }, { name: a, delivery: MX, addressSpaces: [{ domain: x.org }] }]';
    expect(document(null, { spec }).sendConnectors).toEqual([
      {
        name: 'a',
        addressSpaces: [{ domain: 'x.org', cost: 1 }],
        smartHosts: [],
        mx: { port: 25, dnsServers: [], allowNetworks: [], ownNames: [], mtaSts: true },
        tls: 'Opportunistic',
        sites: [],
        session: null,
        sendLimits: null,
      },
      {
        name: 'b',
        addressSpaces: [{ domain: '*', cost: 1 }],
        smartHosts: [
          { host: 'z', port: 25 },
          { host: 'a', port: 587 },
        ],
        mx: null,
        tls: 'Required',
        sites: ['portland', 'seattle'],
        session: { isUnproven: true, credentials: null, sourceAddress: null },
        sendLimits: { maxMessageBytes: 1_048_576, maxConcurrentDeliveries: null, messagesPerMinute: 30 },
      },
    ]);
  });

  it('has what recipients stand for, sorted, the same after it was read again; nothing of it for who has none', () => {
    const spec = `  recipients:
    aliases: [{ address: z@contoso.com, target: bob@contoso.com }]
    groups: [{ address: a@contoso.com, membersFrom: staff, envelopeSender: z@contoso.com }]
    addressLists: [{ name: staff, file: /srv/staff }]
    knownRecipients: [{ domain: contoso.com, addressLists: [staff] }]`;
    const first = next(null, { spec });
    if (first.kind !== 'changed') throw new Error(first.kind);
    expect(first.document.recipients).toEqual({
      plusAddressing: false,
      expansions: [
        { address: 'a@contoso.com', members: [], membersFrom: 'staff', envelopeSender: 'z@contoso.com' },
        { address: 'z@contoso.com', members: ['bob@contoso.com'], membersFrom: null, envelopeSender: null },
      ],
      catchAll: [],
      knownRecipients: [{ domain: 'contoso.com', addressLists: ['staff'] }],
    });
    const read = parseTopologyDocument(JSON.parse(JSON.stringify(first.document)));
    if (read.kind !== 'ok') throw new Error(read.problem);
    expect(next(read.value, { spec }).kind).toBe('unchanged');
    const without = next(null);
    expect(without.kind === 'changed' && 'recipients' in without.document).toBe(false);
  });

  it('has the links between sites, sorted, the same after it was read again; nothing of it for who has none', () => {
    const spec =
      '  siteLinks: [{ name: b, sites: [seattle, portland], cost: 10, maxMessageSize: 25Mi }, { name: a, sites: [portland, seattle] }]';
    const first = next(null, { spec });
    if (first.kind !== 'changed') throw new Error(first.kind);
    expect(first.document.siteLinks).toEqual([
      { name: 'a', sites: ['portland', 'seattle'], cost: 1, maxMessageBytes: null },
      { name: 'b', sites: ['portland', 'seattle'], cost: 10, maxMessageBytes: 26_214_400 },
    ]);
    const read = parseTopologyDocument(JSON.parse(JSON.stringify(first.document)));
    if (read.kind !== 'ok') throw new Error(read.problem);
    expect(next(read.value, { spec }).kind).toBe('unchanged');
    const without = next(null);
    expect(without.kind === 'changed' && 'siteLinks' in without.document).toBe(false);
  });

  it.each([
    ['', { maxAgeMs: 720 * 3_600_000, maxBytes: null }],
    ['  messageTracking: { maxAge: 36h, maxSize: 2Gi }', { maxAgeMs: 36 * 3_600_000, maxBytes: 2 * 1024 ** 3 }],
  ])('has what is kept of message tracking, the same after it was read again: "%s"', (spec, expected) => {
    const first = next(null, { spec });
    if (first.kind !== 'changed') throw new Error(first.kind);
    expect(first.document.messageTracking).toEqual(expected);
    const read = parseTopologyDocument(JSON.parse(JSON.stringify(first.document)));
    if (read.kind !== 'ok') throw new Error(read.problem);
    expect(next(read.value, { spec }).kind).toBe('unchanged');
    expect(next(read.value, { spec: '  messageTracking: { maxAge: 37h }' }).kind).toBe('changed');
  });

  it('is about its own databases only', () => {
    const { cluster, databases, configMaps } = resources();
    const [own] = databases;
    if (own === undefined) throw new Error('no database');
    const other = { ...own, metadata: { ...own.metadata, name: 'db02', namespace: 'other' } };
    const addresses = new Map(planMembers(cluster).transports.map(({ name }) => [name, { host: 'h', port: 1 }]));
    const result = nextTopology(null, {
      cluster,
      databases: [own, other],
      configMaps,
      addresses,
      resolveMaildir: () => ({ host: 'h', port: 2 }),
      ...UNDECIDED,
    });
    expect(result.kind === 'changed' && result.document.databases.map((database) => database.name)).toEqual(['db01']);
  });

  it('cannot be made without the address of a member', () => {
    const { cluster, databases, configMaps } = resources();
    const input = {
      cluster,
      databases,
      configMaps,
      addresses: new Map(),
      resolveMaildir: () => ({ host: 'h', port: 2 }),
      ...UNDECIDED,
    };
    expect(() => nextTopology(null, input)).toThrow('a planned transport has no address');
  });
});

describe('a change', () => {
  const first = document(null);

  it('of nothing keeps document and generation, also when a file is only reordered', () => {
    expect(next(first)).toMatchObject({ kind: 'unchanged', document: first });
    const reordered = {
      sites: '[{ name: portland }, { name: seattle }]',
      dags: '[{ name: dag1, members: [{ site: portland, replicas: 2 }, { site: seattle, replicas: 2 }] }]',
    };
    const ports = new Map(first.members.map(({ name, address }) => [name, address]));
    const { cluster, databases, configMaps } = resources({ ...reordered, spec: '  frontend: { replicas: 2 }' });
    const result = nextTopology(first, {
      cluster,
      databases,
      configMaps,
      addresses: ports,
      resolveMaildir: () => ({ host: '127.0.0.1', port: 24 }),
      ...UNDECIDED,
    });
    expect(result).toMatchObject({ kind: 'unchanged', document: { generation: 1 } });
  });

  it('of a policy, an address or a member raises the generation', () => {
    const second = document(first, { spec: '  safetyNet: { holdTime: 72h }' });
    expect([second.generation, second.policies.safetyNet.holdTimeMs]).toEqual([2, 72 * 3_600_000]);
    const third = document(second, {
      spec: '  safetyNet: { holdTime: 72h }',
      dags: '[{ name: dag1, members: [{ site: seattle, replicas: 2 }, { site: portland, replicas: 3 }] }]',
    });
    expect([third.generation, third.members.length]).toEqual([3, 5]);
  });

  it('of the active copy raises the activation of that database', () => {
    const moved = { databases: DATABASE.replace('activeCopy: sea', 'activeCopy: pdx') };
    const second = document(first, moved);
    expect(second).toMatchObject({ generation: 2, databases: [{ activeCopy: 'pdx', activation: 2 }] });
    expect(document(second, moved)).toBe(second);
    expect(document(second)).toMatchObject({ generation: 3, databases: [{ activeCopy: 'sea', activation: 3 }] });
  });

  it('never gives a database an activation it had before, not even after it was away', () => {
    const second = document(first, { databases: DATABASE.replace('activeCopy: sea', 'activeCopy: pdx') });
    const without = document(second, { databases: '' });
    const back = document(without);
    expect(without.databases).toEqual([]);
    expect(back.databases[0]?.activation).toBeGreaterThan(second.databases[0]?.activation ?? Number.POSITIVE_INFINITY);
  });

  it.each([
    [
      'fewer replicas',
      '[{ name: dag1, members: [{ site: seattle, replicas: 2 }, { site: portland, replicas: 1 }] }]',
      /^member (contoso-dag1-portland-[0-9a-f]{6}-1) of dag\/dag1 in site portland would be removed.*"mailcluster member drain \1" first/,
    ],
    [
      'another dag name',
      '[{ name: dag2, members: [{ site: seattle, replicas: 2 }, { site: portland, replicas: 2 }] }]',
      /contoso-dag1-/,
    ],
  ])('that removes a member is refused: %s', (_, dags, reason) => {
    const result = next(first, { dags, databases: '' });
    expect(result.kind).toBe('refused');
    if (result.kind === 'refused') expect(result.reasons[0]).toMatch(reason);
  });

  it('to another cluster is refused', () => {
    const result = next(first, { name: 'fabrikam', databases: '' });
    expect(result).toMatchObject({
      kind: 'refused',
      reasons: [expect.stringContaining('of MailCluster contoso, not of fabrikam')],
    });
  });

  it('of front ends is free', () => {
    expect(document(first, { spec: '  frontend: { replicas: 1 }' }).frontends).toHaveLength(1);
  });
});

describe('maildir endpoints', () => {
  it.each([
    ['maildir:mail/sea', 'mail/sea'],
    ['store:24', null],
    ['maildir:a:b', 'a:b'],
  ])('%s', (lmtp, path) => expect(maildirPath(lmtp)).toBe(path));
});
