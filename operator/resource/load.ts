/**
 * Files to resources: the one loader of `mailcluster run`, `mailcluster validate` and, later, the chart tests. Owns: finding
 * files, joining the documents of all of them, duplicates, and the checks over several objects. Promise: either every resource
 * is valid and defaulted, or all problems, each with file and line. Reads files synchronously at start; nothing else.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { dkimKeyProblem } from '../../common/dkim-key.ts';
import { createCelRules } from './cel.ts';
import { crossCheck, type Located } from './cross-check.ts';
import type { MailboxDatabase, MailCluster, ResubmitRequest, TransportOrder } from './generated.ts';
import { type ConfigMap, parseDocument, type Reader, type Resource, type Secret } from './parse.ts';
import { formatPath, type Problem } from './problem.ts';
import { loadSchemas } from './schema.ts';
import { readYaml, type Source, type SourceDocument } from './source-document.ts';

export interface LoadOptions {
  /** What a reference to a Secret or ConfigMap that is in none of the files is; default `error`. */
  readonly missingReferences?: 'error' | 'note';
  /** Text of the file named `-`. */
  readonly readStdin?: () => string;
}

export interface LoadedResources {
  readonly ok: true;
  readonly clusters: readonly MailCluster[];
  readonly databases: readonly MailboxDatabase[];
  readonly resubmitRequests: readonly ResubmitRequest[];
  readonly transportOrders: readonly TransportOrder[];
  readonly secrets: readonly Secret[];
  readonly configMaps: readonly ConfigMap[];
  /** Worth saying, not an error. */
  readonly notes: readonly Problem[];
}

export type LoadResult = LoadedResources | { readonly ok: false; readonly problems: readonly Problem[] };

export function createReader(): Reader {
  return { schemas: loadSchemas(), rules: createCelRules() };
}

export function loadResources(files: readonly string[], options: LoadOptions = {}): LoadResult {
  const problems: Problem[] = [];
  const sources: Source[] = [];
  for (const file of files) readSources(file, options, sources, problems);
  if (problems.length > 0) return { ok: false, problems };
  return parseResources(sources, createReader(), options);
}

/** The same for texts that are already there. PURE given its arguments. */
export function parseResources(sources: readonly Source[], reader: Reader, options: LoadOptions = {}): LoadResult {
  const problems: Problem[] = [];
  const notes: Problem[] = [];
  const located: Located<Resource, SourceDocument>[] = [];
  for (const source of sources) {
    const read = readYaml(source);
    problems.push(...read.problems);
    for (const document of read.documents) {
      const parsed = parseDocument(document, reader);
      if (parsed.kind === 'resource') located.push({ resource: parsed.resource, document });
      else if (parsed.kind === 'invalid')
        problems.push(...parsed.findings.map((finding) => document.problem(finding, formatPath)));
      else notes.push(document.problem({ path: [], problem: 'left out', fix: parsed.why }, formatPath));
    }
  }
  if (problems.length === 0 && located.length === 0) {
    const file = sources.map((source) => source.file).join(', ') || '(no file)';
    problems.push({
      file,
      line: 1,
      document: 'no document',
      path: '',
      problem: 'there is no resource',
      fix: 'name files with a MailCluster',
    });
  }
  problems.push(...duplicateObjects(located));
  // Objects that refer to a broken one would only repeat its problem.
  if (problems.length > 0) return { ok: false, problems };
  const crossed = crossCheck(located, options.missingReferences ?? 'error', dkimKeyProblem);
  if (crossed.problems.length > 0) return { ok: false, problems: crossed.problems };
  const resources = located.map((entry) => entry.resource);
  return {
    ok: true,
    clusters: resources.filter((entry) => entry.kind === 'MailCluster'),
    databases: resources.filter((entry) => entry.kind === 'MailboxDatabase'),
    resubmitRequests: resources.filter((entry) => entry.kind === 'ResubmitRequest'),
    transportOrders: resources.filter((entry) => entry.kind === 'TransportOrder'),
    secrets: resources.filter((entry) => entry.kind === 'Secret'),
    configMaps: resources.filter((entry) => entry.kind === 'ConfigMap'),
    notes: [...notes, ...crossed.notes],
  };
}

function duplicateObjects(located: readonly Located<Resource, SourceDocument>[]): readonly Problem[] {
  const seen = new Map<string, Located<Resource, SourceDocument>>();
  const problems: Problem[] = [];
  for (const entry of located) {
    const { kind, metadata } = entry.resource;
    const key = `${kind}/${metadata.namespace}/${metadata.name}`;
    const first = seen.get(key);
    if (first === undefined) {
      seen.set(key, entry);
      continue;
    }
    const where = `${first.document.file}:${first.document.lineOf([])}`;
    const finding = {
      path: ['metadata', 'name'],
      problem: `${kind} ${metadata.name} is defined twice, first in ${where}`,
      fix: 'remove one of them or rename it',
    };
    problems.push(entry.document.problem(finding, formatPath));
  }
  return problems;
}

function readSources(file: string, options: LoadOptions, sources: Source[], problems: Problem[]): void {
  const fail = (problem: string, fix: string): void => {
    problems.push({ file, line: 1, document: 'file', path: '', problem, fix });
  };
  if (file === '-') {
    sources.push({ file: '(stdin)', text: options.readStdin?.() ?? '' });
    return;
  }
  try {
    if (!statSync(file).isDirectory()) {
      sources.push({ file, text: readFileSync(file, 'utf8') });
      return;
    }
    const names = readdirSync(file)
      .filter((name) => /\.(ya?ml|json)$/.test(name))
      .sort();
    if (names.length === 0) fail('the directory holds no .yaml, .yml or .json file', 'name a directory with resources');
    for (const name of names) sources.push({ file: join(file, name), text: readFileSync(join(file, name), 'utf8') });
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : 'error';
    if (!(error instanceof Error)) throw error;
    fail(
      code === 'ENOENT' ? 'there is no such file' : `cannot be read (${code})`,
      'name a file or a directory that can be read',
    );
  }
}
