/** A tar archive of a few files in memory (POSIX.1-1988 ustar). Owns: the format. Refuses names over 100 bytes with an exception. Pure. */
export interface ArchiveFile {
  readonly name: string;
  readonly content: string;
}

const BLOCK = 512;
const NAME_BYTES = 100;
const CHECKSUM_AT = 148;

const octal = (value: number, length: number): string => `${value.toString(8).padStart(length - 1, '0')}\0`;

function header(name: string, bytes: number, mtimeS: number): Buffer {
  if (Buffer.byteLength(name) > NAME_BYTES) throw new RangeError(`${name}: a name has at most ${NAME_BYTES} bytes`);
  const block = Buffer.alloc(BLOCK);
  block.write(name, 0);
  block.write(octal(0o600, 8), 100);
  block.write(octal(0, 8) + octal(0, 8), 108);
  block.write(octal(bytes, 12) + octal(mtimeS, 12), 124);
  block.fill(' ', CHECKSUM_AT, CHECKSUM_AT + 8);
  block.write('0', 156);
  block.write('ustar\u000000', 257, 'latin1');
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, CHECKSUM_AT);
  return block;
}

export function tar(files: readonly ArchiveFile[], atMs: number): Buffer {
  const parts = files.flatMap(({ name, content }) => {
    const bytes = Buffer.from(content);
    const padding = Buffer.alloc((BLOCK - (bytes.length % BLOCK)) % BLOCK);
    return [header(name, bytes.length, Math.floor(atMs / 1000)), bytes, padding];
  });
  return Buffer.concat([...parts, Buffer.alloc(2 * BLOCK)]);
}
