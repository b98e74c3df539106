/**
 * A tar archive in memory (POSIX.1-1988 ustar): files, directories and symbolic links, all owned by root. Owns: the format. Promise: the same entries
 * and the same time are the same bytes. Refuses a name that does not fit (100 bytes, or 155 and 100 with a slash between) with an exception. Pure.
 */
interface Named {
  /** Without a slash at the ends. */
  readonly name: string;
}

export interface ArchiveFile extends Named {
  readonly content: string | Uint8Array;
  /** Default: the owner reads and writes. */
  readonly mode?: number;
}

export interface ArchiveDirectory extends Named {
  readonly directory: true;
  readonly mode: number;
}

export interface ArchiveLink extends Named {
  readonly linkTo: string;
}

export type ArchiveEntry = ArchiveFile | ArchiveDirectory | ArchiveLink;

const BLOCK = 512;
const NAME_BYTES = 100;
const PREFIX_BYTES = 155;
const CHECKSUM_AT = 148;
const PREFIX_AT = 345;
const TYPE = { file: '0', link: '2', directory: '5' } as const;

const octal = (value: number, length: number): string => `${value.toString(8).padStart(length - 1, '0')}\0`;

/** Prefix and name: the name is as long as it can be. */
function split(name: string): readonly [string, string] {
  if (Buffer.byteLength(name) <= NAME_BYTES) return ['', name];
  for (let at = name.indexOf('/'); at >= 0; at = name.indexOf('/', at + 1)) {
    const [prefix, rest] = [name.slice(0, at), name.slice(at + 1)];
    if (rest !== '' && Buffer.byteLength(rest) <= NAME_BYTES && Buffer.byteLength(prefix) <= PREFIX_BYTES)
      return [prefix, rest];
  }
  throw new RangeError(`${name}: a name has at most ${NAME_BYTES} bytes, with a slash ${PREFIX_BYTES} before it`);
}

interface Header extends Named {
  readonly mode: number;
  readonly bytes: number;
  readonly type: string;
  readonly target: string;
}

function header({ name, mode, bytes, type, target }: Header, mtimeS: number): Buffer {
  const [prefix, rest] = split(name);
  if (Buffer.byteLength(target) > NAME_BYTES)
    throw new RangeError(`${target}: a link goes at most ${NAME_BYTES} bytes`);
  const block = Buffer.alloc(BLOCK);
  block.write(rest, 0);
  block.write(octal(mode, 8), 100);
  block.write(octal(0, 8) + octal(0, 8), 108);
  block.write(octal(bytes, 12) + octal(mtimeS, 12), 124);
  block.fill(' ', CHECKSUM_AT, CHECKSUM_AT + 8);
  block.write(type, 156);
  block.write(target, 157);
  block.write('ustar\u000000', 257, 'latin1');
  block.write(prefix, PREFIX_AT);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, CHECKSUM_AT);
  return block;
}

function packed(entry: ArchiveEntry, mtimeS: number): readonly Buffer[] {
  const plain = { name: entry.name, bytes: 0, target: '' };
  if ('directory' in entry)
    return [header({ ...plain, name: `${entry.name}/`, mode: entry.mode, type: TYPE.directory }, mtimeS)];
  if ('linkTo' in entry) return [header({ ...plain, mode: 0o777, type: TYPE.link, target: entry.linkTo }, mtimeS)];
  const { content } = entry;
  const bytes =
    typeof content === 'string'
      ? Buffer.from(content)
      : Buffer.from(content.buffer, content.byteOffset, content.length);
  const padding = Buffer.alloc((BLOCK - (bytes.length % BLOCK)) % BLOCK);
  return [
    header({ ...plain, mode: entry.mode ?? 0o600, bytes: bytes.length, type: TYPE.file }, mtimeS),
    bytes,
    padding,
  ];
}

export function tar(entries: readonly ArchiveEntry[], atMs: number): Buffer {
  const mtimeS = Math.floor(atMs / 1000);
  return Buffer.concat([...entries.flatMap((entry) => packed(entry, mtimeS)), Buffer.alloc(2 * BLOCK)]);
}
