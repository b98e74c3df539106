/**
 * The admin API of a transport: HTTPS with client certificates, JSON, read only, over `TransportView` and the tracking files.
 *   GET /v1/status   /v1/next-hops[?limit=N]   /v1/messages/ID   /v1/messages/ID/body (message/rfc822, as stored; for the roles `operator` and `exporter`, logged with who asked)
 *       /v1/messages?queue=&nextHop=&sender=&recipient=&domain=&error=&attempt=&olderThanMs=&youngerThanMs=&minBytes=&maxBytes=&after=&limit=
 *       /v1/trace?id=ATTEMPT-OR-MESSAGE-ID&id=...&limit=   /v1/tracking?sender=&recipient=&domain=&messageId=&subjectHash=&event=&from=&to=&limit=   /v1/resubmit   /v1/lost   /v1/known?ids=A,B,...   /v1/outcomes?ids=A,B,...
 *       /v1/route?to=ADDRESS&size=BYTES
 *       /v1/safety-net?role=&database=&sender=&recipient=&from=&to=&after=&limit=   /v1/safety-net/count?(the same but limit)
 * `after` is the `next` of the page before; `next` null says that there is nothing behind.
 * Owns: one listening socket. Promise: only a certificate of our CA with the role `operator`, `viewer` or `exporter` is answered; lists are bounded.
 * Refuses: no certificate (TLS ends), another role (403), other methods (405), bad parameters (400), too many questions to tracking at once (503); each with `{error:{code, message}}`.
 * Fails: rejects at start when the port cannot be had; an error of the view is a 500 and ends nothing.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { SecureContextOptions, TLSSocket } from 'node:tls';
import type { CopyId } from '../../common/message.ts';
import type { Logger } from '../../common/platform/log.ts';
import { type AdminClient, adminClientOfSubjectAltName } from '../../common/platform/peer-identity.ts';
import { firstQueues } from '../../common/queue-order.ts';
import type { Queue, SafetyNetPosition } from '../store/database.ts';
import { TrackingBusy, type TrackingSearch } from './tracking.ts';
import type { TrackingQuestion } from './tracking-find.ts';
import type { MessageFilter, SafetyNetQuestion, TransportView } from './view.ts';

export interface AdminIdentity {
  readonly ca: string;
  readonly certificate: string;
  readonly key: string;
}

export interface AdminServerOptions {
  readonly address: { readonly host: string; readonly port: number };
  readonly identity: AdminIdentity;
  /** Certificates of another cluster name nobody. */
  readonly cluster: string;
  readonly view: TransportView;
  readonly tracking: TrackingSearch;
  readonly logger: Logger;
}

export interface AdminServer {
  readonly port: number;
  /** New connections use this certificate; open ones keep theirs. */
  renew(identity: AdminIdentity): void;
  close(): Promise<void>;
}

const QUEUES: readonly Queue[] = [
  'submission',
  'delivery',
  'unreachable',
  'poison',
  'shadow',
  'primarySafetyNet',
  'shadowSafetyNet',
];
const DEFAULT_LIMIT = 100;
const MAX_LIMIT = 1_000;
const MAX_TRACE = 10_000;
const MAX_ID_LENGTH = 1_000;
const MAX_IDS = 200;

type Answer = { readonly status: 200; readonly body: unknown } | Content | Refusal;
interface Content {
  readonly status: 200;
  readonly sizeBytes: number;
  readonly content: AsyncIterable<Buffer>;
}
interface Refusal {
  readonly status: 400 | 403 | 404 | 405 | 500 | 503;
  readonly code: string;
  readonly message: string;
}

class BadParameter extends Error {
  readonly code = 'BAD_PARAMETER';
}

const secure = (identity: AdminIdentity): SecureContextOptions => ({
  ca: identity.ca,
  cert: identity.certificate,
  key: identity.key,
  minVersion: 'TLSv1.3',
});

function limitOf(query: URLSearchParams, fallback: number, most: number): number {
  const text = query.get('limit');
  if (text === null) return fallback;
  const limit = Number(text);
  if (!Number.isInteger(limit) || limit < 1 || limit > most)
    throw new BadParameter(`limit: a number from 1 to ${most}`);
  return limit;
}

function oneOf<const T extends string>(query: URLSearchParams, name: string, values: readonly T[]): T | null {
  const text = query.get(name);
  if (text === null || text === '') return null;
  const value = values.find((one) => one === text);
  if (value === undefined) throw new BadParameter(`${name}: one of ${values.join(', ')}`);
  return value;
}

