/** The picker, attempt ids and the body buffer. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { MailboxDatabaseConfig, MemberConfig, TopologyDocument } from '../../common/config.ts';
import type { Identity } from '../../common/message.ts';
import type { Load } from '../../common/peer/messages.ts';
import { BodyBuffer, ReplayBudget } from '../../frontend/body-buffer.ts';
import { newAttemptId } from '../../frontend/ids.ts';
import { type Candidate, Directory, pickTransport } from '../../frontend/picker.ts';
import { Scheduler, SeededRandom } from '../sim/scheduler.ts';
import { simTopology } from '../sim/topology.ts';

const CALM: Load = { queued: 0, intake: 0, backPressure: 'Normal', accepting: true };

function member(name: string, site: string, boundary: string, state: MemberConfig['state'] = 'active'): MemberConfig {
  return { name, site, boundary, state, dag: null, address: { host: name, port: 1 } };
}

const members = [
  member('near-a', 'here', 'dag/a'),
  member('far-a', 'there', 'dag/a'),
  member('near-b', 'here', 'dag/b'),
  member('far-b', 'there', 'dag/b'),
  member('far-c', 'there', 'dag/c'),
];
const base = simTopology({ sites: [1], dag: true, frontends: 1 });
const database = (name: string, boundary: string): MailboxDatabaseConfig => ({
  ...(base.databases[0] as MailboxDatabaseConfig),
  name,
  boundary,
  domains: [`${name}.example`],
  addresses: [],
});
const topology: TopologyDocument = {
  ...base,
  members,
  databases: [database('a', 'dag/a'), database('b', 'dag/b'), database('c', 'dag/c')],
};
const directory = new Directory(topology);

type Change = Partial<Load> & { state?: MemberConfig['state']; missing?: true; unheard?: true; ownStreams?: number };

function candidates(changes: Record<string, Change> = {}): Candidate[] {
  return members.flatMap((one) => {
    const { state, missing, unheard, ownStreams, ...load } = changes[one.name] ?? {};
    if (missing) return [];
    return [
      {
        member: state === undefined ? one : { ...one, state },
        identity: one.name as Identity,
        load: unheard ? null : { ...CALM, ...load },
        ownStreams: ownStreams ?? 0,
      },
    ];
  });
}

/** Every member that can come out, over many throws. */
function outcomes(to: string[], changes: Record<string, Change> = {}, excluded: string[] = []): string[] {
  const random = new SeededRandom(7);
  const found = new Set<string>();
  const recipients = to.map((address) => ({ address }));
  for (let i = 0; i < 200; i++) {
    const chosen = pickTransport(recipients, candidates(changes), excluded, 'here', directory, () => random.next());
    found.add(chosen?.member.name ?? 'none');
  }
  return [...found].sort();
}

describe('picker', () => {
  const many = (count: number, domain: string): string[] => Array.from({ length: count }, (_, i) => `u${i}@${domain}`);
  const gone = { missing: true } as const;
  const table: [string, string[], Record<string, Change>, string[], string[]][] = [
    ['owner of the mailbox, own site', ['x@a.example'], {}, [], ['near-a']],
    ['owner, other site when the near one is gone', ['x@a.example'], { 'near-a': gone }, [], ['far-a']],
    ['owner in no near site', ['x@c.example'], {}, [], ['far-c']],
    ['no owner left: own site', ['x@c.example'], { 'far-c': gone }, [], ['near-a', 'near-b']],
    ['no mailbox recipient: own site at random', ['x@foreign.example'], {}, [], ['near-a', 'near-b']],
    ['own site gone: anybody', ['postmaster'], { 'near-a': gone, 'near-b': gone }, [], ['far-a', 'far-b', 'far-c']],
    ['two groups near: most recipients', ['x@a.example', 'y@b.example', 'z@b.example'], {}, [], ['near-b']],
    ['the near group before the larger one', ['x@a.example', ...many(5, 'c.example')], {}, [], ['near-a']],
    ['only the first 20 count', [...many(20, 'foreign.example'), 'x@c.example'], {}, [], ['near-a', 'near-b']],
    ['excluded', ['x@a.example'], {}, ['near-a'], ['far-a']],
    ['draining', ['x@a.example'], { 'near-a': { state: 'draining' } }, [], ['far-a']],
    ['cordoned', ['x@a.example'], { 'near-a': { state: 'cordoned' } }, [], ['far-a']],
    ['not accepting', ['x@a.example'], { 'near-a': { accepting: false } }, [], ['far-a']],
    ['High', ['x@a.example'], { 'near-a': { backPressure: 'High' } }, [], ['far-a']],
    ['Medium only after all others', ['x@a.example'], { 'near-a': { backPressure: 'Medium' } }, [], ['far-a']],
    ['no word yet counts as calm', ['x@a.example'], { 'near-a': { unheard: true } }, [], ['near-a']],
    ['the lighter of two', ['postmaster'], { 'near-a': { queued: 10 } }, [], ['near-b']],
    ['own streams count', ['postmaster'], { 'near-b': { ownStreams: 2 }, 'near-a': { queued: 3 } }, [], ['near-a']],
    ['nobody', ['postmaster'], Object.fromEntries(members.map((m) => [m.name, gone])), [], ['none']],
  ];
  it.each(table)('%s', (_title, to, changes, excluded, expected) =>
    expect(outcomes(to, changes, excluded)).toEqual(expected),
  );

  it('Medium is still better than nobody', () => {
    const pressed = Object.fromEntries(members.map((m) => [m.name, { backPressure: 'Medium' } as const]));
    expect(outcomes(['x@a.example'], pressed)).toEqual(['near-a']);
  });
});

