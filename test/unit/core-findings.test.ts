/** One small test per fault that a seed of the simulator found (test/sim/seeds.txt): seeds change their meaning, these do not. */
import { describe, expect, test } from 'vitest';
import type { Resolved } from '../../common/peer/messages.ts';
import { mayBegin } from '../../transport/core/delivery.ts';
import type { DeliveryResult } from '../../transport/core/events.ts';
import { unprotectedCount } from '../../transport/core/server.ts';
import { A, B, C, CoreBench, copyId, epochOf, factsOf, OTHER, PEER, pending, sharedOf, stateOf } from './core-bench.ts';

const ALPHA = 'alpha-0@sim.example';
const FAR = 'x@far.example';
const delivered: DeliveryResult = { index: 0, kind: 'delivered', reply: '250 2.0.0 ok' };

const asks = (bench: CoreBench, id: string, through = 1): Resolved | undefined => {
  bench.event({
    kind: 'ResolveAsked',
    from: 'f-0',
    role: 'frontend',
    resolve: { id: copyId(id), through, deadlineMs: 0 },
    stored: null,
  });
  return bench.sent('RESOLVED').at(-1)?.frame.resolved;
};
const refuses = (bench: CoreBench, member: string, id: string, through = 1): void => {
  bench.event({
    kind: 'ResolveAnswered',
    member,
    resolved: { id: copyId(id), through, answer: 'aborted', epoch: null, digest: null },
  });
};
const kinds = (bench: CoreBench, from: number): string[] =>
  bench.effects.slice(from).flatMap((effect) => (effect.kind === 'Send' ? [effect.frame.kind] : []));

describe('a holder is always told', () => {
  test('final while a candidate has an END out: the tombstone names it (a report delivered faster than it was placed)', () => {
    const bench = new CoreBench({ stored: [{ facts: factsOf('M1'), state: stateOf() }] });
    bench.join(PEER);
    bench.grant(PEER, 'pending', sharedOf('M0'));
    bench.pass(6_000);
    bench.candidateOpened();
    bench.delivered(bench.lastSeen('Deliver'), [{ index: 0, kind: 'relayed', reply: '250 2.0.0 ok' }]);
    expect(bench.server.tombstones.get(copyId('M1'))?.placements.map(({ member }) => member)).toEqual([PEER]);
    bench.list(PEER, [{ id: copyId('M1'), epoch: epochOf(A), standing: 'released' }]);
    expect(bench.sent('STATE').at(-1)?.frame.state.verdict).toBe('final');
  });

  test('served in part while the body was on its way to a new shadow: the shadow hears of it when it has the copy (semantics.md S6)', () => {
    const recipients = [pending(FAR), pending('y@far.example')];
    const bench = new CoreBench({ stored: [{ facts: factsOf('M1'), state: stateOf({ recipients }) }] });
    bench.join(PEER);
    bench.grant(PEER, 'pending', sharedOf('M0'));
    bench.pass(6_000);
    const open = bench.candidateOpened();
    bench.delivered(bench.lastSeen('Deliver'), [{ index: 0, kind: 'relayed', reply: '250 2.0.0 ok' }]);
    expect(open.state.recipients?.[0]?.outcome ?? 'pending').toBe('pending');
    bench.effects = [];
    bench.candidateStored(open);
    expect(bench.sent('STATE').at(-1)).toMatchObject({
      to: PEER,
      frame: { state: { id: 'M1', verdict: 'pending', state: { recipients: [{ outcome: 'relayed' }, {}] } } },
    });
  });

  test('a whole list that does not name the copy answers for it: the tombstone owes that member nothing', () => {
    const bench = new CoreBench();
    bench.join(PEER);
    bench.accept('M1', [ALPHA]);
    bench.down(PEER);
    bench.delivered(bench.lastSeen('Deliver'), [delivered]);
    expect(bench.server.tombstones.get(copyId('M1'))?.placements).toHaveLength(1);
    bench.join(PEER);
    expect(bench.server.tombstones.get(copyId('M1'))?.placements).toEqual([]);
    bench.pass(130_000);
    expect(bench.server.tombstones.size).toBe(0);
  });
});

