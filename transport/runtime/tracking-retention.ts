/**
 * How much of message tracking stays (decision 0039; Exchange: MessageTrackingLogMaxAge, MessageTrackingLogMaxDirectorySize). Owns: the bounds,
 * and how many of the oldest files go: those beyond the size, those beyond the age, and all that it takes while the volume has little left,
 * so that mail is not refused for want of bytes that tracking has. Says in the log what holds, and once per shortage that files go for it.
 */
import { isDeepStrictEqual } from 'node:util';
import type { MessageTrackingConfig } from '../../common/config.ts';
import type { Logger } from '../../common/platform/log.ts';
import type { StoreSpace } from '../store/database.ts';
import { MEDIUM_FREE_BYTES } from './pressure.ts';

/** As back pressure sees it: the queue database and what the volume has left. */
export type Volume = Pick<StoreSpace, 'totalBytes' | 'freeBytes'>;

export interface RetentionOptions {
  /** Null: nothing is declared. */
  readonly declared: MessageTrackingConfig | null;
  readonly volume: () => Volume;
  readonly logger: Logger;
}

/** A file that is no longer written; times are of the monotonic clock. */
export interface FinishedFile {
  readonly number: number;
  readonly sizeBytes: number;
  readonly lastWriteMs: number;
}

export interface TrackingBounds {
  readonly maxAgeMs: number;
  readonly maxBytes: number;
  /** A file is finished when it has this size or this age: files go as a whole. */
  readonly fileBytes: number;
  readonly fileAgeMs: number;
}

/** Of documents of operators before it was declared. */
const FORMER: MessageTrackingConfig = { maxAgeMs: Number.POSITIVE_INFINITY, maxBytes: 128 << 20 };
const DEFAULT_BYTES = 1 << 30;
const DEFAULT_SHARE = 0.1;
const LEAST_BYTES = 1 << 20;

/** Less than this left: files go, before anybody is told that the disk is nearly full (512 MiB), and before mail is refused (256 MiB). */
export const SPARE_BYTES = 3 * MEDIUM_FREE_BYTES;
/** A shortage is over when there is this much more. */
const PLENTY_BYTES = 64 << 20;
/** Longer than the store takes to notice what was given back to the volume: one shortage would take several times as much. */
const VOLUME_MS = 3_000;

export class Retention {
  readonly #options: RetentionOptions;
  #declared: MessageTrackingConfig | null;
  #volume: Volume;
  #volumeAtMs = Number.NEGATIVE_INFINITY;
  #isShort = false;

  constructor(options: RetentionOptions) {
    this.#options = options;
    this.#declared = options.declared;
    this.#volume = options.volume();
  }

  /** `usedBytes`: what tracking has of the volume, which does not count it. */
  bounds(usedBytes: number): TrackingBounds {
    const { maxAgeMs, maxBytes } = this.#declared ?? FORMER;
    const share = Math.floor((this.#volume.totalBytes + usedBytes) * DEFAULT_SHARE);
    const bytes = maxBytes ?? Math.max(LEAST_BYTES, Math.min(DEFAULT_BYTES, share));
    return { maxAgeMs, maxBytes: bytes, fileBytes: Math.floor(bytes / 8), fileAgeMs: maxAgeMs / 10 };
  }

  /** Whether that is another one. */
  declare(declared: MessageTrackingConfig | null): boolean {
    if (isDeepStrictEqual(declared, this.#declared)) return false;
    this.#declared = declared;
    return true;
  }

  tell(usedBytes: number): void {
    const { maxAgeMs, maxBytes } = this.bounds(usedBytes);
    const maxAgeHours = Number.isFinite(maxAgeMs) ? maxAgeMs / 3_600_000 : null;
    this.#options.logger.info(
      { maxAgeHours, maxBytes, volumeBytes: this.#volume.totalBytes + usedBytes },
      'message tracking is kept',
    );
  }

  /** How many of `files`, oldest first, go. */
  surplus(files: readonly FinishedFile[], usedBytes: number, nowMs: number): number {
    const missing = this.#missingBytes(files.length > 0, nowMs);
    const { maxAgeMs, maxBytes } = this.bounds(usedBytes);
    let over = Math.max(usedBytes - maxBytes, missing);
    const stays = files.findIndex(({ sizeBytes, lastWriteMs }) => {
      if (over <= 0 && nowMs - lastWriteMs <= maxAgeMs) return true;
      over -= sizeBytes;
      return false;
    });
    return stays === -1 ? files.length : stays;
  }

  /** What the volume lacks. */
  #missingBytes(hasFiles: boolean, nowMs: number): number {
    if (nowMs < this.#volumeAtMs + VOLUME_MS) return 0;
    this.#volumeAtMs = nowMs;
    this.#volume = this.#options.volume();
    const { freeBytes } = this.#volume;
    if (freeBytes >= SPARE_BYTES + PLENTY_BYTES) this.#isShort = false;
    if (freeBytes < SPARE_BYTES && !this.#isShort && hasFiles) {
      this.#isShort = true;
      this.#options.logger.warn(
        { freeBytes, spareBytes: SPARE_BYTES },
        'volume nearly full, the oldest message tracking goes',
      );
    }
    return SPARE_BYTES - freeBytes;
  }
}
