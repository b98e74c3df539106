/**
 * The style that matters, as tests (architecture.md sentence 10): import rules, names, no sleeps, no effects on import, documents in
 * step with the code. The rules are in `test/house/rules.ts`, who is excused and why in `test/house/exceptions.ts`.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { describe, expect, it } from 'vitest';
import { helpOf } from '../operator/cli/command.ts';
import { KUBE_COMMANDS } from '../operator/cli/kube-commands.ts';
import { KUBE_PLACE } from '../operator/cli/kube-place.ts';
import {
  codeOf,
  faultRows,
  folderMap,
  invocationsOf,
  type NamedTest,
  relativeLinks,
  shownBy,
  wordsAfter,
} from './house/documents.ts';
import { EXCEPTIONS } from './house/exceptions.ts';
import { generated } from './house/generate.ts';
import {
  decidingIsPure,
  freesCertificates,
  goodName,
  hasHeader,
  isProduct,
  namedExportsOnly,
  noSleeps,
  packagesAtHome,
  portsOnly,
  programsKeepApart,
  quietOnImport,
  smallEnough,
  switchesExplained,
} from './house/rules.ts';
import { listFiles, ROOT, readSource, readText, type Source } from './house/sources.ts';
import { kindsOf } from './sim/faults.ts';

const files = listFiles();
const sources = files.filter((path) => path.endsWith('.ts')).map((path) => readSource(path));
const documents = files.filter((path) => path.endsWith('.md'));

/** The fault matrix of the design (semantics.md section 10), each with the words by which its row begins in docs/reliability.md. */
const FAULT_MATRIX = [
  '`kill -9` front end',
  '`kill -9` primary',
  '`kill -9` shadow',
  'both killed',
  'power cut',
  'disk full',
  'EIO',
  'slow disk',
  'bit flip',
  'partitions',
  'half open',
  'clock',
  'back with an empty volume',
  'back with the same volume',
  'two incarnations',
  'restored from a snapshot',
  'operator down',
  'Redis',
  'drain',
  'rolling upgrade',
  'name service',
  'mailbox database fails over',
  'the same with the primary transport gone',
  'replayed',
  'poison',
  'certificate',
  'two volumes of one message lost',
];

const isThere = ({ path, title }: NamedTest): boolean =>
  existsSync(join(ROOT, path)) && (title === null || readText(path).includes(title));

/** Null: it can be typed like that. */
function problemWith(command: string, targets: ReadonlySet<string>): string | null {
  const [program = '', ...words] = command.replace(/^[A-Z_]+=\S+ /, '').split(' ');
  if (program === 'make') return targets.has(words[0] ?? '') ? null : 'no such target';
  const file = words.find((word) => word.startsWith('test/'));
  if ((program !== 'vitest' && program !== 'node') || file === undefined) return 'neither make nor a test';
  if (!existsSync(join(ROOT, file))) return `${file} does not exist`;
  const only = words[words.indexOf('--only') + 1];
  try {
    if (words.includes('--only')) kindsOf(only ?? '');
    return null;
  } catch (error) {
    return String(error);
  }
}

const makeTargets = (): ReadonlySet<string> =>
  new Set([...readText('Makefile').matchAll(/^([a-z0-9-]+):/gm)].map((found) => found[1] ?? ''));

const complaints = (rule: (source: Source) => string[]): string[] => sources.flatMap((source) => rule(source));

describe('imports', () => {
  it('programs import common and never each other', () => expect(complaints(programsKeepApart)).toEqual([]));
  it('what decides imports no I/O, clock, randomness or log', () => expect(decidingIsPure(sources)).toEqual([]));
  it('third-party packages stay behind their one file', () => expect(packagesAtHome(sources)).toEqual([]));
  it('named exports only, no barrels', () => expect(complaints((source) => namedExportsOnly(source))).toEqual([]));
  it('nothing happens on import and no module keeps state', () =>
    expect(complaints((source) => quietOnImport(source))).toEqual([]));
  it('clock, timers and randomness come through the ports', () =>
    expect(complaints((source) => portsOnly(source))).toEqual([]));
  it('every import names a file that exists', () => {
    const missing = sources.flatMap((source) =>
      source.imports
        .filter((one) => one.path !== null && !existsSync(join(ROOT, one.path)))
        .map((one) => `${source.path}:${one.line} ${one.specifier}`),
    );
    expect(missing).toEqual([]);
  });
});

