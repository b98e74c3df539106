/**
 * What one mailbox has received: keys of (delivery id, recipient) and of (content, recipient), kept durably in a file beside its `tmp`, `new` and `cur`.
 * Owns: that file. Promise: `add` resolves when the key survives power loss; a torn or damaged line costs that line only; keys older
 * than the window are dropped when the table is read. Format: lines of 46 characters and LF, `<32 hex> <13-digit ms>`.
 */
import type { FileHandle, Files } from '../../common/platform/files.ts';

const LINE_BYTES = 47;
const LINE = /^([0-9a-f]{32}) (\d{13})$/;
const READ_LINES = 1024;
/** The file is written anew when more of it than this is dead. */
const MAX_DEAD_LINES = 1024;

const lineOf = (key: string, atMs: number): Buffer =>
  Buffer.from(`${key} ${String(Math.trunc(atMs)).padStart(13, '0').slice(-13)}\n`);

export class DuplicateTable {
  readonly #files: Files;
  readonly #path: string;
  readonly #handle: FileHandle;
  /** When. */
  readonly #keys: Map<string, number>;
  #endBytes: number;

  private constructor(files: Files, path: string, handle: FileHandle, keys: Map<string, number>, endBytes: number) {
    this.#files = files;
    this.#path = path;
    this.#handle = handle;
    this.#keys = keys;
    this.#endBytes = endBytes;
  }

  /** Opens or makes `path` in `directory`. `present`: keys known to be delivered from elsewhere (names in `new` and `cur`). */
  static async open(
    files: Files,
    directory: string,
    path: string,
    oldestMs: number,
    present: readonly string[],
  ): Promise<DuplicateTable> {
    const handle = await openOrCreate(files, directory, path);
    const { entries, lines } = await readEntries(handle, oldestMs);
    const keys = new Map([...present.map((key) => [key, oldestMs] as const), ...entries]);
    const table = new DuplicateTable(files, path, handle, keys, lines * LINE_BYTES);
    return lines - entries.size > MAX_DEAD_LINES ? await table.#compacted(directory, entries, keys) : table;
  }

  /** `sinceMs`: and not before then. */
  has(key: string, sinceMs = 0): boolean {
    const atMs = this.#keys.get(key);
    return atMs !== undefined && atMs >= sinceMs;
  }

  async add(keys: readonly string[], atMs: number): Promise<void> {
    const position = this.#endBytes;
    this.#endBytes += LINE_BYTES * keys.length;
    await this.#handle.writev([Buffer.concat(keys.map((key) => lineOf(key, atMs)))], position);
    await this.#handle.datasync();
    for (const key of keys) this.#keys.set(key, atMs);
  }

  close(): Promise<void> {
    return this.#handle.close();
  }

  async #compacted(
    directory: string,
    entries: ReadonlyMap<string, number>,
    keys: Map<string, number>,
  ): Promise<DuplicateTable> {
    const path = `${this.#path}.new`;
    await removeIfThere(this.#files, path);
    const handle = await this.#files.open(path, 'create');
    const lines = [...entries].map(([key, atMs]) => lineOf(key, atMs));
    if (lines.length > 0) await handle.writev([Buffer.concat(lines)], 0);
    await handle.datasync();
    await this.#files.rename(path, this.#path);
    await this.#files.syncDirectory(directory);
    await this.#handle.close();
    return new DuplicateTable(this.#files, this.#path, handle, keys, lines.length * LINE_BYTES);
  }
}

async function openOrCreate(files: Files, directory: string, path: string): Promise<FileHandle> {
  try {
    return await files.open(path, 'write');
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
  }
  const handle = await files.open(path, 'create');
  await files.syncDirectory(directory);
  return handle;
}

async function readEntries(
  handle: FileHandle,
  oldestMs: number,
): Promise<{ readonly entries: Map<string, number>; readonly lines: number }> {
  const entries = new Map<string, number>();
  // A torn last line is written over by the next one.
  const lines = Math.floor((await handle.sizeBytes()) / LINE_BYTES);
  const block = Buffer.alloc(READ_LINES * LINE_BYTES);
  for (let line = 0; line < lines; line += READ_LINES) {
    const wanted = Math.min(READ_LINES, lines - line) * LINE_BYTES;
    const got = await handle.read(block, 0, wanted, line * LINE_BYTES);
    for (let at = 0; at + LINE_BYTES <= got; at += LINE_BYTES) {
      const match = LINE.exec(block.toString('latin1', at, at + LINE_BYTES - 1));
      const atMs = Number(match?.[2]);
      if (match?.[1] !== undefined && atMs >= oldestMs) entries.set(match[1], atMs);
    }
  }
  return { entries, lines };
}

export async function removeIfThere(files: Files, path: string): Promise<void> {
  try {
    await files.unlink(path);
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
  }
}

export function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}