describe('what a front end hears about a try', () => {
  test('unknown here: every member refuses first, also after one more restart (protocol.md 6e)', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.join(OTHER);
    expect(asks(bench, 'M1')?.answer).toBe('open');
    expect(bench.sent('RESOLVE').map(({ to }) => to)).toEqual([PEER, OTHER]);
    refuses(bench, PEER, 'M1');
    bench.restart();
    expect(asks(bench, 'M1')?.answer).toBe('open');
    bench.join(OTHER);
    expect(asks(bench, 'M1')?.answer).toBe('open');
    refuses(bench, OTHER, 'M1');
    expect(asks(bench, 'M1')?.answer).toBe('aborted');
  });

  test('two members that know nothing ask each other: each refuses for itself, neither waits for the other (protocol.md 6e)', () => {
    const bench = new CoreBench();
    bench.join(PEER);
    expect(asks(bench, 'M1')?.answer).toBe('open');
    expect(bench.sent('RESOLVE').map(({ to }) => to)).toEqual([PEER]);
    const resolve = { id: copyId('M1'), through: 1, deadlineMs: 60_000 };
    bench.event({ kind: 'ResolveAsked', from: PEER, role: 'transport', resolve, stored: null });
    expect(bench.sent('RESOLVED').at(-1)).toMatchObject({ to: PEER, frame: { resolved: { answer: 'aborted' } } });
    expect(asks(bench, 'M1')?.answer).toBe('open');
    refuses(bench, PEER, 'M1');
    expect(asks(bench, 'M1')?.answer).toBe('aborted');
  });

  test('final for nobody: still known after every holder has acknowledged it, so that it is not sent again as a new try', () => {
    const bench = new CoreBench();
    bench.join(PEER);
    bench.accept('M1', ['nobody@sim.example'], { from: '' });
    bench.event({
      kind: 'StateAcknowledged',
      member: PEER,
      ack: { id: copyId('M1'), epoch: epochOf(A), effect: 'removed' },
    });
    expect(bench.stored('M1')).toBeNull();
    expect(asks(bench, 'M1')?.answer).toBe('final');
    bench.pass(130_000);
    expect(bench.server.tombstones.size).toBe(0);
  });

  test('its copy is final elsewhere: it is answered at once', () => {
    const bench = new CoreBench();
    bench.join(PEER);
    const stream = bench.open('M1', [ALPHA], { try: 2 });
    bench.candidateOpened();
    bench.end(stream);
    const recipients = [{ address: ALPHA, outcome: 'delivered' as const }];
    bench.grant(PEER, 'final', sharedOf('M1', { epoch: epochOf(B), recipients, final: true }));
    expect(bench.answers().map(({ outcome }) => outcome)).toEqual(['protected']);
    // Its try is the higher one: it answers for the copy from now on.
    expect(bench.resting.get(copyId('M1'))?.queue).toBe('primarySafetyNet');
  });
});

describe('a shadow whose owner has nothing (protocol.md 10, 6d)', () => {
  const shadow = (standing: 'intake' | 'released') => ({
    facts: factsOf('M1', { envelope: factsOf('M1').envelope }),
    state: stateOf({ queue: 'shadow', epoch: epochOf(B), standing }),
  });

  test('"unknown" from the identity that owned it: promoted, not removed', () => {
    const bench = new CoreBench({ stored: [shadow('intake')] });
    bench.join(PEER);
    bench.event({ kind: 'StateReceived', member: PEER, state: { id: copyId('M1'), verdict: 'unknown', state: null } });
    expect(bench.copy('M1')).toMatchObject({ queue: 'submission', standing: 'released', epoch: epochOf(A, 1, 1) });
  });

  test('"unknown" from anybody else: kept', () => {
    const bench = new CoreBench({ members: 3, stored: [shadow('intake')] });
    bench.join(OTHER);
    bench.event({ kind: 'StateReceived', member: OTHER, state: { id: copyId('M1'), verdict: 'unknown', state: null } });
    expect(bench.copy('M1').queue).toBe('shadow');
  });

  test('aborted: an intake copy goes, a released one is promoted', () => {
    for (const [standing, queue] of [
      ['intake', undefined],
      ['released', 'submission'],
    ] as const) {
      const bench = new CoreBench({ stored: [shadow(standing)] });
      bench.join(PEER);
      bench.state(PEER, 'aborted', sharedOf('M1', { epoch: epochOf(B), standing: 'intake', abortedThrough: 1 }));
      expect(bench.server.copies.get(copyId('M1'))?.state.queue).toBe(queue);
    }
  });
});

