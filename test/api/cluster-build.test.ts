/**
 * `test/cluster/build.sh` with a Go that only pretends, in a cache of its own: what it says when something is missing, that two builds at
 * once make one, and that nothing half-made is ever seen.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ROOT } from '../house/sources.ts';
import { until } from '../house/until.ts';

const BUILD = join(ROOT, 'test/cluster/build.sh');
const TOOLS = [
  'bash',
  'dirname',
  'printf',
  'sort',
  'head',
  'tail',
  'awk',
  'sed',
  'sha256sum',
  'cut',
  'mkdir',
  'flock',
  'touch',
  'find',
  'rm',
];
const MORE_TOOLS = [
  'df',
  'tr',
  'mktemp',
  'mv',
  'sync',
  'grep',
  'cat',
  'echo',
  'basename',
  'sleep',
  'chmod',
  'ls',
  'xargs',
];

/** Answers like Go; `build` waits until a file appears, so that a test can look meanwhile. */
const FAKE_GO = `#!/bin/bash
case $1 in
  env) case $2 in GOCACHE) echo "$DIR/go-cache" ;; GOVERSION) echo "go$GO_VERSION" ;; esac ;;
  list) [[ -z $LIST_FAILS ]] || { echo "$LIST_FAILS" >&2; exit 1; } ;;
  build)
    echo build >>"$DIR/builds"
    for ((i = 1; i <= $#; i++)); do [[ \${!i} == -o ]] && { j=$((i + 1)); out=\${!j}; }; done
    [[ -z $BUILD_FAILS ]] || { echo "$BUILD_FAILS" >&2; exit 1; }
    [[ \${!#} != . ]] || { echo whole >"$out/cert-manager"; chmod +x "$out/cert-manager"; exit; }
    echo half >"$out/kubectl"
    until [[ -e $DIR/go-on || ! -d $DIR ]]; do sleep 0.05; done
    for p in server kube-apiserver kube-controller-manager kube-scheduler kubectl helm; do echo whole >"$out/$p"; chmod +x "$out/$p"; done ;;
esac
`;

let directory = '';
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'mailcluster-build-'));
  await mkdir(join(directory, 'bin'));
  for (const tool of [...TOOLS, ...MORE_TOOLS]) {
    const { stdout } = await promisify(execFile)('bash', ['-c', `type -P ${tool}`]);
    await symlink(stdout.trim(), join(directory, 'bin', tool));
  }
});
const started: Run[] = [];
afterEach(async () => {
  for (const { child, done } of started.splice(0)) {
    // What a killed build started lives on in its group.
    if (child.exitCode === null && child.signalCode === null && child.pid !== undefined)
      process.kill(-child.pid, 'SIGKILL');
    await done;
  }
  await rm(directory, { recursive: true, force: true });
});

async function installGo(): Promise<void> {
  await writeFile(join(directory, 'bin/go'), FAKE_GO);
  await chmod(join(directory, 'bin/go'), 0o755);
}

interface Run {
  readonly child: ChildProcess;
  readonly done: Promise<{ readonly code: number | null; readonly output: string }>;
}

