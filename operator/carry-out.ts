/**
 * Carries out what a plan asks for, in its order (`actions.ts`). Owns: how each action is said to the API server, with its conditions, and what may be said at
 * once. Promise: begins nothing after one has failed, and says which and why; no more of many alike when it has written for `MOST_MS`, and says that; no workload before all that it mounts and is guarded by; what is not there any more was deleted already; nothing is written past the fence, because
 * the API it is given has none other. Every write is remembered until the caches have seen it (`Unseen`).
 */
import type { Clock } from '../common/platform/clock.ts';
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
  TRANSPORT_ORDER,
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
  readonly clock: Clock;
  readonly random: Random;
  readonly pki: PkiPorts;
  readonly unseen: Unseen;
}

/** 'later': what was begun is done, the next look plans the rest. */
export type Carried = 'done' | 'later' | Failed;
export interface Failed {
  readonly action: string;
  readonly failure: KubeFailure;
}

type Written = KubeResult<KubeObject | 'gone' | 'terminating' | null>;

const base64 = (text: string): string => Buffer.from(text, 'utf8').toString('base64');

/** Of one cluster: fifty pods that are told a generation one after the other are most of a look. With eight looks at once connections are left for the lease. */
const AT_ONCE = 4;
/** Of all clusters together, but one each: more of them at once are answered later, not sooner, and each look waits longer. */
const MOST_AT_ONCE = 8;
/** Of one look: a busy API server takes a second for a few writes, and other clusters wait for a worker meanwhile. */
const MOST_MS = 300;
const WORKLOADS = ['StatefulSet', 'Deployment'];

/** Actions side by side that need nothing of each other; null: it is alone. */
function stageOf(action: Action): 'pods' | 'parts' | 'workloads' | null {
  if (action.kind === 'annotate') return action.target.kind === 'Pod' ? 'pods' : null;
  if (action.kind !== 'apply') return null;
  return WORKLOADS.includes(action.object.kind) ? 'workloads' : 'parts';
}

function stages(actions: readonly Action[]): readonly (readonly Action[])[] {
  const found: Action[][] = [];
  for (const action of actions) {
    const last = found.at(-1);
    const stage = stageOf(action);
    if (last?.[0] !== undefined && stage !== null && stageOf(last[0]) === stage) last.push(action);
    else found.push([action]);
  }
  return found;
}

export class CarryOut {
  readonly #side: CarryOutSide;
  /** Writes that may be under way now. */
  #lanes = 0;

  constructor(side: CarryOutSide) {
    this.#side = side;
  }

  async all(owner: Owner, actions: readonly Action[]): Promise<Carried> {
    const endMs = this.#side.clock.monotonicMs() + MOST_MS;
    const isOver = (): boolean => this.#side.clock.monotonicMs() >= endMs;
    for (const [at, stage] of stages(actions).entries()) {
      const [first] = stage;
      // The first is begun in any case, so every look is a step forward. What stands alone is not parted from the status that tells of it (a restart).
      const isMany = first !== undefined && stageOf(first) !== null;
      if (at > 0 && isMany && isOver()) return 'later';
      const carried = await this.#together(owner, stage, isOver);
      if (carried !== 'done') return carried;
    }
    return 'done';
  }

