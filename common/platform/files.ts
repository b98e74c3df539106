/**
 * The disk port. Owns: the only way the queue database reaches a disk. The simulator's disk and the real one pass one
 * contract suite (`test/contract/files.test.ts`). Paths are plain strings relative to nothing: callers join them.
 *
 * Promise of an implementation: `writev` makes bytes visible to `read` when it resolves, durable only after `datasync`;
 * creating, renaming or removing a name is durable only after `syncDirectory`. Errors carry `code` (ENOSPC, EIO, ENOENT).
 */
export interface FileHandle {
  /** Writes all buffers back to back at `position` (bytes). Overwrites; extends the file when needed. */
  writev(buffers: readonly Uint8Array[], position: number): Promise<void>;
  /** Reads up to `length` bytes at `position` into `target` at `offset`; fewer only at the end of the file. */
  read(target: Uint8Array, offset: number, length: number, position: number): Promise<number>;
  /** fdatasync(2): everything written before the call is durable when it resolves. */
  datasync(): Promise<void>;
  sizeBytes(): Promise<number>;
  /** Wall clock of the last write (milliseconds since the Unix epoch), as the file system has it; it survives the process. */
  modifiedMs(): Promise<number>;
  truncate(sizeBytes: number): Promise<void>;
  close(): Promise<void>;
}

export interface ExclusiveLock {
  release(): Promise<void>;
}

export interface Files {
  /** `create`: fails with EEXIST when the name exists. `write`: must exist. `read`: must exist, read only. */
  open(path: string, mode: 'create' | 'write' | 'read'): Promise<FileHandle>;
  /** Names (not paths) in the directory, sorted. ENOENT when it is absent. */
  list(directory: string): Promise<string[]>;
  makeDirectory(path: string): Promise<void>;
  rename(from: string, to: string): Promise<void>;
  unlink(path: string): Promise<void>;
  syncDirectory(path: string): Promise<void>;
  /** Bytes the file system can still give to this user. */
  freeBytes(path: string): Promise<number>;
  /** An exclusive lock held until release or process death (kill -9 included). `null` when somebody else holds it. */
  lock(path: string): Promise<ExclusiveLock | null>;
}
