/**
 * Bytes of the segment log: record headers and groups (protocol.md 25). Owns: layout, encoding, the check that bytes are a record.
 * Promise: user bytes are never taken for a record - every header carries the volume's random salt, the generation of its
 * segment and its own offset, under a checksum. Refuses nothing; `parseRecord` answers null for anything that is not whole.
 *
 * A segment is one 4 KB block with a SEGMENT record, then groups, each starting on a 4 KB boundary:
 *   GROUP header (64 bytes), records back to back, zeros up to the boundary.
 * A record is a 64-byte header, `metaLength` bytes of JSON, `bodyLength` raw bytes:
 *   0 salt[16] | 16 crc32 of bytes 20.. and meta | 20 generation | 24 own offset | 28 sequence (8) | 36 kind | 40 metaLength |
 *   44 bodyLength | 48 crc32 of the body | 52 count | 56 syncedThrough (8)         (little endian; the last two: groups only)
 */
import { crc32 } from 'node:zlib';

export const BLOCK = 4096;
export const HEADER = 64;
export const FORMAT_VERSION = 1;
export const SALT_BYTES = 16;

export const KINDS = {
  group: 1,
  chunk: 2,
  commit: 3,
  state: 4,
  move: 5,
  recall: 6,
  remove: 7,
  tombstone: 8,
  forget: 9,
  seen: 10,
  fact: 11,
  expire: 12,
  footer: 13,
  segment: 14,
} as const;
export type RecordKind = keyof typeof KINDS;

const KIND_NAMES: readonly (RecordKind | undefined)[] = (() => {
  const names: (RecordKind | undefined)[] = [];
  for (const [name, code] of Object.entries(KINDS)) names[code] = name as RecordKind;
  return names;
})();

/** Where body bytes lie and their checksum: generation, offset of the first byte, length, crc32. */
export type Extent = readonly [generation: number, offset: number, length: number, crc: number];
/** Where a record lies: generation, offset, length of header and meta. */
export type Place = readonly [generation: number, offset: number, length: number];

export interface ParsedRecord {
  readonly kind: RecordKind;
  readonly generation: number;
  readonly offset: number;
  readonly sequence: number;
  readonly metaLength: number;
  readonly bodyLength: number;
  readonly bodyCrc: number;
  readonly count: number;
  readonly syncedThrough: number;
  readonly meta: Buffer;
}

export const padded = (bytes: number): number => Math.ceil(bytes / BLOCK) * BLOCK;

interface HeaderFields {
  readonly salt: Buffer;
  readonly generation: number;
  readonly offset: number;
  readonly sequence: number;
  readonly kind: RecordKind;
  readonly metaLength: number;
  readonly bodyLength: number;
  readonly bodyCrc: number;
  readonly count: number;
  readonly syncedThrough: number;
}

/** Writes a header at `at`; the meta must already stand behind it. Returns the checksum of header and meta. */
export function writeHeader(target: Buffer, at: number, fields: HeaderFields): number {
  target.set(fields.salt, at);
  target.writeUInt32LE(fields.generation, at + 20);
  target.writeUInt32LE(fields.offset, at + 24);
  writeLong(target, at + 28, fields.sequence);
  target.writeUInt32LE(KINDS[fields.kind], at + 36);
  target.writeUInt32LE(fields.metaLength, at + 40);
  target.writeUInt32LE(fields.bodyLength, at + 44);
  target.writeUInt32LE(fields.bodyCrc, at + 48);
  target.writeUInt32LE(fields.count, at + 52);
  writeLong(target, at + 56, fields.syncedThrough);
  const crc = crc32(target.subarray(at + 20, at + HEADER + fields.metaLength));
  target.writeUInt32LE(crc, at + 16);
  return crc;
}

function writeLong(target: Buffer, at: number, value: number): void {
  target.writeUInt32LE(value % 0x1_0000_0000, at);
  target.writeUInt32LE(Math.floor(value / 0x1_0000_0000), at + 4);
}

