/**
 * An API server of our own for tests: HTTPS on loopback, the subset of semantics the operator relies on, in one process and without etcd.
 * Owns: its port, its connections. It is honest where the operator could be wrong - versions, conflicts, ownership, compaction, bookmarks,
 * finalizers - and the same contract suite runs against the real one, so it cannot drift. It injects no faults: `fault-proxy.ts` does, in
 * front of either. Not there: defaulting, CEL, garbage collection, controllers, RBAC (one refused user, `nobody`).
 */
import { once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import type { KubeObject } from '../../../operator/kube/kube-object.ts';
import type { TestCertificate } from '../test-certificate.ts';
import { listPage } from './listing.ts';
import { collectionOf, Objects, type Place, type Stored } from './objects.ts';
import type { Writer } from './ownership.ts';
import { notFound, Refusal } from './refusal.ts';
import { BUILT_IN, type KnownKind } from './schema.ts';
import { Storage } from './storage.ts';
import { serveWatch } from './watching.ts';

export interface FakeKubeOptions {
  readonly certificate: TestCertificate;
  /** Bookmarks of quiet watches; the real server: a minute. */
  readonly bookmarkMs?: number;
}

const MAX_BODY_BYTES = 3 * 1024 * 1024;

export class FakeKube {
  readonly #storage = new Storage();
  readonly #objects: Objects;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #bookmarkMs: number;
  #kinds: readonly KnownKind[] = BUILT_IN;
  /** Bearer tokens that are let in; change it to rotate. */
  readonly tokens = new Set<string>();

  constructor(options: FakeKubeOptions) {
    this.#bookmarkMs = options.bookmarkMs ?? 60_000;
    this.#objects = new Objects(this.#storage, (kinds) => {
      const names = new Set(kinds.map(collectionOf));
      this.#kinds = [...this.#kinds.filter((one) => !names.has(collectionOf(one))), ...kinds];
    });
    const { cert, key } = options.certificate;
    this.#server = createServer({ cert, key }, (request, response) => {
      this.#handle(request, response).catch((error: unknown) => answer(response, refusalOf(error)));
    });
    this.#server.on('secureConnection', (socket) => {
      this.#sockets.add(socket);
      socket.once('close', () => this.#sockets.delete(socket));
    });
  }

  async start(): Promise<string> {
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
    return `https://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    await once(this.#server, 'close');
  }

  /** Like etcd's compaction: older watches and continue tokens are answered 410 from now on. */
  compact(): void {
    this.#storage.compact();
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', 'https://fake');
    this.#authorize(request);
    const { place, isCollection } = this.#place(url.pathname);
    const query = url.searchParams;
    if (request.method === 'GET' && isCollection) {
      if (query.get('watch') === 'true') serveWatch(this.#storage, place, query, response, this.#bookmarkMs);
      else answer(response, { code: 200, body: listPage(this.#storage, place, query) });
      return;
    }
    const body = await readBody(request);
    const agent = (request.headers['user-agent'] ?? 'unknown').split('/')[0] ?? 'unknown';
    const writer: Writer = {
      manager: query.get('fieldManager') ?? agent,
      subresource: place.subresource,
      time: new Date().toISOString(),
    };
    if (request.method === 'DELETE') {
      const left = this.#objects.delete(place, body);
      answer(response, { code: 200, body: left ?? { kind: 'Status', apiVersion: 'v1', status: 'Success' } });
      return;
    }
    const { code, object } = this.#write(request, place, isCollection, body, query, writer);
    answer(response, { code, body: object });
  }

  #write(
    request: IncomingMessage,
    place: Place,
    isCollection: boolean,
    body: Record<string, unknown>,
    query: URLSearchParams,
    writer: Writer,
  ): Stored {
    const object = body as unknown as KubeObject;
    switch (request.method) {
      case 'GET':
        return { code: 200, object: this.#objects.get(place) };
      case 'POST':
        if (!isCollection) break;
        return this.#objects.create({ ...place, name: object.metadata.name }, object, writer);
      case 'PUT':
        return this.#objects.replace(place, object, writer);
      case 'PATCH': {
        const type = request.headers['content-type'] ?? '';
        if (type === 'application/merge-patch+json') return this.#objects.patch(place, body, writer);
        if (type === 'application/apply-patch+yaml')
          return this.#objects.apply(place, object, writer, query.get('force') === 'true');
        throw new Refusal(415, 'UnsupportedMediaType', `the body of the request was in an unknown format: ${type}`);
      }
    }
    throw new Refusal(405, 'MethodNotAllowed', `${request.method} is not there`);
  }

  #authorize(request: IncomingMessage): void {
    const token = /^Bearer (.+)$/.exec(request.headers.authorization ?? '')?.[1];
    if (token === undefined || !this.tokens.has(token)) throw new Refusal(401, 'Unauthorized', 'Unauthorized');
    if (request.headers['impersonate-user'] === 'nobody')
      throw new Refusal(403, 'Forbidden', 'User "nobody" cannot do that');
  }

  #place(path: string): { readonly place: Place; readonly isCollection: boolean } {
    const found =
      /^\/(?:api|apis\/([^/]+))\/([^/]+)(?:\/namespaces\/([^/]+)(?=\/[^/]))?\/([^/]+)(?:\/([^/]+))?(?:\/([^/]+))?$/.exec(
        path,
      );
    const [, group = '', version, namespace = '', plural, name = '', subresource = ''] = found ?? [];
    const known = this.#kinds.find(
      ({ kind }) => kind.group === group && kind.version === version && kind.plural === plural,
    );
    if (known === undefined || (subresource !== '' && !(subresource === 'status' && known.hasStatus)))
      throw new Refusal(404, 'NotFound', 'the server could not find the requested resource');
    if (name !== '' && known.kind.namespaced && namespace === '') throw notFound(known.kind.plural, name);
    return { place: { known, namespace, name: decodeURIComponent(name), subresource }, isCollection: name === '' };
  }
}

function refusalOf(error: unknown): { readonly code: number; readonly body: object } {
  const refusal = error instanceof Refusal ? error : new Refusal(500, 'InternalError', String((error as Error).stack));
  return { code: refusal.code, body: refusal.status() };
}

function answer(response: ServerResponse, { code, body }: { readonly code: number; readonly body: object }): void {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  response.writeHead(code, { 'content-type': 'application/json' });
  response.end(JSON.stringify(body));
}

async function readBody(request: IncomingMessage): Promise<Record<string, unknown>> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > MAX_BODY_BYTES) throw new Refusal(413, 'RequestEntityTooLarge', 'the request is too large');
    chunks.push(chunk);
  }
  const text = Buffer.concat(chunks).toString('utf8');
  try {
    return text === '' ? {} : (JSON.parse(text) as Record<string, unknown>);
  } catch (error) {
    throw new Refusal(400, 'BadRequest', String(error));
  }
}