function start(args: readonly string[], environment: Readonly<Record<string, string>> = {}): Run {
  const env = {
    PATH: join(directory, 'bin'),
    HOME: directory,
    DIR: directory,
    XDG_CACHE_HOME: join(directory, 'cache'),
    GO_VERSION: '1.26.8',
  };
  const child = spawn(join(directory, 'bin/bash'), [BUILD, ...args], {
    env: { ...env, ...environment },
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
  const done = new Promise<{ code: number | null; output: string }>((resolve) =>
    child.once('close', (code) => resolve({ code, output })),
  );
  started.push({ child, done });
  return { child, done };
}

const run = (args: readonly string[], environment: Readonly<Record<string, string>> = {}) =>
  start(args, environment).done;
const builds = async (): Promise<number> =>
  (await readFile(join(directory, 'builds'), 'utf8').catch(() => '')).split('\n').length - 1;
const goOn = (): Promise<void> => writeFile(join(directory, 'go-on'), '');
const visible = async (): Promise<readonly string[]> => {
  const cache = join(directory, 'cache/mailcluster');
  const [programs] = (await readdir(cache)).filter((name) => name.startsWith('programs-'));
  return (await readdir(join(cache, programs ?? ''))).filter((name) => !name.startsWith('.')).sort();
};

describe('what is missing', () => {
  it('no Go: a stage is skipped, a person is told', async () => {
    const stage = await run(['--stage', 'api']);
    expect(stage).toMatchObject({ code: 0, output: expect.stringMatching(/^SKIPPED 1 in .*there is no go on PATH/) });
    expect(stage.output).toContain('\n0 passed, 0 failed, 1 skipped\n');
    expect(await run(['api'])).toMatchObject({ code: 3, output: expect.stringContaining('needs Go 1.25') });
  });

  it('a Go that is too old to fetch a newer one', async () => {
    await installGo();
    const { output } = await run(['--stage', 'api'], { GO_VERSION: '1.19.8' });
    expect(output).toContain('needs Go 1.25 or newer, go on PATH is 1.19.8');
  });

  it('no network: skipped; modules that are not what go.sum says: failed', async () => {
    await installGo();
    const offline = await run(['--stage', 'api'], { LIST_FAILS: 'dial tcp: no such host' });
    expect(offline).toMatchObject({
      code: 0,
      output: expect.stringMatching(/SKIPPED 1 .*cannot fetch the Go modules .*no such host/),
    });
    const forged = await run(['--stage', 'api'], { LIST_FAILS: 'verifying x@v1: checksum mismatch' });
    expect(forged).toMatchObject({ code: 1, output: expect.not.stringContaining('SKIPPED') });
  });

  it('a build that is broken fails and leaves nothing', async () => {
    await installGo();
    const { code, output } = await run(['--stage', 'api'], { BUILD_FAILS: 'syntax error' });
    expect({ code, output }).toEqual({ code: 1, output: expect.stringContaining('syntax error') });
    expect(output).not.toContain('passed');
    expect(await visible()).toEqual([]);
  });

  it('a directory of built programs that lacks one', async () => {
    const { code, output } = await run(['api'], { CLUSTER_BIN: directory });
    expect({ code, output }).toEqual({ code: 3, output: 'build.sh: CLUSTER_BIN has no etcd\n' });
  });
});

describe('the cache', () => {
  it('two builds at once make one, and programs appear whole', async () => {
    await installGo();
    const [one, two] = [start(['--stage', 'api']), start(['--stage', 'api'])];
    await until('a build to begin', async () => (await builds()) === 1, { deadlineMs: 15_000 });
    expect(await visible()).toEqual([]);
    await goOn();
    for (const { done } of [one, two])
      expect(await done).toMatchObject({ code: 0, output: expect.stringContaining('1 passed, 0 failed') });
    expect(await builds()).toBe(1);
    expect(await visible()).toEqual([
      'etcd',
      'helm',
      'kube-apiserver',
      'kube-controller-manager',
      'kube-scheduler',
      'kubectl',
    ]);
  });

  it('a killed build is made again', async () => {
    await installGo();
    const killed = start(['api']);
    await until('a build to begin', async () => (await builds()) === 1, { deadlineMs: 15_000 });
    killed.child.kill('SIGKILL');
    await goOn();
    await killed.done;
    expect(await run(['api'])).toMatchObject({ code: 0 });
    expect(await builds()).toBe(2);
    expect(await visible()).toHaveLength(6);
  });

  it('another Go version builds elsewhere, the same one not again', async () => {
    await installGo();
    await goOn();
    const where = async (version: string) =>
      (await run(['api'], { GO_VERSION: version })).output.trim().split('\n').at(-1);
    const first = await where('1.26.8');
    expect(await where('1.26.8')).toBe(first);
    expect(await builds()).toBe(1);
    expect(await where('1.26.9')).not.toBe(first);
    expect(await builds()).toBe(2);
  });

  it('cert-manager has a directory of its own', async () => {
    await installGo();
    await goOn();
    const where = async (...args: readonly string[]) => (await run(args)).output.trim().split('\n').at(-1);
    const programs = await where('api');
    const built = await where('cert-manager');
    expect(await readdir(built ?? '')).toEqual(['.made-from', 'cert-manager']);
    expect([await where('--where'), await where('--where', 'cert-manager')]).toEqual([programs, built]);
    await rm(join(directory, 'bin/go'));
    expect(await run(['--where', 'cert-manager'])).toEqual({ code: 0, output: `${built}\n` });
    expect(await builds()).toBe(2);
  });

  it('what is built is used without Go, and by a Go that is too old, until the sources change', async () => {
    await installGo();
    await goOn();
    const built = (await run(['api'])).output.trim().split('\n').at(-1);
    await rm(join(directory, 'bin/go'));
    for (const args of [['--where'], ['api']]) expect(await run(args)).toEqual({ code: 0, output: `${built}\n` });
    expect(await run(['--stage', 'api'])).toEqual({ code: 0, output: '1 passed, 0 failed, 0 skipped\n' });
    expect(await run(['node'])).toMatchObject({ code: 3, output: expect.stringContaining('no go on PATH') });
    await installGo();
    expect(await run(['--where'], { GO_VERSION: '1.19.8' })).toEqual({ code: 0, output: `${built}\n` });
    await rm(join(directory, 'bin/go'));
    await writeFile(join(built ?? '', '.made-from'), 'other sources\n');
    expect(await run(['--where'])).toMatchObject({ code: 3, output: expect.stringContaining('no go on PATH') });
    expect(await builds()).toBe(1);
  });
});
