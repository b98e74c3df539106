/** Two MailClusters in one namespace, with names that tempt: one begins with the other, and is as long as it may be (architecture.md section 8). */
import { expect, it } from 'vitest';
import type { ApiAccess } from '../cluster/api-access.ts';
import type { KubeObject } from '../cluster/kube-client.ts';
import { until } from '../house/until.ts';
import {
  allRunning,
  applyAll,
  list,
  namesOf,
  ownOperator,
  ownVolumes,
  PATIENCE,
  type Plural,
  pathOf,
  twoSites,
} from './operator-rig.ts';
import { nodesOfFile, ownNamespace, sharedAccess } from './rig.ts';

const api = sharedAccess();
nodesOfFile();

/** 40 characters, the most that the CRD takes; sites and DAGs may have 63. */
const LONG = 'contoso-topology-backup-frontend-seattle';
const longest = (word: string): string => `${word}-${'x'.repeat(62 - word.length)}`;
const SHARED = ['statefulsets', 'deployments', 'services', 'configmaps', 'secrets', 'poddisruptionbudgets'] as const;
const MADE = [...SHARED, 'networkpolicies', 'serviceaccounts'] satisfies readonly Plural[];
const LABEL = 'mailcluster.dev/cluster';

/** The same cluster under other names. */
function renamed(namespace: string, spec: KubeObject): readonly KubeObject[] {
  const words = [
    ['contoso', LONG],
    ['db01', 'd'.repeat(63)],
    ['contoso.com', 'long.example'],
    ...['seattle', 'portland', 'dag1'].map((word) => [word, longest(word)] as const),
  ] as const;
  const text = words.reduce(
    (now, [from, to]) => now.replaceAll(JSON.stringify(from), JSON.stringify(to)),
    JSON.stringify(twoSites(namespace, spec)),
  );
  return JSON.parse(text) as readonly KubeObject[];
}

const ownerOf = ({ metadata }: KubeObject): string | undefined =>
  (metadata.ownerReferences as KubeObject[] | undefined)?.find((one) => one.kind === 'MailCluster')?.name;
const clusterOf = ({ metadata }: KubeObject): string | undefined => metadata.labels?.[LABEL];
const chosenBy = (selector: KubeObject | undefined, pods: readonly KubeObject[]): readonly KubeObject[] =>
  pods.filter(({ metadata }) => Object.entries(selector ?? {}).every(([key, value]) => metadata.labels[key] === value));

/** `plural/name` of all that belongs to a cluster, with what would change if somebody touched it. */
async function belongings(
  access: ApiAccess,
  namespace: string,
  cluster: string,
): Promise<Readonly<Record<string, string>>> {
  const all: Record<string, string> = {};
  for (const plural of MADE)
    for (const object of await list(access, namespace, plural))
      if (ownerOf(object) === cluster) all[`${plural}/${object.metadata.name}`] = object.metadata.uid;
  return all;
}

const running = (access: ApiAccess, namespace: string, cluster: string): Promise<readonly KubeObject[]> =>
  allRunning(access, namespace, 6, (pod) => clusterOf(pod) === cluster);

const uidsOf = (pods: readonly KubeObject[]): readonly string[] => pods.map(({ metadata }) => metadata.uid).sort();

it('two clusters in one namespace, one with the longest names there are: both come up, share nothing, and one goes without the other', async (context) => {
  const access = api(context);
  const namespace = await ownNamespace(access, context);
  await ownOperator(access, context, namespace);
  const storageClassName = await ownVolumes(access, context, namespace, 8);
  const storage = { transport: { storage: { size: '1Gi', storageClassName } } };
  await applyAll(access, [...twoSites(namespace, storage), ...renamed(namespace, storage)]);
  const short = await running(access, namespace, 'contoso');
  const long = await running(access, namespace, LONG);
  const [ofShort, ofLong] = [await belongings(access, namespace, 'contoso'), await belongings(access, namespace, LONG)];
  expect(Object.keys(ofLong)).toHaveLength(Object.keys(ofShort).length);
  expect(Object.keys(ofShort).filter((name) => name in ofLong)).toEqual([]);
  const pods = [...short, ...long];
  // Whatever chooses pods chooses those of its own cluster only, and each transport has one budget.
  for (const service of await list(access, namespace, 'services'))
    expect({
      name: service.metadata.name,
      of: [...new Set(chosenBy(service.spec.selector, pods).map(clusterOf))],
    }).toEqual({
      name: service.metadata.name,
      of: [ownerOf(service)],
    });
  for (const policy of await list(access, namespace, 'networkpolicies'))
    expect([undefined, ownerOf(policy)]).toContain(
      chosenBy(policy.spec.podSelector.matchLabels, pods)
        .map(clusterOf)
        .find((one) => one !== ownerOf(policy)),
    );
  const budgets = await list(access, namespace, 'poddisruptionbudgets');
  for (const pod of pods.filter(({ metadata }) => metadata.labels['mailcluster.dev/role'] === 'transport'))
    expect(budgets.filter(({ spec }) => chosenBy(spec.selector.matchLabels, [pod]).length === 1).map(ownerOf)).toEqual([
      clusterOf(pod),
    ]);
  await access.client.must('DELETE', pathOf(namespace, 'mailclusters', LONG));
  await until(
    'the other one and its pods to be gone',
    async () => {
      const left = (await list(access, namespace, 'pods')).filter((pod) => clusterOf(pod) === LONG);
      return left.length === 0 && Object.keys(await belongings(access, namespace, LONG)).length === 0;
    },
    PATIENCE,
  );
  expect(namesOf(await list(access, namespace, 'mailclusters'))).toEqual(['contoso']);
  expect(await belongings(access, namespace, 'contoso')).toEqual(ofShort);
  expect(uidsOf(await running(access, namespace, 'contoso'))).toEqual(uidsOf(short));
});

it('a name that is longer is refused by the API server, which says field and limit', async (context) => {
  const access = api(context);
  const namespace = await ownNamespace(access, context);
  const [cluster] = twoSites(namespace);
  const object = { ...cluster, metadata: { namespace, name: `${LONG}s` } };
  const { code, stderr } = await access.kubectl(['apply', '-f', '-'], { input: JSON.stringify(object) });
  expect({ code, stderr }).toEqual({
    code: 1,
    stderr: expect.stringMatching(/metadata\.name: Too long: may not be more than 40 (bytes|characters)/),
  });
  expect(stderr.split('\n').filter((line) => line.includes('metadata.name'))).toHaveLength(1);
});
