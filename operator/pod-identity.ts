/**
 * What the signing endpoint asks the Kubernetes side: who a token speaks for (TokenReview, authentication.k8s.io/v1) and what we know of a pod. Owns: the
 * translation. Promise: the review always names our audience, so that a token for the API server opens nothing here.
 */
import type { Logger } from '../common/platform/log.ts';
import type { OperatorSettings } from './gathered.ts';
import type { KubeApi } from './kube/api.ts';
import { describeFailure } from './kube/failures.ts';
import { POD, TOKEN_REVIEW } from './kube/kinds.ts';
import type { KubeObject } from './kube/kube-object.ts';
import { serviceDomain } from './resources/configs.ts';
import { ANNOTATION, LABEL, named, SIGNER_AUDIENCE } from './resources/names.ts';
import type { SignerPod, TokenHolder } from './signer.ts';
import type { World } from './world.ts';

interface Review extends KubeObject {
  readonly spec: { readonly token: string; readonly audiences: readonly string[] };
  readonly status?: {
    readonly authenticated?: boolean;
    readonly audiences?: readonly string[];
    readonly user?: {
      readonly username?: string;
      readonly extra?: Readonly<Record<string, readonly string[] | undefined>>;
    };
  };
}

const ACCOUNT = /^system:serviceaccount:([^:]+):([^:]+)$/;
const EXTRA = 'authentication.kubernetes.io/';

/** Null: not a pod's token for us. Rejects when the API server does not answer. */
export async function reviewToken(api: Pick<KubeApi, 'create'>, token: string): Promise<TokenHolder | null> {
  const review = {
    apiVersion: 'authentication.k8s.io/v1',
    kind: 'TokenReview',
    metadata: { name: '' },
    spec: { token, audiences: [SIGNER_AUDIENCE] },
  };
  const reviewed = await api.create<Review>(TOKEN_REVIEW, review, { deadlineMs: 5_000 });
  if (!reviewed.ok) throw new Error(describeFailure(reviewed.failure));
  const { authenticated, audiences = [], user } = reviewed.value.status ?? {};
  if (authenticated !== true || !audiences.includes(SIGNER_AUDIENCE)) return null;
  const [, namespace, serviceAccount] = ACCOUNT.exec(user?.username ?? '') ?? [];
  const extra = (name: string): string | undefined => user?.extra?.[`${EXTRA}${name}`]?.[0];
  const [podName, podUid] = [extra('pod-name'), extra('pod-uid')];
  if (namespace === undefined || serviceAccount === undefined || podName === undefined || podUid === undefined)
    return null;
  return { namespace, serviceAccount, podName, podUid, nodeName: extra('node-name') ?? null };
}

export function podOf(
  world: Pick<World, 'get'>,
  settings: OperatorSettings,
  namespace: string,
  name: string,
): SignerPod | null {
  const pod = world.get(POD, namespace, name);
  if (pod === undefined) return null;
  const { uid = '', labels, annotations, deletionTimestamp } = pod.metadata;
  const spec = (pod.spec ?? {}) as { nodeName?: string; serviceAccountName?: string };
  const cluster = labels?.[LABEL.cluster] ?? null;
  const role = labels?.[LABEL.role];
  const group = labels?.[LABEL.group];
  const owner = { name: cluster ?? '', namespace, uid: '' };
  const service = role === 'transport' ? group : cluster === null ? undefined : named.smtpService(cluster);
  return {
    uid,
    nodeName: spec.nodeName ?? null,
    serviceAccount: spec.serviceAccountName ?? 'default',
    cluster,
    role: role === 'transport' || role === 'frontend' ? role : null,
    deletionAtMs: deletionTimestamp === undefined ? null : Date.parse(deletionTimestamp),
    trusts: annotations?.[ANNOTATION.trusts] ?? null,
    hosts: service === undefined ? [] : [`${name}.${serviceDomain(service, owner, settings)}`],
  };
}

/** Whoever signs writes this, leader or not: it is the pod's own word, the same whoever heard it. False: not written, the log says why. */
export async function noteTrust(
  { api, log }: { readonly api: Pick<KubeApi, 'patch'>; readonly log: Logger },
  name: { readonly namespace: string; readonly name: string },
  uid: string,
  trust: string,
): Promise<boolean> {
  const patch = { metadata: { uid, annotations: { [ANNOTATION.trusts]: trust } } };
  const written = await api.patch<KubeObject>(POD, name, patch, { deadlineMs: 5_000 });
  if (!written.ok) log.warn({ ...name, failure: written.failure }, 'which authorities a pod trusts was not noted');
  return written.ok;
}
