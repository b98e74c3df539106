/** The verdict of `make demo`, run against evidence that was tampered with: every kind of loss, surplus and damage must fail it. */
import { describe, expect, it } from 'vitest';
import {
  type Answer,
  audit,
  type DatabaseCopy,
  type Destroyed,
  type Evidence,
  holds,
  indeterminate,
  keysOf,
  type MailboxFile,
  type Sent,
  tally,
} from '../../examples/demo/audit.ts';
import { letterIdOf, withoutTrace, writeLetter } from '../../examples/demo/letters.ts';
import { chooseTraced } from '../../examples/demo/timeline.ts';

const TRACE = [
  'Return-Path: <postcards@example.org>',
  'Delivered-To: somebody@example.com',
  'Received: from demo.example.org',
  '\tby a; Mon, 23 Nov 2026 06:00:35 +0000',
  'X-MailCluster-Delivery: 1',
  '',
].join('\r\n');

function sent(number: number, answer: Answer = { kind: 'accepted', id: `ID${number}` }): Sent {
  const letter = writeLetter(number, 'example.com');
  const times = { startedAtMs: number, endedAtMs: number + 1 };
  return { letter, recipients: letter.recipients, refusedRecipients: [], answer, frontend: 'fe', ...times };
}

const filesOf = ({ letter }: Sent): MailboxFile[] =>
  letter.recipients.map((mailbox) => ({
    mailbox,
    file: `${letter.id}.${mailbox}`,
    bytes: Buffer.concat([Buffer.from(TRACE), letter.content]),
  }));

function copiesOf({ letter, answer }: Sent): DatabaseCopy[] {
  if (answer.kind !== 'accepted') return [];
  const copy = (member: string, site: string, queue: string): DatabaseCopy => ({
    member,
    site,
    id: answer.id,
    queue,
    kind: 'message',
    ancestor: null,
    owner: 'DATABASE-S0',
    digest: letter.digest,
  });
  return [copy('s0', 'seattle', 'primarySafetyNet'), copy('p0', 'portland', 'shadowSafetyNet')];
}

interface Story extends Evidence {
  readonly sent: Sent[];
  readonly mailboxes: MailboxFile[];
  readonly copies: DatabaseCopy[];
}

const GONE = 'DATABASE-P1';

/**
 * Letters 2 to 7, all answered 250, delivered and in both Safety Nets. Letter 3 had to be taken over from p1, whose disk is gone; the stale
 * copy had only letter 2, so that all others were resubmitted; s9 was drained of letter 7.
 */
function honest(): Story {
  const all = [2, 3, 4, 5, 6, 7].map((number) => sent(number));
  const mailboxes = all.flatMap(filesOf);
  const copies = all.flatMap(copiesOf);
  const again = copies.flatMap((copy): DatabaseCopy[] =>
    copy.id === 'ID2' ? [] : [{ ...copy, id: `again-${copy.id}`, kind: 'resubmission', ancestor: copy.id }],
  );
  const held = copies.slice(2, 3).map((copy) => ({ ...copy, member: 'p1', queue: 'delivery', owner: GONE }));
  const destroyed: Destroyed = { member: 'p1', identity: GONE, copies: held };
  const lost = keysOf(mailboxes);
  const failover = {
    lost,
    stale: lost.filter((one) => one.startsWith('letter-0003')),
    requests: [{ name: 'db01-failover-2', state: 'Completed' }],
  };
  return {
    sent: all,
    mailboxes,
    copies: [...copies, ...again],
    destroyed,
    failover,
    drained: { member: 's9', had: ['ID7'] },
  };
}

/** Titles of the checks that do not hold. */
const failing = (evidence: Evidence): string[] =>
  audit(evidence)
    .filter((check) => check.against.length > 0)
    .map((check) => check.title);

