/**
 * What peers cost that have nothing to say: fifty-one transports in one boundary, empty queues. Prints CPU time per transport, and what one
 * peer adds. A measurement, not a test. Goal (issue 4): at most 1 % of a core for heartbeat and discard of 50 peers.
 *
 *   node test/bench/idle.ts [--peers 50] [--seconds 30]
 */
import { parseArgs } from 'node:util';
import { until } from '../house/until.ts';
import { twoSites } from '../process/harness.ts';
import { withOwnTemporaryDirectory } from './interruption.ts';
import { cpuMs, line, metric, peakMiB, preparedCluster } from './queue-rig.ts';

const { values } = parseArgs({
  options: { peers: { type: 'string', default: '50' }, seconds: { type: 'string', default: '30' } },
});
withOwnTemporaryDirectory();
const members = Number(values.peers) + 1;
const east = Math.ceil(members / 2);

const heartbeat = (text: string): string => text.replace('heartbeatFrequency: 1s', 'heartbeatFrequency: 10s');
await using cluster = await preparedCluster((directory) =>
  heartbeat(twoSites(directory, { perSite: [east, members - east], frontends: 1 })),
);
const names = cluster.transports.map(({ name }) => name);
// A few at a time: each waits at its start until it has met the others, or three seconds.
const left = [...names];
await Promise.all(
  Array.from({ length: 4 }, async () => {
    for (let name = left.shift(); name !== undefined; name = left.shift()) await cluster.launch(name);
  }),
);
await until(
  'everybody to know everybody',
  async () => {
    for (const name of names) if ((await metric(cluster, name, 'mailcluster_peer_up')) < members - 1) return false;
    return true;
  },
  { deadlineMs: 300_000, everyMs: 2_000 },
);
/** What start-up left to do is over. */
const settledMs = performance.now() + 15_000;
await until('calm', () => performance.now() >= settledMs, { deadlineMs: 60_000, everyMs: 500 });
const pids = names.map((name) => cluster.pid(name));
const before = pids.map(cpuMs);
const startMs = performance.now();
const endMs = startMs + Number(values.seconds) * 1000;
await until('the end of the time', () => performance.now() >= endMs, {
  deadlineMs: Number(values.seconds) * 2_000,
  everyMs: 500,
});
const spanMs = performance.now() - startMs;
const shares = pids.map((pid, at) => ((cpuMs(pid) - (before[at] ?? 0)) / spanMs) * 100).sort((a, b) => a - b);
const mean = shares.reduce((sum, one) => sum + one, 0) / shares.length;
line(`${members - 1} peers`, {
  seconds: spanMs / 1000,
  minPercent: shares[0] ?? Number.NaN,
  medianPercent: shares[Math.floor(shares.length / 2)] ?? Number.NaN,
  meanPercent: mean,
  maxPercent: shares.at(-1) ?? Number.NaN,
  peakMiB: Math.max(...pids.map(peakMiB)),
  goal: `1 percent ${mean <= 1 ? 'met' : 'missed'}`,
});
