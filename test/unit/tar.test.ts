/** Archives as tar reads them, and the same bytes for the same entries. */
import { execFileSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { type ArchiveEntry, tar } from '../../common/tar.ts';

const long = (bytes: number): string => 'n'.repeat(bytes);

const list = (entries: readonly ArchiveEntry[]): string =>
  execFileSync('tar', ['--numeric-owner', '--utc', '-tvf', '-'], { input: tar(entries, 1_700_000_000_000) }).toString();

test('files, directories and links with their modes, owned by root, at the given time', () => {
  const entries: ArchiveEntry[] = [
    { name: 'tmp', directory: true, mode: 0o1777 },
    { name: 'bin/program', content: Buffer.from([0, 255, 10]), mode: 0o755 },
    { name: 'bin/other', linkTo: 'program' },
    { name: 'secret', content: 'x' },
  ];
  const lines = list(entries).trim().split('\n');
  expect(lines.map((line) => line.replaceAll(/ +/g, ' '))).toEqual([
    'drwxrwxrwt 0/0 0 2023-11-14 22:13 tmp/',
    '-rwxr-xr-x 0/0 3 2023-11-14 22:13 bin/program',
    'lrwxrwxrwx 0/0 0 2023-11-14 22:13 bin/other -> program',
    '-rw------- 0/0 1 2023-11-14 22:13 secret',
  ]);
  expect(tar(entries, 7)).toEqual(tar(structuredClone(entries), 7));
});

test('a long name is split at a slash; one that cannot be is refused, as is a link that goes too far', () => {
  const names = [`${long(100)}`, `${long(155)}/${long(100)}`, `a/${long(99)}/b/${long(40)}`];
  expect(list(names.map((name) => ({ name, content: '' }))).match(/\S+$/gm)).toEqual(names);
  for (const name of [long(101), `${long(156)}/x`, `x/${long(101)}`, `${long(60)}/${long(60)}/${long(60)}/${long(99)}`])
    expect(() => tar([{ name, content: '' }], 0)).toThrow(RangeError);
  expect(() => tar([{ name: 'link', linkTo: long(101) }], 0)).toThrow(RangeError);
});
