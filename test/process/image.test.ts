/**
 * The image of `make image`: the same bytes whenever and however it is built, what is in it and what is not, the Dockerfile that puts the same on a base,
 * and every entry point started out of it as under Restricted Pod Security.
 */
import type { ChildProcess } from 'node:child_process';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, type TestContext, test } from 'vitest';
import { COMMANDS, IMAGE_CONFIG, productionPackages } from '../../charts/image/contents.ts';
import { entriesOf } from '../../charts/image/entries.ts';
import type { ArchiveFile, ArchiveLink } from '../../common/tar.ts';
import { PATH } from '../../operator/resources/names.ts';
import { POD_SECURITY } from '../../operator/resources/pods.ts';
import { ROOT, readText } from '../house/sources.ts';
import { until } from '../house/until.ts';
import { cannotConfine, confined } from '../rigs/root-file-system.ts';

const TIMEOUT_MS = 240_000;
const MOST_BYTES = 120 << 20;
const PROGRAM = join(ROOT, 'charts/image/main.ts');

interface Descriptor {
  readonly digest: string;
  readonly size: number;
}

const directory = mkdtempSync(join(tmpdir(), 'mailcluster-image-'));
const root = join(directory, 'root');
const layout = join(directory, 'layout');
let layers: readonly Descriptor[] = [];

const blobFile = ({ digest }: Descriptor): string => join(layout, 'blobs', digest.replace(':', '/'));
const jsonOf = (path: string) => JSON.parse(readFileSync(path, 'utf8'));

function build(out: string, shell: string): string {
  const command = `${shell}; exec "$0" "$1" --out "$2"`;
  return execFileSync('sh', ['-c', command, process.execPath, PROGRAM, out], { encoding: 'utf8' });
}

beforeAll(() => {
  build(join(directory, 'image.tar'), 'umask 022');
  for (const place of [root, layout]) mkdirSync(place);
  execFileSync('tar', ['-xf', join(directory, 'image.tar'), '-C', layout]);
  const [entry] = jsonOf(join(layout, 'index.json')).manifests;
  layers = jsonOf(blobFile(entry)).layers;
  for (const one of layers) execFileSync('tar', ['-xpzf', blobFile(one), '-C', root]);
}, TIMEOUT_MS);
afterAll(() => rmSync(directory, { recursive: true }));

test(
  'the same digest from another place, at another time, with another umask',
  () => {
    const again = join(directory, 'again.tar');
    build(again, 'cd /; umask 077; export TZ=Asia/Tokyo LC_ALL=C');
    const hash = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex');
    expect(hash(again)).toBe(hash(join(directory, 'image.tar')));
  },
  TIMEOUT_MS,
);

test('a layout that says what it has: digests, sizes, platform, configuration; small', () => {
  const [entry] = jsonOf(join(layout, 'index.json')).manifests;
  const manifest = jsonOf(blobFile(entry));
  for (const one of [entry, manifest.config, ...layers]) {
    const bytes = readFileSync(blobFile(one));
    const sum = createHash('sha256').update(bytes).digest('hex');
    expect([`sha256:${sum}`, bytes.length]).toEqual([one.digest, one.size]);
  }
  const config = jsonOf(blobFile(manifest.config));
  expect(config).toMatchObject({ os: 'linux', architecture: entry.platform.architecture, config: IMAGE_CONFIG });
  expect(config.rootfs.diff_ids).toHaveLength(layers.length);
  const bytes = layers.reduce((sum, { size }) => sum + size, 0);
  console.log(`image: ${(bytes / 2 ** 20).toFixed(1)} MiB compressed`);
  expect(bytes).toBeLessThan(MOST_BYTES);
});

test('entries are owned by root and have no time; nobody but root may change one', () => {
  for (const one of layers)
    for (const line of execFileSync('tar', ['--numeric-owner', '--utc', '-tvzf', blobFile(one)])
      .toString()
      .trim()
      .split('\n')) {
      expect(line).toMatch(/^[-dl]\S+ 0\/0 +\d+ 1970-01-01 00:00 /);
      expect(line).toMatch(/^(.rw.r-.r-.|drwxrwxrwt .* tmp\/$|l)/);
    }
});

