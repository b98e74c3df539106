/**
 * How the commands speak: tables for people, JSON for programs. Pure. Promise: what came from mail (addresses, replies) cannot steer the
 * terminal: control characters are shown as `?`. Times are UTC, ages in the largest sensible unit, sizes in binary units.
 */
export interface Output {
  out(text: string): void;
  err(text: string): void;
}

export type Format = 'table' | 'json';

export interface Column<Row> {
  readonly title: string;
  readonly value: (row: Row) => string | number | null;
  readonly right?: boolean;
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is replaced
const CONTROL = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;
const LEFT_BY_JSON = /[\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/** Those of them that JSON does not write as an escape. */
const escaped = (json: string): string =>
  json.replace(LEFT_BY_JSON, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, '0')}`);

export const printable = (text: string): string => text.replace(CONTROL, '?');

/** Lines without trailing blanks; a null cell is `-`. */
export function table<Row>(columns: readonly Column<Row>[], rows: readonly Row[]): string {
  const cells = rows.map((row) =>
    columns.map((column) => {
      const value = column.value(row);
      return value === null || value === '' ? '-' : printable(String(value));
    }),
  );
  const widths = columns.map(({ title }, index) =>
    cells.reduce((widest, row) => Math.max(widest, (row[index] ?? '').length), title.length),
  );
  const padded = (cell: string, index: number): string => {
    if (columns[index]?.right === true) return cell.padStart(widths[index] ?? 0);
    // Nothing stands behind the last one, and it may be very long.
    return index === columns.length - 1 ? cell : cell.padEnd(widths[index] ?? 0);
  };
  const line = (row: readonly string[]): string => row.map(padded).join('  ').trimEnd();
  return [line(columns.map((column) => column.title)), ...cells.map(line)].map((text) => `${text}\n`).join('');
}

/** Somebody may look at it in a terminal: control characters, which JSON leaves as they are from U+007F on, are written as `\\u...`. */
export function json(value: unknown): string {
  return `${escaped(JSON.stringify(value, null, 2))}\n`;
}

/** JSON on one line. */
export const jsonLine = (value: unknown): string => `${escaped(JSON.stringify(value))}\n`;

const AGE_UNITS = [
  { name: 'd', ms: 86_400_000 },
  { name: 'h', ms: 3_600_000 },
  { name: 'm', ms: 60_000 },
  { name: 's', ms: 1_000 },
] as const;

/** Never rounded up: what shows `2h` is at least that old, as filters by age mean it. */
export function age(ms: number): string {
  const unit = AGE_UNITS.find((one) => ms >= one.ms);
  if (unit === undefined) return `${Math.floor(ms)}ms`;
  const tenths = Math.floor((ms * 10) / unit.ms);
  return `${tenths < 100 ? tenths / 10 : Math.floor(tenths / 10)}${unit.name}`;
}

export function duration(ms: number): string {
  const unit = AGE_UNITS.find((one) => Math.abs(ms) >= one.ms);
  if (unit === undefined) return `${Math.round(ms)}ms`;
  const value = ms / unit.ms;
  return `${value < 10 ? Math.round(value * 10) / 10 : Math.round(value)}${unit.name}`;
}

export function size(bytes: number): string {
  let value = bytes;
  for (const unit of ['B', 'KiB', 'MiB', 'GiB']) {
    if (value < 1024) return `${value < 10 && unit !== 'B' ? value.toFixed(1) : Math.round(value)} ${unit}`;
    value /= 1024;
  }
  return `${value.toFixed(1)} TiB`;
}

/** `2026-01-02 03:04:05.678` (UTC). */
export function time(ms: number): string {
  return new Date(ms).toISOString().replace('T', ' ').replace('Z', '');
}

export const count = (number: number, word: string): string => `${number} ${word}${number === 1 ? '' : 's'}`;
