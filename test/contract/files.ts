/** What every implementation of the disk port must do (common/platform/files.ts). */
import { describe, expect, test } from 'vitest';
import type { Files } from '../../common/platform/files.ts';

export interface FilesBench {
  readonly files: Files;
  readonly directory: string;
  run<T>(work: Promise<T>): Promise<T>;
  dispose(): Promise<void>;
}

export function filesContract(name: string, make: () => Promise<FilesBench>): void {
  const on = (what: string, body: (bench: FilesBench) => Promise<void>): void => {
    test(what, async () => {
      const bench = await make();
      try {
        await bench.run(bench.files.makeDirectory(`${bench.directory}/d`));
        await body(bench);
      } finally {
        await bench.dispose();
      }
    });
  };

  describe(`disk port: ${name}`, () => {
    on('writes at a position, over and behind the end, and reads back', async ({ files, directory, run }) => {
      const handle = await run(files.open(`${directory}/d/a`, 'create'));
      await run(handle.writev([Buffer.from('hello '), Buffer.from('world')], 0));
      await run(handle.writev([Buffer.from('W')], 6));
      await run(handle.writev([Buffer.from('!')], 20));
      await run(handle.datasync());
      expect(await run(handle.sizeBytes())).toBe(21);
      const target = Buffer.alloc(40, 'x');
      expect(await run(handle.read(target, 2, 30, 0))).toBe(21);
      expect(target.toString('latin1', 0, 23)).toBe(`xxhello World${'\0'.repeat(9)}!`);
      expect(await run(handle.read(target, 0, 5, 21))).toBe(0);
      await run(handle.truncate(5));
      expect(await run(handle.sizeBytes())).toBe(5);
      await run(handle.close());
    });

    on('takes more buffers than one system call does', async ({ files, directory, run }) => {
      const handle = await run(files.open(`${directory}/d/a`, 'create'));
      const buffers = Array.from({ length: 3000 }, (_, i) => Buffer.from([i & 255, i >> 8]));
      await run(handle.writev(buffers, 10));
      const target = Buffer.alloc(6000);
      expect(await run(handle.read(target, 0, 6000, 10))).toBe(6000);
      expect(target.equals(Buffer.concat(buffers))).toBe(true);
      await run(handle.close());
    });

    on('creates only what is new, opens only what is there', async ({ files, directory, run }) => {
      await expect(run(files.open(`${directory}/d/a`, 'write'))).rejects.toMatchObject({ code: 'ENOENT' });
      await expect(run(files.open(`${directory}/d/a`, 'read'))).rejects.toMatchObject({ code: 'ENOENT' });
      const handle = await run(files.open(`${directory}/d/a`, 'create'));
      await expect(run(files.open(`${directory}/d/a`, 'create'))).rejects.toMatchObject({ code: 'EEXIST' });
      await run(handle.close());
      const reader = await run(files.open(`${directory}/d/a`, 'read'));
      await expect(run(reader.writev([Buffer.from('x')], 0))).rejects.toMatchObject({ code: 'EBADF' });
      await run(reader.close());
    });

    on('lists, renames, unlinks', async ({ files, directory, run }) => {
      for (const name of ['b', 'a', 'c'])
        await run((await run(files.open(`${directory}/d/${name}`, 'create'))).close());
      await run(files.makeDirectory(`${directory}/d/sub`));
      expect((await run(files.list(`${directory}/d`))).filter((name) => name !== 'sub')).toEqual(['a', 'b', 'c']);
      await run(files.rename(`${directory}/d/a`, `${directory}/d/c`));
      await run(files.unlink(`${directory}/d/b`));
      await run(files.syncDirectory(`${directory}/d`));
      expect((await run(files.list(`${directory}/d`))).filter((name) => name !== 'sub')).toEqual(['c']);
      await expect(run(files.unlink(`${directory}/d/b`))).rejects.toMatchObject({ code: 'ENOENT' });
      await expect(run(files.list(`${directory}/none`))).rejects.toMatchObject({ code: 'ENOENT' });
    });

    on('says when something was written last, also after it was closed', async ({ files, directory, run }) => {
      const path = `${directory}/d/a`;
      const handle = await run(files.open(path, 'create'));
      const createdMs = await run(handle.modifiedMs());
      expect(createdMs).toBeGreaterThan(Date.UTC(2020));
      let writtenMs = createdMs;
      while (writtenMs === createdMs) {
        await run(handle.writev([Buffer.from('x')], 0));
        writtenMs = await run(handle.modifiedMs());
      }
      expect(writtenMs).toBeGreaterThan(createdMs);
      await run(handle.close());
      const reader = await run(files.open(path, 'read'));
      await run(reader.read(Buffer.alloc(1), 0, 1, 0));
      expect(await run(reader.modifiedMs())).toBe(writtenMs);
      await run(reader.close());
    });

    on('says how much is free', async ({ files, directory, run }) => {
      expect(await run(files.freeBytes(`${directory}/d`))).toBeGreaterThan(0);
    });

    on('locks once, until released', async ({ files, directory, run }) => {
      const lock = await run(files.lock(`${directory}/d/lock`));
      expect(lock).not.toBe(null);
      expect(await run(files.lock(`${directory}/d/lock`))).toBe(null);
      if (lock !== null) await run(lock.release());
      const again = await run(files.lock(`${directory}/d/lock`));
      expect(again).not.toBe(null);
      if (again !== null) await run(again.release());
    });
  });
}
