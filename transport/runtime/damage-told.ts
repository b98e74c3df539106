/**
 * Copies whose bytes cannot be read (rows 38 to 40), told by whoever met that: a delivery, another member's question, the scrub, the queue database itself.
 * Owns: that one damage told twice is one - the core hears of it once, and not of bytes that are being written anew.
 */
import type { CopyId } from '../../common/message.ts';
import type { Server } from '../core/state.ts';
import type { QueueDatabase } from '../store/database.ts';
import type { Loop } from './loop.ts';
import type { Resting } from './resting.ts';

export interface DamageParts {
  readonly core: Server;
  readonly database: QueueDatabase;
  readonly resting: Resting;
  readonly loop: Loop;
}

export class DamageTold {
  readonly #parts: DamageParts;
  #stopped = false;

  constructor(parts: DamageParts) {
    this.#parts = parts;
  }

  stop(): void {
    this.#stopped = true;
  }

  told(id: CopyId): void {
    if (this.#stopped || this.#isBeingWritten(id)) return;
    const { core, loop, resting } = this.#parts;
    if (core.copies.has(id)) return loop.handle({ kind: 'BodyDamaged', id });
    void resting.withStored(
      [id],
      (stored, unreadable) => {
        const found = stored.get(id) ?? null;
        if (this.#stopped || (found === null && !unreadable.has(id))) return;
        if (!this.#isListed(id) || this.#isBeingWritten(id)) return;
        loop.handle({ kind: 'RestingDamaged', id, stored: found });
      },
      'all',
    );
  }

  #isListed(id: CopyId): boolean {
    return this.#parts.database.recovered.quarantined.some((item) => item.id === id);
  }

  /** That may be the bytes it was asked for: whether it is still damaged is seen when it is on the disk. */
  #isBeingWritten(id: CopyId): boolean {
    const writing = this.#parts.loop.writing(id);
    writing?.then(
      () => this.#isListed(id) && this.told(id),
      () => undefined,
    );
    return writing !== null;
  }
}