test('an abort says nothing about a higher try: its shadow hears "unknown" and takes over (protocol.md 6f)', () => {
  const bench = new CoreBench({ members: 3 });
  bench.join(PEER);
  asks(bench, 'M1');
  bench.list(PEER, [{ id: copyId('M1'), epoch: epochOf(A, 2), standing: 'intake' }]);
  expect(bench.sent('STATE').at(-1)?.frame.state.verdict).toBe('unknown');
  bench.list(PEER, [{ id: copyId('M1'), epoch: epochOf(A), standing: 'intake' }]);
  expect(bench.sent('STATE').at(-1)?.frame.state.verdict).toBe('aborted');
});

describe('ownership', () => {
  test('a higher try still in intake does not take a released copy: it may be aborted', () => {
    const bench = new CoreBench({ members: 3, stored: [{ facts: factsOf('M1'), state: stateOf() }] });
    bench.join(PEER);
    bench.join(OTHER);
    bench.grant(PEER, 'pending', sharedOf('M1', { epoch: epochOf(C, 2), standing: 'intake' }), false);
    expect(bench.copy('M1').epoch).toEqual(epochOf(A));
    bench.grant(PEER, 'pending', sharedOf('M1', { epoch: epochOf(C, 2), standing: 'released' }), false);
    expect(bench.copy('M1')).toMatchObject({ queue: 'shadow', epoch: epochOf(C, 2) });
  });

  test('an owner nobody was ever met with is not believed: the copy would wait for nobody', () => {
    for (const standing of ['released', 'intake'] as const) {
      const bench = new CoreBench({ members: 3, stored: [{ facts: factsOf('M1'), state: stateOf() }] });
      bench.join(PEER);
      const nobody = sharedOf('M1', { epoch: epochOf('NOBODY' as typeof C, 9), standing });
      bench.state(PEER, 'owner', nobody);
      bench.state(PEER, 'pending', nobody);
      bench.grant(PEER, 'final', { ...nobody, final: true }, false);
      expect(bench.copy('M1').epoch).toEqual(epochOf(A));
    }
  });

  test('claims leave before the list: who has heard the whole list may forget', () => {
    const bench = new CoreBench({ stored: [{ facts: factsOf('M1'), state: stateOf() }] });
    const before = bench.effects.length;
    bench.up(PEER);
    expect(kinds(bench, before).slice(0, 2)).toEqual(['CLAIM', 'LIST']);
  });

  test('who has seen a higher owner opens no delivery any more, whatever is still open', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.join(OTHER);
    bench.accept('M1', [ALPHA, FAR]);
    const [first] = bench.seen('Deliver');
    expect(bench.seen('Deliver')).toHaveLength(2);
    bench.claim(OTHER, [{ id: copyId('M1'), epoch: epochOf(C, 2) }]);
    if (first !== undefined)
      bench.delivered(first, [{ index: 0, kind: 'deferred', reply: '450 4.2.0 busy', host: false }]);
    bench.passHearing(900_000, { [PEER]: [], [OTHER]: [] });
    expect(bench.seen('Deliver')).toHaveLength(2);
  });

  test('a doubt that was under way when the process stood still begins anew (seed 33643)', () => {
    const bench = new CoreBench({ stored: [{ facts: factsOf('M1'), state: stateOf() }] });
    bench.up(PEER);
    bench.nowMs += 40_000;
    bench.event({ kind: 'TimerFired' });
    expect(bench.seen('Deliver')).toHaveLength(0);
    expect(bench.sent('CLAIM')).toHaveLength(2);
    bench.pass(6_000);
    expect(bench.seen('Deliver')).toHaveLength(1);
  });

  test('the late stream of an earlier try finds what a later one finished here, and is told (seed 30399)', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.join(OTHER);
    bench.streamEnded(
      bench.streamOpened(OTHER, 'shadow', sharedOf('M1', { epoch: epochOf(C, 2), standing: 'intake' })),
    );
    const recipients = [{ address: ALPHA, outcome: 'delivered' as const }];
    bench.state(OTHER, 'final', sharedOf('M1', { epoch: epochOf(C, 2), recipients, final: true }));
    expect(bench.resting.get(copyId('M1'))?.queue).toBe('shadowSafetyNet');
    // A first try is not looked up at rest (runtime/server.ts).
    bench.streamOpened(PEER, 'shadow', sharedOf('M1', { epoch: epochOf(B), standing: 'intake' }));
    expect(bench.seen('RefuseStream')).toHaveLength(1);
    expect(bench.sent('GRANT').at(-1)).toMatchObject({ to: PEER, frame: { grant: { items: [{ verdict: 'final' }] } } });
    bench.pass(130_000);
    expect(bench.server.tombstones.size).toBe(0);
  });

  test('a claim during a delivery is answered when the delivery is over, with what became of it', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.join(OTHER);
    bench.accept('M1', [ALPHA]);
    const deliver = bench.lastSeen('Deliver');
    bench.claim(OTHER, [{ id: copyId('M1'), epoch: epochOf(C, 2) }]);
    expect(bench.sent('GRANT').at(-1)?.frame.grant.items[0]).toMatchObject({ granted: false, verdict: 'pending' });
    bench.delivered(deliver, [delivered]);
    expect(bench.sent('GRANT').at(-1)).toMatchObject({
      to: OTHER,
      frame: { grant: { items: [{ granted: true, verdict: 'final' }] } },
    });
    // Seed 30581: the claimant answers for it, under its epoch; two primaries at rest would each take the other for its shadow.
    expect(bench.resting.get(copyId('M1'))).toMatchObject({ queue: 'shadowSafetyNet', epoch: epochOf(C, 2) });
  });

  test('two makers of one report: the higher epoch says whose it is to who wants a shadow of the other, who makes room (seed 10090)', () => {
    const dsn = (digest: string, term: number) => ({
      facts: factsOf('D1', { kind: 'dsn', digest }),
      state: stateOf({ epoch: epochOf(A, 1, term), recipients: [pending(FAR)] }),
    });
    const higher = new CoreBench({ members: 3, stored: [dsn('e'.repeat(64), 1)] });
    higher.join(PEER);
    const theirs = sharedOf('D1', { kind: 'dsn', epoch: epochOf(B), recipients: [pending(FAR)] });
    higher.streamEnded(higher.streamOpened(PEER, 'copy', theirs));
    expect(higher.answers()).toMatchObject([{ outcome: 'owned' }]);
    const [said] = higher.sent('STATE');
    expect(said).toMatchObject({
      to: PEER,
      frame: { state: { verdict: 'owner', state: { epoch: epochOf(A, 1, 1) } } },
    });

    const lower = new CoreBench({ members: 3, stored: [dsn('c'.repeat(64), 0)] });
    lower.join(PEER);
    lower.state(PEER, 'owner', { ...theirs, epoch: epochOf(B, 1, 1) });
    expect(lower.copy('D1')).toMatchObject({ queue: 'shadow', epoch: epochOf(B, 1, 1) });
  });

  test('two makers of one report: finality of either ends both, other bytes never protect', () => {
    const dsn = { facts: factsOf('D1', { kind: 'dsn' }), state: stateOf({ recipients: [pending(FAR)] }) };
    const bench = new CoreBench({ stored: [dsn] });
    bench.join(PEER, [{ id: copyId('D1'), epoch: epochOf(A), standing: 'released' }]);
    bench.grant(PEER, 'pending', sharedOf('D1', { kind: 'dsn', digest: 'e'.repeat(64) }));
    expect(bench.copy('D1').placements.filter(({ status }) => status === 'confirmed')).toEqual([]);
    const recipients = [{ address: FAR, outcome: 'relayed' as const }];
    bench.grant(
      PEER,
      'final',
      sharedOf('D1', { kind: 'dsn', digest: 'e'.repeat(64), epoch: epochOf(B), recipients, final: true }),
    );
    // A delivery was open: it is waited for first.
    bench.delivered(bench.lastSeen('Deliver'), [{ index: 0, kind: 'deferred', reply: '451 4.3.0 later', host: false }]);
    expect(bench.server.copies.has(copyId('D1'))).toBe(false);
  });
});

