/** Who resubmits what (protocol.md 21, 22; semantics.md N4): shadow entries and their primaries, restarts, what comes to rest late. */
import { describe, expect, it } from 'vitest';
import type { TopologyDocument } from '../../common/config.ts';
import type { Identity } from '../../common/message.ts';
import { cameToRest } from '../../transport/core/resubmission.ts';
import { B, C, copyId, OTHER, PEER } from './core-bench.ts';
import { deliveredTo, failedOver, ResubmissionBench, resting, turnOf } from './resubmission-bench.ts';

const A0 = 'alpha-0@sim.example';
const A1 = 'alpha-1@sim.example';
const B0 = 'beta-0@sim.example';
const failOver = (document: TopologyDocument): TopologyDocument => failedOver(document);

describe('shadow entries of a primary', () => {
  const shadows = (owner: Identity = B) => [
    resting('S1', [deliveredTo(A0)], { owner }),
    resting('S2', [deliveredTo(A1)], { owner }),
  ];
  const covered = (bench: ResubmissionBench, member: string, items: Readonly<Record<string, boolean>>): void => {
    const list = Object.entries(items).map(([id, isCovered]) => ({ id: copyId(id), covered: isCovered }));
    bench.event({ kind: 'CoveredReceived', member, covered: { request: 'failover-alpha-1', items: list } });
    bench.settle();
  };

  it('asks the owner, counts what it covers and resubmits what it does not', () => {
    const bench = new ResubmissionBench(shadows());
    bench.join(PEER);
    bench.change(failOver);
    expect(bench.sent('COVER')).toEqual([
      { to: PEER, frame: { kind: 'COVER', cover: { request: 'failover-alpha-1', ids: ['S1', 'S2'] } } },
    ]);
    expect(bench.view()).toMatchObject({ state: 'Running', waitingFor: [B] });
    covered(bench, PEER, { S1: true, S2: false });
    expect(bench.made().map(({ ancestor }) => ancestor)).toEqual(['S2']);
    expect(bench.view()).toMatchObject({ state: 'Done', selected: 2, covered: 1, byShadow: 1, byPrimary: 0 });
    expect(bench.seen('Count').find(({ what }) => what === 'resubmitted')?.label).toBe('shadow');
  });

  it('asks again while nothing is said, takes a word of work for life, and silence for the end', () => {
    const bench = new ResubmissionBench(shadows());
    bench.join(PEER);
    bench.change(failOver);
    bench.wait(12_000);
    expect(bench.sent('COVER')).toHaveLength(3);
    bench.wait(240_000);
    covered(bench, PEER, {});
    bench.wait(240_000);
    expect(bench.made()).toEqual([]);
    bench.wait(61_000);
    expect(bench.made()).toHaveLength(2);
    expect(bench.view()).toMatchObject({ state: 'Done', byShadow: 2, errors: ['B did not answer in time'] });
  });

  it('does not wait once more for every page of a silent owner', () => {
    const many = Array.from({ length: 250 }, (_, n) => resting(`S${n}`, [deliveredTo(A0)], { owner: B }));
    const bench = new ResubmissionBench(many);
    bench.join(PEER);
    bench.change(failOver);
    bench.wait(302_000);
    expect(bench.view()).toMatchObject({ state: 'Done', selected: 250, byShadow: 250 });
  });

  it('walks again only for those it waited for', () => {
    const bench = new ResubmissionBench([...shadows(), resting('S3', [deliveredTo(A0)], { owner: C })], { members: 3 });
    bench.join(PEER);
    bench.change(failOver);
    covered(bench, PEER, { S1: true, S2: true });
    expect(bench.view()).toMatchObject({ state: 'Running', selected: 2, waitingFor: [C] });
    bench.join(OTHER);
    bench.wait(1_000);
    expect(bench.sent('COVER').map(({ to }) => to)).toEqual([PEER, OTHER]);
    covered(bench, OTHER, { S3: false });
    expect(bench.view()).toMatchObject({ state: 'Done', selected: 3, covered: 2, byShadow: 1 });
  });

  it('does not listen to who does not own them', () => {
    const bench = new ResubmissionBench(shadows(), { members: 3 });
    bench.join(PEER);
    bench.join(OTHER);
    bench.change(failOver);
    covered(bench, OTHER, { S1: true, S2: true });
    expect(bench.view()).toMatchObject({ state: 'Running', covered: 0, waitingFor: [B] });
  });

  it('waits for an unreachable owner, and asks when it comes back in time', () => {
    const bench = new ResubmissionBench(shadows());
    bench.change(failOver);
    bench.wait(200_000);
    expect(bench.view()).toMatchObject({ state: 'Running', selected: 0, waitingFor: [B] });
    bench.join(PEER);
    bench.wait(1_000);
    expect(bench.sent('COVER')).toHaveLength(1);
    covered(bench, PEER, { S1: true, S2: true });
    expect(bench.view()).toMatchObject({ state: 'Done', selected: 2, covered: 2, resubmitted: 0 });
  });

  it('resubmits when an unreachable owner is not back within the timeout, counted over restarts', () => {
    const bench = new ResubmissionBench(shadows(), { document: failOver });
    bench.settle();
    bench.wait(200_000);
    expect(bench.made()).toEqual([]);
    bench.again();
    bench.wait(90_000);
    expect(bench.made()).toEqual([]);
    // Elapsed time is written down every 30 s; what nobody can vouch for does not count.
    bench.wait(40_000);
    expect(bench.made()).toHaveLength(2);
    expect(bench.view()).toMatchObject({ state: 'Done', selected: 2, byShadow: 2, waitingFor: [] });
  });

  it('waits again for an owner that goes while it is asked', () => {
    const bench = new ResubmissionBench(shadows());
    bench.join(PEER);
    bench.change(failOver);
    bench.down(PEER);
    bench.wait(2_000);
    expect(bench.view()).toMatchObject({ state: 'Running', waitingFor: [B] });
    bench.join(PEER);
    bench.wait(1_000);
    expect(bench.sent('COVER')).toHaveLength(2);
  });

  it('resubmits at once what a lost owner had', () => {
    const bench = new ResubmissionBench([...shadows(), resting('S3', [deliveredTo(A0)], { owner: C })]);
    bench.server.lost.set(B, { member: PEER, why: 'confirmed lost', sinceMs: 0 });
    bench.change(failOver);
    expect(bench.made().map(({ ancestor }) => ancestor)).toEqual(['S1', 'S2']);
    expect(bench.view()).toMatchObject({ state: 'Running', byShadow: 2, waitingFor: [C] });
  });

  it('does it again for an owner that is lost after it had answered', () => {
    const bench = new ResubmissionBench(shadows());
    bench.join(PEER);
    bench.change(failOver);
    covered(bench, PEER, { S1: true, S2: true });
    expect(bench.view().state).toBe('Done');
    bench.down(PEER);
    bench.server.lost.set(B, { member: PEER, why: 'replaced', sinceMs: 0 });
    bench.wait(2_000);
    expect(bench.made()).toHaveLength(2);
    expect(bench.view()).toMatchObject({ state: 'Done', selected: 2, covered: 0, byShadow: 2 });
    const scans = bench.seen('ScanSafetyNet').length;
    bench.wait(60_000);
    expect(bench.seen('ScanSafetyNet')).toHaveLength(scans);
  });

  it('does it again for an owner that stays silent for the whole span', () => {
    const bench = new ResubmissionBench(shadows());
    bench.join(PEER);
    bench.change(failOver);
    covered(bench, PEER, { S1: true, S2: true });
    bench.down(PEER);
    bench.wait(890_000);
    expect(bench.made()).toEqual([]);
    bench.wait(15_000);
    expect(bench.made()).toHaveLength(2);
  });
});

