/**
 * A whole peer session that hears anything, for the fuzzer: both ends of the handshake, then whatever the bytes say, in two pieces. Owns: a connection that goes nowhere. Throws
 * when the session throws, goes on after it was closed, or tells its end not once.
 */
import { encodeFrame, type WireFrame } from '../../common/peer/frames.ts';
import { runPeerSession } from '../../common/peer/session.ts';
import type { PeerSession } from '../../common/peer/session-api.ts';
import { silentLogger } from '../../common/platform/log.ts';
import type { Connection, ConnectionHandlers } from '../../common/platform/net.ts';
import { ManualClock } from '../dialog/edge-rig.ts';
import { helloOf, sampleEnd, sampleOpen } from './peer-samples.ts';

const noop = (): void => undefined;

class Nowhere implements Connection {
  readonly remote = { role: 'transport', name: 't-1' } as const;
  readonly remoteAddress = '192.0.2.1';
  handlers: ConnectionHandlers | null = null;
  isOpen = true;
  start(handlers: ConnectionHandlers): void {
    this.handlers = handlers;
  }
  write(): boolean {
    return true;
  }
  readonly pause = noop;
  readonly resume = noop;
  end(): void {
    this.destroy('ended');
  }
  destroy(reason: string): void {
    if (!this.isOpen) return;
    this.isOpen = false;
    this.handlers?.onClose(reason);
  }
}

export const SESSION_SEEDS: readonly (readonly WireFrame[])[] = [
  [
    { kind: 'OPEN', stream: 1, open: sampleOpen },
    { kind: 'CHUNK', stream: 1, bytes: Buffer.from('body') },
    { kind: 'END', stream: 1, end: sampleEnd(4) },
    { kind: 'PING' },
  ],
  [
    { kind: 'OPEN-OK', stream: 2, ok: { credit: 10, maxMessageBytes: 1_000 } },
    { kind: 'CREDIT', stream: 2, bytes: 5 },
    { kind: 'PONG' },
    { kind: 'GOODBYE', reason: 'x' },
  ],
  [
    { kind: 'OPEN', stream: 1, open: sampleOpen },
    { kind: 'DROP', stream: 1, reason: 'x' },
    { kind: 'OPEN', stream: 3, open: sampleOpen },
  ],
];

/** `dialled`: the session spoke first, and has a stream of its own under way. */
export function hearAsPeer(pieces: readonly Buffer[], dialled: boolean): void {
  const connection = new Nowhere();
  const due: (() => void)[] = [];
  const closes: string[] = [];
  const settle = (): void => {
    for (let run = due.shift(); run !== undefined; run = due.shift()) run();
  };
  const stream = { onOpenOk: noop, onCredit: noop, onRefuse: noop, onResult: noop, onLost: noop };
  const session: { made: PeerSession | null } = { made: null };
  runPeerSession({
    ...{ connection, dialled, clock: new ManualClock(), log: silentLogger, defer: (run) => void due.push(run) },
    ...{ keepAliveMs: 1_000, deadAfterMs: 3_000, handshakeTimeoutMs: 2_000, maxIncomingStreams: 3 },
    hello: () => helloOf('transport', 't-0'),
    check: () => ({ kind: 'accept' }),
    handlers: {
      onReady: (made) => {
        session.made = made;
      },
      onControl: noop,
      onStream: (_session, incoming) =>
        incoming.accept(
          { credit: 10, maxMessageBytes: 1_000 },
          { onChunk: (chunk) => incoming.grant(chunk.length), onEnd: noop, onDrop: noop, onLost: noop },
        ),
      onClose: (_session, reason) => void closes.push(reason),
    },
  });
  const greeting: WireFrame = { kind: dialled ? 'WELCOME' : 'HELLO', hello: helloOf('transport', 't-1') };
  for (const piece of [Buffer.concat(encodeFrame(greeting)), ...pieces]) {
    if (connection.isOpen) connection.handlers?.onData(Buffer.from(piece));
    settle();
    if (dialled && connection.isOpen && closes.length === 0 && piece.length > 0 && session.made?.closed === false)
      session.made.openStream(sampleOpen, stream);
  }
  settle();
  if (session.made === null) throw new Error('the handshake failed before anything was wrong');
  connection.destroy('over');
  settle();
  if (closes.length !== 1) throw new Error(`the end of the session was told ${closes.length} times`);
}
