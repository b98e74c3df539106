/** What people decide about messages and delivery queues (transport/core/orders.ts): rows 23 to 25, and that it survives whoever carries it out. */
import { describe, expect, test } from 'vitest';
import type { MessageOrder, QueueOrder } from '../../common/config.ts';
import { isSuspended } from '../../transport/core/copy.ts';
import { mayBegin } from '../../transport/core/delivery.ts';
import {
  A,
  B,
  C,
  CoreBench,
  copyId,
  envelopeFor,
  epochOf,
  factsOf,
  OTHER,
  PEER,
  SELF,
  sharedOf,
  stateOf,
} from './core-bench.ts';

const HOUR_MS = 3_600_000;

function orders(bench: CoreBench, ...given: readonly (readonly [MessageOrder['action'], string, string?])[]): void {
  const messageOrders = given.map(([action, id, message = 'M1']): MessageOrder => {
    return { id, message: copyId(message), action, by: 'ann' };
  });
  bench.topology((document) => ({ ...document, messageOrders }));
  bench.pass(1_100);
}

function queueOrders(bench: CoreBench, ...given: readonly (readonly [QueueOrder['action'], string, string])[]): void {
  const all = given.map(([action, queue, id]): QueueOrder => ({ id, queue, action, by: 'ann' }));
  bench.topology((document) => ({ ...document, queueOrders: all }));
  bench.pass(1_100);
}

const audits = (bench: CoreBench): readonly string[] =>
  bench
    .seen('Track')
    .flatMap(({ event, detail }) => (detail?.includes(' by ann') === true ? [`${event} ${detail}`] : []));

/** One message that was answered 250 and is put off by its store; its holder is connected. */
function deferred(more: ConstructorParameters<typeof CoreBench>[0] = {}): { bench: CoreBench; hop: string } {
  const bench = new CoreBench({ members: 2, ...more });
  bench.join(PEER);
  bench.accept('M1', ['x@far.example']);
  bench.list(PEER, [{ id: copyId('M1'), epoch: epochOf(A), standing: 'released' }]);
  const deliver = bench.lastSeen('Deliver');
  bench.delivered(deliver, [{ index: 0, kind: 'deferred', reply: '451 4.2.0 later', host: false }]);
  const [hop = ''] = [...bench.server.hops.keys()];
  bench.effects = [];
  return { bench, hop };
}

describe('a redirected message', () => {
  const FROM = 'x@far.example';
  /** M1 waits here, has a shadow on PEER and none on OTHER. */
  function waiting(): CoreBench {
    const bench = new CoreBench({ members: 3, shape: { withoutConnector: true } });
    bench.join(PEER);
    bench.contact(OTHER);
    bench.accept('M1', [FROM]);
    bench.join(OTHER);
    bench.effects = [];
    return bench;
  }
  function redirect(bench: CoreBench, to: string, from = SELF): void {
    const order = { id: 'o1', message: copyId('M1'), action: 'redirect', from, to, by: 'ann' } as const;
    bench.topology((document) => ({ ...document, messageOrders: [order] }));
    bench.pass(1_100);
  }

  test('row 35: to who holds it: durable with its order, then told, its record names who wanted it; once', () => {
    const bench = waiting();
    redirect(bench, PEER);
    expect(bench.stored('M1')).toMatchObject({ queue: 'shadow', epoch: epochOf(B, 1, 1) });
    expect(bench.index.facts.get('messageOrders')).toEqual(['o1']);
    expect(bench.sent('RESIGN').map(({ to }) => to)).toEqual([PEER]);
    expect(bench.seen('OpenCandidate')).toEqual([]);
    expect(audits(bench)).toEqual(['HANDOVER redirect by ann, order o1']);
    bench.pass(10_000);
    expect(bench.sent('RESIGN')).toHaveLength(1);
  });

  test('to who does not: that member and no other gets a copy first, and it is handed over once that is durable there', () => {
    const bench = waiting();
    redirect(bench, OTHER);
    bench.pass(1_100);
    expect(bench.sent('RESIGN')).toEqual([]);
    const open = bench.lastSeen('OpenCandidate');
    expect(new Set(bench.seen('OpenCandidate').map(({ member }) => member))).toEqual(new Set([OTHER]));
    expect(bench.stored('M1')?.queue).not.toBe('shadow');
    bench.candidateStored(open);
    bench.pass(2_000);
    expect(bench.sent('RESIGN').map(({ to }) => to)).toEqual([OTHER]);
    expect(bench.stored('M1')).toMatchObject({ queue: 'shadow', epoch: epochOf(C, 1, 1) });
  });

  test('a member that refuses is asked again, no other instead; one that is away is waited for', () => {
    const bench = waiting();
    redirect(bench, OTHER);
    bench.pass(1_100);
    bench.candidateRefused(bench.lastSeen('OpenCandidate'));
    bench.pass(3_000);
    const members = bench.seen('OpenCandidate').map(({ member }) => member);
    expect(members.length).toBeGreaterThan(1);
    expect(new Set(members)).toEqual(new Set([OTHER]));
    const away = waiting();
    away.down(OTHER);
    redirect(away, OTHER);
    away.pass(5_000);
    expect([away.seen('OpenCandidate'), away.sent('RESIGN')]).toEqual([[], []]);
    expect(away.index.facts.get('messageOrders') ?? []).toEqual([]);
  });

  test('what is being delivered comes to its end first', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.contact(OTHER);
    bench.accept('M1', [FROM]);
    bench.join(OTHER);
    const deliver = bench.lastSeen('Deliver');
    redirect(bench, PEER);
    bench.pass(5_000);
    expect(bench.sent('RESIGN')).toEqual([]);
    bench.delivered(deliver, [{ index: 0, kind: 'deferred', reply: '451 4.2.0 later', host: false }]);
    bench.pass(1_100);
    expect(bench.sent('RESIGN').map(({ to }) => to)).toEqual([PEER]);
  });

  test('the order is for the member that it names: who came to own it otherwise keeps it', () => {
    const bench = waiting();
    redirect(bench, PEER, OTHER);
    bench.pass(5_000);
    expect(bench.sent('RESIGN')).toEqual([]);
    expect(bench.index.facts.get('messageOrders')).toEqual(['o1']);
  });
});

