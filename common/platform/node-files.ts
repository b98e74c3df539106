/**
 * The disk port on a real file system. Owns: file descriptors, the exclusive lock. Every error of the OS is passed on with its code.
 * The lock is an exclusive transaction of the built-in SQLite on the lock file: the kernel drops it with the process, kill -9 included.
 */
import {
  close as closeFd,
  fdatasync as fdatasyncFd,
  fstat,
  fsync,
  ftruncate,
  open as openPath,
  read as readFd,
  writev as writevFd,
} from 'node:fs';
import { mkdir, readdir, rename, statfs, unlink } from 'node:fs/promises';
import { DatabaseSync } from 'node:sqlite';
import { promisify } from 'node:util';
import type { ExclusiveLock, FileHandle, Files } from './files.ts';

const openFile = promisify(openPath);
const closeFile = promisify(closeFd);
const fdatasyncFile = promisify(fdatasyncFd);
const fsyncFile = promisify(fsync);
const statFile = promisify(fstat);
const truncateFile = promisify(ftruncate);

/** writev(2) takes at most this many buffers at once. */
const IOV_MAX = 1024;

function writevOnce(fd: number, buffers: readonly Uint8Array[], position: number): Promise<number> {
  return new Promise((resolve, reject) => {
    writevFd(fd, buffers, position, (error, written) => (error === null ? resolve(written) : reject(error)));
  });
}

/** Writes everything, also when the OS takes less than asked. */
async function writeAll(fd: number, buffers: readonly Uint8Array[], position: number): Promise<void> {
  let at = position;
  for (let first = 0; first < buffers.length; first += IOV_MAX) {
    let rest = first === 0 && buffers.length <= IOV_MAX ? buffers : buffers.slice(first, first + IOV_MAX);
    let left = rest.reduce((sum, buffer) => sum + buffer.length, 0);
    while (left > 0) {
      const written = await writevOnce(fd, rest, at);
      if (written === 0) throw Object.assign(new Error('EIO: the disk took no bytes'), { code: 'EIO' });
      at += written;
      left -= written;
      if (left > 0) rest = dropBytes(rest, written);
    }
  }
}

function dropBytes(buffers: readonly Uint8Array[], bytes: number): readonly Uint8Array[] {
  let left = bytes;
  const rest: Uint8Array[] = [];
  for (const buffer of buffers) {
    if (left >= buffer.length) left -= buffer.length;
    else {
      rest.push(left > 0 ? buffer.subarray(left) : buffer);
      left = 0;
    }
  }
  return rest;
}

function readOnce(fd: number, target: Uint8Array, offset: number, length: number, position: number): Promise<number> {
  return new Promise((resolve, reject) => {
    readFd(fd, target, offset, length, position, (error, bytes) => (error === null ? resolve(bytes) : reject(error)));
  });
}

function handleOf(fd: number): FileHandle {
  return {
    writev: (buffers, position) => writeAll(fd, buffers, position),
    read: async (target, offset, length, position) => {
      let done = 0;
      while (done < length) {
        const got = await readOnce(fd, target, offset + done, length - done, position + done);
        if (got === 0) break;
        done += got;
      }
      return done;
    },
    datasync: () => fdatasyncFile(fd),
    sizeBytes: async () => (await statFile(fd)).size,
    modifiedMs: async () => (await statFile(fd)).mtimeMs,
    truncate: (sizeBytes) => truncateFile(fd, sizeBytes),
    close: () => closeFile(fd),
  };
}

const FLAGS = { create: 'wx+', write: 'r+', read: 'r' } as const;

export const nodeFiles: Files = {
  open: async (path, mode) => handleOf(await openFile(path, FLAGS[mode], 0o600)),
  list: async (directory) => (await readdir(directory)).sort(),
  makeDirectory: async (path) => {
    await mkdir(path, { recursive: true, mode: 0o700 });
  },
  rename: (from, to) => rename(from, to),
  unlink: (path) => unlink(path),
  syncDirectory: async (path) => {
    const fd = await openFile(path, 'r');
    try {
      await fsyncFile(fd);
    } finally {
      await closeFile(fd);
    }
  },
  freeBytes: async (path) => {
    const { bavail, bsize } = await statfs(path);
    return bavail * bsize;
  },
  lock: async (path) => lockFile(path),
};

const SQLITE_BUSY = 5;

function lockFile(path: string): ExclusiveLock | null {
  const database = new DatabaseSync(path);
  try {
    // No journal file and no sync: the file is a lock, it never holds anything.
    database.exec('PRAGMA busy_timeout=0; PRAGMA journal_mode=MEMORY; PRAGMA synchronous=OFF');
    database.exec('PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE');
  } catch (error) {
    database.close();
    if ((error as { errcode?: number }).errcode === SQLITE_BUSY) return null;
    throw error;
  }
  return { release: async () => database.close() };
}
