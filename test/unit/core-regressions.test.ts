/** One test per fault that a review found in the core: what a user would have lost, and the events that lost it. */
import { describe, expect, test } from 'vitest';
import type { Identity, RecipientState, SharedState } from '../../common/message.ts';
import { encodeControl } from '../../common/peer/frames.ts';
import type { DeliveryResult } from '../../transport/core/events.ts';
import {
  A,
  B,
  C,
  CoreBench,
  copyId,
  DIGEST,
  envelopeFor,
  epochOf,
  factsOf,
  OTHER,
  PEER,
  pending,
  sharedOf,
  stateOf,
} from './core-bench.ts';

const FAR = 'x@far.example';
const ALPHA = ['alpha-0@sim.example', 'alpha-1@sim.example'];
const SENDER = 'alpha-5@sim.example';
const done = (index: number): DeliveryResult => ({ index, kind: 'delivered', reply: '250 2.0.0 ok' });
const refused = (index: number): DeliveryResult => ({ index, kind: 'failed', reply: '550 5.1.1 no' });

describe('1. finality is written once (else the store refuses the commit and the process dies again at every start)', () => {
  test.each([
    ['<> sender', '', ALPHA],
    ['NOTIFY=NEVER', SENDER, ALPHA.map((address) => ({ address, notify: 'NEVER' }))],
  ] as const)('%s, one answer of the store delivers and refuses: exactly one move', (_, from, recipients) => {
    const bench = new CoreBench();
    bench.join(PEER);
    bench.accept('M1', recipients, { from });
    const { commit } = bench.delivered(bench.lastSeen('Deliver'), [done(0), refused(1)]);
    expect(commit.filter(({ kind }) => kind === 'move')).toHaveLength(1);
    expect(bench.resting.get(copyId('M1'))?.recipients?.map(({ outcome }) => outcome)).toEqual(['delivered', 'failed']);
    expect(bench.sent('STATE').filter(({ frame }) => frame.state.verdict === 'final')).toHaveLength(1);
    bench.restart();
    expect(bench.server.copies.size).toBe(0);
  });

  test('<> sender, nobody of two is known: removed once', () => {
    const bench = new CoreBench();
    bench.join(PEER);
    bench.accept('M1', ['nobody@sim.example', 'noone@sim.example'], { from: '' });
    expect(bench.sent('STATE').filter(({ frame }) => frame.state.verdict === 'final')).toHaveLength(1);
    expect(bench.stored('M1')).toBeNull();
  });

  test('<> sender, two recipients expire at once: removed once', () => {
    const bench = new CoreBench({ shape: { withoutConnector: true, messageExpirationMs: 60_000 } });
    bench.join(PEER);
    bench.accept('M1', [FAR, 'y@far.example'], { from: '' });
    bench.pass(61_000);
    expect(bench.sent('STATE').filter(({ frame }) => frame.state.verdict === 'final')).toHaveLength(1);
    expect(bench.stored('M1')).toBeNull();
  });
});

describe('5. a member that may hold the copy is asked before 451 is said (else a refused message is delivered later)', () => {
  function endTimedOut() {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.join(OTHER);
    const stream = bench.open('M5', [ALPHA[0] ?? '']);
    const first = bench.candidateOpened();
    bench.end(stream);
    bench.pass(2_001);
    const second = bench.lastSeen('OpenCandidate');
    expect(second.attempt).not.toBe(first.attempt);
    return { bench, first, second };
  }

  test('END timed out, then the connection broke: RESOLVE, the tombstone names it, 451 only when it has refused', () => {
    const { bench, first, second } = endTimedOut();
    bench.event({ kind: 'CandidateLost', id: first.id, attempt: first.attempt });
    bench.down(first.member);
    bench.candidateRefused(second);
    // No second member of the boundary is left to try.
    expect(bench.answers()).toEqual([]);
    expect(bench.sent('RESOLVE').map(({ to }) => to)).toContain(first.member);
    expect(bench.index.tombstones.get(first.id)?.placements.map(({ member }) => member)).toEqual([first.member]);
    bench.up(first.member);
    expect(bench.sent('RESOLVE').filter(({ to }) => to === first.member)).toHaveLength(2);
    expect(bench.answers()).toEqual([]);
    const resolved = { id: first.id, through: 1, answer: 'aborted' as const, epoch: null, digest: null };
    bench.event({ kind: 'ResolveAnswered', member: first.member, resolved });
    expect(bench.answers()).toMatchObject([{ outcome: 'refused', reply: { code: 451 } }]);
  });

  test('its refusal clears the doubt: 451 at once', () => {
    const { bench, first, second } = endTimedOut();
    bench.candidateRefused(first);
    bench.candidateRefused(second);
    expect(bench.sent('RESOLVE')).toEqual([]);
    expect(bench.answers()).toMatchObject([{ outcome: 'refused' }]);
  });
});

