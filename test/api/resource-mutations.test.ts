/**
 * The same contract by force: every field of our kinds, broken in every way its schema suggests, one at a time. Our validator and the API
 * server must agree about each, on the defaults of what is accepted, and on the words of what a rule refuses.
 */
import { describe, expect, it } from 'vitest';
import { createReader, parseResources } from '../../operator/resource/load.ts';
import type { SchemaNode } from '../../operator/resource/schema.ts';
import { loadSchemas } from '../../operator/resource/schema.ts';
import type { KubeObject } from '../cluster/kube-client.ts';
import { BASES } from './mutation-bases.ts';
import { ownNamespace, sharedAccess } from './rig.ts';

const api = sharedAccess();
const reader = createReader();
const IN_FLIGHT = 8;

type Steps = readonly (string | number)[];

interface Mutation {
  readonly what: string;
  readonly spec: unknown;
}

const TEXTS = [
  '',
  ' ',
  'x',
  'UPPER.Example',
  'under_score',
  '10',
  '0',
  '-1',
  '10d',
  '0s',
  '1s',
  '90m',
  '1h30m',
  '1.5h',
  '999999h',
  '5 m',
];
const MORE_TEXTS = [
  '1Ki',
  '35Mi',
  '1Gi',
  '64Ti',
  '65Ti',
  '0.5Gi',
  '1e3',
  '10.0.0.0/8',
  '10.0.0.0/33',
  '0.0.0.0/0',
  '::/0',
  '*',
  '*.a.b',
  'a.b:25',
];
const TIMES = [
  '2026-01-02T03:04:05Z',
  '2026-01-02',
  '2026-01-02T03:04:05+01:00',
  '2026-02-30T00:00:00Z',
  '2026-01-02T24:00:00Z',
  '2026-01-02T03:04:60Z',
];

/** Long lists only where something is read out of the text. */
const textsFor = ({ rules, format, pattern }: SchemaNode): readonly string[] => [
  ...(rules.length > 0 || pattern !== null ? [...TEXTS, ...MORE_TEXTS] : ['', ' ', 'x', 'UPPER.Example']),
  ...(format === null ? [] : TIMES),
];

function valuesFor(schema: SchemaNode, present: unknown): readonly unknown[] {
  const long = schema.maxLength === null ? [] : ['a'.repeat(schema.maxLength), 'a'.repeat(schema.maxLength + 1)];
  switch (schema.type) {
    case 'string':
    case 'intOrString':
      return [...(schema.enumeration ?? []), ...textsFor(schema), ...long, 5, true, [], {}];
    case 'integer': {
      const bounds = [schema.minimum, schema.maximum].filter((bound) => bound !== null);
      return [...bounds.flatMap((bound) => [bound - 1, bound, bound + 1]), 0, -1, 1.5, '5', true, [], {}];
    }
    case 'boolean':
      return [true, false, 'true', 0, {}];
    case 'array': {
      const list = Array.isArray(present) ? present : [];
      return [[], {}, 'x', ...(list.length > 0 ? [[...list, list[0]], list.slice(0, -1)] : []), [{}], ['x'], [5]];
    }
    case 'object':
      return [{}, [], 'x', 5];
  }
}

/** Every place of a value (defaults filled in) which the schema knows, with what stands there (undefined: nothing). */
function* places(schema: SchemaNode, value: unknown, steps: Steps): Generator<[SchemaNode, unknown, Steps]> {
  yield [schema, value, steps];
  if (Array.isArray(value) && schema.items !== null) {
    for (const [index, entry] of value.entries()) yield* places(schema.items, entry, [...steps, index]);
  } else if (typeof value === 'object' && value !== null) {
    for (const [name, child] of schema.properties) {
      yield* places(child, (value as Record<string, unknown>)[name], [...steps, name]);
    }
  }
}

function replaced(value: unknown, [step, ...rest]: Steps, by: unknown): unknown {
  if (step === undefined) return by;
  if (Array.isArray(value)) return value.map((entry, index) => (index === step ? replaced(entry, rest, by) : entry));
  const object = (value ?? {}) as Record<string, unknown>;
  const next = replaced(object[step], rest, by);
  const others = Object.entries(object).filter(([name]) => name !== step);
  return Object.fromEntries(next === undefined ? others : [...others, [step, next]]);
}

