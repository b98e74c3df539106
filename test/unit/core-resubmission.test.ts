/** Mailbox failover and resubmission from Safety Net (protocol.md section 6, rows 19 and 41; semantics.md N2-N6) through `step()`. */
import { describe, expect, it } from 'vitest';
import type { TopologyDocument } from '../../common/config.ts';
import { newCopy } from '../../transport/core/copy.ts';
import { finishIfFinal } from '../../transport/core/delivery.ts';
import { reopened } from '../../transport/core/resubmission.ts';
import { addCopy } from '../../transport/core/state.ts';
import { A, B, copyId, epochOf, PEER, sharedOf, stateOf, WALL_MS } from './core-bench.ts';
import {
  deliveredTo,
  failedOver,
  HOUR_MS,
  ResubmissionBench,
  requestOf,
  resting,
  turnOf,
  withRequests,
} from './resubmission-bench.ts';

const A0 = 'alpha-0@sim.example';
const A1 = 'alpha-1@sim.example';
const B0 = 'beta-0@sim.example';
const BY_NAME = 'by-hand';
const failOver = (document: TopologyDocument): TopologyDocument => failedOver(document);
const ok = (index: number) => ({ index, kind: 'delivered', reply: '250 2.0.0 Ok' }) as const;

describe('a failover with messages at rest', () => {
  it('delivers what the lost copy took to the new one, to the recipients it had', () => {
    const bench = new ResubmissionBench([resting('M1', [deliveredTo(A0), deliveredTo(B0, 'beta'), deliveredTo(A1)])]);
    bench.change(failOver);
    const [facts] = bench.made();
    expect(facts?.ancestor).toBe('M1');
    expect(facts?.envelope.recipients.map(({ address }) => address)).toEqual([A0, A1]);
    const copy = bench.copy(facts?.id ?? '');
    expect(copy).toMatchObject({
      queue: 'delivery',
      standing: 'released',
      epoch: epochOf(A),
      unprotected: 'not yet placed',
    });
    expect(copy.recipients).toEqual([
      { address: A0, outcome: 'pending' },
      { address: A1, outcome: 'pending' },
    ]);
    expect(bench.server.single.has(facts?.id ?? copyId(''))).toBe(true);
    // Under the eldest ancestor's id, so that the store knows what it has.
    expect(bench.lastSeen('Deliver')).toMatchObject({ deliveryId: 'M1', route: { copy: 'second', activation: 2 } });
    expect(bench.seen('Track').filter(({ event }) => event === 'RESUBMIT')).toHaveLength(1);
    expect(bench.seen('Count').find(({ what }) => what === 'resubmitted')?.label).toBe('primary');
    expect(bench.server.coverage.get('ResubmitRequested')).toBe(1);
    expect(bench.view()).toMatchObject({
      state: 'Done',
      selected: 1,
      resubmitted: 1,
      byPrimary: 1,
      byShadow: 0,
      failed: 0,
    });
    expect(bench.stored(facts?.id ?? '')).not.toBeNull();
    bench.deliverAll();
    expect(bench.net.get(facts?.id ?? copyId(''))?.state.recipients?.[0]).toMatchObject({
      databaseCopy: 'second',
      activation: 2,
    });
  });

  it('FINDING finds what a member dated by a clock that was a day behind: it saw the request before it was made', () => {
    const day = 24 * HOUR_MS;
    const bench = new ResubmissionBench([
      resting('M1', [deliveredTo(A0)]),
      resting('M2', [deliveredTo(A1, 'alpha', 1, { atMs: WALL_MS - 2 * HOUR_MS })]),
    ]);
    const window = { fromMs: WALL_MS + day - HOUR_MS, createdAtMs: WALL_MS + day, expiresAtMs: WALL_MS + 2 * day };
    bench.change((document) => failedOver(document, 'alpha', window));
    expect(bench.made().map(({ ancestor }) => ancestor)).toEqual(['M1']);
  });

  it('leaves alone what was delivered before the window, to another database, elsewhere, or under the new activation', () => {
    const bench = new ResubmissionBench([
      resting('M1', [deliveredTo(A0, 'alpha', 1, { atMs: WALL_MS - 2 * HOUR_MS })]),
      resting('M2', [deliveredTo(B0, 'beta')]),
      resting('M3', [{ address: 'x@far.example', outcome: 'relayed', connector: 'internet', atMs: WALL_MS }]),
      resting('M4', [deliveredTo(A0, 'alpha', 2)]),
      resting('M5', [
        { address: A1, outcome: 'failed', database: 'alpha', activation: 1, atMs: WALL_MS },
        deliveredTo(B0, 'beta'),
      ]),
    ]);
    bench.change(failOver);
    expect(bench.made()).toEqual([]);
    expect(bench.view()).toMatchObject({ state: 'Done', selected: 0 });
  });

  it('takes the ends of the window, and what came after it, with no bound of the clock above', () => {
    const bench = new ResubmissionBench([
      resting('M1', [deliveredTo(A0, 'alpha', 1, { atMs: WALL_MS - HOUR_MS })]),
      resting('M2', [deliveredTo(A0, 'alpha', 1, { atMs: WALL_MS + HOUR_MS })]),
    ]);
    bench.change(failOver);
    expect(bench.made().map(({ ancestor }) => ancestor)).toEqual(['M1', 'M2']);
    // The time of an entry is that of its last recipient, by another clock: read well before the window.
    expect(bench.filters[0]?.fromMs).toBeLessThan(WALL_MS - HOUR_MS);
    expect(bench.filters[0]?.toMs).toBeUndefined();
  });

  it('resubmits a report, and reports about no resubmission', () => {
    const bench = new ResubmissionBench([
      resting('D1', [deliveredTo(A0)], { facts: { kind: 'dsn' }, from: '' }),
      resting('M1', [deliveredTo(A1)]),
    ]);
    bench.change(failOver);
    expect(bench.made().map(({ ancestor }) => ancestor)).toEqual(['D1', 'M1']);
    for (const deliver of bench.seen('Deliver'))
      bench.delivered(deliver, [{ index: 0, kind: 'failed', reply: '550 5.1.1 gone' }]);
    expect(bench.seen('ComposeDsn')).toEqual([]);
    expect(bench.made()).toEqual([]);
  });

  it('makes one copy for overlapping and repeated requests, and follows a second failover', () => {
    const bench = new ResubmissionBench([resting('M1', [deliveredTo(A0)])]);
    bench.change((document) => failedOver(failedOver(document)));
    expect(bench.made()).toHaveLength(1);
    expect(bench.view('failover-alpha-1')).toMatchObject({ state: 'Done', resubmitted: 1, present: 0 });
    expect(bench.view('failover-alpha-2')).toMatchObject({ state: 'Done', selected: 1, resubmitted: 0, present: 1 });
    bench.deliverAll();
    expect(bench.made()).toEqual([]);
    bench.change(failOver);
    // Of M1 there is one already; that one was delivered to what is lost now, and has a successor.
    expect(bench.made().map(({ ancestor }) => ancestor)).toEqual(['M1']);
    expect(bench.view('failover-alpha-3')).toMatchObject({ selected: 2, resubmitted: 1, present: 1 });
    expect(new Set(bench.seen('Deliver').map(({ deliveryId }) => deliveryId))).toEqual(new Set(['M1']));
  });

  it('counts a body that cannot be read, or is not what it was, and goes on', () => {
    const bench = new ResubmissionBench(['M1', 'M2', 'M3'].map((id) => resting(id, [deliveredTo(A0)])));
    bench.unreadable.add(copyId('M1'));
    bench.holds = true;
    bench.change(failOver);
    for (const body of bench.held.splice(0)) bench.copyBody(body, body.from === 'M2' ? 'e'.repeat(64) : undefined);
    bench.settle();
    expect(bench.view()).toMatchObject({ state: 'Done', selected: 3, resubmitted: 1, failed: 2 });
    expect(bench.view().errors).toEqual(['the body of M1 cannot be read', 'the body of M2 cannot be read']);
    expect(bench.seen('DiscardBody')).toHaveLength(1);
  });

  it('makes no second copy when another maker is faster', () => {
    const bench = new ResubmissionBench([resting('M1', [deliveredTo(A0)])]);
    bench.join(PEER);
    bench.holds = true;
    bench.change(failOver);
    const id = bench.held[0]?.id ?? '';
    bench.shadow(id, [A0]);
    bench.release();
    expect(bench.copy(id).queue).toBe('shadow');
    expect(bench.view()).toMatchObject({ state: 'Done', resubmitted: 0, present: 1 });
  });

  it('asks nothing of other boundaries, and not of requests that are too old', () => {
    const bench = new ResubmissionBench([resting('M1', [deliveredTo(A0)])]);
    // Who knows no time calls nothing too old.
    bench.join(PEER);
    bench.change((document) => failedOver(document, 'alpha', { boundary: 'dag/other' }));
    expect(() => bench.view()).toThrow('no request');
    bench.change((document) =>
      withRequests(document, requestOf({ database: 'alpha', lostActivation: 1, expiresAtMs: WALL_MS })),
    );
    expect(bench.view('r').state).toBe('Cancelled');
    expect(bench.seen('ScanSafetyNet')).toEqual([]);
  });
});

