/** What a client hears when no shadow could be had (semantics.md R4, R10): the resource where room is all that lacks, else that it could not be made redundant. */
import { describe, expect, test } from 'vitest';
import type { Reply } from '../../common/message.ts';
import { reply } from '../../common/smtp/replies.ts';
import { CoreBench, OTHER, PEER } from './core-bench.ts';

const ALPHA = 'alpha-0@sim.example';
const words = (said: Reply | null | undefined): string =>
  said == null ? '-' : `${said.code} ${said.enhanced} ${said.text}`;
const FULL = reply('backPressure', { resource: 'disk' });
const NO_ROOM = '452 4.3.1 Insufficient system resources: disk';
const NO_SHADOW = '451 4.4.0 Message failed to be made redundant';

function benchWith(...members: readonly string[]): CoreBench {
  const bench = new CoreBench({ members: members.length === 1 ? 2 : 3 });
  for (const member of members) bench.join(member);
  return bench;
}

/** The candidate of now says no. */
function refuse(bench: CoreBench, refusal: Reply): void {
  const { member, id, attempt } = bench.lastSeen('OpenCandidate');
  bench.event({ kind: 'CandidateRefused', member, id, attempt, held: false, refusal });
}

describe('before the body', () => {
  test('all others have no room: which resource, of each of them', () => {
    const bench = benchWith(PEER, OTHER);
    bench.contact(PEER, { backPressure: 'High', pressedBy: 'disk, memory' });
    bench.contact(OTHER, { backPressure: 'Medium', pressedBy: 'disk' });
    bench.open('M1', [ALPHA]);
    expect(words(bench.seen('RefuseStream').at(-1)?.refuse.reply)).toBe(
      '452 4.3.1 Insufficient system resources: disk, memory',
    );
  });

  test('one takes nothing for another reason, or nobody is there', () => {
    const bench = benchWith(PEER, OTHER);
    bench.contact(PEER, { backPressure: 'High', pressedBy: 'disk' });
    bench.contact(OTHER, { accepting: false });
    bench.open('M1', [ALPHA]);
    const alone = new CoreBench();
    alone.open('M1', [ALPHA]);
    expect([bench, alone].map((one) => words(one.seen('RefuseStream').at(-1)?.refuse.reply))).toEqual([
      NO_SHADOW,
      NO_SHADOW,
    ]);
  });
});

test.each([
  ['for want of room', [FULL, FULL], NO_ROOM],
  ['one of them otherwise', [reply('localError'), FULL], NO_SHADOW],
])('while the body comes, both candidates refuse, %s', (_, refusals, expected) => {
  const bench = benchWith(PEER, OTHER);
  bench.open('M1', [ALPHA]);
  for (const refusal of refusals) refuse(bench, refusal);
  expect(words(bench.seen('RefuseStream').at(-1)?.refuse.reply)).toBe(expected);
});

test('after the end of data its candidate found no room for the rest: aborted, then said with the resource', () => {
  const bench = benchWith(PEER);
  const stream = bench.open('M1', [ALPHA]);
  const { member, id, attempt, state } = bench.candidateOpened();
  bench.end(stream);
  const result = { id, epoch: state.epoch, outcome: 'refused', digest: null, reply: FULL } as const;
  bench.event({ kind: 'CandidateResult', member, id, attempt, result });
  // Once more, as long as there is time.
  for (let times = 0; bench.seen('AnswerStream').length === 0 && times < 5; times += 1) refuse(bench, FULL);
  const { outcome, reply: said } = bench.seen('AnswerStream').at(-1)?.result ?? {};
  expect([outcome, words(said)]).toEqual(['refused', NO_ROOM]);
});
