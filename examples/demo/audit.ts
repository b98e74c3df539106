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
  readonly kind: 'message' | 'dsn' | 'resubmission';
  /** Of a resubmission: the id that was answered to the client. */
  readonly ancestor: string | null;
  /** Identity of the queue database whose it is. */
  readonly owner: string;
  /** SHA-256 of the exported body; null when it could not be read. */
  readonly digest: string | null;
}

/** What lay on the disk that was destroyed, read from the disk itself before it was thrown away. */
export interface Destroyed {
  readonly member: string;
  readonly identity: string;
  readonly copies: readonly DatabaseCopy[];
}

/** Letters in mailboxes as `letter mailbox`, at the moment of the failover. */
export interface Failover {
  readonly lost: readonly string[];
  readonly stale: readonly string[];
  /** Names and states of the resubmit requests. */
  readonly requests: readonly { readonly name: string; readonly state: string }[];
}

export interface Evidence {
  readonly sent: readonly Sent[];
  /** Of the copy of the mailbox database that is active at the end, and of no other. */
  readonly mailboxes: readonly MailboxFile[];
  readonly copies: readonly DatabaseCopy[];
  readonly destroyed: Destroyed;
  readonly failover: Failover;
  readonly drained: Drained;
}

/** A member that was taken out of service, and what it had before, read from its database. */
export interface Drained {
  readonly member: string;
  readonly had: readonly string[];
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

/** `letter mailbox` of each file. */
export const keysOf = (files: readonly MailboxFile[]): readonly string[] =>
  files.map((one) => key(letterIdOf(one.bytes) ?? one.file, one.mailbox));

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
    takenOver(evidence, places),
    broughtBack(evidence, places),
    twoCopies(evidence, places),
    copiesUnchanged(evidence),
    drainedEmpty(evidence),
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

/** What the destroyed disk still had to deliver: delivered, and now somebody else's. */
function takenOver({ destroyed, copies }: Evidence, places: Places): Check {
  const held = undelivered(destroyed);
  const against = held.flatMap(({ id }) => {
    const rest = (places.copiesById.get(id) ?? []).filter((copy) => copy.queue === 'primarySafetyNet');
    if (rest.some((copy) => copy.owner !== destroyed.identity)) return [];
    const where = (places.copiesById.get(id) ?? []).map((copy) => `${copy.queue}@${copy.member}`).join(', ');
    return [`${id} was on the destroyed disk and nobody has processed it: ${where || 'nowhere'}`];
  });
  const left = copies.filter((copy) => copy.owner === destroyed.identity).map((copy) => copy.id);
  return {
    title: 'Taken over from the destroyed disk',
    finding: `${held.length} undelivered letters are delivered by others`,
    against: [
      ...(held.length === 0 ? ['the destroyed disk had nothing to deliver: this shows nothing'] : []),
      ...against,
      ...left.map((id) => `${id} still belongs to the queue database that is gone`),
    ],
  };
}

/** In transit, and its own. */
export const undelivered = ({ identity, copies }: Destroyed): readonly DatabaseCopy[] =>
  copies.filter((copy) => WAITING.has(copy.queue) && copy.owner === identity);

export function missingAtFailover({ lost, stale }: Failover): readonly string[] {
  const there = new Set(stale);
  return [...new Set(lost)].filter((one) => !there.has(one));
}

function broughtBack({ failover }: Evidence, places: Places): Check {
  const missing = missingAtFailover(failover);
  const against = missing.flatMap((one) => {
    const times = places.files.get(one)?.length ?? 0;
    return times === 1 ? [] : [`${one}: in the copy that was lost, and ${times} times in the one that is active`];
  });
  const open = failover.requests.filter(({ state }) => state !== 'Completed');
  return {
    title: 'Brought back by Safety Net, once',
    finding: `${missing.length} deliveries that the stale copy had never seen`,
    against: [
      ...(missing.length === 0 ? ['the copy was not stale: this shows nothing'] : []),
      ...(failover.requests.length === 0 ? ['nobody has asked for a resubmission'] : []),
      ...open.map(({ name, state }) => `resubmit request ${name} is ${state}`),
      ...against,
    ],
  };
}

/**
 * Of each id: delivered: Primary and Shadow Safety Net. Still queued: the waiting copy and its shadow. Two sites are promised for what a
 * client sends; what a drain moved or Safety Net sent again may have both copies in one, and is counted.
 */
function twoCopies({ sent, copies, drained }: Evidence, places: Places): Check {
  const names = new Map(sent.filter(isAccepted).map(({ letter, answer }) => [answer.id, letter.id]));
  const anywhere = new Set(drained.had);
  for (const { kind, id, ancestor } of copies) {
    if (kind !== 'resubmission') continue;
    names.set(id, `resubmission of ${names.get(ancestor ?? '') ?? ancestor}`);
    anywhere.add(id);
  }
  const counts = { rest: 0, queued: 0, oneSite: 0 };
  const against = [...names].flatMap(([id, name]) => {
    const found = places.copiesById.get(id) ?? [];
    const problem = pairProblem(found);
    if (found.some((one) => WAITING.has(one.queue))) counts.queued += 1;
    else if (problem?.kind !== 'one database') counts.rest += 1;
    if (problem?.kind === 'one site') counts.oneSite += 1;
    if (problem === null || (problem.kind === 'one site' && anywhere.has(id))) return [];
    return [`${name} (${id}) is ${problem.words}`];
  });
  const apart = counts.oneSite === 0 ? '' : ` (${counts.oneSite} in one site)`;
  return {
    title: 'Two copies, two databases, two sites',
    finding: `${counts.rest} in both Safety Nets${apart}, ${counts.queued} queued`,
    against,
  };
}

export interface PairProblem {
  readonly kind: 'one database' | 'one site';
  readonly words: string;
}

/** Null: as it was promised. */
export function pairProblem(copies: readonly DatabaseCopy[]): PairProblem | null {
  const waiting = copies.some((copy) => WAITING.has(copy.queue));
  const primaries = copies.filter((one) => (waiting ? WAITING.has(one.queue) : one.queue === 'primarySafetyNet'));
  const shadows = copies.filter((one) => one.queue === (waiting ? 'shadow' : 'shadowSafetyNet'));
  const pairs = primaries.flatMap((first) => shadows.map((second) => ({ first, second })));
  const where = copies.map((one) => `${one.queue}@${one.member}`).join(', ');
  if (!pairs.some(({ first, second }) => first.member !== second.member))
    return { kind: 'one database', words: `not on two databases: ${where || 'nowhere'}` };
  if (!pairs.some(({ first, second }) => first.site !== second.site))
    return { kind: 'one site', words: `in one site only: ${where}` };
  return null;
}

function copiesUnchanged({ sent, copies }: Evidence): Check {
  const letters = new Map(sent.filter(isAccepted).map(({ letter, answer }) => [answer.id, letter]));
  // One that was not answered has no id that we know; its bytes must be those of a letter all the same.
  const digests = new Set(sent.map(({ letter }) => letter.digest));
  const against = copies.flatMap(({ id, ancestor, member, kind, digest }) => {
    if (kind === 'dsn') return [`${id} on ${member} is a report to the sender: no letter failed`];
    const letter = letters.get(ancestor ?? id);
    if (digest !== null && (letter === undefined ? digests.has(digest) : letter.digest === digest)) return [];
    return [
      `${letter?.id ?? 'a letter'} (${id}) on ${member} ${digest === null ? 'cannot be read' : 'is not what was sent'}`,
    ];
  });
  return {
    title: 'Every copy holds the bytes sent',
    finding: `${copies.length} exported bodies, SHA-256 compared`,
    against,
  };
}

function drainedEmpty({ copies, drained }: Evidence): Check {
  const left = copies.filter((copy) => copy.member === drained.member);
  return {
    title: 'The drained transport had nothing left',
    finding: `${drained.had.length} copies before, ${left.length} now`,
    against: left.map((copy) => `${copy.id} is still in ${copy.queue} of ${drained.member}`),
  };
}

/** The balance in the words of the field, each number counted here and now. */
export function tally(evidence: Evidence): readonly (readonly [string, number])[] {
  const { sent, mailboxes, copies, destroyed, failover } = evidence;
  const files = Map.groupBy(keysOf(mailboxes), (one) => one);
  const accepted = sent.filter(isAccepted);
  const wanted = accepted.flatMap(({ letter, recipients }) => recipients.map((mailbox) => key(letter.id, mailbox)));
  const paired = [...Map.groupBy(copies, (one) => one.id).values()].map((one) => pairProblem(one)?.kind);
  const resubmitted = new Set(copies.flatMap(({ kind, id }) => (kind === 'resubmission' ? [id] : [])));
  return [
    ['letters sent', sent.length],
    ['answered 250', accepted.length],
    ['deliveries owed', wanted.length],
    ['in the active mailboxes', wanted.filter((one) => files.has(one)).length],
    ['missing', wanted.filter((one) => !files.has(one)).length],
    ['visible duplicates', [...files.values()].reduce((sum, times) => sum + times.length - 1, 0)],
    ['taken over', undelivered(destroyed).length],
    ['missing from the stale copy', missingAtFailover(failover).length],
    ['resubmitted', resubmitted.size],
    ['messages with two copies at rest', paired.filter((one) => one !== 'one database').length],
    ['messages with fewer', paired.filter((one) => one === 'one database').length],
  ];
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
