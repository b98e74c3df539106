/**
 * Least-cost paths over sites (semantics.md D3). Owns: which path wins - the lowest sum of costs, then the fewest links, then the lowest name of the site
 * before the destination, and so on towards the source (as with Exchange); which links a message is too large for. Promise: always the same path for the same
 * links, in whatever order they come; a part of a least-cost path that begins where it begins is one too. Knows no transport and no hub: those decide where a
 * message stops on its path, not which path it is. PURE.
 */
import { assert } from './platform/assert.ts';

export interface SiteLink {
  readonly name: string;
  /** The two it joins; mail goes both ways. */
  readonly sites: readonly string[];
  /** At least 1. */
  readonly cost: number;
  /** Larger messages do not go this way; null: all go. */
  readonly maxMessageBytes: number | null;
}

/** `sites` from source to destination, ends included; one link less. */
export interface SitePath {
  readonly sites: readonly string[];
  readonly links: readonly SiteLink[];
  readonly cost: number;
}

export type PathChoice =
  | ({ readonly kind: 'path' } & SitePath)
  /** No link leads there, of whatever size a message is. */
  | { readonly kind: 'none' }
  /** A smaller message would find a path: up to `mostBytes`. */
  | { readonly kind: 'tooLarge'; readonly mostBytes: number };

/** How a site is reached: `before` is on the path right before it, null at the source. */
interface Reached {
  readonly cost: number;
  readonly hops: number;
  readonly before: string | null;
  readonly link: SiteLink | null;
}

/** Every site that can be reached from one, and how. */
export type PathTree = ReadonlyMap<string, Reached>;

const takes = ({ maxMessageBytes }: SiteLink, sizeBytes: number): boolean =>
  maxMessageBytes === null || sizeBytes <= maxMessageBytes;

const byText = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** Of two ways to one site over its last link. With equal cost and hops, who is before it decides; what is before that was decided there. */
const compare = (a: Reached, b: Reached): number =>
  a.cost - b.cost ||
  a.hops - b.hops ||
  byText(a.before ?? '', b.before ?? '') ||
  byText(a.link?.name ?? '', b.link?.name ?? '');

function neighbours(links: readonly SiteLink[], sizeBytes: number): ReadonlyMap<string, readonly SiteLink[]> {
  const found = new Map<string, SiteLink[]>();
  for (const link of links) {
    if (!takes(link, sizeBytes)) continue;
    for (const site of link.sites) {
      const known = found.get(site);
      if (known === undefined) found.set(site, [link]);
      else known.push(link);
    }
  }
  return found;
}

/** Dijkstra. Costs are at least 1, so all who can be before a site are settled when it is its turn. */
export function pathsFrom(links: readonly SiteLink[], from: string, sizeBytes: number): PathTree {
  const around = neighbours(links, sizeBytes);
  const settled = new Map<string, Reached>();
  const open = new Map<string, Reached>([[from, { cost: 0, hops: 0, before: null, link: null }]]);
  for (;;) {
    let next: readonly [string, Reached] | null = null;
    for (const entry of open) if (next === null || entry[1].cost < next[1].cost) next = entry;
    if (next === null) return settled;
    const [site, here] = next;
    open.delete(site);
    settled.set(site, here);
    for (const link of around.get(site) ?? []) {
      const other = link.sites[0] === site ? link.sites[1] : link.sites[0];
      if (other === undefined || settled.has(other)) continue;
      const way: Reached = { cost: here.cost + link.cost, hops: here.hops + 1, before: site, link };
      const known = open.get(other);
      if (known === undefined || compare(way, known) < 0) open.set(other, way);
    }
  }
}

function pathIn(tree: PathTree, to: string): SitePath | null {
  const end = tree.get(to);
  if (end === undefined) return null;
  const sites: string[] = [];
  const links: SiteLink[] = [];
  for (let site: string | null = to; site !== null; ) {
    const reached = tree.get(site);
    assert(reached !== undefined, 'a path leads over a site that was not reached', { site });
    sites.push(site);
    if (reached.link !== null) links.push(reached.link);
    site = reached.before;
  }
  return { sites: sites.reverse(), links: links.reverse(), cost: end.cost };
}

/** Negative: `a` is the better path. The names are compared from the destination on. */
export function comparePaths(a: SitePath, b: SitePath): number {
  const fewer = a.cost - b.cost || a.links.length - b.links.length;
  if (fewer !== 0) return fewer;
  for (let back = 1; back <= a.sites.length; back++) {
    const named = byText(a.sites.at(-back) ?? '', b.sites.at(-back) ?? '');
    if (named !== 0) return named;
  }
  for (let back = 1; back <= a.links.length; back++) {
    const named = byText(a.links.at(-back)?.name ?? '', b.links.at(-back)?.name ?? '');
    if (named !== 0) return named;
  }
  return 0;
}

/** To whichever of `targets` is nearest. Among them is `from`: it is there already. `tree`: of `pathsFrom`, where it is known. */
export function choosePath(
  links: readonly SiteLink[],
  from: string,
  targets: Iterable<string>,
  sizeBytes: number,
  tree: PathTree = pathsFrom(links, from, sizeBytes),
): PathChoice {
  const wanted = [...targets];
  let path: SitePath | null = null;
  for (const target of wanted) {
    const one = pathIn(tree, target);
    if (one !== null && (path === null || comparePaths(one, path) < 0)) path = one;
  }
  if (path !== null) return { kind: 'path', ...path };
  const widths = widthsFrom(links, from);
  const mostBytes = Math.max(0, ...wanted.map((target) => widths.get(target) ?? 0));
  return mostBytes === 0 ? { kind: 'none' } : { kind: 'tooLarge', mostBytes };
}

/** Every site that links lead to, and the largest message that finds a path there. */
export function widthsFrom(links: readonly SiteLink[], from: string): ReadonlyMap<string, number> {
  const around = neighbours(links, 0);
  const settled = new Map<string, number>();
  const open = new Map<string, number>([[from, Number.POSITIVE_INFINITY]]);
  for (;;) {
    let next: readonly [string, number] | null = null;
    for (const entry of open) if (next === null || entry[1] > next[1]) next = entry;
    if (next === null) return settled;
    const [site, width] = next;
    open.delete(site);
    settled.set(site, width);
    for (const link of around.get(site) ?? []) {
      const other = link.sites[0] === site ? link.sites[1] : link.sites[0];
      if (other === undefined || settled.has(other)) continue;
      const most = Math.min(width, link.maxMessageBytes ?? Number.POSITIVE_INFINITY);
      open.set(other, Math.max(most, open.get(other) ?? 0));
    }
  }
}

/** The best path beside `path`: what would be used without one of its links, whichever that is. */
export function secondPath(links: readonly SiteLink[], path: SitePath, sizeBytes: number): SitePath | null {
  const [from, to] = [path.sites[0], path.sites.at(-1)];
  if (from === undefined || to === undefined) return null;
  let found: SitePath | null = null;
  for (const left of path.links) {
    const other = pathIn(
      pathsFrom(
        links.filter(({ name }) => name !== left.name),
        from,
        sizeBytes,
      ),
      to,
    );
    if (other !== null && (found === null || comparePaths(other, found) < 0)) found = other;
  }
  return found;
}
