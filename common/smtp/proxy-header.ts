/**
 * The PROXY protocol header (versions 1 and 2) by which a load balancer says whose connection it passes on. PURE. Owns: that syntax.
 * Promise: the answer does not depend on how the bytes were cut; at most `MAX_PROXY_HEADER_BYTES` are ever asked for. Refuses whatever is
 * not exactly a header: its sender is trusted to name clients, so nothing is guessed.
 */
import { isIPv4, isIPv6 } from 'node:net';

export interface ProxiedClient {
  readonly address: string;
  readonly port: number;
}

export type ProxyHeader =
  | { readonly kind: 'more' }
  | { readonly kind: 'bad'; readonly problem: string }
  /** `client` null: the balancer speaks for itself (a health check) or does not know; the address of the socket is the client's. */
  | { readonly kind: 'header'; readonly bytes: number; readonly client: ProxiedClient | null };

/** Version 2 with type-length-values; version 1 has 107 at most. */
export const MAX_PROXY_HEADER_BYTES = 2_048;
const MAX_V1_BYTES = 107;

const SIGNATURE = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1');
const V1_START = Buffer.from('PROXY ');
const V2_FIXED_BYTES = 16;

const bad = (problem: string): ProxyHeader => ({ kind: 'bad', problem });

const startsLike = (bytes: Buffer, start: Buffer): boolean => {
  const length = Math.min(bytes.length, start.length);
  return bytes.subarray(0, length).equals(start.subarray(0, length));
};

/** `bytes`: everything received so far. */
export function parseProxyHeader(bytes: Buffer): ProxyHeader {
  if (startsLike(bytes, SIGNATURE)) return bytes.length < V2_FIXED_BYTES ? { kind: 'more' } : parseV2(bytes);
  if (startsLike(bytes, V1_START)) return parseV1(bytes);
  return bad('no PROXY header');
}

function parseV1(bytes: Buffer): ProxyHeader {
  const end = bytes.indexOf('\r\n');
  if (end < 0) return bytes.length < MAX_V1_BYTES ? { kind: 'more' } : bad('a PROXY line without end');
  if (end + 2 > MAX_V1_BYTES) return bad('a PROXY line that is too long');
  const line = bytes.toString('latin1', 0, end);
  // Version 1 section 2.1: what follows UNKNOWN is ignored.
  if (line === 'PROXY UNKNOWN' || line.startsWith('PROXY UNKNOWN ')) return header(end + 2, null);
  const fields = /^PROXY (TCP4|TCP6) (\S+) (\S+) (\d{1,5}) (\d{1,5})$/.exec(line);
  if (fields === null) return bad('a PROXY line of another form');
  const [, family, source = '', destination = '', port] = fields;
  const isAddress = family === 'TCP4' ? isIPv4 : isIPv6;
  // No zones: they mean nothing on another machine.
  if (![source, destination].every((address) => isAddress(address) && !address.includes('%')))
    return bad('a PROXY line with a bad address');
  if (Number(port) > 65_535 || Number(fields[5]) > 65_535) return bad('a PROXY line with a bad port');
  return header(end + 2, { address: source, port: Number(port) });
}

function parseV2(bytes: Buffer): ProxyHeader {
  const [version, command] = [(bytes[12] ?? 0) >> 4, (bytes[12] ?? 0) & 0x0f];
  const family = bytes[13] ?? 0;
  const length = bytes.readUInt16BE(14);
  const total = V2_FIXED_BYTES + length;
  if (version !== 2) return bad(`a PROXY header of version ${version}`);
  if (command > 1) return bad('a PROXY header with an unknown command');
  if (total > MAX_PROXY_HEADER_BYTES) return bad('a PROXY header that is too long');
  const [addressBytes, width] = family === 0x11 ? [12, 4] : family === 0x21 ? [36, 16] : [0, 0];
  if (command === 1 && family !== 0 && width === 0) return bad('a PROXY header about something else than TCP');
  if (command === 1 && length < addressBytes) return bad('a PROXY header that is too short for its addresses');
  if (bytes.length < total) return { kind: 'more' };
  if (command === 0 || width === 0) return header(total, null);
  const source = bytes.subarray(V2_FIXED_BYTES, V2_FIXED_BYTES + width);
  const address = width === 4 ? source.join('.') : hexGroups(source);
  return header(total, { address, port: bytes.readUInt16BE(V2_FIXED_BYTES + 2 * width) });
}

const header = (bytes: number, client: ProxiedClient | null): ProxyHeader => ({ kind: 'header', bytes, client });

function hexGroups(bytes: Buffer): string {
  const groups = Array.from({ length: 8 }, (_, index) => bytes.readUInt16BE(2 * index).toString(16));
  // As the URL standard writes it (RFC 5952), so that one client has one name.
  return new URL(`http://[${groups.join(':')}]/`).hostname.slice(1, -1);
}
