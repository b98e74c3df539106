/**
 * Stands between an LMTP (or SMTP) client and a real server and passes bytes on, except for the reply to an end of data: there it asks the
 * test what to do. Owns: a listening socket on 127.0.0.1 and the connections through it.
 */
import { connect, createServer, type Server, type Socket } from 'node:net';

/** `pass` the reply on, or `drop` it: the client loses the connection, the server has done its work. */
export type Fate = 'pass' | 'drop';

const END = Buffer.from('\r\n.\r\n');

export class ReplyInterceptor {
  /** Asked once for each end of data that the server has answered. */
  decide: (reply: string) => Fate = () => 'pass';
  dropped = 0;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #targetPort: number;

  private constructor(targetPort: number) {
    this.#targetPort = targetPort;
    this.#server = createServer((client) => this.#serve(client));
  }

  static async start(targetPort: number): Promise<ReplyInterceptor> {
    const made = new ReplyInterceptor(targetPort);
    await new Promise<void>((resolve) => {
      made.#server.listen(0, '127.0.0.1', resolve);
    });
    return made;
  }

  get port(): number {
    const address = this.#server.address();
    if (address === null || typeof address === 'string') throw new Error('not listening');
    return address.port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
    });
  }

  #serve(client: Socket): void {
    const server = connect(this.#targetPort, '127.0.0.1');
    let tail = Buffer.alloc(0);
    let ended = false;
    for (const [socket, other] of [
      [client, server],
      [server, client],
    ] as const) {
      this.#sockets.add(socket);
      socket.setNoDelay(true);
      socket.on('error', () => socket.destroy());
      socket.on('close', () => {
        this.#sockets.delete(socket);
        other.destroy();
      });
    }
    client.on('data', (chunk: Buffer) => {
      tail = Buffer.concat([tail, chunk]).subarray(-END.length);
      if (tail.equals(END)) ended = true;
      server.write(chunk);
    });
    server.on('data', (chunk: Buffer) => {
      const isReplyToEnd = ended;
      ended = false;
      if (isReplyToEnd && this.decide(chunk.toString('latin1')) === 'drop') {
        this.dropped += 1;
        client.destroy();
        return;
      }
      client.write(chunk);
    });
  }
}
