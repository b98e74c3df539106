/** Bodies on their way to a candidate: order and bytes whatever credit does, sources that lie about their size, two streams of one id. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { End, Open, OpenOk, Refuse, Result } from '../../common/peer/messages.ts';
import type {
  IncomingStream,
  IncomingStreamHandlers,
  OutgoingStream,
  OutgoingStreamHandlers,
  PeerSession,
} from '../../common/peer/session-api.ts';
import type { CoreEvent } from '../../transport/core/events.ts';
import { Bodies } from '../../transport/runtime/bodies.ts';
import { BodyPump, type BodySource } from '../../transport/runtime/body-pump.ts';
import { MemoryDisk, openMemoryStore } from '../../transport/store/memory.ts';
import { Scheduler } from '../sim/scheduler.ts';
import { B, copyId, type EffectOf, envelopeFor, epochOf, factsOf, PEER, sharedOf, stateOf } from './core-bench.ts';

const END: Omit<End, 'sizeBytes'> = { digest: 'd'.repeat(64), events: [] };
/** Every promise reaction that is due has run. */
const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** A stream as its opener sees it; credit comes when the test says so. */
class CandidateStream implements OutgoingStream {
  credit = 0;
  readonly #chunks: Buffer[] = [];
  ends: End[] = [];
  drops: string[] = [];

  chunk(bytes: Buffer): void {
    if (bytes.length > this.credit) throw new Error(`${bytes.length} bytes sent with a credit of ${this.credit}`);
    if (bytes.length === 0 || this.ends.length > 0) throw new Error('an empty chunk, or one after END');
    this.credit -= bytes.length;
    this.#chunks.push(Buffer.from(bytes));
  }

  end(end: End): void {
    this.ends.push(end);
  }

  drop(reason: string): void {
    this.drops.push(reason);
  }

  get received(): Buffer {
    return Buffer.concat(this.#chunks);
  }
}

/** A body that grows, as `BodyWriter` does; a read takes a while. */
class GrowingBody implements BodySource {
  #bytes = Buffer.alloc(0);
  get sizeBytes(): number {
    return this.#bytes.length;
  }
  append(chunk: Buffer): void {
    this.#bytes = Buffer.concat([this.#bytes, chunk]);
  }
  async read(offset: number, maxBytes: number): Promise<Buffer> {
    await settled();
    return this.#bytes.subarray(offset, offset + maxBytes);
  }
}

type Move =
  | { readonly kind: 'append'; readonly bytes: Uint8Array }
  | { readonly kind: 'credit'; readonly bytes: number }
  | { readonly kind: 'wait' };

const moves: fc.Arbitrary<readonly Move[]> = fc.array(
  fc.oneof(
    fc.record({ kind: fc.constant('append' as const), bytes: fc.uint8Array({ minLength: 1, maxLength: 300 }) }),
    fc.record({ kind: fc.constant('credit' as const), bytes: fc.integer({ min: 1, max: 400 }) }),
    fc.record({ kind: fc.constant('wait' as const) }),
  ),
  { maxLength: 40 },
);

describe('BodyPump', () => {
  test('14. order and bytes are kept while credit lags, END leaves once and last (else the shadow has another message)', async () => {
    await fc.assert(
      fc.asyncProperty(moves, async (history) => {
        const stream = new CandidateStream();
        const body = new GrowingBody();
        const errors: unknown[] = [];
        const pump = new BodyPump(stream, body, (error) => errors.push(error));
        const whole: Buffer[] = [];
        for (const move of history) {
          if (move.kind === 'append') {
            const chunk = Buffer.from(move.bytes);
            whole.push(chunk);
            body.append(chunk);
            pump.offer(chunk);
          } else if (move.kind === 'credit') {
            stream.credit += move.bytes;
            pump.pump();
          } else await settled();
        }
        const expected = Buffer.concat(whole);
        pump.end({ ...END, sizeBytes: expected.length });
        stream.credit += expected.length;
        pump.pump();
        for (let turn = 0; turn < 200 && stream.ends.length === 0; turn++) await settled();
        expect(stream.received.equals(expected)).toBe(true);
        expect(stream.ends).toHaveLength(1);
        expect(pump.ended).toBe(true);
        expect(errors).toEqual([]);
      }),
      { numRuns: 60 },
    );
  });

  test('14. a source that ends early is an error, said once (else the process turns for ever and all mail stands still)', async () => {
    let reads = 0;
    const errors: unknown[] = [];
    const stream = new CandidateStream();
    stream.credit = 1_000;
    const source: BodySource = {
      sizeBytes: 10,
      read: () => {
        reads += 1;
        // Were it read for ever, no timer of this process would get its turn: the test itself could not end.
        if (reads > 100) return new Promise(() => undefined);
        return Promise.resolve(Buffer.from(reads === 1 ? 'seven b' : ''));
      },
    };
    const pump = new BodyPump(stream, source, (error) => errors.push(error));
    pump.pump();
    pump.end({ ...END, sizeBytes: 10 });
    await settled();
    expect(reads).toBe(2);
    expect(errors).toEqual([new Error('body ends before its announced size')]);
    pump.pump();
    await settled();
    expect({ reads, errors: errors.length, ends: stream.ends }).toEqual({ reads: 2, errors: 1, ends: [] });
  });

  test('a source that cannot be read is an error, and END never leaves', async () => {
    const errors: unknown[] = [];
    const stream = new CandidateStream();
    stream.credit = 1_000;
    const pump = new BodyPump(stream, { sizeBytes: 10, read: () => Promise.reject(new Error('DAMAGED')) }, (error) =>
      errors.push(error),
    );
    pump.end({ ...END, sizeBytes: 10 });
    await settled();
    pump.pump();
    await settled();
    expect(errors).toEqual([new Error('DAMAGED')]);
    expect(stream.ends).toEqual([]);
  });

  test('after stop() nothing is sent, not even what was being read', async () => {
    const stream = new CandidateStream();
    const body = new GrowingBody();
    body.append(Buffer.from('abc'));
    stream.credit = 10;
    const pump = new BodyPump(stream, body, () => undefined);
    pump.pump();
    pump.stop();
    await settled();
    await settled();
    expect(stream.received).toHaveLength(0);
  });
});

/** A stream as its receiver sees it; `handlers` is what the sender would reach. */
class InboundStream implements IncomingStream {
  readonly open: Open;
  readonly remote = { role: 'frontend', name: 'f-0' } as const;
  closed = false;
  handlers: IncomingStreamHandlers | null = null;
  granted = 0;

