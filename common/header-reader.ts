/**
 * The header of a message that streams by, up to its first empty line. Owns: where it ends. Promise: time grows with the message alone; memory is `maxBytes` and one chunk, whatever
 * comes: front ends bound the header up to the first line that is no field, and behind such a line, or without a header, a message may have no empty line at all. PURE.
 */
const END = Buffer.from('\r\n\r\n');

export interface HeaderRead {
  /** In latin1, with a CRLF before it and its empty line, so that every field follows a CRLF. */
  readonly header: string;
  /** It has no end within `maxBytes`: `header` is its beginning. */
  readonly isTooLong: boolean;
  /** All that was read for it: what follows the header is in the last one. */
  readonly chunks: Buffer[];
}

export async function readHeader(arriving: AsyncIterator<Buffer>, maxBytes: number): Promise<HeaderRead> {
  const chunks: Buffer[] = [];
  let size = 0;
  /** What the next chunk may complete; the header may be empty. */
  let tail: Buffer = Buffer.from('\r\n');
  const read = (until: number, isTooLong: boolean): HeaderRead => ({
    header: `\r\n${Buffer.concat(chunks, size).toString('latin1', 0, until)}`,
    isTooLong,
    chunks,
  });
  for (let next = await arriving.next(); next.done !== true; next = await arriving.next()) {
    const chunk = next.value;
    const before = tail.length;
    const joined = Buffer.concat([tail, chunk.subarray(0, END.length - 1)]);
    const across = joined.indexOf(END);
    const found = across >= 0 ? across - before : chunk.indexOf(END);
    const end = across >= 0 || found >= 0 ? size + found + END.length : -1;
    chunks.push(chunk);
    size += chunk.length;
    if (end > maxBytes || (end < 0 && size > maxBytes)) return read(maxBytes, true);
    if (end >= 0) return read(end, false);
    tail = chunk.length < END.length ? joined.subarray(-(END.length - 1)) : Buffer.from(chunk.subarray(1 - END.length));
  }
  return read(size, false);
}
