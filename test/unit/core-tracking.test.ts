/** What message tracking is told by the core beside the obvious: what was found at the start, what was not sent a second time, who was put off and who came to what end. */
import { expect, test } from 'vitest';
import type { DeliveryResult } from '../../transport/core/events.ts';
import { A, B, CoreBench, copyId, epochOf, factsOf, PEER, pending, stateOf } from './core-bench.ts';

const HOUR_MS = 3_600_000;

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

const endsIn = (bench: CoreBench, wanted: string) =>
  bench.seen('Track').flatMap(({ event, addresses, detail }) => (event === wanted ? [[addresses, detail]] : []));

test.each([
  ['ann@far.example', 'with a report'],
  ['', 'without one'],
])('whom nobody knows has failed with the reason, sender <%s> (%s)', (from) => {
  const bench = new CoreBench();
  bench.join(PEER);
  bench.accept('M1', ['nobody@sim.example', 'x@far.example'], { from });
  expect(endsIn(bench, 'FAIL')).toEqual([[['nobody@sim.example'], '550 5.1.1 Mailbox unknown']]);
});

test('what is larger than any way out takes has failed with the reason', () => {
  const bench = new CoreBench({
    document: (document) => ({
      ...document,
      sendConnectors: document.sendConnectors.map((connector) => ({
        ...connector,
        sendLimits: { maxMessageBytes: 5, maxConcurrentDeliveries: null, messagesPerMinute: null },
      })),
    }),
  });
  bench.join(PEER);
  bench.accept('M1', ['x@far.example']);
  expect(endsIn(bench, 'FAIL')).toEqual([[['x@far.example'], expect.stringMatching(/^552 5\.3\.4 /)]]);
});

test('larger than any path takes: whoever is behind it has failed with 5.3.4 and the sender hears it, the others get it', () => {
  const bench = new CoreBench({
    shape: { sites: [2, 2, 2], dag: false, hubs: [1] },
    document: (document) => ({
      ...document,
      siteLinks: document.siteLinks?.map((link) => ({ ...link, maxMessageBytes: 5 })) ?? [],
    }),
  });
  bench.join(PEER);
  bench.accept('M1', ['alpha-1@sim.example', 'beta-1@sim.example']);
  const reply = expect.stringMatching(/^552 5\.3\.4 every path from site-0 to .* takes at most 5 bytes, this is 10$/);
  expect(endsIn(bench, 'FAIL')).toEqual([[['beta-1@sim.example'], reply]]);
  expect(bench.seen('ComposeDsn')).toMatchObject([{ dsn: 'failed', recipient: 1, parent: 'M1' }]);
  expect(bench.seen('Deliver').map(({ recipients }) => recipients)).toEqual([[0]]);
});

test('who expires is told each with why: what was said last, or that no way was known', () => {
  const later = { retryIntervalsMs: [HOUR_MS], mailboxRetryIntervalMs: HOUR_MS };
  const bench = new CoreBench({
    shape: { withoutConnector: true },
    queues: { messageExpirationMs: 60_000, delayNotificationMs: HOUR_MS, ...later },
  });
  bench.join(PEER);
  bench.accept('M1', ['x@far.example', 'alpha-1@sim.example', 'beta-1@sim.example', 'alpha-2@sim.example']);
  // Nobody answers for beta, however often it is tried.
  for (let second = 0; second < 62; second += 1) {
    for (const { requestId, recipients } of [...bench.server.deliveries.values()]) {
      const results = recipients.map((index): DeliveryResult => {
        if (index === 1) return { index, kind: 'deferred', reply: '452 4.2.2 over quota', host: false };
        if (index === 2) return { index, kind: 'unknown', reason: 'connection refused' };
        return { index, kind: 'delivered', reply: '250 ok' };
      });
      bench.event({ kind: 'DeliveryDone', requestId, results });
    }
    bench.passHearing(1_000, { [PEER]: [] });
  }
  expect(endsIn(bench, 'EXPIRE')).toEqual([
    [['x@far.example'], 'no send connector for far.example'],
    [['alpha-1@sim.example'], '452 4.2.2 over quota'],
    [['beta-1@sim.example'], 'connection refused'],
  ]);
  expect(bench.copy('M1').recipients?.map(({ outcome }) => outcome)).toEqual([
    'expired',
    'expired',
    'expired',
    'delivered',
  ]);
});

test('what a person decides of a message is told of those that were not final', () => {
  const bench = new CoreBench();
  bench.join(PEER);
  bench.accept('M1', FOUR.slice(0, 2));
  bench.delivered(bench.lastSeen('Deliver'), [
    { index: 0, kind: 'relayed', reply: '250 ok' },
    { index: 1, kind: 'deferred', reply: '450 later', host: false },
  ]);
  for (const [id, action] of [
    ['o1', 'suspend'],
    ['o2', 'remove'],
  ] as const) {
    const order = { id, message: copyId('M1'), action, by: 'ann' };
    bench.topology((document) => ({ ...document, messageOrders: [order] }));
    bench.pass(1_100);
  }
  expect(endsIn(bench, 'SUSPEND')).toEqual([[['b@far.example'], 'suspend by ann, order o1']]);
  expect(endsIn(bench, 'REMOVE')).toEqual([[['b@far.example'], 'remove by ann, order o2']]);
});
