/** What of message tracking stays: by size, by age, by what the volume has left; over the simulated disk and clock (decision 0039). */
import { expect, test } from 'vitest';
import type { MessageTrackingConfig } from '../../common/config.ts';
import type { FileHandle } from '../../common/platform/files.ts';
import { type LogFields, type Logger, silentLogger } from '../../common/platform/log.ts';
import { MEDIUM_FREE_BYTES } from '../../transport/runtime/pressure.ts';
import { openTracking, type TrackingFiles, type TrackingFilesOptions } from '../../transport/runtime/tracking.ts';
import type { TrackingRecord } from '../../transport/runtime/tracking-api.ts';
import { Retention, SPARE_BYTES } from '../../transport/runtime/tracking-retention.ts';
import { SimDisk } from '../sim/disk.ts';
import { Scheduler } from '../sim/scheduler.ts';

const DIRECTORY = '/queue/tracking';
const MINUTE_MS = 60_000;
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const MiB = 1 << 20;
const GiB = 1 << 30;
const DECLARED: MessageTrackingConfig = { maxAgeMs: DAY_MS, maxBytes: 64 * MiB };

class World {
  readonly scheduler = new Scheduler(1);
  readonly clock = this.scheduler.clock();
  readonly disk: SimDisk;
  readonly files;
  readonly said: [string, LogFields][] = [];
  readonly gauges = new Map<string, number>();
  dropped = 0;
  /** What the queue database says of the volume. */
  freeBytes = 100 * GiB;

  readonly logger: Logger = {
    ...silentLogger,
    info: (fields, message) => {
      this.said.push([message, fields]);
    },
    warn: (fields, message) => {
      this.said.push([message, fields]);
    },
  };

  constructor(capacityBytes = 256 * MiB) {
    this.disk = new SimDisk(this.scheduler, { capacityBytes });
    this.files = this.disk.files({ alive: true });
  }

  settle<T>(promise: Promise<T>): Promise<T> {
    // An event to begin with: what was asked just now may not have reached the scheduler yet.
    this.scheduler.schedule(0, () => undefined);
    return this.scheduler.await(promise);
  }

  async pass(spanMs: number): Promise<void> {
    let hasPassed = false;
    // Also when nobody waits for anything.
    this.scheduler.schedule(spanMs, () => {
      hasPassed = true;
    });
    await this.scheduler.run(() => hasPassed, this.scheduler.nowMs + spanMs + 1);
    expect(hasPassed).toBe(true);
  }

  open(options: Partial<TrackingFilesOptions> = {}): Promise<TrackingFiles> {
    const { clock, files, logger } = this;
    const metrics = {
      increment: (name: string, _labels?: unknown, by = 1) => {
        if (name === 'tracking_dropped_total') this.dropped += by;
      },
      set: (name: string, value: number) => {
        this.gauges.set(name, value);
      },
      observe: () => undefined,
    };
    const volume = () => ({ totalBytes: 100 * GiB, freeBytes: this.freeBytes });
    const ports = { directory: DIRECTORY, files, clock, logger, metrics, volume };
    return this.settle(openTracking({ ...ports, retention: DECLARED, ...options }));
  }

  async record(tracking: TrackingFiles, attemptId: string, bytes = 0): Promise<void> {
    const detail = 'x'.repeat(bytes);
    const record: TrackingRecord = { atMs: this.clock.wallMs(), event: 'RECEIVE', source: 'a', attemptId, detail };
    tracking.record(record);
    await this.settle(tracking.flush());
  }

  async finds(tracking: TrackingFiles, attemptId: string): Promise<boolean> {
    return (await this.settle(tracking.search([attemptId]))).length > 0;
  }

  usedBytes(): number {
    const own = this.disk.entries().filter(({ path }) => path.startsWith(DIRECTORY));
    return own.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  }

  saidOf(words: string): number {
    return this.said.filter(([message]) => message.includes(words)).length;
  }
}

test('what went by the size is known by the oldest record there is, after a restart as well; while nothing went nothing is missing', async () => {
  const world = new World();
  const sized = { retention: { maxAgeMs: Number.POSITIVE_INFINITY, maxBytes: MiB } };
  const tracking = await world.open(sized);
  expect(await world.settle(tracking.gaps())).toEqual({ beforeMs: null, dropped: null });
  const times: number[] = [];
  for (let n = 0; n < 20; n++) {
    times.push(world.clock.wallMs());
    await world.record(tracking, `M${n}`, 100_000);
    if (n === 3) expect((await world.settle(tracking.gaps())).beforeMs).toBeNull();
    await world.pass(1_000);
  }
  const found: number[] = [];
  for (const [n, atMs] of times.entries()) if (await world.finds(tracking, `M${n}`)) found.push(atMs);
  expect(found.length).toBeLessThan(times.length);
  const gaps = await world.settle(tracking.gaps());
  expect(gaps).toEqual({ beforeMs: found[0], dropped: null });
  await world.settle(tracking.close());
  expect(await world.settle((await world.open(sized)).gaps())).toEqual(gaps);
});

