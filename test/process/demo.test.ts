/** `make demo` itself, with fewer letters: it must end with its verdict, leave no process and no file, and say no where it must. */
import { execFile } from 'node:child_process';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { ROOT } from '../house/sources.ts';

const DEADLINE_MS = 300_000;

interface Ended {
  readonly code: number | string | null;
  readonly output: string;
}

function demo(temporary: string, ...args: string[]): Promise<Ended> {
  return new Promise((resolve) => {
    const options = {
      cwd: ROOT,
      timeout: DEADLINE_MS - 20_000,
      maxBuffer: 16 * 1024 * 1024,
      env: { ...process.env, TMPDIR: temporary },
    };
    execFile(process.execPath, [join(ROOT, 'examples/demo.ts'), ...args], options, (error, stdout, stderr) =>
      resolve({ code: error === null ? 0 : (error.code ?? error.signal ?? null), output: `${stdout}${stderr}` }),
    );
  });
}

let temporary: string | null = null;
afterEach(async () => {
  if (temporary !== null) await rm(temporary, { recursive: true, force: true });
  temporary = null;
});

it(
  'passes with 60 letters, four kills of which two take a disk along, a failover, a drain, and nothing left behind',
  async () => {
    temporary = await mkdtemp(join(tmpdir(), 'demo-test-'));
    const { code, output } = await demo(temporary, '--count', '60');
    expect(output).toContain('PASSED');
    expect(code, output).toBe(0);
    expect(output.match(/SIGKILL to/g)).toHaveLength(4);
    // The story that was told is the one that was played.
    expect(output).toMatch(/SIGKILL to transport \S+ \(pid \d+\), and its disk is gone/);
    expect(output).toMatch(/the others know it and took over/);
    expect(output).toMatch(/(\d+) of the \1 are back/);
    expect(output).toMatch(/RESUBMIT .* sent again out of Safety Net/);
    expect(output).toMatch(/has handed over [1-9]\d* copies and is gone/);
    expect(output).toMatch(/ 0 {2}missing\n.* 0 {2}visible duplicates\n/);
    // A command may be longer: it names the temporary directory.
    expect(output.split('\n').filter((line) => line.length > 100 && !/^ +\$ /.test(line))).toEqual([]);
    expect(await readdir(temporary)).toEqual([]);
  },
  DEADLINE_MS,
);

it('refuses a wrong command line with exit code 2 and starts nothing', async () => {
  temporary = await mkdtemp(join(tmpdir(), 'demo-test-'));
  expect((await demo(temporary, '--count', 'many')).code).toBe(2);
  expect((await demo(temporary, '--cuont', '5')).code).toBe(2);
  expect(await readdir(temporary)).toEqual([]);
});
