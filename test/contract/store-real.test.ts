/** The segment log on the real disk: real processes killed, the inspector on a live database, a million records. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, expect, test } from 'vitest';
import { storeCommand } from '../../transport/inspect.ts';
import { until } from '../house/until.ts';
import { RealBench } from './bench.ts';
import { bodyOf, collect, commitOf, copyId, moveOf, readAll, stateOf, tombstoneOf } from './samples.ts';

const cleanups: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function directory(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'mc-store-'));
  cleanups.push(() => rm(path, { recursive: true, force: true }));
  return path;
}

interface Holder {
  readonly child: ChildProcess;
  readonly lines: string[];
}

function hold(path: string, first: number, count: number): Holder {
  const program = join(import.meta.dirname, 'store-holder.ts');
  const child = spawn(process.execPath, [program, path, String(first), String(count)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const lines: string[] = [];
  createInterface({ input: child.stdout as NodeJS.ReadableStream }).on('line', (line) => lines.push(line));
  cleanups.push(() => kill(child));
  return { child, lines };
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill('SIGKILL');
  await once(child, 'exit');
}

async function run(...args: string[]): Promise<{ code: number; out: string }> {
  const lines: string[] = [];
  const raw: Buffer[] = [];
  const code = await storeCommand(
    args,
    (line) => lines.push(line),
    async (bytes) => {
      raw.push(bytes);
    },
  );
  return { code, out: raw.length > 0 ? Buffer.concat(raw).toString('latin1') : lines.join('\n') };
}

test('kill -9 at many moments: the lock is free, everything confirmed is there', { timeout: 60_000 }, async () => {
  const root = await directory();
  const path = join(root, 'queue');
  let confirmed = -1;
  for (let round = 0; round < 5; round++) {
    const { child, lines } = hold(path, confirmed + 1, 100_000);
    const target = 30 + round * 57;
    await until('confirmations', () => lines.length > target, { deadlineMs: 20_000, everyMs: 5 });
    await kill(child);
    const last = lines.filter((line) => line.startsWith('done ')).pop() ?? 'done -1';
    confirmed = Math.max(confirmed, Number(last.slice(5)));
    const view = JSON.parse((await run('inspect', path, '-o', 'json')).out);
    expect(view.member).toBe('hub-0');
    // One open by the process that was killed, one by the look at what it left.
    expect(view.chain.length).toBe(2 * round + 1);
    const bench = new RealBench(root, 256 * 1024);
    const store = await bench.open();
    expect(store.recovered.quarantined).toEqual([]);
    const known = new Set([
      ...store.recovered.copies.map((copy) => copy.facts.id),
      ...(await collect(store.safetyNet({}))).map((entry) => entry.id),
    ]);
    for (let n = 0; n <= confirmed; n++) expect(known.has(copyId(n)), `copy ${n} of ${confirmed}`).toBe(true);
    expect((await readAll(store, copyId(confirmed))).equals(bodyOf(copyId(confirmed), 2000))).toBe(true);
    // The copy after the last confirmed one may be there as well.
    if (known.has(copyId(confirmed + 1))) confirmed += 1;
    await store.close();
  }
});

test('while another process holds it, opening is refused and inspecting works', { timeout: 60_000 }, async () => {
  const root = await directory();
  const path = join(root, 'queue');
  const { child, lines } = hold(path, 0, 40);
  await until('the holder is idle', () => lines.includes('idle'), { deadlineMs: 20_000 });
  const bench = new RealBench(root, 256 * 1024);
  await expect(bench.open()).rejects.toMatchObject({ code: 'LOCKED' });
  const before = await Promise.all(
    (await readdir(path)).map(async (name) => [name, (await stat(join(path, name))).mtimeMs]),
  );
  const view = await until(
    'the last sync is confirmed on disk',
    async () => {
      const found = JSON.parse((await run('inspect', path, '-o', 'json')).out);
      return found.unconfirmedRecords === 0 ? found : null;
    },
    { deadlineMs: 5000 },
  );
  expect(view.copies.length + view.safetyNet.length).toBe(40);
  expect(view.safetyNet.every((copy: { queue: string }) => copy.queue === 'primarySafetyNet')).toBe(true);
  expect(view.copies[0]).toMatchObject({
    id: copyId(1),
    queue: 'delivery',
    standing: 'intake',
    sizeBytes: 2000,
    from: 'söndér@example.net',
  });
  const whole = await run('verify', path);
  expect(whole).toEqual({ code: 0, out: '40 copies verified, 0 damaged' });
  const table = await run('inspect', path);
  expect(table.out).toContain(copyId(3));
  const exported = await run('export', path, copyId(7));
  expect(exported).toEqual({ code: 0, out: bodyOf(copyId(7), 2000).toString('latin1') });
  expect((await run('export', path, copyId(99))).code).toBe(1);
  const out = join(root, 'out');
  expect((await run('export', path, '--all', out)).code).toBe(0);
  expect((await readFile(join(out, `${copyId(6)}.eml`))).equals(bodyOf(copyId(6), 2000))).toBe(true);
  expect((await readdir(out)).length).toBe(40);
  const names = (await readdir(path)).sort();
  expect(names).toEqual(before.map(([name]) => name).sort());
  await kill(child);
  const store = await bench.open();
  expect(store.recovered.copies.length).toBe(26);
  await store.close();
});

test('verify finds damage and says where; usage errors are code 2', async () => {
  const bench = await RealBench.make();
  cleanups.push(() => bench.dispose());
  const store = await bench.open();
  for (let n = 0; n < 3; n++)
    await store.commit([commitOf(store, copyId(n), bodyOf(copyId(n), 3000), stateOf('shadow'))]);
  await store.commit([moveOf(copyId(2), 'shadow', 'mbx1', 5)]);
  await store.close();
  const path = join(bench.directory, 'queue');
  expect((await run('verify', path)).code).toBe(0);
  const { nodeFiles } = await import('../../common/platform/node-files.ts');
  const handle = await nodeFiles.open(join(path, 'segment-000001'), 'write');
  const bytes = Buffer.alloc(64 * 1024);
  await handle.read(bytes, 0, bytes.length, 0);
  const at = bytes.indexOf(bodyOf(copyId(1), 3000));
  await handle.writev([Buffer.from([(bytes[at + 9] ?? 0) ^ 4])], at + 9);
  await handle.close();
  const found = await run('verify', path);
  expect(found.code).toBe(1);
  expect(found.out).toContain(copyId(1));
  expect((await run('export', path, copyId(1))).code).toBe(1);
  expect((await run('export', path, copyId(0))).code).toBe(0);
  expect((await run('inspect', join(bench.directory, 'nothing'))).code).toBe(2);
  expect((await run('inspect')).code).toBe(2);
  expect((await run('--help')).code).toBe(0);
});

test('a million records: written and opened again in bounded time', { timeout: 120_000 }, async () => {
  const bench = new RealBench(await directory(), 64 << 20);
  let store = await bench.open();
  const budgetMs = 30_000;
  const copies = 1000;
  for (let n = 0; n < copies; n++)
    void store.commit([commitOf(store, copyId(n), bodyOf(copyId(n), 100), stateOf('delivery'))]);
  await store.commit([]);
  const begin = performance.now();
  let records = 2 * copies;
  let slowest = 0;
  for (let round = 0; records < 1_000_000 && performance.now() - begin < budgetMs; round++) {
    const calls: Promise<void>[] = [];
    for (let n = 0; n < copies; n++)
      calls.push(store.commit([{ kind: 'state', id: copyId(n), state: stateOf('delivery', { attempts: round }) }]));
    calls.push(store.commit([{ kind: 'tombstone', tombstone: tombstoneOf(copyId(round)) }]));
    const started = performance.now();
    await Promise.all(calls);
    slowest = Math.max(slowest, performance.now() - started);
    records += calls.length;
  }
  const writeMs = performance.now() - begin;
  const expected = store.syncedSequence;
  await store.close();
  const opening = performance.now();
  store = await bench.open();
  const openMs = performance.now() - opening;
  expect(store.recovered.copies.length).toBe(copies);
  expect(store.syncedSequence).toBeGreaterThanOrEqual(expected);
  await store.close();
  console.log(
    `${records} records in ${Math.round(writeMs)} ms (${Math.round(records / writeMs)}k/s), slowest 1000: ${Math.round(slowest)} ms, reopen ${Math.round(openMs)} ms`,
  );
  expect(records).toBeGreaterThan(100_000);
  expect(openMs).toBeLessThan(5000);
});
