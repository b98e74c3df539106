/** `mailcluster queue`: delivery queues of every transport, and those in which nothing is sent. Orders are in `queue-order.ts`. Exit 1 when a transport did not answer. */
import { firstQueues } from '../../common/queue-order.ts';
import { gather } from '../local/cluster.ts';
import type { NextHopAnswer } from './answers.ts';
import {
  COMMON_HELP,
  type Command,
  type CommandContext,
  openMembers,
  parse,
  text,
  UsageError,
  warnUnreachable,
  wholeNumber,
} from './command.ts';
import { type FilterParameters, type Message, messagesOf, type Unreachable } from './message-filter.ts';
import { age, count, duration, json, printable, table } from './output.ts';
import type { Members } from './place.ts';
import { orderQueue } from './queue-order.ts';
import { REDIRECT_HELP, redirectMessages } from './redirect.ts';

type Row = NextHopAnswer & { readonly member: string };

interface Rows {
  readonly rows: readonly Row[];
  /** Of note, and not told: a page of each member was asked for. */
  readonly more: number;
  readonly unreachable: Readonly<Unreachable>;
}

/** `limit` null: all of them. */
async function rowsOf(cluster: Members, limit: number | null = null): Promise<Rows> {
  const page = limit === null ? '' : `?limit=${limit}`;
  // Older versions know no pages, and tell all.
  const asked = await cluster.askAll<{ nextHops: readonly NextHopAnswer[]; more?: number }>(`/v1/next-hops${page}`);
  const { answers, unreachable } = gather(asked);
  const rows = answers.flatMap(({ member, value }) => value.nextHops.map((hop) => ({ member, ...hop })));
  return { rows, more: answers.reduce((sum, { value }) => sum + (value.more ?? 0), 0), unreachable };
}

const retryText = ({ suspended, nextRetryMs }: Row, nowMs: number): string | null =>
  suspended === true ? 'suspended' : whenText(nextRetryMs, nowMs);

function whenText(ms: number | null, nowMs: number): string | null {
  if (ms === null) return null;
  return ms <= nowMs ? 'now' : `in ${duration(ms - nowMs)}`;
}

/** Nothing waits, or the member is of an older version. */
const isNone = (ms: number | null | undefined): ms is null | undefined => ms === null || ms === undefined;

const LINE = 120;
/** A hostile host decides how long its text is. */
const inShort = (text: string | null): string | null =>
  text === null || text.length <= LINE ? text : `${text.slice(0, LINE)}...`;

const LISTED = 100;
const MOST_LISTED = 1_000;

async function list(args: readonly string[], context: CommandContext): Promise<number> {
  const parsed = parse(args, context, { limit: { type: 'string' } }, [0, 0]);
  const isJson = parsed.common.format === 'json';
  // A script gets all of them unless it says how many.
  const limit = isJson && text(parsed, 'limit') === null ? null : wholeNumber(parsed, 'limit', LISTED, MOST_LISTED);
  const told = await rowsOf(await openMembers(parsed, context), limit);
  const { nextHops: rows, more: behind } = firstQueues(told.rows, limit ?? Number.POSITIVE_INFINITY);
  const { unreachable } = told;
  const more = told.more + behind;
  const nowMs = context.nowMs();
  if (isJson) context.output.out(json({ nextHops: rows, more, unreachable }));
  else if (rows.length === 0) context.output.out('No messages are queued for delivery.\n');
  else {
    context.output.out(
      table(
        [
          { title: 'TRANSPORT', value: (row) => row.member },
          { title: 'QUEUE', value: (row) => row.queue },
          { title: 'NEXT HOP', value: (row) => (row.nextHop === row.queue ? null : row.nextHop) },
          { title: 'MESSAGES', value: (row) => row.messages, right: true },
          { title: 'OLDEST', value: ({ oldestAgeMs }) => (isNone(oldestAgeMs) ? null : age(oldestAgeMs)), right: true },
          { title: 'NEXT RETRY', value: (row) => retryText(row, nowMs) },
          { title: 'LAST ERROR', value: (row) => inShort(row.lastError) },
        ],
        rows,
      ),
    );
    if (more > 0) context.output.out(`${count(more, 'more queue')}; --limit shows more, -o json all.\n`);
  }
  warnUnreachable(context.output, unreachable);
  return unreachable.length === 0 ? 0 : 1;
}

/** Those in which nothing is sent go by their own name. */
const filterFor = (rows: readonly Row[], queue: string): FilterParameters => {
  const isOwn = rows.some((row) => row.queue === queue && row.nextHop === queue);
  // Part of a message may have no route while the rest of it is in a delivery queue.
  return isOwn && queue !== 'unreachable' ? { queue } : { nextHop: queue };
};

const DEFAULT_LIMIT = 20;
const MAX_LIMIT = 10_000;

