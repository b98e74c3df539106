/**
 * `mailcluster safety-net`: what rests in the Safety Nets. Reads only. Promise: every list is a walk over pages, one per member at a time; no
 * more than a page per member is ever held, here or there. A member that stops answering ends its part and is named.
 */

import type { Asked } from '../admin-client.ts';
import { gather } from '../local/cluster.ts';
import type { MessageDetailAnswer, SafetyNetAnswer, SafetyNetCountAnswer, SafetyNetPageAnswer } from './answers.ts';
import {
  COMMON_HELP,
  type Command,
  type CommandContext,
  openMembers,
  parse,
  query,
  text,
  timeOption,
  UsageError,
  warnUnreachable,
  wholeNumber,
} from './command.ts';
import { renderCopy } from './message-detail.ts';
import { json, jsonLine, size, table, time } from './output.ts';
import type { MemberName, Members } from './place.ts';

const DEFAULT_LIMIT = 100;
const MAX_LIMIT = 10_000_000;
const PAGE = 1_000;

type Unreachable = { readonly member: string; readonly reason: string }[];
type Entry = SafetyNetAnswer & { readonly member: string };

interface Filter {
  readonly parameters: Readonly<Record<string, string | number | null>>;
  readonly members: readonly MemberName[];
}

const one = { type: 'string' } as const;
const FILTERS = { role: one, database: one, sender: one, recipient: one, from: one, to: one, member: one };

function parametersOf(parsed: ReturnType<typeof parse>): Filter['parameters'] {
  const role = text(parsed, 'role');
  if (role !== null && role !== 'primary' && role !== 'shadow') throw new UsageError('--role: primary or shadow');
  const [from, to] = [timeOption(parsed, 'from'), timeOption(parsed, 'to')];
  if (from !== null && to !== null && to < from)
    throw new UsageError('--to is before --from; swap them or correct one');
  const sender = text(parsed, 'sender');
  return { role, database: text(parsed, 'database'), sender, recipient: text(parsed, 'recipient'), from, to };
}

async function openFiltered(
  parsed: ReturnType<typeof parse>,
  context: CommandContext,
): Promise<{ readonly cluster: Members; readonly filter: Filter }> {
  const parameters = parametersOf(parsed);
  const cluster = await openMembers(parsed, context);
  const member = text(parsed, 'member');
  const members = cluster.members.filter(({ name }) => member === null || name === member);
  if (members.length === 0)
    throw new UsageError(
      `--member: there is no ${member}; there are ${cluster.members.map(({ name }) => name).join(', ')}`,
    );
  return { cluster, filter: { parameters, members } };
}

/** Page by page, as long as somebody reads on. */
async function* entriesOf(
  cluster: Members,
  transport: MemberName,
  { parameters }: Filter,
  pageSize: number,
  unreachable: Unreachable,
): AsyncGenerator<Entry> {
  let after: string | null = null;
  do {
    const path: string = `/v1/safety-net${query({ ...parameters, after, limit: pageSize })}`;
    const asked: Asked<SafetyNetPageAnswer> = await cluster.ask<SafetyNetPageAnswer>(transport, path);
    if (asked.kind !== 'answer') {
      unreachable.push({ member: transport.name, reason: asked.kind === 'absent' ? 'no Safety Net' : asked.reason });
      return;
    }
    for (const entry of asked.value.entries) yield { member: transport.name, ...entry };
    after = asked.value.next;
  } while (after !== null);
}

async function countOf(
  cluster: Members,
  transport: MemberName,
  { parameters }: Filter,
  unreachable: Unreachable,
): Promise<Omit<SafetyNetCountAnswer, 'next'> & { readonly member: string }> {
  const sums = { primary: { messages: 0, bytes: 0 }, shadow: { messages: 0, bytes: 0 } };
  let unreadable = 0;
  let after: string | null = null;
  do {
    const path: string = `/v1/safety-net/count${query({ ...parameters, after })}`;
    const asked: Asked<SafetyNetCountAnswer> = await cluster.ask<SafetyNetCountAnswer>(transport, path);
    if (asked.kind !== 'answer') {
      unreachable.push({ member: transport.name, reason: asked.kind === 'absent' ? 'no Safety Net' : asked.reason });
      break;
    }
    for (const role of ['primary', 'shadow'] as const) {
      sums[role].messages += asked.value[role].messages;
      sums[role].bytes += asked.value[role].bytes;
    }
    unreadable += asked.value.unreadable;
    after = asked.value.next;
  } while (after !== null);
  return { member: transport.name, ...sums, unreadable };
}

async function count(args: readonly string[], context: CommandContext): Promise<number> {
  const parsed = parse(args, context, FILTERS, [0, 0]);
  const { cluster, filter } = await openFiltered(parsed, context);
  const unreachable: Unreachable = [];
  const counts = await Promise.all(filter.members.map((member) => countOf(cluster, member, filter, unreachable)));
  const { out } = context.output;
  if (parsed.common.format === 'json') out(json({ counts, unreachable }));
  else
    out(
      table<(typeof counts)[number]>(
        [
          { title: 'TRANSPORT', value: (row) => row.member },
          { title: 'PRIMARY', value: (row) => row.primary.messages, right: true },
          { title: 'SIZE', value: (row) => size(row.primary.bytes), right: true },
          { title: 'SHADOW', value: (row) => row.shadow.messages, right: true },
          { title: 'SIZE', value: (row) => size(row.shadow.bytes), right: true },
          { title: 'DAMAGED', value: (row) => row.unreadable, right: true },
        ],
        counts,
      ),
    );
  warnUnreachable(context.output, unreachable);
  return unreachable.length === 0 ? 0 : 1;
}

