/** What message tracking is told by the core beside the obvious: what was found at the start, what was not sent a second time, who was put off and who came to what end. */
import { expect, test } from 'vitest';
import { A, B, CoreBench, epochOf, factsOf, PEER, pending, stateOf } from './core-bench.ts';

const QUEUED = stateOf({
  queue: 'delivery',
  recipients: [pending('x@far.example')],
  placements: [{ identity: B, member: PEER, epoch: epochOf(A), status: 'confirmed' }],
});

const eventsOf = (bench: CoreBench, wanted: string): readonly string[] =>
  bench.seen('Track').flatMap(({ event, id }) => (event === wanted ? [id] : []));

test('each message found at the start is told once, a part of them each second', () => {
  const ids = Array.from({ length: 1_200 }, (_, n) => `M${n}`);
  const bench = new CoreBench({ stored: ids.map((id) => ({ facts: factsOf(id), state: QUEUED })) });
  expect(eventsOf(bench, 'LOAD')).toEqual([]);
  const told = [1, 2, 3, 4].map(() => {
    bench.pass(1_000);
    return eventsOf(bench, 'LOAD').length;
  });
  expect(told).toEqual([500, 1_000, 1_200, 1_200]);
  expect(new Set(eventsOf(bench, 'LOAD'))).toEqual(new Set(ids));
});

test.each([
  [{ isRepeat: true }, 'DUPLICATEDELIVER'],
  [{}, 'SEND'],
] as const)('what is relayed with %j is %s', (more, event) => {
  const bench = new CoreBench();
  bench.join(PEER);
  bench.accept('M1', ['x@far.example']);
  bench.delivered(bench.lastSeen('Deliver'), [{ index: 0, kind: 'relayed', reply: '250 ok', ...more }]);
  const told = bench.seen('Track').filter(({ addresses }) => addresses !== undefined);
  expect(told).toMatchObject([{ event, id: 'M1', addresses: ['x@far.example'] }]);
});

const FOUR = ['a@far.example', 'b@far.example', 'c@far.example', 'd@far.example'];

function accepted(recipients: readonly string[]): CoreBench {
  const bench = new CoreBench();
  bench.join(PEER);
  bench.accept('M1', recipients);
  return bench;
}

test('who was put off is told with what was said of them, one record for each reply, and nobody else', () => {
  const bench = accepted(FOUR);
  bench.delivered(bench.lastSeen('Deliver'), [
    { index: 0, kind: 'relayed', reply: '250 ok' },
    { index: 1, kind: 'deferred', reply: '450 4.7.1 greylisted', host: false },
    { index: 2, kind: 'deferred', reply: '452 4.2.2 over quota', host: false },
    { index: 3, kind: 'deferred', reply: '450 4.7.1 greylisted', host: false },
  ]);
  const told = bench.seen('Track').filter(({ event }) => event === 'DEFER');
  expect(told.map(({ addresses, detail, peer }) => [addresses, detail, peer])).toEqual([
    [['b@far.example', 'd@far.example'], '450 4.7.1 greylisted', 'connector:internet'],
    [['c@far.example'], '452 4.2.2 over quota', 'connector:internet'],
  ]);
});

test('where the next hop is down all that go there are put off for one reason', () => {
  const bench = accepted(FOUR.slice(0, 2));
  bench.delivered(
    bench.lastSeen('Deliver'),
    [0, 1].map((index) => ({ index, kind: 'unknown', reason: 'connection refused' }) as const),
  );
  const told = bench.seen('Track').filter(({ event }) => event === 'DEFER');
  expect(told).toMatchObject([{ addresses: FOUR.slice(0, 2), detail: 'connection refused' }]);
});