describe('a suspended message', () => {
  test('row 25: durable before its holder hears of it, not delivered, resumed at once; each order once, each with its record', () => {
    const { bench } = deferred();
    orders(bench, ['suspend', 'o1']);
    expect(bench.stored('M1')?.suspended).toBe(1);
    expect(bench.index.facts.get('messageOrders')).toEqual(['o1']);
    // Leaves after the commit: the effect names the copy that it waits for.
    const told = bench.seen('Send').filter(({ frame }) => frame.kind === 'STATE');
    expect(told).toMatchObject([
      { copy: 'M1', to: PEER, frame: { state: { verdict: 'pending', state: { suspensions: 1, final: false } } } },
    ]);
    bench.pass(HOUR_MS);
    expect(bench.seen('Deliver')).toEqual([]);
    orders(bench, ['resume', 'o2']);
    expect(bench.seen('Deliver')).toHaveLength(1);
    expect(bench.stored('M1')?.suspended).toBe(2);
    expect(audits(bench)).toEqual(['SUSPEND suspend by ann, order o1', 'RESUME resume by ann, order o2']);
    // Done is done, also for the next process.
    bench.restart();
    orders(bench, ['resume', 'o2']);
    expect([bench.stored('M1')?.suspended, audits(bench)]).toEqual([2, []]);
  });

  test('survives a restart, and a power cut right after the order', () => {
    const { bench } = deferred({ powerCuts: true });
    orders(bench, ['suspend', 'o1']);
    bench.restart();
    bench.join(PEER);
    bench.pass(HOUR_MS);
    expect(bench.copy('M1').queue).toBe('delivery');
    expect(bench.seen('Deliver')).toEqual([]);
  });

  test('what is being delivered comes to its end; what only waits for its turn does not begin; put off again it stays', () => {
    const bench = new CoreBench({ members: 2 });
    bench.join(PEER);
    bench.accept('M1', ['x@far.example']);
    const deliver = bench.lastSeen('Deliver');
    expect(mayBegin(bench.server, deliver.requestId, bench.nowMs)).toBe(true);
    orders(bench, ['suspend', 'o1']);
    expect(mayBegin(bench.server, deliver.requestId, bench.nowMs)).toBe(false);
    bench.effects = [];
    // The store cannot be reached: its queue probes again, without this one.
    bench.delivered(deliver, [{ index: 0, kind: 'unknown', reason: 'gone' }]);
    bench.pass(HOUR_MS);
    expect(bench.seen('Deliver')).toEqual([]);
    orders(bench, ['resume', 'o2']);
    const again = bench.lastSeen('Deliver');
    orders(bench, ['suspend', 'o3']);
    bench.delivered(again, [{ index: 0, kind: 'delivered', reply: '250' }]);
    expect(bench.resting.has(copyId('M1'))).toBe(true);
  });

  test('its owner hears of it from a holder while it waits for its turn: it does not begin', () => {
    const bench = new CoreBench({ members: 2 });
    bench.join(PEER);
    bench.accept('M1', ['x@far.example']);
    bench.list(PEER, [{ id: copyId('M1'), epoch: epochOf(A), standing: 'released' }]);
    bench.delivered(bench.lastSeen('Deliver'), [{ index: 0, kind: 'unknown', reason: 'gone' }]);
    bench.effects = [];
    const item = {
      id: copyId('M1'),
      granted: true,
      verdict: 'pending' as const,
      state: sharedOf('M1', { suspensions: 1 }),
    };
    bench.event({ kind: 'GrantReceived', member: PEER, grant: { items: [item] } });
    expect(isSuspended(bench.copy('M1'))).toBe(true);
    bench.pass(HOUR_MS);
    expect(bench.seen('Deliver')).toEqual([]);
  });

  test('does not expire; its age goes on, and decides once it is let go: tried once, then reported', () => {
    const { bench } = deferred({ queues: { messageExpirationMs: HOUR_MS, delayNotificationMs: HOUR_MS / 2 } });
    orders(bench, ['suspend', 'o1']);
    bench.pass(5 * HOUR_MS);
    expect(bench.copy('M1').recipients).toMatchObject([{ outcome: 'pending' }]);
    // Its sender knows that it is late.
    expect(bench.seen('ComposeDsn').map(({ dsn }) => dsn)).toEqual(['delayed']);
    orders(bench, ['resume', 'o2']);
    const deliver = bench.lastSeen('Deliver');
    expect(bench.copy('M1').recipients).toMatchObject([{ outcome: 'pending' }]);
    bench.delivered(deliver, [{ index: 0, kind: 'deferred', reply: '451 4.2.0 later', host: false }]);
    bench.pass(2_000);
    expect(bench.seen('ComposeDsn').map(({ dsn }) => dsn)).toEqual(['delayed', 'expired']);
  });

  test('who holds its shadow keeps that durably, tells it to a new holder, and delivers nothing after a takeover', () => {
    const bench = new CoreBench({ members: 3, powerCuts: true });
    bench.join(PEER);
    bench.join(OTHER);
    bench.shadow('M1', ['x@far.example']);
    bench.state(PEER, 'pending', sharedOf('M1', { epoch: epochOf(B), suspensions: 1 }));
    bench.restart();
    expect(bench.copy('M1').suspended).toBe(1);
    // A STATE that comes late takes nothing back.
    bench.join(PEER);
    bench.state(PEER, 'pending', sharedOf('M1', { epoch: epochOf(B) }));
    expect(bench.copy('M1').suspended).toBe(1);
    bench.join(OTHER);
    bench.event({ kind: 'StateReceived', member: PEER, state: { id: copyId('M1'), verdict: 'unknown', state: null } });
    bench.pass(HOUR_MS);
    expect(bench.copy('M1')).toMatchObject({ queue: 'delivery', epoch: { owner: A }, suspended: 1 });
    expect(bench.seen('Deliver')).toEqual([]);
    expect(bench.lastSeen('OpenCandidate').state).toMatchObject({ suspensions: 1 });
    // Its former owner has carried out the order that still stands in the document.
    orders(bench, ['suspend', 'o1']);
    expect([bench.copy('M1').suspended, audits(bench)]).toEqual([1, []]);
    orders(bench, ['resume', 'o2']);
    expect(bench.seen('Deliver')).toHaveLength(1);
  });

  test('who becomes a holder by a stream has it from the start, and a list is answered with it', () => {
    const bench = new CoreBench({ members: 2 });
    bench.join(PEER);
    const stream = bench.streamOpened(PEER, 'copy', sharedOf('M1', { epoch: epochOf(B), suspensions: 3 }));
    bench.streamEnded(stream);
    expect(bench.copy('M1')).toMatchObject({ queue: 'shadow', suspended: 3 });
    const mine = new CoreBench({
      members: 2,
      stored: [{ facts: factsOf('M2'), state: stateOf({ suspended: 1, queue: 'delivery' }) }],
    });
    mine.join(PEER, [{ id: copyId('M2'), epoch: epochOf(A), standing: 'released' }]);
    expect(mine.sent('STATE').map(({ frame }) => frame.state.state?.suspensions)).toEqual([1]);
  });

  test('what was suspended when it became poison needs one resume, and its holder hears of it', () => {
    const state = stateOf({ queue: 'poison', crashCount: 2, suspended: 1 });
    const bench = new CoreBench({ members: 2, stored: [{ facts: factsOf('M1'), state }] });
    bench.join(PEER, [{ id: copyId('M1'), epoch: epochOf(A), standing: 'released' }]);
    bench.pass(6_000);
    orders(bench, ['resume', 'o1']);
    expect(bench.stored('M1')).toMatchObject({ queue: 'submission', suspended: 2 });
    expect(bench.sent('STATE').at(-1)?.frame.state.state).toMatchObject({ suspensions: 2 });
    expect(audits(bench)).toEqual(['RESUBMIT resume by ann, order o1']);
  });

  test('can be removed; poison is not suspended; an order about what is still held in intake waits', () => {
    const { bench } = deferred();
    orders(bench, ['suspend', 'o1']);
    orders(bench, ['remove', 'o2']);
    expect(bench.server.copies.has(copyId('M1'))).toBe(false);
    const poison = new CoreBench({
      members: 2,
      stored: [{ facts: factsOf('M1'), state: stateOf({ queue: 'poison', crashCount: 2 }) }],
    });
    poison.join(PEER);
    poison.pass(6_000);
    orders(poison, ['suspend', 'o1']);
    expect([isSuspended(poison.copy('M1')), poison.copy('M1').queue]).toEqual([false, 'poison']);
    const held = new CoreBench({ members: 2 });
    held.join(PEER);
    const stream = held.open('M1', ['x@far.example']);
    const open = held.candidateOpened();
    held.end(stream);
    orders(held, ['suspend', 'o1']);
    expect(isSuspended(held.copy('M1'))).toBe(false);
    held.candidateStored(open);
    held.pass(1_100);
    expect(isSuspended(held.copy('M1'))).toBe(true);
  });
});

