/**
 * The tree as `test/tidy.test.ts` sees it: which files exist, and per TypeScript file the facts its rules ask for, read from the
 * compiler's syntax tree (no types, no execution). Refuses nothing: judging is the business of the rules.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import ts from 'typescript';

export const ROOT = join(import.meta.dirname, '../..');

/** What git ignores (.gitignore) and what git itself owns. */
const IGNORED = new Set(['node_modules', '.git', '.state', 'coverage']);

export interface Import {
  /** As written. */
  readonly specifier: string;
  /** Path of the file inside the repository, or null for a package or `node:` module. */
  readonly path: string | null;
  readonly typeOnly: boolean;
  /** Names imported as values. */
  readonly names: readonly string[];
  readonly line: number;
}

export interface Use {
  readonly what: string;
  readonly line: number;
}

export interface Source {
  readonly path: string;
  readonly text: string;
  readonly lines: number;
  readonly imports: readonly Import[];
  readonly defaultExport: number | null;
  /** Line of the first re-export when the file does nothing but re-export. */
  readonly barrel: boolean;
  /** Statements at the top level that do something on import. */
  readonly effects: readonly Use[];
  /** Mutable bindings and containers at the top level. */
  readonly mutableState: readonly Use[];
  /** Clock, randomness, timers reached directly instead of through a port. */
  readonly escapes: readonly Use[];
  readonly longFunctions: readonly Use[];
  /** A promise that only a timer resolves. */
  readonly sleeps: readonly Use[];
  /** `it.skip`, `describe.only`, ... */
  readonly switches: readonly Use[];
}

export function listFiles(directory = ROOT): string[] {
  return readdirSync(directory, { withFileTypes: true })
    .filter((entry) => !IGNORED.has(entry.name) && !entry.name.endsWith('.log'))
    .flatMap((entry) => {
      const path = join(directory, entry.name);
      return entry.isDirectory() ? listFiles(path) : [relative(ROOT, path)];
    })
    .sort();
}

export const readText = (path: string): string => readFileSync(join(ROOT, path), 'utf8');

export function readSource(path: string, text = readText(path)): Source {
  const file = ts.createSourceFile(path, text, ts.ScriptTarget.ESNext, true, ts.ScriptKind.TS);
  const line = (node: ts.Node): number => file.getLineAndCharacterOfPosition(node.getStart(file)).line + 1;
  const nodes = allNodes(file);
  const use = (what: string, node: ts.Node): Use => ({ what, line: line(node) });
  return {
    path,
    text,
    lines: text.split('\n').length - 1,
    imports: nodes.flatMap((node) => importOf(node, path, line)),
    defaultExport: nodes.filter(isDefaultExport).map(line)[0] ?? null,
    barrel: isBarrel(file),
    effects: file.statements.filter(hasEffect).map((node) => use(node.getText(file).split('\n')[0] ?? '', node)),
    mutableState: file.statements.flatMap((node) => mutable(node).map((what) => use(what, node))),
    escapes: nodes.flatMap((node) => directUse(node).map((what) => use(what, node))),
    longFunctions: nodes.flatMap((node) => longFunction(node, file).map((what) => use(what, node))),
    sleeps: nodes.filter(isSleep).map((node) => use(node.getText(file), node)),
    switches: nodes.flatMap((node) => testSwitch(node).map((what) => use(what, node))),
  };
}

function allNodes(file: ts.SourceFile): ts.Node[] {
  const found: ts.Node[] = [];
  const visit = (node: ts.Node): void => {
    found.push(node);
    ts.forEachChild(node, visit);
  };
  ts.forEachChild(file, visit);
  return found;
}

function importOf(node: ts.Node, from: string, line: (node: ts.Node) => number): Import[] {
  const make = (specifier: string, typeOnly: boolean, names: readonly string[]): Import[] => [
    {
      specifier,
      path: specifier.startsWith('.') ? normalize(join(dirname(from), specifier)) : null,
      typeOnly,
      names,
      line: line(node),
    },
  ];
  if (ts.isImportDeclaration(node) && ts.isStringLiteral(node.moduleSpecifier)) {
    const clause = node.importClause;
    const bindings = clause?.namedBindings;
    const elements = bindings && ts.isNamedImports(bindings) ? bindings.elements.filter((one) => !one.isTypeOnly) : [];
    const names = [
      ...(clause?.name ? ['default'] : []),
      ...(bindings && ts.isNamespaceImport(bindings) ? ['*'] : []),
      ...elements.map((one) => (one.propertyName ?? one.name).text),
    ];
    const typeOnly = clause !== undefined && (clause.isTypeOnly || names.length === 0);
    return make(node.moduleSpecifier.text, typeOnly, names);
  }
  if (ts.isExportDeclaration(node) && node.moduleSpecifier && ts.isStringLiteral(node.moduleSpecifier)) {
    return make(node.moduleSpecifier.text, node.isTypeOnly, ['*']);
  }
  if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
    const [argument] = node.arguments;
    return make(argument && ts.isStringLiteral(argument) ? argument.text : 'computed', false, ['*']);
  }
  return [];
}

const hasModifier = (node: ts.Node, kind: ts.SyntaxKind): boolean =>
  ts.canHaveModifiers(node) && (ts.getModifiers(node) ?? []).some((modifier) => modifier.kind === kind);

