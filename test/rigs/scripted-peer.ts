/**
 * A small SMTP / LMTP server for tests that does exactly what the test says, right or wrong. Owns: a listening socket on 127.0.0.1 and
 * its sessions; keeps what clients said. It takes everything politely unless `on` says otherwise.
 */
import { createServer, type Server, type Socket } from 'node:net';
import { TLSSocket } from 'node:tls';

/** A full reply line (or lines) without the last CRLF; `drop` closes, `hang` says nothing, `raw` sends bytes as they are. */
export type PeerAnswer = string | 'drop' | 'hang' | { readonly raw: string; readonly thenDrop?: boolean };

export interface PeerMessage {
  readonly mail: string;
  readonly rcpts: readonly string[];
  /** As sent: stuffed dots still there, final dot removed. */
  readonly wire: string;
}

export interface PeerScript {
  readonly protocol?: 'SMTP' | 'LMTP';
  readonly capabilities?: readonly string[];
  readonly tls?: { readonly key: string; readonly cert: string };
  readonly onConnect?: (connection: number) => PeerAnswer | null;
  /** Null: the usual answer. `line` is upper-cased up to the first space in `verb`. */
  readonly onCommand?: (verb: string, line: string, session: PeerSession) => PeerAnswer | null;
  /** One answer per recipient in LMTP, one in SMTP. Null: the usual ones. */
  readonly onEnd?: (message: PeerMessage, session: PeerSession) => readonly PeerAnswer[] | null;
  /** While the content arrives. */
  readonly onContent?: (bytes: number, session: PeerSession) => PeerAnswer | null;
}

export interface PeerSession {
  readonly connection: number;
  mail: string;
  rcpts: string[];
  accepted: string[];
  /** Times data arrived from the client. */
  writes: number;
}

export class ScriptedPeer {
  readonly messages: PeerMessage[] = [];
  readonly lines: string[] = [];
  connections = 0;
  onSocket: (socket: Socket) => void = () => undefined;
  readonly #script: PeerScript;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(script: PeerScript) {
    this.#script = script;
    this.#server = createServer((socket) => this.#serve(socket));
  }

  static async start(script: PeerScript = {}): Promise<ScriptedPeer> {
    const peer = new ScriptedPeer(script);
    await new Promise<void>((resolve) => {
      peer.#server.listen(0, '127.0.0.1', resolve);
    });
    return peer;
  }

  get port(): number {
    const address = this.#server.address();
    if (address === null || typeof address === 'string') throw new Error('not listening');
    return address.port;
  }

  /** Ends what is open now; new connections are welcome. */
  dropAll(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.dropAll();
    if (!this.#server.listening) return;
    await new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
    });
  }

  #serve(raw: Socket): void {
    const session: PeerSession = { connection: this.connections++, mail: '', rcpts: [], accepted: [], writes: 0 };
    this.#sockets.add(raw);
    this.onSocket(raw);
    raw.setNoDelay(true);
    raw.on('error', () => raw.destroy());
    raw.on('close', () => this.#sockets.delete(raw));
    new PeerDialogue(raw, session, this.#script, this).greet();
  }
}

class PeerDialogue {
  #socket: Socket;
  #pending = '';
  #inData = false;
  #contentBytes = 0;
  readonly #content: string[] = [];
  readonly #session: PeerSession;
  readonly #script: PeerScript;
  readonly #peer: ScriptedPeer;

