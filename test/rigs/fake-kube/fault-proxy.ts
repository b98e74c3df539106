/**
 * What lies between a client and an API server, and fails: an HTTPS reverse proxy on loopback that injects faults, in front of the fake
 * server or of the real one alike. Owns: its port, its connections, the list of faults still to come. Everything is passed on unchanged
 * when no fault matches.
 */
import { once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { Agent, createServer, request as httpsRequest, type RequestOptions, type Server } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import type { TestCertificate } from '../test-certificate.ts';

export type Fault =
  /** The connection breaks; the server never saw the request. */
  | { readonly kind: 'reset' }
  /** The server does it, and the connection breaks before its answer comes. */
  | { readonly kind: 'dropAnswer' }
  /** Nothing ever comes back; the server never saw the request. */
  | { readonly kind: 'swallow' }
  | { readonly kind: 'delay'; readonly delayMs: number }
  | {
      readonly kind: 'answer';
      readonly code: number;
      readonly headers?: Record<string, string>;
      readonly body?: string;
    }
  /** The answer ends in the middle, connection and all. */
  | { readonly kind: 'cutAnswer'; readonly bytes: number }
  /** After so many lines of a watch: the connection breaks, goes silent, says nonsense, or says it is too old. */
  | { readonly kind: 'watchReset' | 'watchStall' | 'watchGarbage' | 'watchGone'; readonly afterLines: number };

export interface Match {
  readonly method?: string;
  readonly path?: RegExp;
  readonly isWatch?: boolean;
}

export interface Seen {
  readonly method: string;
  readonly path: string;
  readonly isWatch: boolean;
  readonly fault: Fault['kind'] | null;
}

export interface Upstream {
  readonly url: string;
  readonly ca: string;
  readonly cert?: string;
  readonly key?: string;
}

interface Armed {
  readonly match: Match;
  readonly fault: Fault;
  times: number;
}

export class FaultProxy {
  readonly #upstream: URL;
  readonly #agent: Agent;
  readonly #certificate: TestCertificate;
  #server: Server | null = null;
  #port = 0;
  readonly #sockets = new Set<Socket>();
  #armed: Armed[] = [];
  readonly seen: Seen[] = [];
  connectionsAccepted = 0;

  constructor(upstream: Upstream, certificate: TestCertificate) {
    this.#upstream = new URL(upstream.url);
    const { ca, cert, key } = upstream;
    this.#agent = new Agent({
      keepAlive: true,
      ca,
      ...(cert === undefined ? {} : { cert }),
      ...(key === undefined ? {} : { key }),
    });
    this.#certificate = certificate;
  }

  get url(): string {
    return `https://127.0.0.1:${this.#port}`;
  }

  /** Listens, on the port of before if there was one. */
  async up(): Promise<void> {
    if (this.#server !== null) return;
    const { cert, key } = this.#certificate;
    const server = createServer({ cert, key }, (request, response) => {
      this.#handle(request, response).catch(() => response.destroy());
    });
    server.on('secureConnection', (socket) => {
      this.connectionsAccepted += 1;
      this.#sockets.add(socket);
      socket.once('close', () => this.#sockets.delete(socket));
    });
    server.listen(this.#port, '127.0.0.1');
    await once(server, 'listening');
    this.#port = (server.address() as AddressInfo).port;
    this.#server = server;
  }

  /** Refuses connections and breaks those there are: the API server is away. */
  async down(): Promise<void> {
    const server = this.#server;
    this.#server = null;
    if (server === null) return;
    server.close();
    for (const socket of this.#sockets) socket.destroy();
    await once(server, 'close');
  }

  async stop(): Promise<void> {
    await this.down();
    this.#agent.destroy();
  }

  inject(match: Match, fault: Fault, times = 1): void {
    this.#armed.push({ match, fault, times });
  }

  heal(): void {
    this.#armed = [];
  }

  #next(method: string, path: string, isWatch: boolean): Fault | null {
    const found = this.#armed.find(
      ({ match, times }) =>
        times > 0 &&
        (match.method ?? method) === method &&
        (match.path?.test(path) ?? true) &&
        (match.isWatch ?? isWatch) === isWatch,
    );
    if (found === undefined) return null;
    found.times -= 1;
    return found.fault;
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = request.url ?? '/';
    const method = request.method ?? 'GET';
    const isWatch = /[?&]watch=true/.test(path);
    const fault = this.#next(method, path, isWatch);
    this.seen.push({ method, path, isWatch, fault: fault?.kind ?? null });
    const body = await bodyOf(request);
    switch (fault?.kind) {
      case 'reset':
        request.socket.destroy();
        return;
      case 'swallow':
        return;
      case 'answer':
        response.writeHead(fault.code, { 'content-type': 'application/json', ...fault.headers });
        response.end(fault.body ?? '');
        return;
      case 'delay': {
        const timer = setTimeout(() => this.#forward(request, body, response, null), fault.delayMs);
        response.once('close', () => clearTimeout(timer));
        return;
      }
      default:
        this.#forward(request, body, response, fault);
    }
  }

  #forward(request: IncomingMessage, body: Buffer, response: ServerResponse, fault: Fault | null): void {
    const { host: _, connection: __, ...headers } = request.headers;
    const options: RequestOptions = {
      agent: this.#agent,
      hostname: this.#upstream.hostname,
      port: this.#upstream.port,
      method: request.method,
      path: request.url,
      headers,
    };
    const outgoing = httpsRequest(options, (answer) => {
      if (fault?.kind === 'dropAnswer') {
        answer.resume();
        answer.once('end', () => request.socket.destroy());
        return;
      }
      response.writeHead(answer.statusCode ?? 502, answer.headers);
      response.flushHeaders();
      if (fault === null) answer.pipe(response);
      else spoil(answer, response, fault, request.socket);
      answer.once('error', () => response.destroy());
    });
    outgoing.once('error', () => response.destroy());
    // A watch the client has left must not go on upstream.
    response.once('close', () => outgoing.destroy());
    outgoing.end(body);
  }
}

function spoil(answer: IncomingMessage, response: ServerResponse, fault: Fault, socket: Socket): void {
  if (fault.kind === 'cutAnswer') {
    answer.once('data', (chunk: Buffer) => {
      response.write(chunk.subarray(0, fault.bytes), () => socket.destroy());
      answer.pause();
    });
    return;
  }
  if (!('afterLines' in fault)) return;
  let lines = 0;
  let isOver = false;
  const end = (): void => {
    isOver = true;
    if (fault.kind === 'watchReset') socket.destroy();
    if (fault.kind === 'watchGarbage') response.end('{"type":"ADDED","object":{"meta\n');
    if (fault.kind === 'watchGone') {
      const status = { kind: 'Status', code: 410, reason: 'Expired', message: 'too old resource version' };
      response.end(`${JSON.stringify({ type: 'ERROR', object: status })}\n`);
    }
  };
  const pass = (text: string): void => {
    for (const line of text.split(/(?<=\n)/)) {
      if (isOver) return;
      response.write(line);
      if (line.endsWith('\n')) lines += 1;
      if (lines >= fault.afterLines) end();
    }
  };
  if (fault.afterLines === 0) end();
  answer.setEncoding('utf8');
  answer.on('data', pass);
}

async function bodyOf(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks);
}
