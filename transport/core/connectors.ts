/**
 * Which send connector takes a message for a domain outside (semantics.md D4). Owns: the order of connectors: the most exact address space, then the lowest
 * cost, then the name; what excludes one: the site of this transport, the size of the message. Promise: `candidates` lists what `chooseConnector` decides by. PURE.
 */
import type { SendConnectorConfig, TopologyDocument } from '../../common/config.ts';
import type { KnownPaths } from './boundary-path.ts';

/** Whose message: what decides beside the address. */
export interface Origin {
  /** Of the transport that delivers. */
  readonly site: string;
  readonly sizeBytes: number;
  /** Set for what may go to another boundary (semantics.md D3). */
  readonly crossing?: Crossing;
}

export interface Crossing {
  /** Of the transport that delivers. */
  readonly boundary: string;
  /** Where it was before. */
  readonly passed: readonly string[];
  /** Computed for others before. */
  readonly paths?: KnownPaths;
}

export interface Candidate {
  readonly connector: SendConnectorConfig;
  /** The address space by which it takes the domain. */
  readonly space: string;
  readonly cost: number;
  readonly score: number;
  readonly verdict: 'usable' | 'otherSite' | 'tooLarge';
}

export type Choice =
  | { readonly kind: 'connector'; readonly connector: SendConnectorConfig }
  | { readonly kind: 'none'; readonly reason: string }
  | { readonly kind: 'tooLarge'; readonly reply: string };

/** The longest match wins, as with Exchange's address spaces; `*` matches everything. */
function matchScore(space: string, domain: string): number | null {
  if (space === '*') return 0;
  if (space === domain) return 1_000 + space.length;
  if (space.startsWith('*.') && (domain.endsWith(space.slice(1)) || domain === space.slice(2))) return space.length;
  return null;
}

const inOrder = (a: Candidate, b: Candidate): number =>
  b.score - a.score || a.cost - b.cost || (a.connector.name < b.connector.name ? -1 : 1);

function verdictOf(connector: SendConnectorConfig, { site, sizeBytes }: Origin): Candidate['verdict'] {
  const { sites } = connector;
  if (sites.length > 0 && !sites.includes(site)) return 'otherSite';
  return isTooLarge(connector, sizeBytes) ? 'tooLarge' : 'usable';
}

export function isTooLarge({ sendLimits }: SendConnectorConfig, sizeBytes: number): boolean {
  const most = sendLimits?.maxMessageBytes ?? null;
  return most !== null && sizeBytes > most;
}

/** Every connector that serves the domain, by its best address space, the first to be used in front, also those that are excluded. */
export function candidates(document: TopologyDocument, domain: string, origin: Origin): readonly Candidate[] {
  const found: Candidate[] = [];
  for (const connector of document.sendConnectors) {
    if (connector.smartHosts.length === 0 && connector.mx === null) continue;
    let best: Candidate | null = null;
    for (const space of connector.addressSpaces) {
      const score = matchScore(space.domain, domain);
      if (score === null) continue;
      const one = { connector, space: space.domain, cost: space.cost, score, verdict: verdictOf(connector, origin) };
      if (best === null || inOrder(one, best) < 0) best = one;
    }
    if (best !== null) found.push(best);
  }
  return found.sort(inOrder);
}

export function chooseConnector(document: TopologyDocument, domain: string, origin: Origin): Choice {
  const all = candidates(document, domain, origin);
  const chosen = all.find(({ verdict }) => verdict === 'usable');
  if (chosen !== undefined) return { kind: 'connector', connector: chosen.connector };
  const small = all.filter(({ verdict }) => verdict === 'tooLarge');
  if (small.length > 0) {
    const most = Math.max(...small.map(({ connector }) => connector.sendLimits?.maxMessageBytes ?? 0));
    // RFC 3463 5.3.4: message too big for system. It will not become smaller.
    const reply = `552 5.3.4 Message of ${origin.sizeBytes} bytes exceeds the limit of ${most} bytes on the way to ${domain}`;
    return { kind: 'tooLarge', reply };
  }
  const elsewhere = all.map(({ connector }) => `${connector.name} (only ${connector.sites.join(', ')})`);
  const why = elsewhere.length === 0 ? '' : ` in site ${origin.site}: ${elsewhere.join('; ')}`;
  return { kind: 'none', reason: `no send connector for ${domain}${why}` };
}
