/** docs/reference.md from the CRDs: every field with type, default, bounds and meaning, the rules, the printed columns; and the annotations. Pure. */
import type { Rule, SchemaNode, Schemas } from '../../operator/resource/schema.ts';
import { KINDS } from '../../operator/resource/schema.ts';
import { ANNOTATION } from '../../operator/resources/names.ts';

const cell = (text: string): string => text.replaceAll('|', '\\|').replaceAll('\n', ' ');
const code = (value: unknown): string => `\`${cell(typeof value === 'string' ? value : JSON.stringify(value))}\``;

/** What the annotations do; a test would miss none: every name of `ANNOTATION` is here. */
const MEANING: Readonly<Record<keyof typeof ANNOTATION, readonly [string, string]>> = {
  paused: ['MailCluster', '`"true"`: the operator writes nothing but status; mail flows'],
  forceRemove: [
    'MailCluster',
    'names of members, with commas between: removed without proof that they are empty; their volumes stay. Only for members that the spec wants no more',
  ],
  adopt: ['an object that has a name of ours and no owner', '`"true"`: the operator takes it'],
  schemaVersion: ['the CRD', 'version of the schema; an operator that knows less changes nothing'],
  generation: ['pods; claims that are kept', 'generation of the topology document; written by the operator'],
  trust: [
    'pods',
    'while one authority replaces another: the authorities they are pointed to, and since when; written by the operator',
  ],
  trusts: ['pods', 'the authorities that the pod said it uses; written by the operator'],
  applied: ['what the operator made', 'hash of what it wanted; written by the operator'],
  document: ['the topology ConfigMaps', 'hash of the document; written by the operator'],
  configHash: ['pods', 'hash of the rendered configuration; written by the operator'],
  resourcesHash: ['pods', 'hash of the resources; written by the operator'],
  templateHash: ['pods', 'hash of the rest of the template; written by the operator'],
  mailCluster: [
    'CertificateSigningRequests of the signers `mailcluster.dev/viewer` and `mailcluster.dev/exporter`',
    '`NAMESPACE/NAME` of the MailCluster that somebody wants to look at, or to have mail of; written by `kubectl mailcluster` (docs/cli.md)',
  ],
};

function typeOf(node: SchemaNode): string {
  if (node.type === 'array') return `list of ${node.items === null ? 'anything' : typeOf(node.items)}`;
  if (node.type === 'intOrString') return 'quantity';
  if (node.enumeration !== null) return node.enumeration.map(code).join(', ');
  return node.additional === null ? node.type : `map of ${typeOf(node.additional)}`;
}

function bounds(node: SchemaNode): string {
  const range = (least: number | null, most: number | null, unit: string): string => {
    if (least === null && most === null) return '';
    return `${least ?? 0}${most === null ? ' or more' : ` to ${most}`}${unit}`;
  };
  return [
    range(node.minimum, node.maximum, ''),
    range(node.minLength, node.maxLength, ' characters'),
    range(node.minItems, node.maxItems, ' entries'),
    node.maxProperties === null ? '' : `up to ${node.maxProperties} entries`,
  ]
    .filter((text) => text !== '')
    .join(', ');
}

const isLeaf = (node: SchemaNode): boolean => node.type !== 'object' || node.properties.size === 0;

function row(path: string, node: SchemaNode, isRequired: boolean): string {
  const fallback = node.defaultValue === undefined ? '' : isLeaf(node) ? code(node.defaultValue) : 'see its fields';
  return `| \`${path}\` | ${typeOf(node)} | ${isRequired ? 'required' : fallback} | ${bounds(node)} | ${cell(node.description)} |`;
}

function rows(node: SchemaNode, path: string): readonly string[] {
  return [...node.properties].flatMap(([name, child]) => {
    const here = `${path}.${name}`;
    const inner = child.type === 'array' && child.items !== null ? rows(child.items, `${here}[]`) : rows(child, here);
    return [row(here, child, node.required.includes(name)), ...inner];
  });
}

function rulesOf(node: SchemaNode, path: string): readonly { readonly path: string; readonly rule: Rule }[] {
  return [
    ...node.rules.map((rule) => ({ path: path + rule.fieldPath, rule })),
    ...[...node.properties].flatMap(([name, child]) => rulesOf(child, `${path}.${name}`)),
    ...(node.items === null ? [] : rulesOf(node.items, `${path}[]`)),
    ...(node.additional === null ? [] : rulesOf(node.additional, `${path}.*`)),
  ];
}

function kind(name: string, schema: SchemaNode): readonly string[] {
  const [spec, status] = [schema.properties.get('spec'), schema.properties.get('status')];
  if (spec === undefined || status === undefined) throw new Error(`CRD ${name} lacks spec or status`);
  const table = ['| field | type | default | bounds | meaning |', '|---|---|---|---|---|'];
  const rules = rulesOf(spec, 'spec').map(({ path, rule }) => `- \`${path}\`: ${rule.message}`);
  return [
    `## ${name}`,
    '',
    schema.description,
    '',
    ...table,
    ...rows(spec, 'spec'),
    '',
    `### What ${name} refuses`,
    '',
    ...new Set(rules),
    '',
    `### Status of ${name}`,
    '',
    ...table,
    ...rows(status, 'status'),
    '',
  ];
}

export function reference(schemas: Schemas): string {
  const annotations = (Object.keys(MEANING) as (keyof typeof MEANING)[]).map(
    (name) => `| \`${ANNOTATION[name]}\` | ${MEANING[name][0]} | ${MEANING[name][1]} |`,
  );
  return [
    '# Reference of the resources',
    '',
    'Generated from `crds/*.yaml` by `make docs`; a test fails when it is stale. All kinds are `mailcluster.dev/v1alpha1` and live in a namespace.',
    '`mailcluster validate` checks all of this without a cluster.',
    '',
    ...KINDS.flatMap((name) => {
      const schema = schemas.get(name);
      return schema === undefined ? [] : kind(name, schema);
    }),
    '## Annotations',
    '',
    '| annotation | on | meaning |',
    '|---|---|---|',
    ...annotations,
    '',
  ].join('\n');
}
