/**
 * Accepting beside what is already there: 4 KB messages over 100 sessions, with an empty queue, with 100,000 messages queued, with ten million entries in the Primary
 * Safety Net of the transport that takes them; in turn. Prints messages per second, CPU per message, memory. A measurement, not a test. Goal (issue 7): at least
 * 90 % of the rate with an empty queue.
 *
 *   node test/bench/loaded.ts [--queued 100000] [--entries 10000000] [--messages 6000] [--rounds 3] [--times 1] [--only empty,queued,at\ rest]
 *     [--bytes 200] [--node=--flag,--flag] [--kept DIR]
 */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import type { DirectCluster } from '../process/direct-cluster.ts';
import { twoSites } from '../process/harness.ts';
import { postfixTool } from '../rigs/postfix.ts';
import { withOwnTemporaryDirectory } from './interruption.ts';
import { atRest, inTransit } from './large-queues.ts';
import { benchOptions, cpuMs, deadAddress, largeCluster, launchPair, line, metric, peakMiB } from './queue-rig.ts';

const values = benchOptions({
  queued: { type: 'string', default: '100000' },
  entries: { type: 'string', default: '10000000' },
  messages: { type: 'string', default: '6000' },
  rounds: { type: 'string', default: '3' },
  /** Measurements of each cluster, one after the other, after one that warms it up: where preparing takes longer than measuring. */
  times: { type: 'string', default: '1' },
  only: { type: 'string', default: '' },
});
withOwnTemporaryDirectory();
const MESSAGES = Number(values.messages);
const body = Buffer.alloc(Number(values.bytes), 'x');
const execute = promisify(execFile);

const ALL = [
  { name: 'empty', what: 'empty', prepare: async () => undefined },
  { name: 'queued', what: `queued-${values.queued}`, prepare: inTransit(Number(values.queued), body) },
  { name: 'at rest', what: `resubmit-${values.entries}`, prepare: atRest(Number(values.entries), body) },
];
const only = values.only.split(',').filter((name) => name !== '');
const SITUATIONS = ALL.filter(({ name }) => only.length === 0 || only.includes(name));

async function send(cluster: DirectCluster, count: number): Promise<void> {
  const port = cluster.targets()[0]?.port;
  const options = ['-d', '-s', '100', '-m', `${count}`, '-l', '4096', '-f', 'a@example.org', '-t', 'bench@example.com'];
  const command = await postfixTool('smtp-source', [...options, `127.0.0.1:${port}`]);
  if ('missing' in command) throw new Error(command.missing);
  await execute(command.file, [...command.args], { timeout: 300_000 });
}

async function measureOnce(name: string, cluster: DirectCluster, members: readonly string[]): Promise<number> {
  const [owner] = members as [string];
  const pids = members.map((one) => cluster.pid(one));
  const before = pids.map(cpuMs);
  const acceptedBefore = await metric(cluster, owner, 'mailcluster_messages_accepted_total');
  const startMs = performance.now();
  await send(cluster, MESSAGES);
  const seconds = (performance.now() - startMs) / 1000;
  const [ownerMs, otherMs, frontendMs] = pids.map((pid, at) => (cpuMs(pid) - (before[at] ?? 0)) / MESSAGES);
  const accepted = (await metric(cluster, owner, 'mailcluster_messages_accepted_total')) - acceptedBefore;
  if (accepted !== MESSAGES) throw new Error(`${owner} accepted ${accepted} of ${MESSAGES}`);
  const mib = { ownerMiB: peakMiB(pids[0] ?? 0), otherMiB: peakMiB(pids[1] ?? 0) };
  const cpu = { ownerMs: ownerMs ?? 0, otherMs: otherMs ?? 0, frontendMs: frontendMs ?? 0 };
  line(name, { perSecond: MESSAGES / seconds, ...cpu, ...mib });
  return MESSAGES / seconds;
}

/** Messages per second, as often as `--times` says. */
async function measure({ name, what, prepare }: (typeof SITUATIONS)[number]): Promise<number[]> {
  const lmtp = await deadAddress();
  const frontend = ['limits: { maxConnectionsPerClient: 1000 }'];
  const resources = (directory: string) => twoSites(directory, { perSite: 1, frontends: 1, frontend, lmtp });
  const { cluster, names } = await largeCluster(resources, values, what, prepare);
  try {
    const [owner, other] = names as [string, string];
    await launchPair(cluster, owner, other);
    const [frontendName] = cluster.frontends.map((one) => one.name) as [string];
    await cluster.launch(frontendName);
    await send(cluster, MESSAGES);
    const found: number[] = [];
    for (let time = 0; time < Number(values.times); time++)
      found.push(await measureOnce(name, cluster, [owner, other, frontendName]));
    return found;
  } finally {
    await cluster[Symbol.asyncDispose]();
  }
}

const rates = SITUATIONS.map(() => [] as number[]);
for (let round = 0; round < Number(values.rounds); round++)
  for (const [at, situation] of SITUATIONS.entries()) rates[at]?.push(...(await measure(situation)));
const median = (all: readonly number[]): number =>
  [...all].sort((a, b) => a - b)[Math.floor(all.length / 2)] ?? Number.NaN;
const [empty, ...loaded] = rates.map(median);
if (SITUATIONS[0]?.name === 'empty' && empty !== undefined)
  for (const [at, rate] of loaded.entries())
    line(`${SITUATIONS[at + 1]?.name} / empty`, {
      percent: (100 * rate) / empty,
      goal: `90 ${rate >= 0.9 * empty ? 'met' : 'missed'}`,
    });
