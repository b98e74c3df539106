/**
 * What the files of one reading come to: exactly one MailCluster with its members, stores and listener bindings. Owns nothing; reads the
 * files. A problem is a text for the person who wrote them.
 */
import type { MailboxDatabase, MailCluster } from '../resource/generated.ts';
import { type LoadedResources, loadResources } from '../resource/load.ts';
import { renderProblems } from '../resource/problem.ts';
import { type MembershipPlan, planMembers } from '../topology.ts';
import { type Binding, bindListeners, type ListenOption, type PlannedStore, planStores } from './plan.ts';

export interface Wanted {
  readonly cluster: MailCluster;
  readonly databases: readonly MailboxDatabase[];
  readonly loaded: LoadedResources;
  readonly members: MembershipPlan;
  readonly stores: readonly PlannedStore[];
  readonly bindings: readonly Binding[];
}

export type Prepared<T> =
  | { readonly kind: 'ok'; readonly value: T }
  | { readonly kind: 'problem'; readonly text: string };

export const ok = <T>(value: T): Prepared<T> => ({ kind: 'ok', value });
export const problem = (text: string): { readonly kind: 'problem'; readonly text: string } => ({
  kind: 'problem',
  text,
});

/** `root`: where relative paths of embedded stores begin. */
export function readWanted(
  files: readonly string[],
  listen: readonly ListenOption[],
  root: string,
  readStdin: () => string,
): Prepared<Wanted> {
  const loaded = loadResources(files, { readStdin });
  if (!loaded.ok) return problem(renderProblems(loaded.problems));
  const [cluster, another] = loaded.clusters;
  if (cluster === undefined || another !== undefined) {
    const names = loaded.clusters.map((one) => one.metadata.name).join(', ');
    const found = cluster === undefined ? 'no MailCluster' : `several MailClusters (${names})`;
    return problem(`${files.join(', ')}: ${found}; "mailcluster run" runs exactly one\n`);
  }
  const members = planMembers(cluster);
  const bindings = bindListeners(members.frontends, listen);
  if (typeof bindings === 'string') return problem(`${bindings}\n`);
  const loop = bringsBack(cluster, bindings);
  if (loop !== null) return problem(`${loop}\n`);
  const stores = planStores(cluster, loaded.databases, root);
  return ok({ cluster, databases: loaded.databases, loaded, members, stores, bindings });
}

const isLoopback = (host: string): boolean => host === 'localhost' || host === '::1' || /^127\./.test(host);

/** A smart host that is a listener of ours would give mail back for ever; on other machines only its name tells (resource/connector-checks.ts). */
function bringsBack(cluster: MailCluster, bindings: readonly Binding[]): string | null {
  for (const { name, smartHosts } of cluster.spec.sendConnectors)
    for (const { host, port } of smartHosts) {
      const here = ({ fixed }: Binding): boolean =>
        fixed !== null && fixed.port === port && (fixed.host === host || isLoopback(host));
      const own = bindings.find(here);
      if (own !== undefined)
        return `send connector ${name} would bring mail back: ${host}:${port} is the listener ${own.listener} of ${own.frontend}; name a server outside, or another --listen`;
    }
  return null;
}
