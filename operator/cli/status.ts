/** `mailcluster status`: the members and their queues. Reads only. Exit 1 when a member needs attention. */

import type { TopologyDocument } from '../../common/config.ts';
import { readTopology } from '../../common/config-files.ts';
import type { Asked } from '../admin-client.ts';
import { type Cluster, openCluster } from '../local/cluster.ts';
import { readResubmit, resubmitNames } from '../local/overseer.ts';
import type { RunFile, RunFrontend, RunTransport } from '../local/run-file.ts';
import { statePaths } from '../local/state-directory.ts';
import type { StatusAnswer } from './answers.ts';
import { COMMON_HELP, type Command, parse } from './command.ts';
import { allSetAside, drainText, whatToDoAbout } from './member.ts';
import { type Column, count, duration, json, type Output, printable, table } from './output.ts';

type Row = {
  readonly member: Pick<RunTransport, 'name' | 'dag' | 'site' | 'pid'>;
  readonly asked: Asked<StatusAnswer>;
};

const IN_TRANSIT = ['submission', 'delivery', 'unreachable', 'poison'];

function field(read: (status: StatusAnswer) => string | number | null): (row: Row) => string | number | null {
  return (row) => (row.asked.kind === 'answer' ? read(row.asked.value) : null);
}

const queued = (status: StatusAnswer, queues: readonly string[]): number =>
  queues.reduce((sum, queue) => sum + (status.queues[queue]?.messages ?? 0), 0);

/** How much of the pass under way is done, or when the last one ended. */
function scrubText({ scrub }: StatusAnswer): string | null {
  if (scrub === undefined) return null;
  const { isRunning, doneBytes, leftBytes, lastFullPassMs } = scrub;
  if (isRunning) return `${Math.floor((100 * doneBytes) / Math.max(1, doneBytes + leftBytes))} %`;
  return lastFullPassMs === null ? 'not yet' : new Date(lastFullPassMs).toISOString().slice(0, 16).concat('Z');
}

export const TRANSPORTS: readonly Column<Row>[] = [
  { title: 'NAME', value: (row) => row.member.name },
  { title: 'DAG', value: (row) => row.member.dag },
  { title: 'SITE', value: (row) => row.member.site },
  {
    title: 'STATE',
    value: (row) =>
      row.asked.kind === 'answer' ? row.asked.value.state : row.asked.kind === 'absent' ? 'unknown' : 'unreachable',
  },
  { title: 'QUEUED', value: field((status) => queued(status, IN_TRANSIT)), right: true },
  { title: 'SHADOW', value: field((status) => queued(status, ['shadow'])), right: true },
  { title: 'UNPROTECTED', value: field((status) => status.unprotected ?? 'unknown'), right: true },
  { title: 'DISCARDS', value: field((status) => status.discardsPending), right: true },
  {
    title: 'SAFETY NET P/S',
    value: field((status) => `${status.safetyNet.primary.messages}/${status.safetyNet.shadow.messages}`),
    right: true,
  },
  {
    title: 'PEERS',
    value: field((status) => `${status.peers.filter((peer) => peer.connected).length}/${status.peers.length}`),
    right: true,
  },
  { title: 'PRESSURE', value: field((status) => status.backPressure) },
  { title: 'SCRUB', value: (row) => (row.asked.kind === 'answer' ? scrubText(row.asked.value) : null) },
  { title: 'PID', value: (row) => row.member.pid, right: true },
  { title: 'IDENTITY', value: field((status) => status.identity) },
];