describe('a failover with messages in transit', () => {
  const partly = (bench: ResubmissionBench): void => {
    bench.join(PEER);
    bench.accept('M1', [A0, B0]);
    const [first, second] = bench.seen('Deliver');
    if (first === undefined || second === undefined) throw new Error('two deliveries expected');
    bench.delivered(first, [ok(0)]);
    bench.delivered(second, [{ index: 1, kind: 'deferred', reply: '450 4.2.1 later', host: false }]);
  };

  it('reopens what was delivered to the lost copy, durably, and sends it to the new one', () => {
    const bench = new ResubmissionBench();
    partly(bench);
    expect(bench.copy('M1').recipients?.[0]?.outcome).toBe('delivered');
    bench.change(failOver);
    expect(bench.stored('M1')?.recipients?.[0]).toEqual({ address: A0, outcome: 'pending' });
    expect(bench.lastSeen('Deliver')).toMatchObject({ recipients: [0], route: { copy: 'second', activation: 2 } });
    expect(bench.server.coverage.get('RecipientReopened')).toBe(1);
    bench.delivered(bench.lastSeen('Deliver'), [ok(0)]);
    expect(bench.stored('M1')?.recipients?.[0]).toMatchObject({ outcome: 'delivered', activation: 2 });
  });

  it('reopens nothing for a dry run, a cancelled request, or one of a person', () => {
    for (const more of [{ dryRun: true }, { cancelled: true }, { lostActivation: null }, { boundary: 'dag/other' }]) {
      const bench = new ResubmissionBench();
      partly(bench);
      bench.change((document) => failedOver(document, 'alpha', more));
      expect(bench.copy('M1').recipients?.[0]?.outcome).toBe('delivered');
    }
  });

  it('judges what comes back late from the old copy, and is not done before', () => {
    const bench = new ResubmissionBench();
    bench.join(PEER);
    bench.accept('M1', [A0]);
    const old = bench.lastSeen('Deliver');
    bench.change(failOver);
    expect(bench.seen('Deliver')).toHaveLength(1);
    expect(bench.view().state).toBe('Running');
    bench.wait(3_000);
    expect(bench.view().state).toBe('Running');
    bench.delivered(old, [ok(0)]);
    expect(bench.stored('M1')?.recipients?.[0]).toEqual({ address: A0, outcome: 'pending' });
    expect(bench.lastSeen('Deliver')).toMatchObject({ recipients: [0], route: { copy: 'second', activation: 2 } });
    bench.wait(1_000);
    expect(bench.view().state).toBe('Done');
    bench.deliverAll();
    expect(bench.resting.get(copyId('M1'))?.recipients?.[0]?.activation).toBe(2);
  });

  it('judges it at once, also while other recipients are still open', () => {
    const bench = new ResubmissionBench();
    bench.join(PEER);
    bench.accept('M1', [A0, B0]);
    const [old] = bench.seen('Deliver');
    bench.change(failOver);
    if (old !== undefined) bench.delivered(old, [ok(0)]);
    expect(bench.stored('M1')?.recipients?.[0]).toEqual({ address: A0, outcome: 'pending' });
    expect(bench.lastSeen('Deliver')).toMatchObject({ recipients: [0], route: { copy: 'second' } });
  });

  it('finds a way for what waited without one', () => {
    const stored = resting('M1', [deliveredTo(A0), { address: 'x@far.example', outcome: 'pending' }], {
      state: { queue: 'unreachable', finalAtMs: null },
    });
    const bench = new ResubmissionBench([], { stored: [stored], shape: { withoutConnector: true } });
    bench.wait(6_000);
    expect(bench.copy('M1').queue).toBe('unreachable');
    bench.change(failOver);
    expect(bench.copy('M1').queue).toBe('delivery');
    expect(bench.lastSeen('Deliver')).toMatchObject({ recipients: [0], route: { copy: 'second' } });
  });

  it('does not finish a copy whose last delivery is lost', () => {
    const stored = resting('M1', [deliveredTo(A0)], { state: { queue: 'delivery', finalAtMs: null } });
    const bench = new ResubmissionBench();
    bench.change(failOver);
    bench.index.put({ ...stored, body: null });
    const copy = newCopy(stored.facts, stored.state);
    addCopy(bench.server, copy);
    const turn = turnOf(bench);
    expect(finishIfFinal(turn, copy)).toBe(false);
    expect(turn.out.commit.map(({ kind }) => kind)).toEqual(['state']);
    expect(turn.out.afterCommit.map(({ kind }) => kind)).toEqual(['Deliver']);
  });

  it('sends on at once what the old copy did not take any more', () => {
    for (const kind of ['unknown', 'deferred'] as const) {
      const bench = new ResubmissionBench();
      bench.join(PEER);
      bench.accept('M1', [A0]);
      const old = bench.lastSeen('Deliver');
      bench.change(failOver);
      bench.delivered(old, [
        kind === 'unknown'
          ? { index: 0, kind, reason: 'connection lost' }
          : { index: 0, kind, reply: '421 4.3.2 shutting down', host: true },
      ]);
      expect(bench.lastSeen('Deliver')).toMatchObject({ route: { copy: 'second', activation: 2 } });
    }
  });

  it('delivers again to the same copy when that is active again under another activation', () => {
    const bench = new ResubmissionBench();
    bench.join(PEER);
    bench.accept('M1', [A0]);
    const old = bench.lastSeen('Deliver');
    bench.change(failOver);
    bench.change(failOver);
    bench.delivered(old, [ok(0)]);
    expect(bench.lastSeen('Deliver')).toMatchObject({ recipients: [0], route: { copy: 'main', activation: 3 } });
  });

  it('never finishes a copy with a lost delivery that it only hears of', () => {
    const bench = new ResubmissionBench();
    bench.join(PEER);
    bench.accept('M1', [A0, B0]);
    const [, second] = bench.seen('Deliver');
    bench.change(failOver);
    // Another member had delivered it before the failover.
    bench.state(
      PEER,
      'pending',
      sharedOf('M1', { recipients: [deliveredTo(A0), { address: B0, outcome: 'pending' }] }),
    );
    if (second !== undefined) bench.delivered(second, [ok(1)]);
    bench.deliverAll();
    bench.deliverAll();
    const rests = bench.resting.get(copyId('M1'));
    expect(rests?.recipients?.map(({ activation }) => activation)).toEqual([2, 1]);
  });

  it('reopens when it is categorised again after a restart', () => {
    const stored = resting('M1', [deliveredTo(A0), { address: B0, outcome: 'pending' }], {
      state: { queue: 'delivery', finalAtMs: null },
    });
    const bench = new ResubmissionBench([], { stored: [stored], document: failOver });
    bench.join(PEER);
    bench.pass(6_000);
    expect(bench.stored('M1')?.recipients?.[0]?.outcome).toBe('pending');
    expect(bench.seen('Deliver').map(({ route }) => route)).toContainEqual(expect.objectContaining({ copy: 'second' }));
  });

  it('believes its own wall clock where that is ahead of the time it can vouch for', () => {
    const bench = new ResubmissionBench();
    bench.join(PEER);
    bench.wallOffsetMs = 5 * HOUR_MS;
    bench.accept('M1', [A0]);
    bench.delivered(bench.lastSeen('Deliver'), [ok(0)]);
    expect(bench.resting.get(copyId('M1'))?.recipients?.[0]?.atMs).toBeGreaterThanOrEqual(WALL_MS + 5 * HOUR_MS);
  });

  it('gives the same array back when nothing is lost, and survives a document that calls the present lost', () => {
    const bench = new ResubmissionBench();
    const recipients = [deliveredTo(A0, 'alpha', 2), deliveredTo(B0, 'beta')];
    bench.change(failOver);
    const state = stateOf({ queue: 'delivery' });
    expect(reopened(turnOf(bench), state, recipients)).toBe(recipients);
    bench.change((document) => withRequests(document, requestOf({ database: 'alpha', lostActivation: 9 })));
    expect(reopened(turnOf(bench), state, recipients)).toBe(recipients);
    expect(reopened(turnOf(bench), state, [deliveredTo(A0)])).toEqual([{ address: A0, outcome: 'pending' }]);
  });
});

