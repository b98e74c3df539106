/** `mailcluster trace`: what message tracking of all members knows, by a message's names or by what is remembered of it (semantics.md D10). */

import { gather } from '../local/cluster.ts';
import type { TraceAnswer } from './answers.ts';
import { COMMON_HELP, type Command, openMembers, parse, query, UsageError, warnUnreachable } from './command.ts';
import { findCopies } from './message-copies.ts';
import { count, json } from './output.ts';
import type { Members } from './place.ts';
import { renderTimeline, timeline } from './timeline.ts';
import { bracketed, findMessages, lookFor, TRACK_FILTERS, TRACK_HELP, trackTable } from './trace-find.ts';
import { renderTree, traceTree } from './trace-tree.ts';

/** A mailing of one Message-ID to everybody is not followed to its last copy. */
const MOST_IDS = 200;
/** Of more messages than that nobody reads one timeline. */
const MOST_STORIES = 20;
const AT_ONCE = 8;

export const traceCommand: Command = {
  summary: 'one timeline of a message over all hops, or the messages of a sender, recipient, subject or time',
  help: `Usage: mailcluster trace ID [--state DIR] [-o json]
       mailcluster trace FILTER... [--limit N] [--state DIR] [-o json]

ID is the id of the 250 reply, or a Message-ID (with or without angle brackets; of one that many messages have these are listed). What was made of the message is shown as a tree before the timeline: its hops to
other boundaries, reports about it, resubmissions. Without an ID the newest messages are listed that match every filter. Exit code 1 when nobody knows it, or a
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
    const { out, err } = context.output;
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
    const found = await traceMessage(cluster, id);
    if (common.format === 'json') out(json(found));
    else if (found.events.length > 0) {
      if (found.tree.length > 1 || found.tree.some(({ children }) => children.length > 0))
        out(`${renderTree(found.tree)}\n`);
      out(renderTimeline(found.events));
      const holders = found.copies.map((copy) => `${copy.state.queue}@${copy.member}`);
      out(`\n${holders.length === 0 ? 'No copy is held any more' : `Held now: ${holders.join(', ')}`}.\n`);
      if (found.more) out(`Only ${MOST_IDS} messages of this name were followed.\n`);
    }
    warnUnreachable(context.output, found.unreachable);
    if (found.events.length > 0) return found.unreachable.length === 0 ? 0 : 1;
    err(
      `Nothing is known about ${id} (${count(cluster.members.length - found.unreachable.length, 'transport')} asked).\n`,
    );
    return 1;
  },
};

/** Some at a time: each is a question to every member. */
async function copiesOf(cluster: Members, ids: readonly string[]) {
  const found = [];
  for (let at = 0; at < ids.length; at += AT_ONCE) {
    const some = await Promise.all(ids.slice(at, at + AT_ONCE).map((one) => findCopies(cluster, one)));
    found.push(...some.flatMap(({ answers }) => answers.map(({ member, value }) => ({ member, ...value }))));
  }
  return found;
}

export async function traceMessage(cluster: Members, id: string) {
  const silent = new Map<string, { readonly member: string; readonly reason: string }>();
  const traces: (readonly TraceAnswer[])[] = [];
  // A Message-ID is recorded as it stands in the header, with its brackets.
  const asked = new Set([id.includes('@') ? bracketed(id) : id]);
  let more = false;
  for (let next: readonly string[] = [...asked]; next.length > 0; ) {
    const parameters = next.map((one) => query({ id: one }).slice(1)).join('&');
    const { answers, unreachable } = gather(
      await cluster.askAll<{ records: readonly TraceAnswer[] }>(`/v1/trace?${parameters}`),
    );
    for (const one of unreachable) silent.set(one.member, one);
    const records = answers.map(({ value }) => value.records);
    traces.push(...records);
    // Who knows a part of the family by another name - a shadow reads no headers, a report has a name of its own - is asked again.
    const named = records.flat().flatMap(({ attemptId, root, parent }) => [attemptId, root, parent]);
    const fresh = new Set(named.filter((one) => one !== undefined).filter((one) => !asked.has(one)));
    next = [...fresh].slice(0, MOST_IDS - asked.size);
    more ||= next.length < fresh.size;
    for (const one of next) asked.add(one);
  }
  const attempts = [...asked].filter((one) => !one.includes('@'));
  const copies = await copiesOf(cluster, attempts);
  const events = timeline(traces, copies);
  return { id, events, tree: traceTree(events), copies, unreachable: [...silent.values()], more };
}
