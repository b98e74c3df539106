/**
 * What copies at rest cost the store: memory and time of writing, of opening again, of a resubmission (a window of 100,000 entries, page
 * by page), of asking for ids that are not there. A measurement, not a test. Each phase is a process of its own.
 *
 *   node test/bench/store-net.ts [--entries 1000000] [--bytes 200] [--window 100000] [--node --max-semi-space-size=8]
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { systemClock } from '../../common/platform/clock.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { nodeFiles } from '../../common/platform/node-files.ts';
import { systemRandom } from '../../common/platform/random.ts';
import type { QueueDatabase, SafetyNetPosition } from '../../transport/store/database.ts';
import { openSegmentLog } from '../../transport/store/segment-log.ts';
import { benchId, wireFacts, wireState } from './store-copies.ts';

const { values } = parseArgs({
  options: {
    entries: { type: 'string', default: '1000000' },
    bytes: { type: 'string', default: '200' },
    window: { type: 'string', default: '100000' },
    phase: { type: 'string' },
    directory: { type: 'string' },
    node: { type: 'string', default: '' },
  },
});
const entries = Number(values.entries);
const MIB = 1024 * 1024;
/** As `store-copies.ts` dates them. */
const finalAtMs = (n: number): number => 1_700_000_000_000 + n * 7;

const field = (name: string): number =>
  Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? 0) / 1024;

function report(what: string, more: Record<string, number>): void {
  const { user, system } = process.cpuUsage();
  const memory = {
    cpuMs: (user + system) / 1000,
    peakMiB: field('VmHWM'),
    heapMiB: process.memoryUsage().heapUsed / MIB,
  };
  const shown = Object.entries({ ...more, ...memory }).map(
    ([name, value]) => `${name} ${value.toFixed(value < 10 ? 2 : 0)}`,
  );
  process.stdout.write(`${what.padEnd(18)} ${shown.join('  ')}\n`);
}

const open = (directory: string): Promise<QueueDatabase> =>
  openSegmentLog({
    directory,
    files: nodeFiles,
    clock: systemClock,
    random: systemRandom,
    log: silentLogger,
    segmentBytes: 64 * MIB,
    reserveBytes: 128 * MIB,
    onFatal: (reason) => {
      throw reason;
    },
    member: 'hub-0',
  });

async function write(directory: string): Promise<void> {
  const store = await open(directory);
  const bytes = Buffer.alloc(Number(values.bytes), 'x');
  const started = performance.now();
  for (let n = 0; n < entries; ) {
    const calls: Promise<void>[] = [];
    for (let i = 0; i < 500 && n < entries; i++, n++) {
      const id = benchId(n);
      const body = store.beginBody(id);
      void body.append(bytes);
      const facts = wireFacts(n, body.digest(), bytes.length);
      const state = wireState(n, n % 2 === 0 ? 'primarySafetyNet' : 'shadowSafetyNet');
      const arriving = { ...state, queue: 'delivery' as const };
      calls.push(
        store.commit([
          { kind: 'commit', facts, state: arriving, body },
          { kind: 'move', id, state },
        ]),
      );
    }
    await Promise.all(calls);
  }
  report('write', { ms: performance.now() - started, segments: store.space().segments });
  await store.close();
}

async function read(directory: string): Promise<void> {
  const opening = performance.now();
  const store = await open(directory);
  const { primary, shadow } = store.safetyNetCounts();
  report('open', { ms: performance.now() - opening, entries: primary.messages + shadow.messages });
  await walk(store);
  const absent = performance.now();
  for (let n = 0; n < 2000; n++) if ((await store.lookup(benchId(-1 - n))) !== null) throw new Error('it is not there');
  report('2000 absent ids', { ms: performance.now() - absent });
  const present = performance.now();
  for (let n = 0; n < 500; n++)
    if ((await store.lookup(benchId(Math.floor((n * entries) / 500)))) === null) throw new Error('it is there');
  report('500 present ids', { ms: performance.now() - present });
  const all = performance.now();
  let listed = 0;
  for await (const _ of store.safetyNet({ database: 'mbx-3' })) listed += 1;
  report('whole list', { ms: performance.now() - all, listed });
  await store.close();
}

/** A failover: the last entries of the net, with their copies. */
async function walk(store: QueueDatabase): Promise<void> {
  const filter = { role: 'primary' as const, fromMs: finalAtMs(Math.max(0, entries - 2 * Number(values.window))) };
  const through = store.safetyNetEnd();
  const started = performance.now();
  let firstMs = 0;
  let copies = 0;
  let after: SafetyNetPosition | undefined;
  for (let next: SafetyNetPosition | null | undefined; next !== null; after = next ?? undefined) {
    const page = await store.safetyNetCopies({ ...filter, through, ...(after !== undefined && { after }) }, 100);
    if (firstMs === 0) firstMs = performance.now() - started;
    copies += page.copies.length;
    next = page.next;
  }
  report('walk with copies', { copies, firstMs, ms: performance.now() - started });
}

function child(phase: string, directory: string): void {
  const flags = values.node.split(',').filter((flag) => flag !== '');
  const size = ['--entries', `${entries}`, '--bytes', values.bytes, '--window', values.window];
  const args = [...flags, import.meta.filename, '--phase', phase, '--directory', directory, ...size];
  const done = spawnSync(process.execPath, args, { encoding: 'utf8' });
  process.stdout.write(`--- ${phase}\n${done.stdout}${done.stderr}`);
}

if (values.phase === 'write' && values.directory !== undefined) await write(values.directory);
else if (values.phase === 'read' && values.directory !== undefined) await read(values.directory);
else {
  const root = mkdtempSync(join(tmpdir(), 'mc-bench-'));
  try {
    for (const phase of ['write', 'read']) child(phase, join(root, 'queue'));
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}
