/**
 * What rests in the Safety Nets here: looked up for frames that ask about it, and changed. Owns: that nothing is called unknown that is here, that frames which
 * need a look stay in the order they came in, and that they find only what is durable of a change. Fails: an entry that cannot be read is reported, and whoever asks about it gets no answer.
 */
import { type CopyId, compareEpochs } from '../../common/message.ts';
import type { PeerSession } from '../../common/peer/session-api.ts';
import type { StoredCopies } from '../core/events.ts';
import type { Server } from '../core/state.ts';
import type { CopyState, StoredCopy } from '../store/database.ts';
import type { TransportDeps } from './deps.ts';

type Use = (stored: StoredCopies, unreadable: ReadonlySet<CopyId>) => void;

/** Settles when what is being written about this copy is durable; null when nothing is. */
type Writing = (id: CopyId) => Promise<void> | null;

export class Resting {
  readonly #core: Server;
  readonly #deps: Pick<TransportDeps, 'database' | 'log' | 'metrics'>;
  readonly #writing: Writing;
  readonly #order = new WeakMap<PeerSession, Promise<void>>();
  readonly #changes = new Set<Promise<void>>();

  constructor(core: Server, deps: Pick<TransportDeps, 'database' | 'log' | 'metrics'>, writing: Writing) {
    this.#core = core;
    this.#deps = deps;
    this.#writing = writing;
  }

  /**
   * Calls `use` with what rests in a Safety Net of these ids. What left the core's memory while we looked, or was being written, is looked up (again): the last
   * check and `use` happen in one go, so that nothing is called unknown that is here. `untold`: a final tombstone says enough.
   */
  async withStored(ids: readonly CopyId[], use: Use, which: 'untold' | 'all' = 'untold'): Promise<void> {
    const found = new Map<CopyId, StoredCopy>();
    const unreadable = new Set<CopyId>();
    const looked = new Set<CopyId>();
    for (;;) {
      // What was aborted here for one try may rest here by another.
      const { copies, tombstones } = this.#core;
      const isTold = (id: CopyId): boolean => which === 'untold' && tombstones.get(id)?.kind === 'final';
      const isSettled = (id: CopyId): boolean =>
        this.#writing(id) === null && (looked.has(id) || !this.#deps.database.mayRest(id));
      const missing = ids.filter((id) => !isSettled(id) && !copies.has(id) && !isTold(id));
      if (missing.length === 0) return use(found, unreadable);
      for (const id of missing) {
        looked.add(id);
        found.delete(id);
        unreadable.delete(id);
        // A record on its way to the log is in transit no more, and not yet at rest.
        await this.#writing(id);
        const stored = await this.lookup(id);
        if (stored === 'unreadable') unreadable.add(id);
        else if (stored !== null) found.set(id, stored);
      }
    }
  }

  /** A damaged entry is reported; who asks about it gets no answer, never "unknown" (protocol.md 10). */
  async lookup(id: CopyId): Promise<StoredCopy | 'unreadable' | null> {
    try {
      return await this.#deps.database.lookup(id);
    } catch (error) {
      this.#deps.metrics.increment('corrupt_records_total');
      this.#deps.log.error({ attemptId: id, err: String(error) }, 'Safety Net entry unreadable');
      return 'unreadable';
    }
  }

  /**
   * One change of an id at a time (`before`: the write under way), many ids at once: they share a sync. Whose it is only goes up (semantics.md S7), also when the
   * core decided by what a walk read a while ago. What has ended meanwhile is not changed, and that is no failure.
   */
  change(id: CopyId, state: CopyState, before: Promise<void> | null): Promise<void> {
    const { database, log } = this.#deps;
    const change = async (): Promise<void> => {
      await before;
      const there = await this.lookup(id);
      if (there !== null && there !== 'unreadable' && compareEpochs(there.state.epoch, state.epoch) > 0) return;
      await database.commit([
        { kind: 'recall', id, state: { ...state, queue: 'submission' } },
        { kind: 'move', id, state },
      ]);
    };
    const done = change().catch((error: unknown) => {
      log.debug({ attemptId: id, err: String(error) }, 'no longer at rest');
    });
    this.#changes.add(done);
    void done.then(() => this.#changes.delete(done));
    return done;
  }

  /** All changes so far are durable. */
  async settled(): Promise<void> {
    await Promise.all(this.#changes);
  }

  /** Frames that need a look into the Safety Net first stay in the order they came in: a LIST must not overtake the CLAIM before it. */
  inOrder(
    session: PeerSession,
    items: readonly { readonly id: CopyId }[],
    use: Use,
    which: 'untold' | 'all' = 'untold',
  ): void {
    const ids = items.map((item) => item.id);
    const before = this.#order.get(session) ?? Promise.resolve();
    const answer = (stored: StoredCopies, unreadable: ReadonlySet<CopyId>): void => {
      if (!session.closed) use(stored, unreadable);
    };
    const turn = before.then(() => this.withStored(ids, answer, which));
    this.#order.set(session, turn);
  }
}
