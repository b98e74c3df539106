/** Every object a cluster is to have, from what was decided. Owns: which there are and in which order they are made. PURE. */
import type { TopologyDocument } from '../../common/config.ts';
import type { MailCluster } from '../resource/generated.ts';
import { authorityCertificate, configurations, podMonitor, serviceAccount, trust } from '../resources/documents.ts';
import { autoscaler, deployment, frontendBudget, frontendGroups, smtpService } from '../resources/frontends.ts';
import type { KubeObject } from '../resources/objects.ts';
import { networkPolicies } from '../resources/policies.ts';
import { redisDeployment, redisService } from '../resources/redis.ts';
import { headlessService, statefulSet, transportBudget } from '../resources/transports.ts';
import type { Membership } from './membership.ts';
import type { Group, Situation } from './situation.ts';
import type { Storage } from './storage.ts';

export interface Wanted {
  /** Needs nothing else to be there. */
  readonly early: readonly KubeObject[];
  /** Needs the authority and a topology document; empty without. */
  readonly base: readonly KubeObject[];
  readonly sets: readonly { readonly group: Group; readonly object: KubeObject }[];
  readonly frontends: readonly KubeObject[];
  readonly budgets: readonly KubeObject[];
}

export const allOf = (wanted: Wanted): readonly KubeObject[] => [
  ...wanted.early,
  ...wanted.base,
  ...wanted.sets.map(({ object }) => object),
  ...wanted.frontends,
  ...wanted.budgets,
];

export function wantedObjects(
  situation: Situation,
  membership: Membership,
  document: TopologyDocument | null,
  storage: Storage,
  isClosed: (group: Group) => boolean,
): Wanted {
  const { cluster, owner, gathered, groups } = situation;
  const { operator, kinds, authority } = gathered;
  const certificate = kinds.certificate ? authorityCertificate(cluster, owner) : null;
  const early = [serviceAccount(owner), ...(certificate === null ? [] : [certificate])];
  if (document === null || authority.kind !== 'present')
    return { early, base: [], sets: [], frontends: [], budgets: [] };
  const sized = withSize(cluster, storage.size);
  const frontends = frontendGroups(cluster);
  const isManaged = cluster.spec.redis.mode === 'Managed';
  return {
    early,
    base: [
      trust(owner, authority.view.trustPem),
      configurations(cluster, owner, operator, groups, frontends),
      ...networkPolicies(cluster, owner, operator, document),
      ...groups.map((group) => headlessService(owner, group)),
      smtpService(cluster, owner),
      ...(isManaged ? [redisService(owner), redisDeployment(owner, operator)] : []),
      ...(kinds.podMonitor ? [podMonitor(owner)] : []),
    ],
    sets: groups.map((group) => ({
      group,
      object: statefulSet(
        sized,
        owner,
        operator,
        group,
        replicasOf(situation, membership, group),
        siteOf(cluster, group),
      ),
    })),
    frontends: frontends.flatMap((group) =>
      [deployment(cluster, owner, operator, group), autoscaler(owner, group) ?? []].flat(),
    ),
    budgets: [
      ...groups.map((group) => transportBudget(owner, group, !isClosed(group))),
      ...frontends.map((group) => frontendBudget(owner, group)),
    ],
  };
}

const siteOf = (cluster: MailCluster, group: Group) => cluster.spec.sites.find(({ name }) => name === group.site);

/** Members that are gone have no pod. They are always the highest ordinals. */
const replicasOf = ({ members }: Situation, { states }: Membership, group: Group): number =>
  members.filter((one) => one.group === group && states.has(one.name) && states.get(one.name) !== 'gone').length;

function withSize(cluster: MailCluster, size: string): MailCluster {
  const { transport } = cluster.spec;
  return {
    ...cluster,
    spec: { ...cluster.spec, transport: { ...transport, storage: { ...transport.storage, size } } },
  };
}
