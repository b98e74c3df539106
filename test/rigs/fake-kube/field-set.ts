/**
 * Sets of fields as server-side apply has them: which leaves an object has, reading, writing and removing one, and their tree form
 * `fieldsV1`. Pure. A path is a list of elements `f:NAME`, `k:{"key":"value"}`, `v:VALUE`; `.` at its end is the item of a list itself.
 */
import type { FieldTree } from '../../../operator/kube/kube-object.ts';

export type Path = readonly string[];
type Json = Record<string, unknown>;

/** How a list is merged: by these keys, as a set of values, or (null) as a whole. The path is dotted, without items. */
export type ListKeys = (dotted: string) => readonly string[] | 'set' | null;

export class FieldSet {
  readonly #paths = new Map<string, Path>();
  add(path: Path): void {
    this.#paths.set(path.join('\u0000'), path);
  }
  remove(path: Path): void {
    this.#paths.delete(path.join('\u0000'));
  }
  has(path: Path): boolean {
    return this.#paths.has(path.join('\u0000'));
  }
  get size(): number {
    return this.#paths.size;
  }
  [Symbol.iterator](): IterableIterator<Path> {
    return this.#paths.values();
  }
}

export const isMap = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const keyElement = (item: Json, keys: readonly string[]): string =>
  `k:${JSON.stringify(Object.fromEntries([...keys].sort().map((key) => [key, item[key] ?? null])))}`;

export function leavesOf(
  value: unknown,
  listKeys: ListKeys,
  path: Path = [],
  dotted = '',
  into = new FieldSet(),
): FieldSet {
  if (isMap(value) && Object.keys(value).length > 0) {
    for (const [name, child] of Object.entries(value))
      leavesOf(child, listKeys, [...path, `f:${name}`], dotted === '' ? name : `${dotted}.${name}`, into);
    return into;
  }
  const keys = Array.isArray(value) && value.length > 0 ? listKeys(dotted) : null;
  if (!Array.isArray(value) || keys === null) {
    into.add(path);
    return into;
  }
  for (const item of value) {
    if (keys === 'set') into.add([...path, `v:${JSON.stringify(item)}`]);
    else {
      const here = [...path, keyElement(item as Json, keys)];
      into.add([...here, '.']);
      leavesOf(item, listKeys, here, dotted, into);
    }
  }
  return into;
}

const itemKeys = (element: string): Json => JSON.parse(element.slice(2)) as Json;
const isItem = (item: unknown, element: string): boolean =>
  isMap(item) && Object.entries(itemKeys(element)).every(([key, value]) => (item[key] ?? null) === value);

export function read(value: unknown, [element, ...rest]: Path): unknown {
  if (element === undefined || element === '.') return value;
  if (element.startsWith('f:')) return isMap(value) ? read(value[element.slice(2)], rest) : undefined;
  if (!Array.isArray(value)) return undefined;
  if (element.startsWith('v:')) return value.find((item) => JSON.stringify(item) === element.slice(2));
  return read(
    value.find((item) => isItem(item, element)),
    rest,
  );
}

/** Changes `target`, making maps, lists and items on the way. */
export function write(target: Json, path: Path, value: unknown): void {
  let at: unknown = target;
  path.forEach((element, index) => {
    const isLast = index === path.length - 1 || path[index + 1] === '.';
    const next = path[index + 1];
    if (element === '.') return;
    if (element.startsWith('f:')) {
      const name = element.slice(2);
      const map = at as Json;
      if (isLast) map[name] = structuredClone(value);
      else if (
        map[name] === undefined ||
        map[name] === null ||
        (next !== undefined && isMap(map[name]) !== next.startsWith('f:'))
      )
        map[name] = next?.startsWith('f:') ? {} : [];
      at = map[name];
      return;
    }
    const list = at as unknown[];
    if (element.startsWith('v:')) {
      if (!list.some((item) => JSON.stringify(item) === element.slice(2))) list.push(JSON.parse(element.slice(2)));
      return;
    }
    let item = list.find((one) => isItem(one, element));
    if (item === undefined) {
      item = Object.fromEntries(Object.entries(itemKeys(element)).filter(([, key]) => key !== null));
      list.push(item);
    }
    at = item;
  });
}

/** Changes `target`; maps and lists that become empty by it go as well. */
export function erase(target: unknown, [element, ...rest]: Path): void {
  if (element === undefined || target === undefined || target === null) return;
  if (element.startsWith('f:') && isMap(target)) {
    const name = element.slice(2);
    if (rest.length === 0) delete target[name];
    else {
      erase(target[name], rest);
      if (isEmpty(target[name])) delete target[name];
    }
    return;
  }
  if (!Array.isArray(target)) return;
  const at = target.findIndex((item) =>
    element.startsWith('v:') ? JSON.stringify(item) === element.slice(2) : isItem(item, element),
  );
  if (at < 0) return;
  if (rest.length === 0 || rest[0] === '.') target.splice(at, 1);
  else erase(target[at], rest);
}

const isEmpty = (value: unknown): boolean =>
  (isMap(value) && Object.keys(value).length === 0) || (Array.isArray(value) && value.length === 0);

export function toTree(set: FieldSet): FieldTree {
  const tree: Record<string, unknown> = {};
  for (const path of set) {
    let at = tree;
    for (const element of path) {
      at[element] ??= {};
      at = at[element] as Record<string, unknown>;
    }
  }
  return tree as FieldTree;
}

export function fromTree(tree: FieldTree, path: Path = [], into = new FieldSet()): FieldSet {
  const entries = Object.entries(tree);
  if (entries.length === 0) into.add(path);
  for (const [element, below] of entries) fromTree(below, [...path, element], into);
  return into;
}

/** `.data.a`, `.spec.members[name="x"].size`, as the API server writes it in conflicts. */
export function sayPath(path: Path): string {
  return path
    .filter((element) => element !== '.')
    .map((element) => {
      if (element.startsWith('f:')) return `.${element.slice(2)}`;
      if (element.startsWith('v:')) return `[=${element.slice(2)}]`;
      return `[${Object.entries(itemKeys(element))
        .map(([key, value]) => `${key}=${JSON.stringify(value)}`)
        .join(',')}]`;
    })
    .join('');
}
