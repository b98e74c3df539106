/**
 * Debian programs for tests without installing them: packages and what they lack are downloaded and unpacked into a cache outside the
 * checkout and run from there, so that a developer's own mail server stays as it is. Owns: the cache directory
 * (`$XDG_CACHE_HOME/mailcluster-test`; without it `/var/cache/mailcluster-test` for root, because unprivileged users must be able to
 * run what lies there, else `~/.cache/mailcluster-test`), one directory per set of package versions, complete or absent.
 * Programs see the unpacked files at their usual places, through an overlay over /usr in a mount namespace of their own (compiled-in
 * paths need it); without root, in a user namespace. Fails by saying what is missing.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, cp, mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

export interface Prefix {
  /** Files are at `<root>/usr/...`; `/` when the packages are installed on this machine. */
  readonly root: string;
  /** Value of LD_LIBRARY_PATH for programs of this prefix. */
  readonly libraryPath: string;
}

/** How a program of a prefix is started: file and arguments for `spawn`. */
export interface Command {
  readonly file: string;
  readonly args: readonly string[];
}

export type Ensured = Prefix | { readonly missing: string };

const run = promisify(execFile);
const ENVIRONMENT = { ...process.env, LC_ALL: 'C', DEBIAN_FRONTEND: 'noninteractive' };
const isRoot = (): boolean => process.getuid?.() === 0;

interface CommandFailure {
  readonly failure: string;
}

async function command(program: string, args: readonly string[], cwd?: string): Promise<string | CommandFailure> {
  try {
    const { stdout } = await run(program, [...args], {
      env: ENVIRONMENT,
      timeout: 240_000,
      maxBuffer: 16 * 1024 * 1024,
      ...(cwd === undefined ? {} : { cwd }),
    });
    return stdout;
  } catch (error) {
    const stderr = error instanceof Error && 'stderr' in error ? String(error.stderr) : String(error);
    return { failure: stderr.trim().split('\n').at(-1) ?? 'failed' };
  }
}

export function cacheDirectory(): string {
  const base = process.env.XDG_CACHE_HOME;
  if (base !== undefined && base !== '') return join(base, 'mailcluster-test');
  return isRoot() ? '/var/cache/mailcluster-test' : join(homedir(), '.cache', 'mailcluster-test');
}

/** One package, with what it depends on and this machine lacks. */
export function ensurePackage(name: string): Promise<Ensured> {
  return ensurePackages([name]);
}

/** Several packages in one prefix. */
export async function ensurePackages(names: readonly string[]): Promise<Ensured> {
  if (await areInstalled(names)) return prefixAt('/');
  for (const tool of ['apt-get', 'dpkg-deb']) {
    if (!['/usr/bin', '/bin'].some((directory) => existsSync(join(directory, tool)))) {
      return { missing: `${names.join(', ')}: not installed, and this machine has no ${tool} to fetch them with` };
    }
  }
  let found = await ensureUnpacked(names);
  // Old package lists name files that are gone; only root may renew them.
  if (typeof found !== 'string' && isRoot()) {
    await command('apt-get', ['update', '-q']);
    found = await ensureUnpacked(names);
  }
  if (typeof found === 'string') {
    const prefix = prefixAt(found);
    const problem = await obstacle(prefix);
    return problem === null ? prefix : { missing: `${names.join(', ')}: ${problem}` };
  }
  const advice = isRoot() ? '' : '; as root: apt-get update, or install the packages';
  return { missing: `${names.join(', ')}: ${found.failure}${advice}` };
}

/** `nobody` and `nogroup` on Debian. */
export const NOBODY = { uid: 65_534, gid: 65_534 } as const;

const MOUNT = 'mount -t overlay overlay -o "lowerdir=$1/usr:/usr" /usr && shift && exec "$@"';
/** The same with files of ours over some of /etc: pairs of (file, place) up to `--`. */
const MOUNT_WITH_FILES =
  'if [ "$1" != / ]; then mount -t overlay overlay -o "lowerdir=$1/usr:/usr" /usr || exit; fi; shift; ' +
  'while [ "$1" != -- ]; do mount --bind "$1" "$2" || exit; shift 2; done; shift; exec "$@"';

/** Runs a program with the files of the prefix in place; it ends when this process does, however that is. `unprivileged`: as `nobody` when we are root; else always as ourselves. */
export function commandIn(prefix: Prefix, program: readonly string[], unprivileged: boolean): Command {
  const nobody = [`--reuid=${NOBODY.uid}`, `--regid=${NOBODY.gid}`, '--clear-groups'];
  const asNobody = isRoot() && unprivileged ? nobody : [];
  const words = ['setpriv', ...asNobody, '--pdeathsig', 'KILL', '--', ...program];
  const [file = '', ...args] = words;
  if (prefix.root === '/') return { file, args };
  if (isRoot()) return { file: 'unshare', args: ['-m', 'sh', '-c', MOUNT, 'sh', prefix.root, ...words] };
  // Root of a user namespace may mount; a second one inside gives the program its own uid back.
  const self = ['unshare', '-U', `--map-user=${process.getuid?.()}`, `--map-group=${process.getgid?.()}`];
  return { file: 'unshare', args: ['-r', '-m', 'sh', '-c', MOUNT, 'sh', prefix.root, ...self, ...words] };
}

