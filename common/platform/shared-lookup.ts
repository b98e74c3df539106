/**
 * Addresses of a few hosts that many connections are made to (`lookup` of `net.connect`). Owns: what was found, and for how long. Promise: one question for each host is under way, however
 * many connections wait for it - the operating system looks up two names at a time, and who waits there holds up all other names of the process; what was found before is used
 * while nothing newer can be learnt. For hosts that a configuration names: nothing is forgotten.
 */
import { type LookupAddress, lookup } from 'node:dns';
import type { LookupFunction } from 'node:net';
import type { Clock } from './clock.ts';

type Told = (error: NodeJS.ErrnoException | null, addresses: LookupAddress[]) => void;
export type AskAddresses = (hostname: string, told: Told) => void;

const KEPT_MS = 30_000;

const askSystem: AskAddresses = (hostname, told) =>
  // Node's types promise addresses beside an error; there are none.
  lookup(hostname, { all: true }, (error, addresses) => told(error, error === null ? addresses : []));

export class SharedLookup {
  readonly #clock: Clock;
  readonly #ask: AskAddresses;
  readonly #known = new Map<string, { readonly addresses: LookupAddress[]; readonly untilMs: number }>();
  readonly #waiting = new Map<string, Told[]>();

  constructor(clock: Clock, ask: AskAddresses = askSystem) {
    this.#clock = clock;
    this.#ask = ask;
  }

  readonly lookup: LookupFunction = (hostname, options, callback) =>
    this.#find(hostname, (error, all) => {
      const addresses = all.filter(({ family }) => !options.family || options.family === family);
      const [first] = addresses;
      if (options.all === true) callback(error, addresses);
      else callback(error, first?.address ?? '', first?.family ?? 0);
    });

  #find(hostname: string, told: Told): void {
    const known = this.#known.get(hostname);
    // Never from within the call: who asks is not ready for an answer yet.
    if (known !== undefined && known.untilMs > this.#clock.monotonicMs())
      return queueMicrotask(() => told(null, known.addresses));
    const waiting = this.#waiting.get(hostname);
    if (waiting !== undefined) return void waiting.push(told);
    const all = [told];
    this.#waiting.set(hostname, all);
    this.#ask(hostname, (error, addresses) => {
      this.#waiting.delete(hostname);
      const untilMs = this.#clock.monotonicMs() + KEPT_MS;
      if (error === null) this.#known.set(hostname, { addresses, untilMs });
      const isStale = error !== null && known !== undefined;
      for (const one of all) one(isStale ? null : error, isStale ? known.addresses : addresses);
    });
  }
}
