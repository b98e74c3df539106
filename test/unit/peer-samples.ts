/** Values for tests of the peer protocol: one plain sample per thing, and fast-check arbitraries of every frame. */
import fc from 'fast-check';
import type {
  CopyId,
  Envelope,
  EnvelopeRecipient,
  Epoch,
  Identity,
  RecipientState,
  Reply,
  SharedState,
} from '../../common/message.ts';
import type { WireFrame } from '../../common/peer/frames.ts';
import type { Contact, End, Hello, Open, Refuse, Result, TrackingEvent } from '../../common/peer/messages.ts';

export const sampleIdentity = '01HZZZZZZZZZZZZZZZZZZZZZZA' as Identity;
export const sampleId = '01HZZZZZZZZZZZZZZZZZZZZZZB' as CopyId;
export const sampleEpoch: Epoch = { try: 1, term: 0, owner: sampleIdentity };
export const sampleDigest = 'a'.repeat(64);

export const sampleEnvelope: Envelope = {
  reversePath: 'alice@example.org',
  recipients: [{ address: 'bob@example.com', notify: 'FAILURE' }, { address: 'Carol@example.com' }],
  body: '8BITMIME',
  smtputf8: false,
  declaredSizeBytes: 4096,
  client: {
    address: '192.0.2.7',
    port: 40_000,
    helo: 'client.example.org',
    protocol: 'ESMTPS',
    tls: { version: 'TLSv1.3', cipher: 'TLS_AES_256_GCM_SHA384' },
    user: null,
  },
  frontend: 'fe-0',
  listener: 'smtp',
  receivedAtMs: 1_700_000_000_000,
};

export const sampleOpen: Open = {
  id: sampleId,
  epoch: sampleEpoch,
  kind: 'intake',
  envelope: sampleEnvelope,
  state: null,
};

export const sampleResult: Result = {
  id: sampleId,
  epoch: sampleEpoch,
  outcome: 'protected',
  digest: sampleDigest,
  reply: null,
};

export const sampleContact: Contact = {
  syncedSequence: 7,
  trustedMs: 1,
  generation: 1,
  hears: ['back'],
  load: { queued: 0, intake: 0, backPressure: 'Normal', accepting: true },
};

export const sampleRefuse: Refuse = { reply: { code: 451, enhanced: '4.3.1', text: 'full' }, tryOther: true };

export const sampleEnd = (sizeBytes: number, digest = sampleDigest): End => ({ sizeBytes, digest, events: [] });

export const helloOf = (role: Hello['role'], name: string, versions: readonly number[] = [1]): Hello => ({
  versions,
  role,
  name,
  cluster: 'mail',
  boundary: role === 'transport' ? 'dag/main' : null,
  database: null,
  seen: null,
  uid: `uid-of-${name}`,
  generation: 1,
});

const token = <T extends string>(): fc.Arbitrary<T> =>
  fc.stringMatching(/^[0-9A-Za-z_-]{1,64}$/).map((value) => value as T);
const copyId = token<CopyId>();
const identity = token<Identity>();
const count = fc.nat({ max: Number.MAX_SAFE_INTEGER });
const ms = fc.double({ min: 0, max: 2 ** 50, noNaN: true }).map((value) => value + 0);
/** Any text without control characters, emoji and lone surrogates included. */
const text = (maxLength = 40): fc.Arbitrary<string> =>
  fc.string({ unit: 'grapheme', maxLength }).map((value) => value.replace(/\p{Cc}/gu, ''));
const name = text(20).map((value) => `n${value}`.slice(0, 40));
const digest = fc.stringMatching(/^[0-9a-f]{64}$/);
const orNull = <T>(inner: fc.Arbitrary<T>): fc.Arbitrary<T | null> => fc.option(inner, { nil: null });
const epoch: fc.Arbitrary<Epoch> = fc.record({ try: count, term: count, owner: identity });
const reply: fc.Arbitrary<Reply> = fc.record({
  code: fc.integer({ min: 200, max: 599 }),
  enhanced: fc.constantFrom('4.4.0', '2.0.0', '5.1.1'),
  text: text(),
});
const standing = fc.constantFrom('intake' as const, 'released' as const);
const verdict = fc.constantFrom(
  'pending' as const,
  'final' as const,
  'aborted' as const,
  'owner' as const,
  'unknown' as const,
);

