/**
 * The API server as the person who types sees it: kubeconfig, context, namespace, and the MailCluster that is meant. Owns: those choices and the
 * words for what goes wrong. Promise: everything happens with the person's own rights; each failure is one line that names the fix.
 * Fails: `NoCluster`.
 */
import { access as canAccess } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { VERSION } from '../../common/platform/build-info.ts';
import { systemClock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { silentMetrics } from '../../common/platform/metrics.ts';
import { systemRandom } from '../../common/platform/random.ts';
import { KubeClient } from '../kube/client.ts';
import type { KubeFailure, KubeResult } from '../kube/failures.ts';
import type { KubeIdentity } from '../kube/identity.ts';
import { MAIL_CLUSTER } from '../kube/kinds.ts';
import { kubeconfigIdentity } from '../kube/kube-config.ts';
import type { KubeObject, ResourceKind } from '../kube/kube-object.ts';
import { NoCluster } from '../local/cluster.ts';
import type { MailClusterStatus } from '../resource/generated.ts';
import { type CommandContext, type OptionValues, UsageError } from './command.ts';

export const FIELD_MANAGER = 'kubectl-mailcluster';
export const USER_AGENT = `kubectl-mailcluster/${VERSION}`;
const DEFAULT_TIMEOUT_S = 10;

export interface KubeAccess {
  readonly api: KubeClient;
  readonly identity: KubeIdentity;
  readonly namespace: string;
  /** For each question to a member, and for each call. */
  readonly timeoutMs: number;
  close(): void;
}

/** As it is stored, fields we do not know included: it may be written back. */
export interface MailClusterObject extends KubeObject {
  readonly spec: Readonly<Record<string, unknown>>;
  readonly status?: MailClusterStatus;
}

const textIn = (values: OptionValues, name: string): string | undefined => {
  const value = values[name];
  return typeof value === 'string' ? value : undefined;
};

function timeoutOf(values: OptionValues): number {
  const text = textIn(values, 'request-timeout') ?? String(DEFAULT_TIMEOUT_S);
  const seconds = Number(text.replace(/s$/, ''));
  if (!(seconds >= 1 && seconds <= 300))
    throw new UsageError(`--request-timeout: seconds from 1 to 300, for example 30s, not ${text}`);
  return seconds * 1_000;
}

async function kubeconfigFile(values: OptionValues, { environment }: CommandContext): Promise<string | undefined> {
  const file = textIn(values, 'kubeconfig');
  const inPod = environment.KUBERNETES_SERVICE_HOST !== undefined;
  const other = environment.KUBECONFIG !== undefined && environment.KUBECONFIG !== '';
  const path = file ?? (other || inPod ? null : join(environment.HOME ?? homedir(), '.kube', 'config'));
  const isThere = path === null || (await canAccess(path).then(...([() => true, () => false] as const)));
  if (isThere) return file;
  throw new NoCluster(
    file === undefined
      ? 'no kubeconfig: there is no ~/.kube/config and $KUBECONFIG is not set; say --kubeconfig FILE'
      : `no kubeconfig: ${file} cannot be read; say --kubeconfig with a file that is there`,
  );
}

export async function openKube(values: OptionValues, context: CommandContext): Promise<KubeAccess> {
  const timeoutMs = timeoutOf(values);
  const file = await kubeconfigFile(values, context);
  const [inContext, impersonate] = [textIn(values, 'context'), textIn(values, 'as')];
  let identity: KubeIdentity;
  try {
    identity = await kubeconfigIdentity({
      ...(file === undefined ? {} : { file }),
      ...(inContext === undefined ? {} : { context: inContext }),
      ...(impersonate === undefined ? {} : { impersonate }),
    });
  } catch (error) {
    const why = error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error);
    throw new NoCluster(`${why}; "kubectl config get-contexts" shows what there is`);
  }
  const api = new KubeClient({
    ...{ identity, clock: systemClock, random: systemRandom, log: silentLogger, metrics: silentMetrics },
    ...{ userAgent: USER_AGENT, fieldManager: FIELD_MANAGER },
  });
  return {
    ...{ api, identity, timeoutMs },
    namespace: textIn(values, 'namespace') ?? identity.namespace,
    close: () => api.close(),
  };
}

/** What to do about a failure, in one line. */
export function advice(failure: KubeFailure, { identity }: Pick<KubeAccess, 'identity'>): string {
  switch (failure.kind) {
    case 'forbidden':
      return `${failure.message}; ask for a role that allows it (docs/cli.md has the roles)`;
    case 'unauthorized':
      return `${identity.server} does not accept your credentials (${failure.message}); log in again or say --context`;
    case 'unavailable':
    case 'deadline':
    case 'tooManyRequests':
      return `${identity.server} does not answer (${failure.message}); check it with "kubectl version", or say --context`;
    case 'conflict':
      return `somebody else changed it at the same time (${failure.message}); look again and repeat`;
    default:
      return failure.message;
  }
}

export function must<T>(result: KubeResult<T>, access: Pick<KubeAccess, 'identity'>): T {
  if (result.ok) return result.value;
  throw new NoCluster(advice(result.failure, access));
}

/** All of a kind in a namespace, page by page; `namespace` empty: in all. */
export async function listAll<T extends KubeObject>(
  access: KubeAccess,
  kind: ResourceKind,
  namespace: string,
  labelSelector?: string,
): Promise<readonly T[]> {
  const found: T[] = [];
  let continueToken = '';
  do {
    const scope = { namespace, ...(labelSelector === undefined ? {} : { labelSelector }) };
    const options = { limit: 500, continueToken, deadlineMs: access.timeoutMs, retries: 1 };
    const page = await access.api.list<T>(kind, scope, options);
    if (!page.ok && kind === MAIL_CLUSTER && page.failure.kind === 'notFound')
      throw new NoCluster('MailCluster is not installed here: the API server knows no mailclusters.mailcluster.dev');
    const { items, continueToken: next } = must(page, access);
    found.push(...items);
    continueToken = next;
  } while (continueToken !== '');
  return found;
}

/** The one that was named, else the only one. */
export async function findCluster(access: KubeAccess, name: string | undefined): Promise<MailClusterObject> {
  const { namespace } = access;
  if (name !== undefined) {
    const found = await access.api.get<MailClusterObject>(
      MAIL_CLUSTER,
      { namespace, name },
      { deadlineMs: access.timeoutMs, retries: 1 },
    );
    if (found.ok || found.failure.kind !== 'notFound') return must(found, access);
  }
  const all = await listAll<MailClusterObject>(access, MAIL_CLUSTER, namespace);
  const names = all.map(({ metadata }) => metadata.name).join(', ');
  const [only] = all;
  if (name !== undefined)
    throw new NoCluster(`there is no MailCluster ${name} in namespace ${namespace}; there is ${names || 'none'}`);
  if (only === undefined)
    throw new NoCluster(
      `there is no MailCluster in namespace ${namespace}; say -n NAMESPACE ("status -A" shows all that there are)`,
    );
  if (all.length > 1)
    throw new NoCluster(
      `there are several MailClusters in namespace ${namespace}: say --mailcluster with one of ${names}`,
    );
  return only;
}

/** By whom an operation is meant: `--mailcluster`. */
export const chosen = (values: OptionValues): string | undefined => textIn(values, 'mailcluster');
