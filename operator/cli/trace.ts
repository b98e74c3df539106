/** `mailcluster trace`: what message tracking of all members knows, by a message's names or by what is remembered of it (semantics.md D10). */

import {
  COMMON_HELP,
  type Command,
  type CommandContext,
  openMembers,
  parse,
  UsageError,
  warnUnreachable,
} from './command.ts';
import { findCopies } from './message-copies.ts';
import type { Unreachable } from './message-filter.ts';
import { count, type Format, json, printable } from './output.ts';
import type { Members } from './place.ts';
import { renderTimeline, timeline } from './timeline.ts';
import { bracketed, findMessages, lookFor, TRACK_FILTERS, TRACK_HELP, trackTable } from './trace-find.ts';
import { missingOf, recordsOf, renderMissing } from './trace-records.ts';
import { renderTree, traceTree } from './trace-tree.ts';

/** Of more messages than that nobody reads one timeline. */
const MOST_STORIES = 20;
const AT_ONCE = 8;

export const traceCommand: Command = {
  summary: 'one timeline of a message over all hops, or the messages of a sender, recipient, subject or time',
  help: `Usage: mailcluster trace ID [--state DIR] [-o json]
       mailcluster trace FILTER... [--limit N] [--state DIR] [-o json]

ID is the id of the 250 reply, or a Message-ID (with or without angle brackets; of one that many messages have these are listed). What was made of the message is shown as a tree before the timeline: its hops to
other boundaries, reports about it, resubmissions; what of it cannot be had, and why, is said. Without an ID the newest messages are listed that match every filter. Exit code 1 when nobody knows it, or a
transport did not answer. How far back: as far as each transport keeps its tracking.

${TRACK_HELP}

${COMMON_HELP}

Examples:
  mailcluster trace 01JABCDEFGHJKMNPQRSTVWXYZ0
  mailcluster trace '<4711@example.org>' -o json
  mailcluster trace --sender ann@example.org --subject 'Quarterly report' --since 2h
  mailcluster trace --event FAIL --domain example.net`,
  run: async (args, context) => {
    const parsed = parse(args, context, TRACK_FILTERS, [0, 1]);
    const { common, positionals } = parsed;
    const [id] = positionals;
    const filters = Object.keys(TRACK_FILTERS).filter((name) => parsed.values[name] !== undefined);
    if (id === undefined && filters.every((name) => name === 'limit'))
      throw new UsageError('say which message: its ID, or filters ("trace --help" lists them)');
    if (id === undefined) return findMessages(parsed, context);
    if (filters.length > 0) throw new UsageError(`an ID and --${filters[0]}: one or the other`);
    const cluster = await openMembers(parsed, context);
    const { out } = context.output;
    const named = id.includes('@') ? await lookFor(cluster, { messageId: bracketed(id) }, MOST_STORIES + 1) : null;
    if (named !== null && named.messages.length > MOST_STORIES) {
      if (common.format === 'json') out(json({ id, ...named }));
      else
        out(
          `${trackTable(named.messages)}Many messages have this Message-ID; these are the newest. Trace one by its ID.\n`,
        );
      warnUnreachable(context.output, named.unreachable);
      return named.unreachable.length === 0 ? 0 : 1;
    }
    return await tell(cluster, id, common.format, context);
  },
};

async function tell(cluster: Members, id: string, format: Format, { output }: CommandContext): Promise<number> {
  const { out, err } = output;
  const found = await traceMessage(cluster, id);
  const { events, tree, missing, unreachable } = found;
  const lacks = printableLines(renderMissing(missing));
  if (format === 'json') out(json(found));
  else if (events.length > 0) {
    if (tree.length > 1 || tree.some(({ children }) => children.length > 0)) out(`${renderTree(tree)}\n`);
    if (lacks !== '') out(`${lacks}\n`);
    out(renderTimeline(events));
    out(`\n${heldText(found)}.\n`);
  }
  warnUnreachable(output, unreachable);
  if (events.length > 0) return unreachable.length === 0 ? 0 : 1;
  err(`Nothing is known about ${id} (${count(cluster.members.length - unreachable.length, 'transport')} asked).\n`);
  if (format !== 'json') err(lacks);
  return 1;
}

const printableLines = (text: string): string => text.split('\n').map(printable).join('\n');

function heldText({ copies, unreachable }: Awaited<ReturnType<typeof traceMessage>>): string {
  const holders = copies.map(({ state, member }) => `${state.queue}@${member}`);
  if (holders.length > 0) return `Held now: ${holders.join(', ')}`;
  return unreachable.length === 0 ? 'No copy is held any more' : 'Nobody who answered holds a copy any more';
}

/** Some at a time: each is a question to every member. */
async function copiesOf(cluster: Members, ids: readonly string[]) {
  const copies = [];
  const silent: Unreachable = [];
  for (let at = 0; at < ids.length; at += AT_ONCE) {
    const some = await Promise.all(ids.slice(at, at + AT_ONCE).map((one) => findCopies(cluster, one)));
    copies.push(...some.flatMap(({ answers }) => answers.map(({ member, value }) => ({ member, ...value }))));
    silent.push(...some.flatMap(({ unreachable }) => unreachable));
  }
  return { copies, silent };
}

export async function traceMessage(cluster: Members, id: string) {
  // A Message-ID is recorded as it stands in the header, with its brackets.
  const records = await recordsOf(cluster, id.includes('@') ? bracketed(id) : id);
  const { copies, silent } = await copiesOf(
    cluster,
    records.names.filter((one) => !one.includes('@')),
  );
  const unreachable = [...new Map([...silent, ...records.unreachable].map((one) => [one.member, one])).values()];
  const events = timeline(records.traces, copies);
  const tree = traceTree(events);
  const missing = missingOf({ ...records, unreachable }, tree, events[0]?.atMs ?? null);
  return { id, events, tree, missing, copies, unreachable, more: records.more };
}