describe('tries that cross', () => {
  test('final from the owner counts, with whatever epoch it heard it', () => {
    const bench = new CoreBench({
      members: 3,
      stored: [{ facts: factsOf('M1'), state: stateOf({ queue: 'shadow', epoch: epochOf(B, 2) }) }],
    });
    bench.join(PEER);
    const recipients = [{ address: FAR, outcome: 'relayed' as const }];
    bench.state(PEER, 'final', sharedOf('M1', { epoch: epochOf(C), recipients, final: true }));
    expect(bench.resting.get(copyId('M1'))?.queue).toBe('shadowSafetyNet');
  });

  test('a try of mine that a power cut took, while I hold an older one of somebody else: "unknown"', () => {
    const bench = new CoreBench({
      members: 3,
      stored: [{ facts: factsOf('M1'), state: stateOf({ queue: 'shadow', epoch: epochOf(B) }) }],
    });
    bench.join(OTHER, [{ id: copyId('M1'), epoch: epochOf(A, 2), standing: 'intake' }]);
    expect(bench.sent('STATE').at(-1)?.frame.state.verdict).toBe('unknown');
  });

  test('what was refused as a candidate is no answer to the front end of a try of mine', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.join(OTHER);
    const resolve = { id: copyId('M1'), through: 2, deadlineMs: 1_000 };
    bench.event({ kind: 'ResolveAsked', from: PEER, role: 'transport', resolve, stored: null });
    expect(bench.sent('RESOLVED').at(-1)).toMatchObject({ to: PEER, frame: { resolved: { answer: 'aborted' } } });
    expect(asks(bench, 'M1')?.answer).toBe('open');
    refuses(bench, PEER, 'M1');
    refuses(bench, OTHER, 'M1');
    expect(asks(bench, 'M1')?.answer).toBe('aborted');
  });

  test('a copy taken over may be placed where the try it came from was aborted', () => {
    const bench = new CoreBench();
    bench.join(PEER);
    bench.event({
      kind: 'ResolveAsked',
      from: PEER,
      role: 'transport',
      resolve: { id: copyId('M1'), through: 1, deadlineMs: 0 },
      stored: null,
    });
    bench.shadow('M1', [ALPHA]);
    expect(bench.stored('M1')).toBeNull();
    const { envelope } = factsOf('M1');
    bench.event({
      kind: 'ShadowOpened',
      purpose: 'shadow',
      stream: 99,
      member: PEER,
      identity: B,
      openCounter: 1,
      nonce: 'n',
      id: copyId('M1'),
      envelope,
      state: sharedOf('M1', { epoch: epochOf(B, 1, 1) }),
      stored: null,
    });
    expect(bench.lastSeen('AcceptStream').stream).toBe(99);
  });
});

