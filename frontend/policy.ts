/**
 * Who may send what where, PURE. Owns: the relay decision and the known-recipient decision at RCPT (semantics.md D1). Promise: no open
 * relay - a foreign domain is accepted only from a network in the listener's `relayFrom` or from an authenticated user; everything not
 * understood counts as foreign. Refuses with replies of the table; never rewrites an address.
 */
import type { BlockList } from 'node:net';
import type { ListenerConfig, TopologyDocument } from '../common/config.ts';
import type { ClientInfo, Reply } from '../common/message.ts';
import { networksOf } from '../common/networks.ts';
import { reply } from '../common/smtp/replies.ts';
import { normalDomain, splitAddress } from './address.ts';
import type { AddressList } from './address-list.ts';
import { Directory } from './picker.ts';
import { type Expansion, RecipientDirectory } from './recipients.ts';

/** The networks of one listener whose clients may relay. Throws on anything that is not an address or a CIDR. */
export const relayNetworks = (listener: Pick<ListenerConfig, 'name' | 'relayFrom'>): BlockList =>
  networksOf(`listener ${listener.name}: relayFrom`, listener.relayFrom);

export class RecipientPolicy {
  readonly directory: Directory;
  readonly recipients: RecipientDirectory;
  readonly #accepted = new Map<string, TopologyDocument['acceptedDomains'][number]['type']>();
  readonly #hasDomains: boolean;

  /** `lists`: those that were read so far. */
  constructor(
    document: Pick<TopologyDocument, 'acceptedDomains' | 'databases' | 'members' | 'recipients'>,
    lists: ReadonlyMap<string, AddressList> = new Map(),
  ) {
    this.directory = new Directory(document);
    this.recipients = new RecipientDirectory(document, this.directory, lists);
    for (const domain of document.acceptedDomains) this.#accepted.set(normalDomain(domain.name), domain.type);
    this.#hasDomains = document.acceptedDomains.length > 0;
  }

  /** What an address stands for; null: itself; or why it is refused. `trusted`: the client is in a `relayFrom` network. */
  resolve(address: string, client: Pick<ClientInfo, 'user'>, trusted: boolean): Expansion | null | Reply {
    const found = this.recipients.find(address);
    if (found.kind === 'expansion') return found.expansion;
    if (found.kind === 'unavailable') return reply('addressListUnread', { list: found.list });
    if (found.kind === 'unusable') return reply('groupUnusable', { group: found.group });
    if (found.kind === 'unlisted') return reply('unknownRecipient');
    return this.check(address, client, trusted);
  }

  /** Of an address that stands for itself; null accepts. */
  check(address: string, client: Pick<ClientInfo, 'user'>, trusted: boolean): Reply | null {
    // RFC 5321 4.5.1: <postmaster> without a domain; the categoriser maps it to the first accepted domain.
    if (address.toLowerCase() === 'postmaster') return this.#hasDomains ? null : reply('unknownRecipient');
    const parts = splitAddress(address);
    if (parts === null) return reply('badRecipient', { reason: 'no domain' });
    const type = this.#accepted.get(parts.domain);
    // A mailbox database delivers what it claims; nothing leaves the cluster.
    if (this.directory.databaseOf(address) !== null) return null;
    if (type === 'Authoritative') return reply('unknownRecipient');
    const mayRelay = trusted || client.user !== null;
    if (mayRelay) return null;
    if (type === undefined) return reply('relayDenied');
    // The relay behind us might follow a route hidden in the local part (RFC 1123 5.2.16); that would make it an open relay through us.
    return /[@%!]/.test(parts.local) ? reply('relayDenied') : null;
  }
}
