/**
 * Which member shall hold the shadow (semantics.md R4; Exchange: ShadowMessagePreferenceSetting, MaxRetriesForRemoteSiteShadow,
 * MaxRetriesForLocalSiteShadow). PURE. Refuses: anything outside the boundary, a peer without an authenticated session, a
 * peer at Medium back pressure or that does not accept.
 */
import type { MemberConfig, PoliciesConfig } from '../../common/config.ts';

export interface Candidate {
  readonly member: string;
  readonly site: string;
  /** Copies in transit there; lighter is better. */
  readonly queued: number;
  /** Streams we have open to it now. */
  readonly open: number;
}

export interface Tried {
  readonly member: string;
  readonly site: string;
}

export interface PlacementInput {
  readonly self: MemberConfig;
  /** All members of the boundary, present or not, without self. */
  readonly boundary: readonly MemberConfig[];
  readonly healthy: readonly Candidate[];
  readonly tried: readonly Tried[];
  readonly policy: PoliciesConfig['shadowRedundancy'];
  /** In [0, 1): breaks ties. */
  readonly draw: number;
}

/** Next member to try, or null when the attempts are used up or nobody is left. */
export function nextCandidate(input: PlacementInput): string | null {
  const { self, policy, tried } = input;
  const spansSites = input.boundary.some((member) => member.site !== self.site);
  const isRemote = (site: string): boolean => site !== self.site;
  const remoteLeft = policy.maxRetriesForRemoteSiteShadow - tried.filter((entry) => isRemote(entry.site)).length;
  const localLeft = policy.maxRetriesForLocalSiteShadow - tried.filter((entry) => !isRemote(entry.site)).length;
  const remote = input.healthy.filter((candidate) => isRemote(candidate.site));
  const local = input.healthy.filter((candidate) => !isRemote(candidate.site));
  if (!spansSites) return localLeft > 0 ? lightest(local, tried, input.draw) : null;
  switch (policy.preference) {
    case 'LocalOnly':
      return localLeft > 0 ? lightest(local, tried, input.draw) : null;
    case 'RemoteOnly':
      return remoteLeft > 0 ? lightest(remote, tried, input.draw) : null;
    case 'PreferRemote':
      return (
        (remoteLeft > 0 ? lightest(remote, tried, input.draw) : null) ??
        (localLeft > 0 ? lightest(local, tried, input.draw) : null)
      );
  }
}

function timesOf(member: string, tried: readonly Tried[]): number {
  let times = 0;
  for (const entry of tried) if (entry.member === member) times += 1;
  return times;
}

/** Least tried first, then by load; equal ones by lot. */
function lightest(candidates: readonly Candidate[], tried: readonly Tried[], draw: number): string | null {
  if (candidates.length === 0) return null;
  let best: Candidate[] = [];
  let [fewest, least] = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY];
  for (const candidate of candidates) {
    const times = timesOf(candidate.member, tried);
    const load = candidate.open * 8 + Math.floor(candidate.queued / 64);
    if (times > fewest || (times === fewest && load > least)) continue;
    if (times < fewest || load < least) best = [];
    [fewest, least] = [times, load];
    best.push(candidate);
  }
  return best[Math.floor(draw * best.length)]?.member ?? null;
}
