/** The places a store is tested in: memory, the simulated disk, the real disk. Each can open, be killed, lose power, be thrown away. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../../common/platform/clock.ts';
import type { Files } from '../../common/platform/files.ts';
import { silentLogger } from '../../common/platform/log.ts';
import { nodeFiles } from '../../common/platform/node-files.ts';
import { systemRandom } from '../../common/platform/random.ts';
import type { Quarantined, QueueDatabase } from '../../transport/store/database.ts';
import { MemoryDisk, openMemoryStore } from '../../transport/store/memory.ts';
import { openSegmentLog } from '../../transport/store/segment-log.ts';
import { SimDisk, type SimDiskOptions } from '../sim/disk.ts';
import type { Incarnation } from '../sim/incarnation.ts';
import { Scheduler } from '../sim/scheduler.ts';

export interface Bench {
  open(member?: string): Promise<QueueDatabase>;
  /** The process dies; nothing of it settles any more. What the OS had stays. */
  kill(): void;
  /** Lets simulated time pass where it is simulated. */
  run<T>(work: Promise<T>): Promise<T>;
  dispose(): Promise<void>;
  readonly fatal: Error[];
}

export interface EngineUnderTest {
  readonly name: string;
  make(): Promise<Bench>;
}

export const SEGMENT_BYTES = 64 * 1024;

/** Runs a scheduler until the promise settles. */
export async function drive<T>(scheduler: Scheduler, work: Promise<T>): Promise<T> {
  let settled = false;
  const done = (): void => {
    settled = true;
  };
  work.then(done, done);
  await new Promise<void>((resolve) => setImmediate(resolve));
  const over = await scheduler.run(() => settled, scheduler.nowMs + 600_000);
  if (!over) throw new Error('it never settled');
  return work;
}

export class SimBench implements Bench {
  readonly scheduler: Scheduler;
  readonly disk: SimDisk;
  readonly fatal: Error[] = [];
  /** What was found damaged on read, since the bench was made. */
  readonly quarantined: Quarantined[] = [];
  #incarnation: Incarnation = { alive: true };
  readonly #segmentBytes: number;
  readonly #wrap: (files: Files) => Files;

  constructor(
    seed: number,
    options: SimDiskOptions = {},
    segmentBytes = SEGMENT_BYTES,
    wrap: (files: Files) => Files = (files) => files,
  ) {
    this.scheduler = new Scheduler(seed);
    this.disk = new SimDisk(this.scheduler, options);
    this.#segmentBytes = segmentBytes;
    this.#wrap = wrap;
  }

  open(member = 'hub-0'): Promise<QueueDatabase> {
    return this.run(this.opening(member));
  }

  opening(member = 'hub-0'): Promise<QueueDatabase> {
    return openSegmentLog({
      directory: '/q',
      files: this.files(),
      clock: this.scheduler.clock(),
      random: this.scheduler.random.fork(),
      log: silentLogger,
      segmentBytes: this.#segmentBytes,
      reserveBytes: 2 * this.#segmentBytes,
      onFatal: (reason) => this.fatal.push(reason),
      onQuarantined: (item) => this.quarantined.push(item),
      member,
    });
  }

  files(): Files {
    return this.#wrap(this.disk.files(this.#incarnation));
  }

  kill(): void {
    this.#incarnation.alive = false;
    this.#incarnation = { alive: true };
  }

  powerCut(): void {
    this.kill();
    this.disk.crash();
  }

  run<T>(work: Promise<T>): Promise<T> {
    return drive(this.scheduler, work);
  }

  /** Lets simulated time pass. */
  async pass(ms: number): Promise<void> {
    await this.scheduler.run(() => false, this.scheduler.nowMs + ms);
  }

  async dispose(): Promise<void> {
    this.kill();
  }
}

class MemoryBench implements Bench {
  readonly #disk = new MemoryDisk();
  readonly fatal: Error[] = [];
  open(member = 'hub-0'): Promise<QueueDatabase> {
    return openMemoryStore({ disk: this.#disk, clock: systemClock, random: systemRandom, member });
  }
  kill(): void {
    this.#disk.crash();
  }
  run<T>(work: Promise<T>): Promise<T> {
    return work;
  }
  async dispose(): Promise<void> {
    this.kill();
  }
}

/** The real disk. `kill` is a close: ending a process is in `real-disk.test.ts`. */
export class RealBench implements Bench {
  readonly directory: string;
  readonly fatal: Error[] = [];
  readonly #segmentBytes: number;
  #store: QueueDatabase | null = null;

  constructor(directory: string, segmentBytes: number) {
    this.directory = directory;
    this.#segmentBytes = segmentBytes;
  }

  static async make(segmentBytes = SEGMENT_BYTES): Promise<RealBench> {
    return new RealBench(await mkdtemp(join(tmpdir(), 'mc-store-')), segmentBytes);
  }

  async open(member = 'hub-0'): Promise<QueueDatabase> {
    this.#store = await openSegmentLog({
      directory: join(this.directory, 'queue'),
      files: nodeFiles,
      clock: systemClock,
      random: systemRandom,
      log: silentLogger,
      segmentBytes: this.#segmentBytes,
      reserveBytes: 2 * this.#segmentBytes,
      onFatal: (reason) => this.fatal.push(reason),
      member,
    });
    return this.#store;
  }

  kill(): void {
    throw new Error('a real process is killed in its own test');
  }

  run<T>(work: Promise<T>): Promise<T> {
    return work;
  }

  async dispose(): Promise<void> {
    await this.#store?.close();
    await rm(this.directory, { recursive: true, force: true });
  }
}

export const engines: readonly EngineUnderTest[] = [
  { name: 'memory', make: async () => new MemoryBench() },
  { name: 'segment log on the simulated disk', make: async () => new SimBench(1) },
  { name: 'segment log on the real disk', make: () => RealBench.make() },
];