test('production packages and no others, nothing that is never loaded, no tests, no shell', () => {
  const names = entriesOf(root).map(({ name }) => name);
  const isLegal = (name: string): boolean => /\/licen[cs]e\.md$/i.test(name);
  const under = (prefix: string): boolean => names.some((name) => name.startsWith(prefix));
  for (const path of productionPackages()) expect([path, under(`opt/mailcluster/${path}/`)]).toEqual([path, true]);
  const { devDependencies, dependencies } = JSON.parse(readText('package.json'));
  for (const name of Object.keys(devDependencies))
    expect([name, under(`opt/mailcluster/node_modules/${name}/`)]).toEqual([name, false]);
  for (const name of Object.keys(dependencies)) expect(under(`opt/mailcluster/node_modules/${name}/`)).toBe(true);
  const unwanted = /\.(map|md|d\.[cm]?ts|test\.ts)$|\/node_modules\/[^/@]+\/(tests?|docs?)\/|\/bin\/(ba|da)?sh$/;
  expect(names.filter((name) => unwanted.test(name) && !isLegal(name))).toEqual([]);
  expect(under('opt/mailcluster/test')).toBe(false);
});

test('our sources are there without types, line for line', () => {
  const path = 'transport/main.ts';
  const there = readFileSync(join(root, PATH.program, path), 'utf8');
  expect(there).not.toMatch(/import type|: TransportConfig/);
  expect(there.split('\n')).toHaveLength(readText(path).split('\n').length);
});

test('paths and user are those with which the operator starts pods', () => {
  expect(`/${'opt/mailcluster'}`).toBe(PATH.program);
  expect(statSync(join(root, PATH.program, 'transport/main.ts')).isFile()).toBe(true);
  expect(IMAGE_CONFIG.User).toBe(`${POD_SECURITY.runAsUser}:${POD_SECURITY.runAsGroup}`);
  expect(readFileSync(join(root, 'etc/passwd'), 'utf8')).toContain(
    `:${POD_SECURITY.runAsUser}:${POD_SECURITY.runAsGroup}:`,
  );
});

/** Without what a base brings. */
function ownEntries(directory: string): readonly string[] {
  const isBase = (name: string): boolean =>
    name === 'usr/local/bin/node' || /^(proc|dev|lib|lib64|usr\/lib)(\/|$)/.test(name);
  return entriesOf(directory)
    .filter(({ name }) => !isBase(name))
    .map(({ content = '', linkTo = '', mode = 0, name }: Partial<ArchiveFile & ArchiveLink>) =>
      [name, mode.toString(8), linkTo, createHash('sha256').update(content).digest('hex')].join(' '),
    );
}

