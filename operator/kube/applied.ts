/**
 * Whether an apply would change anything, decided from the object as we know it. Pure. An idle operator writes nothing (kubernetes.md K1), and
 * an apply without effect is still a request and a line in the audit log, so it must not be sent.
 * Promise: `true` only when exactly the fields we want are ours and have the values we want. What we applied carries a digest of the wish
 * (`WISH`): when it is that of today's wish, a field that is still ours still has our value, because whoever changes a field takes it over.
 * That matters where the server writes values its own way (`1000m` as `1`, defaults inside of what the schema calls atomic). Without the
 * digest (status) values are compared, and `false` may be too careful.
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

/** Annotation of what the operator renders: digest of the wish that was applied. */
export const WISH = 'mailcluster.dev/wish';

const wishOf = ({ metadata }: KubeObject): string => metadata.annotations?.[WISH] ?? '';

const isMap = (value: unknown): value is Json => typeof value === 'object' && value !== null && !Array.isArray(value);

export function isApplied(desired: KubeObject, live: KubeObject, manager: string, subresource = ''): boolean {
  const entry = live.metadata.managedFields?.find(
    (one) => one.manager === manager && one.operation === 'Apply' && (one.subresource ?? '') === subresource,
  );
  if (entry?.fieldsV1 === undefined) return false;
  const wanted = wantedFields(desired, subresource);
  const isSameWish = subresource === '' && wishOf(desired) !== '' && wishOf(desired) === wishOf(live);
  return matches(wanted, live, entry.fieldsV1, isSameWish);
}

function wantedFields({ metadata, ...rest }: KubeObject, subresource: string): Json {
  if (subresource === 'status') return { status: rest.status };
  const own = Object.fromEntries(Object.entries(metadata).filter(([name]) => !METADATA_OF_SERVER.has(name)));
  const fields = Object.entries(rest).filter(([name]) => !IDENTITY.includes(name) && name !== 'status');
  return Object.fromEntries([...fields, ...(Object.keys(own).length === 0 ? [] : [['metadata', own]])]);
}

/** Values as wanted, owned as wanted, nothing owned besides. */
function matches(wanted: unknown, live: unknown, owned: FieldTree, isSameWish: boolean): boolean {
  const elements = Object.keys(owned).filter((element) => element !== '.');
  // A leaf is owned with everything below it: scalars, lists and maps the schema calls atomic.
  if (elements.length === 0) return isSameWish ? wanted !== undefined : isDeepStrictEqual(wanted, live);
  if (isMap(wanted)) return isMap(live) && matchesMap(wanted, live, owned, elements, isSameWish);
  return Array.isArray(wanted) && Array.isArray(live) && matchesList(wanted, live, owned, elements, isSameWish);
}

function matchesMap(
  wanted: Json,
  live: Json,
  owned: FieldTree,
  elements: readonly string[],
  isSameWish: boolean,
): boolean {
  // The server drops empty lists and maps that say nothing; then nobody owns them.
  const says = (name: string): boolean =>
    wanted[name] !== undefined && (`f:${name}` in owned || !isDeepStrictEqual(wanted[name], emptied(wanted[name])));
  const names = Object.keys(wanted).filter(says);
  const ownedNames = elements.map((element) => element.slice(2));
  if (names.length !== ownedNames.length || !names.every((name) => ownedNames.includes(name))) return false;
  return names.every((name) => matches(wanted[name], live[name], owned[`f:${name}`] ?? {}, isSameWish));
}

function matchesList(
  wanted: readonly unknown[],
  live: readonly unknown[],
  owned: FieldTree,
  elements: readonly string[],
  isSameWish: boolean,
): boolean {
  if (wanted.length !== elements.length) return false;
  return elements.every((element) => {
    const value: unknown = JSON.parse(element.slice(2));
    if (element.startsWith('v:')) return includes(wanted, value) && includes(live, value);
    if (!element.startsWith('k:')) return false;
    if (!isMap(value)) return false;
    // A key may have a default (protocol of a port) that the wish leaves to the server.
    const mine = wanted.filter((item) => isMap(item) && hasKeys(item, value, true));
    const theirs = live.find((item) => isMap(item) && hasKeys(item, value, false));
    return mine.length === 1 && theirs !== undefined && matches(mine[0], theirs, owned[element] ?? {}, isSameWish);
  });
}

const emptied = (value: unknown): unknown => (Array.isArray(value) ? [] : isMap(value) ? {} : undefined);

const includes = (list: readonly unknown[], value: unknown): boolean =>
  list.some((item) => isDeepStrictEqual(item, value));

const hasKeys = (item: Json, keys: Json, mayBeAbsent: boolean): boolean =>
  Object.entries(keys).every(
    ([key, value]) => (mayBeAbsent && item[key] === undefined) || isDeepStrictEqual(item[key], value),
  );
