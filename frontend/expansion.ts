/**
 * The envelope after aliases and lists are expanded, PURE (RFC 5321 3.9, RFC 3461 5.2.7). Owns: what becomes of NOTIFY, ORCPT, RET and ENVID, and
 * that nobody gets a message twice because a client named him and a group of his. Promise: this happens once, here; transports deliver what is
 * in the envelope, whoever of them does (protocol.md 18).
 */
import type { Envelope, EnvelopeRecipient, ExpandedRecipient, ReturnPath } from '../common/message.ts';
import { comparable, type Expansion, type Member, type RecipientDirectory } from './recipients.ts';

/** `expansions`: by the address as the client wrote it. */
export function expandEnvelope(
  envelope: Envelope,
  expansions: ReadonlyMap<string, Expansion>,
  directory: Pick<RecipientDirectory, 'reportsTo'>,
): Envelope {
  const reportsTo = directory.reportsTo(envelope.reversePath);
  if (expansions.size === 0 && reportsTo === undefined) return envelope;
  const senders = new Map<string, number>();
  const isDirect = ({ address }: EnvelopeRecipient): boolean => !expansions.has(address);
  // Who was named keeps what was asked for him.
  const named = new Set(envelope.recipients.filter(isDirect).map(({ address }) => comparable(address)));
  const expanded: ExpandedRecipient[] = [];
  const recipients = envelope.recipients.flatMap((recipient): readonly EnvelopeRecipient[] => {
    const expansion = expansions.get(recipient.address);
    if (expansion === undefined) return [recipient];
    const action = reportedAs(expansion);
    if (action !== null && wantsSuccess(recipient)) expanded.push({ ...recipient, action });
    return expansion.members.flatMap((member) => {
      const name = comparable(member.address);
      if (named.has(name)) return [];
      named.add(name);
      return [memberOf(recipient, member, expansion, envelope.reversePath === '' ? null : senders)];
    });
  });
  const returnPaths = [...senders.keys()].map((address): ReturnPath => {
    const meant = directory.reportsTo(address);
    return meant === undefined ? { address } : { address, reportsTo: meant };
  });
  return {
    ...envelope,
    recipients,
    ...(reportsTo === undefined ? {} : { reportsTo }),
    ...(returnPaths.length === 0 ? {} : { returnPaths }),
    ...(expanded.length === 0 || envelope.reversePath === '' ? {} : { expanded }),
  };
}

/** RFC 3461 5.2.7: to a list it was delivered; an alias of several was expanded; one of one says nothing. */
function reportedAs({ isList, members }: Expansion): ExpandedRecipient['action'] | null {
  if (isList) return 'delivered';
  return members.length > 1 ? 'expanded' : null;
}

const wantsSuccess = ({ notify }: EnvelopeRecipient): boolean => notify?.toUpperCase().includes('SUCCESS') === true;

/** `senders`: numbers of the envelope senders of lists; null: the message has none, and gets none (RFC 5321 4.5.5). */
function memberOf(
  recipient: EnvelopeRecipient,
  member: Member,
  expansion: Expansion,
  senders: Map<string, number> | null,
): EnvelopeRecipient {
  const { address, sender } = member;
  if (sender !== null) {
    // 5.2.7.1 b: nothing of the original's parameters goes on.
    if (senders === null) return { address };
    const returnPath = senders.get(sender) ?? senders.size;
    senders.set(sender, returnPath);
    return { address, returnPath };
  }
  const orcpt = recipient.orcpt ?? originalRecipient(recipient.address);
  const notify = expansion.members.length === 1 ? recipient.notify : withoutSuccess(recipient.notify);
  return {
    address,
    ...(notify === undefined ? {} : { notify }),
    ...(orcpt === undefined ? {} : { orcpt }),
  };
}

/** 5.2.7.3 c. Who asked for nothing else hears nothing else. */
function withoutSuccess(notify: string | undefined): string | undefined {
  if (notify === undefined) return undefined;
  const left = notify.split(',').filter((word) => word.toUpperCase() !== 'SUCCESS');
  return left.length === 0 ? 'NEVER' : left.join(',');
}

/** What the sender wrote, in xtext (RFC 3461 4, 4.2), so that reports say it. */
function originalRecipient(address: string): string | undefined {
  if (!/^[\x21-\x7e]+$/.test(address) || !address.includes('@')) return undefined;
  const xtext = address.replace(/[+=]/g, (sign) => `+${sign.charCodeAt(0).toString(16).toUpperCase()}`);
  return `rfc822;${xtext}`;
}

/** What an expansion adds to the envelope, at most. */
export function expandedBytes({ members }: Expansion, recipient: EnvelopeRecipient): number {
  const each = JSON.stringify({ ...recipient, address: '', orcpt: recipient.orcpt ?? `rfc822;${recipient.address}` });
  return members.reduce((sum, { address }) => sum + address.length + each.length + 1, 0);
}
