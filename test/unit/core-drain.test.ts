/** Drain: RESIGN, RELEASE and the proof of emptiness (protocol.md 9, 15, 16; semantics.md section 7 row 18). */
import { describe, expect, test } from 'vitest';
import { drainView } from '../../transport/core/drain.ts';
import type { DeliveryResult, EarlyEffect } from '../../transport/core/events.ts';
import {
  A,
  B,
  C,
  CoreBench,
  copyId,
  epochOf,
  factsOf,
  OTHER,
  PEER,
  pending,
  SELF,
  sharedOf,
  stateOf,
} from './core-bench.ts';

const FAR = 'x@far.example';
const EPOCH_1 = epochOf(A, 1, 1);
const EPOCH_2 = epochOf(A, 1, 2);
const deferred = (index: number): DeliveryResult => ({ index, kind: 'deferred', reply: '451 4.0.0', host: false });
const item = (id: string, epoch = epochOf(A)) => ({ id: copyId(id), epoch, standing: 'released' as const });
const walks = (effects: readonly { readonly kind: string }[]): number =>
  effects.filter(({ kind }) => kind === ('ScanSafetyNet' satisfies EarlyEffect['kind'])).length;

/** Three members; M1 is here, has no route, and is confirmed on PEER. */
function withMail(): CoreBench {
  const bench = new CoreBench({ members: 3, shape: { withoutConnector: true } });
  bench.join(PEER);
  bench.contact(OTHER);
  bench.accept('M1', [FAR]);
  bench.join(OTHER);
  return bench;
}

describe('rule 15: resign', () => {
  test('row 35: durable, then told; the former owner is the shadow of the confirmed holder', () => {
    const bench = withMail();
    bench.memberState(SELF, 'draining');
    bench.pass(1_100);
    expect(bench.stored('M1')).toMatchObject({ queue: 'shadow', epoch: epochOf(B, 1, 1) });
    expect(bench.sent('RESIGN').map(({ to }) => to)).toEqual([PEER]);
    expect(bench.sent('LIST').at(-1)?.frame.list).toMatchObject({ owner: B, items: [item('M1', epochOf(B, 1, 1))] });
  });

  test('rule 16: no RESIGN while fewer than two of those that stay are healthy', () => {
    const bench = withMail();
    bench.down(OTHER);
    bench.memberState(SELF, 'draining');
    bench.pass(5_000);
    expect(bench.sent('RESIGN')).toHaveLength(0);
    expect(drainView(bench.server, 0).waitingFor).toHaveLength(1);
  });

  test('no delivery is opened, none is resigned while one is open', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.contact(OTHER);
    bench.accept('M1', [FAR]);
    bench.join(OTHER);
    bench.memberState(SELF, 'draining');
    bench.pass(2_000);
    expect(bench.sent('RESIGN')).toHaveLength(0);
    bench.delivered(bench.lastSeen('Deliver'), [deferred(0)]);
    bench.pass(10_000);
    expect(bench.sent('RESIGN')).toHaveLength(1);
    expect(bench.seen('Deliver')).toHaveLength(1);
  });

  test('row 36: the holder owns it durably and goes on', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.shadow('M1', [FAR]);
    const resign = { id: copyId('M1'), state: sharedOf('M1', { epoch: epochOf(A, 1, 1), recipients: [pending(FAR)] }) };
    bench.event({ kind: 'ResignReceived', member: PEER, resign });
    expect(bench.stored('M1')).toMatchObject({ epoch: EPOCH_1, placements: [{ identity: B, status: 'confirmed' }] });
    expect(bench.seen('Deliver')).toHaveLength(1);
    bench.event({ kind: 'ResignReceived', member: PEER, resign });
    expect(bench.seen('Deliver')).toHaveLength(1);
  });

  test('with the message comes the report that is owed: of who failed, and of whom nobody was told that it is safe', () => {
    const bench = new CoreBench();
    bench.join(PEER);
    bench.shadow('M1', [FAR]);
    const failed = { address: FAR, outcome: 'failed' as const, reply: '550 5.2.1 mailbox disabled', atMs: 1 };
    const resign = { id: copyId('M1'), state: sharedOf('M1', { epoch: epochOf(A, 1, 1), recipients: [failed] }) };
    bench.event({ kind: 'ResignReceived', member: PEER, resign });
    expect(bench.seen('ComposeDsn').map(({ dsn, parent }) => [dsn, parent])).toEqual([['failed', 'M1']]);
  });

  test('a lost RESIGN: the former owner lists its copy, that makes the owner', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.shadow('M1', [FAR]);
    bench.down(PEER);
    bench.join(PEER, [item('M1', EPOCH_1)]);
    expect(bench.stored('M1')?.epoch).toEqual(EPOCH_1);
  });

  test('FINDING a lost RESIGN: what its former owner had delivered is asked for before anything is delivered', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.shadow('M1', [FAR]);
    bench.down(PEER);
    bench.join(PEER, [item('M1', EPOCH_1)]);
    expect(bench.sent('CLAIM').map(({ to }) => to)).toContain(PEER);
    expect(bench.seen('Deliver')).toHaveLength(0);
  });
});