const ACCOUNTED = 'Every 250 is accounted for, once';
const TWO_COPIES = 'Two copies, two databases, two sites';
const REFUSED = 'What was refused (4yz, 5yz) is nowhere';
const OPEN = 'No answer: indeterminate, at most once';
const COPIES = 'Every copy holds the bytes sent';
const TAKEN_OVER = 'Taken over from the destroyed disk';
const BACK = 'Brought back by Safety Net, once';
const DRAINED = 'The drained transport had nothing left';

describe('the letters', () => {
  it('are found again under trace fields, also folded ones, and have the sizes they say', () => {
    const letter = writeLetter(1, 'example.com');
    const file = Buffer.concat([Buffer.from(TRACE), letter.content]);
    expect(withoutTrace(file).equals(letter.content)).toBe(true);
    expect(letterIdOf(file)).toBe(letter.id);
    expect(letter.content.length).toBe(1_048_576);
    expect(new Set(letter.recipients).size).toBe(letter.recipients.length);
  });
});

describe('the verdict', () => {
  it('holds for an honest run', () => {
    expect(holds(audit(honest()))).toBe(true);
  });

  it('holds for a letter that is still queued, with its shadow', () => {
    const one = honest();
    const queued = one.copies.map((copy) =>
      copy.id !== 'ID2' ? copy : { ...copy, queue: copy.queue === 'primarySafetyNet' ? 'delivery' : 'shadow' },
    );
    const mailboxes = one.mailboxes.filter((file) => !file.file.startsWith('letter-0003'));
    expect(failing({ ...one, mailboxes, copies: queued })).toEqual([]);
  });

  it('fails when one mailbox of one letter misses it', () => {
    const one = honest();
    expect(failing({ ...one, mailboxes: one.mailboxes.slice(1) })).toEqual([ACCOUNTED]);
  });

  it('fails when a letter is in a mailbox twice', () => {
    const one = honest();
    expect(failing({ ...one, mailboxes: [...one.mailboxes, ...one.mailboxes.slice(0, 1)] })).toEqual([ACCOUNTED]);
  });

  it('fails on one changed byte, one missing byte, one byte more', () => {
    const changes: ((bytes: Buffer) => Buffer)[] = [
      (bytes) => Buffer.concat([bytes.subarray(0, -4), Buffer.from('!'), bytes.subarray(-3)]),
      (bytes) => bytes.subarray(0, -1),
      (bytes) => Buffer.concat([bytes, Buffer.from('\n')]),
      (bytes) => Buffer.concat([Buffer.from('X-Spam: no\r\n'), bytes]),
    ];
    for (const change of changes) {
      const one = honest();
      const mailboxes = one.mailboxes.map((file, i) => (i === 3 ? { ...file, bytes: change(file.bytes) } : file));
      expect(failing({ ...one, mailboxes })).toEqual(['Delivered byte for byte as sent']);
    }
  });

  it('fails when a letter is on one database only, on one twice, or in one site', () => {
    const one = honest();
    expect(failing({ ...one, copies: one.copies.slice(1) })).toEqual([TWO_COPIES]);
    expect(failing({ ...one, copies: one.copies.slice(0, -1) })).toEqual([TWO_COPIES]);
    const together = one.copies.map((copy) => (copy.id === 'ID4' ? { ...copy, member: 's0', site: 'seattle' } : copy));
    expect(failing({ ...one, copies: together })).toEqual([TWO_COPIES]);
    const neighbours = one.copies.map((copy) =>
      copy.id === 'ID4' && copy.member === 'p0' ? { ...copy, member: 's1', site: 'seattle' } : copy,
    );
    expect(failing({ ...one, copies: neighbours })).toEqual([TWO_COPIES]);
  });

  it('fails when the second copy is still a shadow although the letter was delivered', () => {
    const one = honest();
    const copies = one.copies.map((copy) => (copy.queue === 'shadowSafetyNet' ? { ...copy, queue: 'shadow' } : copy));
    expect(failing({ ...one, copies })).toEqual([TWO_COPIES]);
  });

  it('fails when a stored copy has other bytes or cannot be read', () => {
    for (const digest of ['00', null]) {
      const one = honest();
      const copies = one.copies.map((copy, i) => (i === 2 ? { ...copy, digest } : copy));
      expect(failing({ ...one, copies })).toEqual([COPIES]);
    }
  });

  it('fails when a refused letter, or one for a refused recipient, was delivered', () => {
    const one = honest();
    const refused = sent(8, { kind: 'refused', code: 451, text: '4.4.0 no' });
    expect(failing({ ...one, sent: [...one.sent, refused] })).toEqual([]);
    expect(
      failing({ ...one, sent: [...one.sent, refused], mailboxes: [...one.mailboxes, ...filesOf(refused).slice(0, 1)] }),
    ).toEqual([REFUSED]);
    const [first, ...others] = one.sent;
    if (first === undefined) throw new Error('no letter');
    const partly = { ...first, recipients: [], refusedRecipients: first.letter.recipients };
    expect(failing({ ...one, sent: [partly, ...others] })).toEqual([REFUSED]);
  });

  it('lets a letter without an answer be there once or not at all, never twice', () => {
    const one = honest();
    const open = sent(8, { kind: 'none', endSent: true, reason: 'closed' });
    const all = [...one.sent, open];
    expect(failing({ ...one, sent: all })).toEqual([]);
    const once = { ...one, sent: all, mailboxes: [...one.mailboxes, ...filesOf(open)] };
    expect(failing(once)).toEqual([]);
    expect(indeterminate(once)[0]?.found).toMatch(/^delivered to/);
    expect(failing({ ...once, mailboxes: [...once.mailboxes, ...filesOf(open)] })).toEqual([OPEN]);
  });

  it('fails when a letter that was never sent whole is there', () => {
    const one = honest();
    const broken = sent(8, { kind: 'none', endSent: false, reason: 'closed' });
    const mailboxes = [...one.mailboxes, ...filesOf(broken)];
    expect(failing({ ...one, sent: [...one.sent, broken], mailboxes })).toEqual([OPEN]);
  });

  it('fails when something is in a mailbox that nobody sent there', () => {
    const one = honest();
    const [file] = one.mailboxes;
    if (file === undefined) throw new Error('no file');
    const title = ['Nothing else is in a mailbox'];
    expect(failing({ ...one, mailboxes: [...one.mailboxes, { ...file, mailbox: 'eve@example.com' }] })).toEqual(title);
    const foreign = { ...file, bytes: Buffer.from('Subject: hello\r\n\r\n') };
    expect(failing({ ...one, mailboxes: [...one.mailboxes, foreign] })).toEqual(title);
  });

  it('fails when next to nothing was accepted', () => {
    const all = [2, 3, 4].map((number) => sent(number, { kind: 'refused', code: 451, text: '4.4.0 no' }));
    const nothing = { sent: all, mailboxes: [], copies: [] };
    expect(failing({ ...honest(), ...nothing })).toContain('Mail was accepted all the while');
    expect(holds(audit({ ...honest(), ...nothing, sent: [] }))).toBe(false);
  });
});

