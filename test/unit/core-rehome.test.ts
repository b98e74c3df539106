/** Safety Net copies find a second home, damaged bodies are fetched again (protocol.md 17, 29; semantics.md S8; rows 37-40 and 42). */
import { describe, expect, test } from 'vitest';
import type { Identity, SharedState } from '../../common/message.ts';
import type { Result } from '../../common/peer/messages.ts';
import { lostMessages } from '../../transport/core/damage.ts';
import type { StoredCopy } from '../../transport/store/database.ts';
import {
  A,
  B,
  C,
  CoreBench,
  copyId,
  DIGEST,
  epochOf,
  factsOf,
  identityOf,
  OTHER,
  PEER,
  SELF,
  sharedOf,
  stateOf,
  WALL_MS,
} from './core-bench.ts';

const ALPHA = 'alpha-0@sim.example';
const B2 = 'B2' as Identity;
const delivered = [
  { address: ALPHA, outcome: 'delivered' as const, database: 'alpha', databaseCopy: 'main', activation: 1, atMs: 5 },
];
const heldBy = (member: string, identity: Identity) => [
  { member, identity, epoch: epochOf(A), status: 'confirmed' as const },
];

const primaryEntry = (id: string, placements = heldBy(PEER, B)): StoredCopy => ({
  facts: factsOf(id),
  state: stateOf({ queue: 'primarySafetyNet', recipients: delivered, finalAtMs: 5, placements }),
});
const shadowEntry = (id: string, owner: Identity): StoredCopy => ({
  facts: factsOf(id),
  state: stateOf({ queue: 'shadowSafetyNet', epoch: epochOf(owner), recipients: delivered, finalAtMs: 5 }),
});
const rest = (id: string, owner: Identity): SharedState =>
  sharedOf(id, { epoch: epochOf(owner), recipients: delivered, final: true });

/** Three members; the queue database of PEER was lost just now. */
function afterLoss(): CoreBench {
  const bench = new CoreBench({ members: 3 });
  bench.join(PEER);
  bench.join(OTHER);
  bench.down(PEER);
  bench.up(PEER, B2);
  bench.contact(PEER);
  return bench;
}

function storedThere(bench: CoreBench): void {
  const open = bench.lastSeen('OpenCandidate');
  bench.event({ kind: 'CandidateOpened', id: open.id, attempt: open.attempt });
  const result: Result = { id: open.id, epoch: open.state.epoch, outcome: 'stored', digest: DIGEST, reply: null };
  bench.event({ kind: 'CandidateResult', member: open.member, id: open.id, attempt: open.attempt, result });
}

