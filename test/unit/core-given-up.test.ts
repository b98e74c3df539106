/** What a member gives up without its owner's word, and answers that are none yet (protocol.md 6, 7, 13; two histories of test/sim/dosed-seeds.txt). */
import { describe, expect, test } from 'vitest';
import { A, B, C, CoreBench, copyId, epochOf, OTHER, PEER, sharedOf } from './core-bench.ts';

const MAILBOX = 'alpha-0@sim.example';
const M1 = copyId('M1');

/** SELF holds try 1 of PEER, gets try 2 from a front end and finds no shadow for it; its search is over. */
function raisedAndAborted(bench: CoreBench): void {
  const state = sharedOf('M1', { epoch: epochOf(B), standing: 'intake', digest: null, sizeBytes: 0 });
  bench.join(PEER);
  bench.streamEnded(bench.streamOpened(PEER, 'shadow', state));
  expect(bench.copy('M1')).toMatchObject({ queue: 'shadow', standing: 'intake' });
  const stream = bench.open('M1', [MAILBOX], { try: 2 });
  bench.end(stream);
  for (let second = 0; second < 20 && bench.stored('M1') !== null; second++) {
    const open = bench.lastSeen('OpenCandidate');
    bench.candidateRefused(open);
    bench.pass(1_000);
  }
  expect(bench.stored('M1')).toBeNull();
}

/** All but that the shadow of try 1 was stored here. */
const toFrontEnd = (bench: CoreBench) => bench.answers().filter(({ outcome }) => outcome !== 'stored');

const resolved = (bench: CoreBench, answer: 'aborted' | 'protected'): void =>
  void bench.event({
    kind: 'ResolveAnswered',
    member: PEER,
    resolved: { id: M1, through: 2, answer, epoch: epochOf(B), digest: null },
  });

describe('a shadow that goes with a higher try', () => {
  test('the owner of the lower try is asked, and asked again when it comes back; nothing is refused before it has answered', () => {
    const bench = new CoreBench();
    raisedAndAborted(bench);
    expect(bench.sent('RESOLVE').map(({ to, frame }) => [to, frame.resolve.id, frame.resolve.through])).toEqual([
      [PEER, 'M1', 2],
    ]);
    expect(toFrontEnd(bench)).toEqual([]);
    bench.down(PEER);
    bench.up(PEER);
    expect(bench.sent('RESOLVE').length).toBeGreaterThan(1);
    resolved(bench, 'aborted');
    expect(toFrontEnd(bench)).toMatchObject([{ id: 'M1', outcome: 'refused' }]);
  });

  test('it went on: the client is told nothing, and no front end that asks hears a refusal', () => {
    const bench = new CoreBench();
    raisedAndAborted(bench);
    resolved(bench, 'protected');
    expect(toFrontEnd(bench)).toMatchObject([{ id: 'M1', outcome: 'silent' }]);
    // That its owner holds nothing of ours says nothing about its own.
    bench.down(PEER);
    bench.join(PEER);
    const resolve = { id: M1, through: 2, deadlineMs: 1_000 };
    bench.event({ kind: 'ResolveAsked', from: 'f-0', role: 'frontend', resolve, stored: null });
    bench.pass(2_000);
    expect(bench.sent('RESOLVED').map(({ frame }) => frame.resolved.answer)).not.toContain('aborted');
  });

  test('who is asked does not count on who asks any more, and gets another shadow', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    const { member } = bench.accept('M1', ['x@far.example']);
    expect(bench.copy('M1').placements).toMatchObject([{ member, status: 'confirmed' }]);
    const resolve = { id: M1, through: 2, deadlineMs: 1_000 };
    bench.event({ kind: 'ResolveAsked', from: member, role: 'transport', resolve, stored: null });
    expect(bench.copy('M1').placements).toEqual([]);
    bench.pass(3_000);
    expect(bench.seen('OpenCandidate').filter(({ purpose }) => purpose === 'copy')).not.toEqual([]);
  });
});

