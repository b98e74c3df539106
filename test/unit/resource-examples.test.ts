/** Every example is valid; every invalid one gives the message its first line promises, with a line and a fix. */
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { createReader, loadResources, parseResources } from '../../operator/resource/load.ts';
import { renderProblem } from '../../operator/resource/problem.ts';

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
