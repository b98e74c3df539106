/** How much of the memory it may have this process uses: of its heap, and of what the container allows; whichever is nearer to its end. */
import process from 'node:process';
import { getHeapStatistics } from 'node:v8';

/** 0 to 1. */
export function memoryUse(): number {
  const { used_heap_size: used, heap_size_limit: limit } = getHeapStatistics();
  // 0, or more than there is, when nothing constrains the process.
  const allowed = process.constrainedMemory();
  const rss = allowed > 0 ? process.memoryUsage.rss() / allowed : 0;
  return Math.max(limit > 0 ? used / limit : 0, rss);
}
