/**
 * Time and chance that do not come from the scheduler would make a seed more than one history. Owns: the edge of the process - the globals that could bring
 * them in. Each use during a run is reported once by its place; but code that knows no ports (`smtp-server`) may use timers, immediates and random bytes
 * while a world has lent them (`lendProcess`): they are that world's then. `process.nextTick` needs nothing: the scheduler lets ticks and reactions of an
 * event settle before the next one.
 */
import crypto from 'node:crypto';
import { syncBuiltinESMExports } from 'node:module';
import type { Timer } from '../../common/platform/clock.ts';
import type { Scheduler, SeededRandom } from './scheduler.ts';

/** What a world lends to code without ports. */
export interface LentProcess {
  readonly scheduler: Scheduler;
  readonly random: SeededRandom;
}

const seen = globalThis as { simulatorEscapes?: Set<string>; simulatedProcess?: LentProcess | null };

function report(what: string): void {
  const place = new Error(what).stack
    ?.split('\n')
    .find((line) => line.includes('.ts:') && !line.includes('escapes.ts'));
  seen.simulatorEscapes?.add(`escape: ${what} was used${place === undefined ? '' : place.replace(/\s+at /, ' at ')}`);
}

type Callable = (...args: unknown[]) => unknown;

/** What code expects of `setTimeout`: a thing with `ref`, `unref` and a place in `clearTimeout`. */
class SimHandle {
  readonly #timer: Timer;
  constructor(timer: Timer) {
    this.#timer = timer;
  }
  cancel(): void {
    this.#timer.cancel();
  }
  ref(): this {
    return this;
  }
  unref(): this {
    return this;
  }
  hasRef(): boolean {
    return false;
  }
}

/** Call once in a process that runs nothing but seeds (or, for a test, before the worlds of that file). */
export function forbidEscapes(): void {
  if (seen.simulatorEscapes !== undefined) return;
  seen.simulatorEscapes = new Set();
  const scope = globalThis as unknown as Record<string, Callable>;
  const wrap = (owner: object, name: string, label = name): void => {
    const holder = owner as Record<string, Callable>;
    const real = holder[name]?.bind(owner);
    holder[name] = (...args) => {
      report(label);
      return real?.(...args);
    };
  };
  for (const name of ['setInterval', 'fetch']) wrap(scope, name);
  wrap(Date, 'now', 'Date.now');
  wrap(Math, 'random', 'Math.random');
  wrap(performance, 'now', 'performance.now');
  wrap(crypto, 'randomUUID', 'randomUUID');
  lendable(scope, 'setTimeout', ({ scheduler }, run, delayMs, ...args) => {
    return new SimHandle(scheduler.schedule(Number(delayMs ?? 0), () => (run as Callable)(...args)));
  });
  lendable(scope, 'setImmediate', ({ scheduler }, run, ...args) => {
    return new SimHandle(scheduler.schedule(0, () => (run as Callable)(...args)));
  });
  lendable(crypto, 'randomBytes', ({ random }, length) => random.bytes(Number(length)));
  for (const name of ['clearTimeout', 'clearImmediate']) {
    const real = scope[name] as Callable;
    scope[name] = (handle) => (handle instanceof SimHandle ? handle.cancel() : real(handle));
  }
  syncBuiltinESMExports();
}

/** Lent while a world lends it; else it is the real one, and reported. */
function lendable(owner: object, name: string, lent: (from: LentProcess, ...args: unknown[]) => unknown): void {
  const holder = owner as Record<string, Callable>;
  const real = holder[name]?.bind(owner);
  holder[name] = (...args) => {
    const from = seen.simulatedProcess;
    if (from != null) return lent(from, ...args);
    report(name);
    return real?.(...args);
  };
}

/** From now on the process belongs to this world, until the next one says otherwise; null: to nobody. */
export function lendProcess(process: LentProcess | null): void {
  if (process !== null && seen.simulatorEscapes === undefined)
    throw new Error('call forbidEscapes first: the globals of this process are the real ones');
  seen.simulatedProcess = process;
}

/** What was used so far. */
export const escapes = (): readonly string[] => [...(seen.simulatorEscapes ?? [])];
