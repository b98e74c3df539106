/**
 * Whether an apply would change anything, decided from the object as we know it. Pure. An idle operator writes nothing (kubernetes.md K1), and
 * an apply without effect is still a request and a line in the audit log, so it must not be sent.
 * Promise: `true` only when every field we want has that value and is ours, and nothing is ours that we no longer want. `false` may be too
 * careful - the server writes some values differently (`1000m` as `1`) - then the memory of `applier.ts` keeps it quiet.
 */
import { isDeepStrictEqual } from 'node:util';
import type { FieldTree, KubeObject } from './kube-object.ts';

type Json = Readonly<Record<string, unknown>>;

/** Never owned: names of the object itself, and what the server keeps. */
const IDENTITY = ['apiVersion', 'kind'];
const METADATA_OF_SERVER = new Set([
  'name',
  'namespace',
  'uid',
  'resourceVersion',
  'generation',
  'creationTimestamp',
  'deletionTimestamp',
  'managedFields',
]);

const isMap = (value: unknown): value is Json => typeof value === 'object' && value !== null && !Array.isArray(value);

export function isApplied(desired: KubeObject, live: KubeObject, manager: string, subresource = ''): boolean {
  const entry = live.metadata.managedFields?.find(
    (one) => one.manager === manager && one.operation === 'Apply' && (one.subresource ?? '') === subresource,
  );
  if (entry?.fieldsV1 === undefined) return false;
  const wanted = wantedFields(desired, subresource);
  return matches(wanted, live, entry.fieldsV1);
}

function wantedFields({ metadata, ...rest }: KubeObject, subresource: string): Json {
  if (subresource === 'status') return { status: rest.status };
  const own = Object.fromEntries(Object.entries(metadata).filter(([name]) => !METADATA_OF_SERVER.has(name)));
  const fields = Object.entries(rest).filter(([name]) => !IDENTITY.includes(name) && name !== 'status');
  return Object.fromEntries([...fields, ...(Object.keys(own).length === 0 ? [] : [['metadata', own]])]);
}

/** Values as wanted, owned as wanted, nothing owned besides. */
function matches(wanted: unknown, live: unknown, owned: FieldTree): boolean {
  const elements = Object.keys(owned).filter((element) => element !== '.');
  // A leaf is owned with everything below it: scalars, lists and maps the schema calls atomic.
  if (elements.length === 0) return isDeepStrictEqual(wanted, live);
  if (isMap(wanted)) return isMap(live) && matchesMap(wanted, live, owned, elements);
  return Array.isArray(wanted) && Array.isArray(live) && matchesList(wanted, live, owned, elements);
}

function matchesMap(wanted: Json, live: Json, owned: FieldTree, elements: readonly string[]): boolean {
  const names = Object.keys(wanted).filter((name) => wanted[name] !== undefined);
  const ownedNames = elements.map((element) => element.slice(2));
  if (names.length !== ownedNames.length || !names.every((name) => ownedNames.includes(name))) return false;
  return names.every((name) => matches(wanted[name], live[name], owned[`f:${name}`] ?? {}));
}

function matchesList(
  wanted: readonly unknown[],
  live: readonly unknown[],
  owned: FieldTree,
  elements: readonly string[],
): boolean {
  if (wanted.length !== elements.length) return false;
  return elements.every((element) => {
    const value: unknown = JSON.parse(element.slice(2));
    if (element.startsWith('v:')) return includes(wanted, value) && includes(live, value);
    if (!element.startsWith('k:')) return false;
    const isMeant = (item: unknown): boolean => isMap(item) && isMap(value) && hasKeys(item, value);
    const mine = wanted.find(isMeant);
    return mine !== undefined && matches(mine, live.find(isMeant), owned[element] ?? {});
  });
}

const includes = (list: readonly unknown[], value: unknown): boolean =>
  list.some((item) => isDeepStrictEqual(item, value));

const hasKeys = (item: Json, keys: Json): boolean =>
  Object.entries(keys).every(([key, value]) => isDeepStrictEqual(item[key], value));
