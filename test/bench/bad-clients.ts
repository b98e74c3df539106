/**
 * What thousands of idle, byte-a-second and junk clients take from one front end, and what is left for who sends in good order: its memory, its processor time, and the
 * latency of one good session, and of good ones that connect anew for each message, before and among them. A measurement, not a test. Goal (issue 7): memory bounded, the
 * good sender's p99 at most 2 s, better 200 ms.
 *
 *   node test/bench/bad-clients.ts [--clients 5000] [--messages 300]        small, to see that it runs: --clients 40 --messages 20
 */
import { parseArgs } from 'node:util';
import { until } from '../house/until.ts';
import { startCluster, twoSites } from '../process/harness.ts';
import { type LedgerEntry, makeMessage, notAccepted } from '../process/ledger.ts';
import { SmtpConnection, sendAll, sendMessage } from '../process/smtp-sender.ts';
import { BadClients } from '../rigs/bad-clients.ts';
import { withOwnTemporaryDirectory } from './interruption.ts';
import { cpuMs, peakMiB, residentMiB } from './queue-rig.ts';

const HELP = `Usage: node test/bench/bad-clients.ts [--clients N] [--messages N]

  --clients N    bad ones: a quarter each says nothing, writes a command a byte a second, a message a byte a second, junk (5000)
  --messages N   of 4,000 bytes by one good session, and as many by sessions of their own; before, and again among the bad ones (300)

Prints one table: latency from the end of data to the reply in a session that stays ("reply"), from connect to the reply in a new one ("whole"), and the front end.
`;
const { values } = parseArgs({
  options: {
    clients: { type: 'string', default: '5000' },
    messages: { type: 'string', default: '300' },
    help: { type: 'boolean', default: false },
  },
});
const [clients, messages] = [Number(values.clients), Number(values.messages)];
if (values.help || !(clients >= 1 && messages >= 1)) {
  process.stdout.write(HELP);
  process.exit(values.help ? 0 : 2);
}

withOwnTemporaryDirectory();
// One place more than there are bad clients: whether a full front end turns good ones away is another question (test/dialog/connections-per-pod.smtp).
const limits = `limits: { maxConnections: ${clients + 100} }`;
await using cluster = await startCluster((directory) =>
  twoSites(directory, { perSite: 1, frontends: 1, frontend: [limits] }),
);
const [target] = cluster.targets();
const pid = (await cluster.runFile()).frontends[0]?.pid;
if (target === undefined || pid === undefined || pid === null) throw new Error('no front end');

type Row = Readonly<Record<string, string | number>>;

const messagesOf = (prefix: string) =>
  Array.from({ length: messages }, (_, nth) => makeMessage(`${prefix}${nth}`, 'ann@example.com', 4_000));

/** One session after the other, each with one message; ms from connect to the reply. */
async function whole(prefix: string): Promise<{ readonly ledger: LedgerEntry[]; readonly ms: number[] }> {
  const [ledger, ms]: [LedgerEntry[], number[]] = [[], []];
  for (const message of messagesOf(prefix)) {
    const startMs = performance.now();
    const connection = await SmtpConnection.open(target as NonNullable<typeof target>);
    ledger.push(await sendMessage(connection, message));
    ms.push(performance.now() - startMs);
    connection.send('QUIT\r\n');
    await connection.reply();
  }
  return { ledger, ms };
}

function at(part: number, ms: readonly number[]): string {
  const sorted = [...ms].sort((a, b) => a - b);
  return (sorted[Math.ceil(part * sorted.length) - 1] ?? Number.NaN).toFixed(1);
}

async function measured(what: string, bad: BadClients | null): Promise<Row> {
  const [cpuBefore, startMs] = [cpuMs(pid as number), performance.now()];
  const ledger = await sendAll({ targets: () => cluster.targets(), messages: messagesOf(`${what}-a`), sessions: 1 });
  const anew = await whole(`${what}-b`);
  const spanMs = performance.now() - startMs;
  const reply = ledger.flatMap(({ latencyMs }) => latencyMs ?? []);
  const columns = (name: string, ms: readonly number[]): Row => ({
    ...{ [`${name} p50 ms`]: at(0.5, ms), [`${name} p99 ms`]: at(0.99, ms), [`${name} max ms`]: at(1, ms) },
  });
  return {
    ...{ '': what, 'bad open': bad?.open ?? 0, dialled: bad?.dialled ?? 0, n: `2 x ${messages}` },
    'not accepted': notAccepted(ledger).length + notAccepted(anew.ledger).length,
    ...columns('reply', reply),
    ...columns('whole', anew.ms),
    ...{ 'RSS MiB': residentMiB(pid as number).toFixed(0), 'peak MiB': peakMiB(pid as number).toFixed(0) },
    'CPU %': (((cpuMs(pid as number) - cpuBefore) / spanMs) * 100).toFixed(0),
  };
}

function print(rows: readonly Row[]): void {
  const names = Object.keys(rows[0] ?? {});
  const cells = [names, ...rows.map((row) => names.map((name) => String(row[name])))];
  const widths = names.map((_, column) => Math.max(...cells.map((row) => row[column]?.length ?? 0)));
  const lines = cells.map((row) => row.map((cell, column) => cell.padStart(widths[column] ?? 0)).join('  '));
  process.stdout.write(`${lines.join('\n')}\n`);
}

const alone = await measured('alone', null);
const beforeMiB = residentMiB(pid);
using bad = new BadClients(target, clients);
await until('them to be in', () => bad.open >= clients * 0.95, { deadlineMs: 180_000, everyMs: 500 });
const among = await measured('among', bad);
print([alone, among]);
const eachKiB = ((peakMiB(pid) - beforeMiB) * 1024) / clients;
process.stdout.write(`${clients} bad clients: at most ${eachKiB.toFixed(1)} KiB of the front end for each\n`);
