/** `mailcluster message`: single messages over all members, both copies side by side. Orders are in `message-order.ts`. */

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
import { lostMessages } from './lost.ts';
import { findAllCopies } from './message-copies.ts';
import { renderCopy } from './message-detail.ts';
import { exportMessage } from './message-export.ts';
import {
  FILTER_HELP,
  filterOf,
  MESSAGE_FILTERS,
  type Message,
  messagesOf,
  type Unreachable,
} from './message-filter.ts';
import { orderMessage } from './message-order.ts';
import { REMOVE_HELP, removeMessages } from './message-remove.ts';
import { messageTable } from './message-table.ts';
import { json } from './output.ts';
import { REDIRECT_HELP, redirectMessages } from './redirect.ts';

const DEFAULT_LIMIT = 100;
const MAX_LIMIT = 100_000;
const PAGE = 1_000;

async function listMessages(args: readonly string[], context: CommandContext): Promise<number> {
  const parsed = parse(
    args,
    context,
    { ...MESSAGE_FILTERS, limit: { type: 'string' }, after: { type: 'string' } },
    [0, 0],
  );
  const limit = wholeNumber(parsed, 'limit', DEFAULT_LIMIT, MAX_LIMIT);
  const filter = filterOf(parsed);
  const cluster = await openMembers(parsed, context);
  const unreachable: Unreachable = [];
  const pageSize = Math.min(limit + 1, PAGE);
  const groups: Message[] = [];
  let next: string | null = null;
  for await (const group of messagesOf(cluster, { filter, after: text(parsed, 'after'), pageSize, unreachable })) {
    if (groups.length === limit) {
      next = groups.at(-1)?.[0]?.id ?? null;
      break;
    }
    groups.push(group);
  }
  const { out } = context.output;
  if (parsed.common.format === 'json') {
    out(json({ messages: groups.map((copies) => ({ id: copies[0]?.id, copies })), next, unreachable }));
  } else if (groups.length === 0) out('No messages.\n');
  else {
    out(messageTable(groups, context.nowMs()));
    if (next !== null) out(`Only the first ${limit}; --limit shows more, --after ${next} those behind.\n`);
  }
  warnUnreachable(context.output, unreachable);
  return unreachable.length === 0 ? 0 : 1;
}

async function showMessage(args: readonly string[], context: CommandContext): Promise<number> {
  const parsed = parse(args, context, {}, [1, 1]);
  const { common, positionals } = parsed;
  const id = positionals[0] ?? '';
  const { answers, unreachable } = await findAllCopies(await openMembers(parsed, context), id);
  const { out, err } = context.output;
  if (common.format === 'json') {
    out(json({ id, copies: answers.map(({ member, value }) => ({ member, ...value })), unreachable }));
  } else out(answers.map(({ member, value }) => renderCopy(member, value, id)).join('\n'));
  warnUnreachable(context.output, unreachable);
  if (answers.length > 0) return 0;
  err(`No transport that answered holds ${id}; "${context.place.program} trace ${id}" may know what became of it.\n`);
  return 1;
}

const USAGE = `Usage: mailcluster message list [FILTER]... [--limit N] [--after ID] [--state DIR] [-o json]
       mailcluster message show ID [--state DIR] [-o json]
       mailcluster message suspend ID [--state DIR] [-o json]
       mailcluster message resume ID [--state DIR] [-o json]
       mailcluster message remove ID|FILTER... [--with-ndr] [--dry-run|--yes] [--all] [--state DIR] [-o json]
       mailcluster message redirect ID --to MEMBER [--state DIR] [-o json]
       mailcluster message export ID [--out FILE] [--state DIR]`;

const HELP = `ID is the id of the 250 reply. A message that crossed to another boundary has another id there: "list" and "trace" show it, and every command that is given the
first one is about all of them that are in transit. "list" asks every transport and joins the copies of a message; several filters must all match, shadow copies have no next hop and no
error. It exits with 1 when a transport did not answer, "show" when no transport holds the message. "suspend" holds a message back until "resume", also over restarts
and takeovers; what is being delivered comes to its end, and it does not expire meanwhile (its age goes on). "resume" also lets a message in the queue poison go on: its
transport died twice with nothing else in hand, so look at it first. "export" writes what the client sent, byte by byte and without our trace fields, to a new file
(ID.eml); a message at rest in a Safety Net as well.`;

const OPTIONS_HELP = `${REMOVE_HELP}
${REDIRECT_HELP}

${FILTER_HELP}
  --limit N              at most N messages (default 100, at most 100000)
  --after ID             only those behind this id: the next page
  --out FILE             where "export" writes it; a file that does not exist yet`;

const EXAMPLES = `${COMMON_HELP}

Examples:
  mailcluster message list --queue shadow
  mailcluster message list --domain example.org --older-than 2h --error "connection refused"
  mailcluster message remove --sender spam@example.org --with-ndr --yes
  mailcluster message show 01JABCDEFGHJKMNPQRSTVWXYZ0`;

/** Null: it is none of those that both programs have. */
function common(args: readonly string[], context: CommandContext): Promise<number> | null {
  const [what, ...rest] = args;
  if (what === 'list') return listMessages(rest, context);
  if (what === 'show') return showMessage(rest, context);
  if (what === 'suspend' || what === 'resume') return orderMessage(what, rest, context);
  if (what === 'remove') return removeMessages(rest, context);
  if (what === 'redirect') return redirectMessages('message', rest, context);
  return what === 'export' ? exportMessage(rest, context) : null;
}

export const messageCommand: Command = {
  summary:
    'list messages, show one with all its copies, suspend, resume, remove, redirect or export one, list those that are lost',
  help: `${USAGE}
       mailcluster message lost [--since TIME] [--state DIR] [-o json]

${HELP} "lost" compares what the front ends acknowledged (their logs) with what
every transport knows, lists each message of which nothing is left, says what could not be checked, and exits with 1 unless all is there.
${OPTIONS_HELP}
  --since TIME           only what was acknowledged since then (a time, milliseconds since 1970, or how long ago: 30m)
${EXAMPLES}`,
  run: (args, context) => {
    const found = common(args, context);
    if (found !== null) return found;
    const [what, ...rest] = args;
    if (what === 'lost') return lostMessages(rest, context);
    throw new UsageError(
      'say "message list", "message show ID", "message suspend|resume|remove|redirect|export ID" or "message lost"',
    );
  },
};

/** Where nobody reads the logs of all front ends. */
export const kubeMessageCommand: Command = {
  summary: 'list messages, show one with all its copies, suspend, resume, remove, redirect or export one',
  help: `${USAGE}

${HELP}
${OPTIONS_HELP}
${EXAMPLES}`,
  run: (args, context) => {
    const found = common(args, context);
    if (found !== null) return found;
    throw new UsageError('say "message list", "message show ID" or "message suspend|resume|remove|redirect|export ID"');
  },
};
