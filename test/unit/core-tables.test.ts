/** What the tables of R4 and D1 leave open: bounds of every search for a shadow as a property, odd addresses, the match of connectors. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { MailboxDatabaseConfig, PoliciesConfig, TopologyDocument } from '../../common/config.ts';
import { type Candidate, nextCandidate, type PlacementInput, type Tried } from '../../transport/core/placement.ts';
import { databaseOf, resolveRecipient } from '../../transport/core/routing.ts';
import { simTopology } from '../sim/topology.ts';
import { CoreBench, memberOf, PEER } from './core-bench.ts';

const HERE = { site: 'here', sizeBytes: 1 };

type Shadows = PoliciesConfig['shadowRedundancy'];
const POLICY = simTopology({ sites: [2], dag: true, frontends: 1 }).policies.shadowRedundancy;
const candidate = (member: string, more: Partial<Candidate> = {}): Candidate => ({
  member,
  site: member.startsWith('far') ? 'far' : 'here',
  queued: 0,
  open: 0,
  ...more,
});

/** Members of `names`, those called `far...` in the other site, all healthy unless told otherwise. */
function input(names: readonly string[], more: Partial<PlacementInput> = {}): PlacementInput {
  return {
    self: memberOf('self', 'here'),
    boundary: names.map((name) => memberOf(name, name.startsWith('far') ? 'far' : 'here')),
    healthy: names.map((name) => candidate(name)),
    tried: [],
    policy: POLICY,
    draw: 0,
    ...more,
  };
}

/** Every attempt of one search, all failing. */
function attempts(from: PlacementInput, draw: () => number = () => 0): string[] {
  const tried: Tried[] = [];
  for (let round = 0; round < 100; round++) {
    const member = nextCandidate({ ...from, tried, draw: draw() });
    if (member === null) return tried.map((entry) => entry.member);
    tried.push({ member, site: candidate(member).site });
  }
  throw new Error('never ends');
}

const policy = (preference: Shadows['preference']): Shadows => ({ ...POLICY, preference });

describe('R4: whom to ask for a shadow', () => {
  const both = ['far-1', 'far-2', 'here-1', 'here-2'];

  test('a boundary spans sites also while nobody of the other one is here: LocalOnly does not become "one site"', () => {
    const here = [candidate('here-1')];
    expect(nextCandidate(input(both, { healthy: here, policy: policy('RemoteOnly') }))).toBeNull();
    expect(nextCandidate(input(both, { healthy: [candidate('far-1')], policy: policy('LocalOnly') }))).toBeNull();
  });

  test('budgets are the configured ones, and count attempts of the whole search', () => {
    const small = { ...POLICY, maxRetriesForRemoteSiteShadow: 1, maxRetriesForLocalSiteShadow: 1 };
    expect(attempts(input(both, { policy: small }))).toEqual(['far-1', 'here-1']);
    const none = { ...POLICY, maxRetriesForRemoteSiteShadow: 0, maxRetriesForLocalSiteShadow: 0 };
    expect(attempts(input(both, { policy: none }))).toEqual([]);
  });

  test('the lightest of the fresh ones, equal ones by lot', () => {
    const healthy = [candidate('far-1', { queued: 10_000 }), candidate('far-2', { open: 3 }), candidate('far-3')];
    const busy = input(['far-1', 'far-2', 'far-3'], { healthy });
    expect(attempts(busy)).toEqual(['far-3', 'far-2', 'far-1', 'far-3']);
    const drawn = [0, 0.4, 0.7, 0.999].map((draw) => nextCandidate(input(['far-1', 'far-2', 'far-3'], { draw })));
    expect(drawn).toEqual(['far-1', 'far-2', 'far-3', 'far-3']);
  });

  test('a member of another boundary is never asked, however healthy and however lonely we are', () => {
    const bench = new CoreBench({ shape: { sites: [2, 1], dag: false } });
    bench.join('t-1-0');
    bench.open('M1', ['x@far.example']);
    expect(bench.seen('OpenCandidate')).toEqual([]);
    expect(bench.lastSeen('RefuseStream').refuse).toMatchObject({ reply: { code: 451 }, tryOther: true });
    bench.join(PEER);
    bench.open('M2', ['x@far.example']);
    bench.candidateRefused(bench.lastSeen('OpenCandidate'));
    bench.candidateRefused(bench.lastSeen('OpenCandidate'));
    expect(bench.seen('OpenCandidate').map(({ member }) => member)).toEqual([PEER, PEER]);
  });

  test('never outside what is healthy in the boundary, never over budget, nobody twice before everybody once', () => {
    const names = fc.uniqueArray(
      fc.constantFrom('far-1', 'far-2', 'far-3', 'far-4', 'far-5', 'here-1', 'here-2', 'here-3'),
    );
    const preferences = fc.constantFrom('PreferRemote' as const, 'RemoteOnly' as const, 'LocalOnly' as const);
    fc.assert(
      fc.property(
        names,
        fc.func(fc.boolean()),
        preferences,
        fc.double({ min: 0, max: 0.999, noNaN: true }),
        (members, isUp, preference, draw) => {
          const healthy = members.filter((name) => isUp(name)).map((name) => candidate(name));
          const made = attempts(input(members, { healthy, policy: policy(preference) }), () => draw);
          expect(made.every((name) => healthy.some(({ member }) => member === name))).toBe(true);
          for (const [site, budget] of [
            ['far', 4],
            ['here', 2],
          ] as const) {
            const there = made.filter((name) => name.startsWith(site));
            expect(there.length).toBeLessThanOrEqual(budget);
            const distinct = healthy.filter(({ member }) => member.startsWith(site)).length;
            if (there.length > 0) expect(new Set(there).size).toBe(Math.min(distinct, there.length));
          }
        },
      ),
      { numRuns: 200 },
    );
  });
});