test('6. one recipient failed (DSN on the way), the other relayed: durable before holders are told (else relayed twice)', () => {
  const bench = new CoreBench();
  bench.join(PEER);
  bench.accept('M6', [ALPHA[0] ?? '', FAR], { from: SENDER });
  const [mailbox, relay] = bench.seen('Deliver');
  if (mailbox === undefined || relay === undefined) throw new Error('two next hops expected');
  bench.delivered(mailbox, [refused(0)]);
  expect(bench.seen('ComposeDsn')).toHaveLength(1);
  bench.effects = [];
  const { commit } = bench.delivered(relay, [{ index: 1, kind: 'relayed', reply: '250 ok' }]);
  expect(commit).toMatchObject([{ kind: 'state', id: 'M6' }]);
  expect(bench.stored('M6')?.recipients?.[1]?.outcome).toBe('relayed');
  const told = bench.sent('STATE').map(({ frame }) => frame.state);
  expect(told).toMatchObject([
    { verdict: 'pending', state: { recipients: [{ outcome: 'pending' }, { outcome: 'relayed' }] } },
  ]);
  bench.restart();
  bench.join(PEER);
  bench.pass(10_000);
  expect(bench.seen('Deliver').filter(({ facts }) => facts.id === 'M6')).toEqual([]);
});

test('8. a late "stored" of an earlier search is not taken for another member\'s (else a copy counts that nobody has)', () => {
  const policies = { rejectMessageOnShadowFailure: false, maxRetriesForLocalSiteShadow: 1 };
  const bench = new CoreBench({ members: 3, shape: { policies, withoutConnector: true } });
  bench.join(PEER);
  bench.join(OTHER);
  const stream = bench.open('M8', [FAR]);
  const first = bench.candidateOpened();
  bench.end(stream);
  bench.contact(first.member, { queued: 1_000_000 });
  bench.pass(3_500);
  expect(bench.answers()).toMatchObject([{ outcome: 'unprotected' }]);
  const again = bench.lastSeen('OpenCandidate');
  expect(again).toMatchObject({ purpose: 'copy' });
  expect(again.member).not.toBe(first.member);
  expect(new Set(bench.seen('OpenCandidate').map(({ attempt }) => attempt)).size).toBe(
    bench.seen('OpenCandidate').length,
  );
  bench.candidateStored(first);
  const confirmed = bench.copy('M8').placements.filter(({ status }) => status === 'confirmed');
  expect(confirmed.map(({ member }) => member)).toEqual([first.member]);
});

