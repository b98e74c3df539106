/**
 * `mailcluster member`: what becomes of transports. Owns: the words. Promise: nothing is done to a member that is healthy, or the last one,
 * without the person knowing what it would cost; the runner decides again (local/orders.ts). Exit 1 when it was refused or not answered.
 */
import type { MemberConfig, TopologyDocument } from '../../common/config.ts';
import { readTopology } from '../../common/config-files.ts';
import type { Identity } from '../../common/message.ts';
import type { Asked } from '../admin-client.ts';
import { type Cluster, gather, openCluster } from '../local/cluster.ts';
import { isIdentity } from '../local/orders.ts';
import { statePaths } from '../local/state-directory.ts';
import { knownIdentities, type SetAside, setAside } from '../local/volumes.ts';
import { drainRefusal } from '../topology.ts';
import type { StatusAnswer } from './answers.ts';
import { COMMON_HELP, type Command, type CommandContext, parse, UsageError } from './command.ts';
import { give, newId } from './ordering.ts';
import { count, json, table } from './output.ts';
import { type Look, timeoutOption, WAIT_EXIT, WAIT_HELP, waitUntil } from './waiting.ts';

interface Row {
  readonly member: MemberConfig;
  readonly asked: Asked<StatusAnswer> | null;
  readonly identity: string | null;
}

const statusOf = (asked: Asked<StatusAnswer> | null): StatusAnswer | null =>
  asked?.kind === 'answer' ? asked.value : null;

function progress({ member, asked }: Row): string {
  const drain = statusOf(asked)?.drain;
  if (member.state === 'gone') return 'gone';
  if (drain === undefined || drain.state === 'none') return member.state === 'draining' ? 'has not begun' : '-';
  return drainText(drain);
}

export function drainText(drain: NonNullable<StatusAnswer['drain']>): string {
  if (drain.state === 'empty') return 'empty';
  const left = `${count(drain.copies, 'message')}, ${drain.safetyNet} in Safety Net, ${count(drain.tombstones, 'answer')} owed`;
  return drain.waitingFor.length === 0 ? left : `${left}; waits for ${drain.waitingFor.join(', ')}`;
}

async function rowsOf(cluster: Cluster, document: TopologyDocument): Promise<readonly Row[]> {
  const asked = await cluster.askAll<StatusAnswer>('/v1/status');
  const paths = statePaths(cluster.run.state);
  return await Promise.all(
    document.members.map(async (member): Promise<Row> => {
      const own = asked.find((one) => one.member === member.name) ?? null;
      const identity = statusOf(own)?.identity ?? (await knownIdentities(paths, member.name)).at(-1)?.identity ?? null;
      return { member, asked: own, identity };
    }),
  );
}

/** Of every member that has or had a directory. */
export async function allSetAside(cluster: Cluster, document: TopologyDocument | null): Promise<readonly SetAside[]> {
  const paths = statePaths(cluster.run.state);
  const names = new Set([
    ...cluster.run.transports.map(({ name }) => name),
    ...(document?.members ?? []).map(({ name }) => name),
    ...(document?.retired ?? []).map(({ member }) => member),
  ]);
  return (await Promise.all([...names].sort().map((name) => setAside(paths.queue(name), name)))).flat();
}

export function whatToDoAbout(volume: SetAside): string {
  const where = `${volume.directory} (${volume.why}${volume.at === null ? '' : `, ${volume.at}`})`;
  switch (volume.reason) {
    case 'drained':
      return `${volume.member}: ${where}: nothing is missing; remove it when you like`;
    case 'lost':
      return `${volume.member}: ${where}: its messages were taken over; compare with "mailcluster message lost", read what is in it with "mailcluster store export ${volume.directory} --all OUT", then remove it`;
    case 'fenced':
      return `${volume.member}: ${where}: it was an old or foreign copy of the queue database and is not used; read what is in it with "mailcluster store export ${volume.directory} --all OUT", then remove it`;
  }
}

async function list(args: readonly string[], context: CommandContext): Promise<number> {
  const { common } = parse(args, context, {}, [0, 0]);
  const cluster = await openCluster(common.state);
  const document = await readTopology(cluster.run.topologyFile);
  const [rows, volumes] = await Promise.all([rowsOf(cluster, document), allSetAside(cluster, document)]);
  const { out } = context.output;
  if (common.format === 'json') {
    const members = rows.map((row) => ({
      ...row.member,
      identity: row.identity,
      drain: statusOf(row.asked)?.drain ?? null,
      problem: row.asked?.kind === 'unreachable' ? row.asked.reason : null,
    }));
    out(json({ generation: document.generation, members, retired: document.retired, setAside: volumes }));
    return 0;
  }
  out(
    table<Row>(
      [
        { title: 'NAME', value: ({ member }) => member.name },
        { title: 'BOUNDARY', value: ({ member }) => member.boundary },
        { title: 'SITE', value: ({ member }) => member.site },
        { title: 'STATE', value: ({ member }) => member.state },
        {
          title: 'ANSWERS',
          value: ({ member, asked }) => (member.state === 'gone' ? null : statusOf(asked) === null ? 'no' : 'yes'),
        },
        { title: 'DRAIN', value: progress },
        { title: 'QUEUE DATABASE', value: ({ identity }) => identity },
      ],
      rows,
    ),
  );
  if (document.retired.length > 0) {
    out('\nRetired queue databases:\n');
    for (const { member, identity, reason } of document.retired) out(`  ${identity} of ${member}: ${reason}\n`);
  }
  if (volumes.length > 0) {
    out('\nSet aside:\n');
    for (const volume of volumes) out(`  ${whatToDoAbout(volume)}\n`);
  }
  return 0;
}

