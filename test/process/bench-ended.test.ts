/** A measurement that is ended in the middle leaves nothing behind, nothing of Postfix either: no process, no directory. The real bench. */
import { type ChildProcess, spawn } from 'node:child_process';
import { chmod, mkdtemp, readdir, readFile, rm, statfs } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, type TestContext, test } from 'vitest';
import { below, isRunning } from '../bench/proc.ts';
import { ROOT } from '../house/sources.ts';
import { until } from '../house/until.ts';
import { postfixTool } from '../rigs/postfix.ts';

const TMPFS_MAGIC = 0x01021994;
/** Longer than it takes to see it at work. */
const LONG = ['--rows', '4k-10', '--scale', '20'];

let directory: string;
let bench: ChildProcess | null;
/** Also what is below nobody of ours any more. */
let known: readonly number[];
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'mailcluster-ended-'));
  // Postfix' programs run as another user and must get through.
  await chmod(directory, 0o755);
  bench = null;
  known = [];
});
afterEach(async () => {
  const pid = bench?.pid;
  const left = new Set([...known, ...(pid === undefined ? [] : [pid, ...below(pid)])].filter(isRunning));
  for (const one of left) process.kill(one, 'SIGKILL');
  await until('all of it to be gone', () => ![...left].some(isRunning), { deadlineMs: 30_000 });
  await rm(directory, { recursive: true, force: true, maxRetries: 10 });
}, 60_000);

async function skipWhereItCannotRun(context: TestContext): Promise<void> {
  const tool = await postfixTool('smtp-source', []);
  // skip: Postfix comes from a Debian package and its master wants root, the bench wants a disk
  if ('missing' in tool) context.skip(tool.missing);
  else if (process.getuid?.() !== 0) context.skip('postfix: its master must be started by root');
  else if ((await statfs(directory)).type === TMPFS_MAGIC) context.skip(`${directory} is in memory, not on a disk`);
}

/** Names of what runs below it, by id. */
async function running(pid: number): Promise<ReadonlyMap<number, string>> {
  const named = below(pid).map(async (one) => {
    const name = await readFile(`/proc/${one}/comm`, 'latin1').catch(() => '');
    return [one, name.trim()] as const;
  });
  return new Map(await Promise.all(named));
}

test.for([
  ['SIGINT', 130, 'postfix', ['master', 'qmgr', 'smtpd', 'smtp-source']],
  ['SIGTERM', 143, 'mailcluster', ['smtp-source']],
] as const)(
  'by %s, code %d, while %s is under load',
  { timeout: 180_000 },
  async ([signal, expected, side, atWork], context) => {
    await skipWhereItCannotRun(context);
    const child = spawn(process.execPath, [join(ROOT, 'test/bench/accept.ts'), ...LONG, '--only', side], {
      env: { ...process.env, TMPDIR: directory },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    bench = child;
    let said = '';
    child.stderr.on('data', (chunk: Buffer) => {
      said += chunk.toString();
    });
    const pid = child.pid ?? 0;
    const seen = await until(
      'it to be at work',
      async () => {
        if (child.exitCode !== null) return new Map<number, string>();
        const found = await running(pid);
        const names = [...found.values()];
        return atWork.every((name) => names.includes(name)) ? found : null;
      },
      { deadlineMs: 120_000 },
    );
    known = [...seen.keys()];
    expect([known.length > 0, said]).toEqual([true, '']);
    expect(await readdir(directory)).toHaveLength(1);
    child.kill(signal);
    await until('its end', () => child.exitCode !== null || child.signalCode !== null, { deadlineMs: 60_000 });
    expect([child.exitCode, said]).toEqual([expected, '']);
    expect([...seen].filter(([one]) => isRunning(one))).toEqual([]);
    expect(await readdir(directory)).toEqual([]);
  },
);
