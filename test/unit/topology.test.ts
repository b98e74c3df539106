/** Names, spreading, boundaries, generation and activation: what the operator and `mailcluster run` both build on. */
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import type { TopologyDocument } from '../../common/config.ts';
import { parseTopologyDocument } from '../../common/config-parse.ts';
import type { Identity } from '../../common/message.ts';
import { createReader, parseResources } from '../../operator/resource/load.ts';
import { renderProblem } from '../../operator/resource/problem.ts';
import {
  type Decisions,
  drainRefusal,
  frontendLimits,
  maildirPath,
  NO_DECISIONS,
  nextTopology,
  planMembers,
} from '../../operator/topology.ts';

const reader = createReader();

interface Shape {
  readonly name?: string;
  readonly sites?: string;
  readonly dags?: string;
  readonly spec?: string;
  readonly databases?: string;
  readonly decisions?: Partial<Decisions>;
  readonly requests?: string;
  readonly requestedAtMs?: number;
  readonly nowMs?: number;
}

const NOW_MS = Date.UTC(2026, 0, 2, 3, 4, 5);
const HOUR_MS = 3_600_000;

const DATABASE = `---
apiVersion: mailcluster.dev/v1alpha1
kind: MailboxDatabase
metadata: { name: db01 }
spec:
  clusterRef: { name: contoso }
  dag: dag1
  recipients: { domains: [contoso.com], addresses: [Bob@Contoso.COM] }
  copies:
    - { name: sea, site: seattle, lmtp: "maildir:mail/sea" }
    - { name: pdx, site: portland, lmtp: "[2001:db8::24]:2424", replayLag: 1h }
  activeCopy: sea
`;

function resources(shape: Shape = {}) {
  const text = `apiVersion: mailcluster.dev/v1alpha1
kind: MailCluster
metadata: { name: ${shape.name ?? 'contoso'} }
spec:
  sites: ${shape.sites ?? '[{ name: seattle }, { name: portland }]'}
  dags: ${shape.dags ?? '[{ name: dag1, members: [{ site: seattle, replicas: 2 }, { site: portland, replicas: 2 }] }]'}
  acceptedDomains: [{ name: contoso.com }]
${shape.spec ?? ''}
${shape.databases ?? DATABASE}${shape.requests ?? ''}`;
  const result = parseResources([{ file: fileURLToPath(import.meta.url), text }], reader);
  if (!result.ok) throw new Error(result.problems.map(renderProblem).join('\n'));
  const [cluster] = result.clusters;
  if (cluster === undefined) throw new Error('no cluster');
  return { ...result, cluster };
}

function next(previous: TopologyDocument | null, shape: Shape = {}) {
  const { cluster, databases, configMaps, resubmitRequests } = resources(shape);
  const addresses = new Map(
    planMembers(cluster).transports.map(({ name }, index) => [name, { host: '127.0.0.1', port: 2000 + index }]),
  );
  const resolveMaildir = (database: string, copy: string, path: string) => {
    expect([database, copy, path]).toEqual(['db01', 'sea', 'mail/sea']);
    return { host: '127.0.0.1', port: 24 };
  };
  const nowMs = shape.nowMs ?? NOW_MS;
  const createdAtMs = shape.requestedAtMs ?? nowMs;
  return nextTopology(previous, {
    cluster,
    databases,
    configMaps,
    addresses,
    resolveMaildir,
    decisions: { ...NO_DECISIONS, ...shape.decisions },
    requests: resubmitRequests.map((request) => ({ request, createdAtMs })),
    nowMs,
  });
}

const UNDECIDED = { decisions: NO_DECISIONS, requests: [], nowMs: NOW_MS };

