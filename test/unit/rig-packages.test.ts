/** Programs of Debian packages that tests start are gone with them. */
import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { it } from 'vitest';
import { ROOT } from '../house/sources.ts';
import { until } from '../house/until.ts';

/** Under its own name: not yet as what starts it, and not as a zombie that nobody waited for. */
const isSleep = (pid: number): boolean =>
  existsSync(`/proc/${pid}`) && readFileSync(`/proc/${pid}/cmdline`, 'utf8').startsWith('sleep');

it('a program ends with the test that started it, even when that is killed', async (context) => {
  const script = `
    import { spawn } from 'node:child_process';
    import { commandIn } from ${JSON.stringify(join(ROOT, 'test/rigs/packages.ts'))};
    const { file, args } = commandIn({ root: '/', libraryPath: '' }, ['sleep', '60'], true);
    console.log(spawn(file, args, { stdio: 'ignore' }).pid);`;
  const holder = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  context.onTestFinished(() => void holder.kill('SIGKILL'));
  const pid = await new Promise<number>((resolve) =>
    createInterface({ input: holder.stdout }).once('line', (line) => resolve(Number(line))),
  );
  await until('the program itself to run', () => isSleep(pid), { deadlineMs: 5_000 });
  holder.kill('SIGKILL');
  await until('the program to be gone', () => !isSleep(pid), { deadlineMs: 5_000 });
});