test('what went by the age is known also when nothing is left', async () => {
  const world = new World();
  const tracking = await world.open({ retention: { maxAgeMs: 10 * MINUTE_MS, maxBytes: null } });
  await world.record(tracking, 'OLD');
  const atMs = world.clock.wallMs();
  await world.pass(20 * MINUTE_MS);
  expect(await world.finds(tracking, 'OLD')).toBe(false);
  const { beforeMs } = await world.settle(tracking.gaps());
  expect(beforeMs).toBeGreaterThan(atMs);
  expect(beforeMs).toBeLessThanOrEqual(world.clock.wallMs() - 10 * MINUTE_MS);
});

test.each([
  ['nothing declared: as it was', null, 20 * GiB, { maxBytes: 128 * MiB, maxAgeMs: Number.POSITIVE_INFINITY }],
  ['no size, a roomy volume', { maxAgeMs: 5, maxBytes: null }, 20 * GiB, { maxBytes: GiB, maxAgeMs: 5 }],
  ['no size, a small volume', { maxAgeMs: 5, maxBytes: null }, 5 * GiB, { maxBytes: GiB / 2, maxAgeMs: 5 }],
  ['a size', { maxAgeMs: 5, maxBytes: 3 * GiB }, 20 * GiB, { maxBytes: 3 * GiB, maxAgeMs: 5 }],
] as const)('bounds: %s', (_, declared, totalBytes, expected) => {
  const usedBytes = totalBytes / 16;
  const volume = () => ({ totalBytes: totalBytes - usedBytes, freeBytes: totalBytes / 2 });
  const bounds = new Retention({ declared, volume, logger: silentLogger }).bounds(usedBytes);
  expect(bounds).toMatchObject(expected);
  expect(bounds.fileBytes * 8).toBe(bounds.maxBytes);
});

test('what is older than the age goes, without anything recorded since; what is younger stays', async () => {
  const world = new World();
  const tracking = await world.open();
  await world.record(tracking, 'OLD');
  await world.pass(12 * HOUR_MS);
  await world.record(tracking, 'YOUNG');
  await world.pass(11 * HOUR_MS);
  expect(await world.finds(tracking, 'OLD')).toBe(true);
  await world.pass(4 * HOUR_MS);
  expect([await world.finds(tracking, 'OLD'), await world.finds(tracking, 'YOUNG')]).toEqual([false, true]);
  await world.pass(12 * HOUR_MS);
  expect(await world.finds(tracking, 'YOUNG')).toBe(false);
  expect(world.disk.entries()).toEqual([]);
  expect(world.gauges.get('tracking_bytes')).toBe(0);
});

test('with a record now and then nothing gets older than the age and a tenth of it', async () => {
  const world = new World();
  const tracking = await world.open();
  for (let hour = 0; hour < 72; hour++) {
    await world.record(tracking, `HOUR-${hour}`);
    await world.pass(HOUR_MS);
    // Now the record of hour N is hour + 1 - N hours old.
    expect(await world.finds(tracking, `HOUR-${hour - 23}`)).toBe(hour >= 23);
    expect(await world.finds(tracking, `HOUR-${hour - 27}`)).toBe(false);
  }
});

test('time in which nothing ran counts, by the last write of a file; a start removes what is too old', async () => {
  const world = new World();
  const first = await world.open();
  await world.record(first, 'OLD');
  await world.pass(6 * HOUR_MS);
  await world.record(first, 'YOUNG');
  await world.settle(first.close());
  await world.pass(20 * HOUR_MS);
  const second = await world.open();
  expect([await world.finds(second, 'OLD'), await world.finds(second, 'YOUNG')]).toEqual([false, true]);
});

