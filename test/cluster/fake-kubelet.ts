/**
 * The port of a kubelet: what the API server asks one for `portforward` (WebSocket, `v4.channel.k8s.io`, as k8s.io/kubelet serves it) and
 * `log`. Owns: one HTTPS listener on loopback and its connections. Promise: bytes go through unseen and unchanged; a pod or port that is
 * not there is answered as a kubelet does. Any client is served: who may ask was the API server's question.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import { type AddressInfo, connect } from 'node:net';
import { type WebSocket, WebSocketServer } from 'ws';
import { testCertificate } from '../rigs/test-certificate.ts';
import type { KubeClient } from './kube-client.ts';

export interface FakePod {
  /** Where the pod is; absent: 127.0.0.1. */
  readonly host?: string;
  /** Port in the pod to port there. */
  readonly ports: Readonly<Record<number, number>>;
  log(): Promise<string>;
}

interface Target {
  readonly port: number;
  readonly to: number | undefined;
  readonly host: string;
}

const PROTOCOL = 'v4.channel.k8s.io';

export class FakeKubelet {
  /** By `namespace/name`. */
  readonly pods = new Map<string, FakePod>();
  readonly #server: Server;
  readonly #sockets = new WebSocketServer({
    noServer: true,
    handleProtocols: (offered) => (offered.has(PROTOCOL) ? PROTOCOL : false),
  });

  private constructor(server: Server) {
    this.#server = server;
    server.on('request', (request, response) => void this.#answer(request, response));
    server.on('upgrade', (request, socket, head) => {
      const target = this.#target(request);
      if (typeof target === 'string') {
        socket.end(`HTTP/1.1 404 Not Found\r\nContent-Length: ${target.length}\r\nConnection: close\r\n\r\n${target}`);
        return;
      }
      this.#sockets.handleUpgrade(request, socket, head, (client) => forward(client, target));
    });
  }

  static async start(): Promise<FakeKubelet> {
    const { cert, key } = await testCertificate('127.0.0.1');
    const server = createServer({ cert, key });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return new FakeKubelet(server);
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** From now on the API server finds us for this node. */
  async serve(client: KubeClient, node: string): Promise<void> {
    const status = {
      addresses: [{ type: 'InternalIP', address: '127.0.0.1' }],
      daemonEndpoints: { kubeletEndpoint: { Port: this.port } },
    };
    const object = { apiVersion: 'v1', kind: 'Node', metadata: { name: node } };
    await client.mustApply({ ...object, status }, { fieldManager: 'fake-kubelet-port', subresource: 'status' });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#sockets.clients) client.terminate();
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeAllConnections();
    await closed;
  }

  #target(request: IncomingMessage): Target | string {
    const { pathname, searchParams } = new URL(request.url ?? '', 'https://kubelet');
    const [, verb, namespace, name] = pathname.split('/');
    const pod = this.pods.get(`${namespace}/${name}`);
    if (verb !== 'portForward' || pod === undefined) return `pod does not exist: ${namespace}/${name}\n`;
    const port = Number(searchParams.get('port'));
    return { port, to: pod.ports[port], host: pod.host ?? '127.0.0.1' };
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const [, verb, namespace, name] = new URL(request.url ?? '', 'https://kubelet').pathname.split('/');
    const pod = this.pods.get(`${namespace}/${name}`);
    if (verb === 'containerLogs' && pod !== undefined) response.end(await pod.log());
    else response.writeHead(404).end(`pod does not exist: ${namespace}/${name}\n`);
  }
}

/** Data on channel 0, errors on channel 1, each beginning with the port (little endian). */
function forward(client: WebSocket, { port, to, host }: Target): void {
  const channel = (number: number, bytes: Buffer): void => client.send(Buffer.concat([Buffer.of(number), bytes]));
  const named = Buffer.alloc(2);
  named.writeUInt16LE(port);
  channel(0, named);
  channel(1, named);
  const failed = (why: string): void => {
    channel(1, Buffer.from(`error forwarding port ${port} to pod: ${why}`));
    client.close();
  };
  if (to === undefined) {
    failed('connection refused');
    return;
  }
  const socket = connect(to, host);
  socket.on('error', (error) => failed(error.message));
  socket.on('data', (bytes) => channel(0, bytes));
  socket.on('close', () => client.close());
  client.on('message', (message: Buffer) => socket.write(message.subarray(1)));
  client.on('error', () => socket.destroy());
  client.on('close', () => socket.destroy());
}
