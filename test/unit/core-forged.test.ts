/** Forged, repeated and reordered frames (semantics.md S14): a member speaks for its own copies and for what it was asked about, for nothing else. */
import { describe, expect, test } from 'vitest';
import type { DeliveryResult } from '../../transport/core/events.ts';
import { A, B, C, CoreBench, copyId, epochOf, OTHER, PEER, pending, sharedOf } from './core-bench.ts';

const FAR = 'x@far.example';
const relayed = [{ ...pending(FAR), outcome: 'relayed' as const }];
const deferred = (index: number): DeliveryResult => ({ index, kind: 'deferred', reply: '451 4.0.0', host: false });

/** A shadow of PEER's M1; OTHER has nothing to do with it. */
function shadow(): CoreBench {
  const bench = new CoreBench({ members: 3 });
  bench.join(PEER);
  bench.join(OTHER);
  bench.shadow('M1', [FAR]);
  bench.effects = [];
  return bench;
}

/** M1 is mine, deferred, its shadow is on PEER. */
function mine(): CoreBench {
  const bench = new CoreBench({ members: 3 });
  bench.join(PEER);
  bench.accept('M1', [FAR]);
  bench.delivered(bench.lastSeen('Deliver'), [deferred(0)]);
  bench.join(OTHER);
  bench.effects = [];
  return bench;
}

describe('S14: a shadow copy listens to its owner', () => {
  test.each([
    ['discard', 'final', sharedOf('M1', { epoch: epochOf(B), final: true, recipients: relayed })],
    ['abort', 'aborted', sharedOf('M1', { epoch: epochOf(B), standing: 'intake', abortedThrough: 9 })],
  ] as const)('a forged %s changes nothing', (_, verdict, state) => {
    const bench = shadow();
    bench.state(OTHER, verdict, state);
    expect(bench.stored('M1')?.queue).toBe('shadow');
  });

  test('a forged RELEASE, RESIGN, LIST or RESOLVE changes nothing', () => {
    const bench = shadow();
    const id = copyId('M1');
    bench.event({ kind: 'ReleaseReceived', member: OTHER, release: { id, epoch: epochOf(B) }, stored: null });
    bench.event({
      kind: 'ResignReceived',
      member: OTHER,
      resign: { id, state: sharedOf('M1', { epoch: epochOf(A, 1, 9) }) },
    });
    bench.list(OTHER, [{ id, epoch: epochOf(A, 1, 9), standing: 'released' }]);
    bench.event({
      kind: 'ResolveAsked',
      from: OTHER,
      role: 'transport',
      resolve: { id, through: 9, deadlineMs: 1_000 },
      stored: null,
    });
    expect(bench.stored('M1')).toMatchObject({ queue: 'shadow', epoch: epochOf(B) });
    expect(bench.sent('RELEASE-ACK')).toHaveLength(0);
  });

  test('nobody claims for somebody else', () => {
    const bench = shadow();
    bench.claim(OTHER, [{ id: copyId('M1'), epoch: epochOf(B, 1, 9) }]);
    expect(bench.copy('M1').epoch).toEqual(epochOf(B));
    expect(bench.sent('GRANT').at(-1)?.frame.grant.items[0]?.granted).toBe(false);
  });

  test('FINDING finality told by somebody who is not the owner is not merged: it would be lost with the owner', () => {
    const bench = shadow();
    bench.state(OTHER, 'pending', sharedOf('M1', { epoch: epochOf(B), recipients: relayed }));
    bench.state(OTHER, 'final', sharedOf('M1', { epoch: epochOf(B), recipients: relayed, final: true }));
    expect(bench.copy('M1').recipients?.some(({ outcome }) => outcome !== 'pending') ?? false).toBe(false);
  });

  test('FINDING a third party cannot give the copy to another owner', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.join(OTHER);
    bench.shadow('M1', [FAR], OTHER);
    bench.down(OTHER);
    bench.state(PEER, 'owner', sharedOf('M1', { epoch: { ...epochOf(C), try: 7 } }));
    expect(bench.copy('M1').epoch).toEqual(epochOf(C));
  });

  test('only the owner places, inside its boundary', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.streamOpened(PEER, 'copy', sharedOf('M1', { epoch: epochOf(C) }));
    bench.streamOpened('stranger', 'copy', sharedOf('M1', { epoch: epochOf('stranger' as typeof A) }));
    expect(bench.seen('RefuseStream')).toHaveLength(2);
  });
});