/** Milliseconds since the epoch, or an ISO 8601 time. */
function timeOf(query: URLSearchParams, name: string): number | null {
  const text = query.get(name);
  if (text === null || text === '') return null;
  const value = /^\d+$/.test(text) ? Number(text) : Date.parse(text);
  if (!Number.isFinite(value)) throw new BadParameter(`${name}: milliseconds since 1970 or an ISO 8601 time`);
  return value;
}

function idOf(text: string | null): string {
  if (text === null || text === '') throw new BadParameter('id: an attempt id or a Message-ID');
  if (text.length > MAX_ID_LENGTH) throw new BadParameter(`id: at most ${MAX_ID_LENGTH} characters`);
  return text;
}

function addressOf(text: string | null): string {
  // RFC 5321 4.5.3.1: no longer one is ever a recipient.
  if (text === null || text === '' || text.length > MAX_ID_LENGTH) throw new BadParameter('to: an address');
  return text;
}

function sizeOf(query: URLSearchParams): number {
  const size = Number(query.get('size') ?? '1');
  if (!Number.isSafeInteger(size) || size < 1) throw new BadParameter('size: a number of bytes');
  return size;
}

/** Copy ids are letters, digits and dashes: no blank or comma is ever part of one. */
function idsOf(query: URLSearchParams): readonly CopyId[] {
  const ids = (query.get('ids') ?? '').split(',').filter((id) => id !== '');
  if (ids.length === 0 || ids.length > MAX_IDS) throw new BadParameter(`ids: 1 to ${MAX_IDS}, with commas between`);
  return ids as CopyId[];
}

/** Several of one message: each hop has its own. */
function traceIds(query: URLSearchParams): readonly string[] {
  const ids = query.getAll('id');
  if (ids.length > MAX_IDS) throw new BadParameter(`id: at most ${MAX_IDS} times`);
  return ids.length === 0 ? [idOf(null)] : ids.map(idOf);
}

/** `asked`: of how many ids it is the answer; former versions looked for the first of several only, and did not say so. */
async function traceOf(query: URLSearchParams, tracking: TrackingSearch): Promise<object> {
  const ids = traceIds(query);
  const limit = limitOf(query, MAX_TRACE, MAX_TRACE);
  const records = await tracking.search(ids, limit);
  return { records, asked: ids.length, cut: records.length >= limit, gaps: await tracking.gaps() };
}

const textOf = (query: URLSearchParams, name: string): string | null => query.get(name) || null;

function countOf(query: URLSearchParams, name: string): number | null {
  const text = textOf(query, name);
  if (text === null) return null;
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) throw new BadParameter(`${name}: a whole number, 0 or more`);
  return value;
}

const FILTERS: ReadonlySet<string> = new Set(
  'queue nextHop sender recipient domain error attempt olderThanMs youngerThanMs minBytes maxBytes after limit'.split(
    ' ',
  ),
);

/** A filter that is not known, or says nothing, is no filter that matches everything. */
function messageFilter(query: URLSearchParams): MessageFilter {
  for (const [name, value] of query) {
    if (!FILTERS.has(name)) throw new BadParameter(`${name}: there is no such filter`);
    if (value === '' && name !== 'after') throw new BadParameter(`${name}: is empty`);
  }
  const sender = textOf(query, 'sender');
  return {
    queue: oneOf(query, 'queue', QUEUES),
    nextHop: textOf(query, 'nextHop'),
    sender: sender === '<>' ? '' : sender,
    recipient: textOf(query, 'recipient'),
    domain: textOf(query, 'domain'),
    error: textOf(query, 'error'),
    attempt: textOf(query, 'attempt'),
    olderThanMs: countOf(query, 'olderThanMs'),
    youngerThanMs: countOf(query, 'youngerThanMs'),
    minBytes: countOf(query, 'minBytes'),
    maxBytes: countOf(query, 'maxBytes'),
  };
}

function safetyNetQuestion(query: URLSearchParams): SafetyNetQuestion {
  const role = oneOf(query, 'role', ['primary', 'shadow']);
  const database = textOf(query, 'database');
  const [fromMs, toMs] = span(query);
  const after = textOf(query, 'after');
  return {
    filter: {
      ...(role === null ? {} : { role }),
      ...(database === null ? {} : { database }),
      ...(fromMs === null ? {} : { fromMs }),
      ...(toMs === null ? {} : { toMs }),
      ...(after === null ? {} : { after: after as SafetyNetPosition }),
    },
    sender: textOf(query, 'sender'),
    recipient: textOf(query, 'recipient'),
  };
}

