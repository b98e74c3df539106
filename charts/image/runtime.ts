/**
 * Node and what it loads, for an image without a base: the pinned binary of the npm package and the closure of its shared libraries as the loader of this
 * machine finds them. Owns: that. Promise: files are at the paths by which the loader in the image looks for them. Refuses, with an exception, a
 * machine that is not Linux with glibc, and an architecture we make no image for.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { ArchiveEntry } from '../../common/tar.ts';
import { architectureOf, type Image } from './oci.ts';

/** Loaded by name at run time, so no header names them; part of the C library itself from glibc 2.34 on. */
const NAME_SERVICE = ['libnss_files.so.2', 'libnss_dns.so.2', 'libresolv.so.2'];
/** A second name for /usr/lib on the machine is none in the image. */
const REAL = /^\/usr(\/lib(64)?\/)/;

export function hostArchitecture(): Image['architecture'] {
  const found = process.platform === 'linux' ? architectureOf(process.arch) : null;
  if (found === null)
    throw new Error(`no image for ${process.platform}/${process.arch}: run this on Linux, amd64 or arm64`);
  return found;
}

function librariesOf(program: string): readonly string[] {
  const said = execFileSync('ldd', [program], { encoding: 'utf8' });
  const missing = /^\s*(\S+) => not found/m.exec(said);
  if (missing !== null) throw new Error(`${program} needs ${missing[1]}, which this machine lacks`);
  const found = [...said.matchAll(/(\/\S+) \(0x/g)].map(([, path = '']) => path);
  if (!found.some((path) => path.includes('ld-linux')))
    throw new Error(`${program}: glibc wanted, found: ${said.trim()}`);
  return found;
}

function nameService(libraries: readonly string[]): readonly string[] {
  const beside = dirname(libraries.find((path) => path.endsWith('/libc.so.6')) ?? '/');
  return NAME_SERVICE.map((name) => join(beside, name)).filter((path) => existsSync(path));
}

/** `node`: the binary itself, not a script that starts one. */
export function runtimeEntries(node = process.execPath): readonly ArchiveEntry[] {
  const libraries = librariesOf(node);
  const paths = new Set([...libraries, ...nameService(libraries)].map((path) => path.replace(REAL, '$1')));
  return [
    { name: 'usr/local/bin/node', content: readFileSync(node), mode: 0o755 },
    ...[...paths].map((path): ArchiveEntry => ({ name: path.slice(1), content: readFileSync(path), mode: 0o755 })),
  ];
}
