/**
 * Applying what is wanted, and only when something would change. Owns: for every object the operator renders, what it applied last and what
 * the server made of it. Promises: the same wish twice is one request; a change by others that touches our fields is put back; forgetting
 * (a restart) costs at most one request per object. Passes failures on.
 */
import { createHash } from 'node:crypto';
import { type Applied, type ApplyOptions, FIELD_MANAGER, type KubeApi } from './api.ts';
import { isApplied } from './applied.ts';
import { type KubeResult, succeed } from './failures.ts';
import { type KubeObject, keyOf, type ResourceKind } from './kube-object.ts';

export type ApplyEffect = 'unchanged' | 'created' | 'configured';

export interface Ensured<T extends KubeObject> {
  readonly object: T;
  readonly effect: ApplyEffect;
}

interface Memory {
  readonly wish: string;
  /** The version our apply led to. */
  readonly version: string;
}

export class Applier {
  readonly #api: KubeApi;
  readonly #memory = new Map<string, Memory>();

  constructor(api: KubeApi) {
    this.#api = api;
  }

  /** `live`: the object as the cache has it; absent when it has none. */
  async ensure<T extends KubeObject>(
    kind: ResourceKind,
    desired: T,
    live: T | undefined,
    options: ApplyOptions = {},
  ): Promise<KubeResult<Ensured<T>>> {
    const key = `${kind.group}/${kind.plural}/${keyOf(desired)}/${options.subresource ?? ''}`;
    const wish = createHash('sha256').update(JSON.stringify(desired)).digest('base64');
    if (live !== undefined && this.#isThere(key, wish, desired, live, options))
      return succeed({ object: live, effect: 'unchanged' });
    const result: KubeResult<Applied<T>> = await this.#api.apply(kind, desired, options);
    if (!result.ok) return result;
    const { object, isCreated } = result.value;
    this.#memory.set(key, { wish, version: versionOf(object) });
    if (isCreated) return succeed({ object, effect: 'created' });
    const isSame = live !== undefined && versionOf(live) === versionOf(object);
    return succeed({ object, effect: isSame ? 'unchanged' : 'configured' });
  }

  /** The object is gone for good. */
  forget(kind: ResourceKind, key: string): void {
    for (const subresource of ['', 'status']) this.#memory.delete(`${kind.group}/${kind.plural}/${key}/${subresource}`);
  }

  #isThere(key: string, wish: string, desired: KubeObject, live: KubeObject, options: ApplyOptions): boolean {
    const memory = this.#memory.get(key);
    if (memory?.wish === wish && memory.version === versionOf(live)) return true;
    return isApplied(desired, live, FIELD_MANAGER, options.subresource);
  }
}

const versionOf = ({ metadata }: KubeObject): string => `${metadata.uid} ${metadata.resourceVersion}`;
