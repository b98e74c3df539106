/** Messages and queues as a person asks for them (transport/runtime/message-listing.ts), on a core without a runtime. */
import { expect, test } from 'vitest';
import type { CopyId } from '../../common/message.ts';
import { LOOKED_AT, listMessages, listNextHops, RECIPIENTS_TOLD } from '../../transport/runtime/message-listing.ts';
import { queueTotals } from '../../transport/runtime/queue-totals.ts';
import type { Clocks } from '../../transport/runtime/told-times.ts';
import type { MessageFilter, MessageSummary } from '../../transport/runtime/view.ts';
import { CoreBench, copyId, envelopeFor, factsOf, PEER, stateOf, WALL_MS } from './core-bench.ts';

const ANY: MessageFilter = {
  ...{ queue: null, nextHop: null, sender: null, recipient: null, domain: null, error: null, attempt: null },
  ...{ olderThanMs: null, youngerThanMs: null, minBytes: null, maxBytes: null },
};

const clocks = (bench: CoreBench): Clocks => ({ nowMs: bench.nowMs, offsetMs: WALL_MS + bench.wallOffsetMs });
const page = (bench: CoreBench, filter: Partial<MessageFilter> = {}, after: string | null = null, limit = 100) =>
  listMessages(bench.server, { ...ANY, ...filter }, after as CopyId | null, limit, clocks(bench));
const ids = (messages: readonly MessageSummary[]): readonly string[] => messages.map(({ id }) => id);

/** Three messages of other senders, recipients, sizes and ages. */
function three(): CoreBench {
  const stored = [
    { facts: factsOf('M1', { envelope: envelopeFor(['x@far.example'], 'Ann@far.example') }), state: stateOf() },
    {
      facts: factsOf('M2', { envelope: envelopeFor(['x@far.example', 'y@Other.example'], ''), sizeBytes: 5_000 }),
      state: stateOf(),
    },
    { facts: factsOf('M3', { acceptedAtMs: WALL_MS - 60_000, ancestor: copyId('M0') }), state: stateOf() },
  ];
  const bench = new CoreBench({ members: 2, stored });
  bench.join(PEER);
  bench.pass(6_000);
  return bench;
}

test.each<[Partial<MessageFilter>, readonly string[]]>([
  [{}, ['M1', 'M2', 'M3']],
  [{ sender: 'ann@FAR.example' }, ['M1']],
  [{ sender: '' }, ['M2']],
  [{ recipient: 'Y@other.example' }, ['M2']],
  [{ domain: 'OTHER.example' }, ['M2']],
  [{ domain: 'far.example', minBytes: 10 }, ['M2']],
  [{ maxBytes: 5_000 }, ['M1', 'M3']],
  [{ olderThanMs: 60_000 }, ['M3']],
  [{ youngerThanMs: 60_000 }, ['M1', 'M2']],
  [{ attempt: 'M0' }, ['M3']],
  [{ attempt: 'M1' }, ['M1']],
  [{ queue: 'delivery' }, ['M1', 'M2', 'M3']],
  [{ queue: 'poison' }, []],
])('filter %j', (filter, expected) => {
  const { messages, next } = page(three(), filter);
  expect([ids(messages), next]).toEqual([expected, null]);
});

const LATER = [{ index: 0, kind: 'deferred', reply: '450 later', host: false }] as const;
const [MINUTE_MS, HOUR_MS] = [60_000, 3_600_000];

