/** The runner of `make test` must not be able to pass by accident: every odd ending of a program is a failure. */
import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { judge, type Outcome, type Program, ProgramRunner, parseCounts } from '../house/program.ts';
import { until } from '../house/until.ts';

const program = (script: string, counts: Program['counts'] = 'lines'): Program => ({
  title: 'test program',
  command: [process.execPath, '-e', script],
  counts,
});

describe('counts of a program', () => {
  it('reads the last count line, with or without colours and skips', () => {
    expect(parseCounts('1 passed, 0 failed\n\u001b[32m 7 passed, 2 failed, 3 skipped\u001b[0m\nbye\n')).toEqual({
      passed: 7,
      failed: 2,
      skipped: 3,
    });
    expect(parseCounts('4 passed, 0 failed')).toEqual({ passed: 4, failed: 0, skipped: 0 });
    expect(parseCounts('Tests  4 passed (4)')).toBeNull();
  });

  it.each([
    ['no count line', 'all good', null],
    ['a zero run', '0 passed, 0 failed, 0 skipped', null],
    ['a bad exit code after clean counts', '5 passed, 0 failed', 'exit code 1'],
    ['failures with exit code 0', '5 passed, 1 failed', null],
  ])('fails on %s', (_, output, ended) => {
    const outcome = judge(program(''), output, ended);
    expect(outcome.counts.failed).toBeGreaterThan(0);
    expect(outcome.problem).not.toBeNull();
  });

  it('keeps the reasons of what was skipped and the names of what failed', () => {
    const skipped = 'SKIPPED 3 in test/process/dovecot.test.ts: needs dovecot-lmtpd';
    const failed = 'FAILED test/unit/a.test.ts: adds: expected 3 to be 4';
    const outcome = judge(program(''), `${skipped}\n${failed}\n1 passed, 1 failed, 3 skipped`, 'exit code 1');
    expect(outcome).toEqual({
      counts: { passed: 1, failed: 1, skipped: 3 },
      skipped: [skipped],
      failed: [failed],
      problem: 'exit code 1',
    });
  });
});

describe('running a program', () => {
  let directory = '';
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'mailcluster-runner-'));
  });
  afterEach(() => rm(directory, { recursive: true, force: true }));

  const run = (tested: Program, deadlineMs = 20_000): Promise<Outcome> =>
    new ProgramRunner().run(tested, deadlineMs, directory);

  it('passes a program which counts and ends well', async () => {
    const outcome = await run(program('console.log("2 passed, 0 failed, 1 skipped")'));
    expect(outcome.counts).toEqual({ passed: 2, failed: 0, skipped: 1 });
  });

  it('gives a program for idle time the processors that nobody else wants, and its output to whom it is told', async () => {
    const shown: string[] = [];
    const runner = new ProgramRunner({ inIdleTime: true, write: (chunk) => shown.push(String(chunk)) });
    const script = `console.log(require('node:child_process').execFileSync('chrt', ['-p', String(process.pid)], { encoding: 'utf8' }));
      console.log('1 passed, 0 failed')`;
    expect((await runner.run(program(script), 20_000, directory)).counts.passed).toBe(1);
    expect(shown.join('')).toContain('SCHED_IDLE');
  });

  it('counts a tool by its exit code', async () => {
    expect((await run(program('', 'exit'))).counts).toEqual({ passed: 1, failed: 0, skipped: 0 });
    expect((await run(program('process.exit(3)', 'exit'))).problem).toBe('exit code 3');
  });

  it('fails when the command does not exist', async () => {
    const outcome = await run({ title: 'absent', command: ['mailcluster-no-such-command'], counts: 'exit' });
    expect(outcome.counts.failed).toBe(1);
    expect(outcome.problem).toContain('could not be started');
  });

  it('kills the whole group at the deadline, a child that ignores SIGTERM included', async () => {
    const grandchild = 'process.on("SIGTERM", () => {}); setInterval(() => {}, 1000)';
    const script = `
      const child = require('node:child_process').spawn(process.execPath, ['-e', ${JSON.stringify(grandchild)}], { stdio: 'inherit' });
      require('node:fs').writeFileSync('pid', String(child.pid));
      console.log('1 passed, 0 failed');
      setInterval(() => {}, 1000);`;
    const outcome = await run(program(script), 3_000);
    expect(outcome.problem).toContain('deadline');
    expect(outcome.counts.failed).toBe(1);
    const pid = readFileSync(join(directory, 'pid'), 'utf8');
    // A signal that was sent is not yet a process that ended.
    await until('the grandchild to end', () => /gone|Z/.test(state(pid)), { deadlineMs: 10_000 });
  });
});

/** A killed orphan can stay a zombie in a container: ask /proc for its state. */
function state(pid: string): string {
  try {
    return /\) (\S)/.exec(readFileSync(`/proc/${pid}/stat`, 'utf8'))?.[1] ?? 'unreadable';
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 'gone';
    throw error;
  }
}