function* mutations(schema: SchemaNode, base: unknown): Generator<Mutation> {
  for (const [node, present, steps] of places(schema, base, [])) {
    const where = steps.join('.');
    for (const value of valuesFor(node, present)) {
      yield { what: `${where} = ${JSON.stringify(value).slice(0, 60)}`, spec: replaced(base, steps, value) };
    }
    if (steps.length > 0 && present !== undefined && typeof steps.at(-1) === 'string') {
      yield { what: `${where} removed`, spec: replaced(base, steps, undefined) };
    }
    if (typeof present === 'object' && present !== null && !Array.isArray(present)) {
      yield { what: `${where}.surprise`, spec: replaced(base, [...steps, 'surprise'], 1) };
    }
  }
}

function* messages(schema: SchemaNode): Generator<string> {
  for (const { message } of schema.rules) yield message;
  const children = [...schema.properties.values(), schema.items, schema.additional];
  for (const child of children) if (child !== null) yield* messages(child);
}

const RULES: ReadonlySet<string> = new Set([...loadSchemas().values()].flatMap((schema) => [...messages(schema)]));

/**
 * What no rule can judge: what needs the objects it refers to, which are not here; and what is too dear for one (64 connectors of 64 sites against 64 DAGs
 * of 64 groups of members are 16 million steps, and an API server takes no rule above 10 million; `connector-checks.ts`, `dkim-checks.ts`).
 */
const OURS_ALONE =
  /^(there is no|MailCluster \S+ has no) |^send connector \S+ is for .*, where there is no transport$|^selectors .* sign from the same moment/;

/** What is different here and there about one object; null: nothing. */
async function difference(
  create: (object: KubeObject) => Promise<{ readonly status: number; readonly body: KubeObject }>,
  object: KubeObject,
): Promise<string | null> {
  const text = JSON.stringify(object);
  const ours = parseResources([{ file: 'mutation.json', text }], reader, { missingReferences: 'note' });
  const theirs = await create(object);
  const accepted = theirs.status === 201;
  const ruled = ours.ok
    ? []
    : ours.problems.map(({ problem, fix }) => `${problem}; ${fix}`).filter((words) => RULES.has(words));
  if (!accepted && ruled.length > 0 && !ruled.some((words) => theirs.body.message.includes(words))) {
    return `other words: we say ${ruled.join(' / ')}, the API server says ${theirs.body.message}`;
  }
  const problems = ours.ok ? [] : ours.problems.filter(({ problem }) => !OURS_ALONE.test(problem));
  const allowed = problems.length === 0;
  if (accepted !== allowed) {
    const why = accepted ? problems.map(({ path, problem }) => `${path}: ${problem}`).join('; ') : theirs.body.message;
    return `${accepted ? 'only we refuse' : 'only the API server refuses'}: ${why}`;
  }
  if (!accepted || !ours.ok) return null;
  const [resource] = [...ours.clusters, ...ours.databases, ...ours.resubmitRequests, ...ours.transportOrders];
  try {
    expect(theirs.body.spec).toEqual(resource?.spec);
    return null;
  } catch (error) {
    return `defaults differ: ${(error as Error).message.slice(0, 400)}`;
  }
}

describe('every field, broken', () => {
  it.for(BASES)(
    '$kind $name: the same verdict here and there',
    { timeout: 240_000 },
    async ({ kind, spec }, context) => {
      const access = api(context);
      const namespace = await ownNamespace(access, context);
      const schema = loadSchemas().get(kind)?.properties.get('spec');
      if (schema === undefined) throw new Error(`no schema of ${kind}`);
      const object = (mutated: unknown): KubeObject => ({
        ...{ apiVersion: 'mailcluster.dev/v1alpha1', kind, metadata: { name: 'mutant', namespace }, spec: mutated },
      });
      const create = (one: KubeObject) => access.client.create(one, { dryRun: true });
      expect(await difference(create, object(spec))).toBeNull();
      const differences: string[] = [];
      const queue = [...mutations(schema, spec)];
      const total = queue.length;
      const work = async (): Promise<void> => {
        for (let one = queue.shift(); one !== undefined; one = queue.shift()) {
          const found = await difference(create, object(one.spec));
          if (found !== null) differences.push(`${one.what}: ${found}`);
        }
      };
      await Promise.all(Array.from({ length: IN_FLIGHT }, work));
      console.log(`${kind}: ${total} mutations, ${differences.length} judged differently`);
      expect(differences).toEqual([]);
    },
  );
});
