/**
 * Readers of the JSON payload of each control frame. Owns: which fields a frame has and what they may hold; rebuilds the value field by
 * field, so nothing unknown passes through (a newer peer may add fields, they are ignored). Fails with `PeerProtocolError`.
 */
import type {
  Envelope,
  EnvelopeRecipient,
  ExpandedRecipient,
  RecipientState,
  ReturnPath,
  SharedState,
} from '../message.ts';
import {
  boolean,
  copyId,
  digest,
  epoch,
  type Fields,
  identity,
  intakeEpoch,
  integer,
  list,
  MAX_LIST_ITEMS,
  milliseconds,
  name,
  nonce,
  nullable,
  object,
  oneOf,
  PeerProtocolError,
  prose,
  reply,
  text,
} from './fields.ts';
import type {
  Claim,
  Contact,
  Cover,
  Covered,
  End,
  Fetch,
  Frame,
  Grant,
  Hello,
  List,
  Open,
  OpenOk,
  Refuse,
  Release,
  ReleaseAck,
  Resign,
  Resolve,
  Resolved,
  Result,
  State,
  StateAck,
  TrackingEvent,
} from './messages.ts';

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

/** RFC 5321 4.5.3.1.3 allows 254 octets; room for what other software sends and for UTF-8. */
const MAX_ADDRESS_LENGTH = 1_024;
/** protocol.md 1: at most the last 64 opens. */
const MAX_CHAIN = 64;
/** Bytes of credit a receiver can have granted at once. */
export const MAX_CREDIT_BYTES = 0xffff_ffff;

const STANDINGS = ['intake', 'released'] as const;
const OUTCOMES = ['pending', 'delivered', 'relayed', 'failed', 'expired', 'removed'] as const;
const VERDICTS = ['pending', 'final', 'aborted', 'owner', 'unknown'] as const;
const RESULTS = ['stored', 'protected', 'unprotected', 'refused', 'owned', 'silent'] as const;
const ANSWERS = ['aborted', 'protected', 'unprotected', 'stored', 'owned', 'final', 'open', 'unknown'] as const;

export function hello(o: Fields): Hello {
  return {
    versions: list(o.versions, 'versions', 64, (item) => integer(item, 'versions[]', 1, 65_535)),
    role: oneOf(['transport', 'frontend', 'operator'], o.role, 'role'),
    name: name(o.name, 'name'),
    cluster: name(o.cluster, 'cluster'),
    boundary: nullable(o.boundary, 'boundary', name),
    database: nullable(o.database, 'database', (value, field) => {
      const d = object(value, field);
      return {
        identity: identity(d.identity, 'database.identity'),
        chain: list(d.chain, 'database.chain', MAX_CHAIN, (item, itemField) => {
          const entry = object(item, itemField);
          return {
            openCounter: integer(entry.openCounter, 'database.chain[].openCounter'),
            nonce: nonce(entry.nonce, 'database.chain[].nonce'),
          };
        }),
        syncedSequence: integer(d.syncedSequence, 'database.syncedSequence'),
      };
    }),
    seen: nullable(o.seen, 'seen', (value, field) => {
      const s = object(value, field);
      return {
        identity: identity(s.identity, 'seen.identity'),
        openCounter: integer(s.openCounter, 'seen.openCounter'),
        nonce: nonce(s.nonce, 'seen.nonce'),
        syncedSequence: integer(s.syncedSequence, 'seen.syncedSequence'),
      };
    }),
    uid: name(o.uid, 'uid'),
    generation: integer(o.generation, 'generation'),
  };
}

export function contact(o: Fields): Contact {
  const load = object(o.load, 'load');
  return {
    syncedSequence: integer(o.syncedSequence, 'syncedSequence'),
    trustedMs: milliseconds(o.trustedMs, 'trustedMs'),
    ...(o.timeUnknown === undefined ? {} : { timeUnknown: boolean(o.timeUnknown, 'timeUnknown') }),
    generation: integer(o.generation, 'generation'),
    hears: list(o.hears, 'hears', 1_000, name),
    load: {
      queued: integer(load.queued, 'load.queued'),
      intake: integer(load.intake, 'load.intake'),
      backPressure: oneOf(['Normal', 'Medium', 'High'], load.backPressure, 'load.backPressure'),
      ...(load.pressedBy === undefined ? {} : { pressedBy: text(load.pressedBy, 'load.pressedBy', 64) }),
      accepting: boolean(load.accepting, 'load.accepting'),
    },
  };
}