describe('bounds', () => {
  it('reads pages of 100 and has at most 64 bodies under way', () => {
    const bench = new ResubmissionBench(Array.from({ length: 250 }, (_, n) => resting(`M${n}`, [deliveredTo(A0)])));
    bench.holds = true;
    bench.change(failOver);
    expect(bench.held).toHaveLength(64);
    expect(bench.pages).toEqual([100]);
    const first = bench.held.shift();
    if (first !== undefined) bench.copyBody(first);
    bench.settle();
    expect(bench.held).toHaveLength(64);
    expect(bench.view()).toMatchObject({ state: 'Running', resubmitted: 1 });
    bench.release();
    expect(bench.view()).toMatchObject({ state: 'Done', selected: 250, resubmitted: 250 });
    expect(Math.max(...bench.pages)).toBe(100);
  });

  it('waits with more while thousands of new copies cannot be delivered', () => {
    const bench = new ResubmissionBench(Array.from({ length: 4_200 }, (_, n) => resting(`M${n}`, [deliveredTo(A0)])));
    bench.change(failOver);
    bench.wait(1_000);
    expect(bench.made()).toHaveLength(4_000);
    expect(bench.view().state).toBe('Running');
    for (let round = 0; round < 60; round++) bench.deliverAll();
    bench.wait(1_000);
    expect(bench.view()).toMatchObject({ state: 'Done', resubmitted: 4_200 });
  });

  it('has entries of at most eight requests in its hands', () => {
    const bench = new ResubmissionBench([resting('M1', [deliveredTo(A0)])]);
    bench.holds = true;
    bench.change((document) =>
      withRequests(document, ...Array.from({ length: 10 }, (_, n) => requestOf({ name: `r${n}`, database: 'alpha' }))),
    );
    expect(bench.seen('ScanSafetyNet')).toHaveLength(8);
    expect(bench.view('r9').state).toBe('Pending');
    bench.release();
    bench.wait(1_000);
    for (let n = 0; n < 10; n++) expect(bench.view(`r${n}`)).toMatchObject({ state: 'Done', resubmitted: 1 });
  });

  it('pauses under pressure and while it is drained, and goes on afterwards', () => {
    const bench = new ResubmissionBench(Array.from({ length: 150 }, (_, n) => resting(`M${n}`, [deliveredTo(A0)])));
    bench.holds = true;
    bench.change(failOver);
    bench.event({ kind: 'PressureChanged', level: 'Medium', resource: 'disk' });
    bench.release();
    bench.wait(3_000);
    expect(bench.view()).toMatchObject({ state: 'Paused', resubmitted: 64 });
    bench.event({ kind: 'PressureChanged', level: 'Normal', resource: 'disk' });
    bench.wait(1_000);
    expect(bench.view()).toMatchObject({ state: 'Done', resubmitted: 150 });
    const drained = new ResubmissionBench([resting('M1', [deliveredTo(A0)])]);
    drained.change((document) => ({
      ...failedOver(document),
      members: document.members.map((one) => ({
        ...one,
        state: one.name === drained.server.name ? 'draining' : one.state,
      })),
    }));
    drained.wait(2_000);
    expect(drained.view().state).toBe('Paused');
    expect(drained.made()).toEqual([]);
  });
});

