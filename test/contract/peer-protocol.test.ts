/** The peer protocol between two sessions over the simulated network: streams, end, keep-alive, bounds. */
import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import type { CopyId } from '../../common/message.ts';
import { MAX_CONTROL_BYTES } from '../../common/peer/frames.ts';
import type { IncomingStream, PeerSession } from '../../common/peer/session-api.ts';
import type { Connection, ConnectionHandlers } from '../../common/platform/net.ts';
import { SeededRandom } from '../sim/scheduler.ts';
import {
  sampleContact as contact,
  sampleEnd as endOf,
  helloOf,
  sampleRefuse as refuseWith,
  sampleId,
  sampleOpen,
  sampleResult,
} from '../unit/peer-samples.ts';
import { HELLO, PeerRig, recordedStream, WELCOME } from './peer-rig.ts';

describe('a stream', () => {
  const accepted = async (rig: PeerRig, credit: number) => {
    const got: Buffer[] = [];
    const events: string[] = [];
    const handlers = recordedStream();
    rig.back.onStream = (stream) =>
      stream.accept(
        { credit, maxMessageBytes: 1_000_000 },
        {
          onChunk: (bytes) => got.push(bytes),
          onEnd: (end) => events.push(`end ${end.sizeBytes}`),
          onDrop: (reason) => events.push(`drop ${reason}`),
          onLost: (reason) => events.push(`lost ${reason}`),
        },
      );
    const out = rig.front.ready.openStream(sampleOpen, handlers);
    await rig.until(() => handlers.calls.length > 0);
    const incoming = rig.back.streams[0];
    if (incoming === undefined) throw new Error('no stream');
    return { got, events, handlers, out, incoming };
  };

  test('carries a body and its result', async () => {
    const rig = new PeerRig();
    await rig.ready();
    const s = await accepted(rig, 100);
    expect(s.out.credit).toBe(100);
    s.out.chunk(Buffer.from('hello'));
    expect(s.out.credit).toBe(95);
    s.out.end(endOf(5));
    await rig.until(() => s.events.length > 0);
    expect(Buffer.concat(s.got).toString()).toBe('hello');
    s.incoming.result(sampleResult);
    expect(s.incoming.closed).toBe(true);
    await rig.until(() => s.handlers.calls.length > 1);
    expect(s.handlers.calls).toEqual(['ok 100', 'result protected']);
    expect(s.incoming.open).toEqual(sampleOpen);
    expect(s.incoming.remote).toEqual({ role: 'frontend', name: 'front' });
    // Over means over: nothing more is told, also when the connection ends.
    rig.front.ready.close('done');
    await rig.until(() => rig.back.closes.length > 0);
    expect(s.handlers.calls).toHaveLength(2);
    expect(s.events).toEqual(['end 5']);
  });

  test('credit: the opener cannot exceed it, grants of one tick arrive as one', async () => {
    const rig = new PeerRig();
    await rig.ready();
    const s = await accepted(rig, 10);
    expect(() => s.out.chunk(Buffer.alloc(11))).toThrow('beyond credit');
    s.out.chunk(Buffer.alloc(10));
    expect(() => s.out.chunk(Buffer.alloc(1))).toThrow('beyond credit');
    await rig.until(() => s.got.length > 0);
    s.incoming.grant(4);
    s.incoming.grant(6);
    await rig.until(() => s.handlers.calls.includes('credit'));
    expect(s.out.credit).toBe(10);
    expect(s.handlers.calls).toEqual(['ok 10', 'credit']);
    // Said when half of the window is left, not before; enough for a body of any size.
    let sent = 10;
    const passOn = async (bytes: number): Promise<void> => {
      s.out.chunk(Buffer.alloc(bytes));
      sent += bytes;
      await rig.until(() => Buffer.concat(s.got).length === sent);
      s.incoming.grant(bytes);
      await rig.pass(100);
    };
    await passOn(4);
    expect(s.out.credit).toBe(6);
    await passOn(1);
    expect(s.out.credit).toBe(10);
    while (sent < 1000) await passOn(s.out.credit);
  });

  test('a large buffer is cut into frames of at most 64 KiB', async () => {
    const rig = new PeerRig();
    await rig.ready();
    const s = await accepted(rig, 200_000);
    s.out.chunk(Buffer.alloc(200_000, 7));
    s.out.end(endOf(200_000));
    await rig.until(() => s.events.length > 0);
    // Each comes in as many pieces as the network made of it.
    expect(s.got.filter((piece) => piece.length > 65_536)).toEqual([]);
    expect(Buffer.concat(s.got).equals(Buffer.alloc(200_000, 7))).toBe(true);
  });

  test('refused before accept: the opener hears it once, the connection stays', async () => {
    const rig = new PeerRig();
    await rig.ready();
    rig.back.onStream = (stream) => stream.refuse(refuseWith);
    const handlers = recordedStream();
    const out = rig.front.ready.openStream(sampleOpen, handlers);
    await rig.pass(100);
    expect(handlers.calls).toEqual(['refuse 451 full']);
    out.chunk(Buffer.from('too late, harmless'));
    out.drop('too late, harmless');
    await rig.pass(100);
    expect(rig.back.closes).toEqual([]);
  });

  test('refused while the body is on its way: frames in flight are tolerated', async () => {
    const rig = new PeerRig();
    await rig.ready();
    const s = await accepted(rig, 100_000);
    s.incoming.refuse(refuseWith);
    s.out.chunk(Buffer.alloc(50_000));
    s.out.chunk(Buffer.alloc(50_000));
    s.out.end(endOf(100_000));
    await rig.pass(100);
    expect(s.handlers.calls).toEqual(['ok 100000', 'refuse 451 full']);
    expect(s.got).toEqual([]);
    expect(s.events).toEqual([]);
    expect([rig.front.closes, rig.back.closes]).toEqual([[], []]);
  });

  test('dropped by the opener while OPEN-OK or CREDIT cross', async () => {
    const rig = new PeerRig();
    await rig.ready();
    const s = await accepted(rig, 10);
    s.out.drop('client vanished');
    s.incoming.grant(5);
    await rig.pass(100);
    expect(s.events).toEqual(['drop client vanished']);
    expect(s.handlers.calls).toEqual(['ok 10']);
    const early = rig.front.ready.openStream(sampleOpen, s.handlers);
    early.drop('at once');
    await rig.pass(100);
    expect(s.events).toEqual(['drop client vanished', 'drop at once']);
    expect([rig.front.closes, rig.back.closes]).toEqual([[], []]);
    s.incoming.result(sampleResult);
    s.incoming.refuse(refuseWith);
    await rig.pass(100);
    expect([rig.front.closes, rig.back.closes]).toEqual([[], []]);
  });

  test('dropped before it was accepted: accept learns it', async () => {
    const rig = new PeerRig();
    await rig.ready();
    const out = rig.front.ready.openStream(sampleOpen, recordedStream());
    await rig.until(() => rig.back.streams.length > 0);
    out.drop('changed my mind');
    const stream = rig.back.streams[0] as IncomingStream;
    await rig.until(() => stream.closed);
    const drops: string[] = [];
    const handlers = { onChunk: () => undefined, onEnd: () => undefined, onLost: () => undefined };
    stream.accept({ credit: 1, maxMessageBytes: 1 }, { ...handlers, onDrop: (reason) => drops.push(reason) });
    await rig.pass(10);
    expect(drops).toEqual(['changed my mind']);
    expect(rig.front.closes).toEqual([]);
  });

  test('more streams than allowed are refused with "try another"; an ended one makes room', async () => {
    const rig = new PeerRig();
    await rig.ready({ back: { maxIncomingStreams: 2 } });
    const handlers = recordedStream();
    for (let i = 0; i < 3; i++) rig.front.ready.openStream(sampleOpen, handlers);
    await rig.pass(50);
    expect(handlers.calls).toEqual(['refuse 451 too many messages at once']);
    rig.back.streams[0]?.refuse(refuseWith);
    rig.front.ready.openStream(sampleOpen, handlers);
    await rig.pass(50);
    expect(rig.back.streams).toHaveLength(3);
  });

  test('REFUSE is answered with DROP, DROP with REFUSE: neither side keeps a closed stream', async () => {
    const opening = new PeerRig();
    const acceptor = await opening.rawAcceptor();
    acceptor.say(WELCOME);
    await opening.until(() => opening.front.session !== null);
    opening.front.ready.openStream(sampleOpen, recordedStream());
    acceptor.say({ kind: 'REFUSE', stream: 1, refuse: refuseWith });
    await opening.until(() => acceptor.frames.some((frame) => frame.kind === 'DROP'));

    const receiving = new PeerRig();
    const dialler = await receiving.rawDialler();
    dialler.say(HELLO, { kind: 'OPEN', stream: 1, open: sampleOpen }, { kind: 'DROP', stream: 1, reason: 'x' });
    await receiving.until(() => dialler.frames.some((frame) => frame.kind === 'REFUSE'));
  });

  test('a peer that never answers REFUSE is dropped before its streams pile up', async () => {
    const rig = new PeerRig();
    const raw = await rig.rawDialler({ maxIncomingStreams: 1 });
    raw.say(HELLO);
    for (let i = 0; i < 1_100; i++) raw.say({ kind: 'OPEN', stream: 2 * i + 1, open: sampleOpen });
    await rig.until(() => rig.back.closes.length > 0);
    expect(rig.back.reason).toContain('too many refused streams');
    expect(rig.back.streams).toHaveLength(1);
  });

  test('an envelope that fits no frame is refused here, without harm to the connection', async () => {
    const rig = new PeerRig();
    await rig.ready();
    const length = Math.ceil(MAX_CONTROL_BYTES / 120);
    const recipients = Array.from({ length }, (_, i) => ({ address: `${'x'.repeat(120)}${i}@example.org` }));
    const handlers = recordedStream();
    rig.front.ready.openStream({ ...sampleOpen, envelope: { ...sampleOpen.envelope, recipients } }, handlers);
    await rig.pass(50);
    expect(handlers.calls).toEqual(['refuse 452 envelope too large']);
    expect(rig.back.streams).toEqual([]);
    expect(rig.back.closes).toEqual([]);
  });
});

