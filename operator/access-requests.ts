/**
 * Certificates for people: whoever may `get` the subresource `view` of a MailCluster gets a short-lived client certificate of the role `viewer`
 * for the admin APIs of its transports, through a CertificateSigningRequest of the signer `mailcluster.dev/viewer`; `content` and `exporter`
 * in the same way give mail itself (docs/decisions/0014-kubectl-plugin.md, 0034-orders-on-kubernetes.md). Owns: those requests. Promise: who asks is what the API server stamped on the request, never what
 * the request says; only the key is taken from it; nothing is signed that a SubjectAccessReview did not allow. Refuses by a condition
 * `Denied` with the reason. Only the leader writes; what could not be decided is looked at again.
 */
import type { Clock } from '../common/platform/clock.ts';
import type { Logger } from '../common/platform/log.ts';
import type { Metrics } from '../common/platform/metrics.ts';
import type { PersonRole } from '../common/platform/peer-identity.ts';
import type { Random } from '../common/platform/random.ts';
import type { Authorities } from './authorities.ts';
import type { KubeApi } from './kube/api.ts';
import { describeFailure, type KubeResult, succeed } from './kube/failures.ts';
import { CERTIFICATE_SIGNING_REQUEST, MAIL_CLUSTER, SUBJECT_ACCESS_REVIEW } from './kube/kinds.ts';
import type { KubeObject } from './kube/kube-object.ts';
import { Reflector } from './kube/reflector.ts';
import { type WorkOutcome, WorkQueue } from './kube/work-queue.ts';
import { CertificateRequestError, signRequest } from './pki.ts';
import { ANNOTATION, PERSON_SIGNERS } from './resources/names.ts';
import type { World } from './world.ts';

/** certificates.k8s.io/v1, as far as it is read. */
export interface SigningRequest extends KubeObject {
  readonly spec: {
    readonly signerName: string;
    /** PKCS #10 in PEM, in base64. */
    readonly request: string;
    readonly expirationSeconds?: number;
    readonly usages?: readonly string[];
    /** Of the asker; written by the API server. */
    readonly username?: string;
    readonly uid?: string;
    readonly groups?: readonly string[];
    readonly extra?: Readonly<Record<string, readonly string[]>>;
  };
  readonly status?: {
    readonly certificate?: string;
    readonly conditions?: readonly { readonly type: string; readonly reason?: string; readonly message?: string }[];
  };
}

interface AccessReview extends KubeObject {
  readonly status?: { readonly allowed?: boolean };
}

export interface AccessRequestsSide {
  readonly api: KubeApi;
  /** Through the fence. */
  readonly writer: KubeApi;
  readonly world: Pick<World, 'get'>;
  readonly authorities: Pick<Authorities, 'authority' | 'view'>;
  readonly mayWrite: () => boolean;
  /** Empty: all namespaces. Requests for other ones are somebody else's. */
  readonly namespace: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly metrics: Metrics;
}

/** What the API server takes at least, and what we give at most. */
const LIFETIME_SECONDS = { least: 600, most: 3_600 } as const;
const DEADLINE_MS = 5_000;
const DONE: WorkOutcome = { kind: 'done' };
const GRACE_MS = 2_000;

interface Grant {
  readonly role: PersonRole;
  /** Of mailclusters, which the person must be allowed to `get`. */
  readonly subresource: string;
  readonly reason: string;
  readonly words: string;
}

const GRANTS: readonly Grant[] = [
  { role: 'viewer', subresource: 'view', reason: 'MayView', words: 'look at' },
  { role: 'exporter', subresource: 'content', reason: 'MayExport', words: 'export mail of' },
];

/** Null: not for us to decide. */
function clusterOf({ metadata }: SigningRequest): { readonly namespace: string; readonly name: string } | null {
  const [namespace = '', name = '', more] = (metadata.annotations?.[ANNOTATION.mailCluster] ?? '').split('/');
  return namespace === '' || name === '' || more !== undefined ? null : { namespace, name };
}

const isDecided = ({ status }: SigningRequest): boolean =>
  (status?.certificate ?? '') !== '' ||
  (status?.conditions?.some(({ type }) => type === 'Denied' || type === 'Failed') ?? false);

export class AccessRequests {
  readonly #side: AccessRequestsSide;
  readonly #reflectors: readonly Reflector<SigningRequest>[];
  readonly #queue: WorkQueue;

