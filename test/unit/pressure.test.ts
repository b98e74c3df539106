/** Levels of back pressure from space and from what is under way. */
import { describe, expect, it } from 'vitest';
import { HIGH_FREE_BYTES, MEDIUM_FREE_BYTES, openBytesOf, pressureOf } from '../../transport/runtime/pressure.ts';

const MB = 1 << 20;
const MAX = 25 * MB;

describe('pressure', () => {
  it('follows free space', () => {
    expect(pressureOf({ freeBytes: MEDIUM_FREE_BYTES }, 0)).toBe('Normal');
    expect(pressureOf({ freeBytes: MEDIUM_FREE_BYTES - 1 }, 0)).toBe('Medium');
    expect(pressureOf({ freeBytes: HIGH_FREE_BYTES }, 0)).toBe('Medium');
    expect(pressureOf({ freeBytes: HIGH_FREE_BYTES - 1 }, 0)).toBe('High');
    expect(pressureOf({ freeBytes: 0 }, 0)).toBe('High');
  });

  it('counts what open streams may still bring as used', () => {
    const space = { freeBytes: 600 * MB };
    expect(pressureOf(space, 0)).toBe('Normal');
    expect(pressureOf(space, 344 * MB)).toBe('Normal');
    expect(pressureOf(space, 344 * MB + 1)).toBe('Medium');
    expect(pressureOf(space, 536 * MB + 1)).toBe('High');
    expect(pressureOf(space, 10_000 * MB)).toBe('High');
  });

  it('forty declared messages of 20 MB cannot pass the mark together', () => {
    const streams = Array.from({ length: 40 }, () => ({ declaredSizeBytes: 20 * MB, receivedBytes: 0 }));
    expect(pressureOf({ freeBytes: 900 * MB }, 0)).toBe('Normal');
    expect(pressureOf({ freeBytes: 900 * MB }, openBytesOf(streams, MAX))).toBe('Medium');
    // Half of it has arrived: the space is less by as much as they may bring less.
    const later = streams.map((stream) => ({ ...stream, receivedBytes: 10 * MB }));
    expect(pressureOf({ freeBytes: 500 * MB }, openBytesOf(later, MAX))).toBe('Medium');
  });

  it('takes a stream by its declared size, else by what it has brought', () => {
    const one = (declaredSizeBytes: number | null, receivedBytes: number): number =>
      openBytesOf([{ declaredSizeBytes, receivedBytes }], MAX);
    expect(openBytesOf([], MAX)).toBe(0);
    expect(one(5 * MB, 2 * MB)).toBe(3 * MB);
    expect(one(5 * MB, 5 * MB)).toBe(0);
    expect(one(1 * MB, 5 * MB)).toBe(5 * MB);
    expect(one(null, 0)).toBe(0);
    expect(one(null, 4096)).toBe(4096);
    expect(one(null, 20 * MB)).toBe(5 * MB);
    expect(one(900 * MB, 0)).toBe(MAX);
    expect(one(1, MAX)).toBe(0);
  });
});