describe('9. a search for a shadow that has lost its purpose is called off (else the candidate keeps a body for ever)', () => {
  /** M9 was accepted alone and waits for `PEER` to answer OPEN. */
  function reshadowing(recipient: string) {
    const policies = { rejectMessageOnShadowFailure: false };
    const bench = new CoreBench({ members: 3, shape: { withoutConnector: true, policies } });
    bench.join(PEER, [], { accepting: false });
    bench.join(OTHER, [], { accepting: false });
    bench.end(bench.open('M9', [recipient]));
    expect(bench.answers()).toMatchObject([{ outcome: 'unprotected' }]);
    bench.contact(PEER);
    const search = bench.lastSeen('OpenCandidate');
    expect(search).toMatchObject({ purpose: 'copy', member: PEER });
    bench.contact(OTHER);
    return { bench, search };
  }

  test.each<[string, string, (bench: CoreBench) => void]>([
    ['a claim with a higher epoch', FAR, (bench) => bench.claim(OTHER, [{ id: copyId('M9'), epoch: epochOf(C, 2) }])],
    [
      'the owner of a later try',
      FAR,
      (bench) => bench.state(OTHER, 'pending', sharedOf('M9', { epoch: epochOf(C, 2) })),
    ],
    [
      'another member that says final',
      FAR,
      (bench) => bench.grant(OTHER, 'final', sharedOf('M9', { epoch: epochOf(C, 2), final: true })),
    ],
    ['delivery', ALPHA[0] ?? '', (bench) => bench.delivered(bench.lastSeen('Deliver'), [done(0)])],
    ['a front end that sends it again', FAR, (bench) => bench.open('M9', [FAR], { try: 2 })],
  ])('%s: the stream is dropped', (_, recipient, end) => {
    const { bench, search } = reshadowing(recipient);
    expect(bench.seen('DropCandidate')).toEqual([]);
    end(bench);
    expect(bench.seen('DropCandidate').map(({ id, attempt }) => ({ id, attempt }))).toEqual([
      { id: search.id, attempt: search.attempt },
    ]);
  });

  test("another maker's report takes the place of mine while mine looks for a shadow: the stream is dropped", () => {
    const bench = new CoreBench();
    bench.join(PEER);
    bench.accept('M9', ['nobody@sim.example', FAR], { from: SENDER });
    const { id } = bench.lastSeen('ComposeDsn');
    const envelope = envelopeFor([SENDER], '');
    const parent = copyId('M9');
    bench.event({ kind: 'DsnComposed', stream: 90, id, parent, envelope, digest: 'e'.repeat(64), sizeBytes: 5 });
    const search = bench.lastSeen('OpenCandidate');
    expect(search.id).toBe(id);
    const state = sharedOf(id, { kind: 'dsn', epoch: epochOf(B) });
    const from = { member: PEER, identity: B, openCounter: 1, nonce: 'n' };
    bench.event({ kind: 'ShadowOpened', purpose: 'shadow', stream: 91, ...from, id, envelope, state, stored: null });
    bench.event({ kind: 'ShadowEnded', stream: 91, digest: DIGEST, sizeBytes: 5, events: [] });
    expect(bench.seen('DropCandidate')).toMatchObject([{ id, attempt: search.attempt }]);
    expect(bench.stored(id)).toMatchObject({ queue: 'shadow', epoch: epochOf(B) });
    // Seed 4299: its maker's own commit may still be under way, so that this one alone may be left; announced once that one says that it has it.
    expect(bench.copy('M9').recipients?.[0]?.announced).toBeUndefined();
    const listed = bench.sent('LIST').at(-1)?.frame.list.items;
    expect(listed?.map((item) => item.id)).toEqual([id]);
    bench.state(PEER, 'pending', state);
    expect(bench.copy('M9').recipients?.[0]).toMatchObject({ outcome: 'failed', announced: true });
  });

  test('a report that I make is not sent before everybody was asked: its former maker or a successor may have it (seed 1267)', () => {
    const bench = new CoreBench({ members: 3 });
    for (const member of [PEER, OTHER]) bench.join(member);
    bench.accept('M9', ['nobody@sim.example', FAR], { from: SENDER });
    const { id } = bench.lastSeen('ComposeDsn');
    const of = { stream: 90, id, parent: copyId('M9'), envelope: envelopeFor([SENDER], '') };
    bench.event({ kind: 'DsnComposed', ...of, digest: DIGEST, sizeBytes: 5 });
    const asked = bench.sent('CLAIM').filter(({ frame }) => frame.claim.items.some((item) => item.id === id));
    expect(asked.map(({ to }) => to).sort()).toEqual([PEER, OTHER].sort());
    bench.candidateStored(bench.candidateOpened());
    const sent = () => bench.seen('Deliver').filter(({ facts }) => facts.id === id).length;
    expect(sent()).toBe(0);
    for (const member of [PEER, OTHER]) bench.grant(member, 'pending', sharedOf(id, { kind: 'dsn' }));
    expect(sent()).toBe(1);
  });

  test("another maker's report takes the place of mine: who holds mine hears whose it is now (seed 800194)", () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.accept('M9', ['nobody@sim.example', FAR], { from: SENDER });
    const { id } = bench.lastSeen('ComposeDsn');
    const envelope = envelopeFor([SENDER], '');
    bench.event({
      kind: 'DsnComposed',
      stream: 90,
      id,
      parent: copyId('M9'),
      envelope,
      digest: 'e'.repeat(64),
      sizeBytes: 5,
    });
    const { attempt, state } = bench.candidateOpened();
    const result = { id, epoch: state.epoch, outcome: 'stored', digest: 'e'.repeat(64), reply: null } as const;
    bench.event({ kind: 'CandidateResult', member: PEER, id, attempt, result });
    bench.delivered(bench.lastSeen('Deliver'), [{ index: 0, kind: 'deferred', reply: '451 4.3.0 later', host: false }]);
    bench.join(OTHER);
    bench.streamEnded(bench.streamOpened(OTHER, 'copy', sharedOf(id, { kind: 'dsn', epoch: epochOf(C, 1, 1) })));
    expect(bench.stored(id)).toMatchObject({ queue: 'shadow', epoch: epochOf(C, 1, 1) });
    const told = { id, verdict: 'owner', state: { epoch: epochOf(C, 1, 1) } };
    expect(bench.sent('STATE').at(-1)).toMatchObject({ to: PEER, frame: { state: told } });
  });

  test('what came to rest while a second maker sent its body is not made anew (seed 1183)', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.join(OTHER);
    bench.streamEnded(bench.streamOpened(PEER, 'shadow', sharedOf('M1', { epoch: epochOf(B) })));
    const second = bench.streamOpened(OTHER, 'shadow', sharedOf('M1', { epoch: epochOf(C) }));
    const recipients = [{ address: FAR, outcome: 'relayed' as const }];
    bench.state(PEER, 'final', sharedOf('M1', { epoch: epochOf(B), recipients, final: true }));
    bench.streamEnded(second);
    expect(bench.answers().at(-1)).toMatchObject({ outcome: 'refused' });
    expect(bench.server.copies.has(copyId('M1'))).toBe(false);
  });

  test('what came and came to rest while an earlier stream was open stays where it is (it was in transit again, and nobody owned it)', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.join(OTHER);
    const first = bench.streamOpened(PEER, 'shadow', sharedOf('M1', { epoch: epochOf(B) }));
    bench.streamEnded(bench.streamOpened(OTHER, 'shadow', sharedOf('M1', { epoch: epochOf(C) })));
    const recipients = [{ address: FAR, outcome: 'relayed' as const }];
    bench.state(OTHER, 'final', sharedOf('M1', { epoch: epochOf(C), recipients, final: true }));
    bench.streamEnded(first);
    expect(bench.answers().at(-1)).toMatchObject({ outcome: 'refused' });
    expect(bench.server.copies.has(copyId('M1'))).toBe(false);
  });

  test('an owner that is not known here yet is asked for again when it is met (seed 140: its shadow waited for a minute)', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.join(OTHER);
    bench.streamEnded(bench.streamOpened(PEER, 'shadow', sharedOf('M1', { epoch: epochOf(B) })));
    const next = 'C2' as Identity;
    bench.state(PEER, 'owner', sharedOf('M1', { epoch: epochOf(next, 1, 1) }));
    expect(bench.stored('M1')).toMatchObject({ epoch: epochOf(B) });
    bench.down(OTHER);
    const before = bench.sent('LIST').length;
    bench.up(OTHER, next);
    const said = bench.sent('LIST').slice(before);
    expect(
      said.filter(({ to, frame }) => to === PEER && frame.list.items.some(({ id }) => id === copyId('M1'))),
    ).toHaveLength(1);
  });
});

