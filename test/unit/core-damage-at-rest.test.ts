/** Copies at rest whose bytes are damaged (transport/core/damage-at-rest.ts), and the pace at which they are looked for (transport/core/scrub-pace.ts). */
import { describe, expect, test } from 'vitest';
import { ANY_DIGEST } from '../../transport/core/damage.ts';
import { scrubDelayMs, scrubRate } from '../../transport/core/scrub-pace.ts';
import type { StoredCopy } from '../../transport/store/database.ts';
import { A, B, C, CoreBench, copyId, DIGEST, epochOf, factsOf, OTHER, PEER, sharedOf, stateOf } from './core-bench.ts';

const HOUR_MS = 3_600_000;
const delivered = [{ address: 'x@far.example', outcome: 'delivered' as const, atMs: 1_700_000_000_000 }];

const stored = (id: string, queue: 'primarySafetyNet' | 'shadowSafetyNet'): StoredCopy => ({
  facts: factsOf(id),
  state: stateOf({
    queue,
    epoch: epochOf(queue === 'primarySafetyNet' ? A : B, 1, 3),
    recipients: delivered,
    finalAtMs: 1_700_000_000_000,
  }),
});

function bench(): CoreBench {
  const made = new CoreBench({ members: 3 });
  made.join(PEER);
  made.join(OTHER);
  return made;
}

const shared = (id: string): ReturnType<typeof sharedOf> =>
  sharedOf(id, { epoch: epochOf(B, 1, 3), recipients: delivered, final: true });