  constructor(socket: Socket, session: PeerSession, script: PeerScript, peer: ScriptedPeer) {
    this.#socket = socket;
    this.#session = session;
    this.#script = script;
    this.#peer = peer;
    socket.on('data', (chunk) => this.#read(chunk));
  }

  greet(): void {
    this.#answer(this.#script.onConnect?.(this.#session.connection) ?? '220 peer.test ready');
  }

  #answer(answer: PeerAnswer): void {
    if (answer === 'hang') return;
    if (answer === 'drop') this.#socket.destroy();
    else if (typeof answer === 'string') this.#socket.write(`${answer}\r\n`);
    else {
      this.#socket.write(answer.raw, () => {
        if (answer.thenDrop === true) this.#socket.destroy();
      });
    }
  }

  #read(chunk: Buffer): void {
    this.#session.writes++;
    this.#pending += chunk.toString('latin1');
    while (!this.#socket.destroyed) {
      if (this.#inData) {
        if (!this.#readContent(chunk.length)) return;
        continue;
      }
      const end = this.#pending.indexOf('\r\n');
      if (end < 0) return;
      const line = this.#pending.slice(0, end);
      this.#pending = this.#pending.slice(end + 2);
      this.#command(line);
    }
  }

  #readContent(bytes: number): boolean {
    this.#contentBytes += bytes;
    const early = this.#script.onContent?.(this.#contentBytes, this.#session) ?? null;
    if (early !== null) this.#answer(early);
    const end = this.#pending.indexOf('\r\n.\r\n');
    if (end < 0) {
      // Only the last bytes can still become part of the end.
      this.#content.push(this.#pending.slice(0, -4));
      this.#pending = this.#pending.slice(-4);
      return false;
    }
    this.#content.push(this.#pending.slice(0, end + 2));
    const wire = this.#content.splice(0).join('').slice(2);
    const message = { mail: this.#session.mail, rcpts: [...this.#session.accepted], wire };
    this.#pending = this.#pending.slice(end + 5);
    this.#inData = false;
    this.#peer.messages.push(message);
    const usual = (this.#script.protocol === 'LMTP' ? message.rcpts : ['']).map(() => '250 2.0.0 stored');
    for (const answer of this.#script.onEnd?.(message, this.#session) ?? usual) this.#answer(answer);
    Object.assign(this.#session, { mail: '', rcpts: [], accepted: [] });
    return true;
  }

  #command(line: string): void {
    this.#peer.lines.push(line);
    const verb = line.split(/[ :]/, 1)[0]?.toUpperCase() ?? '';
    if (verb === 'MAIL') this.#session.mail = line;
    if (verb === 'RCPT') this.#session.rcpts.push(line);
    const answer = this.#script.onCommand?.(verb, line, this.#session) ?? this.#usual(verb);
    const isGood = typeof answer === 'string' && /^[23]/.test(answer);
    if (verb === 'RCPT' && isGood) this.#session.accepted.push(line);
    if (verb === 'DATA' && typeof answer === 'string' && answer.startsWith('354')) {
      this.#inData = true;
      this.#contentBytes = 0;
      this.#pending = `\r\n${this.#pending}`;
    }
    this.#answer(answer);
    if (verb === 'STARTTLS' && isGood) this.#secure();
  }

  #usual(verb: string): PeerAnswer {
    if (verb === 'EHLO' || verb === 'LHLO') {
      const names = ['peer.test', ...(this.#script.capabilities ?? ['PIPELINING', '8BITMIME', 'SIZE 0'])];
      return names.map((name, at) => `250${at === names.length - 1 ? ' ' : '-'}${name}`).join('\r\n');
    }
    if (verb === 'DATA') return this.#session.accepted.length === 0 ? '503 5.5.1 no recipients' : '354 go on';
    if (verb === 'STARTTLS') return this.#script.tls === undefined ? '502 5.5.1 no' : '220 2.0.0 go on';
    if (verb === 'RSET') Object.assign(this.#session, { mail: '', rcpts: [], accepted: [] });
    return verb === 'QUIT' ? '221 2.0.0 bye' : '250 2.0.0 ok';
  }

  #secure(): void {
    if (this.#script.tls === undefined) return;
    this.#socket.removeAllListeners('data');
    const secure = new TLSSocket(this.#socket, { isServer: true, ...this.#script.tls });
    secure.on('error', () => secure.destroy());
    secure.on('data', (chunk) => this.#read(chunk));
    this.#socket = secure;
    this.#pending = '';
  }
}
