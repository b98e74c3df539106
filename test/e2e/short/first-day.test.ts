/**
 * What a person does first, and what happens to them first, on real kubelets: install, apply, send, crashes, a dead node, delete. The tests go in this order on one
 * MailCluster; each begins and ends with everything Ready and protected. Times are told, and asserted only as far as they are promised.
 */
import { afterAll, expect, it, type TestContext } from 'vitest';
import { until } from '../../house/until.ts';
import { MailOnNodes } from '../mail-on-nodes.ts';
import { LONG, type NodeCluster, nodeCluster, SYSTEM } from '../node-cluster.ts';

const open = nodeCluster();
const TIMEOUT_MS = 300_000;
let prepared: Promise<MailOnNodes> | null = null;
let installedMs = 0;

async function mail(context: TestContext): Promise<{ readonly cluster: NodeCluster; readonly mail: MailOnNodes }> {
  const cluster = await open(context);
  prepared ??= MailOnNodes.prepare(cluster);
  return { cluster, mail: await prepared };
}

afterAll(async () => await (await prepared)?.close(), LONG.deadlineMs);

const since = (startMs: number): string => `${((performance.now() - startMs) / 1000).toFixed(1)} s`;

it(
  'helm install: the operator is Ready under Pod Security restricted, and helm test passes',
  async (context) => {
    const { cluster } = await mail(context);
    const startMs = performance.now();
    await cluster.operator();
    console.log(`helm install --wait: ${since(startMs)}`);
    installedMs = Date.now();
    await cluster.mustHelm('test', 'mailcluster-operator', '--namespace', SYSTEM, '--timeout', '120s');
  },
  TIMEOUT_MS,
);

it(
  'kubectl apply of the example: Ready, and mail through its Service from outside is delivered',
  async (context) => {
    const { cluster, mail: it } = await mail(context);
    const startMs = performance.now();
    await it.apply();
    await cluster.kubectl('wait', '--for=condition=Ready', 'mc/contoso', '-n', it.namespace, '--timeout=55s');
    console.log(`kubectl apply to Ready: ${since(startMs)} (goal: 60 s)`);
    const { membersReady, frontendsReady } = await it.settled();
    expect({ membersReady, frontendsReady }).toEqual({ membersReady: '4/4', frontendsReady: '2/2' });
    for (const { pod, seconds } of await it.startTimes())
      console.log(`${pod}: start to Ready ${seconds} s (goal: 5 s)`);
    await it.somewhereToGo(4);
    const { entries, refusedAnew } = await it.send(100, 'first mail');
    expect({ sent: entries.length, refusedAnew }).toEqual({ sent: 100, refusedAnew: [] });
    expect((await it.balanced('first mail')).duplicated).toEqual([]);
  },
  TIMEOUT_MS,
);

it(
  'S1: both copies of every message are durable, in two zones, before anybody delivers it',
  async (context) => {
    const { mail: it } = await mail(context);
    const { entries } = await it.withoutStore('sea', async () => {
      const sent = await it.send(40, 'with no mailbox server');
      await it.inZones(2, sent);
      return sent;
    });
    expect(entries).toHaveLength(40);
    await it.balanced('after the mailbox server came back');
  },
  TIMEOUT_MS,
);

it(
  'a transport and a front end get SIGKILL, and a pod of each is deleted, under load: nothing is lost',
  async (context) => {
    const { cluster, mail: it } = await mail(context);
    await it.settled();
    const load = await it.load();
    await load.goesOn(40, LONG.deadlineMs);
    for (const role of ['transport', 'frontend'] as const) {
      const [first, second] = await it.pods(role);
      if (first === undefined || second === undefined) throw new Error(`no two pods of ${role}`);
      process.kill(cluster.processOf(first), 'SIGKILL');
      const back = await it.cameBack(first);
      expect(back.metadata.uid).toBe(first.metadata.uid);
      await load.goesOn(40, LONG.deadlineMs);
      await it.settled();
      await cluster.kubectl('delete', 'pod', '-n', it.namespace, second.metadata.name, '--wait=false');
      const isGone = async (): Promise<boolean> =>
        (await it.pods(role)).every(({ metadata }) => metadata.uid !== second.metadata.uid);
      await until(`${second.metadata.name} to be gone`, isGone, LONG);
      await load.goesOn(40, LONG.deadlineMs);
      await it.settled();
    }
    const { refusedAnew } = it.add(await load.stop(), 'kills and deletions');
    expect(refusedAnew).toEqual([]);
    await it.balanced('kills and deletions');
    for (const { pod, seconds } of await it.startTimes()) console.log(`${pod}: start to Ready ${seconds} s`);
  },
  TIMEOUT_MS,
);

it(
  'K6: a node dies under load and is out of service: its shadows take over, everything is protected without it, and again with it',
  async (context) => {
    const { cluster, mail: it } = await mail(context);
    await it.settled();
    const { load, taintMs } = await it.withoutStore('sea', async () => {
      // What waits for the mailbox server has primaries in both sites.
      await it.send(60, 'queued before the node dies');
      const begun = await it.load({ perSecond: 10 });
      await begun.goesOn(20, LONG.deadlineMs);
      await cluster.killNode('n1');
      await cluster.outOfService('n1');
      return { load: begun, taintMs: performance.now() };
    });
    await it.event('NodeOutOfService');
    await it.condition('ShadowProtected', { status: 'True' });
    console.log(`out-of-service to ShadowProtected: ${since(taintMs)}`);
    await load.goesOn(40, LONG.deadlineMs);
    it.add(await load.stop(), 'a node dies');
    await it.balanced('a node died');
    console.log(`out-of-service to everything delivered: ${since(taintMs)}`);
    const bootMs = performance.now();
    await cluster.bootNode('n1');
    await it.settled();
    console.log(`boot to Ready and protected: ${since(bootMs)}`);
    await it.send(20, 'after it came back');
    await it.balanced('after it came back');
  },
  TIMEOUT_MS,
);

it(
  'kubectl delete: everything goes but the volumes, without hand work; nothing was refused to the operator',
  async (context) => {
    const { cluster, mail: it } = await mail(context);
    const startMs = performance.now();
    await cluster.kubectl('delete', 'mbdb,mc', '--all', '-n', it.namespace, '--timeout=120s');
    const kinds = [
      'statefulsets',
      'deployments',
      'services',
      'poddisruptionbudgets',
      'networkpolicies',
      'pods',
    ] as const;
    const left = async (): Promise<readonly string[]> =>
      (await Promise.all(kinds.map((kind) => it.names(kind)))).flat();
    await until(
      'everything to be gone',
      async () => {
        const names = await left();
        if (names.length > 0) throw new Error(names.join(', '));
        return true;
      },
      LONG,
    );
    console.log(`kubectl delete to everything gone: ${since(startMs)}`);
    expect((await it.names('persistentvolumeclaims')).length).toBe(4);
    expect(await cluster.refusedToOperator(installedMs)).toEqual([]);
    expect((await it.names('configmaps')).filter((name) => name.startsWith('contoso'))).toEqual([]);
  },
  TIMEOUT_MS,
);
