/**
 * `make demo`: a MailCluster of two sites on this machine takes real mail through a bad day - programs killed, a transport destroyed with its
 * disk, a mailbox database failed over to a stale copy, a transport drained; then everything is counted. Owns the story and the exit code:
 * 0 when every check of `demo/audit.ts` holds, 1 when one does not or the demo itself could not go on (the directory is then kept and
 * named), 2 for a wrong command line, 130 after Ctrl-C. Needs no root and writes only below the system's temporary directory. Every process
 * it starts has ended when it ends, also after Ctrl-C.
 */
import { readFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import {
  caughtByKill,
  destroyDisk,
  drainMember,
  failOver,
  readDatabases,
  replicateOnce,
  sendAndKill,
  start,
  trace,
} from './demo/acts.ts';
import { audit, type Check, type Evidence, holds, indeterminate, tally, undelivered } from './demo/audit.ts';
import { DemoCluster, DemoFailure, type Waiting } from './demo/cluster.ts';
import { readMailboxes } from './demo/evidence.ts';
import { Screen } from './demo/screen.ts';
import { DEADLINE, type Demo, type Kill, tellChecks, untilEmpty } from './demo/story.ts';
import { duration } from './demo/timeline.ts';

const HELP = `Usage: node examples/demo.ts [--count N] [--keep]

  --count N   letters to send (default 400)
  --keep      leave the directory with queues, mailboxes and logs where it is, and say where
`;
const DEFAULT_COUNT = 400;
const MOST_SHOWN = 6;

async function killsSurvived(kills: readonly Kill[]): Promise<Check> {
  const results = await Promise.all(kills.map(async ({ what, name, back }) => ({ what, name, result: await back })));
  const times = results.flatMap(({ what, result }) => ('ms' in result ? [`${what} ${duration(result.ms)}`] : []));
  const against = results.flatMap(({ name, result }) => ('problem' in result ? [`${name}: ${result.problem}`] : []));
  if (kills.length !== 4) against.push(`${kills.length} programs were killed instead of 4`);
  return { title: 'The killed programs came back', finding: `${times.length} of ${kills.length}`, against };
}

const healthy = (last: Waiting | null): Check => ({
  title: 'The cluster is well again',
  finding: 'all ready and connected (mailcluster status)',
  against: last === null ? ['a transport did not answer'] : last.problems,
});

async function play(demo: Demo): Promise<boolean> {
  const { screen, count, sent } = demo;
  screen.title('MailCluster demo', [
    'Two sites take mail on a bad day: programs are killed, a transport is destroyed with its disk,',
    'the mailboxes fall back to an old copy. The promise: what got a 250 arrives, once; none is lost.',
  ]);
  const [second, third] = [Math.floor(count * 0.2), Math.floor(count * 0.2)];
  const run = await start(demo);
  await sendAndKill(demo, run, count - second - third);
  const why = 'It was on its way when the transport was killed. The id is from the 250 reply.';
  await trace(demo, run, caughtByKill(demo, sent), why);
  const copies = await replicateOnce(demo, run);
  const destroyed = await destroyDisk(demo, copies, second);
  const failover = await failOver(demo, copies, third);
  const held = new Set(undelivered(destroyed).map(({ id }) => id));
  const twice = sent.find(({ answer }) => answer.kind === 'accepted' && held.has(answer.id))?.letter.messageId ?? null;
  await trace(demo, run, twice, 'It was on the disk that was destroyed, and later in the mailboxes that were lost.');
  const drained = await drainMember(demo, run, destroyed);
  const last = await untilEmpty(demo);
  const readings = await readDatabases(demo, run);
  const evidence: Evidence = {
    sent,
    copies: readings.flatMap((one) => one.copies),
    mailboxes: await readMailboxes(copies.other.maildir),
    destroyed,
    failover,
    drained,
  };
  return await judge(demo, evidence, last);
}

async function judge({ screen, kills }: Demo, evidence: Evidence, last: Waiting | null): Promise<boolean> {
  screen.step('The verdict', 'Computed from the replies, the mailbox files and the databases.');
  const checks = [...audit(evidence), await killsSurvived(kills), healthy(last)];
  tellChecks(screen, checks);
  screen.line();
  for (const [words, number] of tally(evidence)) screen.line(`     ${String(number).padStart(6)}  ${words}`);
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
  const cluster = await DemoCluster.prepare();
  const demo: Demo = { screen, cluster, count, stop: stopped.signal, sent: [], kills: [] };
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
