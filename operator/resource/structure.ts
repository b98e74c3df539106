/**
 * Structural validation and defaulting, driven by the CRD. Owns: types, required and unknown fields, bounds, list-maps, sets.
 * Promise: the value it returns has every default filled in, as the API server would; unknown fields are errors, as with
 * `kubectl apply` (strict). All problems of a document are found in one pass. PURE.
 */
import type { Path, PathStep } from './problem.ts';
import { isDateTime } from './quantity.ts';
import type { SchemaNode } from './schema.ts';

export interface Finding {
  readonly path: Path;
  /** Point at the key of the last step, not at its value (unknown fields). */
  readonly atKey?: boolean;
  readonly problem: string;
  readonly fix: string;
}

export interface Checked {
  readonly value: unknown;
  readonly findings: readonly Finding[];
}

type Plain = Readonly<Record<string, unknown>>;

export function isPlain(value: unknown): value is Plain {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function checkStructure(schema: SchemaNode, value: unknown, path: Path): Checked {
  const findings: Finding[] = [];
  const result = walk(schema, value, path, findings);
  return { value: result, findings };
}

function walk(schema: SchemaNode, value: unknown, path: Path, out: Finding[]): unknown {
  const wrongType = typeProblem(schema, value);
  if (wrongType !== null) {
    out.push({ path, ...wrongType });
    return value;
  }
  if (schema.enumeration !== null && !schema.enumeration.includes(value)) {
    const choices = schema.enumeration.join(', ');
    const close = closest(String(value), schema.enumeration.map(String));
    out.push({
      path,
      problem: `${show(value)} is not one of ${choices}`,
      fix: close ? `write ${close}` : `choose one of ${choices}`,
    });
  }
  if (isPlain(value)) return walkObject(schema, value, path, out);
  if (Array.isArray(value)) return walkArray(schema, value, path, out);
  if (typeof value === 'string') checkString(schema, value, path, out);
  if (typeof value === 'number') checkNumber(schema, value, path, out);
  return value;
}

function typeProblem(schema: SchemaNode, value: unknown): { readonly problem: string; readonly fix: string } | null {
  const actual =
    value === null ? 'nothing' : Array.isArray(value) ? 'a list' : isPlain(value) ? 'an object' : typeof value;
  const wrong = (expected: string, fix: string) => ({
    problem: `${show(value)} is ${article(actual)}, not ${expected}`,
    fix,
  });
  switch (schema.type) {
    case 'object':
      return isPlain(value) ? null : wrong('an object', `write fields below it${fieldList(schema)}`);
    case 'array':
      return Array.isArray(value) ? null : wrong('a list', 'write [..] or one "- " line per entry');
    case 'string':
      return typeof value === 'string'
        ? null
        : wrong('text', value === null ? 'give it a value or remove it' : `write it in quotes: "${show(value)}"`);
    case 'boolean':
      return typeof value === 'boolean' ? null : wrong('true or false', 'write true or false, without quotes');
    case 'integer':
      return Number.isSafeInteger(value) ? null : wrong('a whole number', 'write a whole number, without quotes');
    case 'intOrString':
      return typeof value === 'string' || Number.isSafeInteger(value)
        ? null
        : wrong('a quantity', 'write it in quotes');
  }
}

function article(actual: string): string {
  if (actual === 'string') return 'text';
  return actual === 'number' ? 'a number' : actual === 'boolean' ? 'a truth value' : actual;
}

function fieldList(schema: SchemaNode): string {
  return schema.properties.size === 0 ? '' : `: ${[...schema.properties.keys()].join(', ')}`;
}

function walkObject(schema: SchemaNode, value: Plain, path: Path, out: Finding[]): unknown {
  const result: Record<string, unknown> = Object.create(null);
  for (const [name, child] of Object.entries(value)) {
    const property = schema.properties.get(name) ?? schema.additional;
    if (property === null) out.push(unknownField(schema, [...path, name]));
    // As the API server does: null where there is a default (or nothing is required) counts as absent.
    else if (child === null && !schema.required.includes(name)) continue;
    else result[name] = walk(property, child, [...path, name], out);
  }
  for (const name of schema.required) {
    if (Object.hasOwn(value, name)) continue;
    const what = schema.properties.get(name)?.description ?? '';
    out.push({ path, problem: `field ${name} is missing`, fix: `add ${name}${what === '' ? '' : `: ${what}`}` });
  }
  for (const [name, property] of schema.properties) {
    if (name in result || (Object.hasOwn(value, name) && value[name] !== null)) continue;
    if (property.defaultValue !== undefined)
      result[name] = walk(property, structuredClone(property.defaultValue), [...path, name], out);
  }
  const count = Object.keys(value).length;
  if (schema.maxProperties !== null && count > schema.maxProperties) {
    out.push({ path, problem: `${count} entries are too many`, fix: `keep at most ${schema.maxProperties}` });
  }
  return result;
}

function unknownField(schema: SchemaNode, path: Path): Finding {
  const name = String(path.at(-1));
  const known = [...schema.properties.keys()];
  const close = closest(name, known);
  const fix = close
    ? `did you mean ${close}?`
    : known.length === 0
      ? 'remove it'
      : `remove it; known here: ${known.join(', ')}`;
  return { path, atKey: true, problem: `unknown field ${name}`, fix };
}

function walkArray(schema: SchemaNode, value: readonly unknown[], path: Path, out: Finding[]): unknown {
  if (schema.maxItems !== null && value.length > schema.maxItems) {
    out.push({ path, problem: `${value.length} entries are too many`, fix: `keep at most ${schema.maxItems}` });
    return value;
  }
  if (schema.minItems !== null && value.length < schema.minItems) {
    out.push({ path, problem: 'the list is too short', fix: `write at least ${schema.minItems} of them` });
  }
  const { items } = schema;
  const result = items === null ? value : value.map((entry, index) => walk(items, entry, [...path, index], out));
  reportDuplicates(schema, result, path, out);
  return result;
}

function reportDuplicates(schema: SchemaNode, value: readonly unknown[], path: Path, out: Finding[]): void {
  if (schema.mapKeys.length === 0 && !schema.isSet) return;
  const seen = new Map<string, number>();
  for (const [index, entry] of value.entries()) {
    const key = schema.isSet ? entry : schema.mapKeys.map((name) => (isPlain(entry) ? entry[name] : undefined));
    const text = JSON.stringify(key);
    const first = seen.get(text);
    const steps: PathStep[] = [...path, index];
    const label = schema.isSet
      ? show(entry)
      : `${schema.mapKeys.join(', ')} ${(Array.isArray(key) ? key : [key]).map(show).join(', ')}`;
    if (first === undefined) seen.set(text, index);
    else
      out.push({
        path: steps,
        problem: `duplicate ${label}, entry ${first} has it too`,
        fix: schema.isSet ? 'remove one of them' : `give each entry a ${schema.mapKeys.join(' and ')} of its own`,
      });
  }
}

function checkString(schema: SchemaNode, value: string, path: Path, out: Finding[]): void {
  const length = [...value].length;
  if (schema.maxLength !== null && length > schema.maxLength) {
    out.push({ path, problem: `${length} characters are too many`, fix: `keep it within ${schema.maxLength}` });
  }
  if (schema.minLength !== null && length < schema.minLength) {
    out.push({ path, problem: `${show(value)} is too short`, fix: `write at least ${schema.minLength} character(s)` });
  }
  if (schema.pattern !== null && !new RegExp(schema.pattern, 'u').test(value)) {
    out.push({
      path,
      problem: `${show(value)} does not match ${schema.pattern}`,
      fix: schema.description === '' ? 'write it in that form' : schema.description,
    });
  }
  if (schema.format === 'date-time' && !isDateTime(value)) {
    out.push({ path, problem: `${show(value)} is no RFC 3339 time`, fix: 'write it like 2026-01-31T12:00:00Z' });
  }
}

function checkNumber(schema: SchemaNode, value: number, path: Path, out: Finding[]): void {
  const { minimum, maximum } = schema;
  const low = minimum !== null && value < minimum;
  const high = maximum !== null && value > maximum;
  if (!low && !high) return;
  const range =
    maximum === null
      ? `${minimum} or more`
      : minimum === null
        ? `at most ${maximum}`
        : `between ${minimum} and ${maximum}`;
  out.push({ path, problem: `${value} is out of range`, fix: `write a number ${range}` });
}

export function show(value: unknown): string {
  const text = JSON.stringify(value) ?? 'nothing';
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

/** The known word nearest to a misspelt one: same letters in another case, or at most two edits. */
export function closest(word: string, known: readonly string[]): string | null {
  let best: { readonly name: string; readonly distance: number } | null = null;
  for (const name of known) {
    const distance = editDistance(word.toLowerCase(), name.toLowerCase());
    if (distance <= Math.min(2, Math.floor(name.length / 3)) && (best === null || distance < best.distance))
      best = { name, distance };
  }
  return best?.name ?? null;
}

function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i += 1) {
    const row = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const replace = (previous[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(replace, (previous[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1));
    }
    previous = row;
  }
  return previous[b.length] ?? 0;
}
