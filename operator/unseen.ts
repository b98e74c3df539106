/**
 * Writes of ours that the caches have not shown yet. Owns: them, by MailCluster, for a while. Promise: a cluster is not planned from a snapshot that is older than
 * our own last writes for it, so nothing is written twice, nor a generation twice; those for its neighbours hold it up never. A write that never shows (the object was changed again, the watch is
 * late) is forgotten after `PATIENCE_MS`: preconditions catch what a stale plan would do.
 */
import type { Clock } from '../common/platform/clock.ts';
import type { KubeObject, ObjectName, ResourceKind } from './kube/kube-object.ts';
import type { Watched, World } from './world.ts';

export const PATIENCE_MS = 5_000;

interface Write {
  readonly kind: ResourceKind;
  readonly name: ObjectName;
  /** What the cache had when the answer came. */
  readonly before: string | null;
  /** What our write led to. */
  readonly resourceVersion: string;
  readonly uid: string | null;
  readonly deleted: boolean;
  readonly untilMs: number;
}

/** Kubernetes has them comparable: decimal numbers that rise with every write, of one kind (API concepts, "Resource versions"). Null: another server says something else. */
function isAtLeast(known: string, written: string): boolean | null {
  if (!/^\d+$/.test(known) || !/^\d+$/.test(written)) return null;
  return known.length === written.length ? known >= written : known.length > written.length;
}

const versionOf = (object: KubeObject | undefined): string | null =>
  object === undefined ? null : `${object.metadata.uid} ${object.metadata.resourceVersion}`;

export class Unseen {
  readonly #world: Pick<World, 'get'>;
  readonly #clock: Clock;
  /** By cluster, then by kind and name. */
  readonly #writes = new Map<string, Map<string, Write>>();

  constructor(world: Pick<World, 'get'>, clock: Clock) {
    this.#world = world;
    this.#clock = clock;
  }

  /** `cluster`: for which it was written, as `namespace/name`. */
  written(cluster: string, kind: ResourceKind, object: KubeObject): void {
    const { name, namespace = '' } = object.metadata;
    const { resourceVersion = '' } = object.metadata;
    const known = this.#known(kind, { name, namespace });
    const before = versionOf(known);
    // The write changed nothing, or the watch was faster; it may even have told what others did since.
    if (before === versionOf(object) || isAtLeast(known?.metadata.resourceVersion ?? '', resourceVersion) === true)
      return;
    this.#add(cluster, { kind, name: { name, namespace }, before, resourceVersion, uid: null, deleted: false });
  }

  deleted(cluster: string, kind: ResourceKind, name: ObjectName, uid: string): void {
    this.#add(cluster, { kind, name, before: null, resourceVersion: '', uid, deleted: true });
  }

  /** True while the caches lag behind what we wrote for this cluster. */
  isWaiting(cluster: string): boolean {
    const writes = this.#writes.get(cluster) ?? new Map<string, Write>();
    const nowMs = this.#clock.monotonicMs();
    for (const [key, write] of writes) if (this.#isSeen(write) || nowMs >= write.untilMs) writes.delete(key);
    if (writes.size > 0) return true;
    this.#writes.delete(cluster);
    return false;
  }

  #isSeen({ kind, name, before, resourceVersion, uid, deleted }: Write): boolean {
    const now = this.#known(kind, name);
    if (!deleted) return isAtLeast(now?.metadata.resourceVersion ?? '', resourceVersion) ?? versionOf(now) !== before;
    return now === undefined || now.metadata.uid !== uid || now.metadata.deletionTimestamp !== undefined;
  }

  #known(kind: ResourceKind, { namespace = '', name }: ObjectName): Watched | undefined {
    return this.#world.get(kind, namespace, name);
  }

  #add(cluster: string, write: Omit<Write, 'untilMs'>): void {
    const writes = this.#writes.get(cluster) ?? new Map<string, Write>();
    const untilMs = this.#clock.monotonicMs() + PATIENCE_MS;
    this.#writes.set(cluster, writes.set(`${write.kind.kind}/${write.name.name}`, { ...write, untilMs }));
  }
}
