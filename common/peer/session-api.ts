/**
 * What the programs see of one peer connection (`session.ts` implements it over a `Connection`, identical in production and in
 * the simulator). Owns: handshake, frame order, stream credit, keep-alive, batching of frames per tick, bounded buffers.
 * A peer that speaks wrongly is dropped with a reason; nothing it sent in that frame has an effect.
 */
import type { PeerName } from '../platform/net.ts';
import type { ControlFrame, End, Hello, Open, OpenOk, Refuse, Result } from './messages.ts';

/** Callbacks of a stream we opened. After `onRefuse`, `onResult` or `onLost` none other follows. */
export interface OutgoingStreamHandlers {
  onOpenOk(ok: OpenOk): void;
  /** Credit grew from too little to something; `credit` tells how much may be sent now. */
  onCredit(): void;
  onRefuse(refuse: Refuse): void;
  onResult(result: Result): void;
  /** The connection ended first. */
  onLost(reason: string): void;
}

export interface OutgoingStream {
  /** Payload bytes that may be sent now; 0 before OPEN-OK. */
  readonly credit: number;
  /** Sends at most `credit` bytes; asserts otherwise. Large buffers are cut into frames of 64 KiB. */
  chunk(bytes: Buffer): void;
  end(end: End): void;
  /** Gives up before END; the receiver forgets the stream. */
  drop(reason: string): void;
}

/** Callbacks of a stream the peer opened. */
export interface IncomingStreamHandlers {
  onChunk(bytes: Buffer): void;
  onEnd(end: End): void;
  onDrop(reason: string): void;
  /** The connection ended before RESULT or REFUSE was sent. */
  onLost(reason: string): void;
}

export interface IncomingStream {
  readonly open: Open;
  readonly remote: PeerName;
  /** Exactly one of `accept` and `refuse` first. */
  accept(ok: OpenOk, handlers: IncomingStreamHandlers): void;
  /** Also allowed after `accept` and before END arrived: the stream is over, later chunks are discarded. */
  refuse(refuse: Refuse): void;
  /** The receiver has consumed `bytes`: the opener may send as many more. */
  grant(bytes: number): void;
  result(result: Result): void;
  /** True once REFUSE, RESULT, DROP or the end of the connection closed it. */
  readonly closed: boolean;
}

export interface PeerSession {
  readonly remote: PeerName;
  /** The verified HELLO/WELCOME of the other side. */
  readonly hello: Hello;
  /** Negotiated protocol version. */
  readonly version: number;
  /** True when this side dialled. */
  readonly dialled: boolean;
  /** Queued and flushed once per tick, in order. */
  send(frame: ControlFrame): void;
  /** The same with what `encodeControl` made: what goes to many sessions is encoded once. */
  sendEncoded(bytes: Uint8Array): void;
  openStream(open: Open, handlers: OutgoingStreamHandlers): OutgoingStream;
  /** Bytes queued to the socket and not yet taken by the OS. */
  readonly queuedBytes: number;
  /** Bytes of `send` and `sendEncoded` the other side is not known to have read: what comes next is read behind them. Below 64 KiB also when it has read all. */
  readonly unheardBytes: number;
  /** Says GOODBYE, flushes, closes. */
  close(reason: string): void;
  readonly closed: boolean;
}

/** How the reason of `onClose` begins when the other side did not accept our HELLO or WELCOME; its own reason follows. */
export const REFUSED_BY_PEER = 'refused by the peer: ';

export interface PeerSessionHandlers {
  /** The handshake is complete. */
  onReady(session: PeerSession): void;
  onControl(session: PeerSession, frame: ControlFrame): void;
  onStream(session: PeerSession, stream: IncomingStream): void;
  /** Exactly once; also when the handshake failed (`session` is then null). */
  onClose(session: PeerSession | null, reason: string): void;
}

/** Decides about the other side's HELLO; a string is the reason of a REFUSED. */
export type HelloCheck = (
  hello: Hello,
  remote: PeerName,
) => { readonly kind: 'accept' } | { readonly kind: 'refuse'; readonly reason: string; readonly detail: string };
