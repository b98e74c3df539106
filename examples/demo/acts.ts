/**
 * The acts of the demo, in the order in which they are played: each does one thing to the cluster that a bad day would do, says the command
 * by which a person would see it, and hands the evidence that nobody could read later to the verdict.
 */
import { join } from 'node:path';
import type { RunFile, RunStore } from '../../operator/local/run-file.ts';
import {
  type Destroyed,
  type Drained,
  type Failover,
  keysOf,
  megabytes,
  missingAtFailover,
  type Sent,
  undelivered,
} from './audit.ts';
import { DemoFailure, waitFor } from './cluster.ts';
import { type DatabaseReading, exportAll, inspect, inspectAll, readMailboxes } from './evidence.ts';
import {
  DEADLINE,
  type Demo,
  LOOK,
  lettersFrom,
  mustFind,
  noteKill,
  SESSIONS,
  sendBatch,
  tellAnswers,
  untilEmpty,
  untilPaired,
} from './story.ts';
import { chooseTraced, duration, timelineRows } from './timeline.ts';

const MAILCLUSTER = 'operator/cli/mailcluster';

export async function start({ screen, cluster }: Demo): Promise<RunFile> {
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

export async function sendAndKill(demo: Demo, run: RunFile, count: number): Promise<void> {
  const { screen, cluster } = demo;
  const letters = lettersFrom(demo.sent.length, count);
  const bytes = letters.reduce((sum, letter) => sum + letter.content.length, 0);
  screen.step(
    'Send mail over both front ends, and kill two programs meanwhile',
    `${count} letters of 1 KB to 1 MB (${megabytes(bytes)}), one to four recipients each, ${SESSIONS} SMTP sessions. ` +
      'A front end says 250 only when two transports in two sites have the letter on disk.',
  );
  const [frontend] = run.frontends;
  // In the other site: there the front end that is left gives its mail first, so that it must find another transport for some of it.
  const transport = run.transports.find((one) => one.site !== frontend?.site);
  const victims = [
    { at: Math.floor(count * 0.25), what: 'front end', name: mustFind(frontend, 'front end').name },
    { at: Math.floor(count * 0.5), what: 'transport', name: mustFind(transport, 'transport').name },
  ];
  const sent = await sendBatch(demo, letters, (done) => {
    for (const { at, what, name } of victims) {
      if (at !== done) continue;
      const pid = cluster.kill(name);
      screen.kill(`SIGKILL to ${what} ${name} (pid ${pid})`);
      noteKill(demo, what, name, pid);
    }
  });
  screen.progress(count, count, 'waiting until the killed programs are back ...');
  await Promise.all(demo.kills.map((one) => one.back));
  screen.endProgress();
  screen.line();
  screen.text('What the client was told:');
  tellAnswers(screen, sent);
  screen.line();
  screen.text('Transports deliver; a shadow asks its primary what became of the message, and keeps its copy too:');
  screen.command(`${MAILCLUSTER} status`);
  await untilEmpty(demo);
}

/** `id`: of the 250 reply, or a Message-ID: then what was resubmitted of it is told as well. */
export async function trace({ screen, cluster }: Demo, run: RunFile, id: string | null, why: string): Promise<void> {
  if (id === null) return;
  screen.step('Follow one message', why);
  screen.command(`${MAILCLUSTER} trace ${id.startsWith('<') ? `'${id}'` : id}`);
  const rows = timelineRows(await cluster.trace(id), run.cluster);
  screen.rows(
    [['AFTER', 'EVENT', 'WHERE', 'WHAT HAPPENED'], ...rows.map((row) => [row.after, row.event, row.where, row.words])],
    { right: [0] },
  );
}

export const caughtByKill = ({ kills }: Demo, sent: readonly Sent[]): string | null =>
  chooseTraced(sent, kills.find((one) => one.what === 'transport')?.atMs ?? 0);

export interface Copies {
  /** Gets the mail until the failover. */
  readonly active: RunStore;
  readonly other: RunStore;
}

/** The copies of the mailbox database, made equal for the last time. */
export async function replicateOnce({ cluster }: Demo, run: RunFile): Promise<Copies> {
  const active = mustFind(
    run.stores.find((one) => one.copy === 'sea'),
    'copy sea',
  );
  const other = mustFind(
    run.stores.find((one) => one.copy === 'pdx'),
    'copy pdx',
  );
  await cluster.replicate(active.maildir, other.maildir);
  return { active, other };
}

/** The owner of most of what has to be delivered. */
function busiest(readings: readonly DatabaseReading[]): DatabaseReading {
  const [first] = [...readings].sort((a, b) => undelivered(b).length - undelivered(a).length);
  return mustFind(first, 'transport');
}

export async function destroyDisk(demo: Demo, { active }: Copies, count: number): Promise<Destroyed> {
  const { screen, cluster } = demo;
  screen.step(
    'Destroy a transport and its disk while it has mail to deliver',
    'The mailbox server stands still (SIGSTOP), so that what is accepted now stays in the queues.',
  );
  cluster.signal(active.name, 'SIGSTOP');
  try {
    await sendBatch(demo, lettersFrom(demo.sent.length, count));
    const { transports } = cluster.runFile();
    const readings = await inspectAll(transports);
    const victim = busiest(readings);
    const directory = mustFind(
      transports.find((one) => one.name === victim.member),
      victim.member,
    ).queueDatabaseDirectory;
    const { pid, kept } = await cluster.destroy(victim.member, directory);
    const destroyed = await inspect({ name: victim.member, site: victim.site }, kept);
    screen.kill(`SIGKILL to transport ${victim.member} (pid ${pid}), and its disk is gone`);
    screen.text(
      `With it went ${undelivered(destroyed).length} letters that are in no mailbox yet. It comes back on an empty disk, with ` +
        'another identity, by which the others know what happened. The mailbox server goes on.',
    );
    const startMs = performance.now();
    const { back } = noteKill(demo, 'transport without its disk', victim.member, pid);
    cluster.signal(active.name, 'SIGCONT');
    await back;
    await untilTakenOver(demo, destroyed, startMs);
    await untilEmpty(demo);
    await untilPaired(demo);
    return { member: victim.member, identity: destroyed.identity, copies: destroyed.copies };
  } finally {
    cluster.signal(active.name, 'SIGCONT');
  }
}

/** All others know that this queue database will not come back. */
async function untilTakenOver(
  { screen, cluster }: Demo,
  { member, identity }: Destroyed,
  startMs: number,
): Promise<void> {
  const notice = await waitFor(
    `the takeover from ${identity}`,
    DEADLINE.returnMs,
    async () => {
      const { transports, notices } = await cluster.status();
      const others = transports.filter(({ name }) => name !== member);
      if (!others.every(({ status }) => status?.lost.some((lost) => lost.identity === identity))) return null;
      return notices.find((one) => one.includes(identity)) ?? '';
    },
    LOOK.commandMs,
  );
  screen.good(`the others know it and took over, ${duration(performance.now() - startMs)} after the kill`);
  screen.command(`${MAILCLUSTER} status`);
  screen.text(notice);
}

export async function failOver(demo: Demo, { active, other }: Copies, count: number): Promise<Failover> {
  const { screen, cluster } = demo;
  screen.step(
    'Fail the mailbox database over to a stale copy',
    `Copy ${other.copy} of ${other.database} is as old as the end of step 3. Now, with mail flowing, the mailbox server of copy ` +
      `${active.copy} and its disk are lost, and somebody makes ${other.copy} the active copy.`,
  );
  const stale = keysOf(await readMailboxes(other.maildir));
  let failover: Promise<string> | null = null;
  await sendBatch(demo, lettersFrom(demo.sent.length, count), (done) => {
    if (done === Math.floor(count / 2)) failover = changeCopy(demo, { active, other });
  });
  if (failover === null) throw new DemoFailure('no letter was sent');
  const lost = keysOf(await readMailboxes(await failover));
  const missing = missingAtFailover({ lost, stale, requests: [] });
  screen.text(
    `${active.copy} had ${lost.length} letters in its mailboxes, ${other.copy} has ${stale.length}: ${missing.length} are missing. ` +
      'Nobody has to ask for them: the change itself is a resubmit request to every transport.',
  );
  screen.command(`${MAILCLUSTER} resubmit list`);
  const startMs = performance.now();
  const requests = await waitFor(
    'the resubmission',
    DEADLINE.emptyMs,
    async () => {
      const all = await cluster.resubmissions();
      const isOver = all.length > 0 && all.every(({ state }) => state !== 'Pending' && state !== 'Running');
      return isOver ? all : null;
    },
    LOOK.commandMs,
  );
  const took = duration(performance.now() - startMs);
  for (const { name, state } of requests) screen.good(`${name}: ${state} after ${took}`);
  await untilEmpty(demo);
  const now = new Set(keysOf(await readMailboxes(other.maildir)));
  const back = missing.filter((one) => now.has(one)).length;
  screen.good(
    `${back} of the ${missing.length} are back; what ${other.copy} had already it did not take a second time`,
  );
  return { lost, stale, requests };
}

/** Where the lost mailboxes are kept for the count. */
async function changeCopy(demo: Demo, { active, other }: Copies): Promise<string> {
  const { screen, cluster } = demo;
  const { pid, kept } = await cluster.destroy(active.name, active.maildir);
  screen.kill(`SIGKILL to mailbox server ${active.name} (pid ${pid}), and its Maildirs are gone`);
  noteKill(demo, 'mailbox server', active.name, pid);
  screen.command(await cluster.changeResource(`activeCopy: ${active.copy}`, `activeCopy: ${other.copy}`));
  return kept;
}

export async function drainMember(demo: Demo, run: RunFile, destroyed: Destroyed): Promise<Drained> {
  const { screen, cluster } = demo;
  const gone = mustFind(
    run.transports.find((one) => one.name === destroyed.member),
    destroyed.member,
  );
  const leaving = mustFind(
    run.transports.findLast((one) => one.site !== gone.site),
    'other site',
  );
  const { name } = leaving;
  screen.step(
    'Take a transport out of service',
    'It hands over everything it has, Safety Net included, proves that it is empty, and ends. Nothing is on fewer copies meanwhile.',
  );
  const had = await cluster.safetyNet(name);
  screen.command(`${MAILCLUSTER} member drain ${name} --wait`);
  const startMs = performance.now();
  const { code, stderr } = await cluster.drain(name, (left) =>
    screen.progress(had.length - left, had.length, `${left} copies to hand over`),
  );
  screen.endProgress();
  const after = `after ${duration(performance.now() - startMs)}`;
  if (code === 0) screen.good(`${name} has handed over ${had.length} copies and is gone (${after})`);
  else screen.bad(`member drain: exit code ${code} ${after}: ${stderr}`);
  return { member: name, had };
}

export async function readDatabases({ screen, cluster }: Demo, run: RunFile): Promise<readonly DatabaseReading[]> {
  screen.step(
    'Stop everything and read the four queue databases',
    'No program is asked: the files themselves are read, every message body is exported and hashed.',
  );
  await cluster.stop(DEADLINE.stopMs);
  screen.command(`${MAILCLUSTER} store inspect DIR -o json`);
  screen.command(`${MAILCLUSTER} store export DIR --all OUT`);
  const readings = await exportAll(run.transports, join(cluster.directory, 'exported'), (done, of) =>
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
    'Primary Safety Net is with the transport that delivered or took over, Shadow Safety Net with the one that held the shadow.',
  );
  return readings;
}