const envelopeRecipient = fc.record(
  { address: text(), notify: text(), orcpt: text() },
  { requiredKeys: ['address'] },
) as fc.Arbitrary<EnvelopeRecipient>;

const envelope = fc.record(
  {
    reversePath: text(),
    recipients: fc.array(envelopeRecipient, { maxLength: 4 }),
    body: fc.constantFrom('7BIT' as const, '8BITMIME' as const),
    smtputf8: fc.boolean(),
    declaredSizeBytes: orNull(count),
    client: fc.record({
      address: text(),
      port: fc.nat({ max: 65_535 }),
      helo: text(),
      protocol: text(20),
      tls: orNull(fc.record({ version: text(20), cipher: text(20) })),
      user: orNull(text()),
    }),
    frontend: name,
    listener: name,
    receivedAtMs: ms,
    ret: fc.constantFrom('FULL' as const, 'HDRS' as const),
    envid: text(),
  },
  {
    requiredKeys: [
      'reversePath',
      'recipients',
      'body',
      'smtputf8',
      'declaredSizeBytes',
      'client',
      'frontend',
      'listener',
      'receivedAtMs',
    ],
  },
) as fc.Arbitrary<Envelope>;

const recipientState = fc.record(
  {
    address: text(),
    outcome: fc.constantFrom('pending', 'delivered', 'relayed', 'failed', 'expired', 'removed'),
    database: name,
    databaseCopy: name,
    activation: count,
    connector: name,
    atMs: ms,
    reply: text(),
    announced: fc.boolean(),
  },
  { requiredKeys: ['address', 'outcome'] },
) as fc.Arbitrary<RecipientState>;

const sharedState: fc.Arbitrary<SharedState> = fc.record({
  id: copyId,
  ancestor: orNull(copyId),
  kind: fc.constantFrom('message' as const, 'dsn' as const, 'resubmission' as const),
  epoch,
  standing,
  abortedThrough: count,
  digest: orNull(digest),
  sizeBytes: count,
  recipients: orNull(fc.array(recipientState, { maxLength: 3 })),
  final: fc.boolean(),
});

const trackingEvent = fc.record(
  { event: name, atMs: ms, source: name, detail: text() },
  { requiredKeys: ['event', 'atMs', 'source'] },
) as fc.Arbitrary<TrackingEvent>;

const hello: fc.Arbitrary<Hello> = fc.record({
  versions: fc.array(fc.integer({ min: 1, max: 9 }), { maxLength: 4 }),
  role: fc.constantFrom('transport' as const, 'frontend' as const, 'operator' as const),
  name,
  cluster: name,
  boundary: orNull(name),
  database: orNull(
    fc.record({
      identity,
      chain: fc.array(fc.record({ openCounter: count, nonce: token() }), { maxLength: 64 }),
      syncedSequence: count,
    }),
  ),
  seen: orNull(fc.record({ identity, openCounter: count, nonce: token(), syncedSequence: count })),
  uid: name,
  generation: count,
});

const stream = fc.integer({ min: 1, max: 0xffff_ffff });
const one = <K extends string>(kind: K) => fc.constant(kind);
const copyRef = { id: copyId, epoch };