function memberNamed(document: TopologyDocument, name: string): MemberConfig | string {
  const names = document.members.map((one) => one.name).join(', ');
  return document.members.find((one) => one.name === name) ?? `There is no member ${name}; there are ${names}.`;
}

async function drain(args: readonly string[], context: CommandContext): Promise<number> {
  const options = { cancel: { type: 'boolean' }, wait: { type: 'boolean' }, timeout: { type: 'string' } } as const;
  const parsed = parse(args, context, options, [1, 1]);
  const name = parsed.positionals[0] ?? '';
  const isCancel = parsed.values.cancel === true;
  if (isCancel && parsed.values.wait === true) throw new UsageError('--cancel has nothing to wait for');
  const timeoutMs = timeoutOption(parsed);
  const cluster = await openCluster(parsed.common.state);
  const document = await readTopology(cluster.run.topologyFile);
  const { out, err } = context.output;
  const member = memberNamed(document, name);
  if (typeof member === 'string') {
    err(`${member}\n`);
    return 1;
  }
  if (isCancel && member.state === 'active') {
    out(`${name} is active; there is nothing to cancel.\n`);
    return 0;
  }
  const refusal = isCancel || member.state !== 'active' ? null : drainRefusal(document, name);
  if (refusal !== null) {
    err(`Refused: ${refusal}.\n`);
    return 1;
  }
  if (isCancel || member.state === 'active') {
    const order = { kind: 'member', id: newId(), atMs: context.nowMs(), member: name } as const;
    if (!(await give({ ...order, state: isCancel ? 'active' : 'draining' }, cluster, context))) return 1;
  }
  if (isCancel) {
    const back =
      member.state === 'gone'
        ? `${name} is a member again: its process starts with an empty queue database, the old one is set aside.`
        : `${name} takes messages again and keeps what it still has; what was handed over stays where it is.`;
    out(`${back}\n`);
    return 0;
  }
  if (member.state === 'gone') out(`${name} is gone already.\n`);
  else
    out(
      `${name} is draining: it takes nothing new, hands its messages over and moves its shadow copies and Safety Net to other members; nothing is on fewer copies meanwhile. When it has proved that it is empty its process ends and the member is gone.\nWatch it with "mailcluster member list"; ${cancelHint(name)}.\n`,
    );
  return parsed.values.wait === true ? await waitUntilGone(cluster, name, timeoutMs, context) : 0;
}

async function lookAt(cluster: Cluster, name: string): Promise<Look> {
  const document = await readTopology(cluster.run.topologyFile);
  const member = document.members.find((one) => one.name === name);
  if (member === undefined || member.state === 'gone') {
    const text = `${name} is gone: it was empty and its process has ended. You may lower the replicas now.`;
    return { kind: 'over', code: 0, text };
  }
  if (member.state === 'active')
    return { kind: 'over', code: WAIT_EXIT.cancelled, text: `The drain of ${name} was cancelled.` };
  const transport = cluster.run.transports.find((one) => one.name === name);
  const asked = transport === undefined ? null : await cluster.ask<StatusAnswer>(transport, '/v1/status');
  const text =
    asked?.kind === 'unreachable' ? `does not answer: ${asked.reason}` : progress({ member, asked, identity: null });
  return { kind: 'going', text };
}

const cancelHint = (name: string): string => `"mailcluster member drain ${name} --cancel" ends it at any time`;

function waitUntilGone(
  cluster: Cluster,
  name: string,
  timeoutMs: number | null,
  context: CommandContext,
): Promise<number> {
  const goesOn = `The drain of ${name} goes on; watch it with "mailcluster member list", ${cancelHint(name)}.`;
  return waitUntil({ what: name, goesOn, timeoutMs, look: () => lookAt(cluster, name) }, context);
}