describe('S14: a copy of mine', () => {
  test('an epoch that names nobody ever met, or me, is not believed', () => {
    const bench = mine();
    bench.state(OTHER, 'owner', sharedOf('M1', { epoch: epochOf('nobody' as typeof A, 1, 9) }));
    bench.state(OTHER, 'owner', sharedOf('M1', { epoch: epochOf(A, 1, 9) }));
    expect(bench.copy('M1').epoch).toEqual(epochOf(A));
  });

  test('FINDING STATE at my own epoch says nothing to me: I am the one who tells', () => {
    const bench = mine();
    bench.state(OTHER, 'pending', sharedOf('M1', { recipients: relayed }));
    expect(bench.copy('M1').recipients?.[0]?.outcome).toBe('pending');
  });

  test('FINDING a member gives my copy to another one, which knows nothing of it', () => {
    const bench = mine();
    bench.down(PEER);
    bench.state(OTHER, 'owner', sharedOf('M1', { epoch: epochOf(B, 1, 9) }));
    expect(bench.copy('M1').epoch).toEqual(epochOf(A));
  });

  test('FINDING a GRANT that nobody asked for, of a member that never held it, does not end my copy', () => {
    const bench = mine();
    bench.grant(OTHER, 'final', sharedOf('M1', { epoch: { ...epochOf(C), try: 0 }, final: true, recipients: relayed }));
    expect(bench.stored('M1')?.queue).toBe('delivery');
  });

  test('FINDING a GRANT that nobody asked for brings no finality either', () => {
    const bench = mine();
    bench.grant(OTHER, 'pending', sharedOf('M1', { epoch: { ...epochOf(C), try: 0 }, recipients: relayed }));
    expect(bench.copy('M1').recipients?.[0]?.outcome).toBe('pending');
  });

  test('acknowledgements count for the database that says them, once', () => {
    const bench = mine();
    const id = copyId('M1');
    bench.event({ kind: 'ReleaseAcked', member: PEER, released: { id, epoch: epochOf(A) } });
    bench.event({ kind: 'StateAcknowledged', member: OTHER, ack: { id, epoch: epochOf(A), effect: 'removed' } });
    expect(bench.copy('M1').placements).toHaveLength(1);
  });
});

describe('S14: an abort of mine', () => {
  test('FINDING a claim for somebody else does not wipe the tombstone of an abort', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    const stream = bench.open('M1', [FAR]);
    bench.candidateOpened();
    bench.end(stream);
    bench.pass(12_000);
    expect(bench.server.tombstones.get(copyId('M1'))?.kind).toBe('aborted');
    bench.join(OTHER);
    bench.claim(OTHER, [{ id: copyId('M1'), epoch: epochOf(B, 1, 9) }]);
    expect(bench.server.tombstones.get(copyId('M1'))?.kind).toBe('aborted');
  });
});

describe('repeated and reordered answers', () => {
  test('every frame twice, the older ones last: the state is that of the newest', () => {
    const bench = shadow();
    const first = sharedOf('M1', { epoch: epochOf(B), recipients: [pending(FAR)] });
    const second = sharedOf('M1', { epoch: epochOf(C, 1, 1), recipients: [pending(FAR)] });
    bench.state(PEER, 'owner', second);
    const after = bench.copy('M1');
    for (const state of [first, second, first]) bench.state(PEER, 'owner', state);
    bench.claim(PEER, [{ id: copyId('M1'), epoch: epochOf(B) }]);
    expect(bench.copy('M1')).toEqual(after);
  });
});
