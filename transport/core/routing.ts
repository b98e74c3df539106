/**
 * Where a recipient goes (semantics.md D1): a mailbox database, a send connector, nowhere yet, or nowhere at all. PURE.
 * An address beats a domain; local parts compare as the database says; addresses are never rewritten.
 */
import type { MailboxDatabaseConfig, SendConnectorConfig, TopologyDocument } from '../../common/config.ts';
import { baseOf } from '../../common/plus-addressing.ts';
import {
  type BoundaryPath,
  boundaryGoal,
  boundaryPath,
  type Goal,
  sitesGoal,
  takersAt,
  waitsBefore,
} from './boundary-path.ts';
import { type Candidate, type Crossing, candidates, chooseConnector, isTooLarge, type Origin } from './connectors.ts';
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
      return across(
        document,
        boundaryPathOf(document, origin, crossing, boundaryGoal(database.boundary)),
        crossing,
        true,
      );
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
  const elsewhere = betterElsewhere(document, domain, origin);
  if (elsewhere !== null) return across(document, elsewhere.path, elsewhere.crossing, false);
  const choice = chooseConnector(document, domain, origin);
  if (choice.kind === 'none') return { kind: 'unreachable', reason: choice.reason };
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
  { boundary, paths }: Crossing,
  goal: Goal,
): BoundaryPath => boundaryPath(document, { site, boundary }, goal, sizeBytes, paths);

export interface Elsewhere {
  readonly candidate: Candidate;
  readonly path: BoundaryPath;
  readonly crossing: Crossing;
  /** Of both costs. */
  readonly sum: number;
}

/**
 * The connector of another site that is a better match than any of this one: the most exact address space first, wherever it is, then the lowest sum of its
 * cost and that of the path, then here, then the name (as with Exchange). Null: one here takes it, or nothing crosses. Where no path leads to any, and none here
 * takes it: why not to the first.
 */
export function betterElsewhere(document: TopologyDocument, domain: string, origin: Origin): Elsewhere | null {
  const { crossing, sizeBytes } = origin;
  if (crossing === undefined || document.siteLinks === undefined) return null;
  const all = candidates(document, domain, origin);
  const found = all
    .filter(({ connector, verdict }) => verdict === 'otherSite' && !isTooLarge(connector, sizeBytes))
    .map((candidate): Elsewhere => {
      const path = boundaryPathOf(document, origin, crossing, sitesGoal(candidate.connector.sites));
      const sum = candidate.cost + (path.kind === 'path' ? path.path.cost : 0);
      return { candidate, path, crossing, sum };
    });
  // Candidates come in the order of their names where all else is equal, and sorting keeps that.
  const [best] = found
    .filter(({ path }) => path.kind === 'path')
    .sort((a, b) => b.candidate.score - a.candidate.score || a.sum - b.sum);
  const here = all.find(({ verdict }) => verdict === 'usable');
  if (here === undefined)
    return best ?? (all.some(({ verdict }) => verdict === 'tooLarge') ? null : (found[0] ?? null));
  if (best === undefined || best.candidate.score < here.score) return null;
  return best.candidate.score > here.score || best.sum < here.cost ? best : null;
}

/**
 * The first stop where it was not yet is the next hop: links that change while it crosses may lead back over a hub, and it has stopped there. What has been where
 * it would go is in a circle of two documents, and waits until they agree.
 */
function across(document: TopologyDocument, path: BoundaryPath, crossing: Crossing, isAnySite: boolean): Resolution {
  if (path.kind === 'none') return { kind: 'unreachable', reason: path.reason };
  // RFC 3463 5.3.4: no larger message ever finds a path over these links.
  if (path.kind === 'tooLarge') return { kind: 'tooLarge', reply: `552 5.3.4 ${path.reason}` };
  const [last] = path.stops.slice(-1);
  if (last === undefined) return { kind: 'unreachable', reason: 'nobody on the path takes it' };
  const had = [...crossing.passed, crossing.boundary];
  // To another site of its own boundary it goes once.
  const stop = path.stops.find((one) => !crossing.passed.includes(one.boundary));
  if (stop === undefined)
    return { kind: 'unreachable', reason: `it is in a loop: ${[...had, last.boundary].join(', ')}` };
  const { boundary, site } = stop;
  const members = takersAt(document, stop, isAnySite);
  const before = waitsBefore(document, path.path, stop, had);
  // Who may take it differs: at the end of the path of a mailbox anybody of its boundary.
  const hop = isAnySite && !stop.isHub ? `boundary:${boundary}` : `boundary:${boundary}/${site}`;
  return { kind: 'route', hop, route: { kind: 'boundary', boundary, site, members, before } };
}