const TRACKED: ReadonlySet<string> = new Set([
  ...['sender', 'recipient', 'domain', 'messageId', 'subjectHash', 'event', 'from', 'to', 'limit'],
]);

function trackingQuestion(query: URLSearchParams): TrackingQuestion {
  for (const name of query.keys()) if (!TRACKED.has(name)) throw new BadParameter(`${name}: there is no such filter`);
  const sender = textOf(query, 'sender');
  const subjectHash = textOf(query, 'subjectHash');
  if (subjectHash !== null && !/^[0-9a-f]{16}$/i.test(subjectHash))
    throw new BadParameter('subjectHash: 16 hexadecimal digits');
  const [fromMs, toMs] = span(query);
  return {
    sender: sender === '<>' ? '' : sender,
    recipient: textOf(query, 'recipient'),
    domain: textOf(query, 'domain'),
    messageId: textOf(query, 'messageId'),
    subjectHash,
    event: textOf(query, 'event'),
    fromMs,
    toMs,
  };
}

function span(query: URLSearchParams): readonly [fromMs: number | null, toMs: number | null] {
  const fromMs = timeOf(query, 'from');
  const toMs = timeOf(query, 'to');
  if (fromMs !== null && toMs !== null && toMs < fromMs) throw new BadParameter('to: is before from');
  return [fromMs, toMs];
}

const NO_MESSAGE: Refusal = { status: 404, code: 'NO_SUCH_MESSAGE', message: 'no copy with this id here' };

/** Mail itself: for who runs the cluster, not for who may look at it. */
async function contentOf(id: CopyId, client: AdminClient, { view, logger }: AdminServerOptions): Promise<Answer> {
  if (client.role === 'viewer') {
    const message = 'for mail itself a certificate of the role operator or exporter is needed';
    return { status: 403, code: 'WRONG_ROLE', message };
  }
  const message = await view.message(id);
  if (message === null) return NO_MESSAGE;
  const chunks = view.body(id)[Symbol.asyncIterator]();
  // What cannot be read at all is said before anything else is.
  const first = await chunks.next();
  logger.info({ attemptId: id, client: client.name, by: client.user ?? client.role }, 'body of a message given out');
  return { status: 200, sizeBytes: message.facts.sizeBytes, content: from(first, chunks) };
}

/** The rest of an iteration that has begun. Whoever stops early ends it: while it is open it holds segments of the log. */
function from(first: IteratorResult<Buffer>, rest: AsyncIterator<Buffer>): AsyncIterable<Buffer> {
  let begun: IteratorResult<Buffer> | null = first;
  const next = async (): Promise<IteratorResult<Buffer>> => {
    const result = begun ?? (await rest.next());
    begun = null;
    return result;
  };
  const end = async (): Promise<IteratorResult<Buffer>> => {
    await rest.return?.();
    return { done: true, value: undefined };
  };
  return { [Symbol.asyncIterator]: () => ({ next, return: end }) };
}

async function lookUp(url: URL, client: AdminClient, options: AdminServerOptions): Promise<Answer> {
  const { view, tracking } = options;
  const query = url.searchParams;
  const ok = (body: unknown): Answer => ({ status: 200, body });
  switch (url.pathname) {
    case '/v1/status':
      return ok(view.status());
    case '/v1/next-hops':
      // Without a limit all, also those about which there is nothing to say.
      return ok(
        query.has('limit')
          ? firstQueues(view.nextHops(), limitOf(query, DEFAULT_LIMIT, MAX_LIMIT))
          : { nextHops: view.nextHops(), more: 0 },
      );
    case '/v1/messages': {
      const after = query.get('after') as CopyId | null;
      return ok(view.messages(messageFilter(query), after, limitOf(query, DEFAULT_LIMIT, MAX_LIMIT)));
    }
    case '/v1/safety-net':
      return ok(await view.safetyNet(safetyNetQuestion(query), limitOf(query, DEFAULT_LIMIT, MAX_LIMIT)));
    case '/v1/safety-net/count':
      return ok(await view.countSafetyNet(safetyNetQuestion(query)));
    case '/v1/resubmit':
      return ok({ requests: view.resubmits() });
    case '/v1/known':
      return ok({ known: await view.known(idsOf(query)) });
    case '/v1/outcomes':
      return ok({ outcomes: await tracking.outcomes(new Set(idsOf(query))) });
    case '/v1/route':
      return ok(await view.route(addressOf(query.get('to')), sizeOf(query)));
    case '/v1/lost':
      return ok({ messages: view.lostMessages() });
    case '/v1/trace':
      return ok(await traceOf(query, tracking));
    case '/v1/tracking':
      return ok(await tracking.find(trackingQuestion(query), limitOf(query, DEFAULT_LIMIT, MAX_LIMIT)));
  }
  const [, name, part] = /^\/v1\/messages\/([^/]+)(\/body)?$/.exec(url.pathname) ?? [];
  if (name === undefined) return { status: 404, code: 'NO_SUCH_PATH', message: `nothing at ${url.pathname}` };
  const id = idOf(decodeURIComponent(name)) as CopyId;
  if (part !== undefined) return await contentOf(id, client, options);
  const message = await view.message(id);
  return message === null ? NO_MESSAGE : ok(message);
}

