/** `mailcluster message`, `safety-net` and `trace`: single messages over all members, both copies side by side. Reads only. */

import { type Cluster, gather, openCluster } from '../local/cluster.ts';
import type { MessageAnswer, MessageDetailAnswer, SafetyNetAnswer, StatusAnswer, TraceAnswer } from './answers.ts';
import {
  COMMON_HELP,
  type Command,
  type CommandContext,
  parse,
  text,
  UsageError,
  warnUnreachable,
  wholeNumber,
} from './command.ts';
import { count, duration, json, size, table, time } from './output.ts';
import { renderTimeline, timeline } from './timeline.ts';

const DEFAULT_LIMIT = 100;
const MAX_LIMIT = 1_000;

function query(parameters: Readonly<Record<string, string | number | null>>): string {
  const set = Object.entries(parameters).filter((entry): entry is [string, string | number] => entry[1] !== null);
  return set.length === 0
    ? ''
    : `?${new URLSearchParams(Object.fromEntries(set.map(([name, value]) => [name, String(value)]))).toString()}`;
}

export interface Holding extends MessageAnswer {
  readonly member: string;
}

/** The copies of one message, the primary first. */
export function groupById(copies: readonly Holding[]): readonly (readonly Holding[])[] {
  const groups = Map.groupBy(copies, (copy) => copy.id);
  return [...groups.values()]
    .map((group) => group.sort((a, b) => (a.role === b.role ? 0 : a.role === 'primary' ? -1 : 1)))
    .sort((a, b) => ((a[0]?.id ?? '') < (b[0]?.id ?? '') ? -1 : 1));
}

async function listMessages(args: readonly string[], context: CommandContext): Promise<number> {
  const parsed = parse(args, context, { queue: { type: 'string' }, limit: { type: 'string' } }, [0, 0]);
  const limit = wholeNumber(parsed, 'limit', DEFAULT_LIMIT, MAX_LIMIT);
  const cluster = await openCluster(parsed.common.state);
  const path = `/v1/messages${query({ queue: text(parsed, 'queue'), limit })}`;
  const { answers, unreachable } = gather(await cluster.askAll<{ messages: readonly MessageAnswer[] }>(path));
  const groups = groupById(
    answers.flatMap(({ member, value }) => value.messages.map((one) => ({ ...one, member }))),
  ).slice(0, limit);
  const nowMs = context.nowMs();
  const { out } = context.output;
  if (parsed.common.format === 'json') {
    out(json({ messages: groups.map((copies) => ({ id: copies[0]?.id, copies })), unreachable }));
  } else if (groups.length === 0) out('No messages.\n');
  else {
    out(
      table(
        [
          { title: 'ID', value: (copies) => copies[0]?.id ?? null },
          { title: 'COPIES', value: (copies) => copies.map((one) => `${one.queue}@${one.member}`).join(', ') },
          { title: 'FROM', value: (copies) => copies[0]?.from || '<>' },
          { title: 'TO', value: (copies) => recipientsInShort(copies[0]?.recipients.map((one) => one.address) ?? []) },
          { title: 'SIZE', value: (copies) => size(copies[0]?.sizeBytes ?? 0), right: true },
          { title: 'AGE', value: (copies) => duration(nowMs - (copies[0]?.acceptedAtMs ?? nowMs)), right: true },
        ],
        groups,
      ),
    );
    const most = Math.max(0, ...answers.map(({ value }) => value.messages.length));
    if (most >= limit) out(`Only the first ${limit}; --limit shows more.\n`);
  }
  warnUnreachable(context.output, unreachable);
  return 0;
}

function recipientsInShort(addresses: readonly string[]): string {
  return addresses.length <= 1 ? (addresses[0] ?? '') : `${addresses[0]} +${addresses.length - 1}`;
}

