/**
 * Queue databases that will not come back (kubernetes.md K6, semantics.md S5): told to the boundary at once, so that takeover does not wait for the
 * span. Owns: what counts as proof. Promise: NotReady, Terminating, an expired lease alone are no proof; a planned restart is none; a member
 * that answers under its identity is never lost. A word that was wrong is void once that database speaks (protocol.md 4). PURE.
 */
import type { RetiredIdentity } from '../../common/config.ts';
import type { Gathered } from '../gathered.ts';
import type { Reason } from '../reasons.ts';
import { act, event, type Finding } from './finding.ts';
import { identityOf, isRunning, type Member, type Situation } from './situation.ts';

export interface Losses {
  readonly retired: readonly RetiredIdentity[];
  /** Names of the members whose last database is lost. */
  readonly lost: ReadonlySet<string>;
  readonly findings: readonly Finding[];
}

const OUT_OF_SERVICE = 'node.kubernetes.io/out-of-service';
/** A pod that somebody deleted is usually back within two seconds; the promise is takeover within 60 s. */
const GONE_AFTER_MS = 30_000;

/** The volume on which it last spoke is not there any more. */
export function volumeLost(member: Member, { volumes }: Gathered): boolean {
  const { claim, former } = member;
  if (claim?.status?.phase === 'Lost') return true;
  if (former?.claimUid !== undefined && claim?.metadata.uid !== former.claimUid) return true;
  const bound = claim?.status?.phase === 'Bound' ? claim.spec?.volumeName : undefined;
  return bound !== undefined && !volumes.some(({ metadata }) => metadata.name === bound);
}

const isOutOfService = ({ node }: Member): boolean =>
  node?.spec?.taints?.some(({ key }) => key === OUT_OF_SERVICE) ?? false;

/** The pod that last spoke is gone for good, was not sent away by us, and nobody came instead. */
function podGone(member: Member, nowMs: number): boolean {
  const { pod, former, silence } = member;
  if (former?.podUid === undefined || former.restartReason !== undefined) return false;
  if (pod?.metadata.uid === former.podUid || isRunning(member)) return false;
  return silence !== null && silence.sinceMs !== null && nowMs - silence.sinceMs >= GONE_AFTER_MS;
}

function lossOf(member: Member, gathered: Gathered): { readonly reason: Reason; readonly why: string } | null {
  const { name, report } = member;
  if (report !== null) {
    // It speaks: only what it had before can be lost, and only with its volume.
    const isAnother = member.former?.identity !== undefined && member.former.identity !== report.identity;
    const why = `${name} has a new queue database; its former volume is gone`;
    return isAnother && volumeLost(member, gathered) ? { reason: 'VolumeLost', why } : null;
  }
  if (volumeLost(member, gathered)) return { reason: 'VolumeLost', why: `the volume of ${name} is lost` };
  if (isOutOfService(member)) {
    return { reason: 'NodeOutOfService', why: `node ${member.node?.metadata.name} of ${name} is out of service` };
  }
  return podGone(member, gathered.nowMs) ? { reason: 'PodGone', why: `the pod of ${name} is gone` } : null;
}

/** Who was said to be lost stays so until it runs again: what Kubernetes makes in its place may wait for a machine for days. */
const staysLost = (member: Member, identity: string, known: ReadonlyMap<string, RetiredIdentity>): boolean =>
  known.get(identity)?.reason === 'lost' && member.report === null && !isRunning(member);

export function findLosses(situation: Situation): Losses {
  const { gathered, members, previous } = situation;
  const known = new Map((previous.document?.retired ?? []).map((one) => [one.identity as string, one]));
  const retired: RetiredIdentity[] = [];
  const lost = new Set<string>();
  const findings: Finding[] = [];
  for (const member of members) {
    const loss = lossOf(member, gathered);
    const identity = member.report === null ? identityOf(member, members) : (member.former?.identity ?? null);
    if (identity === null) continue;
    if (loss === null) {
      if (staysLost(member, identity, known)) lost.add(member.name);
      continue;
    }
    if (member.report === null) lost.add(member.name);
    if (known.has(identity)) continue;
    const uid = member.former?.podUid ?? null;
    retired.push({ member: member.name, identity: identity as RetiredIdentity['identity'], uid, reason: 'lost' });
    const message = `${loss.why}: its shadows take over what it had (queue database ${identity})`;
    findings.push(act(loss.reason, message, { events: [event('Warning', loss.reason, message)] }));
  }
  return { retired, lost, findings };
}
