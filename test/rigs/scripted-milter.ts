/**
 * A mail filter for tests that speaks milter as it is told, on loopback. Owns: the server, every command it heard, connections that are open. By default it wants everything, answers
 * everything with "continue" and accepts nothing out of order.
 */
import { createServer, type Server, type Socket } from 'node:net';

export interface Heard {
  readonly command: string;
  readonly data: Buffer;
}

/** What comes back: packets; nothing for ever; the end of the connection; a reset. */
export type Said = Buffer | 'silence' | 'close' | 'reset';

/** Null: the usual. `count`: how many commands of this connection came before. */
export type Script = (heard: Heard, count: number) => Said | null;

export function answer(code: string, ...data: readonly (string | Buffer)[]): Buffer {
  const body = Buffer.concat(
    [code, ...data].map((part) => (typeof part === 'string' ? Buffer.from(part, 'latin1') : part)),
  );
  const length = Buffer.alloc(4);
  length.writeUInt32BE(body.length);
  return Buffer.concat([length, body]);
}

export const number = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
};

export const negotiated = (version: number, actions: number, steps: number): Buffer =>
  answer('O', number(version), number(actions), number(steps));

export const CONTINUE = answer('c');

export class ScriptedMilter {
  readonly heard: Heard[] = [];
  script: Script;
  /** It reads no more while this is true; set it before the connection. */
  isDeaf = false;
  opened = 0;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(script: Script) {
    this.script = script;
    this.#server = createServer((socket) => this.#serve(socket));
  }

  static async start(script: Script = () => null): Promise<ScriptedMilter> {
    const milter = new ScriptedMilter(script);
    await new Promise<void>((resolve) => milter.#server.listen(0, '127.0.0.1', resolve));
    return milter;
  }

  get port(): number {
    const address = this.#server.address();
    return typeof address === 'object' && address !== null ? address.port : 0;
  }

  get open(): number {
    return this.#sockets.size;
  }

  get commands(): string {
    return this.heard.map(({ command }) => command).join('');
  }

  /** The texts of every command of this kind. */
  texts(command: string): readonly (readonly string[])[] {
    return this.heard
      .filter((one) => one.command === command)
      .map(({ data }) => data.toString('latin1').replace(/\0$/, '').split('\0'));
  }

  /** Macros by the command they came before. */
  macros(command: string): Readonly<Record<string, string>> {
    const values: Record<string, string> = {};
    for (const { data } of this.heard.filter(
      (one) => one.command === 'D' && one.data.toString('latin1', 0, 1) === command,
    )) {
      const words = data.toString('utf8', 1).replace(/\0$/, '').split('\0');
      for (let at = 0; at + 1 < words.length; at += 2) values[words[at] ?? ''] = words[at + 1] ?? '';
    }
    return values;
  }

  get body(): Buffer {
    return Buffer.concat(this.heard.filter(({ command }) => command === 'B').map(({ data }) => data));
  }

  /** It reads again, if only to hear that nobody is there. */
  hear(): void {
    for (const socket of this.#sockets) socket.resume();
  }

  /** To everybody, unasked. */
  say(packets: Buffer): void {
    for (const socket of this.#sockets) socket.write(packets);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  #serve(socket: Socket): void {
    this.opened++;
    this.#sockets.add(socket);
    socket.on('error', () => undefined).on('close', () => this.#sockets.delete(socket));
    let held: Buffer = Buffer.alloc(0);
    let count = 0;
    if (this.isDeaf) {
      socket.pause();
      return;
    }
    socket.on('data', (chunk) => {
      held = Buffer.concat([held, chunk]);
      while (held.length >= 4 && held.length >= 4 + held.readUInt32BE()) {
        const end = 4 + held.readUInt32BE();
        const heard = { command: held.toString('latin1', 4, 5), data: Buffer.from(held.subarray(5, end)) };
        held = held.subarray(end);
        this.heard.push(heard);
        this.#answer(socket, this.script(heard, count++) ?? usual(heard));
      }
    });
  }

  #answer(socket: Socket, said: Said): void {
    if (said === 'close') socket.destroySoon();
    else if (said === 'reset') socket.resetAndDestroy();
    else if (said !== 'silence' && !socket.destroyed) socket.write(said);
  }
}

function usual({ command }: Heard): Said {
  if (command === 'O') return negotiated(6, 0x1, 0x100000);
  if (command === 'Q') return 'close';
  return command === 'D' || command === 'A' ? 'silence' : CONTINUE;
}
