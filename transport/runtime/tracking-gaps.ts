/**
 * What message tracking of this member does not have (any more): what went by its bounds, what a disk did not take. Owns: how that is known - by the oldest record there is, by the
 * declared age, and by the records that were dropped since this process began. Promise: what it had is never said to be whole when something went.
 */
import type { Files } from '../../common/platform/files.ts';

export interface TrackingGaps {
  /** What was recorded before may be gone; null: nothing ever went. Wall clock, ms. */
  readonly beforeMs: number | null;
  /** When records were dropped, in this life of the process: the first and the last of them. */
  readonly dropped: { readonly fromMs: number; readonly toMs: number } | null;
}

/** Each line of a file begins with it. */
const AT = /^\{"atMs":(-?\d{1,16})\b/;
const HEAD_BYTES = 64;

export const atMsOf = (line: string): number | null => {
  const atMs = AT.exec(line)?.[1];
  return atMs === undefined ? null : Number(atMs);
};

/** Null: it is gone, or nothing in it can be read. */
export async function firstRecordMs(files: Files, path: string): Promise<number | null> {
  const handle = await files.open(path, 'read').catch((error: unknown) => {
    if ((error as { readonly code?: unknown }).code === 'ENOENT') return null;
    throw error;
  });
  if (handle === null) return null;
  try {
    const head = Buffer.alloc(HEAD_BYTES);
    const size = await handle.read(head, 0, HEAD_BYTES, 0);
    return atMsOf(head.toString('latin1', 0, size));
  } finally {
    await handle.close();
  }
}

export class DroppedRecords {
  #span: TrackingGaps['dropped'] = null;

  get span(): TrackingGaps['dropped'] {
    return this.#span;
  }

  take(lines: readonly string[]): void {
    for (const line of lines) {
      const atMs = atMsOf(line);
      if (atMs === null) continue;
      const { fromMs, toMs } = this.#span ?? { fromMs: atMs, toMs: atMs };
      this.#span = { fromMs: Math.min(fromMs, atMs), toMs: Math.max(toMs, atMs) };
    }
  }
}
