/**
 * Chooses the transport for one message, PURE (semantics.md R2). Exchange 2013 Front End Transport: the first 20 recipients decide the
 * delivery group, the closest site of it is preferred; without a mailbox recipient any healthy server of the local site. MailCluster adds
 * load (power of two choices), back pressure and the state of the member. Refuses: members that are not connected, not accepting, not
 * active, under High back pressure, or excluded by the caller. Fails by answering null.
 */
import type { MailboxDatabaseConfig, MemberConfig, TopologyDocument } from '../common/config.ts';
import type { EnvelopeRecipient, Identity } from '../common/message.ts';
import type { Load } from '../common/peer/messages.ts';
import { baseOf } from '../common/plus-addressing.ts';
import { normalDomain, splitAddress } from './address.ts';

/** A member the front end has a working connection to. */
export interface Candidate {
  readonly member: MemberConfig;
  readonly identity: Identity;
  /** What it last said about itself; null before its first CONTACT. */
  readonly load: Load | null;
  /** Streams of this front end open there now: fresher than `load`. */
  readonly ownStreams: number;
}

/** Exchange looks at the first 20 recipients of a message. */
const RECIPIENTS_CONSIDERED = 20;
/** An open intake stream costs more than a queued message. */
const STREAM_WEIGHT = 8;

export function pickTransport(
  recipients: readonly EnvelopeRecipient[],
  candidates: readonly Candidate[],
  excluded: readonly string[],
  ownSite: string,
  directory: Directory,
  fraction: () => number,
): Candidate | null {
  const usable = candidates.filter((c) => isUsable(c) && !excluded.includes(c.member.name));
  if (usable.length === 0) return null;
  const group = directory.deliveryGroup(recipients.slice(0, RECIPIENTS_CONSIDERED), ownSite);
  const rank = (c: Candidate): number => {
    const near = c.member.site === ownSite ? 0 : 1;
    const owning = group === null || c.member.boundary === group ? 0 : 2;
    // R10: under Medium it refuses strangers; only when nobody else is left.
    const pressed = c.load?.backPressure === 'Medium' ? 4 : 0;
    return near + owning + pressed;
  };
  const best = Math.min(...usable.map(rank));
  return lighterOfTwo(
    usable.filter((c) => rank(c) === best),
    fraction,
  );
}

export function isUsable(candidate: Candidate): boolean {
  const { member, load } = candidate;
  return member.state === 'active' && (load === null || (load.accepting && load.backPressure !== 'High'));
}

function lighterOfTwo(equals: readonly Candidate[], fraction: () => number): Candidate | null {
  const first = Math.floor(fraction() * equals.length);
  const a = equals[first] ?? null;
  if (a === null || equals.length === 1) return a;
  const offset = 1 + Math.floor(fraction() * (equals.length - 1));
  const b = equals[(first + offset) % equals.length] ?? a;
  return weight(b) < weight(a) ? b : a;
}

function weight(candidate: Candidate): number {
  const { load, ownStreams } = candidate;
  const streams = Math.max(load?.intake ?? 0, ownStreams);
  return (load?.queued ?? 0) + STREAM_WEIGHT * streams;
}

/** Who owns a mailbox, from one topology document. Immutable: a new document makes a new one. */
export class Directory {
  readonly #exact = new Map<string, MailboxDatabaseConfig>();
  readonly #folded = new Map<string, MailboxDatabaseConfig>();
  readonly #domains = new Map<string, MailboxDatabaseConfig>();
  readonly #sitesOfBoundary = new Map<string, Set<string>>();
  readonly #plus: boolean;

  constructor(document: Pick<TopologyDocument, 'databases' | 'members' | 'recipients'>) {
    this.#plus = document.recipients?.plusAddressing === true;
    for (const database of document.databases) {
      for (const domain of database.domains) this.#domains.set(normalDomain(domain), database);
      for (const address of database.addresses) {
        const parts = splitAddress(address);
        if (parts === null) continue;
        if (database.caseSensitiveLocalParts) this.#exact.set(`${parts.local}@${parts.domain}`, database);
        else this.#folded.set(`${parts.local.toLowerCase()}@${parts.domain}`, database);
      }
    }
    for (const member of document.members) {
      if (member.state !== 'active') continue;
      const sites = this.#sitesOfBoundary.get(member.boundary) ?? new Set();
      this.#sitesOfBoundary.set(member.boundary, sites.add(member.site));
    }
  }

  /** The mailbox database of an address; an address beats a domain. Null when no database claims it. */
  databaseOf(address: string): MailboxDatabaseConfig | null {
    const parts = splitAddress(address);
    if (parts === null) return null;
    const { local, domain } = parts;
    const base = this.#plus ? baseOf(local) : null;
    const listed = this.#listed(local, domain) ?? (base === null ? undefined : this.#listed(base, domain));
    return listed ?? this.#domains.get(domain) ?? null;
  }

  /** Whether a database names this very address. */
  isListed(address: string): boolean {
    const parts = splitAddress(address);
    if (parts === null) return false;
    return this.#listed(parts.local, parts.domain) !== undefined;
  }

  #listed(local: string, domain: string): MailboxDatabaseConfig | undefined {
    return this.#exact.get(`${local}@${domain}`) ?? this.#folded.get(`${local.toLowerCase()}@${domain}`);
  }

  /** The boundary whose member should get the message: with a member in `ownSite` first, then most recipients, then name. */
  deliveryGroup(recipients: readonly EnvelopeRecipient[], ownSite: string): string | null {
    const counts = new Map<string, number>();
    for (const recipient of recipients) {
      const boundary = this.databaseOf(recipient.address)?.boundary;
      if (boundary !== undefined) counts.set(boundary, (counts.get(boundary) ?? 0) + 1);
    }
    const closeness = (boundary: string): number => (this.#sitesOfBoundary.get(boundary)?.has(ownSite) ? 0 : 1);
    const ordered = [...counts].sort(
      ([a, countA], [b, countB]) => closeness(a) - closeness(b) || countB - countA || (a < b ? -1 : 1),
    );
    return ordered[0]?.[0] ?? null;
  }
}