function recipient(value: unknown, field: string): EnvelopeRecipient {
  const o = object(value, field);
  const out: Mutable<EnvelopeRecipient> = { address: text(o.address, 'recipients[].address', MAX_ADDRESS_LENGTH) };
  if (o.notify !== undefined) out.notify = text(o.notify, 'recipients[].notify', 64);
  if (o.orcpt !== undefined) out.orcpt = text(o.orcpt, 'recipients[].orcpt', MAX_ADDRESS_LENGTH);
  if (o.returnPath !== undefined) out.returnPath = integer(o.returnPath, 'recipients[].returnPath', 0, MAX_LIST_ITEMS);
  return out;
}

const addresses = (value: unknown, field: string): string[] =>
  list(value, field, MAX_LIST_ITEMS, (item, name) => text(item, name, MAX_ADDRESS_LENGTH));

function returnPath(value: unknown, field: string): ReturnPath {
  const o = object(value, field);
  return {
    address: text(o.address, 'returnPaths[].address', MAX_ADDRESS_LENGTH),
    ...(o.reportsTo === undefined ? {} : { reportsTo: addresses(o.reportsTo, 'returnPaths[].reportsTo') }),
  };
}

function expanded(value: unknown, field: string): ExpandedRecipient {
  const action = oneOf(['expanded', 'delivered'], object(value, field).action, 'expanded[].action');
  return { ...recipient(value, field), action };
}

/** What the front end made of aliases and lists. */
function expansions(o: Fields, out: Mutable<Envelope>): void {
  if (o.reportsTo !== undefined) out.reportsTo = addresses(o.reportsTo, 'envelope.reportsTo');
  if (o.returnPaths !== undefined)
    out.returnPaths = list(o.returnPaths, 'envelope.returnPaths', MAX_LIST_ITEMS, returnPath);
  if (o.expanded !== undefined) out.expanded = list(o.expanded, 'envelope.expanded', MAX_LIST_ITEMS, expanded);
  const last = out.returnPaths?.length ?? 0;
  if (out.recipients.some(({ returnPath: index = -1 }) => index >= last))
    throw new PeerProtocolError('recipients[].returnPath', 'is not in envelope.returnPaths');
}

function envelope(value: unknown, field: string): Envelope {
  const o = object(value, field);
  const c = object(o.client, 'client');
  const out: Mutable<Envelope> = {
    reversePath: text(o.reversePath, 'envelope.reversePath', MAX_ADDRESS_LENGTH),
    recipients: list(o.recipients, 'envelope.recipients', MAX_LIST_ITEMS, recipient),
    body: oneOf(['7BIT', '8BITMIME'], o.body, 'envelope.body'),
    smtputf8: boolean(o.smtputf8, 'envelope.smtputf8'),
    declaredSizeBytes: nullable(o.declaredSizeBytes, 'envelope.declaredSizeBytes', integer),
    client: {
      address: text(c.address, 'client.address', MAX_ADDRESS_LENGTH),
      port: integer(c.port, 'client.port', 0, 65_535),
      helo: prose(c.helo, 'client.helo'),
      protocol: text(c.protocol, 'client.protocol', 64),
      tls: nullable(c.tls, 'client.tls', (tlsValue, tlsField) => {
        const t = object(tlsValue, tlsField);
        return { version: text(t.version, 'client.tls.version', 64), cipher: text(t.cipher, 'client.tls.cipher', 128) };
      }),
      user: nullable(c.user, 'client.user', (user) => text(user, 'client.user', MAX_ADDRESS_LENGTH)),
    },
    frontend: name(o.frontend, 'envelope.frontend'),
    listener: name(o.listener, 'envelope.listener'),
    receivedAtMs: milliseconds(o.receivedAtMs, 'envelope.receivedAtMs'),
  };
  if (o.ret !== undefined) out.ret = oneOf(['FULL', 'HDRS'], o.ret, 'envelope.ret');
  if (o.envid !== undefined) out.envid = text(o.envid, 'envelope.envid', 1_024);
  expansions(o, out);
  return out;
}

