/**
 * What etcd and the watch cache are to the API server: objects by collection and key, every version of them until compaction, one counter
 * for all of it, and watchers. Promise: a list of a revision is what was there at that revision; a watch misses nothing from its revision
 * on or is told `gone`.
 */
import type { KubeObject } from '../../../operator/kube/kube-object.ts';

export interface Change {
  readonly revision: number;
  readonly collection: string;
  readonly key: string;
  /** Null: deleted. */
  readonly object: KubeObject | null;
  readonly before: KubeObject | null;
}

export class Storage {
  #revision = 1;
  #compacted = 0;
  readonly #history: Change[] = [];
  readonly #now = new Map<string, Map<string, KubeObject>>();
  readonly #watchers = new Set<(change: Change) => void>();

  get revision(): number {
    return this.#revision;
  }

  get compactedRevision(): number {
    return this.#compacted;
  }

  get(collection: string, key: string): KubeObject | null {
    return this.#now.get(collection)?.get(key) ?? null;
  }

  /** Whether anything is in a namespace. */
  hasKeysUnder(prefix: string): boolean {
    return [...this.#now.values()].some((objects) => [...objects.keys()].some((key) => key.startsWith(prefix)));
  }

  /** All of a collection at a revision, by key. */
  at(collection: string, revision: number): [string, KubeObject][] {
    const objects = new Map(this.#now.get(collection) ?? []);
    for (let index = this.#history.length - 1; index >= 0; index -= 1) {
      const change = this.#history[index] as Change;
      if (change.revision <= revision) break;
      if (change.collection !== collection) continue;
      if (change.before === null) objects.delete(change.key);
      else objects.set(change.key, change.before);
    }
    return [...objects].sort(([a], [b]) => (a < b ? -1 : 1));
  }

  /** Stores a new version with its resourceVersion and tells the watchers. */
  put(collection: string, key: string, object: KubeObject): KubeObject {
    const before = this.get(collection, key);
    this.#revision += 1;
    const stored = structuredClone({
      ...object,
      metadata: { ...object.metadata, resourceVersion: String(this.#revision) },
    });
    this.#collection(collection).set(key, stored);
    this.#tell({ revision: this.#revision, collection, key, object: stored, before });
    return stored;
  }

  remove(collection: string, key: string): KubeObject {
    const before = this.get(collection, key);
    if (before === null) throw new Error(`${collection} ${key} is not there`);
    this.#revision += 1;
    this.#collection(collection).delete(key);
    this.#tell({ revision: this.#revision, collection, key, object: null, before });
    return { ...before, metadata: { ...before.metadata, resourceVersion: String(this.#revision) } };
  }

  /** Forgets what was before now: older watches and continue tokens are gone. */
  compact(): void {
    this.#compacted = this.#revision;
    this.#history.length = 0;
  }

  since(revision: number): readonly Change[] {
    return this.#history.filter((change) => change.revision > revision);
  }

  watch(callback: (change: Change) => void): () => void {
    this.#watchers.add(callback);
    return () => this.#watchers.delete(callback);
  }

  #collection(name: string): Map<string, KubeObject> {
    const found = this.#now.get(name);
    if (found !== undefined) return found;
    const made = new Map<string, KubeObject>();
    this.#now.set(name, made);
    return made;
  }

  #tell(change: Change): void {
    this.#history.push(change);
    for (const watcher of [...this.#watchers]) watcher(change);
  }
}