describe('10. frames stay within their bound (else a GRANT is not sent and nothing is delivered after a restart)', () => {
  test('500 copies with 20 recipients each: pages of 1,000 recipients at most, everything told once, in order', () => {
    // One is final: a grant that has nothing to tell carries no state (core-memory.test.ts).
    const recipients = Array.from({ length: 20 }, (_, at): RecipientState => {
      const one = pending(`user-${at}@far.example`);
      return at === 0 ? { ...one, outcome: 'relayed' } : one;
    });
    const ids = Array.from({ length: 500 }, (_, at) => `M${1_000 + at}`);
    const stored = ids.map((id) => ({
      facts: factsOf(id),
      state: stateOf({ queue: 'shadow', epoch: epochOf(B), recipients }),
    }));
    const bench = new CoreBench({ stored });
    bench.join(PEER);
    bench.claim(
      PEER,
      ids.map((id) => ({ id: copyId(id), epoch: epochOf(B) })),
    );
    const grants = bench.sent('GRANT').map(({ frame }) => frame);
    expect(grants.length).toBeGreaterThanOrEqual(10);
    for (const frame of grants) {
      const told = frame.grant.items.reduce((sum, item) => sum + (item.state?.recipients?.length ?? 0), 0);
      expect(told).toBeLessThanOrEqual(1_000);
      expect(encodeControl(frame)).not.toBeNull();
    }
    expect(grants.flatMap(({ grant }) => grant.items.map(({ id }) => id))).toEqual(ids);
  });

  test.each<[string, (reply: string) => DeliveryResult]>([
    ['failed', (reply) => ({ index: 0, kind: 'failed', reply })],
    ['deferred', (reply) => ({ index: 0, kind: 'deferred', reply, host: false })],
    ['unknown', (reason) => ({ index: 0, kind: 'unknown', reason })],
    ['delivered', (reply) => ({ index: 0, kind: 'delivered', reply })],
  ])('a next hop that talks without end (%s): 200 characters of it are kept', (_, result) => {
    const bench = new CoreBench();
    bench.join(PEER);
    bench.accept('M10', ALPHA, { from: SENDER });
    bench.delivered(bench.lastSeen('Deliver'), [
      result(`450 4.2.0 ${'x'.repeat(5_000)}`),
      { index: 1, kind: 'deferred', reply: '450 4.2.0 wait', host: false },
    ]);
    expect(bench.copy('M10').recipients?.[0]?.reply).toHaveLength(200);
    expect(bench.copy('M10').recipients?.[1]?.reply).toBe('450 4.2.0 wait');
  });
});

