/**
 * What the fake knows of kinds: the built-in ones the operator uses, and custom ones as their CustomResourceDefinition says (list types,
 * status subresource, required fields, enums and patterns are not checked).
 */
import {
  CONFIG_MAP,
  CUSTOM_RESOURCE_DEFINITION,
  EVENT,
  LEASE,
  NAMESPACE,
  POD,
  POD_DISRUPTION_BUDGET,
  SECRET,
  SERVICE,
  STATEFUL_SET,
} from '../../../operator/kube/kinds.ts';
import type { KubeObject, ResourceKind } from '../../../operator/kube/kube-object.ts';
import type { ListKeys } from './field-set.ts';

export interface KnownKind {
  readonly kind: ResourceKind;
  readonly hasStatus: boolean;
  /** `metadata.generation` counts changes of everything but metadata and status. */
  readonly hasGeneration: boolean;
  readonly listKeys: ListKeys;
  /** Path of a field the schema does not have, or null. */
  readonly unknownField: (object: KubeObject) => string | null;
}

const BUILT_IN_LISTS: ReadonlyMap<string, readonly string[] | 'set'> = new Map<string, readonly string[] | 'set'>([
  ['metadata.finalizers', 'set'],
  ['metadata.ownerReferences', ['uid']],
  ['status.conditions', ['type']],
]);

const builtInKeys: ListKeys = (dotted) => BUILT_IN_LISTS.get(dotted) ?? null;

const builtIn = (kind: ResourceKind, hasStatus: boolean): KnownKind => ({
  kind,
  hasStatus,
  hasGeneration: hasStatus,
  listKeys: builtInKeys,
  unknownField: () => null,
});

export const BUILT_IN: readonly KnownKind[] = [
  builtIn(NAMESPACE, false),
  builtIn(CONFIG_MAP, false),
  builtIn(SECRET, false),
  builtIn(LEASE, false),
  builtIn(EVENT, false),
  builtIn(CUSTOM_RESOURCE_DEFINITION, false),
  builtIn(SERVICE, true),
  builtIn(POD, true),
  builtIn(POD_DISRUPTION_BUDGET, true),
  builtIn(STATEFUL_SET, true),
];

interface Schema {
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly items?: Schema;
  readonly 'x-kubernetes-list-type'?: string;
  readonly 'x-kubernetes-list-map-keys'?: readonly string[];
}

interface CrdSpec {
  readonly group: string;
  readonly scope: string;
  readonly names: { readonly kind: string; readonly plural: string };
  readonly versions: readonly {
    readonly name: string;
    readonly subresources?: { readonly status?: object };
    readonly schema?: { readonly openAPIV3Schema?: Schema };
  }[];
}

function keysIn(schema: Schema | undefined, dotted: string): readonly string[] | 'set' | null {
  let at = schema;
  for (const name of dotted.split('.')) at = (at?.items ?? at)?.properties?.[name];
  if (at?.['x-kubernetes-list-type'] === 'set') return 'set';
  return at?.['x-kubernetes-list-type'] === 'map' ? (at['x-kubernetes-list-map-keys'] ?? null) : null;
}

function unknownIn(schema: Schema | undefined, value: unknown, path = ''): string | null {
  if (Array.isArray(value)) {
    for (const item of value) {
      const found = unknownIn(schema?.items, item, path);
      if (found !== null) return found;
    }
    return null;
  }
  if (schema?.properties === undefined || typeof value !== 'object' || value === null) return null;
  for (const [name, child] of Object.entries(value)) {
    const here = path === '' ? name : `${path}.${name}`;
    const below = schema.properties[name];
    const found = below === undefined ? here : unknownIn(below, child, here);
    if (found !== null) return found;
  }
  return null;
}

export function kindsOf(definition: KubeObject): KnownKind[] {
  const spec = definition.spec as CrdSpec;
  return spec.versions.map((version) => ({
    kind: {
      group: spec.group,
      version: version.name,
      kind: spec.names.kind,
      plural: spec.names.plural,
      namespaced: spec.scope === 'Namespaced',
    },
    hasStatus: version.subresources?.status !== undefined,
    hasGeneration: true,
    unknownField: ({ spec: intent, status }) =>
      unknownIn(version.schema?.openAPIV3Schema, {
        ...(intent ? { spec: intent } : {}),
        ...(status ? { status } : {}),
      }),
    listKeys: (dotted) => builtInKeys(dotted) ?? keysIn(version.schema?.openAPIV3Schema, dotted),
  }));
}