async function show(args: readonly string[], context: CommandContext): Promise<number> {
  const parsed = parse(args, context, { limit: { type: 'string' } }, [1, 1]);
  const [queue = ''] = parsed.positionals;
  const limit = wholeNumber(parsed, 'limit', DEFAULT_LIMIT, MAX_LIMIT);
  const cluster = await openMembers(parsed, context);
  const { rows, unreachable: silent } = await rowsOf(cluster);
  const own = rows.filter((row) => row.nextHop === queue);
  const { out, err } = context.output;
  const known = [...new Set(rows.map((row) => row.nextHop))].sort();
  if (own.length === 0) {
    warnUnreachable(context.output, silent);
    const others = printable(known.join(', ')) || 'none';
    err(`No transport that answered has a queue ${queue}; there is ${others}.\n`);
    return 1;
  }
  const unreachable: Unreachable = [...silent];
  const messages: Message[] = [];
  let isMore = false;
  const walk = { filter: filterFor(own, queue), after: null, pageSize: Math.min(limit + 1, 1_000) };
  for await (const message of messagesOf(cluster, { ...walk, unreachable })) {
    isMore = messages.length === limit;
    if (isMore) break;
    messages.push(message);
  }
  const lost = [...new Map(unreachable.map((one) => [one.member, one])).values()];
  if (parsed.common.format === 'json') out(json({ queue, transports: own, messages, more: isMore, unreachable: lost }));
  else {
    const nowMs = context.nowMs();
    out(own.map((row) => queueText(row, nowMs)).join('\n'));
    if (messages.length > 0) out(`\n${recipientTable(messages, own, nowMs)}`);
    if (isMore) out(`Only the first ${limit} messages; --limit shows more.\n`);
  }
  warnUnreachable(context.output, lost);
  return lost.length === 0 ? 0 : 1;
}

function queueText(row: Row, nowMs: number): string {
  const { messages, active = 0, deferred = 0, lastError, oldestAgeMs } = row;
  const lines = [
    `Queue ${row.nextHop} on ${row.member}: ${count(messages, 'message')}, ${active} being delivered, ${deferred} put off`,
    `  oldest      ${isNone(oldestAgeMs) ? '-' : age(oldestAgeMs)}`,
    `  next retry  ${retryText(row, nowMs) ?? '-'}`,
    `  last error  ${lastError ?? '-'}`,
  ];
  return lines.map((line) => `${printable(line)}\n`).join('');
}

interface Waiting {
  readonly id: string;
  readonly member: string;
  readonly address: string;
  readonly when: string | null;
  readonly reply: string | null;
}

/** One line for each recipient that waits, here or in another queue of the same message. */
function recipientTable(messages: readonly Message[], own: readonly Row[], nowMs: number): string {
  const rows = messages.flatMap(([copy]): readonly Waiting[] => {
    if (copy === undefined) return [];
    const { id, member, lastError } = copy;
    const isHeld = copy.suspended === true || own.some((row) => row.member === member && row.suspended === true);
    const when = isHeld ? 'suspended' : whenText(copy.nextAttemptMs, nowMs);
    const waiting = copy.recipients.filter(({ outcome }) => outcome === 'pending');
    return waiting.map(({ address, reply }) => ({ id, member, address, when, reply: reply || lastError }));
  });
  return table<Waiting>(
    [
      { title: 'ID', value: (row) => row.id },
      { title: 'TRANSPORT', value: (row) => row.member },
      { title: 'RECIPIENT', value: (row) => row.address },
      { title: 'NEXT ATTEMPT', value: (row) => row.when },
      { title: 'LAST ERROR', value: (row) => row.reply },
    ],
    rows,
  );
}

const LOOK_HELP = `
"list" shows one line per transport, queue and next hop that has messages or an error, or is suspended: those with which something is wrong first, then those with most messages. "show" says everything about one, by its next hop (or submission, unreachable,
poison): the last error in full, and each recipient that waits with what was said about it. Exit code 1 when a transport did not answer, or none has that queue.`;

const OPTIONS_HELP = `
  --limit N              "list": at most N queues (default 100, at most 1000; with -o json all of them); "show": at most N messages (default 20)
${COMMON_HELP}

Examples:
  mailcluster queue
  mailcluster queue show mailbox:db01/east
  mailcluster queue list -o json`;

const LOOK_USAGE = `Usage: mailcluster queue [list] [--limit N] [--state DIR] [-o json]
       mailcluster queue show QUEUE [--limit N] [--state DIR] [-o json]`;

/** Null: it is no look. */
function look(args: readonly string[], context: CommandContext): Promise<number> | null {
  const [what, ...rest] = args;
  if (what === undefined || what.startsWith('-')) return list(args, context);
  if (what === 'list') return list(rest, context);
  return what === 'show' ? show(rest, context) : null;
}

export const queueCommand: Command = {
  summary: 'delivery queues: what waits in them and why; suspend, resume, try one again now, hand over what waits',
  help: `${LOOK_USAGE}
       mailcluster queue suspend QUEUE [--state DIR] [-o json]
       mailcluster queue resume QUEUE [--state DIR] [-o json]
       mailcluster queue retry QUEUE [--state DIR] [-o json]
       mailcluster queue redirect QUEUE --to MEMBER [--from MEMBER] [--state DIR] [-o json]
${LOOK_HELP}
"suspend" stops the queue of that next hop at every transport, also over restarts and takeovers, until "resume"; what is being delivered comes to its end, and nothing
in it expires meanwhile. A failover makes another queue (mailbox:DATABASE/COPY), which is not suspended. "retry" does not wait for the next attempt.
${REDIRECT_HELP}
${OPTIONS_HELP}
  mailcluster queue suspend connector:out`,
  run: (args, context) => {
    const looked = look(args, context);
    if (looked !== null) return looked;
    const [what, ...rest] = args;
    if (what === 'suspend' || what === 'resume' || what === 'retry') return orderQueue(what, rest, context);
    if (what === 'redirect') return redirectMessages('queue', rest, context);
    throw new UsageError('say "queue list", "queue show QUEUE" or "queue suspend|resume|retry|redirect QUEUE"');
  },
};
