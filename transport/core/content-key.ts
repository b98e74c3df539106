/**
 * The second key by which a store knows a message (protocol.md 24): a client that did not get the 250 sends the same bytes again, as a new attempt with a new
 * id. Owns: which messages have such a key. Only mail with a Message-ID: without one two equal messages may well be meant as two. Never a DSN, never for a
 * relay, and not where the MailboxDatabase says `clientRetries: Show`. PURE.
 */
import type { TopologyDocument } from '../../common/config.ts';
import type { CopyId } from '../../common/message.ts';
import { MESSAGE_ID } from '../../common/tracked-events.ts';
import type { CopyFacts } from '../store/database.ts';
import type { Route } from './events.ts';

/** The same for envelope sender and bytes as received; the store adds the recipient. Resubmissions have the key of what they repeat. */
export function contentKeyOf(
  facts: CopyFacts,
  route: Route,
  { databases }: Pick<TopologyDocument, 'databases'>,
  hashId: (text: string) => CopyId,
): string | null {
  if (route.kind !== 'mailbox' || facts.kind === 'dsn') return null;
  if (databases.find(({ name }) => name === route.database)?.hidesClientRetries !== true) return null;
  if (!facts.events.some(({ event, detail }) => event === MESSAGE_ID && (detail ?? '') !== '')) return null;
  return hashId(`${facts.digest}\n${facts.envelope.reversePath}`);
}
