/**
 * Who owns which field, as the API server keeps it in `metadata.managedFields`: server-side apply with conflicts, and the ownership that
 * create, replace and patch take. Pure. Simplified: no defaulting, no conversion between versions, no atomic maps.
 */
import { isDeepStrictEqual } from 'node:util';
import type { KubeObject, ManagedFieldsEntry } from '../../../operator/kube/kube-object.ts';
import {
  erase,
  FieldSet,
  fromTree,
  isMap,
  type ListKeys,
  leavesOf,
  type Path,
  read,
  sayPath,
  toTree,
  write,
} from './field-set.ts';

type Json = Record<string, unknown>;

export interface Writer {
  readonly manager: string;
  readonly subresource: string;
  readonly time: string;
}

export interface Conflict {
  readonly manager: string;
  readonly operation: string;
  readonly field: string;
}

export type Merged = { readonly object: KubeObject } | { readonly conflicts: readonly Conflict[] };

/** Fields of the server, which nobody owns. */
const SERVER_METADATA = [
  'name',
  'namespace',
  'generateName',
  'uid',
  'resourceVersion',
  'generation',
  'creationTimestamp',
  'deletionTimestamp',
  'deletionGracePeriodSeconds',
  'managedFields',
];

function ownable(object: KubeObject): Json {
  const { apiVersion: _, kind: __, metadata, ...rest } = object as KubeObject & Json;
  const own = Object.fromEntries(Object.entries(metadata).filter(([name]) => !SERVER_METADATA.includes(name)));
  return Object.keys(own).length === 0 ? rest : { ...rest, metadata: own };
}

interface Owner {
  readonly entry: Omit<ManagedFieldsEntry, 'fieldsV1'>;
  readonly fields: FieldSet;
}

const ownersOf = (object: KubeObject): Owner[] =>
  (object.metadata.managedFields ?? []).map(({ fieldsV1, ...entry }) => ({ entry, fields: fromTree(fieldsV1 ?? {}) }));

const isSame = (a: Owner, writer: Writer, operation: string): boolean =>
  a.entry.manager === writer.manager &&
  a.entry.operation === operation &&
  (a.entry.subresource ?? '') === writer.subresource;

function withOwners(object: KubeObject, owners: readonly Owner[]): KubeObject {
  const managedFields = owners
    .filter((owner) => owner.fields.size > 0)
    .map(({ entry, fields }) => ({ ...entry, fieldsType: 'FieldsV1', fieldsV1: toTree(fields) }));
  return { ...object, metadata: { ...object.metadata, managedFields } };
}

function ownerFor(owners: Owner[], object: KubeObject, writer: Writer, operation: 'Apply' | 'Update'): Owner {
  const found = owners.find((one) => isSame(one, writer, operation));
  if (found !== undefined) return found;
  const made: Owner = {
    entry: {
      manager: writer.manager,
      operation,
      apiVersion: object.apiVersion,
      time: writer.time,
      ...(writer.subresource === '' ? {} : { subresource: writer.subresource }),
    },
    fields: new FieldSet(),
  };
  owners.push(made);
  return made;
}

/** Server-side apply of `desired` onto `live`. */
export function applyFields(
  live: KubeObject,
  desired: KubeObject,
  writer: Writer,
  force: boolean,
  listKeys: ListKeys,
): Merged {
  const wanted = ownable(desired);
  const fields = leavesOf(wanted, listKeys);
  const owners = ownersOf(live);
  const mine = ownerFor(owners, desired, writer, 'Apply');
  const others = owners.filter((owner) => owner !== mine);
  const conflicts: Conflict[] = [];
  // `{}` says that there is a map, not that it has nothing in it.
  const isEmptyWish = (path: Path): boolean =>
    isMap(read(wanted, path)) && isMap(read(live, path)) && path.at(-1) !== '.';
  for (const path of fields) {
    if (path.at(-1) === '.' || isEmptyWish(path) || isDeepStrictEqual(read(live, path), read(wanted, path))) continue;
    for (const owner of others) {
      if (!owner.fields.has(path)) continue;
      if (force) owner.fields.remove(path);
      else conflicts.push({ manager: owner.entry.manager, operation: owner.entry.operation, field: sayPath(path) });
    }
  }
  if (conflicts.length > 0) return { conflicts };
  const object = structuredClone(live) as KubeObject & Json;
  const dropped = [...mine.fields].filter((path) => !fields.has(path));
  // Whole items first: without the field that is its key an item could not be found any more.
  const ordered = [...dropped.filter((path) => path.at(-1) === '.'), ...dropped.filter((path) => path.at(-1) !== '.')];
  for (const path of ordered) if (!isHeld(path, others)) erase(object, path);
  for (const path of fields) if (!isEmptyWish(path)) write(object, path, read(wanted, path));
  const rest = owners.filter((owner) => owner !== mine);
  return { object: withOwners(object, [...rest, { entry: { ...mine.entry }, fields }]) };
}

/** Somebody else owns it, or (an item) something in it, or (a key of an item) the item. */
function isHeld(path: Path, others: readonly Owner[]): boolean {
  const isItem = path.at(-1) === '.';
  const prefix = path.slice(0, -1);
  return others.some((owner) => {
    if (owner.fields.has(path)) return true;
    if (!isItem) return false;
    return [...owner.fields].some(
      (one) => one.length >= prefix.length && prefix.every((element, at) => one[at] === element),
    );
  });
}

/** Create, replace or patch turned `live` (null: nothing was there) into `next`: the writer owns what it changed. */
export function ownChanges(live: KubeObject | null, next: KubeObject, writer: Writer, listKeys: ListKeys): KubeObject {
  const before = live === null ? {} : ownable(live);
  const after = ownable(next);
  const owners = live === null ? [] : ownersOf(live);
  const mine = ownerFor(owners, next, writer, 'Update');
  const had = leavesOf(before, listKeys);
  const has = leavesOf(after, listKeys);
  for (const path of had) if (!has.has(path)) for (const owner of owners) owner.fields.remove(path);
  for (const path of has) {
    if (path.length === 0) continue;
    if (had.has(path) && isDeepStrictEqual(read(before, path), read(after, path))) continue;
    for (const owner of owners) if (owner !== mine) owner.fields.remove(path);
    mine.fields.add(path);
  }
  return withOwners(next, owners);
}

/** RFC 7396. */
export function mergePatch(target: unknown, patch: unknown): unknown {
  if (!isMap(patch)) return patch;
  const result: Json = isMap(target) ? { ...target } : {};
  for (const [name, value] of Object.entries(patch)) {
    if (value === null) delete result[name];
    else result[name] = mergePatch(result[name], value);
  }
  return result;
}
