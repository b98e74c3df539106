/**
 * HTTPS to one API server. Owns: the connections (kept alive and reused: 20 reads, 1 connection), TLS with the identity of the moment,
 * bytes in and out. Promises: `send` and `open` end when their signal aborts; what broke is told apart by whether the server may have
 * acted (`perhapsDone`); new TLS material leads to new connections while calls under way finish on the old ones. Refuses answers over
 * `MAX_ANSWER_BYTES`. Knows no objects, no retries: that is `client.ts`.
 *
 * node:https and not a package: HTTP/1.1 with one agent is all that is needed, and costs no memory that is not there already
 * (docs/decisions/0011-api-client.md has the figures).
 */
import { createHash } from 'node:crypto';
import { type IncomingMessage, Agent as PlainAgent, request as plainRequest, type RequestOptions } from 'node:http';
import { Agent, request } from 'node:https';
import type { Duplex } from 'node:stream';
import type { Credentials, KubeIdentity, TlsMaterial } from './identity.ts';

export interface ChannelRequest {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  readonly path: string;
  readonly contentType?: string;
  readonly body?: string;
  readonly signal: AbortSignal;
  /** Asked at the last moment, when a connection is there: false and nothing is written to it. */
  readonly mayStillSend?: () => boolean;
}

export interface ChannelAnswer {
  readonly code: number;
  readonly retryAfter: string | undefined;
  readonly body: string;
}

export interface ChannelStream {
  readonly code: number;
  readonly retryAfter: string | undefined;
  /** Ends, or throws when the connection breaks. */
  readonly chunks: AsyncIterable<Buffer>;
  close(): void;
}

export class ChannelError extends Error {
  /** The request may have reached the server. */
  readonly perhapsDone: boolean;
  constructor(message: string, perhapsDone: boolean) {
    super(message);
    this.name = 'ChannelError';
    this.perhapsDone = perhapsDone;
  }
}

/** A list page of 500 large objects (1.5 MiB is etcd's limit for one) stays far below. */
export const MAX_ANSWER_BYTES = 128 * 1024 * 1024;
/** Between us and the server at most; watches keep one each, calls wait for a free one. */
const MAX_CONNECTIONS = 64;
const MAX_IDLE_CONNECTIONS = 16;
/** Like client-go; below the 60 s after which some load balancers forget a connection. */
const TCP_KEEP_ALIVE_MS = 30_000;

class CountingAgent extends Agent {
  readonly #opened: () => void;
  readonly #secured = new WeakSet<Duplex>();
  constructor(options: ConstructorParameters<typeof Agent>[0], opened: () => void) {
    super(options);
    this.#opened = opened;
  }
  override createConnection(...args: Parameters<Agent['createConnection']>): Duplex | null | undefined {
    this.#opened();
    const socket = super.createConnection(...args);
    socket?.once('secureConnect', () => this.#secured.add(socket));
    return socket;
  }
  /** Not what `reusedSocket` says: that is false for a call that waited until another one gave its connection back. */
  isSecured(socket: Duplex): boolean {
    return this.#secured.has(socket);
  }
}

interface Pool {
  readonly fingerprint: string;
  readonly agent: Agent | PlainAgent;
}

const fingerprintOf = (tls: TlsMaterial): string =>
  createHash('sha256')
    .update(JSON.stringify([tls.ca, tls.cert, tls.key, tls.isVerified, tls.serverName]))
    .digest('hex');

export interface HttpChannelOptions {
  readonly identity: KubeIdentity;
  readonly userAgent: string;
  /** A new connection was opened. */
  readonly opened?: () => void;
}

export class HttpChannel {
  readonly #identity: KubeIdentity;
  readonly #userAgent: string;
  readonly #opened: () => void;
  readonly #server: URL;
  #pool: Pool | null = null;

  constructor(options: HttpChannelOptions) {
    this.#identity = options.identity;
    this.#userAgent = options.userAgent;
    this.#opened = options.opened ?? (() => undefined);
    this.#server = new URL(options.identity.server);
  }

  /** Sends and reads the whole answer. Rejects with `ChannelError` only. */
  async send(call: ChannelRequest): Promise<ChannelAnswer> {
    const stream = await this.open(call);
    const chunks: Buffer[] = [];
    let bytes = 0;
    try {
      for await (const chunk of stream.chunks) {
        bytes += chunk.length;
        if (bytes > MAX_ANSWER_BYTES) throw new Error(`an answer over ${MAX_ANSWER_BYTES} bytes`);
        chunks.push(chunk);
      }
    } catch (error) {
      stream.close();
      throw new ChannelError(`the answer broke off: ${messageOf(error)}`, true);
    }
    return { code: stream.code, retryAfter: stream.retryAfter, body: Buffer.concat(chunks).toString('utf8') };
  }

