/**
 * Whether what rests here is where it should be (semantics.md, promise 1, S8; protocol.md 17): on a second queue database, and where policy wants it and there is
 * one, in a second site. Owns: that judgement. PURE.
 */
import type { CopyState, Placement, StoredCopy } from '../store/database.ts';
import { type Server, type Turn, wrong } from './state.ts';

export const isDraining = (server: Server): boolean => server.self.state === 'draining';

/** Somebody who will stay has it, as far as is known. */
export function hasHome(server: Server, { identity, member }: Placement): boolean {
  const entry = server.boundary.find((one) => one.name === member);
  const current = server.peers.get(member)?.identity ?? server.known.get(member);
  return entry !== undefined && entry.state !== 'draining' && !server.lost.has(identity) && current === identity;
}

export const spansSites = ({ boundary, self }: Server): boolean => boundary.some(({ site }) => site !== self.site);

/** Both copies in one site although policy wants two and there are two (semantics.md, promise 1): a site that is lost takes its mailboxes and both copies with them. */
function isNarrow(turn: Turn, placements: readonly Placement[]): boolean {
  const { server } = turn;
  const { boundary, self, document } = server;
  const homes = placements.filter((placement) => hasHome(server, placement));
  if (homes.length === 0 || document.policies.shadowRedundancy.preference === 'LocalOnly') return false;
  // Who is drained takes nothing now; the drain may be cancelled (seed 466 with SMTP clients).
  const isElsewhere = ({ member }: Placement): boolean =>
    boundary.some(({ name, site }) => name === member && site !== self.site);
  return spansSites(server) && !homes.some(isElsewhere) && !wrong(turn, 'one-site-suffices');
}

/** What has just come to rest here as its primary is not where it should be. */
export const seeksHome = (turn: Turn, { placements }: CopyState): boolean =>
  placements.length === 0 || isNarrow(turn, placements);

export type Need = 'none' | 'protect' | 'spread' | 'handOver' | 'inherit' | 'askOwner';

export function needOf(turn: Turn, { state }: StoredCopy): Need {
  const { server } = turn;
  const { owner } = state.epoch;
  const isShadow = state.queue === 'shadowSafetyNet' && owner !== server.me;
  if (isShadow && server.lost.has(owner) && !wrong(turn, 'shadow-at-rest-orphaned')) return 'inherit';
  const isAlone = !state.placements.some((placement) => hasHome(server, placement));
  if (isDraining(server)) {
    if (isShadow) return 'askOwner';
    // A second copy first, then the first one may go: there are two where there can be.
    return isAlone ? 'protect' : 'handOver';
  }
  if (server.boundary.length === 0 || isShadow) return 'none';
  if (isAlone) return 'protect';
  return isNarrow(turn, state.placements) ? 'spread' : 'none';
}