test('11. a front end sends try 2 to the transport that owns try 1: "owned", the delivery goes on (else delivered twice)', () => {
  const bench = new CoreBench();
  bench.join(PEER);
  bench.accept('M11', [ALPHA[0] ?? '']);
  const deliver = bench.lastSeen('Deliver');
  bench.effects = [];
  const stream = bench.open('M11', [ALPHA[0] ?? ''], { try: 2 });
  bench.candidateOpened();
  const { commit } = bench.end(stream);
  expect(commit).toEqual([]);
  expect(bench.answers()).toMatchObject([{ id: 'M11', outcome: 'owned', epoch: epochOf(A) }]);
  expect(bench.seen('DropCandidate')).toHaveLength(1);
  expect(bench.copy('M11')).toMatchObject({ queue: 'delivery', epoch: epochOf(A) });
  expect(bench.seen('Deliver')).toEqual([]);
  bench.delivered(deliver, [done(0)]);
  expect(bench.resting.get(copyId('M11'))).toMatchObject({ queue: 'primarySafetyNet', epoch: epochOf(A) });
});

test('12. a former shadow that became the owner expires and reports (else it waits for ever, the sender never hears)', () => {
  // Who may have delivered it is waited for until it counts as lost (protocol.md 14).
  const policies = { resubmitTimeSpanMs: 60_000 };
  const shape = { withoutConnector: true, delayNotificationMs: 20_000, messageExpirationMs: 60_000, policies };
  const bench = new CoreBench({ members: 3, shape });
  bench.join(PEER);
  bench.join(OTHER);
  bench.shadow('M12', [FAR]);
  bench.down(PEER);
  bench.accept('M12', [FAR], { try: 2, from: SENDER });
  expect(bench.answers().at(-1)).toMatchObject({ outcome: 'protected', epoch: epochOf(A, 2) });
  bench.pass(6_000);
  expect(bench.copy('M12').queue).toBe('unreachable');
  bench.pass(20_000);
  expect(bench.seen('ComposeDsn')).toMatchObject([{ dsn: 'delayed', parent: 'M12' }]);
  bench.pass(60_000);
  expect(bench.seen('ComposeDsn').map(({ dsn }) => dsn)).toEqual(['delayed', 'expired']);
});

