/** Makes a database claim a newer format, for the refusal test. */
import { crc32 } from 'node:zlib';
import type { Files } from '../../common/platform/files.ts';

export async function rewriteVersion(files: Files, directory: string, version: number): Promise<void> {
  const handle = await files.open(`${directory}/identity`, 'write');
  const block = Buffer.alloc(4096);
  await handle.read(block, 0, 4096, 0);
  const text = block.toString('utf8', 8, 8 + block.readUInt32LE(4)).replace('"version":1', `"version":${version}`);
  const changed = Buffer.alloc(4096);
  changed.writeUInt32LE(changed.write(text, 8), 4);
  changed.writeUInt32LE(crc32(changed.subarray(4)), 0);
  await handle.writev([changed, changed], 0);
  await handle.datasync();
  await handle.close();
}
