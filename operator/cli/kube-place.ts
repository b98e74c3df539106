/**
 * The place of `kubectl mailcluster`: a MailCluster on Kubernetes, reached with the rights of who asks. Owns: its options; the way to members
 * (a certificate of a person, TLS over port-forward to the pod); requests as objects. Promise: what changes the cluster is a change of a
 * resource, which the operator carries out; members are only read. Fails: `NoCluster`.
 */
import type { PersonRole } from '../../common/platform/peer-identity.ts';
import { type Asked, askMember, download } from '../admin-client.ts';
import { CONFIG_MAP, POD, RESUBMIT_REQUEST } from '../kube/kinds.ts';
import type { KubeObject } from '../kube/kube-object.ts';
import { NoCluster } from '../local/cluster.ts';
import { readTopology } from '../resources/documents.ts';
import { LABEL, named, PORT } from '../resources/names.ts';
import type { ConfigMapObject, PodObject } from '../resources/objects.ts';
import type { ResubmitResource } from '../resubmit-status.ts';
import type { CommandContext, OptionValues } from './command.ts';
import { Forwarding } from './forwarding.ts';
import {
  advice,
  chosen,
  findCluster,
  type KubeAccess,
  listAll,
  type MailClusterObject,
  must,
  openKube,
} from './kube-access.ts';
import { openKubeOrders } from './kube-orders.ts';
import { personTls } from './person-certificate.ts';
import type { MailSource, MemberName, Place, ResubmitDesk } from './place.ts';

export interface KubeMember extends MemberName {
  readonly pod: PodObject | null;
  /** Why it cannot be asked; null: it runs. */
  readonly notRunning: string | null;
}

export interface KubeMembers extends MailSource {
  readonly access: KubeAccess;
  readonly cluster: MailClusterObject;
  readonly members: readonly KubeMember[];
  readonly forwarding: Forwarding;
}

function notRunning(pod: PodObject | undefined): string | null {
  if (pod === undefined) return 'it has no pod';
  if (pod.metadata.deletionTimestamp !== undefined) return 'its pod is being deleted';
  const { phase, conditions, containerStatuses } = pod.status ?? {};
  if (phase === 'Running') return null;
  const waiting = containerStatuses?.flatMap(({ state }) => state?.waiting?.reason ?? [])[0];
  const scheduled = conditions?.find(({ type, status }) => type === 'PodScheduled' && status !== 'True');
  const why = waiting ?? scheduled?.message ?? scheduled?.reason;
  return `its pod is ${phase ?? 'unknown'}${why === undefined ? '' : ` (${why})`}`;
}

/** Pods of the cluster, and members that the operator knows and that have none. */
async function membersOf(access: KubeAccess, cluster: MailClusterObject): Promise<readonly KubeMember[]> {
  const selector = `${LABEL.cluster}=${cluster.metadata.name},${LABEL.role}=transport`;
  const pods = await listAll<PodObject & KubeObject>(access, POD, access.namespace, selector);
  const known = new Map(pods.map((pod) => [pod.metadata.name, pod]));
  const reported = cluster.status?.members ?? [];
  const names = [...new Set([...reported.map(({ name }) => name), ...known.keys()])].sort();
  return names.map((name) => {
    const pod = known.get(name);
    const own = reported.find((one) => one.name === name);
    const dag = pod?.metadata.labels?.[LABEL.dag] ?? own?.boundary?.match(/^dag\/(.+)$/)?.[1] ?? null;
    const site = pod?.metadata.labels?.[LABEL.site] ?? own?.site ?? '-';
    return { name, dag, site, pod: pod ?? null, notRunning: notRunning(pod) };
  });
}

export async function reach(
  access: KubeAccess,
  cluster: MailClusterObject,
  context: CommandContext,
  role: PersonRole = 'viewer',
): Promise<KubeMembers> {
  const { namespace, timeoutMs } = access;
  const members = await membersOf(access, cluster);
  // Nobody to ask: no certificate is needed.
  const isEmpty = members.every((one) => one.notRunning !== null);
  const tls = isEmpty ? null : await personTls(access, cluster.metadata.name, role, context);
  const forwarding = new Forwarding(access.identity, namespace, timeoutMs);
  /** Null: it runs. */
  const away = (name: string): (Asked<never> & { kind: 'unreachable' }) | null => {
    const reason = members.find((one) => one.name === name)?.notRunning;
    return reason === null ? null : { kind: 'unreachable', member: name, reason: reason ?? 'there is none' };
  };
  const ask = async <T>({ name }: Pick<MemberName, 'name'>, path: string): Promise<Asked<T>> => {
    const gone = away(name);
    if (gone !== null || tls === null) return gone ?? { kind: 'unreachable', member: name, reason: 'there is none' };
    const options = { agent: forwarding.secure, deadlineMs: timeoutMs };
    return await askMember<T>(`https://${name}:${PORT.admin}`, path, tls, name, options);
  };
  return {
    ...{ access, cluster, members, forwarding, ask },
    download: async ({ name }, path, to) => {
      const gone = away(name);
      if (gone !== null || tls === null) return gone ?? { kind: 'unreachable', member: name, reason: 'there is none' };
      return await download(`https://${name}:${PORT.admin}`, path, tls, { member: name, to, agent: forwarding.secure });
    },
    askAll: <T>(path: string) => Promise.all(members.map((member) => ask<T>(member, path))),
    close: () => {
      forwarding.close();
      access.close();
    },
  };
}