describe('13. nobody speaks for somebody else (else one confused member ends the mail of others)', () => {
  function unreachable(members: 2 | 3 = 3) {
    const bench = new CoreBench({ members, shape: { withoutConnector: true } });
    bench.join(PEER);
    if (members === 3) bench.join(OTHER);
    const holder = bench.accept('M13', [FAR]).member;
    expect(bench.copy('M13')).toMatchObject({ queue: 'unreachable', epoch: epochOf(A) });
    bench.effects = [];
    const stranger = holder === PEER ? OTHER : PEER;
    return { bench, holder, stranger };
  }
  const nobody = epochOf('NOBODY' as typeof A, 9);
  const outcomes: RecipientState[] = [{ address: FAR, outcome: 'relayed', reply: '250 ok' }];

  test('a CLAIM for an owner that is not the claimant is not granted, whether owner or holder is asked', () => {
    const { bench, stranger } = unreachable();
    bench.shadow('M14', [FAR]);
    bench.claim(stranger, [
      { id: copyId('M13'), epoch: nobody },
      { id: copyId('M14'), epoch: nobody },
    ]);
    expect(bench.sent('GRANT').at(-1)?.frame.grant.items).toMatchObject([
      { id: 'M13', granted: false, verdict: 'owner', state: { epoch: epochOf(A) } },
      { id: 'M14', granted: false, verdict: 'owner', state: { epoch: epochOf(B) } },
    ]);
    expect(bench.stored('M13')).toMatchObject({ queue: 'unreachable', epoch: epochOf(A) });
    expect(bench.stored('M14')).toMatchObject({ queue: 'shadow', epoch: epochOf(B) });
  });

  test('the claim of the claimant itself is granted', () => {
    const { bench } = unreachable();
    bench.claim(PEER, [{ id: copyId('M13'), epoch: epochOf(B, 2) }]);
    expect(bench.sent('GRANT').at(-1)?.frame.grant.items).toMatchObject([{ granted: true, verdict: 'pending' }]);
    expect(bench.stored('M13')).toMatchObject({ queue: 'shadow', epoch: epochOf(B, 2) });
  });

  test.each<[string, (bench: CoreBench, member: string, state: SharedState) => void]>([
    ['STATE', (bench, member, state) => bench.state(member, 'pending', state)],
    ['GRANT', (bench, member, state) => bench.grant(member, 'pending', state)],
    ['GRANT final', (bench, member, state) => bench.grant(member, 'final', { ...state, final: true })],
  ])('%s that names me with an epoch I never wrote is ignored', (_, say) => {
    const { bench, holder } = unreachable();
    say(bench, holder, sharedOf('M13', { epoch: epochOf(A, 7), recipients: outcomes }));
    expect(bench.stored('M13')).toMatchObject({ queue: 'unreachable', epoch: epochOf(A) });
    expect(bench.copy('M13').epoch).toEqual(epochOf(A));
  });

  test('"final" from a member that was not asked, does not hold and does not own is ignored; from the holder it counts', () => {
    const { bench, holder, stranger } = unreachable();
    const final = sharedOf('M13', { final: true, recipients: outcomes });
    bench.grant(stranger, 'final', final);
    expect(bench.stored('M13')?.queue).toBe('unreachable');
    bench.grant(holder, 'final', final);
    expect(bench.resting.has(copyId('M13'))).toBe(true);
  });

  test('"final" from a member that a copy in doubt has asked counts', () => {
    const { bench, holder } = unreachable(2);
    bench.restart();
    bench.join(PEER);
    expect(bench.sent('CLAIM').map(({ to }) => to)).toEqual([holder]);
    bench.grant(holder, 'final', sharedOf('M13', { final: true, recipients: outcomes }));
    expect(bench.resting.has(copyId('M13'))).toBe(true);
  });

  test('a STATE without a digest is ignored: it cannot be about these bytes', () => {
    const { bench, stranger } = unreachable();
    const owner = stranger === PEER ? B : C;
    bench.state(stranger, 'pending', sharedOf('M13', { epoch: epochOf(owner, 2), digest: null }));
    bench.state(stranger, 'final', sharedOf('M13', { epoch: epochOf(owner, 2), digest: null, final: true }));
    expect(bench.stored('M13')).toMatchObject({ queue: 'unreachable', epoch: epochOf(A) });
    bench.state(stranger, 'pending', sharedOf('M13', { epoch: epochOf(owner, 2), digest: DIGEST }));
    expect(bench.stored('M13')).toMatchObject({ queue: 'shadow', epoch: epochOf(owner, 2) });
  });
});