/** What a person should look at; empty when all is well. */
export function problemsOf(rows: readonly Row[], nowMs: number): readonly string[] {
  return rows.flatMap(({ member, asked }) => {
    if (asked.kind === 'unreachable') return [`${member.name} is unreachable: ${asked.reason}`];
    if (asked.kind === 'absent') return [`${member.name} has no status`];
    const status = asked.value;
    const peers = status.peers.filter((peer) => !peer.connected);
    return [
      ...(status.state === 'ready' ? [] : [`${member.name} is ${status.state}`]),
      ...(status.unprotected !== null && status.unprotected > 0
        ? [`${member.name} has ${count(status.unprotected, 'message')} with one copy only`]
        : []),
      ...(status.quarantined > 0
        ? [`${member.name} has ${count(status.quarantined, 'damaged record')} in quarantine`]
        : []),
      ...(queued(status, ['poison']) > 0
        ? [
            `${member.name} has ${count(queued(status, ['poison']), 'message')} in the queue poison, of which it died: "mailcluster message list --queue poison", then "message resume ID" or "message remove ID"`,
          ]
        : []),
      ...(status.scrub?.isTooSlow === true
        ? [`${member.name} has more on its disk than a scrub at full pace can look at in a quarter of the hold time`]
        : []),
      ...(status.backPressure === 'Normal'
        ? []
        : [
            `${member.name} is under ${status.backPressure} back pressure${status.pressedBy ? ` for want of ${status.pressedBy}` : ''}`,
          ]),
      ...peers.map((peer) => {
        const since = peer.lastContactMs === null ? 'never heard' : `heard ${duration(nowMs - peer.lastContactMs)} ago`;
        return `${member.name} has no connection to ${peer.member} (${since}${peer.problem === null ? '' : `; ${peer.problem}`})`;
      }),
    ];
  });
}

/** It waits for another document, and expires if none comes. */
export const unreachableNotices = (rows: readonly Row[]): readonly string[] =>
  rows.flatMap(({ member, asked }) => {
    const messages = asked.kind === 'answer' ? (asked.value.withoutRoute ?? queued(asked.value, ['unreachable'])) : 0;
    if (messages === 0) return [];
    return [
      `${member.name} has ${count(messages, 'message')} without a route for some recipient: "mailcluster queue show unreachable" says why`,
    ];
  });

/** Worth knowing, no problem by itself: what is going on, and what was set aside. */
async function noticesOf(cluster: Cluster, rows: readonly Row[]): Promise<readonly string[]> {
  const drains = rows.flatMap(({ member, asked }) => {
    const drain = asked.kind === 'answer' ? asked.value.drain : undefined;
    return drain === undefined || drain.state === 'none' ? [] : [`${member.name} is draining: ${drainText(drain)}`];
  });
  const waiting = unreachableNotices(rows);
  const lost = new Map<string, string>();
  for (const { asked } of rows)
    for (const { member, identity, why } of (asked.kind === 'answer' ? asked.value.lost : undefined) ?? [])
      lost.set(
        identity,
        why === 'drained'
          ? `queue database ${identity} of ${member} was drained; nothing is left on it`
          : `queue database ${identity} of ${member} was lost and is taken over (${why})`,
      );
  const paths = statePaths(cluster.run.state);
  const requests = await Promise.all((await resubmitNames(paths)).map((name) => readResubmit(paths, name)));
  const open = requests.flatMap((one) => {
    if (one === null || one.status.state === 'Completed' || one.status.state === 'Cancelled') return [];
    const { state, counts, message } = one.status;
    const what = message === undefined ? '' : `; ${message}`;
    return [
      `resubmit request ${one.metadata.name} is ${state ?? 'Pending'}: ${counts?.resubmitted ?? 0} of ${counts?.selected ?? 0} resubmitted${what}`,
    ];
  });
  const aside = await allSetAside(cluster, await readDocument(cluster));
  return [
    ...waiting,
    ...drains,
    ...lost.values(),
    ...open,
    ...aside.map((volume) => `set aside: ${whatToDoAbout(volume)}`),
  ];
}

async function readDocument(cluster: Cluster): Promise<TopologyDocument | null> {
  try {
    return await readTopology(cluster.run.topologyFile);
  } catch (error) {
    // Members are shown all the same; `member list` says what is wrong with it.
    if (error instanceof Error) return null;
    throw error;
  }
}