const readLong = (source: Buffer, at: number): number =>
  source.readUInt32LE(at) + source.readUInt32LE(at + 4) * 0x1_0000_0000;

/**
 * The record at `at` of `source`, whose first byte lies at `base` of a segment; null unless header and meta are whole and say they
 * belong exactly there. The body is not looked at. `generation` null accepts any.
 */
export function parseRecord(
  source: Buffer,
  at: number,
  salt: Buffer,
  generation: number | null,
  base = 0,
): ParsedRecord | null {
  if (at < 0 || at + HEADER > source.length) return null;
  if (source.compare(salt, 0, SALT_BYTES, at, at + SALT_BYTES) !== 0) return null;
  const kind = KIND_NAMES[source.readUInt32LE(at + 36)];
  const metaLength = source.readUInt32LE(at + 40);
  const foundGeneration = source.readUInt32LE(at + 20);
  if (kind === undefined || source.readUInt32LE(at + 24) !== base + at) return null;
  if (generation !== null && foundGeneration !== generation) return null;
  if (at + HEADER + metaLength > source.length) return null;
  if (crc32(source.subarray(at + 20, at + HEADER + metaLength)) !== source.readUInt32LE(at + 16)) return null;
  return {
    kind,
    generation: foundGeneration,
    offset: base + at,
    sequence: readLong(source, at + 28),
    metaLength,
    bodyLength: source.readUInt32LE(at + 44),
    bodyCrc: source.readUInt32LE(at + 48),
    count: source.readUInt32LE(at + 52),
    syncedThrough: readLong(source, at + 56),
    meta: source.subarray(at + HEADER, at + HEADER + metaLength),
  };
}

/** Checksum over the checksums of a group's records: the group is whole when all are there, in order. */
export const chain = (before: number, crc: number, bodyCrc: number): number =>
  (Math.imul(before, 31) + Math.imul(crc, 17) + bodyCrc) >>> 0;

export const recordCrc = (source: Buffer, at: number): number => source.readUInt32LE(at + 16);

export interface SegmentHeader {
  readonly version: number;
  readonly generation: number;
  /** The segment before this one in the log: everything up to `end` of it is durable, nothing behind `end` counts. */
  readonly previous: { readonly generation: number; readonly end: number } | null;
  readonly syncedThrough: number;
}

/** Block 0 of a segment. Generation 0 says "free, never used". */
export function segmentBlock(salt: Buffer, header: SegmentHeader): Buffer {
  const block = Buffer.alloc(BLOCK);
  const metaLength = block.write(JSON.stringify({ v: header.version, p: header.previous }), HEADER);
  writeHeader(block, 0, {
    salt,
    generation: header.generation,
    offset: 0,
    sequence: 0,
    kind: 'segment',
    metaLength,
    bodyLength: 0,
    bodyCrc: 0,
    count: 0,
    syncedThrough: header.syncedThrough,
  });
  return block;
}

export function parseSegmentBlock(block: Buffer, salt: Buffer): SegmentHeader | null {
  const record = parseRecord(block, 0, salt, null);
  if (record === null || record.kind !== 'segment') return null;
  const meta = JSON.parse(record.meta.toString()) as { v: number; p: SegmentHeader['previous'] };
  return { version: meta.v, generation: record.generation, previous: meta.p, syncedThrough: record.syncedThrough };
}

const PAGE = 256 * 1024;
const COPY_BELOW = 16 * 1024;
const ZEROS = Buffer.alloc(BLOCK);

/**
 * Builds one group. Reused: the bytes of a group are valid until the next `begin`. Headers, JSON and small bodies are laid back to
 * back in pages, large bodies are passed through as they are.
 */
export class GroupBuilder {
  readonly #salt: Buffer;
  #pages: Buffer[] = [];
  #page = 0;
  #used = 0;
  #start = 0;
  #buffers: Buffer[] = [];
  #generation = 0;
  #base = 0;
  #length = 0;
  #count = 0;
  #chain = 0;
  #firstSequence = 0;
  /** Checksum of the body of the record added last. */
  lastBodyCrc = 0;

