/**
 * The footer of a segment: the Safety Net entries whose MOVE records it lists, in the order of the log, behind a Bloom filter of their
 * ids, so that Safety Net needs no memory per message but the filter and the look-up of an absent id reads nothing. Owns: the bytes of
 * a footer. It stays bytes in memory too: a line becomes an object when somebody asks for it. A footer is an index, never
 * authoritative: a damaged one is rebuilt from the records (`log-access.ts`).
 */
import { crc32 } from 'node:zlib';
import type { CopyId } from '../../common/message.ts';
import { type Bloom, buildBloom } from './bloom.ts';
import type { SafetyNetEntry } from './database.ts';
import type { Place } from './record.ts';

export interface RestingEntry {
  readonly entry: SafetyNetEntry;
  /** The MOVE record. */
  readonly at: Place;
  /** Segments that must stay as long as the entry: those of its MOVE, its COMMIT and its body. */
  readonly refs: readonly number[];
}

type Row = readonly [CopyId, 0 | 1, readonly string[], number, number, Place, readonly number[]];

/** One line of JSON; the id comes first. */
export function entryLine({ entry, at, refs }: RestingEntry): string {
  const { id, role, databases, finalAtMs, sizeBytes } = entry;
  return JSON.stringify([id, role === 'primary' ? 0 : 1, databases, finalAtMs, sizeBytes, at, refs] satisfies Row);
}

const ofRow = ([id, role, databases, finalAtMs, sizeBytes, at, refs]: Row): RestingEntry => ({
  entry: { id, role: role === 0 ? 'primary' : 'shadow', databases, finalAtMs, sizeBytes },
  at,
  refs,
});

export function parseLines(text: string): RestingEntry[] {
  return text === '' ? [] : (JSON.parse(`[${text}]`) as readonly Row[]).map(ofRow);
}

/** In the order of the log. */
export const byPlace = (a: Place, b: Place): number => a[0] - b[0] || a[1] - b[1];

const SEPARATOR = ',\n';
const LINE_END = 0x0a;

const joined = (entries: readonly RestingEntry[]): Buffer => Buffer.from(entries.map(entryLine).join(SEPARATOR));

/** The lines of one footer. */
export class FooterLines {
  readonly #bytes: Buffer;
  /** Where the line of an id begins; made when the second id is asked for. */
  #starts: Map<string, number> | null = null;
  #searches = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  static of(entries: readonly RestingEntry[]): FooterLines {
    return new FooterLines(joined([...entries].sort((a, b) => byPlace(a.at, b.at))));
  }

  /** Lines of MOVE records behind `after`, all when it is null. */
  *behind(after: Place | null): Iterable<RestingEntry> {
    for (
      let start = after === null ? 0 : this.#firstBehind(after);
      start < this.#bytes.length;
      start = this.#next(start)
    )
      yield this.#parse(start);
  }

  /** The lines stand in the order of the log: by halves. */
  #firstBehind(after: Place): number {
    let from = 0;
    let to = this.#bytes.length;
    while (from < to) {
      const start = this.#lineAt((from + to) >> 1, from);
      if (byPlace(this.#parse(start).at, after) <= 0) from = this.#next(start);
      else to = start;
    }
    return from;
  }

  /** Where the line that `at` lies in begins; not before `from`, where one begins. */
  #lineAt(at: number, from: number): number {
    const end = at === 0 ? -1 : this.#bytes.lastIndexOf(LINE_END, at - 1);
    return Math.max(from, end + 1);
  }

  find(id: CopyId): RestingEntry | null {
    this.#searches += 1;
    if (this.#searches > 2) this.#starts ??= this.#index();
    const start = this.#starts === null ? this.#bytes.lastIndexOf(`["${id}",`) : (this.#starts.get(id) ?? -1);
    return start === -1 ? null : this.#parse(start);
  }

  #index(): Map<string, number> {
    const starts = new Map<string, number>();
    for (let start = 0; start < this.#bytes.length; start = this.#next(start))
      starts.set(this.#bytes.toString('latin1', start + 2, this.#bytes.indexOf('"', start + 2)), start);
    return starts;
  }

  /** Where the next line begins. */
  #next(start: number): number {
    const end = this.#bytes.indexOf(LINE_END, start);
    return end === -1 ? this.#bytes.length : end + 1;
  }

  #parse(start: number): RestingEntry {
    const next = this.#next(start);
    const end = next === this.#bytes.length ? next : next - SEPARATOR.length;
    return ofRow(JSON.parse(this.#bytes.toString('utf8', start, end)) as Row);
  }
}

/** JSON and body of a FOOTER record. */
export function encodeFooter(resting: readonly RestingEntry[]): {
  readonly meta: string;
  readonly body: readonly Buffer[];
  readonly bloom: Bloom;
} {
  const bloom = buildBloom(resting.map((item) => item.entry.id));
  const { bits, probes } = bloom;
  const meta = JSON.stringify({ n: resting.length, b: bits.length, c: crc32(bits), p: probes });
  return { meta, body: [bits, joined(resting)], bloom };
}

/** Length and checksum of the filter that begins the body; `probes` null in footers of an older kind. */
export function bloomOf(meta: Buffer): {
  readonly length: number;
  readonly crc: number;
  readonly probes: number | null;
} {
  const { b, c, p } = JSON.parse(meta.toString()) as { readonly b: number; readonly c: number; readonly p?: number };
  return { length: b, crc: c, probes: p ?? null };
}

/** Splits the body of a FOOTER record. */
export function decodeFooter(meta: Buffer, body: Buffer): { readonly bloom: Bloom; readonly lines: FooterLines } {
  const { length, probes } = bloomOf(meta);
  const lines = body.subarray(length);
  if (probes !== null)
    return { bloom: { bits: Buffer.from(body.subarray(0, length)), probes }, lines: new FooterLines(lines) };
  // Of an older kind: another filter, lines in another order.
  const entries = parseLines(lines.toString());
  return { bloom: buildBloom(entries.map((item) => item.entry.id)), lines: FooterLines.of(entries) };
}