describe('asked what it covers', () => {
  const ask = (
    bench: ResubmissionBench,
    ids: readonly string[],
    member = PEER,
  ): Readonly<Record<string, boolean>> | null => {
    const before = bench.sent('COVERED').length;
    bench.event({
      kind: 'CoverReceived',
      member,
      cover: { request: 'failover-alpha-1', ids: ids.map(copyId) },
      stored: new Map([...bench.net].filter(([id]) => ids.includes(id))),
    });
    const answer = bench.sent('COVERED')[before];
    return answer === undefined
      ? null
      : Object.fromEntries(answer.frame.covered.items.map((item) => [item.id, item.covered]));
  };

  it('says nothing about a request it does not know, and only that it works while it does', () => {
    const bench = new ResubmissionBench([resting('M1', [deliveredTo(A0)])]);
    bench.join(PEER);
    expect(ask(bench, ['M1'])).toBeNull();
    bench.holds = true;
    bench.change(failOver);
    expect(ask(bench, ['M1'])).toEqual({});
  });

  it('covers what is live or rests here as primary and was made', () => {
    const damaged = { ...resting('M4', [deliveredTo(B0, 'beta')]), damaged: 'checksum' };
    const bench = new ResubmissionBench([
      resting('M1', [deliveredTo(A0)]),
      resting('M2', [deliveredTo(A0)], { owner: C }),
      resting('M3', [deliveredTo(A0)]),
      damaged,
    ]);
    bench.unreadable.add(copyId('M3'));
    bench.join(PEER);
    bench.accept('L1', [B0]);
    bench.shadow('L2', [A0]);
    bench.change(failOver);
    expect(ask(bench, ['M1', 'M2', 'M3', 'M4', 'M5', 'L1', 'L2'])).toEqual({
      M1: true,
      M2: false,
      M3: false,
      M4: false,
      M5: false,
      L1: true,
      L2: false,
    });
    expect(ask(bench, ['M1'], 'stranger')).toBeNull();
  });

  it('says nothing while it is paused, so that others do it', () => {
    const bench = new ResubmissionBench([resting('M1', [deliveredTo(A0)])]);
    bench.join(PEER);
    bench.event({ kind: 'PressureChanged', level: 'High', resource: 'disk' });
    bench.change(failOver);
    expect(ask(bench, ['M1'])).toBeNull();
  });

  it('remembers over a restart what it could not read', () => {
    const bench = new ResubmissionBench([resting('M1', [deliveredTo(A0)])], { document: failOver });
    bench.unreadable.add(copyId('M1'));
    bench.settle();
    bench.again();
    bench.join(PEER);
    expect(bench.view()).toMatchObject({ state: 'Done', failed: 1 });
    expect(ask(bench, ['M1'])).toEqual({ M1: false });
  });
});

