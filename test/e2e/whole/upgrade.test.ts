/**
 * Another version of the chart, on real kubelets under load: from a former chart with a former image to this one, back, and forward again. The former one is this one
 * under an older version number and another tag of the same image: there is no release yet.
 */
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { until } from '../../house/until.ts';
import { OPERATOR_CHART } from '../../rigs/helm.ts';
import type { MailOnNodes } from '../mail-on-nodes.ts';
import { IMAGE_TAG, LONG, type NodeCluster, RELEASE, SYSTEM } from '../node-cluster.ts';
import { ownMail, since } from '../own-mail.ts';

const given = ownMail();
const TIMEOUT_MS = 900_000;
const FORMER = { chart: '0.0.9', tag: 'former' };
const COMMON = [
  ...['--namespace', SYSTEM, '--wait', '--timeout', '180s', '--set', 'image.pullPolicy=Never'],
  ...['--set', 'nodeSelector.topology\\.kubernetes\\.io/zone=central-1'],
];

async function formerChart(): Promise<{ readonly path: string; [Symbol.asyncDispose](): Promise<void> }> {
  const directory = await mkdtemp(join(tmpdir(), 'mailcluster-chart-'));
  const path = join(directory, 'mailcluster-operator');
  await cp(OPERATOR_CHART, path, { recursive: true });
  const file = join(path, 'Chart.yaml');
  await writeFile(file, (await readFile(file, 'utf8')).replace(/^version: .*$/m, `version: ${FORMER.chart}`));
  return { path, [Symbol.asyncDispose]: () => rm(directory, { recursive: true }) };
}

async function tagged(cluster: NodeCluster): Promise<void> {
  const image = `localhost/mailcluster:${IMAGE_TAG}`;
  for (const node of ['n1', 'n2', 'n3'])
    await cluster.fault(
      ...['exec', node, 'ctr', '-n', 'k8s.io', 'images', 'tag', '--force'],
      ...[image, `localhost/mailcluster:${FORMER.tag}`],
    );
}

/** All pods of ours have that tag, and everything is settled. */
async function allOf(mail: MailOnNodes, tag: string): Promise<void> {
  await until(
    `every pod to be of ${tag}`,
    async () => {
      const pods = [...(await mail.pods('transport')), ...(await mail.pods('frontend'))];
      const images = pods.map(({ spec }) => String(spec.containers[0].image));
      if (images.every((image) => image.endsWith(`:${tag}`))) return true;
      throw new Error(images.join(', '));
    },
    { ...LONG, deadlineMs: 480_000 },
  );
  await mail.settled();
}

const uids = async (mail: MailOnNodes): Promise<readonly string[]> =>
  [...(await mail.pods('transport')), ...(await mail.pods('frontend'))].map(({ metadata }) => String(metadata.uid));

it(
  'K12: helm upgrade from a former chart and image, rollback, and an operator upgraded alone, all under load: nobody who connects anew is refused, nothing is lost',
  async (context) => {
    const { cluster, mail } = await given(context);
    await using former = await formerChart();
    await tagged(cluster);
    await cluster.mustHelm('upgrade', RELEASE, former.path, ...COMMON, '--set', `image.tag=${FORMER.tag}`);
    await allOf(mail, FORMER.tag);
    const load = await mail.load();
    await load.goesOn(20, LONG.deadlineMs);
    const startMs = performance.now();
    const steps = {
      upgrade: ['upgrade', RELEASE, OPERATOR_CHART, ...COMMON, '--set', `image.tag=${IMAGE_TAG}`],
      rollback: ['rollback', RELEASE, '--namespace', SYSTEM, '--wait', '--timeout', '180s'],
    };
    for (const [step, tag] of [
      ['upgrade', IMAGE_TAG],
      ['rollback', FORMER.tag],
    ] as const) {
      await cluster.mustHelm(...steps[step]);
      await allOf(mail, tag);
      console.log(`${step} done after ${since(startMs)}`);
    }
    // The members keep their image: nobody restarts.
    const before = await uids(mail);
    const pinned = ['--set', `membersImage=localhost/mailcluster:${FORMER.tag}`];
    await cluster.mustHelm(...steps.upgrade, ...pinned);
    await mail.settled();
    await load.goesOn(100, LONG.deadlineMs);
    expect(await uids(mail)).toEqual(before);
    expect(mail.add(await load.stop(), 'upgrade, rollback, operator alone').refusedAnew).toEqual([]);
    await mail.balanced('upgrade, rollback, operator alone');
  },
  TIMEOUT_MS,
);
