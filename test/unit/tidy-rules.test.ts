/** Each rule of the house, shown on the smallest source that breaks it and on one that keeps it. */
import { describe, expect, it } from 'vitest';
import type { Exceptions } from '../house/exceptions.ts';
import {
  decidingIsPure,
  freesCertificates,
  goodName,
  hasHeader,
  namedExportsOnly,
  noSleeps,
  packagesAtHome,
  portsOnly,
  programsKeepApart,
  quietOnImport,
  smallEnough,
  switchesExplained,
} from '../house/rules.ts';
import { readSource, type Source } from '../house/sources.ts';

const NONE: Exceptions = {
  entries: new Map(),
  defaultExports: new Map(),
  escapes: new Map(),
  sleeps: new Map(),
  longFiles: new Map(),
};

const bad: readonly (readonly [string, (source: Source) => string[], string, string])[] = [
  [
    'a program importing another',
    programsKeepApart,
    'frontend/proxy.ts',
    "import type { A } from '../transport/main.ts';",
  ],
  ['common importing a program', programsKeepApart, 'common/config.ts', "import { a } from '../operator/plan.ts';"],
  ['a product importing a test', programsKeepApart, 'operator/local/run.ts', "import { a } from '../../test/run.ts';"],
  ['a default export', (s) => namedExportsOnly(s, NONE), 'common/a.ts', 'export default 1;'],
  [
    'a default export by name',
    (s) => namedExportsOnly(s, NONE),
    'common/a.ts',
    'const a = 1; export { a as default };',
  ],
  ['a barrel', (s) => namedExportsOnly(s, NONE), 'common/a.ts', "export * from './b.ts';\nexport { c } from './c.ts';"],
  ['a call on import', (s) => quietOnImport(s, NONE), 'common/a.ts', 'start();'],
  ['an await on import', (s) => quietOnImport(s, NONE), 'common/a.ts', 'const a = await load();'],
  ['a loop on import', (s) => quietOnImport(s, NONE), 'test/rigs/a.ts', 'for (const a of b) c(a);'],
  ['a module variable', (s) => quietOnImport(s, NONE), 'common/a.ts', 'let count = 0;'],
  ['a module map', (s) => quietOnImport(s, NONE), 'common/a.ts', 'const cache = new Map<string, string>();'],
  ['the clock', (s) => portsOnly(s, NONE), 'transport/runtime/a.ts', 'export const now = () => Date.now();'],
  ['new Date()', (s) => portsOnly(s, NONE), 'frontend/a.ts', 'export const now = () => new Date();'],
  ['a timer', (s) => portsOnly(s, NONE), 'frontend/a.ts', 'export const f = () => setTimeout(() => 1, 5);'],
  ['randomness', (s) => portsOnly(s, NONE), 'operator/a.ts', "import { randomBytes } from 'node:crypto';"],
  ['a sleep', (s) => noSleeps(s, NONE), 'test/unit/a.test.ts', 'await new Promise((done) => setTimeout(done, 5));'],
  [
    'a sleep in a closure',
    (s) => noSleeps(s, NONE),
    'test/a.ts',
    'const f = () => new Promise((go) => { setTimeout(() => go(), 5); });',
  ],
  [
    'a sleep by module',
    (s) => noSleeps(s, NONE),
    'test/a.ts',
    "import { setTimeout as nap } from 'node:timers/promises';",
  ],
  ['only', switchesExplained, 'test/a.test.ts', '// skip: because\nit.only("a", () => {});'],
  ['an unexplained skip', switchesExplained, 'test/a.test.ts', 'describe.skip("a", () => {});'],
  ['an unexplained skipIf', switchesExplained, 'test/a.test.ts', 'it.skipIf(true)("a", () => {});'],
  ['a certificate of a peer', freesCertificates, 'operator/a.ts', 'socket.getPeerX509Certificate();'],
  ['no header', hasHeader, 'common/a.ts', 'export const a = 1;'],
  ['a long file', (s) => smallEnough(s, NONE), 'common/a.ts', '\n'.repeat(501)],
  ['a long function', (s) => smallEnough(s, NONE), 'common/a.ts', `export function f() {${'\n'.repeat(70)}}`],
];

describe('a rule catches', () => {
  it.each(bad)('%s', (_, rule, path, text) => {
    expect(rule(readSource(path, text)).length).toBeGreaterThan(0);
  });

  it.each([
    'common/utils.ts',
    'transport/helpers/a.ts',
    'common/smtp/types.ts',
    'operator/index.ts',
    'common/fooBar.ts',
    'common/a_b.ts',
  ])('the name %s', (path) => expect(goodName(path).length).toBeGreaterThan(0));
});

