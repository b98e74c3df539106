/**
 * The observer between a transport and its real queue database: passes everything through and tells the checkers what was handed over and what became
 * durable. It is not a fake: every call reaches the engine.
 */
import type { Identity } from '../../common/message.ts';
import type { QueueDatabase, Recovered, Write } from '../../transport/store/database.ts';

export interface DurabilityObserver {
  recovered(member: string, identity: Identity, recovered: Recovered): void;
  /** Handed to the engine, in order; answers with a mark. */
  handed(identity: Identity, writes: readonly Write[]): number;
  /** Everything handed over up to this mark is durable. */
  durable(identity: Identity, mark: number): void;
}

export function observed(database: QueueDatabase, member: string, observer: DurabilityObserver): QueueDatabase {
  observer.recovered(member, database.identity, database.recovered);
  const commit = (writes: readonly Write[]): Promise<void> => {
    const mark = observer.handed(database.identity, writes);
    return database.commit(writes).then(() => observer.durable(database.identity, mark));
  };
  const note = (writes: readonly Write[]): void => {
    observer.handed(database.identity, writes);
    database.note(writes);
  };
  return new Proxy(database, {
    get: (target, key) => {
      if (key === 'commit') return commit;
      if (key === 'note') return note;
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}
