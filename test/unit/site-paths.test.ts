/** Least-cost paths over sites (semantics.md D3): the order among paths, what is too large, and the same answers as looking at every path there is. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  choosePath,
  comparePaths,
  type PathChoice,
  type SiteLink,
  type SitePath,
  secondPath,
} from '../../common/site-paths.ts';

const MiB = 1 << 20;

/** `a-b 10` or `a-b 10 25`: joins a and b, costs 10, takes 25 MiB. */
function links(...texts: readonly string[]): readonly SiteLink[] {
  return texts.map((text) => {
    const [name = '', cost = '', most] = text.split(' ');
    return {
      name,
      sites: name.split('-').slice(0, 2),
      cost: Number(cost),
      maxMessageBytes: most === undefined ? null : Number(most) * MiB,
    };
  });
}

const said = (choice: PathChoice): string =>
  choice.kind === 'path' ? `${choice.sites.join(' ')} = ${choice.cost}` : choice.kind;

describe('D3: which path', () => {
  test.each([
    ['the lowest sum, over however many links', ['a-b 10', 'b-c 10', 'a-c 21'], 'a b c = 20'],
    ['equal sums: the fewest links', ['a-b 10', 'b-c 10', 'a-c 20'], 'a c = 20'],
    ['equal sums and links: the lowest name', ['a-x 5', 'x-c 5', 'a-b 5', 'b-c 5'], 'a b c = 10'],
    [
      'names count from the destination: the site right before it comes first',
      ['a-m 1', 'm-y 1', 'y-c 1', 'a-n 1', 'n-x 1', 'x-c 1'],
      'a n x c = 3',
    ],
    ['two links between the same sites: the cheaper one', ['a-c-slow 9', 'a-c-fast 3'], 'a c = 3'],
    ['both ways', ['c-b 2', 'b-a 2'], 'a b c = 4'],
    ['no link leads there', ['a-b 1', 'c-d 1'], 'none'],
    ['no link at all', [], 'none'],
  ])('%s', (_title, texts, expected) => {
    const declared = links(...texts);
    expect(said(choosePath(declared, 'a', ['c'], 1))).toBe(expected);
    expect(said(choosePath(declared.toReversed(), 'a', ['c'], 1))).toBe(expected);
  });

  test.each([
    [24, 'a b c = 20'],
    [25, 'a b c = 20'],
    [26, 'a c = 50'],
    [40, 'a c = 50'],
    [41, 'tooLarge'],
  ])('a link that takes less is none for %i MiB', (mebibytes, expected) => {
    const declared = links('a-b 10 25', 'b-c 10', 'a-c 50 40');
    expect(said(choosePath(declared, 'a', ['c'], mebibytes * MiB))).toBe(expected);
  });

  test('too large: the most that goes is that of the widest path, whatever it costs', () => {
    const declared = links('a-b 1 10', 'b-c 1 30', 'a-d 90 20', 'd-c 90 25');
    expect(choosePath(declared, 'a', ['c'], 31 * MiB)).toEqual({ kind: 'tooLarge', mostBytes: 20 * MiB });
  });

  test('of several destinations the nearest; here already is no way at all', () => {
    const declared = links('a-b 10', 'b-c 10', 'a-d 15');
    expect(said(choosePath(declared, 'a', ['c', 'd'], 1))).toBe('a d = 15');
    expect(said(choosePath(declared, 'a', ['c', 'a'], 1))).toBe('a = 0');
    expect(said(choosePath(declared, 'a', [], 1))).toBe('none');
  });
});

/** Every path without a site twice. */
function everyPath(declared: readonly SiteLink[], from: string, to: string, sizeBytes: number): readonly SitePath[] {
  const found: SitePath[] = [];
  const walk = (path: SitePath): void => {
    const site = path.sites.at(-1);
    if (site === to) return void found.push(path);
    for (const link of declared) {
      if (link.maxMessageBytes !== null && link.maxMessageBytes < sizeBytes) continue;
      const [one = '', other = ''] = link.sites;
      const next = one === site ? other : other === site ? one : null;
      if (next === null || path.sites.includes(next)) continue;
      walk({ sites: [...path.sites, next], links: [...path.links, link], cost: path.cost + link.cost });
    }
  };
  walk({ sites: [from], links: [], cost: 0 });
  return found.sort(comparePaths);
}

const SITES = ['a', 'b', 'c', 'd', 'e', 'f'];
const graph = fc
  .array(
    fc.record({
      sites: fc.shuffledSubarray(SITES, { minLength: 2, maxLength: 2 }),
      // Few costs and limits, so that ties are the rule.
      cost: fc.integer({ min: 1, max: 3 }),
      maxMessageBytes: fc.option(fc.integer({ min: 1, max: 3 })),
    }),
    { maxLength: 12 },
  )
  .map((all) => all.map((one, index): SiteLink => ({ ...one, name: `l${index}` })));

describe('as if every path had been looked at', () => {
  test('the best, the second best, and what is too large', () => {
    const kinds = new Set<string>();
    fc.assert(
      fc.property(graph, fc.integer({ min: 1, max: 4 }), (declared, sizeBytes) => {
        const [first, second] = everyPath(declared, 'a', 'f', sizeBytes);
        const choice = choosePath(declared, 'a', ['f'], sizeBytes);
        kinds.add(choice.kind);
        if (first === undefined) {
          const most = [3, 2, 1].find((size) => size < sizeBytes && everyPath(declared, 'a', 'f', size).length > 0);
          expect(choice).toEqual(most === undefined ? { kind: 'none' } : { kind: 'tooLarge', mostBytes: most });
          return;
        }
        expect(choice).toEqual({ kind: 'path', ...first });
        expect(secondPath(declared, first, sizeBytes)).toEqual(second ?? null);
      }),
      { numRuns: 2_000, seed: 30 },
    );
    expect([...kinds].sort()).toEqual(['none', 'path', 'tooLarge']);
  });

  test('of several destinations', () => {
    fc.assert(
      fc.property(graph, fc.subarray(['b', 'd', 'f'], { minLength: 1 }), (declared, targets) => {
        const [first] = targets.flatMap((to) => everyPath(declared, 'a', to, 1)).sort(comparePaths);
        const choice = choosePath(declared, 'a', targets, 1);
        expect(choice).toEqual(first === undefined ? { kind: 'none' } : { kind: 'path', ...first });
      }),
      { numRuns: 500, seed: 31 },
    );
  });

  test('from every site on it the rest costs what is left: who asks anew on the way goes no circle', () => {
    fc.assert(
      fc.property(graph, (declared) => {
        const choice = choosePath(declared, 'a', ['f'], 1);
        if (choice.kind !== 'path') return;
        let cost = choice.cost;
        for (const [index, site] of choice.sites.entries()) {
          const rest = choosePath(declared, site, ['f'], 1);
          expect(rest).toMatchObject({ kind: 'path', cost });
          cost -= choice.links[index]?.cost ?? 0;
        }
      }),
      { numRuns: 500, seed: 32 },
    );
  });
});
