/**
 * Carries out what a plan asks for, in its order (`actions.ts`). Owns: how each action is said to the API server, with its conditions. Promise: stops at
 * the first that fails, and says which and why; what is not there any more was deleted already; nothing is written past the fence, because
 * the API it is given has none other. Every write is remembered until the caches have seen it (`Unseen`).
 */
import type { Random } from '../common/platform/random.ts';
import type { Action } from './actions.ts';
import type { KubeApi } from './kube/api.ts';
import { describeFailure, type KubeFailure, type KubeResult } from './kube/failures.ts';
import {
  CONFIG_MAP,
  kindOf,
  MAIL_CLUSTER,
  MAILBOX_DATABASE,
  PERSISTENT_VOLUME_CLAIM,
  POD,
  RESUBMIT_REQUEST,
  SECRET,
} from './kube/kinds.ts';
import { apiVersionOf, type KubeObject, type ResourceKind } from './kube/kube-object.ts';
import { createAuthority, type PkiPorts } from './pki.ts';
import type { Owner } from './resources/names.ts';
import { TRUST_KEY } from './resources/names.ts';
import type { ConfigMapObject } from './resources/objects.ts';
import type { Unseen } from './unseen.ts';

export interface CarryOutSide {
  /** Fenced. */
  readonly api: KubeApi;
  readonly random: Random;
  readonly pki: PkiPorts;
  readonly unseen: Unseen;
}

/** Null: done. */
export type Carried = null | { readonly action: string; readonly failure: KubeFailure };

type Written = KubeResult<KubeObject | 'gone' | 'terminating' | null>;

const base64 = (text: string): string => Buffer.from(text, 'utf8').toString('base64');

export class CarryOut {
  readonly #side: CarryOutSide;

  constructor(side: CarryOutSide) {
    this.#side = side;
  }

  async all(owner: Owner, actions: readonly Action[]): Promise<Carried> {
    for (const action of actions) {
      const written = await this.#one(owner, action);
      if (!written.ok) return { action: describe(action), failure: written.failure };
    }
    return null;
  }

