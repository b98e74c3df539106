/** What the checks of a valid, living cluster share: the situation and what was decided from it, each once. PURE. */
import { isClosed } from './budgets.ts';
import { findLosses, type Losses } from './losses.ts';
import { decideMembership, type Membership } from './membership.ts';
import { type References, references } from './references.ts';
import type { Situation } from './situation.ts';
import { effectiveStorage, type Storage } from './storage.ts';
import { type TopologyStep, topologyStep } from './topology-step.ts';
import { type Wanted, wantedObjects } from './wanted.ts';

export interface View {
  readonly situation: Situation;
  readonly references: References;
  readonly losses: Losses;
  readonly membership: Membership;
  readonly topology: TopologyStep;
  readonly storage: Storage;
  readonly wanted: Wanted;
}

export function viewOf(situation: Situation): View {
  const losses = findLosses(situation);
  const membership = decideMembership(situation, losses);
  const found = references(situation);
  const topology = topologyStep(situation, membership, losses, found.frozen);
  const storage = effectiveStorage(situation);
  const wanted = wantedObjects(situation, membership, topology.document, storage, (group) =>
    isClosed(situation, membership, group),
  );
  return { situation, references: found, losses, membership, topology, storage, wanted };
}
