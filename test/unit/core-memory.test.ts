/** What a hundred thousand queued copies must not cost (docs/decisions/0010-memory-of-copies.md): records, frames, timers for each. */
import { createHash } from 'node:crypto';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, test } from 'vitest';
import type { RecipientState } from '../../common/message.ts';
import { PAGE } from '../../transport/core/doubt.ts';
import { bodyPlace } from '../../transport/store/body-place.ts';
import { decodeRows, encodeRows } from '../../transport/store/checkpoint-rows.ts';
import { Compactor } from '../../transport/store/compact.ts';
import type { CopyState, StoredCopy } from '../../transport/store/database.ts';
import { wireFacts, wireState } from '../bench/store-copies.ts';
import { A, B, CoreBench, copyId, DIGEST, epochOf, factsOf, PEER, pending, stateOf } from './core-bench.ts';

const QUEUED: CopyState = stateOf({
  queue: 'delivery',
  recipients: [pending('x@far.example')],
  placements: [{ identity: B, member: PEER, epoch: epochOf(A), status: 'confirmed' }],
});
const relayed: RecipientState = { address: 'x@far.example', outcome: 'relayed', connector: 'internet', atMs: 1 };

const held = (id: string) => ({ id: copyId(id), epoch: epochOf(A), standing: 'released' as const });
const grantOf = (id: string) => ({ id: copyId(id), granted: true, verdict: 'pending' as const, state: null });

function restarted(more: Partial<CopyState> = {}): CoreBench {
  return new CoreBench({
    stored: ['M1', 'M2', 'M3'].map((id) => ({ facts: factsOf(id), state: { ...QUEUED, ...more } })),
  });
}

