/** Codec of the peer protocol: round trips, fragmentation, hostile bytes, the table of what is refused and under which field name. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { RecipientState, SharedState } from '../../common/message.ts';
import { MAX_LIST_ITEMS, PeerProtocolError } from '../../common/peer/fields.ts';
import {
  encodeControl,
  encodeFrame,
  FrameDecoder,
  MAX_CONTROL_BYTES,
  type WireFrame,
} from '../../common/peer/frames.ts';
import { MAX_ENVELOPE_BYTES } from '../../common/smtp/transaction.ts';
import {
  anyFrame,
  frameArbitraries,
  helloOf,
  sampleDigest,
  sampleEnvelope,
  sampleEpoch,
  sampleId,
  sampleIdentity,
  sampleOpen,
  sampleResult,
} from './peer-samples.ts';

const wire = (frames: readonly WireFrame[]): Buffer => Buffer.concat(frames.flatMap((frame) => encodeFrame(frame)));

const sampleShared: SharedState = {
  ...{ id: sampleId, ancestor: null, kind: 'message', epoch: sampleEpoch, standing: 'released', abortedThrough: 0 },
  ...{ digest: sampleDigest, sizeBytes: 1, recipients: null, final: false },
};

/** Decodes pieces of the given sizes (cycled). */
function decode(bytes: Buffer, sizes: readonly number[]): WireFrame[] {
  const decoder = new FrameDecoder();
  const out: WireFrame[] = [];
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const size = sizes[i % sizes.length] ?? 1;
    decoder.push(Buffer.from(bytes.subarray(at, at + size)));
    at += size;
    for (let frame = decoder.next(); frame !== null; frame = decoder.next()) out.push(frame);
  }
  return out;
}

/** CHUNKs of one stream that follow each other as one: where they are cut is nobody's business. */
function joined(frames: readonly WireFrame[]): WireFrame[] {
  const out: WireFrame[] = [];
  for (const frame of frames) {
    const last = out.at(-1);
    if (frame.kind === 'CHUNK' && last?.kind === 'CHUNK' && last.stream === frame.stream)
      out[out.length - 1] = { ...frame, bytes: Buffer.concat([last.bytes, frame.bytes]) };
    else out.push(frame);
  }
  return out;
}

/** A frame as a broken peer would send it. */
function raw(type: number, stream: number, payload: Buffer | string, length?: number): Buffer {
  const body = typeof payload === 'string' ? Buffer.from(payload) : payload;
  const head = Buffer.alloc(9);
  head.writeUInt32BE(length ?? body.length + 5, 0);
  head[4] = type;
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, body]);
}

function problemOf(bytes: Buffer): string {
  try {
    decode(bytes, [1 << 20]);
  } catch (error) {
    if (error instanceof PeerProtocolError) return error.message;
    throw error;
  }
  return 'accepted';
}

describe('round trip', () => {
  for (const [kind, arbitrary] of Object.entries(frameArbitraries)) {
    test(kind, () => {
      fc.assert(
        fc.property(arbitrary as fc.Arbitrary<WireFrame>, (frame) => {
          expect(decode(wire([frame]), [1 << 20])).toEqual([frame]);
        }),
        { numRuns: kind === 'CHUNK' ? 20 : 60 },
      );
    });
  }

  test('any sequence in any fragments', () => {
    fc.assert(
      fc.property(
        fc.array(anyFrame, { minLength: 1, maxLength: 8 }),
        fc.array(fc.integer({ min: 1, max: 3_000 }), { minLength: 1, maxLength: 20 }),
        (frames, sizes) => {
          expect(joined(decode(wire(frames), sizes))).toEqual(joined(frames));
        },
      ),
      { numRuns: 150 },
    );
  });

  test('byte by byte', () => {
    const frames: WireFrame[] = [
      { kind: 'PING' },
      { kind: 'HELLO', hello: helloOf('transport', 't-0') },
      { kind: 'OPEN', stream: 1, open: sampleOpen },
      { kind: 'CHUNK', stream: 1, bytes: Buffer.from('x'.repeat(300)) },
      { kind: 'PONG' },
    ];
    expect(joined(decode(wire(frames), [1]))).toEqual(frames);
  });

  test('a body comes as it is pushed, and is not copied', () => {
    const bytes = wire([{ kind: 'CHUNK', stream: 7, bytes: Buffer.from('x'.repeat(1_000)) }, { kind: 'PING' }]);
    const decoder = new FrameDecoder();
    const [first, second] = [bytes.subarray(0, 309), bytes.subarray(309)];
    decoder.push(first);
    expect(decoder.next()).toEqual({ kind: 'CHUNK', stream: 7, bytes: first.subarray(9) });
    expect(decoder.next()).toBe(null);
    decoder.push(second);
    const rest = decoder.next();
    expect(rest).toEqual({ kind: 'CHUNK', stream: 7, bytes: second.subarray(0, 700) });
    expect(rest?.kind === 'CHUNK' && rest.bytes.byteOffset).toBe(second.byteOffset);
    expect([decoder.next(), decoder.next()]).toEqual([{ kind: 'PING' }, null]);
  });
});