describe('restarts and late arrivals', () => {
  it('starts from scratch after a restart in the middle, and makes nothing twice', () => {
    const bench = new ResubmissionBench(
      Array.from({ length: 100 }, (_, n) => resting(`M${n}`, [deliveredTo(A0)])),
      { document: failOver, members: 2 },
    );
    bench.holds = true;
    bench.settle();
    for (const body of bench.held.splice(0, 40)) bench.copyBody(body);
    // Some are done by now, some in transit, the rest were never made.
    bench.deliverAll();
    const delivered = bench.resting.size;
    expect(delivered).toBeGreaterThan(0);
    bench.holds = false;
    bench.again();
    bench.wait(6_000);
    expect(bench.view()).toMatchObject({ state: 'Done', selected: 100, present: 40, resubmitted: 60 });
    const ids = new Set([...bench.made().map(({ id }) => id), ...bench.resting.keys()]);
    expect(ids.size).toBe(100);
  });

  it('does not start again what was done', () => {
    const bench = new ResubmissionBench([resting('M1', [deliveredTo(A0)])], { document: failOver });
    bench.settle();
    bench.again();
    bench.wait(2_000);
    expect(bench.seen('ScanSafetyNet')).toEqual([]);
    expect(bench.view()).toMatchObject({ state: 'Done', selected: 1, byPrimary: 1 });
  });

  it('forgets what an earlier document asked for', () => {
    const bench = new ResubmissionBench();
    bench.index.facts.set('resubmit/old', { signature: 'x', done: true });
    bench.again();
    expect(bench.index.facts.has('resubmit/old')).toBe(false);
  });

  it('looks again when entries it should have resubmitted come to rest here later', () => {
    const bench = new ResubmissionBench([resting('M1', [deliveredTo(A0)])]);
    bench.change(failOver);
    expect(bench.view().state).toBe('Done');
    const other = resting('M9', [deliveredTo(B0, 'beta')]);
    cameToRest(turnOf(bench), other);
    expect(bench.view().state).toBe('Done');
    const late = resting('M2', [deliveredTo(A1)]);
    bench.put(late);
    cameToRest(turnOf(bench), late);
    expect(bench.view().state).toBe('Running');
    bench.wait(2_000);
    expect(bench.made().map(({ ancestor }) => ancestor)).toEqual(['M1', 'M2']);
    expect(bench.view()).toMatchObject({ state: 'Done', selected: 2, byPrimary: 2, present: 0 });
  });

  it('asks for shadow entries that were given another owner meanwhile, and walks no more often than it must', () => {
    const bench = new ResubmissionBench();
    bench.join(PEER);
    bench.change(failOver);
    const arrive = (id: string): void => {
      const entry = resting(id, [deliveredTo(A0)], { owner: B });
      bench.put(entry);
      cameToRest(turnOf(bench), entry);
    };
    arrive('S1');
    bench.wait(1_000);
    expect(bench.lastSeen('Send')).toMatchObject({ to: PEER, frame: { kind: 'COVER' } });
    const answer = { request: 'failover-alpha-1', items: [{ id: copyId('S1'), covered: true }] };
    bench.event({ kind: 'CoveredReceived', member: PEER, covered: answer });
    bench.settle();
    expect(bench.view().state).toBe('Done');
    const scans = bench.seen('ScanSafetyNet').length;
    arrive('S2');
    bench.wait(25_000);
    expect(bench.seen('ScanSafetyNet')).toHaveLength(scans);
    bench.wait(6_000);
    expect(bench.seen('ScanSafetyNet')).toHaveLength(scans + 2);
  });

  it('gives what it knows of its own Safety Net', () => {
    const bench = new ResubmissionBench();
    bench.server.completeSinceMs = 42;
    bench.change(failOver);
    expect(bench.view().completeSinceMs).toBe(42);
  });
});