describe('a delivery that waits for its connection', () => {
  const waiting = (): { bench: CoreBench; requestId: number; may: () => boolean } => {
    const bench = new CoreBench();
    bench.join(PEER);
    bench.accept('M1', [ALPHA, 'alpha-1@sim.example']);
    const { requestId } = bench.lastSeen('Deliver');
    return { bench, requestId, may: () => mayBegin(bench.server, requestId, bench.nowMs) };
  };
  const withheld = (bench: CoreBench, requestId: number, results: readonly DeliveryResult[]): void =>
    void bench.event({ kind: 'DeliveryWithheld', requestId, results });

  test('begins, as long as nothing has happened', () => {
    const { bench, may } = waiting();
    bench.pass(60_000);
    expect(may()).toBe(true);
  });

  test.each(['unnoticed yet', 'noticed'])(
    'asks first after a standstill, %s; what was served before is not served again',
    (how) => {
      const { bench, requestId, may } = waiting();
      bench.nowMs += 40_000;
      if (how === 'noticed') bench.event({ kind: 'TimerFired' });
      expect(may()).toBe(false);
      withheld(bench, requestId, [delivered]);
      expect(bench.sent('CLAIM')).toMatchObject([{ to: PEER }]);
      expect(bench.server.deliveries.size).toBe(0);
      expect(bench.copy('M1').recipients).toMatchObject([{ outcome: 'delivered' }, { outcome: 'pending' }]);
      bench.pass(6_000);
      expect(bench.lastSeen('Deliver')).toMatchObject({ recipients: [1] });
      expect(bench.lastSeen('Deliver').requestId).not.toBe(requestId);
      expect(may()).toBe(false);
    },
  );

  test('does not begin when another owns the copy by now, who need not wait for it then', () => {
    const { bench, requestId, may } = waiting();
    bench.claim(PEER, [{ id: copyId('M1'), epoch: epochOf(B, 1, 1) }]);
    expect(bench.copy('M1').epoch).toEqual(epochOf(A));
    expect(may()).toBe(false);
    withheld(bench, requestId, []);
    expect(bench.copy('M1')).toMatchObject({ queue: 'shadow', epoch: epochOf(B, 1, 1) });
  });
});