function database(name: string, more: Partial<MailboxDatabaseConfig>): MailboxDatabaseConfig {
  const lmtp = { host: `${name}.store`, port: 24 };
  return {
    name,
    boundary: 'dag/dag1',
    domains: [],
    addresses: [],
    caseSensitiveLocalParts: false,
    copies: ['one', 'two'].map((copy) => ({ name: copy, site: 'site-0', lmtp, replayLagMs: 0 })),
    activeCopy: 'two',
    activation: 7,
    lossWindowMs: 1,
    hidesClientRetries: true,
    ...more,
  };
}

const connector = (name: string, domain: string, cost = 1, hosts = 1) => ({
  name,
  addressSpaces: [{ domain, cost }],
  smartHosts: Array.from({ length: hosts }, (_, at) => ({ host: `${name}-${at}`, port: 25 })),
  mx: null,
  tls: 'Opportunistic' as const,
  sites: [],
});

const DOCUMENT: TopologyDocument = {
  ...simTopology({ sites: [2], dag: true, frontends: 1 }),
  acceptedDomains: [
    { name: 'contoso.example', type: 'Authoritative' },
    { name: 'Partner.example', type: 'InternalRelay' },
  ],
  databases: [
    database('db-domain', { domains: ['mail.contoso.example', 'shared.example'] }),
    database('db-names', { addresses: ['bob@contoso.example', 'ann@shared.example', 'postmaster@contoso.example'] }),
    database('db-case', { addresses: ['Carol@contoso.example'], caseSensitiveLocalParts: true }),
    database('db-headless', { addresses: ['dan@contoso.example'], activeCopy: 'gone' }),
  ],
  sendConnectors: [
    connector('world', '*', 10),
    connector('cheap', '*', 1),
    connector('org', '*.example.org', 1),
    connector('exact', 'sub.example.org', 50),
    connector('empty', 'example.net', 1, 0),
  ],
};

describe('D1: where a recipient goes', () => {
  test.each<[string, string]>([
    ['Carol@contoso.example', 'mailbox:db-case/two'],
    ['x@somewhere.example', 'connector:cheap'],
    ['x@a.example.org', 'connector:org'],
    ['x@example.org', 'connector:org'],
    ['x@sub.example.org', 'connector:exact'],
    ['x@notexample.org', 'connector:cheap'],
    ['x@example.net', 'connector:cheap'],
    ['x@partner.example', 'connector:cheap'],
    ['"odd@local"@sub.example.org', 'connector:exact'],
  ])('%s -> %s', (recipient, hop) => {
    expect(resolveRecipient(DOCUMENT, recipient, HERE)).toMatchObject({ kind: 'route', hop });
  });

  test('a mailbox route names the active copy, its endpoint and the activation (finality is bound to it)', () => {
    const resolution = resolveRecipient(DOCUMENT, 'bob@contoso.example', HERE);
    const endpoint = { host: 'db-names.store', port: 24 };
    const route = { kind: 'mailbox', database: 'db-names', copy: 'two', activation: 7, ...endpoint };
    expect(resolution).toEqual({ kind: 'route', hop: 'mailbox:db-names/two', route });
  });

  test.each(['carol@contoso.example', 'nobody@contoso.example'])('%s is nobody here: 550 5.1.1', (recipient) => {
    expect(resolveRecipient(DOCUMENT, recipient, HERE)).toEqual({
      kind: 'unknown',
      reply: '550 5.1.1 Mailbox unknown',
    });
  });

  test('no active copy, or no connector: kept as unreachable, never refused', () => {
    expect(resolveRecipient(DOCUMENT, 'dan@contoso.example', HERE)).toMatchObject({ kind: 'unreachable' });
    expect(resolveRecipient({ ...DOCUMENT, sendConnectors: [] }, 'x@far.example', HERE)).toMatchObject({
      kind: 'unreachable',
    });
    expect(databaseOf(DOCUMENT, 'x@far.example')).toBeNull();
  });
});
