/**
 * Networks as resources name them (CIDR), PURE. Owns: which addresses are in them. Promise: an IPv4 client on a dual-stack socket is an
 * IPv4 client; what is no address is in no network. Refuses an entry that is not a network, naming the field.
 */
import { BlockList, isIP, isIPv6 } from 'node:net';

/** `field` names what the entries are of, for the error. Throws on anything that is not an address or a CIDR. */
export function networksOf(field: string, entries: readonly string[]): BlockList {
  const list = new BlockList();
  for (const entry of entries) {
    const [address = '', prefix, ...rest] = entry.split('/');
    const family = isIP(address);
    const bits = prefix === undefined ? (family === 4 ? 32 : 128) : /^\d{1,3}$/.test(prefix) ? Number(prefix) : -1;
    if (family === 0 || rest.length > 0 || bits < 0 || bits > (family === 4 ? 32 : 128))
      throw new Error(`${field} ${JSON.stringify(entry)} is not a network like 10.0.0.0/8`);
    list.addSubnet(address, bits, family === 4 ? 'ipv4' : 'ipv6');
  }
  return list;
}

export function inNetworks(list: BlockList, address: string): boolean {
  const mapped = /^::ffff:(\d{1,3}(?:\.\d{1,3}){3})$/i.exec(address)?.[1] ?? address;
  const plain = mapped.split('%', 1)[0] ?? mapped;
  const family = isIP(plain);
  return family !== 0 && list.check(plain, family === 4 ? 'ipv4' : 'ipv6');
}

/** The key under which what comes from `address` is counted together: an IPv4 address, or an IPv6 /64, because that is what one customer gets. */
export function clientNetwork(address: string): string {
  const plain = address.replace(/^::ffff:(?=\d+\.)/i, '').replace(/%.*$/, '');
  if (!isIPv6(plain)) return plain;
  const [head = '', tail] = plain.split('::');
  const groups = head === '' ? [] : head.split(':');
  if (tail !== undefined) {
    const after = tail === '' ? [] : tail.split(':');
    // A dotted quad at the end stands for two groups.
    const length = after.length + (tail.includes('.') ? 1 : 0);
    while (groups.length + length < 8) groups.push('0');
    groups.push(...after);
  }
  return `${groups
    .slice(0, 4)
    .map((group) => Number.parseInt(group, 16).toString(16))
    .join(':')}::/64`;
}
