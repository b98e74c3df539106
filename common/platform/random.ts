/** The randomness port: the simulator seeds it, production asks the kernel. */
import { randomBytes } from 'node:crypto';

export interface Random {
  /** `length` unpredictable bytes. */
  bytes(length: number): Buffer;
}

export const systemRandom: Random = { bytes: (length) => randomBytes(length) };

/** A float in [0, 1) from the port, for jitter and load spreading. */
export function randomFraction(random: Random): number {
  return random.bytes(4).readUInt32BE(0) / 0x1_0000_0000;
}
