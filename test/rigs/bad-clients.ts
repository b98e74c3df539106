/**
 * Clients that nobody wants, each from an address of its own in 127.0.0.0/8, as strangers are: one in four says nothing at all, one writes a command a byte a second,
 * one a message a byte a second, one talks junk. Owns: their sockets; who is cut off comes back at the next beat. Traffic on the loopback only.
 */
import { connect, type Socket } from 'node:net';

const KINDS = ['idle', 'slow-command', 'slow-body', 'junk'] as const;
const BEAT_MS = 1_000;
/** New connections of one beat, so that the listener's backlog holds them. */
const DIALS_A_BEAT = 500;
const JUNK = ['\0\x01\xff\xfe\r\n', 'GE\r\n', 'MAIL TO:<>\r\n', 'NOOP\r\n', `${'x'.repeat(600)}\r\n`];
const UP_TO_DATA = [
  'EHLO bad.example\r\n',
  'MAIL FROM:<bad@example.org>\r\n',
  'RCPT TO:<ann@example.com>\r\n',
  'DATA\r\n',
];

class BadClient {
  readonly #kind: (typeof KINDS)[number];
  readonly #address: string;
  socket: Socket | null = null;
  #beats = 0;
  /** What of `UP_TO_DATA` was said, each after the reply to the one before: whoever sends it in one go is cut off at once. */
  #said = 0;

  constructor(nth: number) {
    this.#kind = KINDS[nth % KINDS.length] ?? 'idle';
    this.#address = `127.1.${Math.floor(nth / 250)}.${1 + (nth % 250)}`;
  }

  dial(host: string, port: number): void {
    const socket = connect({ host, port, localAddress: this.#address });
    this.socket = socket;
    this.#beats = 0;
    this.#said = 0;
    const gone = (): void => {
      if (this.socket === socket) this.socket = null;
    };
    socket.on('error', gone);
    socket.on('close', gone);
    // What it is told it throws away; the content goes only after the 354.
    socket.on('data', (reply: Buffer) => {
      if (this.#kind === 'slow-body' && /^\d{3} .*\r\n$/m.test(reply.toString('latin1')))
        socket.write(UP_TO_DATA[this.#said++] ?? '');
    });
  }

  beat(): void {
    const beat = this.#beats++;
    if (this.socket?.readyState !== 'open' || this.#kind === 'idle' || beat < 2) return;
    if (this.#kind === 'slow-body' && this.#said <= UP_TO_DATA.length) return;
    if (this.#kind === 'junk') this.socket.write(JUNK[beat % JUNK.length] ?? '', 'latin1');
    else this.socket.write('x');
  }
}

export class BadClients {
  readonly #clients: readonly BadClient[];
  readonly #target: { readonly host: string; readonly port: number };
  readonly #timer: NodeJS.Timeout;
  /** Connections begun so far: more than there are clients once some were cut off. */
  dialled = 0;

  constructor(target: { readonly host: string; readonly port: number }, count: number) {
    this.#target = target;
    this.#clients = Array.from({ length: count }, (_, nth) => new BadClient(nth));
    this.#timer = setInterval(() => this.#beat(), BEAT_MS);
    this.#beat();
  }

  get open(): number {
    return this.#clients.filter(({ socket }) => socket?.readyState === 'open').length;
  }

  #beat(): void {
    let dials = 0;
    for (const client of this.#clients) {
      if (client.socket !== null) client.beat();
      else if (dials < DIALS_A_BEAT) {
        dials++;
        this.dialled++;
        client.dial(this.#target.host, this.#target.port);
      }
    }
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    for (const { socket } of this.#clients) socket?.destroy();
  }
}
