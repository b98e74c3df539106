/**
 * Durations, sizes and times as resources write them. Owns: their grammar (kubernetes.md, bullet "Schema"). Promise: null for
 * anything else, so that no caller guesses. Durations are Go's without fractions, days and signs.
 */
import { assert } from '../../common/platform/assert.ts';

const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };
const UNIT_BYTES: Readonly<Record<string, number>> = {
  '': 1,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  Ki: 1024,
  Mi: 1024 ** 2,
  Gi: 1024 ** 3,
  Ti: 1024 ** 4,
};

export function parseDuration(text: string): number | null {
  if (!/^([0-9]+(ms|s|m|h))+$/.test(text)) return null;
  let totalMs = 0;
  for (const [, digits, unit] of text.matchAll(/([0-9]+)(ms|s|m|h)/g))
    totalMs += Number(digits) * (UNIT_MS[unit ?? ''] ?? 0);
  return totalMs;
}

export function parseSize(text: string): number | null {
  const match = /^([0-9]+)(k|M|G|T|Ki|Mi|Gi|Ti)?$/.exec(text);
  const scale = UNIT_BYTES[match?.[2] ?? ''];
  return match === null || scale === undefined ? null : Number(match[1]) * scale;
}

/** RFC 3339 section 5.6, as the API server reads it: no 30 February, no hour 24, no leap second; `Date.parse` alone takes the first two. */
export function isDateTime(value: string): boolean {
  const parts = /^(\d{4})-(\d\d)-(\d\d)T(\d\d):\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/.exec(value);
  if (parts === null || Number.isNaN(Date.parse(value))) return false;
  const [year = 0, month = 0, day = 0, hour = 0] = parts.slice(1, 5).map(Number);
  return day <= new Date(Date.UTC(year, month, 0)).getUTCDate() && hour <= 23;
}

/** For values the schema has already let pass. */
export function durationMs(text: string): number {
  const parsed = parseDuration(text);
  assert(parsed !== null, 'a validated resource holds a malformed duration', { text });
  return parsed;
}

export function sizeBytes(text: string): number {
  const parsed = parseSize(text);
  assert(parsed !== null, 'a validated resource holds a malformed size', { text });
  return parsed;
}
