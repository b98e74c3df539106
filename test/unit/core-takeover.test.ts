/** Takeover, absence, claims and doubt (protocol.md 3, 4, 10, 12-14; semantics.md S5-S8): each rule as events, and the interleavings that break it. */
import { describe, expect, test } from 'vitest';
import type { Identity } from '../../common/message.ts';
import type { DeliveryResult } from '../../transport/core/events.ts';
import { unprotectedCount } from '../../transport/core/server.ts';
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
const TWO = ['alpha-0@sim.example', 'beta-0@sim.example'];
const B2 = 'B2' as Identity;
const SPAN_MS = 900_000;
const done = (index: number): DeliveryResult => ({ index, kind: 'delivered', reply: '250 2.0.0 ok' });
const deferred = (index: number): DeliveryResult => ({ index, kind: 'deferred', reply: '451 4.0.0', host: false });
const refused = (index: number): DeliveryResult => ({ index, kind: 'failed', reply: '550 5.1.1 no' });
const retiredB = { member: PEER, identity: B, uid: null, reason: 'lost' } as const;

/** This member holds M1 of PEER; OTHER is there as well. */
function holding(members: 2 | 3 = 3): CoreBench {
  const bench = new CoreBench({ members });
  bench.join(PEER);
  if (members === 3) bench.join(OTHER);
  bench.shadow('M1', [FAR]);
  return bench;
}

describe('rule 3: absence', () => {
  test('row 31: silent for the whole span and heard by nobody: promoted durably with the next term, claimed before it is delivered', () => {
    const bench = holding();
    bench.down(PEER);
    bench.passHearing(SPAN_MS - 3_000, { [OTHER]: [SELF] });
    expect(bench.copy('M1').queue).toBe('shadow');
    bench.passHearing(5_000, { [OTHER]: [SELF] });
    expect(bench.stored('M1')?.epoch).toEqual(epochOf(A, 1, 1));
    expect(bench.sent('CLAIM').at(-1)?.to).toBe(OTHER);
    expect(bench.seen('Deliver')).toHaveLength(0);
    bench.grant(OTHER, 'pending', sharedOf('M1', { epoch: epochOf(A, 1, 1) }));
    expect(bench.seen('Deliver')).toHaveLength(1);
  });

  test('a member that another one hears is not absent', () => {
    const bench = holding();
    bench.down(PEER);
    bench.passHearing(SPAN_MS + 5_000, { [OTHER]: [PEER, SELF] });
    expect(bench.copy('M1').queue).toBe('shadow');
  });

  test('who reaches no member takes over only with contact outside within the last minute', () => {
    const bench = holding(2);
    bench.down(PEER);
    bench.pass(SPAN_MS + 5_000);
    expect(bench.copy('M1').queue).toBe('shadow');
    bench.event({ kind: 'OutsideReached' });
    bench.pass(2_000);
    expect(bench.copy('M1').epoch.owner).toBe(A);
  });

  test('FINDING the witness that heard the member all the time restarts: its word still counts', () => {
    const bench = holding();
    bench.down(PEER);
    bench.passHearing(SPAN_MS + 5_000, { [OTHER]: [PEER, SELF] });
    bench.event({ kind: 'OutsideReached' });
    bench.down(OTHER);
    bench.pass(2_000);
    expect(bench.copy('M1').queue).toBe('shadow');
  });

  test('FINDING a session whose first CONTACT is still under way is no witness of absence', () => {
    const bench = holding();
    bench.down(PEER);
    bench.passHearing(SPAN_MS + 5_000, { [OTHER]: [PEER, SELF] });
    bench.down(OTHER);
    bench.up(OTHER);
    bench.pass(1_500);
    expect(bench.copy('M1').queue).toBe('shadow');
  });

  test('FINDING a process that stood still counts the absence of others from its waking', () => {
    const bench = holding(2);
    bench.nowMs += SPAN_MS + 10_000;
    bench.event({ kind: 'TimerFired' });
    bench.down(PEER);
    bench.event({ kind: 'OutsideReached' });
    bench.pass(2_000);
    expect(bench.copy('M1').queue).toBe('shadow');
  });

  test('FINDING the owner is taken out of the document without a word about its identity: its copies are taken over all the same', () => {
    const bench = holding();
    bench.memberState(PEER, 'gone');
    bench.down(PEER);
    bench.passHearing(SPAN_MS + 60_000, { [OTHER]: [SELF] });
    expect(bench.copy('M1').epoch.owner).toBe(A);
  });

  test('FINDING a confirmed holder is taken out of the document: its copy does not count as the second one for ever', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.contact(OTHER);
    bench.accept('M1', [FAR]);
    bench.join(OTHER);
    bench.memberState(PEER, 'gone');
    bench.down(PEER);
    bench.passHearing(60_000, { [OTHER]: [SELF] });
    expect(bench.seen('OpenCandidate').at(-1)).toMatchObject({ member: OTHER, purpose: 'copy' });
  });
});