function recipientState(value: unknown, field: string): RecipientState {
  const o = object(value, field);
  const out: Mutable<RecipientState> = {
    address: text(o.address, 'recipients[].address', MAX_ADDRESS_LENGTH),
    outcome: oneOf(OUTCOMES, o.outcome, 'recipients[].outcome'),
  };
  if (o.database !== undefined) out.database = name(o.database, 'recipients[].database');
  if (o.databaseCopy !== undefined) out.databaseCopy = name(o.databaseCopy, 'recipients[].databaseCopy');
  if (o.activation !== undefined) out.activation = integer(o.activation, 'recipients[].activation');
  if (o.connector !== undefined) out.connector = name(o.connector, 'recipients[].connector');
  if (o.atMs !== undefined) out.atMs = milliseconds(o.atMs, 'recipients[].atMs');
  if (o.reply !== undefined) out.reply = prose(o.reply, 'recipients[].reply');
  if (o.announced !== undefined) out.announced = boolean(o.announced, 'recipients[].announced');
  return out;
}

function sharedState(value: unknown, field: string): SharedState {
  const o = object(value, field);
  return {
    id: copyId(o.id, 'state.id'),
    ancestor: nullable(o.ancestor, 'state.ancestor', copyId),
    kind: oneOf(['message', 'dsn', 'resubmission'], o.kind, 'state.kind'),
    epoch: epoch(o.epoch, 'state.epoch'),
    standing: oneOf(STANDINGS, o.standing, 'state.standing'),
    abortedThrough: integer(o.abortedThrough, 'state.abortedThrough'),
    digest: nullable(o.digest, 'state.digest', digest),
    sizeBytes: integer(o.sizeBytes, 'state.sizeBytes'),
    recipients: nullable(o.recipients, 'state.recipients', (items, itemsField) =>
      list(items, itemsField, MAX_LIST_ITEMS, recipientState),
    ),
    final: boolean(o.final, 'state.final'),
    ...(o.crashes === undefined ? {} : { crashes: integer(o.crashes, 'state.crashes') }),
    ...(o.suspensions === undefined ? {} : { suspensions: integer(o.suspensions, 'state.suspensions') }),
  };
}

export function open(o: Fields): Open {
  const kind = oneOf(['intake', 'shadow', 'copy', 'rest'], o.kind, 'kind');
  return {
    id: copyId(o.id, 'id'),
    epoch: kind === 'intake' ? intakeEpoch(o.epoch, 'epoch') : epoch(o.epoch, 'epoch'),
    kind,
    envelope: envelope(o.envelope, 'envelope'),
    state: nullable(o.state, 'state', sharedState),
  };
}

export function openOk(o: Fields): OpenOk {
  return {
    credit: integer(o.credit, 'credit', 0, MAX_CREDIT_BYTES),
    maxMessageBytes: integer(o.maxMessageBytes, 'maxMessageBytes'),
  };
}

export function refuse(o: Fields): Refuse {
  return {
    reply: reply(o.reply, 'reply'),
    tryOther: boolean(o.tryOther, 'tryOther'),
    ...(o.held === undefined ? {} : { held: boolean(o.held, 'held') }),
    ...(o.heldOtherwise === undefined ? {} : { heldOtherwise: boolean(o.heldOtherwise, 'heldOtherwise') }),
    ...(o.abortedThrough === undefined ? {} : { abortedThrough: integer(o.abortedThrough, 'abortedThrough') }),
  };
}