/** One arbitrary per kind, so that each is known to be tried. */
export const frameArbitraries: { readonly [K in WireFrame['kind']]: fc.Arbitrary<Extract<WireFrame, { kind: K }>> } = {
  HELLO: fc.record({ kind: one('HELLO'), hello }),
  WELCOME: fc.record({ kind: one('WELCOME'), hello }),
  REFUSED: fc.record({ kind: one('REFUSED'), reason: text(), detail: text() }),
  CONTACT: fc.record({
    kind: one('CONTACT'),
    contact: fc.record(
      {
        syncedSequence: count,
        trustedMs: ms,
        timeUnknown: fc.boolean(),
        generation: count,
        hears: fc.array(name, { maxLength: 5 }),
        load: fc.record({
          queued: count,
          intake: count,
          backPressure: fc.constantFrom('Normal' as const, 'Medium' as const, 'High' as const),
          accepting: fc.boolean(),
        }),
      },
      { requiredKeys: ['syncedSequence', 'trustedMs', 'generation', 'hears', 'load'] },
    ) as fc.Arbitrary<Contact>,
  }),
  OPEN: fc.record({
    kind: one('OPEN'),
    stream,
    open: fc.record({
      id: copyId,
      epoch,
      kind: fc.constantFrom('intake' as const, 'shadow' as const, 'copy' as const),
      envelope,
      state: orNull(sharedState),
    }),
  }),
  'OPEN-OK': fc.record({
    kind: one('OPEN-OK'),
    stream,
    ok: fc.record({ credit: fc.nat({ max: 0xffff_ffff }), maxMessageBytes: count }),
  }),
  REFUSE: fc.record({ kind: one('REFUSE'), stream, refuse: fc.record({ reply, tryOther: fc.boolean() }) }),
  CHUNK: fc.record({
    kind: one('CHUNK'),
    stream,
    bytes: fc.uint8Array({ minLength: 1, maxLength: 65_536, size: 'max' }).map((value) => Buffer.from(value)),
  }),
  CREDIT: fc.record({ kind: one('CREDIT'), stream, bytes: fc.integer({ min: 1, max: 0xffff_ffff }) }),
  END: fc.record({
    kind: one('END'),
    stream,
    end: fc.record({ sizeBytes: count, digest, events: fc.array(trackingEvent, { maxLength: 3 }) }),
  }),
  DROP: fc.record({ kind: one('DROP'), stream, reason: text() }),
  RESULT: fc.record({
    kind: one('RESULT'),
    stream,
    result: fc.record({
      ...copyRef,
      outcome: fc.constantFrom('stored', 'protected', 'unprotected', 'refused', 'owned', 'silent') as fc.Arbitrary<
        Result['outcome']
      >,
      digest: orNull(digest),
      reply: orNull(reply),
    }),
  }),
  RESOLVE: fc.record({
    kind: one('RESOLVE'),
    resolve: fc.record({ id: copyId, through: count, deadlineMs: ms }),
  }),
  RESOLVED: fc.record({
    kind: one('RESOLVED'),
    resolved: fc.record({
      id: copyId,
      through: count,
      answer: fc.constantFrom('aborted' as const, 'owned' as const, 'unknown' as const, 'open' as const),
      epoch: orNull(epoch),
      digest: orNull(digest),
    }),
  }),
  LIST: fc.record({
    kind: one('LIST'),
    list: fc.record({
      owner: identity,
      items: fc.array(fc.record({ ...copyRef, standing }), { maxLength: 5 }),
      complete: fc.boolean(),
    }),
  }),
  STATE: fc.record({ kind: one('STATE'), state: fc.record({ id: copyId, verdict, state: orNull(sharedState) }) }),
  'STATE-ACK': fc.record({
    kind: one('STATE-ACK'),
    ack: fc.record({
      ...copyRef,
      effect: fc.constantFrom('merged' as const, 'moved' as const, 'removed' as const, 'unknown' as const),
    }),
  }),
  CLAIM: fc.record({
    kind: one('CLAIM'),
    claim: fc.record({ items: fc.array(fc.record(copyRef), { maxLength: 5 }) }),
  }),
  GRANT: fc.record({
    kind: one('GRANT'),
    grant: fc.record({
      items: fc.array(fc.record({ id: copyId, granted: fc.boolean(), verdict, state: orNull(sharedState) }), {
        maxLength: 3,
      }),
    }),
  }),
  RESIGN: fc.record({ kind: one('RESIGN'), resign: fc.record({ id: copyId, state: sharedState }) }),
  RELEASE: fc.record({ kind: one('RELEASE'), release: fc.record(copyRef) }),
  'RELEASE-ACK': fc.record({ kind: one('RELEASE-ACK'), released: fc.record(copyRef) }),
  COVER: fc.record({
    kind: one('COVER'),
    cover: fc.record({ request: fc.constant('failover-7'), ids: fc.array(copyId, { maxLength: 5 }) }),
  }),
  COVERED: fc.record({
    kind: one('COVERED'),
    covered: fc.record({
      request: fc.constant('failover-7'),
      items: fc.array(fc.record({ id: copyId, covered: fc.boolean() }), { maxLength: 5 }),
    }),
  }),
  FETCH: fc.record({ kind: one('FETCH'), fetch: fc.record({ id: copyId, digest }) }),
  GOODBYE: fc.record({ kind: one('GOODBYE'), reason: text() }),
  PING: fc.record({ kind: one('PING') }),
  PONG: fc.record({ kind: one('PONG') }),
};

export const anyFrame: fc.Arbitrary<WireFrame> = fc.oneof(...Object.values(frameArbitraries));