describe('promise 1: what rests in one site only', () => {
  const FAR = 't-1-0';
  const withFar = (): CoreBench => {
    const bench = new CoreBench({ shape: { sites: [2, 1] } });
    bench.join(PEER);
    return bench;
  };
  const walks = (bench: CoreBench): number => bench.seen('ScanSafetyNet').length;

  test('is given to a member of another, and keeps the holder it has', () => {
    const bench = withFar();
    bench.join(FAR);
    bench.up(PEER, B2);
    bench.page([primaryEntry('M1', heldBy(PEER, B2))]);
    expect(bench.lastSeen('OpenCandidate')).toMatchObject({ id: 'M1', member: FAR, purpose: 'rest' });
    storedThere(bench);
    expect(bench.lastSeen('ChangeResting').state.placements.map(({ member }) => member)).toEqual([PEER, FAR]);
  });

  test('waits for nobody; the walk is made again when a member of another site is there', () => {
    const bench = withFar();
    bench.up(PEER, B2);
    bench.page([primaryEntry('M1', heldBy(PEER, B2))]);
    expect(bench.seen('OpenCandidate')).toEqual([]);
    expect(bench.server.rehoming).toMatchObject({ done: true, waiting: [] });
    // A restart walks as well.
    expect(bench.index.facts.has('rehoming')).toBe(true);
    const before = walks(bench);
    bench.passHearing(200_000, { [PEER]: [] });
    expect(walks(bench)).toBe(before);
    bench.join(FAR);
    bench.passHearing(2_000, { [PEER]: [FAR], [FAR]: [PEER] });
    expect(walks(bench)).toBe(before + 1);
    bench.page([primaryEntry('M1', heldBy(PEER, B2))]);
    storedThere(bench);
    bench.event({ kind: 'RestingChanged', id: copyId('M1') });
    expect(bench.index.facts.has('rehoming')).toBe(false);
  });

  test('a second site comes: a walk is owed until somebody of it is there, whatever else happens meanwhile, and a restart owes it as well', () => {
    const bench = new CoreBench();
    bench.join(PEER);
    const { document } = new CoreBench({ shape: { sites: [2, 1] } });
    bench.event({
      kind: 'TopologyChanged',
      document: { ...document, generation: bench.server.document.generation + 1 },
    });
    bench.event({ kind: 'RestingChanged', id: copyId('M9') });
    expect(bench.index.facts.has('rehoming')).toBe(true);
    const before = walks(bench);
    bench.join(FAR);
    bench.passHearing(2_000, { [PEER]: [FAR], [FAR]: [PEER] });
    expect(walks(bench)).toBe(before + 1);
  });

  test('LocalOnly: is where it should be', () => {
    const bench = new CoreBench({
      shape: { sites: [2, 1] },
      document: (document) => ({
        ...document,
        policies: {
          ...document.policies,
          shadowRedundancy: { ...document.policies.shadowRedundancy, preference: 'LocalOnly' },
        },
      }),
    });
    bench.join(PEER);
    bench.join(FAR);
    bench.up(PEER, B2);
    bench.page([primaryEntry('M1', heldBy(PEER, B2))]);
    expect(bench.seen('OpenCandidate')).toEqual([]);
  });
});

