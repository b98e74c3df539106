/** Limits of clients over several front ends: counted together, decided alone, and what a shared memory that lies can do (little). */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ClientLimits } from '../../common/smtp/client-limits.ts';
import { type SharedSums, SharedTally } from '../../common/smtp/shared-tally.ts';
import { ManualClock } from '../dialog/edge-rig.ts';

/** Sums of all, as an honest server has them; told at once, or when `tell` is called. */
class Sums implements SharedSums {
  readonly sums = new Map<string, number>();
  readonly late: (() => void)[] = [];
  isLate = false;
  isGone = false;
  lie: number | null = null;

  add(name: string, amount: number, _ttlMs: number, told: (sum: number) => void): boolean {
    if (this.isGone) return false;
    const sum = (this.sums.get(name) ?? 0) + amount;
    this.sums.set(name, sum);
    const tell = (): void => told(this.lie ?? sum);
    if (this.isLate) this.late.push(tell);
    else tell();
    return true;
  }
}

const LIMIT = 8;
const SLOT_MS = 1_000;

function tallies(kind: 'level' | 'rate', count = 2) {
  const [clock, sums] = [new ManualClock(), new Sums()];
  const options = { name: 'x', kind, slotMs: SLOT_MS, clock, shared: sums };
  return { clock, sums, all: Array.from({ length: count }, () => new SharedTally(options)) };
}

const pair = (all: readonly SharedTally[]): readonly [SharedTally, SharedTally] => {
  const [a, b] = all;
  if (a === undefined || b === undefined) throw new Error('two tallies are needed');
  return [a, b];
};

describe('a count over several front ends', () => {
  it('alone: at the limit and not one below; a limit of 0 is none', () => {
    const tally = new SharedTally({ name: 'x', kind: 'level', slotMs: 1_000, clock: new ManualClock(), shared: null });
    tally.change('a', LIMIT - 1);
    expect(tally.reached('a', LIMIT)).toBe(false);
    tally.change('a', 1);
    expect([tally.reached('a', LIMIT), tally.reached('b', LIMIT), tally.reached('a', 0)]).toEqual([true, false, false]);
    tally.change('a', -1);
    expect(tally.reached('a', LIMIT)).toBe(false);
  });

  it('is that of all of them, as soon as they have told each other', () => {
    const { all } = tallies('level');
    const [a, b] = pair(all);
    a.change('x', 4);
    b.change('x', 4);
    expect([a.reached('x', LIMIT), b.reached('x', LIMIT)]).toEqual([false, true]);
    a.change('x', 0);
    a.change('x', 1);
    expect(a.reached('x', LIMIT)).toBe(true);
    b.change('x', -4);
    a.change('x', -1);
    expect(a.reached('x', LIMIT)).toBe(false);
  });

  it('never waits: until the others are known each counts for itself', () => {
    const { all, sums } = tallies('rate');
    const [a, b] = pair(all);
    a.change('x', 6);
    sums.isLate = true;
    b.change('x', 2);
    expect(b.reached('x', LIMIT)).toBe(false);
    for (const tell of sums.late.splice(0)) tell();
    expect(b.reached('x', LIMIT)).toBe(true);
  });

  it('a rate begins anew in the next window, and a late answer about the last one is not heard', () => {
    const { all, clock, sums } = tallies('rate');
    const [a] = pair(all);
    a.change('x', LIMIT);
    expect(a.reached('x', LIMIT)).toBe(true);
    clock.advance(SLOT_MS);
    expect(a.reached('x', LIMIT)).toBe(false);
    sums.isLate = true;
    a.change('x', 2);
    clock.advance(SLOT_MS);
    a.change('x', 2);
    const [old, now] = sums.late.splice(0);
    sums.lie = 100;
    old?.();
    expect(a.reached('x', LIMIT)).toBe(false);
    now?.();
    expect(a.reached('x', LIMIT)).toBe(true);
  });

  it('a front end that died is forgotten with its slot, who lives is not', () => {
    const { all, clock } = tallies('level');
    const [a, dead] = pair(all);
    dead.change('x', 5);
    a.change('x', 3);
    expect(a.reached('x', LIMIT)).toBe(true);
    clock.advance(SLOT_MS);
    a.refresh();
    expect(a.reached('x', LIMIT)).toBe(false);
    a.change('x', 4);
    expect(a.reached('x', LIMIT)).toBe(false);
    a.change('x', 1);
    expect(a.reached('x', LIMIT)).toBe(true);
  });

  it('a shared memory that lies locks nobody out, and one that forgets or is gone leaves each to itself', () => {
    for (const lie of [1e15, Number.NaN, -7, 1.5, Number.POSITIVE_INFINITY]) {
      const { all, sums } = tallies('level');
      const [a] = pair(all);
      sums.lie = lie;
      // A quarter of the limit is everybody's.
      for (let own = 0; own < LIMIT / 4; own++) {
        expect(a.reached('x', LIMIT)).toBe(false);
        a.change('x', 1);
      }
    }
    const { all, sums } = tallies('level');
    const [a, b] = pair(all);
    a.change('x', 5);
    sums.sums.clear();
    b.change('x', 5);
    expect(b.reached('x', LIMIT)).toBe(false);
    sums.isGone = true;
    b.change('x', 2);
    expect(b.reached('x', LIMIT)).toBe(false);
    // It is there again: the rest is told.
    sums.isGone = false;
    b.change('x', 1);
    expect([...sums.sums.values()]).toEqual([8]);
  });

  it('of a flood from everywhere takes bounded memory', () => {
    const { all } = tallies('rate', 2);
    const [a] = pair(all);
    for (let i = 0; i < 200_000; i++) a.change(`client ${i}`, 1);
    expect(a.reached('client 0', 1)).toBe(false);
    expect(a.reached('client 199999', 1)).toBe(true);
  });

  it('of honest front ends: nobody goes above the limit by more than the others can have begun meanwhile', () => {
    const steps = fc.array(fc.tuple(fc.nat(2), fc.boolean()), { maxLength: 120 });
    fc.assert(
      fc.property(steps, (doings) => {
        const { all } = tallies('level', 3);
        const open = all.map(() => 0);
        for (const [who, comes] of doings) {
          const tally = all[who];
          if (tally === undefined) continue;
          const here = open[who] ?? 0;
          if (comes && !tally.reached('x', LIMIT)) {
            tally.change('x', 1);
            open[who] = here + 1;
          } else if (!comes && here > 0) {
            tally.change('x', -1);
            open[who] = here - 1;
          }
          // Each of three knows the others as of its own last change.
          expect(open.reduce((sum, one) => sum + one, 0)).toBeLessThanOrEqual(3 * LIMIT);
          expect(Math.max(...open)).toBeLessThanOrEqual(LIMIT);
        }
      }),
      { numRuns: 300, seed: 11 },
    );
  });
});

