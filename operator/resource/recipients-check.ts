/**
 * What one MailCluster says about recipients and no rule of the CRD can see: loops, names of lists, domains. Owns those checks; problems name the
 * field and the fix. PURE.
 */
import { expansionLoop } from '../../common/recipients-parse.ts';
import type { MailCluster } from './generated.ts';
import type { Path } from './problem.ts';

type Say = (path: Path, problem: string, fix: string) => void;

export function checkRecipients({ spec, metadata }: MailCluster, say: Say): void {
  const { recipients, acceptedDomains } = spec;
  if (recipients === undefined) return;
  const { aliases, groups, catchAll, knownRecipients, addressLists } = recipients;
  const at = (...path: Path): Path => ['spec', 'recipients', ...path];
  const lists = addressLists.map(({ name }) => name);
  const typeOf = (domain: string) => acceptedDomains.find(({ name }) => name === domain)?.type;
  const accepted = (domain: string, path: Path): void => {
    if (typeOf(domain) === undefined)
      say(
        path,
        `${domain} is not an accepted domain of MailCluster ${metadata.name}`,
        `add { name: ${domain} } to spec.acceptedDomains`,
      );
  };
  const listed = (list: string, path: Path): void => {
    if (!lists.includes(list))
      say(
        path,
        `there is no address list ${list}`,
        `name one of recipients.addressLists; ${lists.join(', ') || 'there is none'}`,
      );
  };

  const seen = new Set<string>();
  const described = (address: string, path: Path): void => {
    accepted(address.slice(address.lastIndexOf('@') + 1).toLowerCase(), path);
    if (seen.has(address.toLowerCase()))
      say(path, `${address} is an alias or a group already`, 'remove one of them; addresses compare without case');
    seen.add(address.toLowerCase());
  };
  for (const [index, { address }] of aliases.entries()) described(address, at('aliases', index, 'address'));
  for (const [index, { address, membersFrom }] of groups.entries()) {
    described(address, at('groups', index, 'address'));
    if (membersFrom !== undefined) listed(membersFrom, at('groups', index, 'membersFrom'));
  }
  const loop = expansionLoop([
    ...aliases.map(({ address, target }) => ({ address, members: [target], envelopeSender: null })),
    ...groups.map(({ address, members, envelopeSender = null }) => ({ address, members, envelopeSender })),
  ]);
  if (loop !== null) say(at(), `${loop.join(' -> ')} leads back to itself`, placeOf(loop[0] ?? '', recipients));
  for (const [index, { domain }] of catchAll.entries()) {
    accepted(domain, at('catchAll', index, 'domain'));
    if (typeOf(domain) === 'Authoritative' || knownRecipients.some((one) => one.domain === domain)) continue;
    if (typeOf(domain) !== undefined)
      say(
        at('catchAll', index, 'domain'),
        `nobody knows who exists in ${domain}, whose type is ${typeOf(domain)}`,
        'add the domain to recipients.knownRecipients, or remove the catchAll',
      );
  }
  for (const [index, { domain, addressLists: names }] of knownRecipients.entries()) {
    accepted(domain, at('knownRecipients', index, 'domain'));
    for (const [place, name] of names.entries()) listed(name, at('knownRecipients', index, 'addressLists', place));
  }
}

/** The entry at which to begin. */
function placeOf(address: string, { aliases, groups }: NonNullable<MailCluster['spec']['recipients']>): string {
  const isIt = (one: { readonly address: string }): boolean => one.address.toLowerCase() === address;
  const alias = aliases.findIndex(isIt);
  const where = alias >= 0 ? `aliases[${alias}].target` : `groups[${groups.findIndex(isIt)}]`;
  return `take it out at recipients.${where}; mail cannot be delivered in a circle`;
}
