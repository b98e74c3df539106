/** Which member shall hold the shadow (semantics.md R4) as a table. */
import { describe, expect, it } from 'vitest';
import type { MemberConfig } from '../../common/config.ts';
import { type Candidate, nextCandidate, type PlacementInput } from '../../transport/core/placement.ts';
import { simTopology } from '../sim/topology.ts';

type Preference = PlacementInput['policy']['preference'];

/** Members are named t-SITE-ORDINAL; self is t-0-0. */
function input(
  sites: readonly number[],
  preference: Preference,
  tried: readonly string[],
  down: readonly string[] = [],
  load: Readonly<Record<string, number>> = {},
): PlacementInput {
  const document = simTopology({ sites, dag: true, frontends: 1, policies: { preference } });
  const [self, ...boundary] = document.members as [MemberConfig, ...MemberConfig[]];
  const siteOf = (name: string): string => `site-${name.split('-')[1]}`;
  return {
    self,
    boundary,
    healthy: boundary
      .filter(({ name }) => !down.includes(name))
      .map(({ name, site }): Candidate => ({ member: name, site, queued: load[name] ?? 0, open: 0 })),
    tried: tried.map((member) => ({ member, site: siteOf(member) })),
    policy: document.policies.shadowRedundancy,
    draw: 0,
  };
}

/** All members tried in turn until nobody is left. */
function order(sites: readonly number[], preference: Preference, down: readonly string[] = []): string[] {
  const tried: string[] = [];
  for (
    let next = nextCandidate(input(sites, preference, tried, down));
    next !== null;
    next = nextCandidate(input(sites, preference, tried, down))
  )
    tried.push(next);
  return tried;
}

describe('placement', () => {
  it.each([
    [
      'PreferRemote: 4 remote, then 2 local',
      [3, 3],
      'PreferRemote',
      [],
      ['t-1-0', 't-1-1', 't-1-2', 't-1-0', 't-0-1', 't-0-2'],
    ],
    [
      'PreferRemote with one remote member repeats it',
      [2, 1],
      'PreferRemote',
      [],
      ['t-1-0', 't-1-0', 't-1-0', 't-1-0', 't-0-1', 't-0-1'],
    ],
    [
      'PreferRemote with the remote site down goes local at once',
      [3, 1],
      'PreferRemote',
      ['t-1-0'],
      ['t-0-1', 't-0-2'],
    ],
    ['RemoteOnly never falls back', [3, 1], 'RemoteOnly', [], ['t-1-0', 't-1-0', 't-1-0', 't-1-0']],
    ['RemoteOnly with the remote site down finds nobody', [3, 1], 'RemoteOnly', ['t-1-0'], []],
    ['LocalOnly stays', [3, 3], 'LocalOnly', [], ['t-0-1', 't-0-2']],
    ['one site: the preference means nothing, local budget', [3], 'RemoteOnly', [], ['t-0-1', 't-0-2']],
    ['alone', [1], 'PreferRemote', [], []],
  ] as const)('%s', (_title, sites, preference, down, expected) => {
    expect(order(sites, preference, down)).toEqual(expected);
  });

  it('prefers the lighter member', () => {
    expect(nextCandidate(input([1, 2], 'PreferRemote', [], [], { 't-1-0': 1_000 }))).toBe('t-1-1');
  });

  it('breaks ties by lot', () => {
    const members = [0, 0.4, 0.99].map((draw) => nextCandidate({ ...input([1, 3], 'PreferRemote', []), draw }));
    expect(members).toEqual(['t-1-0', 't-1-1', 't-1-2']);
  });
});
