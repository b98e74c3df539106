/** From a member to the number in the resource: what `kubectl mailcluster drain` would write, and what it refuses. */
import { expect, test } from 'vitest';
import { fieldOf, placeOf, wantedReplicas, withReplicas } from '../../operator/cli/kube-drain.ts';

const SPEC = {
  dags: [
    {
      name: 'dag1',
      members: [
        { site: 'east', replicas: 3 },
        { site: 'west', replicas: 1 },
      ],
    },
    { name: 'dag2', members: [{ site: 'east', replicas: 1 }], later: 'field' },
  ],
  standalone: [{ site: 'south', replicas: 2 }],
};

const placed = (dag: string | null, site: string) => {
  const place = placeOf(SPEC, dag, site);
  if (place === null) throw new Error('no such place');
  return place;
};

test.each([
  ['m-2', 'dag1', 'east', 2],
  ['m-3', 'dag1', 'east', 3],
  ['m-1', 'dag1', 'east', 'only the highest of a site can go: drain m-2 first'],
  ['m-0', 'dag1', 'west', 0],
  [
    'm-0',
    'dag2',
    'east',
    'm-0 is the last member of DAG dag2: nobody could take over its messages; add a member there first',
  ],
  ['m-1', null, 'south', 1],
] as const)('drain %s of %s in %s: %s', (member, dag, site, expected) => {
  expect(wantedReplicas(member, placed(dag, site), false)).toBe(expected);
});

test.each([
  ['m-3', 4],
  ['m-2', 3],
  ['m-5', 6],
] as const)('cancel %s: %s wanted', (member, expected) => {
  expect(wantedReplicas(member, placed('dag1', 'east'), true)).toBe(expected);
});

test('only the one number changes, and what we do not know stays', () => {
  const east = placed('dag2', 'east');
  expect(fieldOf(east)).toBe('spec.dags[dag2].members[east].replicas');
  expect(withReplicas(SPEC, east, 5)).toEqual({
    dags: [SPEC.dags[0], { name: 'dag2', members: [{ site: 'east', replicas: 5 }], later: 'field' }],
  });
  const south = placed(null, 'south');
  expect(fieldOf(south)).toBe('spec.standalone[south].replicas');
  expect(withReplicas(SPEC, south, 1)).toEqual({ standalone: [{ site: 'south', replicas: 1 }] });
  expect(placeOf(SPEC, 'dag1', 'north')).toBeNull();
});
