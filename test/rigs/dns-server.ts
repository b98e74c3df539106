/**
 * A real name server for tests, on loopback over UDP and TCP. Owns: its zone, which the test may change at any time, and what was asked. For names that are `isSigned` it
 * says that it validated them (AD) to who asks for that: it plays a resolver that validates, it checks nothing. One that does is in `unbound.ts`.
 */
import { createSocket, type Socket } from 'node:dgram';
import { createServer, type Server } from 'node:net';
import { type Answer, decode, encode, type TlsaData } from 'dns-packet';

const NXDOMAIN = 3;
const SERVFAIL = 2;
const AUTHENTIC = 0x20;
const TRUNCATED = 0x200;

/** What is known of a name; `SERVFAIL` and `silent` are answers to every question about it. A name that is not listed does not exist. */
export type ZoneEntry = 'SERVFAIL' | 'silent' | ZoneRecords;

export interface ZoneRecords {
  readonly mx?: readonly (readonly [number, string])[];
  readonly a?: readonly string[];
  readonly aaaa?: readonly string[];
  readonly txt?: readonly string[];
  readonly tlsa?: readonly TlsaData[];
  readonly ns?: readonly string[];
  readonly cname?: string;
  readonly isSigned?: boolean;
  readonly ttl?: number;
  /** Too long for UDP. */
  readonly isLong?: boolean;
}

export class DnsServer implements AsyncDisposable {
  readonly zone: Record<string, ZoneEntry>;
  readonly asked: string[] = [];
  /** What is sent over UDP in place of the answer. */
  distort: (reply: Buffer) => readonly Buffer[] = (reply) => [reply];
  isSilentOverTcp = false;
  readonly #socket: Socket;
  readonly #server: Server;

  private constructor(zone: Record<string, ZoneEntry>) {
    this.zone = zone;
    this.#socket = createSocket('udp4');
    this.#socket.on('message', (packet, { address, port }) => {
      const reply = this.#answer(packet, true);
      if (reply !== null) for (const one of this.distort(reply)) this.#socket.send(one, port, address);
    });
    this.#server = createServer((connection) => {
      connection.on('error', () => undefined);
      connection.on('data', (bytes) => {
        const reply = this.#answer(bytes.subarray(2), false);
        if (reply === null || this.isSilentOverTcp) return;
        const length = Buffer.alloc(2);
        length.writeUInt16BE(reply.length);
        // In pieces, as they may come.
        connection.write(length.subarray(0, 1));
        setImmediate(() => connection.end(Buffer.concat([length.subarray(1), reply])));
      });
    });
  }

  static async start(zone: Record<string, ZoneEntry>): Promise<DnsServer> {
    for (;;) {
      const server = new DnsServer(zone);
      await new Promise<void>((resolve) => server.#socket.bind(0, '127.0.0.1', resolve));
      if (await server.#listens()) return server;
      // Somebody has that port of TCP.
      await new Promise<void>((resolve) => server.#socket.close(() => resolve()));
    }
  }

  #listens(): Promise<boolean> {
    return new Promise((resolve) => {
      this.#server.once('error', () => resolve(false));
      this.#server.listen(this.#socket.address().port, '127.0.0.1', () => resolve(true));
    });
  }

  /** As a resolver's server list has it. */
  get server(): string {
    return `127.0.0.1:${this.#socket.address().port}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await new Promise<void>((resolve) => this.#socket.close(() => resolve()));
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  #answer(packet: Buffer, isUdp: boolean): Buffer | null {
    const { id, questions = [], additionals = [], flag_ad } = decode(packet);
    const [question] = questions;
    let name = question?.name.toLowerCase() ?? '';
    const type = question?.type ?? 'A';
    this.asked.push(`${type} ${name}`);
    const answers: Answer[] = [];
    let isSigned = true;
    for (;;) {
      const entry = this.zone[name];
      if (entry === 'silent') return null;
      if (entry === undefined || entry === 'SERVFAIL') {
        const rcode = entry === undefined ? NXDOMAIN : SERVFAIL;
        return reply(id, questions, rcode, entry === undefined ? answers : []);
      }
      if (isUdp && entry.isLong === true) return reply(id, questions, TRUNCATED, []);
      isSigned &&= entry.isSigned === true;
      const wants = flag_ad || additionals.some((one) => one.type === 'OPT' && one.flag_do);
      const { cname } = entry;
      if (cname !== undefined) answers.push({ type: 'CNAME', name, ttl: entry.ttl ?? 1, data: cname });
      if (cname === undefined || type === 'CNAME') {
        if (cname === undefined) answers.push(...recordsOf(name, type, entry));
        return reply(id, questions, isSigned && wants ? AUTHENTIC : 0, answers);
      }
      name = cname;
    }
  }
}

function reply(
  id: number | undefined,
  questions: ReturnType<typeof decode>['questions'] = [],
  flags: number,
  answers: Answer[],
): Buffer {
  return encode({ type: 'response', ...(id === undefined ? {} : { id }), flags: 0x8180 | flags, questions, answers });
}

function recordsOf(name: string, type: string, entry: ZoneRecords): Answer[] {
  const { mx = [], a = [], aaaa = [], txt = [], tlsa = [], ns = [], ttl = 1 } = entry;
  // RFC 1035 3.3.14: strings of at most 255 octets.
  if (type === 'TXT') return txt.map((data) => ({ type: 'TXT', name, ttl, data: data.match(/.{1,255}/gs) ?? [''] }));
  if (type === 'MX')
    return mx.map(([preference, exchange]) => ({ type: 'MX', name, ttl, data: { preference, exchange } }));
  if (type === 'TLSA') return tlsa.map((data) => ({ type: 'TLSA', name, ttl, data }));
  if (type === 'NS') return ns.map((data) => ({ type: 'NS', name, ttl, data }));
  if (type === 'A') return a.map((data) => ({ type: 'A', name, ttl, data }));
  return type === 'AAAA' ? aaaa.map((data) => ({ type: 'AAAA', name, ttl, data })) : [];
}
