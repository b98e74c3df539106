/**
 * The CRDs as this program reads them. Owns: turning `crds/*.yaml` into schema nodes. Promise: the CRD is the only source of
 * structure, defaults and rules; nothing is repeated in code. Refuses: a keyword it does not know - a CRD that says more than
 * the walker checks would make `mailcluster validate` milder than Kubernetes. Fails by throwing: a bad CRD is our bug.
 */
import { readFileSync } from 'node:fs';
import { parse as parseYaml } from 'yaml';
import { assert } from '../../common/platform/assert.ts';

export interface Rule {
  readonly rule: string;
  readonly message: string;
  /** `.limits.size`, relative to the node of the rule. */
  readonly fieldPath: string;
}

export type SchemaType = 'object' | 'array' | 'string' | 'integer' | 'boolean' | 'intOrString';

export interface SchemaNode {
  readonly type: SchemaType;
  readonly description: string;
  readonly properties: ReadonlyMap<string, SchemaNode>;
  readonly required: readonly string[];
  readonly additional: SchemaNode | null;
  readonly items: SchemaNode | null;
  readonly enumeration: readonly unknown[] | null;
  readonly pattern: string | null;
  readonly format: string | null;
  readonly minimum: number | null;
  readonly maximum: number | null;
  readonly minLength: number | null;
  readonly maxLength: number | null;
  readonly minItems: number | null;
  readonly maxItems: number | null;
  readonly maxProperties: number | null;
  readonly defaultValue: unknown;
  /** Keys of a list-map, empty otherwise. */
  readonly mapKeys: readonly string[];
  readonly isSet: boolean;
  readonly rules: readonly Rule[];
}

export type Kind = 'MailCluster' | 'MailboxDatabase' | 'ResubmitRequest' | 'TransportOrder';
export type Schemas = ReadonlyMap<string, SchemaNode>;

export const KINDS: readonly Kind[] = ['MailCluster', 'MailboxDatabase', 'ResubmitRequest', 'TransportOrder'];

const KEYWORDS = new Set([
  ...['type', 'description', 'properties', 'required', 'additionalProperties', 'items', 'enum', 'pattern', 'format'],
  ...['minimum', 'maximum', 'minLength', 'maxLength', 'minItems', 'maxItems', 'maxProperties', 'default'],
  ...['x-kubernetes-list-type', 'x-kubernetes-list-map-keys', 'x-kubernetes-validations'],
  'x-kubernetes-int-or-string',
]);

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function record(value: unknown, where: string): Readonly<Record<string, unknown>> {
  assert(isRecord(value), 'CRD: an object is missing', { where });
  return value;
}

function strings(value: unknown): readonly string[] {
  return Array.isArray(value) ? value.filter((entry) => typeof entry === 'string') : [];
}

const numeric = (value: unknown): number | null => (typeof value === 'number' ? value : null);
const textual = (value: unknown): string | null => (typeof value === 'string' ? value : null);

function typeOf(source: Readonly<Record<string, unknown>>, where: string): SchemaType {
  if (source['x-kubernetes-int-or-string'] === true) return 'intOrString';
  const { type } = source;
  const known = type === 'object' || type === 'array' || type === 'string' || type === 'integer' || type === 'boolean';
  assert(known, 'CRD: unknown type', { where, type });
  return type;
}

function readRules(source: unknown, where: string): readonly Rule[] {
  if (!Array.isArray(source)) return [];
  return source.map((entry) => {
    const rule = record(entry, where);
    assert(typeof rule.rule === 'string' && typeof rule.message === 'string', 'CRD: rule without text', { where });
    return { rule: rule.rule.trim(), message: rule.message, fieldPath: textual(rule.fieldPath) ?? '' };
  });
}

export function readSchema(value: unknown, where: string): SchemaNode {
  const source = record(value, where);
  for (const keyword of Object.keys(source)) assert(KEYWORDS.has(keyword), 'CRD: unknown keyword', { where, keyword });
  const properties = Object.entries(isRecord(source.properties) ? source.properties : {});
  const additional = source.additionalProperties;
  return {
    type: typeOf(source, where),
    description: textual(source.description) ?? '',
    properties: new Map(properties.map(([name, child]) => [name, readSchema(child, `${where}.${name}`)])),
    required: strings(source.required),
    additional: additional === undefined ? null : readSchema(additional, `${where}.*`),
    items: source.items === undefined ? null : readSchema(source.items, `${where}[]`),
    enumeration: Array.isArray(source.enum) ? source.enum : null,
    pattern: textual(source.pattern),
    format: textual(source.format),
    minimum: numeric(source.minimum),
    maximum: numeric(source.maximum),
    minLength: numeric(source.minLength),
    maxLength: numeric(source.maxLength),
    minItems: numeric(source.minItems),
    maxItems: numeric(source.maxItems),
    maxProperties: numeric(source.maxProperties),
    defaultValue: source.default,
    mapKeys: strings(source['x-kubernetes-list-map-keys']),
    isSet: source['x-kubernetes-list-type'] === 'set',
    rules: readRules(source['x-kubernetes-validations'], where),
  };
}

/** The schema of the one version of a CRD. */
export function readCrd(text: string, where: string): { readonly kind: string; readonly schema: SchemaNode } {
  const spec = record(record(parseYaml(text), where).spec, where);
  assert(Array.isArray(spec.versions), 'CRD: no versions', { where });
  const version = record(spec.versions[0], where);
  assert(version.name === 'v1alpha1' && spec.group === 'mailcluster.dev', 'CRD: unknown version', { where });
  const kind = textual(record(spec.names, where).kind);
  assert(kind !== null, 'CRD: no kind', { where });
  return { kind, schema: readSchema(record(version.schema, where).openAPIV3Schema, kind) };
}

/** Reads `crds/` of this program. */
export function loadSchemas(): Schemas {
  const entries = KINDS.map((kind) => {
    const path = new URL(`../../crds/${kind.toLowerCase()}.yaml`, import.meta.url);
    const crd = readCrd(readFileSync(path, 'utf8'), path.pathname);
    assert(crd.kind === kind, 'CRD: wrong kind', { kind, found: crd.kind });
    return [kind, crd.schema] as const;
  });
  return new Map(entries);
}
