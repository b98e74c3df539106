/**
 * A small cluster in memory for the tests of operator/plan.ts: objects, the controllers that matter (StatefulSet, Deployment, volumes), and members
 * with queue databases on their claims. Owns: carrying out actions with their preconditions, and what may never happen: it throws when a
 * plan would remove a queue database that has obligations (semantics.md S13).
 */
import { isDeepStrictEqual } from 'node:util';
import type { TopologyDocument } from '../../common/config.ts';
import type { Action, Plan } from '../../operator/actions.ts';
import { ANNOTATION, claimName, LABEL, memberOfClaim } from '../../operator/resources/names.ts';
import type { ClaimObject, KubeObject, StatefulSetObject } from '../../operator/resources/objects.ts';
import { ClusterState, isRunning, START_MS } from './cluster-state.ts';

const ALPHABET = '0123456789ABCDEFGHJKMNPQRSTVWXYZ';

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

export class ClusterModel extends ClusterState {
  // --- what the operator does

  /** Only the first `limit` actions: the operator died after them. Status is written when all were. */
  carryOut(plan: Plan, limit = Number.POSITIVE_INFINITY): void {
    for (const action of plan.actions.slice(0, limit)) this.perform(action);
    if (plan.actions.length > limit) return;
    this.events.push(...plan.events);
    if (plan.status === null) return;
    this.status = structuredClone(plan.status);
    this.statusWrittenAtMs = this.nowMs;
  }

  perform(action: Action): void {
    switch (action.kind) {
      case 'apply':
        return this.#apply(action.object);
      case 'writeTopology':
        this.#mayWrite(action.document);
        if (action.backup !== null) this.#apply(action.backup, true);
        if (action.main !== null) this.#apply(action.main, true);
        return;
      case 'delete':
        return this.#delete(action);
      case 'restartPod':
        return this.#deletePod(action.name, action.uid);
      case 'annotate':
        return this.#annotate(action);
      case 'resizeClaim':
        return this.#resize(action.name, action.uid, action.storage);
      case 'deleteClaim':
        return this.#deleteClaim(action.name, action.uid);
      case 'createAuthority':
        this.#create(action.secret);
        this.authority = { kind: 'present', view: { trustPem: 'PEM', notAfterMs: START_MS + 3650 * 86_400_000 } };
        return;
      case 'createPassword':
        this.#create(action.secret);
        this.secrets.push({ name: action.secret.metadata.name, keys: [action.key] });
        return;
      case 'setFinalizers':
        this.finalizers = action.finalizers;
        if (this.deletionTimestamp !== null && action.finalizers.length === 0) this.removed = true;
        return;
      case 'writeDatabaseStatus':
        this.databaseStatus[action.name] = structuredClone(action.status);
        return;
      case 'writeRequestStatus':
        this.requestStatus[action.name] = structuredClone(action.status);
        return;
    }
  }