/** Runs a program as root with the files of the prefix in place and `files` (place -> file of ours) over those of the machine. */
export function commandWithFiles(
  prefix: Prefix,
  files: Readonly<Record<string, string>>,
  program: readonly string[],
): Command {
  const pairs = Object.entries(files).flatMap(([place, file]) => [file, place]);
  return { file: 'unshare', args: ['-m', 'sh', '-c', MOUNT_WITH_FILES, 'sh', prefix.root, ...pairs, '--', ...program] };
}

/** Why programs of the prefix cannot be run here, or null. */
async function obstacle(prefix: Prefix): Promise<string | null> {
  const { file, args } = commandIn(prefix, ['true'], true);
  const tried = await command(file, args);
  return typeof tried === 'string' ? null : `unpacked, but no mount namespace to run it in: ${tried.failure}`;
}

async function areInstalled(names: readonly string[]): Promise<boolean> {
  const status = await command('dpkg-query', ['-W', `-f=\${Status}\n`, ...names]);
  return (
    typeof status === 'string' &&
    status
      .trim()
      .split('\n')
      .every((line) => line === 'install ok installed')
  );
}

/** Asking apt takes seconds: the answer holds until packages are installed or removed here. */
async function ensureUnpacked(names: readonly string[]): Promise<string | CommandFailure> {
  const note = join(cacheDirectory(), `${names.join('+')}.json`);
  const { mtimeMs } = await stat('/var/lib/dpkg/status');
  const known: { mtimeMs?: number; target?: string } = existsSync(note) ? JSON.parse(await readFile(note, 'utf8')) : {};
  if (known.mtimeMs === mtimeMs && known.target !== undefined && existsSync(known.target)) return known.target;
  const target = await resolveAndUnpack(names);
  if (typeof target !== 'string') return target;
  await writeFile(`${note}.${process.pid}`, JSON.stringify({ mtimeMs, target }));
  await rename(`${note}.${process.pid}`, note);
  return target;
}

/** Directory with the unpacked packages. */
async function resolveAndUnpack(names: readonly string[]): Promise<string | CommandFailure> {
  // A simulated installation names exactly what is missing here, dependencies included, with versions.
  const simulated = await command('apt-get', ['install', '-s', '-q', '--no-install-recommends', ...names]);
  if (typeof simulated !== 'string') return simulated;
  const wanted = [...simulated.matchAll(/^Inst (\S+) (?:\[[^\]]*\] )?\((\S+)/gm)].map(
    ([, name, version]) => `${name}=${version}`,
  );
  if (wanted.length === 0) return { failure: 'apt-get would install nothing' };
  const key = createHash('sha256').update(wanted.sort().join('\n')).digest('hex').slice(0, 16);
  const cache = cacheDirectory();
  const target = join(cache, `${names[0] ?? 'packages'}-${key}`);
  if (existsSync(target)) return target;
  await mkdir(cache, { recursive: true });
  const work = await mkdtemp(join(cache, '.unpacking-'));
  try {
    return await unpackInto(work, wanted, target);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

async function unpackInto(work: string, wanted: readonly string[], target: string): Promise<string | CommandFailure> {
  const archives = join(work, 'archives');
  const root = join(work, 'root');
  await mkdir(archives);
  await mkdir(root);
  await chmod(root, 0o755);
  const asSelf = isRoot() ? ['-o', 'APT::Sandbox::User=root'] : [];
  const downloaded = await command('apt-get', ['download', '-q', ...asSelf, ...wanted], archives);
  if (typeof downloaded !== 'string') return downloaded;
  for (const archive of await readdir(archives)) {
    const unpacked = await command('dpkg-deb', ['-x', join(archives, archive), root]);
    if (typeof unpacked !== 'string') return unpacked;
  }
  // On a merged /usr these are symbolic links; the overlay covers /usr only.
  for (const part of ['bin', 'sbin', 'lib', 'lib64'].filter((name) => existsSync(join(root, name)))) {
    await cp(join(root, part), join(root, 'usr', part), { recursive: true, verbatimSymlinks: true });
  }
  try {
    await rename(root, target);
  } catch (error) {
    // Another test run was faster.
    if (!existsSync(target)) throw error;
  }
  return target;
}

function prefixAt(root: string): Prefix {
  const architecture = { x64: 'x86_64', arm64: 'aarch64' }[process.arch as string] ?? process.arch;
  const directories = [
    'usr/lib/dovecot',
    'usr/lib/postfix',
    `usr/lib/${architecture}-linux-gnu`,
    `lib/${architecture}-linux-gnu`,
  ];
  return { root, libraryPath: root === '/' ? '' : directories.map((directory) => join(root, directory)).join(':') };
}
