/** The path of mail for another boundary, and what `mailcluster route` says about it (semantics.md D3). */
import { describe, expect, test } from 'vitest';
import type { MemberConfig, TopologyDocument } from '../../common/config.ts';
import { boundaryGoal, boundaryPath, explainPath, knownPaths, sitesGoal } from '../../transport/core/boundary-path.ts';
import { explainRoute } from '../../transport/core/route-explanation.ts';
import { resolveRecipient } from '../../transport/core/routing.ts';
import { simTopology } from '../sim/topology.ts';

const MiB = 1 << 20;
const base = simTopology({ sites: [1], dag: true, frontends: 1 });

function member(name: string, dag: string | null, site: string, state: MemberConfig['state'] = 'active'): MemberConfig {
  const boundary = dag === null ? `site/${site}` : `dag/${dag}`;
  return { name, dag, site, boundary, address: { host: name, port: 1 }, state };
}

const link = (name: string, cost: number, maxMessageBytes: number | null = null) => ({
  ...{ name, cost, maxMessageBytes },
  sites: name.split('-').slice(0, 2),
});

/** As in examples/hub-site.yaml, with a dear link past the hub and a site that is only passed. */
const document: TopologyDocument = {
  ...base,
  policies: { ...base.policies, limits: { ...base.policies.limits, maxMessageBytes: 35 * MiB } },
  sites: ['sea', 'pdx', 'den', 'chi', 'bos'].map((name) => ({ name, hubSite: name === 'den' || name === 'pdx' })),
  siteLinks: [link('sea-pdx', 10), link('pdx-den', 50, 25 * MiB), link('den-chi', 20), link('chi-bos', 20)],
  members: [
    ...[member('w0', 'west', 'sea'), member('w1', 'west', 'pdx'), member('d0', null, 'den')],
    ...[member('d1', null, 'den', 'gone'), member('e0', 'east', 'bos')],
  ],
  acceptedDomains: [{ name: 'east.example', type: 'Authoritative' }],
  databases: base.databases.slice(0, 1).map((one) => ({
    ...{ ...one, name: 'east01', boundary: 'dag/east', domains: ['east.example'], addresses: [] },
    copies: [{ name: 'bos', site: 'bos', lmtp: { host: 'store', port: 24 }, replayLagMs: 0 }],
    activeCopy: 'bos',
  })),
  sendConnectors: [],
};
const links = document.siteLinks ?? [];
const SEA = { site: 'sea', boundary: 'dag/west' };
const BOS = { site: 'bos', boundary: 'dag/east' };
const toEast = (more: Partial<TopologyDocument> = {}, sizeBytes = 1, from = SEA) =>
  explainPath({ ...document, ...more }, from, boundaryGoal('dag/east'), sizeBytes);

describe('D3: where it stops', () => {
  test('at hubs with transports of others, and at the end; not where it is passed, nor in its own boundary', () => {
    expect(boundaryPath(document, SEA, boundaryGoal('dag/east'), 1)).toMatchObject({
      kind: 'path',
      path: { sites: ['sea', 'pdx', 'den', 'chi', 'bos'], cost: 100 },
      stops: [
        { site: 'den', boundary: 'site/den', isHub: true },
        { site: 'bos', boundary: 'dag/east', isHub: false },
      ],
    });
  });

  test('on the way back the hub of the other boundary is a stop, the end is its nearest site', () => {
    expect(boundaryPath(document, BOS, boundaryGoal('dag/west'), 1)).toMatchObject({
      path: { sites: ['bos', 'chi', 'den', 'pdx'] },
      stops: [{ site: 'den' }, { site: 'pdx', isHub: false }],
    });
  });

  test('not at a hub whose transports are leaving', () => {
    const members = document.members.map((one) => (one.name === 'd0' ? { ...one, state: 'draining' as const } : one));
    expect(toEast({ members })).toMatchObject({ stops: [{ site: 'bos' }] });
  });

  test('two boundaries in one site: there without a link', () => {
    const members = [...document.members, member('x0', null, 'sea')];
    expect(explainPath({ ...document, members }, SEA, boundaryGoal('site/sea'), 1)).toMatchObject({
      ...{ sites: ['sea'], cost: 0, stops: [{ site: 'sea', boundary: 'site/sea', isHub: false }] },
      ...{ why: 'there is a transport of it in this site', ifDown: [] },
    });
  });

  test('of the sites of a connector the nearest', () => {
    const found = explainPath(document, SEA, sitesGoal(['bos', 'den']), 1);
    expect(found).toMatchObject({ to: 'site bos, den', sites: ['sea', 'pdx', 'den'], cost: 60 });
  });
});