async function answerTo(request: IncomingMessage, options: AdminServerOptions): Promise<Answer> {
  const { subjectaltname } = (request.socket as TLSSocket).getPeerCertificate();
  const client = adminClientOfSubjectAltName(subjectaltname, options.cluster);
  if (typeof client === 'string') {
    options.logger.warn({ client, remoteAddress: request.socket.remoteAddress }, 'admin request refused');
    return { status: 403, code: 'WRONG_ROLE', message: 'a certificate of the role operator or viewer is needed' };
  }
  if (request.method !== 'GET') return { status: 405, code: 'GET_ONLY', message: 'this API only reads' };
  try {
    return await lookUp(new URL(request.url ?? '/', 'https://admin'), client, options);
  } catch (error) {
    if (error instanceof BadParameter || error instanceof URIError) {
      return { status: 400, code: 'BAD_PARAMETER', message: error.message };
    }
    if (error instanceof TrackingBusy) return { status: 503, code: error.code, message: error.message };
    options.logger.error({ error, path: request.url }, 'admin request failed');
    return { status: 500, code: 'INTERNAL', message: error instanceof Error ? error.message : String(error) };
  }
}

async function send(response: ServerResponse, answer: Answer): Promise<void> {
  if (answer.status === 200 && 'content' in answer) {
    response.writeHead(200, {
      'content-type': 'message/rfc822',
      'content-length': answer.sizeBytes,
      'cache-control': 'no-store',
    });
    // What turns out to be damaged further on ends the connection before its announced length.
    return await pipeline(Readable.from(answer.content), response);
  }
  const body = answer.status === 200 ? answer.body : { error: { code: answer.code, message: answer.message } };
  const text = `${JSON.stringify(body)}\n`;
  response.writeHead(answer.status, {
    'content-type': 'application/json; charset=utf-8',
    'content-length': Buffer.byteLength(text),
    'cache-control': 'no-store',
    ...(answer.status === 405 ? { allow: 'GET' } : {}),
  });
  response.end(text);
}

const KEPT_MS = 120_000;

export async function startAdminServer(options: AdminServerOptions): Promise<AdminServer> {
  const server: Server = createServer(
    { ...secure(options.identity), requestCert: true, rejectUnauthorized: true, requestTimeout: 10_000 },
    (request, response) => {
      answerTo(request, options)
        .then((answer) => send(response, answer))
        .catch((error: unknown) => {
          // Who asked has gone: nothing is wrong here.
          const isGone = (error as NodeJS.ErrnoException).code === 'ERR_STREAM_PREMATURE_CLOSE';
          options.logger[isGone ? 'debug' : 'error']({ error }, 'admin answer failed');
          response.destroy();
        });
    },
  );
  server.maxConnections = 64;
  // The operator asks again within a minute at the latest, over the same connection.
  server.keepAliveTimeout = KEPT_MS;
  server.on('tlsClientError', (error, socket) => {
    options.logger.debug({ reason: error.message, remoteAddress: socket.remoteAddress }, 'admin handshake failed');
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(options.address.port, options.address.host, () => {
      server.removeListener('error', reject);
      resolve();
    });
  });
  return {
    port: (server.address() as AddressInfo).port,
    renew: (identity) => server.setSecureContext(secure(identity)),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
