/**
 * Where a recipient goes (semantics.md D1): a mailbox database, a send connector, nowhere yet, or nowhere at all. PURE.
 * An address beats a domain; local parts compare as the database says; addresses are never rewritten.
 */
import type { MailboxDatabaseConfig, SendConnectorConfig, TopologyDocument } from '../../common/config.ts';
import { baseOf } from '../../common/plus-addressing.ts';
import { type BoundaryPath, boundaryGoal, boundaryPath, sitesGoal, takersAt } from './boundary-path.ts';
import { type Candidate, type Crossing, candidates, chooseConnector, type Origin } from './connectors.ts';
import type { Route } from './events.ts';

export type Resolution =
  | { readonly kind: 'route'; readonly route: Route; readonly hop: string }
  /** Accepted in principle, no way known now: the unreachable queue. */
  | { readonly kind: 'unreachable'; readonly reason: string }
  | { readonly kind: 'unknown'; readonly reply: string }
  | { readonly kind: 'tooLarge'; readonly reply: string };

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

/** RFC 5321 4.5.1: postmaster without a domain is the local one. */
export const qualified = ({ acceptedDomains }: TopologyDocument, recipient: string): string =>
  recipient.includes('@') ? recipient : `${recipient}@${acceptedDomains[0]?.name ?? ''}`;

export function resolveRecipient(document: TopologyDocument, recipient: string, origin: Origin): Resolution {
  const address = qualified(document, recipient);
  const { domain } = splitAddress(address);
  const database = databaseOf(document, address);
  if (database !== null) {
    const { crossing } = origin;
    if (crossing !== undefined && document.siteLinks !== undefined && database.boundary !== crossing.boundary)
      return across(document, boundaryPathOf(document, origin, crossing, database.boundary), crossing, true);
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
  const choice = chooseConnector(document, domain, origin);
  if (choice.kind === 'none') {
    const { crossing } = origin;
    const path =
      crossing === undefined ? null : pathToConnector(document, candidates(document, domain, origin), origin, crossing);
    return crossing === undefined || path === null
      ? { kind: 'unreachable', reason: choice.reason }
      : across(document, path, crossing, false);
  }
  return choice.kind === 'tooLarge' ? choice : connectorRoute(choice.connector, domain);
}

function connectorRoute(connector: SendConnectorConfig, domain: string): Resolution {
  const { name, mx, smartHosts, tls, session = null, sendLimits = null } = connector;
  const way = { connector: name, tls, session, sendLimits };
  return mx === null
    ? { kind: 'route', hop: `connector:${name}`, route: { kind: 'smartHost', hosts: smartHosts, ...way } }
    : { kind: 'route', hop: `connector:${name}/${domain}`, route: { kind: 'mx', domain, mx, ...way } };
}

const boundaryPathOf = (
  document: TopologyDocument,
  { site, sizeBytes }: Origin,
  from: Crossing,
  to: string,
): BoundaryPath => boundaryPath(document, { site, boundary: from.boundary }, boundaryGoal(to), sizeBytes);

/** Of the connectors of other sites: the best match, then the lowest sum of its cost and that of the path, then the name. Null: there is none, or no links. */
function pathToConnector(
  document: TopologyDocument,
  offered: readonly Candidate[],
  { site, sizeBytes }: Origin,
  { boundary }: Crossing,
): BoundaryPath | null {
  if (document.siteLinks === undefined) return null;
  const elsewhere = offered.filter(({ verdict }) => verdict === 'otherSite');
  const paths = elsewhere
    .filter(({ score }) => score === elsewhere[0]?.score)
    .map(({ connector, cost }) => {
      const path = boundaryPath(document, { site, boundary }, sitesGoal(connector.sites), sizeBytes);
      return { path, sum: path.kind === 'path' ? cost + path.path.cost : Number.POSITIVE_INFINITY };
    });
  return paths.toSorted((a, b) => (a.sum === b.sum ? 0 : a.sum - b.sum))[0]?.path ?? null;
}

/** The first stop is the next hop; what has been there already is in a circle of two documents, and waits until they agree. */
function across(document: TopologyDocument, path: BoundaryPath, crossing: Crossing, isAnySite: boolean): Resolution {
  if (path.kind === 'none') return { kind: 'unreachable', reason: path.reason };
  // RFC 3463 5.3.4: no larger message ever finds a path over these links.
  if (path.kind === 'tooLarge') return { kind: 'tooLarge', reply: `552 5.3.4 ${path.reason}` };
  const [stop] = path.stops;
  if (stop === undefined || stop.boundary === crossing.boundary)
    return {
      kind: 'unreachable',
      reason: `the transports of ${crossing.boundary} in another site are to send it, and nothing goes there yet`,
    };
  const { boundary } = stop;
  if (crossing.passed.includes(boundary))
    return {
      kind: 'unreachable',
      reason: `it is in a loop: ${[...crossing.passed, crossing.boundary, boundary].join(', ')}`,
    };
  const members = takersAt(document, stop, isAnySite);
  return { kind: 'route', hop: `boundary:${boundary}/${stop.site}`, route: { kind: 'boundary', boundary, members } };
}
