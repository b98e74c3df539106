/**
 * Back pressure (semantics.md R10; Exchange: resource throttling): disk, memory, queue length, each with two levels. Owns: the marks, and the
 * level of each resource. Promise: a level is left later than it is entered, so that one message more or less does not turn it on and off;
 * it goes by itself when the resource is there again. Space counts as used as soon as an open stream may bring it, so that large messages
 * under way cannot pass the marks together. PURE.
 */
import type { StoreSpace } from '../store/database.ts';

export type PressureLevel = 'Normal' | 'Medium' | 'High';
export type Resource = 'disk' | 'memory' | 'queue';
export const RESOURCES = ['disk', 'memory', 'queue'] as const satisfies readonly Resource[];

const MB = 1024 * 1024;

/** A level begins above `from` and lasts until `until`; more is worse. */
interface Marks {
  readonly medium: { readonly from: number; readonly until: number };
  readonly high: { readonly from: number; readonly until: number };
}

/** Bytes of the volume that must stay free. */
export const MEDIUM_FREE_BYTES = 256 * MB;
export const HIGH_FREE_BYTES = 64 * MB;

export const MARKS: Readonly<Record<Resource, Marks>> = {
  // Bytes that are missing: free space with a minus sign.
  disk: {
    medium: { from: -MEDIUM_FREE_BYTES, until: -320 * MB },
    high: { from: -HIGH_FREE_BYTES, until: -96 * MB },
  },
  // Part of what the process may have (common/platform/memory-use.ts).
  memory: { medium: { from: 0.85, until: 0.78 }, high: { from: 0.93, until: 0.88 } },
  // Copies in transit, shadows included: each is in memory, and a restart reads them all.
  queue: {
    medium: { from: 1_000_000, until: 950_000 },
    high: { from: 1_200_000, until: 1_150_000 },
  },
};

export interface Readings {
  readonly space: Pick<StoreSpace, 'freeBytes'>;
  /** What open streams may still bring (`openBytesOf`); what they have brought is no longer free already. */
  readonly openBytes: number;
  readonly memoryUse: number;
  readonly queued: number;
}

export interface Pressure {
  readonly level: PressureLevel;
  /** The resources at that level, with commas; empty at Normal. */
  readonly resource: string;
}

export class PressureGauge {
  readonly #levels = new Map<Resource, PressureLevel>();

  read({ space, openBytes, memoryUse, queued }: Readings): Pressure {
    const values: Readonly<Record<Resource, number>> = {
      disk: openBytes - space.freeBytes,
      memory: memoryUse,
      queue: queued,
    };
    for (const resource of RESOURCES)
      this.#levels.set(resource, settle(this.levelOf(resource), values[resource], MARKS[resource]));
    const level = (['High', 'Medium'] as const).find((one) => this.#at(one).length > 0) ?? 'Normal';
    return { level, resource: level === 'Normal' ? '' : this.#at(level).join(', ') };
  }

  levelOf(resource: Resource): PressureLevel {
    return this.#levels.get(resource) ?? 'Normal';
  }

  #at(level: PressureLevel): readonly Resource[] {
    return RESOURCES.filter((resource) => this.levelOf(resource) === level);
  }
}

function settle(former: PressureLevel, value: number, { medium, high }: Marks): PressureLevel {
  if (value > high.from || (former === 'High' && value > high.until)) return 'High';
  return value > medium.from || (former !== 'Normal' && value > medium.until) ? 'Medium' : 'Normal';
}

export interface OpenStream {
  /** SIZE= of the client (RFC 1870), null when it said nothing. */
  readonly declaredSizeBytes: number | null;
  readonly receivedBytes: number;
}

/**
 * What streams may still bring: the rest of what was declared. A stream that declared nothing, or less than it brought, is taken to
 * bring as much again (at most the limit of a message): the reserve grows with the message instead of 25 MB for every short one.
 */
export function openBytesOf(streams: Iterable<OpenStream>, maxMessageBytes: number): number {
  let bytes = 0;
  for (const { declaredSizeBytes, receivedBytes } of streams) {
    const declared = Math.min(declaredSizeBytes ?? 0, maxMessageBytes);
    const expected =
      declared >= receivedBytes && declared > 0 ? declared : Math.min(2 * receivedBytes, maxMessageBytes);
    bytes += Math.max(0, expected - receivedBytes);
  }
  return bytes;
}
