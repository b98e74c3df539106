/**
 * Another version, on real kubelets under load: a former state of this project, its chart and its image made out of the history of this repository, upgraded to the present
 * one, rolled back, and upgraded again. While that happens transports, front ends and operators of both run together.
 */
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { promisify } from 'node:util';
import { afterAll, expect, it, type TestContext } from 'vitest';
import { clusterScript } from '../../cluster/held-cluster.ts';
import { ROOT } from '../../house/sources.ts';
import { until } from '../../house/until.ts';
import { OPERATOR_CHART } from '../../rigs/helm.ts';
import { MailOnNodes } from '../mail-on-nodes.ts';
import { IMAGE_TAG, LONG, type NodeCluster, nodeCluster, RELEASE, SYSTEM } from '../node-cluster.ts';
import { since } from '../own-mail.ts';

/** There is no release yet: the last state before PROXY headers, limits over all front ends and the page lists of claims. Then: the former release. */
const FORMER = {
  commit: '3a2f2c2b46eab2591d6e376ba731920908a2e7e9',
  tag: 'former',
  /** What the present operator writes for front ends has limits which the former one did not know; for transports it is the same. */
  frontendsRoll: true,
};
const TIMEOUT_MS = 1_200_000;
const COMMON = [
  ...['--namespace', SYSTEM, '--wait', '--timeout', '180s', '--set', 'image.pullPolicy=Never'],
  ...['--set', 'nodeSelector.topology\\.kubernetes\\.io/zone=central-1'],
];

const open = nodeCluster();
const run = promisify(execFile);
const made: AsyncDisposable[] = [];
afterAll(async () => {
  for (const one of made.reverse()) await one[Symbol.asyncDispose]();
}, LONG.deadlineMs);

/** The sources of then, with the packages of now (package-lock.json is the same); a checkout without history skips. */
async function formerSources(context: TestContext): Promise<string> {
  const { commit } = FORMER;
  const isThere = await run('git', ['-C', ROOT, 'cat-file', '-e', `${commit}^{commit}`]).then(
    () => true,
    () => false,
  );
  if (!isThere) context.skip(`commit ${commit} is not in this checkout: git fetch --unshallow`);
  const directory = await mkdtemp(join(tmpdir(), 'mailcluster-former-'));
  made.push({ [Symbol.asyncDispose]: () => rm(directory, { recursive: true }) });
  await run('git', ['-C', ROOT, 'archive', '--output', join(directory, 'former.tar'), commit]);
  const sources = join(directory, 'sources');
  await mkdir(sources);
  await run('tar', ['-xf', join(directory, 'former.tar'), '-C', sources]);
  await symlink(join(ROOT, 'node_modules'), join(sources, 'node_modules'));
  return sources;
}

/** Made by its own program, and in every node. */
async function formerImage({ parts }: NodeCluster, sources: string): Promise<void> {
  const archive = join(sources, 'former-image.tar');
  const reference = `localhost/mailcluster:${FORMER.tag}`;
  await run(process.execPath, [join(sources, 'charts/image/main.ts'), '--out', archive, '--reference', reference]);
  await clusterScript(parts.name, 'images.sh', ['load', archive]);
}

/** All pods of ours have that tag, and everything is settled. */
async function allOf(mail: MailOnNodes, tag: string): Promise<void> {
  await until(
    `every pod to be of ${tag}`,
    async () => {
      const pods = [...(await mail.pods('transport')), ...(await mail.pods('frontend'))];
      const images = pods.map(({ spec }) => String(spec.containers[0].image));
      if (images.length === 6 && images.every((image) => image.endsWith(`:${tag}`))) return true;
      throw new Error(images.join(', '));
    },
    { ...LONG, deadlineMs: 480_000 },
  );
  await mail.settled();
}

const uids = async (mail: MailOnNodes, role: 'transport' | 'frontend'): Promise<readonly string[]> =>
  (await mail.pods(role)).map(({ metadata }) => String(metadata.uid));

/** Does the CRD in the cluster have that field of `spec.frontend.limits`, which came after the former version? */
async function knowsMaxAuthFailures(cluster: NodeCluster): Promise<boolean> {
  const path = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions/mailclusters.mailcluster.dev';
  const { spec } = await cluster.access.client.get(path);
  const { frontend } = spec.versions[0].schema.openAPIV3Schema.properties.spec.properties;
  return 'maxAuthFailures' in frontend.properties.limits.properties;
}

it(
  'K12: helm upgrade from a former chart and image, rollback, and an operator upgraded alone, all under load: nobody who connects anew is refused, nothing is lost',
  async (context) => {
    const cluster = await open(context);
    const sources = await formerSources(context);
    await formerImage(cluster, sources);
    const former = ['--set', `image.tag=${FORMER.tag}`];
    await cluster.operator();
    await cluster.mustHelm('upgrade', RELEASE, join(sources, 'charts/mailcluster-operator'), ...COMMON, ...former);
    expect(await knowsMaxAuthFailures(cluster)).toBe(false);
    const mail = await MailOnNodes.prepare(cluster);
    made.push({ [Symbol.asyncDispose]: () => mail.close() });
    await mail.apply();
    await allOf(mail, FORMER.tag);
    await mail.somewhereToGo(4);
    const load = await mail.load({ perSecond: 10 });
    await load.goesOn(20, LONG.deadlineMs);
    const startMs = performance.now();
    const steps = {
      upgrade: ['upgrade', RELEASE, OPERATOR_CHART, ...COMMON, '--set', `image.tag=${IMAGE_TAG}`],
      rollback: ['rollback', RELEASE, '--namespace', SYSTEM, '--wait', '--timeout', '180s'],
    };
    // Queued by the former version, delivered by the present one.
    await mail.withoutStore('sea', async () => {
      await mail.send(40, 'queued by the former version');
      await cluster.mustHelm(...steps.upgrade);
      await allOf(mail, IMAGE_TAG);
    });
    expect(await knowsMaxAuthFailures(cluster)).toBe(true);
    console.log(`upgrade done after ${since(startMs)}`);
    await cluster.mustHelm(...steps.rollback);
    await allOf(mail, FORMER.tag);
    console.log(`rollback done after ${since(startMs)}`);
    // The members keep their image: nobody restarts whose configuration stays as it is.
    const [transports, frontends] = [await uids(mail, 'transport'), await uids(mail, 'frontend')];
    const pinned = ['--set', `membersImage=localhost/mailcluster:${FORMER.tag}`];
    await cluster.mustHelm(...steps.upgrade, ...pinned);
    const isRolled = async (): Promise<boolean> =>
      (await uids(mail, 'frontend')).every((uid) => !frontends.includes(uid));
    if (FORMER.frontendsRoll) await until('former front ends with the configuration of now', isRolled, LONG);
    await allOf(mail, FORMER.tag);
    await load.goesOn(100, LONG.deadlineMs);
    expect(await uids(mail, 'transport')).toEqual(transports);
    if (!FORMER.frontendsRoll) expect(await uids(mail, 'frontend')).toEqual(frontends);
    expect(mail.add(await load.stop(), 'upgrade, rollback, operator alone').refusedAnew).toEqual([]);
    await mail.balanced('upgrade, rollback, operator alone');
  },
  TIMEOUT_MS,
);
