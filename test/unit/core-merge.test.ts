/** The pure merge of copy states (protocol.md 11) as a property: commutative where it must be, idempotent, monotone, whatever the order of frames. */
import { describe, expect, it } from 'vitest';
import {
  type CopyId,
  compareEpochs,
  type Identity,
  type RecipientState,
  type SharedState,
} from '../../common/message.ts';
import { merge } from '../../transport/core/copy.ts';
import type { CopyState } from '../../transport/store/database.ts';
import { SeededRandom } from '../sim/scheduler.ts';

const id = '0123456789ABCDEFGHJKMNPQRS' as CopyId;
const owners = ['A', 'B', 'C'].map((letter) => letter.repeat(26) as Identity);

function recipient(random: SeededRandom, address: string): RecipientState {
  if (random.chance(0.4)) return { address, outcome: 'pending' };
  const outcome = random.pick(['delivered', 'relayed', 'failed', 'expired', 'removed'] as const);
  // One activation has one outcome: two members never disagree about what one store said.
  return {
    address,
    outcome: outcome === 'failed' ? 'delivered' : outcome,
    activation: ['delivered', 'relayed', 'expired', 'removed'].indexOf(outcome) + 1,
  };
}

function shared(random: SeededRandom): SharedState {
  return {
    id,
    ancestor: null,
    kind: 'message',
    epoch: { try: random.integer(1, 3), term: random.integer(0, 2), owner: random.pick(owners) },
    standing: random.pick(['intake', 'released'] as const),
    abortedThrough: random.integer(0, 2),
    digest: 'd',
    sizeBytes: 1,
    recipients: random.chance(0.3) ? null : [recipient(random, 'a@x'), recipient(random, 'b@x')],
    final: false,
  };
}

const empty: CopyState = {
  queue: 'shadow',
  epoch: { try: 1, term: 0, owner: owners[0] as Identity },
  standing: 'intake',
  abortedThrough: 0,
  recipients: null,
  placements: [],
  ageMs: 0,
  finalAtMs: null,
  unprotected: null,
  suspended: false,
  crashCount: 0,
  delayed: false,
  dsns: [],
  attempts: 0,
};

const finals = (state: CopyState): number =>
  state.recipients?.filter((entry) => entry.outcome !== 'pending').length ?? 0;

describe('merge', () => {
  it('gives one result in any order and with any repetition', () => {
    const random = new SeededRandom(11);
    for (let round = 0; round < 2_000; round++) {
      const heard = Array.from({ length: random.integer(1, 5) }, () => shared(random));
      const one = heard.reduce(merge, empty);
      const shuffled = [...heard, ...heard].sort(() => random.next() - 0.5);
      expect(shuffled.reduce(merge, empty)).toEqual(one);
    }
  });

  it('changes nothing the second time, by identity', () => {
    const random = new SeededRandom(12);
    for (let round = 0; round < 2_000; round++) {
      const remote = shared(random);
      const once = merge(empty, remote);
      expect(merge(once, remote)).toBe(once);
    }
  });

  it('only grows: epoch, standing, abortedThrough, finality', () => {
    const random = new SeededRandom(13);
    let state = empty;
    for (let round = 0; round < 2_000; round++) {
      if (round % 10 === 0) state = empty;
      const next = merge(state, shared(random));
      expect(compareEpochs(next.epoch, state.epoch)).toBeGreaterThanOrEqual(0);
      expect(next.abortedThrough).toBeGreaterThanOrEqual(state.abortedThrough);
      if (state.standing === 'released') expect(next.standing).toBe('released');
      expect(finals(next)).toBeGreaterThanOrEqual(finals(state));
      state = next;
    }
  });

  it('ignores recipients that are not about the same envelope', () => {
    const remote: SharedState = {
      ...shared(new SeededRandom(1)),
      recipients: [{ address: 'other@x', outcome: 'delivered' }],
    };
    const local: CopyState = { ...empty, recipients: [{ address: 'a@x', outcome: 'pending' }] };
    expect(merge(local, remote).recipients).toEqual(local.recipients);
  });
});