  constructor(salt: Buffer) {
    this.#salt = salt;
  }

  get count(): number {
    return this.#count;
  }

  /** Bytes so far, header included, padding not. */
  get length(): number {
    return this.#length;
  }

  begin(generation: number, offset: number, firstSequence: number): void {
    this.#buffers = [];
    this.#pages = this.#pages.filter((page) => page.length === PAGE).slice(0, 16);
    if (this.#pages.length === 0) this.#pages.push(Buffer.allocUnsafe(PAGE));
    this.#page = 0;
    this.#used = HEADER;
    this.#start = 0;
    this.#generation = generation;
    this.#base = offset;
    this.#length = HEADER;
    this.#count = 0;
    this.#chain = 0;
    this.#firstSequence = firstSequence;
  }

  /** Adds a record and returns its place. */
  add(kind: RecordKind, meta: string, body: readonly Buffer[] = []): Place {
    const metaLength = Buffer.byteLength(meta);
    const page = this.#room(HEADER + metaLength);
    const at = this.#used;
    const offset = this.#base + this.#length;
    page.write(meta, at + HEADER);
    let bodyLength = 0;
    let bodyCrc = 0;
    for (const buffer of body) {
      bodyLength += buffer.length;
      bodyCrc = crc32(buffer, bodyCrc);
    }
    const crc = writeHeader(page, at, {
      salt: this.#salt,
      generation: this.#generation,
      offset,
      sequence: this.#firstSequence + this.#count,
      kind,
      metaLength,
      bodyLength,
      bodyCrc,
      count: 0,
      syncedThrough: 0,
    });
    this.#used = at + HEADER + metaLength;
    this.#count += 1;
    this.#chain = chain(this.#chain, crc, bodyCrc);
    this.#length += HEADER + metaLength + bodyLength;
    for (const buffer of body) this.#append(buffer);
    this.lastBodyCrc = bodyCrc;
    return [this.#generation, offset, HEADER + metaLength];
  }

  /** The buffers to write at the group's offset; their total is padded to a block. */
  finish(syncedThrough: number): { readonly buffers: readonly Buffer[]; readonly bytes: number } {
    writeHeader(this.#pages[0] as Buffer, 0, {
      salt: this.#salt,
      generation: this.#generation,
      offset: this.#base,
      sequence: this.#firstSequence,
      kind: 'group',
      metaLength: 0,
      bodyLength: this.#length - HEADER,
      bodyCrc: this.#chain,
      count: this.#count,
      syncedThrough,
    });
    this.#flush();
    const bytes = padded(this.#length);
    if (bytes > this.#length) this.#buffers.push(ZEROS.subarray(0, bytes - this.#length));
    return { buffers: this.#buffers, bytes };
  }

  #append(buffer: Buffer): void {
    if (buffer.length < COPY_BELOW) {
      const page = this.#room(buffer.length);
      page.set(buffer, this.#used);
      this.#used += buffer.length;
      return;
    }
    this.#flush();
    this.#buffers.push(buffer);
  }

  #flush(): void {
    if (this.#used > this.#start)
      this.#buffers.push((this.#pages[this.#page] as Buffer).subarray(this.#start, this.#used));
    this.#start = this.#used;
  }

  /** The page that has `bytes` left. */
  #room(bytes: number): Buffer {
    const page = this.#pages[this.#page] as Buffer;
    if (this.#used + bytes <= page.length) return page;
    this.#flush();
    this.#page += 1;
    const next = this.#pages[this.#page];
    const fits = next !== undefined && next.length >= bytes;
    if (!fits) this.#pages.splice(this.#page, 0, Buffer.allocUnsafe(Math.max(PAGE, bytes)));
    this.#used = 0;
    this.#start = 0;
    return this.#pages[this.#page] as Buffer;
  }
}
