/**
 * The rules of the house about sources (architecture.md sections 2 and 7) as pure functions: a source in, complaints out, each with
 * file and line. `test/tidy.test.ts` applies them to the tree, `test/unit/tidy-rules.test.ts` shows that each of them can fail.
 */
import { EXCEPTIONS, type Exceptions } from './exceptions.ts';
import type { Import, Source, Use } from './sources.ts';

export const PROGRAMS = ['transport', 'frontend', 'operator'] as const;

/** Files that decide. They and everything they import (values, transitively) are pure. */
const DECIDING: readonly RegExp[] = [
  /^transport\/core\//,
  /^frontend\/(session|picker)\.ts$/,
  /^operator\/(plan|topology|status|reasons|gathered|actions)\.ts$/,
  /^operator\/(resources|checks)\//,
  /^operator\/kube\/(applied|backoff|event-book|failures|json-lines|kinds|kube-object|lease-record|object-cache|retrying)\.ts$/,
];

/** Node modules without I/O, clock or randomness; with the only names allowed where the module also has others. */
const PURE_NODE_MODULES: ReadonlyMap<string, readonly string[] | 'all'> = new Map<string, readonly string[] | 'all'>([
  ['node:buffer', 'all'],
  ['node:crypto', ['createHash']],
  ['node:net', ['isIP', 'isIPv4', 'isIPv6', 'BlockList']],
  ['node:util', ['isDeepStrictEqual']],
  ['node:zlib', ['deflateRawSync', 'inflateRawSync']],
]);

const PURE_PACKAGES = new Set(['yaml', 'ajv', 'ajv/dist/2020.js', '@marcbachmann/cel-js']);

/** Ports: even their types mean that somebody hands I/O to a file that decides. */
const PORTS = /^common\/platform\/(?!assert\.ts$|metric-catalog\.ts$)/;

