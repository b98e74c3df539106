/** A client that sends exactly the bytes it is given and reads reply lines; for dialogs and adapter tests. Every wait has a deadline. */
import { connect as connectTcp, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';

const DEADLINE_MS = 5_000;

/** Lets everything that is ready on any socket of this process be read. */
export async function turn(): Promise<void> {
  for (let i = 0; i < 3; i++) await new Promise<void>((resolve) => setImmediate(resolve));
}

export class LineClient {
  #socket: Socket;
  #text = '';
  #ended = false;
  #wake: (() => void) | null = null;

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.#listen(socket);
  }

  static async connect(port: number, tls: boolean): Promise<LineClient> {
    const host = '127.0.0.1';
    const socket = tls
      ? connectTls({ host, port, rejectUnauthorized: false })
      : connectTcp({ host, port, noDelay: true });
    const client = new LineClient(socket);
    await client.#until(`connected (tls: ${tls})`, () => !socket.connecting && (!tls || 'encrypted' in socket));
    return client;
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** What arrived and was not read yet. */
  get unread(): string {
    return this.#text;
  }

  send(bytes: Buffer | string): void {
    this.#socket.write(bytes);
  }

  /** Stops or goes on reading from the socket. */
  pause(): void {
    this.#socket.pause();
  }
  resume(): void {
    this.#socket.resume();
  }

  async line(): Promise<string> {
    await this.#until('a reply line', () => this.#text.includes('\r\n') || this.#ended);
    const end = this.#text.indexOf('\r\n');
    if (end === -1) throw new Error(`the server closed the connection; unread: ${JSON.stringify(this.#text)}`);
    const line = this.#text.slice(0, end);
    this.#text = this.#text.slice(end + 2);
    return line;
  }

  /** All lines of one reply. */
  async reply(): Promise<string[]> {
    const lines = [await this.line()];
    while (lines.at(-1)?.[3] === '-') lines.push(await this.line());
    return lines;
  }

  /** The server closed; returns what it said before that and nobody read. */
  async closed(): Promise<string> {
    await this.#until('the end of the connection', () => this.#ended);
    return this.#text;
  }

  async startTls(): Promise<void> {
    const raw = this.#socket;
    raw.removeAllListeners();
    const socket = connectTls({ socket: raw, rejectUnauthorized: false });
    this.#socket = socket;
    let secure = false;
    socket.once('secureConnect', () => {
      secure = true;
      this.#wake?.();
    });
    this.#listen(socket);
    await this.#until('the TLS handshake', () => secure || this.#ended);
    if (!secure) throw new Error('the TLS handshake failed');
  }

  drop(): void {
    this.#socket.destroy();
  }

  #listen(socket: Socket): void {
    socket.on('data', (chunk: Buffer) => {
      this.#text += chunk.toString('latin1');
      this.#wake?.();
    });
    const over = (): void => {
      this.#ended = true;
      this.#wake?.();
    };
    socket.on('end', over).on('close', over);
    // A reset is an end like any other; `closed` and `line` tell.
    socket.on('error', over);
    for (const event of ['connect', 'secureConnect']) socket.on(event, () => this.#wake?.());
  }

  async #until(what: string, met: () => boolean): Promise<void> {
    const deadline = performance.now() + DEADLINE_MS;
    while (!met()) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, DEADLINE_MS);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      this.#wake = null;
      if (performance.now() > deadline && !met()) throw new Error(`waited ${DEADLINE_MS} ms in vain for ${what}`);
    }
  }
}