describe('rule 4, S5: the word that an identity is gone', () => {
  test('S5b a member answers on a new queue database: promoted at once', () => {
    const bench = holding();
    bench.down(PEER);
    bench.up(PEER, B2);
    expect(bench.copy('M1').epoch).toEqual(epochOf(A, 1, 1));
  });

  test('the word takes effect when no session speaks for it', () => {
    const bench = holding();
    bench.down(PEER);
    bench.topology((document) => ({ ...document, retired: [retiredB] }));
    expect(bench.copy('M1').epoch.owner).toBe(A);
  });

  test('void while and after it speaks', () => {
    const bench = holding();
    bench.topology((document) => ({ ...document, retired: [retiredB] }));
    bench.passHearing(7_000, { [PEER]: [], [OTHER]: [] });
    bench.down(PEER);
    bench.passHearing(5_000, { [OTHER]: [] });
    expect(bench.copy('M1').queue).toBe('shadow');
  });

  test('FINDING a void word stays void when this process restarts', () => {
    const bench = holding();
    bench.topology((document) => ({ ...document, retired: [retiredB] }));
    bench.passHearing(7_000, { [PEER]: [], [OTHER]: [] });
    bench.restart();
    bench.up(PEER);
    expect(bench.copy('M1').queue).toBe('shadow');
  });

  test('FINDING the word is withdrawn and given again: it counts again', () => {
    const bench = holding();
    bench.topology((document) => ({ ...document, retired: [retiredB] }));
    bench.passHearing(7_000, { [PEER]: [], [OTHER]: [] });
    bench.topology((document) => ({ ...document, retired: [] }));
    bench.down(PEER);
    bench.topology((document) => ({ ...document, retired: [retiredB] }));
    bench.passHearing(2_000, { [OTHER]: [] });
    expect(bench.copy('M1').epoch.owner).toBe(A);
  });

  test('FINDING a copy that learns of an owner which is lost already is not left waiting for it', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.join(OTHER);
    bench.shadow('M1', [FAR], OTHER);
    bench.down(PEER);
    bench.up(PEER, B2);
    // OTHER had resigned to B before B's disk was lost.
    bench.state(OTHER, 'owner', sharedOf('M1', { epoch: epochOf(B, 1, 1) }));
    bench.down(OTHER);
    bench.up(OTHER, 'C2' as Identity);
    bench.pass(10_000);
    expect(bench.copy('M1').epoch.owner).toBe(A);
  });

  test('S8, row 37: a lost holder is no placement any more and another one is found', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.accept('M1', TWO);
    bench.join(OTHER);
    bench.down(PEER);
    bench.up(PEER, B2);
    expect(bench.copy('M1').placements).toEqual([]);
    bench.contact(PEER);
    bench.list(PEER);
    expect(unprotectedCount(bench.server)).toBe(1);
    const open = bench.candidateOpened();
    bench.candidateStored(open);
    expect(unprotectedCount(bench.server)).toBe(0);
  });

  test('FINDING an END was out to a database that is lost before the search ends: its tombstone does not wait for the dead', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    const stream = bench.open('M1', [TWO[0] ?? '']);
    const first = bench.candidateOpened();
    bench.join(OTHER);
    bench.end(stream);
    bench.down(PEER);
    bench.event({ kind: 'CandidateLost', id: first.id, attempt: first.attempt });
    const second = bench.candidateOpened();
    bench.up(PEER, B2);
    bench.contact(PEER);
    bench.list(PEER);
    bench.candidateStored(second);
    bench.delivered(bench.lastSeen('Deliver'), [done(0)]);
    const identities = bench.server.tombstones.get(copyId('M1'))?.placements.map(({ identity }) => identity) ?? [];
    expect(identities).not.toContain(B);
  });
});

