/**
 * Control frames of members and front ends as events of the core. Owns: which role may send what, and that a frame about something at rest waits for the look.
 * No decision is made here.
 */
import type { ControlFrame, Resolve } from '../../common/peer/messages.ts';
import type { PeerSession } from '../../common/peer/session-api.ts';
import type { CoreEvent } from '../core/events.ts';
import type { Peers } from './peers.ts';
import type { Resting } from './resting.ts';

export interface Inbound {
  readonly peers: Peers;
  readonly resting: Resting;
  readonly handle: (event: CoreEvent) => void;
}

export function controlReceived(inbound: Inbound, session: PeerSession, frame: ControlFrame): void {
  const { peers, resting, handle } = inbound;
  const member = session.remote.name;
  if (peers.bringsMail(session)) {
    if (frame.kind === 'RESOLVE') resolveAsked(inbound, session, frame.resolve);
    return;
  }
  switch (frame.kind) {
    case 'CONTACT':
      peers.sawSequence(member, frame.contact.syncedSequence);
      return handle({ kind: 'PeerContact', member, contact: frame.contact });
    case 'RESOLVE':
      return resolveAsked(inbound, session, frame.resolve);
    case 'RESOLVED':
      return handle({ kind: 'ResolveAnswered', member, resolved: frame.resolved });
    case 'LIST':
      return resting.inOrder(session, frame.list.items, (stored, unreadable) => {
        const items = frame.list.items.filter((item) => !unreadable.has(item.id));
        handle({ kind: 'ListReceived', member, list: { ...frame.list, items }, stored });
      });
    case 'CLAIM':
      return resting.inOrder(
        session,
        frame.claim.items,
        (stored, unreadable) => {
          const items = frame.claim.items.filter((item) => !unreadable.has(item.id));
          handle({ kind: 'ClaimReceived', member, claim: { items }, stored });
        },
        'all',
      );
    case 'STATE':
      return handle({ kind: 'StateReceived', member, state: frame.state });
    case 'STATE-ACK':
      if (frame.ack.syncedSequence !== undefined) peers.sawSequence(member, frame.ack.syncedSequence);
      return handle({ kind: 'StateAcknowledged', member, ack: frame.ack });
    case 'GRANT':
      return handle({ kind: 'GrantReceived', member, grant: frame.grant });
    case 'RESIGN':
      return handle({ kind: 'ResignReceived', member, resign: frame.resign });
    case 'RELEASE':
      return resting.inOrder(session, [frame.release], (stored) =>
        handle({
          kind: 'ReleaseReceived',
          member,
          release: frame.release,
          stored: stored.get(frame.release.id) ?? null,
        }),
      );
    case 'RELEASE-ACK':
      return handle({ kind: 'ReleaseAcked', member, released: frame.released });
    default:
      return questionReceived(inbound, session, frame);
  }
}

type Question = Extract<ControlFrame, { readonly kind: 'COVER' | 'COVERED' | 'FETCH' }>;

/** What members ask each other about what they hold. */
function questionReceived({ resting, handle }: Inbound, session: PeerSession, frame: Question): void {
  const member = session.remote.name;
  switch (frame.kind) {
    case 'COVER':
      return resting.inOrder(
        session,
        frame.cover.ids.map((id) => ({ id })),
        (stored) => handle({ kind: 'CoverReceived', member, cover: frame.cover, stored }),
        'all',
      );
    case 'COVERED':
      return handle({ kind: 'CoveredReceived', member, covered: frame.covered });
    case 'FETCH':
      return resting.inOrder(
        session,
        [frame.fetch],
        (stored) =>
          handle({
            kind: 'FetchReceived',
            member,
            fetch: frame.fetch,
            stored: stored.get(frame.fetch.id) ?? null,
          }),
        'all',
      );
  }
}

function resolveAsked({ peers, resting, handle }: Inbound, session: PeerSession, resolve: Resolve): void {
  const from = peers.nameOf(session);
  const role = peers.bringsMail(session) ? 'frontend' : 'transport';
  resting.inOrder(session, [resolve], (stored, unreadable) => {
    if (unreadable.size > 0) return;
    handle({ kind: 'ResolveAsked', from, role, resolve, stored: stored.get(resolve.id) ?? null });
  });
}