  constructor(side: AccessRequestsSide) {
    this.#side = side;
    const { api, clock, random, log, metrics } = side;
    this.#reflectors = GRANTS.map(
      ({ role }) =>
        new Reflector<SigningRequest>({
          ...{ api, clock, random, log, metrics, kind: CERTIFICATE_SIGNING_REQUEST },
          scope: { fieldSelector: `spec.signerName=${PERSON_SIGNERS[role]}` },
        }),
    );
    this.#queue = new WorkQueue({
      name: 'access-requests',
      work: (name) => this.#decide(name),
      failed: (request, error) => log.error({ request, error }, 'access request failed'),
      concurrency: 2,
      ...{ clock, random, metrics },
    });
    for (const reflector of this.#reflectors)
      reflector.onChange(({ type, object }) => {
        if (type !== 'deleted' && !isDecided(object)) this.#queue.add(object.metadata.name);
      });
  }

  start(): void {
    for (const reflector of this.#reflectors) reflector.start();
    this.#queue.start();
  }

  /** We lead now: what the one before us left. */
  lookAgain(): void {
    for (const reflector of this.#reflectors)
      for (const request of reflector.objects.all()) if (!isDecided(request)) this.#queue.add(request.metadata.name);
  }

  async stop(): Promise<void> {
    await Promise.all(this.#reflectors.map((one) => one.stop()));
    await this.#queue.stop(GRACE_MS);
  }

  async #decide(key: string): Promise<WorkOutcome> {
    const { mayWrite, namespace: own, world, log } = this.#side;
    const request = this.#reflectors.map(({ objects }) => objects.get(key)).find((one) => one !== undefined);
    const grant = GRANTS.find(({ role }) => PERSON_SIGNERS[role] === request?.spec.signerName);
    if (!mayWrite() || request === undefined || grant === undefined || isDecided(request)) return DONE;
    const target = clusterOf(request);
    if (target === null)
      return await this.#deny(request, 'NoCluster', `annotation ${ANNOTATION.mailCluster} must be NAMESPACE/NAME`);
    if (own !== '' && own !== target.namespace) return DONE;
    const { namespace, name } = target;
    const user = request.spec.username ?? '';
    const allowed = await this.#isAllowed(request, grant, target);
    if (typeof allowed === 'string') return { kind: 'retry', reason: allowed };
    if (!allowed) {
      log.warn({ namespace, cluster: name, user, request: key }, 'access refused');
      const what = `resource "mailclusters/${grant.subresource}" in API group "mailcluster.dev" in the namespace "${namespace}"`;
      return await this.#deny(request, 'Forbidden', `User "${user}" cannot get ${what}`);
    }
    if (world.get(MAIL_CLUSTER, namespace, name) === undefined)
      return await this.#deny(request, 'NoSuchCluster', `there is no MailCluster ${namespace}/${name}`);
    return await this.#sign(request, grant, target, user);
  }

  /** A text: could not be found out now. */
  async #isAllowed(
    { spec }: SigningRequest,
    { subresource }: Grant,
    target: { namespace: string; name: string },
  ): Promise<boolean | string> {
    const review = {
      apiVersion: 'authorization.k8s.io/v1',
      kind: 'SubjectAccessReview',
      metadata: { name: '' },
      spec: {
        user: spec.username ?? '',
        ...(spec.uid === undefined ? {} : { uid: spec.uid }),
        groups: spec.groups ?? [],
        extra: spec.extra ?? {},
        resourceAttributes: {
          ...target,
          verb: 'get',
          group: 'mailcluster.dev',
          resource: 'mailclusters',
          subresource,
        },
      },
    };
    const answer = await this.#side.api.create<AccessReview>(SUBJECT_ACCESS_REVIEW, review, {
      deadlineMs: DEADLINE_MS,
    });
    return answer.ok ? answer.value.status?.allowed === true : describeFailure(answer.failure);
  }

  async #sign(
    request: SigningRequest,
    { role, reason, words }: Grant,
    { namespace, name: cluster }: { namespace: string; name: string },
    user: string,
  ): Promise<WorkOutcome> {
    const { authorities, log } = this.#side;
    const authority = await authorities.authority(namespace, cluster);
    const view = await authorities.view(namespace, cluster);
    if (authority === null || view.kind !== 'present') return { kind: 'retry', reason: 'there is no authority yet' };
    const { name } = request.metadata;
    const asked = request.spec.expirationSeconds ?? LIFETIME_SECONDS.most;
    const seconds = Math.min(Math.max(asked, LIFETIME_SECONDS.least), LIFETIME_SECONDS.most);
    let leaf: string;
    try {
      const pem = Buffer.from(request.spec.request, 'base64').toString('utf8');
      // Who had mail itself is for the transport to record.
      const subject = { cluster, role, name, hosts: [], ...(role === 'exporter' ? { user } : {}) };
      leaf = await signRequest(authority, pem, subject, seconds * 1000, this.#side);
    } catch (error) {
      if (!(error instanceof CertificateRequestError)) throw error;
      return await this.#deny(request, 'BadRequest', error.message);
    }
    const approved = await this.#approve(request, reason, `${user} may ${words} ${namespace}/${cluster}`);
    if (!approved.ok) return { kind: 'retry', reason: describeFailure(approved.failure) };
    const { resourceVersion } = approved.value.metadata;
    // What the asker needs besides its own certificate: whom to trust.
    const certificate = Buffer.from(leaf + view.view.trustPem).toString('base64');
    const patch = { metadata: { resourceVersion }, status: { certificate } };
    const at = { namespace: '', name };
    const signed = await this.#side.writer.patch(CERTIFICATE_SIGNING_REQUEST, at, patch, { subresource: 'status' });
    if (!signed.ok) return { kind: 'retry', reason: describeFailure(signed.failure) };
    log.info({ namespace, cluster, user, request: name, seconds }, `${role} certificate signed`);
    return DONE;
  }

  /** An approval may not be written twice: the leader before us may have died between it and the certificate. */
  async #approve(request: SigningRequest, reason: string, message: string): Promise<KubeResult<SigningRequest>> {
    const isApproved = request.status?.conditions?.some(({ type }) => type === 'Approved') === true;
    return isApproved ? succeed(request) : await this.#condition(request, 'Approved', reason, message);
  }

  async #deny(request: SigningRequest, reason: string, message: string): Promise<WorkOutcome> {
    const denied = await this.#condition(request, 'Denied', reason, message);
    return denied.ok || denied.failure.kind === 'notFound'
      ? DONE
      : { kind: 'retry', reason: describeFailure(denied.failure) };
  }

  #condition({ metadata, status }: SigningRequest, type: 'Approved' | 'Denied', reason: string, message: string) {
    const { name, resourceVersion } = metadata;
    const conditions = [
      ...(status?.conditions ?? []),
      { type, status: 'True', reason: `MailCluster${reason}`, message },
    ];
    const patch = { metadata: { resourceVersion }, status: { conditions } };
    const at = { namespace: '', name };
    return this.#side.writer.patch<SigningRequest>(CERTIFICATE_SIGNING_REQUEST, at, patch, { subresource: 'approval' });
  }
}
