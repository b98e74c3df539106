/**
 * The model stage without its models: what counts as a proof and as a bug that was found, and that the list of cases, the headers of the models and the code they
 * name agree. Owns nothing.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { CASES, type ModelCase } from '../model/cases.ts';
import { judge } from '../model/verdict.ts';

const MODELS = join(import.meta.dirname, '../model');
const RIGHT: ModelCase = { model: 'm', bug: null, bounds: [], mebibytes: 100, says: '' };
const WRONG: ModelCase = { ...RIGHT, bug: 'BUG' };
// As spin 6.5.2 says it.
const WHOLE =
  '(Spin Version 6.5.2 -- 6 December 2019)\n\nFull statespace search for:\n\tassertion violations\t+\n\nState-vector 36 byte, depth reached 138, errors: 0\n   507441 states, stored\n';
const VIOLATED =
  'pan:1: assertion violated  !((x==1)) (at depth 7)\npan: wrote m.pml.trail\n\nWarning: Search not completed\n\nState-vector 36 byte, depth reached 9, errors: 1\n       12 states, stored\n';

describe('the verdict about a model', () => {
  it('a search that met everything without an error is a proof', () => {
    expect(judge(RIGHT, { output: WHOLE, code: 0 })).toEqual({ problem: null, states: '507441' });
  });

  it.each([
    ['ran out of depth', { output: `error: max search depth too small\n${WHOLE}`, code: 0 }],
    ['ran out of memory', { output: `pan: reached -DMEMLIM bound\nWarning: Search not completed\n${WHOLE}`, code: 0 }],
    ['was ended', { output: '', code: null }],
    ['ended with another code', { output: WHOLE, code: 1 }],
    ['counted another error', { output: WHOLE.replace('errors: 0', 'errors: 1'), code: 0 }],
  ])('one that %s is not', (_, ended) => {
    expect(judge(RIGHT, ended).problem).toContain('no proof');
  });

  it('a violated assertion of the protocol as it is fails', () => {
    expect(judge(RIGHT, { output: VIOLATED, code: 0 })).toEqual({ problem: 'violated:  !((x==1))', states: '12' });
  });

  it('a bug is found by a violated assertion only', () => {
    expect(judge(WRONG, { output: VIOLATED, code: 0 }).problem).toBeNull();
    expect(judge(WRONG, { output: WHOLE, code: 0 }).problem).toContain('NOT FOUND');
    expect(judge(WRONG, { output: 'pan:1: invalid end state (at depth 25)', code: 0 }).problem).toContain('NOT FOUND');
  });
});

describe('the list of models', () => {
  const files = readdirSync(MODELS).filter((name) => name.endsWith('.pml'));

  it.each(files)('%s: every bug switch of the header is tried, and only those', (file) => {
    const text = readFileSync(join(MODELS, file), 'utf8');
    const header = text.slice(text.indexOf('Bug switches'), text.indexOf('*/'));
    const switches = [...header.matchAll(/^ \* {3}([A-Z_]+) /gm)].map(([, name]) => name);
    const tried = CASES.filter(({ model, bug }) => `${model}.pml` === file && bug !== null).map(({ bug }) => bug);
    expect(tried.toSorted()).toEqual(switches.toSorted());
    for (const name of switches) expect(text).toMatch(new RegExp(`#ifn?def ${name}\\b`));
    expect(CASES.some(({ model, bug }) => `${model}.pml` === file && bug === null)).toBe(true);
  });

  it.each(files)('%s: the code it names exists', (file) => {
    const text = readFileSync(join(MODELS, file), 'utf8');
    const code = text.slice(text.indexOf('Code, in'), text.indexOf('Bug switches'));
    const core = join(import.meta.dirname, '../../transport/core');
    const named = new Set([...code.matchAll(/([\w/-]+\.ts): ([\w, ]+)/g)].map(([, path, names]) => `${path} ${names}`));
    expect(named.size).toBeGreaterThan(0);
    for (const entry of named) {
      const [path = '', ...rest] = entry.split(' ');
      const source = readFileSync(join(path.includes('/') ? join(core, '../..') : core, path), 'utf8');
      const names = rest
        .join(' ')
        .split(',')
        .map((name) => name.trim().split(' ')[0] ?? '');
      const gone = names.filter((name) => !new RegExp(`^(export )?(function|const) ${name}\\b`, 'm').test(source));
      expect(gone, `${file} names what ${path} no longer has`).toEqual([]);
    }
  });
});