describe('rule 9: release', () => {
  /** M1 is confirmed on PEER, which leaves, and on OTHER. */
  function leaving(): CoreBench {
    const bench = withMail();
    bench.memberState(PEER, 'draining');
    bench.pass(2_100);
    const open = bench.candidateOpened();
    expect(open.member).toBe(OTHER);
    bench.candidateStored(open);
    bench.effects = [];
    return bench;
  }

  test('the term is raised durably and told to those who stay; RELEASE names the old epoch, after one is confirmed at the new', () => {
    const bench = leaving();
    bench.pass(1_100);
    expect(bench.stored('M1')?.epoch).toEqual(EPOCH_1);
    expect(bench.sent('STATE').map(({ to }) => to)).toEqual([OTHER]);
    expect(bench.sent('RELEASE')).toHaveLength(0);
    bench.list(OTHER, [item('M1', EPOCH_1)]);
    expect(bench.sent('RELEASE').map(({ to, frame }) => ({ to, epoch: frame.release.epoch }))).toEqual([
      { to: PEER, epoch: epochOf(A) },
    ]);
    bench.event({ kind: 'ReleaseAcked', member: PEER, released: { id: copyId('M1'), epoch: epochOf(A) } });
    expect(bench.copy('M1').placements.map(({ identity }) => identity)).toEqual([C]);
  });

  test('a crash of the owner after the raise: it is all done again', () => {
    const bench = leaving();
    bench.pass(1_100);
    bench.restart();
    bench.memberState(PEER, 'draining');
    bench.join(PEER, [item('M1')]);
    bench.join(OTHER, [item('M1', EPOCH_1)]);
    bench.pass(6_000);
    expect(bench.sent('RELEASE').at(-1)).toMatchObject({ to: PEER, frame: { release: { epoch: epochOf(A) } } });
  });

  test('row 28: honoured at my own epoch only, from its owner only; the answer follows the deletion', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.join(OTHER);
    bench.shadow('M1', [FAR]);
    const release = (member: string, epoch = epochOf(B)) =>
      bench.event({ kind: 'ReleaseReceived', member, release: { id: copyId('M1'), epoch }, stored: null });
    release(OTHER);
    release(PEER, epochOf(B, 1, 1));
    expect(bench.stored('M1')).not.toBeNull();
    release(PEER);
    expect(bench.stored('M1')).toBeNull();
    release(PEER);
    expect(bench.sent('RELEASE-ACK').map(({ to }) => to)).toEqual([PEER, PEER]);
  });

  test('FINDING the holder has another epoch than the one noted when it was to leave: it is released all the same', () => {
    const placements = [
      { identity: B, member: PEER, epoch: epochOf(A), status: 'releasing' as const },
      { identity: C, member: OTHER, epoch: EPOCH_2, status: 'confirmed' as const },
    ];
    const bench = new CoreBench({
      members: 3,
      document: (document) => ({
        ...document,
        members: document.members.map((one) => (one.name === PEER ? { ...one, state: 'draining' } : one)),
      }),
      stored: [{ facts: factsOf('M1'), state: stateOf({ epoch: EPOCH_2, placements }) }],
    });
    bench.join(OTHER, [item('M1', EPOCH_2)]);
    // It granted a claim at the epoch between: the answer was lost.
    bench.up(PEER);
    bench.list(PEER, [item('M1', EPOCH_1)]);
    expect(bench.sent('RELEASE').at(-1)?.frame.release.epoch).toEqual(EPOCH_1);
  });

  test('FINDING the answer to an earlier RELEASE does not count for a later one', () => {
    const placements = [
      { identity: B, member: PEER, epoch: EPOCH_1, status: 'releasing' as const },
      { identity: C, member: OTHER, epoch: EPOCH_2, status: 'confirmed' as const },
    ];
    const bench = new CoreBench({
      members: 3,
      stored: [{ facts: factsOf('M1'), state: stateOf({ epoch: EPOCH_2, placements }) }],
    });
    bench.join(OTHER, [item('M1', EPOCH_2)]);
    bench.join(PEER, [item('M1', EPOCH_1)]);
    bench.event({ kind: 'ReleaseAcked', member: PEER, released: { id: copyId('M1'), epoch: epochOf(A) } });
    expect(bench.copy('M1').placements.map(({ identity }) => identity)).toContain(B);
  });
});