  constructor(id: string, kind: 'intake' | 'shadow') {
    const state = kind === 'intake' ? null : sharedOf(id, { epoch: epochOf(B) });
    this.open = { id: copyId(id), epoch: epochOf(B), kind, envelope: envelopeFor(['x@far.example']), state };
  }
  accept(_ok: OpenOk, handlers: IncomingStreamHandlers): void {
    this.handlers = handlers;
  }
  refuse(_refuse: Refuse): void {
    this.closed = true;
  }
  grant(bytes: number): void {
    this.granted += bytes;
  }
  result(_result: Result): void {
    this.closed = true;
  }
}

/** A session that only opens streams. */
function sessionTo(stream: CandidateStream, opened: OutgoingStreamHandlers[]): PeerSession {
  return {
    remote: { role: 'transport', name: PEER },
    get hello(): never {
      throw new Error('no handshake here');
    },
    version: 1,
    dialled: true,
    send: () => undefined,
    sendEncoded: () => undefined,
    openStream: (_open, handlers) => {
      opened.push(handlers);
      return stream;
    },
    queuedBytes: 0,
    unheardBytes: 0,
    close: () => undefined,
    closed: false,
  };
}

async function bodiesOnMemory() {
  const scheduler = new Scheduler(1);
  const disk = new MemoryDisk();
  const database = await openMemoryStore({ disk, clock: scheduler.clock(), random: scheduler.random, member: 't-0-0' });
  const events: CoreEvent[] = [];
  const damaged: unknown[] = [];
  const bodies = new Bodies(database, {
    event: (event) => events.push(event),
    maxMessageBytes: () => 1_000_000,
    damaged: (_id, error) => damaged.push(error),
  });
  return { database, bodies, events, damaged };
}

const openCandidate = (id: string, purpose: 'shadow' | 'copy', sizeBytes: number): EffectOf<'OpenCandidate'> => ({
  kind: 'OpenCandidate',
  id: copyId(id),
  attempt: 1,
  member: PEER,
  purpose,
  envelope: envelopeFor(['x@far.example']),
  state: sharedOf(id, { sizeBytes }),
});

describe('Bodies', () => {
  test.each<[string, 'intake' | 'shadow', boolean]>([
    ['of a front end that had gone before it was looked up', 'intake', false],
    ['of an owner, given up after it was accepted', 'shadow', true],
  ])(
    '16. a second stream of the same id %s leaves the body of the first alone (else no shadow, 451 for good mail)',
    async (_, kind, accepted) => {
      const { bodies, database } = await bodiesOnMemory();
      const first = new InboundStream('M16', 'intake');
      const number = bodies.register(first);
      bodies.accept(number);
      first.handlers?.onChunk(Buffer.from('first half, '));
      const second = new InboundStream('M16', kind);
      const other = bodies.register(second);
      if (accepted) {
        bodies.accept(other);
        second.handlers?.onChunk(Buffer.from('other bytes'));
      }
      second.closed = true;
      bodies.discard(other);
      const stream = new CandidateStream();
      const opened: OutgoingStreamHandlers[] = [];
      bodies.openCandidate(sessionTo(stream, opened), openCandidate('M16', 'shadow', 0));
      stream.credit = 1_000;
      opened[0]?.onOpenOk({ credit: 1_000, maxMessageBytes: 1_000 });
      first.handlers?.onChunk(Buffer.from('second half'));
      const whole = 'first half, second half';
      bodies.endCandidate(copyId('M16'), 1, { ...END, sizeBytes: whole.length });
      for (let turn = 0; turn < 20 && stream.ends.length === 0; turn++) await settled();
      expect(stream.received.toString()).toBe(whole);
      expect(stream.ends).toHaveLength(1);
      const body = bodies.writerOf(number);
      await database.commit([
        { kind: 'commit', facts: factsOf('M16', { digest: body.digest() }), state: stateOf(), body },
      ]);
      const kept: Buffer[] = [];
      for await (const chunk of database.readBody(copyId('M16'))) kept.push(chunk);
      expect(Buffer.concat(kept).toString()).toBe(whole);
      await database.close();
    },
  );

  test('a stored body shorter than its copy says is damage: the candidate is told nothing, the copy is reported', async () => {
    const { bodies, database, events, damaged } = await bodiesOnMemory();
    const body = database.beginBody(copyId('M17'));
    await body.append(Buffer.from('short'));
    await database.commit([
      { kind: 'commit', facts: factsOf('M17', { digest: body.digest() }), state: stateOf(), body },
    ]);
    const stream = new CandidateStream();
    const opened: OutgoingStreamHandlers[] = [];
    bodies.openCandidate(sessionTo(stream, opened), openCandidate('M17', 'copy', 100));
    stream.credit = 1_000;
    opened[0]?.onOpenOk({ credit: 1_000, maxMessageBytes: 1_000 });
    bodies.endCandidate(copyId('M17'), 1, { ...END, sizeBytes: 100 });
    for (let turn = 0; turn < 20 && damaged.length === 0; turn++) await settled();
    expect(damaged).toHaveLength(1);
    expect(stream).toMatchObject({ ends: [], drops: ['body unreadable'] });
    expect(events.map(({ kind }) => kind)).toEqual(['CandidateOpened', 'CandidateRefused']);
    await database.close();
  });

  test.each([
    ['of this try is damage', false, 1],
    ['that was given up is none of a later try of the same message', true, 0],
  ])('a place that cannot be read any more %s', async (_, isGivenUp, reported) => {
    const { bodies, database, events, damaged } = await bodiesOnMemory();
    const first = new InboundStream('M19', 'intake');
    const number = bodies.register(first);
    bodies.accept(number);
    first.handlers?.onChunk(Buffer.from('bytes'));
    const stream = new CandidateStream();
    const opened: OutgoingStreamHandlers[] = [];
    bodies.openCandidate(sessionTo(stream, opened), openCandidate('M19', 'shadow', 0));
    bodies.writerOf(number).read = () => Promise.reject(Object.assign(new Error('missing'), { code: 'DAMAGED' }));
    if (isGivenUp) bodies.accept(bodies.register(new InboundStream('M19', 'intake')));
    stream.credit = 1_000;
    opened[0]?.onOpenOk({ credit: 1_000, maxMessageBytes: 1_000 });
    for (let turn = 0; turn < 20 && stream.drops.length === 0; turn++) await settled();
    expect(stream.drops).toEqual(['body unreadable']);
    expect(events.map(({ kind }) => kind)).toEqual(['CandidateOpened', 'CandidateRefused']);
    expect(damaged).toHaveLength(reported);
    await database.close();
  });

  test('who is given up after its END has left is not dropped: it may hold the copy, and what it answers is heard', async () => {
    const { bodies, database, events } = await bodiesOnMemory();
    bodies.accept(bodies.register(new InboundStream('M20', 'intake')));
    const stream = new CandidateStream();
    const opened: OutgoingStreamHandlers[] = [];
    bodies.openCandidate(sessionTo(stream, opened), openCandidate('M20', 'shadow', 0));
    opened[0]?.onOpenOk({ credit: 1_000, maxMessageBytes: 1_000 });
    bodies.endCandidate(copyId('M20'), 1, { ...END, sizeBytes: 0 });
    bodies.dropCandidate(copyId('M20'), 1, 'no answer');
    expect(stream).toMatchObject({ ends: [{ sizeBytes: 0 }], drops: [] });
    const result = {
      id: copyId('M20'),
      epoch: epochOf(B),
      outcome: 'stored',
      digest: END.digest,
      reply: null,
    } as const;
    opened[0]?.onResult(result);
    expect(events.at(-1)).toMatchObject({ kind: 'CandidateResult', id: 'M20', attempt: 1, result });
    await database.close();
  });

  test('a search that is over drops the streams whose END has not left, and forgets the others', async () => {
    const { bodies, database } = await bodiesOnMemory();
    const first = new InboundStream('M18', 'intake');
    bodies.accept(bodies.register(first));
    const stream = new CandidateStream();
    bodies.openCandidate(sessionTo(stream, []), openCandidate('M18', 'shadow', 0));
    bodies.settled(() => true);
    expect(stream.drops).toEqual([]);
    bodies.settled(() => false);
    expect(stream.drops).toEqual(['search over']);
    await database.close();
  });
});