describe('a message that is removed', () => {
  test('with NDR: its sender is told once, and nobody hears that it is final before the report is safe', () => {
    const { bench } = deferred();
    orders(bench, ['removeWithNdr', 'o1']);
    expect(bench.copy('M1').recipients).toMatchObject([
      { outcome: 'failed', reply: '550 5.7.1 Removed by an administrator' },
    ]);
    const { id } = bench.lastSeen('ComposeDsn');
    expect(bench.sent('STATE').filter(({ frame }) => frame.state.verdict === 'final')).toEqual([]);
    const report = { stream: 99, id, parent: copyId('M1'), digest: 'e'.repeat(64), sizeBytes: 10 };
    bench.event({ kind: 'DsnComposed', ...report, envelope: envelopeFor(['sender@far.example'], '') });
    const open = bench.candidateOpened();
    bench.candidateStored({ ...open, state: { ...open.state, digest: 'e'.repeat(64) } });
    bench.pass(10_000);
    expect(bench.seen('ComposeDsn')).toHaveLength(1);
    expect(audits(bench)).toEqual(['REMOVE remove with NDR by ann, order o1']);
  });

  test('with NDR: who asked for none, and <>, gets none; it is gone at once', () => {
    for (const [recipient, from] of [
      [{ address: 'x@far.example', notify: 'NEVER' }, 'sender@far.example'],
      [{ address: 'x@far.example' }, ''],
    ] as const) {
      const bench = new CoreBench({ members: 2 });
      bench.join(PEER);
      bench.accept('M1', [recipient], { from });
      bench.delivered(bench.lastSeen('Deliver'), [
        { index: 0, kind: 'deferred', reply: '451 4.2.0 later', host: false },
      ]);
      orders(bench, ['removeWithNdr', 'o1']);
      expect([bench.server.copies.has(copyId('M1')), bench.seen('ComposeDsn')]).toEqual([false, []]);
    }
  });
});