test('the last member that has not told what it holds leaves the cluster: what rests here alone is known, and protected (seed 5808)', () => {
  const bench = new CoreBench({ members: 3, stored: [{ facts: factsOf('M1'), state: stateOf() }] });
  bench.join(PEER);
  bench.passHearing(7_000, { [PEER]: [] });
  expect(unprotectedCount(bench.server)).toBeNull();
  bench.topology((document) => ({ ...document, members: document.members.filter(({ name }) => name !== OTHER) }));
  expect(unprotectedCount(bench.server)).toBe(1);
  bench.pass(1_100);
  expect(bench.lastSeen('OpenCandidate')).toMatchObject({ id: 'M1', member: PEER, purpose: 'copy' });
});

describe('retries (semantics.md D5)', () => {
  const MINUTE = 60_000;
  const schedule = [...Array<number>(4).fill(MINUTE), ...Array<number>(6).fill(5 * MINUTE), 10 * MINUTE];

  function waits(recipient: string, kind: 'recipient' | 'host', times: number): number[] {
    const bench = new CoreBench({
      queues: {
        retryIntervalsMs: schedule,
        mailboxRetryIntervalMs: 5 * MINUTE,
        delayNotificationMs: 1e9,
        messageExpirationMs: 1e9,
      },
    });
    bench.join(PEER);
    bench.accept('M1', [recipient]);
    const found: number[] = [];
    for (let attempt = 0; attempt < times; attempt++) {
      const deliver = bench.lastSeen('Deliver');
      const fromMs = bench.nowMs;
      bench.delivered(deliver, [{ index: 0, kind: 'deferred', reply: '451 4.3.0 later', host: kind === 'host' }]);
      for (let waited = 0; bench.lastSeen('Deliver') === deliver && waited < 30 * MINUTE; waited += 1_000)
        bench.pass(1_000);
      found.push(Math.round((bench.nowMs - fromMs) / 1_000));
    }
    return found;
  }

  test('to a relay: 4 x 1 min, 6 x 5 min, then every 10 min', () => {
    const wanted = [...Array<number>(4).fill(60), ...Array<number>(6).fill(300), 600, 600];
    for (const [index, seconds] of waits(FAR, 'recipient', 12).entries())
      expect(Math.abs(seconds - (wanted[index] ?? 0))).toBeLessThanOrEqual(1);
  });

  test('to a mailbox: every 5 min', () => {
    for (const seconds of waits(ALPHA, 'recipient', 4)) expect(Math.abs(seconds - 300)).toBeLessThanOrEqual(1);
  });

  test('while the next hop itself is down: doubling from 1 s, at most 1 min', () => {
    const wanted = [1, 2, 4, 8, 16, 32, 60, 60];
    for (const [index, seconds] of waits(FAR, 'host', 8).entries())
      expect(Math.abs(seconds - (wanted[index] ?? 0))).toBeLessThanOrEqual(1);
  });
});