function trackingEvent(value: unknown, field: string): TrackingEvent {
  const o = object(value, field);
  const out: Mutable<TrackingEvent> = {
    event: name(o.event, 'events[].event'),
    atMs: milliseconds(o.atMs, 'events[].atMs'),
    source: name(o.source, 'events[].source'),
  };
  if (o.detail !== undefined) out.detail = prose(o.detail, 'events[].detail');
  return out;
}

export function end(o: Fields): End {
  return {
    sizeBytes: integer(o.sizeBytes, 'sizeBytes'),
    digest: digest(o.digest, 'digest'),
    events: list(o.events, 'events', 1_000, trackingEvent),
  };
}

export const synced = (o: Fields): { readonly syncedSequence?: number } =>
  o.syncedSequence === undefined ? {} : { syncedSequence: integer(o.syncedSequence, 'syncedSequence') };

function result(o: Fields): Result {
  return {
    id: copyId(o.id, 'id'),
    epoch: epoch(o.epoch, 'epoch'),
    outcome: oneOf(RESULTS, o.outcome, 'outcome'),
    digest: nullable(o.digest, 'digest', digest),
    reply: nullable(o.reply, 'reply', reply),
    ...synced(o),
  };
}

function resolve(o: Fields): Resolve {
  return {
    id: copyId(o.id, 'id'),
    through: integer(o.through, 'through'),
    deadlineMs: milliseconds(o.deadlineMs, 'deadlineMs'),
  };
}

function resolved(o: Fields): Resolved {
  return {
    id: copyId(o.id, 'id'),
    through: integer(o.through, 'through'),
    answer: oneOf(ANSWERS, o.answer, 'answer'),
    epoch: nullable(o.epoch, 'epoch', epoch),
    digest: nullable(o.digest, 'digest', digest),
  };
}

function listPage(o: Fields): List {
  return {
    owner: identity(o.owner, 'owner'),
    items: list(o.items, 'items', MAX_LIST_ITEMS, (value, field) => {
      const item = object(value, field);
      return {
        id: copyId(item.id, 'items[].id'),
        epoch: epoch(item.epoch, 'items[].epoch'),
        standing: oneOf(STANDINGS, item.standing, 'items[].standing'),
      };
    }),
    complete: boolean(o.complete, 'complete'),
  };
}

function state(o: Fields): State {
  return {
    id: copyId(o.id, 'id'),
    verdict: oneOf(VERDICTS, o.verdict, 'verdict'),
    state: nullable(o.state, 'state', sharedState),
  };
}

function stateAck(o: Fields): StateAck {
  return {
    id: copyId(o.id, 'id'),
    epoch: epoch(o.epoch, 'epoch'),
    effect: oneOf(['merged', 'moved', 'removed', 'unknown'], o.effect, 'effect'),
    ...synced(o),
  };
}

function claim(o: Fields): Claim {
  return {
    items: list(o.items, 'items', MAX_LIST_ITEMS, (value, field) => {
      const item = object(value, field);
      return { id: copyId(item.id, 'items[].id'), epoch: epoch(item.epoch, 'items[].epoch') };
    }),
  };
}

function grant(o: Fields): Grant {
  return {
    items: list(o.items, 'items', MAX_LIST_ITEMS, (value, field) => {
      const item = object(value, field);
      return {
        id: copyId(item.id, 'items[].id'),
        granted: boolean(item.granted, 'items[].granted'),
        verdict: oneOf(VERDICTS, item.verdict, 'items[].verdict'),
        state: nullable(item.state, 'items[].state', sharedState),
      };
    }),
  };
}

const resign = (o: Fields): Resign => ({ id: copyId(o.id, 'id'), state: sharedState(o.state, 'state') });

const copyAtEpoch = (o: Fields): Release & ReleaseAck => ({
  id: copyId(o.id, 'id'),
  epoch: epoch(o.epoch, 'epoch'),
});

const cover = (o: Fields): Cover => ({
  request: name(o.request, 'request'),
  ids: list(o.ids, 'ids', MAX_LIST_ITEMS, copyId),
});

