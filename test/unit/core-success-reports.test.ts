/**
 * RFC 3461 5.2: who asked for it (NOTIFY=SUCCESS) hears that a recipient has the message, or that it was given to somebody who reports nothing. The message comes
 * to rest when that report is safe, and whoever takes it over reports what was delivered before.
 */
import { describe, expect, test } from 'vitest';
import type { CopyId, RecipientState } from '../../common/message.ts';
import type { DeliveryResult, StepResult } from '../../transport/core/events.ts';
import {
  A,
  B,
  CoreBench,
  copyId,
  DIGEST,
  envelopeFor,
  epochOf,
  factsOf,
  PEER,
  sharedOf,
  stateOf,
} from './core-bench.ts';

const SENDER = 'sender@far.example';
const MAILBOX = 'alpha-0@sim.example';
const FAR = 'x@far.example';
const ASKING = 'SUCCESS,FAILURE';

function accepted(notify: string | undefined, address = MAILBOX, from = SENDER): CoreBench {
  const bench = new CoreBench();
  bench.join(PEER);
  bench.accept('M1', [{ address, ...(notify === undefined ? {} : { notify }) }], { from });
  return bench;
}

type Success = Omit<Extract<DeliveryResult, { readonly kind: 'delivered' | 'relayed' }>, 'index' | 'reply'>;
const served = (bench: CoreBench, success: Success): void =>
  void bench.delivered(bench.lastSeen('Deliver'), [{ index: 0, reply: '250 2.0.0 ok', ...success }]);

/** The report is written. */
function written(bench: CoreBench): StepResult {
  const { id, parent } = bench.lastSeen('ComposeDsn');
  return bench.event({
    ...{ kind: 'DsnComposed', stream: 90, id, parent, envelope: envelopeFor([SENDER], '') },
    ...{ digest: DIGEST, sizeBytes: 5 },
  });
}

function composed(bench: CoreBench): CopyId {
  written(bench);
  return bench.lastSeen('ComposeDsn').id;
}

const reports = (bench: CoreBench): readonly string[] => bench.seen('ComposeDsn').map(({ dsn }) => dsn);
const isAtRest = (bench: CoreBench): boolean => bench.resting.has(copyId('M1'));

describe('a success that is to be reported', () => {
  test.each<[string, string | undefined, string, Success, readonly string[]]>([
    ['delivered to a mailbox', ASKING, SENDER, { kind: 'delivered' }, ['delivered']],
    ['relayed to who reports nothing', ASKING, SENDER, { kind: 'relayed' }, ['relayed']],
    ['relayed to who reports itself', ASKING, SENDER, { kind: 'relayed', isPassedOn: true }, []],
    [
      'relayed before by somebody else, to who reports nothing',
      ASKING,
      SENDER,
      { kind: 'relayed', isRepeat: true },
      ['relayed'],
    ],
    ['nobody asked', undefined, SENDER, { kind: 'delivered' }, []],
    ['asked for failures only', 'FAILURE', SENDER, { kind: 'delivered' }, []],
    ['NEVER', 'NEVER', SENDER, { kind: 'delivered' }, []],
    ['from <>', ASKING, '', { kind: 'delivered' }, []],
  ])('%s', (_, notify, from, success, expected) => {
    const bench = accepted(notify, success.kind === 'relayed' ? FAR : MAILBOX, from);
    served(bench, success);
    expect(reports(bench)).toEqual(expected);
    expect(isAtRest(bench)).toBe(expected.length === 0);
  });

  test('holders know it at once, the message rests when its report has two copies, and it is reported once', () => {
    const bench = accepted(ASKING);
    served(bench, { kind: 'delivered' });
    expect(bench.stored('M1')?.recipients).toMatchObject([{ outcome: 'delivered', announced: false }]);
    const told = bench.sent('STATE').at(-1)?.frame.state;
    expect([told?.verdict, told?.state?.recipients?.[0]?.outcome, told?.state?.final]).toEqual([
      'pending',
      'delivered',
      false,
    ]);
    const id = composed(bench);
    expect(isAtRest(bench)).toBe(false);
    const open = bench.candidateOpened();
    expect(open.id).toBe(id);
    bench.candidateStored(open);
    expect(isAtRest(bench)).toBe(true);
    expect(bench.resting.get(copyId('M1'))?.recipients).toMatchObject([{ outcome: 'delivered', announced: true }]);
    expect(reports(bench)).toEqual(['delivered']);
  });

  test('of a message with many recipients a report writes none of the others: a thousand of them wrote them all a thousand times', () => {
    const bench = accepted(ASKING);
    served(bench, { kind: 'delivered' });
    const states = written(bench).commit.filter((write) => write.kind === 'state' && write.id === copyId('M1'));
    expect(states).toMatchObject([{ kind: 'state', outcomes: [] }]);
  });

  test('a process that ends before the report is written makes it after its start, under the same id', () => {
    const bench = accepted(ASKING);
    served(bench, { kind: 'delivered' });
    const { id } = bench.lastSeen('ComposeDsn');
    bench.restart();
    expect(bench.seen('ComposeDsn')).toMatchObject([{ id, dsn: 'delivered' }]);
    expect(bench.seen('Deliver')).toEqual([]);
    composed(bench);
    bench.join(PEER);
    bench.grant(PEER, 'pending', sharedOf('M1', { recipients: [{ address: MAILBOX, outcome: 'delivered' }] }));
    bench.candidateStored(bench.candidateOpened());
    expect(isAtRest(bench)).toBe(true);
    expect(bench.seen('Deliver').map(({ facts }) => facts.id)).not.toContain('M1');
  });

  test('a report of an earlier life finds its message, and looks through no others', () => {
    const bench = accepted(ASKING);
    served(bench, { kind: 'delivered' });
    const id = composed(bench);
    bench.restart();
    expect(reports(bench)).toEqual([]);
    bench.join(PEER);
    bench.pass(6_000);
    const open = bench.candidateOpened();
    expect([open.id, isAtRest(bench)]).toEqual([id, false]);
    bench.server.copies.values = () => {
      throw new Error('all copies are looked through');
    };
    bench.candidateStored(open);
    expect(isAtRest(bench)).toBe(true);
  });
});

