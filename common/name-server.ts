/** Where a name server is, as resources write it. Owns: that notation. PURE. */
import { isIPv6 } from 'node:net';

export interface NameServer {
  readonly address: string;
  readonly port: number;
}

/** As people read it; the same for every way to write it. */
export const shownNameServer = ({ address, port }: NameServer): string =>
  `${isIPv6(address) ? `[${address}]` : address}:${port}`;

/** `192.0.2.53`, `192.0.2.53:5353`, `2001:db8::53`, `[2001:db8::53]:5353`. */
export function nameServer(text: string): NameServer {
  const [, address, port] = /^\[?(.*?)\]?:(\d+)$/.exec(isIPv6(text) ? '' : text) ?? [];
  return address === undefined || port === undefined ? { address: text, port: 53 } : { address, port: Number(port) };
}
