/** A real web server with one MTA-STS policy, on loopback. Owns: its socket; the test may change what it answers at any time. */
import { createServer, type Server } from 'node:https';
import { testCertificate } from './test-certificate.ts';

export class PolicyServer implements AsyncDisposable {
  readonly ca: string;
  readonly #server: Server;
  /** Of each request, `HOST PATH`. */
  readonly asked: string[] = [];
  answer: { readonly status?: number; readonly headers?: Readonly<Record<string, string>>; readonly body: string };

  private constructor(ca: string, server: Server, body: string) {
    this.ca = ca;
    this.#server = server;
    this.answer = { body };
    server.on('request', (request, response) => {
      this.asked.push(`${request.headers.host} ${request.url}`);
      const { status = 200, headers = {}, body: text } = this.answer;
      response.writeHead(status, { 'content-type': 'text/plain', ...headers }).end(text);
    });
  }

  static async start(host: string, body: string): Promise<PolicyServer> {
    const { ca, ...tls } = await testCertificate(host);
    const server = createServer(tls);
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return new PolicyServer(ca, server, body);
  }

  get port(): number {
    const address = this.#server.address();
    if (address === null || typeof address === 'string') throw new Error('not listening');
    return address.port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#server.listening) return;
    this.#server.closeAllConnections();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }
}
