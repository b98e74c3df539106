/** The header of a message that streams by. Owns: where it ends; memory is the header and one chunk. PURE. */

export interface HeaderRead {
  /** In latin1, with a CRLF before it and its empty line, so that every field follows a CRLF. */
  readonly header: string;
  /** All that was read for it: what follows the header is in the last one. */
  readonly chunks: Buffer[];
}

export async function readHeader(arriving: AsyncIterator<Buffer>): Promise<HeaderRead> {
  const chunks: Buffer[] = [];
  let header = '\r\n';
  for (let next = await arriving.next(); next.done !== true; next = await arriving.next()) {
    const from = Math.max(0, header.length - 3);
    chunks.push(next.value);
    header += next.value.toString('latin1');
    const end = header.indexOf('\r\n\r\n', from);
    if (end >= 0) return { header: header.slice(0, end + 4), chunks };
  }
  return { header, chunks };
}
