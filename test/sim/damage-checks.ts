/**
 * What one bad place on a medium may cost (protocol.md 25): what lies in it, told as quarantined, and never what was written behind it. Owns: how far the log of
 * a volume had come when a copy became durable in it, and the comparison with what the next life finds.
 */
import type { CopyId } from '../../common/message.ts';
import type { QueueDatabase, Write } from '../../transport/store/database.ts';
import type { Volume } from './durable-view.ts';

export type Damage = 'bit' | 'sector' | 'tail';

interface LogProgress {
  readonly damages: Damage[];
  /** By copy: the last sequence of the group that its COMMIT was synced with. */
  readonly committedIn: Map<CopyId, number>;
  /** The last sequence that a commit was answered with. */
  synced: number;
}

const logs = new WeakMap<Volume, LogProgress>();

function logOf(volume: Volume): LogProgress {
  const log = logs.get(volume) ?? { damages: [], committedIn: new Map(), synced: 0 };
  logs.set(volume, log);
  return log;
}

export const wentBad = (volume: Volume, how: Damage): number => logOf(volume).damages.push(how);

export function progressed(volume: Volume, writes: readonly Write[], synced: number): void {
  const log = logOf(volume);
  log.synced = synced;
  for (const write of writes) if (write.kind === 'commit') log.committedIn.set(write.facts.id, synced);
}

/**
 * Copies that are gone without a word although something was synced behind them: by that the log itself says that they were durable. Empty where the medium lost
 * the rest of a file, or went bad in several places, or nobody knows whose volume this is. To be asked before the picture of the volume is drawn anew.
 */
export function lostSilently(volume: Volume, { recovered }: QueueDatabase): CopyId[] {
  const log = logOf(volume);
  const { live, pending } = volume;
  if (log.damages.length !== 1 || log.damages[0] === 'tail' || volume.isContested) return [];
  if (recovered.quarantined.length > 0) return [];
  const left = new Set(pending.flatMap(({ write }) => (isLeaving(write) ? [write.id] : [])));
  const found = new Set(recovered.copies.map(({ facts }) => facts.id));
  return [...live.keys()].filter(
    (id) => !found.has(id) && !left.has(id) && (log.committedIn.get(id) ?? log.synced) < log.synced,
  );
}

const isLeaving = (write: Write): write is Extract<Write, { kind: 'move' | 'remove' }> =>
  write.kind === 'move' || write.kind === 'remove';
