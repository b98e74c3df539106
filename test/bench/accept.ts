/**
 * `make bench`: how fast mail is accepted, and accepted and delivered, side by side with Postfix accepting into its queue (one synced copy), passing on to a
 * second Postfix (two), delivering by LMTP; interleaved A B A B. Generator: `smtp-source`; one session in sequence: `sequence.ts`. Prints the rows of
 * docs/performance.md with n, min / median / max and CPU per message by process. A measurement, not a test: it fails only when a side refuses mail or
 * its evidence (messages stored, syncs done) contradicts the count.
 *
 *   node test/bench/accept.ts [--rounds 3] [--scale 0.1] [--rows 4k-10,75k-100] [--only postfix|mailcluster]
 *
 * Only when named: filter-4k-100, results-4k-100, arc-4k-100 (`looks.ts`); Postfix has the first one only.
 */
import { execFile } from 'node:child_process';
import { statfsSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { parseArgs, promisify } from 'node:util';
import { until } from '../house/until.ts';
import { postfixTool } from '../rigs/postfix.ts';
import { withOwnTemporaryDirectory } from './interruption.ts';
import { type Look, type Looking, startLooking } from './looks.ts';
import { cpuSpent, endedChildrenMs } from './proc.ts';
import { sequenceMs } from './sequence.ts';
import {
  type Evidence,
  mailclusterSide,
  postfixSide,
  type Running,
  type Shape,
  type Side,
  summed,
  type Work,
} from './sides.ts';

interface Row {
  readonly name: string;
  readonly bytes: number;
  readonly sessions: number;
  readonly messages: number;
  /** Ratio of medians to reach (rates; with one session Postfix' time over ours); null where none is set. */
  readonly goal: number | null;
  readonly shape: Shape;
  readonly work: Work;
  /** What the listener does besides; run only when the row is named. */
  readonly look: Look | null;
}

const PAIR: Shape = { perSite: 1, frontends: 1 };
const FOUR: Shape = { perSite: 2, frontends: 2 };
const EIGHT: Shape = { perSite: 4, frontends: 4 };
const row = (
  name: string,
  [kilobytes, sessions, messages]: readonly [number, number, number],
  goal: number | null,
  { shape = PAIR, work = 'accept' as Work, look = null as Look | null } = {},
): Row => ({ name, bytes: kilobytes * 1024, sessions, messages, goal, shape, work, look });

const ROWS: readonly Row[] = [
  row('4k-1', [4, 1, 3000], 1),
  row('4k-10', [4, 10, 12_000], 2),
  row('4k-100', [4, 100, 12_000], 4),
  row('75k-10', [75, 10, 4000], 2),
  row('75k-100', [75, 100, 4000], 2.5),
  row('1m-10', [1024, 10, 400], 1),
  row('4k-100-2f4t', [4, 100, 12_000], null, { shape: FOUR }),
  // As many sessions for each front end: what a message costs when the cluster grows.
  row('4k-200-2f4t', [4, 200, 12_000], null, { shape: FOUR }),
  row('4k-400-4f8t', [4, 400, 12_000], null, { shape: EIGHT }),
  row('chain-4k-100', [4, 100, 6000], 8, { work: 'chain' }),
  row('deliver-4k-100', [4, 100, 6000], 2, { work: 'deliver' }),
  row('filter-4k-100', [4, 100, 6000], null, { look: 'filter' }),
  row('results-4k-100', [4, 100, 6000], null, { look: 'results' }),
  row('arc-4k-100', [4, 100, 6000], null, { look: 'arc' }),
];

/** Without being named. */
const USUAL = ROWS.flatMap(({ name, look }) => (look === null ? [name] : []));

interface Run {
  /** Of one session in sequence: 1,000 over the median time from end of data to the answer. */
  readonly perSecond: number;
  readonly cpuMsPerMessage: ReadonlyMap<string, number>;
  readonly syncsPerMessage: number | null;
  readonly memoryMiB: ReadonlyMap<string, number>;
}

const execute = promisify(execFile);

/** The messages and sessions of a row, evenly over the ports of a side. Milliseconds each, of a row with one session. */
async function send(
  ports: readonly number[],
  row: Row,
  messages: number,
  message: string | null,
): Promise<readonly number[]> {
  if (row.sessions === 1) return await sequenceMs(ports[0] ?? 0, row.bytes, messages);
  const share = (total: number, index: number): number =>
    Math.floor(total / ports.length) + (index < total % ports.length ? 1 : 0);
  await Promise.all(
    ports.map(async (port, index) => {
      const count = share(messages, index);
      const sessions = Math.max(1, Math.min(share(row.sessions, index), count));
      // -d: keep the connection for the next message, as a busy relay does; exits non-zero at the first reply that is not a 2yz.
      const content = message === null ? ['-l', `${row.bytes}`] : ['-F', message];
      const options = ['-d', '-s', `${sessions}`, '-m', `${count}`, ...content, '-f', 'a@example.org'];
      const command = await postfixTool('smtp-source', [...options, '-t', 'bench@example.com', `127.0.0.1:${port}`]);
      if ('missing' in command) throw new Error(command.missing);
      await execute(command.file, [...command.args], { timeout: 300_000 });
    }),
  );
  return [];
}

const DONE = { deadlineMs: 300_000, everyMs: 300 };

/** What the side says it did between two readings; throws when that is not what was sent. */
function checked(what: string, sent: number, before: Evidence, after: Evidence): number | null {
  const stored = after.messages - before.messages;
  if (stored !== sent) throw new Error(`${what}: sent ${sent}, stored ${stored}`);
  const copies = after.copies === null ? null : after.copies - (before.copies ?? 0);
  if (copies !== null && copies !== sent) throw new Error(`${what}: sent ${sent}, second copies ${copies}`);
  const looked = after.looked === null ? null : after.looked - (before.looked ?? 0);
  if (looked !== null && looked !== sent) throw new Error(`${what}: sent ${sent}, looked at ${looked}`);
  if (after.syncs === null) return null;
  const syncs = [...after.syncs].map(([store, count]) => ({ store, count: count - (before.syncs?.get(store) ?? 0) }));
  const idle = syncs.find(({ count }) => count === 0);
  if (idle !== undefined) throw new Error(`${what}: accepted ${stored} messages, yet ${idle.store} did not sync`);
  return syncs.reduce((sum, { count }) => sum + count, 0) / sent;
}

const warmUp = ({ bytes }: Row): number => (bytes > 500_000 ? 100 : bytes > 50_000 ? 2_000 : 4_000);

async function measure(side: Side, row: Row, looking: Looking | null): Promise<Run> {
  const running: Running = await side.start();
  const offer = (messages: number) => send(running.ports, row, messages, looking?.message ?? null);
  const cpuNow = () => summed([running.cpu(), looking?.cpu() ?? new Map()]);
  try {
    // The first message may come before the members have found each other: 451, and the sender comes again.
    await until('the first message', () => offer(running.ports.length).then(() => true), {
      deadlineMs: 15_000,
    });
    // Warm: every session has had its process and its segment, and what runs for days is compiled: that takes some 4,000 messages of ours, whatever `--scale` says.
    const warm = Math.max(row.sessions * 2, Math.round(row.messages / 2), warmUp(row));
    await offer(warm);
    await until('the warm-up to be done', () => running.isDone(warm + running.ports.length), DONE);
    const generatorBefore = endedChildrenMs(process.pid);
    const before = cpuNow();
    const evidenceBefore = await running.evidence();
    const startMs = performance.now();
    const times = await offer(row.messages);
    await until('all of it to be done', () => running.isDone(warm + running.ports.length + row.messages), DONE);
    const seconds = (performance.now() - startMs) / 1000;
    const spent = new Map(cpuSpent(before, cpuNow()));
    spent.set('smtp-source', endedChildrenMs(process.pid) - generatorBefore);
    return {
      perSecond: times.length > 0 ? 1000 / median(times) : row.messages / seconds,
      cpuMsPerMessage: new Map([...spent].map(([name, ms]) => [name, ms / row.messages])),
      syncsPerMessage: checked(`${side.name} ${row.name}`, row.messages, evidenceBefore, await running.evidence()),
      memoryMiB: running.memory(),
    };
  } finally {
    await running.stop();
  }
}

const sorted = (values: readonly number[]): number[] => [...values].sort((a, b) => a - b);
const median = (values: readonly number[]): number => sorted(values)[Math.floor(values.length / 2)] ?? Number.NaN;

function spread(runs: readonly Run[]): string {
  const rates = sorted(runs.map((run) => run.perSecond));
  const [min, max] = [rates[0] ?? Number.NaN, rates.at(-1) ?? Number.NaN];
  return rates.length === 0 ? '-' : `${min.toFixed(0)} / ${median(rates).toFixed(0)} / ${max.toFixed(0)}`;
}

function cpu(runs: readonly Run[]): string {
  const names = [...new Set(runs.flatMap((run) => [...run.cpuMsPerMessage.keys()]))];
  const each = names.map((name) => ({ name, ms: median(runs.map((run) => run.cpuMsPerMessage.get(name) ?? 0)) }));
  const shown = each.filter(({ ms }) => ms >= 0.005).sort((a, b) => b.ms - a.ms);
  const total = each.reduce((sum, { ms }) => sum + ms, 0);
  return `${total.toFixed(2)} ms (${shown.map(({ name, ms }) => `${name} ${ms.toFixed(2)}`).join(', ')})`;
}

function print(row: Row, results: ReadonlyMap<string, readonly Run[]>): void {
  const ours = results.get('MailCluster') ?? [];
  const theirs = results.get('Postfix') ?? [];
  const ratio = median(ours.map((run) => run.perSecond)) / median(theirs.map((run) => run.perSecond));
  const verdict = row.goal === null ? '' : ` (goal ${row.goal}: ${ratio >= row.goal ? 'reached' : 'missed'})`;
  const syncs = ours.flatMap((run) => run.syncsPerMessage ?? []);
  const memory = ours.map((run) =>
    Math.max(0, ...[...run.memoryMiB].flatMap(([name, size]) => (name.startsWith('transport') ? [size] : []))),
  );
  const cells = [
    row.name,
    `${Math.max(ours.length, theirs.length)} x ${row.messages}`,
    spread(theirs),
    spread(ours),
    Number.isNaN(ratio) ? '-' : `**${ratio.toFixed(2)}**${verdict}`,
    cpu(theirs),
    cpu(ours),
    syncs.length > 0 ? median(syncs).toFixed(3) : '-',
    memory.length > 0 ? `${median(memory).toFixed(0)} MiB` : '-',
  ];
  console.log(`| ${cells.join(' | ')} |`);
}

/** On a memory file system a sync costs nothing and every figure is a lie. */
function refuseMemoryFileSystem(directory: string): void {
  const TMPFS_MAGIC = 0x01021994;
  if (statfsSync(directory).type === TMPFS_MAGIC) {
    throw new Error(`${directory} is a memory file system: set TMPDIR to a directory on a disk`);
  }
}

const HEADER = `| row | n | Postfix | MailCluster | ratio of medians | CPU per message, Postfix | CPU per message, MailCluster | our syncs per message | peak RSS of a transport |
|---|---|---|---|---|---|---|---|---|`;

function sidesOf({ shape, work }: Row, looking: Looking | null): readonly Side[] {
  const ours = mailclusterSide(shape, work, looking);
  return looking?.postfix === null ? [ours] : [postfixSide(work, looking), ours];
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      rounds: { type: 'string', default: '3' },
      rows: { type: 'string', default: USUAL.join(',') },
      only: { type: 'string' },
      scale: { type: 'string', default: '1' },
    },
  });
  refuseMemoryFileSystem(tmpdir());
  const names = values.rows.split(',');
  const unknown = names.find((name) => !ROWS.some((row) => row.name === name));
  if (unknown !== undefined) throw new Error(`no row ${unknown}; there are ${ROWS.map((row) => row.name).join(', ')}`);
  const rows = ROWS.filter((row) => names.includes(row.name)).map((row) => ({
    ...row,
    messages: Math.max(row.sessions, Math.round(row.messages * Number(values.scale))),
  }));
  // Everything the rigs make lies in one directory, which goes at the very end: deleting full queues in between would slow the runs that follow.
  withOwnTemporaryDirectory();
  console.log(
    `${cpus().length} cores (${cpus()[0]?.model ?? 'unknown'}), node ${process.version}; messages per second, min / median / max`,
  );
  console.log(HEADER);
  for (const row of rows) {
    await using looking = row.look === null ? null : await startLooking(row.look, row.bytes);
    const sides = sidesOf(row, looking).filter(
      (side) => values.only === undefined || side.name.toLowerCase() === values.only,
    );
    const results = new Map<string, Run[]>(sides.map((side) => [side.name, []]));
    for (let round = 0; round < Number(values.rounds); round += 1) {
      for (const side of sides) results.get(side.name)?.push(await measure(side, row, looking));
    }
    print(row, results);
  }
}

try {
  await main();
} catch (error) {
  console.error(`bench: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}
