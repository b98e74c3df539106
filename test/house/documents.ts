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
  /** `title` null: the whole file is the evidence (a dialog or scenario script). */
  readonly tests: readonly { readonly path: string; readonly title: string | null }[];
}

/** Rows `| R1 | promise | `path` "title"; `path` |` of the table in docs/guarantees.md. */
export function shownBy(markdown: string): readonly ShownBy[] {
  return [...markdown.matchAll(/^\| ([RSDN]\d+) \|(?:[^|]*)\|([^|]*)\|$/gm)].map((found) => ({
    name: found[1] ?? '',
    tests: [...(found[2] ?? '').matchAll(/`([^`]+)`(?:\s+"([^"]+)")?/g)].map((test) => ({
      path: test[1] ?? '',
      title: test[2] ?? null,
    })),
  }));
}