describe('the end of a connection', () => {
  test('every open stream and the session are told exactly once, on both sides', async () => {
    for (const how of ['close', 'reset', 'die'] as const) {
      const rig = new PeerRig();
      await rig.ready();
      const lost: string[] = [];
      rig.back.onStream = (stream) =>
        stream.accept(
          { credit: 10, maxMessageBytes: 10 },
          {
            onChunk: () => undefined,
            onEnd: () => undefined,
            onDrop: () => undefined,
            onLost: (reason) => lost.push(reason),
          },
        );
      const handlers = recordedStream();
      for (let i = 0; i < 3; i++) rig.front.ready.openStream(sampleOpen, handlers);
      const back = recordedStream();
      await rig.until(() => handlers.calls.length === 3);
      rig.back.ready.openStream(sampleOpen, back);
      if (how === 'close') rig.front.ready.close('shutting down');
      if (how === 'reset') rig.network.reset('front', 'back');
      if (how === 'die') {
        rig.frontLife.alive = false;
        rig.network.reap();
      }
      await rig.pass(500);
      expect(lost).toHaveLength(3);
      expect(back.calls.filter((call) => call.startsWith('lost'))).toHaveLength(1);
      expect(rig.back.closes).toHaveLength(1);
      expect(rig.back.ready.closed).toBe(true);
      if (how === 'die') continue;
      expect(handlers.calls.filter((call) => call.startsWith('lost'))).toHaveLength(3);
      expect(rig.front.closes).toHaveLength(1);
      if (how === 'close') expect(rig.back.reason).toBe('closed by the peer: shutting down');
    }
  });

  test('after the end calls are harmless and new streams are lost at once', async () => {
    const rig = new PeerRig();
    await rig.ready();
    const session = rig.front.ready;
    session.close('bye');
    session.close('again');
    session.send({ kind: 'CONTACT', contact });
    const handlers = recordedStream();
    expect(session.openStream(sampleOpen, handlers).credit).toBe(0);
    expect(handlers.calls).toEqual([]);
    await rig.pass(100);
    expect(handlers.calls).toEqual(['lost the connection is closed']);
    expect(rig.front.closes).toHaveLength(1);
  });

  test('what was said before close arrives', async () => {
    const rig = new PeerRig();
    await rig.ready();
    for (let i = 0; i < 50; i++) rig.front.ready.send({ kind: 'CONTACT', contact });
    rig.front.ready.close('bye');
    await rig.until(() => rig.back.closes.length > 0);
    expect(rig.back.control).toHaveLength(50);
  });
});