  /** The whole status; fields that it leaves out are removed. */
  async status(kind: ResourceKind, { namespace }: Owner, name: string, uid: string, status: object): Promise<Written> {
    const object = { apiVersion: apiVersionOf(kind), kind: kind.kind, metadata: { name, namespace }, status };
    const written = await this.#side.api.apply<KubeObject>(kind, object, {
      force: true,
      subresource: 'status',
      mustExist: { uid },
    });
    if (!written.ok) return written.failure.kind === 'notFound' ? { ok: true, value: null } : written;
    return this.#seen(kind, { ok: true, value: written.value.object });
  }

  async #one(owner: Owner, action: Action): Promise<Written> {
    const { api } = this.#side;
    const { namespace } = owner;
    switch (action.kind) {
      case 'apply':
        return await this.#apply(action.object as KubeObject);
      case 'delete':
        return await this.#delete(kindOf(action.target), namespace, action.target.name, {
          uid: action.uid,
          propagation: action.orphan ? 'Orphan' : 'Background',
        });
      case 'restartPod':
        return await this.#delete(POD, namespace, action.name, {
          uid: action.uid,
          resourceVersion: action.resourceVersion,
        });
      case 'deleteClaim':
        return await this.#delete(PERSISTENT_VOLUME_CLAIM, namespace, action.name, { uid: action.uid });
      case 'annotate': {
        const kind = kindOf(action.target);
        const patch = { metadata: { uid: action.uid, annotations: action.annotations } };
        return this.#seen(kind, await api.patch<KubeObject>(kind, { namespace, name: action.target.name }, patch));
      }
      case 'resizeClaim': {
        const spec = { resources: { requests: { storage: action.storage } } };
        const patch = { metadata: { uid: action.uid }, spec };
        const name = { namespace, name: action.name };
        return this.#seen(PERSISTENT_VOLUME_CLAIM, await api.patch<KubeObject>(PERSISTENT_VOLUME_CLAIM, name, patch));
      }
      case 'writeTopology': {
        const backup = await this.#putConfigMap(action.backup);
        return backup.ok ? await this.#putConfigMap(action.main) : backup;
      }
      case 'createAuthority':
        return await this.#createAuthority(owner, action.secret as KubeObject);
      case 'createPassword': {
        const password = this.#side.random.bytes(action.bytes).toString('base64url');
        return await this.#create(SECRET, { ...action.secret, data: { [action.key]: base64(password) } } as KubeObject);
      }
      case 'setFinalizers':
        return await this.#setFinalizers(owner, action);
      case 'writeDatabaseStatus':
        return await this.status(MAILBOX_DATABASE, owner, action.name, action.uid, action.status);
      case 'writeRequestStatus':
        return await this.status(RESUBMIT_REQUEST, owner, action.name, action.uid, action.status);
    }
  }

  async #apply(object: KubeObject): Promise<Written> {
    const kind = kindOf(object);
    const written = await this.#side.api.apply(kind, object, { force: true });
    return this.#seen(kind, written.ok ? { ok: true, value: written.value.object } : written);
  }

  /** The generation must never go back: what the caches do not know yet must not be overwritten, so without a version it is created. */
  async #putConfigMap(wanted: ConfigMapObject | null): Promise<Written> {
    if (wanted === null) return { ok: true, value: null };
    const object = wanted as KubeObject;
    if (object.metadata.resourceVersion !== undefined) return await this.#apply(object);
    return this.#seen(CONFIG_MAP, await this.#side.api.create(CONFIG_MAP, object));
  }

  async #createAuthority({ name }: Owner, secret: KubeObject): Promise<Written> {
    const { certificatePem, keyPem } = await createAuthority(name, this.#side.pki);
    const data = { 'tls.crt': base64(certificatePem), 'tls.key': base64(keyPem), [TRUST_KEY]: base64(certificatePem) };
    return await this.#create(SECRET, { ...secret, data } as KubeObject);
  }

  /** One that is there stays: another operator, or the try before this one, made it. */
  async #create(kind: ResourceKind, object: KubeObject): Promise<Written> {
    const created = await this.#side.api.create(kind, object);
    if (!created.ok && created.failure.kind === 'alreadyExists') return { ok: true, value: null };
    return this.#seen(kind, created);
  }

  async #setFinalizers(owner: Owner, action: Action & { kind: 'setFinalizers' }): Promise<Written> {
    const { uid, resourceVersion, finalizers } = action;
    const name = { namespace: owner.namespace, name: owner.name };
    const patch = { metadata: { uid, resourceVersion, finalizers } };
    const written = await this.#side.api.patch<KubeObject>(MAIL_CLUSTER, name, patch);
    if (!written.ok && written.failure.kind === 'notFound') return { ok: true, value: null };
    return this.#seen(MAIL_CLUSTER, written);
  }

  async #delete(
    kind: ResourceKind,
    namespace: string,
    name: string,
    conditions: { uid: string; resourceVersion?: string; propagation?: 'Background' | 'Orphan' },
  ): Promise<Written> {
    const deleted = await this.#side.api.delete(kind, { namespace, name }, conditions);
    if (!deleted.ok) return deleted.failure.kind === 'notFound' ? { ok: true, value: 'gone' } : deleted;
    this.#side.unseen.deleted(kind, { namespace, name }, conditions.uid);
    return deleted;
  }

  #seen(kind: ResourceKind, written: KubeResult<KubeObject>): Written {
    if (written.ok) this.#side.unseen.written(kind, written.value);
    return written;
  }
}

/** For logs and conditions: what was being done, to what. */
export function describe(action: Action): string {
  switch (action.kind) {
    case 'apply':
      return `apply ${action.object.kind} ${action.object.metadata.name}`;
    case 'delete':
    case 'annotate':
      return `${action.kind} ${action.target.kind} ${action.target.name}`;
    case 'writeTopology':
      return `write topology generation ${action.document.generation}`;
    case 'createAuthority':
    case 'createPassword':
      return `create Secret ${action.secret.metadata.name}`;
    case 'setFinalizers':
      return 'set finalizers';
    default:
      return `${action.kind} ${action.name}`;
  }
}

export const failureText = (carried: NonNullable<Carried>): string =>
  `${carried.action}: ${describeFailure(carried.failure)}`;
