/** Levels of back pressure: from space and what is under way, from memory, from the queue; entered early, left late. */
import { describe, expect, it } from 'vitest';
import { memoryUse } from '../../common/platform/memory-use.ts';
import {
  HIGH_FREE_BYTES,
  MARKS,
  MEDIUM_FREE_BYTES,
  openBytesOf,
  PressureGauge,
  RESOURCES,
  type Readings,
} from '../../transport/runtime/pressure.ts';

const MB = 1 << 20;
const MAX = 25 * MB;
const CALM: Readings = { space: { freeBytes: 10_000 * MB }, openBytes: 0, memoryUse: 0.3, queued: 0 };
const level = (readings: Partial<Readings>): string => new PressureGauge().read({ ...CALM, ...readings }).level;
const free = (freeBytes: number, openBytes = 0): string => level({ space: { freeBytes }, openBytes });

describe('pressure', () => {
  it('follows free space', () => {
    expect(free(MEDIUM_FREE_BYTES)).toBe('Normal');
    expect(free(MEDIUM_FREE_BYTES - 1)).toBe('Medium');
    expect(free(HIGH_FREE_BYTES)).toBe('Medium');
    expect(free(HIGH_FREE_BYTES - 1)).toBe('High');
    expect(free(0)).toBe('High');
  });

  it('counts what open streams may still bring as used', () => {
    expect(free(600 * MB, 0)).toBe('Normal');
    expect(free(600 * MB, 344 * MB)).toBe('Normal');
    expect(free(600 * MB, 344 * MB + 1)).toBe('Medium');
    expect(free(600 * MB, 536 * MB + 1)).toBe('High');
    expect(free(600 * MB, 10_000 * MB)).toBe('High');
  });

  it('forty declared messages of 20 MB cannot pass the mark together', () => {
    const streams = Array.from({ length: 40 }, () => ({ declaredSizeBytes: 20 * MB, receivedBytes: 0 }));
    expect(free(900 * MB)).toBe('Normal');
    expect(free(900 * MB, openBytesOf(streams, MAX))).toBe('Medium');
    // Half of it has arrived: the space is less by as much as they may bring less.
    const later = streams.map((stream) => ({ ...stream, receivedBytes: 10 * MB }));
    expect(free(500 * MB, openBytesOf(later, MAX))).toBe('Medium');
  });

  it.each(RESOURCES)('%s: one level after the other up and down, and between the marks it stays where it is', (one) => {
    const { medium, high } = MARKS[one];
    const gauge = new PressureGauge();
    const at = (value: number): string => {
      const readings = {
        disk: { space: { freeBytes: -value } },
        memory: { memoryUse: value },
        queue: { queued: value },
      }[one];
      const said = gauge.read({ ...CALM, ...readings });
      expect(said.resource).toBe(said.level === 'Normal' ? '' : one);
      return said.level;
    };
    const between = ({ from, until }: { from: number; until: number }): number => (from + until) / 2;
    const above = (value: number): number => value + Math.abs(value) / 1_000;
    expect(at(between(medium))).toBe('Normal');
    expect(at(medium.from)).toBe('Normal');
    expect(at(above(medium.from))).toBe('Medium');
    expect(at(between(medium))).toBe('Medium');
    expect(at(high.from)).toBe('Medium');
    expect(at(above(high.from))).toBe('High');
    expect(at(between(high))).toBe('High');
    expect(at(high.until)).toBe('Medium');
    expect(at(between(medium))).toBe('Medium');
    expect(at(medium.until)).toBe('Normal');
    expect(at(between(medium))).toBe('Normal');
  });

  it('names every resource at the highest level, and no other', () => {
    const gauge = new PressureGauge();
    const full = { ...CALM, space: { freeBytes: 0 }, memoryUse: 0.95 };
    expect(gauge.read(full)).toEqual({ level: 'High', resource: 'disk, memory' });
    expect(gauge.read({ ...full, memoryUse: 0.88 })).toEqual({ level: 'High', resource: 'disk' });
    expect(RESOURCES.map((one) => gauge.levelOf(one))).toEqual(['High', 'Medium', 'Normal']);
    expect(gauge.read(CALM)).toEqual({ level: 'Normal', resource: '' });
  });

  it('memory is a part of what the process may have', () => {
    const before = memoryUse();
    expect(before).toBeGreaterThan(0);
    expect(before).toBeLessThan(1);
    const held = Array.from({ length: 2_000_000 }, (_, index) => ({ index }));
    expect(memoryUse()).toBeGreaterThan(before);
    expect(held.length).toBe(2_000_000);
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