function render(
  run: RunFile,
  rows: readonly Row[],
  frontends: readonly (RunFrontend & { readonly health: string })[],
  said: { readonly problems: readonly string[]; readonly notices: readonly string[] },
  { out }: Output,
): void {
  const { problems, notices } = said;
  const listeners = (frontend: RunFrontend): string =>
    run.listeners
      .filter((one) => one.frontend === frontend.name)
      .map((one) => `${one.name}=${one.host}:${one.port}`)
      .join(' ');
  out(`Cluster ${run.cluster}, topology generation ${run.generation}, runner ${run.pid}\n\n`);
  out(table(TRANSPORTS, rows));
  out('\n');
  out(
    table(
      [
        { title: 'FRONT END', value: (row) => row.name },
        { title: 'SITE', value: (row) => row.site },
        { title: 'HEALTH', value: (row) => row.health },
        { title: 'LISTENERS', value: listeners },
        { title: 'PID', value: (row) => row.pid, right: true },
      ],
      frontends,
    ),
  );
  if (run.stores.length > 0) {
    out('\n');
    out(
      table(
        [
          { title: 'STORE', value: (row) => row.name },
          { title: 'DATABASE', value: (row) => row.database },
          { title: 'LMTP', value: (row) => `${row.host}:${row.port}` },
          { title: 'MAILDIR', value: (row) => row.maildir },
          { title: 'PID', value: (row) => row.pid, right: true },
        ],
        run.stores,
      ),
    );
  }
  out('\n');
  out(problems.length === 0 ? 'No problems found.\n' : `${count(problems.length, 'problem')}:\n`);
  for (const problem of problems) out(`  ${printable(problem)}\n`);
  if (notices.length > 0) out(`\n${count(notices.length, 'notice')}:\n`);
  for (const notice of notices) out(`  ${printable(notice)}\n`);
}

export const statusCommand: Command = {
  summary: 'members, queues, protection and peers of the cluster',
  help: `Usage: mailcluster status [--state DIR] [-o json]

Shows every transport (state, queues, unprotected messages, Safety Net, peers) and every front end with its health.
UNPROTECTED is "unknown" until every peer has answered once. Exit code 1 when something needs attention. Notices are no problems: mail without a route, drains,
queue databases that were taken over from, resubmit requests, queue directories set aside and what to do about them.

${COMMON_HELP}

Examples:
  mailcluster status
  mailcluster status --state /var/lib/mailcluster -o json`,
  run: async (args, context) => {
    const { common } = parse(args, context, {}, [0, 0]);
    const cluster = await openCluster(common.state);
    const { run } = cluster;
    const [asked, health] = await Promise.all([
      cluster.askAll<StatusAnswer>('/v1/status'),
      Promise.all(run.frontends.map((frontend) => cluster.frontendHealth(frontend))),
    ]);
    const rows = run.transports.map((member, index): Row => {
      return { member, asked: asked[index] ?? { kind: 'absent', member: member.name } };
    });
    const notices = await noticesOf(cluster, rows);
    const frontends = run.frontends.map((frontend, index) => ({ ...frontend, health: health[index] ?? 'unknown' }));
    const problems = [
      ...problemsOf(rows, context.nowMs()),
      ...frontends.filter((one) => one.health !== 'ready').map((one) => `${one.name} is ${one.health}`),
      ...run.stores.filter((one) => one.pid === null).map((one) => `${one.name} is down`),
    ];
    if (common.format === 'json') {
      const transports = rows.map(({ member, asked: one }) => ({
        ...member,
        ...(one.kind === 'answer'
          ? { status: one.value }
          : { problem: one.kind === 'absent' ? 'no status' : one.reason }),
      }));
      context.output.out(
        json({
          cluster: run.cluster,
          generation: run.generation,
          transports,
          frontends,
          stores: run.stores,
          problems,
          notices,
        }),
      );
      return problems.length === 0 ? 0 : 1;
    }
    render(run, rows, frontends, { problems, notices }, context.output);
    return problems.length === 0 ? 0 : 1;
  },
};
