/**
 * `kubectl mailcluster status`: what the operator says about a MailCluster beside what its members say themselves. Owns: the words. Reads only.
 * Promise: members that do not answer are named, the others are shown; without a right to ask members the operator's word is shown.
 * Exit 1 when something needs attention.
 */
import type { Asked } from '../admin-client.ts';
import { MAIL_CLUSTER } from '../kube/kinds.ts';
import { NoCluster } from '../local/cluster.ts';
import type { MessageAnswer, StatusAnswer } from './answers.ts';
import { COMMON_HELP, type Command, type CommandContext, parse, query, UsageError } from './command.ts';
import { chosen, findCluster, listAll, type MailClusterObject, openKube } from './kube-access.ts';
import { type KubeMember, type KubeMembers, reach } from './kube-place.ts';
import { type Column, count, duration, json, printable, table } from './output.ts';
import { problemsOf, TRANSPORTS, unreachableNotices } from './status.ts';

interface Row {
  readonly member: KubeMember & { readonly pid: null };
  readonly asked: Asked<StatusAnswer>;
  /** By which members its messages in transit are shadowed; null: not known. */
  readonly shadows: ReadonlyMap<string, number> | null;
  readonly state: string | null;
}

/** Of every queue at most: the counts of more are those of the first. */
const MOST = 1_000;
const SHADOWED = ['submission', 'delivery', 'unreachable'] as const;
/** A copy that was asked for and is there (transport/store/database.ts PlacementStatus). */
const HELD = 'confirmed';

const conditionOf = ({ status }: MailClusterObject, type: string) =>
  status?.conditions?.find((one) => one.type === type);

function overview(clusters: readonly MailClusterObject[], nowMs: number): string {
  return table<MailClusterObject>(
    [
      { title: 'NAMESPACE', value: ({ metadata }) => metadata.namespace ?? null },
      { title: 'NAME', value: ({ metadata }) => metadata.name },
      { title: 'READY', value: (one) => conditionOf(one, 'Ready')?.status ?? 'Unknown' },
      { title: 'MEMBERS', value: ({ status }) => status?.membersReady ?? null },
      { title: 'QUEUED', value: ({ status }) => status?.counts?.queued ?? null, right: true },
      { title: 'UNPROTECTED', value: ({ status }) => status?.counts?.unprotected ?? 'unknown', right: true },
      {
        title: 'OLDEST',
        value: ({ status }) =>
          status?.oldestMessageTime === undefined ? null : duration(nowMs - Date.parse(status.oldestMessageTime)),
        right: true,
      },
      { title: 'REASON', value: (one) => conditionOf(one, 'Ready')?.reason ?? null },
    ],
    clusters,
  );
}

/** Who holds the other copy of what a member has in transit. */
async function shadowsOf(members: KubeMembers, member: KubeMember): Promise<ReadonlyMap<string, number> | null> {
  const pages = await Promise.all(
    SHADOWED.map((queue) =>
      members.ask<{ messages: readonly MessageAnswer[] }>(member, `/v1/messages${query({ queue, limit: MOST })}`),
    ),
  );
  const counts = new Map<string, number>();
  for (const page of pages) {
    if (page.kind !== 'answer') return null;
    for (const { holders } of page.value.messages)
      for (const holder of holders)
        if (holder.status === HELD) counts.set(holder.member, (counts.get(holder.member) ?? 0) + 1);
  }
  return counts;
}

const COLUMNS: readonly Column<Row>[] = [
  ...TRANSPORTS.filter(({ title }) => !['PID', 'IDENTITY', 'SCRUB'].includes(title)).map(
    (column): Column<Row> => ({ ...column, value: (row) => column.value(row) }),
  ),
  { title: 'OPERATOR SAYS', value: ({ state }) => state },
  {
    title: 'SHADOWED BY',
    value: ({ shadows }) => [...(shadows ?? [])].map(([name, many]) => `${name}:${many}`).join(' '),
  },
];
const WIDE: readonly Column<Row>[] = [
  { title: 'NODE', value: ({ member }) => member.pod?.spec?.nodeName ?? null },
  { title: 'POD', value: ({ member }) => member.notRunning ?? 'Running' },
  ...TRANSPORTS.filter(({ title }) => ['SCRUB', 'IDENTITY'].includes(title)),
];

type Condition = NonNullable<NonNullable<MailClusterObject['status']>['conditions']>[number];
/** Conditions that are False at rest; the others are True. They are somebody's wish, so nothing is wrong while they are not. */
const AT_REST_FALSE: ReadonlySet<string> = new Set(['Draining', 'Paused']);
/** True while something is under way, too; False says that it is stuck (`operator/status.ts`). */
const isMoving = ({ type, status, reason }: Condition): boolean =>
  type === 'Progressing' && status === 'True' && reason !== 'Converged';

export function conditionProblems({
  status,
  metadata,
}: Pick<MailClusterObject, 'status' | 'metadata'>): readonly string[] {
  const behind =
    status?.observedGeneration === undefined
      ? ['the operator has not looked at it yet']
      : status.observedGeneration < (metadata.generation ?? 0)
        ? ['the operator has not looked at the latest change yet']
        : [];
  const conditions = status?.conditions ?? [];
  return [
    ...behind,
    ...conditions
      .filter(({ type, status: is }) => is !== 'True' && !AT_REST_FALSE.has(type))
      .map(
        ({ type, status: is, reason, message }) => `${type} is ${is}: ${reason}${message === '' ? '' : `, ${message}`}`,
      ),
  ];
}

