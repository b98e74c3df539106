/**
 * What is in our image, wherever it is built: programs, production packages, commands, users, environment. Owns: that list; the Dockerfile takes the same
 * from `--tree`. Promise: nothing in it depends on the machine. Refuses, with an exception, a package that package-lock.json names and
 * node_modules lacks.
 */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import { extname, join } from 'node:path';
import { rootCertificates } from 'node:tls';
import type { ArchiveEntry } from '../../common/tar.ts';
import type { ImageConfig } from './oci.ts';

const ROOT = join(import.meta.dirname, '../..');
/** As operator/resources/pods.ts starts programs. */
export const PROGRAM_DIRECTORY = 'opt/mailcluster';
export const USER = { name: 'mailcluster', id: 10_001 } as const;

const { version, license } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as Record<string, string>;

export const IMAGE_CONFIG: ImageConfig = {
  User: `${USER.id}:${USER.id}`,
  Env: [
    'PATH=/usr/local/bin:/usr/bin:/bin',
    'NODE_ENV=production',
    // Written where it can be written; nothing is missing where it cannot.
    'NODE_COMPILE_CACHE=/tmp/compile-cache',
  ],
  WorkingDir: `/${PROGRAM_DIRECTORY}`,
  Cmd: ['mailcluster', '--help'],
  Labels: {
    'org.opencontainers.image.title': 'mailcluster',
    'org.opencontainers.image.version': version ?? '',
    'org.opencontainers.image.licenses': license ?? '',
  },
};

/** Commands on the PATH, and the program behind each. The root file system has no shell. */
export const COMMANDS: Readonly<Record<string, string>> = {
  operator: 'operator/main.ts',
  transport: 'transport/main.ts',
  frontend: 'frontend/main.ts',
  mailcluster: 'operator/cli/main.ts',
  'kubectl-mailcluster': 'operator/cli/kubectl-main.ts',
};

/** What programs read at run time. */
const OURS: readonly { readonly path: string; readonly wanted: RegExp }[] = [
  { path: 'common', wanted: /\.ts$/ },
  { path: 'transport', wanted: /\.ts$/ },
  { path: 'frontend', wanted: /\.ts$/ },
  { path: 'operator', wanted: /\.ts$/ },
  { path: 'crds', wanted: /\.yaml$/ },
];
const OUR_FILES = ['package.json', 'LICENSE'] as const;

/** Of packages: what Node may load, and what their licences want us to carry along. */
const LOADABLE = new Set(['.js', '.cjs', '.mjs', '.json', '.node', '.wasm']);
const LEGAL = /^(licen[cs]e|copying|notice|copyright)/i;
/** At the top of a package; further down `doc` may be a program (yaml has one). */
const NEVER_LOADED = /^(node_modules|\..*|tests?|__tests__|docs?|examples?|benchmarks?|bench|coverage)$/;
const ONLY_TYPES = /(^|\/)node_modules\/(@types\/[^/]+|undici-types)$/;

const file = (name: string, content: string | Buffer, mode = 0o644): ArchiveEntry => ({ name, content, mode });
const read = (path: string): Buffer => readFileSync(join(ROOT, path));

function filesUnder(path: string, wanted: (base: string) => boolean, except: RegExp | null = null): string[] {
  return readdirSync(join(ROOT, path), { withFileTypes: true }).flatMap((entry) => {
    const inside = `${path}/${entry.name}`;
    if (entry.isDirectory()) return except?.test(entry.name) ? [] : filesUnder(inside, wanted);
    return entry.isFile() && wanted(entry.name) ? [inside] : [];
  });
}

interface LockedPackage {
  readonly dev?: boolean;
  readonly devOptional?: boolean;
  readonly optional?: boolean;
}

/** Paths of the packages that `npm ci --omit=dev` would install, but for those that have only types. */
export function productionPackages(): readonly string[] {
  const { packages } = JSON.parse(read('package-lock.json').toString()) as {
    readonly packages: Readonly<Record<string, LockedPackage>>;
  };
  return Object.entries(packages).flatMap(([path, { dev, devOptional, optional }]) => {
    if (path === '' || dev === true || devOptional === true || ONLY_TYPES.test(path)) return [];
    if (existsSync(join(ROOT, path))) return [path];
    if (optional === true) return [];
    throw new Error(`${path} is not there: run make setup`);
  });
}

function packageFiles(path: string): readonly string[] {
  const wanted = (base: string): boolean => LOADABLE.has(extname(base)) || LEGAL.test(base);
  return filesUnder(path, wanted, NEVER_LOADED);
}

/** Sources without their types, every line where it was: what Node would make of them at each start, for most of what a start takes. */
const plain = (path: string): string => stripTypeScriptTypes(read(path).toString());

const inImage = (path: string): ArchiveEntry =>
  file(`${PROGRAM_DIRECTORY}/${path}`, path.endsWith('.ts') ? plain(path) : read(path));

/** Changes when a package does. */
export const packageEntries = (): readonly ArchiveEntry[] =>
  productionPackages().flatMap((path) => packageFiles(path).map(inImage));

/** Tells Node that our sources need no look for types; `node PROGRAM` does the same, later. */
const command = (program: string): string => `#!/usr/local/bin/node
const { readFileSync } = require('node:fs');
require('node:module').registerHooks({
  load: (url, context, next) =>
    url.startsWith('file:///${PROGRAM_DIRECTORY}/') && url.endsWith('.ts')
      ? { format: 'module', source: readFileSync(new URL(url)), shortCircuit: true }
      : next(url, context),
});
import('/${PROGRAM_DIRECTORY}/${program}');
`;

/** Changes with every version. */
export function programEntries(): readonly ArchiveEntry[] {
  const sources = OURS.flatMap(({ path, wanted }) => filesUnder(path, (base) => wanted.test(base)));
  for (const program of Object.values(COMMANDS)) statSync(join(ROOT, program));
  return [
    ...[...OUR_FILES, ...sources].map(inImage),
    ...Object.entries(COMMANDS).map(([name, program]) => file(`usr/local/bin/${name}`, command(program), 0o755)),
  ];
}

/** Users, names, certificates: what programs expect to find in a root file system. */
export function systemEntries(): readonly ArchiveEntry[] {
  const { name, id } = USER;
  const directory = (path: string, mode = 0o755): ArchiveEntry => ({ name: path, directory: true, mode });
  return [
    file('etc/passwd', `root:x:0:0:root:/root:/sbin/nologin\n${name}:x:${id}:${id}:${name}:/tmp:/sbin/nologin\n`),
    file('etc/group', `root:x:0:\n${name}:x:${id}:\n`),
    file('etc/nsswitch.conf', 'passwd: files\ngroup: files\nhosts: files dns\n'),
    // The list of the Mozilla project, as this version of Node carries it; Node itself needs no file.
    file('etc/ssl/certs/ca-certificates.crt', `${rootCertificates.join('\n')}\n`),
    directory('tmp', 0o1777),
  ];
}
