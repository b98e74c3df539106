/**
 * The verdict of the demo. Pure: what the client was told, what lies in the mailboxes and what the queue databases hold go in; checks
 * with everything that speaks against them come out. Believes nobody but the client, the files and the bytes of the databases: no
 * counter of the product is read. The rules are those of docs/guarantees.md.
 */
import { type Letter, letterIdOf, sha256, withoutTrace } from './letters.ts';

/** What the client saw. `none`: the session ended without a reply; `endSent`: the letter had been sent whole, so it may exist. */
export type Answer =
  | { readonly kind: 'accepted'; readonly id: string }
  | { readonly kind: 'refused'; readonly code: number; readonly text: string }
  | { readonly kind: 'none'; readonly endSent: boolean; readonly reason: string };

export interface Sent {
  readonly letter: Letter;
  /** Those whose RCPT was answered 250. */
  readonly recipients: readonly string[];
  /** Those whose RCPT was answered 4yz or 5yz. */
  readonly refusedRecipients: readonly string[];
  readonly answer: Answer;
  /** The front end it was sent to, or null when none could be reached. */
  readonly frontend: string | null;
  /** When MAIL was sent, and when the last reply came or the connection was lost; only to choose what is shown. */
  readonly startedAtMs: number;
  readonly endedAtMs: number;
}

export interface MailboxFile {
  readonly mailbox: string;
  readonly file: string;
  readonly bytes: Buffer;
}

/** One copy in one queue database, its body read out with `store export` and hashed by us. */
export interface DatabaseCopy {
  readonly member: string;
  readonly site: string;
  readonly id: string;
  readonly queue: string;
  /** SHA-256 of the exported body; null when it could not be read. */
  readonly digest: string | null;
}

export interface Evidence {
  readonly sent: readonly Sent[];
  readonly mailboxes: readonly MailboxFile[];
  readonly copies: readonly DatabaseCopy[];
}

export interface Check {
  readonly title: string;
  /** What was counted. */
  readonly finding: string;
  /** Everything that speaks against it; the check holds when this is empty. */
  readonly against: readonly string[];
}

const WAITING = new Set(['submission', 'delivery', 'unreachable', 'poison']);

interface Places {
  /** Files by letter and mailbox. */
  readonly files: ReadonlyMap<string, readonly MailboxFile[]>;
  readonly copiesById: ReadonlyMap<string, readonly DatabaseCopy[]>;
}

type Accepted = Sent & { readonly answer: { readonly kind: 'accepted'; readonly id: string } };
const isAccepted = (sent: Sent): sent is Accepted => sent.answer.kind === 'accepted';

const key = (letter: string, mailbox: string): string => `${letter} ${mailbox}`;

export function audit(evidence: Evidence): readonly Check[] {
  const files = Map.groupBy(evidence.mailboxes, (one) => key(letterIdOf(one.bytes) ?? '', one.mailbox));
  const copiesById = Map.groupBy(evidence.copies, (one) => one.id);
  const places: Places = { files, copiesById };
  return [
    somethingHappened(evidence.sent),
    everyAnswerKept(evidence.sent, places),
    bytesUnchanged(evidence),
    refusedNowhere(evidence.sent, places),
    indeterminateAtMostOnce(evidence.sent, places),
    nothingInvented(evidence),
    twoCopies(evidence.sent, places),
    copiesUnchanged(evidence.sent, places),
  ];
}

export const holds = (checks: readonly Check[]): boolean => checks.every((check) => check.against.length === 0);

/** A run in which next to nothing was accepted would pass all the others. */
function somethingHappened(sent: readonly Sent[]): Check {
  const wellFormed = sent.filter((one) => !one.letter.malformed);
  const accepted = wellFormed.filter(isAccepted).length;
  const enough = accepted > 0 && accepted * 2 >= wellFormed.length;
  const finding = `${accepted} of ${wellFormed.length} letters were answered 250`;
  return {
    title: 'Mail was accepted all the while',
    finding,
    against: enough ? [] : [`${finding}: too few to show anything`],
  };
}

