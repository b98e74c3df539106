/**
 * Messages by what is remembered of them, out of the tracking of all members. Owns: the filters as options, and the joining of what members tell of one message. Promise:
 * the newest `limit` of all, each once; a member that did not answer, or cannot look, is named.
 */
import type { ParseArgsOptionsConfig } from 'node:util';
import { TRACKED_EVENTS, weightOf } from '../../common/tracked-events.ts';
import { domainOption, recipientOption, senderOption } from './address-options.ts';
import type { TrackedMessageAnswer } from './answers.ts';
import {
  type CommandContext,
  momentOption,
  openMembers,
  type Parsed,
  query,
  text,
  UsageError,
  warnUnreachable,
  wholeNumber,
} from './command.ts';
import { recipientsInShort } from './message-table.ts';
import { json, table, time } from './output.ts';
import type { Members } from './place.ts';

const one = { type: 'string' } as const;
export const TRACK_FILTERS: ParseArgsOptionsConfig = {
  ...{ sender: one, recipient: one, domain: one, 'message-id': one, subject: one, 'subject-hash': one, event: one },
  ...{ since: one, until: one, limit: one },
};

export const TRACK_HELP = `  --sender ADDRESS       '<>' for the null reverse-path
  --recipient ADDRESS, --domain DOMAIN
                         of one of its recipients
  --message-id ID        with or without its brackets
  --subject TEXT         the whole subject, in any case; tracking keeps a hash of it only
  --subject-hash HASH    that hash, as "-o json" shows it
  --event EVENT          something that happened to it: RECEIVE, DELIVER, SEND, DEFER, FAIL, EXPIRE, DSN, RESUBMIT, TAKEOVER, ...
  --since TIME, --until TIME
                         when that was: a time (UTC where no zone is named), milliseconds since 1970,
                         or how long ago (30m, 2h, 7d)
  --limit N              at most N messages, the newest (default 100, at most 1000)`;

const DEFAULT_LIMIT = 100;
const MAX_LIMIT = 1_000;

interface Found {
  readonly messages: readonly TrackedMessageAnswer[];
  readonly more: boolean;
}

export async function findMessages(parsed: Parsed, context: CommandContext): Promise<number> {
  const limit = wholeNumber(parsed, 'limit', DEFAULT_LIMIT, MAX_LIMIT);
  const question = await questionOf(parsed, context.nowMs());
  const cluster = await openMembers(parsed, context);
  const { messages, more, unreachable } = await lookFor(cluster, question, limit);
  const { out } = context.output;
  if (parsed.common.format === 'json') out(json({ messages, more, unreachable }));
  else if (messages.length === 0) out('No messages.\n');
  else {
    out(trackTable(messages));
    if (more) out(`Only the newest ${messages.length}; --limit shows more, a shorter time or another filter fewer.\n`);
  }
  warnUnreachable(context.output, unreachable);
  return messages.length > 0 && unreachable.length === 0 ? 0 : 1;
}

/** A message with what was made of it, as far as it matched. */
export interface FoundMessage extends TrackedMessageAnswer {
  /** Its hops and resubmissions, and itself. */
  readonly ids: readonly string[];
}

/** Newest first, each message once. */
export async function lookFor(cluster: Members, question: TrackQuestion, limit: number) {
  const asked = await cluster.askAll<Found>(`/v1/tracking${query({ ...question, limit })}`);
  const unreachable = asked.flatMap((answer) => {
    if (answer.kind === 'answer') return [];
    const reason =
      answer.kind === 'absent' ? 'it is of an older version, which cannot look for messages' : answer.reason;
    return [{ member: answer.member, reason }];
  });
  const answers = asked.flatMap((answer) => (answer.kind === 'answer' ? [answer.value] : []));
  const found = joined(answers.flatMap(({ messages }) => messages));
  const more = found.length > limit || answers.some((answer) => answer.more);
  return { messages: found.slice(0, limit), more, unreachable };
}

export type TrackQuestion = Readonly<Record<string, string | number | null>>;

