/** How a program of ours ends: signals, a lost parent, uncaught errors; and what it leaves in its log. Real processes. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { until } from '../house/until.ts';

let directory = '';
const children: ChildProcess[] = [];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'mailcluster-lifecycle-'));
});

afterEach(async () => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
  await rm(directory, { recursive: true, force: true });
});

const platform = (name: string): string => new URL(`../../common/platform/${name}`, import.meta.url).href;

interface Program {
  readonly process: ChildProcess;
  readonly messages: unknown[];
  log(): readonly Readonly<Record<string, unknown>>[];
  readonly exited: Promise<string>;
}

/** `stop` and `then` are code of the program: how it stops, and what it does once it is ready. */
async function program(stop: string, then: string, graceMs = 5_000): Promise<Program> {
  const file = join(directory, 'program.mjs');
  await writeFile(
    file,
    `import { startLifecycle } from ${JSON.stringify(platform('lifecycle.ts'))};
import { createLogger } from ${JSON.stringify(platform('pino-logger.ts'))};
import { InvariantError } from ${JSON.stringify(platform('assert.ts'))};
const logger = createLogger({ fields: { program: 'test', name: 'one' }, level: 'info', descriptor: 1 });
const keep = setInterval(() => undefined, 1000);
const lifecycle = startLifecycle({
  logger, graceMs: ${graceMs}, reload: () => logger.info({}, 'reloaded'),
  stop: async (reason) => { ${stop} },
});
lifecycle.ready({ port: 4711 });
${then}
`,
  );
  const child = spawn(process.execPath, [file], { stdio: ['ignore', 'pipe', 'inherit', 'ipc'] });
  children.push(child);
  let text = '';
  child.stdout?.on('data', (chunk: Buffer) => {
    text += chunk.toString('utf8');
  });
  const messages: unknown[] = [];
  child.on('message', (message) => messages.push(message));
  const exited = new Promise<string>((resolve) =>
    child.once('exit', (code, signal) => resolve(String(signal ?? code))),
  );
  const log = () =>
    text
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  const started = { process: child, messages, log, exited };
  await until('it is ready', () => messages.length > 0, { deadlineMs: 10_000 });
  return started;
}

test('SIGTERM: ready was told, stop runs once, exit 0; SIGHUP and a message reload', async () => {
  const one = await program("logger.info({ reason }, 'closing')", '');
  one.process.kill('SIGHUP');
  one.process.send({ kind: 'reload' });
  one.process.send({ kind: 'something newer' });
  await until('reloaded twice', () => one.log().filter((line) => line.msg === 'reloaded').length === 2, {
    deadlineMs: 5_000,
  });
  one.process.kill('SIGTERM');
  expect(await one.exited).toBe('0');
  expect(one.messages).toEqual([{ kind: 'ready', port: 4711 }]);
  expect(one.log().map(({ level, msg, name }) => [level, msg, name])).toEqual([
    ['info', 'ready', 'one'],
    ['info', 'reloaded', 'one'],
    ['info', 'reloaded', 'one'],
    ['info', 'stopping', 'one'],
    ['info', 'closing', 'one'],
    ['info', 'stopped', 'one'],
  ]);
});

test('a parent that is gone stops the program', async () => {
  const one = await program('', '');
  one.process.disconnect();
  expect(await one.exited).toBe('0');
  expect(one.log().find(({ msg }) => msg === 'stopping')).toMatchObject({ reason: 'parent gone' });
});

test('a stop that hangs ends with the grace period, a second signal at once', async () => {
  const slow = await program('await new Promise(() => undefined)', '', 300);
  slow.process.kill('SIGTERM');
  expect(await slow.exited).toBe('1');
  expect(slow.log().at(-1)).toMatchObject({ level: 'error', msg: 'stopping took too long' });
  const hasty = await program('await new Promise(() => undefined)', '', 60_000);
  hasty.process.kill('SIGTERM');
  await until('it is stopping', () => hasty.log().some(({ msg }) => msg === 'stopping'), { deadlineMs: 5_000 });
  hasty.process.kill('SIGINT');
  expect(await hasty.exited).toBe('1');
});

test('an uncaught error, a rejection and a broken invariant end it with a logged reason the parent hears', async () => {
  const cases = [
    ["setImmediate(() => { throw new Error('out of luck'); });", 'out of luck'],
    ["void Promise.reject(Object.assign(new Error('no space'), { code: 'ENOSPC' }));", 'ENOSPC: no space'],
    ["setImmediate(() => { throw new InvariantError('two owners', { id: 7 }); });", 'INVARIANT: two owners {"id":7}'],
    ["lifecycle.fatal('the disk is gone', 'mount it');", 'the disk is gone'],
  ] as const;
  for (const [code, reason] of cases) {
    const one = await program('', code);
    expect(await one.exited).toBe('70');
    expect(one.messages[1]).toMatchObject({ kind: 'fatal', reason });
    expect(one.log().at(-1)).toMatchObject({ level: 'error', msg: 'fatal', reason });
  }
});

test('log lines: ISO time, child fields, errors with stack, no passwords', async () => {
  const one = await program(
    '',
    `const connection = logger.child({ attemptId: '01J' });
connection.warn({ error: new TypeError('bad'), password: 'secret', user: { password: 'secret' } }, 'what happened');
connection.debug({}, 'not shown');`,
  );
  one.process.kill('SIGTERM');
  await one.exited;
  const line = one.log().find(({ msg }) => msg === 'what happened');
  expect(line).toMatchObject({
    level: 'warn',
    attemptId: '01J',
    program: 'test',
    error: { type: 'TypeError', message: 'bad' },
  });
  expect(line?.time).toMatch(/^\d{4}-\d\d-\d\dT.*Z$/);
  expect(JSON.stringify(line)).not.toContain('secret');
  expect(one.log().some(({ msg }) => msg === 'not shown')).toBe(false);
});