describe('a success of an owner that is gone', () => {
  const delivered: RecipientState = { address: MAILBOX, outcome: 'delivered', announced: false, atMs: 1 };
  const facts = factsOf('M1', {
    envelope: { ...envelopeFor([{ address: MAILBOX, notify: ASKING }], SENDER) },
  });

  test('is reported by who takes over, and not delivered again', () => {
    const state = stateOf({
      ...{ queue: 'shadow', epoch: epochOf(B), recipients: [delivered] },
      placements: [],
    });
    const bench = new CoreBench({
      stored: [{ facts, state }],
      seen: [{ identity: B, member: PEER, openCounter: 1, nonce: 'n', syncedSequence: 0 }],
    });
    bench.up(PEER, copyId('B2') as never);
    bench.pass(1_000);
    expect(bench.copy('M1').epoch.owner).toBe(A);
    expect(bench.seen('Deliver')).toEqual([]);
    expect(bench.seen('ComposeDsn')).toMatchObject([{ parent: 'M1', dsn: 'delivered' }]);
  });

  test('whose report is here as its shadow already: the message rests when that one is done (seed 4615)', () => {
    const dsn = `dsn:M1/0/success`;
    const bench = new CoreBench({
      stored: [
        { facts, state: stateOf({ queue: 'delivery', recipients: [delivered] }) },
        {
          facts: factsOf(dsn, { kind: 'dsn', envelope: envelopeFor([SENDER], '') }),
          state: stateOf({ queue: 'shadow', epoch: epochOf(B), recipients: null }),
        },
      ],
    });
    bench.join(PEER);
    bench.grant(PEER, 'pending', sharedOf('M1', { recipients: [delivered] }));
    bench.pass(1_000);
    expect([isAtRest(bench), bench.copy('M1').queue]).toEqual([false, 'delivery']);
    expect(bench.seen('ComposeDsn')).toEqual([]);
    bench.state(PEER, 'final', {
      ...{ id: copyId(dsn), ancestor: null, kind: 'dsn', epoch: epochOf(B), standing: 'released', abortedThrough: 0 },
      ...{ digest: DIGEST, sizeBytes: 10, final: true },
      recipients: [{ address: SENDER, outcome: 'relayed', atMs: 2 }],
    });
    expect(isAtRest(bench)).toBe(true);
  });

  test('a shadow announces nothing when the report is done: who owns the message does', () => {
    const dsn = `dsn:M1/0/success`;
    const shadow = { queue: 'shadow', epoch: epochOf(B) } as const;
    const bench = new CoreBench({
      stored: [
        { facts, state: stateOf({ ...shadow, recipients: [delivered], dsns: [copyId(dsn)] }) },
        {
          facts: factsOf(dsn, { kind: 'dsn', envelope: envelopeFor([SENDER], '') }),
          state: stateOf({ ...shadow, recipients: null }),
        },
      ],
    });
    bench.join(PEER);
    bench.state(PEER, 'final', {
      ...{ id: copyId(dsn), ancestor: null, kind: 'dsn', epoch: epochOf(B), standing: 'released', abortedThrough: 0 },
      ...{ digest: DIGEST, sizeBytes: 10, final: true },
      recipients: [{ address: SENDER, outcome: 'relayed', atMs: 2 }],
    });
    expect(bench.server.copies.has(copyId(dsn))).toBe(false);
    expect(bench.copy('M1')).toMatchObject({
      queue: 'shadow',
      recipients: [{ outcome: 'delivered', announced: false }],
    });
  });
});
