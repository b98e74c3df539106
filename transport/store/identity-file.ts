/**
 * The identity of a queue database and the chain of its opens (protocol.md section 1). Owns: the file `identity`, preallocated, each
 * part twice: blocks 0 and 1 carry the header, blocks 2 and 3 a ring of the last 64 opens. Promise: an open is appended durably before
 * anything else happens, with no byte free on the disk too. Refuses (StoreError): VERSION, FOREIGN, DAMAGED, each with the remedy.
 */
import { crc32 } from 'node:zlib';
import type { Identity } from '../../common/message.ts';
import type { FileHandle, Files } from '../../common/platform/files.ts';
import type { Random } from '../../common/platform/random.ts';
import { StoreError } from './live-index.ts';
import type { StoreMutant } from './mutants.ts';
import { newIdentity, newNonce, type OpenRecord } from './open-record.ts';
import { BLOCK, FORMAT_VERSION, SALT_BYTES } from './record.ts';

const MAGIC = 'mailcluster queue database\n';
const SLOT = 64;
const SLOTS = 64;

export interface IdentityFile {
  readonly identity: Identity;
  readonly member: string;
  readonly salt: Buffer;
  /** Newest last. */
  readonly chain: readonly OpenRecord[];
}

const path = (directory: string): string => `${directory}/identity`;

/** Null when there is none. Reads only. */
export async function readIdentity(
  files: Files,
  directory: string,
  names: readonly string[],
): Promise<IdentityFile | null> {
  if (!names.includes('identity')) return null;
  const handle = await files.open(path(directory), 'read');
  const bytes = Buffer.alloc(4 * BLOCK);
  await handle.read(bytes, 0, bytes.length, 0);
  await handle.close();
  const header = parseHeader(bytes.subarray(0, BLOCK)) ?? parseHeader(bytes.subarray(BLOCK, 2 * BLOCK));
  if (header === null)
    throw new StoreError(
      'DAMAGED',
      `${path(directory)} cannot be read: set the directory aside (never delete it), start with an empty one; peers hold a copy of every message`,
    );
  if (header.version > FORMAT_VERSION)
    throw new StoreError(
      'VERSION',
      `${directory} is of format ${header.version}, this program knows ${FORMAT_VERSION}: run the newer program`,
    );
  const chain = new Map<number, OpenRecord>();
  for (const ring of [2, 3])
    for (let slot = 0; slot < SLOTS; slot++) {
      const record = parseOpen(bytes, ring * BLOCK + slot * SLOT);
      if (record !== null) chain.set(record.openCounter, record);
    }
  const sorted = [...chain.values()].sort((a, b) => a.openCounter - b.openCounter).slice(-SLOTS);
  return { identity: header.identity, member: header.member, salt: header.salt, chain: sorted };
}

/** Writes a new identity file under its name only when it is whole. */
export async function createIdentity(
  files: Files,
  directory: string,
  names: readonly string[],
  random: Random,
  member: string,
  mutants: ReadonlySet<StoreMutant>,
): Promise<IdentityFile> {
  const temporary = `${directory}/identity.new`;
  if (names.includes('identity.new')) await files.unlink(temporary);
  const drawn = newIdentity(random);
  const named = Buffer.from(member).toString('hex').toUpperCase().padEnd(26, '0').slice(0, 26) as Identity;
  const identity = mutants.has('identity-reused') ? named : drawn;
  const salt = random.bytes(SALT_BYTES);
  const open: OpenRecord = { openCounter: 1, nonce: newNonce(random) };
  const block = headerBlock({ version: FORMAT_VERSION, identity, member, salt });
  const ring = Buffer.alloc(BLOCK);
  openSlot(open).copy(ring, slotOffset(open.openCounter));
  const handle = await files.open(temporary, 'create');
  await handle.writev([block, block, ring, ring], 0);
  await handle.datasync();
  await handle.close();
  await files.rename(temporary, path(directory));
  await files.syncDirectory(directory);
  return { identity, member, salt, chain: [open] };
}

/** Appends this open durably. */
export async function recordOpen(
  files: Files,
  directory: string,
  file: IdentityFile,
  random: Random,
): Promise<IdentityFile> {
  const last = file.chain[file.chain.length - 1]?.openCounter ?? 0;
  const open: OpenRecord = { openCounter: last + 1, nonce: newNonce(random) };
  const slot = openSlot(open);
  const handle: FileHandle = await files.open(path(directory), 'write');
  await handle.writev([slot], 2 * BLOCK + slotOffset(open.openCounter));
  await handle.writev([slot], 3 * BLOCK + slotOffset(open.openCounter));
  await handle.datasync();
  await handle.close();
  return { ...file, chain: [...file.chain, open].slice(-SLOTS) };
}

const slotOffset = (openCounter: number): number => (openCounter % SLOTS) * SLOT;

function openSlot(open: OpenRecord): Buffer {
  const slot = Buffer.alloc(SLOT);
  slot.writeUInt32LE(open.openCounter, 4);
  slot.write(open.nonce, 8, 'latin1');
  slot.writeUInt32LE(crc32(slot.subarray(4)), 0);
  return slot;
}

function parseOpen(bytes: Buffer, at: number): OpenRecord | null {
  const slot = bytes.subarray(at, at + SLOT);
  const openCounter = slot.readUInt32LE(4);
  if (openCounter === 0 || crc32(slot.subarray(4)) !== slot.readUInt32LE(0)) return null;
  return { openCounter, nonce: slot.toString('latin1', 8, 40) };
}

interface Header {
  readonly version: number;
  readonly identity: Identity;
  readonly member: string;
  readonly salt: Buffer;
}

function headerBlock(header: Header): Buffer {
  const block = Buffer.alloc(BLOCK);
  const { version, identity, member, salt } = header;
  const text = `${MAGIC}${JSON.stringify({ version, identity, member, salt: salt.toString('hex') })}\n`;
  const length = block.write(text, 8);
  block.writeUInt32LE(length, 4);
  block.writeUInt32LE(crc32(block.subarray(4)), 0);
  return block;
}

function parseHeader(block: Buffer): Header | null {
  if (crc32(block.subarray(4)) !== block.readUInt32LE(0)) return null;
  const length = block.readUInt32LE(4);
  const text = block.toString('utf8', 8, 8 + length);
  if (!text.startsWith(MAGIC)) return null;
  const row = JSON.parse(text.slice(MAGIC.length)) as Omit<Header, 'salt'> & { readonly salt: string };
  return { ...row, salt: Buffer.from(row.salt, 'hex') };
}
