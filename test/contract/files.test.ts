/** The disk port: both implementations, and what the simulated one does on top. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { nodeFiles } from '../../common/platform/node-files.ts';
import { SimDisk } from '../sim/disk.ts';
import type { Incarnation } from '../sim/incarnation.ts';
import { Scheduler } from '../sim/scheduler.ts';
import { drive } from './bench.ts';
import { filesContract } from './files.ts';

filesContract('simulated', async () => {
  const scheduler = new Scheduler(1);
  const files = new SimDisk(scheduler).files({ alive: true });
  return { files, directory: '/v', run: (work) => drive(scheduler, work), dispose: async () => undefined };
});

filesContract('real', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'mc-files-'));
  const dispose = (): Promise<void> => rm(directory, { recursive: true, force: true });
  return { files: nodeFiles, directory, run: (work) => work, dispose };
});

describe('the simulated disk', () => {
  interface Sim {
    readonly scheduler: Scheduler;
    readonly disk: SimDisk;
    readonly life: Incarnation;
    run<T>(work: Promise<T>): Promise<T>;
  }
  const make = (seed: number): Sim => {
    const scheduler = new Scheduler(seed);
    return { scheduler, disk: new SimDisk(scheduler), life: { alive: true }, run: (work) => drive(scheduler, work) };
  };

  test('a crash keeps everything synced, and of the rest each sector or not', async () => {
    const outcomes = new Set<string>();
    for (let seed = 1; seed <= 200; seed++) {
      const { disk, life, run } = make(seed);
      const files = disk.files(life);
      await run(files.makeDirectory('/v'));
      const handle = await run(files.open('/v/a', 'create'));
      await run(handle.writev([Buffer.alloc(2048, 'a')], 0));
      await run(handle.datasync());
      await run(files.syncDirectory('/v'));
      await run(handle.writev([Buffer.alloc(1024, 'b')], 512));
      disk.crash();
      const bytes = disk.bytesOf('/v/a');
      expect(bytes.length).toBe(2048);
      expect(bytes.subarray(0, 512).equals(Buffer.alloc(512, 'a'))).toBe(true);
      expect(bytes.subarray(1536).equals(Buffer.alloc(512, 'a'))).toBe(true);
      const sector = (at: number): string => {
        const text = bytes.toString('latin1', at, at + 512);
        return /^a+$/.test(text) ? 'old' : /^b+$/.test(text) ? 'new' : /^b+a+$/.test(text) ? 'torn' : 'wrong';
      };
      outcomes.add(`${sector(512)} ${sector(1024)}`);
    }
    expect([...outcomes].some((outcome) => outcome.includes('wrong'))).toBe(false);
    for (const wanted of ['old old', 'new new', 'new old', 'old new']) expect(outcomes).toContain(wanted);
    expect([...outcomes].some((outcome) => outcome.includes('torn'))).toBe(true);
  });

  test('names that were not synced may vanish', async () => {
    const seen = new Set<boolean>();
    for (let seed = 1; seed <= 30; seed++) {
      const { disk, life, run } = make(seed);
      const files = disk.files(life);
      await run(files.makeDirectory('/v'));
      const handle = await run(files.open('/v/a', 'create'));
      await run(handle.datasync());
      disk.crash();
      seen.add((await run(disk.files({ alive: true }).list('/v'))).includes('a'));
    }
    expect(seen.size).toBe(2);
  });

  test('a failed sync loses the pages for good, a later sync does not bring them back', async () => {
    let lost = 0;
    for (let seed = 1; seed <= 20; seed++) {
      const { disk, life, run } = make(seed);
      const files = disk.files(life);
      await run(files.makeDirectory('/v'));
      const handle = await run(files.open('/v/a', 'create'));
      await run(handle.writev([Buffer.alloc(512, 'a')], 0));
      await run(handle.datasync());
      await run(files.syncDirectory('/v'));
      await run(handle.writev([Buffer.alloc(512, 'b')], 0));
      disk.failSyncs(1);
      await expect(run(handle.datasync())).rejects.toMatchObject({ code: 'EIO' });
      disk.failSyncs(0);
      await run(handle.datasync());
      disk.crash();
      if (disk.bytesOf('/v/a')[511] === 'a'.charCodeAt(0)) lost += 1;
    }
    expect(lost).toBeGreaterThan(5);
  });

  test('a dead incarnation settles nothing and changes nothing; its lock is free', async () => {
    const { disk, life, run, scheduler } = make(7);
    const files = disk.files(life);
    await run(files.makeDirectory('/v'));
    await run(files.lock('/v/lock'));
    const handle = await run(files.open('/v/a', 'create'));
    let settled = 0;
    const count = (): void => {
      settled += 1;
    };
    handle.writev([Buffer.from('x')], 0).then(count, count);
    life.alive = false;
    handle.writev([Buffer.from('yy')], 0).then(count, count);
    handle.datasync().then(count, count);
    await scheduler.run(() => false, 10_000);
    expect(settled).toBe(0);
    expect(disk.bytesOf('/v/a').toString()).toBe('x');
    expect(await run(disk.files({ alive: true }).lock('/v/lock'))).not.toBe(null);
  });

  test('a full disk overwrites but does not grow; snapshot and restore', async () => {
    const { disk, life, run } = make(9);
    const files = disk.files(life);
    await run(files.makeDirectory('/v'));
    const handle = await run(files.open('/v/a', 'create'));
    await run(handle.writev([Buffer.alloc(1000)], 0));
    const before = disk.snapshot();
    disk.setFull(true);
    await run(handle.writev([Buffer.from('over')], 0));
    await expect(run(handle.writev([Buffer.from('behind')], 998))).rejects.toMatchObject({ code: 'ENOSPC' });
    await expect(run(files.open('/v/b', 'create'))).rejects.toMatchObject({ code: 'ENOSPC' });
    expect(await run(files.freeBytes('/v'))).toBe(0);
    disk.restore(before);
    expect(disk.bytesOf('/v/a').equals(Buffer.alloc(1000))).toBe(true);
  });
});