describe('keep-alive', () => {
  test('an idle connection lives on PINGs', async () => {
    const rig = new PeerRig();
    await rig.ready();
    await rig.pass(60_000);
    expect([rig.front.closes, rig.back.closes]).toEqual([[], []]);
    expect(rig.back.control).toEqual([]);
  });

  test('a half-open connection is given up after deadAfterMs', async () => {
    const rig = new PeerRig();
    await rig.ready();
    const since = rig.scheduler.nowMs;
    rig.network.cut('back', 'front', 'a-to-b');
    await rig.until(() => rig.front.closes.length > 0);
    expect(rig.front.reason).toBe('nothing received for 3000 ms');
    expect(rig.scheduler.nowMs - since).toBeLessThan(4_100);
  });

  test('a peer with a longer keep-alive answers our PING in time', async () => {
    const rig = new PeerRig();
    await rig.ready({ back: { keepAliveMs: 100_000, deadAfterMs: 200_000 } });
    await rig.pass(30_000);
    expect(rig.front.closes).toEqual([]);
  });
});

describe('a process that stood still', () => {
  /** The scheduler's clock, which can be made to find itself much later. */
  const stoppable = (rig: PeerRig) => {
    const base = rig.scheduler.clock();
    let missedMs = 0;
    return {
      clock: { ...base, monotonicMs: () => base.monotonicMs() + missedMs },
      standStill: (ms: number): void => {
        missedMs += ms;
      },
    };
  };

  test('reads what came meanwhile before it gives a peer up', async () => {
    const rig = new PeerRig();
    const { clock, standStill } = stoppable(rig);
    await rig.ready({ front: { clock } });
    await rig.pass(2_500);
    standStill(60_000);
    await rig.pass(20_000);
    expect(rig.front.closes).toEqual([]);
  });

  test('gives it up soon after when nothing came', async () => {
    const rig = new PeerRig();
    const { clock, standStill } = stoppable(rig);
    await rig.ready({ front: { clock } });
    rig.network.cut('back', 'front', 'a-to-b');
    standStill(60_000);
    await rig.pass(2_500);
    expect(rig.front.reason).toBe('nothing received for 3000 ms');
  });
});