test('a jump of the wall clock removes nothing, either way, and what is too old still goes', async () => {
  const world = new World();
  const tracking = await world.open();
  await world.record(tracking, 'A1');
  world.clock.jumpWall(100 * DAY_MS);
  await world.pass(6 * HOUR_MS);
  expect(await world.finds(tracking, 'A1')).toBe(true);
  world.clock.jumpWall(-300 * DAY_MS);
  await world.pass(6 * HOUR_MS);
  expect(await world.finds(tracking, 'A1')).toBe(true);
  await world.pass(15 * HOUR_MS);
  expect(await world.finds(tracking, 'A1')).toBe(false);
});

test('another declaration holds at once, down and up, and is said once', async () => {
  const world = new World();
  const tracking = await world.open();
  const kept = 'message tracking is kept';
  expect(world.said).toEqual([[kept, expect.objectContaining({ maxAgeHours: 24, maxBytes: 64 * MiB })]]);
  for (let n = 0; n < 40; n++) await world.record(tracking, `N-${n}`, MiB);
  expect(await world.finds(tracking, 'N-0')).toBe(true);
  const smaller = { ...DECLARED, maxBytes: 8 * MiB };
  await world.settle(tracking.setRetention(smaller));
  expect(world.usedBytes()).toBeLessThanOrEqual(8 * MiB);
  expect([await world.finds(tracking, 'N-0'), await world.finds(tracking, 'N-39')]).toEqual([false, true]);
  await world.settle(tracking.setRetention({ ...smaller }));
  expect(world.saidOf(kept)).toBe(2);
  await world.settle(tracking.setRetention({ maxAgeMs: DAY_MS, maxBytes: null }));
  expect(world.said.at(-1)).toEqual([kept, expect.objectContaining({ maxBytes: GiB })]);
  for (let n = 40; n < 80; n++) await world.record(tracking, `N-${n}`, MiB);
  expect(await world.finds(tracking, 'N-40')).toBe(true);
  await world.settle(tracking.setRetention({ maxAgeMs: HOUR_MS, maxBytes: null }));
  await world.pass(1.2 * HOUR_MS);
  expect(await world.finds(tracking, 'N-79')).toBe(false);
  await world.settle(tracking.setRetention(null));
  expect(world.said.at(-1)).toEqual([kept, expect.objectContaining({ maxAgeHours: null, maxBytes: 128 * MiB })]);
});

test('a volume that is nearly full gets back what it lacks, the oldest first, before mail is refused; said once', async () => {
  expect(SPARE_BYTES).toBeGreaterThan(2 * MEDIUM_FREE_BYTES);
  const world = new World();
  const tracking = await world.open();
  for (let n = 0; n < 48; n++) await world.record(tracking, `N-${n}`, MiB);
  const before = world.usedBytes();
  const warning = 'volume nearly full';
  await world.pass(5_000);
  expect([world.usedBytes(), world.saidOf(warning)]).toEqual([before, 0]);

  world.freeBytes = SPARE_BYTES - 20 * MiB;
  await world.record(tracking, 'NOW');
  const given = before - world.usedBytes();
  expect(given).toBeGreaterThanOrEqual(20 * MiB);
  expect(given).toBeLessThan(30 * MiB);
  expect([await world.finds(tracking, 'N-0'), await world.finds(tracking, 'N-40')]).toEqual([false, true]);
  // Until the store has looked again, its word is the former one: one shortage is one gift.
  await world.record(tracking, 'AGAIN');
  expect(world.usedBytes()).toBeGreaterThan(before - given);
  world.freeBytes += given;
  await world.pass(5_000);
  await world.record(tracking, 'LATER');
  expect(await world.finds(tracking, 'N-40')).toBe(true);
  expect(world.saidOf(warning)).toBe(1);

  world.freeBytes = 0;
  await world.pass(5_000);
  for (let n = 48; n < 80; n++) await world.record(tracking, `N-${n}`, MiB);
  await world.pass(61_000);
  expect(world.usedBytes()).toBeLessThanOrEqual(8 * MiB);
  expect([await world.finds(tracking, 'N-79'), world.dropped, world.saidOf(warning)]).toEqual([true, 0, 1]);

  world.freeBytes = 100 * GiB;
  await world.pass(61_000);
  world.freeBytes = 0;
  for (let n = 80; n < 100; n++) await world.record(tracking, `N-${n}`, MiB);
  await world.pass(61_000);
  expect(world.saidOf(warning)).toBe(2);
});