export const conditionNotices = ({ status }: Pick<MailClusterObject, 'status'>): readonly string[] =>
  (status?.conditions ?? [])
    .filter((one) => isMoving(one) || (AT_REST_FALSE.has(one.type) && one.status !== 'False'))
    .map(({ type, reason, message }) => `${type}: ${reason}${message === '' ? '' : `, ${message}`}`);

async function rowsOf(members: KubeMembers): Promise<readonly Row[]> {
  const asked = await members.askAll<StatusAnswer>('/v1/status');
  const states = new Map(members.cluster.status?.members?.map(({ name, state }) => [name, state]));
  return await Promise.all(
    members.members.map(async (member, index): Promise<Row> => {
      const own = asked[index] ?? { kind: 'absent', member: member.name };
      const shadows = own.kind === 'answer' ? await shadowsOf(members, member) : null;
      return { member: { ...member, pid: null }, asked: own, shadows, state: states.get(member.name) ?? null };
    }),
  );
}

async function showAll(context: CommandContext, parsed: ReturnType<typeof parse>): Promise<number> {
  const access = await openKube(parsed.values, context);
  context.atEnd(access.close);
  const clusters = await listAll<MailClusterObject>(access, MAIL_CLUSTER, '');
  const { out } = context.output;
  if (parsed.common.format === 'json')
    out(json({ clusters: clusters.map(({ metadata: { namespace, name }, status }) => ({ namespace, name, status })) }));
  else out(clusters.length === 0 ? 'No MailClusters.\n' : overview(clusters, context.nowMs()));
  return clusters.every((one) => conditionOf(one, 'Ready')?.status === 'True') ? 0 : 1;
}

function render(cluster: MailClusterObject, rows: readonly Row[], isWide: boolean): string {
  const { metadata, status } = cluster;
  const ready = conditionOf(cluster, 'Ready');
  const head = `MailCluster ${metadata.namespace}/${metadata.name}, topology generation ${status?.topologyGeneration ?? '-'}, members ${status?.membersReady ?? '-'}, front ends ${status?.frontendsReady ?? '-'}, Ready ${ready?.status ?? 'Unknown'}${ready === undefined ? '' : ` (${ready.reason})`}\n`;
  return `${head}\n${table(isWide ? [...COLUMNS, ...WIDE] : COLUMNS, rows)}`;
}

/** A condition may tell of fifty members. */
const MOST_TEXT = 300;
const shortened = (text: string): string =>
  printable(text.length <= MOST_TEXT ? text : `${text.slice(0, MOST_TEXT)}... (-o json has all of it)`);

export const kubeStatusCommand: Command = {
  summary: 'members, who shadows whom, what is unprotected',
  help: `Usage: mailcluster status [NAME] [--state DIR] [-o wide|json]
       mailcluster status -A [-o json]

Shows every transport: what it says itself (state, queues, unprotected messages, Safety Net, peers, by whom its messages are shadowed) and what
the operator says. UNPROTECTED is "unknown" until every peer has answered once. -A shows one line per MailCluster of all namespaces, by the
operator's word alone. Exit code 1 when something needs attention, or a member did not answer.

  -A, --all-namespaces   every MailCluster
${COMMON_HELP}

Examples:
  mailcluster status
  mailcluster status contoso -n mail -o wide`,
  run: async (args, context) => {
    const parsed = parse(args, context, { 'all-namespaces': { type: 'boolean', short: 'A' } }, [0, 1]);
    const [positional] = parsed.positionals;
    if (parsed.values['all-namespaces'] === true) {
      if (positional !== undefined) throw new UsageError('-A shows all of them; leave out the name');
      return await showAll(context, parsed);
    }
    const access = await openKube(parsed.values, context);
    context.atEnd(access.close);
    const cluster = await findCluster(access, positional ?? chosen(parsed.values));
    let members: KubeMembers;
    try {
      members = await reach(access, cluster, context);
    } catch (error) {
      if (!(error instanceof NoCluster)) throw error;
      // The operator's word is better than nothing.
      context.output.out(overview([cluster], context.nowMs()));
      throw error;
    }
    context.atEnd(members.close);
    const rows = await rowsOf(members);
    const problems = [...conditionProblems(cluster), ...problemsOf(rows, context.nowMs())];
    const notices = [...conditionNotices(cluster), ...unreachableNotices(rows)];
    const { out } = context.output;
    if (parsed.common.format === 'json') {
      const transports = rows.map(({ member: { pid: _, pod, ...member }, asked, shadows, state }) => ({
        ...member,
        ...{ node: pod?.spec?.nodeName ?? null, state, shadowedBy: Object.fromEntries(shadows ?? []) },
        ...(asked.kind === 'answer'
          ? { status: asked.value }
          : { problem: asked.kind === 'absent' ? 'no status' : asked.reason }),
      }));
      const { name, namespace } = cluster.metadata;
      out(json({ cluster: name, namespace, status: cluster.status ?? null, transports, problems, notices }));
      return problems.length === 0 ? 0 : 1;
    }
    out(render(cluster, rows, parsed.common.isWide));
    out(problems.length === 0 ? '\nNo problems found.\n' : `\n${count(problems.length, 'problem')}:\n`);
    for (const problem of problems) out(`  ${shortened(problem)}\n`);
    if (notices.length > 0) out(`\n${count(notices.length, 'notice')}:\n`);
    for (const notice of notices) out(`  ${shortened(notice)}\n`);
    return problems.length === 0 ? 0 : 1;
  },
};