function isDefaultExport(node: ts.Node): boolean {
  if (ts.isExportAssignment(node)) return true;
  if (ts.isExportSpecifier(node)) return node.name.text === 'default';
  return hasModifier(node, ts.SyntaxKind.DefaultKeyword);
}

function isBarrel(file: ts.SourceFile): boolean {
  const own = file.statements.filter((node) => !ts.isImportDeclaration(node));
  return own.length > 0 && own.every((node) => ts.isExportDeclaration(node));
}

/** Declarations only; a declaration may compute its value. */
function hasEffect(node: ts.Statement): boolean {
  return !(
    ts.isImportDeclaration(node) ||
    ts.isExportDeclaration(node) ||
    ts.isExportAssignment(node) ||
    ts.isFunctionDeclaration(node) ||
    ts.isClassDeclaration(node) ||
    ts.isInterfaceDeclaration(node) ||
    ts.isTypeAliasDeclaration(node) ||
    ts.isModuleDeclaration(node) ||
    // What runs only when the file itself is started.
    (ts.isIfStatement(node) && node.expression.getText() === 'import.meta.main') ||
    (ts.isVariableStatement(node) && !contains(node, ts.isAwaitExpression))
  );
}

function contains(node: ts.Node, test: (node: ts.Node) => boolean): boolean {
  if (ts.isFunctionLike(node)) return false;
  return test(node) || (ts.forEachChild(node, (child) => contains(child, test) || undefined) ?? false);
}

const CONTAINERS = new Set(['Map', 'Set', 'WeakMap', 'WeakSet', 'AsyncLocalStorage', 'EventEmitter']);

function mutable(node: ts.Statement): string[] {
  if (!ts.isVariableStatement(node)) return [];
  if ((node.declarationList.flags & ts.NodeFlags.Const) === 0) return [`let ${node.declarationList.getText()}`];
  return node.declarationList.declarations.flatMap((one) => {
    const made = one.initializer;
    if (!made || !ts.isNewExpression(made) || !CONTAINERS.has(made.expression.getText())) return [];
    return /^Readonly|^readonly/.test(one.type?.getText() ?? '') || isLookup(made) ? [] : [one.getText()];
  });
}

/** `new Set([...])` or `new Map([...])` from a literal: a table; `never added to` is left to the reader. */
function isLookup(made: ts.NewExpression): boolean {
  return (made.arguments?.length ?? 0) > 0;
}

const TIMERS = new Set(['setTimeout', 'setInterval']);
const CLOCKS = new Set([
  'Date.now',
  'Math.random',
  'performance.now',
  'process.hrtime',
  'process.hrtime.bigint',
  'process.uptime',
]);

function directUse(node: ts.Node): string[] {
  if (ts.isNewExpression(node) && node.expression.getText() === 'Date' && !node.arguments?.length)
    return ['new Date()'];
  if (ts.isPropertyAccessExpression(node) && CLOCKS.has(node.getText())) return [node.getText()];
  if (!ts.isCallExpression(node)) return [];
  const name = node.expression.getText().replace(/^globalThis\./, '');
  return TIMERS.has(name) ? [name] : [];
}

const MAX_FUNCTION_LINES = 70;

function longFunction(node: ts.Node, file: ts.SourceFile): string[] {
  if (!ts.isFunctionLike(node) || !('body' in node) || node.body === undefined) return [];
  const at = (position: number): number => file.getLineAndCharacterOfPosition(position).line;
  const length = at(node.getEnd()) - at(node.getStart(file)) + 1;
  const name = node.name?.getText(file) ?? 'anonymous function';
  return length > MAX_FUNCTION_LINES ? [`${name}: ${length} lines`] : [];
}

/** `setTimeout(resolve, ms)` or `setTimeout(() => resolve(), ms)` inside `new Promise(resolve => ...)`. */
function isSleep(node: ts.Node): boolean {
  if (!ts.isCallExpression(node) || !/^(globalThis\.)?setTimeout$/.test(node.expression.getText())) return false;
  const executor = promiseExecutor(node);
  const resolver = executor?.parameters[0]?.name.getText();
  const [callback] = node.arguments;
  if (executor === null || resolver === undefined || callback === undefined) return false;
  const body = ts.isArrowFunction(callback) ? callback.body.getText() : callback.getText();
  if (body !== resolver && body !== `${resolver}()`) return false;
  // Somebody else may resolve it too: then the timer is a deadline.
  const uses = new RegExp(`\\b${resolver}\\b`, 'g');
  return (executor.body.getText().match(uses) ?? []).length === (callback.getText().match(uses) ?? []).length;
}

function promiseExecutor(node: ts.Node): ts.ArrowFunction | null {
  for (let up = node.parent; up; up = up.parent) {
    if (!ts.isNewExpression(up) || up.expression.getText() !== 'Promise') continue;
    const [executor] = up.arguments ?? [];
    return executor && ts.isArrowFunction(executor) ? executor : null;
  }
  return null;
}

function testSwitch(node: ts.Node): string[] {
  if (!ts.isPropertyAccessExpression(node)) return [];
  const found = /^(it|test|describe)\b.*\.(skip|only|todo|fails|skipIf|runIf)$/s.exec(node.getText());
  return found ? [`${found[1]}.${found[2]}`] : [];
}