describe('the verdict on losses', () => {
  it("fails when what the destroyed disk had to deliver is nobody's, or still belongs to the database that is gone", () => {
    const one = honest();
    const mine = one.copies.map((copy) => (copy.id === 'ID3' ? { ...copy, owner: GONE } : copy));
    expect(failing({ ...one, copies: mine })).toEqual([TAKEN_OVER]);
    const gone = one.copies.filter((copy) => copy.id !== 'ID3');
    expect(failing({ ...one, copies: gone })).toEqual([TAKEN_OVER, TWO_COPIES]);
  });

  it('fails when the disk held nothing to take over, or the copy was not stale: then nothing was shown', () => {
    const one = honest();
    expect(failing({ ...one, destroyed: { ...one.destroyed, copies: [] } })).toEqual([TAKEN_OVER]);
    expect(failing({ ...one, failover: { ...one.failover, stale: one.failover.lost } })).toEqual([BACK]);
  });

  it('fails when a letter of the lost copy is not back, or back twice, also one nobody was answered for', () => {
    const one = honest();
    expect(failing({ ...one, mailboxes: one.mailboxes.slice(0, -1) })).toEqual([ACCOUNTED, BACK]);
    expect(failing({ ...one, mailboxes: [...one.mailboxes, ...one.mailboxes.slice(-1)] })).toEqual([ACCOUNTED, BACK]);
    const open = sent(8, { kind: 'none', endSent: true, reason: 'closed' });
    const lost = [...one.failover.lost, ...keysOf(filesOf(open))];
    expect(failing({ ...one, sent: [...one.sent, open], failover: { ...one.failover, lost } })).toEqual([BACK]);
  });

  it('fails when nobody asked for the resubmission, or it is not complete', () => {
    const one = honest();
    for (const requests of [[], [{ name: 'db01-failover-2', state: 'Partial' }]])
      expect(failing({ ...one, failover: { ...one.failover, requests } })).toEqual([BACK]);
  });

  it('fails when a resubmitted copy is alone or changed, and for a report to the sender', () => {
    const one = honest();
    expect(failing({ ...one, copies: one.copies.slice(0, -1) })).toEqual([TWO_COPIES]);
    const changed = one.copies.map((copy) => (copy.kind === 'resubmission' ? { ...copy, digest: '00' } : copy));
    expect(failing({ ...one, copies: changed })).toEqual([COPIES]);
    const reports = one.copies.slice(0, 2).map((copy): DatabaseCopy => ({ ...copy, id: 'REPORT', kind: 'dsn' }));
    expect(failing({ ...one, copies: [...one.copies, ...reports] })).toEqual([COPIES]);
  });

  it('fails when the drained transport kept a copy', () => {
    const one = honest();
    const kept = one.copies.slice(-1).map((copy) => ({ ...copy, member: 's9' }));
    expect(failing({ ...one, copies: [...one.copies, ...kept] })).toEqual([DRAINED]);
  });

  it('forgives one site for both copies only to what was drained or sent again', () => {
    const one = honest();
    const together = (id: string): DatabaseCopy[] =>
      one.copies.map((copy) => (copy.id === id ? { ...copy, site: 'seattle' } : copy));
    expect(failing({ ...one, copies: together('ID7') })).toEqual([]);
    expect(failing({ ...one, copies: together('again-ID4') })).toEqual([]);
    expect(failing({ ...one, copies: together('ID4') })).toEqual([TWO_COPIES]);
  });

  it('counts what it says', () => {
    const one = honest();
    const owed = one.sent.reduce((sum, { recipients }) => sum + recipients.length, 0);
    const numbers = Object.fromEntries(tally({ ...one, mailboxes: one.mailboxes.slice(1) }));
    expect(numbers).toMatchObject({ 'letters sent': 6, 'answered 250': 6, 'deliveries owed': owed, missing: 1 });
    expect(numbers).toMatchObject({ 'in the active mailboxes': owed - 1, 'visible duplicates': 0, 'taken over': 1 });
    expect(numbers).toMatchObject({ resubmitted: 5, 'messages with two copies at rest': 11, 'messages with fewer': 0 });
  });
});

it('the traced message is the last one answered of those that were on their way at the kill', () => {
  const at = (number: number, startedAtMs: number, endedAtMs: number): Sent => ({
    ...sent(number),
    startedAtMs,
    endedAtMs,
  });
  const all = [at(2, 0, 900), at(3, 10, 2_500), at(4, 20, 2_600), at(5, 1_500, 9_000)];
  expect(chooseTraced(all, 1_000)).toBe('ID4');
  expect(chooseTraced(all, 10_000)).toBe('ID5');
  expect(chooseTraced([], 1_000)).toBeNull();
});
