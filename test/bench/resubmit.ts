/**
 * Resubmission out of a large Safety Net: a transport whose Primary Safety Net holds ten million entries over two days, a failover of one of
 * ten mailbox databases whose window takes a hundred thousand of them, a second transport for the new shadows, a store that takes the mail.
 * Prints the time to the first message at the store, the time to the last, memory throughout. A measurement, not a test. Goals (issue 4):
 * first message within 2 s, at most 256 MiB.
 *
 *   node test/bench/resubmit.ts [--entries 10000000] [--window 100000] [--bytes 200] [--node=--flag,--flag] [--kept DIR]
 */
import type { ResubmitRequestConfig } from '../../common/config.ts';
import { until } from '../house/until.ts';
import { twoSites } from '../process/harness.ts';
import { withOwnTemporaryDirectory } from './interruption.ts';
import { atRest, DATABASES, finalAt } from './large-queues.ts';
import {
  benchOptions,
  CountingStore,
  cpuMs,
  deadAddress,
  LIMIT_MIB,
  largeCluster,
  launchPair,
  line,
  peakMiB,
  residentMiB,
} from './queue-rig.ts';

const values = benchOptions({
  entries: { type: 'string', default: '10000000' },
  window: { type: 'string', default: '100000' },
});
withOwnTemporaryDirectory();
const ENTRIES = Number(values.entries);
const WINDOW = Math.min(Number(values.window), Math.floor(ENTRIES / 10));
const request = (preparedAtMs: number): ResubmitRequestConfig => ({
  name: 'bench',
  boundary: null,
  database: 'db01',
  sender: null,
  recipient: null,
  messageId: null,
  fromMs: finalAt(ENTRIES, preparedAtMs, ENTRIES - WINDOW * DATABASES),
  toMs: null,
  lostActivation: 1,
  createdAtMs: Date.now(),
  expiresAtMs: Date.now() + 86_400_000,
  dryRun: false,
  cancelled: false,
});

await using store = await CountingStore.open();
const dead = await deadAddress();
const {
  cluster: opened,
  names,
  preparedAtMs,
} = await largeCluster(
  (directory) =>
    twoSites(directory, {
      perSite: 1,
      frontends: 1,
      copies: [
        { name: 'old', site: 'east', lmtp: dead },
        { name: 'new', site: 'west', lmtp: store.address },
      ],
      activeCopy: 'old',
    }),
  values,
  `resubmit-${ENTRIES}`,
  atRest(ENTRIES, Buffer.alloc(Number(values.bytes), 'x')),
);
await using cluster = opened;
const [owner, other] = names as [string, string];
const starting = performance.now();
await launchPair(cluster, owner, other);
const pid = cluster.pid(owner);
line('ready', { ms: performance.now() - starting, cpuMs: cpuMs(pid), peakMiB: peakMiB(pid), nowMiB: residentMiB(pid) });
const before = { owner: cpuMs(pid), other: cpuMs(cluster.pid(other)) };
const decidedMs = performance.now();
await cluster.decide(({ databases, resubmitRequests }) => ({
  databases: databases.map((one) => (one.name === 'db01' ? { ...one, activeCopy: 'new', activation: 2 } : one)),
  resubmitRequests: [...resubmitRequests, request(preparedAtMs)],
}));
await until('the first message', () => store.delivered > 0, { deadlineMs: 120_000, everyMs: 5 });
line('first message', {
  afterMs: (store.firstAtMs ?? Number.NaN) - decidedMs,
  goal: '2000',
  cpuMs: cpuMs(pid) - before.owner,
});
await until('all of them', () => store.delivered >= WINDOW, { deadlineMs: 1_800_000, everyMs: 100 });
const allMs = (store.lastAtMs ?? Number.NaN) - decidedMs;
line('all', {
  messages: store.delivered,
  ms: allMs,
  perSecond: (WINDOW / allMs) * 1000,
  ownerCpuUs: ((cpuMs(pid) - before.owner) * 1000) / WINDOW,
  otherCpuUs: ((cpuMs(cluster.pid(other)) - before.other) * 1000) / WINDOW,
  ownerPeakMiB: peakMiB(pid),
  otherPeakMiB: peakMiB(cluster.pid(other)),
  goal: `${LIMIT_MIB} MiB ${peakMiB(pid) <= LIMIT_MIB ? 'met' : 'missed'}`,
});
