/**
 * What thousands of idle, byte-a-second and junk clients take from one front end, and what is left for who sends in good order: its memory, its processor time, and the
 * latency of one good session, before and among them. A measurement, not a test. Goal (issue 7): memory bounded, the good sender's p99 at most 2 s, better 200 ms.
 *
 *   node test/bench/bad-clients.ts [--clients 5000] [--messages 300]
 */
import { parseArgs } from 'node:util';
import { until } from '../house/until.ts';
import { startCluster, twoSites } from '../process/harness.ts';
import { type LedgerEntry, makeMessage, notAccepted } from '../process/ledger.ts';
import { sendAll } from '../process/smtp-sender.ts';
import { BadClients } from '../rigs/bad-clients.ts';
import { cpuMs, line, peakMiB, residentMiB } from './queue-rig.ts';

const { values } = parseArgs({
  options: { clients: { type: 'string', default: '5000' }, messages: { type: 'string', default: '300' } },
});
const [clients, messages] = [Number(values.clients), Number(values.messages)];

// One place more than there are bad clients: whether a full front end turns good ones away is another question (test/dialog/connections-per-pod.smtp).
const limits = `limits: { maxConnections: ${clients + 100} }`;
await using cluster = await startCluster((directory) =>
  twoSites(directory, { perSite: 1, frontends: 1, frontend: [limits] }),
);
const [target] = cluster.targets();
const pid = (await cluster.runFile()).frontends[0]?.pid;
if (target === undefined || pid === undefined || pid === null) throw new Error('no front end');

const send = (prefix: string): Promise<readonly LedgerEntry[]> =>
  sendAll({
    targets: () => cluster.targets(),
    messages: Array.from({ length: messages }, (_, nth) => makeMessage(`${prefix}${nth}`, 'ann@example.com', 4_000)),
    sessions: 1,
  });

function figures(ledger: readonly LedgerEntry[]): Record<string, string | number> {
  const sorted = ledger.flatMap(({ latencyMs }) => latencyMs ?? []).sort((a, b) => a - b);
  const at = (part: number): string => (sorted[Math.ceil(part * sorted.length) - 1] ?? Number.NaN).toFixed(1);
  return {
    ...{ n: ledger.length, 'not accepted': notAccepted(ledger).length },
    ...{ 'p50 ms': at(0.5), 'p99 ms': at(0.99), 'max ms': at(1) },
  };
}

line('alone', { ...figures(await send('alone')), 'front end MiB': residentMiB(pid).toFixed(0) });
using bad = new BadClients(target, clients);
await until('them to be in', () => bad.open >= clients * 0.95, { deadlineMs: 180_000, everyMs: 500 });
const [cpuBefore, startMs] = [cpuMs(pid), performance.now()];
const among = await send('among');
line('among them', {
  ...{ clients: bad.open, dialled: bad.dialled, ...figures(among) },
  ...{ 'front end MiB': residentMiB(pid).toFixed(0), 'peak MiB': peakMiB(pid).toFixed(0) },
  'front end CPU': `${(((cpuMs(pid) - cpuBefore) / (performance.now() - startMs)) * 100).toFixed(0)} %`,
});