describe('what is said', () => {
  test('the path, why, and each site down', () => {
    expect(toEast()).toMatchObject({
      what: 'sea, pdx, den (hub, it stops there), chi, bos; cost 100',
      why: 'sea-pdx 10 + pdx-den 50 + den-chi 20 + chi-bos 20; there is no other path',
      ifDown: [
        { site: 'pdx', what: 'no change, it does not stop there; without its links there is no path' },
        { site: 'den', what: 'it waits in pdx; without its links there is no path' },
        { site: 'chi', what: 'no change, it does not stop there; without its links there is no path' },
        { site: 'bos', what: 'it waits in den; without its links there is no path' },
      ],
    });
  });

  test.each([
    ['a dearer one', link('pdx-bos', 91), 'the next is sea, pdx, bos (cost 101)'],
    ['as dear, over more links', link('pdx-den-other', 50), 'its name comes later', 25 * MiB],
    ['a link that is too narrow', link('pdx-bos', 95), 'pdx-den takes at most 26214400 bytes', 25 * MiB + 1],
    [
      'no difference but the name',
      link('den-bos-b', 40),
      'sea, pdx, den, chi, bos (cost 100) costs as much, over more',
    ],
  ])('why: %s', (_title, more, why, sizeBytes = 1) =>
    expect(toEast({ siteLinks: [...links, more] }, sizeBytes).why).toContain(why),
  );

  test.each<[string, Partial<TopologyDocument>, number, string]>([
    ['too large', {}, 26 * MiB, 'every path from sea to dag/east takes at most 26214400 bytes, this is 27262976'],
    ['a link is missing', { siteLinks: links.slice(0, 3) }, 1, 'no site link leads from sea to dag/east'],
    ['none is declared', { siteLinks: [] }, 1, 'spec.siteLinks is empty'],
    ['nobody is there', { members: document.members.slice(0, 4) }, 1, 'dag/east has no active transport'],
  ])('no path: %s', (_title, more, size, why) =>
    expect(toEast(more, size)).toMatchObject({ sites: [], cost: null, what: 'none', why }),
  );
});

