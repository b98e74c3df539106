/**
 * The wire form of the peer protocol: u32 length | u8 type | u32 stream | payload, big endian; length counts type, stream and payload.
 * Control payloads are JSON objects in UTF-8, CHUNK carries raw bytes, PING and PONG carry nothing. Owns: type numbers, size limits,
 * encoder, incremental decoder. Promise: what decodes is valid field by field; bytes of bodies are never copied, others at most once. Refuses: unknown
 * types, oversize frames (before their payload is read), a stream where none belongs. Fails with `PeerProtocolError`; the decoder is
 * unusable afterwards. docs/internals.md describes the same for people.
 */
import { isUtf8 } from 'node:buffer';
import { assert } from '../platform/assert.ts';
import { object, PeerProtocolError } from './fields.ts';
import type { Frame } from './messages.ts';
import { type JsonFrameKind, payloadOf, readPayload } from './payloads.ts';

/** Protocol versions this code speaks, for `Hello.versions`. */
export const PEER_PROTOCOL_VERSIONS: readonly number[] = [1];
/**
 * The largest frame there is tells the outcome of `MAX_LIST_ITEMS` recipients: their envelope (`MAX_ENVELOPE_BYTES`), 200 characters of reply and about 330
 * bytes of names and numbers each. Together with what may wait before it (peers.ts) it fits into an outbox.
 */
export const MAX_CONTROL_BYTES = 12 * 1_048_576;
export const MAX_CHUNK_BYTES = 65_536;
/** Before the handshake is done a peer gets no more room than a HELLO needs. */
export const MAX_HANDSHAKE_BYTES = 65_536;

export type WireFrame = Frame | { readonly kind: 'PING' } | { readonly kind: 'PONG' };

const HEADER_BYTES = 9;
/** Bytes counted by the length field besides the payload. */
const COUNTED_HEADER_BYTES = 5;

const TYPES = {
  HELLO: 1,
  WELCOME: 2,
  REFUSED: 3,
  CONTACT: 4,
  OPEN: 5,
  'OPEN-OK': 6,
  REFUSE: 7,
  CHUNK: 8,
  CREDIT: 9,
  END: 10,
  DROP: 11,
  RESULT: 12,
  RESOLVE: 13,
  RESOLVED: 14,
  LIST: 15,
  STATE: 16,
  'STATE-ACK': 17,
  CLAIM: 18,
  GRANT: 19,
  GOODBYE: 20,
  PING: 21,
  PONG: 22,
  RESIGN: 23,
  RELEASE: 24,
  'RELEASE-ACK': 25,
  COVER: 26,
  COVERED: 27,
  FETCH: 28,
} as const satisfies Record<WireFrame['kind'], number>;

const KINDS: readonly (WireFrame['kind'] | undefined)[] = ((): (WireFrame['kind'] | undefined)[] => {
  const kinds: (WireFrame['kind'] | undefined)[] = [];
  for (const [kind, type] of Object.entries(TYPES)) kinds[type] = kind as WireFrame['kind'];
  return kinds;
})();

const FIRST_STREAM_TYPE = TYPES.OPEN;
const LAST_STREAM_TYPE = TYPES.RESULT;

function header(buffer: Buffer, type: number, stream: number, payloadBytes: number): void {
  buffer.writeUInt32BE(payloadBytes + COUNTED_HEADER_BYTES, 0);
  buffer[4] = type;
  buffer.writeUInt32BE(stream, 5);
}

/** Header of a CHUNK; the payload follows as the caller's own buffer. */
export function encodeChunkHeader(stream: number, payloadBytes: number): Buffer {
  assert(payloadBytes > 0 && payloadBytes <= MAX_CHUNK_BYTES, 'CHUNK of a wrong size', { payloadBytes });
  const out = Buffer.allocUnsafe(HEADER_BYTES);
  header(out, TYPES.CHUNK, stream, payloadBytes);
  return out;
}

/** Null when the payload would exceed `MAX_CONTROL_BYTES`: the caller decides what that means. */
export function encodeControl(frame: Exclude<WireFrame, { readonly kind: 'CHUNK' }>): Buffer | null {
  const stream = 'stream' in frame ? frame.stream : 0;
  if (frame.kind === 'PING' || frame.kind === 'PONG') {
    const out = Buffer.allocUnsafe(HEADER_BYTES);
    header(out, TYPES[frame.kind], 0, 0);
    return out;
  }
  const json = JSON.stringify(payloadOf(frame));
  const payloadBytes = Buffer.byteLength(json);
  if (payloadBytes > MAX_CONTROL_BYTES) return null;
  const out = Buffer.allocUnsafe(HEADER_BYTES + payloadBytes);
  header(out, TYPES[frame.kind], stream, payloadBytes);
  out.write(json, HEADER_BYTES, payloadBytes, 'utf8');
  return out;
}

/** Any frame as buffers to write back to back. */
export function encodeFrame(frame: WireFrame): Buffer[] {
  if (frame.kind === 'CHUNK') return [encodeChunkHeader(frame.stream, frame.bytes.length), frame.bytes];
  const out = encodeControl(frame);
  assert(out !== null, 'control frame too large', { kind: frame.kind });
  return [out];
}

function parseJson(payload: Buffer, kind: string): unknown {
  // Replacement characters would silently change an address.
  if (!isUtf8(payload)) throw new PeerProtocolError(kind, 'payload is not UTF-8');
  try {
    return JSON.parse(payload.toString('utf8')) as unknown;
  } catch (error) {
    throw new PeerProtocolError(
      kind,
      `payload is not JSON (${error instanceof SyntaxError ? 'syntax' : String(error)})`,
    );
  }
}

