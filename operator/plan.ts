/**
 * From what is there to what is to be done: the one decision of the operator (kubernetes.md K1). Read GATES and CHECKS from top to bottom: that is the
 * order in which things are looked at and in which actions are carried out. Owns: that order. Promise: the same snapshot gives the same plan;
 * a cluster that is as it should be gives no action; whatever the state, a person finds in status which check acts, waits or refuses, and
 * why. PURE: no client, no clock.
 */
import type { Action, Outcome, Plan, PlannedEvent } from './actions.ts';
import { authority, certificates, redisPassword } from './checks/authority.ts';
import { dane } from './checks/dane.ts';
import type { Finding } from './checks/finding.ts';
import { deletion, finalizer, invalidSpec, isPaused, schemaVersion } from './checks/gates.ts';
import { ensure, obsolete } from './checks/objects-step.ts';
import { ordersStep } from './checks/orders-step.ts';
import { acknowledged, failingPods, frontendsServe, membersServe, pushGeneration } from './checks/pods-step.ts';
import { pressure } from './checks/pressure.ts';
import { databasesStep, requestsStep } from './checks/requests-step.ts';
import { restarts } from './checks/restarts.ts';
import { setsStep } from './checks/sets-step.ts';
import { situationOf } from './checks/situation.ts';
import { pushTrust, trusted } from './checks/trust.ts';
import { type View, viewOf } from './checks/view.ts';
import { allOf } from './checks/wanted.ts';
import type { Gathered } from './gathered.ts';
import type { MailClusterStatus } from './resource/generated.ts';
import { COUNTERS_EVERY_MS, isAtRest, shortStatus, statusOf, statusToWrite } from './status.ts';

export interface Named<Input> {
  readonly name: string;
  readonly look: (input: Input) => readonly Finding[];
}

/** Before anything is decided. One that stops is the last word. */
export const GATES: readonly Named<Gathered>[] = [
  { name: 'the operator knows this schema', look: schemaVersion },
  { name: 'the cluster is not being deleted', look: deletion },
  { name: 'the spec can be read', look: invalidSpec },
  { name: 'the finalizer is there', look: finalizer },
];

/** In the order of their actions. */
export const CHECKS: readonly Named<View>[] = [
  { name: 'references can be followed', look: ({ references }) => references.findings },
  { name: 'lost queue databases are told', look: ({ losses }) => losses.findings },
  { name: 'members come and go in order', look: ({ membership }) => membership.findings },
  // Everything decided above is in it: what follows relies on its having been written.
  { name: 'the topology document is written', look: ({ topology }) => topology.findings },
  { name: 'what needs nothing else is there', look: ({ situation, wanted }) => ensure(situation, wanted.early) },
  { name: 'there is an authority', look: authority },
  { name: 'Redis has a password', look: redisPassword },
  {
    name: 'configuration, Services and policies are there',
    look: ({ situation, wanted }) => ensure(situation, wanted.base),
  },
  { name: 'budgets are right', look: ({ situation, wanted }) => ensure(situation, wanted.budgets) },
  { name: 'volumes are large enough', look: ({ storage }) => storage.findings },
  { name: 'transports are there', look: ({ situation, wanted }) => setsStep(situation, wanted.sets) },
  { name: 'front ends are there', look: ({ situation, wanted }) => ensure(situation, wanted.frontends) },
  { name: 'the generation is pushed', look: pushGeneration },
  { name: 'the authorities to trust are pushed', look: ({ situation }) => pushTrust(situation) },
  { name: 'pods come up', look: failingPods },
  { name: 'members serve', look: membersServe },
  { name: 'resolvers for DANE validate', look: ({ situation }) => dane(situation) },
  { name: 'members have room', look: ({ situation }) => pressure(situation) },
  { name: 'front ends serve', look: frontendsServe },
  { name: 'the generation is acknowledged', look: acknowledged },
  { name: 'certificates are renewed', look: certificates },
  { name: 'the authorities are trusted', look: ({ situation }) => trusted(situation) },
  { name: 'members are up to date', look: restarts },
  { name: 'mailbox databases are told', look: databasesStep },
  { name: 'resubmit requests are followed', look: requestsStep },
  { name: 'orders of people are answered', look: ordersStep },
  { name: 'nothing is left over', look: leftOver },
];

/** Looks without a cause. Under way: time alone may prove something (losses.ts). At rest: certificates grow old; whatever else changes is told by a watch or an answer. */
const RESYNC_MS = { underWay: 15_000, atRest: 600_000 };

function leftOver({ situation, wanted }: View): readonly Finding[] {
  // Without all that is wanted nobody can say what is not.
  return wanted.base.length === 0 ? [] : obsolete(situation, allOf(wanted));
}

export function plan(gathered: Gathered): Plan {
  const gate = run(GATES, gathered);
  const { resource } = gathered.cluster;
  if (gate.stopped || resource === null) return finished(gathered, null, gate.found);
  const view = viewOf(situationOf(gathered, resource));
  const checked = run(CHECKS, view);
  const found = [...gate.found, ...checked.found];
  return finished(gathered, view, isPaused(gathered) ? withoutActing(found) : found);
}

export interface Found {
  readonly check: string;
  readonly finding: Finding;
}

function run<Input>(
  checks: readonly Named<Input>[],
  input: Input,
): { readonly found: readonly Found[]; readonly stopped: boolean } {
  const found: Found[] = [];
  for (const { name, look } of checks) {
    for (const finding of look(input)) {
      found.push({ check: name, finding });
      if (finding.stop) return { found, stopped: true };
    }
  }
  return { found, stopped: false };
}

/** Paused: what would be done is said, not done. */
const withoutActing = (found: readonly Found[]): readonly Found[] =>
  found.map(({ check, finding }) => ({ check, finding: { ...finding, actions: [], events: [] } }));

function finished(gathered: Gathered, view: View | null, found: readonly Found[]): Plan {
  const actions: readonly Action[] = found.flatMap(({ finding }) => finding.actions ?? []);
  const isEnding = gathered.cluster.metadata.deletionTimestamp !== undefined || gathered.namespaceTerminating;
  const status = isEnding ? null : view === null ? shortStatus(gathered, found) : statusOf(gathered, view, found);
  const toWrite = status === null ? null : statusToWrite(gathered, status);
  return {
    actions,
    status: toWrite === 'later' ? null : toWrite,
    events: newEvents(gathered, found),
    requeueAfterMs: requeue(found, status, toWrite === 'later'),
    outcomes: found.map(({ check, finding: { kind, reason, message } }): Outcome => ({ check, kind, reason, message })),
  };
}

/** A refusal is said when it begins: its text is then in a condition, and stays there. */
function newEvents({ cluster }: Gathered, found: readonly Found[]): readonly PlannedEvent[] {
  const said = cluster.status?.conditions ?? [];
  return found.flatMap(({ finding }) => {
    if (finding.kind === 'act') return finding.events ?? [];
    const isKnown = said.some(({ type, message }) => type === finding.condition && message.includes(finding.message));
    return isKnown ? [] : (finding.events ?? []);
  });
}

/** No status: the cluster is ending. */
function requeue(found: readonly Found[], status: MailClusterStatus | null, isWithheld: boolean): number | null {
  const waits = found.flatMap(({ finding }) => finding.afterMs ?? []);
  if (status === null) return waits.length === 0 ? null : Math.min(...waits);
  const resyncMs = isAtRest(status) ? RESYNC_MS.atRest : RESYNC_MS.underWay;
  return Math.min(resyncMs, ...waits, ...(isWithheld ? [COUNTERS_EVERY_MS] : []));
}
