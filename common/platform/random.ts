/** The randomness port: the simulator seeds it, production asks the kernel. */
import { randomBytes } from 'node:crypto';

export interface Random {
  /** `length` unpredictable bytes. */
  bytes(length: number): Buffer;
}

/** Asked for a few bytes at a time, the kernel would cost more than everything else that is done with them. */
const POOL_BYTES = 4096;

class SystemRandom implements Random {
  #pool = Buffer.alloc(0);
  #at = 0;

  bytes(length: number): Buffer {
    if (length > POOL_BYTES / 8) return randomBytes(length);
    if (this.#at + length > this.#pool.length) {
      this.#pool = randomBytes(POOL_BYTES);
      this.#at = 0;
    }
    const bytes = Buffer.from(this.#pool.subarray(this.#at, this.#at + length));
    // What was given out is not kept here.
    this.#pool.fill(0, this.#at, this.#at + length);
    this.#at += length;
    return bytes;
  }
}

export const systemRandom: Random = new SystemRandom();

/** A float in [0, 1) from the port, for jitter and load spreading. */
export function randomFraction(random: Random): number {
  return random.bytes(4).readUInt32BE(0) / 0x1_0000_0000;
}