test('the largest control frame in tiny pieces costs no more than its bytes', () => {
  const items = Array.from({ length: 7_000 }, () => ({
    id: sampleId,
    epoch: sampleEpoch,
    standing: 'released' as const,
  }));
  const frame: WireFrame = { kind: 'LIST', list: { owner: sampleIdentity, items, complete: true } };
  const bytes = wire([frame]);
  expect(bytes.length).toBeGreaterThan(800_000);
  const startedAt = performance.now();
  expect(decode(bytes, [3])).toHaveLength(1);
  // Copying the whole again for every piece would take minutes.
  expect(performance.now() - startedAt).toBeLessThan(5_000);
});

test('a control frame that fits no frame is not encoded', () => {
  expect(encodeControl({ kind: 'GOODBYE', reason: 'x'.repeat(MAX_CONTROL_BYTES) })).toBeNull();
});

test('what became of the most recipients an envelope can have fits a frame, whatever the next hops said', () => {
  const label = 'n'.repeat(63);
  // The shortest addresses leave room for the most recipients; what JSON adds is counted in the envelope as well.
  const each = Math.floor(MAX_ENVELOPE_BYTES / MAX_LIST_ITEMS) - '{"address":""}'.length;
  const recipients: RecipientState[] = Array.from({ length: MAX_LIST_ITEMS }, () => ({
    ...{ address: 'a'.repeat(each), outcome: 'delivered', reply: '€'.repeat(200), announced: true },
    ...{ database: label, databaseCopy: label, connector: label, activation: 1_000, atMs: 1_800_000_000_000 },
  }));
  const state = { ...sampleShared, recipients, final: true };
  const envelope = { ...sampleEnvelope, recipients: recipients.map(({ address }) => ({ address })) };
  const frames: WireFrame[] = [
    { kind: 'STATE', state: { id: sampleId, verdict: 'final', state } },
    { kind: 'OPEN', stream: 1, open: { ...sampleOpen, kind: 'shadow', envelope, state } },
  ];
  expect(decode(wire(frames), [65_536])).toEqual(frames);
});

/** As a newer version of the program may send it: every object has a field that this one does not know. */
function withUnknownFields(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withUnknownFields);
  if (typeof value !== 'object' || value === null) return value;
  const known = Object.entries(value).map(([key, inner]) => [key, withUnknownFields(inner)]);
  return { ...Object.fromEntries(known), addedLater: { by: ['a', 1, null] } };
}

describe('mixed versions', () => {
  test('fields that this version does not know are ignored, in every frame and at every depth', () => {
    const isControl = (frame: WireFrame): boolean => !['CHUNK', 'PING', 'PONG'].includes(frame.kind);
    fc.assert(
      fc.property(anyFrame.filter(isControl), (frame) => {
        const [plain] = encodeFrame(frame);
        if (plain === undefined) throw new Error('a frame without bytes');
        const payload = JSON.stringify(withUnknownFields(JSON.parse(plain.subarray(9).toString('utf8'))));
        expect(payload).toContain('addedLater');
        expect(decode(raw(plain[4] ?? 0, plain.readUInt32BE(5), payload), [1 << 20])).toEqual([frame]);
      }),
      { numRuns: 400 },
    );
  });

  test('fields that an older version does not send have a meaning: the time is known, nothing is held', () => {
    const load = { queued: 0, intake: 0, backPressure: 'Normal', accepting: true };
    const contact = { syncedSequence: 1, trustedMs: 1, generation: 1, hears: [], load };
    expect(decode(raw(4, 0, JSON.stringify(contact)), [1 << 20])).toEqual([{ kind: 'CONTACT', contact }]);
    const refuse = { reply: { code: 451, enhanced: '4.3.1', text: 'full' }, tryOther: true };
    expect(decode(raw(7, 1, JSON.stringify(refuse)), [1 << 20])).toEqual([{ kind: 'REFUSE', stream: 1, refuse }]);
  });

  test('a type of frame that this version does not know ends the connection: it comes under another protocol version only', () => {
    expect(problemOf(raw(99, 0, '{}'))).toBe('type: unknown frame type 99');
  });
});