function renderCopy(member: string, { facts, state }: MessageDetailAnswer): string {
  const { envelope } = facts;
  const holders = state.placements.map((one) => `${one.member} (${one.status})`).join(', ');
  const lines = [
    `Copy on ${member}: ${state.queue}`,
    `  from       <${envelope.reversePath}>`,
    `  size       ${size(facts.sizeBytes)} (${facts.sizeBytes} bytes), SHA-256 ${facts.digest}`,
    `  accepted   ${time(facts.acceptedAtMs)} UTC by ${envelope.frontend}/${envelope.listener} from ${envelope.client.address}`,
    `  epoch      try ${state.epoch.try}, term ${state.epoch.term}, owner ${state.epoch.owner}`,
    `  holders    ${holders || 'none'}`,
    ...(state.unprotected === null ? [] : [`  one copy   ${state.unprotected}`]),
    ...(state.finalAtMs === null ? [] : [`  final      ${time(state.finalAtMs)} UTC`]),
  ];
  interface Row {
    readonly address: string;
    readonly outcome: string;
    readonly where: string | null;
    readonly reply: string | null;
  }
  const recipients: readonly Row[] =
    state.recipients?.map((one) => {
      return { ...one, where: one.database ?? one.connector ?? null, reply: one.reply ?? null };
    }) ??
    envelope.recipients.map(({ address }) => ({ address, outcome: 'not yet resolved', where: null, reply: null }));
  const rows = table(
    [
      { title: '  RECIPIENT', value: (row) => `  ${row.address}` },
      { title: 'OUTCOME', value: (row) => row.outcome },
      { title: 'WHERE', value: (row) => row.where },
      { title: 'REPLY', value: (row) => row.reply },
    ],
    recipients,
  );
  return `${lines.map((line) => `${line}\n`).join('')}${rows}`;
}

async function findCopies(cluster: Cluster, id: string): Promise<ReturnType<typeof gather<MessageDetailAnswer>>> {
  return gather(await cluster.askAll<MessageDetailAnswer>(`/v1/messages/${encodeURIComponent(id)}`));
}

async function showMessage(args: readonly string[], context: CommandContext): Promise<number> {
  const { common, positionals } = parse(args, context, {}, [1, 1]);
  const id = positionals[0] ?? '';
  const { answers, unreachable } = await findCopies(await openCluster(common.state), id);
  const { out, err } = context.output;
  if (common.format === 'json') {
    out(json({ id, copies: answers.map(({ member, value }) => ({ member, ...value })), unreachable }));
  } else out(answers.map(({ member, value }) => renderCopy(member, value)).join('\n'));
  warnUnreachable(context.output, unreachable);
  if (answers.length > 0) return 0;
  err(`No transport that answered holds ${id}; "mailcluster trace ${id}" may know what became of it.\n`);
  return 1;
}

export const messageCommand: Command = {
  summary: 'list messages, or show one with all its copies',
  help: `Usage: mailcluster message list [--queue QUEUE] [--limit N] [--state DIR] [-o json]
       mailcluster message show ID [--state DIR] [-o json]

QUEUE: submission, delivery, unreachable, poison, shadow. ID is the id of the 250 reply.
"show" exits with 1 when no transport holds the message.

  --queue QUEUE      only this queue
  --limit N          at most N messages (default 100, at most 1000)
${COMMON_HELP}

Examples:
  mailcluster message list --queue shadow
  mailcluster message show 01JABCDEFGHJKMNPQRSTVWXYZ0`,
  run: (args, context) => {
    const [what, ...rest] = args;
    if (what === 'list') return listMessages(rest, context);
    if (what === 'show') return showMessage(rest, context);
    throw new UsageError('say "message list" or "message show ID"');
  },
};

