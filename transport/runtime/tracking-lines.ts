/**
 * What stands in a tracking file, PURE: bytes to lines to records. Owns: the check that a line is a record. Promise: time and memory in proportion to the bytes, whatever they
 * are; half a line, a damaged one or one of another program is left out, and its neighbours are not. Refuses nothing.
 */
import type { TrackingHistory, TrackingRecord } from './tracking-api.ts';

const LF = 0x0a;
/** Of Date. */
const LAST_MS = 8.64e15;

/** Lines of a file that comes in pieces; what follows the last line end is half a line, and dropped. */
export class TrackingLines {
  #parts: Buffer[] = [];

  /** `chunk` may be used again afterwards. */
  *push(chunk: Buffer): Iterable<string> {
    const end = chunk.lastIndexOf(LF);
    if (end === -1) {
      this.#parts.push(Buffer.from(chunk));
      return;
    }
    const whole = Buffer.concat([...this.#parts, chunk.subarray(0, end)]);
    this.#parts = end + 1 === chunk.length ? [] : [Buffer.from(chunk.subarray(end + 1))];
    yield* whole.toString('utf8').split('\n');
  }
}

/** A record and the history it carries, one by one; the names a person may search by stand on each. Empty for anything that is no record. */
export function recordsOf(line: string): readonly TrackingRecord[] {
  const parsed = parseRecord(line);
  if (parsed === null) return [];
  const { history = [], ...record } = parsed;
  const { attemptId, messageId, root } = record;
  const names = {
    attemptId,
    ...(messageId === undefined ? {} : { messageId }),
    ...(root === undefined ? {} : { root }),
  };
  return [...history.map((event) => ({ ...event, ...names })), record];
}

function parseRecord(line: string): TrackingRecord | null {
  // An error for each line of garbage would take longer than all the rest.
  if (!line.startsWith('{"') || !line.endsWith('}')) return null;
  try {
    const value: unknown = JSON.parse(line);
    return isRecord(value) ? value : null;
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}

type Unknown<T> = { readonly [Key in keyof T]?: unknown };

const isText = (value: unknown): boolean => typeof value === 'string';
const isTextOrAbsent = (value: unknown): boolean => value === undefined || isText(value);
const isListOrAbsent = (value: unknown, ofWhat: (item: unknown) => boolean): boolean =>
  value === undefined || (Array.isArray(value) && value.every(ofWhat));

function isEvent(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false;
  const { atMs, event, source, detail } = value as Unknown<TrackingHistory>;
  if (typeof atMs !== 'number' || !(Math.abs(atMs) <= LAST_MS)) return false;
  return isText(event) && isText(source) && isTextOrAbsent(detail);
}

function isRecord(value: unknown): value is TrackingRecord {
  if (!isEvent(value)) return false;
  const { attemptId, messageId, subjectHash, root, parent, from, peer, recipients, history } =
    value as Unknown<TrackingRecord>;
  const texts = isText(attemptId) && [messageId, subjectHash, root, parent, from, peer].every(isTextOrAbsent);
  return texts && isListOrAbsent(recipients, isText) && isListOrAbsent(history, isEvent);
}
