/**
 * Reads the queue database from end to end, again and again, slowly (protocol.md 29). Owns: the pace, and how far it has come, kept as a fact so that a process
 * that restarts every day still gets to the end. What to do about what is found is the core's; this only tells. Fails never: a step that fails is logged and
 * made again later (a disk that fails ends the process where it writes).
 */

import type { CopyId } from '../../common/message.ts';
import type { Clock, Timer } from '../../common/platform/clock.ts';
import type { Logger } from '../../common/platform/log.ts';
import type { Metrics } from '../../common/platform/metrics.ts';
import { scrubDelayMs, scrubRate } from '../core/scrub-pace.ts';
import type { QueueDatabase, ScrubPosition } from '../store/database.ts';
import type { ScrubView } from './view.ts';

export const SCRUB_FACT = 'scrub';
const STEP_BYTES = 262_144;
const SAVE_MS = 60_000;
const RETRY_MS = 60_000;
const MIN_WAIT_MS = 5;

interface Saved {
  readonly position: ScrubPosition | null;
  readonly doneBytes: number;
  /** Wall clock, of the pass under way or the last one. */
  readonly startedAtMs: number;
  readonly lastFullPassMs: number | null;
}

export interface ScrubbingOptions {
  readonly database: QueueDatabase;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly holdTimeMs: () => number;
  readonly onDamaged: (id: CopyId) => void;
  /** Everything was looked at since then (monotonic). */
  readonly onPassed: (sinceMs: number) => void;
}

export class Scrubbing {
  readonly #options: ScrubbingOptions;
  #saved: Saved | null;
  #position: ScrubPosition | null;
  #doneBytes: number;
  #leftBytes = 0;
  #startedAtMs: number | null;
  /** Monotonic; null when the pass began in an earlier life. */
  #begunMs: number | null = null;
  #savedMs = Number.NEGATIVE_INFINITY;
  #found = 0;
  #timer: Timer | null = null;
  #stopped = false;

  constructor(options: ScrubbingOptions) {
    this.#options = options;
    const saved = options.database.recovered.facts.get(SCRUB_FACT) as Saved | undefined;
    this.#saved = saved ?? null;
    this.#position = saved?.position ?? null;
    this.#doneBytes = saved?.doneBytes ?? 0;
    this.#startedAtMs = saved?.startedAtMs ?? null;
  }

  start(): void {
    const { clock, holdTimeMs, metrics } = this.#options;
    const sinceMs = this.#startedAtMs === null ? null : clock.wallMs() - this.#startedAtMs;
    // One that was cut short goes on as soon as one would begin for the first time.
    this.#after(scrubDelayMs(this.#position === null ? sinceMs : null, holdTimeMs()));
    const last = this.#saved?.lastFullPassMs ?? null;
    if (last !== null) metrics.set('scrub_last_full_pass_timestamp_seconds', last / 1000);
  }

  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
  }

  view(): ScrubView {
    return {
      isRunning: this.#position !== null,
      doneBytes: this.#doneBytes,
      leftBytes: this.#leftBytes,
      lastFullPassMs: this.#saved?.lastFullPassMs ?? null,
      ...this.#pace(),
    };
  }

  #pace(): Pick<ScrubView, 'bytesPerS' | 'isTooSlow'> {
    return scrubRate(this.#doneBytes + this.#leftBytes, this.#options.holdTimeMs());
  }

  #after(ms: number): void {
    if (this.#stopped) return;
    this.#timer = this.#options.clock.setTimer(ms, () => {
      this.#step().catch((error: unknown) => {
        if (this.#stopped) return;
        this.#options.log.error({ err: String(error) }, 'scrub step failed, made again later');
        this.#after(RETRY_MS);
      });
    });
  }

  async #step(): Promise<void> {
    const { database, clock, metrics, onDamaged } = this.#options;
    if (this.#position === null) this.#begin();
    const step = await database.scrub(this.#position, STEP_BYTES);
    if (this.#stopped) return;
    this.#position = step.next;
    this.#doneBytes += step.bytes;
    this.#leftBytes = step.leftBytes;
    this.#found += step.damaged.length + step.newPlaces;
    metrics.increment('scrubbed_bytes_total', {}, step.bytes);
    if (step.newPlaces > 0) metrics.increment('corrupt_records_total', {}, step.newPlaces);
    for (const id of step.damaged) onDamaged(id);
    if (step.next === null) return this.#ended();
    if (clock.monotonicMs() - this.#savedMs >= SAVE_MS) this.#save();
    this.#after(Math.max(MIN_WAIT_MS, (step.bytes / this.#pace().bytesPerS) * 1000));
  }

  #begin(): void {
    const { clock } = this.#options;
    this.#begunMs = clock.monotonicMs();
    this.#startedAtMs = clock.wallMs();
    this.#doneBytes = 0;
    this.#found = 0;
    this.#savedMs = clock.monotonicMs();
  }

  #ended(): void {
    const { clock, log, metrics, holdTimeMs, onPassed } = this.#options;
    const lastFullPassMs = clock.wallMs();
    this.#saved = { position: null, doneBytes: 0, startedAtMs: this.#startedAtMs ?? lastFullPassMs, lastFullPassMs };
    this.#save();
    metrics.set('scrub_last_full_pass_timestamp_seconds', lastFullPassMs / 1000);
    const said = { bytes: this.#doneBytes, damaged: this.#found };
    if (this.#pace().isTooSlow) log.warn(said, 'queue database looked at, too slow for a quarter of the hold time');
    else log.info(said, 'queue database looked at');
    // One that began in an earlier life did not look at the beginning in this one.
    if (this.#begunMs !== null) onPassed(this.#begunMs);
    this.#begunMs = null;
    this.#after(scrubDelayMs(lastFullPassMs - (this.#startedAtMs ?? lastFullPassMs), holdTimeMs()));
  }

  #save(): void {
    const { clock, database } = this.#options;
    this.#savedMs = clock.monotonicMs();
    const value: Saved = {
      position: this.#position,
      doneBytes: this.#doneBytes,
      startedAtMs: this.#startedAtMs ?? clock.wallMs(),
      lastFullPassMs: this.#saved?.lastFullPassMs ?? null,
    };
    this.#saved = value;
    database.note([{ kind: 'fact', key: SCRUB_FACT, value }]);
  }
}
