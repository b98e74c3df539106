/**
 * Takeover of a hundred thousand shadow copies: one transport holds them for an owner that never comes back, another can become their new
 * shadow, a store takes the mail (or, with `--store down`, refuses connections, so that everything has to be protected again). The decision
 * is the topology document that names the owner's queue database lost. A measurement, not a test. Goals (issue 4): first delivery within
 * 2 s of the decision, protected again at 2,000 copies a second on two cores.
 *
 *   node test/bench/takeover.ts [--scale 1] [--bytes 200] [--store up|down] [--node=--flag,--flag] [--kept DIR]
 */
import type { Identity } from '../../common/message.ts';
import type { QueueDatabase } from '../../transport/store/database.ts';
import { until } from '../house/until.ts';
import type { DirectCluster } from '../process/direct-cluster.ts';
import { twoSites } from '../process/harness.ts';
import { withOwnTemporaryDirectory } from './interruption.ts';
import {
  benchOptions,
  CountingStore,
  cpuMs,
  deadAddress,
  fill,
  largeCluster,
  launchPair,
  line,
  messageFacts,
  metrics,
  peakMiB,
  seenOf,
  transitState,
} from './queue-rig.ts';

const values = benchOptions({
  scale: { type: 'string', default: '1' },
  store: { type: 'string', default: 'up' },
});
withOwnTemporaryDirectory();
const COUNT = Math.round(100_000 * Number(values.scale));
/** Of the queue database that is lost. */
const LOST = '0123456789ABCDEFGHJKMNPQRS' as Identity;

async function prepare(stores: readonly QueueDatabase[], names: readonly string[]): Promise<void> {
  const [, store] = stores as [QueueDatabase, QueueDatabase];
  const bytes = Buffer.alloc(Number(values.bytes), 'x');
  await store.commit([seenOf(names[0] as string, LOST)]);
  await fill(store, COUNT, bytes, (n, digest) => ({
    facts: {
      ...messageFacts(n, digest, bytes.length, 'example.com'),
      takenFrom: { identity: LOST, openCounter: 1, nonce: 'bench' },
    },
    state: transitState(n, { queue: 'shadow', epoch: { try: 1, term: 0, owner: LOST } }),
    resting: null,
  }));
}

const TAKEN = 'mailcluster_shadow_promotions_total';
const AGAIN = 'mailcluster_reshadowed_total';
const SINGLE = 'mailcluster_unprotected_messages';

interface Look {
  readonly atMs: number;
  readonly taken: number;
  readonly again: number;
  readonly single: number;
}

async function watch(cluster: DirectCluster, holder: string, store: CountingStore | null): Promise<readonly Look[]> {
  const startMs = performance.now();
  const looks: Look[] = [];
  await until(
    'everything to be on two databases, or delivered',
    async () => {
      const now = await metrics(cluster, holder, [TAKEN, AGAIN, SINGLE]);
      const [taken, again, single] = [now[TAKEN], now[AGAIN], now[SINGLE]];
      looks.push({ atMs: performance.now() - startMs, taken, again, single });
      return taken >= COUNT && single === 0 && (store === null || store.delivered >= COUNT);
    },
    { deadlineMs: 900_000, everyMs: 500 },
  );
  return looks;
}

const store = values.store === 'up' ? await CountingStore.open() : null;
const lmtp = store?.address ?? (await deadAddress());
const { cluster, names } = await largeCluster(
  (directory) => twoSites(directory, { perSite: [1, 2], frontends: 1, lmtp, queues: 'mailboxRetryInterval: 5m' }),
  values,
  `takeover-${COUNT}`,
  prepare,
);
try {
  const [lost, holder, target] = names as [string, string, string];
  await launchPair(cluster, holder, target);
  const pids = { holder: cluster.pid(holder), target: cluster.pid(target) };
  const before = { holder: cpuMs(pids.holder), target: cpuMs(pids.target), own: process.cpuUsage() };
  const decidedMs = performance.now();
  await cluster.decide(({ retired }) => ({
    retired: [...retired, { member: lost, identity: LOST, uid: null, reason: 'lost' }],
  }));
  const looks = await watch(cluster, holder, store);
  const last = looks.at(-1);
  const takenMs = looks.find(({ taken }) => taken >= COUNT)?.atMs ?? Number.NaN;
  const own = process.cpuUsage(before.own);
  const spent = { holder: cpuMs(pids.holder) - before.holder, target: cpuMs(pids.target) - before.target };
  const ownMs = (own.user + own.system) / 1000;
  if (store !== null) line('first delivery', { afterMs: (store.firstAtMs ?? Number.NaN) - decidedMs, goal: '2000' });
  line('promoted', { ms: takenMs, perSecond: (COUNT / takenMs) * 1000 });
  line(store === null ? 'protected again' : 'delivered or protected', {
    ms: last?.atMs ?? Number.NaN,
    reshadowed: last?.again ?? Number.NaN,
    delivered: store?.delivered ?? 0,
    perSecond: (COUNT / (last?.atMs ?? Number.NaN)) * 1000,
    perSecondOfTwoCores: (COUNT / (spent.holder + spent.target + ownMs)) * 2_000,
    goal: '2000',
  });
  line('cost per copy', {
    holderCpuUs: (spent.holder * 1000) / COUNT,
    targetCpuUs: (spent.target * 1000) / COUNT,
    benchCpuUs: (ownMs * 1000) / COUNT,
    holderPeakMiB: peakMiB(pids.holder),
    targetPeakMiB: peakMiB(pids.target),
  });
} finally {
  await cluster[Symbol.asyncDispose]();
  await store?.[Symbol.asyncDispose]();
}