describe('rule 16: empty', () => {
  test('a member without anything is empty after a walk that met nothing, and refuses every new copy; only a newer generation undoes that', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.join(OTHER);
    bench.memberState(SELF, 'draining');
    bench.pass(1_100);
    bench.page([]);
    bench.pass(2_000);
    expect(drainView(bench.server, 0).state).toBe('empty');
    expect(bench.index.facts.get('emptyLatch')).toEqual({ generation: 2 });
    bench.effects = [];
    bench.open('M9', [FAR]);
    bench.streamOpened(PEER, 'shadow', sharedOf('M8', { epoch: epochOf(B), standing: 'intake' }));
    expect(bench.seen('RefuseStream')).toHaveLength(2);
    bench.memberState(SELF, 'active');
    bench.pass(1_100);
    expect(bench.index.facts.has('emptyLatch')).toBe(false);
  });

  test('FINDING the last shadow copy comes to rest between a walk that met nothing and the look at the queues: not empty', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.join(OTHER);
    bench.shadow('M1', ['alpha-0@sim.example']);
    bench.memberState(SELF, 'draining');
    bench.pass(1_100);
    expect(walks(bench.effects)).toBe(1);
    bench.page([]);
    const recipients = [
      {
        address: 'alpha-0@sim.example',
        outcome: 'delivered' as const,
        database: 'alpha',
        databaseCopy: 'main',
        activation: 1,
      },
    ];
    bench.state(PEER, 'final', sharedOf('M1', { epoch: epochOf(B), recipients, final: true }));
    expect(bench.resting.size).toBe(1);
    bench.pass(1_100);
    expect(drainView(bench.server, 1).state).toBe('draining');
  });

  test('FINDING a stream for a resubmission is under way: not empty', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.join(OTHER);
    bench.memberState(SELF, 'draining');
    bench.server.resubmissions.copying.set(copyId('R1'), {} as never);
    bench.pass(1_100);
    bench.page([]);
    bench.pass(2_000);
    expect(drainView(bench.server, 0).state).toBe('draining');
  });

  test('cancel: nothing moves any more, the copies stay where they are', () => {
    const bench = withMail();
    bench.memberState(PEER, 'draining');
    bench.memberState(PEER, 'active');
    bench.effects = [];
    bench.pass(5_000);
    expect(bench.server.moving.size).toBe(0);
    expect(bench.sent('RELEASE')).toHaveLength(0);
    expect(bench.copy('M1').placements).toHaveLength(1);
  });
});
