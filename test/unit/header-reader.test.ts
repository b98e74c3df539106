/** Where the header of a streamed message ends, however it is cut; and that one without an end costs little. */
import { expect, test } from 'vitest';
import { type HeaderRead, readHeader } from '../../common/header-reader.ts';

function inPieces(message: string, pieceBytes: number): AsyncIterator<Buffer> {
  const bytes = Buffer.from(message, 'latin1');
  return (async function* (): AsyncGenerator<Buffer> {
    for (let at = 0; at < bytes.length; at += pieceBytes) yield Buffer.from(bytes.subarray(at, at + pieceBytes));
  })();
}

const read = (message: string, pieceBytes: number, maxBytes = 1_000): Promise<HeaderRead> =>
  readHeader(inPieces(message, pieceBytes), maxBytes);

test.each([
  ['a header and a body', 'A: b\r\nC: d\xe9\r\n\r\nbody\r\n\r\nbody', '\r\nA: b\r\nC: d\xe9\r\n\r\n'],
  ['no header', '\r\nA: b\r\n\r\n', '\r\n\r\n'],
  ['no empty line', 'A: b\r\n\n\r\rC', '\r\nA: b\r\n\n\r\rC'],
  ['nothing', '', '\r\n'],
])('%s, cut anywhere', async (_, message, expected) => {
  for (let piece = 1; piece <= message.length + 1; piece++) {
    const { header, isTooLong, chunks } = await read(message, piece);
    expect([header, isTooLong]).toEqual([expected, false]);
    // What was read and nothing else: the rest is still to come.
    const bytes = Buffer.concat(chunks).toString('latin1');
    expect(message.startsWith(bytes)).toBe(true);
    expect(bytes.length).toBeLessThan(expected.length - 2 + piece);
  }
});

test('one of just so many bytes is read, one of a byte more is not, cut anywhere', async () => {
  const header = 'A: b\r\nC: d\r\n\r\n';
  for (let piece = 1; piece <= header.length + 5; piece++) {
    expect(await read(`${header}body`, piece, header.length)).toMatchObject({ isTooLong: false });
    const { header: beginning, isTooLong } = await read(`${header}body`, piece, header.length - 1);
    expect([beginning, isTooLong]).toEqual([`\r\n${header.slice(0, -1)}`, true]);
  }
});

test('of 35 MB without an empty line no more is taken than is allowed, and that in no time', async () => {
  let given = 0;
  const endless = (async function* (): AsyncGenerator<Buffer> {
    for (; given < 35_000_000; given += 1_000) yield Buffer.alloc(1_000, 'X: y\r\n');
  })();
  const before = process.threadCpuUsage();
  const { header, isTooLong } = await readHeader(endless, 1_000_000);
  const { user, system } = process.threadCpuUsage(before);
  expect([header.length, isTooLong]).toEqual([1_000_002, true]);
  expect(given).toBeLessThan(1_002_000);
  expect((user + system) / 1_000).toBeLessThan(1_000);
});
