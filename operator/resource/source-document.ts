/**
 * YAML documents with their lines. Owns: reading multi-document YAML (JSON is YAML too) and finding the line of a path.
 * Promise: syntax errors and repeated keys are problems with a line, never exceptions. PURE.
 */
import { type Document, isAlias, isMap, isScalar, isSeq, LineCounter, type Node, parseAllDocuments } from 'yaml';
import type { Path, Problem } from './problem.ts';
import { type Finding, isPlain } from './structure.ts';

export interface Source {
  readonly file: string;
  readonly text: string;
}

export class SourceDocument {
  readonly file: string;
  readonly label: string;
  readonly value: Readonly<Record<string, unknown>>;
  readonly #document: Document;
  readonly #lines: LineCounter;

  constructor(
    file: string,
    label: string,
    value: Readonly<Record<string, unknown>>,
    document: Document,
    lines: LineCounter,
  ) {
    this.file = file;
    this.label = label;
    this.value = value;
    this.#document = document;
    this.#lines = lines;
  }

  /** Line of the deepest part of `path` that is written in the file; defaults point at their parent. */
  lineOf(path: Path, atKey = false): number {
    let node: unknown = this.#document.contents;
    let offset = startOf(node);
    for (const [index, step] of path.entries()) {
      const here = isAlias(node) ? node.resolve(this.#document) : node;
      const last = index === path.length - 1;
      if (isMap(here) && typeof step === 'string') {
        const pair = here.items.find((item) => (isScalar(item.key) ? String(item.key.value) : null) === step);
        if (pair === undefined) break;
        const inline = isScalar(pair.value) && pair.value.value !== null;
        offset = last && !atKey && inline ? startOf(pair.value) : startOf(pair.key);
        node = pair.value;
      } else if (isSeq(here) && typeof step === 'number') {
        node = here.items[step];
        if (node === undefined) break;
        offset = startOf(node);
      } else break;
    }
    return this.#lines.linePos(offset).line;
  }

  problem(finding: Finding, formatPath: (path: Path) => string): Problem {
    return {
      file: this.file,
      line: this.lineOf(finding.path, finding.atKey),
      document: this.label,
      path: formatPath(finding.path),
      problem: finding.problem,
      fix: finding.fix,
    };
  }
}

function startOf(node: unknown): number {
  return (node as Node | null | undefined)?.range?.[0] ?? 0;
}

export interface ReadYaml {
  readonly documents: readonly SourceDocument[];
  readonly problems: readonly Problem[];
}

export function readYaml(source: Source): ReadYaml {
  const lines = new LineCounter();
  const parsed = parsedOf(source.text, lines);
  const documents: SourceDocument[] = [];
  const problems: Problem[] = [];
  if (parsed === null) {
    const line = lines.linePos(Math.max(0, lines.lineStarts.at(-1) ?? 0)).line;
    const problem = 'not YAML: what begins about here never ends for the reader';
    const fix = 'look for a bracket, a quote or an indentation that is not closed';
    return { documents, problems: [{ file: source.file, line, document: 'document 1', path: '', problem, fix }] };
  }
  for (const [index, document] of parsed.entries()) {
    const unnamed = `document ${index + 1}`;
    if (document.errors.length > 0) {
      // The first one only: what comes after it is mostly its consequence.
      for (const error of document.errors.slice(0, 1)) {
        const at = { file: source.file, line: lines.linePos(error.pos[0]).line, document: unnamed, path: '' };
        problems.push({ ...at, problem: `not YAML: ${error.message}`, fix: 'correct the syntax at this line' });
      }
      continue;
    }
    if (document.contents === null) continue;
    const at = { file: source.file, line: lines.linePos(startOf(document.contents)).line, document: unnamed, path: '' };
    const value = toValue(document);
    if (!isPlain(value))
      problems.push({ ...at, problem: 'not a resource', fix: 'write apiVersion, kind, metadata and spec' });
    else documents.push(new SourceDocument(source.file, labelOf(value, unnamed), value, document, lines));
  }
  return { documents, problems };
}

/** Null for one of the broken texts at which the library calls itself until the stack is full (found by fuzzing), and for what is nested that deeply. */
function parsedOf(text: string, lineCounter: LineCounter): readonly Document[] | null {
  try {
    const parsed = parseAllDocuments(text, { lineCounter, prettyErrors: false });
    return Array.isArray(parsed) ? parsed : [];
  } catch (error) {
    if (error instanceof RangeError) return null;
    throw error;
  }
}

/** Null when aliases expand without end (the library counts them and throws). */
function toValue(document: Document): unknown {
  try {
    return document.toJS({ maxAliasCount: 100 });
  } catch (error) {
    if (error instanceof ReferenceError) return null;
    throw error;
  }
}

function labelOf(value: Readonly<Record<string, unknown>>, unnamed: string): string {
  const name = isPlain(value.metadata) ? value.metadata.name : undefined;
  if (typeof value.kind !== 'string') return unnamed;
  return typeof name === 'string' ? `${value.kind}/${name}` : `${value.kind} (${unnamed})`;
}
