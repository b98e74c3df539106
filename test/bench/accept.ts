/**
 * `make bench`: how fast mail is accepted, side by side with Postfix accepting into its queue (one synced copy), interleaved A B A B.
 * Generator: `smtp-source`. Prints the rows "accept" of docs/performance.md with n, min / median / max and CPU per message by process.
 * A measurement, not a test: it fails only when a side refuses mail or its evidence (messages stored, syncs done) contradicts the count.
 *
 *   node test/bench/accept.ts [--rounds 3] [--rows 4k-10,75k-100] [--only postfix|mailcluster] [--scale 0.1]
 */
import { execFile } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, statfsSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { findPostfix } from './postfix-installation.ts';
import { cpuSpent } from './proc.ts';
import {
  libraryPath,
  mailclusterSide,
  type PostfixInstallation,
  postfixSide,
  type Running,
  type Side,
} from './sides.ts';

interface Row {
  readonly name: string;
  readonly bytes: number;
  readonly sessions: number;
  readonly messages: number;
  /** Median ratio to reach (issue 3, section 9); null where none is set. */
  readonly goal: number | null;
}

const ROWS: readonly Row[] = [
  { name: '4k-1', bytes: 4096, sessions: 1, messages: 3000, goal: null },
  { name: '4k-10', bytes: 4096, sessions: 10, messages: 12_000, goal: 1.5 },
  { name: '4k-100', bytes: 4096, sessions: 100, messages: 12_000, goal: 3 },
  { name: '75k-10', bytes: 75 * 1024, sessions: 10, messages: 4000, goal: 1.5 },
  { name: '75k-100', bytes: 75 * 1024, sessions: 100, messages: 4000, goal: 2 },
  { name: '1m-10', bytes: 1024 * 1024, sessions: 10, messages: 400, goal: 0.8 },
];

interface Run {
  readonly perSecond: number;
  readonly cpuMsPerMessage: ReadonlyMap<string, number>;
  readonly syncsPerMessage: number | null;
}

const execute = promisify(execFile);

async function send(installation: PostfixInstallation, port: number, row: Row, messages: number): Promise<void> {
  const sessions = Math.min(row.sessions, messages);
  await execute(
    join(installation.prefix, 'usr/sbin/smtp-source'),
    // -d: keep the connection for the next message, as a busy relay does; exits non-zero at the first reply that is not a 2yz.
    [
      '-d',
      '-s',
      `${sessions}`,
      '-m',
      `${messages}`,
      '-l',
      `${row.bytes}`,
      '-f',
      'a@example.org',
      '-t',
      'bench@example.com',
      `127.0.0.1:${port}`,
    ],
    { env: { LD_LIBRARY_PATH: libraryPath(installation) }, timeout: 300_000 },
  );
}

async function measure(side: Side, row: Row, installation: PostfixInstallation): Promise<Run> {
  const running: Running = await side.start();
  try {
    // Warm: every session has had its process, its code compiled, its segment.
    const warm = Math.max(50, row.sessions * 2);
    await send(installation, running.port, row, warm);
    const before = running.cpu();
    const evidenceBefore = await running.evidence();
    const startMs = performance.now();
    await send(installation, running.port, row, row.messages);
    const seconds = (performance.now() - startMs) / 1000;
    const spent = cpuSpent(before, running.cpu());
    const evidence = await running.evidence();
    const stored = evidence.messages - evidenceBefore.messages;
    if (stored !== row.messages) throw new Error(`${side.name} ${row.name}: sent ${row.messages}, stored ${stored}`);
    const syncs = evidence.syncs === null ? null : evidence.syncs - (evidenceBefore.syncs ?? 0);
    if (syncs === 0) throw new Error(`${side.name} ${row.name}: accepted ${stored} messages without a sync`);
    return {
      perSecond: row.messages / seconds,
      cpuMsPerMessage: new Map([...spent].map(([name, ms]) => [name, ms / row.messages])),
      syncsPerMessage: syncs === null ? null : syncs / row.messages,
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
  const ratios = sorted(ours.flatMap((run, i) => (theirs[i] ? [run.perSecond / theirs[i].perSecond] : [])));
  const ratio =
    ratios.length === 0
      ? '-'
      : `${(ratios[0] ?? 0).toFixed(2)} / **${median(ratios).toFixed(2)}** / ${(ratios.at(-1) ?? 0).toFixed(2)}`;
  const verdict =
    row.goal === null || ratios.length === 0
      ? ''
      : ` (goal ${row.goal}: ${median(ratios) >= row.goal ? 'reached' : 'missed'})`;
  const syncs = ours.flatMap((run) => run.syncsPerMessage ?? []);
  console.log(
    `| ${row.name} | ${Math.max(ours.length, theirs.length)} x ${row.messages} | ${spread(theirs)} | ${spread(ours)} | ${ratio}${verdict} | ${cpu(theirs)} | ${cpu(ours)} | ${syncs.length > 0 ? median(syncs).toFixed(3) : '-'} |`,
  );
}

/** On a memory file system a sync costs nothing and every figure is a lie. */
function refuseMemoryFileSystem(directory: string): void {
  const TMPFS_MAGIC = 0x01021994;
  if (statfsSync(directory).type === TMPFS_MAGIC) {
    throw new Error(`${directory} is a memory file system: set TMPDIR to a directory on a disk`);
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      rounds: { type: 'string', default: '3' },
      rows: { type: 'string', default: ROWS.map((row) => row.name).join(',') },
      only: { type: 'string' },
      scale: { type: 'string', default: '1' },
    },
  });
  refuseMemoryFileSystem(tmpdir());
  const installation = await findPostfix();
  const wanted = values.rows.split(',');
  const rows = ROWS.filter((row) => wanted.includes(row.name)).map((row) => ({
    ...row,
    messages: Math.max(row.sessions, Math.round(row.messages * Number(values.scale))),
  }));
  const work = mkdtempSync(join(tmpdir(), 'mailcluster-bench-'));
  const removeWork = (): void => rmSync(work, { recursive: true, force: true });
  process.once('exit', removeWork);
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));
  // Postfix' programs run as another user and must get through.
  chmodSync(work, 0o755);
  let made = 0;
  const newDirectory = (): string => {
    made += 1;
    const directory = join(work, String(made));
    mkdirSync(directory);
    return directory;
  };
  const sides = [postfixSide(installation, newDirectory), mailclusterSide()].filter(
    (side) => values.only === undefined || side.name.toLowerCase() === values.only,
  );
  try {
    console.log(
      `${cpus().length} cores (${cpus()[0]?.model ?? 'unknown'}), node ${process.version}; messages per second, min / median / max`,
    );
    console.log(
      '| row | n | Postfix | MailCluster | ratio | CPU per message, Postfix | CPU per message, MailCluster | our syncs per message |',
    );
    console.log('|---|---|---|---|---|---|---|---|');
    for (const row of rows) {
      const results = new Map<string, Run[]>(sides.map((side) => [side.name, []]));
      for (let round = 0; round < Number(values.rounds); round += 1) {
        for (const side of sides) results.get(side.name)?.push(await measure(side, row, installation));
      }
      print(row, results);
    }
  } finally {
    removeWork();
  }
}

try {
  await main();
} catch (error) {
  console.error(`bench: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}
