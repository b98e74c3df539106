/**
 * Which messages in transit an ID means. A message that crossed to another boundary has another id there (semantics.md D3), and the 250 reply names the first one:
 * a command about that id is about all of them. Owns: that rule. What was resubmitted of a message is another message.
 */
import type { CopyId } from '../../common/message.ts';
import { isIdentity } from '../local/orders.ts';
import { UsageError } from './command.ts';
import { type Message, messagesOf, type Unreachable } from './message-filter.ts';
import type { Members } from './place.ts';

const PAGE = 1_000;

/** Copies and queue databases have 26 characters of one alphabet. */
export function messageId(value: string | undefined): CopyId {
  if (!isIdentity(value)) throw new UsageError(`${value ?? ''} is not the id of a message: it stands in the 250 reply`);
  return value as string as CopyId;
}

export const idOf = (message: Message): CopyId => (message[0]?.id ?? '') as CopyId;

export interface Meant {
  /** Itself first. */
  readonly messages: readonly Message[];
  readonly unreachable: Unreachable;
}

export async function meantBy(cluster: Members, id: string): Promise<Meant> {
  const unreachable: Unreachable = [];
  const messages: Message[] = [];
  const walk = { filter: { attempt: id }, after: null, pageSize: PAGE, unreachable };
  for await (const message of messagesOf(cluster, walk)) {
    if (idOf(message) === id) messages.unshift(message);
    else if (message.some(({ crossedFrom }) => crossedFrom === id)) messages.push(message);
  }
  return { messages, unreachable };
}

/** A member that did not answer may have it: an order for it waits there. */
export function idsToOrder(id: CopyId, { messages, unreachable }: Meant): readonly CopyId[] {
  const ids = messages.map(idOf);
  return ids.includes(id) || unreachable.length === 0 ? ids : [id, ...ids];
}

/** For people, when there is nothing to order, or nobody to see it carried out. */
export function nobodyHas(id: string, { unreachable }: Meant, program: string): string {
  const silent = unreachable.map(({ member }) => member).join(', ');
  return silent === ''
    ? `No transport has ${id} in transit, and no order was given: it is delivered or removed, or no such message was accepted; "${program} trace ${id}" may know.\n`
    : `No transport that answered has ${id} in transit. The order stands for what ${silent} may have under this id, not for what crossed there under another one: say it again when it answers.\n`;
}