  async #together(owner: Owner, actions: readonly Action[], isOver: () => boolean): Promise<Carried> {
    let begun = 0;
    let failed: Failed | null = null;
    const some = async (): Promise<void> => {
      for (let action = actions[begun]; action !== undefined; action = actions[begun]) {
        begun += 1;
        const written = await this.#one(owner, action);
        if (!written.ok) failed ??= { action: describe(action), failure: written.failure };
        if (failed !== null || isOver()) return;
      }
    };
    const lanes = Math.max(1, Math.min(AT_ONCE, actions.length, MOST_AT_ONCE - this.#lanes));
    this.#lanes += lanes;
    await Promise.all(Array.from({ length: lanes }, some)).finally(() => {
      this.#lanes -= lanes;
    });
    return failed ?? (begun < actions.length ? 'later' : 'done');
  }

  /** The whole status; fields that it leaves out are removed. */
  async status(kind: ResourceKind, owner: Owner, name: string, uid: string, status: object): Promise<Written> {
    const { namespace } = owner;
    const object = { apiVersion: apiVersionOf(kind), kind: kind.kind, metadata: { name, namespace }, status };
    const written = await this.#side.api.apply<KubeObject>(kind, object, {
      force: true,
      subresource: 'status',
      mustExist: { uid },
    });
    if (!written.ok) return written.failure.kind === 'notFound' ? { ok: true, value: null } : written;
    return this.#seen(owner, kind, { ok: true, value: written.value.object });
  }

  async #one(owner: Owner, action: Action): Promise<Written> {
    const { api } = this.#side;
    const { namespace } = owner;
    switch (action.kind) {
      case 'apply':
        return await this.#apply(owner, action.object as KubeObject);
      case 'delete':
        return await this.#delete(owner, kindOf(action.target), action.target.name, {
          uid: action.uid,
          propagation: action.orphan ? 'Orphan' : 'Background',
        });
      case 'restartPod':
        return await this.#delete(owner, POD, action.name, {
          uid: action.uid,
          resourceVersion: action.resourceVersion,
        });
      case 'deleteClaim':
        return await this.#delete(owner, PERSISTENT_VOLUME_CLAIM, action.name, { uid: action.uid });
      case 'annotate': {
        const kind = kindOf(action.target);
        const patch = { metadata: { uid: action.uid, annotations: action.annotations } };
        return this.#seen(
          owner,
          kind,
          await api.patch<KubeObject>(kind, { namespace, name: action.target.name }, patch),
        );
      }
      case 'resizeClaim': {
        const spec = { resources: { requests: { storage: action.storage } } };
        const patch = { metadata: { uid: action.uid }, spec };
        const name = { namespace, name: action.name };
        return this.#seen(
          owner,
          PERSISTENT_VOLUME_CLAIM,
          await api.patch<KubeObject>(PERSISTENT_VOLUME_CLAIM, name, patch),
        );
      }
      case 'writeTopology': {
        const backup = await this.#putConfigMap(owner, action.backup);
        return backup.ok ? await this.#putConfigMap(owner, action.main) : backup;
      }
      case 'createAuthority':
        return await this.#createAuthority(owner, action.secret as KubeObject);
      case 'createPassword': {
        const password = this.#side.random.bytes(action.bytes).toString('base64url');
        return await this.#create(owner, SECRET, {
          ...action.secret,
          data: { [action.key]: base64(password) },
        } as KubeObject);
      }
      case 'setFinalizers':
        return await this.#setFinalizers(owner, action);
      case 'writeDatabaseStatus':
        return await this.status(MAILBOX_DATABASE, owner, action.name, action.uid, action.status);
      case 'writeRequestStatus':
        return await this.status(RESUBMIT_REQUEST, owner, action.name, action.uid, action.status);
      case 'writeOrderStatus':
        return await this.status(TRANSPORT_ORDER, owner, action.name, action.uid, action.status);
      case 'deleteOrder':
        return await this.#delete(owner, TRANSPORT_ORDER, action.name, { uid: action.uid });
    }
  }

  async #apply(owner: Owner, object: KubeObject): Promise<Written> {
    const kind = kindOf(object);
    const written = await this.#side.api.apply(kind, object, { force: true });
    return this.#seen(owner, kind, written.ok ? { ok: true, value: written.value.object } : written);
  }

  /** The generation must never go back: what the caches do not know yet must not be overwritten, so without a version it is created. */
  async #putConfigMap(owner: Owner, wanted: ConfigMapObject | null): Promise<Written> {
    if (wanted === null) return { ok: true, value: null };
    const object = wanted as KubeObject;
    if (object.metadata.resourceVersion !== undefined) return await this.#apply(owner, object);
    return this.#seen(owner, CONFIG_MAP, await this.#side.api.create(CONFIG_MAP, object));
  }

  async #createAuthority(owner: Owner, secret: KubeObject): Promise<Written> {
    const { certificatePem, keyPem } = await createAuthority(owner.name, this.#side.pki);
    const data = { 'tls.crt': base64(certificatePem), 'tls.key': base64(keyPem), [TRUST_KEY]: base64(certificatePem) };
    return await this.#create(owner, SECRET, { ...secret, data } as KubeObject);
  }

  /** One that is there stays: another operator, or the try before this one, made it. */
  async #create(owner: Owner, kind: ResourceKind, object: KubeObject): Promise<Written> {
    const created = await this.#side.api.create(kind, object);
    if (!created.ok && created.failure.kind === 'alreadyExists') return { ok: true, value: null };
    return this.#seen(owner, kind, created);
  }

  async #setFinalizers(owner: Owner, action: Action & { kind: 'setFinalizers' }): Promise<Written> {
    const { uid, resourceVersion, finalizers } = action;
    const name = { namespace: owner.namespace, name: owner.name };
    const patch = { metadata: { uid, resourceVersion, finalizers } };
    const written = await this.#side.api.patch<KubeObject>(MAIL_CLUSTER, name, patch);
    if (!written.ok && written.failure.kind === 'notFound') return { ok: true, value: null };
    return this.#seen(owner, MAIL_CLUSTER, written);
  }

  async #delete(
    owner: Owner,
    kind: ResourceKind,
    name: string,
    conditions: { uid: string; resourceVersion?: string; propagation?: 'Background' | 'Orphan' },
  ): Promise<Written> {
    const { namespace } = owner;
    const deleted = await this.#side.api.delete(kind, { namespace, name }, conditions);
    if (!deleted.ok) return deleted.failure.kind === 'notFound' ? { ok: true, value: 'gone' } : deleted;
    this.#side.unseen.deleted(keyFor(owner), kind, { namespace, name }, conditions.uid);
    return deleted;
  }

  #seen(owner: Owner, kind: ResourceKind, written: KubeResult<KubeObject>): Written {
    if (written.ok) this.#side.unseen.written(keyFor(owner), kind, written.value);
    return written;
  }
}

const keyFor = ({ namespace, name }: Owner): string => `${namespace}/${name}`;

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

export const failureText = ({ action, failure }: Failed): string => `${action}: ${describeFailure(failure)}`;