describe('hostile bytes', () => {
  test('random bytes end in the typed error or wait for more', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 400 }), fc.integer({ min: 1, max: 50 }), (bytes, size) => {
        try {
          decode(Buffer.from(bytes), [size]);
        } catch (error) {
          expect(error).toBeInstanceOf(PeerProtocolError);
        }
      }),
      { numRuns: 3_000 },
    );
  });

  test('a valid frame with one byte changed is valid, refused, or waits', () => {
    fc.assert(
      fc.property(anyFrame, fc.nat(), fc.integer({ min: 1, max: 255 }), (frame, where, flip) => {
        const bytes = wire([frame]);
        const at = where % bytes.length;
        bytes[at] = (bytes[at] ?? 0) ^ flip;
        try {
          decode(bytes, [77]);
        } catch (error) {
          expect(error).toBeInstanceOf(PeerProtocolError);
        }
      }),
      { numRuns: 1_000 },
    );
  });

  test('any JSON as payload of any type is valid or refused', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 20 }), fc.json(), (type, json) => {
        try {
          decode(raw(type, type >= 5 && type <= 12 ? 1 : 0, json), [1 << 20]);
        } catch (error) {
          expect(error).toBeInstanceOf(PeerProtocolError);
        }
      }),
      { numRuns: 2_000 },
    );
  });
});

