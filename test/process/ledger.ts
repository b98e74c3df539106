/**
 * The ledger of a process test: what was sent, what was answered, what must therefore be found. Owns: message texts that identify
 * themselves, and the arithmetic of semantics.md section 1. Knows nothing of how the system works inside.
 */
import { createHash } from 'node:crypto';

export interface TestMessage {
  readonly id: string;
  readonly from: string;
  readonly recipient: string;
  /** As it must be stored: CRLF lines, dots not doubled. */
  readonly content: Buffer;
  readonly digest: string;
}

/** What the client saw after the end of data. `none`: the session ended without a reply; `endSent` tells whether it may exist. */
export type Answer =
  | { readonly kind: 'accepted'; readonly text: string }
  | { readonly kind: 'refused'; readonly code: number; readonly text: string }
  | { readonly kind: 'none'; readonly endSent: boolean; readonly reason: string };

export interface LedgerEntry {
  readonly message: TestMessage;
  readonly answer: Answer;
  /** From the end of data to the reply, ms; null without one. */
  readonly latencyMs: number | null;
}

export const digestOf = (content: Uint8Array): string => createHash('sha256').update(content).digest('hex');

const LEDGER_ID = 'X-Ledger-Id';

/** A message of about `sizeBytes` with its id inside; the same arguments make the same bytes. Lines starting with dots included. */
export function makeMessage(
  id: string,
  recipient: string,
  sizeBytes: number,
  from = 'sender@example.org',
): TestMessage {
  const head = [
    `${LEDGER_ID}: ${id}`,
    `From: <${from}>`,
    `To: <${recipient}>`,
    `Subject: ledger ${id}`,
    `Message-ID: <${id}@ledger.example.org>`,
    'Date: Thu, 01 Jan 2026 00:00:00 +0000',
    '',
    '..two dots and one',
    '.',
    '',
  ].join('\r\n');
  const lines: string[] = [];
  let left = sizeBytes - head.length;
  let block = digestOf(Buffer.from(id));
  while (left > 2) {
    block = digestOf(Buffer.from(block));
    const line = `${block}${block.slice(0, 10)}`.slice(0, Math.max(1, Math.min(74, left - 2)));
    lines.push(line);
    left -= line.length + 2;
  }
  const content = Buffer.from(`${head}${lines.map((line) => `${line}\r\n`).join('')}`);
  return { id, from, recipient, content, digest: digestOf(content) };
}

/** A message found in a mailbox, as bytes. */
export interface Delivered {
  readonly mailbox: string;
  readonly file: string;
  readonly bytes: Buffer;
}

/** A copy found in a queue database. */
export interface StoredCopyView {
  readonly member: string;
  readonly queue: string;
  readonly digest: string;
}

const IN_TRANSIT = new Set(['submission', 'delivery', 'unreachable', 'poison']);

export interface Balance {
  readonly accepted: number;
  readonly refused: number;
  readonly unanswered: number;
  readonly delivered: number;
  readonly queued: number;
  /** Answered 250, in no mailbox and in no queue in transit. */
  readonly lost: readonly string[];
  /** In a mailbox more than once. */
  readonly duplicated: readonly string[];
  /** In a mailbox although refused, never finished, or never sent by us; or in the wrong mailbox. */
  readonly unexpected: readonly string[];
  /** In a mailbox with other bytes than were sent. */
  readonly damaged: readonly string[];
  /** In a mailbox and still in transit as a primary copy: allowed on the way, not at rest. */
  readonly both: readonly string[];
}

