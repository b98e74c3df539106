/**
 * Where a recipient goes (semantics.md D1): a mailbox database, a send connector, nowhere yet, or nowhere at all. PURE.
 * An address beats a domain; local parts compare as the database says; addresses are never rewritten.
 */
import type { MailboxDatabaseConfig, SendConnectorConfig, TopologyDocument } from '../../common/config.ts';
import { baseOf } from '../../common/plus-addressing.ts';
import type { Route } from './events.ts';

export type Resolution =
  | { readonly kind: 'route'; readonly route: Route; readonly hop: string }
  /** Accepted in principle, no way known now: the unreachable queue. */
  | { readonly kind: 'unreachable'; readonly reason: string }
  | { readonly kind: 'unknown'; readonly reply: string };

export function splitAddress(address: string): { readonly local: string; readonly domain: string } {
  const at = address.lastIndexOf('@');
  if (at < 0) return { local: address, domain: '' };
  return { local: address.slice(0, at), domain: address.slice(at + 1).toLowerCase() };
}

function sameMailbox(database: MailboxDatabaseConfig, listed: string, local: string, domain: string): boolean {
  const entry = splitAddress(listed);
  if (entry.domain !== domain) return false;
  return database.caseSensitiveLocalParts ? entry.local === local : entry.local.toLowerCase() === local.toLowerCase();
}

export function databaseOf(document: TopologyDocument, address: string): MailboxDatabaseConfig | null {
  const { local, domain } = splitAddress(address);
  const listedIn = (name: string) =>
    document.databases.find((database) =>
      database.addresses.some((listed) => sameMailbox(database, listed, name, domain)),
    );
  const base = document.recipients?.plusAddressing === true ? baseOf(local) : null;
  const byAddress = listedIn(local) ?? (base === null ? undefined : listedIn(base));
  return byAddress ?? document.databases.find((database) => database.domains.includes(domain)) ?? null;
}

function connectorOf(document: TopologyDocument, domain: string): SendConnectorConfig | null {
  let best: { readonly connector: SendConnectorConfig; readonly score: number; readonly cost: number } | null = null;
  for (const connector of document.sendConnectors) {
    if (connector.smartHosts.length === 0 && connector.mx === null) continue;
    for (const space of connector.addressSpaces) {
      const score = matchScore(space.domain.toLowerCase(), domain);
      if (score === null) continue;
      if (best === null || score > best.score || (score === best.score && space.cost < best.cost))
        best = { connector, score, cost: space.cost };
    }
  }
  return best?.connector ?? null;
}

/** The longest match wins, as with Exchange's address spaces; `*` matches everything. */
function matchScore(space: string, domain: string): number | null {
  if (space === '*') return 0;
  if (space === domain) return 1_000 + space.length;
  if (space.startsWith('*.') && (domain.endsWith(space.slice(1)) || domain === space.slice(2))) return space.length;
  return null;
}

export function resolveRecipient(document: TopologyDocument, recipient: string): Resolution {
  const first = document.acceptedDomains[0]?.name ?? '';
  // RFC 5321 4.5.1: postmaster without a domain is the local one.
  const address = recipient.includes('@') ? recipient : `${recipient}@${first}`;
  const { domain } = splitAddress(address);
  const database = databaseOf(document, address);
  if (database !== null) {
    const copy = database.copies.find((entry) => entry.name === database.activeCopy);
    if (copy === undefined) return { kind: 'unreachable', reason: `database ${database.name} has no active copy` };
    return {
      kind: 'route',
      hop: `mailbox:${database.name}/${copy.name}`,
      route: {
        kind: 'mailbox',
        database: database.name,
        copy: copy.name,
        activation: database.activation,
        host: copy.lmtp.host,
        port: copy.lmtp.port,
      },
    };
  }
  const accepted = document.acceptedDomains.find((entry) => entry.name.toLowerCase() === domain);
  if (accepted?.type === 'Authoritative') return { kind: 'unknown', reply: '550 5.1.1 Mailbox unknown' };
  const connector = connectorOf(document, domain);
  if (connector === null) return { kind: 'unreachable', reason: `no send connector for ${domain}` };
  return connectorRoute(connector, domain);
}

function connectorRoute({ name, mx, smartHosts, tls }: SendConnectorConfig, domain: string): Resolution {
  return mx === null
    ? {
        kind: 'route',
        hop: `connector:${name}`,
        route: { kind: 'smartHost', connector: name, hosts: smartHosts, tls },
      }
    : { kind: 'route', hop: `connector:${name}/${domain}`, route: { kind: 'mx', connector: name, domain, mx, tls } };
}
