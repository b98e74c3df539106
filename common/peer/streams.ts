/**
 * The two ends of a stream. Owns: legal frame order and credit of one message body. Each side ends a stream with exactly one closing
 * frame - the opener with END or DROP, the receiver with RESULT or REFUSE - and a side forgets the stream when both have passed; so
 * frames that crossed a refusal or a drop are told apart from a broken peer. Whoever gets REFUSE before it said END answers DROP,
 * whoever gets DROP answers REFUSE unless it already said it. Fails with `PeerProtocolError` when the peer errs, with an assertion
 * when the program does.
 */
import { assert } from '../platform/assert.ts';
import type { PeerName } from '../platform/net.ts';
import { PeerProtocolError } from './fields.ts';
import { MAX_CHUNK_BYTES } from './frames.ts';
import type { End, Frame, Open, OpenOk, Refuse, Result } from './messages.ts';
import { MAX_CREDIT_BYTES } from './payloads.ts';
import type { IncomingStream, IncomingStreamHandlers, OutgoingStream, OutgoingStreamHandlers } from './session-api.ts';

/** What a stream needs of its session. */
export interface StreamPort {
  readonly remote: PeerName;
  put(frame: Exclude<Frame, { readonly kind: 'CHUNK' }>): void;
  putChunk(stream: number, bytes: Buffer): void;
  defer(callback: () => void): void;
  /** Both closing frames have passed. */
  forget(stream: number): void;
  /** A CREDIT is owed at the end of this tick. */
  owesCredit(stream: IncomingEnd): void;
  /** An incoming stream no longer counts against the limit; after REFUSE it lingers for the opener's closing frame. */
  freed(): void;
}

export type OpenerFrame = Extract<Frame, { readonly kind: 'CHUNK' | 'END' | 'DROP' }>;
export type ReceiverFrame = Extract<Frame, { readonly kind: 'OPEN-OK' | 'REFUSE' | 'CREDIT' | 'RESULT' }>;

const DROPPED: Refuse = { reply: { code: 451, enhanced: '4.3.0', text: 'dropped' }, tryOther: false };

const outOfOrder = (kind: string, state: string): never => {
  throw new PeerProtocolError(kind, `not allowed on a stream that is ${state}`);
};

export class OutgoingEnd implements OutgoingStream {
  readonly id: number;
  readonly #port: StreamPort;
  readonly #handlers: OutgoingStreamHandlers;
  #state: 'opening' | 'open' | 'ended' | 'dropped' | 'closed' = 'opening';
  #accepted = false;
  #credit = 0;
  #sentBytes = 0;

  constructor(id: number, port: StreamPort, handlers: OutgoingStreamHandlers) {
    this.id = id;
    this.#port = port;
    this.#handlers = handlers;
  }

  get credit(): number {
    return this.#state === 'open' ? this.#credit : 0;
  }

