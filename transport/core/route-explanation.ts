/**
 * Where a message would go, and why: what `mailcluster route` shows. Owns: the words. Promise: the answer is that of `resolveRecipient`, by which mail goes;
 * nothing is decided here. PURE.
 */
import type { TopologyDocument } from '../../common/config.ts';
import { boundaryGoal, explainPath, type PathExplanation, type Place, sitesGoal } from './boundary-path.ts';
import { type Candidate, candidates, type Origin } from './connectors.ts';
import type { Route } from './events.ts';
import { betterElsewhere, databaseOf, qualified, resolveRecipient, splitAddress } from './routing.ts';

export interface RouteExplanation {
  readonly kind: 'mailbox' | 'connector' | 'boundary' | 'unreachable' | 'refused';
  /** One sentence: where, or what the sender would hear. */
  readonly what: string;
  readonly why: string;
  /** The queue for it, where there is one. */
  readonly nextHop: string | null;
  /** What else there is, in the order in which it would be used, and why it is not now. */
  readonly others: readonly { readonly name: string; readonly why: string }[];
  readonly route: Route | null;
  /** To the boundary that holds the mailbox, or the sites that have a connector, where that is another; null where mail does not cross. */
  readonly path: PathExplanation | null;
}

export function explainRoute(document: TopologyDocument, recipient: string, origin: Origin & Place): RouteExplanation {
  const limit = document.policies.limits.maxMessageBytes;
  if (origin.sizeBytes > limit)
    return nowhere(
      'refused',
      `552 5.3.4: ${origin.sizeBytes} bytes are more than ${limit}`,
      'transport.limits.maxMessageSize',
    );
  const address = qualified(document, recipient);
  const { boundary, ...from } = origin;
  const resolution = resolveRecipient(document, address, { ...from, crossing: { boundary, passed: [] } });
  const { domain } = splitAddress(address);
  // What is for a mailbox goes to that alone, whichever connector has an address space for its domain.
  const isMailbox = databaseOf(document, address) !== null;
  const offered = isMailbox ? [] : candidates(document, domain, origin);
  if (resolution.kind === 'unknown' || resolution.kind === 'tooLarge') {
    if (resolution.kind === 'unknown')
      return nowhere(
        'refused',
        resolution.reply,
        `${domain} is Authoritative, and no MailboxDatabase holds ${address}`,
      );
    const why = isMailbox ? 'every path over site links' : 'every send connector, or every path,';
    return {
      ...nowhere('refused', resolution.reply, `${why} is for smaller messages`),
      others: others(offered, origin),
      path: pathToDatabase(document, address, origin) ?? pathToConnector(document, domain, origin),
    };
  }
  if (resolution.kind === 'unreachable')
    return {
      ...nowhere('unreachable', 'it waits in the queue unreachable', resolution.reason),
      others: others(offered, origin),
      path: pathToDatabase(document, address, origin) ?? pathToConnector(document, domain, origin),
    };
  const { route, hop: nextHop } = resolution;
  if (route.kind === 'mailbox') {
    const path = pathToDatabase(document, address, origin);
    return { ...toMailbox(document, address, route), nextHop, route, path };
  }
  if (route.kind === 'boundary') {
    const path = pathToDatabase(document, address, origin) ?? pathToConnector(document, domain, origin);
    const what = `transports of ${route.boundary}: ${route.members.join(', ')}`;
    return {
      ...{ kind: 'boundary', what, why: path?.why ?? '', nextHop },
      others: others(offered, origin),
      route,
      path,
    };
  }
  const [chosen, ...rest] = [...offered.filter(isUsable), ...offered.filter((one) => !isUsable(one))];
  const way = route.kind === 'mx' ? `the hosts that DNS names for ${domain}` : 'its smart hosts';
  return {
    kind: 'connector',
    what: `send connector ${route.connector}, to ${way}`,
    why: chosen === undefined ? '' : `address space ${chosen.space} is the best match at cost ${chosen.cost}`,
    nextHop,
    others: rest.map((one) => ({ name: one.connector.name, why: whyNot(one, chosen, origin) })),
    route,
    path: null,
  };
}

function pathToDatabase(document: TopologyDocument, address: string, from: Origin & Place): PathExplanation | null {
  const boundary = databaseOf(document, address)?.boundary ?? from.boundary;
  return boundary === from.boundary ? null : explainPath(document, from, boundaryGoal(boundary), from.sizeBytes);
}

/** To the sites of the connector elsewhere that takes it, or would if a path led there. */
function pathToConnector(document: TopologyDocument, domain: string, from: Origin & Place): PathExplanation | null {
  const { boundary, ...origin } = from;
  const found = betterElsewhere(document, domain, { ...origin, crossing: { boundary, passed: [] } });
  return found === null
    ? null
    : explainPath(document, from, sitesGoal(found.candidate.connector.sites), from.sizeBytes);
}

const isUsable = ({ verdict }: Candidate): boolean => verdict === 'usable';

const nowhere = (kind: 'unreachable' | 'refused', what: string, why: string): RouteExplanation => ({
  ...{ kind, what, why },
  ...{ nextHop: null, others: [], route: null, path: null },
});

const others = (offered: readonly Candidate[], origin: Origin): RouteExplanation['others'] =>
  offered.map((one) => ({ name: one.connector.name, why: whyNot(one, undefined, origin) }));

function toMailbox(
  document: TopologyDocument,
  address: string,
  route: Extract<Route, { kind: 'mailbox' }>,
): Pick<RouteExplanation, 'kind' | 'what' | 'why' | 'others'> {
  const database = databaseOf(document, address);
  const { domain } = splitAddress(address);
  const isListed = database?.addresses.some((one) => splitAddress(one).domain === domain) === true;
  const why =
    database?.domains.includes(domain) === true ? `it holds ${domain}` : isListed ? 'it lists the address' : '';
  return {
    kind: 'mailbox',
    what: `MailboxDatabase ${route.database}, copy ${route.copy} (LMTP ${route.host}:${route.port})`,
    why: `${why === '' ? 'it takes postmaster' : why}; ${route.copy} is its active copy, activation ${route.activation}`,
    others: (database?.copies ?? [])
      .filter(({ name }) => name !== route.copy)
      .map(({ name, site }) => ({
        name: `${route.database}/${name}`,
        why: `copy in site ${site}, used when activeCopy names it`,
      })),
  };
}

function whyNot(
  { connector, space, cost, score, verdict }: Candidate,
  chosen: Candidate | undefined,
  origin: Origin,
): string {
  const most = connector.sendLimits?.maxMessageBytes ?? 0;
  if (verdict === 'otherSite') return `only for site ${connector.sites.join(', ')}, this is ${origin.site}`;
  if (verdict === 'tooLarge') return `takes at most ${most} bytes, this is ${origin.sizeBytes}`;
  if (chosen === undefined) return '';
  if (score < chosen.score) return `address space ${space} is a wider match`;
  return cost > chosen.cost ? `cost ${cost} is higher` : 'equal cost, and its name comes later';
}