  #create(object: KubeObject): void {
    const key = `${object.kind}/${object.metadata.name}`;
    if (!this.objects.has(key)) this.objects.set(key, withUid(structuredClone(object), this.uid()));
  }

  /** Server-side apply, roughly: what is named is set, what else there is stays. */
  #apply(wanted: KubeObject, checksVersion = false): void {
    const key = `${wanted.kind}/${wanted.metadata.name}`;
    const found = this.objects.get(key);
    if (wanted.kind === 'StatefulSet') this.#mayScale(wanted as StatefulSetObject);
    if (checksVersion && (found?.metadata.resourceVersion ?? undefined) !== wanted.metadata.resourceVersion)
      throw new Error(`conflict on ${key}`);
    const generation = (found?.metadata.generation ?? 0) + (isDeepStrictEqual(found?.spec, wanted.spec) ? 0 : 1);
    this.serial += 1;
    const object = structuredClone({
      ...found,
      ...wanted,
      metadata: {
        ...found?.metadata,
        ...wanted.metadata,
        labels: { ...found?.metadata.labels, ...wanted.metadata.labels },
        annotations: { ...found?.metadata.annotations, ...wanted.metadata.annotations },
        uid: found?.metadata.uid ?? this.uid(),
        creationTimestamp: found?.metadata.creationTimestamp ?? new Date(this.nowMs).toISOString(),
        resourceVersion: String(this.serial),
        generation,
      },
    });
    this.objects.set(key, object);
  }

  #delete({ target, uid, orphan }: Extract<Action, { kind: 'delete' }>): void {
    const key = `${target.kind}/${target.name}`;
    const found = this.objects.get(key);
    if (found === undefined) return;
    if (found.metadata.uid !== uid) throw new Error(`precondition failed: ${key}`);
    if (target.kind === 'StatefulSet' && !orphan)
      for (const name of this.memberNames)
        if (name.startsWith(`${target.name}-`)) {
          this.#mayEnd(name, 'its StatefulSet is deleted');
          this.pods.delete(name);
        }
    this.objects.delete(key);
  }

  #deletePod(name: string, uid: string): void {
    if (this.pods.get(name)?.metadata.uid !== uid) throw new Error(`precondition failed: pod ${name}`);
    this.pods.delete(name);
  }

  #annotate({ target, uid, annotations }: Extract<Action, { kind: 'annotate' }>): void {
    const found: KubeObject | undefined =
      target.kind === 'Pod' ? this.pods.get(target.name) : this.claims.get(target.name);
    if (found === undefined) return;
    if (found.metadata.uid !== uid) throw new Error(`precondition failed: ${target.kind} ${target.name}`);
    const metadata = found.metadata as Mutable<KubeObject['metadata']>;
    metadata.annotations = { ...metadata.annotations, ...(annotations as Record<string, string>) };
  }

  #resize(name: string, uid: string, storage: string): void {
    const claim = this.claims.get(name);
    if (claim?.metadata.uid !== uid) throw new Error(`precondition failed: claim ${name}`);
    if (!this.expansionAllowed) throw new Error(`claim ${name} cannot be expanded`);
    this.claims.set(name, {
      ...claim,
      spec: { ...claim.spec, resources: { requests: { storage } } },
      status: { ...claim.status, capacity: { storage } },
    });
  }

  #deleteClaim(name: string, uid: string): void {
    const claim = this.claims.get(name);
    if (claim?.metadata.uid !== uid) throw new Error(`precondition failed: claim ${name}`);
    if (this.deletionTimestamp === null) this.#mayEnd(memberOfClaim(name), 'its claim is deleted');
    this.claims.delete(name);
    this.volumes.delete(claim.spec?.volumeName ?? '');
    this.stores.delete(claim.metadata.uid ?? '');
  }

  // --- what may never happen

  #mayEnd(name: string, why: string): void {
    const claim = this.claims.get(claimName(name));
    const store = this.stores.get(claim?.metadata.uid ?? '');
    if (store === undefined || this.forced.has(name) || this.lostStores.has(store.identity)) return;
    const left = store.copies + store.safetyNet + store.tombstones;
    if (left > 0) throw new Error(`S13: ${name} has ${left} obligations, and ${why}`);
  }

  #mayScale({ metadata, spec }: StatefulSetObject): void {
    for (const name of this.memberNames) {
      if (!name.startsWith(`${metadata.name}-`)) continue;
      if (Number(name.slice(metadata.name.length + 1)) >= (spec?.replicas ?? 0))
        this.#mayEnd(name, 'its pod is removed');
    }
  }

  #mayWrite(document: TopologyDocument): void {
    const former = this.document;
    if (former !== null && document.generation < former.generation) throw new Error('the generation goes back');
    for (const { name, state } of document.members)
      if (state === 'gone') this.#mayEnd(name, 'it is gone in the topology');
    for (const { name } of former?.members ?? [])
      if (!document.members.some((one) => one.name === name)) this.#mayEnd(name, 'it is in the topology no more');
  }

  // --- the rest of the cluster

  /** Controllers, kubelets and members have done what they had to do. */
  settle(seconds = 5): void {
    this.nowMs += seconds * 1000;
    for (const object of [...this.objects.values()]) {
      if (object.kind === 'StatefulSet') this.#runSet(object as StatefulSetObject);
      if (object.kind === 'Deployment') this.#runDeployment(object);
    }
    this.#readTopology();
    this.#readTrust();
    this.#drain();
  }

  #readTrust(): void {
    for (const [name, pod] of this.pods) {
      const [pushed] = (pod.metadata.annotations?.[ANNOTATION.trust] ?? '').split(' ');
      if (!pushed || this.deaf.has(name)) continue;
      const annotations = { ...pod.metadata.annotations, [ANNOTATION.trusts]: pushed };
      this.pods.set(name, { ...pod, metadata: { ...pod.metadata, annotations } });
    }
  }

  #runSet(set: StatefulSetObject): void {
    const name = set.metadata.name;
    const replicas = set.spec?.replicas ?? 0;
    for (const pod of this.memberNames)
      if (pod.startsWith(`${name}-`) && Number(pod.slice(name.length + 1)) >= replicas) this.pods.delete(pod);
    for (let ordinal = 0; ordinal < replicas; ordinal += 1) this.#runMember(set, `${name}-${ordinal}`);
    this.objects.set(`StatefulSet/${name}`, {
      ...set,
      status: { observedGeneration: set.metadata.generation ?? 1, replicas },
    });
  }

  #runMember(set: StatefulSetObject, name: string): void {
    const [template] = set.spec?.volumeClaimTemplates ?? [];
    const storage = (template as ClaimObject).spec?.resources?.requests?.storage ?? '1Gi';
    const storageClassName = (template as ClaimObject).spec?.storageClassName ?? 'fast';
    const wanted = claimName(name);
    if (!this.claims.has(wanted)) {
      const uid = this.uid();
      const volumeName = `pv-${uid}`;
      const isBound = !this.absentClasses.has(storageClassName);
      if (isBound)
        this.volumes.set(volumeName, { apiVersion: 'v1', kind: 'PersistentVolume', metadata: { name: volumeName } });
      this.claims.set(wanted, {
        apiVersion: 'v1',
        kind: 'PersistentVolumeClaim',
        metadata: {
          name: wanted,
          uid,
          labels: set.metadata.labels ?? {},
          creationTimestamp: new Date(this.nowMs).toISOString(),
        },
        spec: { ...(isBound ? { volumeName } : {}), storageClassName, resources: { requests: { storage } } },
        status: isBound ? { phase: 'Bound', capacity: { storage } } : { phase: 'Pending' },
      });
    }
    const spec = set.spec?.template as {
      metadata: { labels: Record<string, string>; annotations: Record<string, string> };
      spec: { containers: { name: string; image: string }[] };
    };
    if (!this.pods.has(name)) {
      this.pods.set(name, {
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: {
          name,
          uid: this.uid(),
          resourceVersion: '1',
          labels: spec.metadata.labels,
          annotations: { ...spec.metadata.annotations },
        },
        spec: {
          nodeName: this.#nodeFor(spec.metadata.labels[LABEL.site] === 'seattle' ? 'a' : 'b'),
          containers: spec.spec.containers,
        },
      });
    }
    this.#runPod(name);
  }

  #nodeFor(zone: string): string {
    const fit = [...this.nodes.values()].find(
      ({ metadata, spec }) => metadata.labels?.zone === zone && (spec?.taints ?? []).length === 0,
    );
    return fit?.metadata.name ?? 'nowhere';
  }

  #runPod(name: string): void {
    const pod = this.pods.get(name);
    if (pod === undefined) return;
    const why = this.broken.get(name);
    const isDown = why !== undefined || (this.nodes.get(pod.spec?.nodeName ?? '')?.spec?.taints ?? []).length > 0;
    const claim = this.claims.get(claimName(name));
    const isLost = claim !== undefined && claim.status?.phase !== 'Bound';
    this.pods.set(name, {
      ...pod,
      status: {
        phase: isDown || isLost ? 'Pending' : 'Running',
        conditions: [{ type: 'Ready', status: isDown || isLost ? 'False' : 'True' }],
        containerStatuses: [
          {
            name: 'transport',
            state: isDown || isLost ? { waiting: { reason: why ?? 'ContainerCreating' } } : { running: {} },
          },
        ],
      },
    });
    const uid = claim?.metadata.uid ?? '';
    if (isDown || isLost || this.stores.has(uid)) return;
    this.serial += 1;
    const identity = `${'0'.repeat(22)}${[...String(this.serial).padStart(4, '0')].map((digit) => ALPHABET[Number(digit)]).join('')}`;
    this.stores.set(uid, {
      identity,
      copies: 0,
      safetyNet: 0,
      tombstones: 0,
      unprotected: 0,
      generation: 0,
      latched: false,
    });
  }

  #runDeployment(object: KubeObject): void {
    const { replicas = 1 } = object.spec as { replicas?: number };
    const generation = object.metadata.generation ?? 1;
    this.objects.set(`Deployment/${object.metadata.name}`, {
      ...object,
      spec: { ...(object.spec as object), replicas },
      status: { observedGeneration: generation, replicas, readyReplicas: replicas, updatedReplicas: replicas },
    });
  }

  #readTopology(): void {
    const { document } = this;
    if (document === null) return;
    for (const name of this.memberNames) {
      const pod = this.pods.get(name);
      const store = this.stores.get(this.claims.get(claimName(name))?.metadata.uid ?? '');
      if (pod === undefined || store === undefined || !isRunning(pod) || this.cutOff.has(name)) continue;
      const state = document.members.find((one) => one.name === name)?.state;
      if (store.latched && state === 'active' && document.generation > store.generation) store.latched = false;
      store.generation = document.generation;
    }
  }

  /** Whoever drains hands over to an active member, and is empty some looks later. */
  #drain(): void {
    const { document } = this;
    for (const member of document?.members ?? []) {
      if (member.state !== 'draining' || !this.pods.has(member.name) || this.cutOff.has(member.name)) continue;
      const store = this.stores.get(this.claims.get(claimName(member.name))?.metadata.uid ?? '');
      const heir = document?.members.find(
        (one) => one.state === 'active' && one.boundary === member.boundary && this.pods.has(one.name),
      );
      const to = this.stores.get(this.claims.get(claimName(heir?.name ?? ''))?.metadata.uid ?? '');
      if (store === undefined || to === undefined) continue;
      if (store.copies + store.safetyNet + store.tombstones === 0) {
        store.latched = true;
        continue;
      }
      // In transit first; what rests goes the next time.
      const resting = store.copies === 0;
      to.copies += store.copies;
      store.copies = 0;
      if (!resting) continue;
      to.safetyNet += store.safetyNet;
      store.safetyNet = 0;
      store.tombstones = 0;
    }
  }

  taint(node: string): void {
    const found = this.nodes.get(node);
    if (found === undefined) return;
    const taints = [{ key: 'node.kubernetes.io/out-of-service', effect: 'NoExecute' }];
    this.nodes.set(node, { ...found, spec: { taints } });
    for (const name of this.memberNames) this.#runPod(name);
  }
}

const withUid = (object: KubeObject, uid: string): KubeObject => ({ ...object, metadata: { ...object.metadata, uid } });

export function describeAction(action: Action): string {
  switch (action.kind) {
    case 'apply':
      return `${action.why} ${action.object.kind}/${action.object.metadata.name}`;
    case 'writeTopology':
      return `topology ${action.document.generation}`;
    case 'delete':
      return `${action.orphan ? 'orphan' : 'delete'} ${action.target.kind}/${action.target.name}`;
    case 'annotate':
      return `annotate ${action.target.kind}/${action.target.name}`;
    case 'createAuthority':
    case 'createPassword':
      return `${action.kind} ${action.secret.metadata.name}`;
    case 'setFinalizers':
      return `finalizers ${action.finalizers.join(',')}`;
    case 'restartPod':
      return `restart ${action.name} ${action.reason}`;
    case 'resizeClaim':
    case 'deleteClaim':
    case 'writeDatabaseStatus':
    case 'writeRequestStatus':
    case 'writeOrderStatus':
    case 'deleteOrder':
      return `${action.kind} ${action.name}`;
  }
}
