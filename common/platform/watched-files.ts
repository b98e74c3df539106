/**
 * Tells when files may have changed. Owns: watches on their directories (a mounted ConfigMap or Secret is replaced by renaming a link, so
 * the files themselves cannot be watched). Promise: one call after the directory has been quiet for a moment; may call for nothing.
 * A directory that cannot be watched is logged; SIGHUP then still works.
 */
import { type FSWatcher, watch } from 'node:fs';
import { dirname } from 'node:path';
import type { Clock, Timer } from './clock.ts';
import type { Logger } from './log.ts';

const SETTLE_MS = 100;

export class WatchedFiles {
  readonly #watchers: FSWatcher[] = [];
  readonly #clock: Clock;
  readonly #changed: () => void;
  #timer: Timer | null = null;

  constructor(files: readonly string[], clock: Clock, log: Logger, changed: () => void) {
    this.#clock = clock;
    this.#changed = changed;
    for (const directory of new Set(files.map((file) => dirname(file)))) {
      const failed = (error: unknown): void =>
        log.warn({ directory, error: String(error) }, 'directory not watched, changes need SIGHUP');
      try {
        const watcher = watch(directory, { persistent: false }, () => this.#touched());
        watcher.on('error', failed);
        this.#watchers.push(watcher);
      } catch (error) {
        failed(error);
      }
    }
  }

  close(): void {
    this.#timer?.cancel();
    for (const watcher of this.#watchers) watcher.close();
  }

  #touched(): void {
    this.#timer?.cancel();
    this.#timer = this.#clock.setTimer(SETTLE_MS, this.#changed);
  }
}