describe('attempt ids', () => {
  it('are 26 characters of Crockford base32, sort by time and do not repeat', async () => {
    const random = new SeededRandom(3);
    const scheduler = new Scheduler(3);
    const clock = scheduler.clock();
    const ids: string[] = [];
    for (let i = 0; i < 200; i++) {
      ids.push(newAttemptId(clock, random));
      clock.jumpWall(1);
    }
    for (const id of ids) expect(id).toMatch(/^[0-9A-HJKMNP-TV-Z]{26}$/);
    expect([...ids].sort()).toEqual(ids);
    expect(new Set(ids).size).toBe(ids.length);
  });

  it('carry the time and every random bit', () => {
    const clock = { ...new Scheduler(1).clock(), wallMs: () => 1_469_918_176_385 };
    const all = (byte: number): string => newAttemptId(clock, { bytes: (length) => Buffer.alloc(length, byte) });
    expect(all(0)).toBe('01ARYZ6S410000000000000000');
    expect(all(255)).toBe('01ARYZ6S41ZZZZZZZZZZZZZZZZ');
  });
});

describe('body buffer', () => {
  it('gives every byte once and in order, again after a rewind, and counts what it holds', () => {
    const operation = fc.oneof(
      fc.record({ kind: fc.constant('push' as const), size: fc.integer({ min: 0, max: 300 }) }),
      fc.record({ kind: fc.constant('take' as const), size: fc.integer({ min: 0, max: 200 }) }),
      fc.record({ kind: fc.constantFrom('rewind' as const, 'giveUp' as const), size: fc.constant(0) }),
    );
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 60 }), (operations) => {
        const budget = new ReplayBudget(1_000);
        const buffer = new BodyBuffer(800, budget);
        let pushed = Buffer.alloc(0);
        let sent = 0;
        for (const { kind, size } of operations) {
          if (kind === 'push') {
            const chunk = Buffer.from(Array.from({ length: size }, (_, i) => (pushed.length + i) % 251));
            pushed = Buffer.concat([pushed, chunk]);
            buffer.push(chunk);
          } else if (kind === 'take') {
            const bytes = buffer.take(size);
            if (bytes === null) expect(size === 0 || sent === pushed.length).toBe(true);
            else {
              expect(bytes.length).toBeLessThanOrEqual(size);
              expect(bytes.equals(pushed.subarray(sent, sent + bytes.length))).toBe(true);
              sent += bytes.length;
            }
          } else if (kind === 'giveUp') buffer.giveUp();
          else if (buffer.whole) {
            buffer.rewind();
            sent = 0;
          } else expect(() => buffer.rewind()).toThrow('cannot be replayed');
          expect(buffer.unsentBytes).toBe(pushed.length - sent);
          expect(buffer.sizeBytes).toBe(pushed.length);
          if (buffer.whole) expect(budget.usedBytes).toBe(pushed.length);
          else expect(budget.usedBytes).toBe(pushed.length - sent);
          expect(buffer.withinLimits).toBe(budget.usedBytes <= 800);
        }
        buffer.release();
        expect(budget.usedBytes).toBe(0);
      }),
      { numRuns: 500 },
    );
  });
});
