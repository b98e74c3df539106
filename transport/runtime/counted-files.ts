/** The disk port with a meter: counts and times what reaches the disk (observability.md, "store"). Changes nothing else. */
import type { Clock } from '../../common/platform/clock.ts';
import type { FileHandle, Files } from '../../common/platform/files.ts';
import type { Metrics } from '../../common/platform/metrics.ts';

export function countedFiles(files: Files, metrics: Metrics, clock: Clock): Files {
  const counted = (handle: FileHandle): FileHandle => ({
    writev: (buffers, position) => handle.writev(buffers, position),
    read: (target, offset, length, position) => handle.read(target, offset, length, position),
    datasync: async () => {
      const startedMs = clock.monotonicMs();
      await handle.datasync();
      metrics.increment('store_syncs_total');
      metrics.observe('store_commit_duration_seconds', (clock.monotonicMs() - startedMs) / 1000);
    },
    sizeBytes: () => handle.sizeBytes(),
    modifiedMs: () => handle.modifiedMs(),
    truncate: (sizeBytes) => handle.truncate(sizeBytes),
    close: () => handle.close(),
  });
  return { ...files, open: async (path, mode) => counted(await files.open(path, mode)) };
}
