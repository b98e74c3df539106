/**
 * What is wrong with a resource file, and how a person is told. Owns: the words and their layout, the same for `validate`
 * and `run`. Promise: every problem names file, line, document, path, what is wrong and what to write instead.
 */
export interface Problem {
  readonly file: string;
  /** First line is 1. */
  readonly line: number;
  /** `Kind/name`, or `document 2` when it has none. */
  readonly document: string;
  /** `spec.dags[0].members[1].site`; empty for the document as a whole. */
  readonly path: string;
  readonly problem: string;
  readonly fix: string;
}

export type PathStep = string | number;
export type Path = readonly PathStep[];

/** `['spec', 'dags', 0, 'a.b/c']` reads `spec.dags[0]["a.b/c"]`. */
export function formatPath(path: Path): string {
  let text = '';
  for (const step of path) {
    if (typeof step === 'number') text += `[${step}]`;
    else if (/^[A-Za-z_][\w-]*$/.test(step)) text += text === '' ? step : `.${step}`;
    else text += `[${JSON.stringify(step)}]`;
  }
  return text;
}

export function renderProblem(problem: Problem): string {
  const where = problem.path === '' ? problem.document : `${problem.document}  ${problem.path}`;
  return [`${problem.file}:${problem.line}: ${where}`, `  wrong: ${problem.problem}`, `  right: ${problem.fix}`].join(
    '\n',
  );
}

export function renderProblems(problems: readonly Problem[]): string {
  const count = problems.length === 1 ? '1 problem' : `${problems.length} problems`;
  return `${problems.map(renderProblem).join('\n\n')}\n\n${count}; nothing was started or changed.\n`;
}