export const safetyNetCommand: Command = {
  summary: 'what rests in Primary and Shadow Safety Net',
  help: `Usage: mailcluster safety-net [--role primary|shadow] [--database NAME] [--from TIME] [--to TIME] [--limit N]

Counts per transport, then the entries, oldest first. TIME is ISO 8601 or milliseconds since 1970.

  --limit N          at most N entries per transport (default 100, at most 1000)
${COMMON_HELP}

Examples:
  mailcluster safety-net
  mailcluster safety-net --role shadow --database db01 --from 2026-01-02T03:00:00Z`,
  run: async (args, context) => {
    const options = { role: { type: 'string' }, database: { type: 'string' }, from: { type: 'string' } } as const;
    const parsed = parse(args, context, { ...options, to: { type: 'string' }, limit: { type: 'string' } }, [0, 0]);
    const role = text(parsed, 'role');
    if (role !== null && role !== 'primary' && role !== 'shadow') throw new UsageError('--role: primary or shadow');
    for (const name of ['from', 'to']) {
      const value = text(parsed, name);
      if (value !== null && !/^\d+$/.test(value) && Number.isNaN(Date.parse(value))) {
        throw new UsageError(`--${name}: an ISO 8601 time or milliseconds since 1970, not ${value}`);
      }
    }
    const limit = wholeNumber(parsed, 'limit', DEFAULT_LIMIT, MAX_LIMIT);
    const path = `/v1/safety-net${query({ role, database: text(parsed, 'database'), from: text(parsed, 'from'), to: text(parsed, 'to'), limit })}`;
    const cluster = await openCluster(parsed.common.state);
    const [statuses, lists] = await Promise.all([
      cluster.askAll<StatusAnswer>('/v1/status').then(gather<StatusAnswer>),
      cluster
        .askAll<{ entries: readonly SafetyNetAnswer[] }>(path)
        .then(gather<{ entries: readonly SafetyNetAnswer[] }>),
    ]);
    const counts = statuses.answers.map(({ member, value }) => ({ member, ...value.safetyNet }));
    const entries = lists.answers
      .flatMap(({ member, value }) => value.entries.map((entry) => ({ member, ...entry })))
      .sort((a, b) => a.finalAtMs - b.finalAtMs);
    const { out } = context.output;
    if (parsed.common.format === 'json') {
      out(json({ counts, entries, unreachable: lists.unreachable }));
      return 0;
    }
    out(
      table(
        [
          { title: 'TRANSPORT', value: (row) => row.member },
          { title: 'PRIMARY', value: (row) => row.primary.messages, right: true },
          { title: 'SIZE', value: (row) => size(row.primary.bytes), right: true },
          { title: 'SHADOW', value: (row) => row.shadow.messages, right: true },
          { title: 'SIZE', value: (row) => size(row.shadow.bytes), right: true },
          { title: 'OLDEST (UTC)', value: (row) => (row.oldestMs === null ? null : time(row.oldestMs)) },
        ],
        counts,
      ),
    );
    if (entries.length > 0) {
      out('\n');
      out(
        table(
          [
            { title: 'ID', value: (row) => row.id },
            { title: 'TRANSPORT', value: (row) => row.member },
            { title: 'ROLE', value: (row) => row.role },
            { title: 'DATABASES', value: (row) => row.databases.join(', ') },
            { title: 'FINAL (UTC)', value: (row) => time(row.finalAtMs) },
            { title: 'SIZE', value: (row) => size(row.sizeBytes), right: true },
          ],
          entries,
        ),
      );
    }
    warnUnreachable(context.output, lists.unreachable);
    return 0;
  },
};

export const traceCommand: Command = {
  summary: 'one timeline of a message across front end, primary, shadow and store',
  help: `Usage: mailcluster trace ID [--state DIR] [-o json]

ID is the id of the 250 reply, or a Message-ID (with or without angle brackets). Exit code 1 when nobody knows it.

${COMMON_HELP}

Examples:
  mailcluster trace 01JABCDEFGHJKMNPQRSTVWXYZ0
  mailcluster trace '<4711@example.org>' -o json`,
  run: async (args, context) => {
    const { common, positionals } = parse(args, context, {}, [1, 1]);
    const cluster = await openCluster(common.state);
    const found = await traceMessage(cluster, positionals[0] ?? '');
    const { out, err } = context.output;
    if (common.format === 'json') out(json(found));
    else if (found.events.length > 0) {
      out(renderTimeline(found.events));
      const holders = found.copies.map((copy) => `${copy.state.queue}@${copy.member}`);
      out(`\n${holders.length === 0 ? 'No copy is held any more' : `Held now: ${holders.join(', ')}`}.\n`);
    }
    warnUnreachable(context.output, found.unreachable);
    if (found.events.length > 0) return 0;
    err(
      `Nothing is known about ${positionals[0]} (${count(cluster.run.transports.length - found.unreachable.length, 'transport')} asked).\n`,
    );
    return 1;
  },
};

export async function traceMessage(cluster: Cluster, id: string) {
  // A Message-ID is recorded as it stands in the header, with its brackets.
  const wanted = id.includes('@') && !id.startsWith('<') ? [id, `<${id}>`] : [id];
  const asked = await Promise.all(
    wanted.map((one) => cluster.askAll<{ records: readonly TraceAnswer[] }>(`/v1/trace${query({ id: one })}`)),
  );
  const { answers, unreachable } = gather(asked.flat());
  const traces = answers.map(({ value }) => value.records);
  // Members that only know the attempt id (a shadow does not read headers) are asked again with it.
  const attempts = new Set([id, ...traces.flat().map((one) => one.attemptId)].filter((one) => !one.includes('@')));
  const more = await Promise.all(
    [...attempts]
      .filter((one) => one !== id)
      .map((one) => cluster.askAll<{ records: readonly TraceAnswer[] }>(`/v1/trace${query({ id: one })}`)),
  );
  const copies = (await Promise.all([...attempts].map((one) => findCopies(cluster, one)))).flatMap((one) =>
    one.answers.map(({ member, value }) => ({ member, ...value })),
  );
  const all = [...traces, ...gather(more.flat()).answers.map(({ value }) => value.records)];
  const silent = new Map(unreachable.map((one) => [one.member, one]));
  return { id, events: timeline(all, copies), copies, unreachable: [...silent.values()] };
}
