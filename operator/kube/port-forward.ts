/**
 * A connection to a port of a pod through the API server: the subresource `portforward` of a pod over a WebSocket, as kubelets speak it
 * (`v4.channel.k8s.io`: one byte of channel before each message - 0 data, 1 errors - and the port in the first two bytes of each).
 * Owns: one WebSocket per connection. Promises: credentials are those of the identity, read anew for each; opening ends by its deadline;
 * what the pod sends waits while nobody reads. Fails: `PortForwardError` with what the API server said; an error of the pod's side
 * (nobody listens) ends the stream with that error. Half-closed connections do not exist here: an end is the end of both directions.
 */
import type { IncomingMessage } from 'node:http';
import { Duplex } from 'node:stream';
import WebSocket from 'ws';
import { failureOf, type KubeFailure } from './failures.ts';
import type { KubeIdentity } from './identity.ts';

export interface ForwardTarget {
  readonly namespace: string;
  readonly pod: string;
  readonly port: number;
}

export class PortForwardError extends Error {
  readonly failure: KubeFailure;
  constructor(failure: KubeFailure) {
    super(failure.message);
    this.name = 'PortForwardError';
    this.failure = failure;
  }
}

const PROTOCOL = 'v4.channel.k8s.io';
const DATA = 0;
const ERRORS = 1;
const PORT_BYTES = 2;
const MAX_MESSAGE_BYTES = 16 << 20;
const MAX_REFUSAL_BYTES = 64 << 10;

class ForwardedStream extends Duplex {
  readonly #socket: WebSocket;
  readonly #skipped = new Map<number, number>();

  constructor(socket: WebSocket) {
    super({ allowHalfOpen: false });
    this.#socket = socket;
    socket.on('message', (message: Buffer) => this.#take(message));
    socket.on('error', (error) => this.destroy(error));
    socket.on('close', () => {
      this.push(null);
      this.destroy();
    });
  }

  #take(message: Buffer): void {
    const channel = message[0] ?? -1;
    const skip = Math.min(PORT_BYTES - (this.#skipped.get(channel) ?? 0), message.length - 1);
    this.#skipped.set(channel, (this.#skipped.get(channel) ?? 0) + skip);
    const bytes = message.subarray(1 + skip);
    if (bytes.length === 0) return;
    if (channel === ERRORS) this.destroy(new Error(bytes.toString('utf8').trim()));
    else if (channel === DATA && !this.push(bytes)) this.#socket.pause();
  }

  override _read(): void {
    if (this.#socket.isPaused) this.#socket.resume();
  }

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    this.#socket.send(Buffer.concat([Buffer.of(DATA), chunk]), done);
  }

  override _final(done: () => void): void {
    this.#socket.close();
    done();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#socket.terminate();
    done(error);
  }
}

async function refusal(response: IncomingMessage): Promise<PortForwardError> {
  let text = '';
  for await (const chunk of response) if (text.length < MAX_REFUSAL_BYTES) text += String(chunk);
  let body: unknown = null;
  try {
    body = JSON.parse(text);
  } catch (error) {
    // What a kubelet says is plain text.
    if (!(error instanceof SyntaxError)) throw error;
    body = { kind: 'Status', message: text.trim() };
  }
  return new PortForwardError(failureOf(response.statusCode ?? 0, body, null));
}

export async function openPortForward(
  identity: KubeIdentity,
  { namespace, pod, port }: ForwardTarget,
  deadlineMs: number,
): Promise<Duplex> {
  const { tls, headers } = await identity.credentials();
  const path = `/api/v1/namespaces/${encodeURIComponent(namespace)}/pods/${encodeURIComponent(pod)}/portforward`;
  const socket = new WebSocket(`${identity.server.replace(/^http/, 'ws')}${path}?ports=${port}`, [PROTOCOL], {
    headers: { ...headers },
    handshakeTimeout: deadlineMs,
    maxPayload: MAX_MESSAGE_BYTES,
    perMessageDeflate: false,
    rejectUnauthorized: tls.isVerified,
    ...(tls.ca === null ? {} : { ca: tls.ca }),
    ...(tls.cert === null ? {} : { cert: tls.cert }),
    ...(tls.key === null ? {} : { key: tls.key }),
    ...(tls.serverName === null ? {} : { servername: tls.serverName }),
  });
  return await new Promise((resolve, reject) => {
    socket.once('error', reject);
    socket.once('unexpected-response', (request, response) => {
      refusal(response)
        .then(reject, reject)
        .finally(() => request.destroy());
    });
    // Before `open`, so that nothing that comes with it is missed.
    const stream = new ForwardedStream(socket);
    stream.once('error', reject);
    socket.once('open', () => {
      stream.removeListener('error', reject);
      resolve(stream);
    });
  });
}