export function balance(
  ledger: readonly LedgerEntry[],
  delivered: readonly Delivered[],
  stored: readonly StoredCopyView[],
): Balance {
  const byId = new Map(ledger.map((entry) => [entry.message.id, entry]));
  const visits = new Map<string, number>();
  const unexpected: string[] = [];
  const damaged: string[] = [];
  for (const one of delivered) {
    const id = ledgerIdOf(one.bytes);
    const entry = id === null ? undefined : byId.get(id);
    if (id === null || entry === undefined) {
      unexpected.push(`${one.mailbox}/${one.file}: not sent by us`);
      continue;
    }
    visits.set(id, (visits.get(id) ?? 0) + 1);
    if (entry.message.recipient !== one.mailbox)
      unexpected.push(`${id}: for ${entry.message.recipient}, in ${one.mailbox}`);
    if (!mayExist(entry.answer)) unexpected.push(`${id}: ${describeAnswer(entry.answer)}, but delivered`);
    if (!endsWithContent(one.bytes, entry.message)) damaged.push(`${id}: ${one.mailbox}/${one.file}`);
  }
  const inTransit = new Set(stored.filter((copy) => IN_TRANSIT.has(copy.queue)).map((copy) => copy.digest));
  const accepted = ledger.filter((entry) => entry.answer.kind === 'accepted');
  const seen = (entry: LedgerEntry): boolean => visits.has(entry.message.id);
  const queued = (entry: LedgerEntry): boolean => inTransit.has(entry.message.digest);
  const names = (entries: readonly LedgerEntry[]): string[] => entries.map((entry) => entry.message.id);
  return {
    accepted: accepted.length,
    refused: ledger.filter((entry) => entry.answer.kind === 'refused').length,
    unanswered: ledger.filter((entry) => entry.answer.kind === 'none').length,
    delivered: delivered.length,
    queued: accepted.filter((entry) => !seen(entry) && queued(entry)).length,
    lost: names(accepted.filter((entry) => !seen(entry) && !queued(entry))),
    duplicated: [...visits].filter(([, times]) => times > 1).map(([id, times]) => `${id}: ${times} times`),
    unexpected,
    damaged,
    both: names(ledger.filter((entry) => seen(entry) && queued(entry))),
  };
}

/** Nothing lost, nothing twice, nothing invented, nothing changed; the one-line verdict for an assertion. */
export function verdict(result: Balance): string {
  const wrong = (['lost', 'duplicated', 'unexpected', 'damaged'] as const).flatMap((kind) =>
    result[kind].length > 0 ? [`${result[kind].length} ${kind} (${result[kind].slice(0, 5).join('; ')})`] : [],
  );
  return wrong.length === 0 ? 'balanced' : wrong.join(', ');
}

/** One line for each message without a 250, for an assertion on none. */
export const notAccepted = (ledger: readonly LedgerEntry[]): readonly string[] =>
  ledger.flatMap(({ message, answer }) =>
    answer.kind === 'accepted'
      ? []
      : [`${message.id}: ${answer.kind === 'refused' ? `${answer.code} ${answer.text}` : answer.reason}`],
  );

/** A 250 must be found; an unanswered end of data may be (semantics.md section 1.4); anything else must not. */
const mayExist = (answer: Answer): boolean => answer.kind === 'accepted' || (answer.kind === 'none' && answer.endSent);

const describeAnswer = (answer: Answer): string =>
  answer.kind === 'refused'
    ? `refused with ${answer.code}`
    : answer.kind === 'none'
      ? 'its end was never sent'
      : 'accepted';

export function ledgerIdOf(bytes: Buffer): string | null {
  return new RegExp(`^${LEDGER_ID}: (\\S+)`, 'm').exec(bytes.toString('latin1'))?.[1] ?? null;
}

/** Trace fields are added in front; the store may keep lines with LF alone. What we sent must be the end, byte by byte. */
function endsWithContent(bytes: Buffer, message: TestMessage): boolean {
  const ended = bytes.subarray(Math.max(0, bytes.length - message.content.length));
  if (digestOf(ended) === message.digest) return true;
  const found = bytes.toString('latin1').replaceAll('\r\n', '\n');
  return found.endsWith(`\n${message.content.toString('latin1').replaceAll('\r\n', '\n')}`);
}