describe('row 42, rule 17: what rests here after a loss', () => {
  test('Rehomed: an entry whose holder is lost is pushed to a member and remembers it only when that has it durably', () => {
    const bench = afterLoss();
    bench.page([primaryEntry('M1'), primaryEntry('M2', heldBy(OTHER, C))]);
    expect(bench.seen('OpenCandidate').map(({ id, purpose }) => [id, purpose])).toEqual([['M1', 'rest']]);
    expect(bench.seen('ChangeResting')).toHaveLength(0);
    storedThere(bench);
    expect(bench.lastSeen('ChangeResting').state.placements).toHaveLength(1);
    // Who dies now has to walk again.
    expect(bench.index.facts.has('rehoming')).toBe(true);
    bench.event({ kind: 'RestingChanged', id: copyId('M1') });
    expect(bench.index.facts.has('rehoming')).toBe(false);
  });

  test('RoleChanged: a shadow entry whose owner is lost becomes primary with the next term, and is given a holder', () => {
    const bench = afterLoss();
    bench.page([shadowEntry('M1', B), shadowEntry('M2', C)]);
    expect(bench.seen('ChangeResting').map(({ id, state }) => [id, state.queue, state.epoch])).toEqual([
      ['M1', 'primarySafetyNet', epochOf(A, 1, 1)],
    ]);
    bench.pass(1_100);
    expect(bench.lastSeen('OpenCandidate')).toMatchObject({ id: 'M1', purpose: 'rest' });
  });

  test('who comes before that is written hears of it when it is', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.up(PEER, B2);
    bench.contact(PEER);
    bench.page([shadowEntry('M1', B)]);
    const epoch = epochOf(A, 1, 1);
    expect(bench.lastSeen('ChangeResting').state.epoch).toEqual(epoch);
    const claimed = () => bench.sent('CLAIM').flatMap(({ to, frame }) => (to === OTHER ? frame.claim.items : []));
    bench.join(OTHER);
    expect(claimed()).toEqual([]);
    bench.event({ kind: 'RestingChanged', id: copyId('M1') });
    expect(claimed()).toEqual([{ id: 'M1', epoch }]);
  });

  describe('an owner is asked whether it still has it (seed 70033)', () => {
    const ids = [copyId('M1'), copyId('M2')];
    const youngEntry = (id: string): StoredCopy => {
      const entry = shadowEntry(id, C);
      return { ...entry, state: { ...entry.state, finalAtMs: WALL_MS } };
    };
    const asked = (): CoreBench => {
      const bench = afterLoss();
      for (const id of ids) bench.resting.set(id, youngEntry(id).state);
      // What is about to expire may be gone there already.
      bench.page([...ids.map(youngEntry), shadowEntry('M3', C)]);
      expect(bench.sent('COVER')).toMatchObject([{ to: OTHER, frame: { cover: { request: '#owner', ids } } }]);
      return bench;
    };
    const answer = (bench: CoreBench, member: string, covered: readonly boolean[]): void => {
      const items = ids.map((id, at) => ({ id, covered: covered[at] === true }));
      bench.event({ kind: 'CoveredReceived', member, covered: { request: '#owner', items } });
    };

    test('RoleChanged: what it has not is primary here now, and told so', () => {
      const bench = asked();
      answer(bench, PEER, [false, false]);
      expect(bench.seen('ChangeResting')).toEqual([]);
      answer(bench, OTHER, [false, true]);
      expect(bench.seen('ChangeResting')).toMatchObject([
        { id: 'M1', state: { queue: 'primarySafetyNet', epoch: epochOf(A, 1, 1) } },
      ]);
      expect(bench.seen('OpenCandidate')).toMatchObject([{ id: 'M1', purpose: 'rest' }]);
      expect(bench.sent('CLAIM').map(({ to }) => to)).toContain(OTHER);
    });

    test('without an answer the entries are walked over once more', () => {
      const bench = asked();
      bench.passHearing(4_000, { [PEER]: [], [OTHER]: [] });
      const walks = bench.seen('ScanSafetyNet').length;
      bench.passHearing(601_000, { [PEER]: [], [OTHER]: [] });
      expect(bench.seen('ScanSafetyNet')).toHaveLength(walks + 1);
      expect(bench.seen('ChangeResting')).toEqual([]);
    });

    test.each(['live', 'at rest', 'gone'])('the owner answers: %s', (where) => {
      const bench = new CoreBench({ members: 3 });
      bench.join(PEER);
      if (where === 'live') bench.accept('M1', ['x@far.example']);
      const stored = new Map(where === 'at rest' ? [[copyId('M1'), primaryEntry('M1')]] : []);
      const cover = { request: '#owner', ids: [copyId('M1')] };
      bench.event({ kind: 'CoverReceived', member: PEER, cover, stored });
      expect(bench.sent('COVERED')).toMatchObject([
        { to: PEER, frame: { covered: { items: [{ id: 'M1', covered: where !== 'gone' }] } } },
      ]);
    });
  });

  test('a restart in the middle walks again', () => {
    const bench = afterLoss();
    expect(bench.index.facts.has('rehoming')).toBe(true);
    bench.restart();
    expect(bench.seen('ScanSafetyNet')).toHaveLength(1);
  });

  test('RestReceived: committed straight to rest, under the role its epoch gives; who has it says so', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.streamEnded(bench.streamOpened(PEER, 'rest', rest('M1', B)));
    bench.streamEnded(bench.streamOpened(PEER, 'rest', rest('M2', A)));
    expect(bench.resting.get(copyId('M1'))).toMatchObject({ queue: 'shadowSafetyNet', finalAtMs: 5 });
    expect(bench.resting.get(copyId('M2'))?.queue).toBe('primarySafetyNet');
    expect(bench.answers().map(({ outcome }) => outcome)).toEqual(['stored', 'stored']);
    bench.streamOpened(PEER, 'rest', rest('M1', B), shadowEntry('M1', B));
    // The sender counts on it: said when every commit of that copy is durable (seed 367).
    expect(bench.lastSeen('RefuseStream')).toMatchObject({ copy: 'M1', refuse: { held: true } });
  });

  test('a database begun under a clock that is ahead gives the entry the age it has where it comes from (seed 30025)', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    const dayMs = 86_400_000;
    bench.contact(PEER, {}, [], -400 * dayMs);
    bench.streamEnded(bench.streamOpened(PEER, 'rest', rest('M1', B)));
    expect(bench.resting.get(copyId('M1'))?.finalAtMs).toBe(5 + 400 * dayMs);
    // Ours is behind: it keeps its date.
    bench.contact(PEER, {}, [], 400 * dayMs);
    bench.streamEnded(bench.streamOpened(PEER, 'rest', rest('M2', B)));
    expect(bench.resting.get(copyId('M2'))?.finalAtMs).toBe(5);
  });

  test('two answer for one entry: the lower epoch hears of the higher when it offers its own (seeds 30581, 33065)', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    const mine = primaryEntry('M1');
    const higher = { ...mine, state: { ...mine.state, epoch: epochOf(A, 1, 1) } };
    bench.streamOpened(PEER, 'rest', rest('M1', B), higher);
    expect(bench.lastSeen('RefuseStream').refuse.held).toBe(true);
    const claimed = { kind: 'CLAIM', claim: { items: [{ id: 'M1', epoch: epochOf(A, 1, 1) }] } };
    expect(bench.sent('CLAIM').at(-1)).toMatchObject({ to: PEER, frame: claimed });
    // It handed this to me, and does not know that it came through.
    bench.streamOpened(PEER, 'rest', sharedOf('M1', { ...rest('M1', A), epoch: epochOf(A, 1, 1) }), higher);
    expect(bench.sent('CLAIM')).toHaveLength(2);
  });

  test('HandedOver: a drained entry that nobody else takes is left to a partner, and is not given up for that', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.join(OTHER);
    bench.memberState(SELF, 'draining');
    bench.pass(1_100);
    bench.resting.set(copyId('M1'), primaryEntry('M1').state);
    bench.page([primaryEntry('M1')]);
    for (let second = 0; second < 60 && bench.lastSeen('OpenCandidate').member === OTHER; second++) {
      const { id, attempt } = bench.lastSeen('OpenCandidate');
      bench.event({ kind: 'CandidateRefused', member: OTHER, id, attempt, held: false });
      bench.passHearing(1_000, { [PEER]: [], [OTHER]: [] });
    }
    expect(bench.lastSeen('OpenCandidate')).toMatchObject({ member: PEER, state: { epoch: epochOf(B, 1, 1) } });
    const { id, attempt } = bench.lastSeen('OpenCandidate');
    bench.event({ kind: 'CandidateRefused', member: PEER, id, attempt, held: true });
    expect(bench.server.coverage.get('HandedOver')).toBeUndefined();
    // The partner claims what it answers for now.
    const stored = new Map([[copyId('M1'), primaryEntry('M1')]]);
    const claim = { items: [{ id: copyId('M1'), epoch: epochOf(B, 1, 1) }] };
    bench.event({ kind: 'ClaimReceived', member: PEER, claim, stored });
    expect(bench.lastSeen('ChangeResting').state).toMatchObject({ queue: 'shadowSafetyNet', epoch: epochOf(B, 1, 1) });
    bench.passHearing(2_000, { [PEER]: [], [OTHER]: [] });
    expect(bench.sent('COVER').at(-1)).toMatchObject({ to: PEER });
  });

  test('HandedOver: what a drained member gives away comes to another site than its partner is in', () => {
    const bench = new CoreBench({ shape: { sites: [2, 2] } });
    for (const member of [PEER, 't-1-0', 't-1-1']) bench.join(member);
    bench.memberState(SELF, 'draining');
    bench.pass(1_100);
    bench.page([primaryEntry('M1', heldBy('t-1-0', identityOf('t-1-0')))]);
    expect(bench.lastSeen('OpenCandidate')).toMatchObject({ id: 'M1', member: PEER });
  });

  test('HandedOver: a drained member gives an entry up only after another has it', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.join(OTHER);
    bench.memberState(SELF, 'draining');
    bench.pass(1_100);
    bench.resting.set(copyId('M1'), primaryEntry('M1').state);
    bench.page([primaryEntry('M1')]);
    expect(bench.lastSeen('OpenCandidate')).toMatchObject({ member: OTHER, state: { epoch: epochOf(C, 1, 1) } });
    const { id, attempt } = bench.lastSeen('OpenCandidate');
    bench.event({ kind: 'CandidateLost', id, attempt });
    bench.pass(1_100);
    const before = bench.effects.length;
    storedThere(bench);
    expect(bench.effects.length).toBeGreaterThan(before);
  });

  describe('two makers of one report, at rest (seed 60410)', () => {
    const report = (digest: string, placements = heldBy(PEER, B)): StoredCopy => {
      const entry = primaryEntry('D1', placements);
      return { ...entry, facts: { ...entry.facts, kind: 'dsn', digest } };
    };
    const offered = (): SharedState => ({ ...rest('D1', B), kind: 'dsn' });

    test('who has the other one says so, and stays its owner', () => {
      const bench = new CoreBench({ members: 3 });
      bench.join(PEER);
      bench.streamOpened(PEER, 'rest', { ...offered(), epoch: epochOf(B, 1, 3) }, report('e'.repeat(64)));
      expect(bench.lastSeen('RefuseStream')).toMatchObject({ copy: 'D1', refuse: { heldOtherwise: true } });
      expect(bench.lastSeen('RefuseStream').refuse.held).toBeUndefined();
      expect(bench.seen('ChangeResting')).toEqual([]);
    });

    test.each(['a message', 'a damaged report'])('not of %s in other bytes', (what) => {
      const bench = new CoreBench({ members: 3 });
      bench.join(PEER);
      const stored = report('e'.repeat(64));
      const { facts } = primaryEntry('D1');
      const there = what === 'a message' ? { ...stored, facts } : { ...stored, damaged: 'body' as const };
      bench.streamOpened(PEER, 'rest', { ...offered(), digest: 'c'.repeat(64) }, there);
      expect(bench.lastSeen('RefuseStream').refuse.heldOtherwise).toBeUndefined();
    });

    const refusedOtherwise = (bench: CoreBench): string => {
      const { id, attempt, member } = bench.lastSeen('OpenCandidate');
      bench.event({ kind: 'CandidateRefused', member, id, attempt, held: false, heldOtherwise: true });
      return member;
    };

    test('it is no second copy of these bytes: nothing is written, and nothing waits for another home', () => {
      const bench = afterLoss();
      bench.page([report(DIGEST)]);
      refusedOtherwise(bench);
      expect(bench.seen('ChangeResting')).toEqual([]);
      expect(bench.server.rehoming).toMatchObject({ done: true, waiting: [], unplaced: 0 });
    });

    test('HandedOver: a drained member that has one gives it up where all that stay have the other', () => {
      const bench = new CoreBench({ members: 3 });
      bench.join(PEER);
      bench.join(OTHER);
      bench.memberState(SELF, 'draining');
      bench.pass(1_100);
      bench.index.put({ ...report(DIGEST), body: null });
      bench.page([report(DIGEST, [])]);
      const asked = [refusedOtherwise(bench), refusedOtherwise(bench)];
      expect(asked.sort()).toEqual([PEER, OTHER]);
      expect(bench.server.coverage.get('HandedOver')).toBeUndefined();
      refusedOtherwise(bench);
      expect(bench.server.coverage.get('HandedOver')).toBe(1);
      expect(bench.stored('D1')).toBeNull();
    });
  });

  test('FINDING entries that nobody can take (their bodies are damaged) do not hold up all the others for ever', () => {
    const bench = afterLoss();
    bench.page(
      Array.from({ length: 9 }, (_, at) => primaryEntry(`M${at}`)),
      { done: false },
    );
    const answered = new Set<number>();
    const refuseAll = (): void => {
      for (let more = true; more; ) {
        more = false;
        for (const { id, attempt, member } of bench.seen('OpenCandidate')) {
          if (answered.has(attempt)) continue;
          answered.add(attempt);
          more = true;
          bench.event({ kind: 'CandidateRefused', member, id, attempt, held: false });
        }
      }
    };
    for (let round = 0; round < 60; round++) {
      refuseAll();
      bench.pass(1_000);
    }
    expect(bench.seen('NextSafetyNetPage').length).toBeGreaterThan(0);
  });

  test('FINDING a walk that could not read a page is not over', () => {
    const bench = afterLoss();
    bench.page([], { done: true, unreadable: 1 });
    bench.pass(120_000);
    expect(bench.index.facts.has('rehoming') || bench.seen('ScanSafetyNet').length > 1).toBe(true);
  });

  test('FINDING two members send the same entry at once: the higher epoch stays, whichever comes last', () => {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.join(OTHER);
    const first = bench.streamOpened(PEER, 'rest', { ...rest('M1', A), epoch: epochOf(A, 1, 1) });
    const second = bench.streamOpened(OTHER, 'rest', rest('M1', B));
    bench.streamEnded(first);
    bench.streamEnded(second);
    expect(bench.resting.get(copyId('M1'))).toMatchObject({ queue: 'primarySafetyNet', epoch: epochOf(A, 1, 1) });
  });

  test('FINDING the owner never gives the asking member as the other home, whatever its own document says of it', () => {
    const bench = new CoreBench({ members: 2 });
    bench.join(PEER);
    const stored = primaryEntry('M1');
    for (let round = 0; round < 5; round++) {
      bench.event({
        kind: 'CoverReceived',
        member: PEER,
        cover: { request: '#rehome', ids: [copyId('M1')] },
        stored: new Map([[copyId('M1'), stored]]),
      });
      bench.pass(1_000);
    }
    expect(bench.seen('OpenCandidate')).toHaveLength(0);
  });
});

