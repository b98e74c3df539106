/**
 * An SMTP client connection over a real socket, for the demo and the process tests. Deliberately not our own SMTP client: the witness
 * must not share code with the accused. Owns: the socket. Promise: every `reply()` resolves, with a reply or with the reason for which
 * there will be none; a peer that says nothing for the timeout counts as lost.
 */
import { connect, type Socket } from 'node:net';

export interface Target {
  readonly host: string;
  readonly port: number;
}

export interface Reply {
  readonly code: number;
  readonly text: string;
}

export class SmtpConnection {
  readonly #socket: Socket;
  readonly #waiting: ((reply: Reply | string) => void)[] = [];
  #input = '';
  #lines: string[] = [];
  #ready: Reply[] = [];
  /** Why the connection is over, or null. */
  #ended: string | null = null;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setEncoding('latin1');
    socket.on('data', (chunk: string) => this.#read(chunk));
    socket.on('error', (error) => this.#end(error.message));
    socket.on('close', () => this.#end('closed'));
  }

  static async open(target: Target, timeoutMs = 60_000, helo = 'ledger.example.org'): Promise<SmtpConnection> {
    const socket = connect(target.port, target.host);
    socket.setNoDelay(true);
    socket.setTimeout(timeoutMs, () => socket.destroy(new Error(`silent for ${timeoutMs} ms`)));
    const connection = new SmtpConnection(socket);
    await connection.expect(220, 'greeting');
    connection.send(`EHLO ${helo}\r\n`);
    await connection.expect(250, 'EHLO');
    return connection;
  }

  get ended(): string | null {
    return this.#ended;
  }

  send(data: string | Buffer): void {
    this.#socket.write(data);
  }

  /** The next reply, or the reason for which there will be none. */
  reply(): Promise<Reply | string> {
    const first = this.#ready.shift();
    if (first !== undefined) return Promise.resolve(first);
    if (this.#ended !== null) return Promise.resolve(this.#ended);
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  async expect(code: number, what: string): Promise<void> {
    const reply = await this.reply();
    if (typeof reply === 'string') throw new Error(`${what}: ${reply}`);
    if (reply.code !== code) {
      this.close();
      throw new Error(`${what}: ${reply.code} ${reply.text}`);
    }
  }

  close(): void {
    this.#socket.destroy();
    this.#end('closed by us');
  }

  #read(chunk: string): void {
    this.#input += chunk;
    for (let end = this.#input.indexOf('\r\n'); end >= 0; end = this.#input.indexOf('\r\n')) {
      const line = this.#input.slice(0, end);
      this.#input = this.#input.slice(end + 2);
      this.#lines.push(line.slice(4));
      if (line[3] === '-') continue;
      const reply = { code: Number(line.slice(0, 3)), text: this.#lines.join('\n') };
      this.#lines = [];
      const waiting = this.#waiting.shift();
      if (waiting) waiting(reply);
      else this.#ready.push(reply);
    }
  }

  #end(reason: string): void {
    this.#ended ??= reason;
    for (const waiting of this.#waiting.splice(0)) waiting(this.#ended);
  }
}

/** RFC 5321 4.5.2; content must end with CRLF. */
export function doubledDots(content: Buffer): Buffer {
  return Buffer.from(content.toString('latin1').replace(/^\./gm, '..'), 'latin1');
}
