/**
 * What a change of the topology costs a transport in paths (issue 8: 200 sites within 50 ms): from its own site to all others, for each size of message that the
 * limits of links tell apart. A measurement, not a test.
 *
 *   node test/bench/routes.ts [--sites 200] [--links 1024] [--limits 8] [--rounds 50]
 */
import { parseArgs } from 'node:util';
import { assert } from '../../common/platform/assert.ts';
import { choosePath, pathsFrom, type SiteLink, secondPath, widthsFrom } from '../../common/site-paths.ts';

const { values } = parseArgs({
  options: {
    sites: { type: 'string', default: '200' },
    links: { type: 'string', default: '1024' },
    limits: { type: 'string', default: '8' },
    rounds: { type: 'string', default: '50' },
  },
});
const [sites, count, limits, rounds] = [values.sites, values.links, values.limits, values.rounds].map(Number) as [
  number,
  number,
  number,
  number,
];
const site = (n: number): string => `site-${String(n).padStart(3, '0')}`;

/** A ring, so that all are joined, and chords; costs of 1 to 9 make ties frequent. The same in every run. */
function network(): readonly SiteLink[] {
  let state = 30;
  const draw = (below: number): number => {
    state = (state * 1_103_515_245 + 12_345) % 2 ** 31;
    return Math.floor((state / 2 ** 31) * below);
  };
  return Array.from({ length: count }, (_, n) => {
    const from = n < sites ? n : draw(sites);
    const to = n < sites ? (n + 1) % sites : (from + 1 + draw(sites - 1)) % sites;
    const limit = n < sites ? 0 : draw(limits + 1);
    const maxMessageBytes = limit === 0 ? null : limit * 1_048_576;
    return { name: `link-${n}`, sites: [site(from), site(to)], cost: 1 + draw(9), maxMessageBytes };
  });
}

const links = network();

function measure(what: string, work: () => void): void {
  const took = Array.from({ length: rounds }, () => {
    const before = process.cpuUsage();
    work();
    const { user, system } = process.cpuUsage(before);
    return (user + system) / 1_000;
  }).sort((a, b) => a - b);
  const at = (share: number): string =>
    (took[Math.min(took.length - 1, Math.floor(took.length * share))] ?? 0).toFixed(2);
  process.stdout.write(`${what.padEnd(52)} least ${at(0)}  median ${at(0.5)}  p99 ${at(0.99)} ms of CPU\n`);
}

process.stdout.write(`${sites} sites, ${count} links, ${limits} limits of size, ${rounds} rounds\n`);
const sizes = [1, ...Array.from({ length: limits }, (_, n) => (n + 1) * 1_048_576 + 1)];
measure('from one site to all, one size', () => {
  assert(pathsFrom(links, site(0), 1).size === sites, 'a site was not reached');
});
measure('from one site to all, every size that differs', () => {
  for (const size of sizes) assert(pathsFrom(links, site(0), size).size === sites, 'a site was not reached');
});
measure('from one site: the most that goes to each', () => {
  assert(widthsFrom(links, site(0)).size === sites, 'a site was not reached');
});
measure('one path and the second best (mailcluster route)', () => {
  const choice = choosePath(links, site(0), [site(sites >> 1)], 1);
  assert(choice.kind === 'path' && secondPath(links, choice, 1) !== null, 'there is no second path');
});