test('an age is the one that expiry goes by: time in which nobody was up is not in it, nor a jump of the wall clock; filters and queues mean the same', () => {
  const queues = { messageExpirationMs: 20 * MINUTE_MS, delayNotificationMs: 10 * MINUTE_MS };
  const stored = ['M1', 'M2'].map((id) => ({
    facts: factsOf(id, { acceptedAtMs: WALL_MS + 1_000 }),
    state: stateOf(),
  }));
  const bench = new CoreBench({ members: 1, stored, queues });
  const told = (filter: Partial<MessageFilter> = {}) => page(bench, filter).messages.map(({ ageMs }) => ageMs);
  bench.pass(5 * MINUTE_MS);
  expect(told()).toEqual([5 * MINUTE_MS, 5 * MINUTE_MS]);
  bench.event({ kind: 'TimerFired' });
  bench.restart(8 * HOUR_MS);
  bench.wallOffsetMs = -3 * HOUR_MS;
  const downMs = 5 * MINUTE_MS - (told()[0] ?? 0);
  // What was not yet written down of the last moments is not in it either.
  expect(downMs).toBeGreaterThanOrEqual(0);
  expect(downMs).toBeLessThan(MINUTE_MS);
  bench.pass(10 * MINUTE_MS + downMs);
  expect(told()).toEqual([15 * MINUTE_MS, 15 * MINUTE_MS]);
  expect(told({ olderThanMs: 15 * MINUTE_MS - 1, youngerThanMs: 15 * MINUTE_MS + 1 })).toHaveLength(2);
  expect(told({ olderThanMs: 15 * MINUTE_MS })).toEqual([]);
  const [queue] = listNextHops(bench.server, clocks(bench));
  expect(queue).toMatchObject({ messages: 2, oldestAgeMs: 15 * MINUTE_MS });
  // As a time it is as long ago, by the wall clock of now.
  const nowMs = WALL_MS + bench.nowMs + bench.wallOffsetMs;
  expect(queueTotals(bench.server, clocks(bench)).get('delivery')?.oldestMs).toBe(nowMs - 15 * MINUTE_MS);
  const expired = () =>
    bench.effects.flatMap((one) => (one.kind === 'Count' && one.what === 'expired' ? [one.what] : []));
  let lastMs = 0;
  while (expired().length === 0 && lastMs < HOUR_MS) {
    lastMs = told()[0] ?? 0;
    // Nobody is given up while somebody may deliver to them.
    for (const { requestId } of bench.seen('Deliver'))
      if (bench.server.deliveries.has(requestId)) bench.event({ kind: 'DeliveryDone', requestId, results: LATER });
    bench.pass(1_000);
  }
  expect(lastMs).toBeGreaterThanOrEqual(20 * MINUTE_MS - 1_000);
  expect(lastMs).toBeLessThan(20 * MINUTE_MS + 5_000);
});

test('a message that was accepted by a clock ahead of ours is new, not younger than that', () => {
  const stored = [{ facts: factsOf('M1', { acceptedAtMs: WALL_MS + HOUR_MS }), state: stateOf() }];
  const bench = new CoreBench({ members: 1, stored });
  expect(page(bench, { youngerThanMs: 1 }).messages).toMatchObject([{ id: 'M1', ageMs: 0 }]);
});

test('the oldest of a queue is the oldest of all that wait there, put off or being delivered', () => {
  const bench = three();
  const of = () => listNextHops(bench.server, clocks(bench)).map(({ oldestAgeMs }) => oldestAgeMs);
  const age = () => page(bench).messages.find(({ id }) => id === 'M3')?.ageMs ?? null;
  expect(age()).toBeGreaterThan(MINUTE_MS);
  expect(of()).toEqual([age()]);
  const third = bench.seen('Deliver').find(({ facts }) => facts.id === 'M3');
  if (third === undefined) throw new Error('the oldest is not delivered');
  bench.delivered(third, [{ index: 0, kind: 'deferred', reply: '452 4.2.2 over quota', host: false }]);
  expect(of()).toEqual([age()]);
});

test('the oldest of a queue may be one whose turn has not come', () => {
  const stored = Array.from({ length: 9 }, (_, n) => ({
    facts: factsOf(`M${n}`, { acceptedAtMs: WALL_MS - n * MINUTE_MS }),
    state: stateOf(),
  }));
  const bench = new CoreBench({ members: 1, stored });
  bench.pass(6_000);
  const [queue] = listNextHops(bench.server, clocks(bench));
  expect(queue?.active).toBeLessThan(9);
  expect(bench.seen('Deliver').map(({ facts }) => facts.id)).not.toContain('M8');
  expect(queue).toMatchObject({ messages: 9, deferred: 0, oldestAgeMs: 8 * MINUTE_MS + bench.nowMs });
});

test('what crossed from a message, or was resubmitted of it, is found by the id that its sender knows', () => {
  const event = (name: string, detail: string) => ({ event: name, atMs: WALL_MS, source: 'site/site-1', detail });
  // Over two stops: the id of the one before is only where it was made of.
  const events = [event('CROSSED', 'M0'), event('CROSSED', 'M0'), event('PARENT', 'HUB')];
  const stored = [
    { facts: factsOf('M1', { events }), state: stateOf() },
    { facts: factsOf('M2', { events, ancestor: copyId('M0'), kind: 'resubmission' }), state: stateOf() },
    { facts: factsOf('M3', { events: [event('CROSSED', 'OTHER')] }), state: stateOf() },
    { facts: factsOf('M4'), state: stateOf() },
  ];
  for (const shape of [
    { sites: [2, 1], dag: false },
    { sites: [2, 1], dag: true, hubs: [] },
  ]) {
    const bench = new CoreBench({ shape, stored });
    const of = (attempt: string) =>
      page(bench, { attempt }).messages.map(({ id, crossedFrom }) => [id, crossedFrom ?? '-']);
    expect(of('M0')).toEqual([
      ['M1', 'M0'],
      ['M2', '-'],
    ]);
    expect(of('OTHER')).toEqual([['M3', 'OTHER']]);
    expect([of('M4'), of('HUB'), of('M1')]).toEqual([[['M4', '-']], [], [['M1', 'M0']]]);
  }
});

