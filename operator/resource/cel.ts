/**
 * The CEL rules of the CRDs, evaluated outside Kubernetes. Owns: the environment (the functions Kubernetes adds to CEL and our
 * rules use: quantity, isCIDR, isIP), the conversion of values, and finding the entry which broke a rule over a list.
 * Promise: a rule which Kubernetes would fail fails here too; a rule which cannot be evaluated is reported, never skipped.
 * Rules over `oldSelf` need the former value and hold without it, as on creation. PURE.
 */
import { isIP } from 'node:net';
import { type ASTNode, Environment, EvaluationError, ParseError } from '@marcbachmann/cel-js';
import { assert } from '../../common/platform/assert.ts';
import type { Path, PathStep } from './problem.ts';
import { parseSize } from './quantity.ts';
import type { Rule, SchemaNode } from './schema.ts';
import { type Finding, isPlain } from './structure.ts';

class Quantity {
  readonly bytes: number;
  constructor(bytes: number) {
    this.bytes = bytes;
  }
}

/** Kubernetes' isCIDR: no zone, no IPv4-mapped IPv6, prefix without leading zeros. */
export function isCidr(text: string): boolean {
  const match = /^([0-9a-fA-F:.]+)\/(0|[1-9][0-9]{0,2})$/.exec(text);
  const address = match?.[1] ?? '';
  const version = isIP(address);
  if (version === 0 || (version === 6 && address.includes('.'))) return false;
  return Number(match?.[2]) <= (version === 4 ? 32 : 128);
}

function createEnvironment(): Environment {
  return new Environment({ unlistedVariablesAreDyn: true, homogeneousAggregateLiterals: false })
    .registerType('Quantity', { ctor: Quantity, fields: { bytes: 'double' } })
    .registerFunction('quantity(string): Quantity', (text: string) => {
      const bytes = parseSize(text);
      if (bytes === null) throw new EvaluationError(`not a quantity: ${text}`);
      return new Quantity(bytes);
    })
    .registerFunction('Quantity.compareTo(Quantity): int', (a: Quantity, b: Quantity) =>
      BigInt(Math.sign(a.bytes - b.bytes)),
    )
    .registerFunction('Quantity.add(Quantity): Quantity', (a: Quantity, b: Quantity) => new Quantity(a.bytes + b.bytes))
    .registerFunction('isCIDR(string): bool', isCidr)
    .registerFunction('isIP(string): bool', (text: string) => isIP(text) !== 0 && !text.includes('%'));
}

/** Integers of the schema are CEL ints, date-times are timestamps. */
function toCel(schema: SchemaNode, value: unknown): unknown {
  if (Array.isArray(value)) {
    const { items } = schema;
    return items === null ? value : value.map((entry) => toCel(items, entry));
  }
  if (isPlain(value)) {
    const entries = Object.entries(value).map(([name, child]) => {
      const property = schema.properties.get(name) ?? schema.additional;
      return [name, property === null ? child : toCel(property, child)] as const;
    });
    return Object.fromEntries(entries);
  }
  if (schema.format === 'date-time' && typeof value === 'string') return new Date(value);
  return typeof value === 'number' ? BigInt(value) : value;
}

type Context = Readonly<Record<string, unknown>>;
interface Bound {
  readonly context: Context;
  /** Where the value of a variable is, relative to the node of the rule. */
  readonly places: ReadonlyMap<string, Path>;
}

export interface CelRules {
  check(schema: SchemaNode, value: unknown, path: Path, old?: unknown): readonly Finding[];
}

export function createCelRules(): CelRules {
  const environment = createEnvironment();
  const evaluate = (source: string, context: Context): unknown => environment.parse(source)(context);
  return {
    check(schema, value, path, old) {
      const out: Finding[] = [];
      walk(schema, value, old, path, out, evaluate, (source) => environment.parse(source).ast);
      return out;
    },
  };
}

type Evaluate = (source: string, context: Context) => unknown;
type Parse = (source: string) => ASTNode;

