/**
 * One document to one typed resource. Owns: the envelope (apiVersion, kind, metadata, Secret and ConfigMap data); structure,
 * defaults and rules come from the CRD. Promise: everything that reads a resource goes through here. Refuses unknown kinds,
 * versions and fields. Fails by findings, all of a document at once. PURE.
 */
import { API_VERSION } from './api-version.ts';
import type { CelRules } from './cel.ts';
import type { MailboxDatabase, MailCluster, Metadata, ResubmitRequest, TransportOrder } from './generated.ts';
import type { Path } from './problem.ts';
import { KINDS, type SchemaNode, type Schemas } from './schema.ts';
import type { SourceDocument } from './source-document.ts';
import { checkStructure, closest, type Finding, isPlain, show } from './structure.ts';

interface KeyValues {
  readonly metadata: Metadata;
  /** Decoded as UTF-8. */
  readonly data: Readonly<Record<string, string>>;
}
export interface Secret extends KeyValues {
  readonly kind: 'Secret';
}
export interface ConfigMap extends KeyValues {
  readonly kind: 'ConfigMap';
}
export type Resource = MailCluster | MailboxDatabase | ResubmitRequest | TransportOrder | Secret | ConfigMap;

export type ParsedDocument =
  | { readonly kind: 'resource'; readonly resource: Resource }
  | { readonly kind: 'ignored'; readonly why: string }
  | { readonly kind: 'invalid'; readonly findings: readonly Finding[] };

export const DEFAULT_NAMESPACE = 'default';
const READ_KINDS = [...KINDS, 'Secret', 'ConfigMap'];
/** What the API server writes into metadata: `kubectl get -o yaml` must validate. */
const METADATA_FIELDS = new Set([
  ...['name', 'namespace', 'labels', 'annotations', 'uid', 'resourceVersion', 'generation', 'creationTimestamp'],
  ...['managedFields', 'finalizers', 'ownerReferences', 'deletionTimestamp', 'deletionGracePeriodSeconds', 'selfLink'],
]);

export interface Reader {
  readonly schemas: Schemas;
  readonly rules: CelRules;
}

/** `old`: the spec before this change, for rules about changes; absent on creation. */
export function parseDocument(document: Pick<SourceDocument, 'value'>, reader: Reader, old?: unknown): ParsedDocument {
  const { apiVersion, kind } = document.value;
  if (kind === 'Namespace' && apiVersion === 'v1') return { kind: 'ignored', why: 'only Kubernetes needs a Namespace' };
  const envelope = envelopeProblem(apiVersion, kind);
  if (envelope !== null) return { kind: 'invalid', findings: [envelope] };
  const findings: Finding[] = [];
  const schema = reader.schemas.get(String(kind));
  const metadata = readMetadata(document.value.metadata, schema?.properties.get('metadata') ?? null, findings);
  const resource =
    schema === undefined
      ? readKeyValues(document.value, kind === 'Secret' ? 'Secret' : 'ConfigMap', metadata, findings)
      : readCustom(document.value, schema, reader.rules, metadata, findings, old);
  return findings.length > 0 ? { kind: 'invalid', findings } : { kind: 'resource', resource };
}

function envelopeProblem(apiVersion: unknown, kind: unknown): Finding | null {
  const at = (field: string, problem: string, fix: string): Finding => ({ path: [field], problem, fix });
  if (typeof kind !== 'string' || !READ_KINDS.includes(kind)) {
    const close = typeof kind === 'string' ? closest(kind, READ_KINDS) : null;
    const fix = close === null ? `write one of ${READ_KINDS.join(', ')}` : `did you mean ${close}?`;
    return at('kind', kind === undefined ? 'field kind is missing' : `unknown kind ${show(kind)}`, fix);
  }
  const wanted = kind === 'Secret' || kind === 'ConfigMap' ? 'v1' : API_VERSION;
  if (apiVersion === wanted) return null;
  const problem =
    apiVersion === undefined ? 'field apiVersion is missing' : `unknown apiVersion ${show(apiVersion)} of ${kind}`;
  return at('apiVersion', problem, `write ${wanted}`);
}

const DNS_SUBDOMAIN = /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/;

