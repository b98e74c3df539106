/** A message of 35 MiB, the largest that front ends take, that is header to who waits for an empty line. Owns: what a remover of header fields costs then, in time of this thread's processor. */
const SIZE_BYTES = 35 * 1024 * 1024;
const CHUNK_BYTES = 64 * 1024;

interface Remover {
  push(chunk: Buffer): Buffer[];
  end(): Buffer[];
}

export interface FloodCost {
  readonly inBytes: number;
  readonly outBytes: number;
  readonly totalMs: number;
  readonly longestPushMs: number;
}

export function flood(remover: Remover, start: string, line: string): FloodCost {
  const chunk = Buffer.from(line.repeat(Math.floor(CHUNK_BYTES / line.length)));
  const cost = { inBytes: 0, outBytes: 0, totalMs: 0, longestPushMs: 0 };
  const step = (bytes: Buffer, pass: () => Buffer[]): void => {
    const before = process.threadCpuUsage();
    const out = pass();
    const { user, system } = process.threadCpuUsage(before);
    const tookMs = (user + system) / 1_000;
    cost.inBytes += bytes.length;
    cost.outBytes += out.reduce((sum, { length }) => sum + length, 0);
    cost.totalMs += tookMs;
    cost.longestPushMs = Math.max(cost.longestPushMs, tookMs);
  };
  for (let next = Buffer.from(start); cost.inBytes < SIZE_BYTES; next = chunk) step(next, () => remover.push(next));
  step(Buffer.alloc(0), () => remover.end());
  return cost;
}
