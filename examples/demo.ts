/**
 * `make demo`: a MailCluster of two sites on this machine takes real mail while two of its programs are killed; then everything is
 * counted. Owns the story and the exit code: 0 when every check of `demo/audit.ts` holds, 1 when one does not or the demo itself could
 * not go on (the directory is then kept and named), 2 for a wrong command line, 130 after Ctrl-C. Needs no root and writes only below the system's
 * temporary directory. Every process it starts has ended when it ends, also after Ctrl-C.
 */
import { readFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import type { RunFile } from '../operator/local/run-file.ts';
import { audit, type Check, holds, indeterminate, megabytes, type Sent } from './demo/audit.ts';
import { type DatabaseReading, DemoCluster, DemoFailure, type Waiting, waitFor } from './demo/cluster.ts';
import { type Letter, writeLetter } from './demo/letters.ts';
import { sendLetters } from './demo/post.ts';
import { align, Screen, wrap } from './demo/screen.ts';
import { chooseTraced, duration, timelineRows } from './demo/timeline.ts';

const HELP = `Usage: node examples/demo.ts [--count N] [--keep]

  --count N   letters to send (default 400)
  --keep      leave the directory with queues, mailboxes and logs where it is, and say where
`;
const DEFAULT_COUNT = 400;
const SESSIONS = 8;
const DOMAIN = 'contoso.com';
/** Generous: a slow machine is no failure. */
const DEADLINE = { startMs: 120_000, returnMs: 120_000, drainMs: 180_000, stopMs: 90_000 } as const;
const MOST_SHOWN = 6;

interface Kill {
  readonly what: 'front end' | 'transport';
  readonly name: string;
  /** Letters that were answered, or cut off, before. */
  readonly afterLetters: number;
  readonly atMs: number;
  /** How long it took to be back, or why it never came. */
  readonly back: Promise<{ readonly ms: number } | { readonly problem: string }>;
}

interface Demo {
  readonly screen: Screen;
  readonly cluster: DemoCluster;
  readonly count: number;
  /** Ctrl-C: the story ends here. */
  readonly stop: AbortSignal;
}

async function start({ screen, cluster }: Demo): Promise<RunFile> {
  screen.step(
    'Start the cluster',
    'Every program below is a process of its own, as each would be a pod on Kubernetes.',
  );
  for (const command of cluster.runCommands) screen.command(command);
  const startMs = performance.now();
  screen.progress(0, 1, 'starting 8 processes ...');
  const run = await cluster.start(DEADLINE.startMs);
  screen.endProgress();
  const programs = run.transports.length + run.frontends.length + run.stores.length;
  screen.good(`${programs} programs are ready after ${duration(performance.now() - startMs)}`);
  screen.line();
  const address = (name: string): string => {
    const found = run.listeners.find((one) => one.frontend === name && one.name === 'smtp');
    return found === undefined ? '' : `SMTP on ${found.host}:${found.port}`;
  };
  screen.rows([
    ['SITE', 'PROGRAM', 'PID', 'WHAT IT DOES'],
    ...run.frontends.map((one) => [one.site, one.name, String(one.pid), `front end, ${address(one.name)}`]),
    ...run.transports.map((one) => [
      one.site,
      one.name,
      String(one.pid),
      `transport of ${one.dag}, owns a queue database`,
    ]),
    ...run.stores.map((one) => ['', one.name, String(one.pid), `mailboxes of ${one.database} (LMTP to Maildir)`]),
  ]);
  return run;
}

/** SIGKILL now, and a promise of how it came back. */
function kill({ screen, cluster }: Demo, what: Kill['what'], name: string, afterLetters: number): Kill {
  const pid = cluster.kill(name);
  const startMs = performance.now();
  screen.kill(`SIGKILL to ${what} ${name} (pid ${pid})`);
  const back = waitFor(`${name} to come back`, DEADLINE.returnMs, () => cluster.returned(name, pid)).then(
    (newPid) => {
      const ms = performance.now() - startMs;
      screen.good(`${name} is back as pid ${newPid} after ${duration(ms)}, thanks to the runner`);
      return { ms };
    },
    (error: Error) => ({ problem: error.message }),
  );
  return { what, name, afterLetters, atMs: startMs, back };
}

async function send(
  demo: Demo,
  run: RunFile,
): Promise<{ readonly sent: readonly Sent[]; readonly kills: readonly Kill[] }> {
  const { screen, cluster, count, stop } = demo;
  const letters: readonly Letter[] = Array.from({ length: count }, (_, i) => writeLetter(i, DOMAIN));
  const bytes = letters.reduce((sum, letter) => sum + letter.content.length, 0);
  screen.step(
    'Send mail over both front ends, and kill two programs meanwhile',
    `${count} letters of 1 KB to 1 MB (${megabytes(bytes)}), one to four recipients each, ${SESSIONS} SMTP sessions. ` +
      'A front end says 250 only when two transports in two sites have the letter on disk.',
  );
  const kills: Kill[] = [];
  const frontend = run.frontends[0];
  // In the other site: there the front end that is left gives its mail first, so that it must find another transport for some of it.
  const transport = run.transports.find((one) => one.site !== frontend?.site);
  const victims = [
    { at: Math.floor(count * 0.25), what: 'front end', name: frontend?.name ?? '' },
    { at: Math.floor(count * 0.5), what: 'transport', name: transport?.name ?? '' },
  ] as const;
  const startMs = performance.now();
  let accepted = 0;
  const sent = await sendLetters({
    letters,
    sessions: SESSIONS,
    targets: () => cluster.targets(),
    stop,
    onSent: ({ answer }, done) => {
      if (answer.kind === 'accepted') accepted += 1;
      screen.progress(done, count, `${done} of ${count} sent, ${accepted} answered 250`);
      for (const { at, what, name } of victims) if (at === done) kills.push(kill(demo, what, name, done));
    },
  });
  stop.throwIfAborted();
  const ms = performance.now() - startMs;
  screen.endProgress();
  screen.good(`all sent in ${duration(ms)}`);
  screen.progress(count, count, 'waiting until the killed programs are back ...');
  await Promise.all(kills.map((one) => one.back));
  screen.endProgress();
  screen.line();
  screen.text('What the client was told:');
  tellAnswers(screen, sent);
  return { sent, kills };
}

function tellAnswers(screen: Screen, sent: readonly Sent[]): void {
  const groups = Map.groupBy(sent, ({ answer }) =>
    answer.kind === 'accepted'
      ? '250 2.0.0 queued: the cluster is responsible now'
      : answer.kind === 'refused'
        ? `${answer.code} ${answer.text}`
        : answer.endSent
          ? 'no answer after the last byte: may be there or not (indeterminate)'
          : 'connection lost before the last byte: must not be there',
  );
  const rows = [...groups].sort(([, a], [, b]) => b.length - a.length);
  for (const [words, group] of rows) screen.line(`     ${String(group.length).padStart(6)}  ${words}`.slice(0, 100));
}

async function drain({ screen, cluster }: Demo): Promise<Waiting | null> {
  screen.step(
    'Wait until the queues are empty',
    'Transports deliver to the mailboxes. A shadow learns of it by asking its primary, and keeps its copy in Shadow Safety Net.',
  );
  screen.command('operator/cli/mailcluster status');
  const startMs = performance.now();
  let most = 0;
  let last: Waiting | null = null;
  const isOver = async (): Promise<boolean | null> => {
    const now = await cluster.waiting();
    last = now;
    if (now === null) return null;
    const left = now.queued + now.shadow;
    most = Math.max(most, left);
    if (left === 0 && now.problems.length === 0) return true;
    screen.progress(most - left, most, `${now.queued} in queues, ${now.shadow} shadow copies not yet told`);
    return null;
  };
  const over = await waitFor('the queues to be empty', DEADLINE.drainMs, isOver).catch((error: Error) => error);
  screen.endProgress();
  if (over === true)
    screen.good(`no queue holds anything, no shadow waits (after ${duration(performance.now() - startMs)})`);
  // Not the end: the audit says what that means.
  else screen.bad(over instanceof Error ? over.message : 'never');
  return last;
}

async function readDatabases({ screen, cluster }: Demo, run: RunFile): Promise<readonly DatabaseReading[]> {
  screen.step(
    'Stop everything and read the four queue databases',
    'No program is asked: the files themselves are read, every message body is exported and hashed.',
  );
  await cluster.stop(DEADLINE.stopMs);
  screen.command('operator/cli/mailcluster store inspect DIR -o json');
  screen.command('operator/cli/mailcluster store export DIR --all OUT');
  const readings = await cluster.readDatabases(run, (done, of) =>
    screen.progress(done, of, `${done} of ${of} databases read`),
  );
  screen.endProgress();
  screen.line();
  const cell = (reading: DatabaseReading, ...queues: readonly string[]): string =>
    String(reading.copies.filter((copy) => queues.includes(copy.queue)).length);
  screen.rows(
    [
      ['SITE', 'TRANSPORT', 'QUEUED', 'SHADOW', 'PRIMARY SAFETY NET', 'SHADOW SAFETY NET'],
      ...readings.map((one) => [
        one.site,
        one.member,
        cell(one, 'submission', 'delivery', 'unreachable', 'poison'),
        cell(one, 'shadow'),
        cell(one, 'primarySafetyNet'),
        cell(one, 'shadowSafetyNet'),
      ]),
    ],
    { right: [2, 3, 4, 5] },
  );
  screen.line();
  screen.text(
    'Primary Safety Net is with the transport that delivered, Shadow Safety Net with the one that held the shadow.',
  );
  return readings;
}

async function trace(
  { screen, cluster }: Demo,
  run: RunFile,
  sent: readonly Sent[],
  killedAtMs: number,
): Promise<void> {
  const id = chooseTraced(sent, killedAtMs);
  if (id === null) return;
  screen.step('Follow one message', 'It was on its way when the transport was killed. The id is from the 250 reply.');
  screen.command(`operator/cli/mailcluster trace ${id}`);
  const rows = timelineRows(await cluster.trace(id), run.cluster);
  screen.rows(
    [['AFTER', 'EVENT', 'WHERE', 'WHAT HAPPENED'], ...rows.map((row) => [row.after, row.event, row.where, row.words])],
    { right: [0] },
  );
}

async function killsSurvived(kills: readonly Kill[], count: number): Promise<Check> {
  const against: string[] = [];
  const times: string[] = [];
  for (const { what, name, afterLetters, back } of kills) {
    const result = await back;
    if ('problem' in result) against.push(`${name}: ${result.problem}`);
    else times.push(`${what} after ${duration(result.ms)}`);
    if (afterLetters >= count) against.push(`${name} was killed after the last letter`);
  }
  if (kills.length !== 2) against.push(`${kills.length} programs were killed instead of 2`);
  return { title: 'The killed programs came back', finding: times.join(', '), against };
}

const healthy = (last: Waiting | null): Check => ({
  title: 'The cluster is well again',
  finding: 'all ready and connected (mailcluster status)',
  against: last === null ? ['a transport did not answer'] : last.problems,
});

function tellChecks(screen: Screen, checks: readonly Check[]): void {
  const rows = align(
    checks.map((check) => [check.title, check.finding]),
    [],
  );
  checks.forEach((check, i) => {
    const [title = '', finding = ''] = rows[i] ?? [];
    const words = `${title}  ${screen.paint('dim', finding.trimEnd())}`;
    if (check.against.length === 0) screen.good(words);
    else screen.bad(words);
    for (const one of check.against.slice(0, MOST_SHOWN))
      for (const line of wrap(one, 90)) screen.line(`         ${screen.paint('red', line)}`);
    const more = check.against.length - MOST_SHOWN;
    if (more > 0) screen.line(`         and ${more} more`);
  });
}

/** The whole story; true when every check holds. */
async function play(demo: Demo): Promise<boolean> {
  const { screen, cluster, count } = demo;
  screen.title('MailCluster demo', [
    'Mail is sent into a cluster of two sites, and two of its programs are killed while it flows.',
    'The promise: what got a 250 is in two queue databases in two sites, and arrives exactly once.',
  ]);
  const run = await start(demo);
  const { sent, kills } = await send(demo, run);
  const last = await drain(demo);
  await trace(demo, run, sent, kills.find((one) => one.what === 'transport')?.atMs ?? 0);
  const readings = await readDatabases(demo, run);
  const evidence = {
    sent,
    copies: readings.flatMap((one) => one.copies),
    mailboxes: await cluster.readMailboxes(run),
  };
  screen.step('The verdict', 'Computed from the replies, the mailbox files and the databases.');
  const checks = [...audit(evidence), await killsSurvived(kills, count), healthy(last)];
  tellChecks(screen, checks);
  const open = indeterminate(evidence);
  if (open.length > 0) {
    screen.line();
    screen.text('Without an answer (a real client sends these again):');
    for (const one of open.slice(0, MOST_SHOWN)) screen.line(`       ${one.letter}  ${one.told}: ${one.found}`);
    if (open.length > MOST_SHOWN) screen.line(`       and ${open.length - MOST_SHOWN} more`);
  }
  return holds(checks);
}

type Ending = 'passed' | 'failed' | 'interrupted';

const EXIT_CODES: Readonly<Record<Ending, number>> = { passed: 0, failed: 1, interrupted: 130 };

async function finish({ screen, cluster }: Demo, ending: Ending, keep: boolean, startMs: number): Promise<number> {
  await cluster.stop(DEADLINE.stopMs);
  const took = duration(performance.now() - startMs);
  screen.line();
  if (ending === 'passed')
    screen.line(`  ${screen.paint(['bold', 'green'], `PASSED: nothing was lost, doubled or changed. (${took})`)}`);
  else if (ending === 'failed')
    screen.line(
      `  ${screen.paint(['bold', 'red'], `FAILED: see the lines marked ${screen.symbols.bad} above. (${took})`)}`,
    );
  else screen.line(`  ${screen.paint('bold', `INTERRUPTED: there is no verdict. (${took})`)}`);
  if (ending === 'failed' || keep) {
    screen.line(`  All processes are stopped. Kept: ${cluster.directory}`);
    screen.line('  To look around:');
    for (const command of cluster.runCommands) screen.command(command);
  } else {
    await cluster.remove();
    screen.line('  All processes are stopped and the temporary directory is removed (--keep leaves it).');
  }
  screen.line();
  return EXIT_CODES[ending];
}

async function tellFailure({ screen, cluster }: Demo, error: unknown): Promise<void> {
  screen.endProgress();
  screen.line();
  screen.bad(
    error instanceof DemoFailure ? error.message : error instanceof Error ? (error.stack ?? '') : String(error),
  );
  const log = await readFile(cluster.runnerLog, 'utf8').catch((reason: Error) => reason.message);
  for (const line of log.trimEnd().split('\n').slice(-12)) screen.line(`       ${line}`);
}

async function main(args: readonly string[]): Promise<number> {
  const options = { count: { type: 'string' }, keep: { type: 'boolean' }, help: { type: 'boolean' } } as const;
  let values: { count?: string; keep?: boolean; help?: boolean };
  try {
    ({ values } = parseArgs({ args: [...args], options }));
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n\n${HELP}`);
    return 2;
  }
  const count = Number(values.count ?? DEFAULT_COUNT);
  if (values.help === true || !Number.isInteger(count) || count < 20 || count > 100_000) {
    (values.help === true ? process.stdout : process.stderr).write(HELP);
    return values.help === true ? 0 : 2;
  }
  const startMs = performance.now();
  const stopped = new AbortController();
  const screen = new Screen(process.stdout, process.env);
  const demo: Demo = { screen, cluster: await DemoCluster.prepare(), count, stop: stopped.signal };
  process.on('exit', () => demo.cluster.killRunner());
  const interrupted = new Promise<never>((_, reject) => {
    stopped.signal.addEventListener('abort', () => reject(stopped.signal.reason));
  });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.on(signal, () => stopped.abort(new DemoFailure(`interrupted by ${signal}`)));
  let ending: Ending = 'failed';
  try {
    ending = (await Promise.race([play(demo), interrupted])) ? 'passed' : 'failed';
  } catch (error) {
    if (stopped.signal.aborted) ending = 'interrupted';
    else await tellFailure(demo, error);
  }
  demo.screen.endProgress();
  return await finish(demo, ending, values.keep === true, startMs);
}

process.exit(await main(process.argv.slice(2)));