describe('files', () => {
  it('have names that say something', () =>
    expect(files.filter((path) => path.endsWith('.ts')).flatMap(goodName)).toEqual([]));
  it('say in a header what they are', () => expect(complaints(hasHeader)).toEqual([]));
  it('keep no certificate of a peer for good', () => expect(complaints(freesCertificates)).toEqual([]));

  it('are small (median up to 200 lines, none over 500, functions up to 70)', () => {
    const sizes = sources.filter((source) => isProduct(source.path)).map((source) => source.lines);
    sizes.sort((a, b) => a - b);
    const median = sizes[Math.floor(sizes.length / 2)] ?? 0;
    const total = sizes.reduce((sum, lines) => sum + lines, 0);
    console.log(`product files: ${sizes.length}, lines: ${total}, median ${median}, largest ${sizes.at(-1) ?? 0}`);
    expect(complaints((source) => smallEnough(source))).toEqual([]);
    expect(median).toBeLessThanOrEqual(200);
  });

  it('contain no path of the machine they were written on', () => {
    // In a clone whose parent folder is short (/src) the parent alone would match honest text.
    const ours = dirname(ROOT).split('/').length > 2 ? [ROOT, dirname(ROOT)] : [ROOT];
    const pattern = new RegExp(`(^|[\\s"'\`(=:])(${ours.join('|')}|/home/\\w+|/Users/\\w+)/`, 'm');
    expect(files.filter((path) => pattern.test(readText(path)))).toEqual([]);
  });

  it('name no package host, and the lockfile no download address', () => {
    const host = new RegExp(['https?:', '//(registry|proxy|artifacts?)\\.'].join(''));
    expect(files.filter((path) => host.test(readText(path)))).toEqual([]);
    expect(readText('package-lock.json')).not.toMatch(/"resolved":\s*"https?:/);
  });

  it('pin every package to one exact version', () => {
    const { dependencies, devDependencies } = JSON.parse(readText('package.json')) as Record<
      string,
      Record<string, string>
    >;
    const loose = Object.entries({ ...dependencies, ...devDependencies }).filter(([, v]) => !/^\d+\.\d+\.\d+$/.test(v));
    expect(loose).toEqual([]);
  });

  it('every exception is still needed', () => {
    const none = {
      entries: new Map(),
      defaultExports: new Map(),
      escapes: new Map(),
      sleeps: new Map(),
      longFiles: new Map(),
    };
    const needed = (path: string): boolean => {
      const source = sources.find((one) => one.path === path);
      if (source === undefined) return false;
      const strict = [quietOnImport, namedExportsOnly, portsOnly, noSleeps, smallEnough];
      return strict.some((rule) => rule(source, none).length > 0);
    };
    const excused = [EXCEPTIONS.defaultExports, EXCEPTIONS.escapes, EXCEPTIONS.sleeps, EXCEPTIONS.longFiles];
    expect(excused.flatMap((map) => [...map.keys()]).filter((path) => !needed(path))).toEqual([]);
  });
});

describe('tests', () => {
  it('do not sleep', () => expect(complaints((source) => noSleeps(source))).toEqual([]));
  it('are not switched off without a reason', () => expect(complaints(switchesExplained)).toEqual([]));
});

describe('documents', () => {
  it('are fresh where they are generated (make docs)', () =>
    expect(
      generated()
        .filter((one) => one.current !== one.wanted)
        .map((one) => one.path),
    ).toEqual([]));

  it('ARCHITECTURE.md maps every top-level file and folder, and nothing that does not exist', () => {
    const mapped = folderMap(readText('ARCHITECTURE.md'));
    const hidden = new Set(['.git', '.gitignore', '.npmrc', '.state', 'node_modules', 'coverage']);
    const there = readdirSync(ROOT).filter((name) => !hidden.has(name) && !name.endsWith('.log'));
    expect(mapped.filter((path) => !path.includes('/')).sort()).toEqual(there.sort());
    expect(mapped.filter((path) => !existsSync(join(ROOT, path)))).toEqual([]);
  });

  it('link only to files that exist', () => {
    const dead = documents.flatMap((path) =>
      relativeLinks(readText(path))
        .filter((link) => !existsSync(join(ROOT, normalize(join(dirname(path), link)))))
        .map((link) => `${path}: ${link}`),
    );
    expect(dead).toEqual([]);
  });

  it('mention only make targets that exist', () => {
    const targets = makeTargets();
    const unknown = documents.flatMap((path) =>
      wordsAfter('make', codeOf(readText(path)))
        .filter((word) => !targets.has(word))
        .map((word) => `${path}: make ${word}`),
    );
    expect(unknown).toEqual([]);
  });

  it('mention only commands that `mailcluster --help` lists', () => {
    const help = execFileSync(process.execPath, ['operator/cli/main.ts', '--help'], { cwd: ROOT, encoding: 'utf8' });
    const commands = new Set([...help.matchAll(/^ {2}([a-z-]+) {2}/gm)].map((found) => found[1]));
    const unknown = documents.flatMap((path) =>
      wordsAfter('mailcluster', codeOf(readText(path)))
        .filter((word) => !commands.has(word))
        .map((word) => `${path}: mailcluster ${word}`),
    );
    expect(unknown).toEqual([]);
  });

  it('mention only commands that `kubectl mailcluster help` lists, with options that each has', () => {
    const helps = new Map([...KUBE_COMMANDS].map(([name, command]) => [name, helpOf(command, KUBE_PLACE)]));
    helps.set('help', '');
    const typed = documents.flatMap((path) =>
      invocationsOf('kubectl mailcluster', codeOf(readText(path))).map((one) => ({ path, ...one })),
    );
    expect(typed.length).toBeGreaterThan(40);
    const wrong = typed.flatMap(({ path, command, options }) => {
      if (command === null) return [];
      const help = helps.get(command);
      if (help === undefined) return [`${path}: kubectl mailcluster ${command}`];
      const words = new Set(help.match(/(?<![\w-])--?[a-zA-Z][a-z-]*/g));
      return options.filter((option) => !words.has(option)).map((option) => `${path}: ${command} has no ${option}`);
    });
    expect(wrong).toEqual([]);
  });

  it('docs/guarantees.md names for every row tests that exist under that title', () => {
    const rows = shownBy(readText('docs/guarantees.md'));
    const behaviour =
      'R1 R2 R3 R4 R5 R6 R7 R8 R9 R11 S1 S2 S3 S4 S5 S6 S7 S8 S9 S10 D1 D2 D3 D4 D5 D6 D7 D8 D9 D10'.split(' ');
    const safetyNet = 'N1 N2 N3 N4 N5 N6 N7 N8'.split(' ');
    const kubernetes = 'K1 K2 K3 K4 K5 K6 K7 K8 K9 K10 K11 K12 K13'.split(' ');
    const rules = Array.from({ length: 29 }, (_, at) => `rule ${at + 1}`);
    expect(rows.map((row) => row.name)).toEqual([...behaviour, ...safetyNet, 'row 18', ...rules, ...kubernetes]);
    const problems = rows.flatMap(({ name, tests, isPartly }) => [
      ...(tests.length === 0 && !isPartly ? [`${name}: no test named, and no "not yet: ..."`] : []),
      ...tests
        .filter((one) => !isThere(one))
        .map(
          ({ path, title }) =>
            `${name}: ${path} ${existsSync(join(ROOT, path)) ? `has no "${title}"` : 'does not exist'}`,
        ),
    ]);
    expect(problems).toEqual([]);
  });

  it('docs/reliability.md has every fault of the design with its outcome and a command that exists', () => {
    const rows = faultRows(readText('docs/reliability.md'));
    const missing = FAULT_MATRIX.filter((words) => !rows.some((row) => row.name.startsWith(words)));
    expect(missing).toEqual([]);
    const targets = makeTargets();
    const problems = rows.flatMap(({ name, outcome, commands, isNotYet }) => [
      ...(/^(?:(?:K\+?|[RITQF])(?:, |$))+$|^listed$/.test(outcome) ? [] : [`${name}: outcome ${outcome}`]),
      ...(commands.length === 0 && !isNotYet ? [`${name}: no command`] : []),
      ...commands.flatMap((command) => {
        const problem = problemWith(command, targets);
        return problem === null ? [] : [`${name}: ${command}: ${problem}`];
      }),
    ]);
    expect(problems).toEqual([]);
  });
});
