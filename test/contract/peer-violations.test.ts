/** What a peer may not say: each is dropped with a reason that both sides hear, and nothing of the wrong frame has an effect. */
import { describe, expect, test } from 'vitest';
import type { WireFrame } from '../../common/peer/frames.ts';
import { sampleContact as contact, sampleEnd as endOf, sampleOpen, sampleResult } from '../unit/peer-samples.ts';
import { HELLO, PeerRig, type RawPeer, recordedStream, WELCOME } from './peer-rig.ts';

describe('a peer that speaks wrongly is dropped with the reason', () => {
  const open = (stream: number): WireFrame => ({ kind: 'OPEN', stream, open: sampleOpen });
  const chunk = (stream: number, bytes: number): WireFrame => ({ kind: 'CHUNK', stream, bytes: Buffer.alloc(bytes) });
  const end = (stream: number, sizeBytes: number): WireFrame => ({ kind: 'END', stream, end: endOf(sizeBytes) });
  const result = (stream: number): WireFrame => ({ kind: 'RESULT', stream, result: sampleResult });
  const openOk = (stream: number): WireFrame => ({
    kind: 'OPEN-OK',
    stream,
    ok: { credit: 10, maxMessageBytes: 1_000 },
  });
  const wrong: readonly (readonly [string, readonly WireFrame[], string])[] = [
    ['CHUNK before OPEN-OK', [open(1), chunk(1, 1)], 'CHUNK: not allowed on a stream that is opening'],
    ['END before OPEN-OK', [open(1), end(1, 0)], 'END: not allowed on a stream that is opening'],
    ['even stream of a dialler', [open(2)], 'OPEN stream: 2 after -1'],
    ['stream again', [open(3), open(3)], 'OPEN stream: 3 after 3'],
    ['lower stream', [open(5), open(3)], 'OPEN stream: 3 after 5'],
    ['CHUNK without OPEN', [chunk(1, 1)], 'CHUNK stream: 1 is not open'],
    ['END without OPEN', [end(1, 0)], 'END stream: 1 is not open'],
    [
      'DROP twice',
      [open(1), { kind: 'DROP', stream: 1, reason: 'x' }, { kind: 'DROP', stream: 1, reason: 'x' }],
      'DROP',
    ],
    ['RESULT for a stream nobody opened', [result(2)], 'RESULT stream: 2 is not open'],
    ['OPEN-OK for a stream of its own', [open(1), openOk(1)], 'OPEN-OK stream: 1 is not open'],
    ['HELLO again', [HELLO], 'HELLO: not allowed after the handshake'],
    ['WELCOME from a dialler', [WELCOME], 'WELCOME: not allowed after the handshake'],
  ];
  test.each(wrong)('%s', async (_name, frames, reason) => {
    const rig = new PeerRig();
    const raw = await rig.rawDialler();
    raw.say(HELLO);
    await rig.until(() => rig.back.session !== null);
    raw.say(...frames);
    await rig.until(() => rig.back.closes.length > 0);
    expect(rig.back.reason).toContain(`protocol error: ${reason}`);
    await rig.until(() => raw.closedReason !== null);
    expect(raw.farewell).toContain(reason);
    expect(rig.back.closes).toHaveLength(1);
  });

  const onAccepted: readonly (readonly [string, readonly WireFrame[], string])[] = [
    ['CHUNK over credit', [chunk(1, 11)], 'CHUNK: 11 bytes with a credit of 10'],
    ['CHUNK over what is left of credit', [chunk(1, 6), chunk(1, 6)], 'CHUNK: 6 bytes with a credit of 4'],
    ['END with another size', [chunk(1, 5), end(1, 6)], 'END sizeBytes: says 6, 5 bytes came'],
    ['CHUNK after END', [end(1, 0), chunk(1, 1)], 'CHUNK: not allowed on a stream that is ended'],
    ['END twice', [end(1, 0), end(1, 0)], 'END: not allowed on a stream that is ended'],
    ['DROP after END', [end(1, 0), { kind: 'DROP', stream: 1, reason: 'x' }], 'DROP: not allowed'],
  ];
  test.each(onAccepted)('%s', async (_name, frames, reason) => {
    const rig = new PeerRig();
    rig.back.onStream = (stream) =>
      stream.accept(
        { credit: 10, maxMessageBytes: 1_000 },
        { onChunk: () => undefined, onEnd: () => undefined, onDrop: () => undefined, onLost: () => undefined },
      );
    const raw = await rig.rawDialler();
    raw.say(HELLO, open(1));
    await rig.until(() => raw.frames.some((frame) => frame.kind === 'OPEN-OK'));
    raw.say(...frames);
    await rig.until(() => rig.back.closes.length > 0);
    expect(rig.back.reason).toContain(reason);
  });

  const toOpener: readonly (readonly [string, readonly WireFrame[], string])[] = [
    ['RESULT before OPEN-OK', [result(1)], 'RESULT: not allowed on a stream that is opening'],
    ['CREDIT before OPEN-OK', [{ kind: 'CREDIT', stream: 1, bytes: 1 }], 'CREDIT: not allowed'],
    ['OPEN-OK twice', [openOk(1), openOk(1)], 'OPEN-OK: not allowed on a stream that is open'],
    ['RESULT before END', [openOk(1), result(1)], 'RESULT: not allowed on a stream that is open'],
    ['credit beyond 4 GiB', [openOk(1), { kind: 'CREDIT', stream: 1, bytes: 0xffff_ffff }], 'CREDIT bytes'],
    ['odd stream of an acceptor', [open(7)], 'OPEN stream: 7 after 0'],
    ['REFUSED after WELCOME', [{ kind: 'REFUSED', reason: 'x', detail: '' }], 'REFUSED: not allowed'],
  ];
  test.each(toOpener)('%s', async (_name, frames, reason) => {
    const rig = new PeerRig();
    const raw = await rig.rawAcceptor();
    raw.say(WELCOME);
    await rig.until(() => rig.front.session !== null);
    const handlers = recordedStream();
    rig.front.ready.openStream(sampleOpen, handlers);
    raw.say(...frames);
    await rig.until(() => rig.front.closes.length > 0);
    expect(rig.front.reason).toContain(reason);
    expect(handlers.calls.at(-1)).toContain('lost protocol error');
  });

  test('RESULT twice', async () => {
    const rig = new PeerRig();
    const raw = await rig.rawAcceptor();
    raw.say(WELCOME);
    await rig.until(() => rig.front.session !== null);
    const handlers = recordedStream();
    const out = rig.front.ready.openStream(sampleOpen, handlers);
    raw.say(openOk(1));
    await rig.until(() => handlers.calls.length > 0);
    out.end(endOf(0));
    await rig.until(() => raw.frames.some((frame) => frame.kind === 'END'));
    raw.say(result(1), result(1));
    await rig.until(() => rig.front.closes.length > 0);
    expect(rig.front.reason).toContain('RESULT stream: 1 is not open');
    expect(handlers.calls).toEqual(['ok 10', 'result protected']);
  });

  const first = async (say: (raw: RawPeer) => void): Promise<{ rig: PeerRig; raw: RawPeer }> => {
    const rig = new PeerRig();
    const raw = await rig.rawDialler();
    say(raw);
    await rig.until(() => rig.back.closes.length > 0 && raw.closedReason !== null);
    expect(rig.back.closes[0]?.ready).toBe(false);
    return { rig, raw };
  };

  test('anything but HELLO first', async () => {
    const { raw } = await first((peer) => peer.say({ kind: 'CONTACT', contact }));
    expect(raw.farewell).toBe('ProtocolError: CONTACT: not allowed before the handshake is done');
  });

  test('another protocol', async () => {
    const { raw } = await first((peer) => peer.sayBytes(Buffer.from('EHLO client.example.org\r\n')));
    expect(raw.farewell).toContain('ProtocolError: type: unknown frame type 32');
  });

  test('a HELLO larger than a handshake needs is refused before it is read', async () => {
    const { raw } = await first((peer) => peer.sayBytes(Buffer.from([0, 2, 0, 0, 1, 0, 0, 0, 0])));
    expect(raw.farewell).toContain('ProtocolError: HELLO length');
  });
});