describe('of a route', () => {
  const explain = (address: string, from = SEA, sizeBytes = 1, more: Partial<TopologyDocument> = {}) =>
    explainRoute({ ...document, ...more }, address, { ...from, sizeBytes });

  test('to the first stop on the path; where nothing crosses to the store itself', () => {
    expect(explain('ann@east.example')).toMatchObject({
      ...{ kind: 'boundary', nextHop: 'boundary:site/den/den', path: { to: 'dag/east', cost: 100 } },
      route: { kind: 'boundary', boundary: 'site/den', members: ['d0'] },
    });
    expect(explain('ann@east.example', BOS)).toMatchObject({ nextHop: 'mailbox:east01/bos', path: null });
    const den = { site: 'den', boundary: 'site/den' };
    expect(explain('ann@east.example', den)).toMatchObject({ route: { boundary: 'dag/east', members: ['e0'] } });
    expect(explain('ann@east.example', SEA, 26 * MiB)).toMatchObject({
      ...{
        kind: 'refused',
        what: expect.stringMatching(/^552 5\.3\.4 every path from sea to dag\/east takes at most/),
      },
      path: { what: 'none' },
    });
    expect(explain('ann@east.example', SEA, 1, { siteLinks: links.slice(1) })).toMatchObject({
      ...{ kind: 'unreachable', why: 'no site link leads from sea to dag/east' },
    });
    const { siteLinks: _, ...without } = document;
    expect(explainRoute(without, 'ann@east.example', { ...SEA, sizeBytes: 1 })).toMatchObject({ kind: 'mailbox' });
  });

  test('of a mailbox names no send connector: none would ever take its mail', () => {
    const connector = { name: 'out', sites: ['den'], addressSpaces: [{ domain: '*', cost: 1 }] };
    const smartHosts = [{ host: 'out', port: 25 }];
    const sendConnectors = [{ ...connector, smartHosts, mx: null, tls: 'None' as const }];
    const way = (sizeBytes: number, siteLinks = links) =>
      explain('ann@east.example', SEA, sizeBytes, { sendConnectors, siteLinks });
    expect(way(1)).toMatchObject({ kind: 'boundary', others: [] });
    expect(way(1, links.slice(1))).toMatchObject({ kind: 'unreachable', others: [] });
    const why = 'every path over site links is for smaller messages';
    expect(way(26 * MiB)).toMatchObject({ kind: 'refused', why, others: [] });
    const far = explain('x@far.example', SEA, 1, { sendConnectors });
    expect(far).toMatchObject({ kind: 'boundary', others: [{ name: 'out', why: 'only for site den, this is sea' }] });
  });

  test('where it waits for a stop that is away: the nearest site before it with transports that have not had it', () => {
    const { siteLinks = [] } = document;
    const noHub = { ...document, siteLinks, sites: document.sites.map(({ name }) => ({ name, hubSite: false })) };
    const crossing = { boundary: 'dag/west', passed: [] as readonly string[] };
    const way = (passed: readonly string[], members = document.members) =>
      resolveRecipient({ ...noHub, members }, 'ann@east.example', {
        ...{ site: 'sea', sizeBytes: 1 },
        crossing: { ...crossing, passed },
      });
    const den = { boundary: 'site/den', site: 'den', members: ['d0'] };
    expect(way([])).toMatchObject({ hop: 'boundary:dag/east', route: { boundary: 'dag/east', before: [den] } });
    expect(way(['site/den'])).toMatchObject({ route: { before: [] } });
    const chicago = [...document.members, member('c0', null, 'chi'), member('c1', null, 'chi')];
    const chi = { boundary: 'site/chi', site: 'chi', members: ['c0', 'c1'] };
    expect(way([], chicago)).toMatchObject({ route: { before: [chi, den] } });
  });

  test('of 200 sites are known in 50 ms after a change', () => {
    const sites = Array.from({ length: 200 }, (_, at) => ({ name: `s${at}`, hubSite: at % 20 === 0 }));
    const siteLinks = Array.from({ length: 600 }, (_, at) => ({
      ...{ name: `l${at}`, cost: 1 + ((at * 7) % 50), maxMessageBytes: at % 9 === 0 ? MiB : null },
      sites: [`s${at % 200}`, `s${at < 200 ? (at + 1) % 200 : (at * 37 + 11) % 200}`],
    })).filter(({ sites: [a, b] }) => a !== b);
    const members = sites.flatMap(({ name }, at) => [member(`m${at}a`, null, name), member(`m${at}b`, null, name)]);
    const large = { ...document, sites, siteLinks, members };
    const all = (): number => {
      const known = knownPaths(large);
      const startMs = performance.now();
      for (const { name } of sites)
        boundaryPath(large, { site: 's0', boundary: 'site/s0' }, boundaryGoal(`site/${name}`), 1, known);
      expect(known.paths.size).toBe(200);
      expect(known.trees.size).toBe(1);
      return performance.now() - startMs;
    };
    // The best of some: others have the machine, too.
    expect(Math.min(...Array.from({ length: 10 }, all))).toBeLessThan(50);
  });

  test('what comes back over a hub it has passed goes on behind it; where it would go it has been: two documents differ, it waits', () => {
    const way = (...passed: string[]) =>
      resolveRecipient(document, 'ann@east.example', {
        ...{ site: 'sea', sizeBytes: 1 },
        crossing: { boundary: 'dag/west', passed },
      });
    expect(way('site/den')).toMatchObject({ kind: 'route', hop: 'boundary:dag/east' });
    expect(way('site/den', 'dag/east')).toEqual({
      ...{ kind: 'unreachable', reason: 'it is in a loop: site/den, dag/east, dag/west, dag/east' },
    });
  });

  test('a connector of other sites: the best match wherever it is, then both costs, then here', () => {
    const out = (name: string, sites: readonly string[], cost: number, domain = '*') => ({
      ...{ name, sites, addressSpaces: [{ domain, cost }], smartHosts: [{ host: name, port: 25 }] },
      ...({ mx: null, tls: 'None' } as const),
    });
    const sendConnectors = [out('near', ['den'], 50), out('far', ['bos'], 1), out('dear', ['pdx'], 95)];
    const waits = explain('x@far.example', SEA, 1, { sendConnectors });
    expect(waits).toMatchObject({
      kind: 'boundary',
      nextHop: 'boundary:site/den/den',
      path: { to: 'site bos', cost: 100 },
    });
    // From denver: 1 and a path of 40 are less than 50 here, and not less than 41.
    const DEN = { site: 'den', boundary: 'site/den' };
    expect(explain('x@far.example', DEN, 1, { sendConnectors })).toMatchObject({ nextHop: 'boundary:dag/east/bos' });
    const cheaper = [out('near', ['den'], 41), ...sendConnectors.slice(1)];
    const here = { kind: 'connector', nextHop: 'connector:near', path: null };
    expect(explain('x@far.example', DEN, 1, { sendConnectors: cheaper })).toMatchObject(here);
    const exact = [...cheaper, out('exact', ['bos'], 500, 'far.example')];
    expect(explain('x@far.example', DEN, 1, { sendConnectors: exact })).toMatchObject({
      nextHop: 'boundary:dag/east/bos',
    });
    // No path leads there: the one here takes it, worse match or not.
    const cut = { siteLinks: links.slice(0, 2), sendConnectors: exact };
    expect(explain('x@far.example', DEN, 1, cut)).toMatchObject(here);
    const within = [out('dear', ['pdx'], 1)];
    expect(explain('x@far.example', SEA, 1, { sendConnectors: within })).toMatchObject({
      ...{ kind: 'boundary', nextHop: 'boundary:dag/west/pdx' },
      route: { boundary: 'dag/west', site: 'pdx', members: ['w1'], before: [] },
    });
    expect(explain('x@far.example').path).toBeNull();
  });
});