/** Parameters of the admin API. An option without a value behind it would match everything. */
async function questionOf(parsed: Parsed, nowMs: number): Promise<TrackQuestion> {
  for (const name of Object.keys(TRACK_FILTERS))
    if (text(parsed, name) === '')
      throw new UsageError(`--${name}: is empty; leave it out, or say what it shall match`);
  const from = momentOption(parsed, 'since', nowMs);
  const to = momentOption(parsed, 'until', nowMs);
  if (from !== null && to !== null && to < from) throw new UsageError('--until: is before --since');
  return {
    ...{ sender: senderOption(parsed), recipient: recipientOption(parsed), domain: domainOption(parsed) },
    ...{
      messageId: bracketed(text(parsed, 'message-id')),
      subjectHash: await hashOf(parsed),
      event: eventOption(parsed),
      from,
      to,
    },
  };
}

/** As it stands in the header. */
export const bracketed = <Id extends string | null>(id: Id): Id | `<${string}>` =>
  id === null || id.startsWith('<') ? id : `<${id}>`;

/** In any case; a name that is none would never be found. */
function eventOption(parsed: Parsed): string | null {
  const value = text(parsed, 'event')?.toUpperCase() ?? null;
  if (value !== null && !TRACKED_EVENTS.some((one) => one === value))
    throw new UsageError(`--event: one of ${TRACKED_EVENTS.join(', ')}, not ${value}`);
  return value;
}

async function hashOf(parsed: Parsed): Promise<string | null> {
  const [subject, hash] = [text(parsed, 'subject'), text(parsed, 'subject-hash')];
  if (subject !== null && hash !== null) throw new UsageError('--subject and --subject-hash: one or the other');
  if (hash !== null && !/^[0-9a-f]{16}$/i.test(hash))
    throw new UsageError(`--subject-hash: 16 hexadecimal digits, not ${hash}`);
  if (subject === null) return hash;
  // Only now: tables of all charsets come with it.
  const { subjectHash } = await import('../../common/smtp/subject-hash.ts');
  const made = subjectHash(subject);
  if (made === null) throw new UsageError('--subject: is empty; leave it out, or say the whole subject');
  return made;
}

/** A message is known to each that had a copy, under an id of its own to each boundary it crossed to. */
function joined(messages: readonly TrackedMessageAnswer[]): readonly FoundMessage[] {
  const known = new Map<string, FoundMessage>();
  for (const message of messages) {
    const id = message.root ?? message.id;
    const found = { ...message, id, ids: [message.id] };
    const other = known.get(id);
    known.set(id, other === undefined ? found : merged(other, found));
  }
  return [...known.values()].sort((a, b) => b.last.atMs - a.last.atMs || (a.id < b.id ? -1 : 1));
}

/** Who tells most of what became of it, of those who tells of the last. */
function merged(a: FoundMessage, b: FoundMessage): FoundMessage {
  const rank = ({ last }: FoundMessage): number => weightOf(last.event);
  const [best, other] = rank(b) > rank(a) || (rank(b) === rank(a) && b.last.atMs > a.last.atMs) ? [b, a] : [a, b];
  const recipients = [...new Set([...best.recipients, ...other.recipients])];
  return {
    ...best,
    recipients,
    recipientCount: Math.max(best.recipientCount, other.recipientCount, recipients.length),
    messageId: best.messageId ?? other.messageId,
    subjectHash: best.subjectHash ?? other.subjectHash,
    firstMs: Math.min(best.firstMs, other.firstMs),
    ids: [...new Set([...a.ids, ...b.ids])].sort(),
  };
}

export const trackTable = (messages: readonly FoundMessage[]): string =>
  table<FoundMessage>(
    [
      { title: 'TIME (UTC)', value: ({ last }) => time(last.atMs) },
      { title: 'ID', value: ({ id }) => id },
      { title: 'FROM', value: ({ from }) => from || '<>' },
      { title: 'TO', value: ({ recipients, recipientCount }) => recipientsInShort(recipients, recipientCount) },
      { title: 'EVENT', value: ({ last }) => last.event },
      { title: 'SOURCE', value: ({ last }) => last.source },
      { title: 'DETAIL', value: ({ last }) => [last.peer, last.detail].filter((part) => part).join('; ') },
    ],
    messages,
  );