  chunk(bytes: Buffer): void {
    if (this.#state === 'dropped' || this.#state === 'closed' || bytes.length === 0) return;
    assert(this.#state === 'open', 'chunk on a stream that is not open', { state: this.#state });
    assert(bytes.length <= this.#credit, 'chunk beyond credit', { bytes: bytes.length, credit: this.#credit });
    this.#credit -= bytes.length;
    this.#sentBytes += bytes.length;
    if (bytes.length <= MAX_CHUNK_BYTES) {
      this.#port.putChunk(this.id, bytes);
      return;
    }
    for (let at = 0; at < bytes.length; at += MAX_CHUNK_BYTES) {
      this.#port.putChunk(this.id, bytes.subarray(at, at + MAX_CHUNK_BYTES));
    }
  }

  end(end: End): void {
    if (this.#state === 'dropped' || this.#state === 'closed') return;
    assert(this.#state === 'open', 'end on a stream that is not open', { state: this.#state });
    assert(end.sizeBytes === this.#sentBytes, 'end with a wrong size', { said: end.sizeBytes, sent: this.#sentBytes });
    this.#state = 'ended';
    this.#port.put({ kind: 'END', stream: this.id, end });
  }

  drop(reason: string): void {
    if (this.#state === 'dropped' || this.#state === 'closed') return;
    assert(this.#state !== 'ended', 'drop after end');
    this.#state = 'dropped';
    this.#port.put({ kind: 'DROP', stream: this.id, reason });
  }

  /** The connection is over. */
  lose(reason: string): void {
    const told = this.#state === 'dropped' || this.#state === 'closed';
    this.#state = 'closed';
    if (!told) this.#handlers.onLost(reason);
  }

  /** OPEN could not even be sent. */
  refuseLocally(refuse: Refuse): void {
    this.#state = 'closed';
    this.#port.defer(() => this.#handlers.onRefuse(refuse));
  }

  receive(frame: ReceiverFrame): void {
    switch (frame.kind) {
      case 'OPEN-OK':
        this.#onOpenOk(frame.ok);
        break;
      case 'CREDIT':
        this.#onCredit(frame.bytes);
        break;
      case 'REFUSE':
        this.#onRefuse(frame.refuse);
        break;
      case 'RESULT':
        this.#onResult(frame.result);
        break;
    }
  }

  #onOpenOk(ok: OpenOk): void {
    if (this.#accepted) outOfOrder('OPEN-OK', this.#state);
    this.#accepted = true;
    if (this.#state === 'dropped') return;
    this.#state = 'open';
    this.#credit = ok.credit;
    this.#handlers.onOpenOk(ok);
  }

  #onCredit(bytes: number): void {
    if (!this.#accepted) outOfOrder('CREDIT', this.#state);
    if (this.#credit + bytes > MAX_CREDIT_BYTES)
      throw new PeerProtocolError('CREDIT bytes', 'more than can be granted');
    this.#credit += bytes;
    if (this.#state === 'open') this.#handlers.onCredit();
  }

  #onRefuse(refuse: Refuse): void {
    const state = this.#state;
    this.#state = 'closed';
    this.#port.forget(this.id);
    if (state === 'dropped') return;
    if (state !== 'ended') this.#port.put({ kind: 'DROP', stream: this.id, reason: 'refused' });
    this.#handlers.onRefuse(refuse);
  }

  #onResult(result: Result): void {
    if (this.#state !== 'ended') outOfOrder('RESULT', this.#state);
    this.#state = 'closed';
    this.#port.forget(this.id);
    this.#handlers.onResult(result);
  }
}

export class IncomingEnd implements IncomingStream {
  readonly id: number;
  readonly open: Open;
  readonly #port: StreamPort;
  #handlers: IncomingStreamHandlers | null = null;
  /** refused: REFUSE is said, the opener's closing frame is still to come. */
  #state: 'opening' | 'open' | 'ended' | 'refused' | 'closed' = 'opening';
  /** Payload bytes the opener may still send. */
  #credit = 0;
  /** Granted, not yet said. */
  #owedCredit = 0;
  /** Left to the opener by what was said: from here on more is said. */
  #lowCredit = 0;
  #owes = false;
  #receivedBytes = 0;
  /** Why it closed before `accept`, told to the handlers that `accept` brings. */
  #missed: ((handlers: IncomingStreamHandlers) => void) | null = null;

  constructor(id: number, open: Open, port: StreamPort) {
    this.id = id;
    this.open = open;
    this.#port = port;
  }

  get remote(): PeerName {
    return this.#port.remote;
  }

  get closed(): boolean {
    return this.#state === 'refused' || this.#state === 'closed';
  }

  accept(ok: OpenOk, handlers: IncomingStreamHandlers): void {
    assert(this.#handlers === null && this.#state !== 'refused', 'stream answered twice');
    this.#handlers = handlers;
    const missed = this.#missed;
    if (missed !== null) {
      this.#port.defer(() => missed(handlers));
      return;
    }
    this.#state = 'open';
    this.#credit = ok.credit;
    this.#lowCredit = ok.credit / 2;
    this.#port.put({ kind: 'OPEN-OK', stream: this.id, ok });
  }

  refuse(refuse: Refuse): void {
    if (this.closed) return;
    assert(this.#state === 'opening' || this.#state === 'open', 'refuse after END', { state: this.#state });
    this.#state = 'refused';
    this.#port.put({ kind: 'REFUSE', stream: this.id, refuse });
    this.#port.freed();
  }

  grant(bytes: number): void {
    if (this.#state !== 'open' || bytes === 0) return;
    assert(Number.isInteger(bytes) && bytes > 0, 'grant of a wrong size', { bytes });
    this.#credit += bytes;
    assert(this.#credit <= MAX_CREDIT_BYTES, 'granted more than the protocol can say', { credit: this.#credit });
    this.#owedCredit += bytes;
    // An opener with half of its window left is in no hurry: a body that fits in that costs no CREDIT at all.
    if (this.#owes || this.#credit - this.#owedCredit > this.#lowCredit) return;
    this.#owes = true;
    this.#port.owesCredit(this);
  }

  /** Sends what `grant` collected; nothing once END made it pointless. */
  payCredit(): void {
    const bytes = this.#owedCredit;
    this.#owedCredit = 0;
    this.#owes = false;
    if (this.#state === 'open' && bytes > 0) this.#port.put({ kind: 'CREDIT', stream: this.id, bytes });
  }

  result(result: Result): void {
    if (this.closed) return;
    assert(this.#state === 'ended', 'result before END', { state: this.#state });
    this.#state = 'closed';
    this.#port.put({ kind: 'RESULT', stream: this.id, result });
    this.#port.freed();
    this.#port.forget(this.id);
  }

  /** The connection is over. */
  lose(reason: string): void {
    const told = this.closed;
    this.#state = 'closed';
    if (!told) this.#tell((handlers) => handlers.onLost(reason));
  }

  receive(frame: OpenerFrame): void {
    switch (frame.kind) {
      case 'CHUNK':
        this.#onChunk(frame.bytes);
        break;
      case 'END':
        this.#onEnd(frame.end);
        break;
      case 'DROP':
        this.#onDrop(frame.reason);
        break;
    }
  }

  #onChunk(bytes: Buffer): void {
    // What was granted before a refusal may still arrive; more may not.
    if (this.#state !== 'open' && this.#state !== 'refused') outOfOrder('CHUNK', this.#state);
    if (bytes.length > this.#credit) {
      throw new PeerProtocolError('CHUNK', `${bytes.length} bytes with a credit of ${this.#credit}`);
    }
    this.#credit -= bytes.length;
    this.#receivedBytes += bytes.length;
    if (this.#state === 'open') this.#handlers?.onChunk(bytes);
  }

  #onEnd(end: End): void {
    if (this.#handlers === null || (this.#state !== 'open' && this.#state !== 'refused')) {
      outOfOrder('END', this.#state);
    }
    if (end.sizeBytes !== this.#receivedBytes) {
      throw new PeerProtocolError('END sizeBytes', `says ${end.sizeBytes}, ${this.#receivedBytes} bytes came`);
    }
    if (this.#state === 'refused') {
      this.#over();
      return;
    }
    this.#state = 'ended';
    this.#handlers?.onEnd(end);
  }

  #onDrop(reason: string): void {
    if (this.#state === 'refused') {
      this.#over();
      return;
    }
    if (this.#state !== 'opening' && this.#state !== 'open') outOfOrder('DROP', this.#state);
    this.#port.put({ kind: 'REFUSE', stream: this.id, refuse: DROPPED });
    this.#port.freed();
    this.#over();
    this.#tell((handlers) => handlers.onDrop(reason));
  }

  #over(): void {
    this.#state = 'closed';
    this.#port.forget(this.id);
  }

  #tell(call: (handlers: IncomingStreamHandlers) => void): void {
    if (this.#handlers === null) this.#missed = call;
    else call(this.#handlers);
  }
}
