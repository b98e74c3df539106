/** A real name server for tests, on loopback over UDP. Owns: its zone, which the test may change at any time, and what was asked. */
import { createSocket, type Socket } from 'node:dgram';
import { type Answer, decode, encode } from 'dns-packet';

const NXDOMAIN = 3;
const SERVFAIL = 2;

/** What is known of a name; `SERVFAIL` and `silent` are answers to every question about it. A name that is not listed does not exist. */
export type ZoneEntry =
  | 'SERVFAIL'
  | 'silent'
  | {
      readonly mx?: readonly (readonly [number, string])[];
      readonly a?: readonly string[];
      readonly aaaa?: readonly string[];
      readonly txt?: readonly string[];
    };

export class DnsServer implements AsyncDisposable {
  readonly zone: Record<string, ZoneEntry>;
  readonly asked: string[] = [];
  readonly #socket: Socket;

  private constructor(zone: Record<string, ZoneEntry>) {
    this.zone = zone;
    this.#socket = createSocket('udp4');
    this.#socket.on('message', (packet, { address, port }) => {
      const reply = this.#answer(packet);
      if (reply !== null) this.#socket.send(reply, port, address);
    });
  }

  static async start(zone: Record<string, ZoneEntry>): Promise<DnsServer> {
    const server = new DnsServer(zone);
    await new Promise<void>((resolve) => server.#socket.bind(0, '127.0.0.1', resolve));
    return server;
  }

  /** As a resolver's server list has it. */
  get server(): string {
    return `127.0.0.1:${this.#socket.address().port}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await new Promise<void>((resolve) => this.#socket.close(() => resolve()));
  }

  #answer(packet: Buffer): Buffer | null {
    const { id, questions = [] } = decode(packet);
    const [question] = questions;
    const name = question?.name.toLowerCase() ?? '';
    this.asked.push(`${question?.type} ${name}`);
    const entry = this.zone[name];
    if (entry === 'silent') return null;
    const rcode = entry === undefined ? NXDOMAIN : entry === 'SERVFAIL' ? SERVFAIL : 0;
    const answers = entry === undefined || entry === 'SERVFAIL' ? [] : recordsOf(name, question?.type ?? '', entry);
    return encode({ type: 'response', ...(id === undefined ? {} : { id }), flags: 0x8180 | rcode, questions, answers });
  }
}

function recordsOf(name: string, type: string, entry: Exclude<ZoneEntry, string>): Answer[] {
  const { mx = [], a = [], aaaa = [], txt = [] } = entry;
  // RFC 1035 3.3.14: strings of at most 255 octets.
  if (type === 'TXT') return txt.map((data) => ({ type: 'TXT', name, ttl: 1, data: data.match(/.{1,255}/gs) ?? [''] }));
  if (type === 'MX')
    return mx.map(([preference, exchange]) => ({ type: 'MX', name, ttl: 1, data: { preference, exchange } }));
  if (type === 'A') return a.map((data) => ({ type: 'A', name, ttl: 1, data }));
  return type === 'AAAA' ? aaaa.map((data) => ({ type: 'AAAA', name, ttl: 1, data })) : [];
}
