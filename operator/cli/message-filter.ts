/**
 * Which messages are meant, and the walk over all members that finds them. Owns: the filters as options, and the joining of what members list
 * into messages with their copies. Promise: in the order of ids, a page per member in hand; a member that does not answer, or knows no filters,
 * ends its part and is named - it never passes for one that lists everything.
 */
import type { ParseArgsOptionsConfig } from 'node:util';
import type { Asked } from '../admin-client.ts';
import { parseSize } from '../resource/quantity.ts';
import { domainOption, recipientOption, senderOption } from './address-options.ts';
import type { MessageAnswer, MessagesAnswer } from './answers.ts';
import { type Parsed, parseAge, query, text, UsageError } from './command.ts';
import type { MemberName, Members } from './place.ts';

const one = { type: 'string' } as const;
export const MESSAGE_FILTERS: ParseArgsOptionsConfig = {
  ...{ queue: one, 'next-hop': one, sender: one, recipient: one, domain: one, error: one, attempt: one },
  ...{ 'older-than': one, 'younger-than': one, 'larger-than': one, 'smaller-than': one },
};

export const FILTER_HELP = `  --queue QUEUE          submission, delivery, unreachable, poison or shadow
  --next-hop QUEUE       delivery queue, as "queue list" names it
  --sender ADDRESS       '<>' for the null reverse-path
  --recipient ADDRESS, --domain DOMAIN
                         of one of its recipients
  --older-than TIME, --younger-than TIME
                         its AGE, as "list" shows it and expiry counts it: 30s, 10m, 2h, 3d
  --larger-than SIZE, --smaller-than SIZE
                         bytes, or 10Ki, 5Mi
  --error TEXT           part of the last error
  --attempt ID           this message, what crossed from it to another boundary, and
                         what was resubmitted of it`;

export type FilterParameters = Readonly<Record<string, string | number | null>>;

function measure(parsed: Parsed, name: string, read: (text: string) => number | null, like: string): number | null {
  const value = text(parsed, name);
  if (value === null) return null;
  const number = read(value);
  if (number === null) throw new UsageError(`--${name}: ${like}, not ${value}`);
  return number;
}

/** Parameters of the admin API. An option without a value behind it would match everything. */
export function filterOf(parsed: Parsed): FilterParameters {
  for (const name of Object.keys(MESSAGE_FILTERS))
    if (text(parsed, name) === '')
      throw new UsageError(`--${name}: is empty; leave it out, or say what it shall match`);
  const time = (name: string) => measure(parsed, name, parseAge, 'a duration like 30s, 10m, 2h or 3d');
  const bytes = (name: string) => measure(parsed, name, parseSize, 'bytes, or a size like 10Ki');
  return {
    ...{ queue: text(parsed, 'queue'), nextHop: text(parsed, 'next-hop'), sender: senderOption(parsed) },
    ...{ recipient: recipientOption(parsed), domain: domainOption(parsed), error: text(parsed, 'error') },
    ...{ attempt: text(parsed, 'attempt'), olderThanMs: time('older-than'), youngerThanMs: time('younger-than') },
    ...{ minBytes: bytes('larger-than'), maxBytes: bytes('smaller-than') },
  };
}

export const isEverything = (filter: FilterParameters): boolean =>
  Object.values(filter).every((value) => value === null);

export interface Holding extends MessageAnswer {
  readonly member: string;
}

/** The copies of one message that match, the primary first. */
export type Message = readonly Holding[];

export type Unreachable = { readonly member: string; readonly reason: string }[];

interface Part {
  readonly member: MemberName;
  readonly waiting: Holding[];
  after: string | null;
  isOver: boolean;
}

export interface Walk {
  readonly filter: FilterParameters;
  /** Behind this id. */
  readonly after: string | null;
  /** Messages in one answer of a member. */
  readonly pageSize: number;
  /** Those that ended their part. */
  readonly unreachable: Unreachable;
}

/** In the order of ids, as long as somebody reads on. */
export async function* messagesOf(cluster: Members, walk: Walk): AsyncGenerator<Message> {
  const parts = cluster.members.map((member): Part => {
    return { member, waiting: [], after: walk.after, isOver: false };
  });
  for (;;) {
    await Promise.all(parts.map((part) => fill(cluster, part, walk)));
    const [first] = parts.flatMap(({ waiting }) => waiting[0]?.id ?? []).sort();
    if (first === undefined) return;
    const copies = parts.flatMap(({ waiting }) => (waiting[0]?.id === first ? (waiting.shift() ?? []) : []));
    yield copies.sort((a, b) => (a.role === b.role ? 0 : a.role === 'primary' ? -1 : 1));
  }
}

/** Until the first of what it has left is known. */
async function fill(cluster: Members, part: Part, { filter, pageSize, unreachable }: Walk): Promise<void> {
  const { member, waiting } = part;
  const end = (reason: string): void => {
    part.isOver = true;
    unreachable.push({ member: member.name, reason });
  };
  while (waiting.length === 0 && !part.isOver) {
    const path = `/v1/messages${query({ ...filter, after: part.after, limit: pageSize })}`;
    const asked: Asked<MessagesAnswer> = await cluster.ask<MessagesAnswer>(member, path);
    if (asked.kind !== 'answer') return end(asked.kind === 'absent' ? 'it has no list of messages' : asked.reason);
    const { messages, next } = asked.value;
    if (next === undefined) return end('it is of an older version, which knows no filters and no pages');
    waiting.push(...messages.map((each) => ({ ...each, member: member.name })));
    part.after = next;
    part.isOver = next === null;
  }
}
