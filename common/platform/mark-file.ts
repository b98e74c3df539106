/**
 * A small text that is there when the process dies in the very next instruction: written in place by one system call that returns when the operating system has
 * it, never synced - a power cut may take it. Owns: the file. Promise: `write` does not return before the text would survive the process. Fails as the disk does.
 * The only synchronous I/O of the product, a few microseconds of page cache: what must be marked before a line of code runs cannot wait for a promise.
 */
import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';

export interface MarkFile {
  /** What the life before left, with one line end at its end at most; null when there is nothing. */
  readonly found: string | null;
  /** Nothing any more once it is closed. */
  write(text: string): void;
  close(): void;
}

const PAGE = 4096;

export function openMarkFile(path: string): MarkFile {
  const descriptor = openSync(path, 'a+');
  closeSync(descriptor);
  const text = readFileSync(path, 'utf8');
  const handle = openSync(path, 'r+');
  let length = Buffer.byteLength(text);
  const page = Buffer.alloc(PAGE);
  let isClosed = false;
  return {
    found: text === '' ? null : text.replace(/\n+$/, '\n'),
    write: (next) => {
      if (isClosed) return;
      const bytes = Buffer.byteLength(next);
      if (bytes <= PAGE && length <= PAGE) {
        // Line ends over what is left of a longer one cost less than cutting the file.
        page.write(next);
        page.fill('\n', bytes, length);
        length = Math.max(length, bytes);
        writeSync(handle, page, 0, length, 0);
        return;
      }
      writeSync(handle, next, 0);
      if (bytes < length) ftruncateSync(handle, bytes);
      length = bytes;
    },
    close: () => {
      isClosed = true;
      closeSync(handle);
    },
  };
}