async function openMembers(values: OptionValues, context: CommandContext): Promise<KubeMembers> {
  const access = await openKube(values, context);
  return await reach(access, await findCluster(access, chosen(values)), context);
}

async function openMail(values: OptionValues, context: CommandContext): Promise<KubeMembers> {
  const access = await openKube(values, context);
  return await reach(access, await findCluster(access, chosen(values)), context, 'exporter');
}

type StoredRequest = Omit<ResubmitResource, 'status'> & Partial<Pick<ResubmitResource, 'status'>> & KubeObject;

/** The defaults are the API server's; a status is there when the operator has seen it. */
const asResource = ({ status = {}, ...one }: StoredRequest): ResubmitResource => ({ ...one, status });

async function openResubmits(values: OptionValues, context: CommandContext): Promise<ResubmitDesk> {
  const access = await openKube(values, context);
  const cluster = await findCluster(access, chosen(values));
  const { api, namespace, timeoutMs } = access;
  const calls = { deadlineMs: timeoutMs, retries: 1 };
  let opened: Promise<KubeMembers> | null = null;
  const members = (): Promise<KubeMembers> => {
    opened ??= reach(access, cluster, context);
    return opened;
  };
  const find = async (name: string): Promise<ResubmitResource | null> => {
    const found = await api.get<StoredRequest>(RESUBMIT_REQUEST, { namespace, name }, calls);
    return !found.ok && found.failure.kind === 'notFound' ? null : asResource(must(found, access));
  };
  const refused = (why: string): false => {
    context.output.err(`Refused: ${why}.\n`);
    return false;
  };
  return {
    askAll: async <T>(path: string) => await (await members()).askAll<T>(path),
    document: async () => {
      const name = named.topology(cluster.metadata.name);
      const read = readTopology(
        must(await api.get<ConfigMapObject & KubeObject>(CONFIG_MAP, { namespace, name }, calls), access),
      );
      if (read.kind === 'document') return read.document;
      throw new NoCluster(`ConfigMap ${name} ${read.why}; the operator writes it again, so repeat in a moment`);
    },
    onlySinceMs: async () => null,
    submit: async ({ metadata: { name }, spec, apiVersion, kind }) => {
      const object = {
        apiVersion,
        kind,
        metadata: { name, namespace },
        spec: { ...spec, clusterRef: { name: cluster.metadata.name } },
      };
      const created = await api.create<KubeObject>(RESUBMIT_REQUEST, object, calls);
      return created.ok ? true : refused(advice(created.failure, access));
    },
    cancel: async (name) => {
      const patched = await api.patch(RESUBMIT_REQUEST, { namespace, name }, { spec: { cancel: true } }, calls);
      if (patched.ok) return true;
      return refused(
        patched.failure.kind === 'notFound' ? `there is no resubmit request ${name}` : advice(patched.failure, access),
      );
    },
    find,
    all: async () => {
      const all = await listAll<StoredRequest>(access, RESUBMIT_REQUEST, namespace);
      return all.filter(({ spec }) => spec.clusterRef.name === cluster.metadata.name).map(asResource);
    },
    close: () => {
      access.close();
      // Connections that are kept would hold the process; one that could not be opened was told where it was asked for.
      opened?.then(
        (asked) => asked.close(),
        () => undefined,
      );
    },
  };
}

export const KUBE_PLACE: Place = {
  program: 'kubectl mailcluster',
  usage: '[-n NAMESPACE]',
  help: `  -n, --namespace NAME   namespace of the MailCluster (default: that of the context)
  -m, --mailcluster NAME which MailCluster; may be left out where there is only one
  --context, --kubeconfig, --as
                         as for kubectl
  --request-timeout TIME for each question to a member and to the API server (default 10s);
                         a member that reads its message tracking has two minutes
  -o, --output FORM      table (default), wide or json`,
  options: {
    namespace: { type: 'string', short: 'n' },
    mailcluster: { type: 'string', short: 'm' },
    context: { type: 'string' },
    kubeconfig: { type: 'string' },
    as: { type: 'string' },
    'request-timeout': { type: 'string' },
  },
  formats: ['table', 'wide', 'json'],
  openMembers,
  openMail,
  openOrders: openKubeOrders,
  openResubmits,
};