test('what was said of a message, or of its next hop, is its last error; queues count what is put off', () => {
  const bench = three();
  const queues = () => listNextHops(bench.server, clocks(bench));
  const [first] = bench.seen('Deliver');
  if (first === undefined) throw new Error('nothing is delivered');
  const [queue] = queues();
  const hop = queue?.nextHop ?? '';
  expect(queue).toMatchObject({ queue: 'delivery', messages: 3, deferred: 0, lastError: null });
  // The message alone is put off: its queue goes on, and does not forget it.
  bench.delivered(first, [{ index: 0, kind: 'deferred', reply: '452 4.2.2 over quota', host: false }]);
  expect(ids(page(bench, { error: 'OVER quota' }).messages)).toEqual([first.facts.id]);
  const [put] = page(bench, { error: 'over quota', nextHop: hop }).messages;
  expect(put).toMatchObject({ nextHops: [hop], lastError: '452 4.2.2 over quota' });
  expect(put?.nextAttemptMs).toBeGreaterThan(WALL_MS + bench.nowMs);
  expect(queues()[0]).toMatchObject({ messages: 3, deferred: 1, lastError: '452 4.2.2 over quota' });
  // Nobody answers: that is why the others wait.
  const long = `no connection ${'x'.repeat(900)}`;
  const second = bench.seen('Deliver').find(({ facts }) => facts.id !== first.facts.id);
  if (second === undefined) throw new Error('the second waits');
  bench.delivered(
    second,
    second.recipients.map((index) => ({ index, kind: 'unknown', reason: long }) as const),
  );
  expect(queues().find(({ nextHop }) => nextHop === hop)?.lastError).toBe(long);
  expect(ids(page(bench, { error: 'no connection' }).messages)).toContain(second.facts.id);
  expect(page(bench, { nextHop: 'mailbox:none/none' }).messages).toEqual([]);
});

test('queues in which nothing is sent are named with what is in them', () => {
  const stored = [{ facts: factsOf('M1'), state: stateOf({ queue: 'poison', crashCount: 2 }) }];
  const bench = new CoreBench({ members: 2, stored });
  bench.join(PEER);
  bench.pass(6_000);
  expect(listNextHops(bench.server, clocks(bench))).toMatchObject([
    { queue: 'poison', nextHop: 'poison', messages: 1, lastError: null },
  ]);
});

const NO_WAY = 'no send connector for far.example';

test('who has no route is found with the reason, whether others of the message have one or not, until there is one', () => {
  const bench = new CoreBench({ members: 2, shape: { withoutConnector: true } });
  bench.join(PEER);
  bench.accept('M1', ['alpha-1@sim.example', 'x@far.example']);
  bench.accept('M2', ['x@far.example']);
  bench.accept('M3', ['alpha-1@sim.example']);
  const queues = () => listNextHops(bench.server, clocks(bench));
  const unreachable = () => queues().find(({ nextHop }) => nextHop === 'unreachable');
  const found = () => page(bench, { nextHop: 'unreachable' }).messages;
  expect(unreachable()).toMatchObject({ queue: 'unreachable', messages: 2, active: 0, lastError: NO_WAY });
  const first = bench.seen('Deliver').find(({ facts }) => facts.id === 'M1');
  if (first === undefined) throw new Error('nothing is delivered');
  bench.delivered(first, [{ index: 0, kind: 'delivered', reply: '250 ok' }]);
  expect(unreachable()).toMatchObject({ messages: 2, lastError: NO_WAY });
  expect(found()).toMatchObject([
    {
      ...{ id: 'M1', queue: 'delivery', nextHops: ['unreachable'], lastError: NO_WAY, nextAttemptMs: null },
      recipients: [{ outcome: 'delivered' }, { address: 'x@far.example', outcome: 'pending', reply: NO_WAY }],
    },
    { id: 'M2', queue: 'unreachable', nextHops: ['unreachable'], lastError: NO_WAY },
  ]);
  expect(ids(page(bench, { error: 'no send connector' }).messages)).toEqual(['M1', 'M2']);
  const { sendConnectors } = new CoreBench().document;
  bench.topology((document) => ({ ...document, sendConnectors }));
  expect([unreachable(), found()]).toEqual([undefined, []]);
});