function covered(o: Fields): Covered {
  return {
    request: name(o.request, 'request'),
    items: list(o.items, 'items', MAX_LIST_ITEMS, (value, field) => {
      const item = object(value, field);
      return { id: copyId(item.id, 'items[].id'), covered: boolean(item.covered, 'items[].covered') };
    }),
  };
}

const fetchOf = (o: Fields): Fetch => ({ id: copyId(o.id, 'id'), digest: digest(o.digest, 'digest') });

export type JsonFrameKind = Exclude<Frame['kind'], 'CHUNK'>;

/** The frame of `kind` from its parsed payload; `stream` is already known to be right for the kind. */
export function readPayload(kind: JsonFrameKind, stream: number, o: Fields): Frame {
  switch (kind) {
    case 'HELLO':
    case 'WELCOME':
      return { kind, hello: hello(o) };
    case 'REFUSED':
      return { kind, reason: prose(o.reason, 'reason'), detail: prose(o.detail, 'detail') };
    case 'CONTACT':
      return { kind, contact: contact(o) };
    case 'OPEN':
      return { kind, stream, open: open(o) };
    case 'OPEN-OK':
      return { kind, stream, ok: openOk(o) };
    case 'REFUSE':
      return { kind, stream, refuse: refuse(o) };
    case 'CREDIT':
      return { kind, stream, bytes: integer(o.bytes, 'bytes', 1, MAX_CREDIT_BYTES) };
    case 'END':
      return { kind, stream, end: end(o) };
    case 'DROP':
      return { kind, stream, reason: prose(o.reason, 'reason') };
    case 'RESULT':
      return { kind, stream, result: result(o) };
    case 'RESOLVE':
      return { kind, resolve: resolve(o) };
    case 'RESOLVED':
      return { kind, resolved: resolved(o) };
    case 'LIST':
      return { kind, list: listPage(o) };
    case 'STATE':
      return { kind, state: state(o) };
    case 'STATE-ACK':
      return { kind, ack: stateAck(o) };
    case 'CLAIM':
      return { kind, claim: claim(o) };
    case 'GRANT':
      return { kind, grant: grant(o) };
    case 'RESIGN':
      return { kind, resign: resign(o) };
    case 'RELEASE':
      return { kind, release: copyAtEpoch(o) };
    case 'RELEASE-ACK':
      return { kind, released: copyAtEpoch(o) };
    case 'COVER':
      return { kind, cover: cover(o) };
    case 'COVERED':
      return { kind, covered: covered(o) };
    case 'FETCH':
      return { kind, fetch: fetchOf(o) };
    case 'GOODBYE':
      return { kind, reason: prose(o.reason, 'reason') };
  }
}

/** What goes into the payload of a frame; the reverse of `readPayload`. */
export function payloadOf(frame: Exclude<Frame, { readonly kind: 'CHUNK' }>): object {
  switch (frame.kind) {
    case 'HELLO':
    case 'WELCOME':
      return frame.hello;
    case 'REFUSED':
      return { reason: frame.reason, detail: frame.detail };
    case 'CONTACT':
      return frame.contact;
    case 'OPEN':
      return frame.open;
    case 'OPEN-OK':
      return frame.ok;
    case 'REFUSE':
      return frame.refuse;
    case 'CREDIT':
      return { bytes: frame.bytes };
    case 'END':
      return frame.end;
    case 'DROP':
    case 'GOODBYE':
      return { reason: frame.reason };
    case 'RESULT':
      return frame.result;
    case 'RESOLVE':
      return frame.resolve;
    case 'RESOLVED':
      return frame.resolved;
    case 'LIST':
      return frame.list;
    case 'STATE':
      return frame.state;
    case 'STATE-ACK':
      return frame.ack;
    case 'CLAIM':
      return frame.claim;
    case 'GRANT':
      return frame.grant;
    case 'RESIGN':
      return frame.resign;
    case 'RELEASE':
      return frame.release;
    case 'RELEASE-ACK':
      return frame.released;
    case 'COVER':
      return frame.cover;
    case 'COVERED':
      return frame.covered;
    case 'FETCH':
      return frame.fetch;
  }
}