describe('a delivery queue', () => {
  test('suspended: nothing leaves it, also after a restart; nothing in it expires; resumed it goes on; each member has its record', () => {
    const { bench, hop } = deferred({ queues: { messageExpirationMs: HOUR_MS, delayNotificationMs: 10 * HOUR_MS } });
    queueOrders(bench, ['suspend', hop, 'q1']);
    expect(audits(bench)).toEqual([`QUEUE suspend of queue ${hop} by ann, order q1`]);
    bench.pass(5 * HOUR_MS);
    expect(bench.seen('Deliver')).toEqual([]);
    expect(bench.copy('M1').recipients).toMatchObject([{ outcome: 'pending' }]);
    queueOrders(bench, ['resume', hop, 'q2']);
    expect(bench.seen('Deliver')).toHaveLength(1);
    // The document is there before the process.
    const restarted = new CoreBench({
      members: 2,
      stored: [{ facts: factsOf('M1'), state: stateOf() }],
      document: (document) => ({ ...document, queueOrders: [{ id: 'q1', queue: hop, action: 'suspend', by: 'ann' }] }),
    });
    restarted.join(PEER);
    restarted.pass(60_000);
    expect(restarted.seen('Deliver')).toEqual([]);
  });

  test('a delivery that waits for its turn does not begin; another queue is not touched', () => {
    const bench = new CoreBench({ members: 2 });
    bench.join(PEER);
    bench.accept('M1', ['x@far.example']);
    const { requestId } = bench.lastSeen('Deliver');
    const [hop = ''] = [...bench.server.hops.keys()];
    queueOrders(bench, ['suspend', hop, 'q1']);
    expect(mayBegin(bench.server, requestId, bench.nowMs)).toBe(false);
    bench.event({ kind: 'DeliveryWithheld', requestId });
    expect(bench.seen('Deliver')).toHaveLength(1);
    bench.accept('M2', ['alpha-1@sim.example']);
    expect(bench.lastSeen('Deliver').facts.id).toBe('M2');
  });

  test('only recipients that are held back outlive the expiry', () => {
    const queues = { messageExpirationMs: HOUR_MS, delayNotificationMs: 10 * HOUR_MS };
    const later = { retryIntervalsMs: [10 * HOUR_MS], mailboxRetryIntervalMs: 10 * HOUR_MS };
    const bench = new CoreBench({ members: 2, queues: { ...queues, ...later } });
    bench.join(PEER);
    bench.accept('M1', ['x@far.example', 'alpha-1@sim.example']);
    for (const deliver of bench.seen('Deliver'))
      bench.delivered(
        deliver,
        deliver.recipients.map((index) => ({ index, kind: 'deferred', reply: '451 4.2.0 later', host: false })),
      );
    const hop = bench.seen('Deliver').find(({ recipients }) => recipients.includes(1));
    const queue = [...bench.server.hops.values()].find(({ route }) => route === hop?.route)?.key ?? '';
    queueOrders(bench, ['suspend', queue, 'q1']);
    bench.effects = [];
    bench.passHearing(HOUR_MS + 60_000, { [PEER]: [] });
    expect(bench.copy('M1').recipients).toMatchObject([{ outcome: 'expired' }, { outcome: 'pending' }]);
    bench.effects = [];
    queueOrders(bench, ['resume', queue, 'q2'], ['retry', queue, 'q3']);
    expect(bench.lastSeen('Deliver').recipients).toEqual([1]);
  });

  test('retry: what was put off is tried now, once; a queue that could not be reached as well', () => {
    const { bench, hop } = deferred();
    queueOrders(bench, ['retry', hop, 'q1']);
    expect(bench.seen('Deliver')).toHaveLength(1);
    bench.delivered(bench.lastSeen('Deliver'), [{ index: 0, kind: 'unknown', reason: 'gone' }]);
    for (let failures = 1; failures < 8; failures++) {
      queueOrders(bench, ['retry', hop, `q1${failures}`]);
      bench.delivered(bench.lastSeen('Deliver'), [{ index: 0, kind: 'unknown', reason: 'gone' }]);
    }
    expect(bench.seen('Deliver')).toHaveLength(8);
    bench.effects = [];
    bench.pass(1_100);
    expect(bench.seen('Deliver')).toEqual([]);
    queueOrders(bench, ['retry', hop, 'q2']);
    expect(bench.seen('Deliver')).toHaveLength(1);
  });
});
