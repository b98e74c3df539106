/**
 * Which addresses stand for others, and which exist, PURE. Owns: aliases, groups, mailing lists, plus-addressing, catch-all, address lists, from
 * one topology document and the lists as they were read. Promise: the same address gives the same members in the same order; a group is gone
 * through once for each address, so that no loop ends a process or a message; what is not known yet is `unavailable` and never unknown.
 */
import type { ExpansionConfig, TopologyDocument } from '../common/config.ts';
import { baseOf } from '../common/plus-addressing.ts';
import { MAX_EXPANDED_RECIPIENTS, NO_RECIPIENTS } from '../common/recipients-parse.ts';
import { normalDomain, splitAddress } from './address.ts';
import type { AddressList } from './address-list.ts';
import type { Directory } from './picker.ts';

export interface Member {
  readonly address: string;
  /** The mailing list's envelope sender; null: the client's. */
  readonly sender: string | null;
}

export interface Expansion {
  /** As configured. */
  readonly address: string;
  readonly members: readonly Member[];
  /** Its members got it as from the list: what was said about the message ends here (RFC 3461 5.2.7.1). */
  readonly isList: boolean;
}

export type Found =
  | { readonly kind: 'expansion'; readonly expansion: Expansion }
  /** It exists as it is. */
  | { readonly kind: 'known' }
  | { readonly kind: 'unlisted' }
  /** Nothing is said about it here. */
  | { readonly kind: 'other' }
  | { readonly kind: 'unavailable'; readonly list: string }
  | { readonly kind: 'unusable'; readonly group: string };

type Flattened =
  | { readonly kind: 'expansion'; readonly expansion: Expansion }
  | Extract<Found, { kind: 'unavailable' | 'unusable' }>;

/** A report about mail from a large group is not worth sending to all of it. */
const MAX_REPORTED = 100;

/** As addresses are compared here. */
export function comparable(address: string): string {
  const parts = splitAddress(address);
  return parts === null ? address.toLowerCase() : `${parts.local.toLowerCase()}@${parts.domain}`;
}

class Unavailable extends Error {
  readonly list: string;
  constructor(list: string) {
    super(list);
    this.list = list;
  }
}

export class RecipientDirectory {
  readonly #directory: Directory;
  readonly #lists: ReadonlyMap<string, AddressList>;
  readonly #plus: boolean;
  readonly #groups = new Map<string, ExpansionConfig>();
  readonly #catchAll = new Map<string, string>();
  readonly #known = new Map<string, readonly string[]>();
  readonly #authoritative: ReadonlySet<string>;
  readonly #firstDomain: string | null;
  /** Made when first asked for, shared by all sessions. */
  readonly #expanded = new Map<string, Flattened>();

