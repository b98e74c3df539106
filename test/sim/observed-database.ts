/**
 * The observer between a transport and its real queue database: passes everything through and tells the checkers what was handed over and what became
 * durable. It is not a fake: every call reaches the engine.
 */
import type { QueueDatabase, Write } from '../../transport/store/database.ts';
import { progressed } from './damage-checks.ts';
import type { DurableView, Volume } from './durable-view.ts';

export function observed(
  database: QueueDatabase,
  view: DurableView,
  volume: Volume,
  onHanded: (writes: readonly Write[]) => void,
): QueueDatabase {
  for (const id of view.opened(volume, database))
    void database.lookup(id).then(
      (stored) => view.answered(volume, id, stored),
      (error: { code?: string }) => {
        if (error.code !== 'DAMAGED') throw error;
        view.answered(volume, id, null);
      },
    );
  const commit = (writes: readonly Write[]): Promise<void> => {
    onHanded(writes);
    const mark = view.handed(volume, writes);
    return database.commit(writes).then(() => {
      progressed(volume, writes, database.syncedSequence);
      view.durable(volume, mark);
    });
  };
  const note = (writes: readonly Write[]): void => {
    view.handed(volume, writes);
    database.note(writes);
  };
  const bound = new Map<string | symbol, unknown>();
  return new Proxy(database, {
    get: (target, key) => {
      if (key === 'commit') return commit;
      if (key === 'note') return note;
      const known = bound.get(key);
      if (known !== undefined) return known;
      const value: unknown = Reflect.get(target, key, target);
      if (typeof value !== 'function') return value;
      const method: unknown = value.bind(target);
      bound.set(key, method);
      return method;
    },
  });
}