const good: readonly (readonly [string, (source: Source) => string[], string, string])[] = [
  [
    'imports of common',
    programsKeepApart,
    'transport/a.ts',
    "import { a } from '../common/message.ts';\nimport './b.ts';",
  ],
  ['tests importing anything', programsKeepApart, 'test/a.ts', "import { a } from '../transport/main.ts';"],
  [
    'declarations',
    (s) => quietOnImport(s, NONE),
    'common/a.ts',
    'const a = make();\nexport class B {}\nexport function c() { let d = 1; }',
  ],
  ['a literal table', (s) => quietOnImport(s, NONE), 'common/a.ts', "const NAMES = new Set(['a']);"],
  ['what runs only when started', (s) => quietOnImport(s, NONE), 'operator/a.ts', 'if (import.meta.main) start();'],
  ['effects of an entry', (s) => quietOnImport(s, NONE), 'transport/main.ts', 'await main();'],
  ['the clock behind its port', (s) => portsOnly(s, NONE), 'common/platform/clock.ts', 'const f = () => Date.now();'],
  ['a date from a number', (s) => portsOnly(s, NONE), 'common/a.ts', 'const f = (ms: number) => new Date(ms);'],
  [
    'a deadline',
    (s) => noSleeps(s, NONE),
    'test/a.ts',
    'new Promise((_, reject) => setTimeout(() => reject(new Error("late")), 5));',
  ],
  [
    'an explained skip',
    switchesExplained,
    'test/a.test.ts',
    '// skip: needs root to mount\nit.skipIf(true)("a", () => {});',
  ],
  ['a header', hasHeader, 'common/a.ts', '#!/usr/bin/env node\n/** What it is. */\nexport const a = 1;'],
];

describe('a rule lets pass', () => {
  it.each(good)('%s', (_, rule, path, text) => {
    expect(rule(readSource(path, text))).toEqual([]);
  });
});

describe('files that decide', () => {
  const tree = (files: Readonly<Record<string, string>>): Source[] =>
    Object.entries(files).map(([path, text]) => readSource(path, text));

  it.each([
    ['disk', "import { readFileSync } from 'node:fs';"],
    ['sockets', "import { isIP, connect } from 'node:net';"],
    ['randomness', "import { randomBytes } from 'node:crypto';"],
    ['the clock', 'export const f = () => Date.now();'],
    ['a port, even its type', "import type { Clock } from '../../common/platform/clock.ts';"],
    ['a package', "import pino from 'pino';"],
  ])('may not use %s', (_, text) => {
    expect(decidingIsPure(tree({ 'transport/core/a.ts': text })).length).toBe(1);
  });

  it('may not reach it through another file either, and the complaint shows the way', () => {
    const complaints = decidingIsPure(
      tree({
        'frontend/session.ts': "import { a } from './middle.ts';",
        'frontend/middle.ts': "import { b } from '../common/far.ts';",
        'common/far.ts': "import { readFile } from 'node:fs/promises';",
      }),
    );
    expect(complaints).toHaveLength(1);
    expect(complaints[0]).toContain('frontend/session.ts -> frontend/middle.ts -> common/far.ts');
  });

  it('may hash, assert, and name the types of others', () => {
    expect(
      decidingIsPure(
        tree({
          'transport/core/a.ts': `import { createHash } from 'node:crypto';
            import { assert } from '../../common/platform/assert.ts';
            import type { Write } from '../store/database.ts';`,
          'transport/store/database.ts': "import { open } from 'node:fs';",
        }),
      ),
    ).toEqual([]);
  });
});

describe('packages with one home', () => {
  const users = (...paths: string[]): Source[] =>
    paths.map((path) => readSource(path, "import { SMTPServer } from 'smtp-server';"));

  it('may be imported there', () =>
    expect(packagesAtHome(users('common/smtp/server.ts', 'test/contract/smtp-server.test.ts'))).toEqual([]));
  it('not elsewhere', () => expect(packagesAtHome(users('frontend/proxy.ts'))).toHaveLength(1));
  it('not in two files', () =>
    expect(packagesAtHome(users('common/smtp/server.ts', 'common/smtp/parser.ts'))).toHaveLength(1));
  it('not in depth either', () =>
    expect(
      packagesAtHome([readSource('frontend/a.ts', "import { A } from 'smtp-server/lib/smtp-connection.js';")]),
    ).toHaveLength(1));
});
