/**
 * Writes of ours that the caches have not shown yet. Owns: them, for a while. Promise: a cluster is not planned from a snapshot that is older than our own
 * last writes, so nothing is written twice, nor a generation twice. A write that never shows (the object was changed again, the watch is
 * late) is forgotten after `PATIENCE_MS`: preconditions catch what a stale plan would do.
 */
import type { Clock } from '../common/platform/clock.ts';
import { type KubeObject, keyOf, type ObjectName, type ResourceKind } from './kube/kube-object.ts';
import type { Watched, World } from './world.ts';

export const PATIENCE_MS = 5_000;

interface Write {
  readonly kind: ResourceKind;
  readonly name: ObjectName;
  /** What the cache had when we wrote. */
  readonly before: string | null;
  readonly uid: string | null;
  readonly deleted: boolean;
  readonly untilMs: number;
}

const versionOf = (object: KubeObject | undefined): string | null =>
  object === undefined ? null : `${object.metadata.uid} ${object.metadata.resourceVersion}`;

export class Unseen {
  readonly #world: Pick<World, 'get'>;
  readonly #clock: Clock;
  readonly #writes = new Map<string, Write>();

  constructor(world: Pick<World, 'get'>, clock: Clock) {
    this.#world = world;
    this.#clock = clock;
  }

  written(kind: ResourceKind, object: KubeObject): void {
    const { name, namespace = '' } = object.metadata;
    const known = this.#known(kind, { name, namespace });
    const before = versionOf(known);
    // The same version: the write changed nothing, or the watch was faster.
    if (before === versionOf(object)) return;
    this.#add(`${namespace}/${kind.kind}/${keyOf(object)}`, {
      kind,
      name: { name, namespace },
      before,
      uid: null,
      deleted: false,
    });
  }

  deleted(kind: ResourceKind, name: ObjectName, uid: string): void {
    this.#add(`${name.namespace}/${kind.kind}/${name.name}`, { kind, name, before: null, uid, deleted: true });
  }

  /** True while the caches lag behind what we wrote in this namespace. */
  isWaiting(namespace: string): boolean {
    let waiting = false;
    for (const [key, write] of this.#writes) {
      if (write.name.namespace !== namespace) continue;
      if (this.#isSeen(write) || this.#clock.monotonicMs() >= write.untilMs) this.#writes.delete(key);
      else waiting = true;
    }
    return waiting;
  }

  #isSeen({ kind, name, before, uid, deleted }: Write): boolean {
    const now = this.#known(kind, name);
    if (!deleted) return versionOf(now) !== before;
    return now === undefined || now.metadata.uid !== uid || now.metadata.deletionTimestamp !== undefined;
  }

  #known(kind: ResourceKind, { namespace = '', name }: ObjectName): Watched | undefined {
    return this.#world.get(kind, namespace, name);
  }

  #add(key: string, write: Omit<Write, 'untilMs'>): void {
    this.#writes.set(key, { ...write, untilMs: this.#clock.monotonicMs() + PATIENCE_MS });
  }
}