function document(previous: TopologyDocument | null, shape: Shape = {}): TopologyDocument {
  const result = next(previous, shape);
  if (result.kind === 'refused') throw new Error(result.reasons.join('\n'));
  return result.document;
}

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

  it('holds smart hosts in their order and leaves MX connectors out', () => {
    const spec =
      '  sendConnectors: [{ name: b, addressSpaces: [{ domain: "*" }], smartHosts: [{ host: z }, { host: a, port: 587 }], sites: [seattle, portland] }, { name: a, delivery: MX, addressSpaces: [{ domain: x.org }] }]';
    expect(document(null, { spec }).sendConnectors).toEqual([
      {
        name: 'b',
        addressSpaces: [{ domain: '*', cost: 1 }],
        smartHosts: [
          { host: 'z', port: 25 },
          { host: 'a', port: 587 },
        ],
        tls: 'Opportunistic',
        sites: ['portland', 'seattle'],
      },
    ]);
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

describe('a failover', () => {
  const first = document(null);
  const TO_PDX = { databases: DATABASE.replace('activeCopy: sea', 'activeCopy: pdx') };
  const TO_SEA = { nowMs: NOW_MS + HOUR_MS };

  it('makes its request in the same generation: from failover - lossWindow - replayLag, open ended', () => {
    const second = document(first, TO_PDX);
    expect(second.generation).toBe(2);
    expect(second.resubmitRequests).toEqual([
      {
        name: 'db01-failover-2',
        boundary: 'dag/dag1',
        database: 'db01',
        sender: null,
        recipient: null,
        messageId: null,
        // 15 minutes of loss window and 1 hour of replay lag of the copy that is active now.
        fromMs: NOW_MS - 900_000 - HOUR_MS,
        toMs: null,
        lostActivation: 1,
        createdAtMs: NOW_MS,
        // holdTime 48 h = replay lag + loss window + lifetime (protocol.md 21).
        expiresAtMs: NOW_MS + 48 * HOUR_MS - HOUR_MS - 900_000,
        dryRun: false,
        cancelled: false,
      },
    ]);
    expect(parseTopologyDocument(JSON.parse(JSON.stringify(second)))).toEqual({ kind: 'ok', value: second });
  });

  it('and a second one have a request each; the first is left as it was', () => {
    const second = document(first, TO_PDX);
    const third = document(second, TO_SEA);
    expect(third.resubmitRequests.map(({ name, lostActivation, fromMs }) => [name, lostActivation, fromMs])).toEqual([
      ['db01-failover-2', 1, second.resubmitRequests[0]?.fromMs],
      // The copy in Seattle has no replay lag.
      ['db01-failover-3', 2, NOW_MS + HOUR_MS - 900_000],
    ]);
  });

  it('of a database with the longest name has a name a resource may have', () => {
    const databases = ['a', 'b'].map((last) => DATABASE.replace('db01', `${'d'.repeat(62)}${last}`));
    const shape = databases.map((one) => one.replace('[contoso.com], addresses: [Bob@Contoso.COM]', '[contoso.com]'));
    const found = shape.map((text) => {
      const before = nameless(null, text);
      return nameless(before, text.replace('activeCopy: sea', 'activeCopy: pdx')).resubmitRequests[0]?.name ?? '';
    });
    expect(new Set(found).size).toBe(2);
    for (const name of found) expect(name).toMatch(/^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/);
    for (const name of found) expect(name.length).toBeLessThanOrEqual(63);
  });

  it('keeps its request whatever is edited, until it expires or its database is gone', () => {
    const second = document(first, TO_PDX);
    const edited = document(second, { ...TO_PDX, spec: '  frontend: { replicas: 3 }', nowMs: NOW_MS + HOUR_MS });
    expect(edited.resubmitRequests).toEqual(second.resubmitRequests);
    const last = second.resubmitRequests[0]?.expiresAtMs ?? 0;
    expect(next(second, { ...TO_PDX, nowMs: last - 1 }).kind).toBe('unchanged');
    expect(document(second, { ...TO_PDX, nowMs: last })).toMatchObject({ generation: 3, resubmitRequests: [] });
    expect(document(second, { databases: '' }).resubmitRequests).toEqual([]);
  });

  it('with hardly any hold time left for it still has an hour', () => {
    const spec = '  safetyNet: { holdTime: 75m }';
    const second = document(document(null, { spec }), { ...TO_PDX, spec });
    expect(second.resubmitRequests[0]?.expiresAtMs).toBe(NOW_MS + HOUR_MS);
  });

  it('that is cancelled stays cancelled', () => {
    const second = document(first, TO_PDX);
    const third = document(second, { ...TO_PDX, decisions: { cancelled: new Set(['db01-failover-2']) } });
    expect(third.resubmitRequests).toMatchObject([{ cancelled: true }]);
    expect(next(third, TO_PDX)).toMatchObject({ kind: 'unchanged' });
  });

  function nameless(previous: TopologyDocument | null, databases: string): TopologyDocument {
    const { cluster, databases: parsed, configMaps } = resources({ databases });
    const addresses = new Map(planMembers(cluster).transports.map(({ name }, n) => [name, { host: 'h', port: 1 + n }]));
    const resolveMaildir = () => ({ host: 'h', port: 24 });
    const made = nextTopology(previous, {
      cluster,
      databases: parsed,
      configMaps,
      addresses,
      resolveMaildir,
      ...UNDECIDED,
    });
    if (made.kind === 'refused') throw new Error(made.reasons.join());
    return made.document;
  }
});

describe('a request of a person', () => {
  const REQUEST = `---
apiVersion: mailcluster.dev/v1alpha1
kind: ResubmitRequest
metadata: { name: again }
spec:
  clusterRef: { name: contoso }
  selector: { database: db01 }
  window: { from: "2026-01-02T00:00:00Z", to: "2026-01-02T02:00:00+01:00" }
`;
  const first = document(null);

  it('is in the document, stays when the file is gone, and is cancelled by it', () => {
    const second = document(first, { requests: REQUEST });
    expect(second).toMatchObject({
      generation: 2,
      resubmitRequests: [
        {
          name: 'again',
          boundary: 'dag/dag1',
          database: 'db01',
          fromMs: Date.UTC(2026, 0, 2),
          toMs: Date.UTC(2026, 0, 2, 1),
          lostActivation: null,
          createdAtMs: NOW_MS,
          expiresAtMs: NOW_MS + 48 * HOUR_MS,
          dryRun: false,
          cancelled: false,
        },
      ],
    });
    expect(next(second, { nowMs: NOW_MS + HOUR_MS })).toMatchObject({ kind: 'unchanged' });
    expect(next(second, { requests: REQUEST, requestedAtMs: NOW_MS + 5 })).toMatchObject({ kind: 'unchanged' });
    const third = document(second, { requests: REQUEST.replace('  window', '  cancel: true\n  window') });
    expect(third.resubmitRequests).toMatchObject([{ cancelled: true }]);
    expect(document(third).resubmitRequests).toMatchObject([{ cancelled: true }]);
  });

  it('does not come back after it expired, although its file is still there', () => {
    const late = { requests: REQUEST, requestedAtMs: NOW_MS, nowMs: NOW_MS + 48 * HOUR_MS };
    expect(document(document(first, { requests: REQUEST }), late).resubmitRequests).toEqual([]);
    expect(next(first, late)).toMatchObject({ kind: 'unchanged' });
  });

  it.each([
    [
      'changes',
      REQUEST.replace('T00:00:00Z', 'T00:30:00Z'),
      /^ResubmitRequest again is there already with another fromMs/,
    ],
    [
      'calls the present activation lost',
      REQUEST.replace('name: again', 'name: other').replace('  window', '  lostActivation: 1\n  window'),
      /lostActivation 1 is not lost, db01 is at activation 1/,
    ],
  ])('that %s is refused', (_, requests, reason) => {
    const result = next(document(first, { requests: REQUEST }), { requests });
    expect(result).toMatchObject({ kind: 'refused', reasons: [expect.stringMatching(reason)] });
  });
});

describe('a decision about a member', () => {
  const first = document(null);
  const [one, two] = first.members.map(({ name }) => name).sort();
  if (one === undefined || two === undefined) throw new Error('no members');
  const IDENTITY = '01JABCDEFGHJKMNPQRSTVWXYZ0' as Identity;
  const lost = { member: one, identity: IDENTITY, uid: null, reason: 'lost' } as const;
  const stateOf = (found: TopologyDocument, name: string) =>
    found.members.find((member) => member.name === name)?.state;

  it('is its state in the document, and undone by its absence', () => {
    const second = document(first, { decisions: { members: new Map([[one, 'draining']]) } });
    expect([second.generation, stateOf(second, one), stateOf(second, two)]).toEqual([2, 'draining', 'active']);
    expect(document(second)).toMatchObject({ generation: 3, members: first.members });
  });

  it('that it is gone lets its replicas go, and nothing else does', () => {
    const dags = '[{ name: dag1, members: [{ site: seattle, replicas: 2 }, { site: portland, replicas: 1 }] }]';
    const last = first.members.find(({ name }) => /portland-[0-9a-f]{6}-1$/.test(name))?.name ?? '';
    expect(next(first, { dags, decisions: { members: new Map([[last, 'draining']]) } }).kind).toBe('refused');
    const gone = { members: new Map([[last, 'gone' as const]]) };
    const second = document(first, { decisions: gone });
    expect(stateOf(second, last)).toBe('gone');
    expect(document(second, { dags, decisions: gone }).members).toHaveLength(3);
    expect(document(second, { dags }).members).toHaveLength(3);
  });

  it('retires a queue database for ever, once', () => {
    const second = document(first, { decisions: { retired: [lost] } });
    expect(second).toMatchObject({ generation: 2, retired: [lost] });
    expect(next(second)).toMatchObject({ kind: 'unchanged' });
    const drained = { ...lost, reason: 'drained' as const };
    expect(next(second, { decisions: { retired: [drained] } })).toMatchObject({ kind: 'unchanged' });
    const other = { ...drained, identity: '01JABCDEFGHJKMNPQRSTVWXYZ1' as Identity };
    expect(document(second, { decisions: { retired: [other, lost] } }).retired).toEqual([lost, other]);
  });

  it('to drain the last active member of its boundary is refused, with the reason', () => {
    expect(drainRefusal(first, one)).toBe(null);
    expect(drainRefusal(first, 'nobody')).toBe('there is no member nobody');
    const names = first.members.map(({ name }) => name);
    const states = new Map(names.filter((name) => name !== one).map((name) => [name, 'draining' as const]));
    const alone = document(first, { decisions: { members: states } });
    expect(drainRefusal(alone, one)).toMatch(
      /^.* is the last active member of dag\/dag1 \(.* is draining, .*\): nobody could take over its messages; add a member/,
    );
  });
});

describe('the quota of the Safety Nets', () => {
  it('is in bytes, or null', () => {
    expect(document(null).policies.safetyNet.quotaBytes).toBe(null);
    expect(document(null, { spec: '  safetyNet: { quota: 2Gi }' }).policies.safetyNet.quotaBytes).toBe(2 ** 31);
  });
});
