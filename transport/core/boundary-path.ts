/**
 * The least-cost path of a message to another boundary (semantics.md D3), as siteLinks, hubs and members of the document say. Owns: where it would stop - at
 * hubs on the path that have transports, and at the end; where it would wait when one of them is away. Promise: costs alone choose the path, who is reachable
 * now does not (as with Exchange); of the links the core asks `nextStop`, people `explainPath`. PURE.
 */
import type { MemberConfig, TopologyDocument } from '../../common/config.ts';
import {
  choosePath,
  type PathTree,
  pathsFrom,
  type SiteLink,
  type SitePath,
  secondPath,
} from '../../common/site-paths.ts';

export interface Stop {
  readonly site: string;
  readonly boundary: string;
  readonly isHub: boolean;
}

export type BoundaryPath =
  | { readonly kind: 'path'; readonly path: SitePath; readonly stops: readonly Stop[] }
  | { readonly kind: 'none'; readonly reason: string }
  /** A smaller message would find one. */
  | { readonly kind: 'tooLarge'; readonly reason: string; readonly mostBytes: number };

/** Where a message is. */
export interface Place {
  readonly site: string;
  readonly boundary: string;
}

/** Where it is to come: a site with a transport of one of these. */
export interface Goal {
  /** For people: `dag/east`, or the sites of a connector. */
  readonly name: string;
  readonly isMember: (member: MemberConfig) => boolean;
}

export const boundaryGoal = (boundary: string): Goal => ({
  name: boundary,
  isMember: (member) => member.boundary === boundary,
});

export const sitesGoal = (sites: readonly string[]): Goal => ({
  name: `site ${sites.join(', ')}`,
  isMember: ({ site }) => sites.includes(site),
});

const isThere = ({ state }: MemberConfig): boolean => state === 'active';

/**
 * Paths of one document from one place, each computed once: a recipient of a message that waits is resolved many times. Messages for which the same links are
 * too narrow share theirs.
 */
export interface KnownPaths {
  readonly document: TopologyDocument;
  /** What links take at most, in order. */
  readonly limits: readonly number[];
  readonly trees: Map<string, PathTree>;
  readonly paths: Map<string, Extract<BoundaryPath, { readonly kind: 'path' }>>;
}

export function knownPaths(document: TopologyDocument): KnownPaths {
  const limits = (document.siteLinks ?? []).flatMap(({ maxMessageBytes }) => maxMessageBytes ?? []);
  return { document, limits: [...new Set(limits)].sort((a, b) => a - b), trees: new Map(), paths: new Map() };
}

export function boundaryPath(
  document: TopologyDocument,
  from: Place,
  goal: Goal,
  sizeBytes: number,
  known: KnownPaths = knownPaths(document),
): BoundaryPath {
  const tooNarrow = known.limits.filter((limit) => limit < sizeBytes).length;
  const key = `${tooNarrow} ${from.boundary} ${from.site} ${goal.name}`;
  const found = known.paths.get(key) ?? computed(document, from, goal, { sizeBytes, tooNarrow, known });
  if (found.kind === 'path') known.paths.set(key, found);
  return found;
}

function treeFrom({ document, trees }: KnownPaths, site: string, sizeBytes: number, tooNarrow: number): PathTree {
  const key = `${tooNarrow} ${site}`;
  const tree = trees.get(key) ?? pathsFrom(document.siteLinks ?? [], site, sizeBytes);
  trees.set(key, tree);
  return tree;
}

interface Sized {
  readonly sizeBytes: number;
  readonly tooNarrow: number;
  readonly known: KnownPaths;
}

function computed(document: TopologyDocument, from: Place, goal: Goal, sized: Sized): BoundaryPath {
  const { sizeBytes, tooNarrow, known } = sized;
  const links = document.siteLinks ?? [];
  const ends = document.members.filter((member) => isThere(member) && goal.isMember(member));
  if (ends.length === 0) return { kind: 'none', reason: `${goal.name} has no active transport` };
  if (links.length === 0) return { kind: 'none', reason: 'spec.siteLinks is empty' };
  const tree = treeFrom(known, from.site, sizeBytes, tooNarrow);
  const choice = choosePath(links, from.site, new Set(ends.map(({ site }) => site)), sizeBytes, tree);
  if (choice.kind === 'none') return { kind: 'none', reason: `no site link leads from ${from.site} to ${goal.name}` };
  if (choice.kind === 'tooLarge')
    return {
      ...{ kind: 'tooLarge', mostBytes: choice.mostBytes },
      reason: `every path from ${from.site} to ${goal.name} takes at most ${choice.mostBytes} bytes, this is ${sizeBytes}`,
    };
  const { kind: _, ...path } = choice;
  return { kind: 'path', path, stops: stopsOf(document, path, from, goal) };
}

/** At each only where the message is not already: transports of its own boundary share it. */
function stopsOf({ sites, members }: TopologyDocument, path: SitePath, from: Place, goal: Goal): readonly Stop[] {
  const hubs = new Set(sites.filter(({ hubSite }) => hubSite).map(({ name }) => name));
  return path.sites.flatMap((site, index): readonly Stop[] => {
    const isEnd = index === path.sites.length - 1;
    if (!isEnd && (index === 0 || !hubs.has(site))) return [];
    const here = members.filter((member) => isThere(member) && member.site === site);
    const able = isEnd ? here.filter(goal.isMember) : here.filter(({ boundary }) => boundary !== from.boundary);
    const [boundary] = able.map((member) => member.boundary).sort();
    return boundary === undefined ? [] : [{ site, boundary, isHub: !isEnd }];
  });
}

