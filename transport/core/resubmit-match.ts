/**
 * What a resubmit request means (protocol.md 19, 20; Exchange: Add-ResubmitRequest -Destination, -Sender, -Recipient). Owns: which finality is none, which
 * recipients of a copy at rest are selected, and the id of the copy they get - the same for every maker, so that two make one. Pure.
 */
import type { ResubmitRequestConfig, TopologyDocument } from '../../common/config.ts';
import type { CopyId, RecipientState } from '../../common/message.ts';
import { MESSAGE_ID } from '../../common/tracked-events.ts';
import type { CopyFacts, SafetyNetFilter, StoredCopy } from '../store/database.ts';
import { deliveryIdOf, isSuccess } from './copy.ts';
import { type Server, type Turn, trustedNow } from './state.ts';

/** Clocks of two members, and of the orchestrator, may differ by this much: what is only read in vain costs a lookup, what is missed costs a message. */
const SKEW_MS = 600_000;

export const isForMe = (server: Server, request: ResubmitRequestConfig): boolean =>
  server.mutants.has('resubmits-across-boundary') ||
  request.boundary === null ||
  request.boundary === server.self.boundary;

/** By both clocks: neither a jump of the wall clock nor time that nobody witnessed ends a request early (semantics.md S16), nor does who does not know the time. */
export const isExpired = (turn: Turn, request: ResubmitRequestConfig): boolean =>
  !turn.server.trusted.isNew && Math.min(trustedNow(turn), turn.wallMs) > request.expiresAtMs;

/** In the time by which the entries are dated. */
const fromMs = (server: Server, request: ResubmitRequestConfig): number =>
  request.fromMs - (server.resubmissions.byName.get(request.name)?.behindMs ?? 0);

const inWindow = (server: Server, request: ResubmitRequestConfig, { atMs }: RecipientState): boolean =>
  atMs === undefined ||
  (atMs >= fromMs(server, request) + (server.mutants.has('window-too-short') ? 10_000 : 0) &&
    (request.toMs === null || atMs <= request.toMs));

/** A failover gave up the copy of the database that was active then. */
export function isLostActivation(
  document: TopologyDocument,
  request: ResubmitRequestConfig,
  database: string | undefined,
  activation: number,
): boolean {
  if (request.lostActivation === null || database === undefined || database !== request.database) return false;
  // What the present activation delivers is never lost: a document that says so would have it delivered for ever.
  const current = document.databases.find((entry) => entry.name === database)?.activation;
  return activation <= (current === undefined ? request.lostActivation : Math.min(request.lostActivation, current - 1));
}

/** No upper bound of the clock beyond what the request says (protocol.md 20). */
const isLostBy = (server: Server, request: ResubmitRequestConfig, recipient: RecipientState): boolean =>
  recipient.outcome === 'delivered' &&
  isLostActivation(server.document, request, recipient.database, recipient.activation ?? 0) &&
  inWindow(server, request, recipient);

/** The failover requests that hold now. */
export const failovers = (turn: Turn): readonly ResubmitRequestConfig[] =>
  turn.server.document.resubmitRequests.filter(
    (request) =>
      request.lostActivation !== null &&
      !request.cancelled &&
      !request.dryRun &&
      isForMe(turn.server, request) &&
      !isExpired(turn, request),
  );

export const isLost = (
  server: Server,
  requests: readonly ResubmitRequestConfig[],
  recipient: RecipientState,
): boolean => requests.some((request) => isLostBy(server, request, recipient));

/** Recipients of one copy at rest that go into one new copy. */
export interface Selected {
  readonly id: CopyId;
  readonly indexes: readonly number[];
}

/** Empty when the request does not mean this copy, or this copy is what the request made. */
export function selectedOf(server: Server, request: ResubmitRequestConfig, { facts, state }: StoredCopy): Selected[] {
  const groups = new Map<string, number[]>();
  for (const [index, recipient] of (state.recipients ?? []).entries()) {
    const key = keyOf(server, request, facts, recipient);
    if (key === null) continue;
    const group = groups.get(key) ?? [];
    group.push(index);
    groups.set(key, group);
  }
  const selected: Selected[] = [];
  for (const [key, indexes] of groups) {
    const addresses = indexes.map((index) => state.recipients?.[index]?.address ?? '').sort();
    const id = server.hashId(`${deliveryIdOf(facts)}/${key}/${addresses.join(',')}`);
    if (id !== facts.id) selected.push({ id, indexes });
  }
  return selected;
}

/**
 * protocol.md 20: the key is (ancestor, recipient, activation), whatever the request is called - overlapping requests make one copy. What a person asks for
 * is made again for each request.
 */
function keyOf(
  server: Server,
  request: ResubmitRequestConfig,
  facts: CopyFacts,
  recipient: RecipientState,
): string | null {
  if (request.lostActivation !== null)
    return isLostBy(server, request, recipient) ? `db/${recipient.database}/${recipient.activation ?? 0}` : null;
  // What went to another boundary is in the Safety Nets there (semantics.md D3, S9).
  if (recipient.outcome === 'relayed' && recipient.connector === undefined) return null;
  if (!isSuccess(recipient) || !inWindow(server, request, recipient) || !isNamed(request, facts, recipient))
    return null;
  return `request/${request.name}/${request.createdAtMs}`;
}

function isNamed(request: ResubmitRequestConfig, facts: CopyFacts, recipient: RecipientState): boolean {
  const { database, sender, recipient: address, messageId } = request;
  if (database !== null) return recipient.database === database;
  if (sender !== null) return same(facts.envelope.reversePath, sender);
  if (address !== null) return same(recipient.address, address);
  return (
    messageId !== null &&
    facts.events.some(({ event, detail }) => event === MESSAGE_ID && bare(detail ?? '') === bare(messageId))
  );
}

const same = (a: string, b: string): boolean => a.toLowerCase() === b.toLowerCase();
const bare = (messageId: string): string => messageId.trim().replace(/^<|>$/g, '');

/** Which entries can be meant at all. A copy is final when its last recipient is, so that there is no upper bound. */
export function filterOf(turn: Turn, request: ResubmitRequestConfig, role: 'primary' | 'shadow'): SafetyNetFilter {
  const filter = { role, fromMs: fromMs(turn.server, request) - SKEW_MS };
  return request.database === null ? filter : { ...filter, database: request.database };
}
