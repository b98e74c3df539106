/**
 * Every program entry loads under plain Node. vitest transforms what it imports, so a file that type stripping refuses, or an import
 * that only a bundler resolves, would pass every other test.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ROOT } from '../house/sources.ts';

const ENTRIES = [
  'frontend/main.ts',
  'transport/main.ts',
  'transport/inspect.ts',
  'operator/cli/main.ts',
  'operator/maildir/main.ts',
];

describe.each(ENTRIES)('%s', (entry) => {
  let directory = '';
  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'mailcluster-entry-'));
  });
  afterAll(() => rm(directory, { recursive: true, force: true }));

  const start = (...args: string[]) => {
    const options = { cwd: directory, encoding: 'utf8', timeout: 15_000, killSignal: 'SIGKILL' } as const;
    return spawnSync(process.execPath, [join(ROOT, entry), ...args], options);
  };

  it('exists', () => expect(existsSync(join(ROOT, entry))).toBe(true));

  it('without arguments says how to use it on stderr and exits 2', () => {
    const result = start();
    expect({ code: result.status, signal: result.signal }).toEqual({ code: 2, signal: null });
    expect(result.stderr).toMatch(/usage/i);
    expect(`${result.stdout}${result.stderr}`).not.toMatch(/^\s+at .*:\d+:\d+/m);
  });

  it('with an argument it does not know exits 2 without a stack trace', () => {
    const result = start('--no-such-option');
    expect({ code: result.status, signal: result.signal }).toEqual({ code: 2, signal: null });
    expect(`${result.stdout}${result.stderr}`).not.toMatch(/^\s+at .*:\d+:\d+/m);
  });

  it('with --help says how to use it on stdout and exits 0', () => {
    const result = start('--help');
    expect({ code: result.status, signal: result.signal, stderr: result.stderr }).toEqual({
      code: 0,
      signal: null,
      stderr: '',
    });
    expect(result.stdout).toMatch(/usage/i);
  });
});
