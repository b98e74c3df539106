/**
 * The program behind `partition.test.ts`, run in a private network: a cluster with every process in a namespace of its own, cuts between
 * them under load, and the ledger after each heal. Arguments: a directory, the seed, the names of cuts. Prints one line of JSON per
 * cut (`CutReport`), and ends with 1 when something broke that is not in a report. It ends when its input does.
 */
import { mkdtemp } from 'node:fs/promises';
import { join } from 'node:path';
import { until } from '../house/until.ts';
import { NetworkLab } from '../rigs/network-namespaces.ts';
import { signal } from './cluster-view.ts';
import { type DirectCluster, startDirect } from './direct-cluster.ts';
import { twoSites } from './harness.ts';
import type { Delivered } from './ledger.ts';
import { type CutName, type CutReport, isCutName } from './partition-report.ts';
import { Choices, Load } from './seeded-load.ts';
import { acceptedDigests, disagreements, judgedAtRest, twoCopiesAgain } from './two-copies.ts';

/** The shortest that resources allow is 10 s. */
const SPAN_MS = 12_000;
const HEALED_MS = 90_000;
/** Transports, front ends and the store of the resources below. */
const PLACES = 6;

interface Roles {
  readonly east: readonly [string, string];
  readonly west: string;
  readonly frontends: readonly [east: string, west: string];
  readonly store: string;
}

/** From each name to each name, as many as are wanted. */
type Cut = readonly { readonly from: readonly string[]; readonly to: readonly string[] }[];

const bothWays = (a: readonly string[], b: readonly string[]): Cut => [
  { from: a, to: b },
  { from: b, to: a },
];

/** Who no longer hears whom. `choices`: which of two, or which direction. */
function cutOf(name: CutName, { east, west, frontends, store }: Roles, choices: Choices): Cut {
  const pair: readonly (readonly [string, string])[] = [
    [east[0], west],
    [east[0], east[1]],
    [west, east[1]],
  ];
  const [one, other] = choices.of(pair);
  const frontend = choices.of(frontends);
  const transport = choices.of([...east, west]);
  const inEast = [...east, frontends[0]];
  switch (name) {
    case 'transports':
      return bothWays([one], [other]);
    case 'transports-one-way':
      return choices.below(2) === 0 ? [{ from: [one], to: [other] }] : [{ from: [other], to: [one] }];
    case 'frontend':
      return bothWays([frontend], [transport]);
    case 'frontend-one-way':
      return choices.below(2) === 0 ? [{ from: [frontend], to: [transport] }] : [{ from: [transport], to: [frontend] }];
    case 'site':
      return bothWays(inEast, choices.below(2) === 0 ? [west, frontends[1], store] : [west, frontends[1]]);
    case 'one-alone':
      return bothWays(
        [transport],
        [...east, west, ...frontends, store].filter((each) => each !== transport),
      );
    case 'site-one-way':
      return [{ from: inEast, to: [west, frontends[1]] }];
  }
}

async function oneCut(
  name: CutName,
  lab: NetworkLab,
  cluster: DirectCluster,
  roles: Roles,
  choices: Choices,
  earlier: Load['ledger'],
): Promise<CutReport> {
  const members = [...roles.east, roles.west];
  const load = new Load(cluster, { name: `${name}-${earlier.length}-`, sessions: 3 });
  const cut = cutOf(name, roles, choices);
  const shown = cut.map(({ from, to }) => `${from.join('+')} -x-> ${to.join('+')}`).join(', ');
  const problems: string[] = [];
  // Nothing is delivered meanwhile, so that both sides have something that is still to be done.
  const queued = name.startsWith('site') || name === 'one-alone' || choices.below(2) === 0;
  const store = cluster.pid(roles.store);
  let [healedMs, torn] = [0, 0];
  try {
    await load.more(20);
    if (queued) signal(store, 'SIGSTOP');
    await load.more(20);
    for (const { from, to } of cut) await lab.cut(from, to);
    const felt = async (): Promise<boolean> => (await cluster.missingConnections()) > 0;
    await until('somebody to feel the cut', felt, { deadlineMs: SPAN_MS, everyMs: 100 });
    const endMs = performance.now() + SPAN_MS;
    await until('the end of the cut', () => performance.now() >= endMs, { deadlineMs: SPAN_MS + 60_000, everyMs: 250 });
    torn = disagreements(await cluster.stored()).length;
    await lab.heal();
    signal(store, 'SIGCONT');
    healedMs = performance.now();
    await load.moreAccepted(10);
  } catch (error) {
    problems.push(String(error));
  } finally {
    await lab.heal();
    signal(store, 'SIGCONT');
    earlier.push(...(await load.stop()));
  }
  try {
    await twoCopiesAgain(cluster, members, acceptedDigests(earlier), HEALED_MS);
  } catch (error) {
    problems.push(String(error));
  }
  const healed = `; ${queued ? 'queued' : 'flowing'}, ${torn} with two owners before the heal, two copies ${((performance.now() - healedMs) / 1_000).toFixed(1)} s after it`;
  const read = (): Promise<readonly Delivered[]> => cluster.delivered();
  const title = `cut ${name} (${shown})`;
  const rest = await judgedAtRest(cluster, title, earlier, { read, deadlineMs: HEALED_MS });
  const statuses = await cluster.statuses();
  const lost = statuses.flatMap((status) => status.lost.map((one) => `${status.name}: ${one.member} ${one.why}`));
  const { accepted } = rest.result;
  return { name, cut: shown, line: rest.line + healed, accepted, lost, problems: [...problems, ...rest.problems] };
}

function rolesOf(cluster: DirectCluster): Roles {
  const at = (site: string): readonly string[] =>
    cluster.transports.filter((one) => one.site === site).map(({ name }) => name);
  const [[a, b], [west], [fa, fb]] = [at('east'), at('west'), cluster.frontends.map(({ name }) => name)];
  if (a === undefined || b === undefined || west === undefined || fa === undefined || fb === undefined)
    throw new Error('not the cluster this is written for');
  return { east: [a, b], west, frontends: [fa, fb], store: 'store-db01-east' };
}

async function main(directory: string, seed: number, cuts: readonly CutName[]): Promise<void> {
  const choices = new Choices(seed);
  const resources = (at: string): string =>
    twoSites(at, { perSite: [2, 1], shadowRedundancy: `resubmitTimeSpan: ${SPAN_MS / 1_000}s` });
  const lab = await NetworkLab.create(PLACES);
  await using cluster = await startDirect(resources, {
    place: (name) => lab.place(name),
    directory: await mkdtemp(join(directory, 'cluster-')),
  });
  const roles = rolesOf(cluster);
  const ledger: Load['ledger'] = [];
  for (const cut of cuts) {
    const report = await oneCut(cut, lab, cluster, roles, choices, ledger);
    console.log(JSON.stringify(report));
    if (report.problems.length > 0) {
      console.error(await cluster.lastWords());
      return;
    }
  }
}

const [directory, seed, ...cuts] = process.argv.slice(2);
if (directory === undefined || !/^\d+$/.test(seed ?? '') || !cuts.every(isCutName)) {
  console.error('usage: partition-driver.ts DIRECTORY SEED CUT...');
  process.exit(2);
}
process.stdin.resume();
process.stdin.on('end', () => process.exit(1));
await main(directory, Number(seed), cuts);
process.exit(0);