function decodePayload(kind: Exclude<WireFrame['kind'], 'CHUNK'>, stream: number, payload: Buffer): WireFrame {
  if (kind === 'PING' || kind === 'PONG') return { kind };
  return decodeJson(kind, stream, payload);
}

function decodeJson(kind: JsonFrameKind, stream: number, payload: Buffer): Frame {
  const parsed = parseJson(payload, kind);
  try {
    return readPayload(kind, stream, object(parsed, 'payload'));
  } catch (error) {
    if (error instanceof PeerProtocolError) throw new PeerProtocolError(`${kind} ${error.field}`, error.problem);
    throw error;
  }
}

/**
 * Push bytes as they come, then pull frames until `null`. A CHUNK is handed on as it comes, in as many CHUNKs as it was split over pushes, each a view of
 * what was pushed: TLS cuts it into records anyway, and gathering it cost a buffer outside V8's heap for every 64 KiB. Other payloads that are split are
 * gathered once in a buffer of their exact size (their length was validated first).
 */
export class FrameDecoder {
  #input: Buffer | null = null;
  #at = 0;
  readonly #head = Buffer.alloc(HEADER_BYTES);
  #headBytes = 0;
  #kind: WireFrame['kind'] | null = null;
  #stream = 0;
  #payloadBytes = 0;
  /** Payload being gathered over several pushes. */
  #gathered: Buffer | null = null;
  #gatheredBytes = 0;
  /** Largest control payload accepted now. */
  maxControlBytes = MAX_CONTROL_BYTES;

  /** Every frame of the previous push must have been pulled. */
  push(input: Buffer): void {
    assert(this.#input === null, 'pushed before all frames were pulled');
    if (input.length === 0) return;
    this.#input = input;
    this.#at = 0;
  }

  /** The next whole frame, or null when more bytes are needed. */
  next(): WireFrame | null {
    const input = this.#input;
    if (input === null) return null;
    if (this.#kind === null && !this.#readHeader(input)) return this.#drained();
    const kind = this.#kind;
    if (kind === null) return this.#drained();
    if (kind === 'CHUNK') return this.#readChunk(input);
    const payload = this.#readPayload(input);
    if (payload === null) return this.#drained();
    this.#kind = null;
    this.#headBytes = 0;
    if (this.#at === input.length) this.#input = null;
    return decodePayload(kind, this.#stream, payload);
  }

  #drained(): null {
    this.#input = null;
    return null;
  }

  #readHeader(input: Buffer): boolean {
    const available = input.length - this.#at;
    if (this.#headBytes === 0 && available >= HEADER_BYTES) {
      this.#parseHeader(input, this.#at);
      this.#at += HEADER_BYTES;
      return true;
    }
    const take = Math.min(HEADER_BYTES - this.#headBytes, available);
    input.copy(this.#head, this.#headBytes, this.#at, this.#at + take);
    this.#headBytes += take;
    this.#at += take;
    if (this.#headBytes < HEADER_BYTES) return false;
    this.#parseHeader(this.#head, 0);
    return true;
  }

  #parseHeader(source: Buffer, at: number): void {
    const length = source.readUInt32BE(at);
    const type = source[at + 4] ?? 0;
    const stream = source.readUInt32BE(at + 5);
    const kind = KINDS[type];
    if (kind === undefined) throw new PeerProtocolError('type', `unknown frame type ${type}`);
    const payloadBytes = length - COUNTED_HEADER_BYTES;
    const max = kind === 'CHUNK' ? MAX_CHUNK_BYTES : kind === 'PING' || kind === 'PONG' ? 0 : this.maxControlBytes;
    if (payloadBytes < (kind === 'CHUNK' ? 1 : 0) || payloadBytes > max) {
      throw new PeerProtocolError(`${kind} length`, `${payloadBytes} payload bytes, at most ${max} allowed`);
    }
    const onStream = type >= FIRST_STREAM_TYPE && type <= LAST_STREAM_TYPE;
    if (onStream !== stream > 0) {
      throw new PeerProtocolError(`${kind} stream`, onStream ? 'needs a stream' : 'belongs to no stream');
    }
    this.#kind = kind;
    this.#stream = stream;
    this.#payloadBytes = payloadBytes;
  }

  #readChunk(input: Buffer): WireFrame | null {
    const bytes = input.subarray(this.#at, this.#at + this.#payloadBytes);
    if (bytes.length === 0) return this.#drained();
    this.#at += bytes.length;
    this.#payloadBytes -= bytes.length;
    if (this.#payloadBytes === 0) {
      this.#kind = null;
      this.#headBytes = 0;
    }
    if (this.#at === input.length) this.#input = null;
    return { kind: 'CHUNK', stream: this.#stream, bytes };
  }

  #readPayload(input: Buffer): Buffer | null {
    const available = input.length - this.#at;
    const wanted = this.#payloadBytes;
    if (this.#gathered === null && available >= wanted) {
      const payload = input.subarray(this.#at, this.#at + wanted);
      this.#at += wanted;
      return payload;
    }
    this.#gathered ??= Buffer.allocUnsafeSlow(wanted);
    const take = Math.min(wanted - this.#gatheredBytes, available);
    input.copy(this.#gathered, this.#gatheredBytes, this.#at, this.#at + take);
    this.#gatheredBytes += take;
    this.#at += take;
    if (this.#gatheredBytes < wanted) return null;
    const payload = this.#gathered;
    this.#gathered = null;
    this.#gatheredBytes = 0;
    return payload;
  }
}
