/**
 * What queued copies cost the store: memory and time of writing, of opening again (after a close, after a kill), with somebody who keeps
 * the recovered copies as the core does. A measurement, not a test. Each phase is a process of its own, so that its peak is its own.
 *
 *   node test/bench/store-memory.ts [--copies 100000] [--bytes 4096]
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
import { Compactor } from '../../transport/store/compact.ts';
import type { QueueDatabase, StoredCopy } from '../../transport/store/database.ts';
import { openSegmentLog } from '../../transport/store/segment-log.ts';
import { benchId, commitBench, wireState } from './store-copies.ts';

const { values } = parseArgs({
  options: {
    copies: { type: 'string', default: '100000' },
    bytes: { type: 'string', default: '4096' },
    phase: { type: 'string' },
    directory: { type: 'string' },
    /** Options for node, separated by commas. */
    node: { type: 'string', default: '' },
  },
});
const copies = Number(values.copies);
const MIB = 1024 * 1024;

const field = (name: string): number =>
  Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? 0) / 1024;

function report(what: string, more: Record<string, number> = {}): void {
  for (let i = 0; i < 3; i++) (globalThis as { gc?: () => void }).gc?.();
  const { heapUsed, external, arrayBuffers } = process.memoryUsage();
  const { user, system } = process.cpuUsage();
  const all = {
    ...more,
    cpuMs: (user + system) / 1000,
    peakMiB: field('VmHWM'),
    rssAfterGcMiB: field('VmRSS'),
    heapMiB: heapUsed / MIB,
    externalMiB: (external + arrayBuffers) / MIB,
    heapPerCopyB: heapUsed / copies,
  };
  const shown = Object.entries(all).map(([name, value]) => `${name} ${value.toFixed(value < 10 ? 2 : 0)}`);
  process.stdout.write(`${what.padEnd(16)} ${shown.join('  ')}\n`);
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

/** As the core keeps them. */
interface Kept {
  readonly facts: StoredCopy['facts'];
  state: StoredCopy['state'];
}

async function write(directory: string, end: 'close' | 'kill'): Promise<void> {
  const store = await open(directory);
  const kept = new Map<string, Kept>();
  const compactor = new Compactor();
  const bytes = Buffer.alloc(Number(values.bytes), 'x');
  const started = performance.now();
  for (let n = 0; n < copies; ) {
    const calls: Promise<void>[] = [];
    for (let i = 0; i < 100 && n < copies; i++, n++) {
      const { facts, state, done } = commitBench(store, n, bytes, compactor);
      calls.push(done);
      kept.set(facts.id, { facts, state });
    }
    await Promise.all(calls);
    compactor.pack([...kept.values()].slice(-calls.length).map(({ facts }) => facts));
    for (let i = 0; i < calls.length; i++) {
      const id = benchId(n - calls.length + i);
      const state = compactor.state(wireState(n, 'delivery'));
      store.note([{ kind: 'state', id, state }]);
      const copy = kept.get(id);
      if (copy !== undefined) copy.state = state;
    }
  }
  const writeMs = performance.now() - started;
  report(`write, ${end}`, { writeMs, copies: kept.size });
  if (end === 'kill') process.kill(process.pid, 'SIGKILL');
  await store.close();
}

async function reopen(directory: string, end: 'close' | 'kill'): Promise<void> {
  report('empty process');
  const compactor = new Compactor();
  const started = performance.now();
  const store = await open(directory);
  const kept = new Map<string, Kept>();
  for (const { facts, state } of store.recovered.copies)
    kept.set(facts.id, { facts, state: compactor.state({ ...state, queue: 'submission' }) });
  store.releaseRecovered();
  const openMs = performance.now() - started;
  report('open', { openMs, copies: kept.size, quarantined: store.recovered.quarantined.length });
  if (end === 'kill') process.kill(process.pid, 'SIGKILL');
  const closing = performance.now();
  await store.close();
  report('closed', { closeMs: performance.now() - closing });
}

function child(phase: string, directory: string): void {
  const flags = values.node.split(',').filter((flag) => flag !== '');
  const options = ['--expose-gc', ...flags, import.meta.filename, '--phase', phase, '--directory', directory];
  const done = spawnSync(process.execPath, [...options, '--copies', `${copies}`, '--bytes', `${values.bytes}`], {
    encoding: 'utf8',
  });
  process.stdout.write(`--- ${phase}\n${done.stdout}${done.stderr}`);
}

if (values.phase !== undefined && values.directory !== undefined) {
  const [what, end] = values.phase.split('-') as ['write' | 'open', 'close' | 'kill'];
  await (what === 'write' ? write : reopen)(values.directory, end);
} else {
  const root = mkdtempSync(join(tmpdir(), 'mc-bench-'));
  try {
    for (const end of ['close', 'kill'])
      for (const phase of [`write-${end}`, 'open-kill', 'open-close', 'open-close']) child(phase, join(root, end));
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}