const inWords = ({ sites, cost }: SitePath): string => `${sites.join(', ')} (cost ${cost})`;

function whyThis(links: readonly SiteLink[], path: SitePath, sizeBytes: number): string {
  const [from = '', to = ''] = [path.sites[0], path.sites.at(-1)];
  if (path.links.length === 0) return 'there is a transport of it in this site';
  const sum = path.links.map(({ name, cost }) => `${name} ${cost}`).join(' + ');
  // The best one for a message of any size: where it is another, links that are too narrow are why.
  const first = choosePath(links, from, [to], 0);
  const narrow =
    first.kind === 'path' ? first.links.filter((link) => (link.maxMessageBytes ?? sizeBytes) < sizeBytes) : [];
  if (first.kind === 'path' && narrow.length > 0) {
    const limits = narrow.map(({ name, maxMessageBytes }) => `${name} takes at most ${maxMessageBytes} bytes`);
    return `${sum}; ${inWords(first)} would come first, but ${limits.join(', ')}`;
  }
  const next = secondPath(links, path, sizeBytes);
  if (next === null) return `${sum}; there is no other path`;
  if (next.cost > path.cost) return `${sum}; the next is ${inWords(next)}`;
  const longer = next.links.length > path.links.length;
  return `${sum}; ${inWords(next)} costs as much, ${longer ? 'over more links' : 'and its name comes later'}`;
}

export interface PathExplanation {
  /** `dag/east`, `site denver`. */
  readonly to: string;
  /** From here to there, ends included; empty: there is no path. */
  readonly sites: readonly string[];
  readonly cost: number | null;
  readonly stops: readonly Stop[];
  readonly what: string;
  readonly why: string;
  /** What would be used with each of the sites away, in the order of the path. */
  readonly ifDown: readonly { readonly site: string; readonly what: string }[];
}

export function explainPath(document: TopologyDocument, from: Place, goal: Goal, sizeBytes: number): PathExplanation {
  const found = boundaryPath(document, from, goal, sizeBytes);
  const to = goal.name;
  if (found.kind !== 'path')
    return { ...{ to, sites: [], cost: null, stops: [], what: 'none', why: found.reason }, ifDown: [] };
  const { path, stops } = found;
  const why = whyThis(document.siteLinks ?? [], path, sizeBytes);
  const named = path.sites.map((site) =>
    stops.some((stop) => stop.isHub && stop.site === site) ? `${site} (hub, it stops there)` : site,
  );
  const ifDown = path.sites.slice(1).map((site, index) => ({
    site,
    what: `${whereItWaits(document, found, site, index)}; without its links ${pathWithout(document, { from, goal, sizeBytes }, site)}`,
  }));
  return {
    ...{ to, sites: path.sites, cost: path.cost, stops },
    what: `${named.join(', ')}; cost ${path.cost}`,
    why,
    ifDown,
  };
}

/**
 * Only where it stops anybody is asked: a site that is passed does not matter. It waits at the point of failure, the last site before the one that is away
 * that has transports.
 */
function whereItWaits(
  { members }: TopologyDocument,
  { path, stops }: Extract<BoundaryPath, { kind: 'path' }>,
  site: string,
  before: number,
): string {
  if (!stops.some((stop) => stop.site === site)) return 'no change, it does not stop there';
  const back = path.sites.slice(0, before + 1).reverse();
  const waits = back.find((one) => members.some((member) => isThere(member) && member.site === one)) ?? path.sites[0];
  return `it waits in ${waits}`;
}

/** Who is away is no reason for another path: this one an administrator gets by taking the links away. */
function pathWithout(
  document: TopologyDocument,
  { from, goal, sizeBytes }: { readonly from: Place; readonly goal: Goal; readonly sizeBytes: number },
  site: string,
): string {
  const siteLinks = (document.siteLinks ?? []).filter(({ sites }) => !sites.includes(site));
  const members = document.members.filter((member) => member.site !== site);
  const other = boundaryPath({ ...document, siteLinks, members }, from, goal, sizeBytes);
  return other.kind === 'path' ? inWords(other.path) : 'there is no path';
}

/**
 * Where a message may wait for a stop that nobody answers at, the nearest to that first (Exchange: queueing at the point of failure): sites on the way there
 * with active transports of a boundary that has not had it.
 */
export function waitsBefore(
  { members }: TopologyDocument,
  { sites }: SitePath,
  stop: Stop,
  had: readonly string[],
): readonly (Place & { readonly members: readonly string[] })[] {
  return sites
    .slice(1, sites.indexOf(stop.site))
    .reverse()
    .flatMap((site) => {
      const able = members.filter((one) => isThere(one) && one.site === site && !had.includes(one.boundary));
      const [boundary] = able.map((one) => one.boundary).sort();
      if (boundary === undefined || boundary === stop.boundary) return [];
      return [{ site, boundary, members: able.flatMap((one) => (one.boundary === boundary ? one.name : [])) }];
    });
}

/** Names of who may take a message at this stop, those of its site first. At a hub, and where the site is what it goes to, nobody else. */
export function takersAt({ members }: TopologyDocument, stop: Stop, isAnySite: boolean): readonly string[] {
  const able = members.filter((member) => isThere(member) && member.boundary === stop.boundary);
  const near = able.filter(({ site }) => site === stop.site);
  const others = isAnySite && !stop.isHub ? able.filter(({ site }) => site !== stop.site) : [];
  return [...near, ...others].map(({ name }) => name);
}