/** What lives, outside the heap as well. */
function livingBytes(): number {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  for (let i = 0; i < 2; i++) collect();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

/** As a start reads them out of a checkpoint, frame by frame. */
function queued(count: number): StoredCopy[] {
  const written = new Compactor();
  const read = new Compactor();
  const copies: StoredCopy[] = [];
  for (let from = 0; from < count; from += 64) {
    const some = Array.from({ length: 64 }, (_, n) => ({
      facts: wireFacts(
        from + n,
        createHash('sha256')
          .update(`${from + n}`)
          .digest('hex'),
        300,
      ),
      state: { ...wireState(from + n, 'delivery'), epoch: epochOf(A) },
      body: bodyPlace([1, from + n, 700], []),
    }));
    const rows = JSON.parse(JSON.stringify(encodeRows(some, written)));
    for (const { facts, state } of decodeRows(rows, read)) copies.push({ facts, state });
  }
  return copies;
}

describe('a hundred thousand in the queue', () => {
  // Measured: 610 and 1,020 bytes; of a second state, 140 of them, most are let go when the members have answered.
  test('what is read from a checkpoint takes 650 bytes a copy, 100 of them outside the heap; with the core 1,100', () => {
    const count = 512 * 64;
    queued(64);
    const before = livingBytes();
    const stored = queued(count);
    expect((livingBytes() - before) / count).toBeLessThan(650);
    const bench = new CoreBench({ stored });
    expect((livingBytes() - before) / count).toBeLessThan(1_100);
    expect(bench.server.copies.size).toBe(count);
  }, 60_000);
});

describe('after a restart', () => {
  test('a copy that is where it was is not written again, and is held once', () => {
    const bench = restarted();
    const before = bench.server.copies.get(copyId('M1'))?.recovered;
    bench.join(PEER, ['M1', 'M2', 'M3'].map(held));
    const { note, commit } = bench.event({
      kind: 'GrantReceived',
      member: PEER,
      grant: { items: ['M1', 'M2', 'M3'].map(grantOf) },
    });
    expect([...note, ...commit].filter(({ kind }) => kind === 'state')).toEqual([]);
    expect(bench.copy('M1')).toBe(before);
    expect(bench.copy('M1').queue).toBe('delivery');
  });

  test('one that finds no route any more is', () => {
    const bench = new CoreBench({
      stored: [{ facts: factsOf('M1'), state: QUEUED }],
      shape: { withoutConnector: true },
    });
    bench.join(PEER, [held('M1')]);
    bench.event({ kind: 'GrantReceived', member: PEER, grant: { items: [grantOf('M1')] } });
    expect(bench.copy('M1').queue).not.toBe('delivery');
    expect(bench.stored('M1')).toEqual(bench.copy('M1'));
  });

  test('all wait for the same answers, and one timer ends the wait', () => {
    const bench = restarted();
    const [first, ...others] = [...bench.server.copies.values()].map(({ doubt }) => doubt);
    expect(first).not.toBeNull();
    for (const other of others) expect(other).toBe(first);
    expect(bench.server.timers.filter(({ kind }) => kind === 'doubt').length).toBe(1);
    expect(bench.server.timers.filter(({ kind }) => kind === 'age').length).toBe(1);
    bench.pass(5_000);
    for (const id of ['M1', 'M2', 'M3']) expect(bench.copy(id).queue).toBe('delivery');
  });
});

describe('doubts that time out', () => {
  test('end a page at a time, and others are heard in between', () => {
    const count = 2 * PAGE + 3;
    const ids = Array.from({ length: count }, (_, n) => `M${n}`);
    const bench = new CoreBench({ stored: ids.map((id) => ({ facts: factsOf(id), state: QUEUED })) });
    const inDoubt = (): number => [...bench.server.copies.values()].filter(({ doubt }) => doubt !== null).length;
    expect(inDoubt()).toBe(count);
    bench.pass(4_999);
    expect(inDoubt()).toBe(count);
    for (const left of [count - PAGE, count - 2 * PAGE, 0]) {
      bench.pass(1);
      expect(inDoubt()).toBe(left);
    }
    expect(bench.server.unasked.get(PEER)?.size).toBe(count);
    expect(bench.server.doubtful.size).toBe(0);
    for (const id of ids) expect(bench.copy(id).queue).toBe('delivery');
  });
});

describe('what is said about a copy', () => {
  test('a list that says all there is to say needs no answer', () => {
    const bench = restarted();
    bench.join(PEER, ['M1', 'M2', 'M3'].map(held));
    expect(bench.sent('STATE')).toEqual([]);
  });

  test.each([
    ['somebody is final', { recipients: [relayed, pending('y@far.example')] }],
    ['it goes to others than it came for', { recipients: [pending('z@far.example')] }],
    ['it goes to more', { recipients: [pending('x@far.example'), pending('z@far.example')] }],
    ['its epoch is another', { epoch: epochOf(A, 1, 2) }],
  ] as const)('an answer when %s', (_, more) => {
    const bench = new CoreBench({ stored: [{ facts: factsOf('M1'), state: { ...QUEUED, ...more } }] });
    bench.join(PEER, [held('M1')]);
    expect(bench.sent('STATE').map(({ frame }) => frame.state.id)).toEqual(['M1']);
  });

  const claimed = (state: Partial<CopyState>, epoch = epochOf(B)) => {
    const shadow = stateOf({ queue: 'shadow', epoch, ...state });
    const bench = new CoreBench({ stored: [{ facts: factsOf('M1', { digest: DIGEST }), state: shadow }] });
    bench.join(PEER);
    bench.event({
      kind: 'ClaimReceived',
      member: PEER,
      claim: { items: [{ id: copyId('M1'), epoch }] },
      stored: new Map(),
    });
    return bench.sent('GRANT').flatMap(({ frame }) => frame.grant.items);
  };

  test('a grant that says nothing new carries no state', () => {
    expect(claimed({})).toEqual([grantOf('M1')]);
  });

  test.each([
    ['somebody is final', { recipients: [relayed] }, epochOf(B)],
    ['an earlier claim may be answered', {}, epochOf(B, 1, 1)],
    ['an earlier try may be answered', {}, epochOf(B, 2)],
  ] as const)('it does when %s', (_, more, epoch) => {
    expect(claimed(more, epoch)[0]?.state?.epoch).toEqual(epoch);
  });
});