const filesOf = (places: Places, sent: Sent, mailbox: string): readonly MailboxFile[] =>
  places.files.get(key(sent.letter.id, mailbox)) ?? [];

const waits = (places: Places, sent: Accepted): boolean =>
  (places.copiesById.get(sent.answer.id) ?? []).some((copy) => WAITING.has(copy.queue));

function everyAnswerKept(all: readonly Sent[], places: Places): Check {
  const against: string[] = [];
  let delivered = 0;
  let queued = 0;
  for (const sent of all.filter(isAccepted)) {
    for (const mailbox of sent.recipients) {
      const times = filesOf(places, sent, mailbox).length;
      if (times === 1) delivered += 1;
      else if (times > 1) against.push(`${sent.letter.id} is ${times} times in ${mailbox}`);
      else if (waits(places, sent)) queued += 1;
      else against.push(`${sent.letter.id} (${sent.answer.id}) is LOST for ${mailbox}: in no mailbox, in no queue`);
    }
  }
  return {
    title: 'Every 250 is accounted for, once',
    finding: `${delivered} delivered to a mailbox, ${queued} still queued`,
    against,
  };
}

function bytesUnchanged({ sent, mailboxes }: Evidence): Check {
  const byId = new Map(sent.map((one) => [one.letter.id, one.letter]));
  let compared = 0;
  let bytes = 0;
  const against = mailboxes.flatMap(({ mailbox, file, bytes: found }) => {
    const letter = byId.get(letterIdOf(found) ?? '');
    if (letter === undefined) return [];
    const content = withoutTrace(found);
    compared += 1;
    bytes += content.length;
    return sha256(content) === letter.digest ? [] : [`${letter.id} in ${mailbox} is not what was sent (${file})`];
  });
  return {
    title: 'Delivered byte for byte as sent',
    finding: `${compared} files, ${megabytes(bytes)}, SHA-256 compared`,
    against,
  };
}

function refusedNowhere(all: readonly Sent[], places: Places): Check {
  const refused = all.filter((one) => one.answer.kind === 'refused');
  const there = (sent: Sent, mailbox: string): boolean => filesOf(places, sent, mailbox).length > 0;
  const against = all.flatMap((sent) =>
    sent.answer.kind === 'refused'
      ? sent.letter.recipients
          .filter((mailbox) => there(sent, mailbox))
          .map((mailbox) => `${sent.letter.id} was ${describe(sent.answer)} and is in ${mailbox}`)
      : sent.refusedRecipients
          .filter((mailbox) => there(sent, mailbox))
          .map((mailbox) => `${sent.letter.id}: ${mailbox} was refused as a recipient and has it`),
  );
  const malformed = refused.filter((one) => one.letter.malformed).length;
  return {
    title: 'What was refused (4yz, 5yz) is nowhere',
    finding: `${refused.length} refused, ${malformed} of them malformed on purpose`,
    against,
  };
}

/** Without an answer the client must send again, so a letter may be there or not - but never twice, and not if it was never sent whole. */
function indeterminateAtMostOnce(all: readonly Sent[], places: Places): Check {
  const open = all.filter((one) => one.answer.kind === 'none');
  let letters = 0;
  const against: string[] = [];
  for (const sent of open) {
    const whole = sent.answer.kind === 'none' && sent.answer.endSent;
    const times = sent.letter.recipients.map((mailbox) => filesOf(places, sent, mailbox).length);
    if (times.some((n) => n > 0)) letters += 1;
    sent.letter.recipients.forEach((mailbox, i) => {
      const n = times[i] ?? 0;
      if (n > 1) against.push(`${sent.letter.id} was not answered and is ${n} times in ${mailbox}`);
      if (n > 0 && !whole) against.push(`${sent.letter.id} was never sent whole and is in ${mailbox}`);
    });
  }
  return {
    title: 'No answer: indeterminate, at most once',
    finding: `${open.length} cut off by the kills, ${letters} of them delivered`,
    against,
  };
}