describe('refused, with the field named', () => {
  const open = (change: object): Buffer => raw(5, 1, JSON.stringify({ ...sampleOpen, ...change }));
  const withEnvelope = (change: object): Buffer => open({ envelope: { ...sampleEnvelope, ...change } });
  const result = (change: object): Buffer => raw(12, 1, JSON.stringify({ ...sampleResult, ...change }));
  const hello = (change: object): Buffer => raw(1, 0, JSON.stringify({ ...helloOf('frontend', 'f'), ...change }));
  const table: readonly (readonly [string, Buffer, string])[] = [
    ['type 0', raw(0, 0, ''), 'type: unknown frame type 0'],
    ['type 29', raw(29, 0, ''), 'type: unknown frame type 29'],
    ['length below the header', raw(21, 0, '', 4), 'PING length'],
    ['PING with payload', raw(21, 0, 'x'), 'PING length'],
    ['empty CHUNK', raw(8, 1, ''), 'CHUNK length'],
    ['CHUNK beyond 64 KiB', raw(8, 1, '', 65_536 + 6), 'CHUNK length'],
    ['control beyond 12 MiB', raw(4, 0, '', 12 * 1_048_576 + 6), 'CONTACT length'],
    ['length 0xffffffff', raw(4, 0, '', 0xffff_ffff), 'CONTACT length'],
    ['stream on CONTACT', raw(4, 1, '{}'), 'CONTACT stream'],
    ['OPEN without stream', raw(5, 0, '{}'), 'OPEN stream'],
    ['not JSON', raw(4, 0, '{'), 'CONTACT: payload is not JSON'],
    ['not UTF-8', raw(4, 0, Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x7d])), 'CONTACT: payload is not UTF-8'],
    ['empty payload', raw(20, 0, ''), 'GOODBYE: payload is not JSON'],
    ['JSON null', raw(20, 0, 'null'), 'GOODBYE payload: must be an object'],
    ['JSON list', raw(20, 0, '[]'), 'GOODBYE payload: must be an object'],
    ['absent field', raw(20, 0, '{}'), 'GOODBYE reason: must be a string'],
    ['id with a path', open({ id: '../x' }), 'OPEN id'],
    ['id too long', open({ id: 'x'.repeat(65) }), 'OPEN id'],
    ['id empty', open({ id: '' }), 'OPEN id'],
    ['negative try', open({ epoch: { ...sampleEpoch, try: -1 } }), 'OPEN epoch.try'],
    ['fraction', open({ epoch: { ...sampleEpoch, term: 1.5 } }), 'OPEN epoch.term'],
    ['unsafe integer', open({ epoch: { ...sampleEpoch, term: 2 ** 53 } }), 'OPEN epoch.term'],
    ['owner empty for a shadow', open({ kind: 'shadow', epoch: { ...sampleEpoch, owner: '' } }), 'OPEN epoch.owner'],
    ['unknown stream kind', open({ kind: 'both' }), 'OPEN kind'],
    ['CRLF in an address', withEnvelope({ reversePath: 'a@b\r\nRCPT TO:<x>' }), 'OPEN envelope.reversePath'],
    ['NUL in a recipient', withEnvelope({ recipients: [{ address: 'a\0@b' }] }), 'OPEN recipients[].address'],
    ['long address', withEnvelope({ reversePath: 'a'.repeat(1_025) }), 'OPEN envelope.reversePath'],
    ['recipients no list', withEnvelope({ recipients: {} }), 'OPEN envelope.recipients'],
    [
      'too many recipients',
      withEnvelope({ recipients: Array.from({ length: 10_001 }, () => ({ address: 'a@b' })) }),
      'OPEN envelope.recipients',
    ],
    ['unknown body', withEnvelope({ body: 'BINARYMIME' }), 'OPEN envelope.body'],
    ['port', withEnvelope({ client: { ...sampleEnvelope.client, port: 65_536 } }), 'OPEN client.port'],
    ['credit 0', raw(9, 1, '{"bytes":0}'), 'CREDIT bytes'],
    ['credit too large', raw(9, 1, '{"bytes":4294967296}'), 'CREDIT bytes'],
    ['digest short', result({ digest: 'ab' }), 'RESULT digest'],
    ['digest upper case', result({ digest: 'A'.repeat(64) }), 'RESULT digest'],
    ['outcome', result({ outcome: 'done' }), 'RESULT outcome'],
    ['reply code', result({ reply: { code: 600, enhanced: '', text: '' } }), 'RESULT reply.code'],
    ['role', hello({ role: 'admin' }), 'HELLO role'],
    ['versions as number', hello({ versions: 1 }), 'HELLO versions'],
    ['version 0', hello({ versions: [0] }), 'HELLO versions[]'],
    ['name empty', hello({ name: '' }), 'HELLO name'],
    ['boundary absent', hello({ boundary: undefined }), 'HELLO boundary'],
    [
      'chain too long',
      hello({
        database: {
          identity: sampleIdentity,
          syncedSequence: 0,
          chain: Array.from({ length: 65 }, () => ({ openCounter: 1, nonce: 'n' })),
        },
      }),
      'HELLO database.chain',
    ],
  ];
  test.each(table)('%s', (_name, bytes, expected) => {
    expect(problemOf(bytes)).toContain(expected);
  });
});

describe('tolerated', () => {
  test('unknown fields of a newer peer are dropped', () => {
    const payload = { ...helloOf('frontend', 'f', [1, 2]), novelty: { deep: [1] }, __proto__x: 1 };
    expect(decode(raw(1, 0, JSON.stringify(payload)), [10])).toEqual([
      { kind: 'HELLO', hello: helloOf('frontend', 'f', [1, 2]) },
    ]);
  });

  test('a foreign reply with line ends is made harmless, not a reason to close', () => {
    const reply = { code: 451, enhanced: '4.3.0', text: 'one\r\n250 two' };
    const [frame] = decode(raw(7, 1, JSON.stringify({ reply, tryOther: true })), [10]);
    expect(frame).toMatchObject({ refuse: { reply: { text: 'one  250 two' } } });
  });

  test('intake may leave the owner to the receiver', () => {
    const open = { ...sampleOpen, epoch: { ...sampleEpoch, owner: '' } };
    expect(decode(raw(5, 1, JSON.stringify(open)), [10])).toHaveLength(1);
  });
});