test('all frames of one tick leave in one write, in order', async () => {
  const rig = new PeerRig();
  const { front, back } = await rig.connections();
  const writes: number[] = [];
  const counting = Object.create(front, {
    write: {
      value: (buffers: readonly Uint8Array[]): boolean => {
        writes.push(buffers.length);
        return front.write(buffers);
      },
    },
    start: { value: (handlers: ConnectionHandlers): void => front.start(handlers) },
  }) as Connection;
  Object.defineProperty(counting, 'remote', { value: front.remote });
  rig.back.run(rig.options(back, false, helloOf('transport', 'back')));
  rig.front.run(rig.options(counting, true, helloOf('frontend', 'front')));
  await rig.until(() => rig.front.session !== null && rig.back.session !== null);
  writes.length = 0;
  for (let i = 0; i < 30; i++) rig.front.ready.send({ kind: 'CONTACT', contact: { ...contact, generation: i } });
  expect(rig.front.ready.queuedBytes).toBeGreaterThan(3_000);
  await rig.until(() => rig.back.control.length === 30);
  expect(writes).toEqual([30]);
  expect(rig.front.ready.queuedBytes).toBe(0);
  expect(rig.back.control.map((frame) => frame.kind === 'CONTACT' && frame.contact.generation)).toEqual(
    Array.from({ length: 30 }, (_, i) => i),
  );
});

describe('bounded memory', () => {
  test('a peer that asks but does not read is dropped at the cap', async () => {
    const rig = new PeerRig(1, { highWaterBytes: 65_536 });
    const raw = await rig.rawDialler();
    raw.say(HELLO);
    await rig.until(() => rig.back.session !== null);
    raw.hold();
    const session = rig.back.ready;
    const hears = Array.from({ length: 1_000 }, (_, i) => `member-${i}-${'x'.repeat(200)}`);
    let sent = 0;
    let peak = 0;
    while (rig.back.closes.length === 0 && sent < 1_000) {
      session.send({ kind: 'CONTACT', contact: { ...contact, hears } });
      sent += 1;
      peak = Math.max(peak, session.queuedBytes);
      await rig.pass(1);
    }
    expect(rig.back.reason).toContain('asks but does not read');
    expect(peak).toBeGreaterThan(8_000_000);
    expect(peak).toBeLessThan(18_000_000);
    expect(session.queuedBytes).toBe(0);
  });
});