export interface Open {
  readonly letter: string;
  readonly told: string;
  readonly found: string;
}

/** What became of each letter that got no answer; for people. */
export function indeterminate({ sent, mailboxes }: Evidence): readonly Open[] {
  return sent
    .filter((one) => one.answer.kind === 'none')
    .map(({ letter, answer }) => {
      const there = new Set(mailboxes.filter((one) => letterIdOf(one.bytes) === letter.id).map((one) => one.mailbox));
      const found = there.size === 0 ? 'not delivered' : `delivered to ${there.size} of ${letter.recipients.length}`;
      return { letter: letter.id, told: describe(answer), found };
    });
}

function nothingInvented({ sent, mailboxes }: Evidence): Check {
  const byId = new Map(sent.map((one) => [one.letter.id, one]));
  const against = mailboxes.flatMap(({ mailbox, file, bytes }) => {
    const known = byId.get(letterIdOf(bytes) ?? '');
    if (known === undefined) return [`${file} in ${mailbox} was not sent by us`];
    if (known.letter.recipients.includes(mailbox)) return [];
    return [`${known.letter.id} is in ${mailbox}, to whom it was not addressed`];
  });
  return { title: 'Nothing else is in a mailbox', finding: `${mailboxes.length} files looked at`, against };
}

/** Delivered: Primary and Shadow Safety Net. Still queued: the waiting copy and its shadow. */
function twoCopies(all: readonly Sent[], places: Places): Check {
  const against: string[] = [];
  let inSafetyNet = 0;
  let queued = 0;
  for (const sent of all.filter(isAccepted)) {
    const copies = places.copiesById.get(sent.answer.id) ?? [];
    const waiting = waits(places, sent);
    const primaries = copies.filter((one) => (waiting ? WAITING.has(one.queue) : one.queue === 'primarySafetyNet'));
    const shadows = copies.filter((one) => one.queue === (waiting ? 'shadow' : 'shadowSafetyNet'));
    const pairs = primaries.flatMap((first) => shadows.map((second) => ({ first, second })));
    const name = `${sent.letter.id} (${sent.answer.id})`;
    if (!pairs.some(({ first, second }) => first.member !== second.member)) {
      const where = copies.map((one) => `${one.queue}@${one.member}`).join(', ');
      against.push(`${name} is not on two databases: ${where || 'nowhere'}`);
    } else if (!pairs.some(({ first, second }) => first.site !== second.site)) {
      against.push(`${name} is on two databases of one site: ${pairs[0]?.first.site ?? ''}`);
    } else if (waiting) queued += 1;
    else inSafetyNet += 1;
  }
  return {
    title: 'Two copies, two databases, two sites',
    finding: `${inSafetyNet} in Primary + Shadow Safety Net, ${queued} queued`,
    against,
  };
}

function copiesUnchanged(all: readonly Sent[], places: Places): Check {
  let compared = 0;
  const against = all.filter(isAccepted).flatMap((sent) =>
    (places.copiesById.get(sent.answer.id) ?? []).flatMap((copy) => {
      compared += 1;
      if (copy.digest === sent.letter.digest) return [];
      const what = copy.digest === null ? 'cannot be read' : 'is not what was sent';
      return [`${sent.letter.id} (${copy.id}) on ${copy.member} ${what}`];
    }),
  );
  return {
    title: 'Both copies hold the bytes sent',
    finding: `${compared} exported bodies, SHA-256 compared`,
    against,
  };
}

export function describe(answer: Answer): string {
  switch (answer.kind) {
    case 'accepted':
      return `accepted as ${answer.id}`;
    case 'refused':
      return `refused with ${answer.code} ${answer.text}`;
    case 'none':
      return answer.endSent ? `sent whole, not answered (${answer.reason})` : `not sent whole (${answer.reason})`;
  }
}

export const megabytes = (bytes: number): string => `${(bytes / 1_000_000).toFixed(1)} MB`;