describe('limits of clients', () => {
  const limits = {
    maxConnectionsPerClient: 3,
    maxConnectionRatePerClient: 5,
    maxAuthFailures: 2,
    maxMessageRatePerUser: 2,
  };

  it('connections of a network: how many at once, and how many a minute', () => {
    const clock = new ManualClock();
    const clients = new ClientLimits(clock, null);
    for (let i = 0; i < 3; i++) clients.cameIn(`2001:db8::${i}`);
    expect(clients.refuses('2001:db8::9', limits)).toBe('maxConnectionsPerClient');
    expect(clients.refuses('2001:db8:0:1::9', limits)).toBe(null);
    clients.left('2001:db8::1');
    expect(clients.refuses('2001:db8::9', limits)).toBe(null);
    for (let i = 0; i < 2; i++) {
      clients.cameIn('2001:db8::9');
      clients.left('2001:db8::9');
    }
    expect(clients.refuses('2001:db8::9', limits)).toBe('maxConnectionRatePerClient');
    clock.advance(60_000);
    expect(clients.refuses('2001:db8::9', limits)).toBe(null);
  });

  it('failed AUTH: of one user from one network, then of the network; others are not touched; it passes', () => {
    const clock = new ManualClock();
    const clients = new ClientLimits(clock, null);
    const may = (address: string, user: string): boolean => !clients.mayNotAuthenticate(address, user, limits);
    for (let i = 0; i < 2; i++) clients.authFailed('192.0.2.1', 'bob');
    expect([may('192.0.2.1', 'bob'), may('192.0.2.1', 'ann'), may('192.0.2.2', 'bob')]).toEqual([false, true, true]);
    for (let i = 0; i < 8; i++) clients.authFailed('192.0.2.1', `guess ${i}`);
    expect([may('192.0.2.1', 'ann'), may('192.0.2.2', 'ann')]).toEqual([false, true]);
    clock.advance(10 * 60_000);
    expect([may('192.0.2.1', 'ann'), may('192.0.2.1', 'bob')]).toEqual([true, true]);
  });

  it('what is still open is told again in every slot, until it stops', () => {
    const [clock, sums] = [new ManualClock(), new Sums()];
    const clients = new ClientLimits(clock, sums);
    clients.start();
    clients.cameIn('192.0.2.1');
    const before = sums.sums.size;
    clock.advance(60_000);
    expect(sums.sums.size).toBeGreaterThanOrEqual(before + 2);
    clients.stop();
    const after = sums.sums.size;
    clock.advance(600_000);
    expect(sums.sums.size).toBe(after);
  });
});
