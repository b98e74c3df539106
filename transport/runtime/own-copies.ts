/**
 * Copies that are made here: resubmissions and reports, whose ids are derived, so that others make the same ones. Owns: that one id is one copy - what rests here
 * already, or came to rest while the body was made, is not made anew. No decision is made here.
 */
import type { CopyId } from '../../common/message.ts';
import type { ComposeDsn, CoreEvent } from '../core/events.ts';
import type { Bodies } from './bodies.ts';
import type { TransportDeps } from './deps.ts';
import { composeFor } from './dsn-body.ts';
import type { Resting } from './resting.ts';

interface Parts {
  readonly deps: TransportDeps;
  readonly bodies: Bodies;
  readonly resting: Resting;
  readonly handle: (event: CoreEvent) => void;
}

export class OwnCopies {
  readonly #parts: Parts;
  #stopped = false;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  stop(): void {
    this.#stopped = true;
  }

  /** One id, one copy: another maker's resubmission, or an earlier one of ours, may rest here already. */
  async copyBody(id: CopyId, from: CopyId): Promise<void> {
    const { bodies, handle, resting } = this.#parts;
    const there = await resting.lookup(id);
    if (there !== null) return handle({ kind: 'BodyNotCopied', id, reason: 'atRest' });
    try {
      const { number, digest, sizeBytes } = await bodies.copyOwn(id, from);
      await this.#unlessAtRest(id, (isAtRest) => {
        if (isAtRest) bodies.discard(number);
        handle(
          isAtRest
            ? { kind: 'BodyNotCopied', id, reason: 'atRest' }
            : { kind: 'BodyCopied', stream: number, id, digest, sizeBytes },
        );
      });
    } catch (error) {
      this.#parts.deps.log.error({ attemptId: from, err: String(error) }, 'body cannot be read for a resubmission');
      handle({ kind: 'BodyNotCopied', id, reason: 'unreadable' });
    }
  }

  /** It reads and parses what a stranger wrote. The mark is written, or the loop fails, before anything is read. */
  markedReport(effect: ComposeDsn): void {
    const { parent, alone } = effect;
    const { risk, onFatal } = this.#parts.deps;
    risk?.marks.begin(parent, alone === true);
    this.#composeDsn(effect)
      .then(() => {
        risk?.marks.end(parent);
        if (alone === true) this.#parts.handle({ kind: 'RiskLeft', id: parent });
      })
      .catch((error: unknown) => onFatal(error instanceof Error ? error : new Error(String(error))));
  }

  async #composeDsn(effect: ComposeDsn): Promise<void> {
    // Another maker's report of the same failure may rest here already: one id, one copy (protocol.md section 1).
    const { bodies, handle, resting } = this.#parts;
    const { id, parent } = effect;
    if ((await resting.lookup(id)) !== null) return handle({ kind: 'DsnAtRest', id, parent });
    const dsn = await composeFor(effect, this.#parts.deps);
    if (dsn === null || this.#stopped) return;
    const { envelope, aboutExpansion } = dsn;
    const { number, digest, sizeBytes } = await bodies.registerOwn(id, dsn.body);
    await this.#unlessAtRest(id, (isAtRest) => {
      if (isAtRest) bodies.discard(number);
      if (isAtRest) handle({ kind: 'DsnAtRest', id, parent });
      else {
        const about = { id, parent, aboutExpansion };
        handle({ kind: 'DsnComposed', stream: number, ...about, envelope, digest, sizeBytes });
      }
    });
  }

  /** It may have come to rest while its body was made. */
  #unlessAtRest(id: CopyId, use: (isAtRest: boolean) => void): Promise<void> {
    return this.#parts.resting.withStored(
      [id],
      (stored, unreadable) => use(stored.has(id) || unreadable.has(id)),
      'all',
    );
  }
}
