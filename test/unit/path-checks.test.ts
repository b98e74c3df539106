/** What `validate` says about mail that must cross from one boundary to another and has no path (semantics.md D3). */
import { expect, test } from 'vitest';
import { createReader, parseResources } from '../../operator/resource/load.ts';

const reader = createReader();

const WEST = 'dags: [{ name: west, members: [{ site: sea, replicas: 2 }, { site: pdx, replicas: 2 }] }]';
const DENVER = 'standalone: [{ site: den, replicas: 2 }]';

function notes(links: string, more: readonly string[] = [WEST, DENVER], hub = 'den'): readonly string[] {
  const sites = ['sea', 'pdx', 'den', 'bos'].map((name) => `{ name: ${name}, hubSite: ${name === hub} }`);
  const text = `apiVersion: mailcluster.dev/v1alpha1
kind: MailCluster
metadata: { name: contoso }
spec:
  sites: [${sites.join(', ')}]
  siteLinks: [${links}]
  acceptedDomains: [{ name: contoso.com, type: InternalRelay }]
${more.map((line) => `  ${line}\n`).join('')}`;
  const result = parseResources([{ file: 'f', text }], reader);
  if (!result.ok) throw new Error(JSON.stringify(result.problems));
  return result.notes.map(({ path, problem, fix }) => `${path}: ${problem}; ${fix}`);
}

const SEA_PDX = '{ name: sea-pdx, sites: [sea, pdx], cost: 10 }';
const PDX_DEN = '{ name: pdx-den, sites: [pdx, den] }';
const SMALL = [WEST, DENVER, 'frontend: { limits: { maxMessageSize: 1Mi } }'];
const THREE = [WEST, 'standalone: [{ site: den, replicas: 2 }, { site: bos, replicas: 2 }]'];

test.each([
  [
    'no link at all',
    '',
    [WEST, DENVER],
    'spec.siteLinks: no site link joins the boundaries dag/west, site/den; declare what mail between them goes over, for example { name: sea-den, sites: [sea, den], cost: 10 }',
  ],
  [
    'a site without any link',
    `${SEA_PDX}, ${PDX_DEN}`,
    THREE,
    [
      'spec.siteLinks: no site link leads from sea, pdx, den to site/bos; add one, for example { name: sea-bos, sites: [sea, bos], cost: 10 }',
      'spec.sites[3]: site bos has no site link, so mail from there has no path to dag/west, site/den; add one to spec.siteLinks, for example { name: bos-sea, sites: [bos, sea], cost: 10 }',
    ],
  ],
  [
    'two groups of sites',
    `${SEA_PDX}, { name: den-bos, sites: [den, bos] }`,
    THREE,
    [
      'spec.siteLinks: no site link leads from sea, pdx to site/den, site/bos; add one, for example { name: sea-den, sites: [sea, den], cost: 10 }',
      'spec.siteLinks: no site link leads from den, bos to dag/west; add one, for example { name: den-sea, sites: [den, sea], cost: 10 }',
    ],
  ],
  [
    'a site of a DAG by itself: its own boundary it needs no link to',
    PDX_DEN,
    [WEST, DENVER],
    'spec.sites[0]: site sea has no site link, so mail from there has no path to site/den; add one to spec.siteLinks, for example { name: sea-den, sites: [sea, den], cost: 10 }',
  ],
  [
    'front ends take more than any path',
    `${SEA_PDX}, { name: narrow, sites: [pdx, den], maxMessageSize: 10Mi }, { name: wider, sites: [sea, den], cost: 99, maxMessageSize: 25Mi }`,
    [WEST, DENVER],
    'spec.siteLinks[2].maxMessageSize: messages over 25Mi have no path to site/den, dag/west (link wider), and front ends take 35Mi; add a link for larger messages, raise maxMessageSize, or lower frontend.limits.maxMessageSize',
  ],
])('%s', (_title, links, more, expected) => expect(notes(links, more)).toEqual([expected].flat()));

test('a hub where nothing can stop', () => {
  expect(notes(`${SEA_PDX}, ${PDX_DEN}`, [WEST, DENVER], 'bos')).toEqual([
    'spec.sites[3].hubSite: no mail can stop in hub site bos: there is no transport; add standalone transports or members of a DAG there, or set hubSite to false',
  ]);
});

test.each([
  ['all joined', `${SEA_PDX}, ${PDX_DEN}`, [WEST, DENVER]],
  ['over a site without transports', `${SEA_PDX}, { name: a, sites: [pdx, bos] }, { name: b, sites: [bos, den] }`],
  ['a narrow link beside a wide one', `${SEA_PDX}, ${PDX_DEN}, { name: x, sites: [sea, den], maxMessageSize: 1Mi }`],
  ['front ends that take no more', `${SEA_PDX}, ${PDX_DEN.replace(' }', ', maxMessageSize: 1Mi }')}`, SMALL],
  ['one boundary', '', [WEST]],
  ['a boundary of nobody yet', '', [WEST, 'standalone: [{ site: den, replicas: 0 }]']],
])('%s: nothing to say', (_title, links, more = [WEST, DENVER]) => expect(notes(links, more)).toEqual([]));