test('a volume full of what the queue database keeps for itself: tracking goes on in the room it has, nothing is dropped', async () => {
  const world = new World(32 * MiB);
  const tracking = await world.open();
  for (let n = 0; n < 20; n++) await world.record(tracking, `N-${n}`, MiB / 2);
  const others = await world.settle(world.files.open('/queue/segment', 'create'));
  await world.settle(others.writev([Buffer.alloc(21 * MiB)], 0));
  for (let n = 20; n < 60; n++) await world.record(tracking, `N-${n}`, MiB / 2);
  expect(world.dropped).toBe(0);
  expect([await world.finds(tracking, 'N-0'), await world.finds(tracking, 'N-59')]).toEqual([false, true]);
  expect(world.usedBytes()).toBeLessThanOrEqual(11 * MiB);
});

test('a write of which a part was taken is there once, also for the next process', async () => {
  const world = new World();
  let isFull = false;
  const open = async (path: string, mode: 'create' | 'write' | 'read'): Promise<FileHandle> => {
    const handle = await world.files.open(path, mode);
    const writev = async (buffers: readonly Uint8Array[], position: number): Promise<void> => {
      if (!isFull) return handle.writev(buffers, position);
      isFull = false;
      const bytes = Buffer.concat(buffers);
      await handle.writev([bytes.subarray(0, bytes.length / 2)], position);
      throw Object.assign(new Error('ENOSPC'), { code: 'ENOSPC' });
    };
    return { ...handle, writev };
  };
  const files = { ...world.files, open };
  const tracking = await world.open({ files, retention: { maxAgeMs: DAY_MS, maxBytes: 8 * MiB } });
  for (let n = 0; n < 3; n++) await world.record(tracking, `N-${n}`, (3 * MiB) / 4);
  isFull = true;
  tracking.record({ atMs: 1, event: 'RECEIVE', source: 'a', attemptId: 'FIRST' });
  await world.record(tracking, 'SECOND', 1000);
  expect([isFull, world.dropped]).toEqual([false, 0]);
  const found = async (of: TrackingFiles): Promise<readonly string[]> => {
    const records = [await world.settle(of.search(['FIRST'])), await world.settle(of.search(['SECOND']))].flat();
    return records.map(({ attemptId }) => attemptId);
  };
  expect(await found(tracking)).toEqual(['FIRST', 'SECOND']);
  await world.settle(tracking.close());
  expect(await found(await world.open())).toEqual(['FIRST', 'SECOND']);
});

test('a volume on which nothing fits gets no new names, however long that lasts', async () => {
  const world = new World(MiB);
  const others = await (async () => {
    await world.settle(world.files.makeDirectory('/queue'));
    return world.settle(world.files.open('/queue/segment', 'create'));
  })();
  await world.settle(others.writev([Buffer.alloc(MiB)], 0));
  const tracking = await world.open();
  for (let n = 0; n < 20; n++) await world.record(tracking, `N-${n}`);
  expect([world.dropped, world.disk.entries().length]).toEqual([20, 1]);
  await world.settle(others.truncate(0));
  await world.record(tracking, 'AFTER');
  expect([await world.finds(tracking, 'AFTER'), world.dropped]).toEqual([true, 20]);
});

test('files that somebody else removed are gone, and no record is lost for it', async () => {
  const world = new World();
  const tracking = await world.open({ retention: { maxAgeMs: DAY_MS, maxBytes: 8 * MiB } });
  for (let n = 0; n < 6; n++) await world.record(tracking, `N-${n}`, MiB);
  for (const { path } of world.disk.entries().slice(0, 3)) await world.settle(world.files.unlink(path));
  for (let n = 6; n < 20; n++) await world.record(tracking, `N-${n}`, MiB);
  expect([await world.finds(tracking, 'N-19'), world.dropped]).toEqual([true, 0]);
  expect(world.usedBytes()).toBeLessThanOrEqual(8 * MiB);
});

test('a file that cannot be removed is said once, no record is lost for it, and it goes when it can', async () => {
  const world = new World();
  let isStuck = true;
  const files = {
    ...world.files,
    unlink: (path: string) =>
      isStuck ? Promise.reject(Object.assign(new Error('EIO'), { code: 'EIO' })) : world.files.unlink(path),
  };
  const tracking = await world.open({ files, retention: { maxAgeMs: DAY_MS, maxBytes: 8 * MiB } });
  for (let n = 0; n < 12; n++) await world.record(tracking, `N-${n}`, MiB);
  expect([await world.finds(tracking, 'N-0'), await world.finds(tracking, 'N-11'), world.dropped]).toEqual([
    ...[true, true, 0],
  ]);
  expect(world.saidOf('is not removed')).toBe(1);
  isStuck = false;
  await world.pass(61_000);
  expect(world.usedBytes()).toBeLessThanOrEqual(8 * MiB);
});