test('many interleaved streams both ways, fragmented, arrive intact', async () => {
  for (const seed of [1, 2, 3]) {
    const rig = new PeerRig(seed, { fragmentChance: 0.5, maxLatencyMs: 20, highWaterBytes: 100_000 });
    await rig.ready();
    const random = new SeededRandom(seed);
    const done: string[] = [];
    const receive = (stream: IncomingStream): void => {
      const hash = createHash('sha256');
      let sizeBytes = 0;
      let allowed = random.integer(1, 5_000);
      stream.accept(
        { credit: allowed, maxMessageBytes: 1_000_000 },
        {
          onChunk: (bytes) => {
            allowed -= bytes.length;
            if (allowed < 0) throw new Error('credit exceeded');
            hash.update(bytes);
            sizeBytes += bytes.length;
            const more = random.integer(1, 9_000);
            allowed += more;
            stream.grant(more);
          },
          onEnd: (end) => {
            const digest = hash.digest('hex');
            const outcome = digest === end.digest && sizeBytes === end.sizeBytes ? 'stored' : 'refused';
            stream.result({ ...sampleResult, id: stream.open.id, outcome, digest });
          },
          onDrop: () => undefined,
          onLost: () => undefined,
        },
      );
    };
    rig.back.onStream = receive;
    rig.front.onStream = receive;
    const send = (session: PeerSession, id: string): void => {
      const body = random.bytes(random.integer(0, 40_000));
      let at = 0;
      const pour = (): void => {
        while (at < body.length && out.credit > 0) {
          const piece = body.subarray(at, at + Math.min(out.credit, random.integer(1, 8_000)));
          out.chunk(piece);
          at += piece.length;
        }
        if (at === body.length) {
          at += 1;
          out.end(endOf(body.length, createHash('sha256').update(body).digest('hex')));
        }
      };
      const out = session.openStream(
        { ...sampleOpen, id: id as CopyId },
        {
          onOpenOk: pour,
          onCredit: pour,
          onRefuse: () => done.push(`${id} refused`),
          onResult: (result) => done.push(`${result.id} ${result.outcome}`),
          onLost: (reason) => done.push(`${id} ${reason}`),
        },
      );
    };
    const expected: string[] = [];
    for (let i = 0; i < 60; i++) {
      send(rig.front.ready, `f${i}`);
      send(rig.back.ready, `b${i}`);
      expected.push(`f${i} stored`, `b${i} stored`);
    }
    await rig.until(() => done.length === 120, 60_000);
    expect(done.sort()).toEqual(expected.sort());
  }
});

test('sessions under random resets: each side ends, each stream is told exactly once', async () => {
  for (let seed = 1; seed <= 40; seed++) {
    const rig = new PeerRig(seed, { fragmentChance: 0.4, resetChance: 0.03 });
    await rig.start();
    const ends = new Map<number, number>();
    let opened = 0;
    rig.back.onStream = (stream) => stream.refuse(refuseWith);
    const once = (id: number) => (): void => void ends.set(id, (ends.get(id) ?? 0) + 1);
    for (let round = 0; round < 200 && rig.front.closes.length === 0; round++) {
      if (rig.front.session !== null) {
        const id = opened++;
        rig.front.session.openStream(
          { ...sampleOpen, id: sampleId },
          {
            onOpenOk: () => undefined,
            onCredit: () => undefined,
            onRefuse: once(id),
            onResult: once(id),
            onLost: once(id),
          },
        );
      }
      await rig.pass(2);
    }
    await rig.pass(10_000);
    expect(rig.front.closes.length).toBe(rig.back.closes.length);
    if (rig.front.closes.length > 0) expect([...ends.values()]).toEqual(Array.from({ length: opened }, () => 1));
    expect(ends.size).toBe(opened);
  }
});
