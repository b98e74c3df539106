/**
 * Entries of a layer, and a layer as a directory. Owns: the way between both. Promise: what stands in a directory is taken as it is but for owner and
 * time; `written` makes just these entries. Refuses, with an exception, what an image shall not have: devices, sockets, an entry named twice.
 */
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import type { ArchiveEntry } from '../../common/tar.ts';

const PERMISSIONS = 0o7777;

/** Everything under the directory; `under`: where it is in the image. */
export function entriesOf(directory: string, under = ''): readonly ArchiveEntry[] {
  return readdirSync(directory)
    .sort()
    .flatMap((base): readonly ArchiveEntry[] => {
      const [path, name] = [join(directory, base), under === '' ? base : `${under}/${base}`];
      const found = lstatSync(path);
      if (found.isSymbolicLink()) return [{ name, linkTo: readlinkSync(path) }];
      const mode = found.mode & PERMISSIONS;
      if (found.isDirectory()) return [{ name, directory: true, mode }, ...entriesOf(path, name)];
      if (!found.isFile()) throw new Error(`${path}: neither file, directory nor symbolic link`);
      return [{ name, mode, content: readFileSync(path) }];
    });
}

/** With every directory above them that is not named, so that nobody depends on what an unpacking program makes of it. */
export function complete(entries: readonly ArchiveEntry[]): readonly ArchiveEntry[] {
  const all = new Map<string, ArchiveEntry>();
  for (const entry of entries) {
    if (all.has(entry.name)) throw new Error(`${entry.name}: twice in one layer`);
    all.set(entry.name, entry);
  }
  for (const { name } of entries)
    for (let above = dirname(name); above !== '.'; above = dirname(above))
      if (!all.has(above)) all.set(above, { name: above, directory: true, mode: 0o755 });
  return [...all.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** Makes the entries in a directory, as the user who runs this. */
export function written(entries: readonly ArchiveEntry[], directory: string): void {
  for (const entry of complete(entries)) {
    const path = join(directory, entry.name);
    if ('linkTo' in entry) {
      symlinkSync(entry.linkTo, path);
      continue;
    }
    if ('directory' in entry) mkdirSync(path, { recursive: true });
    else writeFileSync(path, entry.content);
    // Whatever the umask is.
    chmodSync(path, entry.mode ?? 0o600);
  }
}