describe('a shadow that goes with a higher try of somebody else', () => {
  /** SELF holds try 1 of PEER as its shadow, then as the shadow of try 2 of OTHER, which gives up. */
  function reparentedAndAborted(): CoreBench {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.join(OTHER);
    const intake = { standing: 'intake', digest: null, sizeBytes: 0 } as const;
    bench.streamEnded(bench.streamOpened(PEER, 'shadow', sharedOf('M1', { ...intake, epoch: epochOf(B) })));
    bench.streamEnded(bench.streamOpened(OTHER, 'shadow', sharedOf('M1', { ...intake, epoch: epochOf(C, 2) })));
    expect(bench.copy('M1').epoch).toEqual(epochOf(C, 2));
    const resolve = { id: M1, through: 2, deadlineMs: 1_000 };
    bench.event({ kind: 'ResolveAsked', from: OTHER, role: 'transport', resolve, stored: null });
    expect(bench.stored('M1')).toBeNull();
    return bench;
  }

  test('the owner of the lower try is asked, and asked again when it comes back; who gave up hears its refusal at once', () => {
    const bench = reparentedAndAborted();
    expect(bench.sent('RESOLVED').map(({ to, frame }) => [to, frame.resolved.answer])).toEqual([[OTHER, 'aborted']]);
    const asked = () => bench.sent('RESOLVE').map(({ to, frame }) => [to, frame.resolve.id, frame.resolve.through]);
    expect(asked()).toEqual([[PEER, 'M1', 2]]);
    bench.down(PEER);
    bench.up(PEER);
    expect(asked()).toEqual([
      [PEER, 'M1', 2],
      [PEER, 'M1', 2],
    ]);
    resolved(bench, 'protected');
    bench.down(PEER);
    bench.up(PEER);
    expect(asked()).toHaveLength(2);
  });
});