  constructor(
    document: Pick<TopologyDocument, 'acceptedDomains' | 'recipients'>,
    directory: Directory,
    lists: ReadonlyMap<string, AddressList>,
  ) {
    const { plusAddressing, expansions, catchAll, knownRecipients } = document.recipients ?? NO_RECIPIENTS;
    this.#directory = directory;
    this.#lists = lists;
    this.#plus = plusAddressing;
    for (const one of expansions) this.#groups.set(comparable(one.address), one);
    for (const { domain, target } of catchAll) this.#catchAll.set(normalDomain(domain), target);
    for (const { domain, addressLists } of knownRecipients) this.#known.set(normalDomain(domain), addressLists);
    this.#authoritative = new Set(
      document.acceptedDomains.filter(({ type }) => type === 'Authoritative').map(({ name }) => normalDomain(name)),
    );
    this.#firstDomain = document.acceptedDomains[0]?.name ?? null;
  }

  find(recipient: string): Found {
    // RFC 5321 4.5.1: postmaster without a domain is that of the first accepted one, and exists.
    const isBare = !recipient.includes('@');
    const address = isBare && this.#firstDomain !== null ? `${recipient}@${this.#firstDomain}` : recipient;
    const parts = splitAddress(address);
    if (parts === null) return { kind: 'other' };
    const group = this.#groupOf(address);
    if (group !== null) return this.#expansionOf(group);
    const { local, domain } = parts;
    if (isBare || local.toLowerCase() === 'postmaster') return { kind: 'other' };
    const names = [address, ...this.#withoutDetail(local, domain)];
    if (names.some((name) => this.#directory.isListed(name))) return { kind: 'known' };
    const lists = this.#known.get(domain);
    const unread = lists?.find((list) => !this.#lists.has(list));
    if (lists?.some((list) => names.some((name) => this.#lists.get(list)?.has(name) === true)))
      return { kind: 'known' };
    if (unread !== undefined) return { kind: 'unavailable', list: unread };
    if (lists === undefined && this.#directory.databaseOf(address) !== null) return { kind: 'known' };
    const target = this.#catchAll.get(domain);
    if (target !== undefined && (lists !== undefined || this.#authoritative.has(domain)))
      return this.#expansionOf({ address, members: [target], membersFrom: null, envelopeSender: null });
    return { kind: lists === undefined ? 'other' : 'unlisted' };
  }

  /** Who is meant by a sender's address, where it is no mailbox: reports go there. */
  reportsTo(sender: string): readonly string[] | undefined {
    if (sender === '' || (this.#groups.size === 0 && this.#catchAll.size === 0)) return undefined;
    return this.#meantBy(sender, new Set());
  }

  /** `lists`: gone through. An envelope sender may be a plus-address of its own list, or a catch-all may lead back to it. */
  #meantBy(sender: string, lists: Set<string>): readonly string[] | undefined {
    const found = this.find(sender);
    if (found.kind !== 'expansion') return undefined;
    const { address, isList, members } = found.expansion;
    const owner = members[0]?.sender ?? null;
    if (!isList || owner === null) return members.slice(0, MAX_REPORTED).map((member) => member.address);
    // What is said of a list is its owner's business, not its members'.
    const name = comparable(address);
    if (lists.has(name)) return undefined;
    lists.add(name);
    return this.#meantBy(owner, lists) ?? [owner];
  }

  #withoutDetail(local: string, domain: string): readonly string[] {
    const base = this.#plus ? baseOf(local) : null;
    return base === null ? [] : [`${base}@${domain}`];
  }

  #groupOf(address: string): ExpansionConfig | null {
    if (this.#groups.size === 0) return null;
    const exact = this.#groups.get(comparable(address));
    if (exact !== undefined) return exact;
    const parts = splitAddress(address);
    if (parts === null || this.#directory.isListed(address)) return null;
    const [base] = this.#withoutDetail(parts.local, parts.domain);
    return base === undefined ? null : (this.#groups.get(comparable(base)) ?? null);
  }

  #expansionOf(group: ExpansionConfig): Flattened {
    const key = comparable(group.address);
    const isConfigured = this.#groups.get(key) === group;
    const known = isConfigured ? this.#expanded.get(key) : undefined;
    if (known !== undefined) return known;
    const made = this.#flatten(group);
    // Whatever else is caught has as many names as senders care to think of.
    if (isConfigured) this.#expanded.set(key, made);
    return made;
  }

  #flatten(group: ExpansionConfig): Flattened {
    const members = new Map<string, Member>();
    try {
      this.#collect(group, null, new Set(), members);
    } catch (error) {
      if (error instanceof Unavailable) return { kind: 'unavailable', list: error.list };
      throw error;
    }
    const usable = members.size > 0 && members.size <= MAX_EXPANDED_RECIPIENTS;
    if (!usable) return { kind: 'unusable', group: group.address };
    const { address, envelopeSender } = group;
    return {
      kind: 'expansion',
      expansion: { address, members: [...members.values()], isList: envelopeSender !== null },
    };
  }

  #collect(group: ExpansionConfig, outer: string | null, visited: Set<string>, members: Map<string, Member>): void {
    const key = comparable(group.address);
    if (visited.has(key)) return;
    visited.add(key);
    const sender = group.envelopeSender ?? outer;
    const add = (address: string): void => {
      if (members.size > MAX_EXPANDED_RECIPIENTS) return;
      const inner = this.#groupOf(address);
      if (inner !== null) return this.#collect(inner, sender, visited, members);
      const name = comparable(address);
      if (!members.has(name)) members.set(name, { address, sender });
    };
    for (const member of group.members) add(member);
    if (group.membersFrom === null) return;
    const list = this.#lists.get(group.membersFrom);
    if (list === undefined) throw new Unavailable(group.membersFrom);
    for (const member of list) add(member);
  }

  /** For the log when lists or document changed: groups that cannot be expanded, and those that lead back to themselves. */
  problems(): readonly string[] {
    return [...this.#groups.values()].flatMap((group) => {
      const found = this.#expansionOf(group);
      if (found.kind === 'unavailable') return [`group ${group.address}: address list ${found.list} was never read`];
      if (found.kind === 'unusable')
        return [`group ${group.address}: has no member, or more than ${MAX_EXPANDED_RECIPIENTS}`];
      return this.#leadsBack(group) ? [`group ${group.address}: contains itself; that is left out`] : [];
    });
  }

  #leadsBack(group: ExpansionConfig): boolean {
    const start = comparable(group.address);
    const visited = new Set<string>();
    const reaches = (one: ExpansionConfig): boolean =>
      [...one.members, ...(one.membersFrom === null ? [] : (this.#lists.get(one.membersFrom) ?? []))].some((member) => {
        const inner = this.#groupOf(member);
        if (inner === null) return false;
        const key = comparable(inner.address);
        if (key === start) return true;
        if (visited.has(key)) return false;
        visited.add(key);
        return reaches(inner);
      });
    return reaches(group);
  }
}