const COLUMNS = [
  { title: 'ID', value: (row: Entry) => row.id },
  { title: 'TRANSPORT', value: (row: Entry) => row.member },
  { title: 'ROLE', value: (row: Entry) => row.role },
  { title: 'DATABASES', value: (row: Entry) => row.databases.join(', ') },
  { title: 'FINAL (UTC)', value: (row: Entry) => time(row.finalAtMs) },
  { title: 'SIZE', value: (row: Entry) => size(row.sizeBytes), right: true },
];

/** Each page is printed before the next is asked for. */
async function list(args: readonly string[], context: CommandContext): Promise<number> {
  const parsed = parse(args, context, { ...FILTERS, limit: one }, [0, 0]);
  const limit = wholeNumber(parsed, 'limit', DEFAULT_LIMIT, MAX_LIMIT);
  const { cluster, filter } = await openFiltered(parsed, context);
  const unreachable: Unreachable = [];
  const { out } = context.output;
  const isJson = parsed.common.format === 'json';
  let [printed, more] = [0, false];
  let page: Entry[] = [];
  const print = (): void => {
    if (page.length === 0) return;
    if (isJson) out(page.map(jsonLine).join(''));
    else {
      const text = table(COLUMNS, page);
      out(printed === 0 ? text : text.slice(text.indexOf('\n') + 1));
    }
    printed += page.length;
    page = [];
  };
  for (const member of filter.members) {
    let shown = 0;
    for await (const entry of entriesOf(cluster, member, filter, Math.min(limit + 1, PAGE), unreachable)) {
      if (shown === limit) {
        more = true;
        break;
      }
      shown += 1;
      if (page.push(entry) === PAGE) print();
    }
  }
  print();
  if (!isJson && printed === 0) out('Nothing in the Safety Nets matches.\n');
  if (!isJson && more) out(`Only the first ${limit} of each transport; --limit shows more.\n`);
  warnUnreachable(context.output, unreachable);
  return unreachable.length === 0 ? 0 : 1;
}

async function show(args: readonly string[], context: CommandContext): Promise<number> {
  const parsed = parse(args, context, {}, [1, 1]);
  const { common, positionals } = parsed;
  const id = positionals[0] ?? '';
  const cluster = await openMembers(parsed, context);
  const found = gather(await cluster.askAll<MessageDetailAnswer>(`/v1/messages/${encodeURIComponent(id)}`));
  const resting = found.answers.filter(({ value }) => value.state.queue.endsWith('SafetyNet'));
  const { out, err } = context.output;
  if (common.format === 'json') {
    const copies = resting.map(({ member, value }) => ({ member, ...value }));
    out(json({ id, copies, unreachable: found.unreachable }));
  } else out(resting.map(({ member, value }) => renderCopy(member, value, id)).join('\n'));
  warnUnreachable(context.output, found.unreachable);
  if (resting.length > 0) return 0;
  const elsewhere = found.answers.map(({ member, value }) => `${value.state.queue}@${member}`).join(', ');
  err(
    elsewhere === ''
      ? `No Safety Net that answered holds ${id}; "${context.place.program} trace ${id}" may know what became of it.\n`
      : `${id} rests in no Safety Net, it is still in transit: ${elsewhere}.\n`,
  );
  return 1;
}

export const safetyNetCommand: Command = {
  summary: 'what rests in Primary and Shadow Safety Net',
  help: `Usage: mailcluster safety-net list [FILTER]... [--limit N] [--state DIR] [-o json]
       mailcluster safety-net count [FILTER]... [--state DIR] [-o json]
       mailcluster safety-net show ID [--state DIR] [-o json]

FILTER: --role primary|shadow, --database NAME, --sender ADDRESS, --recipient ADDRESS, --member NAME, --from TIME, --to TIME (when the
last recipient became final; a time, UTC where no zone is named, or milliseconds since 1970). "list -o json" prints one JSON object per line. Filters by sender and
recipient read the copies themselves and take longer. Exit code 1 when a transport did not answer, or "show" found nothing.

  --limit N          at most N entries of each transport (default 100)
${COMMON_HELP}

Examples:
  mailcluster safety-net count --database db01
  mailcluster safety-net list --role shadow --from 2026-01-02T03:00:00Z --limit 1000
  mailcluster safety-net show 01JABCDEFGHJKMNPQRSTVWXYZ0`,
  run: (args, context) => {
    const [what, ...rest] = args;
    if (what === 'list') return list(rest, context);
    if (what === 'count') return count(rest, context);
    if (what === 'show') return show(rest, context);
    throw new UsageError('say "safety-net list", "safety-net count" or "safety-net show ID"');
  },
};