describe('a claim that cannot be granted yet', () => {
  /** SELF was given M1 by its former owner while PEER could not be asked; PEER is there now and is delivering it. */
  function claimed(): CoreBench {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.join('t-0-2');
    bench.shadow('M1', [MAILBOX], 't-0-2');
    bench.down(PEER);
    bench.event({
      kind: 'StateReceived',
      member: 't-0-2',
      state: { id: M1, verdict: 'unknown', state: null },
    });
    expect(bench.copy('M1').epoch.owner).toBe(A);
    bench.up(PEER);
    expect(bench.sent('CLAIM').filter(({ to }) => to === PEER)).not.toEqual([]);
    bench.grant(PEER, 'pending', sharedOf('M1', { epoch: epochOf(B) }), false);
    return bench;
  }

  test('is asked again, in the next session as well', () => {
    const bench = claimed();
    expect(bench.server.unasked.get(PEER)?.has(M1)).toBe(true);
    bench.down(PEER);
    const before = bench.sent('CLAIM').length;
    bench.up(PEER);
    expect(bench.sent('CLAIM').slice(before)).toMatchObject([
      { to: PEER, frame: { claim: { items: [{ id: 'M1', epoch: { owner: A } }] } } },
    ]);
  });

  test('what a former owner has served is told to those who hold it', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.join('t-0-2');
    const { member } = bench.accept('M1', [MAILBOX, 'alpha-1@sim.example'], { try: 2 });
    const recipients = [
      { address: MAILBOX, outcome: 'delivered' as const, atMs: 1 },
      { address: 'alpha-1@sim.example', outcome: 'pending' as const },
    ];
    const other = member === PEER ? 't-0-2' : PEER;
    bench.grant(other, 'pending', sharedOf('M1', { epoch: epochOf(B), recipients }));
    expect(bench.copy('M1').recipients).toMatchObject([{ outcome: 'delivered' }, { outcome: 'pending' }]);
    expect(bench.sent('STATE').filter(({ to }) => to === member)).toMatchObject([
      { frame: { state: { verdict: 'pending', state: { recipients: [{ outcome: 'delivered' }, {}] } } } },
    ]);
  });

  test('the delivery ended over there: that is heard, nothing is delivered again, and who told is told so', () => {
    const bench = claimed();
    bench.grant(
      PEER,
      'final',
      sharedOf('M1', {
        epoch: epochOf(B),
        final: true,
        recipients: [{ address: MAILBOX, outcome: 'delivered', atMs: 1 }],
      }),
    );
    expect(bench.stored('M1')).toBeNull();
    expect(bench.resting.has(M1)).toBe(true);
    expect(bench.sent('STATE-ACK').filter(({ to }) => to === PEER)).toMatchObject([
      { frame: { ack: { id: 'M1', effect: 'moved' } } },
    ]);
  });

  test('what the claimant finished while it was delivered here ends with that delivery, and the claimant is told that nothing is left', () => {
    const bench = new CoreBench();
    bench.join(PEER);
    bench.accept('M1', [MAILBOX]);
    const deliver = bench.lastSeen('Deliver');
    const recipients = [{ address: MAILBOX, outcome: 'delivered' as const, atMs: 1 }];
    bench.state(PEER, 'final', sharedOf('M1', { epoch: epochOf(B, 2), final: true, recipients }));
    expect(bench.stored('M1')).not.toBeNull();
    bench.delivered(deliver, [{ index: 0, kind: 'deferred', reply: '450 4.2.0 busy', host: false }]);
    expect(bench.stored('M1')).toBeNull();
    expect(bench.resting.has(M1)).toBe(true);
    expect(bench.sent('GRANT').at(-1)).toMatchObject({
      to: PEER,
      frame: { grant: { items: [{ id: 'M1', granted: true, verdict: 'final', state: { final: true, recipients } }] } },
    });
  });

  test('a higher try that is not released yet ends no delivery under way: it is given up, and what was delivered rests here as its owner', () => {
    const bench = new CoreBench();
    bench.join(PEER);
    bench.accept('M1', [MAILBOX]);
    const deliver = bench.lastSeen('Deliver');
    const higher = sharedOf('M1', { epoch: epochOf(B, 2), standing: 'intake', digest: null, sizeBytes: 0 });
    bench.streamEnded(bench.streamOpened(PEER, 'shadow', higher));
    expect(bench.answers().at(-1)).toMatchObject({ id: 'M1', outcome: 'owned' });
    const resolve = { id: M1, through: 2, deadlineMs: 1_000 };
    bench.event({ kind: 'ResolveAsked', from: PEER, role: 'transport', resolve, stored: null });
    bench.delivered(deliver, [{ index: 0, kind: 'delivered', reply: '250 ok' }]);
    expect(bench.resting.get(M1)).toMatchObject({ queue: 'primarySafetyNet', epoch: { owner: A } });
  });

  test('what had waited in the socket while the process stood still answers nothing; who is heard again is asked again', () => {
    const bench = new CoreBench();
    bench.join(PEER);
    bench.accept('M1', [MAILBOX]);
    bench.delivered(bench.lastSeen('Deliver'), [{ index: 0, kind: 'deferred', reply: '450 4.2.0 busy', host: false }]);
    bench.nowMs += 40_000;
    const claims = () => bench.sent('CLAIM').length;
    const isInDoubt = () => bench.server.copies.get(M1)?.doubt != null;
    bench.contact(PEER, {}, [], -39_000);
    expect([isInDoubt(), claims()]).toEqual([true, 1]);
    bench.grant(PEER, 'pending', sharedOf('M1'));
    expect(isInDoubt()).toBe(true);
    bench.contact(PEER);
    expect(claims()).toBe(2);
    bench.grant(PEER, 'pending', sharedOf('M1'));
    expect(isInDoubt()).toBe(false);
  });
});
