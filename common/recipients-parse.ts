/**
 * The part of the topology document that says which addresses stand for others. Owns: its grammar, and what a way from an address back to itself
 * is. Not refused here: a loop. Pods take the rest of such a document; front ends go round it once, and say so. PURE.
 */
import type { ExpansionConfig, RecipientsConfig } from './config.ts';
import { flag, list, lowerCase, Mismatch, nullable, object, type Parse, text } from './config-grammar.ts';

export const NO_RECIPIENTS: RecipientsConfig = {
  plusAddressing: false,
  expansions: [],
  catchAll: [],
  knownRecipients: [],
};

/** More members than this a message cannot have in the frames that pods hand each other. */
export const MAX_EXPANDED_RECIPIENTS = 10_000;

type Expansion = Pick<ExpansionConfig, 'address' | 'members' | 'envelopeSender'>;

/**
 * A way from an address over members, or the envelope sender that hears of failures, back to itself: `[a, b, a]`. Null: there is none.
 * Every address is looked at once.
 */
export function expansionLoop(expansions: readonly Expansion[]): readonly string[] | null {
  const all = new Map(expansions.map((one) => [one.address.toLowerCase(), one]));
  const done = new Set<string>();
  const way: string[] = [];
  const visit = (address: string): readonly string[] | null => {
    const key = address.toLowerCase();
    const one = all.get(key);
    if (one === undefined || done.has(key)) return null;
    const start = way.indexOf(key);
    if (start >= 0) return [...way.slice(start), key];
    way.push(key);
    for (const next of [...one.members, ...(one.envelopeSender === null ? [] : [one.envelopeSender])]) {
      const loop = visit(next);
      if (loop !== null) return loop;
    }
    way.pop();
    done.add(key);
    return null;
  };
  for (const { address } of expansions) {
    const loop = visit(address);
    if (loop !== null) return loop;
  }
  return null;
}

const address: Parse<string> = (value, path) => {
  const found = text(value, path);
  if (!/^[^@\s]+@[^@\s]+$/.test(found)) throw new Mismatch(path, `expected an address, found ${JSON.stringify(found)}`);
  return found;
};

export const recipients = object<RecipientsConfig>({
  plusAddressing: flag,
  expansions: list(
    object<ExpansionConfig>({
      address,
      members: list(address),
      membersFrom: nullable(text),
      envelopeSender: nullable(address),
    }),
  ),
  catchAll: list(object<RecipientsConfig['catchAll'][number]>({ domain: lowerCase, target: address })),
  knownRecipients: list(
    object<RecipientsConfig['knownRecipients'][number]>({ domain: lowerCase, addressLists: list(text, 1) }),
  ),
});
