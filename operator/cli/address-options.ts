/** Addresses and domains as options of a filter. Owns: what may be one - a filter that can match nothing passes for an empty queue. Refuses: anything else, and says why. */
import { domainFault } from '../../common/smtp/address.ts';
import { type Parsed, text, UsageError } from './command.ts';

/** Brackets of a path are no part of its address. */
function addressOf(name: string, value: string): string {
  const address = /^<(.+)>$/.exec(value)?.[1] ?? value;
  // RFC 5321 4.1.1.3: the only one that needs no domain.
  if (address.toLowerCase() === 'postmaster') return address;
  const at = address.lastIndexOf('@');
  const local = address.slice(0, Math.max(at, 0));
  const fault = at < 0 ? 'domain missing' : domainFault(address.slice(at + 1));
  const isLocal = /^("(\\.|[^"\\])*"|[^\s<>@"]+)$/.test(local);
  if (fault === null && isLocal) return address;
  throw new UsageError(`--${name}: an address like ann@example.org, not ${value}: ${fault ?? 'bad local part'}`);
}

function addressOption(parsed: Parsed, name: 'sender' | 'recipient'): string | null {
  const value = text(parsed, name);
  return value === null || (name === 'sender' && value === '<>') ? value : addressOf(name, value);
}

/** `<>` is one. */
export const senderOption = (parsed: Parsed): string | null => addressOption(parsed, 'sender');

export const recipientOption = (parsed: Parsed): string | null => addressOption(parsed, 'recipient');

export function domainOption(parsed: Parsed): string | null {
  const value = text(parsed, 'domain');
  const fault = value === null ? null : domainFault(value);
  if (fault === null) return value;
  throw new UsageError(`--domain: a domain like example.org, not ${value}: ${fault}`);
}
