/**
 * When a disruption budget is closed (kubernetes.md K6). Owns: that rule. Promise: open only while everybody in the boundary serves and says that no
 * message is on one member only; what is not known counts as unprotected. PURE.
 */
import type { Membership } from './membership.ts';
import { type Group, isServing, type Situation, unprotectedOf } from './situation.ts';

export function isClosed(situation: Situation, { states }: Membership, group: Group): boolean {
  const members = situation.members.filter(
    (one) => one.group.boundary === group.boundary && states.has(one.name) && states.get(one.name) !== 'gone',
  );
  if (members.length === 0) return false;
  if (!members.every(isServing)) return true;
  return situation.cluster.spec.shadowRedundancy.enabled && unprotectedOf(members) !== 0;
}
