/**
 * One question to one name server: over UDP, over TCP when the answer does not fit (RFC 7766). Owns: the sockets, and what counts as the answer to our question.
 * Promise: it ends within its bound; another id, another question or another sender is not our answer, and neither is what cannot be read: we go on waiting, because who
 * forges answers must not be able to end the question either. Port and id are drawn anew for each (RFC 5452 9.2). Fails: a value with the reason.
 * The question asks for validation (DO and AD, RFC 4035 3.2.1, RFC 6840 5.7); believing the answer is up to the caller.
 */
import { createSocket } from 'node:dgram';
import { connect, isIPv6 } from 'node:net';
import {
  type Answer,
  AUTHENTIC_DATA,
  type DecodedPacket,
  DNSSEC_OK,
  decode,
  encode,
  RECURSION_DESIRED,
  type RecordType,
  streamEncode,
} from 'dns-packet';
import type { NameServer } from '../name-server.ts';
import type { Clock } from './clock.ts';
import { describeError } from './lifecycle.ts';
import type { Random } from './random.ts';

export type { Answer, RecordType } from 'dns-packet';

export interface DnsQuestion {
  /** A name that can be asked for (`canBeAsked`). */
  readonly name: string;
  readonly type: RecordType;
}

export interface DnsReply {
  /** RFC 1035 4.1.1 with the upper bits of RFC 6891. */
  readonly rcode: number;
  /** The server says that it validated everything in it. */
  readonly isAuthentic: boolean;
  /** It asks others for what it does not know (RA), or knows itself (AA). Neither: it knows nothing. */
  readonly isRecursive: boolean;
  readonly isAuthoritative: boolean;
  readonly answers: readonly Answer[];
  readonly authorities: readonly Answer[];
}

export type Exchanged = DnsReply | { readonly problem: string };

/** What fits whatever is on the way (DNS flag day 2020). */
const UDP_BYTES = 1_232;
const HEADER_BYTES = 12;

/** The codec writes labels as they come: longer ones would become something else. */
export function canBeAsked(name: string): boolean {
  return name.length <= 253 && name.split('.').every((label) => /^[\x21-\x7e]{1,63}$/.test(label));
}

export async function exchange(
  server: NameServer,
  question: DnsQuestion,
  tryMs: number,
  { clock, random }: { readonly clock: Clock; readonly random: Random },
): Promise<Exchanged> {
  const id = random.bytes(2).readUInt16BE(0);
  const packet = {
    ...({ type: 'query', id, flags: RECURSION_DESIRED | AUTHENTIC_DATA } as const),
    questions: [question],
    additionals: [
      {
        ...({ type: 'OPT', name: '.', udpPayloadSize: UDP_BYTES, extendedRcode: 0, ednsVersion: 0 } as const),
        ...{ flags: DNSSEC_OK, flag_do: true, options: [] },
      },
    ],
  };
  const mine = (bytes: Buffer): DecodedPacket | null => read(bytes, id, question);
  const short = await overUdp(server, encode(packet), mine, tryMs, clock);
  if ('problem' in short || !short.flag_tc) return 'problem' in short ? short : replyOf(short);
  const whole = await overTcp(server, streamEncode(packet), mine, tryMs, clock);
  if ('problem' in whole) return whole;
  return whole.flag_tc ? { problem: 'the answer is cut off over TCP' } : replyOf(whole);
}

type Mine = (bytes: Buffer) => DecodedPacket | null;
type Got = DecodedPacket | { readonly problem: string };

function read(bytes: Buffer, id: number, { name, type }: DnsQuestion): DecodedPacket | null {
  try {
    const packet = decode(isCutOff(bytes) ? withoutRecords(bytes) : bytes);
    const [asked, ...more] = packet.questions ?? [];
    const isAboutIt = asked !== undefined && more.length === 0 && asked.type === type && isSame(asked.name, name);
    return packet.type === 'response' && packet.id === id && isAboutIt ? packet : null;
  } catch {
    return null;
  }
}

/** TC; what follows may end inside a record (RFC 2181 9: it is not looked at). */
const isCutOff = (bytes: Buffer): boolean => bytes.length >= HEADER_BYTES && ((bytes[2] ?? 0) & 0x02) !== 0;

/** The counts of answers, authorities and the rest are zero. */
function withoutRecords(bytes: Buffer): Buffer {
  return Buffer.concat([bytes.subarray(0, 6), Buffer.alloc(HEADER_BYTES - 6), bytes.subarray(HEADER_BYTES)]);
}

const isSame = (a: string, b: string): boolean =>
  a.replace(/\.$/, '').toLowerCase() === b.replace(/\.$/, '').toLowerCase();

function replyOf(packet: DecodedPacket): DnsReply {
  const { flags = 0, flag_ad, flag_ra, flag_aa, answers = [], authorities = [], additionals = [] } = packet;
  const edns = additionals.find((one) => one.type === 'OPT');
  const upper = edns?.type === 'OPT' ? edns.extendedRcode : 0;
  const said = { isAuthentic: flag_ad, isRecursive: flag_ra, isAuthoritative: flag_aa };
  return { rcode: (flags & 0xf) + upper * 16, ...said, answers, authorities };
}

function overUdp({ address, port }: NameServer, bytes: Buffer, mine: Mine, tryMs: number, clock: Clock): Promise<Got> {
  const { promise, resolve } = Promise.withResolvers<Got>();
  const socket = createSocket(isIPv6(address) ? 'udp6' : 'udp4');
  let foreign = 0;
  const settle = (got: Got): void => {
    timer.cancel();
    socket.removeAllListeners().on('error', () => undefined);
    socket.close();
    resolve(got);
  };
  const timer = clock.setTimer(tryMs, () =>
    settle({ problem: foreign === 0 ? 'no answer' : `no answer, but ${foreign} packets that are none` }),
  );
  socket.on('error', (error) => settle({ problem: error.message }));
  socket.on('message', (reply) => {
    const packet = mine(reply);
    if (packet === null) foreign++;
    else settle(packet);
  });
  // Connected: the system lets nothing in from elsewhere, and says when nobody listens.
  socket.on('connect', () => socket.send(bytes));
  try {
    socket.connect(port, address);
  } catch (error) {
    // A port that there is not.
    settle({ problem: describeError(error) });
  }
  return promise;
}

function overTcp(server: NameServer, bytes: Buffer, mine: Mine, tryMs: number, clock: Clock): Promise<Got> {
  const { promise, resolve } = Promise.withResolvers<Got>();
  const socket = connect({ host: server.address, port: server.port });
  let got = Buffer.alloc(0);
  const settle = (answer: Got): void => {
    timer.cancel();
    socket.removeAllListeners().on('error', () => undefined);
    socket.destroy();
    resolve(answer);
  };
  const timer = clock.setTimer(tryMs, () => settle({ problem: 'no answer over TCP' }));
  socket.on('error', (error) => settle({ problem: `TCP: ${error.message}` }));
  socket.on('close', () => settle({ problem: 'the TCP connection was closed before the answer' }));
  socket.on('data', (chunk: Buffer) => {
    got = Buffer.concat([got, chunk]);
    if (got.length < 2 || got.length < 2 + got.readUInt16BE(0)) return;
    settle(
      mine(got.subarray(2, 2 + got.readUInt16BE(0))) ?? { problem: 'the answer over TCP is none to the question' },
    );
  });
  socket.write(bytes);
  return promise;
}
