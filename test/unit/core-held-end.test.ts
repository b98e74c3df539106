/** protocol.md 6a: a peer that leaves an END unanswered gets no new one - and a moment's pause of the only other disk refuses no mail. */
import { describe, expect, test } from 'vitest';
import { CoreBench, PEER } from './core-bench.ts';

const ALPHA = 'alpha-0@sim.example';
const ends = (bench: CoreBench): readonly string[] => bench.seen('EndCandidate').map((effect) => effect.id);

describe('the only other member is slow to answer', () => {
  function stalled(): { readonly bench: CoreBench; readonly first: ReturnType<CoreBench['candidateOpened']> } {
    const bench = new CoreBench();
    bench.join(PEER);
    const stream = bench.open('M1', [ALPHA]);
    const first = bench.candidateOpened();
    bench.end(stream);
    bench.pass(700);
    const second = bench.open('M2', [ALPHA]);
    bench.candidateOpened();
    bench.end(second);
    return { bench, first };
  }

  test('the next message is taken, its END waits, and goes when the answer comes', () => {
    const { bench, first } = stalled();
    expect(bench.seen('RefuseStream')).toEqual([]);
    expect(ends(bench)).toEqual(['M1']);
    bench.candidateStored(first);
    expect(ends(bench)).toEqual(['M1', 'M2']);
  });

  test('no answer at all: the second is refused without ever having been sent an END', () => {
    const { bench } = stalled();
    bench.pass(60_000);
    const answers = bench.seen('AnswerStream').filter((effect) => effect.result.id === 'M2');
    expect(answers.map((effect) => effect.result.outcome)).toEqual(['refused']);
    expect(bench.sent('RESOLVE').filter(({ frame }) => frame.resolve.id === 'M2')).toEqual([]);
  });
});