  /** Sends and returns when the head of the answer is there. Rejects with `ChannelError` only. */
  async open(call: ChannelRequest): Promise<ChannelStream> {
    const credentials = await this.#credentials();
    if (call.signal.aborted) throw new ChannelError('given up before it was sent', false);
    return await new Promise((resolve, reject) => this.#start(call, credentials, resolve, reject));
  }

  /** Ends every connection, also those in use. */
  close(): void {
    this.#pool?.agent.destroy();
    this.#pool = null;
  }

  async #credentials(): Promise<Credentials> {
    try {
      return await this.#identity.credentials();
    } catch (error) {
      throw new ChannelError(`no credentials: ${messageOf(error)}`, false);
    }
  }

  #start(
    call: ChannelRequest,
    { tls, headers }: Credentials,
    resolve: (stream: ChannelStream) => void,
    reject: (error: ChannelError) => void,
  ): void {
    const isTls = this.#server.protocol === 'https:';
    const agent = this.#agent(tls, isTls);
    const options: RequestOptions = {
      agent,
      host: this.#server.hostname.replace(/^\[|\]$/g, ''),
      port: this.#server.port === '' ? (isTls ? 443 : 80) : this.#server.port,
      method: call.method,
      path: this.#server.pathname.replace(/\/$/, '') + call.path,
      headers: {
        accept: 'application/json',
        'user-agent': this.#userAgent,
        ...(call.body === undefined
          ? {}
          : { 'content-type': call.contentType ?? 'application/json', 'content-length': Buffer.byteLength(call.body) }),
        ...headers,
      },
      signal: call.signal,
    };
    // Until a connection is there nothing was sent, so nothing can have been done.
    let isSent = false;
    const outgoing = isTls ? request(options) : plainRequest(options);
    outgoing.on('response', (answer: IncomingMessage) => {
      // A break after the head reaches the reader of the chunks, or nobody: it must not end the process.
      answer.on('error', () => undefined);
      resolve({
        code: answer.statusCode ?? 0,
        retryAfter: answer.headers['retry-after'],
        chunks: answer,
        close: () => answer.destroy(),
      });
    });
    outgoing.on('error', (error) => reject(new ChannelError(messageOf(error), isSent)));
    const deliver = (): void => {
      if (call.mayStillSend?.() === false) {
        outgoing.destroy(new Error('not sent: the time for it was over'));
        return;
      }
      isSent = true;
      outgoing.end(call.body);
    };
    outgoing.on('socket', (socket) => {
      const isThere = agent instanceof CountingAgent ? agent.isSecured(socket) : !socket.connecting;
      if (isThere) deliver();
      else socket.once(isTls ? 'secureConnect' : 'connect', deliver);
    });
  }

  #agent(tls: TlsMaterial, isTls: boolean): Agent | PlainAgent {
    const fingerprint = fingerprintOf(tls);
    if (this.#pool?.fingerprint === fingerprint) return this.#pool.agent;
    this.#retire(this.#pool?.agent);
    const shared = {
      keepAlive: true,
      keepAliveMsecs: TCP_KEEP_ALIVE_MS,
      maxSockets: MAX_CONNECTIONS,
      maxFreeSockets: MAX_IDLE_CONNECTIONS,
      scheduling: 'lifo' as const,
    };
    const agent = isTls
      ? new CountingAgent(
          {
            ...shared,
            ...(tls.ca === null ? {} : { ca: tls.ca }),
            ...(tls.cert === null ? {} : { cert: tls.cert }),
            ...(tls.key === null ? {} : { key: tls.key }),
            ...(tls.serverName === null ? {} : { servername: tls.serverName }),
            rejectUnauthorized: tls.isVerified,
            minVersion: 'TLSv1.2',
          },
          this.#opened,
        )
      : new PlainAgent(shared);
    this.#pool = { fingerprint, agent };
    return agent;
  }

  /** Idle connections of the old identity end now; those in use when their call ends, because nobody keeps them for a next one. */
  #retire(agent: Agent | PlainAgent | undefined): void {
    if (agent === undefined) return;
    agent.maxFreeSockets = 0;
    for (const sockets of Object.values(agent.freeSockets)) for (const socket of sockets ?? []) socket.destroy();
  }
}

const messageOf = (error: unknown): string => {
  if (!(error instanceof Error)) return String(error);
  // AggregateError of a failed connection to several addresses has an empty message of its own.
  return error.message === '' && 'code' in error ? String(error.code) : error.message;
};
