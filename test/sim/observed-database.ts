/**
 * The observer between a transport and its real queue database: passes everything through and tells the checkers what became durable and when. It is not
 * a fake: every call reaches the engine.
 */
import type { CopyId, Identity } from '../../common/message.ts';
import type { QueueDatabase, StoredCopy, Write } from '../../transport/store/database.ts';

export interface DurabilityObserver {
  /** The writes of one commit are durable on `identity` (pod `member`). */
  durable(member: string, identity: Identity, writes: readonly Write[]): void;
  recovered(member: string, identity: Identity, copies: readonly StoredCopy[]): void;
}

export function observed(database: QueueDatabase, member: string, observer: DurabilityObserver): QueueDatabase {
  observer.recovered(member, database.identity, database.recovered.copies);
  const commit = (writes: readonly Write[]): Promise<void> =>
    database.commit(writes).then(() => observer.durable(member, database.identity, writes));
  return new Proxy(database, {
    get: (target, key) => {
      if (key === 'commit') return commit;
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

export type Holders = Map<CopyId, Map<Identity, { readonly member: string; readonly digest: string }>>;