describe('rows 38, 39 at rest', () => {
  test.each(['primarySafetyNet', 'shadowSafetyNet'] as const)(
    '%s: asked for, and at rest again as what it was',
    (queue) => {
      const made = bench();
      const copy = stored('M1', queue);
      made.event({ kind: 'RestingDamaged', id: copyId('M1'), stored: copy });
      expect(made.sent('FETCH').map(({ to, frame }) => [to, frame.fetch.digest])).toEqual([
        [PEER, DIGEST],
        [OTHER, DIGEST],
      ]);
      const { commit } = made.streamEnded(made.streamOpened(PEER, 'copy', shared('M1'), copy));
      expect(commit.map(({ kind }) => kind)).toEqual(['commit', 'move']);
      expect(made.resting.get(copyId('M1'))).toEqual(copy.state);
      expect(made.server.damaged.size).toBe(0);
      expect(made.server.copies.size).toBe(0);
    },
  );

  test('the record of its body alone counts on nobody: who has it at rest does not hold it in transit (protocol.md 8, seed 4893)', () => {
    const made = bench();
    const copy = stored('M1', 'primarySafetyNet');
    const placements = [{ member: OTHER, identity: C, epoch: copy.state.epoch, status: 'confirmed' as const }];
    const placed = { ...copy, state: { ...copy.state, placements } };
    made.event({ kind: 'RestingDamaged', id: copyId('M1'), stored: placed });
    const { commit } = made.streamEnded(made.streamOpened(PEER, 'copy', shared('M1'), placed));
    expect(commit).toMatchObject([
      { kind: 'commit', state: { queue: 'submission', placements: [] } },
      { kind: 'move', state: { queue: 'primarySafetyNet', placements } },
    ]);
  });

  test('its last record cannot be read: whatever rests under that id, at the sender’s word', () => {
    const made = bench();
    made.event({ kind: 'RestingDamaged', id: copyId('M1'), stored: null });
    expect(made.sent('FETCH')[0]?.frame.fetch.digest).toBe(ANY_DIGEST);
    made.streamEnded(made.streamOpened(PEER, 'copy', shared('M1')));
    expect(made.resting.get(copyId('M1'))).toMatchObject({
      queue: 'shadowSafetyNet',
      epoch: epochOf(B, 1, 3),
      recipients: delivered,
      finalAtMs: 1_700_000_000_000,
    });
  });

  test('other bytes are not taken, nor what is not final of what nothing is known', () => {
    const made = bench();
    made.event({ kind: 'RestingDamaged', id: copyId('M1'), stored: stored('M1', 'shadowSafetyNet') });
    made.streamOpened(PEER, 'copy', { ...shared('M1'), digest: 'e'.repeat(64) }, stored('M1', 'shadowSafetyNet'));
    made.event({ kind: 'RestingDamaged', id: copyId('M2'), stored: null });
    made.streamOpened(PEER, 'copy', { ...sharedOf('M2', { epoch: epochOf(A) }), final: false });
    expect(made.resting.size).toBe(0);
    expect(made.seen('AcceptStream')).toHaveLength(0);
  });

  test('two that send it at once: one is taken', () => {
    const made = bench();
    const copy = stored('M1', 'shadowSafetyNet');
    made.event({ kind: 'RestingDamaged', id: copyId('M1'), stored: copy });
    const first = made.streamOpened(PEER, 'copy', shared('M1'), copy);
    made.streamOpened(OTHER, 'copy', shared('M1'), copy);
    expect(made.seen('RefuseStream')).toHaveLength(1);
    expect(made.streamEnded(first).commit).toHaveLength(2);
  });

  test('is asked for again every second, a few at a time, and forgotten by the pass that does not meet it again', () => {
    const made = bench();
    for (let n = 0; n < 40; n++)
      made.event({ kind: 'RestingDamaged', id: copyId(`M${n}`), stored: stored(`M${n}`, 'shadowSafetyNet') });
    const asked = made.sent('FETCH').length;
    made.passHearing(1_000, { [PEER]: [], [OTHER]: [] });
    expect(made.sent('FETCH').length - asked).toBe(2 * 16);
    const sinceMs = made.nowMs;
    made.pass(1);
    made.event({ kind: 'RestingDamaged', id: copyId('M3'), stored: stored('M3', 'shadowSafetyNet') });
    made.event({ kind: 'ScrubPassed', sinceMs });
    expect([...made.server.damaged.keys()]).toEqual([copyId('M3')]);
  });

  test('a dying disk does not fill the memory', () => {
    const made = bench();
    for (let n = 0; n < 1_500; n++)
      made.event({ kind: 'RestingDamaged', id: copyId(`M${n}`), stored: stored(`M${n}`, 'shadowSafetyNet') });
    expect(made.server.damaged.size).toBe(1_000);
  });

  test('who is asked sends what rests under that id, never what is damaged there too', () => {
    const made = bench();
    const ask = (id: string, copy: StoredCopy, digest: string): void =>
      void made.event({ kind: 'FetchReceived', member: PEER, fetch: { id: copyId(id), digest }, stored: copy });
    ask('M1', stored('M1', 'primarySafetyNet'), ANY_DIGEST);
    ask('M2', { ...stored('M2', 'primarySafetyNet'), damaged: 'its COMMIT' }, DIGEST);
    ask('M3', stored('M3', 'primarySafetyNet'), 'e'.repeat(64));
    expect(made.seen('OpenCandidate').map(({ id, purpose }) => [id, purpose])).toEqual([['M1', 'copy']]);
  });
});

describe('pace', () => {
  test('everything in a quarter of the hold time, between 0.5 and 10 MB/s', () => {
    expect(scrubRate(1_000, 48 * HOUR_MS)).toEqual({ bytesPerS: 500_000, isTooSlow: false });
    const { bytesPerS } = scrubRate(100e9, 48 * HOUR_MS);
    expect((100e9 / bytesPerS) * 1000).toBeLessThan(12 * HOUR_MS);
    expect(bytesPerS).toBeGreaterThan(500_000);
    expect(scrubRate(400e9, 48 * HOUR_MS)).toEqual({ bytesPerS: 10_000_000, isTooSlow: false });
    expect(scrubRate(500e9, 48 * HOUR_MS)).toEqual({ bytesPerS: 10_000_000, isTooSlow: true });
  });

  test('a pass per quarter, the first soon after the start; a clock that jumped costs a quarter at most', () => {
    const holdMs = 48 * HOUR_MS;
    expect(scrubDelayMs(null, holdMs)).toBe(60_000);
    expect(scrubDelayMs(2 * HOUR_MS, holdMs)).toBe(10 * HOUR_MS);
    expect(scrubDelayMs(100 * HOUR_MS, holdMs)).toBe(60_000);
    expect(scrubDelayMs(-1_000 * HOUR_MS, holdMs)).toBe(12 * HOUR_MS);
  });
});
