/**
 * What is odd in how a MailCluster joins its sites (semantics.md D3): mail that must cross from one boundary to another and has no path, or none for its size;
 * a hub at which nothing can stop. Owns: those notes; nothing here is refused, a site may be joined later. PURE.
 */
import { pathsFrom, type SiteLink, widthsFrom } from '../../common/site-paths.ts';
import { siteLinks } from '../site-links.ts';
import type { MailCluster } from './generated.ts';
import type { Path } from './problem.ts';
import { sizeBytes } from './quantity.ts';

type Say = (path: Path, problem: string, fix: string) => void;

interface Boundary {
  readonly name: string;
  /** With transports. */
  readonly sites: readonly string[];
}

function boundariesOf({ dags, standalone }: MailCluster['spec']): readonly Boundary[] {
  const sitesOf = (members: MailCluster['spec']['standalone']): readonly string[] =>
    members.filter(({ replicas }) => replicas > 0).map(({ site }) => site);
  return [
    ...dags.map(({ name, members }) => ({ name: `dag/${name}`, sites: sitesOf(members) })),
    ...standalone.map((member) => ({ name: `site/${member.site}`, sites: sitesOf([member]) })),
  ].filter(({ sites }) => sites.length > 0);
}

export function notePaths(cluster: MailCluster, note: Say): void {
  const { spec } = cluster;
  const boundaries = boundariesOf(spec);
  if (boundaries.length < 2) return;
  const links = siteLinks(cluster);
  const occupied = new Set(boundaries.flatMap(({ sites }) => sites));
  if (links.length === 0) {
    const [one = '', other = ''] = [boundaries[0]?.sites[0], boundaries[1]?.sites[0]];
    note(
      ['spec', 'siteLinks'],
      `no site link joins the boundaries ${boundaries.map(({ name }) => name).join(', ')}`,
      `declare what mail between them goes over, ${example(one, other)}`,
    );
  } else {
    noteUnjoined(spec, links, boundaries, note);
    noteSizes(cluster, links, boundaries, note);
  }
  for (const [at, { name, hubSite }] of spec.sites.entries())
    if (hubSite && !occupied.has(name))
      note(
        ['spec', 'sites', at, 'hubSite'],
        `no mail can stop in hub site ${name}: there is no transport`,
        'add standalone transports or members of a DAG there, or set hubSite to false',
      );
}

const example = (one: string, other: string): string =>
  `for example { name: ${one}-${other}, sites: [${one}, ${other}], cost: 10 }`;

/** Sites from which no link leads to some other boundary: each by itself where it has no link, else once for all that are joined. */
function noteUnjoined(
  spec: MailCluster['spec'],
  links: readonly SiteLink[],
  boundaries: readonly Boundary[],
  note: Say,
): void {
  const told = new Set<string>();
  const occupied = new Set(boundaries.flatMap(({ sites }) => sites));
  for (const [at, { name: site }] of spec.sites.entries()) {
    if (!occupied.has(site) || told.has(site)) continue;
    const reached = pathsFrom(links, site, 0);
    const away = boundaries.filter(
      ({ sites }) => !sites.includes(site) && !sites.some((one) => one === site || reached.has(one)),
    );
    if (away.length === 0) continue;
    const group = [...occupied].filter((one) => reached.has(one));
    for (const one of group) told.add(one);
    const names = away.map(({ name }) => name).join(', ');
    const there = away[0]?.sites[0] ?? '';
    if (links.some(({ sites }) => sites.includes(site)))
      note(
        ['spec', 'siteLinks'],
        `no site link leads from ${group.join(', ')} to ${names}`,
        `add one, ${example(site, there)}`,
      );
    else
      note(
        ['spec', 'sites', at],
        `site ${site} has no site link, so mail from there has no path to ${names}`,
        `add one to spec.siteLinks, ${example(site, there)}`,
      );
  }
}

/** Mail that front ends take, and that is too large for every path. */
function noteSizes(
  { spec }: MailCluster,
  links: readonly SiteLink[],
  boundaries: readonly Boundary[],
  note: Say,
): void {
  const taken = spec.frontend.limits.maxMessageSize;
  const narrow = new Map<number, Set<string>>();
  for (const site of new Set(boundaries.flatMap(({ sites }) => sites))) {
    const widths = widthsFrom(links, site);
    for (const { name, sites } of boundaries) {
      if (sites.includes(site)) continue;
      const width = Math.max(0, ...sites.map((one) => widths.get(one) ?? 0));
      if (width === 0 || width >= sizeBytes(taken)) continue;
      narrow.set(width, (narrow.get(width) ?? new Set()).add(name));
    }
  }
  for (const [width, names] of narrow) {
    const at = spec.siteLinks.findIndex(
      ({ maxMessageSize }) => maxMessageSize !== undefined && sizeBytes(maxMessageSize) === width,
    );
    const { name = '', maxMessageSize = '' } = spec.siteLinks[at] ?? {};
    note(
      ['spec', 'siteLinks', at, 'maxMessageSize'],
      `messages over ${maxMessageSize} have no path to ${[...names].join(', ')} (link ${name}), and front ends take ${taken}`,
      'add a link for larger messages, raise maxMessageSize, or lower frontend.limits.maxMessageSize',
    );
  }
}