describe('what a person asks for', () => {
  const net = () => [
    resting('M1', [deliveredTo(A0), deliveredTo(B0, 'beta')], {
      from: 'One@far.example',
      facts: { events: [{ event: 'MESSAGE-ID', atMs: 0, source: 'f-0', detail: '<x@y>' }] },
    }),
    resting('M2', [deliveredTo(A1, 'alpha', 1, { atMs: WALL_MS + 60_000 })], { from: 'two@far.example' }),
  ];
  const asked = (more: Parameters<typeof requestOf>[0]): string[][] => {
    const bench = new ResubmissionBench(net());
    bench.change((document) => withRequests(document, requestOf({ name: BY_NAME, ...more })));
    expect(bench.view(BY_NAME).state).toBe('Done');
    return bench
      .made()
      .map(({ ancestor, envelope }) => [ancestor ?? '', ...envelope.recipients.map((one) => one.address)]);
  };

  it('selects by database, sender, recipient, message-id and window', () => {
    expect(asked({ database: 'alpha' })).toEqual([
      ['M1', A0],
      ['M2', A1],
    ]);
    expect(asked({ sender: 'one@FAR.example' })).toEqual([['M1', A0, B0]]);
    expect(asked({ recipient: B0.toUpperCase() })).toEqual([['M1', B0]]);
    expect(asked({ messageId: 'x@y' })).toEqual([['M1', A0, B0]]);
    expect(asked({ messageId: '<x@y>' })).toEqual([['M1', A0, B0]]);
    expect(asked({ database: 'alpha', toMs: WALL_MS + 1 })).toEqual([['M1', A0]]);
    expect(asked({ database: 'alpha', fromMs: WALL_MS + 60_000 })).toEqual([['M2', A1]]);
    expect(asked({ database: 'alpha', fromMs: WALL_MS + 60_001 })).toEqual([]);
  });

  it('only counts in a dry run', () => {
    const bench = new ResubmissionBench(net());
    bench.change((document) => withRequests(document, requestOf({ name: BY_NAME, database: 'alpha', dryRun: true })));
    expect(bench.view(BY_NAME)).toMatchObject({ state: 'Done', selected: 2, resubmitted: 0 });
    expect(bench.seen('CopyBody')).toEqual([]);
  });

  it('is not fed by what it made itself, but anew by another request, and by the same name asked again', () => {
    const bench = new ResubmissionBench(net().slice(1));
    const request = requestOf({ name: BY_NAME, sender: 'two@far.example' });
    bench.change((document) => withRequests(document, request));
    bench.deliverAll();
    const other = new ResubmissionBench([...bench.net.values()]);
    other.change((document) => withRequests(document, request));
    expect(other.view(BY_NAME)).toMatchObject({ state: 'Done', selected: 1, resubmitted: 0, present: 1 });
    bench.change((document) => withRequests(document, requestOf({ ...request, createdAtMs: WALL_MS + 5 })));
    // M2, and what the request of the same name had made of it: both are the same message.
    expect(bench.view(BY_NAME)).toMatchObject({ state: 'Done', selected: 2, resubmitted: 1, present: 1 });
    expect(bench.made().map(({ ancestor }) => ancestor)).toEqual(['M2']);
  });

  it('stops when it is cancelled, starts anew when it is wanted again, and leaves nothing when it is removed', () => {
    const bench = new ResubmissionBench(Array.from({ length: 100 }, (_, n) => resting(`M${n}`, [deliveredTo(A0)])));
    const request = requestOf({ name: BY_NAME, database: 'alpha' });
    bench.holds = true;
    bench.change((document) => withRequests(document, request));
    expect(bench.held).toHaveLength(64);
    bench.change((document) => withRequests(document, { ...request, cancelled: true }));
    expect(bench.lastSeen('EndScan').scan).toBe(bench.lastSeen('ScanSafetyNet').scan);
    bench.release();
    bench.wait(2_000);
    expect(bench.view(BY_NAME)).toMatchObject({ state: 'Cancelled', resubmitted: 0 });
    expect(bench.made()).toEqual([]);
    expect(bench.seen('DiscardBody')).toHaveLength(64);
    bench.change((document) => withRequests(document, request));
    expect(bench.view(BY_NAME)).toMatchObject({ state: 'Done', resubmitted: 100 });
    expect(bench.index.facts.has(`resubmit/${BY_NAME}`)).toBe(true);
    bench.change((document) => withRequests(document));
    expect(() => bench.view(BY_NAME)).toThrow('no request');
    expect(bench.index.facts.has(`resubmit/${BY_NAME}`)).toBe(false);
  });

  it('ends when its lifetime is over, with what is missing, by no clock that jumps', () => {
    const bench = new ResubmissionBench([resting('M1', [deliveredTo(A0)], { owner: B })]);
    bench.join(PEER);
    bench.down(PEER);
    bench.change((document) => withRequests(document, requestOf({ database: 'alpha', expiresAtMs: WALL_MS + 60_000 })));
    bench.wallOffsetMs = HOUR_MS;
    bench.wait(10_000);
    expect(bench.view('r')).toMatchObject({ state: 'Running', waitingFor: [B] });
    bench.wait(50_000);
    expect(bench.view('r')).toMatchObject({
      state: 'Cancelled',
      errors: ['its lifetime was over before it was complete'],
    });
  });
});
