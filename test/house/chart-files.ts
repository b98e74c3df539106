/**
 * What in charts/ comes from somewhere else: the CRDs and the roles of people word for word, and the schema of the values of a MailCluster out of the CRDs.
 * Pure. Rules in CEL stay with the API server: JSON Schema cannot say them.
 */
import type { SchemaNode, Schemas } from '../../operator/resource/schema.ts';

type Json = Readonly<Record<string, unknown>>;

const present = (fields: Json): Json =>
  Object.fromEntries(
    Object.entries(fields).filter(([, value]) => value !== null && value !== undefined && value !== ''),
  );

const TYPES = { intOrString: ['integer', 'string'] } as const;

/** JSON Schema of draft 7, closed: a field that the CRD does not know would be dropped in silence. */
function jsonSchema(node: SchemaNode): Json {
  const { properties, required, additional, items, type } = node;
  const fields = Object.fromEntries([...properties].map(([name, child]) => [name, jsonSchema(child)]));
  return present({
    type: type === 'intOrString' ? TYPES.intOrString : type,
    description: node.description,
    enum: node.enumeration,
    pattern: node.pattern,
    ...{ minimum: node.minimum, maximum: node.maximum, minLength: node.minLength, maxLength: node.maxLength },
    ...{ minItems: node.minItems, maxItems: node.maxItems, maxProperties: node.maxProperties },
    uniqueItems: node.isSet ? true : null,
    items: items === null ? null : jsonSchema(items),
    required: required.length === 0 ? null : required,
    properties: properties.size === 0 ? null : fields,
    additionalProperties: type !== 'object' ? null : additional === null ? false : jsonSchema(additional),
  });
}

function specOf(schemas: Schemas, kind: string): SchemaNode {
  const spec = schemas.get(kind)?.properties.get('spec');
  if (spec === undefined) throw new Error(`no schema of ${kind}`);
  return spec;
}

function without(node: SchemaNode, field: string): SchemaNode {
  const properties = new Map([...node.properties].filter(([name]) => name !== field));
  return { ...node, properties, required: node.required.filter((name) => name !== field) };
}

const NAME = { type: 'string', maxLength: 40, pattern: '^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$' };

export function clusterValuesSchema(schemas: Schemas): string {
  const schema = {
    $schema: 'http://json-schema.org/draft-07/schema#',
    title: 'Values of mailcluster; made from crds/ by make docs',
    type: 'object',
    required: ['spec'],
    additionalProperties: false,
    properties: {
      global: { type: 'object' },
      name: { ...NAME, description: 'Of the MailCluster; empty: the name of the release.' },
      annotations: { type: 'object', additionalProperties: { type: 'string' } },
      spec: jsonSchema(specOf(schemas, 'MailCluster')),
      databases: {
        type: 'object',
        description: 'MailboxDatabases by name.',
        propertyNames: { pattern: '^[a-z0-9]([-a-z0-9]*[a-z0-9])?$', maxLength: 63 },
        additionalProperties: jsonSchema(without(specOf(schemas, 'MailboxDatabase'), 'clusterRef')),
      },
    },
  };
  return `${JSON.stringify(schema, null, 2)}\n`;
}

/** Copy -> where it comes from: Helm takes only what is inside a chart. */
export const CHART_COPIES: ReadonlyMap<string, string> = new Map([
  ...['mailcluster', 'mailboxdatabase', 'resubmitrequest', 'transportorder'].map(
    (kind) => [`charts/mailcluster-operator/files/crds/${kind}.yaml`, `crds/${kind}.yaml`] as const,
  ),
  ['charts/mailcluster-operator/files/kubectl-roles.yaml', 'docs/kubectl-roles.yaml'],
  ['charts/mailcluster-operator/files/order-policy.yaml', 'docs/order-policy.yaml'],
]);