/** Package -> where it may be imported. `file`: any one file matching, but only one. */
const HOMES: readonly { readonly name: string; readonly where: RegExp; readonly oneFile: boolean }[] = [
  { name: 'smtp-server', where: /^common\/smtp\//, oneFile: true },
  { name: 'pino', where: /^common\/platform\//, oneFile: true },
  { name: 'prom-client', where: /^common\/platform\//, oneFile: true },
  { name: 'dns-packet', where: /^common\/platform\/dns-exchange\.ts$/, oneFile: true },
  { name: 'ioredis', where: /^common\/platform\/redis-connection\.ts$/, oneFile: true },
  // One file of each program that uses it: programs do not import each other.
  {
    name: 'mailauth',
    where: /^(transport\/runtime\/dkim-signature|frontend\/sender-authentication)\.ts$/,
    oneFile: false,
  },
  { name: 'ws', where: /^operator\/kube\/port-forward\.ts$/, oneFile: true },
  { name: '@kubernetes/client-node', where: /^operator\/kube\//, oneFile: false },
];

const FORBIDDEN_NAMES = /^(utils?|helpers?|types?|managers?|misc|index)$/;

export const isTest = (path: string): boolean => path.startsWith('test/') || path.endsWith('.test.ts');
export const isProduct = (path: string): boolean => /^(common|transport|frontend|operator)\//.test(path);

/** Files that are started, not imported. */
export function isEntry(path: string, exceptions: Exceptions = EXCEPTIONS): boolean {
  return path.endsWith('/main.ts') || path.endsWith('.test.ts') || exceptions.entries.has(path);
}

const at = (source: Source, use: Use): string => `${source.path}:${use.line} ${use.what}`;
const packageOf = (specifier: string): string =>
  specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');

export function programsKeepApart(source: Source): string[] {
  const own = source.path.split('/')[0] ?? '';
  const allowed = [own, 'common', 'package.json', ...(isProduct(source.path) ? ['crds'] : [])];
  if (!isProduct(source.path)) return [];
  return source.imports
    .filter((one) => one.path !== null && !allowed.includes(one.path.split('/')[0] ?? ''))
    .map((one) => `${source.path}:${one.line} ${own}/ may import ${own}/ and common/, not ${one.path}`);
}

export function packagesAtHome(sources: readonly Source[]): string[] {
  return HOMES.flatMap(({ name, where, oneFile }) => {
    const users = sources.filter(
      (source) =>
        isProduct(source.path) && source.imports.some((one) => one.path === null && packageOf(one.specifier) === name),
    );
    const strangers = users.filter((source) => !where.test(source.path)).map((source) => source.path);
    const homes = users.filter((source) => where.test(source.path)).map((source) => source.path);
    return [
      ...strangers.map((path) => `${path}: ${name} may only be imported under ${where.source}`),
      ...(oneFile && homes.length > 1 ? [`${name} belongs in one file, not in ${homes.join(', ')}`] : []),
    ];
  });
}

/** Walks value imports from every deciding file; each complaint names the way by which impurity got in. */
export function decidingIsPure(sources: readonly Source[]): string[] {
  const byPath = new Map(sources.map((source) => [source.path, source]));
  const complaints: string[] = [];
  const seen = new Set<string>();
  const visit = (source: Source, way: readonly string[]): void => {
    if (seen.has(source.path)) return;
    seen.add(source.path);
    const here = [...way, source.path];
    const blame = (line: number, what: string): number =>
      complaints.push(`${source.path}:${line} ${what}${way.length > 0 ? ` (reached by ${here.join(' -> ')})` : ''}`);
    for (const use of source.escapes) blame(use.line, use.what);
    for (const one of source.imports) {
      const reason = impurity(one);
      if (reason !== null) blame(one.line, reason);
      const target = one.path === null || one.typeOnly ? undefined : byPath.get(one.path);
      if (target !== undefined && reason === null) visit(target, here);
    }
  };
  for (const source of sources) if (DECIDING.some((pattern) => pattern.test(source.path))) visit(source, []);
  return complaints;
}

function impurity(one: Import): string | null {
  if (one.path !== null) return PORTS.test(one.path) ? `imports the port ${one.path}` : null;
  if (one.typeOnly) return null;
  if (!one.specifier.startsWith('node:')) {
    return PURE_PACKAGES.has(one.specifier) ? null : `imports the package ${one.specifier}`;
  }
  const allowed = PURE_NODE_MODULES.get(one.specifier);
  if (allowed === 'all') return null;
  const strange = one.names.filter((name) => !allowed?.includes(name));
  return strange.length > 0 ? `imports ${strange.join(', ')} from ${one.specifier}` : null;
}

export function namedExportsOnly(source: Source, exceptions: Exceptions = EXCEPTIONS): string[] {
  if (exceptions.defaultExports.has(source.path)) return [];
  return [
    ...(source.defaultExport === null ? [] : [`${source.path}:${source.defaultExport} default export`]),
    ...(source.barrel ? [`${source.path}: a barrel, import from where it is defined`] : []),
  ];
}

export function goodName(path: string): string[] {
  const parts = path.split('/');
  const base = (parts.at(-1) ?? '').replace(/(\.test|\.config|\.d)?\.ts$/, '');
  return [
    ...(/^[a-z0-9]+(-[a-z0-9]+)*$/.test(base) ? [] : [`${path}: not kebab-case`]),
    ...[...parts.slice(0, -1), base]
      .filter((part) => FORBIDDEN_NAMES.test(part))
      .map((part) => `${path}: "${part}" says nothing`),
  ];
}

export function quietOnImport(source: Source, exceptions: Exceptions = EXCEPTIONS): string[] {
  if (isEntry(source.path, exceptions)) return [];
  const state = isProduct(source.path) ? source.mutableState : [];
  return [
    ...source.effects.map((use) => `${at(source, use)}: runs on import`),
    ...state.map((use) => `${at(source, use)}: state of the module`),
  ];
}

export function portsOnly(source: Source, exceptions: Exceptions = EXCEPTIONS): string[] {
  if (!isProduct(source.path) || source.path.startsWith('common/platform/')) return [];
  if (exceptions.escapes.has(source.path)) return [];
  const random = source.imports.flatMap((one) =>
    one.specifier === 'node:crypto'
      ? one.names.filter((name) => /^random/.test(name)).map((name) => ({ what: name, line: one.line }))
      : [],
  );
  const timers = source.imports.filter((one) => /^node:(timers|perf_hooks)/.test(one.specifier));
  return [
    ...[...source.escapes, ...random].map((use) => `${at(source, use)}: use the port in common/platform`),
    ...timers.map((one) => `${source.path}:${one.line} ${one.specifier}: use the port in common/platform`),
  ];
}

export function noSleeps(source: Source, exceptions: Exceptions = EXCEPTIONS): string[] {
  if (!isTest(source.path) || exceptions.sleeps.has(source.path)) return [];
  const imported = source.imports.filter(
    (one) => one.specifier === 'node:timers/promises' && one.names.some((name) => name !== 'setImmediate'),
  );
  return [
    ...source.sleeps.map((use) => `${at(source, use)}: wait for a state with a deadline`),
    ...imported.map((one) => `${source.path}:${one.line} ${one.specifier}: wait for a state with a deadline`),
  ];
}

/** `only` never; the others with a reason in a comment `// skip: ...` on the line or just above. */
export function switchesExplained(source: Source): string[] {
  const lines = source.text.split('\n');
  return source.switches.flatMap((use) => {
    if (use.what.endsWith('.only')) return [`${at(source, use)}: hides every other test`];
    const near = `${lines[use.line - 2] ?? ''}\n${lines[use.line - 1] ?? ''}`;
    return /\/\/ skip: \S/.test(near) ? [] : [`${at(source, use)}: say why in a comment "// skip: ..."`];
  });
}

/** `getPeerX509Certificate` of a client keeps 4 KB for each connection for good (Node 24; docs/performance.md, "Operator"): `getPeerCertificate().raw` does not. */
export function freesCertificates({ path, text }: Source): string[] {
  return isProduct(path) && text.includes('.getPeerX509Certificate(') ? [`${path}: getPeerX509Certificate leaks`] : [];
}

export function hasHeader(source: Source): string[] {
  const first = source.text.replace(/^#!.*\n/, '').trimStart();
  return first.startsWith('/**') || first.startsWith('//') ? [] : [`${source.path}: no header comment`];
}

const SOFT_CAP_LINES = 500;

export function smallEnough(source: Source, exceptions: Exceptions = EXCEPTIONS): string[] {
  return [
    ...(source.lines > SOFT_CAP_LINES && !exceptions.longFiles.has(source.path)
      ? [`${source.path}: ${source.lines} lines, over ${SOFT_CAP_LINES}`]
      : []),
    ...(isProduct(source.path) ? source.longFunctions.map((use) => `${at(source, use)}, over 70`) : []),
  ];
}
