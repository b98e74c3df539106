/**
 * Every example is valid, also those in the documents; every invalid one gives the message its first line promises, with a line and a fix. In a document a
 * block of YAML is resources, or says in its first line what it is a part of: values of a chart, or fields of a MailCluster.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Ajv } from 'ajv';
import { describe, expect, it } from 'vitest';
import { parse, parseAllDocuments } from 'yaml';
import { createReader, loadResources, parseResources } from '../../operator/resource/load.ts';
import { renderProblem } from '../../operator/resource/problem.ts';
import { codeOf, firstColumn, valuesSet, yamlBlocks } from '../house/documents.ts';
import { listFiles, readText } from '../house/sources.ts';

const EXAMPLES = fileURLToPath(new URL('../../examples/', import.meta.url));
const INVALID = `${EXAMPLES}invalid/`;
const yamlFiles = (directory: string): readonly string[] =>
  readdirSync(directory).filter((name) => name.endsWith('.yaml'));
const reader = createReader();

describe('examples', () => {
  it.each(yamlFiles(EXAMPLES))('%s is valid', (name) => {
    const text = readFileSync(EXAMPLES + name, 'utf8');
    const loaded = parseResources([{ file: name, text }], reader, { missingReferences: 'note' });
    expect(loaded.ok ? [] : loaded.problems).toEqual([]);
  });

  it('are valid together, and two-site-dag and no-dag need nothing else to run', () => {
    expect(loadResources([EXAMPLES], { missingReferences: 'note' }).ok).toBe(true);
    const runnable = loadResources([`${EXAMPLES}two-site-dag.yaml`, `${EXAMPLES}no-dag.yaml`]);
    expect(runnable.ok ? runnable.notes : runnable.problems).toEqual([]);
  });
});

describe('invalid examples', () => {
  it('are at least twenty', () => expect(yamlFiles(INVALID).length).toBeGreaterThanOrEqual(20));

  it.each(yamlFiles(INVALID))('%s says what is wrong and where', (name) => {
    const text = readFileSync(INVALID + name, 'utf8');
    const expected = /^# expect: (.+)\n/.exec(text)?.[1];
    expect(expected).toBeDefined();
    const loaded = parseResources([{ file: name, text }], reader);
    expect(loaded.ok).toBe(false);
    if (loaded.ok) return;
    const [problem, ...rest] = loaded.problems;
    expect(problem?.problem).toContain(expected);
    // One mistake, one problem: nothing follows from it.
    expect(rest.map(renderProblem)).toEqual([]);
    expect(problem?.line).toBeGreaterThan(1);
    expect(problem?.line).toBeLessThanOrEqual(text.split('\n').length);
    expect(problem?.fix).not.toBe('');
  });
});

type Json = Readonly<Record<string, unknown>>;
interface SchemaOfValues {
  readonly properties?: Readonly<Record<string, SchemaOfValues>>;
  readonly additionalProperties?: unknown;
}

const schemaOf = (chart: string): SchemaOfValues & Json =>
  JSON.parse(readText(`charts/${chart}/values.schema.json`)) as SchemaOfValues & Json;

/** Of a file that is merged over another, as Helm and a merge patch do. */
function merged(base: unknown, over: unknown): unknown {
  const isObject = (value: unknown): value is Json =>
    typeof value === 'object' && value !== null && !Array.isArray(value);
  if (!isObject(base) || !isObject(over)) return over;
  return {
    ...base,
    ...Object.fromEntries(Object.entries(over).map(([key, value]) => [key, merged(base[key], value)])),
  };
}

/** Over the values that the chart has by itself. */
function problemsOfValues(chart: string, values: unknown): readonly string[] {
  const validate = new Ajv({ allErrors: true, strict: false }).compile(schemaOf(chart));
  const all = merged(parse(readText(`charts/${chart}/values.yaml`)), values);
  return validate(all) ? [] : (validate.errors ?? []).map(({ instancePath, message }) => `${instancePath} ${message}`);
}

function problemsOfResources(file: string, text: string): readonly string[] {
  const loaded = parseResources([{ file, text }], reader, { missingReferences: 'note' });
  return loaded.ok ? [] : loaded.problems.map(renderProblem);
}

/** Fields of the MailCluster of the first example. */
function problemsOfPart(file: string, part: unknown): readonly string[] {
  const example = parseAllDocuments(readFileSync(`${EXAMPLES}two-site-dag.yaml`, 'utf8')).map(
    (one) => one.toJS() as Json,
  );
  const whole = example.map((one) => (one.kind === 'MailCluster' ? merged(one, part) : one));
  return problemsOfResources(file, whole.map((one) => JSON.stringify(one)).join('\n---\n'));
}

function problemsOfBlock(path: string, text: string): readonly string[] {
  const [, chart] = /^# Values of (mailcluster(?:-operator)?)\n/.exec(text) ?? [];
  if (chart !== undefined) return problemsOfValues(chart, parse(text));
  if (text.startsWith('# Into the MailCluster\n')) return problemsOfPart(path, parse(text));
  // Alone it says nothing about a cluster; with the first example it does.
  const kinds = parseAllDocuments(text).map((one) => (one.toJS() as Json).kind);
  const around = kinds.includes('MailCluster') ? '' : `${readFileSync(`${EXAMPLES}two-site-dag.yaml`, 'utf8')}\n---\n`;
  return problemsOfResources(path, around + text);
}

/** Names lead to a property of the schema; below one that is open everything may be. */
function leads(names: readonly string[], { properties, additionalProperties }: SchemaOfValues): boolean {
  const [first, ...rest] = names;
  if (first === undefined) return true;
  const child = properties?.[first];
  return child === undefined ? additionalProperties !== false : leads(rest, child);
}

const isValueOf = (chart: string, path: string): boolean =>
  leads(
    // A dot behind a backslash belongs to the name.
    path.split(/(?<!\\)\./).map((name) => name.replaceAll('\\.', '.')),
    schemaOf(chart),
  );

describe('documents', () => {
  const texts = listFiles()
    .filter((path) => path.endsWith('.md'))
    .map((path) => [path, readText(path)] as const);

  it('have YAML that the product takes: resources, values of the charts, parts of a MailCluster', () => {
    const blocks = texts.flatMap(([path, text]) => yamlBlocks(text).map((block) => [path, block] as const));
    expect(blocks.length).toBeGreaterThan(5);
    const wrong = blocks.flatMap(([path, block]) =>
      problemsOfBlock(path, block).map((problem) => `${path}: ${problem}`),
    );
    expect(wrong).toEqual([]);
  });

  it('name values of the chart of the operator that there are', () => {
    const chart = 'mailcluster-operator';
    const named = texts.flatMap(([path, text]) =>
      [...valuesSet(codeOf(text)), ...firstColumn(`value of ${chart}`, text)].map((value) => ({ path, value })),
    );
    expect(named.length).toBeGreaterThan(20);
    expect(named.filter(({ value }) => !isValueOf(chart, value))).toEqual([]);
  });

  it('a wrong value, field or part in a document would be found', () => {
    expect(problemsOfBlock('x.md', '# Values of mailcluster-operator\nreplica: 2\n')).not.toEqual([]);
    expect(problemsOfBlock('x.md', '# Into the MailCluster\nspec: { redis: { mode: External } }\n')).not.toEqual([]);
    expect(problemsOfBlock('x.md', 'kind: Unknown\n')).not.toEqual([]);
    expect(isValueOf('mailcluster-operator', 'image.tags')).toBe(false);
  });
});
