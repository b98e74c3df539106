/**
 * Which messages are meant by what a person remembers of them, PURE: lines of message tracking to messages. Owns: what matches. Promise: the newest `limit`, by what
 * matched last; memory in proportion to that, whatever is read. All that is asked for has to stand in one record, which each but the front end's has.
 */
import { weightOf } from '../../common/tracked-events.ts';
import { splitAddress } from '../core/routing.ts';
import type { TrackingRecord } from './tracking-api.ts';
import { atMsOf } from './tracking-gaps.ts';
import { recordsOf } from './tracking-lines.ts';

/** Addresses in any case; null: anything. */
export interface TrackingQuestion {
  /** Empty for the null reverse-path. */
  readonly sender: string | null;
  readonly recipient: string | null;
  readonly domain: string | null;
  /** With its brackets. */
  readonly messageId: string | null;
  readonly subjectHash: string | null;
  readonly event: string | null;
  /** Wall clock of the member, ms since 1970. */
  readonly fromMs: number | null;
  readonly toMs: number | null;
}

/** A message as the records that matched tell of it. */
export interface TrackedMessage {
  readonly id: string;
  /** The message of which it is a hop, or a resubmission; null: itself. */
  readonly root: string | null;
  readonly messageId: string | null;
  readonly subjectHash: string | null;
  readonly from: string;
  /** Some of them. */
  readonly recipients: readonly string[];
  /** At least. */
  readonly recipientCount: number;
  readonly firstMs: number;
  /** Of what matched that which says most of what became of it, the last of its kind. */
  readonly last: Pick<TrackingRecord, 'atMs' | 'event' | 'source' | 'peer' | 'detail'>;
}

export interface TrackedMessages {
  /** Newest first. */
  readonly messages: readonly TrackedMessage[];
  /** There are older ones. */
  readonly more: boolean;
}

const MOST_RECIPIENTS = 20;

/** What is kept of a record: not ten thousand recipients of each. */
type Brief = Omit<TrackingRecord, 'recipients' | 'history'>;

interface Growing {
  readonly first: Brief;
  readonly recipients: ReadonlySet<string>;
  readonly recipientCount: number;
  readonly last: Brief;
}

export class TrackedMessageFinder {
  readonly #question: TrackingQuestion;
  readonly #limit: number;
  /** In the order of what matched last. */
  readonly #found = new Map<string, Growing>();
  /** What a line has in it when it matches, in lower case. */
  readonly #needles: readonly string[];
  #more = false;

  constructor(question: TrackingQuestion, limit: number) {
    this.#question = question;
    this.#limit = limit;
    const { sender, recipient, domain, messageId, subjectHash, event } = question;
    this.#needles = [sender, recipient, domain, messageId, subjectHash, event].flatMap((one) =>
      one === null || one === '' ? [] : JSON.stringify(one.toLowerCase()).slice(1, -1),
    );
  }

  take(line: string): void {
    if (!this.#mayMatch(line)) return;
    const record = recordsOf(line).at(-1);
    if (record === undefined || !this.#matches(record)) return;
    const { attemptId } = record;
    const known = this.#found.get(attemptId);
    this.#found.delete(attemptId);
    this.#found.set(attemptId, known === undefined ? begun(record) : grown(known, record));
    if (this.#found.size <= this.#limit) return;
    this.#more = true;
    for (const oldest of this.#found.keys()) return void this.#found.delete(oldest);
  }

  get answer(): TrackedMessages {
    return { messages: [...this.#found].map(messageOf).reverse(), more: this.#more };
  }

  /** Most lines are of others: reading them as JSON would take longest. */
  #mayMatch(line: string): boolean {
    const atMs = atMsOf(line);
    if (atMs === null || !this.#isWithin(atMs)) return false;
    if (this.#needles.length === 0) return true;
    const lower = line.toLowerCase();
    return this.#needles.every((needle) => lower.includes(needle));
  }

  #isWithin(atMs: number): boolean {
    const { fromMs, toMs } = this.#question;
    return (fromMs === null || atMs >= fromMs) && (toMs === null || atMs <= toMs);
  }

  /** What is about no message (orders about a queue) has no sender. */
  #matches(record: TrackingRecord): boolean {
    const { sender, recipient, domain, messageId, subjectHash, event } = this.#question;
    const { from, recipients = [] } = record;
    return (
      from !== undefined &&
      (sender === null || same(from, sender)) &&
      (recipient === null || recipients.some((address) => same(address, recipient))) &&
      (domain === null || recipients.some((address) => same(splitAddress(address).domain, domain))) &&
      (messageId === null || record.messageId === messageId) &&
      (subjectHash === null || record.subjectHash === subjectHash.toLowerCase()) &&
      (event === null || same(record.event, event))
    );
  }
}

const same = (a: string, b: string): boolean => a.toLowerCase() === b.toLowerCase();

function begun({ recipients = [], history: _, ...record }: TrackingRecord): Growing {
  const some = new Set(recipients.slice(0, MOST_RECIPIENTS));
  return { first: record, recipients: some, recipientCount: recipients.length, last: record };
}

function grown(known: Growing, { recipients = [], history: _, ...record }: TrackingRecord): Growing {
  const { first, last } = known;
  const some = new Set([...known.recipients, ...recipients.slice(0, MOST_RECIPIENTS)].slice(0, MOST_RECIPIENTS));
  return {
    first,
    recipients: some,
    recipientCount: Math.max(known.recipientCount, some.size, recipients.length),
    last: weightOf(record.event) < weightOf(last.event) ? last : record,
  };
}

function messageOf([id, { first, recipients, recipientCount, last }]: readonly [string, Growing]): TrackedMessage {
  const { atMs, event, source, peer, detail } = last;
  return {
    id,
    root: first.root ?? null,
    messageId: first.messageId ?? null,
    subjectHash: first.subjectHash ?? null,
    from: first.from ?? '',
    recipients: [...recipients],
    recipientCount,
    firstMs: first.atMs,
    last: {
      atMs,
      event,
      source,
      ...(peer === undefined ? {} : { peer }),
      ...(detail === undefined ? {} : { detail }),
    },
  };
}