/** The newest queue database of a member by its own word, by the runner's record, or by what the others last saw of it. */
async function identityOf(
  cluster: Cluster,
  name: string,
  asked: readonly Asked<StatusAnswer>[],
): Promise<Identity | null> {
  const own = statusOf(asked.find((one) => one.member === name) ?? null)?.identity;
  if (isIdentity(own)) return own;
  const known = (await knownIdentities(statePaths(cluster.run.state), name)).at(-1)?.identity;
  if (known !== undefined) return known;
  const seen = gather(asked).answers.flatMap(({ value }) =>
    value.peers.flatMap((peer) => (peer.member === name && isIdentity(peer.identity) ? [peer.identity] : [])),
  );
  return seen[0] ?? null;
}

function healthy(name: string, status: StatusAnswer): string {
  const own = ['submission', 'delivery', 'unreachable', 'poison'].reduce(
    (sum, queue) => sum + (status.queues[queue]?.messages ?? 0),
    0,
  );
  const alone =
    status.unprotected === null
      ? 'how many of them are on no other member is not known'
      : `${status.unprotected} of them ${status.unprotected === 1 ? 'is' : 'are'} on no other member and would be lost`;
  return `${name} is healthy: it answers with queue database ${status.identity} and holds ${count(own, 'message')} in transit (${alone}).
To take it for lost ends its process, sets its queue directory aside and lets the shadow copies be delivered by others, which may deliver some a second time. To take it out of service use "mailcluster member drain ${name}". If its disk is really not to be trusted, say "mailcluster member lost ${name} --force".
`;
}

async function lost(args: readonly string[], context: CommandContext): Promise<number> {
  const parsed = parse(args, context, { force: { type: 'boolean' } }, [1, 1]);
  const name = parsed.positionals[0] ?? '';
  const cluster = await openCluster(parsed.common.state);
  const document = await readTopology(cluster.run.topologyFile);
  const { out, err } = context.output;
  const member = memberNamed(document, name);
  if (typeof member === 'string') {
    err(`${member}\n`);
    return 1;
  }
  const asked = await cluster.askAll<StatusAnswer>('/v1/status');
  const status = statusOf(asked.find((one) => one.member === name) ?? null);
  if (status !== null && parsed.values.force !== true) {
    err(healthy(name, status));
    return 1;
  }
  const identity = await identityOf(cluster, name, asked);
  if (identity === null) {
    err(
      `No queue database of ${name} was ever seen, by the runner or by a member that answers: there is nothing to take over.\n`,
    );
    return 1;
  }
  if (document.retired.some((one) => one.identity === identity)) {
    out(`Queue database ${identity} of ${name} is retired already; it was taken over.\n`);
    return 0;
  }
  const why = status === null ? 'it does not answer' : 'forced';
  const order = { kind: 'lost', id: newId(), atMs: context.nowMs(), member: name, identity, why } as const;
  if (!(await give(order, cluster, context))) return 1;
  const others = document.members.filter(({ boundary, name: other }) => boundary === member.boundary && other !== name);
  const there = others.filter((one) => asked.some((answer) => answer.member === one.name && answer.kind === 'answer'));
  out(
    `Queue database ${identity} of ${name} is lost. Its process is ended, its queue directory is set aside as queue.lost-N beside it (never deleted), and ${name} starts with an empty one.\n`,
  );
  out(
    there.length > 0
      ? `Next: ${there.map((one) => one.name).join(', ')} take over within a minute what they hold a shadow copy of, and give it a new one. "mailcluster status" shows it, "mailcluster message lost" lists what nobody has.\n`
      : `No other member of ${member.boundary} answers: nobody can take over now. Those that come back will. "mailcluster message lost" lists what nobody has.\n`,
  );
  return 0;
}

export const memberCommand: Command = {
  summary: 'list transports, take one out of service, or say that one is lost',
  help: `Usage: mailcluster member list [--state DIR] [-o json]
       mailcluster member drain NAME [--wait [--timeout DURATION]] [--state DIR]
       mailcluster member drain NAME --cancel [--state DIR]
       mailcluster member lost NAME [--force] [--state DIR]

list    state, progress of drains, queue databases, retired ones, directories set aside.
drain   NAME takes nothing new, hands over everything it has, and its process ends when it has proved that it is empty. Refused for the
        last active member of a boundary. --cancel makes it active again at any step, also when it is gone.
lost    the disk or the process of NAME will not come back: the others take over at once instead of after resubmitTimeSpan. The queue
        directory is set aside, never deleted, and NAME starts with an empty one. Refused while NAME answers, unless --force.

  --wait                 return when the member is gone; says how far it is
${WAIT_HELP}
  --force                also when the member answers
${COMMON_HELP}

Examples:
  mailcluster member list
  mailcluster member drain contoso-dag1-seattle-4d5e6f-1 --wait
  mailcluster member lost contoso-dag1-seattle-4d5e6f-0`,
  run: (args, context) => {
    const [what, ...rest] = args;
    if (what === 'list') return list(rest, context);
    if (what === 'drain') return drain(rest, context);
    if (what === 'lost') return lost(rest, context);
    throw new UsageError('say "member list", "member drain NAME" or "member lost NAME"');
  },
};