function walk(
  schema: SchemaNode,
  value: unknown,
  old: unknown,
  path: Path,
  out: Finding[],
  evaluate: Evaluate,
  parse: Parse,
): void {
  const before = out.length;
  if (isPlain(value)) {
    for (const [name, child] of Object.entries(value)) {
      const property = schema.properties.get(name) ?? schema.additional;
      const former = isPlain(old) ? old[name] : undefined;
      if (property !== null) walk(property, child, former, [...path, name], out, evaluate, parse);
    }
  }
  if (Array.isArray(value) && schema.items !== null) {
    for (const [index, entry] of value.entries()) {
      walk(schema.items, entry, formerEntry(schema, entry, old), [...path, index], out, evaluate, parse);
    }
  }
  if (schema.rules.length === 0) return;
  const context: Context = {
    self: toCel(schema, value),
    ...(old === undefined ? {} : { oldSelf: toCel(schema, old) }),
  };
  for (const rule of schema.rules) {
    if (old === undefined && /\boldSelf\b/.test(rule.rule)) continue;
    // A rule over a value that has just been reported would only repeat it.
    if (out.slice(before).some((finding) => mentions(rule, finding.path, path))) continue;
    const finding = evaluateRule(rule, context, path, evaluate, parse);
    if (finding !== null) out.push(finding);
  }
}

/** Does the rule read the innermost field of `path`, below the node of the rule? */
function mentions(rule: Rule, path: Path, node: Path): boolean {
  const field = path.slice(node.length).findLast((step) => typeof step === 'string');
  return field !== undefined && /^\w+$/.test(field) && new RegExp(`\\.${field}\\b`).test(rule.rule);
}

/** Entries of a list-map are matched by key, as Kubernetes does; entries of other lists have no former value. */
function formerEntry(schema: SchemaNode, entry: unknown, old: unknown): unknown {
  if (!Array.isArray(old) || schema.mapKeys.length === 0 || !isPlain(entry)) return undefined;
  return old.find((former) => isPlain(former) && schema.mapKeys.every((key) => former[key] === entry[key]));
}

function evaluateRule(rule: Rule, context: Context, path: Path, evaluate: Evaluate, parse: Parse): Finding | null {
  const [problem = '', ...fix] = rule.message.split('; ');
  let result: unknown;
  try {
    result = evaluate(rule.rule, context);
  } catch (error) {
    const reason = error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error);
    return { path, problem: `${problem} (${reason})`, fix: fix.join('; ') };
  }
  if (result === true) return null;
  assert(result === false, 'CRD: a rule is not a truth value', { rule: rule.rule });
  const culprit = pinpoint(parse(rule.rule), { context, places: new Map([['self', []]]) }, evaluate);
  const relative = culprit ?? rule.fieldPath.split('.').filter((step) => step !== '');
  return { path: [...path, ...relative], problem, fix: fix.join('; ') };
}

/** For `... || LIST.all(v, BODY)`: the place of the first entry which breaks BODY, as deep as that goes; else null. */
function pinpoint(node: ASTNode, bound: Bound, evaluate: Evaluate): Path | null {
  // `guard || guard || consequence`: the culprit is in the last part.
  if (node.op === '||') return pinpoint(node.args[1], bound, evaluate);
  if (node.op !== 'rcall' || node.args[0] !== 'all') return null;
  const [, receiver, [variable, body]] = node.args;
  const place = placeOf(receiver, bound);
  const list = evaluate(sourceOf(receiver), bound.context);
  if (place === null || variable?.op !== 'id' || body === undefined || !Array.isArray(list)) return null;
  for (const [index, entry] of list.entries()) {
    const inner: Bound = {
      context: { ...bound.context, [variable.args]: entry },
      places: new Map([...bound.places, [variable.args, [...place, index]]]),
    };
    if (isFalse(body, inner, evaluate))
      return pinpoint(body, inner, evaluate) ?? compared(body, inner) ?? [...place, index];
  }
  return null;
}

/** In `self.sites.exists(s, s.name == m.site)` the culprit is `m.site`: a path of the innermost variable, compared with the list. */
function compared(node: ASTNode, bound: Bound): Path | null {
  if (node.op !== 'rcall' || node.args[0] !== 'exists') return null;
  const condition = node.args[2][1];
  if (condition?.op !== '==') return null;
  return placeOf(condition.args[1], bound);
}

function placeOf(node: ASTNode, bound: Bound): Path | null {
  const steps: PathStep[] = [];
  let current = node;
  while (current.op === '.') {
    steps.unshift(current.args[1]);
    current = current.args[0];
  }
  const root = current.op === 'id' ? bound.places.get(current.args) : undefined;
  return root === undefined ? null : [...root, ...steps];
}

const sourceOf = (node: ASTNode): string => node.input.slice(node.start, node.end);

/** False also when the part cannot be evaluated alone (`&&` and `||` forgive errors of the other side): then it is no culprit. */
function isFalse(node: ASTNode, bound: Bound, evaluate: Evaluate): boolean {
  try {
    return evaluate(sourceOf(node), bound.context) === false;
  } catch (error) {
    if (error instanceof EvaluationError || error instanceof ParseError) return false;
    throw error;
  }
}
