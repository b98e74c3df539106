/**
 * Writes `generated.ts` from the CRDs: `node operator/resource/generate-types.ts`. Owns: the mapping from schema to TypeScript.
 * Promise: the types describe a resource after defaulting, so a field with a default is always there. A test compares the file
 * with `renderTypes()` and fails when somebody changed a CRD and forgot this.
 */
import { writeFileSync } from 'node:fs';
import { KINDS, loadSchemas, type SchemaNode, type Schemas } from './schema.ts';

const HEADER = `/**
 * Generated from crds/*.yaml by operator/resource/generate-types.ts; do not edit. Resources after validation and defaulting.
 */

export interface Metadata {
  readonly name: string;
  readonly namespace: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
}
`;

function renderType(schema: SchemaNode, indent: string): string {
  switch (schema.type) {
    case 'intOrString':
      return 'string | number';
    case 'boolean':
      return 'boolean';
    case 'integer':
      return 'number';
    case 'string':
      return schema.enumeration === null
        ? 'string'
        : schema.enumeration.map((value) => `'${String(value)}'`).join(' | ');
    case 'array': {
      const entry = schema.items === null ? 'unknown' : renderType(schema.items, indent);
      return `readonly ${schema.items?.enumeration ? `(${entry})` : entry}[]`;
    }
    case 'object':
      if (schema.additional !== null) return `Readonly<Record<string, ${renderType(schema.additional, indent)}>>`;
      return `{\n${renderFields(schema, `${indent}  `)}${indent}}`;
  }
}

function renderFields(schema: SchemaNode, indent: string): string {
  let text = '';
  for (const [name, property] of schema.properties) {
    const present = schema.required.includes(name) || property.defaultValue !== undefined;
    if (property.description !== '') text += `${indent}/** ${property.description} */\n`;
    text += `${indent}readonly ${name}${present ? '' : '?'}: ${renderType(property, indent)};\n`;
  }
  return text;
}

export function renderTypes(schemas: Schemas): string {
  let text = HEADER;
  for (const kind of KINDS) {
    const schema = schemas.get(kind);
    const spec = schema?.properties.get('spec');
    const status = schema?.properties.get('status');
    if (spec === undefined || status === undefined) throw new Error(`CRD ${kind} lacks spec or status`);
    text += `\nexport interface ${kind} {\n  readonly kind: '${kind}';\n  readonly metadata: Metadata;\n  readonly spec: ${kind}Spec;\n}\n`;
    text += `\nexport interface ${kind}Spec {\n${renderFields(spec, '  ')}}\n`;
    text += `\nexport interface ${kind}Status {\n${renderFields(status, '  ')}}\n`;
  }
  return text;
}

if (import.meta.main) writeFileSync(new URL('./generated.ts', import.meta.url), renderTypes(loadSchemas()));
