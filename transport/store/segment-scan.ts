/**
 * Reads the groups of one segment out of its bytes (protocol.md 25). Owns: finding records again after damage, by the volume's salt.
 * Promise: everything whole is found, whatever lies between; what is not whole is listed as damage with its offset. Decides nothing:
 * whether damage is a torn tail or a media error is known only to `log-reader.ts`.
 */
import { crc32 } from 'node:zlib';
import type { CopyId } from '../../common/message.ts';
import { guessId } from './log-record.ts';
import { BLOCK, chain, HEADER, type ParsedRecord, padded, parseRecord, recordCrc } from './record.ts';

export interface Damage {
  readonly offset: number;
  readonly reason: string;
  readonly id: CopyId | null;
}

export interface ScannedRecord extends ParsedRecord {
  readonly body: Buffer;
}

export interface ScannedGroup {
  readonly offset: number;
  /** Where the next group starts; for damage without a group header, where something readable starts again. */
  readonly end: number;
  /** Null when the header is lost. */
  readonly header: ParsedRecord | null;
  /** Whole records in order; those of damaged groups too. */
  readonly records: readonly ScannedRecord[];
  /** Empty when the group is whole. */
  readonly damage: readonly Damage[];
}

/** The groups between `from` and `to` of a segment; `bytes[0]` is the segment's first byte. */
export function scanSegment(bytes: Buffer, salt: Buffer, generation: number, from: number, to: number): ScannedGroup[] {
  const groups: ScannedGroup[] = [];
  const source = bytes.subarray(0, Math.min(to, bytes.length));
  let at = from;
  while (at + HEADER <= source.length) {
    const header = parseRecord(source, at, salt, generation);
    if (header !== null && header.kind === 'group') {
      const group = scanGroup(source, salt, header);
      groups.push(group);
      at = group.end;
      continue;
    }
    const lost = scanLost(source, salt, generation, at);
    if (lost === null) break;
    groups.push(lost);
    at = lost.end;
  }
  return groups;
}

/** The group whose header was found; `source[0]` lies at `base` of the segment. */
export function scanGroup(source: Buffer, salt: Buffer, header: ParsedRecord, base = 0): ScannedGroup {
  const start = header.offset - base + HEADER;
  const limit = Math.min(start + header.bodyLength, source.length);
  const found = scanRecords(source, salt, header.generation, start, limit, base);
  const damage = [...found.damage];
  const whole = found.records.length === header.count && found.sum === header.bodyCrc && damage.length === 0;
  if (!whole && damage.length === 0)
    damage.push({ offset: header.offset, reason: 'records of a group are missing', id: null });
  const end = Math.min(header.offset + padded(HEADER + header.bodyLength), base + padded(source.length));
  return { offset: header.offset, end, header, records: found.records, damage };
}

interface FoundRecords {
  readonly records: ScannedRecord[];
  readonly damage: Damage[];
  readonly sum: number;
}

function scanRecords(
  source: Buffer,
  salt: Buffer,
  generation: number,
  from: number,
  to: number,
  base: number,
): FoundRecords {
  const records: ScannedRecord[] = [];
  const damage: Damage[] = [];
  let sum = 0;
  let at = from;
  while (at < to) {
    const record = parseRecord(source, at, salt, generation, base);
    const next = record === null ? -1 : at + HEADER + record.metaLength + record.bodyLength;
    if (record === null || next > to) {
      const again = nextRecord(source, salt, generation, at + 1, to, base);
      const reason = record === null ? 'a record header is damaged' : 'a record is longer than its group';
      damage.push({ offset: base + at, reason, id: guessId(source.subarray(at, Math.min(again, at + BLOCK))) });
      at = again;
      continue;
    }
    const body = source.subarray(next - record.bodyLength, next);
    sum = chain(sum, recordCrc(source, at), record.bodyCrc);
    if (record.bodyLength > 0 && crc32(body) !== record.bodyCrc)
      damage.push({
        offset: base + at,
        reason: `the body of a ${record.kind} record is damaged`,
        id: guessId(record.meta),
      });
    else records.push({ ...record, body });
    at = next;
  }
  return { records, damage, sum };
}

/** Offset of the next whole record of this generation; `to` when there is none. */
function nextRecord(source: Buffer, salt: Buffer, generation: number, from: number, to: number, base = 0): number {
  let at = from;
  for (;;) {
    at = source.indexOf(salt, at);
    if (at === -1 || at >= to) return to;
    if (parseRecord(source, at, salt, generation, base) !== null) return at;
    at += 1;
  }
}

/** Damage where a group header should be: whatever whole records lie before the next group. Null when nothing follows. */
function scanLost(source: Buffer, salt: Buffer, generation: number, from: number): ScannedGroup | null {
  const records: ScannedRecord[] = [];
  let at = nextRecord(source, salt, generation, from, source.length);
  if (at === source.length) return null;
  const damage: Damage[] = [{ offset: from, reason: 'a group header is damaged', id: null }];
  while (at < source.length) {
    const record = parseRecord(source, at, salt, generation);
    if (record === null || record.kind === 'group') break;
    const next = at + HEADER + record.metaLength + record.bodyLength;
    const body = source.subarray(next - record.bodyLength, next);
    if (next > source.length || (record.bodyLength > 0 && crc32(body) !== record.bodyCrc))
      damage.push({ offset: at, reason: `the body of a ${record.kind} record is damaged`, id: guessId(record.meta) });
    else records.push({ ...record, body });
    at = nextRecord(source, salt, generation, Math.min(next, source.length), source.length);
  }
  return { offset: from, end: at, header: null, records, damage };
}
