/**
 * The loop: event -> step -> group commit -> effects (architecture.md section 3). Owns: that nothing is said before what it depends on is
 * durable. Each late effect names its copy: it leaves when the last commit that touched this copy is durable, or every commit so far when it
 * names none. Consecutive commits merge into one sync in the store. A step that throws ends the process: a peer has a copy of everything.
 */

import type { CopyId } from '../../common/message.ts';
import type { Clock, Timer } from '../../common/platform/clock.ts';
import type { CoreEvent, CoreWrite, EarlyEffect, LateEffect, StepResult } from '../core/events.ts';
import { hasStoodStillSince } from '../core/presence.ts';
import { step } from '../core/server.ts';
import type { Server } from '../core/state.ts';
import type { QueueDatabase, Write } from '../store/database.ts';

export interface LoopHandlers {
  /** Turns a core write into one of the store: puts the body in the place of its stream. */
  write(write: CoreWrite): Write;
  early(effect: EarlyEffect): void;
  late(effect: LateEffect): void;
  fatal(reason: Error): void;
}

const idOf = (write: CoreWrite): CopyId | null => {
  switch (write.kind) {
    case 'commit':
      return write.facts.id;
    case 'tombstone':
      return write.tombstone.id;
    case 'state':
    case 'move':
    case 'recall':
    case 'remove':
    case 'forget':
      return write.id;
    default:
      return null;
  }
};

/** What is being written, and what may be said when it is durable, in this order. A refused commit is fatal: what waits for it is never said. */
interface Writing {
  readonly durable: Promise<void>;
  readonly effects: { readonly effect: LateEffect; readonly atMs: number }[];
}

export class Loop {
  readonly #server: Server;
  readonly #clock: Clock;
  readonly #database: QueueDatabase;
  readonly #handlers: LoopHandlers;
  readonly #queue: CoreEvent[] = [];
  /** Last commit that touched a copy, or change of what rests, while it is not yet durable. */
  readonly #pending = new Map<CopyId, Writing>();
  #last: Writing | null = null;
  #running = false;
  #stopped = false;
  #timer: { readonly atMs: number; readonly timer: Timer } | null = null;

  constructor(server: Server, clock: Clock, database: QueueDatabase, handlers: LoopHandlers) {
    this.#server = server;
    this.#clock = clock;
    this.#database = database;
    this.#handlers = handlers;
  }

  handle(event: CoreEvent): void {
    if (this.#stopped) return;
    this.#queue.push(event);
    if (this.#running) return;
    this.#running = true;
    try {
      for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) {
        this.apply(step(this.#server, next, { monotonicMs: this.#clock.monotonicMs(), wallMs: this.#clock.wallMs() }));
      }
    } catch (error) {
      this.#fatal(error);
    } finally {
      this.#running = false;
    }
  }

  /** Settles when what was last written about this copy is durable; null when it is. */
  writing(id: CopyId): Promise<void> | null {
    return this.#pending.get(id)?.durable ?? null;
  }

  /** Carries out one step's result; also called with the result of starting the core. */
  apply(result: StepResult): void {
    if (result.note.length > 0) this.#database.note(result.note.map((write) => this.#handlers.write(write)));
    if (result.commit.length > 0) this.#commit(result.commit);
    for (const effect of result.now) this.#handlers.early(effect);
    for (const effect of result.afterCommit) this.#later(effect);
    this.#wakeAt(result.wakeAtMs);
  }

  /** A write of this copy that goes its own way (a change at rest looks first): effects that name the copy wait for it as for a commit. */
  alsoWriting(id: CopyId, write: (before: Promise<void> | null) => Promise<void>): void {
    this.#waitFor([id], write(this.writing(id)));
  }

  #commit(writes: readonly CoreWrite[]): void {
    const durable = this.#database.commit(writes.map((write) => this.#handlers.write(write)));
    this.#last = this.#waitFor(writes.map(idOf), durable);
  }

  #waitFor(ids: readonly (CopyId | null)[], durable: Promise<void>): Writing {
    const writing: Writing = { durable, effects: [] };
    for (const id of ids) if (id !== null) this.#pending.set(id, writing);
    durable.then(() => {
      if (this.#last === writing) this.#last = null;
      for (const id of ids) if (id !== null && this.#pending.get(id) === writing) this.#pending.delete(id);
      for (const { effect, atMs } of writing.effects) if (!this.#stopped) this.#say(effect, atMs);
    }, this.#fatal);
    return writing;
  }

  #later(effect: LateEffect): void {
    const wait =
      effect.kind === 'Count' ? null : effect.copy === null ? this.#last : (this.#pending.get(effect.copy) ?? null);
    if (wait === null) this.#handlers.late(effect);
    else wait.effects.push({ effect, atMs: this.#clock.monotonicMs() });
  }

  /** What was said durably stays true over a standstill; a delivery may be another member's by now. */
  #say(effect: LateEffect, decidedMs: number): void {
    if (effect.kind === 'Deliver' && hasStoodStillSince(this.#server, decidedMs, this.#clock.monotonicMs()))
      this.handle({ kind: 'DeliveryWithheld', requestId: effect.requestId });
    else this.#handlers.late(effect);
  }

  #wakeAt(atMs: number | null): void {
    if (atMs === null || (this.#timer !== null && this.#timer.atMs <= atMs) || this.#stopped) return;
    this.#timer?.timer.cancel();
    const timer = this.#clock.setTimer(Math.max(0, Math.ceil(atMs - this.#clock.monotonicMs())), () => {
      this.#timer = null;
      this.handle({ kind: 'TimerFired' });
    });
    this.#timer = { atMs, timer };
  }

  readonly #fatal = (error: unknown): void => {
    if (this.#stopped) return;
    this.stop();
    this.#handlers.fatal(error instanceof Error ? error : new Error(String(error)));
  };

  stop(): void {
    this.#stopped = true;
    this.#timer?.timer.cancel();
  }
}
