/**
 * A small text that is there when the process dies in the very next instruction: written in place by one system call that returns when the operating system has
 * it, never synced - a power cut may take it. Owns: the file. Promise: `write` does not return before the text would survive the process. Fails as the disk does.
 * The only synchronous I/O of the product, a few microseconds of page cache: what must be marked before a line of code runs cannot wait for a promise.
 */
import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';

export interface MarkFile {
  /** What the life before left, with one line end at its end at most; null when there is nothing. */
  readonly found: string | null;
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
  return {
    found: text === '' ? null : text.replace(/\n+$/, '\n'),
    write: (next) => {
      const bytes = Buffer.byteLength(next);
      // Shorter than the last one: line ends over what is left of it cost less than cutting the file, up to a page.
      const isCut = bytes < length && length > PAGE;
      writeSync(handle, isCut || bytes >= length ? next : next.padEnd(next.length + length - bytes, '\n'), 0);
      if (isCut) ftruncateSync(handle, bytes);
      length = isCut ? bytes : Math.max(length, bytes);
    },
    close: () => closeSync(handle),
  };
}
