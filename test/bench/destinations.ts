/**
 * A hundred thousand messages queued for ten thousand destinations: how fast those that answer get theirs, when all do, and when one is dead and one takes ten seconds for each
 * message; and how long a person waits for the first page of what is queued. Real transports, MX delivery by a name server of its own. A measurement, not a test. Goals (issue 8):
 * within 10 % of alone; a first page within a second; 1.5 KB of memory for each queued message.
 *
 *   node test/bench/destinations.ts [--messages 100000] [--destinations 10000] [--rounds 1] [--bytes 200] [--node=--flag,--flag] [--kept DIR]
 */
import { until } from '../house/until.ts';
import type { DirectCluster } from '../process/direct-cluster.ts';
import { mailcluster, twoSites } from '../process/harness.ts';
import { DnsServer } from '../rigs/dns-server.ts';
import { withOwnTemporaryDirectory } from './interruption.ts';
import { inTransit } from './large-queues.ts';
import {
  benchOptions,
  CountingStore,
  cpuMs,
  largeCluster,
  launchPair,
  line,
  peakMiB,
  residentMiB,
} from './queue-rig.ts';

const values = benchOptions({
  messages: { type: 'string', default: '100000' },
  destinations: { type: 'string', default: '10000' },
  rounds: { type: 'string', default: '1' },
});
withOwnTemporaryDirectory();
const [MESSAGES, DESTINATIONS] = [Number(values.messages), Number(values.destinations)];
const EACH = MESSAGES / DESTINATIONS;
const SLOW_MS = 10_000;
/** Of the bad two: nobody listens at one, the other thinks. */
const HOSTS = { dead: '127.0.0.2', slow: '127.0.0.3', good: '127.0.0.1' };

const domainOf = (n: number): string => `d${n % DESTINATIONS}.example`;
const prepare = inTransit(MESSAGES, Buffer.alloc(Number(values.bytes), 'x'), domainOf);

const hostOf = (n: number, withBadOnes: boolean): string => {
  if (!withBadOnes || n > 1) return HOSTS.good;
  return n === 0 ? HOSTS.dead : HOSTS.slow;
};

function resources(directory: string, port: number, dns: DnsServer): string {
  const mx = `{ port: ${port}, dnsServers: ["${dns.server}"], allowNetworks: [127.0.0.0/8], mtaSts: Ignore }`;
  const connector = `{ name: internet, addressSpaces: [{ domain: "*" }], delivery: MX, tls: None, mx: ${mx} }`;
  return twoSites(directory, { perSite: 1, frontends: 1, spec: [`sendConnectors: [${connector}]`] });
}

/** What a person does, and how long it takes, while everything runs. */
async function looks(cluster: DirectCluster): Promise<void> {
  for (const words of [
    ['queue', 'list'],
    ['message', 'list', '--limit', '100'],
  ]) {
    const startMs = performance.now();
    const { code } = await mailcluster(...words, '--state', cluster.state);
    line(words.slice(0, 2).join(' '), { ms: performance.now() - startMs, code });
  }
}

/** Messages per second to those that answer. */
async function measure(name: string, withBadOnes: boolean): Promise<number> {
  const zone = Array.from({ length: DESTINATIONS }, (_, n) => [
    [`d${n}.example`, { mx: [[10, `mx.d${n}.example`]] as const }] as const,
    [`mx.d${n}.example`, { a: [hostOf(n, withBadOnes)] }] as const,
  ]).flat();
  await using dns = await DnsServer.start(Object.fromEntries(zone));
  await using good = await CountingStore.open();
  const port = Number(good.address.split(':')[1]);
  await using slow = await CountingStore.open({ host: HOSTS.slow, port, delayMs: SLOW_MS });
  const { cluster, names } = await largeCluster(
    (directory) => resources(directory, port, dns),
    values,
    `destinations-${MESSAGES}-${DESTINATIONS}`,
    prepare,
  );
  try {
    const [owner, other] = names as [string, string];
    await launchPair(cluster, owner, other);
    const wanted = MESSAGES - (withBadOnes ? 2 * EACH : 0);
    await until('the first', () => good.delivered > 0, { deadlineMs: 120_000, everyMs: 20 });
    await looks(cluster);
    await until('all that can be', () => good.delivered >= wanted, { deadlineMs: 900_000, everyMs: 50 });
    const seconds = ((good.lastAtMs ?? 0) - (good.firstAtMs ?? 0)) / 1000;
    const pid = cluster.pid(owner);
    const cpu = { cpuMs: cpuMs(pid) / MESSAGES, otherCpuMs: cpuMs(cluster.pid(other)) / MESSAGES };
    const mib = { peakMiB: peakMiB(pid), nowMiB: residentMiB(pid) };
    line(name, { perSecond: wanted / seconds, ...cpu, ...mib, toTheSlowOne: slow.delivered });
    return wanted / seconds;
  } finally {
    await cluster[Symbol.asyncDispose]();
  }
}

const [alone, among]: [number[], number[]] = [[], []];
for (let round = 0; round < Number(values.rounds); round++) {
  alone.push(await measure('all answer', false));
  among.push(await measure('one dead, one slow', true));
}
const median = (all: readonly number[]): number =>
  [...all].sort((a, b) => a - b)[Math.floor(all.length / 2)] ?? Number.NaN;
const percent = (100 * median(among)) / median(alone);
line('among them / alone', { percent, goal: `90 ${percent >= 90 ? 'met' : 'missed'}` });