describe('rule 13: claims', () => {
  test('a member that cannot be reached is asked on first contact', () => {
    const bench = holding();
    bench.down(OTHER);
    bench.down(PEER);
    bench.up(PEER, B2);
    bench.effects = [];
    bench.up(OTHER);
    expect(bench.sent('CLAIM').map(({ to }) => to)).toEqual([OTHER]);
  });

  test('row 32: a shadow grants durably, and then lists itself to the claimant', () => {
    const bench = holding();
    bench.claim(OTHER, [{ id: copyId('M1'), epoch: epochOf(C, 1, 1) }]);
    expect(bench.stored('M1')?.epoch).toEqual(epochOf(C, 1, 1));
    expect(bench.sent('GRANT').at(-1)?.frame.grant.items[0]?.granted).toBe(true);
    expect(bench.sent('LIST').at(-1)).toMatchObject({ to: OTHER, frame: { list: { owner: C } } });
  });

  test('a higher claim answers with itself; the lower claimant abandons (rows 33, 34)', () => {
    const bench = holding();
    bench.down(PEER);
    bench.up(PEER, B2);
    bench.claim(OTHER, [{ id: copyId('M1'), epoch: epochOf(B, 1, 1) }]);
    expect(bench.sent('GRANT').at(-1)?.frame.grant.items[0]).toMatchObject({ granted: false });
    bench.grant(OTHER, 'owner', sharedOf('M1', { epoch: epochOf(C, 1, 1) }), false);
    expect(bench.stored('M1')).toMatchObject({ queue: 'shadow', epoch: epochOf(C, 1, 1) });
    bench.state(
      OTHER,
      'final',
      sharedOf('M1', { epoch: epochOf(C, 1, 1), final: true, recipients: [{ ...pending(FAR), outcome: 'relayed' }] }),
    );
    expect(bench.resting.get(copyId('M1'))?.queue).toBe('shadowSafetyNet');
  });

  test('FINDING a member that is connected but silent when the wait runs out is asked again on its next session', () => {
    const bench = holding();
    bench.down(PEER);
    bench.up(PEER, B2);
    bench.grant(PEER, 'pending', sharedOf('M1', { epoch: epochOf(A, 1, 1) }));
    bench.pass(6_000);
    bench.down(OTHER);
    bench.effects = [];
    bench.up(OTHER);
    expect(bench.sent('CLAIM').filter(({ to }) => to === OTHER)).toHaveLength(1);
  });

  test('FINDING a tombstone stays until the former owner has answered the claim, not only until it has listed', () => {
    const bench = new CoreBench({ members: 2 });
    bench.join(PEER);
    bench.shadow('M1', ['alpha-0@sim.example'], PEER);
    bench.down(PEER);
    for (let minute = 0; minute < 16; minute++) {
      bench.event({ kind: 'OutsideReached' });
      bench.pass(59_000);
    }
    expect(bench.copy('M1').epoch).toEqual(epochOf(A, 1, 1));
    // Refused for good, and nobody wants a report: nothing rests, the tombstone alone can answer.
    bench.delivered(bench.lastSeen('Deliver'), [refused(0)]);
    const report = bench.seen('ComposeDsn').at(-1);
    if (report !== undefined) bench.event({ kind: 'DsnAtRest', id: report.id, parent: report.parent });
    expect(bench.server.copies.size).toBe(0);
    bench.pass(130_000);
    // PEER was only cut off. Its LIST left before it had our CLAIM.
    bench.up(PEER);
    expect(bench.sent('CLAIM').at(-1)?.frame.claim.items).toEqual([{ id: copyId('M1'), epoch: epochOf(A, 1, 1) }]);
    bench.list(PEER);
    bench.effects = [];
    bench.event({
      kind: 'ListReceived',
      member: PEER,
      list: { owner: A, items: [{ id: copyId('M1'), epoch: epochOf(A, 1, 1), standing: 'released' }], complete: false },
      stored: new Map(),
    });
    expect(bench.sent('STATE').at(-1)?.frame.state.verdict).toBe('final');
  });

  test('FINDING who is removed for good is not waited for: what it was to be asked keeps no tombstone', () => {
    const bench = holding();
    bench.down(PEER);
    bench.topology((document) => ({ ...document, retired: [retiredB] }));
    expect(bench.server.unasked.get(PEER)?.size).toBe(1);
    bench.memberState(PEER, 'gone');
    bench.pass(2_000);
    expect(bench.server.unasked.get(PEER)?.size ?? 0).toBe(0);
  });
});

