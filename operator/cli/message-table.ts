/** Messages over all members as a table for people, one line each with all its copies. Pure. */
import type { Holding, Message } from './message-filter.ts';
import { age, size, table } from './output.ts';

export function messageTable(groups: readonly Message[], nowMs: number): string {
  const first = ([copy]: Message): Holding | undefined => copy;
  const error = { title: 'LAST ERROR', value: (copies: Message) => first(copies)?.lastError ?? null };
  return table<Message>(
    [
      { title: 'ID', value: (copies) => first(copies)?.id ?? null },
      { title: 'COPIES', value: (copies) => copies.map(place).join(', ') },
      { title: 'FROM', value: (copies) => first(copies)?.from || '<>' },
      { title: 'TO', value: (copies) => recipientsInShort(first(copies)?.recipients.map((one) => one.address) ?? []) },
      { title: 'SIZE', value: (copies) => size(first(copies)?.sizeBytes ?? 0), right: true },
      { title: 'AGE', value: (copies) => age(ageOf(copies, nowMs)), right: true },
      ...(groups.some((copies) => first(copies)?.lastError) ? [error] : []),
    ],
    groups,
  );
}

/** As a member says; where none does (older versions), since it was accepted by the clock of who reads this. */
function ageOf(copies: Message, nowMs: number): number {
  const told = copies.flatMap(({ ageMs }) => ageMs ?? [])[0];
  return told ?? Math.max(0, nowMs - (copies[0]?.acceptedAtMs ?? nowMs));
}

const place = ({ queue, member, suspended }: Holding): string =>
  `${queue}${suspended === true ? ' (suspended)' : ''}@${member}`;

/** `number`: of all, when `addresses` are some of them. */
export function recipientsInShort(addresses: readonly string[], number = addresses.length): string {
  return number <= 1 ? (addresses[0] ?? '') : `${addresses[0]} +${number - 1}`;
}