describe('rows 38-40: damaged bodies', () => {
  function damaged(): CoreBench {
    const bench = new CoreBench({ members: 3 });
    bench.join(PEER);
    bench.join(OTHER);
    bench.shadow('M1', [ALPHA]);
    bench.event({ kind: 'BodyDamaged', id: copyId('M1') });
    return bench;
  }

  test('Quarantined, Refetched: whoever has the bytes may send them, and only then', () => {
    const bench = damaged();
    expect(bench.sent('FETCH').map(({ to }) => to)).toEqual([PEER, OTHER]);
    const { commit } = bench.streamEnded(bench.streamOpened(OTHER, 'copy', sharedOf('M1', { epoch: epochOf(B) })));
    expect(commit.map(({ kind }) => kind)).toEqual(['commit']);
    expect(bench.copy('M1')).toMatchObject({ queue: 'shadow', epoch: epochOf(B) });
    bench.streamOpened(OTHER, 'copy', sharedOf('M1', { epoch: epochOf(B) }));
    expect(bench.seen('RefuseStream')).toHaveLength(1);
  });

  test('row 40: listed as lost only when everybody is there and nobody has it', () => {
    const bench = damaged();
    bench.passHearing(61_000, { [PEER]: [], [OTHER]: [] });
    expect(lostMessages(bench.server, bench.nowMs)).toEqual(['M1']);
    bench.down(OTHER);
    expect(lostMessages(bench.server, bench.nowMs)).toEqual([]);
  });

  test.each([
    ['of another holder', OTHER],
    ['of the owner', PEER],
  ])('FINDING the copy comes to rest while the bytes %s are on their way: they do not bring it back', (_, member) => {
    const bench = damaged();
    const stream = bench.streamOpened(member, 'copy', sharedOf('M1', { epoch: epochOf(B) }));
    bench.state(PEER, 'final', sharedOf('M1', { epoch: epochOf(B), recipients: delivered, final: true }));
    expect(bench.resting.has(copyId('M1'))).toBe(true);
    bench.streamEnded(stream);
    expect(bench.server.copies.has(copyId('M1'))).toBe(false);
  });
});