describe('rule 14: doubt', () => {
  test('S7: a former primary that comes back asks first, waits at most 5 s, then delivers', () => {
    const bench = new CoreBench({
      stored: [{ facts: factsOf('M1'), state: stateOf({ queue: 'delivery', recipients: [pending(FAR)] }) }],
    });
    bench.up(PEER);
    expect(bench.sent('CLAIM')).toHaveLength(1);
    bench.pass(4_000);
    expect(bench.seen('Deliver')).toHaveLength(0);
    bench.pass(1_500);
    expect(bench.seen('Deliver')).toHaveLength(1);
  });

  test('row 34: the answer says final: it rests and is not delivered', () => {
    const bench = new CoreBench({ stored: [{ facts: factsOf('M1'), state: stateOf() }] });
    bench.up(PEER);
    const recipients = [{ ...pending(FAR), outcome: 'relayed' as const }];
    bench.grant(PEER, 'final', sharedOf('M1', { epoch: epochOf(B, 1, 1), final: true, recipients }));
    expect(bench.resting.get(copyId('M1'))?.queue).toBe('shadowSafetyNet');
    bench.pass(10_000);
    expect(bench.seen('Deliver')).toHaveLength(0);
  });

  test('FINDING who is there and does not answer, because it cannot read what rests there, is asked again until it can', () => {
    const bench = new CoreBench({ stored: [{ facts: factsOf('M1'), state: stateOf({ recipients: [pending(FAR)] }) }] });
    bench.up(PEER);
    bench.pass(6_000);
    bench.delivered(bench.lastSeen('Deliver'), [{ index: 0, kind: 'relayed', reply: '250 2.0.0 ok' }]);
    bench.list(PEER);
    bench.pass(130_000);
    expect(bench.server.tombstones.has(copyId('M1'))).toBe(true);
    const claims = bench.sent('CLAIM');
    expect(claims.length).toBeGreaterThan(3);
    expect(claims.length).toBeLessThan(7);
    expect(claims.at(-1)?.frame.claim.items).toEqual([{ id: copyId('M1'), epoch: epochOf(A) }]);
    bench.grant(PEER, 'final', sharedOf('M1', { final: true }));
    expect(bench.server.tombstones.has(copyId('M1'))).toBe(false);
    bench.pass(130_000);
    expect(bench.sent('CLAIM')).toHaveLength(claims.length);
  });

  test('out of contact with everybody for 30 s: asked once, what is accepted later is not doubtful', () => {
    const bench = new CoreBench();
    bench.join(PEER);
    bench.accept('M1', [FAR]);
    bench.delivered(bench.lastSeen('Deliver'), [deferred(0)]);
    bench.down(PEER);
    bench.pass(32_000);
    expect(bench.server.doubtful.has(copyId('M1'))).toBe(true);
    bench.pass(10_000);
    expect(bench.server.doubtful.size).toBe(0);
    bench.effects = [];
    bench.up(PEER);
    expect(bench.sent('CLAIM')).toHaveLength(1);
  });

  test('FINDING an answer after the wait brings the last outcome: the copy is final, it does not stay in delivery', () => {
    const bench = new CoreBench({
      members: 2,
      stored: [
        {
          facts: factsOf('M1', {
            envelope: { ...factsOf('M1').envelope, recipients: TWO.map((address) => ({ address })) },
          }),
          state: stateOf(),
        },
      ],
    });
    bench.join(PEER);
    bench.pass(6_000);
    const [one, two] = bench.seen('Deliver').slice(-2);
    if (one === undefined || two === undefined) throw new Error('two deliveries expected');
    bench.delivered(one, [done(one.recipients[0] ?? 0)]);
    bench.delivered(two, [deferred(two.recipients[0] ?? 0)]);
    // The former owner was delivering when it was asked: what became of it comes late.
    const recipients = TWO.map((address, index) =>
      index === two.recipients[0]
        ? { address, outcome: 'delivered' as const, database: 'beta', databaseCopy: 'main', activation: 1, atMs: 1 }
        : pending(address),
    );
    bench.grant(PEER, 'pending', sharedOf('M1', { epoch: epochOf(A), recipients }));
    bench.pass(30_000);
    expect(bench.server.copies.has(copyId('M1'))).toBe(false);
    expect(bench.resting.get(copyId('M1'))?.queue).toBe('primarySafetyNet');
  });

  test('FINDING a second doubt has its own 5 s', () => {
    const bench = new CoreBench({ stored: [{ facts: factsOf('M1'), state: stateOf() }] });
    bench.up(PEER);
    bench.grant(PEER, 'pending', sharedOf('M1'));
    bench.delivered(bench.lastSeen('Deliver'), [deferred(0)]);
    bench.claim(PEER, [{ id: copyId('M1'), epoch: epochOf(B, 1, 1) }]);
    bench.pass(2_000);
    bench.down(PEER);
    bench.up(PEER, B2);
    bench.pass(4_000);
    expect(bench.seen('Deliver')).toHaveLength(1);
  });
});

describe('rule 10', () => {
  test('"unknown" of the identity that owned it promotes, of another member it says nothing', () => {
    const bench = holding();
    bench.event({ kind: 'StateReceived', member: OTHER, state: { id: copyId('M1'), verdict: 'unknown', state: null } });
    expect(bench.copy('M1').queue).toBe('shadow');
    bench.event({ kind: 'StateReceived', member: PEER, state: { id: copyId('M1'), verdict: 'unknown', state: null } });
    expect(bench.copy('M1').epoch).toEqual(epochOf(A, 1, 1));
  });
});