test('the Dockerfile puts the same files on a base, with the same user, environment and commands', () => {
  const tree = join(directory, 'tree');
  mkdirSync(tree);
  execFileSync(process.execPath, [PROGRAM, '--tree', tree]);
  expect(ownEntries(tree)).toEqual(ownEntries(root));

  const steps = readText('Dockerfile')
    .replace(/^#.*\n/gm, '')
    .trim()
    .split(/\n+/)
    .map((line) => line.split(/ (.*)/s).slice(0, 2));
  const last = steps.slice(steps.findLastIndex(([word]) => word === 'FROM'));
  const said = (word: string): string => last.find(([found]) => found === word)?.[1] ?? '';
  expect(steps).toContainEqual(['RUN', 'node charts/image/main.ts --tree /tree']);
  expect(said('COPY')).toBe('--from=tree /tree/ /');
  expect(said('USER')).toBe(IMAGE_CONFIG.User);
  expect(said('ENV').split(' ')).toEqual(IMAGE_CONFIG.Env);
  expect(said('WORKDIR')).toBe(IMAGE_CONFIG.WorkingDir);
  expect(JSON.parse(said('CMD'))).toEqual(IMAGE_CONFIG.Cmd);
  expect(said('LABEL').split(' ')).toEqual(
    Object.entries(IMAGE_CONFIG.Labels ?? {}).map(([key, value]) => `${key}=${value}`),
  );
  const { version } = JSON.parse(readText('node_modules/node/package.json'));
  expect(steps[0]).toEqual(['ARG', `BASE=node:${version}-bookworm-slim`]);
});

interface Ended {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

class Running {
  readonly child: ChildProcess;
  out = '';
  err = '';
  readonly ended: Promise<Ended>;

  constructor(command: readonly string[]) {
    this.child = confined(root, { user: IMAGE_CONFIG.User, environment: IMAGE_CONFIG.Env }, command);
    this.child.stdout?.on('data', (chunk) => {
      this.out += chunk;
    });
    this.child.stderr?.on('data', (chunk) => {
      this.err += chunk;
    });
    this.ended = new Promise((resolve) => {
      this.child.once('close', (code) => resolve({ code, out: this.out, err: this.err }));
    });
  }
}

const inside = (...command: readonly string[]): Promise<Ended> => new Running(command).ended;

function needsRoot(context: TestContext): void {
  const missing = cannotConfine();
  // skip: without root there is no other root file system
  if (missing !== null) context.skip(`the image was not started: ${missing}`);
}

test(
  'every entry point starts: read-only root, no rights, nothing but /tmp to write',
  async (context) => {
    needsRoot(context);
    for (const name of ['operator', 'transport', 'frontend'])
      expect(await inside(name, '--help')).toEqual({
        code: 0,
        out: `usage: node ${COMMANDS[name]} [--pod] CONFIG\n`,
        err: '',
      });
    for (const name of ['mailcluster', 'kubectl-mailcluster'])
      expect(await inside(name, 'version')).toMatchObject({
        code: 0,
        out: expect.stringContaining(process.version),
        err: '',
      });
    const look = `const fs = require('fs'); const tell = (f) => { try { return f(); } catch (e) { return e.code; } };
      console.log(JSON.stringify([process.getuid(), process.getgroups(), tell(() => fs.writeFileSync('/opt/mailcluster/x', '')),
        tell(() => fs.writeFileSync('/x', '')), tell(() => fs.writeFileSync('/tmp/x', '')), require('os').userInfo().username]))`;
    const seen = await inside('node', '-e', look);
    expect(JSON.parse(seen.out)).toEqual([10_001, [10_001], 'EROFS', 'EROFS', null, 'mailcluster']);
  },
  TIMEOUT_MS,
);

test(
  'every production dependency can be loaded, names resolve',
  async (context) => {
    needsRoot(context);
    const { dependencies } = JSON.parse(readText('package.json'));
    const load = `(async () => {
      await import('reflect-metadata');
      for (const name of ${JSON.stringify(Object.keys(dependencies))}) await import(name);
      console.log((await require('dns/promises').lookup('127.0.0.1')).address);
    })()`;
    writeFileSync(join(root, 'opt/mailcluster/load.cjs'), load);
    try {
      expect(await inside('node', '/opt/mailcluster/load.cjs')).toMatchObject({ code: 0, out: '127.0.0.1\n' });
    } finally {
      rmSync(join(root, 'opt/mailcluster/load.cjs'));
    }
  },
  TIMEOUT_MS,
);

test(
  'a whole cluster comes up out of it: operator, transports, front ends',
  async (context) => {
    needsRoot(context);
    mkdirSync(`${root}.files`, { recursive: true });
    writeFileSync(join(`${root}.files`, 'cluster.yaml'), readText('examples/two-site-dag.yaml'));
    const running = new Running(['mailcluster', 'run', '-f', '/tmp/cluster.yaml', '--state', '/tmp/state']);
    try {
      await until('the cluster to be ready', () => /ready/.test(running.out) || running.child.exitCode !== null, {
        deadlineMs: 120_000,
      });
    } finally {
      running.child.kill('SIGKILL');
      const { out, err } = await running.ended;
      expect(out + err).toMatch(/MailCluster contoso is ready: 4 transports, 2 front ends/);
    }
  },
  TIMEOUT_MS,
);
