/** Rounds of plan, carry out, settle for the tests of operator/plan.ts. */
import { plan } from '../../operator/plan.ts';
import { ClusterModel, describeAction } from './cluster-model.ts';
import { DATABASE, TWO_SITES } from './cluster-state.ts';

export const planned = (model: ClusterModel): readonly string[] => plan(model.gather()).actions.map(describeAction);

/** One look of the operator, and time for everybody else. Returns what it did. */
export function round(model: ClusterModel, seconds = 5): readonly string[] {
  const next = plan(model.gather());
  model.carryOut(next);
  model.settle(seconds);
  return next.actions.map(describeAction);
}

/** A member that hands over needs a round in which the operator only waits. */
const IDLE_ROUNDS = 4;

/** Plans and carries out until nothing is planned for a while; returns what was done in each round. */
export function converge(model: ClusterModel, most = 120): readonly (readonly string[])[] {
  const done: (readonly string[])[] = [];
  let idle = 0;
  for (let n = 0; n < most; n += 1) {
    const acted = round(model);
    if (acted.length > 0) done.push(acted);
    idle = acted.length > 0 ? 0 : idle + 1;
    if (idle === IDLE_ROUNDS) return done;
  }
  const { actions, outcomes } = plan(model.gather());
  throw new Error(
    `no rest after ${most} rounds: ${actions.map(describeAction).join(', ')} ${JSON.stringify(outcomes)}`,
  );
}

export function running(
  spec = TWO_SITES,
  databases: Readonly<Record<string, string>> = { db01: DATABASE },
): ClusterModel {
  const model = new ClusterModel(spec, databases);
  converge(model);
  return model;
}

export function sized(seattle: number, portland: number): string {
  return TWO_SITES.replace('seattle, replicas: 2', `seattle, replicas: ${seattle}`).replace(
    'portland, replicas: 2',
    `portland, replicas: ${portland}`,
  );
}

export const inSite = (model: ClusterModel, site: string): readonly string[] =>
  model.memberNames.filter((name) => name.includes(site));

/** Rounds until `reached`; fails when it is not within `most`. */
export function roundsUntil(model: ClusterModel, what: string, reached: () => boolean, most = 30): void {
  for (let n = 0; n < most; n += 1) {
    if (reached()) return;
    round(model);
  }
  throw new Error(`not reached: ${what}; ${JSON.stringify(plan(model.gather()).outcomes)}`);
}

/** The only member with this ordinal in this site. */
export function memberOf(model: ClusterModel, site: string, ordinal: number): string {
  const name = inSite(model, site).find((one) => one.endsWith(`-${ordinal}`));
  if (name === undefined) throw new Error(`no member ${ordinal} in ${site}`);
  return name;
}

export const stateOf = (model: ClusterModel, member: string): string | undefined =>
  model.document?.members.find(({ name }) => name === member)?.state;