function readMetadata(value: unknown, schema: SchemaNode | null, out: Finding[]): Metadata {
  const path: Path = ['metadata'];
  const empty: Metadata = { name: '', namespace: DEFAULT_NAMESPACE, labels: {}, annotations: {} };
  if (!isPlain(value)) {
    out.push({ path, problem: 'field metadata is missing', fix: 'write metadata: { name: ... }' });
    return empty;
  }
  for (const field of Object.keys(value)) {
    if (METADATA_FIELDS.has(field)) continue;
    const close = closest(field, [...METADATA_FIELDS]);
    const fix = close === null ? 'remove it' : `did you mean ${close}?`;
    out.push({ path: [...path, field], atKey: true, problem: `unknown field ${field}`, fix });
  }
  const { name, namespace = DEFAULT_NAMESPACE } = value;
  const limit = schema?.properties.get('name')?.maxLength ?? 253;
  for (const [field, text, most] of [
    ['name', name, limit],
    ['namespace', namespace, 63],
  ] as const) {
    const form = `lower-case letters, digits and hyphens, at most ${most} characters`;
    if (text === undefined)
      out.push({ path, problem: `field ${field} is missing`, fix: `add metadata.${field}: ${form}` });
    else if (
      typeof text !== 'string' ||
      text.length > most ||
      !DNS_SUBDOMAIN.test(text) ||
      (schema !== null && text.includes('.'))
    )
      out.push({ path: [...path, field], problem: `${show(text)} is no ${field} for a resource`, fix: `use ${form}` });
  }
  return {
    name: String(name),
    namespace: String(namespace),
    labels: stringMap(value.labels, [...path, 'labels'], out),
    annotations: stringMap(value.annotations, [...path, 'annotations'], out),
  };
}

function stringMap(value: unknown, path: Path, out: Finding[]): Readonly<Record<string, string>> {
  if (value === undefined || value === null) return {};
  if (!isPlain(value)) {
    out.push({ path, problem: `${show(value)} is not an object`, fix: 'write one "key: value" line per entry' });
    return {};
  }
  const entries: (readonly [string, string])[] = [];
  for (const [key, text] of Object.entries(value)) {
    if (typeof text === 'string') entries.push([key, text]);
    else
      out.push({
        path: [...path, key],
        problem: `${show(text)} is not text`,
        fix: `write it in quotes: "${show(text)}"`,
      });
  }
  return Object.fromEntries(entries);
}

function readKeyValues(
  value: Readonly<Record<string, unknown>>,
  kind: 'Secret' | 'ConfigMap',
  metadata: Metadata,
  out: Finding[],
): Resource {
  const known = [
    'apiVersion',
    'kind',
    'metadata',
    'data',
    'immutable',
    ...(kind === 'Secret' ? ['stringData', 'type'] : ['binaryData']),
  ];
  unknownTopLevel(value, known, out);
  const data = stringMap(value.data, ['data'], out);
  if (kind === 'ConfigMap') return { kind, metadata, data };
  const decoded = Object.entries(data).map(([key, text]) => {
    const compact = text.replace(/\s+/g, '');
    if (!/^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/.test(compact)) {
      out.push({
        path: ['data', key],
        problem: 'the value is not base64',
        fix: 'encode it, or move it to stringData as it is',
      });
    }
    return [key, Buffer.from(compact, 'base64').toString('utf8')] as const;
  });
  return {
    kind,
    metadata,
    data: { ...Object.fromEntries(decoded), ...stringMap(value.stringData, ['stringData'], out) },
  };
}

function unknownTopLevel(value: Readonly<Record<string, unknown>>, known: readonly string[], out: Finding[]): void {
  for (const field of Object.keys(value)) {
    if (known.includes(field)) continue;
    const close = closest(field, known);
    out.push({
      path: [field],
      atKey: true,
      problem: `unknown field ${field}`,
      fix: close === null ? `remove it; known here: ${known.join(', ')}` : `did you mean ${close}?`,
    });
  }
}

function readCustom(
  value: Readonly<Record<string, unknown>>,
  root: SchemaNode,
  rules: CelRules,
  metadata: Metadata,
  out: Finding[],
  old: unknown,
): Resource {
  unknownTopLevel(value, ['apiVersion', 'kind', 'metadata', 'spec', 'status'], out);
  const schema = root.properties.get('spec');
  if (schema === undefined || value.spec === undefined) {
    out.push({ path: [], problem: 'field spec is missing', fix: 'add spec' });
    return { kind: 'Secret', metadata, data: {} };
  }
  const checked = checkStructure(schema, value.spec, ['spec']);
  out.push(...checked.findings);
  if (checked.findings.length === 0) out.push(...rules.check(schema, checked.value, ['spec'], old));
  // The value has just been checked against the schema from which the type is generated.
  return { kind: value.kind, metadata, spec: checked.value } as
    | MailCluster
    | MailboxDatabase
    | ResubmitRequest
    | TransportOrder;
}
