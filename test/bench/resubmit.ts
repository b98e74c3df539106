/**
 * Resubmission out of a large Safety Net: a transport whose Primary Safety Net holds ten million entries over two days, a failover of one of
 * ten mailbox databases whose window takes a hundred thousand of them, a second transport for the new shadows, a store that takes the mail.
 * Prints the time to the first message at the store, the time to the last, memory throughout. A measurement, not a test. Goals (issue 4):
 * first message within 2 s, at most 256 MiB.
 *
 *   node test/bench/resubmit.ts [--entries 10000000] [--window 100000] [--bytes 200] [--node=--flag,--flag]
 */
import { parseArgs } from 'node:util';
import type { ResubmitRequestConfig } from '../../common/config.ts';
import { until } from '../house/until.ts';
import type { DirectCluster } from '../process/direct-cluster.ts';
import { twoSites } from '../process/harness.ts';
import {
  CountingStore,
  cpuMs,
  deadAddress,
  fill,
  line,
  messageFacts,
  metric,
  openQueue,
  peakMiB,
  preparedCluster,
  residentMiB,
  transitState,
} from './queue-rig.ts';

const { values } = parseArgs({
  options: {
    entries: { type: 'string', default: '10000000' },
    window: { type: 'string', default: '100000' },
    bytes: { type: 'string', default: '200' },
    node: { type: 'string', default: '' },
  },
});
const ENTRIES = Number(values.entries);
const WINDOW = Math.min(Number(values.window), Math.floor(ENTRIES / 10));
/** Mail goes to as many databases in turn; one of them fails over. */
const DATABASES = 10;
const SPAN_MS = 1.9 * 86_400_000;

/** When entry `n` became final: over two days, up to now. */
const nowMs = Date.now();
const finalAtMs = (n: number): number => Math.floor(nowMs - SPAN_MS + (n * SPAN_MS) / ENTRIES);

async function prepare(cluster: DirectCluster, owner: string, other: string): Promise<void> {
  const [mine, theirs] = [await openQueue(cluster, owner), await openQueue(cluster, other)];
  const epoch = { try: 1, term: 0, owner: mine.identity };
  const placements = [{ identity: theirs.identity, member: other, epoch, status: 'confirmed' as const }];
  const bytes = Buffer.alloc(Number(values.bytes), 'x');
  const last = theirs.chain.at(-1) ?? { openCounter: 1, nonce: '' };
  await mine.commit([{ kind: 'seen', seen: { member: other, identity: theirs.identity, ...last, syncedSequence: 0 } }]);
  await fill(mine, ENTRIES, bytes, (n, digest) => {
    const database = n % DATABASES === 0 ? 'db01' : `other-${n % DATABASES}`;
    const address = `mailbox-${n % 20_000}@example.com`;
    const state = transitState(n, { queue: 'delivery', epoch, placements });
    const recipient = {
      address,
      outcome: 'delivered' as const,
      database,
      databaseCopy: 'old',
      activation: 1,
      atMs: finalAtMs(n),
    };
    return {
      facts: messageFacts(n, digest, bytes.length, 'example.com'),
      state,
      resting: { ...state, queue: 'primarySafetyNet', recipients: [recipient], finalAtMs: finalAtMs(n) },
    };
  });
  await mine.close();
  await theirs.close();
}

const request = (): ResubmitRequestConfig => ({
  name: 'bench',
  boundary: null,
  database: 'db01',
  sender: null,
  recipient: null,
  messageId: null,
  fromMs: finalAtMs(ENTRIES - WINDOW * DATABASES),
  toMs: null,
  lostActivation: 1,
  createdAtMs: Date.now(),
  expiresAtMs: Date.now() + 86_400_000,
  dryRun: false,
  cancelled: false,
});

await using store = await CountingStore.open();
const dead = await deadAddress();
await using cluster = await preparedCluster(
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
  { flags: values.node.split(',').filter((flag) => flag !== '') },
);
const [owner, other] = cluster.transports.map(({ name }) => name) as [string, string];
const preparing = performance.now();
await prepare(cluster, owner, other);
line('prepared', { entries: ENTRIES, seconds: (performance.now() - preparing) / 1000 });
const starting = performance.now();
await Promise.all([cluster.launch(owner), cluster.launch(other)]);
await until('the two to know each other', async () => (await metric(cluster, owner, 'mailcluster_peer_up')) >= 1, {
  deadlineMs: 120_000,
});
const pid = cluster.pid(owner);
line('ready', { ms: performance.now() - starting, cpuMs: cpuMs(pid), peakMiB: peakMiB(pid), nowMiB: residentMiB(pid) });
const before = { owner: cpuMs(pid), other: cpuMs(cluster.pid(other)) };
const decidedMs = performance.now();
await cluster.decide(({ databases, resubmitRequests }) => ({
  databases: databases.map((one) => (one.name === 'db01' ? { ...one, activeCopy: 'new', activation: 2 } : one)),
  resubmitRequests: [...resubmitRequests, request()],
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
  goal: `256 MiB ${peakMiB(pid) <= 256 ? 'met' : 'missed'}`,
});
