/** Reads what our Markdown claims, so that `test/tidy.test.ts` can hold it to the code. Pure; knows Markdown only as far as we use it. */

/** Everything set as code: fenced blocks and inline spans, one entry each. */
export function codeOf(markdown: string): readonly string[] {
  const fenced = [...markdown.matchAll(/^```(?!mermaid)[^\n]*\n(.*?)^```/gms)].map((found) => found[1] ?? '');
  const inline = [...markdown.replace(/^```.*?^```/gms, '').matchAll(/`([^`\n]+)`/g)].map((found) => found[1] ?? '');
  return [...fenced, ...inline];
}

/** The words which follow `command` where it starts a command line: at the start of a line or span, or after `$`, `&&`, a path. */
export function wordsAfter(command: string, code: readonly string[]): readonly string[] {
  const pattern = new RegExp(`(?:^|\\$ |&& |\\/)${command} +([a-z][a-z-]*)\\b`, 'gm');
  return code.flatMap((text) => [...text.matchAll(pattern)].map((found) => found[1] ?? ''));
}

export interface Invocation {
  /** The first word after the program, if it is no option. */
  readonly command: string | null;
  readonly options: readonly string[];
}

/** Wherever `program` is typed in code: its command and options, up to a pipe, a redirection, or the next command. */
export function invocationsOf(program: string, code: readonly string[]): readonly Invocation[] {
  const pattern = new RegExp(`(?<![\\w./-])${program} +([^|;&>)\n]*)`, 'g');
  return code.flatMap((text) =>
    [...text.matchAll(pattern)].map(([, rest = '']) => ({
      command: /^([a-z][a-z-]*)\b/.exec(rest)?.[1] ?? null,
      options: [...rest.matchAll(/(?<=^|\s)(--[a-z][a-z-]*|-[a-zA-Z])(?=$|[\s=,])/g)].map(([option]) => option),
    })),
  );
}

/** Text of every fenced block of YAML. */
export const yamlBlocks = (markdown: string): readonly string[] =>
  [...markdown.matchAll(/^```ya?ml\n(.*?)^```/gms)].map((found) => found[1] ?? '');

/** Paths that `--set` gives a value to; dots behind a backslash belong to the name. */
export const valuesSet = (code: readonly string[]): readonly string[] =>
  code.flatMap((text) =>
    [...text.matchAll(/--set(?:-string)?[ =]'?([A-Za-z][\w.\\/-]*)=/g)].map(([, path]) => path ?? ''),
  );

/** Code in the first column of the table whose first heading is that. */
export function firstColumn(heading: string, markdown: string): readonly string[] {
  const rows = markdown.split(`\n| ${heading} |`).slice(1);
  return rows.flatMap((text) => {
    const table = /^[^\n]*\n((?:\|[^\n]*\n)*)/.exec(text)?.[1] ?? '';
    return [...table.matchAll(/^\| ([^|]*) \|/gm)].flatMap(([, cell = '']) => codeOf(cell));
  });
}

export function relativeLinks(markdown: string): readonly string[] {
  return [...markdown.matchAll(/\]\(([^)\s]+)\)/g)]
    .map((found) => (found[1] ?? '').split('#')[0] ?? '')
    .filter((link) => link !== '' && !/^[a-z]+:/.test(link));
}

/** Paths of the fenced block after the heading `## Map`: first word of each line, indented lines relative to the folder above. */
export function folderMap(markdown: string): readonly string[] {
  const block = /^## Map\n.*?^```\n(.*?)^```/ms.exec(markdown)?.[1] ?? '';
  let folder = '';
  return block.split('\n').flatMap((line) => {
    const found = /^(\s*)(\S+)/.exec(line);
    if (!found) return [];
    const path = (found[2] ?? '').replace(/\/$/, '');
    if (found[1] !== '') return [`${folder}/${path}`];
    folder = path;
    return [path];
  });
}

export interface ShownBy {
  readonly name: string;
  /** `title` null: the whole file is the evidence (a dialog, a scenario, a model). */
  readonly tests: readonly NamedTest[];
  /** The cell says that a part, or all of it, is not shown yet. */
  readonly isPartly: boolean;
}

export interface NamedTest {
  readonly path: string;
  readonly title: string | null;
}

/** Rows `| R1 | promise | `path` "title"; `path` |`, also of rules (`rule 9`) and transitions (`row 18`), of docs/guarantees.md. */
export function shownBy(markdown: string): readonly ShownBy[] {
  return [...markdown.matchAll(/^\| ((?:[RSDNK]|row |rule )\d+) \|(?:[^|]*)\|([^|]*)\|$/gm)].map((found) => ({
    name: found[1] ?? '',
    tests: testsIn(found[2] ?? ''),
    isPartly: /\bnot yet: \w/.test(found[2] ?? ''),
  }));
}

const testsIn = (cell: string): readonly NamedTest[] =>
  [...cell.matchAll(/`([^`]+)`(?:\s+"([^"]+)")?/g)].map((test) => ({ path: test[1] ?? '', title: test[2] ?? null }));

export interface FaultRow {
  readonly name: string;
  /** Letters of the outcome classes. */
  readonly outcome: string;
  /** What is in backticks in the last cell: commands, or nothing when the cell says "not yet". */
  readonly commands: readonly string[];
  readonly isNotYet: boolean;
}

/** Rows `| fault | outcome | trials | `command`, `command` |` of the table under `## Fault by fault` of docs/reliability.md. */
export function faultRows(markdown: string): readonly FaultRow[] {
  const section = /^## Fault by fault\n(.*?)(?=^## )/ms.exec(markdown)?.[1] ?? '';
  const rows = [...section.matchAll(/^\| ([^|]+) \| ([^|]+) \| [^|]* \| ([^|]*) \|$/gm)];
  return rows
    .filter(([, name = '']) => name !== 'fault' && !name.startsWith('-'))
    .map(([, name = '', outcome = '', cell = '']) => ({
      name,
      outcome,
      commands: [...cell.matchAll(/`([^`]+)`/g)].map((found) => found[1] ?? ''),
      isNotYet: /\bnot yet\b/.test(cell),
    }));
}
