/**
 * What we last heard of every object of a kind. Owns: the objects by key and by the indexes asked for. Pure (memory only). Only the reflector
 * writes; everybody may read, and must not change what they read.
 */
import { type KubeObject, keyOf } from './kube-object.ts';

/** Values under which an object is found: names of owners, nodes, ... */
export type Indexer<T> = (object: T) => readonly string[];

export interface ObjectReader<T extends KubeObject> {
  get(key: string): T | undefined;
  all(): Iterable<T>;
  readonly size: number;
  /** Objects that an index has under this value. Throws for an index nobody declared: a bug. */
  under(index: string, value: string): readonly T[];
}

export class ObjectCache<T extends KubeObject> implements ObjectReader<T> {
  readonly #objects = new Map<string, T>();
  readonly #indexers: ReadonlyMap<string, Indexer<T>>;
  readonly #indexes = new Map<string, Map<string, Set<string>>>();

  constructor(indexers: Readonly<Record<string, Indexer<T>>> = {}) {
    this.#indexers = new Map(Object.entries(indexers));
    for (const name of this.#indexers.keys()) this.#indexes.set(name, new Map());
  }

  get size(): number {
    return this.#objects.size;
  }

  get(key: string): T | undefined {
    return this.#objects.get(key);
  }

  all(): Iterable<T> {
    return this.#objects.values();
  }

  keys(): Iterable<string> {
    return this.#objects.keys();
  }

  under(index: string, value: string): readonly T[] {
    const found = this.#indexes.get(index);
    if (found === undefined) throw new TypeError(`no index ${index}`);
    const objects: T[] = [];
    for (const key of found.get(value) ?? []) {
      const object = this.#objects.get(key);
      if (object !== undefined) objects.push(object);
    }
    return objects;
  }

  /** Returns what was there. */
  put(object: T): T | undefined {
    const key = keyOf(object);
    const before = this.#objects.get(key);
    if (before !== undefined) this.#unindex(key, before);
    this.#objects.set(key, object);
    for (const [name, indexer] of this.#indexers) {
      const index = this.#indexes.get(name) as Map<string, Set<string>>;
      for (const value of indexer(object)) {
        const keys = index.get(value) ?? new Set();
        index.set(value, keys.add(key));
      }
    }
    return before;
  }

  remove(key: string): T | undefined {
    const before = this.#objects.get(key);
    if (before === undefined) return undefined;
    this.#unindex(key, before);
    this.#objects.delete(key);
    return before;
  }

  #unindex(key: string, object: T): void {
    for (const [name, indexer] of this.#indexers) {
      const index = this.#indexes.get(name) as Map<string, Set<string>>;
      for (const value of indexer(object)) {
        const keys = index.get(value);
        keys?.delete(key);
        if (keys?.size === 0) index.delete(value);
      }
    }
  }
}

export type CacheChange<T> =
  | { readonly type: 'added'; readonly object: T }
  | { readonly type: 'updated'; readonly object: T; readonly before: T }
  /** `object`: the last we knew of it, which may be older than its end when that was missed. */
  | { readonly type: 'deleted'; readonly object: T };

/**
 * Takes in one object. Nothing is said twice: the same version is no change. Another uid under the same name is another object: deleted,
 * then added.
 */
export function takeIn<T extends KubeObject>(cache: ObjectCache<T>, object: T): CacheChange<T>[] {
  const before = cache.get(keyOf(object));
  if (
    before?.metadata.uid === object.metadata.uid &&
    before?.metadata.resourceVersion === object.metadata.resourceVersion
  )
    return [];
  cache.put(object);
  if (before === undefined) return [{ type: 'added', object }];
  if (before.metadata.uid !== object.metadata.uid)
    return [
      { type: 'deleted', object: before },
      { type: 'added', object },
    ];
  return [{ type: 'updated', object, before }];
}

/** Makes the cache equal to a whole list and says what that changed: a relist must not look like everything died and was born again. */
export function takeInAll<T extends KubeObject>(cache: ObjectCache<T>, objects: readonly T[]): CacheChange<T>[] {
  const listed = new Set(objects.map(keyOf));
  const changes: CacheChange<T>[] = [];
  for (const key of [...cache.keys()]) {
    if (listed.has(key)) continue;
    const object = cache.remove(key);
    if (object !== undefined) changes.push({ type: 'deleted', object });
  }
  for (const object of objects) changes.push(...takeIn(cache, object));
  return changes;
}