test.each([
  ['while it is put off', [{ index: 0, kind: 'deferred', reply: '450 later', host: false }], true],
  ['while it is being delivered', [{ index: 0, kind: 'deferred', reply: '450 later', host: false }], false],
  ['while nobody answers there', [{ index: 0, kind: 'unknown', reason: 'refused' }], false],
] as const)('who loses the route %s waits for another one, whatever was said before', (_, results, isBefore) => {
  const bench = new CoreBench({ members: 2 });
  bench.join(PEER);
  bench.accept('M1', ['x@far.example', 'alpha-1@sim.example']);
  const deliver = bench.seen('Deliver').find(({ recipients }) => recipients.includes(0));
  if (deliver === undefined) throw new Error('nothing is delivered');
  if (isBefore) bench.delivered(deliver, results);
  bench.topology((document) => ({ ...document, sendConnectors: [] }));
  if (!isBefore) bench.delivered(deliver, results);
  bench.passHearing(10_000, { [PEER]: [] });
  expect(listNextHops(bench.server, clocks(bench)).find(({ nextHop }) => nextHop === 'unreachable')).toMatchObject({
    ...{ messages: 1, lastError: NO_WAY },
  });
  const [message] = page(bench, { nextHop: 'unreachable' }).messages;
  expect(message).toMatchObject({ id: 'M1', lastError: NO_WAY, nextHops: ['unreachable', 'mailbox:alpha/main'] });
});

test('pages: every message once, in order, and none costs more than its share', () => {
  const count = 3 * LOOKED_AT;
  const id = (n: number): string => `M${String(n).padStart(6, '0')}`;
  // In another order than that of the ids.
  const stored = Array.from({ length: count }, (_, n) => {
    const own = id((n * 7_919) % count);
    return {
      facts: factsOf(own, { envelope: envelopeFor(['x@far.example'], `s${own}@far.example`) }),
      state: stateOf(),
    };
  });
  const bench = new CoreBench({ members: 2, stored });
  const walk = (filter: Partial<MessageFilter>, limit: number) => {
    const found: string[] = [];
    let [after, pages]: [string | null, number] = [null, 0];
    do {
      const { messages, next }: ReturnType<typeof page> = page(bench, filter, after, limit);
      expect(messages.length).toBeLessThanOrEqual(limit);
      found.push(...ids(messages));
      after = next;
      pages += 1;
    } while (after !== null);
    return { found, pages };
  };
  const all = Array.from({ length: count }, (_, n) => id(n));
  expect(walk({}, 700).found).toEqual(all);
  // Pages without any match have a next one all the same.
  expect(walk({ sender: `s${id(count - 1)}@far.example` }, 10)).toEqual({ found: [id(count - 1)], pages: 3 });
});

test('pages: messages with very many recipients are fewer in one, and all are found', () => {
  const recipients = Array.from({ length: 10_000 }, (_, n) => `x${n}@far.example`);
  const stored = Array.from({ length: 12 }, (_, n) => ({
    facts: factsOf(`M${10 + n}`, { envelope: envelopeFor(recipients) }),
    state: stateOf(),
  }));
  const bench = new CoreBench({ stored });
  const sizes: number[] = [];
  const found: string[] = [];
  for (let after: string | null = null, isMore = true; isMore; isMore = after !== null) {
    const { messages, next } = page(bench, {}, after, 1_000);
    sizes.push(messages.reduce((sum, one) => sum + one.recipients.length, 0));
    found.push(...ids(messages));
    after = next;
  }
  expect(found).toEqual(stored.map(({ facts }) => facts.id));
  expect(Math.max(...sizes)).toBeLessThanOrEqual(RECIPIENTS_TOLD);
  // One that does not match costs the same.
  expect(page(bench, { sender: 'nobody@far.example' }).next).toBe('M14');
});

test('a next hop that takes mail again has no error any more', () => {
  const bench = new CoreBench();
  bench.join(PEER);
  bench.accept('M1', ['x@far.example']);
  const errors = (): readonly (string | null)[] =>
    listNextHops(bench.server, clocks(bench)).map(({ lastError }) => lastError);
  bench.delivered(bench.lastSeen('Deliver'), [{ index: 0, kind: 'deferred', reply: 'connect refused', host: true }]);
  expect(errors()).toContain('connect refused');
  bench.pass(2_000);
  bench.delivered(bench.lastSeen('Deliver'), [{ index: 0, kind: 'relayed', reply: '250 ok' }]);
  expect(errors()).not.toContain('connect refused');
});
